"""Mixed rows, made of the cells and photos of several rows: what would a model predict if a row had the maker of one
row and the photos of another?

Many mixed rows share the same table cells or the same photos. So each distinct part is stored, and encoded by a model,
only once."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.dataset import FeatureTable
from mixfit.models.encoding import EncodedRows, PhotoMeans, RowEncoder, mean_features


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """The source rows of the parts of each mixed row."""

    cells: Int64[np.ndarray, "tables columns"]
    """Source row of each column of a table part."""
    columns: tuple[str, ...]
    """Names of these columns."""
    photos: Int64[np.ndarray, "galleries places"]
    """Source row of the photos of each image column, columns numbered as in ``Photos.columns``."""
    table_of: Int64[np.ndarray, " rows"]
    """The table part of each mixed row."""
    photos_of: Int64[np.ndarray, " rows"]
    """The photo part of each mixed row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedRows:
    """Mixed rows encoded by the encoder of one fold."""

    numeric: Float32[np.ndarray, "tables numeric"]
    categorical: Int64[np.ndarray, "tables categorical"]
    prefixes: Int64[np.ndarray, "tables prefixes"]
    text: Float32[np.ndarray, "tables texts width"] | None
    text_seen: Bool[np.ndarray, "tables texts"] | None
    photo_scores: Float32[np.ndarray, "galleries scores"] | None
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
            text=self.text,
            text_seen=self.text_seen,
        )

    @property
    def photos(self) -> EncodedRows:
        """Each photo part, as a row without table columns."""
        means = self.gallery.means
        none = np.zeros((len(means.seen), 0), dtype=np.int64)
        return EncodedRows(
            numeric=none.astype(np.float32),
            categorical=none,
            prefixes=none,
            photos=means.values,
            seen=means.seen,
            photo_scores=self.photo_scores,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """The photo parts of mixed rows."""

    slots: Int64[np.ndarray, "galleries places"]
    """Number of the photo in each slot; -1 = none."""
    columns: Int64[np.ndarray, " places"]
    """Image column of each slot."""
    features: FeatureTable | None
    """Features of the frozen network that all models share; None without one."""
    means: PhotoMeans
    """Means of these features."""

    @classmethod
    def of(
        cls,
        mixture: Mixture,
        slots: Int64[np.ndarray, "rows places"] | None,
        columns: Int64[np.ndarray, " places"] | None,
        features: FeatureTable | None,
    ) -> "Gallery":
        """Assemble the photo parts.

        Args:
            slots, columns: of the source rows; None without photos.
        """
        count = len(mixture.photos)
        if slots is None or columns is None:
            slots, columns = np.zeros((1, 0), dtype=np.int64), np.zeros(0, dtype=np.int64)
        mixed = slots[mixture.photos[:, columns], np.arange(len(columns))]
        means = mean_features(count, mixed if features is not None else None, features)
        return cls(slots=mixed, columns=columns, features=features, means=means)


def mix_rows(mixture: Mixture, encoded: EncodedRows, encoder: RowEncoder, gallery: Gallery) -> MixedRows:
    """Mix encoded rows; a cell is mixed with all that is computed from it."""
    numeric, categorical = columns_of(encoder.preprocessor, mixture.columns)
    prefixes = np.array([mixture.columns.index(prefix.category.name) for prefix in encoder.prefixes], dtype=np.int64)
    texts = [] if encoder.text is None else [mixture.columns.index(name) for name in encoder.text.names]
    text = np.array(texts, dtype=np.int64)
    return MixedRows(
        numeric=_gather(encoded.numeric, mixture.cells, numeric),
        categorical=_gather(encoded.categorical, mixture.cells, categorical),
        prefixes=_gather(encoded.prefixes, mixture.cells, prefixes),
        text=None if encoded.text is None else _gather(encoded.text, mixture.cells, text),
        text_seen=None if encoded.text_seen is None else _gather(encoded.text_seen, mixture.cells, text),
        photo_scores=gallery.means.scores(encoder.photos),
        gallery=gallery,
        table_of=mixture.table_of,
        photos_of=mixture.photos_of,
    )


def columns_of(
    preprocessor: TablePreprocessor, names: tuple[str, ...]
) -> tuple[Int64[np.ndarray, " numeric"], Int64[np.ndarray, " categorical"]]:
    """Index in ``names`` of the source column of each numeric and each categorical array column."""
    numeric = [names.index(name) for name in preprocessor.numeric_sources]
    categorical = [names.index(name) for name in preprocessor.categorical_names]
    return np.array(numeric, dtype=np.int64), np.array(categorical, dtype=np.int64)


def distinct(rows: np.ndarray) -> tuple[Int64[np.ndarray, " distinct"], Int64[np.ndarray, " rows"]]:
    """First position of each distinct row of an array, and the index of each row among the distinct ones."""
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
