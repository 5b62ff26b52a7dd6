"""Statistics over any number of steps in a bounded number of columns: when all are full, two old ones are pooled."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import asinh, ceil, gcd, sinh
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from mixfit.errors import ConfigError


class Columns:
    """Numbers that are summed, and numbers of which the largest is kept, for each column.

    Args:
        columns: as many as the timeline's.
        sums, largest: how many numbers of each kind; the largest are never below 0.
    """

    def __init__(self, columns: int, sums: int, largest: int) -> None:
        self.sums = np.zeros((columns, sums))
        self.largest = np.zeros((columns, largest))

    def add(self, column: int, sums: Float64[np.ndarray, " sums"], largest: Float64[np.ndarray, " largest"]) -> None:
        """One step more."""
        self.sums[column] += sums
        np.maximum(self.largest[column], largest, out=self.largest[column])

    def merge_pairs(self) -> None:
        """Columns 0 and 1 become 0, 2 and 3 become 1, and so on; the second half is empty then."""
        half = len(self.sums) // 2
        sums = self.sums.reshape(half, 2, -1).sum(1)
        largest = self.largest.reshape(half, 2, -1).max(1, initial=0.0)
        self.sums = np.concatenate([sums, np.zeros_like(sums)])
        self.largest = np.concatenate([largest, np.zeros_like(largest)])


MOMENTS = ("mean", "m2", "minimum", "maximum")
COUNTS = ("near_zero", "saturated", "dead")
_PIECE = 2**18  # values; 1 MB


def default_edges(bins: int = 81, *, linear: float = 0.25, top: float = 1000.0) -> tuple[float, ...]:
    """Edges of bins that are even where values are below ``linear`` in size, and grow with the value beyond.

    They are those of the inverse hyperbolic sine, from ``-top`` to ``top``; an odd number has 0 in the middle of one.

    >>> [round(edge, 2) for edge in default_edges(5)]
    [-1000.0, -27.46, -0.73, 0.73, 27.46, 1000.0]
    """
    most = asinh(top / linear)
    return tuple(linear * sinh(most * (2 * place / bins - 1)) for place in range(bins + 1))


@dataclass(frozen=True, slots=True)
class Scheme:
    """How outputs are measured; values that are compared with each other are measured alike."""

    near_zero: float
    """Values up to this size are near zero; a unit whose values in a batch all are is dead there."""
    quantiles: tuple[float, ...]
    edges: tuple[float, ...]
    """Of the histogram; values beyond the ends are counted in the bins at the ends."""
    sample: int | None
    """Quantiles and histogram are of at most so many values of an output, evenly spread over it; None for all."""


def saturation(module: nn.Module) -> tuple[float, float] | None:
    """Outputs up to the first and from the second number on are saturated: within 1 % of an end of the range.

    There the activation is flat, and its input gets hardly a gradient. None for a layer whose range has no end; the
    flat half of ReLU is told as near zero."""
    match module:
        case nn.Sigmoid() | nn.Hardsigmoid():
            return 0.01, 0.99
        case nn.Tanh() | nn.Softsign():
            return -0.98, 0.98
        case nn.ReLU6():
            return -float("inf"), 5.94
        case nn.Hardtanh():
            room = 0.01 * (module.max_val - module.min_val)
            return module.min_val + room, module.max_val - room
        case _:
            return None


def units_of(x: Tensor) -> int:
    """How many units an output has: channels of a picture (axis 1 of 4 or more), else the last axis; 1 of a vector."""
    return 1 if x.ndim < 2 else x.shape[1 if x.ndim > 3 else -1]


def sampled(n: int, most: int | None) -> int:
    """How many of ``n`` values are in the sample."""
    return n if most is None or n <= most else ceil(n / _stride(n, most))


@torch.no_grad()
def measure(x: Tensor, scheme: Scheme, limits: tuple[float, float] | None) -> Tensor:
    """Mean, sum of squares about it, extremes, counts, quantiles, histogram of an output that is not empty.

    Returns:
        float64 (float32 on devices without it): ``MOMENTS``, the quantiles, ``COUNTS``, and how many values of the
        sample are below each inner edge. Quantiles are of the sample, too; "dead" counts units, the others values."""
    x = x.detach()
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    exact = torch.float32 if x.device.type == "mps" else torch.float64
    moments, near_zero, largest = _moments(x, scheme.near_zero, exact)
    dead = (largest <= scheme.near_zero).count_nonzero()
    saturated = torch.zeros_like(dead) if limits is None else ((x <= limits[0]) | (x >= limits[1])).count_nonzero()
    ordered = _sample(x, scheme.sample).sort().values
    below, above, weight = _places(scheme.quantiles, len(ordered), x.dtype, x.device)
    quantiles = ordered.index_select(0, below).lerp(ordered.index_select(0, above), weight)
    ends = torch.searchsorted(ordered, _edges(scheme.edges[1:-1], x.dtype, x.device))
    counts = torch.cat([torch.stack([near_zero, saturated, dead]), ends])
    return torch.cat([moments, quantiles.to(exact), counts.to(exact)])


def _moments(x: Tensor, near_zero: float, exact: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """``MOMENTS``, number of values near zero, largest size in each unit.

    The squares are summed about a mean: without one, all digits would be lost where the mean is large. On a CPU it goes
    in pieces that fit its cache: fresh memory for intermediate results of a large output takes longer than the
    arithmetic. The pieces are pooled like batches."""
    unit = 1 if x.ndim > 3 else x.ndim - 1
    axes = [axis for axis in range(x.ndim) if axis != unit] if x.ndim > 1 else list(range(x.ndim))
    pieces: Sequence[Tensor] = [x]
    if x.device.type == "cpu" and x.numel() > _PIECE:
        pieces = torch.split(x, max(len(x) * _PIECE // x.numel(), 1))
    means, squares, lows, highs, counts, sizes = [], [], [], [], [], []
    for piece in pieces:
        mean = piece.mean()
        work = piece - mean
        means.append(mean)
        squares.append(work.square_().sum())
        low, high = torch.aminmax(piece)
        lows.append(low)
        highs.append(high)
        torch.abs(piece, out=work)
        counts.append((work <= near_zero).count_nonzero())
        sizes.append(work.amax(axes))
    if len(pieces) == 1:
        return torch.stack([means[0], squares[0], low, high]).to(exact), counts[0], sizes[0]
    each, n = torch.stack(means).to(exact), torch.tensor([piece.numel() for piece in pieces], dtype=exact)
    mean = (each * n).sum() / x.numel()
    m2 = torch.stack(squares).to(exact).sum() + (n * (each - mean).square()).sum()
    extremes = torch.stack(lows).amin().to(exact), torch.stack(highs).amax().to(exact)
    return torch.stack([mean, m2, *extremes]), torch.stack(counts).sum(), torch.stack(sizes).amax(0)


@lru_cache(maxsize=256)
def _places(
    quantiles: tuple[float, ...], n: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the quantiles among ``n`` sorted values: the value below, the one above, and the weight of that."""
    places = [share * (n - 1) for share in quantiles]
    below = [int(place) for place in places]
    return (
        torch.tensor(below, dtype=torch.int64, device=device),
        torch.tensor([min(place + 1, n - 1) for place in below], dtype=torch.int64, device=device),
        torch.tensor([place - int(place) for place in places], dtype=dtype, device=device),
    )


