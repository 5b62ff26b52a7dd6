"""Shows how training goes in a notebook."""

import html
import math
import time
from typing import Any

from rich.console import Console

from mixfit.training.callbacks.progress import ProgressLines, short_number
from mixfit.training.state import TrainState

_REFRESH = 0.5
"""Seconds between two changes of the running line."""


class NotebookProgress(ProgressLines):
    """A table that grows by a row per epoch, with a running line below it; outside of a notebook ``ProgressLines``.

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
        display = _display()
        if display is None:
            super().before_fit(state)
            return
        super(ProgressLines, self).before_fit(state)
        self._html = display.HTML
        self._handle = display.display(self._html(self._table("")), display_id=True)

    def after_batch(self, state: TrainState) -> None:
        """Change the running line now and then."""
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
        """Leave the table alone."""
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


def duration(seconds: float) -> str:
    """In its largest unit, at most five characters.

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


def _display() -> Any:
    """The module that shows things in the notebook that runs us; None if there is no notebook."""
    try:
        import IPython
        from IPython import display
    except ImportError:
        return None
    return display if getattr(IPython.get_ipython(), "kernel", None) is not None else None
