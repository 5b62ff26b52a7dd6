"""Calibration of probabilities, and coverage of intervals.

In: predicted probabilities and outcomes. Out: the bins of a calibration curve, and the expected calibration error;
groups of rows, and the range expected by chance, for the coverage of intervals."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

BINS = 10
FIFTHS = tuple(f"{which} fifth by prediction" for which in ("lowest", "second", "third", "fourth", "highest"))
"""Rows by predicted value. By true value, even perfect intervals cover the extreme fifths less often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Rows with similar probabilities."""

    low: float
    high: float
    count: int
    """Unweighted number of rows."""
    share: float
    """Weighted share of all rows."""
    predicted: float
    """Weighted mean of the predicted probabilities."""
    observed: float
    """Weighted observed frequency."""


def reliability(
    probability: Float[np.ndarray, " rows"],
    came_true: Bool[np.ndarray, " rows"],
    *,
    bins: int = BINS,
    weight: Float[np.ndarray, " rows"] | None = None,
) -> list[Bin]:
    """Non-empty bins of equal width, in increasing order.

    Args:
        weight: of each row, above 0, in any unit; None for equal weights.
    """
    place = np.minimum((probability * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    each = np.ones(len(place)) if weight is None else weight.astype(np.float64)
    total = np.bincount(place, weights=each, minlength=bins)
    predicted = np.bincount(place, weights=each * probability, minlength=bins)
    observed = np.bincount(place, weights=each * came_true, minlength=bins)
    return [
        Bin(
            low=number / bins,
            high=(number + 1) / bins,
            count=int(counts[number]),
            share=float(total[number] / total.sum()),
            predicted=float(predicted[number] / total[number]),
            observed=float(observed[number] / total[number]),
        )
        for number in np.flatnonzero(total).tolist()
    ]


def calibration_error(bins: list[Bin]) -> float:
    """Expected calibration error (Naeini et al. 2015): the weighted mean distance of predicted and observed."""
    return sum(one.share * abs(one.predicted - one.observed) for one in bins) if bins else float("nan")


def judged_probability(
    truth: Int64[np.ndarray, " rows"], probabilities: Float[np.ndarray, "rows classes"]
) -> tuple[Float[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
    """The probability whose calibration is measured, and whether the event occurred.

    For two classes that of the second, the positive class of AUC; for more classes that of the predicted class."""
    if probabilities.shape[1] == 2:
        return probabilities[:, 1].astype(np.float64), truth == 1
    best = probabilities.argmax(1)
    return probabilities[np.arange(len(truth)), best].astype(np.float64), best == truth


def fifths(predictions: Float[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
    """Index of each row in ``FIFTHS``; rows with equal predictions stay together.

    >>> fifths(np.array([0.3, 0.1, 0.1, 9.0, 5.0]))
    array([2, 0, 0, 4, 3])
    """
    below = np.searchsorted(np.sort(predictions), predictions)
    return 5 * below.astype(np.int64) // max(len(predictions), 1)


def chance_range(count: int, level: float) -> tuple[float, float]:
    """The 95 % range of the empirical coverage of ``count`` rows with this true coverage.

    >>> chance_range(20, 0.9)
    (0.75, 1.0)
    """
    from scipy.stats import binom

    low, high = binom.interval(0.95, count, level)
    return float(low / count), float(high / count)
