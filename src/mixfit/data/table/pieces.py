"""A table read piece by piece: each piece has the dtypes that its columns have in the whole table.

In: a table file. Out: ``TablePieces``, used for prediction and for training on large tables.
Parquet and large well-formed text tables are read from disk one piece at a time. Other tables are read whole and then
divided. Knows nothing of roles or predictions."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from jaxtyping import Int64

from mixfit.config import TextConfig
from mixfit.data.columns.cells import Table
from mixfit.data.columns.form import UNKNOWN_TEXT, TextForm, decimal_text
from mixfit.data.columns.target import counted_rows
from mixfit.data.photos.cells import bytes_columns, is_photo_struct
from mixfit.data.table.nested import is_list_of_plain
from mixfit.data.table.read import (
    EXACT_DIGITS,
    LARGEST_EXACT,
    UNREADABLE,
    asked_format,
    checked_names,
    damaged,
    parquet_pieces,
    read_as_configured,
    to_frame,
)
from mixfit.data.table.text_pieces import TextPieces, text_pieces

PIECE = 131_072
"""Number of rows per piece when reading typed columns."""
FEW, GROUPS = 320, 32
"""Number of cells of a bytes column that are sampled, and of row groups that they are sampled from."""
SCANNED = 131_072
"""Number of rows per piece when columns are scanned for their dtypes."""
_kinds = pa.types


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TablePieces:
    """Iterate over it, any number of times, to get frames whose rows are numbered from 0."""

    rows: int
    """Number of rows of the whole table."""
    types: Mapping[str, pa.DataType]
    """Types of columns whose cells are Python objects: they cannot be inferred from a piece without values."""
    bytes_columns: tuple[str, ...]
    """Columns whose cells are bytes."""
    size: int
    """Rows per piece; the last piece may have fewer."""
    path: Path
    table: Table | None
    """The whole table, if it had to be read whole."""
    settled: Mapping[str, str]
    """dtypes of columns that would otherwise differ between pieces."""
    scales: Mapping[str, int] = field(default_factory=dict)
    """Number of decimal places of decimal columns."""
    columns: list[str] | None = None
    """The columns to read; None for all."""
    text: TextPieces | None = None
    """A text table that is read from disk."""
    file: TextForm = UNKNOWN_TEXT
    """How a text table is written."""

    def __iter__(self) -> Iterator[pd.DataFrame]:
        if self.table is not None:
            for start in range(0, self.rows, self.size):
                yield self.table.frame.iloc[start : start + self.size].reset_index(drop=True)
            return
        yield from _of_size(self._from_disk(), self.size)

    def read(self, read: Callable[[Table], Table]) -> Iterator[Table]:
        """The pieces as tables, after applying ``read``: to the whole table if it is in memory, else to each piece."""
        if self.table is None:
            yield from (read(Table(piece, self.file)) for piece in self)
            return
        whole = read(self.table)
        for start in range(0, max(self.rows, 1), self.size):  # a table without rows has one empty piece
            yield whole.select(np.arange(start, min(start + self.size, self.rows)))

    def _from_disk(self) -> Iterator[pd.DataFrame]:
        """Pieces of varying length: a piece may end with its row group, or block of text."""
        if self.text is not None:
            names = checked_names(self.text.header.names, self.path)
            for batch in self.text.batches():
                yield to_frame(pa.Table.from_batches([batch]).rename_columns(names), self.path, rows=0)
            return
        for piece in parquet_pieces(self.path, self.columns, rows=self.size):
            for name, dtype in self.settled.items():
                piece[name] = _brought_to(piece[name], dtype, self.scales.get(name, 0))
            yield piece


def table_pieces(
    path: Path,
    config: TextConfig,
    *,
    most_rows: int,
    most_bytes: int,
    multiple: int = 1,
    columns: list[str] | None = None,
    learnt: TextForm | None = None,
    least: int = 1,
    undecided: Collection[str] = (),
) -> TablePieces:
    """Open a table.

    Args:
        path: a table in any supported format.
        config: format of a text table.
        most_rows, most_bytes: limits of a piece; bytes are uncompressed bytes in the file, on average. Smaller text
            tables are read whole.
        multiple: the number of rows of a piece is a multiple of this.
        columns: the columns of a Parquet table to read; None for all.
        learnt, least: as for ``read_as_configured``.
        undecided: see ``text_pieces``.
    Raises: as ``read_as_configured``; for Parquet, some errors occur only while the pieces are read.
    """
    size = max(most_rows // multiple, 1) * multiple
    asked = asked_format(path, config)
    if asked.kind == "csv" and (config.decimal is None or not undecided):
        text = text_pieces(
            path,
            separator=asked.separator,
            encoding=asked.encoding,
            learnt=learnt or UNKNOWN_TEXT,
            least_bytes=most_bytes,
            undecided=undecided,
        )
        if text is not None and text.rows >= least:
            fitting = int(most_bytes * text.rows / max(text.end - text.start, 1))
            return TablePieces(
                rows=text.rows,
                types={},
                bytes_columns=(),
                size=min(size, max(fitting // multiple, 1) * multiple),
                path=path,
                table=None,
                settled={},
                text=text,
                file=TextForm(encoding=text.encoding, separator=text.separator, decimal=config.decimal),
            )
    if asked.kind != "parquet":
        return _read_whole(path, config, learnt, size, least)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            about, schema = file.metadata, file.schema_arrow
            bytes_of_all = sum(about.row_group(group).total_byte_size for group in range(file.num_row_groups))
    except UNREADABLE as error:
        raise damaged(path, "parquet", error) from None
    if not about.num_rows:
        return _read_whole(path, config, learnt, size, least)
    kinds = {
        name: _stored(field.type)
        for name, field in zip(checked_names(schema.names, path), schema, strict=True)
        if columns is None or name in columns
    }
    fitting = int(most_bytes * about.num_rows / max(bytes_of_all, 1))
    changing = partial(parquet_pieces, path, rows=SCANNED)
    types = {name: known for name, kind in kinds.items() if (known := _type_of_objects(kind)) is not None}
    return TablePieces(
        rows=about.num_rows,
        types=types,
        bytes_columns=tuple(name for name, kind in types.items() if _kinds.is_binary(kind)),
        size=min(size, max(fitting // multiple, 1) * multiple),
        path=path,
        table=None,
        columns=columns,
        scales={name: max(kind.scale, 0) for name, kind in kinds.items() if _kinds.is_decimal(kind)},
        settled=_settled([changing([name]) for name, kind in kinds.items() if _may_change(kind)]),
    )


def _read_whole(path: Path, config: TextConfig, learnt: TextForm | None, size: int, least: int) -> TablePieces:
    table, _ = read_as_configured(path, config, learnt, least=least)
    frame = table.frame
    return TablePieces(
        rows=len(frame),
        types={name: pa.array(frame[name]).type for name in frame if frame[name].dtype == object},
        bytes_columns=tuple(bytes_columns(frame)),
        size=size,
        path=path,
        table=table,
        settled={},
        file=table.file,
    )


def bytes_of_parquet(path: Path) -> int:
    """Uncompressed size in bytes of the cells in a Parquet file; 0 for any other file."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            return sum(file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups))
    except UNREADABLE:
        return 0


