"""Goes on when a batch does not fit in the memory."""

import gc
import sys
import traceback
from typing import Any

import torch
from rich.console import Console

from mixfit.console import PlainConsole
from mixfit.errors import ConfigError
from mixfit.training.callback import Callback
from mixfit.training.state import TrainState


class OutOfMemoryGuard(Callback):
    """Tries a training batch that did not fit again in twice as many parts, and goes on with so many.

    The gradients are those of the whole batch; what looks at its rows together, such as a batch norm, sees a part.

    Args:
        times: how often the parts are doubled in a fit; after that the fit ends with a ``ResourceError``.
        console: where one line for each is written; by default standard output.
    Raises:
        ConfigError: ``times`` is below 1.
    """

    chooses = changes = False  # the gradients are the same, and each run has such a guard anyway

    def __init__(self, times: int = 3, *, console: Console | None = None) -> None:
        if times < 1:
            raise ConfigError(f"times must be at least 1, got {times}.")
        self.times = times
        self.console = PlainConsole() if console is None else console
        self.lines: list[str] = []
        """What was written."""

    def state_dict(self) -> dict[str, Any]:
        """How often it happened, by its lines."""
        return {"lines": self.lines}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self.lines = list(state["lines"])

    def before_fit(self, state: TrainState) -> None:
        """Start anew."""
        self.lines = []

    def on_out_of_memory(self, state: TrainState) -> None:
        """Double the parts if it helps, and give back what the failed attempt holds."""
        rows = len(state.yb)
        if len(self.lines) == self.times or state.parts >= rows:
            return
        state.parts *= 2
        self.lines.append(f"The batch of {rows} rows did not fit: going on in {state.parts} parts.")
        self.console.print(self.lines[-1], highlight=False)
        error = sys.exception()
        if error is not None:
            traceback.clear_frames(error.__traceback__)  # the frames of the model hold its activations
        state.prediction, state.loss = None, state.loss.detach()  # and so does the graph
        gc.collect()
        if state.loss_sum.device.type == "cuda":
            torch.cuda.empty_cache()
