import csv
import gzip
import io
import json
import os
import re
import time
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mixfit.data.table import TableFormat, detect_format, read_table
from mixfit.data.table_numbers import NumberStyle, detect_style, normalise_numbers
from mixfit.errors import ConfigError, DataError

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


def csv_format(**changes: str | None) -> TableFormat:
    values: dict[str, str | None] = {"encoding": None, "separator": None, "decimal": None, "thousands": None}
    return TableFormat(kind="csv", **{**values, **changes})  # type: ignore[arg-type]


# The cells


def test_every_cell_of_a_text_table_is_text_and_only_empty_ones_are_missing(write: Write) -> None:
    frame = read_table(write('a,b,c\n007,NA,7.0\n"",null, x \n1e400,None,\n'))
    assert cells(frame) == [["007", "NA", "7.0"], [None, "null", " x "], ["1e400", "None", None]]
    assert set(frame.dtypes.astype(str)) == {"str"}
    assert frame.index.equals(pd.RangeIndex(3))


# NUL is refused, half a surrogate pair is no text.
some_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
difficult_text = st.text(st.sampled_from(list("ab1 ,;\t|\"'\r\n.é\u2028\x85\ufeff")), max_size=6)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(rows=[["\ufeff0"]], separator=",", line_end="\n", quoting=csv.QUOTE_MINIMAL)
@given(
    rows=st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(some_text | difficult_text, min_size=width, max_size=width), min_size=1, max_size=5
        )
    ),
    separator=st.sampled_from(",;\t|"),
    line_end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_the_csv_module_writes_is_read_back(
    write: Write, rows: list[list[str]], separator: str, line_end: str, quoting: int
) -> None:
    buffer = io.StringIO(newline="")
    # A carriage return must be quoted, which Python's minimal quoting does only when the line end has one.
    minimal_is_wrong = line_end == "\n" and any("\r" in cell for cells in rows for cell in cells)
    quoting = csv.QUOTE_ALL if minimal_is_wrong else quoting
    writer = csv.writer(buffer, delimiter=separator, lineterminator=line_end, quoting=quoting)
    writer.writerow([f"column {number}" for number in range(len(rows[0]))])
    writer.writerows(rows)
    path = write(buffer.getvalue())
    plain = csv_format(separator=separator, decimal=".")
    assert cells(read_table(path, table_format=plain)) == [[cell or None for cell in row] for row in rows]


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.text(st.sampled_from(list('ab,"\n\r ')), max_size=20), width=st.integers(1, 3))
@example(body='1,5" disc\n', width=2)
@example(body='"a"\n\n"b"\n', width=1)
@example(body=",\n,\n", width=2)
def test_any_bytes_give_what_the_strict_csv_reader_gives_or_are_refused(write: Write, body: str, width: int) -> None:
    path, plain = write(",".join("xyz"[:width]) + "\n" + body), csv_format(separator=",", decimal=".")
    # Blank lines at the end are no rows; with one column a line of blanks is a cell.
    kept = re.sub(r"[\r\n]+\Z" if width == 1 else r"[\r\n][\r\n ]*\Z", "", "\n" + body)[1:]
    try:
        rows = [row or [""] if width == 1 else row for row in csv.reader(io.StringIO(kept, newline=""), strict=True)]
    except csv.Error:
        with pytest.raises(DataError, match="quote"):
            read_table(path, table_format=plain)
        return
    if not rows or any(len(row) != width for row in rows):
        with pytest.raises(DataError, match="do not have the header's" if rows else "no data rows"):
            read_table(path, table_format=plain)
    else:
        assert cells(read_table(path, table_format=plain)) == [[cell or None for cell in row] for row in rows]


def test_a_stray_quote_within_a_cell_is_a_character(write: Write) -> None:
    assert cells(read_table(write('a,b\n5" disc,1\nx,"2"\n'))) == [['5" disc', "1"], ["x", "2"]]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_every_line_end_is_read(write: Write, line_end: str) -> None:
    assert cells(read_table(write(line_end.join(["a,b", "1,2", "3,", ""])))) == [["1", "2"], ["3", None]]


