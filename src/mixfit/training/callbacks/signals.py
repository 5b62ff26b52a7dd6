"""Signals that ask a process to end: the batch is finished, the fit saved, and only then does it end."""

import signal
import threading
from types import FrameType
from typing import Any

from mixfit.errors import Stopped
from mixfit.training.callback import Callback
from mixfit.training.snapshot import has_position
from mixfit.training.state import TrainState

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopOnSignal(Callback):
    """Raises ``Stopped`` after the batch in which SIGTERM, SIGHUP or Ctrl-C arrived; the second one ends at once.

    ``Checkpoints`` in the same fit saves before that. A signal during validation waits for the end of the epoch, and so
    does one in a fit over PyTorch's DataLoader, which cannot be resumed in the middle of an epoch. The signals have
    their former effect again when the fit is over. Does nothing outside of the main thread, where Python allows none.

    Args:
        advice: added to the message, such as the command that goes on.
    """

    order = 110  # after Checkpoints
    chooses = False

    def __init__(self, advice: str = "") -> None:
        self.advice = advice
        self._former: dict[int, Any] = {}

    def before_fit(self, state: TrainState) -> None:
        """Listen."""
        if threading.current_thread() is not threading.main_thread():
            return

        def ask_to_stop(number: int, frame: FrameType | None) -> None:
            if state.stop_requested:
                raise KeyboardInterrupt
            state.stop_requested = signal.Signals(number).name

        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup is to stay nohup
                self._former[number] = signal.signal(number, ask_to_stop)

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

    def close(self, state: TrainState) -> None:
        """The signals do again what they did."""
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former = {}

    def _advice(self) -> str:
        return f" {self.advice}" if self.advice else ""
