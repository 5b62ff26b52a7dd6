"""What people see of texts: report, explanations with marked words, inspection, model card and terminal."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hostile_texts import HOSTILE, LONG, UNSAFE, assert_harmless
from rich.console import Console
from small_runs import QUIET, TRAIN, small_fit
from test_explaining import explanation
from test_text_runs import BAD, GOOD, described

from mixfit.auto.inspection import inspect_table
from mixfit.data.load import load_data
from mixfit.evaluation import word_effects as words_module
from mixfit.evaluation.word_effects import MOST_WORDS, WordEffects, word_effects
from mixfit.files import unseal
from mixfit.runs.comparison import compare_runs
from mixfit.runs.explaining import explain_run
from mixfit.runs.report.data import Unusual
from mixfit.runs.report.explain_page import ExplainContent, explain_page
from mixfit.runs.report.page import report_page, rewrite_report
from mixfit.runs.report.saved import read_content
from mixfit.runs.report.views import compared_scores
from mixfit.runs.results import BLEND, TABLE_BLEND, TEXT_BLEND, Run
from mixfit.runs.scoring import evaluate_table, predict_table

NOTE = "<b>note</b>"
ROWS = 160
ODD = dict(zip(HOSTILE, range(0, ROWS, ROWS // len(HOSTILE)), strict=False))
"""The row of each hostile text."""


def hostile_frame(*, classes: bool = False) -> pd.DataFrame:
    """A number and a text tell the target; some texts are hostile, and one is empty."""
    rng = np.random.default_rng(0)
    quality, x = rng.normal(size=ROWS), rng.normal(size=ROWS)
    frame = pd.DataFrame({"x": x, NOTE: described(quality)})
    for name, row in ODD.items():
        frame.loc[row, NOTE] = HOSTILE[name]
    frame.loc[ROWS - 1, NOTE] = None
    y = 2 * quality + x
    return frame.assign(y=np.where(y > 0, "good", "bad") if classes else y)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "table.parquet"
    hostile_frame().to_parquet(path)
    return path


@pytest.fixture(scope="module")
def run(table: Path) -> Run:
    return small_fit(table, table.parent / "runs", report=True)


def explained(run: Run, out: Path, **asked: Any) -> tuple[str, str, dict[str, Any]]:
    """The page, the terminal and the JSON."""
    console = Console(width=300, record=True, quiet=False, file=(out / "terminal").open("w", encoding="utf-8"))
    explain_run(run.folder, out=out, console=console, **asked)
    console.file.close()
    return (
        (out / "explain.html").read_text(encoding="utf-8"),
        (out / "terminal").read_text(encoding="utf-8"),
        json.loads((out / "explain.json").read_text()),
    )


def test_a_report_shows_hostile_texts_as_texts(run: Run) -> None:
    content = read_content(run.folder)
    assert content.data is not None
    row = content.data.samples[0]
    hostile = [replace(row, cells=[(NOTE, text)]) for text in HOSTILE.values()]
    page = assert_harmless(report_page(replace(content, worst=hostile)))
    assert "<script>alert(1)</script>" in page.text
    assert "مزهرية جميلة" in page.text
    written = assert_harmless((run.folder / "report.html").read_text(encoding="utf-8"))
    assert NOTE in written.text
    (told,) = [one for one in content.data.distributions if one.column == NOTE]
    assert told.kind == "texts"
    assert sum(told.counts) == ROWS - 1
    assert re.match(r"words: \d+ to [\d,]+, median ", told.summary)
    assert told.sample.startswith("<script>alert(1)</script> <img")
    assert len(told.sample) <= 80
    assert any(name == NOTE and value for row in content.data.samples for name, value in row.cells)


def test_a_report_says_what_the_text_adds(run: Run) -> None:
    result, source = run.result, (run.folder / "report.html").read_text(encoding="utf-8")
    assert result.text is not None
    assert result.contest is not None
    assert result.contest.text is not None
    text = " ".join(assert_harmless(source).text.split())
    assert '<h2 id="text">What the text adds</h2>' in source
    assert "What the photos add" not in text
    assert result.contest.text.why in text
    values = [run.scores["test"][name][result.headline] for name in (result.text.with_text, result.text.without)]
    found = result.final.difference(result.text.with_text, result.text.without, result.headline)
    assert found.value == pytest.approx(values[0] - values[1])
    assert all(said in text for said in found.texts)
    sees = {line.model: (line.text, line.photos) for line in result.contest.leaderboard}
    assert sees["linear, table"] == (False, False)
    assert sees["linear, table and text"] == sees["linear, text"] == (True, False)
    assert sees[TABLE_BLEND] == sees["constant"] == (False, False)
    assert sees[BLEND] == (run.predictor.uses_text, False)
    heading, *rows = re.findall(r"<tr.*?</tr>", source[source.index("Weight in the blend") - 300 :], flags=re.DOTALL)
    assert ">Text</th>" in heading
    shown = {cells[0]: cells[3] for cells in (re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in rows[: len(sees)])}
    assert shown == {name: "yes" if text else "no" for name, (text, _) in sees.items()}


def test_the_words_that_matter_are_shown_as_text(run: Run) -> None:
    content = read_content(run.folder)
    (found,) = content.words
    assert found.column == NOTE
    assert set(GOOD) & {one.word for one in found.raises}
    assert set(BAD) & {one.word for one in found.lowers}
    assert all(one.part > 0 and one.texts >= found.least for one in found.raises)
    assert [one.part for one in found.raises] == sorted((one.part for one in found.raises), reverse=True)
    hostile = [replace(found.raises[0], word=word[:2_000]) for word in HOSTILE.values()]
    source = report_page(replace(content, words=[replace(found, raises=hostile, of_class=HOSTILE["markup"])]))
    page = assert_harmless(source)
    assert "<script>alert(1)</script>" in page.text
    assert "<bdi>مزهرية" in source


def test_a_row_without_the_text_that_others_have_is_remarked_on() -> None:
    mixed = load_data(hostile_frame(), target="y", device="cpu")
    remarks = Unusual(mixed, []).about(ROWS - 1)
    assert re.fullmatch(rf"no text in {NOTE}; >?\d+ % of the training rows have one", remarks[0])
    assert not [remark for remark in Unusual(mixed, []).about(3) if "no text" in remark]


def test_old_results_without_a_word_on_texts_are_shown(run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    unseal(folder)
    saved = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    del saved["text"]
    for line in saved["contest"]["leaderboard"]:
        del line["text"]
    del saved["contest"]["text"]
    (folder / "results.json").write_text(json.dumps(saved), encoding="utf-8")
    facts = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    del facts["explanation"]["text_share"], facts["explanation"]["text_share_error"]
    for column in facts["explanation"]["columns"]:
        del column["text"]
    (folder / "report.json").write_text(json.dumps(facts), encoding="utf-8")
    page = rewrite_report(folder).read_text(encoding="utf-8")
    assert "What the text adds" not in page
    assert ">Text</th>" not in page
    assert "What moves the predictions" in page


def test_words_are_marked_in_the_page_listed_in_the_terminal_and_saved(run: Run, tmp_path: Path) -> None:
    frame = hostile_frame()
    rows = [3, 5, 9, ROWS - 1]
    source, terminal, saved = explained(run, tmp_path, rows=rows)
    page = assert_harmless(source)
    assert re.search(r"words +left out one at a time: \d+ words of \d texts?, [\d.]+ s", terminal)
    effects = {one.row: one for one in word_effects(run.predictor, frame, rows=rows)}
    assert set(effects) == set(rows[:3])
    for row in saved["rows"]:
        share = abs(row["parts"][NOTE]) / sum(map(abs, row["parts"].values()))
        if row["row"] == ROWS - 1:
            assert "words" not in row
            continue
        assert ("words" in row) == (share >= 0.1)
        if "words" not in row:
            continue
        one = effects[row["row"]]
        listed = row["words"][NOTE]
        assert [word["word"] for word in listed] == [word for word, _ in one.strongest]
        np.testing.assert_allclose([word["effect"] for word in listed], [effect for _, effect in one.strongest])
        sizes = [abs(word["effect"]) for word in listed]
        assert sizes == sorted(sizes, reverse=True)
        (line,) = [line for line in terminal.splitlines() if line.startswith(f"   row {row['row']}, ")]
        assert [part.split(" ")[0] for part in line.partition(": ")[2].split(", ")] == [
            word["word"] for word in listed[:5]
        ]
        assert str(frame.loc[row["row"], NOTE]) in page.text
    assert any("words" in row for row in saved["rows"])
    raised = {word.lower() for word in re.findall(r'<mark class="raises by-3"[^>]*>(\w+)</mark>', source)}
    lowered = {word.lower() for word in re.findall(r'<mark class="lowers by-3"[^>]*>(\w+)</mark>', source)}
    assert raised & set(GOOD) or lowered & set(BAD)
    assert not raised & set(BAD)
    assert not lowered & set(GOOD)
    assert "Solid underline" in page.text
    assert "Dashed underline" in page.text


def test_hostile_texts_are_explained_as_texts(run: Run, tmp_path: Path) -> None:
    source, terminal, saved = explained(run, tmp_path, rows=list(ODD.values()))
    page = assert_harmless(source)
    assert UNSAFE.search(terminal.replace("\n", "")) is None
    assert "7*7" in page.text
    texts = {row["row"]: row.get("words", {}).get(NOTE) for row in saved["rows"]}
    assert texts[ODD["punctuation"]] is None
    assert all(len(words) <= MOST_WORDS for words in texts.values() if words)
    assert max(map(len, source.splitlines())) < 20_000


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_a_text_on_the_page_of_an_explanation(name: str) -> None:
    text = HOSTILE[name]
    words, spans = words_module._words(text[:50_000])
    effects = np.linspace(-1, 1, len(words[:MOST_WORDS]))
    found = explanation(scale="number", photos=0, texts=1, rows=1)
    found = replace(found, columns=(NOTE, *found.columns[1:]), cells=((text, "", "", ""),))
    one = WordEffects(
        row=0,
        column=NOTE,
        text=text[:50_000],
        spans=tuple(span for span in spans if span[2] < MOST_WORDS),
        words=tuple(words[:MOST_WORDS]),
        effects=effects,
        left_out=max(0, len(words) - MOST_WORDS),
    )
    content = ExplainContent(
        run_name="run", table_name="t.csv", explanation=found, chosen="by hand", words={0: [one] if words else []}
    )
    source = explain_page(content)
    page = assert_harmless(source)
    begin = re.split(UNSAFE, text[:150])[0]
    assert begin in page.text.replace("\r", "") or begin.split("\r")[0] in page.text
    assert "script" not in page.names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Word1 superb, Superb!", ["word1", "superb"]),
        ("... !!! --- “ ”", []),
        ("花瓶 iPhone 12", ["花", "瓶", "iphone", "12"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("مزهرية \u202eجميلة", ["مزهرية", "جميلة"]),
        ("😀️ ok €5 👩\u200d👧", ["😀️", "ok", "€", "5", "👩", "👧"]),
        ("a\x00\x1b[31m\x9bb", ["a", "31m", "b"]),
        ("\u0301x", ["x"]),
        ("", []),
    ],
)
def test_words_are_letters_with_their_marks_or_symbols(text: str, words: list[str]) -> None:
    found, spans = words_module._words(text)
    assert found == words
    assert [text[start:stop].lower() for start, stop, _ in spans] == [words[number] for _, _, number in spans]


def test_an_effect_is_the_prediction_minus_that_without_the_word(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = hostile_frame()
    frame.loc[0, NOTE] = "Superb vase, superb; scratched and word7."
    rows = [0, 40, 0]
    whole = word_effects(run.predictor, frame, rows=rows)
    assert [one.row for one in whole] == rows
    texts = [frame.loc[0, NOTE], "", "", "", "", ""]
    texts[1] = " vase, ; scratched and word7."
    texts[2] = "Superb , superb; scratched and word7."
    texts[3] = "Superb vase, superb;  and word7."
    texts[4] = "Superb vase, superb; scratched  word7."
    texts[5] = "Superb vase, superb; scratched and ."
    same = frame.iloc[[0] * 6].assign(**{NOTE: texts})
    values = run.predictor.predict(same)["prediction"].to_numpy()
    np.testing.assert_allclose(whole[0].effects, values[0] - values[1:], atol=1e-5)
    np.testing.assert_allclose(whole[2].effects, whole[0].effects, atol=1e-6)
    monkeypatch.setattr(words_module, "_BATCH", 1)
    for one, other in zip(whole, word_effects(run.predictor, frame, rows=rows), strict=True):
        np.testing.assert_allclose(one.effects, other.effects, atol=1e-5)
    assert word_effects(run.predictor, frame, rows=[0], columns=[[]]) == []
    long = frame.assign(**{NOTE: LONG + " ".join(f"w{number}" for number in range(300))})
    (cut,) = word_effects(run.predictor, long, rows=[0])
    assert cut.words == ("superb", "word", "w")  # the text is cut within a word
    long[NOTE] = " ".join(f"w{number}" for number in range(300))
    (many,) = word_effects(run.predictor, long, rows=[0])
    assert (len(many.words), many.left_out) == (MOST_WORDS, 200)


def test_for_classes_the_words_are_those_of_the_explained_class(tmp_path: Path) -> None:
    table = tmp_path / "table.parquet"
    frame = hostile_frame(classes=True)
    frame.to_parquet(table)
    run = small_fit(table, tmp_path / "runs", train=replace(TRAIN, folds=5))
    frame.loc[0, NOTE] = "superb word1 scratched word2 signed"
    (good,) = word_effects(run.predictor, frame, rows=[0], explained=["good"])
    (bad,) = word_effects(run.predictor, frame, rows=[0], explained=["bad"])
    np.testing.assert_allclose(good.effects, -bad.effects, atol=1e-5)
    effects = dict(zip(good.words, good.effects, strict=True))
    assert effects["superb"] > effects["scratched"]
    source, terminal, saved = explained(run, tmp_path, n=4)
    assert_harmless(source)
    assert "points" in source
    assert not re.search(r"^   row \d", terminal, flags=re.MULTILINE)
    assert re.search(r"Explained is the probability of the predicted class of each row: (good|bad) [1-4]", terminal)
    terminal = explained(run, tmp_path, rows=[0])[1]
    assert re.search(
        r"^   row 0: Probability of (good|bad): [\d<>]+ %, typically \d+ %\.$", terminal, flags=re.MULTILINE
    )
    assert {row["explained"] for row in saved["rows"]} <= {"good", "bad"}


def test_the_sides_of_a_run_with_texts_are_table_and_text(run: Run, tmp_path: Path) -> None:
    _, terminal, saved = explained(run, tmp_path, n=8)
    assert set(saved["model"]["shares"]) == {"table", "text"}
    assert sum(one["mean"] for one in saved["model"]["shares"].values()) == pytest.approx(1)
    shares = r"shares of the total contribution, each side taken as a whole: table [\d.]+, text [\d.]+ \(\+- [\d.]+\)$"
    assert re.search(shares, terminal, flags=re.MULTILINE)
    assert f"{NOTE} (text)" in terminal
    for row in saved["rows"]:
        assert row["table"] + row["text"] == pytest.approx(row["value"] - row["base"], abs=1e-5)
        assert row["photos"] == pytest.approx(0, abs=1e-6)
        # Two columns of two sides: a side is its column.
        assert row["text"] == pytest.approx(row["parts"][NOTE], abs=1e-5)


def test_the_card_lists_texts_by_their_lengths_and_holds_none_of_them(run: Run) -> None:
    card = (run.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^\| `<b>note</b>` \| text \| \d+ to [\d,]+ words, median \d+ \|", card, flags=re.MULTILINE)
    assert "groups of 2 to 4 characters" in card
    assert "alert(1)" not in card
    assert UNSAFE.search(card.replace("\n", "")) is None
    assert run.result.contest is not None
    assert run.result.contest.text is not None
    assert run.result.contest.text.why in card


def test_an_inspection_shows_hostile_texts_as_texts(table: Path, tmp_path: Path) -> None:
    inspect_table(table, target="y", out=tmp_path / "inspected", console=QUIET)
    page = assert_harmless((tmp_path / "inspected" / "inspect.html").read_text(encoding="utf-8"))
    assert "<script>alert(1)</script> <img src=x" in page.text
    assert "bdi" in page.names


def test_runs_with_texts_are_evaluated_compared_and_predict(run: Run, table: Path, tmp_path: Path) -> None:
    evaluated = evaluate_table(run.folder, table, split="test", console=QUIET)
    assert evaluated["mae"] == pytest.approx(run.scores["test"][BLEND]["mae"], rel=1e-6)
    compared = compare_runs([run.folder, run.folder], out=tmp_path / "compare.html", console=QUIET)
    assert {one.finding for one in compared.scores.differences} == {"equal"}
    assert_harmless((tmp_path / "compare.html").read_text(encoding="utf-8"))
    predict_table(run.folder, table, out=tmp_path / "out.csv", console=QUIET)
    assert len(pd.read_csv(tmp_path / "out.csv")) == ROWS


def test_the_delivered_blend_is_listed_once_in_the_answer(run: Run) -> None:
    """It is the blend of the table under another name if it uses no text."""
    result = run.result
    assert result.text is not None
    names = {score.model for score in compared_scores(result)}
    assert BLEND in names
    refused = replace(result, text=replace(result.text, used=False))
    assert TABLE_BLEND not in {score.model for score in compared_scores(refused)}
    assert BLEND in {score.model for score in compared_scores(refused)}
    assert (TABLE_BLEND in names) == result.text.used
    assert TEXT_BLEND not in names
