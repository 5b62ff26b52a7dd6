"""Tables that cannot be read, or must not be changed by reading or writing them."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mixfit.config import TextConfig
from mixfit.data.table.read import detect_format, read_as_configured, read_table
from mixfit.data.table.write import write_table
from mixfit.errors import ConfigError, DataError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_bytes(content: str | bytes, name: str = "houses.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_bytes


def refused(path: Path, text: str) -> None:
    """Both ways in give the same sentence, which ends the command line with exit code 3."""
    for function in (read_table, detect_format):
        with pytest.raises(DataError, match=text) as caught:
            function(path)
        assert caught.value.exit_code == 3
        assert "\n" not in str(caught.value)


# 1: nothing to read


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"  \r\n ", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b"\xff\xfe", b"\xff\xfe\n\0"]
)
@pytest.mark.parametrize("name", ["houses.csv", "houses.tsv", "houses.txt"])
def test_f01_empty_file(write: Write, content: bytes, name: str) -> None:
    refused(write(content, name), f"{name} is empty; a header and at least 1 data row are needed")


@pytest.mark.parametrize("name", ["houses.jsonl", "houses.ndjson", "houses.json"])
def test_f01_empty_json_lines(write: Write, name: str) -> None:
    with pytest.raises(DataError, match=f"{name} is empty"):
        read_table(write(b"\n", name))


@pytest.mark.parametrize("content", ["a,b", "a,b\n", "a,b\n\n \n", "\ufeffa\r\n"])
def test_f01_header_only(write: Write, content: str) -> None:
    with pytest.raises(DataError, match=r"houses\.csv has a header but no data rows; at least 1 is needed"):
        read_table(write(content))


def test_f01_one_row_is_enough_to_be_read(write: Write) -> None:
    assert read_table(write("a,b\n1,2")).to_numpy().tolist() == [["1", "2"]]


def test_f01_missing_file_with_the_close_name(write: Write, tmp_path: Path) -> None:
    write("a\n1\n")
    refused(tmp_path / "house.csv", r"there is no file .*house\.csv\. Did you mean 'houses\.csv'\?$")
    refused(tmp_path / "zzz.parquet", r"there is no file .*zzz\.parquet\.$")
    refused(tmp_path / "no" / "houses.csv", r"there is no file .*houses\.csv: No such file or directory")
    refused(tmp_path / "houses.csv" / "x.csv", "there is no file .*: Not a directory")
    refused(tmp_path / ("x" * 300 + ".csv"), "there is no file .*: File name too long")
    refused(tmp_path / "a\0b.csv", "there is no file .*: embedded null byte")


def test_f01_folder_and_pipe_instead_of_a_file(tmp_path: Path) -> None:
    refused(tmp_path, "is a folder; give the table file in it")
    os.mkfifo(tmp_path / "pipe.csv")
    refused(tmp_path / "pipe.csv", r"pipe\.csv is not a regular file; write the table to a file first")


# 2: ragged rows


def test_f02_ragged_rows_are_counted_and_the_first_five_lines_named(write: Write) -> None:
    rows = ["1,2,3"] * 20
    for row, text in {3: "1,2", 5: "1,2,3,4", 6: "", 9: "   ", 10: "1", 15: ",,,,"}.items():
        rows[row] = text
    refused(
        write("\n".join(["a,b,c", *rows]) + "\n"),
        "houses.csv: 6 of 20 rows do not have 3 cells like the header: line 5 has 2, line 7 has 4, line 8 is blank, "
        r"line 11 is blank, line 12 has 1, \.\.\.\. Put cells that contain ',' in quotes, or set the correct separator "
        "with --sep",
    )


def test_f02_lines_are_those_of_the_file_even_after_line_breaks_within_cells(write: Write) -> None:
    content = '\n"a\nb",c\r\n"x\n\ny",1\r\n2\r\n"p\r\nq",3\r\n4,5,6'
    refused(write(content), "2 of 4 rows do not have 2 cells like the header: line 7 has 1, line 10 has 3. Put")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("cells", [1, 2, 4, 5])
def test_f02_one_wrong_row_in_many_never_shifts_the_others(write: Write, separator: str, cells: int) -> None:
    rows = [["1", "2", "3"]] * 5000
    rows[4000] = ["9"] * cells
    content = "\n".join(separator.join(row) for row in [["a", "b", "c"], *rows])
    refused(write(content), f"1 of 5000 rows do not have 3 cells like the header: line 4002 has {cells}. ")


def test_f02_all_rows_longer_than_the_header(write: Write) -> None:
    refused(write("a,b\n1,2,3\n4,5,6\n"), "2 of 2 rows do not have 2 cells like the header: line 2 has 3, line 3 has 3")
    refused(write("a\n1,2\n"), "1 of 1 rows do not have 1 cells like the header: line 2 has 2")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('a,b\n1,2\n3,"4\n5,6\n', "the quote opened in the row of line 3 is not closed; close it, and double"),
        ('a,"b\n1,2\n', "the quote opened in the row of line 1 is not closed"),
        ('a,b\n"' + "x\n" * 70_000, r"line 2 is not closed \(or a cell has more than \d+ characters\)"),
        ('a,b\n1,"x\n2,y\n3,"z\n4,w\n', "in lines 2 to 4, text follows a closing quote; close every quoted cell"),
        ('a,b\n1,"x" y\n', "in lines 2 to 2, text follows a closing quote"),
        ('"a" x,b\n1,2\n', "in lines 1 to 1, text follows a closing quote"),
    ],
)
def test_f02_quotes_that_would_swallow_rows(write: Write, content: str, text: str) -> None:
    refused(write(content), text)


# 3: encodings

UMLAUTS = 'stadt,größe\r\nKöln,12\r\n"Zürich\r\nNord",7\r\n'


@pytest.mark.parametrize(
    ("written", "described"),
    [
        ("utf-8", "utf-8, comma"),
        ("utf-8-sig", "utf-8-sig, comma"),
        ("utf-16", "utf-16, comma"),
        ("utf-32", "utf-32, comma"),
        ("cp1252", "cp1252 (guessed), comma"),
    ],
)
def test_f03_encodings_are_found(write: Write, written: str, described: str) -> None:
    path = write(UMLAUTS.encode(written))
    frame = read_table(path)
    assert list(frame.columns) == ["stadt", "größe"]
    assert frame.to_numpy().tolist() == [["Köln", "12"], ["Zürich\r\nNord", "7"]]
    assert detect_format(path).describe() == described
    assert detect_format(path).guessed == ("guessed" in described)


@pytest.mark.parametrize("named", ["cp1252", "latin-1", "utf-16-le", "utf-16-be", "cp437", "UTF8", "utf-8-sig"])
def test_f03_a_named_encoding_is_used(write: Write, named: str) -> None:
    path = write(UMLAUTS.encode(named))
    table_format = detect_format(path, encoding=named)
    assert not table_format.guessed
    assert read_table(path, table_format=table_format)["größe"].tolist() == ["12", "7"]


def test_f03_the_whole_file_decides_not_its_beginning(write: Write) -> None:
    rows = ["x" * 98 + "é"] * 100_000
    assert detect_format(write("\n".join(["a", *rows]))).encoding == "utf-8"
    late = "\n".join(["a", *["x" * 99] * 50_000]).encode() + b"\n\xe9"
    path = write(late)
    assert detect_format(path).encoding == "cp1252"
    assert read_table(path)["a"].iloc[-1] == "é"


def test_f03_bytes_that_cp1252_lacks_are_latin_1(write: Write) -> None:
    path = write(b"a\n\x81\xe9\n")
    assert detect_format(path).describe() == "latin-1 (guessed), comma"
    assert read_table(path)["a"].tolist() == ["\x81é"]


def test_f03_byte_order_mark_is_no_part_of_the_first_name(write: Write) -> None:
    path = write(b'\xef\xbb\xbf"a",b\n1,2\n')
    for encoding in (None, "utf-8", "utf-8-sig"):
        frame = read_table(path, table_format=detect_format(path, encoding=encoding))
        assert list(frame.columns) == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "line"), [(b"a,b\n1,2\n3,\x004\n", 3), ("a,b\n1,2\n".encode("utf-16-le"), 1), (b"PK\x03\x04\0\0", 1)]
)
def test_f03_nul_bytes_are_refused(write: Write, content: bytes, line: int) -> None:
    refused(
        write(content),
        f"houses.csv has a NUL byte in line {line}: it is not a text file, or it is UTF-16 without a byte order mark "
        r"\(then use --encoding utf-16-le\)",
    )


@pytest.mark.parametrize(
    ("named", "content", "text"),
    [
        ("utf-8", b"a\n1\n\xe9\n", "is not valid utf-8: byte 0xe9 in line 3; use --encoding cp1252"),
        ("ascii", b"a\n\xc3\xa9\n", "is not valid ascii: byte 0xc3 in line 2; use --encoding cp1252"),
        ("cp1252", b"a\n\x81\n", "is not valid cp1252: byte 0x81 in line 2; use --encoding utf-8"),
        ("utf-16", b"\xff\xfea\0\n", "is not valid utf-16.*; use --encoding cp1252, or omit --encoding"),
    ],
)
def test_f03_bytes_that_are_not_in_the_named_encoding(write: Write, named: str, content: bytes, text: str) -> None:
    with pytest.raises(DataError, match=text):
        detect_format(write(content), encoding=named)


@pytest.mark.parametrize("named", ["utf8x", "", "hex", "rot13", "zlib"])
def test_f03_unknown_encodings(write: Write, named: str) -> None:
    with pytest.raises(ConfigError, match=f"encoding: '{named}' is not a text encoding") as caught:
        detect_format(write("a\n1\n"), encoding=named)
    assert caught.value.exit_code == 2


# 4: separators and number signs


@pytest.mark.parametrize(
    ("content", "described", "row"),
    [
        ("a;b\n1,5;x, y\n2,25;z\n", "utf-8, semicolon, decimal comma", ["1,5", "x, y"]),
        ("a\tb\n1.5\tx, y\n2\tz; u\n", "utf-8, tab", ["1.5", "x, y"]),
        ("a|b\n1|x\n2|y\n", "utf-8, pipe", ["1", "x"]),
        ('a,b\n"1,234",x\n567,y\n', "utf-8, comma, thousands comma", ["1,234", "x"]),
        ("a;b\n1.234,50;x\n-7;y\n", "utf-8, semicolon, decimal comma, thousands point", ["1.234,50", "x"]),
    ],
)
def test_f04_signs_are_found_and_shown(write: Write, content: str, described: str, row: list[str]) -> None:
    path = write(content)
    assert detect_format(path).describe() == described
    assert read_table(path).to_numpy().tolist()[0] == row


def test_f04_what_cannot_be_told_stays_text_and_is_noted_with_the_flag(write: Write) -> None:
    path = write("a;b\n1,234;x\n5,678;y\n")
    assert read_table(path)["a"].tolist() == ["1,234", "5,678"]
    (note,) = detect_format(path).notes
    assert "the first is 'a' with cells like '1,234'" in note
    assert "--decimal" in note
    for decimal, values in ((",", [1.234, 5.678]), (".", [1234, 5678])):
        assert detect_format(path, decimal=decimal).notes == ()
        table, _ = read_as_configured(path, TextConfig(decimal=decimal))
        assert table["a"].numbers.values.tolist() == values


def test_f04_decimal_commas_without_quotes_in_a_comma_file_are_ragged_and_point_to_sep(write: Write) -> None:
    refused(write("a,b\n1,5,x\n2,x\n"), r"1 of 2 rows do not have 2 cells like the header: line 2 has 3.*--sep")


# 5: column names


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("a,b,a", "1 column names occur more than once, the first is 'a'; rename these columns"),
        ("b, a,a ", "1 column names occur more than once, the first is 'a'"),
        (",b,unnamed_0", "the first is 'unnamed_0'"),
        ("a,,b", r"1 of 3 columns have no name, the first is column 2; name them in the header, .*\(see --sep\)"),
        (",,", "2 of 3 columns have no name, the first is column 2"),
        ("a,b,  ", "1 of 3 columns have no name, the first is column 3"),
        ("a,b," + "x" * 10_000, "1 column names have more than 200 characters, the first begins with 'x{40}'; is the"),
        ("a,b," + "x" * 201, "1 column names have more than 200 characters"),
    ],
)
def test_f05_column_names_that_are_refused(write: Write, header: str, text: str) -> None:
    refused(write(f"{header}\n1,2,3\n"), text)


def test_f05_markup_in_a_name_is_a_name_like_any_other(write: Write) -> None:
    names = ["<script>alert(1)</script>", "x" * 200, "a b\u00e9"]
    assert list(read_table(write(",".join(names) + "\n1,2,3\n")).columns) == names


# 12 and 14: cells stay as given


@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("separator", [",", ";"])
def test_f12_words_for_missing_codes_and_points_are_preserved(write: Write, quoted: bool, separator: str) -> None:
    cells = ["NA", "None", "null", "nan", "N/A", "007", "7", "7.0", "7.00", "true", "1e5", "inf", "2020-02-30", " 7 "]
    lines = [f'"{cell}"' if quoted else cell for cell in cells]
    frame = read_table(write("".join(f"{line}{separator}x\n" for line in ["level", *lines])))
    assert frame["level"].tolist() == cells
    assert not frame["level"].isna().any()


def test_f14_long_integers_and_extreme_numbers_are_preserved_as_text(write: Write) -> None:
    cells = [
        "12345678901234567890",
        "12345678901234567891",
        "1" * 400,
        "1e308",
        "1e400",
        "5e-324",
        "0.1000000000000000055",
    ]
    assert read_table(write("\n".join(["id", *cells]))).iloc[:, 0].tolist() == cells


def test_f14_integers_beyond_float64_and_int64_are_preserved_from_typed_tables(write: Write, tmp_path: Path) -> None:
    path = write('{"id": 12345678901234567890123}\n{"id": 7}\n', "t.jsonl")
    assert read_table(path)["id"].tolist() == ["12345678901234567890123", "7"]
    pd.DataFrame({"id": pd.array([2**53 + 1, None], dtype="Int64")}).to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet")["id"].tolist()[0] == "9007199254740993"


# 44: formulas

formulas = st.tuples(st.sampled_from("=+-@\t\r"), st.text(st.sampled_from(list("=1.eE-\n\r a,\"'")), max_size=5)).map(
    "".join
)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip() and "_" not in text


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cells=st.lists(formulas | st.text(st.sampled_from("a=1 -"), max_size=3), min_size=1, max_size=5))
@example(cells=["-5\n=1+1", "+1.5\n", "=", "-", "+", "@", "-1e5", "-.5", "--5", "-5 ", "'=x"])
@pytest.mark.parametrize("extension", [".csv", ".tsv"])
@pytest.mark.parametrize("dtype", ["str", "object", "category"])
def test_f44_text_that_a_spreadsheet_would_run_gets_an_apostrophe(
    tmp_path: Path, extension: str, dtype: str, cells: list[str]
) -> None:
    path = tmp_path / f"t{extension}"
    write_table(pd.DataFrame({"t": pd.Series(cells, dtype=dtype), "n": -1}), path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="," if extension == ".csv" else "\t"))
    expected = [f"'{cell}" if cell[:1] in tuple("=+-@\t\r") and not is_number(cell) else cell for cell in cells]
    assert rows == [["t", "n"], *([cell, "-1"] for cell in expected)]


def test_f44_numbers_are_untouched_in_columns_of_any_type(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "i": [-5, 1],
            "f": [-0.5, -np.inf],
            "t": ["-5", "+1.5"],
            "o": pd.Series([-5, "-x"], dtype=object),
            "c": pd.Categorical([-1, -2]),
        }
    )
    write_table(frame, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "i,f,t,o,c\n-5,-0.5,-5,-5,-1\n1,-inf,+1.5,'-x,-2\n"


def test_f44_column_names_are_cells_too(tmp_path: Path) -> None:
    write_table(pd.DataFrame({"=HYPERLINK(1)": [1], "-5": [2]}), tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "'=HYPERLINK(1),-5\n1,2\n"


def test_f44_raw_and_typed_files_are_untouched(tmp_path: Path) -> None:
    frame = pd.DataFrame({"=a": ["=1+1", "@x"]})
    write_table(frame, tmp_path / "t.csv", raw=True)
    assert (tmp_path / "t.csv").read_text() == "=a\n=1+1\n@x\n"
    for name in ("t.parquet", "t.jsonl"):
        write_table(frame, tmp_path / name)
        pd.testing.assert_frame_equal(read_table(tmp_path / name), frame)


@pytest.mark.parametrize("kind", ["feather", "parquet", "jsonl", "csv"])
def test_f01_a_damaged_file_of_any_kind_is_read_or_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    """In a process of its own: what Arrow reads wrongly may end one."""
    script = _DAMAGED.format(kind=kind, folder=str(tmp_path))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "whole\n"), ended.stderr[-500:]


_DAMAGED = """
import random, warnings
from pathlib import Path
import numpy as np, pandas as pd
from mixfit.config import TextConfig
from mixfit.data.table.pieces import table_pieces
from mixfit.data.table.read import read_table
from mixfit.errors import DataError

warnings.simplefilter("ignore")
rng, path = random.Random(0), Path({folder!r}) / "table.{kind}"
frame = pd.DataFrame({{"a": np.arange(40.0), "t": [f"text {{row}}" for row in range(40)], "i": [1, None] * 20}})
frame["t2"] = frame["t"].astype(object).where(frame.index % 3 > 0, None)
match "{kind}":
    case "feather":
        frame.to_feather(path, compression="uncompressed")
    case "parquet":
        frame.to_parquet(path)
    case "jsonl":
        frame.to_json(path, orient="records", lines=True)
    case "csv":
        frame.to_csv(path, index=False)
whole = path.read_bytes()
for _ in range(150):
    content, way = bytearray(whole), rng.random()
    if way < 0.2:
        content = content[: rng.randrange(len(content))]
    elif way < 0.4:
        content[(place := rng.randrange(len(content))) : place] = bytes(rng.randrange(1, 5))
    else:
        for _ in range(rng.randrange(1, 6)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(content)
    for read in (read_table, lambda path: list(table_pieces(path, TextConfig(), most_rows=16, most_bytes=10**6))):
        try:
            read(path)
        except DataError as error:
            assert str(error) and chr(10) not in str(error), error
print("whole")
"""
