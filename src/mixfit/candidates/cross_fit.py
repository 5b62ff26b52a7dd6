"""Every candidate on every fold: predictions of rows by models that did not see them.

In: data, folds and candidates. Out: for each candidate its fitted models, one a fold, and its out-of-fold predictions.
Preprocessing is fitted anew in every fold; features of the frozen backbone know nothing of the target, and are shared.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from mixfit.candidates.candidate import fit_candidate, read_fitted
from mixfit.candidates.encoding import PhotoMeans, RowEncoder, mean_features
from mixfit.candidates.fold import Candidate, Fitted, Fold, RowsToPredict
from mixfit.candidates.intervals import best_temperature, tempered
from mixfit.candidates.network import FittedNetwork
from mixfit.config import ModelConfig, TrainConfig
from mixfit.data.dataset import FeatureTable
from mixfit.data.folds import k_folds
from mixfit.data.image_source import ImageSource
from mixfit.data.load import MixedData, default_batch_size
from mixfit.data.preprocess import TablePreprocessor
from mixfit.data.split import Split
from mixfit.training.callback import Callback
from mixfit.training.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """A candidate that was fitted on every fold."""

    candidate: Candidate
    fitted: list[Fitted]
    """One a fold."""
    predictions: np.ndarray
    """Of the rows of all folds, each by the model that did not see it: ``(rows,)`` or ``(rows, classes)``."""
    temperature: float
    """Of the probabilities, which are tempered already; 1 for a number."""
    seconds: float

    def mean(self, folds: "Folds", rows: np.ndarray) -> np.ndarray:
        """Mean over the folds' models of their predictions for any rows of the table, tempered."""
        pairs = zip(self.fitted, folds.folds, strict=True)
        return np.mean([self.tempered(model.predict(fold.rows.take(rows))) for model, fold in pairs], axis=0)

    def tempered(self, predictions: np.ndarray) -> np.ndarray:
        """Probabilities at the temperature; numbers as they are."""
        return predictions if predictions.ndim == 1 else tempered(predictions, self.temperature)


