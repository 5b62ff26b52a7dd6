import json
import math
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

from mixfit.data.table.read import TableFormat, detect_format, read_table
from mixfit.errors import DataError

Write = Callable[[str | bytes], Path]
Cells = list[list[str | None]]


# NUL is refused, half a surrogate pair is no text.
some_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
difficult_text = st.text(st.sampled_from(list("ab1 ,;\t|\"'\r\n.é\u2028\x85\ufeff")), max_size=6)


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
@example(column=[2**53 + 1, math.nan])
@example(column=[2**53 + 1, math.inf])
@example(column=["x", math.nan, -math.inf, None])
@given(column=st.lists(st.none() | st.integers() | st.floats() | st.booleans() | some_text, min_size=1, max_size=6))
def test_a_json_column_of_any_values_keeps_what_they_say(tmp_path: Path, column: list[object]) -> None:
    found = read_table(lines(tmp_path, *({"x": cell} for cell in column)))["x"]
    for cell, got in zip(column, found, strict=True):
        if cell is None or cell == "" or cell != cell:
            assert pd.isna(got)
        elif isinstance(got, str):
            assert got == (cell if isinstance(cell, str) else json.dumps(cell))
        else:
            assert got == cell


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ("{'a': 1}", "line 2 is not a JSON object: Expecting property name"),
        ('{"a": 1', "line 2 is not a JSON object"),
        ('{"a": 1, "a": 2}', "line 2 is not a JSON object: a key occurs more than once"),
        ("7", "line 2 is not a JSON object but 7"),
        ('{"a": ' + "[" * 100_000, "line 2 is not a JSON object"),
        ('{"a": "\\ud800"}', "column 'a' holds text that is not valid Unicode"),
    ],
)
def test_bad_json_lines_are_refused(tmp_path: Path, record: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        read_table(lines(tmp_path, {"a": "x"}, record))


def test_a_json_list_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is one JSON list; write one object a line"):
        read_table(lines(tmp_path, [{"a": 1}]))
