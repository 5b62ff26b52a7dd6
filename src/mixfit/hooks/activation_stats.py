"""Statistics of what the layers of a model give while it trains, in the same memory however long that is; as plain
records for people and callbacks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.hooks import timeline as pooling
from mixfit.hooks.hook import MIXED_BRANCHES, Call, Hook, Hooks, Layers, branch_of, tensors_in
from mixfit.hooks.timeline import (
    Pool,
    Scheme,
    Timeline,
    default_edges,
    measure,
    pool_of,
    sampled,
    saturation,
    stacked,
    units_of,
)


@dataclass(frozen=True, slots=True)
class Output:
    """One of the outputs of a layer in a pass: what its statistics are told apart by."""

    layer: str
    """Its name in the model."""
    call: int = 0
    """Which of the calls of this layer in one pass, from 0: 1 is the second place of a shared ReLU."""
    part: str = ""
    """Which tensor of an output that has several, such as "[0]" or "[hidden]"; else ""."""
    branch: str = ""
    """Of the model, such as "table", "photos", "fusion and head"."""
    kind: str = ""
    """Type of the layer."""

    def __str__(self) -> str:
        call = f" (call {self.call + 1})" if self.call else ""
        return f"{self.layer or 'model'}{self.part}{call}"


@dataclass(frozen=True, slots=True)
class Activations:
    """Statistics of the values that came out of one or several outputs in some steps; NaN where there were none."""

    first_step: int
    last_step: int
    outputs: int
    """How many tensors were measured."""
    broken: int
    """How many were left out of all that follows, because not all of their values are finite."""
    values: int
    mean: float
    std: float
    """Over all values, not corrected for their number."""
    minimum: float
    maximum: float
    near_zero: float
    """Share of the values, in [0, 1]."""
    saturated: float | None
    """Share of the values near an end of the layer's range, such as 0.99 of a sigmoid; None where there is no end."""
    dead_units: float
    """Share of the units of which every value in a batch is near zero, mean over the batches."""
    quantiles: dict[float, float]
    """Mean over the outputs of the quantiles of each."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values were in which bin in which steps."""

    edges: Float64[np.ndarray, " edges"]
    counts: Float64[np.ndarray, "columns bins"]
    """In values; where an output is larger than the sample, these are estimates."""
    spans: Int64[np.ndarray, "columns 2"]
    """First and last step of each column."""


def activations(pool: Pool, shares: Sequence[float], first_step: int, last_step: int) -> Activations:
    """The record of a pool of one place, whose quantiles are those of ``shares``."""
    sums, moments = pool.sums, pool.moments
    outputs, values, units, limited = (
        float(sums[place]) for place in (pooling.OUTPUTS, pooling.COUNT, pooling.UNITS, pooling.LIMITED)
    )
    nothing = float("nan")
    quantiles = sums[pooling.FIRST_QUANTILE : pooling.FIRST_QUANTILE + len(shares)]
    return Activations(
        first_step=first_step,
        last_step=last_step,
        outputs=int(outputs),
        broken=int(sums[pooling.BROKEN]),
        values=int(values),
        mean=float(moments[pooling.MEAN]) if values else nothing,
        std=float(np.sqrt(moments[pooling.M2] / values)) if values else nothing,
        minimum=float(moments[pooling.MINIMUM]) if values else nothing,
        maximum=float(moments[pooling.MAXIMUM]) if values else nothing,
        near_zero=float(sums[pooling.NEAR_ZERO]) / values if values else nothing,
        saturated=float(sums[pooling.SATURATED]) / limited if limited else None,
        dead_units=float(sums[pooling.DEAD]) / units if units else nothing,
        quantiles={
            share: float(value) / outputs if outputs else nothing
            for share, value in zip(shares, quantiles, strict=True)
        },
    )


QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
_MOST_SERIES = 16  # of one layer: further calls and parts are pooled into the last one, so that memory is bounded
_MOST_WAITING = 16  # passes whose numbers wait on a GPU
_Seen = tuple[Output, int, int, bool, Tensor]  # its values, its units, whether it can be saturated, what was measured


