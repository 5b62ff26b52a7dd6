"""``mixfit explain`` from the command line to the page and the JSON file."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hostile_texts import Page
from quick_runs import QUICK_DATA, QUICK_MODEL
from rich.console import Console

from mixfit.auto.recipe import Run, fit
from mixfit.cli import main
from mixfit.config import TrainConfig
from mixfit.demo import DEMO_TARGET
from mixfit.evaluation.explain import Explanation
from mixfit.runs.report.explain_page import ExplainContent, explain_page, explanation_view, model_explanation

NASTY = "<b>maker</b> & {{ 7*7 }}"


@pytest.fixture(scope="module")
def nasty_run(demo_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A blend for a table with a column whose name is markup."""
    folder = tmp_path_factory.mktemp("nasty")
    shutil.copytree(demo_table.parent / "images", folder / "images")
    frame = pd.read_csv(demo_table).rename(columns={"maker": NASTY})
    frame.to_csv(folder / "table.csv", index=False)
    train = TrainConfig(preset="quick", epochs=1, report=False)
    quiet = Console(quiet=True)
    return fit(
        folder / "table.csv",
        target=DEMO_TARGET,
        data=QUICK_DATA,
        model=QUICK_MODEL,
        train=train,
        out=folder,
        console=quiet,
    )


