"""Where the time of a fit goes."""

import time
from functools import partial

import pandas as pd
import torch
from rich.console import Console

from mixfit.console import PlainConsole
from mixfit.hooks.hook import Hook
from mixfit.training.callback import Callback, Method
from mixfit.training.state import TrainState

PARTS = ("data", "forward", "loss", "backward", "step", "callbacks", "validation", "other")
_ENDS = {
    "before_batch": "data",
    "after_prediction": "forward",
    "after_loss": "loss",
    "after_backward": "backward",
    "after_step": "step",
    # what was raised in a callback is its time until the event of the cancelling
    "after_cancel_batch": "callbacks",
    "after_cancel_train": "callbacks",
    "after_cancel_epoch": "callbacks",
    "after_cancel_fit": "callbacks",
}


class Profiler(Callback):
    """Measures the parts of a step between its events, and writes a small table when the fit is over.

    Waiting for data includes forgetting the gradients, ``validation`` all of it. A GPU works on while Python goes
    ahead: its time is found where Python waits for it, unless ``synchronize`` makes it wait after each part.

    Args:
        synchronize: wait for the device at each event, which makes the fit slower and the table right.
        console: where to write; by default standard output.
    """

    chooses = changes = False

    def __init__(self, *, synchronize: bool = False, console: Console | None = None) -> None:
        self.synchronize = synchronize
        self.console = PlainConsole() if console is None else console
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._last = 0.0
        self._event = ""
        self._steps = self._first_step = 0
        self._hook: Hook | None = None

    @property
    def table(self) -> pd.DataFrame:
        """One row per part: seconds, their share of the fit, and microseconds a step."""
        seconds = pd.Series(self.seconds)
        total = max(sum(self.seconds.values()), 1e-12)
        columns = {"seconds": seconds, "share": seconds / total, "us_a_step": 1e6 * seconds / max(self._steps, 1)}
        return pd.DataFrame(columns)

    def watch(self, event: str, methods: list[Method]) -> list[Method]:
        """Look at the clock before and after the callbacks of each event."""
        return methods if event == "close" else [partial(self._begin, event), *methods, self._end]

    def before_fit(self, state: TrainState) -> None:
        """Start anew."""
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._steps, self._first_step, self._last = 0, -1, time.perf_counter()
        self._hook = Hook(state.model, lambda _call: self._forward_begins(state), "pre-forward")
        self._hook.place()

    def before_epoch(self, state: TrainState) -> None:
        """A resumed fit does not begin at step 0."""
        if self._first_step < 0:
            self._first_step = state.step

    def after_step(self, state: TrainState) -> None:
        """Count."""
        self._steps = state.step - self._first_step

    def after_fit(self, state: TrainState) -> None:
        """Write the table."""
        self.console.print(f" {'part':<12}{'seconds':>10}{'share':>8}{'us/step':>12}", highlight=False)
        for part, row in self.table.iterrows():
            self.console.print(
                f" {part!s:<12}{row['seconds']:>10.3f}{row['share']:>8.1%}{row['us_a_step']:>12,.1f}", highlight=False
            )

    def close(self, state: TrainState) -> None:
        """Take the hook from the model."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _begin(self, event: str, state: TrainState) -> None:
        self._pass_on(_ENDS.get(event, "other") if state.training else "validation", state)
        self._event = event

    def _end(self, state: TrainState) -> None:
        self._pass_on("callbacks", state)

    def _forward_begins(self, state: TrainState) -> None:
        """Between two parts of a batch, where no event tells the backward of one from the forward of the next."""
        if state.training and self._event == "after_loss":
            self._pass_on("backward", state)

    def _pass_on(self, part: str, state: TrainState) -> None:
        if self.synchronize and state.loss_sum.device.type != "cpu":
            torch.accelerator.synchronize()
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now
