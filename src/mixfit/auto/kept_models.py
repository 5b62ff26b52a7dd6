"""Fitted models as files of the run folder, so that a stopped run can be resumed.

In: fitted models, one for each model and fold. Out: the same models, loaded, and the callbacks for further trainings.

Each is a safetensors file with a manifest that is written last: the seconds of the fit, one sha256 of the file and of
them, model, rows and settings. If the manifest does not match, the model is fitted again with a warning."""

import hashlib
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from mixfit.ensemble.cross_fit import Fold, Watch
from mixfit.errors import ConfigError, DataError, Diverged
from mixfit.files import explained, is_there, read_file, read_json, write_file
from mixfit.models.model import FittedModel, Layout, Model, Trainable, as_arrays, as_tensors
from mixfit.training.callback import Callback
from mixfit.training.callbacks.control import StopOnSignal, TimeBudget
from mixfit.training.callbacks.displays import JsonLines, ProgressLines
from mixfit.training.callbacks.guards import NanGuard, OutOfMemoryGuard
from mixfit.training.callbacks.recorder import Recorder
from mixfit.training.callbacks.tracking import Tracker
from mixfit.training.checkpoint import Checkpoints, Snapshot, newest_checkpoint

FORMAT = 4
"""Increased whenever the format of the files changes."""
_LONGEST = 1e9  # seconds
_LARGEST_MANIFEST, _LARGEST_HISTORY = 10_000, 100_000_000
"""Limits in bytes; a manifest has less than a thousand, a history about a hundred per epoch."""


_ELAPSED = "elapsed.json"
_SECONDS = re.compile(r"\d{1,9}\.\d{3}", re.ASCII)


def earlier_seconds(folder: Path) -> float:
    """Seconds that a run took before it was stopped, up to its last saved model; 0 if unknown."""
    file = folder / "candidates" / _ELAPSED
    try:
        found = read_json(file) if is_there(file) else {}
    except DataError:
        return 0.0
    seconds = found.get("seconds") if isinstance(found, dict) else None
    return float(seconds) if isinstance(seconds, int | float) and 0 <= seconds < _LONGEST else 0.0


