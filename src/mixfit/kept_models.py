"""What a run has fitted already, as files of its folder, so that one that was stopped need not begin anew.

In: fitted models, one for each candidate and fold. Out: the same, read again, and what watches those to come."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import nn

from mixfit.candidates.candidate import read_fitted
from mixfit.candidates.cross_fit import Watch
from mixfit.candidates.fold import Candidate, Fitted
from mixfit.errors import DataError
from mixfit.files import explained, write_file
from mixfit.training.callback import Callback
from mixfit.training.callbacks.checkpoint import Checkpoints
from mixfit.training.callbacks.json_lines import JsonLines
from mixfit.training.callbacks.nan_guard import NanGuard
from mixfit.training.callbacks.out_of_memory import OutOfMemoryGuard
from mixfit.training.callbacks.recorder import Recorder
from mixfit.training.callbacks.signals import StopOnSignal
from mixfit.training.callbacks.time_budget import TimeBudget
from mixfit.training.checkpoint_files import newest_checkpoint

# What reading a file raises that is not what we wrote.
_DAMAGE = (SafetensorError, DataError, AttributeError, LookupError, TypeError, ValueError, RuntimeError, OSError)


@dataclass
class RunKeeper:
    """Keeps each fitted model as a file of the run folder, and watches the trainings of networks."""

    folder: Path
    save_every: float
    console: Console
    callbacks: Sequence[Callback]
    stop_message: str
    seconds: float | None = None
    """The most that the training of a network may take."""

    def __post_init__(self) -> None:
        self.history_of = ""
        """Which network ``history`` is of."""
        self._history_file = Path()
        with explained(self.folder, None):
            (self.folder / "candidates").mkdir(exist_ok=True)

    @property
    def history(self) -> pd.DataFrame:
        """Of the last network, also where it was fitted before the run was stopped; empty when there was none."""
        return pd.read_csv(self._history_file) if self.history_of else pd.DataFrame()

    def _path(self, candidate: Candidate, fold: int) -> Path:
        return self.folder / "candidates" / f"{candidate.name.replace(', ', '-').replace(' ', '_')}-{fold + 1}"

    def load(self, candidate: Candidate, fold: int, backbone: nn.Module | None) -> Fitted | None:
        """What was kept, if it is whole."""
        path = self._path(candidate, fold).with_suffix(".safetensors")
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                description = json.loads(file.metadata()["description"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            found = read_fitted(description, tensors, backbone)
        except _DAMAGE:
            return None  # it is fitted again
        self._note_history(candidate, fold)
        return found

    def watch(self, candidate: Candidate, fold: int) -> Watch:
        """Callbacks of a training, and where it goes on."""
        if candidate.kind != "network":
            return Watch()
        folder = self._path(candidate, fold)
        with explained(folder, None):
            folder.mkdir(exist_ok=True)
        for callback in self.callbacks:
            if isinstance(callback, JsonLines):
                callback.model = self._shown(candidate, fold)
        callbacks: list[Callback] = [
            Recorder(folder),
            NanGuard(),
            OutOfMemoryGuard(console=self.console),
            *([] if self.seconds is None else [TimeBudget(self.seconds)]),
            Checkpoints(folder / "checkpoints", "train_loss", mode="min", seconds=self.save_every),
            *self.callbacks,
            StopOnSignal(self.stop_message),
        ]
        return Watch(callbacks=callbacks, snapshot=newest_checkpoint(folder / "checkpoints"))

    def keep(self, candidate: Candidate, fold: int, fitted: Fitted) -> None:
        """Write what was fitted; the checkpoints of its training are of no more use."""
        folder = self._path(candidate, fold)
        tensors = {name: tensor.contiguous() for name, tensor in fitted.tensors().items()}
        content = save_tensors(tensors, metadata={"description": json.dumps(fitted.describe())})
        write_file(folder.with_suffix(".safetensors"), content)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        self._note_history(candidate, fold)

    def _note_history(self, candidate: Candidate, fold: int) -> None:
        file = self._path(candidate, fold) / "history.csv"
        if file.is_file():
            self.history_of, self._history_file = self._shown(candidate, fold), file

    def _shown(self, candidate: Candidate, fold: int) -> str:
        return f"{candidate.name}, fold {fold + 1}"
