"""Ends a fit on time, with all that comes at its end."""

import time
from collections.abc import Callable
from typing import Any

from mixfit.errors import ConfigError
from mixfit.training.callback import Callback, CancelFit, CancelTrain
from mixfit.training.state import TrainState


class TimeBudget(Callback):
    """Ends the fit within ``seconds``: the last epoch is left early, validated, and no other follows.

    Schedules that go by ``state.progress`` are at their end by then, if the epochs of the fit are not over before. The
    time of the validation is that of the one before; in the first epoch it is not known yet and comes on top. A step
    that has begun is finished.

    Args:
        seconds: of the whole fit; of one that is resumed, those of its parts together.
        clock: gives seconds.
    Raises:
        ConfigError: ``seconds`` is not above 0.
    """

    order = 105  # after Checkpoints, which is to save the last epoch, and before StopOnSignal
    chooses = False

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        if not seconds > 0:
            raise ConfigError(f"seconds must be above 0, got {seconds}.")
        self.seconds, self.clock = seconds, clock
        self._started = self._batch_ended = self._train_ended = 0.0
        self._earlier = self._validation = self._step = self._share = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds of the fit so far, with those before it was resumed."""
        return self._earlier + self.clock() - self._started

    def state_dict(self) -> dict[str, Any]:
        """How much of the time is gone."""
        return {
            "elapsed": self.elapsed,
            "validation": self._validation,
            "step": self._step,
            "share": self._share,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Time between the parts of a fit does not count."""
        self._started = self.clock()
        self._earlier, self._validation = state["elapsed"], state["validation"]
        self._step, self._share = state["step"], state["share"]

    def before_fit(self, state: TrainState) -> None:
        """Start the clock."""
        self._started = self.clock()
        self._earlier = self._validation = self._step = self._share = 0.0

    def before_train(self, state: TrainState) -> None:
        """The time of a validation is gone, or that of the fit before it was resumed."""
        self._batch_ended = self.elapsed
        self._set_share(state)

    def after_batch(self, state: TrainState) -> None:
        """Leave the training rows if that was the last step, else set the share for the next one."""
        if not state.training:
            return
        now = self.elapsed
        self._step, self._batch_ended = now - self._batch_ended, now
        if self._share == 1 or self._share_at(now) >= 1:
            self._share = 1.0
            raise CancelTrain
        self._set_share(state)

    def after_train(self, state: TrainState) -> None:
        """The validation begins."""
        self._train_ended = self.elapsed

    def after_epoch(self, state: TrainState) -> None:
        """The validation is over; was it the last?"""
        self._validation = self.elapsed - self._train_ended
        if self._share == 1 or self._share_at(self.elapsed + self._step / 2) >= 1:
            raise CancelFit

    def _set_share(self, state: TrainState) -> None:
        """For the next step; it is the last one if that ends nearer to the time than another after it would."""
        is_last = self._share_at(self._batch_ended + 1.5 * self._step) >= 1
        state.time_share = self._share = 1.0 if is_last else max(self._share, self._share_at(self._batch_ended))

    def _share_at(self, elapsed: float) -> float:
        training = self.seconds - self._validation
        return min(elapsed / training, 1.0) if training > 0 else 1.0
