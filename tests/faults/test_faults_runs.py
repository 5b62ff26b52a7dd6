"""Fault cases of tables from the command line to the run folder: exit codes, files, reports and new predictions."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import QUICK, Page, mixfit

from mixfit.cli import main

ROWS = 80
SCRIPT, IMAGE = "<script>alert(1)</script>", '<img src=x onerror="alert(1)">&'
TARGET = "<b>y</b>"


def messy_table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    area = rng.normal(100, 20, ROWS).round(3)
    frame = pd.DataFrame(
        {
            "area": area.astype(str),
            "size": rng.integers(10, 20, ROWS).astype(str),
            SCRIPT: rng.normal(size=ROWS).round(3),
            IMAGE: rng.choice(["Köln", "Rome", "Oslo"], ROWS),
            "same": "x",
            "none": "",
            "row_id": np.arange(ROWS) + 7,
            TARGET: (area * 3 + rng.normal(0, 9, ROWS)).round(3).astype(str),
        }
    )
    frame.loc[[3, 4, 5], "area"] = ["inf", "1e400", "NaN"]
    frame.loc[[8, 9], "size"] = ["12 sqft", "n/a"]
    frame.loc[[20, 21, 22], TARGET] = ["", "inf", "nan"]
    return frame


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a table full of faults, what ``inspect`` and ``train`` made of it, and what they printed."""
    folder = tmp_path_factory.mktemp("messy")
    before = Path.cwd()
    os.chdir(folder)
    try:
        messy_table().to_csv("t.csv", sep=";", index=False, encoding="cp1252")
        for name, command in (
            ("inspect", ("inspect", "t.csv", "--target", TARGET, "--out", "seen")),
            ("train", ("train", "t.csv", "--target", TARGET, "--set", "size=number", *QUICK)),
        ):
            with Path(f"{name}.txt").open("w") as file, redirect_stdout(file), pytest.raises(SystemExit) as stop:
                main(list(command))
            assert stop.value.code == 0, Path(f"{name}.txt").read_text()
        yield folder
    finally:
        os.chdir(before)


def run_of(folder: Path) -> Path:
    (run,) = (folder / "runs").iterdir()
    return run


# 1 and 2: tables that are no tables


