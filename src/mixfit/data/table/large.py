"""A Parquet table that is too large to be held as a frame: read by row groups and columns, turned into arrays in place.

In: a Parquet file and what is known of its columns. Out: ``LargeTable``, the arrays of all rows with their split. At no
time is more of the table in memory than one piece of rows, the sample that statistics are learnt from, and the result.
The state is learnt from at most ``SAMPLE`` training rows, evenly spaced, rather than from all of them: a median of a
million rows is exact enough, and a category that is not among them is rare. There are no photos: a table with image
columns is refused, and of columns of bytes no more than a few hundred cells are looked at. ``LargeTable.data`` gives
loaders over the arrays."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import torch
from jaxtyping import Float32, Int64, Shaped

from mixfit.config import DataConfig
from mixfit.data.columns.preprocess import TablePreprocessor, require_columns
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.target import Target, counted_rows, fit_target, row_weights
from mixfit.data.load import (
    NO_PHOTOS_SIZE,
    Arrays,
    MixedData,
    default_batch_size,
    infer_configured,
    split_usable,
    weight_column,
)
from mixfit.data.split import Split
from mixfit.data.table.read import checked_names, parquet_pieces
from mixfit.data.ties import Ties
from mixfit.errors import ConfigError, DataError
from mixfit.weighted import taken

PIECE = 131_072
"""Rows that are converted at a time."""
SAMPLE = 1_000_000
"""Most training rows that statistics are learnt from."""
FEW, GROUPS = 320, 32
"""Most cells of a column of bytes that are looked at, and from how many row groups."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LargeTable:
    """All rows of a table as arrays; row i is row i of the file."""

    schema: Schema
    preprocessor: TablePreprocessor
    target: Target
    split: Split
    """Rows without a target and rows of weight 0 are in none of the three."""
    numeric: Float32[np.ndarray, "rows numeric"]
    categorical: Int64[np.ndarray, "rows categorical"]
    encoded: Shaped[np.ndarray, " rows"]
    """The target as the network takes it; 0 where it is missing."""
    weight: Float32[np.ndarray, " rows"] | None
    """Weight of each row in the loss, with a mean of 1 over the training rows; None without such a column."""
    repaired: int
    """Cells that held something unusable, and categories not among those learnt from; counted, not listed."""
    truth: pd.Series
    """The target's cells of all rows, as they are in the file."""

    def data(self, *, batch_size: int | None = None, seed: int = 0, device: torch.device | str = "cpu") -> MixedData:
        """Loaders over the arrays, without a copy of them: for ``build_model``, ``Learner`` and ``Predictor``.

        Args:
            batch_size: rows in a batch; by default as ``load_data`` chooses it.
            seed: of the order of rows.
            device: where the batches are put.
        Returns:
            ``MixedData`` whose ``frame`` has the target column alone, and whose ``bad`` is empty.
        """
        weight = None if self.weight is None else torch.from_numpy(self.weight)
        arrays = Arrays(
            numeric=torch.from_numpy(self.numeric),
            categorical=torch.from_numpy(self.categorical),
            target=torch.from_numpy(self.encoded),
            slots=None,
            weight=weight,
        )
        return MixedData(
            frame=self.truth.to_frame(),
            schema=self.schema,
            split=self.split,
            preprocessor=self.preprocessor,
            target=self.target,
            arrays=arrays,
            photos=None,
            bad=[],
            image_size=NO_PHOTOS_SIZE,
            crop="squash",
            batch_size=default_batch_size(len(self.split.train)) if batch_size is None else batch_size,
            seed=seed,
            device=torch.device(device),
            ties=Ties(self.truth.to_frame(), self.schema),
        )


def load_large(
    path: str | Path, *, target: str, config: DataConfig | None = None, schema: Schema | None = None, seed: int = 0
) -> LargeTable:
    """Read a Parquet table piece by piece, learn from training rows, and fill the arrays.

    ``load_large(...).data()`` is what ``build_model`` and ``Learner`` take.

    Roles are found from evenly spaced rows of a weight above 0, unless ``schema`` says them; later only the columns it
    needs are read.

    Raises:
        ConfigError: a column or setting does not exist, or a column is an image column.
        DataError: the file is damaged, a column is missing, or too few rows have a target.
    """
    path, config = Path(path), DataConfig() if config is None else config
    if schema is None:
        frame = sample_rows(path, SAMPLE // 10, weight=weight_column(config, None))
        schema = infer_configured(frame, target, config)
    if images := schema.names("image"):
        raise ConfigError(
            f"The table has {len(images)} image columns, the first is {images[0]!r}, and a table that is read in "
            "pieces has no photos: use load_data, or set their role to ignored."
        )
    features = [name for role in ("number", "category", "date") for name in schema.names(role)]
    split, truth, weight = _split(path, schema, config, seed)
    sample = _sample_of(split.train)
    learnt_from = _rows(parquet_pieces(path, [*features, schema.target], rows=PIECE), sample)
    require_columns(learnt_from, [*features, schema.target])
    counts = taken(weight, sample)
    preprocessor = TablePreprocessor.fit(learnt_from, schema, counts)
    scale = fit_target(learnt_from[schema.target], schema.task, counts)
    del learnt_from
    rows = len(truth)
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
        weight=weight,
        repaired=repaired,
        truth=truth,
    )


def sample_rows(path: Path, count: int, *, weight: str | None = None) -> pd.DataFrame:
    """At most ``count`` evenly spaced rows with all columns; rows that weigh 0 in the column ``weight`` do not count.

    Cells of bytes may be photos, of which so many would be more than the memory holds: of such a column ``FEW`` cells
    at most are read, from the starts of evenly spaced row groups, and repeated down the rows."""
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
    """Whether cells are bytes, or a struct that has such."""
    if pa.types.is_struct(kind):
        return any(_holds_bytes(field.type) for field in kind)
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(check(kind) for check in checks)


def _split(
    path: Path, schema: Schema, config: DataConfig, seed: int
) -> tuple[Split, pd.Series, Float32[np.ndarray, " rows"] | None]:
    """Split by the few columns that decide it; also the target's cells, and the weights."""
    times = [] if config.split_time is None else [config.split_time]
    deciding = [name for role in ("group", "split", "weight") for name in schema.names(role)]
    names = list(dict.fromkeys([schema.target, *deciding, *times]))
    frame = pd.concat(list(parquet_pieces(path, names, rows=PIECE)), ignore_index=True)
    # Copies are not looked for: that would need all columns of all rows at once.
    split = split_usable(frame, schema, config, seed, Ties(frame, schema)).split
    return split, frame[schema.target], row_weights(frame, schema, split.train)


def _sample_of(train: Int64[np.ndarray, " train"]) -> Int64[np.ndarray, " sample"]:
    """At most ``SAMPLE`` of the training rows, evenly spaced."""
    return np.unique(train[np.linspace(0, len(train) - 1, min(SAMPLE, len(train))).round().astype(np.int64)])


def _rows(pieces: Iterator[pd.DataFrame], chosen: Int64[np.ndarray, " chosen"]) -> pd.DataFrame:
    """The rows at these sorted positions."""
    kept, place = [], 0
    for piece in pieces:
        start, end = np.searchsorted(chosen, [place, place + len(piece)])
        kept.append(piece.iloc[chosen[start:end] - place])
        place += len(piece)
    return pd.concat(kept, ignore_index=True)