class BelongsTo(Callback):
    """Records the model, rows and settings of a fit in its checkpoints.

    Args:
        key: unique to the fit; ``of`` reads it from a checkpoint.
    """

    chooses = changes = False

    def __init__(self, key: str) -> None:
        self.key = key

    def state_dict(self) -> dict[str, Any]:
        """The key."""
        return {"key": self.key}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load: ``of`` is checked before a fit is resumed."""

    @classmethod
    def of(cls, snapshot: Snapshot) -> str:
        """The key in a checkpoint; "" if it has none."""
        return str(snapshot.callbacks.get(cls.__name__, {}).get("key", ""))


@dataclass
class RunKeeper:
    """Saves each fitted model in the run folder, and provides callbacks for the training of networks.

    Args:
        folder: of the run.
        save_every: shortest time between two checkpoints of a network, in seconds.
        callbacks: the user's, for every network.
        stop_message: how to resume after a signal.
        settings: a digest of all settings and data that affect the models.
    """

    folder: Path
    save_every: float
    console: Console
    callbacks: Sequence[Callback]
    stop_message: str
    settings: str = ""
    seconds: float | None = None
    """Time limit for the training of a network."""
    elapsed: Callable[[], float] | None = None
    """Seconds since the beginning of the run, which are saved with each model."""
    network_settings: str = ""
    """A digest of further settings that affect networks only."""

    def __post_init__(self) -> None:
        self.history_of = ""
        """The network of ``history``."""
        self.loaded = 0
        """Number of models that were loaded instead of fitted."""
        self.notes: list[str] = []
        """Warnings about files that could not be used, one sentence each."""
        self._history_file = Path()
        self._rows: list[tuple[str, str]] = []
        """Digests of the rows of each fold, for networks, which may hold out validation rows, and for other models."""
        self._spent: dict[str, float] = defaultdict(float)
        self._callbacks = callbacks_digest(self.callbacks)
        with explained(self.folder, None):
            (self.folder / "candidates").mkdir(exist_ok=True)

    @property
    def history(self) -> pd.DataFrame:
        """History of the last network, even if fitted before the run was stopped; empty without a network."""
        return pd.read_csv(self._history_file) if self.history_of else pd.DataFrame()

    def check_models(self, names: Sequence[str]) -> None:
        """Record the user's models of the run, or compare them with the recorded ones.

        Raises:
            ConfigError: they differ.
        """
        file = self.folder / "candidates" / "models.json"
        then = read_json(file) if is_there(file) else []
        if then != list(names) and (is_there(file) or any((self.folder / "candidates").glob("*.json"))):
            said = ", ".join(map(str, then)) if isinstance(then, list) and then else "none"
            raise ConfigError(
                f"{self.folder} was started with other custom models ({said}): pass the same models to "
                "mixfit.resume(..., models=[...])."
            )
        if names:
            write_file(file, json.dumps(list(names)))

    def _path(self, model: Model, fold: int) -> Path:
        return self.folder / "candidates" / f"{model.name.replace(', ', '-').replace(' ', '_')}-{fold + 1}"

    def begin(self, folds: Sequence[tuple[Fold, np.ndarray]]) -> None:
        """Record the training rows of each fold, and the positions of its out-of-fold rows; see ``Keeper``."""
        self._rows = [(_rows_of(fold, judged, network=True), _rows_of(fold, judged)) for fold, judged in folds]

    def load(self, model: Model, fold: int, layout: Layout) -> FittedModel | None:
        """The saved model, if it is intact and of the same model, rows and settings."""
        folder = self._path(model, fold)
        weights, manifest = _file(folder, ".safetensors"), _file(folder, ".json")
        if not is_there(weights) and not is_there(manifest):
            return None
        try:
            content, seconds = self._checked(model, fold)
            found = _read_model(content, model, layout)
        except DataError as error:
            self._note(model, fold, f"the saved model {error}; it is fitted again")
            return None
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # left by a process killed while saving
        self._note_history(model, fold)
        self.loaded += 1
        self._spent[model.name] += float(seconds)
        return found

    def spent(self, model: Model) -> float:
        """See ``Keeper``."""
        return self._spent[model.name]

    def forget(self, model: Model, folds: int) -> None:
        """Remove the fits of a model, which is fitted again in another way.

        Args:
            folds: how many it may have.
        """
        self._spent.pop(model.name, None)
        for fold in range(folds):
            for ending in (".json", ".safetensors"):
                path = _file(self._path(model, fold), ending)
                with explained(path, None):
                    path.unlink(missing_ok=True)

    def watch(self, model: Model, fold: int) -> Watch:
        """Callbacks of a training, and its checkpoint."""
        if not isinstance(model, Trainable):
            return Watch()
        folder = self._path(model, fold)
        with explained(folder, None):
            folder.mkdir(exist_ok=True)
        for callback in self.callbacks:
            if isinstance(callback, JsonLines | ProgressLines | Tracker):
                callback.model = self._shown(model, fold)
        key = json.dumps(self._identity(model, fold))
        callbacks: list[Callback] = [
            Recorder(folder),
            NanGuard(),
            OutOfMemoryGuard(console=self.console),
            BelongsTo(key),
            *([] if self.seconds is None else [TimeBudget(self.seconds)]),
            Checkpoints(folder / "checkpoints", "train_loss", mode="min", seconds=self.save_every, ends=False),
            *self.callbacks,
            StopOnSignal(self.stop_message),
        ]
        return Watch(callbacks=callbacks, snapshot=self._snapshot(model, fold, key))

    def kept(self, model: Model, fold: int) -> bool:
        """Whether there are files of this model, which ``load`` may still refuse."""
        return is_there(_file(self._path(model, fold), ".json"))

    def keep(
        self, model: Model, fold: int, fitted: FittedModel, history: bytes | None = None, *, seconds: float = 0.0
    ) -> None:
        """Save a fitted model and remove the checkpoints of its training.

        Args:
            history: of a network that was trained elsewhere.
            seconds: that the fit took; of a training that was resumed, since then.
        Raises:
            Diverged: it has values that are not finite.
        """
        folder = self._path(model, fold)
        weights, manifest = _file(folder, ".safetensors"), _file(folder, ".json")
        arrays, config = fitted.state()
        tensors = as_tensors(arrays, model.name)
        bad = _not_finite(tensors)
        if bad:
            raise Diverged(f"fold {fold + 1}: {bad} is not finite")
        content = save_tensors(tensors, metadata={"description": json.dumps(config)})
        for path in (weights, manifest):
            if path.is_dir() and not path.is_symlink():  # not ours, and it would block the file
                with explained(path, None):
                    shutil.rmtree(path)
        if history is not None:
            with explained(folder, None):
                folder.mkdir(exist_ok=True)
            write_file(folder / "history.csv", history)
        # Nothing waits for the disk: what a power failure damages is noticed by its sum, and fitted again.
        write_file(weights, content, flush=False)
        write_file(manifest, self._manifest(model, fold, content, f"{seconds:.3f}"), flush=False)
        if self.elapsed is not None:
            spent = json.dumps({"seconds": self.elapsed()})
            write_file(self.folder / "candidates" / _ELAPSED, spent, flush=False)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        self._note_history(model, fold)

    def _identity(self, model: Model, fold: int) -> dict[str, Any]:
        """What must match for a saved model to be used."""
        for_networks, for_others = self._rows[fold]
        own = {"rows": for_others}
        if isinstance(model, Trainable):  # no other model has callbacks or validation rows
            own = {"callbacks": self._callbacks, "rows": for_networks}
            own |= {"network settings": self.network_settings} if self.network_settings else {}
        return {"format": FORMAT, "model": _said(model), **own, "settings": self.settings}

    def _manifest(self, model: Model, fold: int, content: bytes, seconds: str) -> bytes:
        history = self._path(model, fold) / "history.csv"
        sums = {
            "bytes": len(content),
            "seconds": seconds,
            "sha256": _sha256(content + seconds.encode()),
            "history": _sha256(_read(history, most=_LARGEST_HISTORY)) if history.is_file() else None,
        }
        return json.dumps(self._identity(model, fold) | sums, indent=1).encode()

    def _checked(self, model: Model, fold: int) -> tuple[bytes, str]:
        """The bytes of a saved model, and the seconds of its fit.

        Raises:
            DataError: with the end of a sentence on what is wrong.
        """
        folder = self._path(model, fold)
        said = _read(_file(folder, ".json"), most=_LARGEST_MANIFEST)
        try:
            known = json.loads(said)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DataError("has a damaged manifest") from error
        if not isinstance(known, dict):
            raise DataError("has a damaged manifest")
        wrong = {
            "format": "was written by another version of mixfit",
            "model": "is of another model",
            "callbacks": "was trained with other callbacks or callback settings",
            "rows": "was fitted on other rows",
            "settings": "was fitted with other settings or data",
            "network settings": "was trained with other settings",
        }
        for name, value in self._identity(model, fold).items():
            if known.get(name) != value:
                raise DataError(wrong[name])
        size, seconds = known.get("bytes"), str(known.get("seconds"))
        if not isinstance(size, int) or not _SECONDS.fullmatch(seconds):
            raise DataError("has a damaged manifest")
        content = _read(_file(folder, ".safetensors"), most=size)
        if said != self._manifest(model, fold, content, seconds):
            raise DataError("is damaged: its sha256, or that of its history, does not match the manifest")
        return content, seconds

    def _snapshot(self, model: Model, fold: int, key: str) -> Snapshot | None:
        """The newest checkpoint of this training, if any."""
        try:
            snapshot = newest_checkpoint(self._path(model, fold) / "checkpoints")
        except DataError as error:
            self._note(model, fold, f"its training restarts, as no checkpoint is intact ({error})")
            return None
        if snapshot is None:
            return None
        if BelongsTo.of(snapshot) != key:
            self._note(
                model,
                fold,
                "its training restarts, as its checkpoints are of another model, other rows, other settings or "
                "other callbacks",
            )
            return None
        if snapshot.note:
            self._note(model, fold, f"{snapshot.note} Resuming from the previous checkpoint")
        return snapshot

    def _note(self, model: Model, fold: int, text: str) -> None:
        told = text.replace(f"{self.folder}{os.sep}", "")  # reports are shared, so they contain no absolute paths
        sentence = f"{self._shown(model, fold)}: {told}."
        self.notes.append(sentence)
        self.console.print(f" warning: {sentence}", markup=False)

    def _note_history(self, model: Model, fold: int) -> None:
        file = self._path(model, fold) / "history.csv"
        if file.is_file():
            self.history_of, self._history_file = self._shown(model, fold), file

    def _shown(self, model: Model, fold: int) -> str:
        return f"{model.name}, fold {fold + 1}"


def _read(path: Path, *, most: int) -> bytes:
    """All bytes of a file.

    Raises:
        DataError: with the end of a sentence on the reason.
    """
    try:
        return read_file(path, most=most)
    except DataError as error:
        raise DataError(f"cannot be used: {str(error).removesuffix('.')}") from error


def _file(folder: Path, suffix: str) -> Path:
    """A file next to a folder with the same name, which may contain a dot."""
    return folder.with_name(folder.name + suffix)


def _read_model(content: bytes, model: Model, layout: Layout) -> FittedModel:
    """Load a saved model from its bytes.

    Raises:
        DataError: the bytes are not a valid model.
    """
    try:
        tensors = load_tensors(content)
        # The first eight bytes are the length of the header, which is JSON.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        config = json.loads(header["__metadata__"]["description"])
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
        raise DataError(f"cannot be read: {error!r}") from error
    bad = _not_finite(tensors)
    if bad:
        raise DataError(f"is damaged: {bad} is not finite")
    return model.load(as_arrays(tensors), config, layout)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def callbacks_digest(callbacks: Sequence[Callback]) -> str:
    """A digest of the callbacks that may change a training, in order of execution, with their settings."""
    acting = sorted((callback for callback in callbacks if callback.changes), key=lambda callback: callback.order)
    said = [[type(callback).__name__, _said(callback.settings_dict())] for callback in acting]
    return _sha256(json.dumps(said).encode())


def _said(value: Any) -> Any:
    """A setting for JSON; other values as the name of their function or class."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            return [_said(part) for part in value]
        case dict():
            return {str(name): _said(part) for name, part in value.items()}
        case _ if is_dataclass(value) and not isinstance(value, type):
            held = {field.name: _said(getattr(value, field.name)) for field in fields(value) if field.compare}
            return [type(value).__name__, held]
        case set() | frozenset():
            return sorted(map(str, value))
        case np.generic() | np.ndarray() | Tensor():
            return value.tolist()
        case torch.dtype() | torch.device() | Enum():
            return str(value)
        case partial():
            return [_said(value.func), _said(value.args), _said(value.keywords)]
        case _ if isinstance(value, Model) and not isinstance(value, type):
            return [type(value).__qualname__, _said(vars(value)) if hasattr(value, "__dict__") else {}]
        case _:
            return getattr(value, "__qualname__", type(value).__qualname__)


def _rows_of(fold: Fold, judged: np.ndarray, *, network: bool = False) -> str:
    """A digest of a fold's training and out-of-fold rows, with targets, weights and seed."""
    split = fold.data.split
    parts = [fold.fit_rows, judged, fold.truth, fold.weight, *([split.train, split.valid] if network else [])]
    digest = hashlib.sha256(f"{fold.seed} {fold.classes}".encode())
    for part in parts:
        digest.update(b"none" if part is None else f"{part.dtype} {part.shape} ".encode() + part.tobytes())
    return digest.hexdigest()


def _not_finite(tensors: dict[str, Tensor]) -> str:
    """The name of the first tensor with a value that is not finite; "" if all are finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return name
    return ""
