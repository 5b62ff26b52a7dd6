"""Callbacks that display the progress of training: on a terminal, in a notebook, as JSON Lines; and a profiler."""

import html
import json
import math
import time
from functools import partial
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mixfit.console import PlainConsole, Steady, notebook_display
from mixfit.files import json_numbers
from mixfit.hooks.hook import Hook
from mixfit.training.callback import Callback, Method, TrainState

_REFRESH = 0.5
"""Seconds between updates of the status line."""
PARTS = ("data", "forward", "loss", "backward", "step", "callbacks", "validation", "other")
_ENDS = {
    "before_batch": "data",
    "after_prediction": "forward",
    "after_loss": "loss",
    "after_backward": "backward",
    "after_step": "step",
    # time until a cancel event belongs to the callback that raised it
    "after_cancel_batch": "callbacks",
    "after_cancel_train": "callbacks",
    "after_cancel_epoch": "callbacks",
    "after_cancel_fit": "callbacks",
}


class EpochTimes(Callback):
    """Base of the displays: speed, share of the time spent waiting for data, and remaining time.

    Subclasses that override an event call that of this class first."""

    chooses = changes = False

    def __init__(self) -> None:
        self._fit_started = self._epoch_started = self._batch_ended = self._waited = self._train_seconds = 0.0
        self._rows_before = 0
        self._progress_before = -1.0

    def before_fit(self, state: TrainState) -> None:
        """Start the clock of the fit."""
        self._fit_started, self._progress_before = time.perf_counter(), -1.0

    def before_epoch(self, state: TrainState) -> None:
        """Start the clocks of the epoch; a resumed one has already processed some rows."""
        if self._progress_before < 0:
            self._progress_before = state.progress
        self._epoch_started = self._batch_ended = time.perf_counter()
        self._waited, self._rows_before = 0.0, state.rows_seen

    def before_batch(self, state: TrainState) -> None:
        """Count the time since the last batch as waiting for data."""
        if state.training:
            self._waited += time.perf_counter() - self._batch_ended

    def after_batch(self, state: TrainState) -> None:
        """Start waiting for data."""
        self._batch_ended = time.perf_counter()

    def after_train(self, state: TrainState) -> None:
        """Stop the clock of the training rows."""
        self._train_seconds = max(time.perf_counter() - self._epoch_started, 1e-9)

    @property
    def fit_seconds(self) -> float:
        """Seconds since the start of the fit, or since it was resumed."""
        return time.perf_counter() - self._fit_started

    @property
    def epoch_seconds(self) -> float:
        """Seconds since the start of the epoch."""
        return time.perf_counter() - self._epoch_started

    @property
    def wait_share(self) -> float:
        """Share of the training time spent waiting for data."""
        return self._waited / self._train_seconds

    def rows_per_second(self, state: TrainState) -> float:
        """Training rows per second in this epoch."""
        return (state.rows_seen - self._rows_before) / self._train_seconds

    def seconds_left(self, state: TrainState) -> float:
        """Estimated seconds until the end of the fit, including validation."""
        done = state.progress - self._progress_before
        return self.fit_seconds * (1 - state.progress) / done if done > 0 else float("nan")


