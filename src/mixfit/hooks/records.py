"""Statistics of activations as plain records, to be read by people and by callbacks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from mixfit.hooks import pooling
from mixfit.hooks.pooling import Pool


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