@pytest.mark.parametrize("command", ["inspect", "train"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "t.csv is empty; a header and at least 1 data row are needed"),
        ("a,y\n", "t.csv has a header but no data rows; at least 1 is needed"),
        ("a,y\n1,2\n", "t.csv has 1 data row; at least 10 are needed for training and evaluation"),
    ],
    ids=["empty", "header only", "one row"],
)
def test_f01_the_message_names_the_file_and_the_rows_needed(
    command: str,
    content: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(content)
    code, printed = mixfit(capsys, command, "t.csv", "--target", "y")
    assert (code, printed) == (3, f"mixfit: {message}.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_f01_a_few_rows_are_inspected_but_not_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,y\n" + "".join(f"{i % 3},{i / 4}\n" for i in range(9)))
    code, printed = mixfit(capsys, "train", "t.csv", "--target", "y")
    assert (code, printed) == (
        3,
        "mixfit: t.csv has 9 data rows; at least 10 are needed for training and evaluation.\n",
    )
    code, printed = mixfit(capsys, "inspect", "t.csv", "--target", "y")
    assert code == 3
    assert "error: the table has 9 usable rows; at least 10 are needed for training and evaluation." in printed


def test_f02_ragged_rows_end_every_command_with_3(messy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("ragged.csv").write_text("a,y\n" + "1,2\n" * 20 + "1,2,3\n" * 6 + "1\n")
    for command in (
        ("inspect", "ragged.csv", "--target", "y"),
        ("train", "ragged.csv", "--target", "y"),
        ("evaluate", run_of(messy), "ragged.csv"),
        ("predict", run_of(messy), "ragged.csv", "-o", "no.csv"),
    ):
        code, printed = mixfit(capsys, *command)
        assert code == 3
        assert "7 of 27 rows do not have 2 cells like the header: line 22 has 3, line 23 has 3, line 24" in printed
        assert "line 26 has 3, ..." in printed
        assert not Path("no.csv").exists()


# 3 and 4: how the table is written


def test_f03_a_guessed_encoding_is_a_warning_of_inspect_train_and_report(messy: Path) -> None:
    warning = "the encoding cp1252 is a guess; see --encoding"
    for printed in ("inspect.txt", "train.txt"):
        assert f" warning: {warning}\n" in Path(printed).read_text()
    for page in (messy / "seen" / "inspect.html", run_of(messy) / "report.html"):
        assert warning in Page(page).text


def test_f04_commas_that_may_be_decimal_or_thousands_are_a_warning_with_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{1 + i % 9},{100 + i};{i % 7};{i * i % 61}" for i in range(60)]
    Path("t.csv").write_text("\n".join(["a;b;y", *rows]))
    doubt = "the first is 'a' with cells like '1,100'"
    for command in (("inspect", "t.csv", "--target", "y"), ("train", "t.csv", "--target", "y")):
        _, printed = mixfit(capsys, *command, *(QUICK if command[0] == "train" else ()))
        (warning,) = (line for line in printed.splitlines() if line.startswith(" warning: ") and "--decimal" in line)
        assert doubt in warning
    assert doubt in Page(Path("runs/t-y-001/report.html")).text
    _, printed = mixfit(capsys, "inspect", "t.csv", "--target", "y", "--decimal", ",")
    assert "utf-8, semicolon, decimal comma" in printed
    assert "--decimal" not in printed


# 5: names of columns


def test_f05_markup_in_names_and_levels_is_text_on_both_pages(messy: Path) -> None:
    for path in (messy / "seen" / "inspect.html", run_of(messy) / "report.html"):
        page = Page(path)
        assert page.tags.isdisjoint({"script", "img", "b"}), path
        for name in (SCRIPT, IMAGE, TARGET):
            assert name in page.text, (path, name)
        source = path.read_text(encoding="utf-8")
        assert "<script" not in source
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in source
    assert re.fullmatch(r"[\w-]+", run_of(messy).name)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("a,a,y", "1 column names occur more than once, the first is 'a'; rename these columns"),
        ("a,,y", "1 of 3 columns have no name, the first is column 2; name them in the header"),
        ("a," + "x" * 10_240 + ",y", "1 column names have more than 200 characters, the first begins with 'xxx"),
    ],
    ids=["duplicate", "empty", "10 kB"],
)
def test_f05_names_that_are_refused_end_every_command_with_3(
    header: str, message: str, messy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("names.csv").write_text(header + "\n" + "1,2,3\n" * 30)
    for command in (
        ("inspect", "names.csv", "--target", "y"),
        ("train", "names.csv", "--target", "y"),
        ("predict", run_of(messy), "names.csv", "-o", "no.csv"),
    ):
        code, printed = mixfit(capsys, *command)
        assert code == 3
        assert message in printed
        assert len(printed) < 500


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_f05_names_of_typed_tables_are_refused_too(kind: str, messy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"a": range(30), "x" * 10_240: range(30), "y": range(30)})
    empty = frame.set_axis(["a", "", "y"], axis=1)
    for table, message in ((frame, "more than 200 characters"), (empty, "have no name, the first is column 2")):
        path = Path(f"names.{kind}")
        table.to_parquet(path) if kind == "parquet" else table.to_json(path, orient="records", lines=True)
        code, printed = mixfit(capsys, "inspect", path, "--target", "y")
        assert code == 3
        assert message in printed


# 6 to 9: cells that are not what they should be


def test_f06_text_among_numbers_is_a_category_until_it_is_set(messy: Path) -> None:
    columns = {column["name"]: column for column in json.loads((messy / "seen/schema.json").read_text())["columns"]}
    assert columns["size"]["role"] == "category"
    assert "1 of 80 cells are not numbers: --set size=number treats them as missing" in columns["size"]["note"]
    set_by_hand = json.loads((run_of(messy) / "schema.json").read_text())["columns"][1]
    assert (set_by_hand["role"], set_by_hand["missing"]) == ("number", 1)
    assert set_by_hand["note"] == "1 of 80 cells are not numbers, treated as missing, such as '12 sqft'"


def test_f06_f07_f08_every_repaired_cell_and_lost_row_is_counted_in_the_report(messy: Path) -> None:
    run = run_of(messy)
    bad = pd.read_csv(run / "bad_inputs.csv", keep_default_na=False)
    assert {tuple(record) for record in bad[["row", "column", "problem", "action"]].to_numpy().tolist()} == {
        (3, "area", "infinite", "cell treated as missing"),
        (4, "area", "infinite", "cell treated as missing"),
        (8, "size", "not a number", "cell treated as missing"),
        (20, TARGET, "target is missing", "row left out"),
        (21, TARGET, "target is infinite", "row left out"),
        (22, TARGET, "target is missing", "row left out"),
    }
    text = Page(run / "report.html").text
    assert "6 problems in 6 rows" in text
    for words in ("infinite", "not a number", "target is infinite", "row left out"):
        assert words in text
    printed = Path("train.txt").read_text()
    assert (
        "3 x row left out, 3 x cell treated as missing" in printed or "3 x cell treated as missing, 3 x row" in printed
    )


