"""Whether probabilities and intervals mean what they say: how often what is 70 % probable comes true.

In: probabilities of rows and what was true. Out: counts by bins, and one number; by which rows, and how exactly, the
coverage of intervals can be told. Knows nothing of figures or pages."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

BINS = 10
FIFTHS = tuple(f"{which} fifth by prediction" for which in ("lowest", "second", "third", "fourth", "highest"))
"""Rows by predicted value. By true value even perfect intervals hold the truth of the extreme fifths less often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Rows whose probabilities are alike."""

    low: float
    high: float
    count: int
    """Of rows, whatever they weigh."""
    share: float
    """Of all rows, by weight."""
    predicted: float
    """Mean of the probabilities, by weight."""
    observed: float
    """Share of the rows in which it came true, by weight."""


def reliability(
    probability: Float[np.ndarray, " rows"],
    came_true: Bool[np.ndarray, " rows"],
    *,
    bins: int = BINS,
    weight: Float[np.ndarray, " rows"] | None = None,
) -> list[Bin]:
    """Bins of equal width that hold rows, from the least probable to the most.

    Args:
        weight: how much each row counts, above 0, in any unit; None for all alike.
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
    """Expected calibration error (Naeini et al. 2015): the mean distance of the two over rows, by weight."""
    return sum(one.share * abs(one.predicted - one.observed) for one in bins) if bins else float("nan")


def judged_probability(
    truth: Int64[np.ndarray, " rows"], probabilities: Float[np.ndarray, "rows classes"]
) -> tuple[Float[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
    """The probability that calibration is judged by, and whether it came true.

    Of two classes that of the second, which AUC takes as the positive one; of more that of the predicted class."""
    if probabilities.shape[1] == 2:
        return probabilities[:, 1].astype(np.float64), truth == 1
    best = probabilities.argmax(1)
    return probabilities[np.arange(len(truth)), best].astype(np.float64), best == truth


def fifths(predictions: Float[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
    """Place in ``FIFTHS`` of each row; rows of equal predictions stay together.

    >>> fifths(np.array([0.3, 0.1, 0.1, 9.0, 5.0]))
    array([2, 0, 0, 4, 3])
    """
    below = np.searchsorted(np.sort(predictions), predictions)
    return 5 * below.astype(np.int64) // max(len(predictions), 1)


def chance_range(count: int, level: float) -> tuple[float, float]:
    """Between which shares the coverage of so many rows is in 95 % of cases, where each is covered at this level.

    >>> chance_range(20, 0.9)
    (0.75, 1.0)
    """
    from scipy.stats import binom

    low, high = binom.interval(0.95, count, level)
    return float(low / count), float(high / count)
