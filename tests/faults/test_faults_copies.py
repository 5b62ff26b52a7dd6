"""Fault cases of copies and of data that change, from the command line to the report."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_runs import in_few_folds

from mixfit.cli import main
from mixfit.predictor import Predictor

ROWS = 60
QUICK = (
    "--preset",
    "network",
    "--epochs",
    "1",
    "--tabular",
    "mlp",
    "--tabular-hidden",
    "8",
    "--backbone",
    "small_resnet",
    "--image-size",
    "32",
    "--encoding-dim",
    "8",
)
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in a folder of its own; exit code and all that was printed."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        printed = capsys.readouterr()
        assert "bug of mixfit" not in printed.err
        return int(str(stop.value.code)), printed.out + printed.err

    return command


def table(folder: Path) -> pd.DataFrame:
    """Rows with a photo each: 40 train, 10 choose the epoch, 10 judge."""
    rng = np.random.default_rng(0)
    for row in range(ROWS):
        pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
    split = ["train"] * 40 + ["valid"] * 10 + ["test"] * 10
    numbers = {"area": rng.normal(100, 20, ROWS).round(3), "y": rng.normal(5, 1, ROWS).round(3)}
    return pd.DataFrame({**numbers, "photo": [f"{row}.png" for row in range(ROWS)], "split": split})


def with_copies(folder: Path) -> pd.DataFrame:
    """Rows 3 and 4 equal a test row; row 5 has the photo and target of a validation row."""
    frame = table(folder)
    frame.loc[[3, 4], ["area", "y", "photo"]] = frame.loc[[55, 55], ["area", "y", "photo"]].to_numpy()
    (folder / "5.png").write_bytes((folder / "41.png").read_bytes())
    frame.loc[5, "y"] = frame.loc[41, "y"]
    return frame


def test_f15_copies_across_the_split_are_a_warning_banner_and_dedup_leaves_them_out(run: Run, tmp_path: Path) -> None:
    with_copies(tmp_path).to_csv("t.csv", index=False)
    code, printed = run("train", "t.csv", "--target", "y", *QUICK)
    assert code == 0, printed
    warnings = (
        "2 rows are copies of earlier rows, the first is row 4, of row 3; 1 of the copied rows are on two sides",
        "2 photos are used (equal bytes) by 5 rows, the first by rows 3 and 4; 2 of these photos are on two sides",
    )
    report = Path("runs/t-y-001/report.html").read_text()
    for warning in warnings:
        assert f" warning: {warning}" in printed
        assert warning in report
    assert "40 train / 10 valid / 10 test" in printed

    code, printed = run("train", "t.csv", "--target", "y", "--dedup", *QUICK)
    assert code == 0, printed
    assert "37 train / 10 valid / 10 test" in printed
    assert " training and validation rows are copies of held-back rows: left out" in printed
    assert "on two sides" not in printed + Path("runs/t-y-002/report.html").read_text()
    bad = pd.read_csv("runs/t-y-002/bad_inputs.csv")
    assert bad[["row", "problem"]].to_numpy().tolist() == [
        [3, "equals row 55, which is in test"],
        [4, "equals row 55, which is in test"],
        [5, "has a photo of row 41, which is in valid"],
    ]
    means = [Predictor.load(f"runs/t-y-00{number}/model").preprocessor.columns[0].scale.mean for number in (1, 2)]
    area = pd.read_csv("t.csv")["area"][:40]
    assert means == pytest.approx([area.mean(), area.drop(index=[3, 4, 5]).mean()])
    for name, rows in (("train", 37), ("test", 10)):
        code, printed = run("evaluate", "runs/t-y-002", "t.csv", "--split", name)
        assert f"{name} rows: {rows}" in printed
        assert printed.count("warning") == (name == "train"), "only that these rows were trained on"


def test_f17_ids_on_two_sides_of_a_drawn_split_are_a_warning_of_training_too(run: Run, tmp_path: Path) -> None:
    frame = table(tmp_path).drop(columns=["split", "photo"]).assign(house_id=np.arange(ROWS) // 3 + 500)
    frame.to_csv("t.csv", index=False)
    code, printed = run("train", "t.csv", "--target", "y", "--set", "house_id=ignored", *QUICK)
    assert code == 0, printed
    warning = "ids are on two sides of the split, the first is"
    assert warning in printed
    assert warning in Path("runs/t-y-001/report.html").read_text()
    _, printed = run("train", "t.csv", "--target", "y", *QUICK)
    assert warning not in printed  # an id that repeats is a group by itself


def test_f27_data_that_change_after_inspect_and_after_training_are_told(run: Run, tmp_path: Path) -> None:
    table(tmp_path).to_csv("t.csv", index=False)
    code, printed = run("inspect", "t.csv", "--target", "y", "--json", "--out", "seen")
    assert code == 0, printed
    seen = json.loads(printed)["fingerprint"]
    assert json.loads(Path("seen/fingerprint.json").read_text()) == seen
    assert seen["photos"] == ROWS
    assert seen["photo_bytes"] == sum(path.stat().st_size for path in tmp_path.glob("*.png"))

    train = ("train", "t.csv", "--target", "y", "--schema", "seen/schema.json", *QUICK)
    code, printed = run(*train)
    assert code == 0, printed
    assert "warning" not in printed
    kept = json.loads(Path("runs/t-y-001/environment.json").read_text())
    assert {name: kept[name] for name in seen} == seen

    Path("7.png").unlink()
    Path("8.png").write_bytes(b"no photo any more")
    code, printed = run(*train)
    assert code == 0, printed
    warning = (
        f"the photos have changed since the inspection: 60 files with {seen['photo_bytes']:,} bytes then, 59 files with"
    )
    assert warning in printed
    assert warning in Path("runs/t-y-002/report.html").read_text()
    assert pd.read_csv("runs/t-y-002/bad_inputs.csv")["row"].tolist() == [7, 8]
    assert "2 x photo treated as missing" in printed

    _, printed = run("evaluate", "runs/t-y-001", "t.csv", "--split", "test")
    assert "warning: the photos have changed since training: 60 files with" in printed
    _, printed = run("evaluate", "runs/t-y-002", "t.csv", "--split", "test")
    assert "warning" not in printed


def test_f27_a_photo_of_the_same_size_and_a_table_of_other_bytes_are_changes(run: Run, tmp_path: Path) -> None:
    table(tmp_path).to_csv("t.csv", index=False)
    assert run("train", "t.csv", "--target", "y", *QUICK)[0] == 0
    found = Path("9.png").stat()
    os.utime("9.png", ns=(found.st_atime_ns, found.st_mtime_ns + 1_000_000_000))
    _, printed = run("evaluate", "runs/t-y-001", "t.csv", "--split", "valid")
    assert "warning: photos may have changed since training: 60 files with" in printed
    assert "bytes, as then, but single sizes or times of change differ" in printed
    Path("u.csv").write_text(Path("t.csv").read_text() + "100.0,5.0,3.png,test\n")
    _, printed = run("evaluate", "runs/t-y-001", "u.csv", "--split", "test")
    assert "warning: the table has changed since training: its bytes differ" in printed
    _, printed = run("evaluate", "runs/t-y-001", "u.csv")
    assert printed.count("warning") == 1, "another table is scored whole, which is no mistake"
    assert "warning: 50 of 61 rows are training rows of this run" in printed


@pytest.mark.parametrize("given", [True, False], ids=["given split", "drawn split"])
def test_photos_that_were_not_looked_at_for_copies_are_warned_of_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, given: bool
) -> None:
    monkeypatch.setattr("mixfit.data.checks.photos._MOST_DECODED", 40)
    frame = table(tmp_path)
    (frame if given else frame.drop(columns="split")).to_csv("t.csv", index=False)
    told = (
        "nearly equal photos were looked for among 40 of 60 photos, to save time: copies among the others may be on two"
    )
    code, printed = run("inspect", "t.csv", "--target", "y")
    assert code == 0
    assert " ".join(printed.split()).count(f"warning: {told}") == 1
    if not given:
        in_few_folds(monkeypatch)
        small = ("--preset", "quick", "--image-size", "32", "--epochs", "1", "--tabular", "mlp")
        code, printed = run("train", "t.csv", "--target", "y", *small)
        assert code == 0
        assert " ".join(printed.split()).count(told) == 1
