"""The book-keeping of a search, in a folder that several processes may share and any may go on with.

A thin layer over Optuna: one journal file, trials that are handed out one process at a time, and the check that all of
them judge the same rows by the same measure."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mixfit.data.fingerprint import Fingerprint
from mixfit.errors import ConfigError, ResourceError
from mixfit.files import explained, write_file

try:
    import optuna
    from optuna.storages.journal import (
        JournalFileBackend,
        JournalFileOpenLock,
        JournalFileSymlinkLock,
        JournalStorage,
    )
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:
    raise ResourceError("mixfit tune needs Optuna, which is not installed: pip install 'mixfit[tune]'.") from error

if TYPE_CHECKING:
    from optuna.storages.journal._file import BaseJournalFileLock

NAME = "mixfit"
OVER = (TrialState.COMPLETE, TrialState.PRUNED)


class Study:
    """A search in ``folder``; made anew, or gone on with.

    Args:
        folder: with ``study.log``.
        target: column that is predicted.
        fingerprint: of the table and its photos.
        settings: all that must be alike for trials to be compared, by name.
        seed: of the search; every process that takes part draws from it in its own way.
        trials: how many are wanted, for the choice of when to begin guessing well.
        epochs: most epochs of a trial.
    Raises:
        ConfigError: the folder holds a search with another target, other data or other settings.
        ResourceError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        target: str,
        fingerprint: Fingerprint,
        settings: Mapping[str, Any],
        seed: int,
        trials: int,
        epochs: int,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder = folder
        with explained(folder, None):
            (folder / "processes").mkdir(parents=True, exist_ok=True)
            process = _claim_number(folder / "processes")
            log = folder / "study.log"
            _cut_torn_end(log)
            storage = JournalStorage(JournalFileBackend(str(log), lock_obj=_lock(log)))
        sampler = optuna.samplers.TPESampler(
            seed=(seed * 1_000_003 + process) % 2**32, n_startup_trials=max(4, trials // 4), constant_liar=True
        )
        pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=max(1, epochs // 6))
        with self.turn():
            self.study = optuna.create_study(
                storage=storage,
                study_name=NAME,
                sampler=sampler,
                pruner=pruner,
                direction="minimize",
                load_if_exists=True,
            )
            facts = {"target": target, "data": asdict(fingerprint), "settings": dict(settings)}
            known = self.study.user_attrs
            if "target" in known:
                self._check(known, target, fingerprint, settings)
            else:
                for key, value in facts.items():
                    self.study.set_user_attr(key, value)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Only one process at a time is inside."""
        lock = _lock(self.folder / "turn")
        lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def next_trial(self, wanted: int, start: Mapping[str, Any]) -> "optuna.Trial | None":
        """The next trial, the first of all being at ``start``; None when ``wanted`` are done or under way.

        Trials of processes that are gone without a word are given up."""
        with self.turn():
            for other in self.trials():
                if other.state is TrialState.RUNNING and not _is_alive(other.user_attrs.get("process", "")):
                    self.study.tell(other.number, state=TrialState.FAIL)
            if sum(other.state in (*OVER, TrialState.RUNNING) for other in self.trials()) >= wanted:
                return None
            if not self.has_begun():
                self.study.enqueue_trial(dict(start), user_attrs={"defaults": True})
            trial = self.study.ask()
            trial.set_user_attr("process", f"{socket.gethostname()}:{os.getpid()}")
            return trial

    def trials(self) -> list[FrozenTrial]:
        """All trials so far, in the order in which they began."""
        return self.study.get_trials(deepcopy=False)

    def has_begun(self) -> bool:
        """Whether the first trial, with the settings around which to search, is over or under way."""
        return any(trial.user_attrs.get("defaults") and trial.state is not TrialState.FAIL for trial in self.trials())

    def done(self) -> int:
        """Trials that are over, not counting those that were interrupted."""
        return sum(trial.state in OVER for trial in self.trials())

    def best(self) -> FrozenTrial | None:
        """The finished trial with the lowest value; the earliest of equal ones."""
        finished = [trial for trial in self.trials() if trial.state is TrialState.COMPLETE]
        return min(finished, key=lambda trial: trial.value or 0.0, default=None)

    def write_table(self) -> None:
        """Write ``trials.csv``: one row for each trial."""
        rows = [
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                "valid_loss": trial.value if trial.state is TrialState.COMPLETE else None,
                **{key: value for key, value in trial.user_attrs.items() if key != "process"},
                **trial.params,
            }
            for trial in self.trials()
        ]
        write_file(self.folder / "trials.csv", pd.DataFrame(rows).to_csv(index=False))

    def _check(
        self, known: Mapping[str, Any], target: str, fingerprint: Fingerprint, settings: Mapping[str, Any]
    ) -> None:
        advice = "choose another --out, or remove that folder"
        if known["target"] != target:
            raise ConfigError(
                f"The search in {self.folder} is for the target {known['target']!r}, not {target!r}: {advice}."
            )
        then = Fingerprint.from_dict(known["data"])
        changes = [] if then is None else fingerprint.changes_since(then, "the beginning of the search")
        if changes:
            raise ConfigError(f"The search in {self.folder} cannot go on, as {changes[0]}: {advice}.")
        before = known["settings"]
        for key in sorted({*before, *settings}):
            if before.get(key) != settings.get(key):
                raise ConfigError(
                    f"The search in {self.folder} began with {key} {before.get(key)!r}, now it is "
                    f"{settings.get(key)!r}: {advice}."
                )


def _lock(path: Path) -> "BaseJournalFileLock":
    """Links need special rights on Windows."""
    return JournalFileOpenLock(str(path)) if os.name == "nt" else JournalFileSymlinkLock(str(path))


def _cut_torn_end(log: Path) -> None:
    """Remove a last line that a power cut or a full disk left half; whatever is added to it would be lost, too."""
    lock = _lock(log)
    lock.acquire()  # the journal's own: nobody is writing now
    try:
        with log.open("ab+") as file:
            file.seek(0)
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()


def _claim_number(folder: Path) -> int:
    """How many processes have taken part before this one."""
    number = 0
    while True:
        try:
            (folder / f"{number:04d}").touch(exist_ok=False)
        except FileExistsError:
            number += 1
        else:
            return number


def _is_alive(process: str) -> bool:
    """Whether ``host:number`` may still be working; of another machine that cannot be told."""
    host, _, number = process.rpartition(":")
    if host != socket.gethostname() or os.name == "nt":  # on Windows asking would end it
        return bool(host)
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
