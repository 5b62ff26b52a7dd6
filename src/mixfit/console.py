"""The console of the commands: no line wrapping, no colouring of numbers, quiet when its reader closes the pipe."""

import textwrap
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

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
    """The items, with a bar on a terminal that goes away at the end."""
    console = Console(stderr=True) if console is None else console
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task, steady = bar.add_task(description, total=total), Steady(bar)
        for number, item in enumerate(items):
            steady.draw(number / max(total, 1))
            yield item
            bar.update(task, completed=number + 1)


def print_wrapped(console: Console, text: str) -> None:
    """Print a paragraph in lines that are easy to read: of at most 100 characters, or as wide as a terminal is."""
    width = max(40, min(console.width, _LINE)) if console.is_terminal else _LINE
    lines = textwrap.wrap(
        text, width, initial_indent=" ", subsequent_indent="   ", break_long_words=False, break_on_hyphens=False
    )
    for line in lines:
        console.print(line, markup=False, highlight=False, no_wrap=True, overflow="ignore", crop=False)


class PlainConsole(Console):
    """Writes unwrapped lines; a closed pipe raises ``BrokenPipeError`` instead of exiting."""

    def __init__(self) -> None:
        super().__init__(soft_wrap=True, highlight=False)

    def on_broken_pipe(self) -> None:
        """Called by rich while it handles the error, which is raised again."""
        raise
