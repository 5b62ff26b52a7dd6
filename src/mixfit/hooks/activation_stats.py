"""Statistics of the outputs of a model's layers during training, in memory that does not grow with its length.

``ActivationStats`` measures; ``Output``, ``Activations`` and ``Histogram`` are plain records of its results. Below are
the statistics of one output, computed on its device (``measure``), and their accumulation over many (``Pool``)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from math import asinh, ceil, gcd, sinh
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.hooks.hook import MIXED_BRANCHES, Call, Hook, Hooks, Layers, branch_of, tensors_in
from mixfit.hooks.timeline import Timeline

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
_MOST_SERIES = 16  # per layer: further calls and parts are pooled into the last one, so that memory is bounded
_MOST_WAITING = 16  # passes whose statistics stay on the GPU before they are copied


@dataclass(frozen=True, slots=True)
class Output:
    """Identifies one output of a layer in a forward pass."""

    layer: str
    """Name of the layer in the model."""
    call: int = 0
    """Number of the call of this layer in one pass, from 0: 1 is the second use of a shared ReLU."""
    part: str = ""
    """The tensor within an output with several tensors, such as "[0]" or "[hidden]"; otherwise ""."""
    branch: str = ""
    """Branch of the model, such as "table", "photos" or "fusion and head"."""
    kind: str = ""
    """Type of the layer."""

    def __str__(self) -> str:
        call = f" (call {self.call + 1})" if self.call else ""
        return f"{self.layer or 'model'}{self.part}{call}"


@dataclass(frozen=True, slots=True)
class Activations:
    """Statistics of the values of one or several outputs over some steps; NaN if there were none."""

    first_step: int
    last_step: int
    outputs: int
    """Number of tensors that were measured."""
    broken: int
    """Number of tensors that are excluded from the following statistics because not all values are finite."""
    values: int
    mean: float
    std: float
    """Population standard deviation over all values."""
    minimum: float
    maximum: float
    near_zero: float
    """Share of the values near zero, in [0, 1]."""
    saturated: float | None
    """Share of the values near a bound of the layer's range, such as 0.99 for a sigmoid; None if it has no bound."""
    dead_units: float
    """Share of the units with all values of a batch near zero, mean over the batches."""
    quantiles: dict[float, float]
    """Quantiles of each output, mean over the outputs."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Number of values per bin and column of steps."""

    edges: Float64[np.ndarray, " edges"]
    counts: Float64[np.ndarray, "columns bins"]
    """Numbers of values; estimates if an output is larger than the sample."""
    spans: Int64[np.ndarray, "columns 2"]
    """First and last step of each column."""


_Seen = tuple[Output, int, int, bool, Tensor]  # values, units, whether it can be saturated, measurements


