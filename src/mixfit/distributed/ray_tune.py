"""Trials of a search for settings on Ray Tune, as many at a time as there are cores.

In: a ``Search``, whose study proposes trials by Optuna and remembers them in its folder. Out: nothing: the study knows
what each trial found, and continues with or without Ray. Ray Tune starts the trials where there is room, and repeats
those of a lost worker. Workers report epochs to the study themselves, so that a trial is pruned as it would be here."""

import logging
import os
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from mixfit.auto.tune import Outcome, Search, TrialWork
from mixfit.distributed.ray_engine import Failed, RayEngine, gpus_of_a_worker, ray
from mixfit.errors import ResourceError

# Signals are handled by the search, files of Ray Tune's own are read by nobody, and paths of photos are relative to
# the folder of the command; read when Ray is started and when Ray Tune runs.
_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the other output is written whatever the verbosity
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
os.environ.update(_SETTINGS)

try:
    from ray import tune as ray_tune
    from ray.tune.search import Searcher
except ImportError as error:  # Ray without its extra
    raise ResourceError(
        "tune --engine ray needs Ray Tune, which is not installed: pip install 'mixfit[ray]'."
    ) from error

if TYPE_CHECKING:
    import optuna

_RETRIES = 5


class RayTrials:
    """Runs trials in actors of Ray Tune; a context manager, see ``mixfit.auto.tune.TrialEngine``.

    Args:
        workers: most trials at a time; by default as many as fit on the cores.
        console: where it is written how long Ray took to start; by default nowhere.
        cpus: see ``RayEngine``.
    """

    def __init__(self, *, workers: int | None = None, console: Console | None = None, cpus: int | None = None) -> None:
        self.workers = workers
        self._engine = RayEngine(console=console, cpus=cpus)

    def __enter__(self) -> "RayTrials":
        self._engine.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._engine.__exit__(kind, error, at)

    def run(self, search: Search) -> None:
        """See ``mixfit.auto.tune.TrialEngine``.

        Raises:
            MixfitError: as a trial raises it.
            ResourceError: the workers of a trial were lost again and again.
        """
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        threads, gpus, there = torch.get_num_threads(), gpus_of_a_worker(), ray.cluster_resources()
        each = max(1, min(threads, int(there.get("CPU", 1))))
        most = max(1, int(there.get("GPU", 0) / gpus) if gpus else int(there.get("CPU", 1)) // each)
        work = ray_tune.with_parameters(_Worker, work=search.work, threads=threads)
        proposals = _Proposals(search)
        # Ray Tune wants a folder that all machines see, as they see that of the search.
        with TemporaryDirectory(prefix="ray-", dir=search.study.folder.resolve()) as folder:
            tuner = ray_tune.Tuner(
                ray_tune.with_resources(work, {"cpu": each, "gpu": gpus}),
                tune_config=ray_tune.TuneConfig(
                    search_alg=proposals,
                    num_samples=-1,  # until no trial is proposed
                    max_concurrent_trials=most if self.workers is None else max(1, min(self.workers, most)),
                    reuse_actors=True,
                    trial_dirname_creator=_folder_of,
                ),
                run_config=ray_tune.RunConfig(
                    storage_path=folder,
                    verbose=0,
                    checkpoint_config=ray_tune.CheckpointConfig(checkpoint_at_end=False),
                    failure_config=ray_tune.FailureConfig(max_failures=_RETRIES),
                ),
            )
            try:
                tuner.fit()
            finally:
                proposals.abandon()
        if proposals.error is not None:
            raise proposals.error


class _Proposals(Searcher):  # type: ignore[misc]  # Ray has no types
    """Asks a search for its trials, and tells it what they found."""

    def __init__(self, search: Search) -> None:
        super().__init__()
        self.search = search
        self.error: Exception | None = None
        self._running: dict[str, optuna.Trial] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial, and the time at which it has to end."""
        try:
            trial = None if self.error else self.search.propose()
        except Exception as problem:  # Ray Tune would wrap it
            self.error, trial = problem, None
        if trial is None:
            return Searcher.FINISHED
        self._running[trial_id] = trial
        left = self.search.seconds_left()
        return {"trial": trial, "until": None if left is None else time.time() + left}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: workers report epochs to the study."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:  # noqa: FBT001, FBT002
        """Tell the search; Ray Tune would only log what is raised here."""
        trial = self._running.pop(trial_id)
        outcome = (result or {}).get("outcome")
        try:
            if isinstance(outcome, Outcome):
                self.search.finish(trial, outcome)
                return
            self.search.abandon(trial)
            lost = ResourceError(
                f"Ray lost the workers of trial {trial.number} {_RETRIES + 1} times. {self.search.work.advice}"
            )
            self.error = self.error or (outcome.error if isinstance(outcome, Failed) else lost)
        except Exception as problem:
            self.error = self.error or problem

    def abandon(self) -> None:
        """Give up what is still running."""
        while self._running:
            self.search.abandon(self._running.popitem()[1])

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is its own file."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the study is its own file."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune keeps a copy, which is never used."""
        return {}


class _Worker(ray_tune.Trainable):  # type: ignore[misc]
    """Runs one trial after another, in an actor."""

    def setup(self, config: dict[str, Any], work: TrialWork, threads: int) -> None:
        """Prepare for the first trial."""
        torch.set_num_threads(threads)
        self.folder = TemporaryDirectory(prefix="mixfit-trials-")
        # Arrays in the object store cannot be written.
        self.work = replace(deepcopy(work), models=Path(self.folder.name))

    def step(self) -> dict[str, Any]:
        """Run the trial."""
        until = self.config["until"]
        try:
            found: Any = self.work(self.config["trial"], None if until is None else until - time.time())
        except Exception as error:  # Ray Tune would repeat it
            found = Failed(error)
        return {"outcome": found, "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Any worker runs any trial."""
        return True

    def cleanup(self) -> None:
        """Remove the models that trials share."""
        self.folder.cleanup()


def _folder_of(trial: Any) -> str:
    return str(trial.trial_id)
