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

from mixfit.config import ModelConfig, TrainConfig
from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.dataset import ImageSource
from mixfit.data.folds import Folds
from mixfit.data.load import MixedData, default_batch_size
from mixfit.data.split import Split
from mixfit.ensemble.intervals import best_temperature, tempered
from mixfit.models.candidate import fit_candidate, read_fitted
from mixfit.models.encoding import PhotoMeans, RowEncoder, mean_features
from mixfit.models.fold import Candidate, Fitted, Fold, RowsToPredict
from mixfit.models.network import FittedNetwork
from mixfit.training.callback import Callback
from mixfit.training.checkpoint import Snapshot

VALIDATION = 0.15
"""Share of a fold's fit rows that callbacks may choose by, where there are such."""


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """A candidate that was fitted on every fold."""

    candidate: Candidate
    fitted: list[Fitted]
    """Those that predict new rows: one a fold, or where folds go forward in time one of all rows."""
    predictions: np.ndarray
    """Of the rows of all folds, each by the model that did not see it: ``(rows,)`` or ``(rows, classes)``, as the
    models gave them; nan for rows that are only fitted on."""
    temperatures: np.ndarray
    """Of the probabilities of each fold, from the rows it may learn from; 1 for a number."""
    temperature: float
    """From all rows, for new ones."""
    fitted_on_fold: list[Fitted]
    """One a fold, and after them that of all rows where there is one."""
    seconds: float

    def honest(self, number: np.ndarray) -> np.ndarray:
        """``predictions`` at the temperature of their fold.

        Args:
            number: fold of each row, -1 for none.
        """
        found = self.predictions.copy()
        if found.ndim == 2:
            for place, temperature in enumerate(self.temperatures):
                found[number == place] = tempered(found[number == place], float(temperature))
        return found

    def mean(self, folds: "FittedFolds", rows: np.ndarray) -> np.ndarray:
        """Mean over the models of their predictions for any rows of the table, tempered."""
        pairs = zip(self.fitted, folds.predicting, strict=True)
        found = np.mean([model.predict(fold.rows.take(rows)) for model, fold in pairs], axis=0)
        return found if found.ndim == 1 else tempered(found, self.temperature)


@dataclass(frozen=True, kw_only=True)
class FittedFolds:
    """Folds with what is fitted on the rows of each, the same for all candidates."""

    plan: Folds
    folds: list[Fold]
    final: Fold | None
    """All rows, where the folds go forward in time and new rows come after them all."""
    truth: np.ndarray
    """Scaled numbers or class indices of ``rows``."""
    weight: np.ndarray | None
    """How much each of ``rows`` counts."""
    notes: tuple[str, ...] = ()
    """Copies that would have tied too many rows together."""

    @property
    def rows(self) -> np.ndarray:
        """Positions in the table."""
        return self.plan.rows

    @property
    def number(self) -> np.ndarray:
        """Fold that predicts each of ``rows``; -1 for none."""
        return self.plan.number

    @property
    def count(self) -> int:
        """How many folds there are."""
        return len(self.folds)

    @property
    def predicting(self) -> list[Fold]:
        """Those whose models predict new rows."""
        return self.folds if self.final is None else [self.final]

    def with_pixels(self, pixels: ImageSource | None) -> "FittedFolds":
        """The same folds, whose rows have pixels beside their features."""

        def seen(fold: Fold) -> Fold:
            return replace(fold, rows=replace(fold.rows, pixels=pixels))

        return replace(
            self,
            folds=[seen(fold) for fold in self.folds],
            final=None if self.final is None else seen(self.final),
        )


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

    def begin(self, folds: Sequence[tuple[Fold, np.ndarray]]) -> None:
        """Note the folds that are numbered in the other methods, each with the positions of the rows that it judges.

        What is kept is used for these rows alone."""

    def load(self, candidate: Candidate, fold: int, backbone: nn.Module | None) -> Fitted | None:
        """What was kept, or None."""

    def watch(self, candidate: Candidate, fold: int) -> Watch:
        """What watches the training of a network."""

    def keep(self, candidate: Candidate, fold: int, fitted: Fitted) -> None:
        """Write down what was fitted."""


def fit_folds(data: MixedData, count: int, *, seed: int, validation: bool = False) -> FittedFolds:
    """Fit what the candidates share on the rows of each fold of ``data.folds``.

    Args:
        data: with features in place of pixels, if it has photos.
        validation: cut a part out of the fit rows of each fold, for callbacks that choose by it. No network ever sees
            the rows that its fold predicts.
    """
    plan, photos = data.folds(count, seed=seed), photo_means(data)
    notes = data.ties.joined(plan.rows, share=1 / count).notes
    if plan.times is None and plan.count < count:
        notes += (f"the rows are of {plan.count} groups, so that there are {plan.count} folds and not {count}",)

    def fitted(place: int) -> Fold:
        fit_rows = plan.rows if place == plan.count else plan.fit[place]
        network_rows = plan.validation(place, VALIDATION, seed=seed) if validation else None
        unit = plan.unit[np.isin(plan.rows, fit_rows)]
        return make_fold(data, fit_rows, photos, seed=seed + place, unit=unit, network_rows=network_rows)

    weight = data.arrays.weight
    return FittedFolds(
        plan=plan,
        folds=[fitted(place) for place in range(plan.count)],
        final=None if plan.times is None else fitted(plan.count),
        truth=data.arrays.target.numpy()[plan.rows],
        weight=None if weight is None else weight.numpy()[plan.rows],
        notes=notes,
    )


