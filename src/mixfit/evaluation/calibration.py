"""Whether probabilities mean what they say: how often what is 70 % probable comes true.

In: probabilities of rows and what was true. Out: counts by bins, and one number. Knows nothing of figures or pages."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Rows whose probabilities are alike."""

    low: float
    high: float
    count: int
    predicted: float
    """Mean of the probabilities."""
    observed: float
    """Share of the rows in which it came true."""


def reliability(
    probability: Float[np.ndarray, " rows"], came_true: Bool[np.ndarray, " rows"], *, bins: int = BINS
) -> list[Bin]:
    """Bins of equal width that hold rows, from the least probable to the most."""
    place = np.minimum((probability * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    predicted = np.bincount(place, weights=probability, minlength=bins)
    observed = np.bincount(place, weights=came_true, minlength=bins)
    return [
        Bin(
            low=number / bins,
            high=(number + 1) / bins,
            count=int(counts[number]),
            predicted=float(predicted[number] / counts[number]),
            observed=float(observed[number] / counts[number]),
        )
        for number in np.flatnonzero(counts).tolist()
    ]


def calibration_error(bins: list[Bin]) -> float:
    """Expected calibration error (Naeini et al. 2015): the mean distance of the two, weighted by rows."""
    rows = sum(one.count for one in bins)
    if not rows:
        return float("nan")
    return sum(one.count * abs(one.predicted - one.observed) for one in bins) / rows


def judged_probability(
    truth: Int64[np.ndarray, " rows"], probabilities: Float[np.ndarray, "rows classes"]
) -> tuple[Float[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
    """The probability that calibration is judged by, and whether it came true.

    Of two classes that of the second, which AUC takes as the positive one; of more that of the predicted class."""
    if probabilities.shape[1] == 2:
        return probabilities[:, 1].astype(np.float64), truth == 1
    best = probabilities.argmax(1)
    return probabilities[np.arange(len(truth)), best].astype(np.float64), best == truth
