"""The decision threshold of two classes: the probability of the second class above which it is predicted.

In: probabilities of rows that the models were not fitted on. Out: the threshold with the best metric, for new rows, and
for the score on these rows the threshold of each fold, chosen on the rows that the fold may learn from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from mixfit.training.metrics import ACCURACY, BALANCED_ACCURACY, F1, MACRO_F1, Metric

DEFAULT = 0.5
_PARTS = 5
_TIE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The thresholds of one model."""

    final: float
    """Chosen on all rows, for new rows."""
    of_row: Float[np.ndarray, " rows"]
    """Cross-fitted: of each row, chosen on other rows; 0.5 where there are none."""

    def decide(self, probabilities: Float[np.ndarray, "rows 2"], *, new: bool) -> Int64[np.ndarray, " rows"]:
        """Predicted classes of the rows themselves, or of new rows."""
        return decide(probabilities, self.final if new else self.of_row)


def decide(
    probabilities: Float[np.ndarray, "rows 2"], threshold: float | Float[np.ndarray, " rows"]
) -> Int64[np.ndarray, " rows"]:
    """Class 1 where its probability is above the threshold."""
    return (probabilities[:, 1] > threshold).astype(np.int64)


def cross_fitted(
    truth: Int64[np.ndarray, " rows"],
    probabilities: Float[np.ndarray, "rows 2"],
    metric: Metric,
    fold: Int64[np.ndarray, " rows"],
    *,
    learns_from: Sequence[Bool[np.ndarray, " rows"]] | None = None,
    weight: np.ndarray | None = None,
) -> Thresholds:
    """Choose the threshold on all rows, and for each fold on the rows that it may learn from.

    Args:
        fold: of each row.
        learns_from: by fold; by default the rows of all other folds.
        weight: of each row.
    """
    positive = probabilities[:, 1]
    of_row = np.full(len(truth), DEFAULT)
    for number in np.unique(fold).tolist():
        others = fold != number if learns_from is None else learns_from[number]
        if others.any():
            some = None if weight is None else weight[others]
            of_row[fold == number] = best_threshold(truth[others], positive[others], metric, some)
    return Thresholds(final=best_threshold(truth, positive, metric, weight), of_row=of_row)


def parts_of_units(unit: Int64[np.ndarray, " rows"], seed: int) -> Int64[np.ndarray, " rows"]:
    """A random fifth for each row, units kept whole, to cross-fit a threshold on validation rows."""
    _, number = np.unique(unit, return_inverse=True)
    order = np.random.default_rng(seed).permutation(int(number.max(initial=-1)) + 1)
    found: np.ndarray = order[number] % _PARTS
    return found


def best_threshold(
    truth: Int64[np.ndarray, " rows"],
    positive: Float[np.ndarray, " rows"],
    metric: Metric,
    weight: np.ndarray | None = None,
) -> float:
    """The threshold with the best metric; of equally good ones the nearest to 0.5, which also stays if only one class
    is there.

    Candidates lie between neighbouring probabilities, and 0.5.

    Args:
        positive: probability of class 1.
        metric: accuracy, balanced accuracy, F1 or macro F1.
    """
    counts = np.ones(len(truth)) if weight is None else weight.astype(np.float64)
    inside = counts * (truth == 1)
    if not 0 < inside.sum() < counts.sum():
        return DEFAULT
    levels = np.unique(positive)
    tried = np.unique([DEFAULT, *((levels[1:] + levels[:-1]) / 2), levels[0] / 2, (levels[-1] + 1) / 2])
    order = np.argsort(positive, kind="stable")
    at_most = np.searchsorted(positive[order], tried, side="right")
    hit, false = (
        total[-1] - total[at_most]
        for total in (np.concatenate([[0.0], np.cumsum(part[order])]) for part in (inside, counts - inside))
    )
    values = _values(metric, hit, false, float(inside.sum()), float((counts - inside).sum()))
    best = np.flatnonzero(values >= values.max() - _TIE)
    return float(tried[best[np.argmin(np.abs(tried[best] - DEFAULT))]])


def _values(metric: Metric, hit: np.ndarray, false: np.ndarray, inside: float, outside: float) -> np.ndarray:
    """The metric by the weights of true and false positives, and of the two classes."""
    right = outside - false
    of_second = 2 * hit / (inside + hit + false)
    if metric == ACCURACY:
        return (hit + right) / (inside + outside)
    if metric == BALANCED_ACCURACY:
        return (hit / inside + right / outside) / 2
    if metric == F1:
        return of_second
    if metric == MACRO_F1:
        return (of_second + 2 * right / (outside + right + inside - hit)) / 2
    raise ValueError(f"{metric.name} has no threshold.")
