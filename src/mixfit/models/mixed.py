"""Rows that are put together from the cells and the photos of several others: what a model would predict if a row had
the maker of one row and the photos of another.

Many such rows have the same table cells and differ in their photos, or the other way round. So both parts stand here
but once, and a model does once for each what it can."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.dataset import FeatureTable
from mixfit.models.encoding import EncodedRows, PhotoMeans, RowEncoder, mean_features


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Which rows the parts of each mixed row come from."""

    cells: Int64[np.ndarray, "tables columns"]
    """The row from which each column of a table part comes."""
    columns: tuple[str, ...]
    """Names of these columns."""
    photos: Int64[np.ndarray, "galleries places"]
    """The row from which the photos of each image column come, the columns being numbered as in ``Photos.columns``."""
    table_of: Int64[np.ndarray, " rows"]
    """The table part of each mixed row."""
    photos_of: Int64[np.ndarray, " rows"]
    """The photo part of each mixed row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedRows:
    """Mixed rows by the encoder of one fold."""

    numeric: Float32[np.ndarray, "tables numeric"]
    categorical: Int64[np.ndarray, "tables categorical"]
    prefixes: Int64[np.ndarray, "tables prefixes"]
    gallery: "Gallery"
    table_of: Int64[np.ndarray, " rows"]
    photos_of: Int64[np.ndarray, " rows"]

    def __len__(self) -> int:
        return len(self.table_of)

    @property
    def tables(self) -> EncodedRows:
        """Each table part, as a row without photos."""
        return EncodedRows(
            numeric=self.numeric,
            categorical=self.categorical,
            prefixes=self.prefixes,
            photos=None,
            seen=np.zeros(len(self.numeric), dtype=bool),
        )

    @property
    def photos(self) -> EncodedRows:
        """Each photo part, as a row of a table without columns."""
        means = self.gallery.means
        none = np.zeros((len(means.seen), 0), dtype=np.int64)
        return EncodedRows(
            numeric=none.astype(np.float32), categorical=none, prefixes=none, photos=means.values, seen=means.seen
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """The photo parts of mixed rows."""

    slots: Int64[np.ndarray, "galleries places"]
    """Which photo of the features is in which place; -1 = none."""
    columns: Int64[np.ndarray, " places"]
    """Which image column each place belongs to."""
    features: FeatureTable | None
    """Of the frozen network that all models share; None without one."""
    means: PhotoMeans
    """Of these features."""

    @classmethod
    def of(
        cls,
        mixture: Mixture,
        slots: Int64[np.ndarray, "rows places"] | None,
        columns: Int64[np.ndarray, " places"] | None,
        features: FeatureTable | None,
    ) -> "Gallery":
        """Put photos together.

        Args:
            slots, columns: of the rows that they come from; None when there are no photos.
        """
        count = len(mixture.photos)
        if slots is None or columns is None:
            slots, columns = np.zeros((1, 0), dtype=np.int64), np.zeros(0, dtype=np.int64)
        mixed = slots[mixture.photos[:, columns], np.arange(len(columns))]
        means = mean_features(count, mixed if features is not None else None, features)
        return cls(slots=mixed, columns=columns, features=features, means=means)


def mix_rows(mixture: Mixture, encoded: EncodedRows, encoder: RowEncoder, gallery: Gallery) -> MixedRows:
    """Mix rows that an encoder has encoded; a cell brings all the numbers and levels that were made of it."""
    numeric, categorical = columns_of(encoder.preprocessor, mixture.columns)
    prefixes = np.array([mixture.columns.index(prefix.category.name) for prefix in encoder.prefixes], dtype=np.int64)
    return MixedRows(
        numeric=_gather(encoded.numeric, mixture.cells, numeric),
        categorical=_gather(encoded.categorical, mixture.cells, categorical),
        prefixes=_gather(encoded.prefixes, mixture.cells, prefixes),
        gallery=gallery,
        table_of=mixture.table_of,
        photos_of=mixture.photos_of,
    )


def columns_of(
    preprocessor: TablePreprocessor, names: tuple[str, ...]
) -> tuple[Int64[np.ndarray, " numeric"], Int64[np.ndarray, " categorical"]]:
    """The column of the table that each numeric and each categorical array column was made of, as a place in names."""
    numeric = [names.index(name) for name in preprocessor.numeric_sources]
    categorical = [names.index(name) for name in preprocessor.categorical_names]
    return np.array(numeric, dtype=np.int64), np.array(categorical, dtype=np.int64)


def distinct(rows: np.ndarray) -> tuple[Int64[np.ndarray, " distinct"], Int64[np.ndarray, " rows"]]:
    """Where each distinct row of an array stands first, and which of them each row is."""
    if not rows.shape[1]:
        return np.zeros(min(len(rows), 1), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
    packed = np.ascontiguousarray(rows)
    whole = packed.view(np.dtype((np.void, packed.dtype.itemsize * packed.shape[1])))[:, 0]
    _, first, inverse = np.unique(whole, return_index=True, return_inverse=True)
    return first, inverse


def _gather(
    values: np.ndarray, cells: Int64[np.ndarray, "tables columns"], column: Int64[np.ndarray, " outputs"]
) -> np.ndarray:
    return values[cells[:, column], np.arange(len(column))]