def _sample(x: Tensor, most: int | None) -> Tensor:
    """Values evenly spread over an output, the same places each time: random ones would change a training."""
    flat = x.permute(sorted(range(x.ndim), key=x.stride, reverse=True)).reshape(-1)  # no copy of channels-last outputs
    return flat if most is None or len(flat) <= most else flat[:: _stride(len(flat), most)]


@lru_cache(maxsize=256)
def _stride(n: int, most: int) -> int:
    """Of the sample; it shares no factor with any axis, so that every channel and every place has its turn."""
    stride = ceil(n / most)
    while gcd(stride, n) > 1:
        stride += 1
    return stride


@cache
def _edges(edges: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(edges, dtype=dtype, device=device)


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


class Timeline:
    """The columns that statistics over time are kept in, each of as many observed steps as the others.

    Args:
        columns: at most so many, an even number.
    Raises:
        ConfigError: ``columns`` is odd or below 2.
    """

    def __init__(self, columns: int) -> None:
        if columns < 2 or columns % 2:
            raise ConfigError(f"columns must be an even number from 2 on, got {columns}.")
        self.columns = columns
        self.clear()

    def clear(self) -> None:
        """Forget all steps."""
        self.width = 1
        """Observed steps in a full column."""
        self.observed = 0
        self.first = np.full(self.columns, -1, dtype=np.int64)
        """First step of each column, -1 where there is none yet."""
        self.last = self.first.copy()

    @property
    def used(self) -> int:
        """Columns with a step."""
        return -(-self.observed // self.width)

    @property
    def spans(self) -> Int64[np.ndarray, "used 2"]:
        """First and last step of each used column."""
        return np.stack([self.first, self.last], axis=1)[: self.used]

    def advance(self, step: int) -> bool:
        """Begin a step, or stay in it when it is the last one again; True when columns were merged.

        Whoever keeps something by column then merges columns 0 and 1 to 0, 2 and 3 to 1, and so on."""
        if self.observed and step == self.last[self.used - 1]:
            return False
        merged = self.observed == self.columns * self.width
        if merged:
            half = self.columns // 2
            self.first = np.concatenate([self.first[::2], np.full(half, -1, dtype=np.int64)])
            self.last = np.concatenate([self.last[1::2], np.full(half, -1, dtype=np.int64)])
            self.width *= 2
        self.observed += 1
        column = self.used - 1
        if self.first[column] < 0:
            self.first[column] = step
        self.last[column] = step
        return merged

    def state_dict(self) -> dict[str, Any]:
        """All of it, as JSON can say it."""
        return {
            "width": self.width,
            "observed": self.observed,
            "first": self.first.tolist(),
            "last": self.last.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave.

        Raises:
            ConfigError: it was of another number of columns."""
        if len(state["first"]) != self.columns:
            raise ConfigError(f"The saved statistics have {len(state['first'])} columns, these {self.columns}.")
        self.width, self.observed = int(state["width"]), int(state["observed"])
        self.first, self.last = (np.array(state[name], dtype=np.int64) for name in ("first", "last"))
