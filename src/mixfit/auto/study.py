"""The state of a hyper-parameter search, in a folder that several processes may share and resume.

A thin layer over Optuna: one journal file, trials handed out to one process at a time, and a check that all trials are
scored on the same rows by the same metric."""

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
    """A search in ``folder``; created or resumed.

    Args:
        folder: with ``study.log``.
        target: column to predict.
        fingerprint: of the table and its photos.
        settings: settings that must be equal for trials to be comparable, by name.
        seed: seed of the search, combined with the number of the process.
        trials: total number of trials, which sets the number of random ones at the start.
        epochs: maximum number of epochs of a trial.
        watched: name of the metric that trials are compared by.
        sign: -1 if higher is better; the value of a trial is this times the metric.
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
        watched: str = "valid_loss",
        sign: float = 1.0,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.watched, self.sign = folder, watched, sign
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
        """A lock between processes."""
        lock = _lock(self.folder / "turn")
        lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def next_trial(self, wanted: int, start: Mapping[str, Any]) -> "optuna.Trial | None":
        """The next trial, the very first one at ``start``; None when ``wanted`` are finished or running.

        Trials of dead processes are marked as failed."""
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
        """All trials so far, in order of their start."""
        return self.study.get_trials(deepcopy=False)

    def has_begun(self) -> bool:
        """Whether the first trial, with the given settings, is finished or running."""
        return any(trial.user_attrs.get("defaults") and trial.state is not TrialState.FAIL for trial in self.trials())

    def done(self) -> int:
        """Number of finished trials, without interrupted ones."""
        return sum(trial.state in OVER for trial in self.trials())

    def best(self) -> FrozenTrial | None:
        """The finished trial with the lowest value; the earliest among ties."""
        finished = [trial for trial in self.trials() if trial.state is TrialState.COMPLETE]
        return min(finished, key=lambda trial: trial.value or 0.0, default=None)

    def write_table(self) -> None:
        """Write ``trials.csv``: one row for each trial."""
        rows = [
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                self.watched: self.sign * (trial.value or 0.0) if trial.state is TrialState.COMPLETE else None,
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
                f"The search in {self.folder} has the target {known['target']!r}, not {target!r}: {advice}."
            )
        then = Fingerprint.from_dict(known["data"])
        changes = [] if then is None else fingerprint.changes_since(then, "the start of the search")
        if changes:
            raise ConfigError(f"The search in {self.folder} cannot be resumed, as {changes[0]}: {advice}.")
        before = known["settings"]
        for key in sorted({*before, *settings}):
            if before.get(key) != settings.get(key):
                raise ConfigError(
                    f"The search in {self.folder} was started with {key} {before.get(key)!r}, not "
                    f"{settings.get(key)!r}: {advice}."
                )


def _lock(path: Path) -> "BaseJournalFileLock":
    """Symbolic links need special rights on Windows."""
    return JournalFileOpenLock(str(path)) if os.name == "nt" else JournalFileSymlinkLock(str(path))


def _cut_torn_end(log: Path) -> None:
    """Remove an incomplete last line, left by a power failure or full disk, as text appended to it would be lost."""
    lock = _lock(log)
    lock.acquire()  # the journal's lock: no other process writes now
    try:
        with log.open("ab+") as file:
            file.seek(0)
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()


def _claim_number(folder: Path) -> int:
    """Number of processes that took part before this one."""
    number = 0
    while True:
        try:
            (folder / f"{number:04d}").touch(exist_ok=False)
        except FileExistsError:
            number += 1
        else:
            return number


def _is_alive(process: str) -> bool:
    """Whether ``host:number`` may still be running; always true for another machine."""
    host, _, number = process.rpartition(":")
    if host != socket.gethostname() or os.name == "nt":  # on Windows os.kill would end it
        return bool(host)
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
