"""The inputs of simple models: numbers, categories, prefixes of codes, and features of texts and photos.

In: raw rows of a table and the features of their photos. Out: ``EncodedRows``; the state is JSON, and arrays for texts
and photos.
Everything is learnt from the rows passed to ``fit``, the training rows of one fold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int64

from mixfit.data.arrays import parts, take, zeros
from mixfit.data.columns.category import CategoryColumn
from mixfit.data.columns.cells import Cells, Table
from mixfit.data.columns.embedded import Embedder, EmbedderFacts
from mixfit.data.columns.kind import Kind
from mixfit.data.columns.kinds import KINDS
from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.text_features import TextFeatures
from mixfit.data.columns.values import Levels
from mixfit.data.dataset import FeatureTable
from mixfit.data.photos.scores import PhotoScores
from mixfit.errors import DataError
from mixfit.files import Within, from_plain, shown
from mixfit.weighted import taken, weighted_mean

_SHORTEST_CODE = 3
_CODE_SHARE = 0.9
_FEWEST_LEVELS = 10
_ROUNDING = 1e-6
_PHOTOS = "photos."


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoMeans:
    """Mean photo features of each row, the same for all folds."""

    values: Float32[np.ndarray, "rows d"] | None
    """Mean features of the row's readable photos, 0 without any; None without features."""
    seen: Bool[np.ndarray, " rows"]
    """Whether the row has a readable photo."""

    def scores(self, learnt: PhotoScores | None) -> Float32[np.ndarray, "rows scores"] | None:
        """Scores by what was learnt; None without scores or features."""
        return None if learnt is None or self.values is None else learnt.apply(self.values, self.seen)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedRows:
    """Rows as inputs of simple models."""

    numeric: Float32[np.ndarray, "rows numeric"]
    categorical: Int64[np.ndarray, "rows categorical"]
    prefixes: Int64[np.ndarray, "rows prefixes"]
    """Level of each prefix of a code, from 1; 0 = unseen."""
    photos: Float32[np.ndarray, "rows d"] | None
    """Mean features of the row's readable photos, 0 without any."""
    seen: Bool[np.ndarray, " rows"]
    """Whether the row has a readable photo."""
    photo_scores: Float32[np.ndarray, "rows scores"] | None = None
    """Scores of the photos, see ``PhotoScores``; 0 without any."""
    text: Float32[np.ndarray, "rows texts width"] | None = None
    """Features of each column of text, see ``TextFeatures``: first the scores of a linear model; 0 without a text."""
    text_seen: Bool[np.ndarray, "rows texts"] | None = None
    """Whether the cell has a text."""

    def __len__(self) -> int:
        return len(self.numeric)

    @property
    def text_width(self) -> int:
        """Number of ``text_columns``."""
        return 0 if self.text is None else self.text.shape[1] * (self.text.shape[2] + 1)

    @property
    def text_columns(self) -> Float32[np.ndarray, "rows features"]:
        """All features of texts side by side, followed by whether each text is there; no columns without texts."""
        if self.text is None or self.text_seen is None:
            return np.zeros((len(self), 0), dtype=np.float32)
        flat = self.text.reshape(len(self), self.text.shape[1] * self.text.shape[2])
        return np.concatenate([flat, self.text_seen.astype(np.float32)], axis=1)

    def take(self, rows: Int64[np.ndarray, " some"]) -> "EncodedRows":
        """Those rows, in that order."""
        return EncodedRows(
            numeric=take(self.numeric, rows),
            categorical=take(self.categorical, rows),
            prefixes=take(self.prefixes, rows),
            photos=None if self.photos is None else take(self.photos, rows),
            seen=self.seen[rows],
            photo_scores=None if self.photo_scores is None else self.photo_scores[rows],
            text=None if self.text is None else take(self.text, rows),
            text_seen=None if self.text_seen is None else self.text_seen[rows],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixColumn:
    """The first ``length`` characters of a column of codes, such as postal codes, whose prefixes denote regions."""

    length: int
    category: CategoryColumn

    @classmethod
    def fit(cls, cells: Cells, length: int) -> "PrefixColumn":
        """Learn from the training rows."""
        return cls(length=length, category=CategoryColumn.of(cells.name, cells.levels.cut(length)))

    def apply(self, cells: Cells) -> Int64[np.ndarray, " rows"]:
        """Level from 1, or 0 = missing or unseen."""
        return self.category.index(cells.read_levels(Levels.cut, length=self.length))  # once for all folds


@dataclass(frozen=True, slots=True, kw_only=True)
class RowEncoder:
    """Encoder learnt from the training rows of one fold; only those of texts and photos use the target."""

    preprocessor: TablePreprocessor
    prefixes: tuple[PrefixColumn, ...]
    text: TextFeatures | None = None
    photos: PhotoScores | None = None

    @classmethod
    def fit(
        cls,
        table: pd.DataFrame | Table,
        schema: Schema,
        preprocessor: TablePreprocessor | None = None,
        weight: Float[np.ndarray, " rows"] | None = None,
        *,
        text: TextFeatures | None = None,
        photos: PhotoScores | None = None,
    ) -> "RowEncoder":
        """Learn from the training rows.

        Args:
            preprocessor: already fitted on the same rows; None fits one.
            weight: of each row, in any unit.
            text: fitted on the same rows; None ignores columns of text.
            photos: fitted on the same rows; None for no scores of photos.
        """
        table = Table.of(table)
        found = TablePreprocessor.fit(table, schema, weight) if preprocessor is None else preprocessor
        prefixes = [
            PrefixColumn.fit(table[name], length)
            for name in schema.names("category")
            for length in _prefix_lengths(table[name], weight)
        ]
        return cls(preprocessor=found, prefixes=tuple(prefixes), text=text, photos=photos)

    @property
    def numeric(self) -> int:
        """Columns of numbers."""
        return len(self.preprocessor.numeric_names)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Levels of each category and then of each prefix, level 0 included."""
        return (*self.preprocessor.cardinalities, *(len(prefix.category.levels) + 1 for prefix in self.prefixes))

    def encode(
        self,
        table: pd.DataFrame | Table,
        photos: PhotoMeans | None = None,
        *,
        arrays: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> EncodedRows:
        """Encode any rows.

        Args:
            photos: of the same rows, by ``mean_features``; None without photos.
            arrays: numeric and categorical arrays of these rows by the same preprocessor, if known.
        """
        table = Table.of(table)
        if arrays is None:
            arrays = self.preprocessor.arrays(table)
        prefixes = [prefix.apply(table[prefix.category.name]) for prefix in self.prefixes]
        text = None if self.text is None else self.text.apply(table)
        return EncodedRows(
            numeric=arrays[0],
            categorical=arrays[1],
            prefixes=np.stack(prefixes, axis=1) if prefixes else np.zeros((len(table), 0), dtype=np.int64),
            photos=None if photos is None else photos.values,
            seen=np.zeros(len(table), dtype=bool) if photos is None else photos.seen,
            photo_scores=None if photos is None else photos.scores(self.photos),
            text=None if text is None else text[0],
            text_seen=None if text is None else text[1],
        )

    def to_dict(self) -> dict[str, Any]:
        """The part of the state that is JSON."""
        prefixes = [
            {
                "length": prefix.length,
                "name": prefix.category.name,
                "levels": list(prefix.category.levels),
                "rare": list(prefix.category.rare),
            }
            for prefix in self.prefixes
        ]
        text = {} if self.text is None else {"text": self.text.to_dict()}
        photos = {} if self.photos is None else {"photo_scores": True}
        return {"preprocessor": self.preprocessor.to_dict(), "prefixes": prefixes, **text, **photos}

    def arrays(self) -> dict[str, np.ndarray]:
        """The part of the state that is arrays: those of texts and photos."""
        text = {} if self.text is None else {f"text.{name}": values for name, values in self.text.arrays().items()}
        photos = {} if self.photos is None else self.photos.arrays()
        return text | {f"{_PHOTOS}{name}": values for name, values in photos.items()}

    @classmethod
    def from_dict(
        cls,
        state: Any,
        kinds: tuple[Kind, ...] = KINDS,
        arrays: Mapping[str, np.ndarray] | None = None,
        embedders: Callable[[EmbedderFacts], Embedder] | None = None,
    ) -> "RowEncoder":
        """Read the output of ``to_dict`` and ``arrays``.

        Args:
            embedders: finds the sentence encoder of texts again.
        Raises:
            DataError: it is invalid, or has prefixes of a column that is not a category.
        """
        saved: _Saved = from_plain(_Saved, state, "the encoder", finite=True)
        preprocessor = TablePreprocessor.from_dict(saved.preprocessor, kinds)
        known = set(preprocessor.categorical_names)
        prefixes = []
        for one in saved.prefixes:
            if one.name not in known or len(set(one.levels)) != len(one.levels):
                raise DataError(f"the prefixes of the codes of {shown(one.name)!r} are damaged")
            category = CategoryColumn(name=one.name, levels=one.levels, rare=one.rare)
            prefixes.append(PrefixColumn(length=one.length, category=category))
        text = None
        if saved.text is not None:
            own = {name.removeprefix("text."): values for name, values in (arrays or {}).items()}
            text = TextFeatures.read(saved.text, own, embedders)
        photos = None
        if saved.photo_scores:
            mine = (arrays or {}).items()
            photos = PhotoScores.read(
                {name.removeprefix(_PHOTOS): one for name, one in mine if name.startswith(_PHOTOS)}
            )
        return cls(preprocessor=preprocessor, prefixes=tuple(prefixes), text=text, photos=photos)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SavedPrefix:
    """A ``PrefixColumn`` in JSON."""

    length: Annotated[int, Within(1, 1000)]
    name: str
    levels: tuple[str, ...]
    rare: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """A ``RowEncoder`` in JSON."""

    preprocessor: dict[str, Any]
    prefixes: tuple[_SavedPrefix, ...]
    text: dict[str, Any] | None = None
    photo_scores: bool = False


def mean_features(
    rows: int, slots: Int64[np.ndarray, "rows photos"] | None, features: FeatureTable | None
) -> PhotoMeans:
    """The mean features of each row's readable photos, and whether it has any."""
    if slots is None or features is None:
        return PhotoMeans(values=None, seen=np.zeros(rows, dtype=bool))
    values, readable = features.values.numpy(), features.readable.numpy()
    total = zeros((rows, values.shape[1]))
    count = np.zeros(rows, dtype=np.float32)
    for part in parts(rows, 4 * values.shape[1]):
        sums, counts = total[part], count[part]
        for place in slots[part].T:
            there = np.flatnonzero(place >= 0)
            there = there[readable[place[there]]]
            sums[there] += values[place[there]]
            counts[there] += 1
        sums /= np.maximum(counts, 1)[:, None]
    return PhotoMeans(values=total, seen=count > 0)


def _prefix_lengths(cells: Cells, weight: Float[np.ndarray, " rows"] | None) -> range:
    """Lengths of prefixes, if nearly all cells are digits of one length, as postal codes are."""
    levels = cells.levels
    there = levels.codes >= 0
    codes, counts = levels.codes[there], taken(weight, there)
    if len(np.unique(codes)) < _FEWEST_LEVELS:
        return range(0)
    lengths = levels.names.str.len().to_numpy(dtype=np.int64)[codes]
    typical = int(np.bincount(lengths, weights=counts).argmax())
    digits = np.asarray(levels.names.str.fullmatch(r"\d+"), dtype=bool)[codes]
    enough = weighted_mean((lengths == typical) & digits, counts) >= _CODE_SHARE - _ROUNDING
    return range(2, typical) if typical >= _SHORTEST_CODE and enough else range(0)
