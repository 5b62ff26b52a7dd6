"""Models of folds as tasks of Ray: each model of each fold is one task, with its cores and its memory declared.

In: folds, whose data are put into the object store once, and models. Out: the states of the fitted models, which are
those that this process would have fitted: threads, seeds and data are the same. A task of a lost worker is repeated."""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from types import TracebackType
from typing import Any

import numpy as np
import torch
from rich.console import Console

from mixfit.data.columns.cells import Table
from mixfit.data.dataset import FeatureTable
from mixfit.data.load import MixedData
from mixfit.data.ties import Ties
from mixfit.distributed.ray_engine import RayEngine, ray, unwrapped
from mixfit.ensemble.cross_fit import FitElsewhere, Fold, fit_model
from mixfit.models.model import FittedModel, Model, Trainable, one_thread
from mixfit.training.callback import Callback
from mixfit.training.callbacks.control import TimeBudget
from mixfit.training.callbacks.guards import NanGuard, OutOfMemoryGuard
from mixfit.training.callbacks.recorder import Recorder

_COPIES = 3
"""How often the data of a fold are in memory while a model is fitted, about."""
_OWN = 500_000_000
"""Bytes of a process with its libraries."""
_RETRIES = 5


class RayFits:
    """Fits models of folds in tasks of Ray; a context manager, see ``mixfit.ensemble.cross_fit.Fits``.

    Args:
        console: where it is written how long Ray took to start; by default nowhere.
        cpus: see ``RayEngine``.
    """

    def __init__(self, *, console: Console | None = None, cpus: int | None = None) -> None:
        self._engine = RayEngine(console=console, cpus=cpus)
        self._tasks: dict[tuple[str, int], Any] = {}
        self._stored: dict[int, tuple[Fold, Any]] = {}
        """By ``id``: each fold, so that no other gets its ``id``, and its place in the object store."""
        self._features: dict[int, tuple[FeatureTable, Any]] = {}

    def __enter__(self) -> "RayFits":
        self._engine.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._tasks.clear()
        self._stored.clear()
        self._features.clear()
        self._engine.__exit__(kind, error, at)

    def begin(self, model: Model, folds: Sequence[tuple[int, Fold, FittedModel | None]], seconds: float | None) -> None:
        """Start a task for each fold."""
        threads = torch.get_num_threads()
        for place, fold, start in folds:
            if (model.name, place) in self._tasks:
                continue
            stored, features, size = self._put(fold)
            options: dict[str, Any] = {
                "num_cpus": min(threads, int(ray.cluster_resources().get("CPU", 1))),
                "memory": min(_OWN + _COPIES * size, _largest_share()),
                "max_retries": _RETRIES,
                "name": f"{model.name}, fold {place + 1}",
                "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(threads)}},
            }
            task = ray.remote(_fit).options(**options)
            self._tasks[model.name, place] = task.remote(stored, features, model, start, threads, seconds)

    def result(self, model: Model, place: int, fold: Fold) -> FitElsewhere:
        """Wait for a task, which is started if ``begin`` left it out."""
        if (model.name, place) not in self._tasks:
            self.begin(model, [(place, fold, None)], None)
        task = self._tasks.pop((model.name, place))
        try:
            return ray.get(task)
        except ray.exceptions.RayError as error:
            raise unwrapped(error) from error
        except BaseException:
            ray.cancel(task, force=True)
            raise

    def stop(self, model: Model) -> None:
        """Cancel the tasks that nobody waits for."""
        for name, place in list(self._tasks):
            if name == model.name:
                ray.cancel(self._tasks.pop((name, place)), force=True)

    def _put(self, fold: Fold) -> tuple[Any, Any, int]:
        """The fold and its features in the object store, and the bytes of the fold."""
        features = fold.rows.source if isinstance(fold.rows.source, FeatureTable) else None
        if id(fold) not in self._stored:
            self._stored[id(fold)] = fold, ray.put(_portable(fold))
        if features is None:
            return self._stored[id(fold)][1], None, _bytes(fold)
        if id(features) not in self._features:
            arrays = features.values.numpy(), features.readable.numpy(), features.failures
            self._features[id(features)] = features, ray.put(arrays)
        return self._stored[id(fold)][1], self._features[id(features)][1], _bytes(fold)


def _fit(
    fold: Fold,
    features: tuple[np.ndarray, np.ndarray, dict[int, str]] | None,
    model: Model,
    start: FittedModel | None,
    threads: int,
    seconds: float | None,
) -> FitElsewhere:
    """Fit a model on a fold, in a worker."""
    began = perf_counter()
    torch.set_num_threads(threads)
    fold = deepcopy(fold)  # arrays in the object store cannot be written
    if features is not None:
        fold = _with_features(fold, features)
    with TemporaryDirectory(prefix="mixfit-fit-") as folder, one_thread() if threads == 1 else nullcontext():
        ready = model
        if isinstance(ready, Trainable):
            callbacks: list[Callback] = [
                Recorder(Path(folder)),
                NanGuard(),
                OutOfMemoryGuard(console=Console(quiet=True)),
                *([] if seconds is None else [TimeBudget(seconds)]),
            ]
            ready = ready.ready(start, callbacks, None)
        state = fit_model(ready, fold).state()
        history = Path(folder) / "history.csv"
        written = history.read_bytes() if history.is_file() else None
    return FitElsewhere(state=state, history=written, seconds=perf_counter() - began)


def _portable(fold: Fold) -> Fold:
    """The fold without what models do not see: cells, encoders, caches; and without features, which all share."""
    data = fold.data
    bare = Table(data.frame[[]])
    photos = data.photos
    if photos is not None:
        photos = replace(photos, cache=None, features=None)
    if photos is not None and isinstance(fold.rows.source, FeatureTable):
        photos = replace(photos, decoder=None)
    kept = replace(data, table=bare, ties=Ties(bare, data.schema), text=None, bad=[], photos=photos)
    rows = fold.rows
    if isinstance(rows.source, FeatureTable):
        rows = replace(rows, source=None)
    return replace(fold, data=kept, rows=rows, encoder=replace(fold.encoder, text=None, photos=None), components={})


def _with_features(fold: Fold, features: tuple[np.ndarray, np.ndarray, dict[int, str]]) -> Fold:
    """The fold with features that lie in the object store, which are not copied."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        values, readable = map(torch.from_numpy, features[:2])
    table = FeatureTable(values, readable, features[2])
    data: MixedData = fold.data
    photos = None if data.photos is None else replace(data.photos, features=table)
    return replace(fold, data=replace(data, photos=photos), rows=replace(fold.rows, source=table))


def _bytes(fold: Fold) -> int:
    """Bytes of the arrays of a fold."""
    arrays, encoded = fold.data.arrays, fold.rows.encoded
    tensors = [one for one in _values(arrays) if isinstance(one, torch.Tensor)]
    held = [one for one in _values(encoded) if isinstance(one, np.ndarray)]
    return sum(one.nbytes for one in tensors) + sum(one.nbytes for one in held)


def _values(record: Any) -> list[Any]:
    """The values of a dataclass."""
    return [getattr(record, name) for name in record.__dataclass_fields__]


def _largest_share() -> float:
    """Half of the memory of the machine with the most: a task that asks for more than any has would wait for ever."""
    found = [node["Resources"].get("memory", 0.0) for node in ray.nodes() if node["Alive"]]
    return max(found, default=2.0 * _OWN) / 2
