"""The report of a run: it shows what it was given, as text, in one file that asks for nothing from outside."""

import itertools
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from report_content import (
    BARE,
    CONTENTS,
    OURS,
    PIXEL,
    TABLE,
    content,
    contest,
    difference,
    gain,
    photo_rule,
    result,
    shown_row,
    two_scores,
)
from sklearn.metrics import confusion_matrix

from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.schema import Column
from mixfit.errors import ResourceError
from mixfit.evaluation.result import LeaderboardLine, Score, TextGain
from mixfit.predictor.card import Coverage
from mixfit.runs.report.content import ColumnPart, DataFacts, Diagnosis, Distribution, ModelExplanation
from mixfit.runs.report.page import report_page, write_report
from mixfit.runs.report.views import binned_shares, confusion_counts, most_confused
from mixfit.training.metrics import metric_text

IMG = "<img src=x onerror=alert(1)>"
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """A parsed page: its tags, the text a reader sees, and whether every tag is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.text = " ".join(self.texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(" ".join(data.split()))

    def values(self, attribute: str) -> list[str]:
        return [str(attributes[attribute]) for _, attributes in self.tags if attribute in attributes]


@pytest.mark.parametrize("case", CONTENTS)
def test_the_page_is_sound_small_and_self_contained(case: str) -> None:
    source = report_page(CONTENTS[case])
    page = Page(source)
    assert page.open == []
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert len(source.encode()) < 1_000_000
    assert not {"script", "link", "iframe", "base", "form", "object"} & {tag for tag, _ in page.tags}
    outside = source.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "")
    assert not re.search(r"https?://|@import|//www", outside)
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.values("src"))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all((image["alt"] or "").startswith("Photo ") for image in images)
    headers = [attributes for tag, attributes in page.tags if tag == "th"]
    assert all(header.get("scope") in ("row", "col", "rowgroup") for header in headers)
    assert source.count("<main>") == source.count("<h1>") == 1
    assert '<html lang="en">' in source
    links = page.values("href") + page.values("xlink:href")
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert all(target in ids for value in page.values("aria-labelledby") for target in value.split())


def test_scripts_and_requests_are_forbidden() -> None:
    metas = [attributes for tag, attributes in Page(report_page(content())).tags if tag == "meta"]
    policy = [meta["content"] for meta in metas if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_every_score_is_shown() -> None:
    text = Page(report_page(content())).text
    for expected in ("12,346", "0.7124", "23,457", "0.5000", "11,222", "-0.0040", "21,987", "3.142"):
        assert expected in text.split()


def test_what_the_doctor_found_is_shown_where_one_was_asked() -> None:
    asked = replace(
        content(), diagnoses=[Diagnosis(name="photos are uninformative", sentence=f"Of {IMG}.", fix="Look.")]
    )
    page = Page(report_page(asked))
    assert "Photos are uninformative. Of" in page.text
    assert IMG in page.text
    assert "#doctor" in page.values("href")
    assert "found no problems" in Page(report_page(replace(asked, diagnoses=[]))).text
    assert "doctor" not in Page(report_page(content())).text


def test_a_metric_that_is_nan_is_not_available() -> None:
    text = Page(report_page(CONTENTS["nan"])).text
    assert text.split().count("n/a") >= 4
    assert "nan" not in text.split()
    assert "No finite values were recorded." in text


def test_sections_that_have_nothing_to_show_are_left_out() -> None:
    full, bare = Page(report_page(content())), Page(report_page(CONTENTS["bare"]))
    assert {"#photos", "#worst", "#calibration"} <= set(full.values("href"))
    assert not {"#photos", "#worst", "#calibration", "#doctor", "#bad-inputs"} & set(bare.values("href"))
    assert "#curves" not in Page(report_page(CONTENTS["no epoch"])).values("href")
    assert "#predictions" not in Page(report_page(CONTENTS["no predictions"])).values("href")


def test_headings_are_as_people_write_them_and_the_unit_is_said() -> None:
    page = Page(report_page(content()))
    assert {"RMSE", "R²"} <= set(page.text.split())
    assert not {"rmse", "r2"} & set(page.text.split())
    assert "RMSE are in the unit of price." in page.text or "RMSE is in the unit of price." in page.text
    text = Page(report_page(content("binary", 2))).text
    assert "log loss" in text
    assert "log_loss" not in text


def test_the_answer_comes_before_the_contents_and_ignored_columns_are_named_with_it() -> None:
    ignored = Column(name="id", role="ignored", reason="an identifier", missing=0)
    subject = content()
    subject = replace(subject, schema=replace(subject.schema, columns=(*subject.schema.columns, ignored)))
    page = report_page(subject)
    line = "Not used: id (an identifier)."
    assert page.index(subject.result.answer) < page.index(line) < page.index("<nav")
    assert "Not used:" not in report_page(content())


@pytest.mark.parametrize("classes", [0, 3, 30])
def test_f45_markup_in_names_is_shown_as_text(classes: int) -> None:
    subject = content("multiclass" if classes else "regression", classes)
    hostile = replace(
        subject,
        title=f"title {IMG}",
        result=replace(
            subject.result,
            target=f"target {IMG}",
            departure=f"departure {IMG}",
            ours=f"both {IMG}",
            against=f"one {IMG}",
            parts=[
                replace(
                    part,
                    scores=[replace(part.scores[0], model=f"both {IMG}"), replace(part.scores[1], model=f"one {IMG}")],
                    differences=[replace(part.differences[0], model=f"both {IMG}", against=f"one {IMG}")],
                )
                for part in subject.result.parts
            ],
            photos=replace(gain(), with_photos=f"both {IMG}", without=f"one {IMG}"),
            contest=replace(
                contest(photo_rule(claim=False, use=True)),
                coverage=[
                    Coverage(rows="all", count=2, inside=1, level=0.9, width=1.0),
                    Coverage(rows=f"covered {IMG}", count=2, inside=1, level=0.9, share=0.5),
                ],
                folds=f"folds {IMG}",
                history_of=f"history {IMG}",
                leaderboard=[
                    LeaderboardLine(model=f"place {IMG}", photos=True, loss=1.0, error=0.1, share=None, seconds=None)
                ],
            ),
        ),
        warnings=[f"warning {IMG}"],
        classes=tuple(f"{i} {IMG}" for i in range(classes)),
        history=content().history.rename(columns={"rmse": f"metric {IMG}"}),
        schema=replace(
            content("multiclass" if classes else "regression").schema,
            columns=(Column(name=f"c {IMG}", role="number", reason=f"why {IMG}", missing=0, note=f"note {IMG}"),),
        ),
        bad_inputs=[BadInput(row=0, column=f"bc {IMG}", value=f"v {IMG}", problem=f"p {IMG}", action=f"a {IMG}")],
        settings={f"key {IMG}": f"value {IMG}"},
        environment={f"where {IMG}": f"what {IMG}"},
        fingerprint={f"print {IMG}": f"mark {IMG}"},
        command=f"command {IMG}",
        data=DataFacts(
            distributions=[
                Distribution(
                    column=f"c {IMG}", kind="levels", labels=[f"level {IMG}"], counts=[2], summary=f"sum {IMG}"
                )
            ],
            samples=[],
            notes=[f"datum {IMG}"],
        ),
        worst=[
            replace(
                shown_row(2, f"photo {IMG}"),
                cells=[(f"cell {IMG}", f"content {IMG}")],
                reasons=[f"reason {IMG}"],
                part=f"part {IMG}",
            )
        ],
    )
    source = report_page(hostile)
    page = Page(source)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [(image["src"], image["alt"]) for image in images] == [(PIXEL, f"Photo 1 of row 2: photo {IMG}")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    shown = [
        "title",
        "target",
        "departure",
        "warning",
        "metric",
        "folds",
        "history",
        "place",
        "c",
        "why",
        "note",
        "bc",
        "v",
        "p",
        "a",
        "key",
    ]
    shown += ["print", "mark", "level", "sum", "datum", "cell", "content", "reason", "part", "both", "one", "covered"]
    for name in [*shown, "value", "where", "what", "command"]:
        assert f"{name} {IMG}" in page.text
    if classes == 3:
        assert f"2 {IMG}" in page.text


def test_dollars_and_backslashes_are_not_mathematics() -> None:
    name = r"$\frac{x}$ and $y_1$"
    odd = replace(
        content("multiclass", 2),
        classes=(name, "b"),
        result=replace(content("multiclass", 2).result, target=name),
        history=content().history.rename(columns={"rmse": name}),
    )
    assert Page(report_page(odd)).text.count(name) >= 4


def test_characters_that_cannot_be_written_are_replaced(tmp_path: Path) -> None:
    odd = replace(content(), result=replace(content().result, target="a\x00b\u202ec\udcff"), title="日本語 é")
    write_report(odd, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "a\ufffdb\ufffdc\ufffd" in text
    assert "日本語 é" in text


def test_f05_a_huge_name_is_cut() -> None:
    long = replace(content(), result=replace(content().result, target="x" * 10_000), title="y" * 10_000)
    source = report_page(long)
    assert "x" * 199 + "…" in source
    assert "x" * 201 not in source
    assert "y" * 201 not in source


def test_the_same_content_gives_the_same_bytes_whatever_the_settings_of_matplotlib(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    for case in ("regression", "99 classes"):
        write_report(CONTENTS[case], tmp_path / "first.html")
        with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "lines.linewidth": 9}):
            write_report(CONTENTS[case], tmp_path / "second.html")
        assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()
    assert dict(matplotlib.rcParams) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.html", "second.html"]


def test_a_folder_that_is_absent_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"report\.html cannot be written .* check that its folder exists"):
        write_report(content(), tmp_path / "absent" / "report.html")


def scored(ours: float, table: float, *others: Score, metric: str = "rmse") -> list[Score]:
    found = two_scores({metric: ours}, {metric: table})
    return [*(replace(one, intervals={}) for one in found), *others]


def test_the_table_alone_being_better_is_said() -> None:
    others = [
        Score(model="weak net", kind="table", metrics={"rmse": 0.9}),
        Score(model="unknown", kind="table", metrics={"rmse": float("nan")}),
    ]
    found = replace(content(), result=result(scores=scored(0.30, 0.25, *others)))
    sentence = f"A model without photos is better on the test rows: {TABLE} has RMSE 0.2500, {OURS} 0.3000."
    assert sentence in Page(report_page(found)).text
    higher = result(scores=scored(0.30, 0.25, metric="r2"), headline="r2", differences=[difference(0.0, 0.1, "r2")])
    assert "A model without photos is better" not in report_page(replace(content(), result=higher))


@pytest.mark.parametrize(
    ("uses", "best", "which"),
    [
        ({"photos": True, "text": True}, "text", "A model without photos"),
        ({"photos": True, "text": True}, "table", "A model without photos and text"),
        ({"photos": False, "text": True}, "table", "A model without text"),
        ({"photos": False, "text": True}, "text", "Another model"),
        ({"photos": True, "text": False}, "table", "A model without photos"),
        ({"photos": False, "text": False}, "text", "Another model"),
        ({"photos": False, "text": False}, "table", "Another model"),
    ],
)
def test_what_a_better_model_does_without_is_said(uses: dict[str, bool], best: str, which: str) -> None:
    other = Score(model="other", kind=best, metrics={"rmse": 0.2})  # type: ignore[arg-type]
    ours = LeaderboardLine(model=OURS, **uses, loss=1.0, error=0.1, share=None, seconds=None)
    found = result(scores=scored(0.30, 0.35, other), competed=replace(contest(), leaderboard=[ours]))
    sentence = f"{which} is better on the test rows: other has RMSE 0.2000, {OURS} 0.3000."
    assert sentence in Page(report_page(replace(content(), result=found))).text


@pytest.mark.parametrize(
    ("model", "refit"), [("linear, table", 0), ("kernel ridge, table", 0), ("kernel ridge, table", 90)]
)
def test_the_folds_and_what_predicts_new_rows_are_told(model: str, refit: int) -> None:
    line = LeaderboardLine(model=model, photos=False, loss=1.0, error=0.1, share=1.0, seconds=1.0)
    competed = replace(contest(), leaderboard=[line], fold_scores=[0.1, 0.2, 0.3])
    found = replace(result(scores=scored(0.30, 0.35), competed=competed), refit=refit)
    text = " ".join(Page(report_page(replace(content(), result=found))).text.split())
    assert "fitted on all rows but those of one of 3 folds" in text
    assert ("New rows are predicted by the mean" in text) == (not refit)
    assert ("is fitted once more on all of these rows" in text) == (model != "linear, table" and not refit)


@pytest.mark.parametrize(
    ("blend", "loss", "said"),
    [(1.0, 0.9, True), (1.0, 1.1, False), (1.0, 1 - 1e-9, False), (5.49e-4, 5.45e-4, True), (0.0, 0.0, False)],
)
def test_a_blend_above_a_model_of_its_own_is_explained(blend: float, loss: float, *, said: bool) -> None:
    ours = LeaderboardLine(model=OURS, photos=True, loss=blend, error=0.1, share=None, seconds=None)
    single = LeaderboardLine(model=TABLE, photos=False, loss=loss, error=0.1, share=1.0, seconds=1.0)
    unused = replace(single, model="unused", loss=0.1, share=0.0)
    competed = replace(contest(), leaderboard=[ours, single, unused])
    found = result(scores=scored(0.30, 0.35), competed=competed)
    sentence = "so a blend can have a higher loss than a model that it consists of"
    text = Page(report_page(replace(content(), result=found))).text
    assert (sentence in text) == (f"is {metric_text(blend)}, that of {TABLE} {metric_text(loss)}: " in text) == said


def test_photos_are_judged_beside_the_text_and_refused_text_that_is_read_is_told() -> None:
    subject = content()
    rule = replace(photo_rule(claim=False, use=False), what="text")
    found = replace(
        subject.result,
        text=TextGain(with_text=OURS, without=TABLE, used=True),
        photos=replace(gain(), beside_text=True),
        contest=replace(contest(replace(photo_rule(claim=True, use=True), beside_text=True)), text=rule),
    )
    page = Page(report_page(replace(subject, result=found)))
    text = " ".join(page.text.split())
    assert page.values("href")[:2] == ["#text", "#photos"]
    assert text.index("What the text adds The text is not used: ") < text.index(
        "What the photos add beside the text The"
    )
    assert "The delivered blend still uses the text, in models of table, text and photos." in text
    assert "compared with the blend of table and text alone" in text
    assert "Rows With text Without Difference" in text
    assert "Rows With photos Without Difference" in text
    used = replace(found, contest=replace(found.contest, text=replace(rule, use=True)))  # type: ignore[type-var]
    assert "all the same" not in report_page(replace(subject, result=used))


@pytest.mark.parametrize("table", [0.30, 0.31])
def test_no_banner_when_the_model_is_as_good_as_the_table(table: float) -> None:
    found = replace(content(), result=result(scores=scored(0.30, table)))
    assert "A model without photos is better" not in report_page(found)


def test_validation_rows_judge_when_there_is_no_test_value() -> None:
    found = result(scores=scored(float("nan"), 0.1), valid=scored(0.3, 0.2))
    assert "is better on the validation rows" in report_page(replace(content(), result=found))


def test_bad_inputs_are_counted_and_the_first_are_named() -> None:
    text = Page(report_page(CONTENTS["5,000 bad inputs"])).text
    assert "5,000 problems in 5,000 rows" in text
    assert "49.jpg" in text
    assert "50.jpg" not in text
    readable = "Every cell that is present could be read"
    assert readable in report_page(content())
    image = replace(content().schema.columns[0], name="photo", role="image")
    with_photos = replace(content().schema, columns=(*content().schema.columns, image))
    readable = "Every cell and photo that is present could be read"
    assert readable in report_page(replace(content(), schema=with_photos))


def test_the_errors_are_those_of_the_result() -> None:
    text = " ".join(Page(report_page(content())).text.split())
    assert "Half of the test predictions are within 3 of the truth." in text
    assert "Error at most 100 % 50.00" in text


def test_confusion_counts_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    truth, prediction = rng.integers(0, 7, 500), rng.integers(0, 7, 500)
    expected = confusion_matrix(truth, prediction, labels=range(7))
    np.testing.assert_array_equal(confusion_counts(truth, prediction, 7), expected)
    off = expected - np.diag(np.diag(expected))
    pairs = most_confused(truth, prediction, classes=7, limit=5)
    assert [pair.count for pair in pairs] == sorted(off.ravel(), reverse=True)[:5]
    assert all(off[pair.truth, pair.prediction] == pair.count for pair in pairs)
    assert all(pair.share == pytest.approx(pair.count / expected[pair.truth].sum()) for pair in pairs)


def test_a_binned_matrix_loses_no_row() -> None:
    truth = np.arange(1_000)
    shares = binned_shares(truth, truth, classes=1_000, limit=200)
    np.testing.assert_array_equal(shares, np.eye(200))


def test_classes_that_the_model_does_not_know_are_counted() -> None:
    odd = replace(
        content("multiclass", 3),
        truth=np.array([0, 1, -1, 5]),
        prediction=np.array([0, 2, 1, 1]),
        probabilities=None,
        **BARE,
    )
    text = Page(report_page(odd)).text
    assert "2 rows of classes that are not in the training rows are not shown." in text


def test_each_cell_of_the_matrix_shows_share_and_count() -> None:
    truth, prediction = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    source = report_page(replace(content("binary", 2), truth=truth, prediction=prediction, probabilities=None, **BARE))
    cells = re.findall(r'<td class="cell([^"]*)" style="--share: ([\d.]+)">([^<]*)(?:<small>(\d+)</small>)?', source)
    assert cells == [
        (" right", "0.667", "67 %", "2"),
        ("", "0.333", "33 %", "1"),
        (" zero", "0.000", "0", ""),
        (" right", "1.000", "100 %", "1"),
    ]


HELP = "The photos help: they lower the out-of-fold loss by 12.0 %"
NO_CLAIM = "The photos are used because they lowered the out-of-fold loss by 3.0 %"
ON = "Test, 60 rows 12,346 23,457"


@pytest.mark.parametrize(
    ("low", "high", "claim", "tail"),
    [
        (0.01, 0.09, True, ""),
        (-0.01, 0.11, True, "The difference on the test rows alone is within noise."),
        (-0.11, -0.01, True, "On the test rows, the predictions are worse with photos."),
        (
            0.01,
            0.09,
            False,
            "The difference on the test rows is beyond noise, but only out-of-fold rows support such a claim.",
        ),
        (-0.01, 0.11, False, ""),
        (float("nan"), float("nan"), False, "No interval on the test rows"),
    ],
)
def test_only_the_rule_claims_and_the_test_rows_are_told_beside_it(
    low: float, high: float, claim: bool, tail: str
) -> None:
    subject = content()
    found = replace(
        subject.result,
        contest=contest(photo_rule(claim=claim, use=True)),
        parts=[replace(part, differences=[difference(low, high)]) for part in subject.result.parts],
    )
    page = Page(report_page(replace(subject, result=found)))
    text = " ".join(page.text.split())
    assert (HELP if claim else NO_CLAIM) in text
    assert "The test rows played no part in that choice." in text
    value, interval = difference(low, high).texts
    assert f"{ON} {value} {interval}" in text or f"{ON} {value}{interval}" in text
    assert tail in text
    assert ("The photos help:" in text) == claim
    assert "#photos" in page.values("href")


def test_a_model_of_the_table_alone_is_told_and_one_network_is_not_its_own_twin() -> None:
    subject = content()
    refused = replace(subject.result, photos=gain(used=False), contest=contest(photo_rule(claim=False, use=False)))
    assert "The photos are not used: they lower" in report_page(replace(subject, result=refused))
    network = replace(subject.result, photos=gain(same_kind=False), contest=None)
    assert "of another kind" in report_page(replace(subject, result=network))
    without = replace(subject, result=replace(subject.result, photos=None))
    assert "#photos" not in Page(report_page(without)).values("href")


def test_the_first_screen_has_the_interval_and_the_compared_models_the_best_first() -> None:
    page = report_page(content())
    text = Page(page).text
    assert "RMSE on 60 test rows, lower is better" in text
    assert "11,111 to 13,131" in " ".join(text.split())
    first = page.index('<tr class="ours"><th scope="row">mixfit (table + photos)</th>')
    assert first < page.index('<th scope="row">boosted trees</th>')


def test_a_row_shows_truth_prediction_and_what_is_unusual() -> None:
    subject = content()
    text = " ".join(Page(report_page(subject)).text.split())
    row = text[text.index("Row 4 ") :]
    expected = [f"{subject.truth[2]:,.0f}", f"{subject.prediction[2]:,.0f}", "area is 12, above all training rows"]
    assert all(part in row for part in expected)
    assert "gone.jpg cannot be read" in row
    assert "and 2 more photos" in row


def test_reliability_counts_all_rows() -> None:
    page = report_page(content("binary", 2))
    table = page[page.index("Predicted probability of the class class 1") :]
    counts = re.findall(r'</th><td class="num">(\d+)</td>', table[: table.index("</table>")])
    assert sum(map(int, counts)) == 60


def test_an_explanation_has_its_place() -> None:
    parts = [
        ColumnPart(name="<b>area</b>", photo=False, mean=0.4, error=0.1),
        ColumnPart(name="front", photo=True, mean=0.1, error=math.nan),
    ]
    found = ModelExplanation(
        target="price",
        scale="number",
        columns=parts,
        photo_share=0.25,
        photo_share_error=math.nan,
        interaction=0.05,
        rows=1,
        background=16,
        exact=True,
        orders=0,
    )
    page = Page(report_page(replace(content(), explanation=found)))
    assert "<b>area</b>" in page.text
    assert "photos 0.25" in page.text
    assert "#explanation" in page.values("href")
    assert "#explanation" not in Page(report_page(content())).values("href")
