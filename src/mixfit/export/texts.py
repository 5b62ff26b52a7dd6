"""Columns of text inside the graph.

In: how often a text has each term that any fold knows, counted outside the file, and for a sentence encoder the
embedding. Out: features as ``TextFeatures.apply`` has them, by the weights of one fold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import spox.opset.ai.onnx.v20 as op
from spox import Var

from mixfit.data.columns.text_features import ColumnFeatures, TextFeatures
from mixfit.export.cells import CellInputs
from mixfit.export.ops import (
    DOUBLE,
    FLOAT,
    INT,
    as_type,
    at_least,
    beside,
    clip,
    columns,
    const,
    log1p,
    total,
    upright,
    where,
)


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The terms of one column that any fold knows: words, then pairs, then n-grams."""

    words: tuple[str, ...]
    pairs: tuple[str, ...]
    grams: tuple[str, ...]

    @classmethod
    def of(cls, features: Sequence[ColumnFeatures]) -> "Vocabulary":
        """Of all folds."""
        kinds = ("words", "pairs", "grams")
        return cls(**{kind: tuple(sorted({term for one in features for term in getattr(one, kind)})) for kind in kinds})

    def __len__(self) -> int:
        return len(self.words) + len(self.pairs) + len(self.grams)

    def places(self, features: ColumnFeatures) -> np.ndarray:
        """Where the terms of one fold are, int64."""
        found, start = list[int](), 0
        for own, every in ((features.words, self.words), (features.pairs, self.pairs), (features.grams, self.grams)):
            place = {term: number for number, term in enumerate(every)}
            found += [start + place[term] for term in own]
            start += len(every)
        return np.array(found, dtype=np.int64)


def text_features(text: TextFeatures, terms: dict[str, Vocabulary], inputs: CellInputs) -> tuple[Var, Var]:
    """Features, float32 ``(rows, texts, width)``, and whether there is a text, bool ``(rows, texts)``."""
    values, there = list[Var](), list[Var]()
    for one in text.columns:
        size = inputs.of(one.name, "number of words", INT)
        found = _of_terms(one, terms[one.name], size, inputs)
        if one.embedded is not None and text.embedder is not None:
            d = len(one.embedded.projection)
            embedding = inputs.of(one.name, "embedding", FLOAT, d)
            further = op.matmul(embedding, const(one.embedded.projection)) - const(one.embedded.middle)
            scores, last = one.scores, one.projection.shape[1]
            kinds = (
                (found, 0, scores),
                (further, 0, scores),
                (found, scores, last),
                (further, scores, None),
                (found, last, None),
            )
            found = beside([_part(part, start, end) for part, start, end in kinds])
        empty = op.less(size, const(0, INT))
        values.append(where(upright(empty), 0.0, found))
        there.append(op.greater(size, const(0, INT)))
    return op.concat([op.unsqueeze(one, const([1])) for one in values], axis=1), columns(there)


def _part(x: Var, start: int, end: int | None) -> Var:
    last = np.iinfo(np.int64).max if end is None else end
    return op.slice(x, const([start], INT), const([last], INT), const([1], INT))


def _of_terms(one: ColumnFeatures, terms: Vocabulary, size: Var, inputs: CellInputs) -> Var:
    """Scores and components of terms, and the scaled number of words: TF-IDF as when they were learnt."""
    counts = inputs.of(one.name, "terms", FLOAT, len(terms))
    own = op.gather(counts, const(terms.places(one)), axis=1)
    weights = where(op.greater(own, const(0, FLOAT)), (op.log(at_least(own, 1.0)) + 1.0) * const(one.rarity), 0.0)
    words = len(one.words) + len(one.pairs)
    blocks = [_scaled(_part(weights, 0, words)), _scaled(_part(weights, words, None))]
    found = op.matmul(beside(blocks), const(one.projection)) - const(one.middle)
    logs = log1p(as_type(op.max([size, const(0, INT)]), DOUBLE))
    logs = logs if one.lengths is None else clip(logs, *one.lengths)
    sizes = (logs - one.mean) / (one.std or 1.0) * float(bool(one.std))
    return beside([found, as_type(upright(sizes), FLOAT)])


def _scaled(weights: Var) -> Var:
    """Rows of length 1, or 0."""
    wide = as_type(weights, DOUBLE)
    length = op.sqrt(total(wide * wide, keep=True))
    return as_type(wide / where(op.greater(length, const(0.0, DOUBLE)), length, 1.0), FLOAT)
