"""Callbacks that decide when training ends and which weights are kept: early stopping, pruning, time, signals."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from mixfit.errors import ConfigError, Stopped
from mixfit.training.callback import Callback, CancelFit, CancelTrain, TrainState
from mixfit.training.checkpoint import has_position, judged_tensors


class EarlyStopping(Callback):
    """End training when a metric has not improved for ``patience`` epochs in a row, and restore the best weights.

    Args:
        metric: a key of ``state.metrics``, such as ``valid_loss``.
        mode: which direction is better.
        patience: epochs without improvement after which training ends, at least 1.
    """

    order = 10  # after the callbacks that record the epoch

    def __init__(self, metric: str = "valid_loss", *, mode: Literal["min", "max"], patience: int) -> None:
        if patience < 1:
            raise ConfigError(f"patience must be at least 1, got {patience}.")
        self.metric, self.mode, self.patience = metric, mode, patience
        self.sign = 1.0 if mode == "min" else -1.0
        self.best, self.best_epoch, self.bad_epochs = math.inf, -1, 0
        self._weights: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """The best epoch with its weights, and the number of epochs since."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "bad_epochs": self.bad_epochs,
            "weights": self._weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        self.best, self.best_epoch, self.bad_epochs = state["best"], state["best_epoch"], state["bad_epochs"]
        self._weights = dict(state["weights"])

    def before_fit(self, state: TrainState) -> None:
        """Reset."""
        self.best, self.best_epoch, self.bad_epochs, self._weights = math.inf, -1, 0, {}

    def after_epoch(self, state: TrainState) -> None:
        """Compare; keep the weights of a better epoch."""
        if self.metric not in state.metrics:
            known = ", ".join(state.metrics)
            raise ConfigError(f"EarlyStopping watches {self.metric!r}, but the metrics are {known}.")
        value = self.sign * state.metrics[self.metric]
        if value < self.best:
            self.best, self.best_epoch, self.bad_epochs = value, state.epoch, 0
            self._weights = judged_tensors(state)
            return
        self.bad_epochs += 1
        if self.bad_epochs >= self.patience:
            raise CancelFit

    def after_fit(self, state: TrainState) -> None:
        """Restore the best weights."""
        if self._weights:
            state.model.load_state_dict(self._weights, strict=False)

    def close(self, state: TrainState) -> None:
        """Free the copy."""
        self._weights = {}


@runtime_checkable
class Reports(Protocol):
    """The methods needed of a trial, such as ``optuna.Trial``."""

    def report(self, value: float, step: int) -> None: ...

    def should_prune(self) -> bool: ...


