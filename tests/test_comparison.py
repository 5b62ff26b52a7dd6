"""``mixfit compare`` and ``evaluate --by``, end to end on small runs."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
from faults.command_line import Page, mixfit
from quick_runs import QUICK_DATA, QUICK_MODEL, QUICK_TRAIN
from rich.console import Console

from mixfit.auto.recipe import Run, fit
from mixfit.choices import Role
from mixfit.data.columns.schema import Column, Schema
from mixfit.data.fingerprint import Fingerprint
from mixfit.data.table.read import read_table
from mixfit.errors import ConfigError, DataError, ResourceError
from mixfit.files import SUMS, unseal
from mixfit.runs.comparison import compare_runs, differing_settings, run_names, unique_names
from mixfit.runs.folder import settings_toml
from mixfit.runs.scoring import load_run, run_config, split_of_run

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def other_run(demo_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like the quick run, but with one epoch."""
    run = fit(
        demo_table,
        target="price",
        data=QUICK_DATA,
        model=QUICK_MODEL,
        train=replace(QUICK_TRAIN, epochs=1, lr=1e-4),
        out=tmp_path_factory.mktemp("others"),
        console=QUIET,
    )
    return run.folder


@pytest.fixture
def pair(quick_run: Run, other_run: Path, tmp_path: Path) -> list[Path]:
    """Copies of two runs that a test may change, without saved predictions of the test rows."""
    folders = []
    for name, folder in (("first-001", quick_run.folder), ("second-001", other_run)):
        copy = Path(shutil.copytree(folder, tmp_path / name, ignore=shutil.ignore_patterns("checkpoints")))
        (copy / "predictions_test.parquet").unlink(missing_ok=True)
        folders.append(copy)
    return folders


def test_rows(run: Path, demo_table: Path) -> np.ndarray:
    frame, schema = read_table(demo_table), load_run(run).schema
    return split_of_run(run, frame, schema, np.ones(len(frame), dtype=bool)).test


test_rows.__test__ = False  # type: ignore[attr-defined]