def photo_means(data: MixedData, rows: np.ndarray | None = None) -> PhotoMeans:
    """What the photos of some rows look like, by default of all, if there are features."""
    chosen = np.arange(len(data.frame)) if rows is None else rows
    slots = None if data.photos is None else data.photos.slots[chosen]
    return mean_features(len(chosen), slots, None if data.photos is None else data.photos.features)


def make_fold(
    data: MixedData,
    fit_rows: np.ndarray,
    photos: PhotoMeans,
    *,
    seed: int,
    unit: np.ndarray | None = None,
    network_rows: tuple[np.ndarray, ...] | None = None,
) -> Fold:
    """Fit all that the candidates of one fold share on the rows to fit on.

    Args:
        photos: those of all rows.
        unit: of each of the rows to fit on; by default each is one.
        network_rows: of the rows to fit on, those that networks train on and those that they are validated on; by
            default all and none.
    """
    weight = None if data.arrays.weight is None else data.arrays.weight.numpy()[fit_rows]
    preprocessor = TablePreprocessor.fit(data.frame.iloc[fit_rows], data.schema, weight)
    arrays = preprocessor.transform(data.frame)
    encoder = RowEncoder.fit(data.frame.iloc[fit_rows], data.schema, preprocessor, weight)
    rows = RowsToPredict(
        encoded=encoder.encode(data.frame, photos, arrays=(arrays.numeric, arrays.categorical)),
        slots=None if data.photos is None else data.photos.slots,
        columns=None if data.photos is None else data.photos.columns,
        source=None if data.photos is None else data.photos.inputs,
    )
    nothing = np.zeros(0, dtype=np.int64)
    train, valid = (fit_rows, nothing) if network_rows is None else network_rows
    fold_data = replace(
        data,
        split=Split(train=train, valid=valid, test=nothing),
        preprocessor=preprocessor,
        arrays=replace(
            data.arrays, numeric=torch.from_numpy(arrays.numeric), categorical=torch.from_numpy(arrays.categorical)
        ),
        batch_size=default_batch_size(len(fit_rows)),
        seed=seed,
    )
    unit = np.arange(len(fit_rows)) if unit is None else unit
    return Fold(data=fold_data, fit_rows=fit_rows, unit=unit, encoder=encoder, rows=rows, seed=seed)


def cross_fit(
    candidate: Candidate,
    folds: FittedFolds,
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
    if keeper is not None:
        every = [*folds.folds, *([] if folds.final is None else [folds.final])]
        keeper.begin([(fold, folds.rows[folds.number == place]) for place, fold in enumerate(every)])

    def fitted_on(place: int, fold: Fold) -> Fitted:
        if seconds is not None and time.perf_counter() - started > seconds:
            raise OutOfTimeError(f"the time was over after {place} of {folds.count} folds")
        found = None if keeper is None else keeper.load(candidate, place, backbone)
        if found is not None:
            return found
        watch = Watch() if keeper is None else keeper.watch(candidate, place)
        before = None if begin_at is None else begin_at.fitted_on_fold[place]
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
        return found

    each = [fitted_on(place, fold) for place, fold in enumerate(folds.folds)]
    predictions: np.ndarray | None = None
    for place, (model_of_fold, fold) in enumerate(zip(each, folds.folds, strict=True)):
        judged = np.flatnonzero(folds.number == place)
        values = model_of_fold.predict(fold.rows.take(folds.rows[judged]))
        if predictions is None:
            predictions = np.full((len(folds.rows), *values.shape[1:]), np.nan)
        predictions[judged] = values
    assert predictions is not None  # there are folds
    if folds.final is not None:
        each.append(fitted_on(folds.count, folds.final))
    temperatures, temperature = np.ones(folds.count), 1.0
    if predictions.ndim == 2 and candidate.kind != "constant":  # frequencies of classes are to stay just that
        # A network may know much and be far too sure of it, which would keep it out of every blend of probabilities.
        temperatures = np.array([_temperature(folds, predictions, mask) for mask in folds.plan.learns_from])
        temperature = _temperature(folds, predictions, folds.number >= 0)
    return Fitting(
        candidate=candidate,
        fitted=each[-len(folds.predicting) :],
        fitted_on_fold=each,
        predictions=predictions,
        temperatures=temperatures,
        temperature=temperature,
        seconds=time.perf_counter() - started,
    )


def _temperature(folds: FittedFolds, predictions: np.ndarray, rows: np.ndarray) -> float:
    """That of the least log-loss on some rows; 1 where there are none."""
    if not rows.any():
        return 1.0
    weight = None if folds.weight is None else folds.weight[rows]
    return best_temperature(folds.truth[rows], predictions[rows], weight)


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
