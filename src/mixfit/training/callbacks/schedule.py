"""Schedules: hyper-parameters that change from step to step."""

import math

from mixfit.errors import ConfigError
from mixfit.training.callback import Callback
from mixfit.training.state import TrainState


def cosine(start: float, end: float, position: float) -> float:
    """From ``start`` to ``end`` along half a cosine; ``position`` in [0, 1]."""
    return end + (start - end) * (1 + math.cos(math.pi * position)) / 2


class OneCycle(Callback):
    """Learning rates rise from almost nothing to their peak and fall to nothing (Smith and Topin, arXiv:1708.07120).

    The peak is the rate that each parameter group has when the fit begins; the epochs of the fit are one cycle.

    Args:
        warmup: share of the steps in which the rate rises, in (0, 1).
        start: first rate as a share of the peak.
        end: last rate as a share of the peak.
    """

    def __init__(self, *, warmup: float = 0.25, start: float = 0.04, end: float = 1e-4) -> None:
        if not 0 < warmup < 1:
            raise ConfigError(f"warmup must be between 0 and 1, got {warmup}.")
        self.warmup, self.start, self.end = warmup, start, end
        self.peaks: list[float] = []

    def before_fit(self, state: TrainState) -> None:
        """Remember the peak of each group."""
        self.peaks = [group["lr"] for group in state.optimizer.param_groups]

    def before_batch(self, state: TrainState) -> None:
        """Set the rates of this step."""
        if not state.training:
            return
        factor = self.factor(state.progress)
        for group, peak in zip(state.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor

    def factor(self, position: float) -> float:
        """Share of the peak at ``position`` in [0, 1] of the fit."""
        if position < self.warmup:
            return cosine(self.start, 1.0, position / self.warmup)
        return cosine(1.0, self.end, (position - self.warmup) / (1 - self.warmup))
