"""Ends a training that a search for settings has given up on."""

import time
from typing import Protocol, runtime_checkable

from mixfit.errors import ConfigError
from mixfit.training.callback import Callback, CancelFit
from mixfit.training.state import TrainState


@runtime_checkable
class Reports(Protocol):
    """What is needed of a trial; ``optuna.Trial`` has it."""

    def report(self, value: float, step: int) -> None: ...

    def should_prune(self) -> bool: ...


class Pruning(Callback):
    """Reports a metric of every epoch to a trial, and ends the fit when the trial is not worth going on with.

    Afterwards ``pruned`` says whether it was; whoever made the trial then raises ``optuna.TrialPruned`` or tells the
    study.

    Args:
        trial: of the study, such as an ``optuna.Trial``.
        metric: a key of ``state.metrics``.
        may_end: False only reports.
    """

    order = 9  # after the epoch is recorded, before early stopping may end the fit

    def __init__(self, trial: Reports, metric: str = "valid_loss", *, may_end: bool = True) -> None:
        self.trial, self.metric, self.may_end = trial, metric, may_end
        self.pruned = False

    def before_fit(self, state: TrainState) -> None:
        """Start anew."""
        self.pruned = False

    def after_epoch(self, state: TrainState) -> None:
        """Report, and ask."""
        if self.metric not in state.metrics:
            raise ConfigError(f"Pruning watches {self.metric!r}, but the metrics are {', '.join(state.metrics)}.")
        self.trial.report(state.metrics[self.metric], state.epoch)
        if self.may_end and self.trial.should_prune():
            self.pruned = True
            raise CancelFit


class Deadline(Callback):
    """Ends the fit after the batch in which a moment is over; ``over`` says whether that happened.

    Args:
        at: of ``time.monotonic()``; None for never.
    """

    order = 8

    def __init__(self, at: float | None) -> None:
        self.at = at
        self.over = False

    def after_batch(self, state: TrainState) -> None:
        """Look at the clock."""
        if self.at is not None and state.training and time.monotonic() > self.at:
            self.over = True
            raise CancelFit
