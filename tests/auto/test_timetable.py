"""The clock of a run: what is left of its time, and how fast the machine is compared with the estimates."""

import io
import math
import threading
import time

import pytest
from rich.console import Console

from mixfit.auto.timetable import Timetable
from mixfit.ensemble.cross_fit import OutOfTimeError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made(limit: float | None = 60.0, console: Console | None = None) -> tuple[Timetable, Clock]:
    clock = Clock()
    return Timetable(console or Console(quiet=True), limit, clock=clock), clock


def test_the_pace_of_a_slow_machine_is_learnt() -> None:
    table, clock = made()
    assert table.pace == 1
    with table.stage("reading", 4.0):
        clock.now += 12.0
    assert 2 < table.pace < 3
    assert table.left_for(2.0) == pytest.approx(48 / table.pace - 2.5)
    assert table.free(2.0) == pytest.approx(48 - 2 * table.pace)
    for _ in range(9):
        table.note(10.0, 10.0)
    assert table.pace == pytest.approx(1, abs=0.1)


def test_a_stage_that_was_fast_does_not_promise_much() -> None:
    table, _ = made()
    table.note(100.0, 0.0)
    assert table.pace == 0.5


def test_without_a_limit_nothing_ends() -> None:
    table, clock = made(None)
    clock.now += 1e6
    assert table.remaining == table.left_for(1.0) == math.inf
    with table.ending(1.0):
        pass


def test_when_the_time_is_over_nothing_is_left() -> None:
    table, clock = made(10.0)
    clock.now += 11.0
    assert table.remaining == -1
    assert table.left_for(0.0) == table.free(0.0) == 0


def test_a_block_that_takes_too_long_is_ended() -> None:
    table = Timetable(Console(quiet=True), 0.2)

    def block() -> None:
        try:
            time.sleep(30)
        except Exception as error:  # as a library may catch all errors
            raise AssertionError("the end of the time is no error") from error

    with pytest.raises(OutOfTimeError, match="the time limit was reached while it was fitted"), table.ending(0.0):
        block()
    with table.ending(0.0, least=5.0):  # it has its seconds in any case
        time.sleep(0.01)


def test_outside_of_the_main_thread_there_is_no_alarm() -> None:
    table, done = Timetable(Console(quiet=True), 0.001), list[int]()

    def block() -> None:
        with table.ending(0.0):
            done.append(1)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert done == [1]


def test_a_terminal_shows_the_stage_and_what_is_left() -> None:
    shown = io.StringIO()
    table, _ = made(None, Console(file=shown, force_terminal=True, width=100))
    table.ahead = 70.0
    with table.stage("linear, table, fold 1 of 5", 10.0) as tell:
        tell("linear, table, fold 2 of 5", 0.0)
        time.sleep(0.6)
    assert "linear, table, fold 2 of 5 ... about 70 s left" in shown.getvalue()
    assert table.ahead == 60


def test_the_parts_of_a_stage_that_are_done_tell_how_long_it_takes() -> None:
    shown = io.StringIO()
    table, clock = made(None, Console(file=shown, force_terminal=True, width=100))
    with table.stage("network", 10.0) as tell:
        clock.now += 8.0
        tell("network, fold 2 of 5", 0.2)
        time.sleep(0.6)
    assert "network, fold 2 of 5 ... about 30 s left" in shown.getvalue()


def test_short_stages_are_not_shown() -> None:
    shown = io.StringIO()
    table, _ = made(None, Console(file=shown, force_terminal=True, width=100))
    with table.stage("reading", 0.2):
        time.sleep(0.6)
    assert shown.getvalue() == ""


def test_a_file_shows_nothing() -> None:
    shown = io.StringIO()
    table, _ = made(None, Console(file=shown))
    with table.stage("reading", 10.0) as tell:
        tell("reading on", 0.5)
    assert shown.getvalue() == ""