class ProgressLines(EpochTimes):
    """One line per epoch: losses, one metric, learning rate, seconds, rows/s and the share of time spent on data.

    Args:
        metric: a key of ``state.metrics`` to show beside the losses.
        console: where to write; by default standard output. On a terminal a bar shows the progress of the epoch and the
            remaining time of the fit.
    """

    def __init__(self, metric: str | None = None, *, console: Console | None = None) -> None:
        super().__init__()
        self.metric = metric
        self.console = PlainConsole() if console is None else console
        self.model = ""
        """The network of the next fit; "" if there is only one."""
        self._bar: Progress | None = None
        self._steady: Steady | None = None
        self._task = TaskID(0)

    def before_fit(self, state: TrainState) -> None:
        """Write the header, with several networks below the name of this one."""
        super().before_fit(state)
        if self.model:
            self.console.print(f" {self.model}", highlight=False, markup=False)
        metric = "" if self.metric is None else f"{self.metric:>11}"
        self.console.print(f" epoch      train      valid{metric}         lr       s    rows/s  wait%", highlight=False)
        if self.console.is_terminal:
            columns = (
                TextColumn(" epoch {task.fields[epoch]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self.console, transient=True, auto_refresh=False)
            self._steady = Steady(self._bar)
            self._task = self._bar.add_task("", total=state.steps, epoch=1)
            self._bar.start()

    def after_batch(self, state: TrainState) -> None:
        """Update the bar."""
        super().after_batch(state)
        if self._bar is not None and self._steady is not None and state.training:
            self._bar.update(self._task, completed=state.step, epoch=state.epoch + 1)
            self._steady.draw(state.step / max(state.steps, 1))

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


class NotebookProgress(ProgressLines):
    """A table with a row per epoch, and a status line below it; outside of a notebook ``ProgressLines``.

    Args:
        metric: a key of ``state.metrics`` to show beside the losses.
        console: outside of a notebook, where to write.
    """

    def __init__(self, metric: str | None = None, *, console: Console | None = None) -> None:
        super().__init__(metric, console=console)
        self._handle: Any = None
        self._html: Any = None
        self._rows: list[str] = []
        self._due = 0.0

    def before_fit(self, state: TrainState) -> None:
        """Show the header."""
        self._rows, self._due, self._handle = [], 0.0, None
        display = notebook_display()
        if display is None:
            super().before_fit(state)
            return
        super(ProgressLines, self).before_fit(state)
        self._html = display.HTML
        self._handle = display.display(self._html(self._table("")), display_id=True)

    def after_batch(self, state: TrainState) -> None:
        """Update the status line from time to time."""
        super().after_batch(state)
        if self._handle is not None and state.training and time.monotonic() >= self._due:
            self._due = time.monotonic() + _REFRESH
            left = duration(self.seconds_left(state))
            self._show(f"epoch {state.epoch + 1}, step {state.step:,} of {state.steps:,}, {left} left")

    def after_epoch(self, state: TrainState) -> None:
        """Add the row."""
        if self._handle is None:
            super().after_epoch(state)
            return
        metrics = state.metrics
        cells = [f"{state.epoch + 1}", *(short_number(metrics.get(n, math.nan)) for n in ("train_loss", "valid_loss"))]
        if self.metric is not None:
            cells.append(short_number(metrics.get(self.metric, math.nan)))
        cells += [f"{state.optimizer.param_groups[0]['lr']:.1e}", f"{self.epoch_seconds:.1f}"]
        cells += [f"{self.rows_per_second(state):,.0f}", f"{100 * self.wait_share:.0f}"]
        self._rows.append(_row("td", cells))
        self._show(f"{duration(self.seconds_left(state))} left")

    def close(self, state: TrainState) -> None:
        """Remove the status line."""
        super().close(state)
        if self._handle is not None:
            self._show("")
            self._handle = None

    def _show(self, note: str) -> None:
        self._handle.update(self._html(self._table(note)))

    def _table(self, note: str) -> str:
        metric = [] if self.metric is None else [html.escape(self.metric)]
        header = _row("th", ["epoch", "train", "valid", *metric, "lr", "s", "rows/s", "wait%"])
        return f"<table>{header}{''.join(self._rows)}</table>{f'<p>{note}</p>' if note else ''}"


@runtime_checkable
class Stream(Protocol):
    """A text stream, such as an open file."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class JsonLines(EpochTimes):
    """JSON Lines: ``{"event": "start", ...}``, an ``"epoch"`` line per epoch, and ``"end"``, after an error too.

    An epoch has epoch (from 1), step, lr, metrics, rows_per_second, wait_share, seconds, and the seconds_left of the
    fit. Values that are not finite are null. ``"end"`` has the error, or null. With several networks, ``model`` names
    the network.

    Args:
        stream: such as ``sys.stdout`` or an open file; flushed after each line, never closed.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream = stream
        self.model = ""
        """The network of the next fit; "" if there is only one."""

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


class Profiler(Callback):
    """Measures the parts of a step between its events, and prints a small table after the fit.

    Waiting for data includes zeroing the gradients; ``validation`` is not split. A GPU runs asynchronously: its time is
    counted where Python waits for it, unless ``synchronize`` waits after each part.

    Args:
        synchronize: wait for the device at each event, which is slower but gives correct times.
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
        """One row per part: seconds, share of the fit, and microseconds per step."""
        seconds = pd.Series(self.seconds)
        total = max(sum(self.seconds.values()), 1e-12)
        columns = {"seconds": seconds, "share": seconds / total, "us_a_step": 1e6 * seconds / max(self._steps, 1)}
        return pd.DataFrame(columns)

    def watch(self, event: str, methods: list[Method]) -> list[Method]:
        """Measure the time before and after the callbacks of each event."""
        return methods if event == "close" else [partial(self._begin, event), *methods, self._end]

    def before_fit(self, state: TrainState) -> None:
        """Reset."""
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._steps, self._first_step, self._last = 0, -1, time.perf_counter()
        self._hook = Hook(state.model, lambda _call: self._forward_begins(state), "pre-forward")
        self._hook.place()

    def before_epoch(self, state: TrainState) -> None:
        """Store the first step, as a resumed fit does not start at 0."""
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
        """Remove the hook."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _begin(self, event: str, state: TrainState) -> None:
        self._pass_on(_ENDS.get(event, "other") if state.training else "validation", state)
        self._event = event

    def _end(self, state: TrainState) -> None:
        self._pass_on("callbacks", state)

    def _forward_begins(self, state: TrainState) -> None:
        """Between two parts of a batch, where no event separates a backward pass from the next forward pass."""
        if state.training and self._event == "after_loss":
            self._pass_on("backward", state)

    def _pass_on(self, part: str, state: TrainState) -> None:
        if self.synchronize and state.loss_sum.device.type != "cpu":
            torch.accelerator.synchronize()
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now


def short_number(value: float) -> str:
    """A number in at most ten characters."""
    return "n/a" if math.isnan(value) else f"{value:.4g}"


def duration(seconds: float) -> str:
    """A duration in its largest unit, at most five characters.

    >>> [duration(seconds) for seconds in (9.4, 100.0, 5000.0, 1e6, float("nan"))]
    ['9s', '1.7m', '1.4h', '11.6d', '?']
    """
    if not math.isfinite(seconds):
        return "?"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds:.0f}s"


def _row(kind: str, cells: list[str]) -> str:
    return f"<tr>{''.join(f'<{kind}>{cell}</{kind}>' for cell in cells)}</tr>"
