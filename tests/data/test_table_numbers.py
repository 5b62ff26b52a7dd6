from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.data.columns.cells import Table
from mixfit.data.columns.form import Form, TextForm
from mixfit.data.columns.values import to_numbers
from mixfit.data.table.read import TableFormat, detect_format, read_table, settled

Write = Callable[[str | bytes], Path]
Cells = list[list[str | None]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_text(content: str | bytes) -> Path:
        path = tmp_path / "t.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_text


def cells(frame: pd.DataFrame) -> Cells:
    return [[None if pd.isna(cell) else cell for cell in row] for row in frame.to_numpy(dtype=object).tolist()]


def styled(columns: dict[str, list[str | None]], separator: str, decimal: str | None = None) -> tuple[str, str, bool]:
    """What a column "x" is read as, text where most is no number; the style in short; and whether there is a note."""
    frame = pd.DataFrame({name: pd.Series(column, dtype="str") for name, column in columns.items()})
    table = Table(frame, TextForm(separator=separator, decimal=decimal))
    found = settled(TableFormat(kind="csv", encoding=None, separator=separator, decimal=decimal), table)
    numbers = table["x"].numbers
    as_text = numbers.unparsable.sum() > (~np.isnan(numbers.values)).sum()
    shown = [
        str(cell) if as_text or cell is None or np.isnan(value) else f"{value:.10g}"
        for cell, value in zip(columns["x"], numbers.values, strict=True)
    ]
    return " ".join(shown), f"{found.decimal}{found.thousands or ''}", bool(found.notes)


@pytest.mark.parametrize(
    ("x", "separator", "expected"),
    [
        # In a table separated by commas, a comma in a number parts thousands.
        (["1,234", "12", "-1,234,567.5"], ",", ("1234 12 -1234567.5", ".,", False)),
        (["1,234", "12.5"], ",", ("1234 12.5", ".,", False)),
        (["1,234", "1,23"], ",", ("1.234 1.23", ".", False)),
        (["1,5", "2,25"], ",", ("1.5 2.25", ".", False)),
        (["1,234", "x"], ",", ("1234 x", ".", False)),
        (["1.234.567", "1.234"], ",", ("1.234.567 1.234", ".", False)),
        # In the others a column must speak for one of the two.
        (["12,5", "7", None], ";", ("12.5 7 None", ",", False)),
        (["1,5e-05", "-0,125"], ";", ("1.5e-05 -0.125", ",", False)),
        (["12,5", "n/a", "-", "."], ";", ("12.5 n/a - .", ",", False)),
        (["1.234,5", "1.234"], "\t", ("1234.5 1234", ",.", False)),
        (["1.234.567", "1"], "|", ("1234567 1", ",.", False)),
        (["1,234.5", "1,234"], ";", ("1234.5 1234", ".,", False)),
        (["1,234", "2,345"], ";", ("1,234 2,345", ".", True)),
        (["1.234", "2.345"], ";", ("1.234 2.345", ".", False)),
        (["0.5", "12.25"], ";", ("0.5 12.25", ".", False)),
        (["007", "7"], ";", ("7 7", ".", False)),
        (["12,5", "12,5 m", "3 m"], ";", ("12.5 12.5 3", ",", False)),
        (["12,5 m", "7 ft", "3 yd"], ";", ("12,5 m 7 ft 3 yd", ",", False)),
        (["1,2,3", "4,5"], ";", ("1,2,3 4,5", ".", False)),
        (["1,5", "2.5"], ";", ("1,5 2.5", ".", False)),
        (["a, b", "c. d"], ";", ("a, b c. d", ".", False)),
        ([None, None], ";", ("None None", ".", False)),
    ],
)
def test_signs_of_one_column(x: list[str | None], separator: str, expected: tuple[str, str, bool]) -> None:
    assert styled({"x": x}, separator) == expected


@pytest.mark.parametrize(
    ("x", "other", "separator", "expected"),
    [
        (["1,234"], ["12,5"], ";", ("1.234", ",", False)),
        (["1,234"], ["12.5"], ";", ("1234", ".,", False)),
        (["1.234"], ["12,5"], ";", ("1234", ",.", False)),
        (["12,5"], ["12.5"], ";", ("12.5", ".", False)),
        (["1,234", None], ["12.5", "12,5"], ";", ("1,234 None", ".", True)),
        (["1,234"], ["12,5"], ",", ("1,234", ".", True)),
        (["1.234"], ["12,5"], ",", ("1.234", ".", False)),
        (["007,5"], ["12,5"], ";", ("7.5", ",", False)),
    ],
)
def test_another_column_settles_what_a_sign_means_or_casts_doubt_on_it(
    x: list[str | None], other: list[str | None], separator: str, expected: tuple[str, str, bool]
) -> None:
    assert styled({"x": x, "other": other}, separator) == expected


@pytest.mark.parametrize(
    ("x", "decimal", "expected"),
    [
        (["1,234", "2,345"], ",", ("1.234 2.345", ",", False)),
        (["1,234", "2,345"], ".", ("1234 2345", ".,", False)),
        (["1.234", "2.345"], ",", ("1234 2345", ",.", False)),
        (["1.234", "2.345"], ".", ("1.234 2.345", ".", False)),
        (["12,5", "x", "y"], ",", ("12,5 x y", ",", False)),
        (["12.5", "1"], ",", ("12.5 1", ",", False)),
        (["12,5", "1"], ".", ("12,5 1", ".", False)),
    ],
)
def test_a_named_decimal_sign_settles_it(x: list[str | None], decimal: str, expected: tuple[str, str, bool]) -> None:
    for separator in ",;":
        assert styled({"x": x}, separator, decimal) == expected


def test_the_first_cells_do_not_decide_for_the_column() -> None:
    assert styled({"x": ["12,5"] * 2000 + [f"x{i}" for i in range(9)]}, ";")[1:] == (".", False)
    late = styled({"x": ["12"] * 2000 + ["12,5"]}, ";")
    assert late[0].endswith("12 12.5")
    assert late[1:] == (",", False)
    assert styled({"x": [None] * 2000 + ["12,5"]}, ";")[1:] == (",", False)


def test_a_note_names_the_column_and_the_flag(write: Write) -> None:
    path = write("area;n\n1,234;1\n2,345;2\n")
    (note,) = detect_format(path).notes
    assert "1 columns stay text, the first is 'area' with cells like '1,234'" in note
    assert note.endswith("say --decimal , or --decimal .")
    assert detect_format(path, decimal=",").notes == ()


@settings(deadline=None, max_examples=100)
@given(
    numbers=st.lists(st.floats(-1e15, 1e15) | st.integers(-(10**12), 10**12), min_size=1, max_size=8),
    decimal=st.sampled_from(".,"),
)
def test_numbers_survive_being_written_with_any_signs(numbers: list[float], decimal: Literal[".", ","]) -> None:
    swap = str.maketrans(",.", ".,") if decimal == "," else {}
    texts = pd.Series([f"{number:,}".translate(swap) for number in numbers], dtype="str")
    assert to_numbers(texts, Form(decimal=decimal)).values.tolist() == numbers


def test_a_found_format_reads_the_same_as_none_and_cells_as_they_stand(write: Write) -> None:
    path = write("a;b;c\n1.234,5;1,5;007\n2,5;3;x\n")
    table_format = detect_format(path)
    assert table_format.describe() == "utf-8, semicolon, decimal comma, thousands point"
    assert read_table(path, table_format=table_format).equals(read_table(path))
    assert cells(read_table(path)) == [["1.234,5", "1,5", "007"], ["2,5", "3", "x"]]
