"""Every type of pandas and pyarrow is read without loss, alike from a frame, a file, and rows to predict."""

import datetime as dt
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mixfit.config import TextConfig
from mixfit.data.columns.infer import infer_schema
from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.values import to_keys, to_numbers
from mixfit.data.table.pieces import table_pieces
from mixfit.data.table.read import read_table
from mixfit.data.table.write import kept_frame

ROWS = 24
MOMENTS = st.datetimes(dt.datetime(1950, 1, 1), dt.datetime(2100, 1, 1))

SECONDS = MOMENTS.map(lambda at: at.replace(microsecond=0))


def named(one: object) -> str:
    """Of a case, for the name of the test."""
    return str(one) if isinstance(one, pa.DataType) else ""


def whole(bits: int, *, signed: bool = True) -> Any:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else st.integers(0, 2**bits - 1)


def decimals(digits: int, scale: int) -> Any:
    return st.integers(-(10**digits) + 1, 10**digits - 1).map(lambda n: Decimal(f"{n}E-{scale}"))


TYPES: list[tuple[pa.DataType, Any, str]] = [
    *[(getattr(pa, f"int{bits}")(), whole(bits), "number") for bits in (8, 16, 32, 64)],
    *[(getattr(pa, f"uint{bits}")(), whole(bits, signed=False), "number") for bits in (8, 16, 32, 64)],
    (pa.float32(), st.floats(-1e6, 1e6, width=32).map(lambda x: x + 0.0), "number"),
    (pa.float64(), st.floats(-1e12, 1e12).map(lambda x: x + 0.0), "number"),
    (pa.float16(), st.integers(-999, 999).map(np.float16), "number"),
    (pa.bool_(), st.booleans(), "category"),
    (pa.decimal128(38, 0), decimals(38, 0), "number"),
    (pa.decimal128(38, 18), decimals(30, 18), "number"),
    (pa.decimal128(12, 2), decimals(12, 2), "number"),
    (pa.decimal256(70, 5), decimals(60, 5), "number"),
    (pa.duration("ms"), st.integers(0, 10**9).map(lambda n: dt.timedelta(milliseconds=n)), "number"),
    (pa.duration("us"), st.integers(0, 10**12).map(lambda n: dt.timedelta(microseconds=n)), "number"),
    (pa.date32(), MOMENTS.map(dt.datetime.date), "date"),
    (pa.date64(), MOMENTS.map(dt.datetime.date), "date"),
    *[
        (pa.timestamp(unit), MOMENTS.map(lambda at: at.replace(microsecond=0)), "date")
        for unit in ("s", "ms", "us", "ns")
    ],
    (pa.timestamp("us", tz="Asia/Kolkata"), MOMENTS.map(lambda at: at.replace(tzinfo=dt.UTC)), "date"),
    (pa.time32("s"), MOMENTS.map(lambda at: at.time().replace(microsecond=0)), "date"),
    (pa.time64("us"), MOMENTS.map(dt.datetime.time), "date"),
    (pa.string(), st.sampled_from("abc"), "category"),
    (pa.large_string(), st.sampled_from(["x y", "é", "NA"]), "category"),
    (pa.string_view(), st.sampled_from("abc"), "category"),
]
ENCODED = [
    (pa.dictionary(pa.int32(), kind), cells, role)
    for kind, cells, role in TYPES
    if kind in (pa.int64(), pa.string(), pa.decimal128(38, 0), pa.float64())
]


def encoded(kind: pa.DataType, cells: list[Any]) -> pa.Array:
    """An array of a type, which may be a dictionary."""
    if not pa.types.is_dictionary(kind):
        return pa.array(cells, kind)
    return pa.array(cells, kind.value_type).dictionary_encode()


def as_arrow_type(kind: pa.DataType, cells: list[Any]) -> pd.Series:
    return pd.Series(pd.array(encoded(kind, cells), dtype=pd.ArrowDtype(kind)))


def as_objects(kind: pa.DataType, cells: list[Any]) -> pd.Series:
    return pd.Series(cells, dtype=object)


