"""What every display of the training shows of its speed."""

import time

from mixfit.training.callback import Callback
from mixfit.training.state import TrainState


class EpochTimes(Callback):
    """Base of the displays: speed, share of the time spent waiting for data, and how long it will still take.

    Whoever overrides an event calls that of this class first."""

    chooses = changes = False

    def __init__(self) -> None:
        self._fit_started = self._epoch_started = self._batch_ended = self._waited = self._train_seconds = 0.0
        self._rows_before = 0
        self._progress_before = -1.0

    def before_fit(self, state: TrainState) -> None:
        """Start the clock of the fit."""
        self._fit_started, self._progress_before = time.perf_counter(), -1.0

    def before_epoch(self, state: TrainState) -> None:
        """Start the clocks of the epoch; one that is resumed has rows behind it already."""
        if self._progress_before < 0:
            self._progress_before = state.progress
        self._epoch_started = self._batch_ended = time.perf_counter()
        self._waited, self._rows_before = 0.0, state.rows_seen

    def before_batch(self, state: TrainState) -> None:
        """The time since the last batch was spent waiting for data."""
        if state.training:
            self._waited += time.perf_counter() - self._batch_ended

    def after_batch(self, state: TrainState) -> None:
        """Wait for data from here."""
        self._batch_ended = time.perf_counter()

    def after_train(self, state: TrainState) -> None:
        """Stop the clock of the training rows."""
        self._train_seconds = max(time.perf_counter() - self._epoch_started, 1e-9)

    @property
    def fit_seconds(self) -> float:
        """Since the fit, or the rest of it that is resumed, began."""
        return time.perf_counter() - self._fit_started

    @property
    def epoch_seconds(self) -> float:
        """Since the epoch began."""
        return time.perf_counter() - self._epoch_started

    @property
    def wait_share(self) -> float:
        """Share of the time of the training rows in which there was nothing to do."""
        return self._waited / self._train_seconds

    def rows_per_second(self, state: TrainState) -> float:
        """Training rows of this epoch by their time."""
        return (state.rows_seen - self._rows_before) / self._train_seconds

    def seconds_left(self, state: TrainState) -> float:
        """Until the end of the fit, if it goes on as it went so far; validation included."""
        done = state.progress - self._progress_before
        return self.fit_seconds * (1 - state.progress) / done if done > 0 else float("nan")
