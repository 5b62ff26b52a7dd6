"""Tells the trackers among the callbacks of a run what happens to the whole of it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console

from mixfit.errors import Stopped
from mixfit.runs.results import Run
from mixfit.training.callback import Callback
from mixfit.training.callbacks.tracking import TrackedRun, Tracker


@contextmanager
def around(callbacks: Sequence[Callback]) -> Iterator[None]:
    """The contexts of the trackers, see ``Tracker.around_run``."""
    with ExitStack() as stack:
        for one in callbacks:
            if isinstance(one, Tracker):
                stack.enter_context(one.around_run())
        yield


@contextmanager
def tracked(
    callbacks: Sequence[Callback], folder: Path, settings: Mapping[str, object], console: Console
) -> Iterator[Callable[[Run], None]]:
    """Tell the trackers that a run begins, and how it ends: call what this yields with the finished run.

    What a tracker raises later than at the beginning is a warning, as the run is worth more than its log.

    Raises:
        ResourceError: a tracker cannot log anything.
    """
    begun: list[Tracker] = []
    done = False

    def finished(run: Run) -> None:
        nonlocal done
        done = True
        told = _told(run)
        for one in begun:
            _quietly(one, console, partial(one.end_run, told))

    def stopped(*, resumable: bool) -> None:
        for one in begun if not done else ():
            _quietly(one, console, partial(one.stop_run, resumable=resumable))

    try:
        for one in callbacks:
            if isinstance(one, Tracker):
                one.begin_run(folder, settings)
                begun.append(one)
        yield finished
    except (Stopped, KeyboardInterrupt):
        stopped(resumable=True)
        raise
    except BaseException:
        stopped(resumable=False)
        raise


def _quietly(tracker: Tracker, console: Console, call: Callable[[], None]) -> None:
    try:
        call()
    except Exception as error:  # of a library, a server or a file system that mixfit does not know
        said = str(error).partition("\n")[0]
        console.print(f" warning: {type(tracker).__name__} could not log the end of the run: {said}", markup=False)


def _told(run: Run) -> TrackedRun:
    result, contest = run.result, run.result.contest
    scores = {
        f"{result.part_name(part.split)}/{name}": value
        for part in result.parts
        for name, value in part.score(result.ours).metrics.items()
    }
    if contest is not None:
        scores |= {f"leaderboard/{line.model}": line.loss for line in contest.leaderboard}
    by_fold = {} if contest is None or not contest.fold_scores else {result.headline: contest.fold_scores}
    return TrackedRun(
        folder=run.folder,
        verdict=run.verdict,
        scores={name: value for name, value in scores.items() if math.isfinite(value)},
        by_fold=by_fold,
        figures={"scores": run.plot_scores, "predictions": run.plot_predictions},
    )
