"""Which classes are taken for which: counts for a small matrix, the worst pairs and a picture for a large one.

In: class indices. Out: numpy counts. Knows nothing of HTML or figures."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfusedPair:
    """Rows of one class that were taken for another."""

    truth: int
    prediction: int
    count: int
    share: float
    """Of the rows whose truth is this class, in (0, 1]."""


def known_rows(
    truth: Shaped[np.ndarray, " rows"], prediction: Shaped[np.ndarray, " rows"], classes: int
) -> tuple[Int[np.ndarray, " known"], Int[np.ndarray, " known"]]:
    """Keep the rows whose two indices are in [0, classes); nan and unknown classes fall out."""
    known = (truth >= 0) & (truth < classes) & (prediction >= 0) & (prediction < classes)
    return truth[known].astype(np.int64), prediction[known].astype(np.int64)


def confusion_counts(
    truth: Int[np.ndarray, " rows"], prediction: Int[np.ndarray, " rows"], classes: int
) -> Int[np.ndarray, "classes classes"]:
    """Count rows by (truth, prediction).

    >>> confusion_counts(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    return np.bincount(truth * classes + prediction, minlength=classes * classes).reshape(classes, classes)


def row_shares(counts: Int[np.ndarray, "truth prediction"]) -> Float[np.ndarray, "truth prediction"]:
    """Divide each row of counts by its sum; a row without counts is all 0."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def most_confused(
    truth: Int[np.ndarray, " rows"], prediction: Int[np.ndarray, " rows"], *, classes: int, limit: int
) -> list[ConfusedPair]:
    """The pairs that occur most often, never more than ``limit``; equal counts in the order of the class indices.

    Works on the pairs that occur, so that ten thousand classes need no matrix.
    """
    totals = np.bincount(truth, minlength=classes)
    wrong = truth != prediction
    codes, counts = np.unique(truth[wrong] * classes + prediction[wrong], return_counts=True)
    order = np.lexsort((codes, -counts))[:limit]
    return [
        ConfusedPair(
            truth=int(code // classes),
            prediction=int(code % classes),
            count=int(count),
            share=float(count / totals[code // classes]),
        )
        for code, count in zip(codes[order], counts[order], strict=True)
    ]


def binned_shares(
    truth: Int[np.ndarray, " rows"], prediction: Int[np.ndarray, " rows"], *, classes: int, limit: int
) -> Float[np.ndarray, "bins bins"]:
    """The confusion matrix normalised by row, neighbouring classes put together when there are more than ``limit``."""
    bins = min(classes, limit)
    return row_shares(confusion_counts(truth * bins // classes, prediction * bins // classes, bins))