class ActivationStats:
    """Mean, std, extremes, quantiles, histograms, dead and saturated units of the outputs of layers, over time.

    Use it as a context manager around training, or with ``place`` and ``remove``. Every ``every``-th forward pass is
    measured; in between, a single hook counts passes. Statistics stay on the device and are copied together, and no
    random numbers are drawn, so training is bitwise unchanged.

    Args:
        model: every call of it is a pass.
        layers: as for ``Hooks``; by default all modules without children.
        every: measure every ``every``-th step, starting with the first.
        columns: maximum number of columns that the steps are stored in, an even number; old columns are merged.
        near_zero: values with an absolute value up to this are near zero.
        quantiles: quantiles to compute for each output, in [0, 1].
        edges: of the histogram bins, increasing; by default 81 bins from -1,000 to 1,000.
        sample: quantiles and histograms use at most this many values of an output, evenly spaced; None for all. The
            other statistics always use all values.
        branches: prefixes of layer names and their branch; otherwise the first part of the name is the branch.
        training_only: skip passes in evaluation mode.
        step: returns the number of the current step; by default the passes are counted.
    Raises:
        ConfigError: a number is out of range, or a layer is not in the model.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers | None = None,
        *,
        every: int = 1,
        columns: int = 64,
        near_zero: float = 1e-3,
        quantiles: Sequence[float] = QUANTILES,
        edges: Sequence[float] | None = None,
        sample: int | None = 2**13,
        branches: Mapping[str, str] = MIXED_BRANCHES,
        training_only: bool = True,
        step: Callable[[], int] | None = None,
    ) -> None:
        if every < 1:
            raise ConfigError(f"every must be at least 1, got {every}.")
        if sample is not None and sample < 1:
            raise ConfigError(f"sample must be at least 1 or None, got {sample}.")
        if not all(0 <= share <= 1 for share in quantiles):
            raise ConfigError(f"quantiles must be in [0, 1], got {', '.join(map(str, quantiles))}.")
        self.every, self.branches, self.training_only = every, branches, training_only
        edges = default_edges() if edges is None else tuple(map(float, edges))
        if len(edges) < 2 or any(b <= a for a, b in pairwise(edges)):
            raise ConfigError("edges must be at least two increasing numbers.")
        self.scheme = Scheme(near_zero, tuple(quantiles), tuple(edges), sample)
        self.timeline = Timeline(columns)
        self._step = step
        self._layers = Hooks(model, self._look, layers)
        self._before, self._after = Hook(model, self._begin, "pre-forward"), Hook(model, self._end)
        self._pools: dict[Output, Pool] = {}
        self._latest: dict[Output, tuple[int, Pool]] = {}
        self._calls: dict[str, int] = {}
        self._series: dict[str, int] = {}
        self._passes = 0
        self._now = -1
        self._pass: list[_Seen] = []
        self._waiting: list[tuple[int, list[_Seen]]] = []

    def place(self) -> None:
        """Register the hooks, if a ``with`` block cannot span the training."""
        self._before.place()

    def remove(self) -> None:
        """Remove the hooks; the statistics are kept."""
        self._leave_pass()
        self._before.remove()
        self._fetch()

    def __enter__(self) -> "ActivationStats":
        self.place()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __str__(self) -> str:
        """A line per output over all steps: mean, std, extremes, share of near-zero values and of dead units."""
        total = self.total()
        if not total:
            return "no activations recorded yet: train, or call the model, while the statistics are enabled"
        width = max(len("output"), *(len(str(output)) for output in total))
        lines = [f"{'output':<{width}}  {'mean':>9} {'sd':>9} {'min':>9} {'max':>9} {'near 0':>7} {'dead':>7}"]
        for output, seen in total.items():
            numbers = " ".join(f"{value:>9.3g}" for value in (seen.mean, seen.std, seen.minimum, seen.maximum))
            shares = " ".join(f"{share:>7.1%}" for share in (seen.near_zero, seen.dead_units))
            broken = f"  {seen.broken} not finite" if seen.broken else ""
            lines.append(f"{output!s:<{width}}  {numbers} {shares}{broken}")
        lines.append(f"steps {self._span()[0]} to {self._span()[1]}; sd: standard deviation; near 0 and dead: shares")
        return "\n".join(lines)

    @property
    def outputs(self) -> list[Output]:
        """The recorded outputs, in the order of their first calls."""
        self._fetch()
        return list(self._pools)

    def total(self) -> dict[Output, Activations]:
        """Statistics of each output over all steps."""
        self._fetch()
        span = self._span()
        return {output: activations(pool.over(0), self.scheme.quantiles, *span) for output, pool in self._pools.items()}

    def latest(self) -> dict[Output, Activations]:
        """Statistics of each output in the last step in which it was measured."""
        self._fetch()
        shares = self.scheme.quantiles
        return {output: activations(pool, shares, step, step) for output, (step, pool) in self._latest.items()}

    def over_time(self, output: Output) -> list[Activations]:
        """Statistics of one output, by column.

        Raises:
            ConfigError: it is not one of ``outputs``."""
        pool = self._pool_of(output)
        return [
            activations(pool[column], self.scheme.quantiles, int(first), int(last))
            for column, (first, last) in enumerate(self.timeline.spans)
        ]

    def _pool_of(self, output: Output) -> "Pool":
        self._fetch()
        if output not in self._pools:
            raise ConfigError(
                f"There are no statistics of {output!r}: use one of the {len(self._pools)} outputs in .outputs."
            )
        return self._pools[output]

    def by_branch(self) -> dict[str, Activations]:
        """Statistics of each branch, pooled over its outputs and all steps."""
        self._fetch()
        together: dict[str, list[Pool]] = {}
        for output, pool in self._pools.items():
            together.setdefault(output.branch, []).append(pool.over(0))
        span = self._span()
        return {
            branch: activations(stacked(pools).over(0), self.scheme.quantiles, *span)
            for branch, pools in together.items()
        }

    def histogram(self, output: Output) -> Histogram:
        """The histogram of one output, by column.

        Raises:
            ConfigError: it is not one of ``outputs``."""
        pool = self._pool_of(output)
        spans = self.timeline.spans
        first = FIRST_QUANTILE + len(self.scheme.quantiles)
        counts = pool.sums[: len(spans), first:].copy()
        return Histogram(np.array(self.scheme.edges), counts, spans)

    def state_dict(self) -> dict[str, Any]:
        """All statistics; the size does not depend on the number of steps."""
        outputs = self.outputs
        kept = stacked([self._pools[output] for output in outputs]) if outputs else Pool.empty((0,), 0)
        latest = stacked([self._latest[output][1] for output in outputs]) if outputs else Pool.empty((0,), 0)
        return {
            # Lists, because layer names such as "0" would be read from a file as numbers.
            "outputs": [[o.layer, o.call, o.part, o.branch, o.kind] for o in outputs],
            "latest_steps": [self._latest[output][0] for output in outputs],
            "timeline": self.timeline.state_dict(),
            "passes": self._passes,
            "kept": {"sums": torch.from_numpy(kept.sums), "moments": torch.from_numpy(kept.moments)},
            "latest": {"sums": torch.from_numpy(latest.sums), "moments": torch.from_numpy(latest.moments)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the statistics of ``state_dict``.

        Raises:
            ConfigError: they were recorded with other settings."""
        sums, moments, latest_sums, latest_moments = (
            state[name][key].double().numpy().copy() for name in ("kept", "latest") for key in ("sums", "moments")
        )
        numbers = self._numbers()
        if len(state["outputs"]) and sums.shape[-1] != numbers:
            raise ConfigError(
                f"The saved statistics have {sums.shape[-1]} numbers per column, but these have {numbers}; use the "
                "same settings."
            )
        self.timeline.load_state_dict(state["timeline"])
        outputs = [Output(*fields) for fields in state["outputs"]]
        self._waiting, self._passes = [], int(state["passes"])
        self._pools = {output: Pool(sums[i], moments[i]) for i, output in enumerate(outputs)}
        steps = state["latest_steps"]
        self._latest = {o: (int(steps[i]), Pool(latest_sums[i], latest_moments[i])) for i, o in enumerate(outputs)}
        self._series = {}
        for output in outputs:
            self._series[output.layer] = self._series.get(output.layer, 0) + 1

    def _begin(self, call: Call) -> None:
        """Start of a pass: register the hooks on the layers if it is measured."""
        self._leave_pass()  # a pass that was ended by an error is discarded
        if self.training_only and not call.module.training:
            return
        self._now = self._passes if self._step is None else self._step()
        self._passes += 1
        if self._now % self.every == 0:
            self._calls.clear()
            self._layers.place()
            self._after.place()  # registered last, because the model itself may be one of the layers

    def _end(self, call: Call) -> None:
        if self._pass:
            self._waiting.append((self._now, self._pass))
        on_cpu = self._pass and self._pass[0][-1].device.type == "cpu"
        self._leave_pass()
        if on_cpu or len(self._waiting) == _MOST_WAITING:
            self._fetch()

    def _leave_pass(self) -> None:
        self._layers.remove()
        self._after.remove()
        self._pass = []

    def _look(self, call: Call) -> None:
        number = self._calls.get(call.name, 0)
        self._calls[call.name] = number + 1
        limits = saturation(call.module)
        for part, tensor in tensors_in(call.output):
            if tensor.numel() and tensor.is_floating_point() and tensor.layout == torch.strided:
                branch = branch_of(call.name, self.branches)
                output = Output(call.name, number, part, branch, type(call.module).__name__)
                measured = measure(tensor, self.scheme, limits)
                self._pass.append((output, tensor.numel(), units_of(tensor), limits is not None, measured))

    def _kept_as(self, output: Output) -> Output:
        """The output to store statistics under: the last one of a layer that has too many."""
        if output in self._pools:
            return output
        count = self._series.get(output.layer, 0)
        if count >= _MOST_SERIES:
            return [known for known in self._pools if known.layer == output.layer][-1]
        self._series[output.layer] = count + 1
        self._pools[output] = Pool.empty((self.timeline.columns,), self._numbers())
        return output

    def _fetch(self) -> None:
        """Copy all pending statistics from the device at once, and store them."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        together = torch.stack([measured for _, found in waiting for *_, measured in found]).cpu().double().numpy()
        rows = iter(together)
        for step, found in waiting:
            if self.timeline.advance(step):
                for pool in self._pools.values():
                    pool.merge_pairs()
            column = self.timeline.used - 1
            for seen, count, units, limited, _ in found:
                output = self._kept_as(seen)
                new = pool_of(
                    next(rows),
                    count=count,
                    units=units,
                    limited=limited,
                    quantiles=len(self.scheme.quantiles),
                    sample=sampled(count, self.scheme.sample),
                )
                self._pools[output].add(column, new)
                before = self._latest.get(output)
                same = before is not None and before[0] == step
                self._latest[output] = step, stacked([before[1], new]).over(0) if before and same else new

    def _numbers(self) -> int:
        """Number of sums per column."""
        return FIRST_QUANTILE + len(self.scheme.quantiles) + len(self.scheme.edges) - 1

    def _span(self) -> tuple[int, int]:
        spans = self.timeline.spans
        return (int(spans[0, 0]), int(spans[-1, 1])) if len(spans) else (-1, -1)


def activations(pool: "Pool", shares: Sequence[float], first_step: int, last_step: int) -> Activations:
    """The record of a pool with one place; ``shares`` are the levels of its quantiles."""
    sums, moments = pool.sums, pool.moments
    outputs, values, units, limited = (float(sums[place]) for place in (OUTPUTS, COUNT, UNITS, LIMITED))
    nothing = float("nan")
    quantiles = sums[FIRST_QUANTILE : FIRST_QUANTILE + len(shares)]
    return Activations(
        first_step=first_step,
        last_step=last_step,
        outputs=int(outputs),
        broken=int(sums[BROKEN]),
        values=int(values),
        mean=float(moments[MEAN]) if values else nothing,
        std=float(np.sqrt(moments[M2] / values)) if values else nothing,
        minimum=float(moments[MINIMUM]) if values else nothing,
        maximum=float(moments[MAXIMUM]) if values else nothing,
        near_zero=float(sums[NEAR_ZERO]) / values if values else nothing,
        saturated=float(sums[SATURATED]) / limited if limited else None,
        dead_units=float(sums[DEAD]) / units if units else nothing,
        quantiles={
            share: float(value) / outputs if outputs else nothing
            for share, value in zip(shares, quantiles, strict=True)
        },
    )


def default_edges(bins: int = 81, *, linear: float = 0.25, top: float = 1000.0) -> tuple[float, ...]:
    """Edges of bins with equal width for absolute values below ``linear``, and increasing width beyond.

    They are equally spaced on the asinh scale, from ``-top`` to ``top``; for an odd number, one bin is centred on 0.

    >>> [round(edge, 2) for edge in default_edges(5)]
    [-1000.0, -27.46, -0.73, 0.73, 27.46, 1000.0]
    """
    most = asinh(top / linear)
    return tuple(linear * sinh(most * (2 * place / bins - 1)) for place in range(bins + 1))


def saturation(module: nn.Module) -> tuple[float, float] | None:
    """Thresholds of saturation, within 1 % of the bounds of the range: outputs below the first or above the second.

    There the activation is flat, and the gradient of its input is close to 0. None for a layer without bounds; the
    flat half of ReLU is reported as near zero instead."""
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
    """Number of units of an output: channels of an image (axis 1 of 4 or more), else the last axis; 1 for a vector."""
    return 1 if x.ndim < 2 else x.shape[1 if x.ndim > 3 else -1]


def sampled(n: int, most: int | None) -> int:
    """Number of values in the sample of ``n`` values."""
    return n if most is None or n <= most else ceil(n / _stride(n, most))


MOMENTS = ("mean", "m2", "minimum", "maximum")
COUNTS = ("near_zero", "saturated", "dead")
_PIECE = 2**18  # values; 1 MB


@dataclass(frozen=True, slots=True)
class Scheme:
    """Settings of the measurement, the same for all outputs that are compared."""

    near_zero: float
    """Absolute values up to this are near zero; a unit is dead in a batch if all its values are near zero."""
    quantiles: tuple[float, ...]
    edges: tuple[float, ...]
    """Edges of the histogram bins; values outside are counted in the first or last bin."""
    sample: int | None
    """Quantiles and histogram use at most this many values of an output, evenly spaced; None for all."""


@torch.no_grad()
def measure(x: Tensor, scheme: Scheme, limits: tuple[float, float] | None) -> Tensor:
    """Mean, sum of squared deviations, extremes, counts, quantiles and histogram of a non-empty output.

    Returns:
        float64 (float32 on devices without float64): ``MOMENTS``, the quantiles, ``COUNTS``, and the number of sampled
        values below each inner edge. Quantiles are of the sample, too; "dead" counts units, the others count values."""
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
    """``MOMENTS``, number of values near zero, largest absolute value of each unit.

    Squares are summed about the mean, to avoid cancellation if the mean is large. On a CPU, large outputs are processed
    in pieces that fit into its cache, because allocating memory for intermediate results would take longer than the
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
    """Positions of quantiles among ``n`` sorted values: the lower one, the upper one, and the weight of the upper."""
    places = [share * (n - 1) for share in quantiles]
    below = [int(place) for place in places]
    return (
        torch.tensor(below, dtype=torch.int64, device=device),
        torch.tensor([min(place + 1, n - 1) for place in below], dtype=torch.int64, device=device),
        torch.tensor([place - int(place) for place in places], dtype=dtype, device=device),
    )


