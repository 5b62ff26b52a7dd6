"""Saves a fit while it runs, so that it can be resumed to the bit, and its best weights."""

import math
import time
from pathlib import Path
from typing import Any, Literal

from mixfit.errors import ConfigError
from mixfit.training.callback import Callback, TrainState
from mixfit.training.checkpoint import (
    Best,
    changing_tensors,
    has_position,
    judged_tensors,
    take,
    write_best,
    write_last,
)

SHARE = 0.05
"""The most of a fit's time that saving takes."""


class Checkpoints(Callback):
    """Saves ``last`` and ``best`` into a folder, see ``checkpoint_files``.

    ``last`` is all of the fit, in the middle of an epoch too; ``best`` the weights of the epoch with the best metric.
    They are written at most every ``seconds``, less often where writing takes long, and always when the fit ends or is
    asked to stop. A process that is killed loses what it learned since the last writing.

    Args:
        folder: where ``last/`` and ``best/`` are made; created if needed.
        metric: a key of ``state.metrics`` that says which epoch is best.
        mode: which direction is better.
        seconds: shortest time between two writings; 0 writes after every batch.
    Raises:
        ConfigError: ``seconds`` is below 0.
    """

    order = 100  # after the others, whose state is to be that after the batch or the epoch

    def __init__(
        self, folder: Path, metric: str = "valid_loss", *, mode: Literal["min", "max"], seconds: float = 15.0
    ) -> None:
        if not seconds >= 0:
            raise ConfigError(f"seconds must be at least 0, got {seconds}.")
        self.folder, self.metric, self.seconds = folder, metric, seconds
        self.sign = 1.0 if mode == "min" else -1.0
        self.best = math.inf
        self.seconds_saving = 0.0
        """Time spent on saving in this fit."""
        self._waiting: Best | None = None
        self._due = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """An epoch of the resumed fit must be better than those before it."""
        self.best = state["best"]

    def before_fit(self, state: TrainState) -> None:
        """Start anew; the first batch is saved at once."""
        self.best, self._waiting, self._due, self.seconds_saving = math.inf, None, 0.0, 0.0

    def after_batch(self, state: TrainState) -> None:
        """Write when the last writing is long enough ago."""
        if state.training and (time.monotonic() >= self._due or state.stop_requested) and has_position(state.loader):
            self._write_last(state, epoch_is_over=False)

    def after_epoch(self, state: TrainState) -> None:
        """Remember a better epoch; write when the last writing is long enough ago."""
        value = self.sign * state.metrics.get(self.metric, math.nan)  # nan is never better
        if value < self.best:
            self.best = value
            self._waiting = Best(judged_tensors(state), state.epoch + 1, state.step, dict(state.metrics))
        if time.monotonic() >= self._due or state.stop_requested:
            self._write_last(state, epoch_is_over=True)

    def after_fit(self, state: TrainState) -> None:
        """Write the result."""
        self._write_last(state, epoch_is_over=True, finished=True)

    def close(self, state: TrainState) -> None:
        """Write the best epoch if it waits, also after an error."""
        self._write_best()

    def _write_last(self, state: TrainState, *, epoch_is_over: bool, finished: bool = False) -> None:
        started = time.monotonic()
        if not all(bool(tensor.isfinite().all()) for tensor in changing_tensors(state.model).values()):
            self._due = started + self.seconds
            return  # the last good one is kept
        self._write_best()  # first: a resumed fit does not see that epoch again
        write_last(self.folder, take(state, epoch_is_over=epoch_is_over, finished=finished))
        took = time.monotonic() - started
        self.seconds_saving += took
        self._due = time.monotonic() + max(self.seconds, took / SHARE if self.seconds else 0.0)

    def _write_best(self) -> None:
        if self._waiting is not None:
            write_best(self.folder, self._waiting)
            self._waiting = None