def test_blank_lines_at_both_ends_are_ignored(write: Write) -> None:
    assert cells(read_table(write("\n \na,b\n1,2 \n\n  \r\n\t\n"))) == [["1", "2 "]]


def test_a_row_of_separators_is_a_row_of_missing_cells(write: Write) -> None:
    assert cells(read_table(write("a\tb\n1\t2\n\t\n\t\n"))) == [["1", "2"], [None, None], [None, None]]
    assert cells(read_table(write("a,b\n,\n1,2\n"))) == [[None, None], ["1", "2"]]


def test_one_column_needs_no_separator_and_a_blank_line_in_it_is_a_missing_cell(write: Write) -> None:
    path = write("name\nx y\n\nz\n\n")
    assert cells(read_table(path)) == [["x y"], [None], ["z"]]
    assert detect_format(path).describe() == "utf-8, comma"


def test_a_cell_longer_than_a_block_is_read(write: Write) -> None:
    long = "x" * 100_000
    assert cells(read_table(write(f'a,b\n"{long}",1\n'))) == [[long, "1"]]
    longer = "x" * (1 << 17)
    assert cells(read_table(write(f'a,b\n"{longer}",1\n'))) == [[longer, "1"]]


# Column names


def test_blanks_around_column_names_are_stripped(write: Write) -> None:
    assert list(read_table(write('\ufeff a ,"b\n",<script> \n1,2,3\n')).columns) == ["a", "b", "<script>"]


def test_the_index_that_pandas_writes_becomes_unnamed_0(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": ["x", "y"]}, index=[5, 9])
    frame.to_csv(tmp_path / "t.csv")
    frame.to_parquet(tmp_path / "t.parquet")
    assert cells(read_table(tmp_path / "t.csv")) == [["5", "x"], ["9", "y"]]
    assert list(read_table(tmp_path / "t.csv").columns) == ["unnamed_0", "a"]
    assert list(read_table(tmp_path / "t.parquet").columns) == ["a", "unnamed_0"]


# The format


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found_whatever_the_cells_hold(write: Write, separator: str) -> None:
    rows = [["id", "photos", "text"], ["1", "a.jpg;b.jpg", "x, y | z"], ["2", "c.jpg", "p, q"], ["3", "", "1,2;3"]]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=separator).writerows(rows)
    path = write(buffer.getvalue())
    assert detect_format(path).separator == separator
    assert cells(read_table(path)) == [[cell or None for cell in row] for row in rows[1:]]


def test_tsv_is_separated_by_tabs_even_with_one_column(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("a,b\nx,y\n")
    assert cells(read_table(path)) == [["x,y"]]


@pytest.mark.parametrize(("typed", "sign"), [("tab", "\t"), ("\\t", "\t"), ("Semicolon", ";"), ("#", "#")])
def test_the_separator_can_be_named(write: Write, typed: str, sign: str) -> None:
    path = write(f"a{sign}b\n1{sign}2,5\n")
    table_format = detect_format(path, separator=typed)
    assert table_format.separator == sign
    assert read_table(path, table_format=table_format).shape == (1, 2)


@pytest.mark.parametrize("separator", ["", ",,", "§", "a", '"', "\n", "\0"])
def test_an_impossible_separator_is_refused(write: Write, separator: str) -> None:
    with pytest.raises(ConfigError, match=r"--sep must be one ASCII sign, or a word like tab or semicolon, got"):
        detect_format(write("a,b\n1,2\n"), separator=separator)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"decimal": "x"}, r"--decimal must be \. or , got 'x'"),
        ({"decimal": ".", "thousands": " "}, r"thousands must be \. or , got ' '"),
        ({"decimal": ",", "thousands": ","}, "the decimal sign and the thousands sign are both ','"),
    ],
)
def test_impossible_number_signs_are_refused(write: Write, changes: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        read_table(write("a,b\n1,2\n"), table_format=csv_format(**changes))


@pytest.mark.parametrize(
    ("flag", "setting"),
    [("--sep", {"separator": ";"}), ("--decimal", {"decimal": ","}), ("--encoding", {"encoding": "utf-8"})],
)
def test_flags_for_text_are_refused_for_typed_tables(tmp_path: Path, flag: str, setting: dict[str, str]) -> None:
    path = tmp_path / "t.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.raises(ConfigError, match=f"{flag} is for text tables; .*t.parquet is parquet, leave it out"):
        detect_format(path, **setting)


@pytest.mark.parametrize("name", ["t.xlsx", "t", "csv", "t.csv.zip"])
def test_an_unknown_extension_lists_the_known_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a,b\n1,2\n")
    for function in (read_table, detect_format):
        with pytest.raises(
            ConfigError, match=r"not of a known kind; its name must end in one of \.csv, \.tsv, .*\.json"
        ):
            function(tmp_path / name)


def test_a_given_format_is_enough_for_an_unknown_extension(tmp_path: Path) -> None:
    (tmp_path / "t.dat").write_text("a;b\n1;2\n")
    assert cells(read_table(tmp_path / "t.dat", table_format=csv_format())) == [["1", "2"]]


@pytest.mark.parametrize("name", ["t.csv.gz", "T.CSV.GZ", "t.tsv.gz"])
def test_compressed_text_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"a\tb\n1\t2\n"))
    assert cells(read_table(tmp_path / name)) == [["1", "2"]]


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", gzip.compress(b"a,b\n1,2\n" * 50)[:-12], gzip.compress(b"a")[:-20]])
def test_broken_compression_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"t\.csv\.gz is not a complete gzip file; write it again"):
        read_table(tmp_path / "t.csv.gz")


