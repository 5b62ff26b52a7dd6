"""Shows how training goes: a live bar on a terminal, one kept line per epoch everywhere."""

import math

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mixfit.console import PlainConsole
from mixfit.training.callbacks.epoch_times import EpochTimes
from mixfit.training.state import TrainState


class ProgressLines(EpochTimes):
    """One line per epoch: losses, one metric, learning rate, seconds, rows/s and the share of time spent on data.

    Args:
        metric: a key of ``state.metrics`` to show beside the losses.
        console: where to write; by default standard output. On a terminal a bar shows the running epoch and the time
            that the whole fit will still take.
    """

    def __init__(self, metric: str | None = None, *, console: Console | None = None) -> None:
        super().__init__()
        self.metric = metric
        self.console = PlainConsole() if console is None else console
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def before_fit(self, state: TrainState) -> None:
        """Write the header."""
        super().before_fit(state)
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

    def after_batch(self, state: TrainState) -> None:
        """Move the bar."""
        super().after_batch(state)
        if self._bar is not None and state.training:
            self._bar.update(self._task, completed=state.step, epoch=state.epoch + 1)

    def after_epoch(self, state: TrainState) -> None:
        """Write the line."""
        metrics = state.metrics
        metric = "" if self.metric is None else f"{short_number(metrics.get(self.metric, math.nan)):>11}"
        self.console.print(
            f" {state.epoch + 1:>5} {short_number(metrics['train_loss']):>10} "
            f"{short_number(metrics.get('valid_loss', math.nan)):>10}{metric} "
            f"{state.optimizer.param_groups[0]['lr']:>10.1e} {self.epoch_seconds:>7.1f} "
            f"{self.rows_per_second(state):>9,.0f} {100 * self.wait_share:>6.0f}",
            highlight=False,
        )

    def close(self, state: TrainState) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def short_number(value: float) -> str:
    """At most ten characters, whatever the size of the number."""
    return "n/a" if math.isnan(value) else f"{value:.4g}"