def test_f07_losses_and_predictions_are_finite(messy: Path) -> None:
    run = run_of(messy)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    records = [line for line in lines if "epoch" in line]
    assert len(records) == 2
    for record in records:
        assert np.isfinite([record["train_loss"], record["valid_loss"]]).all()
    assert np.isfinite(pd.read_parquet(run / "predictions_valid.parquet")[["truth", "prediction"]]).all().all()


def test_f08_too_many_rows_without_target_end_with_3_and_the_flag_that_leaves_them_out(
    messy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = messy_table()
    frame.loc[30, TARGET] = "-inf"
    frame.loc[31, TARGET] = "soon"
    frame.to_csv("five.csv", index=False)
    for command in ("inspect", "train"):
        code, printed = mixfit(capsys, command, "five.csv", "--target", TARGET, "--out", f"five-{command}")
        assert code == 3
        assert f"5 of 80 cells of the target '{TARGET}' are not a number, the first in row 20" in printed
        assert "--max-missing-target 0.07 leaves those rows out" in printed
    allowed = ("--max-missing-target", "0.07", "--out", "allowed")
    assert mixfit(capsys, "inspect", "five.csv", "--target", TARGET, *allowed)[0] == 0


def predicted(capsys: pytest.CaptureFixture[str], run: Path, table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """What ``mixfit predict`` writes for a table, and prints."""
    table.to_csv("new.csv", index=False)
    code, printed = mixfit(capsys, "predict", run, "new.csv", "-o", "out.csv")
    assert code == 0, printed
    return pd.read_csv("out.csv", keep_default_na=False), printed


def test_f09_columns_that_told_nothing_never_change_a_prediction(
    messy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, frame = run_of(messy), messy_table()
    reasons = {c["name"]: c["reason"] for c in json.loads((run / "schema.json").read_text())["columns"]}
    assert reasons["same"] == "one value only, 'x'"
    assert reasons["none"] == "no values at all"
    assert reasons["row_id"] == "unique integer, name ends in _id"
    first, _ = predicted(capsys, run, frame)
    changed, _ = predicted(capsys, run, frame.assign(same=np.arange(ROWS), none="full", row_id="?"))
    assert changed["prediction"].tolist() == first["prediction"].tolist()
    assert changed["status"].tolist() == first["status"].tolist()


# 11: columns of new tables


def test_f11_order_and_extra_columns_do_not_matter(messy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, frame = run_of(messy), messy_table()
    first, _ = predicted(capsys, run, frame)
    for seed in range(2):
        columns = np.random.default_rng(seed).permutation(frame.columns)
        other = frame[columns].assign(extra=np.arange(ROWS)).drop(columns=[TARGET, "same", "row_id"])
        found, _ = predicted(capsys, run, other)
        assert found["prediction"].tolist() == first["prediction"].tolist()
        assert found["status"].tolist() == first["status"].tolist()
        assert list(found.columns[: len(other.columns)]) == list(other.columns)


def test_f11_a_missing_column_ends_with_3_and_names_the_close_one(
    messy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messy_table().rename(columns={"area": "aera"}).to_csv("new.csv", index=False)
    for command in (("predict", run_of(messy), "new.csv", "-o", "no.csv"), ("evaluate", run_of(messy), "new.csv")):
        code, printed = mixfit(capsys, *command)
        assert code == 3
        assert printed.startswith(
            "mixfit: the table has no column 'area', which the model needs. It has a column 'aera': if that is the "
            "same, rename it to 'area'."
        )
    messy_table().drop(columns=["area", "size"]).to_csv("new.csv", index=False)
    code, printed = mixfit(capsys, "predict", run_of(messy), "new.csv", "-o", "no.csv")
    assert code == 3
    assert "the table has no columns 'area', 'size', which the model needs" in printed
    assert not Path("no.csv").exists()


def test_f11_unseen_categories_are_counted_and_named_in_their_row(
    messy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = messy_table()
    frame.loc[[10, 11], IMAGE] = ["Paris", "Lima"]
    found, printed = predicted(capsys, run_of(messy), frame)
    assert "2 x treated as unknown" in printed
    unknown = found["status"].str.contains("category not seen in training")
    assert np.flatnonzero(unknown).tolist() == [10, 11]
    assert np.isfinite(found["prediction"]).all()
    assert found["prediction"][10] != predicted(capsys, run_of(messy), messy_table())[0]["prediction"][10]
