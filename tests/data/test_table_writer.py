import csv
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits import files_of_at_most

from mixfit.data.table.read import TableFormat, read_table
from mixfit.data.table.write import EXTENSIONS, write_table
from mixfit.errors import ConfigError, DataError, ResourceError

some_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
difficult_text = st.text(st.sampled_from(list("=+-@\t\r\n 1.,;\"'aé")), max_size=5)
texts = st.lists(st.none() | some_text | difficult_text, min_size=1, max_size=6)


def read_plainly(path: Path) -> pd.DataFrame:
    """Without a look for decimal commas and thousands signs."""
    if path.suffix not in (".csv", ".tsv"):
        return read_table(path)
    separator = "," if path.suffix == ".csv" else "\t"
    return read_table(
        path, table_format=TableFormat(kind="csv", encoding="utf-8", separator=separator, decimal=".", thousands=None)
    )


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(column=texts, other=st.booleans())
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_texts_are_read_back_as_they_were_written(
    tmp_path: Path, extension: str, column: list[str | None], other: bool
) -> None:
    frame = pd.DataFrame({"t": pd.Series(column, dtype="str")})
    if other:
        frame["n"] = np.arange(len(frame))
    write_table(frame, tmp_path / f"t{extension}", raw=True)
    found = read_plainly(tmp_path / f"t{extension}")["t"]
    assert [None if pd.isna(cell) else cell for cell in found] == [cell or None for cell in column]


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(column=st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.none(), min_size=1, max_size=6))
@pytest.mark.parametrize("extension", [".csv", ".jsonl", ".parquet"])
def test_floats_keep_all_their_digits(tmp_path: Path, extension: str, column: list[float | None]) -> None:
    frame = pd.DataFrame({"x": np.array(column, dtype=np.float64), "n": 1})
    write_table(frame, tmp_path / f"t{extension}")
    found = read_plainly(tmp_path / f"t{extension}")["x"].astype(np.float64)
    np.testing.assert_array_equal(found.to_numpy(), frame["x"].to_numpy())


def test_json_lines_are_strict_json(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "f": [0.1, np.nan, np.inf],
            "i": pd.array([2**60 + 1, None, 0], dtype="Int64"),
            "b": [True, False, True],
            "t": ["é\n", None, "=1"],
            "when": pd.to_datetime(["2020-02-29T12:30", None, "2021-01-01T00:00"], utc=True),
            "level": pd.Categorical(["p", None, "q"]),
        }
    )
    write_table(frame, tmp_path / "t.jsonl")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    lines = (tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines()
    assert [list(json.loads(line, parse_constant=refuse).values()) for line in lines] == [
        [0.1, 2**60 + 1, True, "é\n", "2020-02-29T12:30:00+00:00", "p"],
        [None, None, False, None, None, None],
        [None, 0, True, "=1", "2021-01-01T00:00:00+00:00", "q"],
    ]


def test_the_index_is_not_written_and_may_repeat(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": ["=x", "y"]}, index=[7, 7])
    write_table(frame, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == b"a\n'=x\ny\n"
    write_table(frame, tmp_path / "t.parquet")
    assert list(pd.read_parquet(tmp_path / "t.parquet").columns) == ["a"]


def test_the_frame_itself_is_not_changed(tmp_path: Path) -> None:
    frame = pd.DataFrame({"=a": ["=x"], "b": pd.Categorical(["-y"])})
    before = frame.copy()
    write_table(frame, tmp_path / "t.csv")
    pd.testing.assert_frame_equal(frame, before)


def test_a_table_without_rows_keeps_its_header(tmp_path: Path) -> None:
    write_table(pd.DataFrame({"a": [], "b": pd.Series([], dtype="str")}), tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes() == b"a,b\n"


def test_the_mode_is_what_the_umask_gives_and_no_temporary_stays(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_table(pd.DataFrame({"a": [1]}), tmp_path / "t.csv")
    finally:
        os.umask(before)
    assert (tmp_path / "t.csv").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("name", ["t.xlsx", "t", "t.csv.gz"])
def test_an_unknown_extension_lists_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"has no supported extension; the name must end in \.csv, .*\.ndjson"):
        write_table(pd.DataFrame({"a": [1]}), tmp_path / name)


@pytest.mark.parametrize("extension", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("names", [["a", "a"], [1, "1"]])
def test_equal_column_names_are_refused(tmp_path: Path, extension: str, names: list[object]) -> None:
    with pytest.raises(DataError, match=r"the column name '.' occurs more than once; rename one"):
        write_table(pd.DataFrame([[1, 2]], columns=names), tmp_path / f"t{extension}")


@pytest.mark.parametrize(
    ("extension", "cells", "text"),
    [
        (".parquet", ["a", 1], "column x.*; convert that column"),
        (".jsonl", ["a", float("inf")], "not JSON compliant.*; convert that column"),
        (".csv", ["a", "\ud800"], "not valid Unicode"),
        (".jsonl", ["a", "\ud800"], "not valid Unicode"),
        (".parquet", ["a", "\ud800"], "not valid Unicode"),
    ],
)
def test_cells_that_the_format_cannot_hold_are_refused(
    tmp_path: Path, extension: str, cells: list[object], text: str
) -> None:
    frame = pd.DataFrame({"x": pd.Series(cells, dtype=object)})
    with pytest.raises(DataError, match=text):
        write_table(frame, tmp_path / f"t{extension}")
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_a_resource_error(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"no/t\.csv cannot be written: the folder .* does not exist"):
        write_table(pd.DataFrame({"a": [1]}), tmp_path / "no" / "t.csv")


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_when_the_disk_is_full_the_old_file_stays_and_the_sizes_are_told(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"t{extension}"
    path.write_text("old")
    frame = pd.DataFrame({"a": np.random.default_rng(0).normal(size=5000)})
    with (
        files_of_at_most(10_000),
        pytest.raises(
            ResourceError, match=r"cannot be written: File too large\. It needs [\d,]+ bytes\. [\d,]+ bytes are"
        ),
    ):
        write_table(frame, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_carriage_return_is_written_in_quotes(tmp_path: Path) -> None:
    write_table(pd.DataFrame({"a": ["x\ry", "z"], "b": [1.5, 2]}), tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["a", "b"], ["x\ry", "1.5"], ["z", "2"]]


def test_numbers_have_the_same_texts_whether_a_cell_needs_quotes_or_not(tmp_path: Path) -> None:
    numbers = np.array([1.0, -0.0, 1e-7, 9.9e-5, 1e16, 1e30, 0.1, np.nan, np.inf, 1 / 3])
    frame = pd.DataFrame({"self": numbers, "s": numbers.astype(np.float32), "i": np.arange(10), "t": ["a", "=b"] * 5})
    frame = frame.astype({"t": "str"})
    write_table(frame, tmp_path / "plain.csv")
    frame["t"] = 'a "b", c'
    write_table(frame, tmp_path / "quoted.csv")
    plain, quoted = ((tmp_path / f"{name}.csv").read_text().splitlines() for name in ("plain", "quoted"))
    assert plain[:4] == ["self,s,i,t", "1,1,0,a", "-0,-0,1,'=b", "1e-7,1e-7,2,a"]
    assert [line.split(",")[:3] for line in plain] == [line.split(",")[:3] for line in quoted]
    assert quoted[1] == '1,1,0,"a ""b"", c"'