def test_a_file_that_cannot_be_read_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = write("a\n1\n")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"t\.csv cannot be read: Permission denied"):
        read_table(path)


@pytest.mark.parametrize(
    ("table_format", "text"),
    [
        (csv_format(encoding="utf-8", separator=","), "utf-8, comma"),
        (csv_format(encoding="cp1252", separator=";", decimal=","), "cp1252, semicolon, decimal comma"),
        (csv_format(encoding="utf-8", separator="#", decimal=".", thousands=","), "utf-8, '#', thousands comma"),
        (csv_format(), "any encoding, any separator"),
        (TableFormat(kind="feather", encoding=None, separator=None, decimal=None, thousands=None), "feather"),
    ],
)
def test_a_format_is_described_in_a_few_words(table_format: TableFormat, text: str) -> None:
    assert table_format.describe() == text


# Numbers


def styled(columns: dict[str, list[str | None]], separator: str, decimal: str | None = None) -> tuple[str, str, bool]:
    """What a column "x" becomes, the style in short, and whether there is a note."""
    table = pa.table({name: pa.array(column, pa.large_string()) for name, column in columns.items()})
    style, notes = detect_style(table, separator=separator, decimal=decimal)
    changed = normalise_numbers(table, style)
    return (
        " ".join(str(cell) for cell in changed["x"].to_pylist()),
        f"{style.decimal}{style.thousands or ''}",
        bool(notes),
    )


@pytest.mark.parametrize(
    ("x", "separator", "expected"),
    [
        # In a table separated by commas, a comma in a number parts thousands.
        (["1,234", "12", "-1,234,567.5"], ",", ("1234 12 -1234567.5", ".,", False)),
        (["1,234", "12.5"], ",", ("1234 12.5", ".,", False)),
        (["1,234", "1,23"], ",", ("1,234 1,23", ".", True)),
        (["1,5", "2,25"], ",", ("1,5 2,25", ".", True)),
        (["1,234", "x"], ",", ("1,234 x", ".", False)),
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
        (["007", "7"], ";", ("007 7", ".", False)),
        (["12,5", "12,5 m"], ";", ("12,5 12,5 m", ".", False)),
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
        (["12,5"], ["12.5"], ";", ("12,5", ".", True)),
        (["1,234"], ["12,5"], ",", ("1,234", ".", True)),
        (["1.234"], ["12,5"], ",", ("1.234", ".", True)),
        (["007,5"], ["12,5"], ";", ("007.5", ",", False)),
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
        (["12,5", "x"], ",", ("12,5 x", ",", False)),
        (["12.5", "1"], ",", ("12.5 1", ",", False)),
        (["12,5", "1"], ".", ("12,5 1", ".", False)),
    ],
)
def test_a_named_decimal_sign_settles_it(x: list[str | None], decimal: str, expected: tuple[str, str, bool]) -> None:
    for separator in ",;":
        assert styled({"x": x}, separator, decimal) == expected


