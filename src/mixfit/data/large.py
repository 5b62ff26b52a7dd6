"""A Parquet table that is too large to be held as a frame: read by row groups and columns, turned into arrays in place.

In: a Parquet file and what is known of its columns. Out: ``LargeTable``, the arrays of all rows with their split. At no
time is more of the table in memory than one piece of rows, the sample that statistics are learnt from, and the result.
The state is learnt from at most ``SAMPLE`` training rows, evenly spaced, rather than from all of them: a median of a
million rows is exact enough, and a category that is not among them is rare. Reads no photos."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
from jaxtyping import Float32, Int64, Shaped

from mixfit.config import DataConfig
from mixfit.data.infer import infer_schema
from mixfit.data.preprocess import TablePreprocessor, require_columns
from mixfit.data.schema import Schema
from mixfit.data.split import Split, split_rows
from mixfit.data.table import parquet_pieces
from mixfit.data.target import Target, fit_target, usable_rows
from mixfit.errors import DataError

PIECE = 131_072
"""Rows that are converted at a time."""
SAMPLE = 1_000_000
"""Most training rows that statistics are learnt from."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LargeTable:
    """All rows of a table as arrays; row i is row i of the file."""

    schema: Schema
    preprocessor: TablePreprocessor
    target: Target
    split: Split
    """Rows without a target are in none of the three."""
    numeric: Float32[np.ndarray, "rows numeric"]
    categorical: Int64[np.ndarray, "rows categorical"]
    encoded: Shaped[np.ndarray, " rows"]
    """The target as the network takes it; 0 where it is missing."""
    repaired: int
    """Cells that held something unusable, and categories not among those learnt from; counted, not listed."""


def load_large(
    path: Path, *, target: str, config: DataConfig | None = None, schema: Schema | None = None, seed: int = 0
) -> LargeTable:
    """Read a Parquet table piece by piece, learn from training rows, and fill the arrays.

    Roles are found from evenly spaced pieces, unless ``schema`` says them; later only the columns it needs are read.

    Raises:
        ConfigError: a column or setting does not exist.
        DataError: the file is damaged, a column is missing, or too few rows have a target.
    """
    config = DataConfig() if config is None else config
    if schema is None:
        frame = sample_rows(path, SAMPLE // 10)
        schema = infer_schema(frame, target, roles=config.roles, ignore=config.ignore, task=config.task)
    features = [name for role in ("number", "category", "date") for name in schema.names(role)]
    usable, split = _split(path, schema, config, seed)
    learnt_from = _training_sample(path, [*features, schema.target], split.train)
    preprocessor = TablePreprocessor.fit(learnt_from, schema)
    scale = fit_target(learnt_from[schema.target], schema.task)
    del learnt_from
    rows = len(usable)
    numeric = np.empty((rows, len(preprocessor.numeric_names)), dtype=np.float32)
    categorical = np.empty((rows, len(preprocessor.categories)), dtype=np.int64)
    encoded = np.zeros(rows, dtype=np.float32 if schema.task == "regression" else np.int64)
    repaired = place = 0
    for piece in parquet_pieces(path, [*features, schema.target], rows=PIECE):
        end = place + len(piece)
        arrays = preprocessor.transform(piece)
        numeric[place:end], categorical[place:end] = arrays.numeric, arrays.categorical
        encoded[place:end] = np.nan_to_num(scale.encode(piece[schema.target]))
        repaired += len(arrays.repaired)
        place = end
    if place != rows:
        raise DataError(f"{path} changed while it was read: it had {rows:,} rows, now {place:,}; start again.")
    known = np.ones(rows, dtype=bool) if scale.classes is None else np.greater_equal(encoded, 0)
    return LargeTable(
        schema=schema,
        preprocessor=preprocessor,
        target=scale,
        split=Split(*(part[known[part]] for part in (split.train, split.valid, split.test))),
        numeric=numeric,
        categorical=categorical,
        encoded=encoded,
        repaired=repaired,
    )


def sample_rows(path: Path, count: int) -> pd.DataFrame:
    """At most ``count`` evenly spaced rows with all columns."""
    with pyarrow.parquet.ParquetFile(path) as file:
        total = file.metadata.num_rows
    chosen = np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)
    return _rows(parquet_pieces(path, None, rows=PIECE), np.unique(chosen))


def _split(path: Path, schema: Schema, config: DataConfig, seed: int) -> tuple[np.ndarray, Split]:
    """Split by the few columns that decide it."""
    names = [schema.target, *schema.names("group"), *schema.names("split")]
    frame = pd.concat(list(parquet_pieces(path, names, rows=PIECE)), ignore_index=True)
    usable, _ = usable_rows(frame, schema, config.max_missing_target)
    positions = np.flatnonzero(usable)
    inner = split_rows(frame.iloc[positions], schema, valid=config.valid, test=config.test, seed=seed)
    parts = (positions[inner.train], positions[inner.valid], positions[inner.test])
    return usable, Split(*parts)


def _training_sample(path: Path, names: Sequence[str], train: Int64[np.ndarray, " train"]) -> pd.DataFrame:
    chosen = train[np.linspace(0, len(train) - 1, min(SAMPLE, len(train))).round().astype(np.int64)]
    frame = _rows(parquet_pieces(path, names, rows=PIECE), np.unique(chosen))
    require_columns(frame, names)
    return frame


def _rows(pieces: Iterator[pd.DataFrame], chosen: Int64[np.ndarray, " chosen"]) -> pd.DataFrame:
    """The rows at these sorted positions."""
    kept, place = [], 0
    for piece in pieces:
        start, end = np.searchsorted(chosen, [place, place + len(piece)])
        kept.append(piece.iloc[chosen[start:end] - place])
        place += len(piece)
    return pd.concat(kept, ignore_index=True)
