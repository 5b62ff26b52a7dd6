"""How long the stages of a run take: a display of what is left, and the limit of ``--time``.

In: the estimated seconds of each stage. The clock corrects them: on a slow or busy machine, every estimate is
multiplied by the pace of the stages so far. Without a limit this is for the display alone, and nothing that a run
computes depends on it."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.text import Text

from mixfit.auto.budget import duration
from mixfit.ensemble.cross_fit import OutOfTimeError

MARGIN = 1.25
"""Factor of the estimated time of what is still to come, as estimates scatter."""
_KNOWN = 0.5
"""Seconds of an imagined stage that took as long as was estimated, so that a very short one does not mislead."""
_FASTEST = 0.5
"""Smallest pace, as a stage may be fast for another reason than the machine, such as a cache."""
_SHOWN = 1.0
"""Estimated seconds, with those still ahead, from which a stage is shown."""
_REFRESH = 2  # pictures a second


class _TimeIsUp(BaseException):
    """Raised by the alarm; no ``Exception``, so that no handler for expected errors catches it."""


class Timetable:
    """The clock of a run.

    Args:
        console: shows the running stage and the remaining time on a terminal.
        limit: seconds for everything from ``began`` on; None for no limit.
        began: value of ``clock``; by default now.
        clock: returns seconds.
    """

    def __init__(
        self,
        console: Console,
        limit: float | None = None,
        *,
        began: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console, self.limit, self.clock = console, limit, clock
        self.began = clock() if began is None else began
        self.ahead = 0.0
        """Estimated seconds of the stages that have not begun."""
        self.last = 0.0
        """Seconds of the last stage."""
        self._estimated = self._measured = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self.began

    @property
    def remaining(self) -> float:
        """Seconds to the limit, below 0 when it is over; infinite without a limit."""
        return math.inf if self.limit is None else self.limit - self.elapsed

    @property
    def pace(self) -> float:
        """Measured seconds for each estimated one; 1 until something was measured."""
        return max(_FASTEST, (self._measured + _KNOWN) / (self._estimated + _KNOWN))

    def note(self, estimated: float, measured: float) -> None:
        """Learn the pace from a stage; earlier ones count less and less, as the load of a machine changes."""
        self._estimated, self._measured = self._estimated / 2 + estimated, self._measured / 2 + measured

    def left_for(self, closing: float) -> float:
        """Estimated seconds for models, beside those of what comes after them."""
        return max(0.0, self.remaining / self.pace - MARGIN * closing)

    def free(self, closing: float) -> float:
        """Seconds until only the time for what comes at the end is left, whose estimated seconds are given."""
        return max(0.0, self.remaining - closing * self.pace)

    @contextmanager
    def stage(self, name: str, estimated: float, *, learn: bool = True) -> Iterator[Callable[[str, float], None]]:
        """Show a stage while the block runs, if it takes long, and learn the pace from it.

        Yields:
            A function that changes the text of the stage, and takes the share of it that is done, from 0 to 1.
        """
        started, self.ahead = self.clock(), max(0.0, self.ahead - estimated)
        if self.console.is_terminal and not self.console.quiet and estimated + self.ahead >= _SHOWN:
            shown = _Shown(self, name, estimated, started)
            with self.console.status(shown, refresh_per_second=_REFRESH):
                yield shown.tell
        else:
            yield lambda _, __: None
        self.last = self.clock() - started
        if learn:
            self.note(estimated, self.last)

    @contextmanager
    def ending(self, closing: float, *, least: float = 0.0) -> Iterator[None]:
        """End the block by an alarm when only the time for what comes after it is left; without a limit never.

        Args:
            closing: estimated seconds of what comes after it.
            least: estimated seconds that the block has in any case.
        Raises:
            OutOfTimeError: the alarm came.
        """
        in_main = threading.current_thread() is threading.main_thread()
        if self.limit is None or not in_main or not hasattr(signal, "setitimer"):
            yield
            return
        seconds = max(self.free(closing), least * self.pace, 0.01)

        def ring(number: int, frame: FrameType | None) -> None:
            raise _TimeIsUp

        former = signal.signal(signal.SIGALRM, ring)
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, seconds)
                yield
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except _TimeIsUp:
            raise OutOfTimeError("the time limit was reached while it was fitted") from None
        finally:
            signal.signal(signal.SIGALRM, former)


class _Shown:
    """The line of a stage, made anew for each picture."""

    def __init__(self, table: Timetable, name: str, estimated: float, started: float) -> None:
        self.table, self.text, self.estimated, self.started = table, name, estimated, started
        self.whole: float | None = None
        """Seconds of the stage, as long as its parts that are done took."""

    def tell(self, text: str, done: float) -> None:
        """Change the text."""
        self.text = text
        if done > 0:
            self.whole = (self.table.clock() - self.started) / done

    def __rich__(self) -> Text:
        """The stage and the remaining time of the run."""
        table = self.table
        whole = self.estimated * table.pace if self.whole is None else self.whole
        here = whole - (table.clock() - self.started)
        left = max(here, 0.0) + table.ahead * table.pace
        return Text(f" {self.text} ..." + (f" about {duration(left)} left" if left >= 1 else ""))
