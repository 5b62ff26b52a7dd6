"""Embeddings of a column of text by a frozen encoder: each different text is encoded once for the whole table.

In: the levels of a column, and an ``Embedder``, which is handed in by those who may know networks. Out: ``Embedded``;
texts are encoded when they are first asked for, so that a few rows of a large table cost little."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from mixfit.data.columns.cells import Cells
from mixfit.data.columns.values import Levels
from mixfit.data.columns.words import MOST_CHARACTERS
from mixfit.data.photos.records import Cache
from mixfit.files import Within


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedderFacts:
    """What tells one frozen encoder of texts from another; a saved model has it in the encoder's place."""

    source: Literal["minilm", "folder"]
    """The package of the extra ``text``, or a folder that a user named."""
    digest: str
    """Of its files."""
    d: Annotated[int, Within(1, 100_000)]
    """Numbers of an embedding."""


@runtime_checkable
class Embedder(Protocol):
    """A frozen encoder of texts, which is the same for all folds."""

    @property
    def facts(self) -> EmbedderFacts:
        """What tells it from others."""

    def ready(self, cache: Cache | None, device: str) -> "Embedder":
        """The same encoder, which keeps embeddings in a cache and computes on a device."""

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts d"]:
        """An embedding of each text, which does not depend on the others; zeros for a blank one."""


class _Pool:
    """The embeddings of the different texts of a column, as far as they were asked for."""

    def __init__(self, names: pd.Index, embedder: Embedder) -> None:
        self._names, self._embedder, self.d = names, embedder, embedder.facts.d
        self._values = np.zeros((len(names), self.d), dtype=np.float32)
        self._known = np.zeros(len(names), dtype=bool)

    def of(self, texts: Int64[np.ndarray, " some"]) -> Float32[np.ndarray, "some d"]:
        """Of the texts with these numbers."""
        wanted = np.unique(texts)
        unknown = wanted[~self._known[wanted]]
        if len(unknown):
            cells = [str(name)[:MOST_CHARACTERS] for name in self._names[unknown]]
            self._values[unknown] = self._embedder.embed(cells)
            self._known[unknown] = True
        return self._values[texts]


class Embedded:
    """The cells of a column as embeddings; selections of rows share those of their texts."""

    def __init__(self, codes: Int64[np.ndarray, " rows"], pool: _Pool) -> None:
        self._codes, self._pool = codes, pool

    @property
    def d(self) -> int:
        """Numbers of an embedding."""
        return self._pool.d

    def take(self, rows: Int64[np.ndarray, " some"]) -> "Embedded":
        """Those rows, in that order."""
        return Embedded(self._codes[rows], self._pool)

    def of(self, rows: Int64[np.ndarray, " some"]) -> Float32[np.ndarray, "some d"]:
        """Of some rows, whose cells are not empty."""
        return self._pool.of(self._codes[rows])


def embedded(cells: Cells, embedder: Embedder) -> Embedded:
    """A column's embeddings; an encoder with equal facts finds those that another began."""
    return cells.read_levels(_Reader(embedder.facts, embedder))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads levels; readers with equal facts are equal, so that a table keeps one result for all."""

    facts: EmbedderFacts
    embedder: Embedder = field(compare=False)

    def __call__(self, levels: Levels) -> Embedded:
        return Embedded(levels.codes, _Pool(levels.names, self.embedder))
