import csv
import gzip
import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mixfit.data.table.read import TableFormat, detect_format, read_table
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
        with pytest.raises(DataError, match="do not have .* cells like the header" if rows else "no data rows"):
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
    with pytest.raises(ConfigError, match=r"sep must be one ASCII character, or a word such as tab or semicolon, got"):
        detect_format(write("a,b\n1,2\n"), separator=separator)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"decimal": "x"}, r"decimal must be \. or a comma, got 'x'"),
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


_ZIPPED = gzip.compress(b"a,b\n1,2\n" * 50, mtime=0)


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", _ZIPPED[:-12], _ZIPPED[:1]], ids=["plain", "cut", "one byte"])
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


# Real tables


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