class Pruning(Callback):
    """Reports a metric of every epoch to a trial, and ends the fit if the trial should be pruned.

    Afterwards ``pruned`` says whether it was; the caller then raises ``optuna.TrialPruned`` or tells the study.

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
        """Reset."""
        self.pruned = False

    def after_epoch(self, state: TrainState) -> None:
        """Report, and check for pruning."""
        if self.metric not in state.metrics:
            raise ConfigError(f"Pruning watches {self.metric!r}, but the metrics are {', '.join(state.metrics)}.")
        self.trial.report(state.metrics[self.metric], state.epoch)
        if self.may_end and self.trial.should_prune():
            self.pruned = True
            raise CancelFit


class Deadline(Callback):
    """Ends the fit after the batch in which a deadline passes; ``over`` says whether that happened.

    Args:
        at: deadline as a value of ``time.monotonic()``; None for never.
    """

    order = 8

    def __init__(self, at: float | None) -> None:
        self.at = at
        self.over = False

    def after_batch(self, state: TrainState) -> None:
        """Check the deadline."""
        if self.at is not None and state.training and time.monotonic() > self.at:
            self.over = True
            raise CancelFit


class TimeBudget(Callback):
    """Ends the fit within ``seconds``: the last epoch is cut short and validated.

    Schedules that use ``state.progress`` then reach their end, unless the epochs are finished earlier. The time of the
    validation is estimated from the previous one; in the first epoch it is unknown and comes on top. A running step is
    completed.

    Args:
        seconds: for the whole fit, including the time before it was resumed.
        clock: returns seconds.
    Raises:
        ConfigError: ``seconds`` is not above 0.
    """

    order = 105  # after Checkpoints, which saves the last epoch, and before StopOnSignal
    chooses = False

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        if not seconds > 0:
            raise ConfigError(f"seconds must be above 0, got {seconds}.")
        self.seconds, self.clock = seconds, clock
        self._started = self._batch_ended = self._train_ended = 0.0
        self._earlier = self._validation = self._step = self._share = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds of the fit so far, including those before it was resumed."""
        return self._earlier + self.clock() - self._started

    def state_dict(self) -> dict[str, Any]:
        """The elapsed time."""
        return {
            "elapsed": self.elapsed,
            "validation": self._validation,
            "step": self._step,
            "share": self._share,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the elapsed time; the time between stop and resumption does not count."""
        self._started = self.clock()
        self._earlier, self._validation = state["elapsed"], state["validation"]
        self._step, self._share = state["step"], state["share"]

    def before_fit(self, state: TrainState) -> None:
        """Start the clock."""
        self._started = self.clock()
        self._earlier = self._validation = self._step = self._share = 0.0

    def before_train(self, state: TrainState) -> None:
        """Update the progress with the time of the last validation, or of the fit before it was resumed."""
        self._batch_ended = self.elapsed
        self._set_share(state)

    def after_batch(self, state: TrainState) -> None:
        """Skip the remaining training rows if that was the last step, else update the progress."""
        if not state.training:
            return
        now = self.elapsed
        self._step, self._batch_ended = now - self._batch_ended, now
        if self._share == 1 or self._share_at(now) >= 1:
            self._share = 1.0
            raise CancelTrain
        self._set_share(state)

    def after_train(self, state: TrainState) -> None:
        """Start timing the validation."""
        self._train_ended = self.elapsed

    def after_epoch(self, state: TrainState) -> None:
        """Stop timing the validation, and end the fit if the time is over."""
        self._validation = self.elapsed - self._train_ended
        if self._share == 1 or self._share_at(self.elapsed + self._step / 2) >= 1:
            raise CancelFit

    def _set_share(self, state: TrainState) -> None:
        """Progress for the next step; it is the last if it ends closer to the limit than one more step would."""
        is_last = self._share_at(self._batch_ended + 1.5 * self._step) >= 1
        state.time_share = self._share = 1.0 if is_last else max(self._share, self._share_at(self._batch_ended))

    def _share_at(self, elapsed: float) -> float:
        training = self.seconds - self._validation
        return min(elapsed / training, 1.0) if training > 0 else 1.0


SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class SecondSignal(KeyboardInterrupt):
    """A second signal, which ends the process immediately."""


@contextmanager
def interruptible() -> Iterator[list[str]]:
    """Let SIGTERM and SIGHUP interrupt the block immediately, as Ctrl-C does; a second signal is a ``SecondSignal``.

    For work with atomic writes, so that only unwritten results are lost. The previous handlers are restored after the
    block. Does nothing outside of the main thread, where Python allows no handlers.

    Yields:
        The names of the received signals, filled while the block runs.
    Raises:
        KeyboardInterrupt: on a signal. It is not an ``Exception``, so that handlers for damaged photos do not catch
            it.
    """
    came: list[str] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(signal.Signals(number).name)
        raise SecondSignal if len(came) > 1 else KeyboardInterrupt

    former = _listen(interrupt)
    try:
        yield came
    finally:
        _restore(former)


def _listen(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Handle ``SIGNALS`` except ignored ones, to respect nohup; returns the previous handlers."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def _restore(former: dict[int, Any]) -> None:
    for number, handler in former.items():
        signal.signal(number, handler)


class StopOnSignal(Callback):
    """Raises ``Stopped`` after the batch in which SIGTERM, SIGHUP or Ctrl-C arrived; a second signal ends immediately.

    ``Checkpoints`` in the same fit saves before that. A signal during validation takes effect at the end of the epoch,
    and so does one in a fit over PyTorch's DataLoader, which cannot be resumed within an epoch. The previous handlers
    are restored after the fit. Does nothing outside of the main thread, where Python allows no handlers.

    Args:
        advice: added to the message, such as the command to resume.
    """

    order = 110  # after Checkpoints
    chooses = changes = False

    def __init__(self, advice: str = "") -> None:
        self.advice = advice
        self._former: dict[int, Any] = {}

    def before_fit(self, state: TrainState) -> None:
        """Listen."""

        def ask_to_stop(number: int, frame: FrameType | None) -> None:
            if state.stop_requested:
                raise SecondSignal
            state.stop_requested = signal.Signals(number).name

        self._former = _listen(ask_to_stop)

    def after_batch(self, state: TrainState) -> None:
        """Stop here if the fit can be resumed from here."""
        if state.stop_requested and state.training and has_position(state.loader):
            raise Stopped(
                f"stopped by {state.stop_requested} after batch {state.batch} of {state.steps_per_epoch} of epoch "
                f"{state.epoch + 1}.{self._advice()}"
            )

    def after_epoch(self, state: TrainState) -> None:
        """Stop here."""
        if state.stop_requested:
            raise Stopped(f"stopped by {state.stop_requested} after epoch {state.epoch + 1}.{self._advice()}")

    def after_fit(self, state: TrainState) -> None:
        """Raise for a signal that arrived while the result was saved."""
        if state.stop_requested:
            raise Stopped(f"stopped by {state.stop_requested} at the end of the training.{self._advice()}")

    def close(self, state: TrainState) -> None:
        """Restore the previous handlers."""
        _restore(self._former)
        self._former = {}

    def _advice(self) -> str:
        return f" {self.advice}" if self.advice else ""