class ActivationStats:
    """Mean, spread, extremes, quantiles, histograms, dead and saturated units of the outputs of layers, over time.

    Used as a context manager around training, or placed and removed. Every ``every``-th pass through the model is
    looked at; in between, one hook counts. The numbers stay on the device and come over together, and no random number
    is drawn: the training is the same to the bit.

    Args:
        model: every call of it is a pass.
        layers: as for ``Hooks``; by default all modules without children.
        every: look at every so many steps, the first one included.
        columns: an even number; the steps are kept in at most so many columns, in which old ones are merged as they
            become many.
        near_zero: values up to this size are near zero.
        quantiles: in [0, 1], of each output.
        edges: of the bins of the histogram, rising; by default 81 bins up to 1,000 on either side of 0.
        sample: quantiles and histograms are of at most so many values of an output, evenly spread; None for all. The
            other statistics are always of all.
        branches: beginnings of names and the branch they belong to; else the first part of the name is the branch.
        training_only: leave out the passes in evaluation mode.
        step: gives the number of the current step; by default the passes are counted.
    Raises:
        ConfigError: a number is out of its range, or a layer is not in the model.
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
            raise ConfigError("edges must be at least two rising numbers.")
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
        """Begin to look, where no ``with`` block can span the training."""
        self._before.place()

    def remove(self) -> None:
        """Look no longer; the statistics stay."""
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

    @property
    def outputs(self) -> list[Output]:
        """Those that were seen, in the order of their first calls."""
        self._fetch()
        return list(self._pools)

    def total(self) -> dict[Output, Activations]:
        """Each output over all steps."""
        self._fetch()
        span = self._span()
        return {output: activations(pool.over(0), self.scheme.quantiles, *span) for output, pool in self._pools.items()}

    def latest(self) -> dict[Output, Activations]:
        """Each output in the last step in which it was looked at."""
        self._fetch()
        shares = self.scheme.quantiles
        return {output: activations(pool, shares, step, step) for output, (step, pool) in self._latest.items()}

    def over_time(self, output: Output) -> list[Activations]:
        """One output, column by column.

        Raises:
            ConfigError: it is none of ``outputs``."""
        pool = self._pool_of(output)
        return [
            activations(pool[column], self.scheme.quantiles, int(first), int(last))
            for column, (first, last) in enumerate(self.timeline.spans)
        ]

    def _pool_of(self, output: Output) -> Pool:
        self._fetch()
        if output not in self._pools:
            raise ConfigError(
                f"There are no statistics of {output!r}: take one of .outputs, of which there are {len(self._pools)}."
            )
        return self._pools[output]

    def by_branch(self) -> dict[str, Activations]:
        """The outputs of each branch pooled, over all steps."""
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
        """Of one output, column by column.

        Raises:
            ConfigError: it is none of ``outputs``."""
        pool = self._pool_of(output)
        spans = self.timeline.spans
        first = pooling.FIRST_QUANTILE + len(self.scheme.quantiles)
        counts = pool.sums[: len(spans), first:].copy()
        return Histogram(np.array(self.scheme.edges), counts, spans)

    def state_dict(self) -> dict[str, Any]:
        """All statistics; the same size whatever the number of steps."""
        outputs = self.outputs
        kept = stacked([self._pools[output] for output in outputs]) if outputs else Pool.empty((0,), 0)
        latest = stacked([self._latest[output][1] for output in outputs]) if outputs else Pool.empty((0,), 0)
        return {
            # Lists: names of layers such as "0" would come back from a file as numbers.
            "outputs": [[o.layer, o.call, o.part, o.branch, o.kind] for o in outputs],
            "latest_steps": [self._latest[output][0] for output in outputs],
            "timeline": self.timeline.state_dict(),
            "passes": self._passes,
            "kept": {"sums": torch.from_numpy(kept.sums), "moments": torch.from_numpy(kept.moments)},
            "latest": {"sums": torch.from_numpy(latest.sums), "moments": torch.from_numpy(latest.moments)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the statistics that ``state_dict`` gave.

        Raises:
            ConfigError: they were kept with other settings."""
        sums, moments, latest_sums, latest_moments = (
            state[name][key].double().numpy().copy() for name in ("kept", "latest") for key in ("sums", "moments")
        )
        numbers = self._numbers()
        if len(state["outputs"]) and sums.shape[-1] != numbers:
            raise ConfigError(f"The saved statistics have {sums.shape[-1]} numbers a column, these {numbers}.")
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
        """A pass begins: hook the layers if it is to be looked at."""
        self._leave_pass()  # one that an error has ended counts as nothing
        if self.training_only and not call.module.training:
            return
        self._now = self._passes if self._step is None else self._step()
        self._passes += 1
        if self._now % self.every == 0:
            self._calls.clear()
            self._layers.place()
            self._after.place()  # last: the model itself may be one of the layers

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
        """The output whose statistics these are: the last one of a layer that has too many."""
        if output in self._pools:
            return output
        count = self._series.get(output.layer, 0)
        if count >= _MOST_SERIES:
            return [known for known in self._pools if known.layer == output.layer][-1]
        self._series[output.layer] = count + 1
        self._pools[output] = Pool.empty((self.timeline.columns,), self._numbers())
        return output

    def _fetch(self) -> None:
        """Bring all that waits on a device over at once, and keep it."""
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
        """How many numbers are summed for each column."""
        return pooling.FIRST_QUANTILE + len(self.scheme.quantiles) + len(self.scheme.edges) - 1

    def _span(self) -> tuple[int, int]:
        spans = self.timeline.spans
        return (int(spans[0, 0]), int(spans[-1, 1])) if len(spans) else (-1, -1)