def test_the_first_cells_do_not_decide_for_the_column() -> None:
    assert styled({"x": ["12,5"] * 2000 + ["x"]}, ";")[1:] == (".", False)
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
def test_numbers_survive_being_written_with_any_signs(numbers: list[float], decimal: str) -> None:
    swap = str.maketrans(",.", ".,") if decimal == "," else {}
    texts = [f"{number:,}".translate(swap) for number in numbers]
    table = pa.table({"x": pa.array(texts, pa.large_string())})
    style = NumberStyle(decimal=decimal, thousands="," if decimal == "." else ".")
    assert [float(cell.as_py()) for cell in normalise_numbers(table, style)["x"]] == numbers


def test_a_found_format_reads_the_same_as_none(write: Write) -> None:
    path = write("a;b;c\n1.234,5;1,5;007\n2,5;3;x\n")
    table_format = detect_format(path)
    assert table_format.describe() == "utf-8, semicolon, decimal comma, thousands point"
    assert read_table(path, table_format=table_format).equals(read_table(path))
    assert cells(read_table(path)) == [["1234.5", "1.5", "007"], ["2.5", "3", "x"]]


# Typed tables


def test_parquet_and_feather_keep_their_types(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "i": [1, 2],
            "f": [0.5, np.nan],
            "b": [True, False],
            "t": ["x", None],
            "when": pd.to_datetime(["2020-01-01", None]),
            "level": pd.Categorical(["p", "q"]),
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_feather(tmp_path / "t.feather")
    frame.to_feather(tmp_path / "t.arrow")
    expected = frame.assign(level=frame["level"].astype("str"))
    for name, kind in (("t.parquet", "parquet"), ("t.feather", "feather"), ("t.arrow", "feather")):
        pd.testing.assert_frame_equal(read_table(tmp_path / name), expected)
        assert detect_format(tmp_path / name).describe() == kind


def test_types_that_pandas_keeps_as_objects_become_plain_ones(tmp_path: Path) -> None:
    table = pa.table(
        {
            "price": pa.array([Decimal("1.50"), None]),
            "day": pa.array([date(2020, 2, 29), None]),
            "nothing": pa.nulls(2),
            "code": pa.array([2**60 + 1, None]),
            "small": pa.array([7, None]),
            "empty": pa.array(["", "x"], pa.string_view()),
        }
    )
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    frame = read_table(tmp_path / "t.parquet")
    assert [str(dtype) for dtype in frame.dtypes] == ["float64", "datetime64[ms]", "str", "str", "float64", "str"]
    assert frame["code"].tolist()[0] == str(2**60 + 1)
    assert cells(frame[["price", "empty"]]) == [[1.5, None], [None, "x"]]


@pytest.mark.parametrize(
    "column", [pa.array([[1]]), pa.array([{"a": 1}]), pa.array([b"x"]), pa.array([b"xy"], pa.binary(2))]
)
def test_cells_that_are_no_single_value_are_refused(tmp_path: Path, column: pa.Array) -> None:
    pa.parquet.write_table(pa.table({"ok": [1], "bad": column}), tmp_path / "t.parquet")
    with pytest.raises(
        DataError, match=r"t\.parquet: column 'bad' holds .* cells; flatten it, or leave the column out"
    ):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize(("name", "kind"), [("t.parquet", "parquet"), ("t.feather", "feather")])
def test_damaged_typed_tables_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    path, frame = tmp_path / name, pd.DataFrame({"a": range(1000)})
    frame.to_parquet(path) if kind == "parquet" else frame.to_feather(path)
    whole = path.read_bytes()
    for content in (b"", b"a,b\n1,2\n", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{name} is empty, damaged or not a {kind} file; write it again"):
            read_table(path)


def test_typed_tables_without_rows_columns_or_names_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    for table, text in (
        (pa.table({"a": pa.array([], pa.int64())}), "has a header but no data rows"),
        (pa.table({}), "has no columns"),
        (pa.table([pa.array([1])] * 2, names=["a", "a "]), "1 column names occur more than once, the first is 'a'"),
    ):
        pa.parquet.write_table(table, path)
        with pytest.raises(DataError, match=text):
            read_table(path)


def lines(tmp_path: Path, *records: object) -> Path:
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(record if isinstance(record, str) else json.dumps(record) for record in records))
    return path


def test_json_lines_keep_their_types(tmp_path: Path) -> None:
    path = lines(tmp_path, {"i": 1, "t": "2020-01-01", "f": 1}, "", {"t": "", "i": 2, "b": True, "f": 0.1, "u": "é"})
    frame = read_table(path)
    assert list(frame.columns) == ["i", "t", "f", "b", "u"]
    assert [str(dtype) for dtype in frame.dtypes[:3]] == ["int64", "str", "float64"]
    assert cells(frame) == [[1, "2020-01-01", 1.0, None, None], [2, None, 0.1, True, "é"]]
    assert detect_format(path).describe() == "jsonl"


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(column=st.lists(st.none() | st.integers() | st.floats() | st.booleans() | some_text, min_size=1, max_size=6))
def test_a_json_column_of_any_values_keeps_what_they_say(tmp_path: Path, column: list[object]) -> None:
    found = read_table(lines(tmp_path, *({"x": cell} for cell in column)))["x"]
    for cell, got in zip(column, found, strict=True):
        if cell is None or cell == "" or cell != cell:
            assert pd.isna(got) or got == "NaN"
        elif isinstance(got, str):
            assert got == (cell if isinstance(cell, str) else json.dumps(cell))
        else:
            assert got == cell


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"a": {"b": 1}}, "column 'a' holds an object in row 1; flatten it"),
        ({"a": [1]}, "column 'a' holds a list in row 1; flatten it"),
        ("{'a': 1}", "line 2 is not a JSON object: Expecting property name"),
        ('{"a": 1', "line 2 is not a JSON object"),
        ('{"a": 1, "a": 2}', "line 2 is not a JSON object: a key occurs more than once"),
        ("7", "line 2 is not a JSON object but 7"),
        ('{"a": ' + "[" * 100_000, "line 2 is not a JSON object"),
        ('{"a": "\\ud800"}', "column 'a' holds text that is no valid Unicode"),
    ],
)
def test_bad_json_lines_are_refused(tmp_path: Path, record: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        read_table(lines(tmp_path, {"a": "x"}, record))


def test_a_json_list_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is one JSON list; write one object a line"):
        read_table(lines(tmp_path, [{"a": 1}]))


# Real tables, and speed


@pytest.mark.skipif("MIXFIT_DATA" not in os.environ, reason="MIXFIT_DATA is not set")
@pytest.mark.parametrize(
    ("name", "rows"),
    [("houses", 535), ("fashion_products", 19901), ("covid_xray", 573), ("leaf99", 990), ("movies", 1041)],
)
def test_the_real_tables_are_read_as_the_csv_module_reads_them(name: str, rows: int) -> None:
    path = Path(os.environ["MIXFIT_DATA"], name, "table.csv")
    frame = read_table(path)
    with path.open(newline="", encoding="utf-8") as file:
        header, *records = csv.reader(file)
    assert len(frame) == rows
    assert list(frame.columns) == header
    assert cells(frame) == [[cell or None for cell in record] for record in records]
    assert detect_format(path).describe() == "utf-8, comma"


def test_reading_is_about_as_fast_as_pandas(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(30_000, 12)).round(4)).assign(text='a "b", c', photo="images/1.jpg")
    frame.to_csv(path, index=False)
    ours, pandas = [], []
    for _ in range(3):
        start = time.perf_counter()
        read_table(path)
        middle = time.perf_counter()
        pd.read_csv(path, dtype=str, keep_default_na=False)
        ours.append(middle - start)
        pandas.append(time.perf_counter() - middle)
    assert min(ours) < 3 * min(pandas)
