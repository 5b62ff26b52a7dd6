"""Mean, median and quantiles, with one definition for weighted and unweighted rows.

Each depends on the weighted distribution alone: a row of weight 2 counts as two equal rows, a common factor of all
weights changes nothing, and a row of weight 0 is ignored. None means equal weights. NumPy's default quantile
interpolates between ranks, so it changes when every row is duplicated; here a quantile is the inverse of the
distribution function, or the midpoint where that is an interval (definition 2 of Hyndman and Fan 1996). The median is
the usual one."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

_SAME = 1e-7
"""Sums of weights that differ by less than this share of the total count as equal: weights are float32."""

Values = Float[np.ndarray, " rows"] | Float[np.ndarray, "rows columns"]
Weight = Float[np.ndarray, " rows"]


def weighted_quantile(
    values: Values, shares: Sequence[float], weight: Weight | None = None
) -> Float[np.ndarray, "..."]:
    """Quantiles, those of each column for ``(rows, columns)``.

    Args:
        values: finite; at least one row has a weight above 0.
        shares: in [0, 1].
        weight: at least 0, finite.
    Returns:
        float64 ``(shares,)``, or ``(shares, columns)``.
    """
    columns = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    if weight is None:
        below = np.arange(1, len(columns) + 1)
        places = [_around(below, share) for share in shares]
        ordered = np.partition(columns, sorted({place for ends in places for place in ends}), axis=0)
        found = np.array([ordered[low] / 2 + ordered[high] / 2 for low, high in places])  # halves cannot overflow
    else:
        counted = weight > 0
        columns, counts = columns[counted], weight[counted].astype(np.float64)
        found = np.empty((len(shares), columns.shape[1]))
        for number, column in enumerate(columns.T):
            order = np.argsort(column, kind="stable")
            ordered, sums = column[order], np.cumsum(counts[order])
            for place, share in enumerate(shares):
                low, high = _around(sums, share)
                found[place, number] = ordered[low] / 2 + ordered[high] / 2
    return found[:, 0] if values.ndim == 1 else found


def weighted_median(values: Float[np.ndarray, " rows"], weight: Weight | None = None) -> float:
    """The median of finite values; at least one has a weight above 0."""
    return float(weighted_quantile(values, (0.5,), weight)[0])


def weighted_mean(
    values: Float[np.ndarray, " rows"] | Bool[np.ndarray, " rows"], weight: Weight | None = None
) -> float:
    """The mean as float64, for booleans the share of True; nan if no row has a weight above 0."""
    if not len(values) or (weight is not None and not weight.any()):
        return float("nan")
    return float(np.average(np.asarray(values, dtype=np.float64), weights=weight))


def taken(weight: Weight | None, rows: np.ndarray) -> Float[np.ndarray, " taken"] | None:
    """The weights of the given positions or mask; None stays None."""
    return None if weight is None else weight[rows]


def _around(sums: np.ndarray, share: float) -> tuple[int, int]:
    """Positions of the two values whose midpoint is the quantile, equal where it is a single value.

    Args:
        sums: cumulative weights in the order of the values.
    """
    same = _SAME * sums[-1]
    low = np.searchsorted(sums, share * sums[-1] - same, side="left")
    high = np.searchsorted(sums, share * sums[-1] + same, side="right")
    last = len(sums) - 1
    return min(int(low), last), min(int(high), last)
