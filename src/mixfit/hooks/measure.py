"""What is measured of one output of a layer: a few numbers, on the device of the output, without waiting for it.

In: a tensor. Out: one small vector. Its parts are pooled over calls, steps and layers by ``pooling.py``."""

from dataclasses import dataclass
from functools import cache
from math import asinh, ceil, gcd, sinh

import torch
from torch import Tensor, nn

MOMENTS = ("mean", "m2", "minimum", "maximum")
COUNTS = ("near_zero", "saturated", "dead")


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
        float64 (float32 on devices without it): ``MOMENTS``, ``COUNTS``, quantiles and shares of the bins, both of the
        sample. "dead" counts units, the other counts are of values."""
    x = x.detach()
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    mean = x.mean()
    centred = x - mean
    m2 = centred.square_().sum()  # two passes: one would lose all digits where the mean is large
    minimum, maximum = torch.aminmax(x)
    size = torch.abs(x, out=centred) if centred.dtype == x.dtype else x.abs()
    near_zero = (size <= scheme.near_zero).count_nonzero()
    if x.ndim < 2:
        largest = size.amax()
    else:
        unit = 1 if x.ndim > 3 else x.ndim - 1
        largest = size.amax([axis for axis in range(x.ndim) if axis != unit])
    dead = (largest <= scheme.near_zero).count_nonzero()
    saturated = torch.zeros_like(dead) if limits is None else ((x <= limits[0]) | (x >= limits[1])).count_nonzero()
    ordered, last = _sample(x, scheme.sample).sort().values, sampled(x.numel(), scheme.sample) - 1
    quantiles = [_between(ordered, share * last) for share in scheme.quantiles]
    ends = torch.searchsorted(ordered, _edges(scheme.edges[1:-1], x.dtype, x.device))
    scalars = [mean, m2, minimum, maximum, near_zero, saturated, dead, *quantiles]
    exact = torch.float32 if x.device.type == "mps" else torch.float64
    shares = torch.diff(ends, prepend=ends.new_zeros(1), append=ends.new_full((1,), last + 1)).to(exact) / (last + 1)
    return torch.cat([torch.stack([scalar.to(exact) for scalar in scalars]), shares])


def _between(ordered: Tensor, place: float) -> Tensor:
    """The value at a place of sorted values; between two, linearly."""
    below = int(place)
    return ordered[below].lerp(ordered[min(below + 1, len(ordered) - 1)], place - below)


def _sample(x: Tensor, most: int | None) -> Tensor:
    """Values evenly spread over an output, the same places each time: random ones would change a training."""
    flat = x.permute(sorted(range(x.ndim), key=x.stride, reverse=True)).reshape(-1)  # no copy of channels-last outputs
    return flat if most is None or len(flat) <= most else flat[:: _stride(len(flat), most)]


@cache
def _stride(n: int, most: int) -> int:
    """Of the sample; it shares no factor with any axis, so that every channel and every place has its turn."""
    stride = ceil(n / most)
    while gcd(stride, n) > 1:
        stride += 1
    return stride


@cache
def _edges(edges: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(edges, dtype=dtype, device=device)