def sample_rows(path: Path, count: int, *, weight: str | None = None) -> pd.DataFrame:
    """At most ``count`` evenly spaced rows with all columns; rows of weight 0 in the column ``weight`` are skipped.

    Bytes columns may hold photos, which might not fit into memory: at most ``FEW`` cells of each are read, from
    the starts of evenly spaced row groups, and repeated to fill the rows."""
    with pyarrow.parquet.ParquetFile(path) as file:
        total, groups, schema = file.metadata.num_rows, file.num_row_groups, file.schema_arrow
    names = checked_names(schema.names, path)
    counted = np.arange(total)
    if weight in names:
        cells = pd.concat(list(parquet_pieces(path, [weight], rows=PIECE)), ignore_index=True)
        counted = np.flatnonzero(counted_rows(cells, weight)[0])
    chosen = counted[np.linspace(0, len(counted) - 1, min(count, len(counted))).round().astype(np.int64)]
    heavy = [name for name, field in zip(names, schema, strict=True) if _holds_bytes(field.type)]
    plain = [name for name in names if name not in heavy] or None
    frame = _rows(parquet_pieces(path, plain, rows=PIECE), np.unique(chosen))
    if heavy and plain:
        starts = np.unique(np.linspace(0, groups - 1, min(GROUPS, groups)).round().astype(np.int64)).tolist()
        each = FEW // len(starts)
        cells = pd.concat(
            [next(parquet_pieces(path, heavy, rows=each, groups=[group])) for group in starts], ignore_index=True
        )
        repeated = cells.iloc[np.arange(len(frame)) * len(cells) // max(len(frame), 1)]
        frame = pd.concat([frame, repeated.reset_index(drop=True)], axis=1)[names]
    return frame


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether cells are bytes, or a struct with a bytes field."""
    if pa.types.is_struct(kind):
        return any(_holds_bytes(field.type) for field in kind)
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(check(kind) for check in checks)


def _rows(pieces: Iterator[pd.DataFrame], chosen: Int64[np.ndarray, " chosen"]) -> pd.DataFrame:
    """The rows at the given positions, which are sorted."""
    kept, place = [], 0
    for piece in pieces:
        start, end = np.searchsorted(chosen, [place, place + len(piece)])
        kept.append(piece.iloc[chosen[start:end] - place])
        place += len(piece)
    return pd.concat(kept, ignore_index=True)


def _of_size(frames: Iterator[pd.DataFrame], size: int) -> Iterator[pd.DataFrame]:
    """The same rows in frames of ``size`` rows; the last frame may have fewer."""
    waiting: list[pd.DataFrame] = []
    lacking = size
    for frame in frames:
        while len(frame) >= lacking:
            yield pd.concat([*waiting, frame.iloc[:lacking]], ignore_index=True)
            frame, waiting, lacking = frame.iloc[lacking:], [], size
        if len(frame):
            waiting.append(frame)
            lacking -= len(frame)
    if waiting:
        yield pd.concat(waiting, ignore_index=True)


def _stored(kind: pa.DataType) -> pa.DataType:
    """The type of the values of a column, which may be dictionary-encoded."""
    return kind.value_type if _kinds.is_dictionary(kind) else kind


def _may_change(kind: pa.DataType) -> bool:
    """Whether the dtype of a piece depends on whether it has missing cells."""
    many_digits = _kinds.is_decimal(kind) and kind.precision > EXACT_DIGITS
    return _kinds.is_integer(kind) or _kinds.is_boolean(kind) or many_digits


def _type_of_objects(kind: pa.DataType) -> pa.DataType | None:
    """The Arrow type to write for columns that pandas holds as Python objects; None for all other columns."""
    if _kinds.is_boolean(kind):
        return pa.bool_()
    if _kinds.is_time(kind):
        return pa.time64("us")
    binary = (_kinds.is_binary, _kinds.is_large_binary, _kinds.is_fixed_size_binary, _kinds.is_binary_view)
    if is_list_of_plain(kind):
        return pa.list_(pa.string())
    return pa.binary() if is_photo_struct(kind) or any(is_kind(kind) for is_kind in binary) else None


def _settled(columns: list[Iterator[pd.DataFrame]]) -> dict[str, str]:
    """The whole-table dtypes of integer and Boolean columns that have missing cells; each column is read once."""
    found = {}
    for pieces in columns:
        dtypes: set[str] = set()
        large, name = False, ""
        for piece in pieces:
            name = str(piece.columns[0])
            column = piece[name]
            dtypes.add(str(column.dtype))
            if column.dtype.kind in "iu":
                large |= max(-int(column.min()), int(column.max())) > LARGEST_EXACT
        if "object" in dtypes:
            found[name] = "object"
        elif "str" in dtypes or ("float64" in dtypes and large):
            found[name] = "str"
        elif "float64" in dtypes:
            found[name] = "float64"
    return found


def _brought_to(column: pd.Series, dtype: str, scale: int) -> pd.Series:
    """The same cells in another dtype. float64 columns of integers with missing values, or of decimals with ``scale``
    decimal places, are converted to text accordingly."""
    if dtype == "str" and column.dtype.kind in "iuf":
        cells = [None if np.isnan(cell) else decimal_text(cell, scale) if scale else str(int(cell)) for cell in column]
        return pd.Series(cells, dtype="str")
    return column.astype(dtype)
