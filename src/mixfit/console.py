"""The console of the commands: no line wrapping, no colouring of numbers, quiet when its reader closes the pipe."""

import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")
_LINE = 100
BEAT = 0.5
"""Shortest time between two pictures of a bar, in seconds."""


class Steady:
    """Draws a bar when it has moved by a hundredth, not many times a second: a recorded terminal has few copies of it.

    Args:
        bar: made with ``auto_refresh=False``.
    """

    def __init__(self, bar: Progress) -> None:
        self.bar, self._shown, self._due = bar, -1, 0.0

    def draw(self, share: float) -> None:
        """Perhaps; ``share`` is how much is done, in [0, 1]."""
        percent, now = int(100 * share), time.monotonic()
        if percent != self._shown and now >= self._due:
            self._shown, self._due = percent, now + BEAT
            self.bar.refresh()


def tracked(items: Iterable[Item], *, total: int, description: str, console: Console | None = None) -> Iterator[Item]:
    """The items, with a bar on a terminal or a line in a notebook that goes away at the end."""
    console = Console(stderr=True) if console is None else console
    display = None if console.quiet else notebook_display()
    if display is not None:
        yield from _noted(items, total, description, display)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task, steady = bar.add_task(description, total=total), Steady(bar)
        for number, item in enumerate(items):
            steady.draw(number / max(total, 1))
            yield item
            bar.update(task, completed=number + 1)


def notebook_display() -> Any:
    """IPython's display module in a notebook, else None."""
    if sys.modules.get("IPython") is None:  # a notebook has loaded it
        return None
    import IPython
    from IPython import display

    return display if getattr(IPython.get_ipython(), "kernel", None) is not None else None


def _noted(items: Iterable[Item], total: int, description: str, display: Any) -> Iterator[Item]:
    """The items, with a line that says how many percent are done."""
    shown, due = None, time.monotonic() + BEAT
    for number, item in enumerate(items):
        if time.monotonic() >= due:
            line = {"text/plain": f"{description.strip()} {number / max(total, 1):.0%}"}
            if shown is None:
                shown = display.display(line, raw=True, display_id=True)
            else:
                shown.update(line, raw=True)
            due = time.monotonic() + BEAT
        yield item
    if shown is not None:
        shown.update({"text/plain": ""}, raw=True)


def print_wrapped(console: Console, text: str) -> None:
    """Print a paragraph in lines that are easy to read: of at most 100 characters, or as wide as a terminal is."""
    width = max(40, min(console.width, _LINE)) if console.is_terminal else _LINE
    lines = textwrap.wrap(
        text, width, initial_indent=" ", subsequent_indent="   ", break_long_words=False, break_on_hyphens=False
    )
    for line in lines:
        console.print(line, markup=False, highlight=False, no_wrap=True, overflow="ignore", crop=False)


class PlainConsole(Console):
    """Writes unwrapped lines; a closed pipe raises ``BrokenPipeError`` instead of exiting.

    In a notebook it writes plain text: a notebook asks for the colours of a terminal, but is none."""

    def __init__(self) -> None:
        terminal = None if notebook_display() is None else False
        super().__init__(soft_wrap=True, highlight=False, force_jupyter=False, force_terminal=terminal)

    def on_broken_pipe(self) -> None:
        """Called by rich while it handles the error, which is raised again."""
        raise
