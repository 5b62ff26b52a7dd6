"""Shows how training goes: a live bar on a terminal, one kept line per epoch everywhere."""

import math
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mixfit.console import PlainConsole
from mixfit.training.callback import Callback
from mixfit.training.state import TrainState


class ProgressLines(Callback):
    """One line per epoch: losses, one metric, learning rate, seconds, rows/s and the share of time spent on data.

    Args:
        metric: a key of ``state.metrics`` to show beside the losses.
        console: where to write; by default standard output. On a terminal a bar shows the running epoch.
    """

    def __init__(self, metric: str | None = None, *, console: Console | None = None) -> None:
        self.metric = metric
        self.console = PlainConsole() if console is None else console
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._epoch_started = self._batch_ended = self._waited = 0.0
        self._train_seconds = 0.0

    def before_fit(self, state: TrainState) -> None:
        """Write the header."""
        metric = "" if self.metric is None else f"{self.metric:>11}"
        self.console.print(f" epoch      train      valid{metric}         lr       s    rows/s  wait%", highlight=False)
        if self.console.is_terminal:
            columns = (
                TextColumn(" epoch {task.fields[epoch]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task("", total=state.steps, epoch=1)
            self._bar.start()

    def before_epoch(self, state: TrainState) -> None:
        """Start the clocks."""
        self._epoch_started = self._batch_ended = time.perf_counter()
        self._waited = 0.0

    def before_batch(self, state: TrainState) -> None:
        """The time since the last batch was spent waiting for data."""
        if state.training:
            self._waited += time.perf_counter() - self._batch_ended

    def after_batch(self, state: TrainState) -> None:
        """Move the bar."""
        self._batch_ended = time.perf_counter()
        if self._bar is not None and state.training:
            self._bar.update(self._task, completed=state.step, epoch=state.epoch + 1)

    def after_train(self, state: TrainState) -> None:
        """Stop the clock of the training rows."""
        self._train_seconds = max(time.perf_counter() - self._epoch_started, 1e-9)

    def after_epoch(self, state: TrainState) -> None:
        """Write the line."""
        metrics = state.metrics
        metric = "" if self.metric is None else f"{_number(metrics.get(self.metric, math.nan)):>11}"
        self.console.print(
            f" {state.epoch + 1:>5} {_number(metrics['train_loss']):>10} "
            f"{_number(metrics.get('valid_loss', math.nan)):>10}{metric} "
            f"{state.optimizer.param_groups[0]['lr']:>10.1e} {time.perf_counter() - self._epoch_started:>7.1f} "
            f"{state.rows_seen / self._train_seconds:>9,.0f} {100 * self._waited / self._train_seconds:>6.0f}",
            highlight=False,
        )

    def close(self, state: TrainState) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _number(value: float) -> str:
    """At most ten characters, whatever the size of the number."""
    return "n/a" if math.isnan(value) else f"{value:.4g}"