@dataclass(frozen=True, kw_only=True)
class Folds:
    """The rows that are dealt into folds, and what is the same for all candidates."""

    rows: np.ndarray
    """Positions in the table."""
    number: np.ndarray
    """Fold of each of ``rows``."""
    folds: list[Fold]
    truth: np.ndarray
    """Scaled numbers or class indices of ``rows``."""
    weight: np.ndarray | None
    """How much each of ``rows`` counts."""

    @property
    def count(self) -> int:
        """How many folds there are."""
        return len(self.folds)

    def with_pixels(self, pixels: ImageSource | None) -> "Folds":
        """The same folds, whose rows have pixels beside their features."""
        folds = [replace(fold, rows=replace(fold.rows, pixels=pixels)) for fold in self.folds]
        return replace(self, folds=folds)


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What watches the training of one network, and where it goes on."""

    callbacks: Sequence[Callback] = ()
    snapshot: Snapshot | None = None


class OutOfTimeError(Exception):
    """A candidate took longer than it may."""


@runtime_checkable
class Keeper(Protocol):
    """Keeps what was fitted already, so that a run that was stopped need not fit it again."""

    def load(self, candidate: Candidate, fold: int, backbone: nn.Module | None) -> Fitted | None:
        """What was kept, or None."""

    def watch(self, candidate: Candidate, fold: int) -> Watch:
        """What watches the training of a network."""

    def keep(self, candidate: Candidate, fold: int, fitted: Fitted) -> None:
        """Write down what was fitted."""


def deal_folds(data: MixedData, count: int, *, seed: int) -> Folds:
    """Deal the training and validation rows into folds; groups stay whole, classes are spread evenly.

    Args:
        data: with features in place of pixels, if it has photos.
    """
    rows = np.sort(np.concatenate([data.split.train, data.split.valid]))
    schema = replace(
        data.schema,
        columns=tuple(replace(c, role="ignored") if c.role == "split" else c for c in data.schema.columns),
    )
    splits = k_folds(data.frame.iloc[rows], schema, count, seed)
    number = np.empty(len(rows), dtype=np.int64)
    folds, photos = [], photo_means(data)
    for place, split in enumerate(splits):
        number[split.valid] = place
        folds.append(make_fold(data, rows[split.train], rows[split.valid], photos, seed=seed + place))
    weight = data.arrays.weight
    return Folds(
        rows=rows,
        number=number,
        folds=folds,
        truth=data.arrays.target.numpy()[rows],
        weight=None if weight is None else weight.numpy()[rows],
    )


def photo_means(data: MixedData, rows: np.ndarray | None = None) -> PhotoMeans:
    """What the photos of some rows look like, by default of all, if there are features."""
    chosen = np.arange(len(data.frame)) if rows is None else rows
    slots = None if data.photos is None else data.photos.slots[chosen]
    return mean_features(len(chosen), slots, data.source if isinstance(data.source, FeatureTable) else None)


def make_fold(
    data: MixedData, fit_rows: np.ndarray, judging_rows: np.ndarray, photos: PhotoMeans, *, seed: int
) -> Fold:
    """Fit all that the candidates of one fold share on the rows to fit on; ``photos`` are those of all rows."""
    preprocessor = TablePreprocessor.fit(data.frame.iloc[fit_rows], data.schema)
    arrays = preprocessor.transform(data.frame)
    encoder = RowEncoder.fit(data.frame.iloc[fit_rows], data.schema, preprocessor)
    rows = RowsToPredict(
        encoded=encoder.encode(data.frame, photos, arrays=(arrays.numeric, arrays.categorical)),
        slots=None if data.photos is None else data.photos.slots,
        columns=None if data.photos is None else data.photos.columns,
        source=data.photo_source,
    )
    fold_data = replace(
        data,
        split=Split(train=fit_rows, valid=judging_rows, test=judging_rows),
        preprocessor=preprocessor,
        arrays=replace(
            data.arrays, numeric=torch.from_numpy(arrays.numeric), categorical=torch.from_numpy(arrays.categorical)
        ),
        batch_size=default_batch_size(len(fit_rows)),
        seed=seed,
    )
    return Fold(data=fold_data, encoder=encoder, rows=rows, seed=seed)


def cross_fit(
    candidate: Candidate,
    folds: Folds,
    *,
    model: ModelConfig,
    train: TrainConfig,
    backbone: nn.Module | None = None,
    keeper: Keeper | None = None,
    begin_at: Fitting | None = None,
    seconds: float | None = None,
) -> Fitting:
    """Fit a candidate on every fold, and let it predict the rows that it did not see.

    Args:
        begin_at: networks on features of the same folds, where the training of tuned ones begins.
        seconds: after which no further fold is begun.
    Raises:
        OutOfTimeError: the time was over before the last fold.
    """
    started = time.perf_counter()
    fitted: list[Fitted] = []
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for place, fold in enumerate(folds.folds):
        if seconds is not None and time.perf_counter() - started > seconds:
            raise OutOfTimeError(f"the time was over after {place} of {folds.count} folds")
        found = None if keeper is None else keeper.load(candidate, place, backbone)
        if found is None:
            watch = Watch() if keeper is None else keeper.watch(candidate, place)
            before = None if begin_at is None else begin_at.fitted[place]
            found = fit_candidate(
                candidate,
                fold,
                model=model,
                train=train,
                backbone=backbone,
                callbacks=watch.callbacks,
                snapshot=watch.snapshot,
                start=before if isinstance(before, FittedNetwork) else None,
            )
            # What is read again may have another layout in memory, and with it other last bits of its predictions:
            # a run that goes on must not differ from one that was never stopped.
            tensors = _copies(found.tensors())
            found = read_fitted(found.describe(), tensors, backbone)
            if keeper is not None:
                keeper.keep(candidate, place, found)
        fitted.append(found)
        judged = np.flatnonzero(folds.number == place)
        parts.append((judged, found.predict(fold.rows.take(folds.rows[judged]))))
    predictions = np.empty((len(folds.rows), *parts[0][1].shape[1:]))
    for judged, values in parts:
        predictions[judged] = values
    temperature = 1.0
    if predictions.ndim == 2:
        # A network may know much and be far too sure of it, which would keep it out of every blend of probabilities.
        temperature = best_temperature(folds.truth, predictions, folds.weight)
        predictions = tempered(predictions, temperature)
    return Fitting(
        candidate=candidate,
        fitted=fitted,
        predictions=predictions,
        temperature=temperature,
        seconds=time.perf_counter() - started,
    )


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