def run_cli(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_rows_are_explained_in_a_page_and_in_json(
    nasty_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = nasty_run.folder
    assert run_cli("explain", folder, "--rows", "3,17,40", "--out", tmp_path) == 0
    said = capsys.readouterr().out
    assert "3 rows given by number, relative to 32 background rows; Shapley values, exact" in said
    assert re.search(rf"{re.escape(NASTY)} +\d", said)
    assert "Mean absolute contribution of each column to the predictions, in percent of price" in said
    found = json.loads((tmp_path / "explain.json").read_text())
    assert [row["row"] for row in found["rows"]] == [3, 17, 40]
    frame = pd.read_csv(folder.parent / "table.csv")
    expected = nasty_run.predictor.predict(frame.iloc[[3, 17, 40]], images=folder.parent)["prediction"]
    np.testing.assert_allclose([row["prediction"] for row in found["rows"]], expected, rtol=1e-5)
    for row in found["rows"]:
        assert sum(row["parts"].values()) == pytest.approx(row["value"] - row["base"], abs=1e-5)
        assert row["value"] == pytest.approx(np.log(row["prediction"]))
    assert found["scale"] == "logarithm"
    assert set(found["model"]["columns"]) == set(found["rows"][0]["parts"])
    page = (tmp_path / "explain.html").read_text()
    assert "&lt;b&gt;maker&lt;/b&gt; &amp; {{ 7*7 }}" in page
    assert "<b>maker" not in page
    for text in (page, json.dumps(found)):
        assert str(folder.parent) not in text
        assert str(tmp_path) not in text
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)


def test_photos_of_which_none_is_there_are_told(
    quick_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("explain", quick_run.folder, "--rows", "3", "--images", tmp_path, "--out", tmp_path) == 0
    assert "warning: none of the 2 photos was found in" in capsys.readouterr().out
    assert run_cli("explain", quick_run.folder, "--rows", "3", "--out", tmp_path) == 0
    assert "warning" not in capsys.readouterr().out


def test_so_many_test_rows_are_explained_where_the_run_is(quick_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name for path in quick_run.folder.iterdir()}
    assert run_cli("explain", quick_run.folder, "--n", "5") == 0
    assert "5 rows drawn from 14 test rows" in capsys.readouterr().out
    assert {path.name for path in quick_run.folder.iterdir()} - before == {"explain.html", "explain.json"}
    first = (quick_run.folder / "explain.json").read_text()
    assert run_cli("explain", quick_run.folder, "--n", "5") == 0
    assert (quick_run.folder / "explain.json").read_text() == first
    assert (quick_run.folder / "explain-002.json").read_text() == first
    page = (quick_run.folder / "explain.html").read_text()
    looked = json.loads(first)["rows"]
    matters = [row for row in looked if abs(row["parts"]["photos"]) >= 0.1 * sum(map(abs, row["parts"].values()))]
    assert ("data:image/jpeg" in page) == bool(matters)
    for path in quick_run.folder.glob("explain*"):
        path.unlink()


@pytest.mark.parametrize(("preset", "part"), [("network", "validation rows"), ("quick", "out-of-fold rows")])
def test_without_test_rows_it_says_which_rows_it_drew_from(
    preset: Any, part: str, demo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(
        demo_table,
        target=DEMO_TARGET,
        data=replace(QUICK_DATA, test=0.0),
        model=QUICK_MODEL,
        train=TrainConfig(preset=preset, epochs=1, report=False),
        out=tmp_path,
        console=Console(quiet=True),
    )
    assert run_cli("explain", run.folder, "--n", "2") == 0
    assert re.search(rf"2 rows drawn from \d+ {part}, relative to", capsys.readouterr().out)


def test_another_table_is_its_own_background(
    quick_run: Run, demo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "new.csv"
    pd.read_csv(demo_table).drop(columns=DEMO_TARGET).head(20).to_csv(other, index=False)
    arguments = ["--table", other, "--images", demo_table.parent, "--out", tmp_path]
    assert run_cli("explain", quick_run.folder / "model", "--n", "3", *arguments) == 0
    assert "3 rows drawn from 20 rows, relative to 20 background rows" in capsys.readouterr().out
    without = (tmp_path / "explain.json").read_text()
    pd.read_csv(demo_table).assign(**{DEMO_TARGET: ""}).head(20).to_csv(other, index=False)  # not known yet
    assert run_cli("explain", quick_run.folder / "model", "--n", "3", *arguments) == 0
    assert "3 rows drawn from 20 rows, relative to 20 background rows" in capsys.readouterr().out
    assert (tmp_path / "explain.json").read_text() == without


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "3,90"], r"1 of 2 rows are not in the table of 90 rows, such as 90\."),
        (["--rows", "three"], r"--rows must be row numbers separated by commas, such as 3,17, got 'three'\."),
        ([], r"Choose rows with --rows 3,17, or a number of rows with --n 200\."),
        (["--rows", "1", "--n", "2"], r"Choose rows with --rows 3,17, or a number of rows with --n 200\."),
        (["--n", "0"], r"--n must be at least 1, got 0\."),
        (["--n", "2", "--seed", "-1"], r"seed must be at least 0, got -1\."),
    ],
)
def test_mistakes_end_in_a_sentence(
    quick_run: Run, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("explain", quick_run.folder, *arguments) == 2
    assert re.fullmatch(rf"mixfit: {message}\n", capsys.readouterr().err)


def test_a_folder_that_cannot_be_made_is_told_before_the_work(
    quick_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    reason = f"{tmp_path / 'file'} is a file, not a folder"
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert run_cli("explain", quick_run.folder, "--n", "2", "--out", out) == 4
        said = capsys.readouterr()
        assert said.err.startswith(f"mixfit: {out} cannot be written: {reason}.")
        assert "background rows" not in said.out  # that is said after the work


def test_a_table_that_is_gone_or_unknown_is_told(
    quick_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli("explain", quick_run.folder / "model", "--n", "3") == 2
    assert "does not name its table: give one with --table." in capsys.readouterr().err
    run = tmp_path / "run"
    run.mkdir()
    (run / "model").symlink_to(quick_run.folder / "model")
    (run / "config.toml").write_text('table = "gone.csv"\n')
    assert run_cli("explain", run, "--n", "3") == 2
    assert "The run's table gone.csv does not exist: give its new path with --table." in capsys.readouterr().err


def explanation(*, scale: str, photos: int, texts: int = 0, rows: int = 3, columns: int = 4) -> Explanation:
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(rows, columns)) * 0.1
    is_photo = np.arange(columns) >= columns - photos
    is_text = np.arange(columns) < texts
    return Explanation(
        target="price",
        scale=scale,  # type: ignore[arg-type]
        columns=tuple(f"column {number}" for number in range(columns)),
        is_photo=is_photo,
        is_text=is_text,
        rows=np.arange(rows),
        cells=(("",) * columns,) * rows,
        predictions=("yes",) * rows if scale == "probability" else (1.5,) * rows,
        explained=("yes",) * rows if scale == "probability" else ("",) * rows,
        value=parts.sum(1) + 0.4,
        base=np.full(rows, 0.4),
        parts=parts,
        errors=np.full_like(parts, 0.01),
        table=parts[:, ~is_photo & ~is_text].sum(1),
        text=parts[:, is_text].sum(1),
        photos=parts[:, is_photo].sum(1),
        interaction=np.zeros(rows),
        exact=False,
        background=8,
        orders=4,
    )


@pytest.mark.parametrize("scale", ["number", "logarithm", "probability"])
@pytest.mark.parametrize(("photos", "texts"), [(0, 0), (1, 0), (4, 0), (0, 2), (1, 3), (2, 1), (0, 4)])
@pytest.mark.parametrize("rows", [1, 40])
def test_a_page_can_be_laid_out_for_every_kind_of_explanation(scale: str, photos: int, texts: int, rows: int) -> None:
    found = explanation(scale=scale, photos=photos, texts=texts, rows=rows)
    page = explain_page(ExplainContent(run_name="run", table_name="t.csv", explanation=found, chosen="by hand"))
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    assert "estimated from 32 orders of the columns" in page
    sides = [side for side, count in (("table", 4 - photos - texts), ("text", texts), ("photos", photos)) if count]
    assert list(found.shares) == sides
    assert sum(share for share, _ in found.shares.values()) == pytest.approx(1)
    assert re.findall(r'<span class="(\w+)" style="(?:width|flex)', page) == (sides if len(sides) > 1 else [])
    assert ("The model uses texts only." in page) == (sides == ["text"])
    assert ("photo" in Page(page).text) == ("photos" in sides)
    assert ("The first 24 of 40 rows are shown" in page) == (rows == 40)


def test_the_view_lists_columns_by_the_size_of_their_parts() -> None:
    found = explanation(scale="number", photos=1, rows=9, columns=30)
    view = explanation_view(model_explanation(found))
    mean, error = found.importance
    assert [column["name"] for column in view["columns"]] == [found.columns[place] for place in np.argsort(-mean)[:20]]
    assert view["left_out"] == 10
    assert view["columns"][0]["width"] <= 100
    np.testing.assert_allclose(mean, np.abs(found.parts).mean(0))
    np.testing.assert_allclose(error, np.abs(found.parts).std(0, ddof=1) / 3)
    share, wrong = found.photo_share
    sizes = np.abs(found.photos), np.abs(found.table)
    assert share == pytest.approx(sizes[0].mean() / (sizes[0].mean() + sizes[1].mean()))
    left_out = [
        np.delete(sizes[0], row).sum() / (np.delete(sizes[0], row).sum() + np.delete(sizes[1], row).sum())
        for row in range(9)
    ]
    assert wrong == pytest.approx(np.sqrt(8 / 9 * ((np.array(left_out) - np.mean(left_out)) ** 2).sum()), rel=0.2)
