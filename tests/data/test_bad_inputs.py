"""The list of bad inputs as a file."""

from pathlib import Path

import pandas as pd
import pytest

from mixfit.data.bad_inputs import BadInput, write_bad_inputs
from mixfit.errors import ResourceError

COLUMNS = ["row", "column", "value", "problem", "action"]


def record(value: str) -> BadInput:
    return BadInput(row=3, column="area", value=value, problem="not a number", action="cell treated as missing")


def test_no_records_give_a_header_alone(tmp_path: Path) -> None:
    write_bad_inputs([], tmp_path / "bad.csv")
    assert (tmp_path / "bad.csv").read_text() == ",".join(COLUMNS) + "\n"


def test_f44_a_bad_cell_that_is_a_formula_is_made_harmless(tmp_path: Path) -> None:
    write_bad_inputs([record('=HYPERLINK("http://x","y")'), record("@SUM(A1)"), record("-5")], tmp_path / "bad.csv")
    written = pd.read_csv(tmp_path / "bad.csv", dtype="str")
    assert list(written.columns) == COLUMNS
    assert written["value"].tolist() == ['\'=HYPERLINK("http://x","y")', "'@SUM(A1)", "-5"]


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"the folder .* does not exist"):
        write_bad_inputs([], tmp_path / "none" / "bad.csv")
