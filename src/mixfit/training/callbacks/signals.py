"""Signals that ask a process to end: what can be saved is saved, and only then does it end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mixfit.errors import Stopped
from mixfit.training.callback import Callback
from mixfit.training.snapshot import has_position
from mixfit.training.state import TrainState

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class SecondSignal(KeyboardInterrupt):
    """A further signal, which ends the process at once."""


@contextmanager
def interruptible() -> Iterator[list[str]]:
    """Let SIGTERM and SIGHUP interrupt the block at once, as Ctrl-C does; the second signal is a ``SecondSignal``.

    For work whose results are written whole or not at all, so that nothing is lost but what was not written yet. The
    signals have their former effect again after the block. Does nothing outside of the main thread, where Python
    allows no handlers.

    Yields:
        The names of the signals that came, filled while the block runs.
    Raises:
        KeyboardInterrupt: a signal came. It is no ``Exception``, so that no clause that repairs or skips a damaged
            photo takes it for one.
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
    """Handle all of ``SIGNALS`` but those that are ignored, for nohup is to stay nohup; the former handlers."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def _restore(former: dict[int, Any]) -> None:
    for number, handler in former.items():
        signal.signal(number, handler)


class StopOnSignal(Callback):
    """Raises ``Stopped`` after the batch in which SIGTERM, SIGHUP or Ctrl-C arrived; the second one ends at once.

    ``Checkpoints`` in the same fit saves before that. A signal during validation waits for the end of the epoch, and so
    does one in a fit over PyTorch's DataLoader, which cannot be resumed in the middle of an epoch. The signals have
    their former effect again when the fit is over. Does nothing outside of the main thread, where Python allows none.

    Args:
        advice: added to the message, such as the command that goes on.
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
        """Stop here if the fit can be gone on with from here."""
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
        """A signal that came while the result was saved is not lost."""
        if state.stop_requested:
            raise Stopped(f"stopped by {state.stop_requested} at the end of the training.{self._advice()}")

    def close(self, state: TrainState) -> None:
        """The signals do again what they did."""
        _restore(self._former)
        self._former = {}

    def _advice(self) -> str:
        return f" {self.advice}" if self.advice else ""
