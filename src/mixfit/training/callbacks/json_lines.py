"""Tells another program how training goes."""

import json
from typing import Any, Protocol, runtime_checkable

from mixfit.files import json_numbers
from mixfit.training.callbacks.epoch_times import EpochTimes
from mixfit.training.state import TrainState


@runtime_checkable
class Stream(Protocol):
    """Anything that takes text, such as an open file."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class JsonLines(EpochTimes):
    """One JSON object a line: ``{"event": "start", ...}``, one ``"epoch"`` each, and ``"end"``, after an error too.

    An epoch has epoch (from 1), step, lr, metrics, rows_per_second, wait_share, seconds, and the seconds_left of the
    fit. What is not finite is null. ``"end"`` has the error, null if there was none. Of several networks the
    lines name theirs, which is what ``model`` says.

    Args:
        stream: such as ``sys.stdout`` or an open file; flushed after each line, and not closed.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream = stream
        self.model = ""
        """Which of several networks the next fit trains; "" when there is but one."""

    def before_fit(self, state: TrainState) -> None:
        """The first line."""
        super().before_fit(state)
        self._write({"event": "start", "epochs": state.epochs, "steps": state.steps})

    def after_epoch(self, state: TrainState) -> None:
        """One line."""
        speeds = {
            "rows_per_second": round(self.rows_per_second(state), 1),
            "wait_share": round(self.wait_share, 4),
            "seconds": round(self.epoch_seconds, 4),
            "seconds_left": round(self.seconds_left(state), 1),
        }
        self._write(
            {
                "event": "epoch",
                "epoch": state.epoch + 1,
                "step": state.step,
                "lr": state.optimizer.param_groups[0]["lr"],
                "metrics": json_numbers(state.metrics),
                **json_numbers(speeds),
            }
        )

    def after_fit(self, state: TrainState) -> None:
        """The last line."""
        self._end(state, None)

    def on_error(self, state: TrainState) -> None:
        """The last line."""
        self._end(state, f"{type(state.error).__name__}: {state.error}")

    def _end(self, state: TrainState, error: str | None) -> None:
        seconds = round(self.fit_seconds, 4)
        self._write({"event": "end", "epoch": state.epoch + 1, "step": state.step, "seconds": seconds, "error": error})

    def _write(self, line: dict[str, Any]) -> None:
        line |= {"model": self.model} if self.model else {}
        self.stream.write(json.dumps(line, allow_nan=False) + "\n")
        self.stream.flush()
