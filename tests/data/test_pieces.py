"""Tables in pieces: sizes, and the dtypes of the whole."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from mixfit.config import TextConfig
from mixfit.data.columns.values import to_keys
from mixfit.data.table.pieces import TablePieces, table_pieces
from mixfit.data.table.read import read_table
from mixfit.errors import ConfigError, DataError


def opened(path: Path, rows: int, *, most_bytes: int = 2**30, multiple: int = 1) -> TablePieces:
    return table_pieces(path, TextConfig(), most_rows=rows, most_bytes=most_bytes, multiple=multiple)


def write(path: Path, **columns: pa.Array) -> Path:
    pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=4)
    return path


@pytest.mark.parametrize("kind", [".parquet", ".csv", ".jsonl", ".feather"])
def test_pieces_are_the_rows_of_the_table(kind: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.arange(20), "b": [None, "x"] * 10, "c": [True, None, False, None] * 5})
    path = tmp_path / f"t{kind}"
    match kind:
        case ".parquet":
            frame.to_parquet(path, row_group_size=6)
        case ".csv":
            frame.to_csv(path, index=False)
        case ".jsonl":
            frame.to_json(path, orient="records", lines=True)
        case _:
            frame.to_feather(path)
    pieces = opened(path, 7)
    assert pieces.rows == 20
    for _ in range(2):  # again from the start
        found = list(pieces)
        assert [len(piece) for piece in found] == [7, 7, 6]
        assert all(piece.index.equals(pd.RangeIndex(len(piece))) for piece in found)
        pd.testing.assert_frame_equal(pd.concat(found, ignore_index=True), read_table(path))


@pytest.mark.parametrize(
    "cells",
    [
        pa.array([1, 2, 3, 4, 5, None, 7, 8]),
        pa.array([None, None, None, None, 5, 6, 7, 8], pa.int8()),
        pa.array([1, 2, None, 4, 5, 6, 7, 2**53 + 1]),
        pa.array([-(2**63), 2, 3, 4, None, 6, 7, 8]),
        pa.array([2**63 + 5, 2, 3, 4, None, None, None, None], pa.uint64()),
        pa.array([2**60, 2, 3, 4, 5, 6, 7, 8]),
        pa.array([1, 2, 3, 4, None, 6, 7, 8]).dictionary_encode(),
        pa.array([True, False, True, True, None, None, None, None]),
        pa.array([True] * 8),
    ],
    ids=lambda cells: str(cells.type),
)
def test_every_piece_has_the_dtype_of_the_whole(cells: pa.Array, tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", a=cells)
    whole = read_table(path)
    for piece, start in zip(opened(path, 2), range(0, 8, 2), strict=True):
        expected = whole.iloc[start : start + 2].reset_index(drop=True)
        pd.testing.assert_frame_equal(piece, expected)
        assert to_keys(piece["a"]).equals(to_keys(expected["a"]))


def test_the_size_follows_from_rows_bytes_and_the_multiple(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", a=pa.array(["x" * 1000 + str(i) for i in range(100)]))
    assert opened(path, 50).size == 50
    assert opened(path, 50, multiple=8).size == 48
    assert opened(path, 3, multiple=8).size == 8
    assert 5 <= opened(path, 50, most_bytes=10_500).size <= 10  # the file's own words take some of them
    assert opened(path, 50, most_bytes=10_500, multiple=4).size in (4, 8)
    assert opened(path, 50, most_bytes=1, multiple=4).size == 4


def test_bytes_and_structs_with_photos_are_known_without_a_cell(tmp_path: Path) -> None:
    photo = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    path = write(tmp_path / "t.parquet", a=pa.array([None] * 9, pa.binary()), b=pa.array([None] * 9, photo))
    assert opened(path, 5).bytes_columns == ("a", "b")
    assert opened(path, 5).types == {"a": pa.binary(), "b": pa.binary()}


def test_unusable_tables_are_refused_as_ever(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        opened(tmp_path / "none.parquet", 5)
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"cut\.parquet is empty, damaged or not a parquet file"):
        opened(tmp_path / "cut.parquet", 5)
    write(tmp_path / "rows.parquet", a=pa.array([], pa.int64()))
    with pytest.raises(DataError, match="has a header but no data rows"):
        opened(tmp_path / "rows.parquet", 5)
    write(tmp_path / "list.parquet", a=pa.array([[1], [2]]))
    with pytest.raises(ConfigError, match="--sep is for text tables"):
        table_pieces(tmp_path / "list.parquet", TextConfig(sep=";"), most_rows=5, most_bytes=99)


def test_no_more_than_a_few_row_groups_are_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    numbers = np.random.default_rng(0).normal(size=1_000_000)
    pyarrow.parquet.write_table(pa.table({"a": numbers}), path, row_group_size=20_000, use_dictionary=False)
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in opened(path, 10_000)]
    assert len(held) == 100
    assert max(held) < path.stat().st_size / 5