def keep_predictions(run: Path, rows: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> None:
    frame = pd.DataFrame({"row": rows, "truth": truth, "prediction": prediction})
    (run / SUMS).unlink(missing_ok=True)
    frame.to_parquet(run / "predictions_test.parquet")


def test_two_runs_are_compared_on_the_command_line(
    pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed = mixfit(capsys, "compare", *pair)
    assert code == 0, printed
    assert "test rows common to all runs" in printed
    assert re.search(r"train\.epochs +3 \| 1\n", printed)
    assert re.search(r"train\.lr +\S+ \| 0\.0001\n", printed)
    assert re.search(r"second-001 is (worse|better|behind|ahead|level)", printed)
    page = Page(tmp_path / "compare.html")
    assert "2 runs compared" in page.text
    assert "second-001" in page.text
    assert str(tmp_path) not in (tmp_path / "compare.html").read_text()
    code, printed = mixfit(capsys, "compare", *pair, "--json", "--out", "b.html")
    assert code == 0
    found = json.loads(printed)
    assert [run["run"] for run in found["runs"]] == ["first-001", "second-001"]
    assert found["settings"]["train.epochs"] == ["3", "1"]
    assert str(tmp_path) not in printed
    assert (tmp_path / "b.html").is_file()


def test_a_run_does_not_differ_from_itself(pair: list[Path], tmp_path: Path) -> None:
    found = compare_runs([pair[0], pair[0]], out=tmp_path / "c.html", console=QUIET)
    assert {one.finding for one in found.scores.differences} == {"equal"}
    assert {(one.value, one.low, one.high) for one in found.scores.differences} == {(0.0, 0.0, 0.0)}
    assert [one.model for one in found.scores.scores] == ["first-001", "first-001 (2)"]
    assert found.settings == {}
    assert "All settings are the same." in (tmp_path / "c.html").read_text()


def test_scores_are_those_of_the_run_itself(pair: list[Path], quick_run: Run, tmp_path: Path) -> None:
    found = compare_runs(pair, out=tmp_path / "c.html", console=QUIET)
    ours = quick_run.scores["test"]["mixfit, table and photos"]
    assert found.scores.scores[0].metrics == pytest.approx(ours, rel=1e-5)


def test_saved_predictions_are_used_and_need_no_table(
    pair: list[Path], demo_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = compare_runs(pair, out=tmp_path / "c.html", console=QUIET)
    frame = read_table(demo_table)
    for run in pair:
        rows = test_rows(run, demo_table)
        predicted = load_run(run).predict(frame.iloc[rows], images=demo_table.parent)["prediction"]
        keep_predictions(run, rows, frame["price"].iloc[rows].to_numpy(dtype=float), predicted.to_numpy())
    monkeypatch.setattr("mixfit.runs.comparison.read_table_of_run", pytest.fail)
    saved = compare_runs(pair, out=tmp_path / "c.html", console=QUIET)
    for one, other in zip(again.scores.scores, saved.scores.scores, strict=True):
        assert one.metrics == pytest.approx(other.metrics)


def test_only_rows_that_all_runs_held_back_are_used(pair: list[Path], tmp_path: Path) -> None:
    truth = np.arange(1.0, 91.0)
    first, second = np.arange(10, 40), np.arange(20, 60)[::-1]
    keep_predictions(pair[0], first, truth[first], truth[first] + np.where(first < 20, 1000.0, 1.0))
    keep_predictions(pair[1], second, truth[second], truth[second] + np.where(second >= 40, 1000.0, 2.0))
    found = compare_runs(pair, out=tmp_path / "c.html", console=QUIET)
    assert found.scores.rows == 20
    assert [one.metrics["mae"] for one in found.scores.scores] == pytest.approx([1.0, 2.0])
    assert found.test_rows == {"first-001": 30, "second-001": 40}
    assert "only 20 of up to 40 test rows are common to all" in found.warnings[0]


def grouped(run: Path, name: str) -> None:
    """Make a column the group of the rows in what the run knows of its table."""

    def change(state: dict[str, Any]) -> None:
        next(one for one in state["schema"]["columns"] if one["name"] == name)["role"] = "group"

    edit_json(run / "model" / "mixfit.json", change)


def noisy_predictions(pair: list[Path]) -> np.ndarray:
    """Saved predictions of the same 60 rows that differ in error; returns these rows."""
    rows, random = np.arange(10, 70), np.random.default_rng(0)
    for number, run in enumerate(pair):
        truth = 100.0 + rows
        keep_predictions(run, rows, truth, truth + random.normal(scale=3 + number, size=60))
    return rows


@pytest.mark.parametrize("knows", [pytest.param(0, marks=pytest.mark.long), 1])
def test_rows_belong_together_if_any_run_was_told_so(
    pair: list[Path], demo_table: Path, tmp_path: Path, knows: int
) -> None:
    rows = noisy_predictions(pair)
    alone = compare_runs(pair, out=tmp_path / "c.html", console=QUIET).scores
    frame = read_table(demo_table)
    # A table of three rows for each of a column's values: the bytes of the table are part of what a run knows.
    frame["vase_id"] = [f"V{number // 3}" for number in range(len(frame))]
    table = tmp_path / "triples.csv"
    frame.to_csv(table, index=False)
    for run in pair:
        sha = Fingerprint.of(table, None).table_sha256
        edit_json(run / "environment.json", lambda state, sha=sha: state.update(table_sha256=sha))
    grouped(pair[knows], "vase_id")
    there = compare_runs(pair, table=table, out=tmp_path / "c.html", console=QUIET).scores
    back = compare_runs(pair[::-1], table=table, out=tmp_path / "c.html", console=QUIET).scores
    assert alone.drawn == 60
    assert there.drawn == back.drawn == frame["vase_id"].iloc[rows].nunique()
    for one, other in zip(there.differences, back.differences, strict=True):
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert there.scores == back.scores[::-1]


def test_saved_groups_need_no_table_and_few_of_them_are_warned_of(pair: list[Path], tmp_path: Path) -> None:
    rows = noisy_predictions(pair)
    for run in pair:
        grouped(run, "vase_id")
        (run / "config.toml").write_text(tomli_w.dumps({**run_config(run), "table": "gone.csv"}))
    with pytest.raises(ConfigError, match=r"first-001 is not at gone\.csv"):
        compare_runs(pair, out=tmp_path / "c.html", console=QUIET)
    for count, warning in (
        (20, []),
        (12, ["60 rows in 12 groups are too few to tell models apart, unless the differences are large."]),
        (3, ["60 rows in 3 groups are too few to tell models apart."]),
    ):
        for run in pair:
            path = run / "predictions_test.parquet"
            pd.read_parquet(path).assign(group=rows % count).to_parquet(path)
        found = compare_runs(pair, out=tmp_path / "c.html", console=QUIET)
        assert found.scores.drawn == count
        assert list(found.warnings) == warning
    assert {one.finding for one in found.scores.differences} == {"unknown"}


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    state = json.loads(path.read_text())
    change(state)
    state.pop("description_sha256", None)
    (path.parent / SUMS).unlink(missing_ok=True)
    path.write_text(json.dumps(state))


def no_common_row(run: Path) -> None:
    other = run.parent / "first-001"
    keep_predictions(other, np.arange(5), np.ones(5), np.ones(5))
    keep_predictions(run, np.arange(5, 10), np.ones(5), np.ones(5))


def other_target(run: Path) -> None:
    def change(state: dict[str, Any]) -> None:
        column = next(one for one in state["schema"]["columns"] if one["role"] == "target")
        column["name"] = "worth"

    edit_json(run / "model" / "mixfit.json", change)


def other_task(run: Path) -> None:
    edit_json(run / "model" / "mixfit.json", lambda state: state["schema"].update(task="binary"))


REFUSALS = {
    "another table": (
        lambda run: edit_json(run / "environment.json", lambda state: state.update(table_sha256="0" * 64)),
        r"second-001 and .*first-001 were trained on different tables: compare runs of the same table\.",
    ),
    "another target": (
        other_target,
        r"has the target 'worth', but .* has 'price': compare runs with the same target\.",
    ),
    "another task": (other_task, "the task does not match the target"),
    "no common row": (
        no_common_row,
        r"The runs have no test row in common \(test rows: 5 of first-001, 5 of second-001\).*the same --seed",
    ),
    "no environment": (lambda run: (run / "environment.json").unlink(), "does not name the table of the run"),
    "no settings": (lambda run: (run / "config.toml").unlink(), "is not a run folder: it has no config.toml"),
    "damaged settings": (
        lambda run: (run / "config.toml").write_text("[data\n"),
        r"second-001/config\.toml is damaged: ",
    ),
    "a table that is gone": (
        lambda run: (run / "config.toml").write_text(tomli_w.dumps({**run_config(run), "table": "gone.csv"})),
        r"second-001 is not at gone\.csv: give its path with --table\.",
    ),
    "damaged predictions": (
        lambda run: (run / "predictions_test.parquet").write_bytes(b"PAR1"),
        r"predictions_test\.parquet is empty, damaged or not a parquet file",
    ),
    "predictions of something else": (
        lambda run: pd.DataFrame({"a": [1]}).to_parquet(run / "predictions_test.parquet"),
        r"predictions_test\.parquet is not what was written: it has no column 'row'\. Remove it to recompute",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_runs_that_cannot_be_compared_are_refused_in_one_sentence(pair: list[Path], tmp_path: Path, name: str) -> None:
    spoil, message = REFUSALS[name]
    for run in pair:
        unseal(run)
    spoil(pair[1])
    with pytest.raises((ConfigError, DataError), match=message):
        compare_runs(pair, out=tmp_path / "c.html", console=QUIET)
    assert not (tmp_path / "c.html").exists()


def test_one_run_alone_a_changed_table_and_a_page_that_cannot_be_written_are_refused(
    pair: list[Path], demo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = mixfit(capsys, "compare", pair[0])
    assert (code, printed) == (2, "mixfit: compare needs at least two runs, got 1: mixfit compare RUN RUN\n")
    changed = tmp_path / "changed.csv"
    changed.write_text(demo_table.read_text() + "\n")
    with pytest.raises(DataError, match=r"is not the table that .* was trained on: the contents differ"):
        compare_runs(pair, table=changed, out=tmp_path / "c.html", console=QUIET)
    with pytest.raises(ResourceError, match="cannot be written"):
        compare_runs(pair, out=tmp_path / "none" / "c.html", console=QUIET)
    with pytest.raises(ConfigError, match="does not exist"):
        compare_runs([pair[0], tmp_path / "none"], console=QUIET)


def test_settings_that_differ_are_told_without_places(tmp_path: Path) -> None:
    folders = []
    for number, images in enumerate((Path("/home/someone/photos"), Path("/srv/photos"))):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        data = replace(QUICK_DATA, images=images, cache=images, roles={"maker": "category"} if number else {})
        model = replace(QUICK_MODEL, backbone_weights=Path(f"/home/someone/w{number}.safetensors"))
        (folder / "config.toml").write_text(settings_toml(images / "t.csv", "y", data, model, QUICK_TRAIN))
        role: Role = "category" if number else "number"
        columns = tuple(
            Column(name=name, role=used, reason="", missing=0) for name, used in (("maker", role), ("y", "target"))
        )
        Schema(columns=columns, task="regression", task_reason="", rows=9).save(folder / "schema.json")
        folders.append(folder)
    assert differing_settings(folders) == {
        "data.roles.maker": ("", "category"),
        "model.backbone_weights": ("w0.safetensors", "w1.safetensors"),
        "role of maker": ("number", "category"),
    }


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    here, there, deep = tmp_path / "here", tmp_path / "there", tmp_path / "there" / "here"
    assert run_names([here / "x-001", there / "x-001", here / "y-001"]) == ["here/x-001", "there/x-001", "y-001"]
    assert run_names([here / "x-001", deep / "x-001"]) == [f"{tmp_path.name}/here/x-001", "there/here/x-001"]
    assert run_names([here / "x-001", here / "x-001"]) == ["x-001", "x-001 (2)"]


def test_names_are_made_unique() -> None:
    assert unique_names(["a", "a (2)", "a", "a"]) == ["a", "a (2)", "a (3)", "a (4)"]


def test_evaluate_by_columns(
    quick_run: Run, demo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.json"
    arguments = ("evaluate", quick_run.folder, demo_table, "--split", "all", "--out", out, "--cache-gb", 0)
    code, printed = mixfit(capsys, *arguments, "--by", "maker", "--by", "photos", "--by", "listed_on")
    assert code == 0, printed
    assert "by maker, worst first by MAPE" in printed
    assert "without a photo" in printed
    found = json.loads(out.read_text())
    assert list(found["by"]) == ["maker", "photos", "listed_on"]
    frame = read_table(demo_table)
    assert {one["value"]: one["rows"] for one in found["by"]["maker"]["groups"]} == dict(frame["maker"].value_counts())
    for table in found["by"].values():
        rows = np.array([one["rows"] for one in table["groups"]])
        values = np.array([one["mape"] for one in table["groups"]])
        assert rows.sum() == found["rows"]
        assert (rows * values).sum() / rows.sum() == pytest.approx(found["mape"])
        assert all(one["small"] == (one["rows"] < 20) and not (one["small"] and one["weak"]) for one in table["groups"])
    code, printed = mixfit(capsys, *arguments, "--by", "makr")
    assert code == 2
    assert printed.startswith("mixfit: no column 'makr'. Did you mean 'maker'? columns: vase_id, maker")