@pytest.mark.parametrize(("kind", "cells", "role"), TYPES + ENCODED, ids=named)
@settings(deadline=None, max_examples=2, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_type_means_the_same_in_frames_files_and_pieces(
    kind: pa.DataType, cells: Any, role: str, data: st.DataObject, tmp_path: Path
) -> None:
    drawn = data.draw(st.lists(cells, min_size=ROWS // 2, max_size=ROWS // 2))
    values = [*drawn, None, *drawn[1:], None]
    path = tmp_path / "t.parquet"
    column = encoded(kind, values)
    pyarrow.parquet.write_table(pa.table({"x": column}), path, row_group_size=7)
    read = read_table(path)["x"]
    made = [as_arrow_type] if kind == pa.string_view() else [as_arrow_type, as_objects]
    frames = [read, *(make(kind, values) for make in made)]
    pieces = table_pieces(path, TextConfig(), most_rows=8, most_bytes=2**30)
    frames.append(pd.concat([piece["x"] for piece in pieces], ignore_index=True))
    keys = [to_keys(one) for one in frames]
    # as many different keys as there are different cells, at the same rows
    truth = pd.factorize(pd.Series(values, dtype=object).map(str, na_action="ignore"))[0]
    for one in keys:
        assert (pd.factorize(one)[0] == truth).all(), (one.tolist(), values)
    assert all((pd.factorize(one)[0] == pd.factorize(keys[0])[0]).all() for one in keys)
    numbers = [to_numbers(one) for one in frames]
    for one in numbers[1:]:
        np.testing.assert_array_equal(one.values, numbers[0].values)
    if role == "number":
        known = ~np.isnan(numbers[0].values)
        assert known.tolist() == [cell is not None for cell in values]
        wanted = [
            cell.total_seconds() if isinstance(cell, dt.timedelta) else float(cell)
            for cell in values
            if cell is not None
        ]
        np.testing.assert_allclose(numbers[0].values[known], wanted, rtol=1e-15)


# pandas cannot work with columns of string views itself
@pytest.mark.parametrize(("kind", "cells", "role"), [one for one in TYPES if one[0] != pa.string_view()], ids=named)
@settings(deadline=None, max_examples=2, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_learnt_of_a_frame_reads_the_file_and_the_other_way_round(
    kind: pa.DataType, cells: Any, role: str, data: st.DataObject, tmp_path: Path
) -> None:
    drawn = data.draw(st.lists(cells, min_size=ROWS, max_size=ROWS, unique_by=str if role != "category" else None))
    path, y = tmp_path / "t.parquet", np.arange(ROWS) * 1.5
    pyarrow.parquet.write_table(pa.table({"x": pa.array(drawn, kind), "y": y}), path)
    frame = pd.DataFrame({"x": as_arrow_type(kind, drawn), "y": y})
    kept = tmp_path / "kept.parquet"
    with kept_frame(frame, kept):
        tables = [frame, read_table(path), read_table(kept)]
    seen = []
    for learnt in tables:
        schema = infer_schema(learnt, "y", roles={"x": role})
        schema = Schema.from_dict(json.loads(json.dumps(schema.to_dict())))
        fit = TablePreprocessor.fit(learnt, schema)
        found = [fit.transform(schema.table(table)) for table in tables]
        assert all(one.repaired == [] for one in found)
        seen += [(one.numeric.tobytes(), one.categorical.tobytes()) for one in found]
    assert len(set(seen)) == 1


def test_long_decimals_are_no_number_and_keep_all_digits_as_groups(tmp_path: Path) -> None:
    ids = [Decimal(10**37 + i // 2) for i in range(ROWS)]
    path = tmp_path / "t.parquet"
    table = pa.table(
        {"owner_id": pa.array(ids, pa.decimal128(38, 0)), "x": np.arange(ROWS) % 7, "y": np.arange(ROWS) * 1.5}
    )
    pyarrow.parquet.write_table(table, path)
    schema = infer_schema(read_table(path), "y")
    assert schema.names("group") == ["owner_id"]
    assert read_table(path)["owner_id"].nunique() == ROWS // 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: pd.Series(pd.period_range("2020-01", periods=ROWS, freq="M")),
        lambda: pd.Series(pd.interval_range(0, ROWS)),
        lambda: pd.Series(np.arange(ROWS) % 9).astype("Sparse[int]"),
        lambda: pd.Series([dt.timedelta(hours=hour) for hour in range(ROWS)], dtype=object),
        lambda: pd.Series([np.int64(2**60 + one) for one in range(ROWS)], dtype=object),
        lambda: pd.Series(np.arange(ROWS) % 3 == 0).astype("boolean"),
    ],
)
def test_types_that_no_file_has_are_kept_in_one(make: Callable[[], pd.Series], tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": make(), "y": np.arange(ROWS) * 1.5, "z": np.arange(ROWS) % 7})
    with kept_frame(frame, tmp_path / "t.parquet"):
        kept = read_table(tmp_path / "t.parquet")
    assert to_keys(kept["x"]).nunique() == to_keys(frame["x"]).nunique()
    roles = [infer_schema(table, "y").columns[0].role for table in (frame, kept)]
    assert roles[0] == roles[1]
