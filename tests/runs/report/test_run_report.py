"""The report of real runs: its numbers are those of the files beside it, and it names no folder and no person."""

import getpass
import re
import shutil
import socket
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from quick_runs import quick_fit
from report_runs import IMG, SMALL
from rich.console import Console

from mixfit.auto.recipe import Run, fit
from mixfit.cli import _run as run_command
from mixfit.config import DataConfig, TrainConfig
from mixfit.demo import DEMO_TARGET
from mixfit.errors import ConfigError
from mixfit.evaluation.explain import size_text
from mixfit.evaluation.result import headline_for, metrics_for, read_result
from mixfit.html import ends_text, number
from mixfit.runs.report.saved import read_content
from mixfit.runs.report.views import coverage_by_level
from mixfit.runs.results import TABLE_BLEND, TREES
from mixfit.training.metrics import metric_label


class Tables(HTMLParser):
    """The cells of every table of a page, by caption; and all its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.text: list[str] = []
        self._cell: list[str] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = []
        elif tag == "small" and self._cell is not None:
            self._cell.append("|")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.tables[-1][-1].append("".join(self._cell).strip())
            self._cell = None

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._cell is not None:
            self._cell.append(data.strip())

    def with_heading(self, *names: str) -> list[list[str]]:
        return next(table for table in self.tables if table and table[0][: len(names)] == list(names))


@pytest.fixture(params=["quick_run", "blend_run", "class_run"])
def any_run(request: pytest.FixtureRequest) -> Run:
    run: Run = request.getfixturevalue(request.param)
    return run


def page_of(run: Run) -> str:
    return (run.folder / "report.html").read_text(encoding="utf-8")


def test_every_score_of_the_page_is_that_of_the_result(any_run: Run) -> None:
    saved = read_result(any_run.folder)
    names = list(saved.final.scores[0].metrics)
    table = Tables(page_of(any_run)).with_heading("Model", metric_label(names[0]))
    assert table[0][1 : 1 + len(names)] == [metric_label(name) for name in names]
    shown, split = {}, ""
    for row in table[1:]:
        if len(row) == 1:
            split = "test" if row[0].startswith("Test") else "valid"
        else:
            shown[split, row[0]] = [cell.split("|")[0] for cell in row[1 : 1 + len(names)]]
    assert len(shown) == sum(len(part.scores) for part in saved.parts)
    for part in saved.parts:
        for score in part.scores:
            assert shown[part.split, score.model] == [number(value) for value in score.metrics.values()]
            assert any_run.scores[part.split][score.model] == pytest.approx(score.metrics, nan_ok=True)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_our_scores_are_those_of_the_predictions_file(any_run: Run, split: Any) -> None:
    content = read_content(any_run.folder)
    target = any_run.predictor.target
    frame = pd.read_parquet(any_run.folder / f"predictions_{split}.parquet")
    ours = content.result.scores[split][content.result.ours]
    truth, prediction = frame["truth"].to_numpy(), frame["prediction"].to_numpy()
    if target.classes is not None:
        truth = np.array([target.classes.index(name) for name in truth])
        prediction = frame[[f"probability_{name}" for name in target.classes]].to_numpy()
    for metric in metrics_for(content.schema.task, target):
        assert ours[metric.name] == pytest.approx(metric.function(truth, prediction), nan_ok=True)


def test_the_compared_models_have_their_predictions_too(blend_run: Run, class_run: Run) -> None:
    frame = pd.read_parquet(blend_run.folder / "predictions_test.parquet")
    for model in (TABLE_BLEND, TREES, "constant"):
        mae = (frame["truth"] - frame[f"prediction: {model}"]).abs().mean()
        assert blend_run.scores["test"][model]["mae"] == pytest.approx(mae)
    classes = pd.read_parquet(class_run.folder / "predictions_test.parquet")
    assert classes["group"].nunique() < len(classes)
    for model in (TABLE_BLEND, TREES, "constant"):
        found = class_run.scores["test"][model]
        assert found["accuracy"] == pytest.approx((classes["truth"] == classes[f"prediction: {model}"]).mean())
        chance = classes[f"probability of the truth: {model}"].astype(float)
        assert found["log_loss"] == pytest.approx(-np.log(chance).mean(), rel=1e-6)


def test_intervals_and_what_the_photos_add_are_those_of_the_result(any_run: Run) -> None:
    content, text = read_content(any_run.folder), " ".join(" ".join(Tables(page_of(any_run)).text).split())
    found, metric = content.result, headline_for(content.schema.task, any_run.predictor.target).name
    assert found.headline == metric
    ours = found.final.score(found.ours)
    low, high = ours.intervals[metric]
    assert low <= ours.metrics[metric] <= high
    assert ends_text((low, high)) in text
    assert found.answer in text
    gain = found.photos
    assert gain is not None
    values = [any_run.scores["test"][name][metric] for name in (gain.with_photos, gain.without)]
    difference = found.final.difference(gain.with_photos, gain.without, metric)
    assert difference.value == pytest.approx(values[0] - values[1])
    assert difference.low - 1e-9 <= difference.value <= difference.high + 1e-9
    value, interval = difference.texts
    assert float(value) == pytest.approx(values[0] - values[1], rel=0.01, abs=0.01)
    rows = Tables(page_of(any_run)).with_heading("Rows", "With photos")
    assert rows[1][1:] == [*map(number, values), f"{value}|{interval}"]
    assert (found.final.groups is not None) == ("pair" in content.schema.names("group"))


def test_coverage_is_that_of_the_predictions_file(blend_run: Run) -> None:
    frame = pd.read_parquet(blend_run.folder / "predictions_test.parquet")
    inside = int(frame["truth"].between(frame["lower"], frame["upper"]).sum())
    content = read_content(blend_run.folder)
    levels = coverage_by_level(content.result)
    level = next(one for one in levels if one.level == content.result.coverage_level)
    assert (level.inside, level.count) == (inside, len(frame))
    assert level.width == pytest.approx((frame["upper"] - frame["lower"]).median())
    assert f"contain the true value of {inside:,} of {len(frame):,} test rows" in page_of(blend_run)
    assert [one.level for one in levels] == [0.5, 0.8, 0.9, 0.95]


def test_the_worst_rows_are_the_largest_errors_of_the_predictions_file(blend_run: Run) -> None:
    frame = pd.read_parquet(blend_run.folder / "predictions_test.parquet").set_index("row")
    ratio = np.log(frame["prediction"] / frame["truth"]).abs().sort_values(ascending=False)
    content, page = read_content(blend_run.folder), page_of(blend_run)
    assert [row.row for row in content.worst] == ratio.index[: len(content.worst)].tolist()
    card = page[page.index(f'aria-label="Worst row {ratio.index[0]}"') :]
    first = frame.loc[ratio.index[0]]
    for name, value in (("Truth", first["truth"]), ("Predicted", first["prediction"])):
        assert f"<dt>{name}</dt><dd>{number(float(value))}</dd>" in card
    assert f"<dd>{ends_text((float(first['lower']), float(first['upper'])))}</dd>" in card


def test_the_report_is_written_again_without_table_and_photos(
    blend_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(blend_run.folder, copy)
    (copy / "report.html").unlink()
    assert run_command(["report", str(copy)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert (copy / "report.html").read_bytes() == (blend_run.folder / "report.html").read_bytes()
    assert run_command(["report", str(tmp_path)]) == 2
    assert "has no results.json" in capsys.readouterr().err


def test_names_with_markup_are_shown_as_text(class_run: Run) -> None:
    page = page_of(class_run)
    tags: list[tuple[str, dict[str, str | None]]] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attrs)))

    Tags().feed(page)
    sources = [str(attributes["src"]) for tag, attributes in tags if tag == "img"]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    text = " ".join(Tables(page).text)
    for name in ("x", "kind", "y", "low", "b"):
        assert f"{name} {IMG}" in text
    assert len(page.encode()) < 3_000_000


def test_no_folder_no_person_and_no_machine_is_named(any_run: Run, demo_table: Path) -> None:
    shown = page_of(any_run) + (any_run.folder / "report.json").read_text(encoding="utf-8")
    shown += (any_run.folder / "results.json").read_text(encoding="utf-8")
    shown = re.sub(r"base64,[A-Za-z0-9+/=\\s]+", "", shown)
    for secret in (any_run.folder.parent, demo_table.parent, Path.home(), Path.cwd()):
        assert str(secret) not in shown
    assert socket.gethostname() not in shown
    if len(getpass.getuser()) > 3 and getpass.getuser() != "root":
        assert getpass.getuser() not in shown
    assert not re.search(r"[\s\"'>](/[\w.-]+){2,}", re.sub(r"</?\w+|http://www.w3.org[\w/]*", "", shown))


def test_a_run_gives_its_figures(any_run: Run) -> None:
    figures = [any_run.plot_scores(), any_run.plot_predictions(), any_run.plot_loss(), any_run.show_worst(2)]
    if any_run.contest is None:
        with pytest.raises(ConfigError, match="has no prediction intervals"):
            any_run.plot_calibration()
    else:
        figures.append(any_run.plot_calibration())
    for figure in figures:
        figure.canvas.draw()
    assert len(figures[0].axes[0].get_yticklabels()) >= 3
    assert len(figures[3].axes) == 4
    with pytest.raises(ConfigError, match="count must be at least 1"):
        any_run.show_worst(0)


def test_a_table_without_photos_says_nothing_of_them(demo_table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(demo_table, dtype=str).drop(columns="photos")
    frame.to_csv(tmp_path / "plain.csv", index=False)
    page = page_of(quick_fit(tmp_path / "plain.csv", DEMO_TARGET, tmp_path / "runs"))
    assert 'href="#photos"' not in page
    assert "Sample rows" in page


@pytest.mark.parametrize(
    ("preset", "target"),
    [
        ("network", DEMO_TARGET),
        ("quick", DEMO_TARGET),
        pytest.param("quick", "maker", marks=pytest.mark.long),
    ],
)
def test_without_test_rows_the_others_judge(preset: Any, target: str, demo_table: Path, tmp_path: Path) -> None:
    run = fit(
        demo_table,
        target=target,
        data=DataConfig(image_size=32, test=0.0),
        model=SMALL,
        train=TrainConfig(preset=preset, epochs=1),
        out=tmp_path,
        console=Console(quiet=True),
    )
    content = read_content(run.folder)
    assert content.result.final.split == "valid"
    assert len(content.truth) == len(pd.read_parquet(run.folder / "predictions_valid.parquet"))
    assert len(pd.read_parquet(run.folder / "predictions_test.parquet")) == 0
    assert content.worst[0].part == ("validation rows" if preset == "network" else "out-of-fold rows")
    assert coverage_by_level(content.result) == []
    assert content.result.photos is not None
    assert [part.split for part in content.result.parts] == ["valid"]


def test_what_moves_the_predictions_is_what_explain_finds(any_run: Run) -> None:
    facts = read_content(any_run.folder)
    assert facts.explanation is not None
    assert facts.explanation.rows <= 24
    sizes = [column.mean for column in facts.explanation.columns]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) > 0
    used = {name for role in ("number", "category", "date") for name in any_run.predictor.schema.names(role)}
    assert used == {column.name for column in facts.explanation.columns if not column.photo}
    text = " ".join(Tables(page_of(any_run)).text)
    assert "What moves the predictions" in text
    assert size_text(sizes[0], facts.explanation.scale) in text


def test_a_training_on_very_many_columns_says_that_it_explains_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(60, 101)).round(3), columns=[f"x{number}" for number in range(101)])
    frame["y"] = frame["x0"] + 0.1 * rng.normal(size=60).round(3)
    frame.to_csv(tmp_path / "wide.csv", index=False)
    run = fit(
        tmp_path / "wide.csv",
        target="y",
        data=DataConfig(),
        model=SMALL,
        train=TrainConfig(preset="network", epochs=1),
        out=tmp_path,
        console=Console(quiet=True),
    )
    assert read_content(run.folder).explanation is None
    text = " ".join(Tables(page_of(run)).text)
    assert "What moves the predictions" in text
    assert "Not computed during training, as the model uses 101 columns (limit 100)." in text
    assert "mixfit explain RUN --n 10" in text
