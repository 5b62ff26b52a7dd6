"""Statistics that can be pooled: of two batches those of both, of two steps those of both, of two layers those of both.

Kept as sums, and as moments that are pooled by counts (Chan, Golub and LeVeque 1983), in float64 on the CPU."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from mixfit.hooks.measure import COUNTS, MOMENTS

OUTPUTS, BROKEN, LIMITED, UNITS, COUNT = range(5)
"""Places in ``sums``: outputs measured, outputs not finite, values with limits of saturation, units, values."""
_FIRST_COUNT = 5
NEAR_ZERO, SATURATED, DEAD = range(_FIRST_COUNT, _FIRST_COUNT + len(COUNTS))
FIRST_QUANTILE = DEAD + 1
MEAN, M2, MINIMUM, MAXIMUM = range(len(MOMENTS))


@dataclass(slots=True)
class Pool:
    """Statistics of any number of places, such as columns of time; the last axis holds the numbers of one place."""

    sums: Float64[np.ndarray, "*places sums"]
    moments: Float64[np.ndarray, "*places 4"]

    @classmethod
    def empty(cls, places: tuple[int, ...], sums: int) -> "Pool":
        """Of nothing; ``sums`` numbers are summed for each place."""
        moments = np.zeros((*places, len(MOMENTS)))
        moments[..., MINIMUM], moments[..., MAXIMUM] = np.inf, -np.inf
        return cls(np.zeros((*places, sums)), moments)

    def __getitem__(self, place: int | slice) -> "Pool":
        """A view of a place, or of some of them."""
        return Pool(self.sums[place], self.moments[place])

    def over(self, axis: int) -> "Pool":
        """All places along an axis as one."""
        sums = self.sums.sum(axis)
        counts = self.sums[..., COUNT]
        count = np.maximum(counts.sum(axis), 1)
        mean = (counts * self.moments[..., MEAN]).sum(axis) / count
        away = self.moments[..., MEAN] - np.expand_dims(mean, axis)
        m2 = (self.moments[..., M2] + counts * away**2).sum(axis)
        extremes = self.moments[..., MINIMUM].min(axis), self.moments[..., MAXIMUM].max(axis)
        return Pool(sums, np.stack([mean, m2, *extremes], axis=-1))

    def add(self, place: int, other: "Pool") -> None:
        """Pool one place with another pool's only one; what ``over`` does for many, in plain numbers."""
        moments, new = self.moments[place], other.moments
        before, count = float(self.sums[place, COUNT]), float(other.sums[COUNT])
        self.sums[place] += other.sums
        if count:
            away = float(new[MEAN] - moments[MEAN])
            share = count / (before + count)
            moments[MEAN] += away * share
            moments[M2] += new[M2] + away * away * before * share
            moments[MINIMUM] = min(moments[MINIMUM], new[MINIMUM])
            moments[MAXIMUM] = max(moments[MAXIMUM], new[MAXIMUM])

    def merge_pairs(self) -> None:
        """Places 0 and 1 become 0, 2 and 3 become 1, and so on; the second half is empty then."""
        half = len(self.sums) // 2
        pairs = Pool(self.sums.reshape(half, 2, -1), self.moments.reshape(half, 2, -1)).over(1)
        rest = Pool.empty((half,), self.sums.shape[-1])
        self.sums = np.concatenate([pairs.sums, rest.sums])
        self.moments = np.concatenate([pairs.moments, rest.moments])


def stacked(pools: list[Pool]) -> Pool:
    """Several of one shape, along a new first axis."""
    return Pool(np.stack([pool.sums for pool in pools]), np.stack([pool.moments for pool in pools]))


def pool_of(
    measured: Float64[np.ndarray, " numbers"], *, count: int, units: int, limited: bool, quantiles: int, sample: int
) -> Pool:
    """The pool of one output that was measured (see ``measure``); where it is not finite, that alone is counted.

    Args:
        count, sample: values of the output, and of its sample.
        limited: whether the layer's range has an end to be saturated at.
        quantiles: how many were measured."""
    shares = measured[len(MOMENTS) : len(MOMENTS) + quantiles]
    counts = measured[len(MOMENTS) + quantiles : len(MOMENTS) + quantiles + len(COUNTS)]
    ends = measured[len(MOMENTS) + quantiles + len(COUNTS) :]
    pool = Pool.empty((), FIRST_QUANTILE + quantiles + len(ends) + 1)
    if not np.isfinite(measured).all():
        pool.sums[BROKEN] = 1
        return pool
    sums = pool.sums
    sums[OUTPUTS], sums[LIMITED], sums[UNITS], sums[COUNT] = 1, count if limited else 0, units, count
    sums[_FIRST_COUNT:FIRST_QUANTILE] = counts
    sums[FIRST_QUANTILE : FIRST_QUANTILE + quantiles] = shares
    bins = sums[FIRST_QUANTILE + quantiles :]
    bins[:-1], bins[-1] = ends, sample
    bins[1:] -= ends
    bins *= count / sample  # the histogram counts values
    pool.moments[:] = measured[: len(MOMENTS)]
    return pool
