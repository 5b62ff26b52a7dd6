"""Cells that are lists, objects or maps make no table unreadable: the schema ignores them, or takes them for tags."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixfit.config import TextConfig
from mixfit.data.columns.infer import infer_schema
from mixfit.data.columns.schema import Column
from mixfit.data.table.pieces import table_pieces
from mixfit.data.table.read import read_table
from mixfit.data.table.write import kept_frame, write_table
from mixfit.errors import ConfigError

ROWS = 24

PLAIN: list[tuple[pa.DataType, Any]] = [
    (pa.int32(), st.integers(0, 9)),
    (pa.float64(), st.integers(0, 9).map(float)),
    (pa.bool_(), st.booleans()),
    (pa.string(), st.sampled_from(["a", "b c", "é", '"', "x, y"])),
    (pa.date32(), st.dates()),
    (pa.timestamp("ns"), st.integers(0, 2**60)),
    (pa.decimal128(9, 2), st.integers(0, 99).map(lambda n: Decimal(f"{n}.50"))),
    (pa.binary(), st.binary(max_size=3)),
]


def with_containers(inner: tuple[pa.DataType, Any]) -> Any:
    kind, cells = inner
    missing = st.none() | cells
    return st.sampled_from(
        [
            (pa.list_(kind), st.lists(missing, max_size=3)),
            (pa.large_list(kind), st.lists(missing, max_size=3)),
            (pa.list_(kind, 2), st.lists(missing, min_size=2, max_size=2)),
            (pa.struct({"x": kind, "y z": pa.int8()}), st.fixed_dictionaries({"x": missing})),
            (
                pa.map_(pa.string(), kind),
                st.dictionaries(st.text("ab", max_size=2), missing).map(lambda d: [*d.items()]),
            ),
        ]
    )


types = st.recursive(st.sampled_from(PLAIN), lambda inner: inner.flatmap(with_containers), max_leaves=2).flatmap(
    with_containers
)


@st.composite
def columns(draw: Any) -> pa.Array:
    kind, cells = draw(types)
    found = draw(st.lists(st.none() | cells, min_size=ROWS, max_size=ROWS))
    return pa.array(found, kind)


def table(column: Any) -> pa.Table:
    x = np.arange(ROWS) * 7 % 11 / 3
    return pa.table({"x": x, "nested": column, "y": 2 * x + np.arange(ROWS) % 2})


def column_of(frame: pd.DataFrame, **roles: str) -> Column:
    return next(one for one in infer_schema(frame, "y", roles=roles).columns if one.name == "nested")


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(column=columns())
def test_every_nested_type_is_read_whole_in_pieces_and_written(
    column: pa.Array, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("nested")
    pa.parquet.write_table(table(column), folder / "t.parquet", row_group_size=7)
    whole = read_table(folder / "t.parquet")
    found = column_of(whole)
    assert found.role in ("ignored", "tags")
    assert found.missing == column.null_count
    pieces = table_pieces(folder / "t.parquet", TextConfig(), most_rows=5, most_bytes=10**6)
    in_pieces = pd.concat([*pieces], ignore_index=True)
    assert [repr(cell) for cell in in_pieces["nested"]] == [repr(cell) for cell in whole["nested"]]
    assert {piece["nested"].dtype for piece in pieces} == {whole["nested"].dtype}
    with kept_frame(whole, folder / "kept.parquet"):
        again = read_table(folder / "kept.parquet")
    assert again["nested"].isna().tolist() == whole["nested"].isna().tolist()
    if column.null_count < ROWS:  # a column without a cell has no type in Python
        assert [repr(cell) for cell in again["nested"]] == [repr(cell) for cell in whole["nested"]]
    write_table(whole, folder / "t.csv")
    assert len(read_table(folder / "t.csv")) == ROWS
    write_table(whole, folder / "t.jsonl")
    assert column_of(read_table(folder / "t.jsonl")).role in ("ignored", "tags", "category")


@pytest.mark.parametrize(
    ("cells", "kind", "wanted"),
    [
        ([[1, None, 2], [], None], pa.list_(pa.int8()), [["1", "2"], [], None]),
        ([[1.0, 2.5], [3.0, 4.0]], pa.list_(pa.float32(), 2), [["1", "2.5"], ["3", "4"]]),
        ([[True], [False]], pa.large_list(pa.bool_()), [["True"], ["False"]]),
        ([["a", ""], ["b"]], pa.list_(pa.string_view()), [["a", ""], ["b"]]),
        ([["a"], ["b"]], pa.list_(pa.dictionary(pa.int8(), pa.string())), [["a"], ["b"]]),
        ([[Decimal("1.50")]], pa.list_(pa.decimal128(5, 2)), [["1.5"]]),
        ([["a"], None], pa.list_view(pa.string()), [["a"], None]),
        ([[b"a", None], None], pa.list_(pa.binary()), [[b"a"], None]),
        ([{"a": 1}], pa.struct({"a": pa.int64()}), None),
    ],
)
def test_lists_of_plain_cells_are_lists_of_text_or_bytes(
    cells: list[Any], kind: pa.DataType, wanted: list[Any] | None, tmp_path: Path
) -> None:
    pyarrow.feather.write_feather(pa.table({"a": pa.array(cells, kind)}), tmp_path / "t.feather")
    found = read_table(tmp_path / "t.feather")["a"]
    assert found.tolist() == wanted if wanted is not None else found.dtype == pd.ArrowDtype(kind)


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        ([["a", 1], [True, None]], [["a", "1"], ["True"]]),
        ([["a"], "b"], ['["a"]', "b"]),
        ([["a", {"b": 1}], ["c"]], ['["a", {"b": 1}]', '["c"]']),
        ([{"a": 1}, 7], ['{"a": 1}', "7"]),
        ([{"a": 2**70}], [f'{{"a": {2**70}}}']),
        ([{"a": {}}], ['{"a": {}}']),
    ],
)
def test_json_cells_of_different_types_are_lists_of_text_or_text(
    cells: list[Any], wanted: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "t.jsonl").write_text("".join(f"{json.dumps({'a': cell})}\n" for cell in cells))
    assert read_table(tmp_path / "t.jsonl")["a"].tolist() == wanted


OBJECTS: list[tuple[str, list[Any], str]] = [
    ("an object", [{"name": f"a{i}", "stars": i % 5} for i in range(ROWS)], "cells are of type struct"),
    ("objects that differ", [{"a": 1} if i % 2 else {"b": "x"} for i in range(ROWS)], "cells are of type struct"),
    ("deep", [[[f"a{i}"]] for i in range(ROWS)], "objects, or lists of objects or lists"),
    ("lists of objects", [[{"date": "2020"}] for _ in range(ROWS)], "objects, or lists of objects or lists"),
    ("vectors", [[i + 0.25, i + 0.5] for i in range(ROWS)], "lists of 48 items that rarely repeat"),
    ("names of photos", [[f"{i}.jpg"] for i in range(ROWS)], "lists of photo names"),
    ("empty lists", [[] for _ in range(ROWS)], "empty lists"),
    (
        "objects of one key with different cells",
        [{"a": 1 if i % 2 else "x"} for i in range(ROWS)],
        "texts of objects, or lists",
    ),
]


@pytest.mark.parametrize(("cells", "reason"), [case[1:] for case in OBJECTS], ids=[case[0] for case in OBJECTS])
@pytest.mark.parametrize("form", ["frame", "parquet", "feather", "jsonl"])
def test_what_cannot_be_used_is_ignored_with_the_reason(
    form: str, cells: list[Any], reason: str, tmp_path: Path
) -> None:
    x = np.arange(ROWS) * 7 % 11 / 3
    frame = pd.DataFrame({"x": x, "nested": pd.Series(cells, dtype=object), "y": 2 * x})
    path = tmp_path / f"t.{form}"
    if form == "jsonl":
        records = [{"x": a, "nested": b, "y": 2 * a} for a, b in zip(x, cells, strict=True)]
        path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
        frame = read_table(path)
    elif "texts" in reason and form != "frame":
        pytest.skip("no typed file holds this")
    elif form == "parquet":
        pa.parquet.write_table(pa.table({"x": x, "nested": cells, "y": 2 * x}), path)
        frame = read_table(path)
    elif form == "feather":
        pyarrow.feather.write_feather(pa.table({"x": x, "nested": cells, "y": 2 * x}), path)
        frame = read_table(path)
    else:
        with kept_frame(frame, tmp_path / "t.parquet"):
            frame = read_table(tmp_path / "t.parquet")
    found = column_of(frame)
    assert found.role == "ignored"
    assert found.reason.startswith(reason)


@pytest.mark.parametrize("cells", [[{}] * ROWS, [{"a": {}}] * ROWS, [[{}]] * ROWS, [{(1, 2): 3}] * ROWS])
def test_objects_that_no_file_has_are_kept_as_text(cells: list[Any], tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": np.arange(ROWS) / 7, "nested": pd.Series(cells, dtype=object), "y": np.arange(ROWS)})
    with kept_frame(frame, tmp_path / "t.parquet"):
        assert column_of(read_table(tmp_path / "t.parquet")).role == "ignored"


@pytest.mark.parametrize("role", ["number", "category", "date", "group", "image", "split", "weight", "tags"])
def test_only_a_role_that_objects_cannot_take_is_refused(role: str, tmp_path: Path) -> None:
    pa.parquet.write_table(table(pa.array([{"a": i} for i in range(ROWS)])), tmp_path / "t.parquet")
    frame = read_table(tmp_path / "t.parquet")
    with pytest.raises(
        ConfigError, match=f"'nested' cannot have the role {role}: its cells are of type struct<a: int64>"
    ):
        column_of(frame, nested=role)
    with pytest.raises(ConfigError, match="the target 'nested' holds cells of type struct<a: int64>"):
        infer_schema(frame, "nested")


def test_a_type_of_many_fields_is_told_shortly(tmp_path: Path) -> None:
    wide = pa.array([{f"field_{n}": n for n in range(99)}] * ROWS)
    pa.parquet.write_table(table(wide), tmp_path / "t.parquet")
    assert len(column_of(read_table(tmp_path / "t.parquet")).reason) < 120
