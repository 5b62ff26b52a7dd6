"""What is measured of one output of a layer: a few numbers, on the device of the output, without waiting for it.

In: a tensor. Out: one small vector. Its parts are pooled over calls, steps and layers by ``pooling.py``."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from math import asinh, ceil, gcd, sinh

import torch
from torch import Tensor, nn

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