def _sample(x: Tensor, most: int | None) -> Tensor:
    """Evenly spaced values of an output, always at the same positions: random positions would change the training."""
    flat = x.permute(sorted(range(x.ndim), key=x.stride, reverse=True)).reshape(-1)  # no copy of channels-last outputs
    return flat if most is None or len(flat) <= most else flat[:: _stride(len(flat), most)]


@lru_cache(maxsize=256)
def _stride(n: int, most: int) -> int:
    """Stride of the sample; it has no common factor with any axis, so that all channels and positions are sampled."""
    stride = ceil(n / most)
    while gcd(stride, n) > 1:
        stride += 1
    return stride


@cache
def _edges(edges: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(edges, dtype=dtype, device=device)


OUTPUTS, BROKEN, LIMITED, UNITS, COUNT = range(5)
"""Indices into ``sums``: outputs measured, outputs not finite, values that can be saturated, units, values."""
_FIRST_COUNT = 5
NEAR_ZERO, SATURATED, DEAD = range(_FIRST_COUNT, _FIRST_COUNT + len(COUNTS))
FIRST_QUANTILE = DEAD + 1
MEAN, M2, MINIMUM, MAXIMUM = range(len(MOMENTS))


@dataclass(slots=True)
class Pool:
    """Statistics of any number of places, such as columns of steps; the last axis holds the values of one place."""

    sums: Float64[np.ndarray, "*places sums"]
    moments: Float64[np.ndarray, "*places 4"]

    @classmethod
    def empty(cls, places: tuple[int, ...], sums: int) -> "Pool":
        """An empty pool with ``sums`` sums per place."""
        moments = np.zeros((*places, len(MOMENTS)))
        moments[..., MINIMUM], moments[..., MAXIMUM] = np.inf, -np.inf
        return cls(np.zeros((*places, sums)), moments)

    def __getitem__(self, place: int | slice) -> "Pool":
        """A view of one place or of several."""
        return Pool(self.sums[place], self.moments[place])

    def over(self, axis: int) -> "Pool":
        """Pool all places along an axis."""
        sums = self.sums.sum(axis)
        counts = self.sums[..., COUNT]
        count = np.maximum(counts.sum(axis), 1)
        mean = (counts * self.moments[..., MEAN]).sum(axis) / count
        away = self.moments[..., MEAN] - np.expand_dims(mean, axis)
        m2 = (self.moments[..., M2] + counts * away**2).sum(axis)
        extremes = self.moments[..., MINIMUM].min(axis), self.moments[..., MAXIMUM].max(axis)
        return Pool(sums, np.stack([mean, m2, *extremes], axis=-1))

    def add(self, place: int, other: "Pool") -> None:
        """Pool one place with the only place of another pool; like ``over``, but for two."""
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
        """Merge places 0 and 1 to 0, 2 and 3 to 1, and so on; the second half is empty afterwards."""
        half = len(self.sums) // 2
        pairs = Pool(self.sums.reshape(half, 2, -1), self.moments.reshape(half, 2, -1)).over(1)
        rest = Pool.empty((half,), self.sums.shape[-1])
        self.sums = np.concatenate([pairs.sums, rest.sums])
        self.moments = np.concatenate([pairs.moments, rest.moments])


def stacked(pools: list[Pool]) -> Pool:
    """Stack pools of equal shape along a new first axis."""
    return Pool(np.stack([pool.sums for pool in pools]), np.stack([pool.moments for pool in pools]))


def pool_of(
    measured: Float64[np.ndarray, " numbers"], *, count: int, units: int, limited: bool, quantiles: int, sample: int
) -> Pool:
    """The pool of one measured output (see ``measure``); an output that is not finite is only counted.

    Args:
        count, sample: number of values of the output, and of its sample.
        limited: whether the layer's range has bounds, so that it can be saturated.
        quantiles: number of quantiles."""
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
    bins *= count / sample  # scale from the sample to all values
    pool.moments[:] = measured[: len(MOMENTS)]
    return pool
