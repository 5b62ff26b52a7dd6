"""Every model on every fold: predictions of rows by fitted models that did not see them.

In: data, folds and models. Out: for each model what was fitted, one a fold, and its out-of-fold predictions.
Preprocessing is fitted anew in every fold; features of the frozen backbone know nothing of the target, and are shared.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.dataset import ImageSource
from mixfit.data.folds import Folds
from mixfit.data.load import MixedData, default_batch_size
from mixfit.data.split import Split
from mixfit.ensemble.intervals import best_temperature, tempered
from mixfit.errors import ConfigError, Diverged
from mixfit.models.encoding import PhotoMeans, RowEncoder, mean_features
from mixfit.models.model import Components, FittedModel, Layout, Model, Rows, Trainable, TrainingRows
from mixfit.training.callback import Callback
from mixfit.training.checkpoint import Snapshot

VALIDATION = 0.15
"""Share of a fold's fit rows that callbacks may choose by, where there are such."""
_ROUNDING = 1e-3


@dataclass(frozen=True, kw_only=True)
class Fold:
    """What models are fitted on; all that is fitted comes from ``fit_rows`` alone."""

    data: MixedData
    """With features in place of pixels, preprocessed by ``encoder.preprocessor``; its training and validation rows
    are those of networks, and among ``fit_rows``."""
    fit_rows: np.ndarray
    """Positions of the rows to fit on."""
    unit: np.ndarray
    """Of each of them; what is chosen by leaving rows out leaves out whole units."""
    encoder: RowEncoder
    rows: Rows
    """All rows of the table."""
    seed: int
    components: dict[int, Components] = field(default_factory=dict, repr=False)
    """Of the photos of the rows to fit on, once models have asked for them."""

    @property
    def training(self) -> TrainingRows:
        """The rows to fit on."""
        rows = self.rows
        return TrainingRows(
            encoded=rows.encoded.take(self.fit_rows),
            layout=rows.layout,
            slots=None if rows.slots is None else rows.slots[self.fit_rows],
            columns=rows.columns,
            source=rows.source,
            pixels=rows.pixels,
            unit=self.unit,
            data=self.data,
            found=self.components,
        )

    @cached_property
    def truth(self) -> np.ndarray:
        """Scaled numbers or class indices of the rows to fit on."""
        return self.data.arrays.target.numpy()[self.fit_rows]

    @cached_property
    def weight(self) -> np.ndarray | None:
        """How much each row to fit on counts."""
        return None if self.data.arrays.weight is None else self.data.arrays.weight.numpy()[self.fit_rows]

    @property
    def classes(self) -> int:
        """0 for a number."""
        return self.rows.layout.classes


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """A model that was fitted on every fold."""

    model: Model
    fitted: list[FittedModel]
    """Those that predict new rows: one a fold, or where folds go forward in time one of all rows."""
    predictions: np.ndarray
    """Of the rows of all folds, each by the model that did not see it: ``(rows,)`` or ``(rows, classes)``, as the
    models gave them; nan for rows that are only fitted on."""
    temperatures: np.ndarray
    """Of the probabilities of each fold, from the rows it may learn from; 1 for a number."""
    temperature: float
    """From all rows, for new ones."""
    fitted_on_fold: list[FittedModel]
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
    """Folds with what is fitted on the rows of each, the same for all models."""

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
    """A model took longer than it may."""


@runtime_checkable
class Keeper(Protocol):
    """Keeps what was fitted already, so that a run that was stopped need not fit it again."""

    def begin(self, folds: Sequence[tuple[Fold, np.ndarray]]) -> None:
        """Note the folds that are numbered in the other methods, each with the positions of the rows that it judges.

        What is kept is used for these rows alone."""

    def load(self, model: Model, fold: int, layout: Layout) -> FittedModel | None:
        """What was kept, or None."""

    def watch(self, model: Model, fold: int) -> Watch:
        """What watches the training of a ``Trainable`` model."""

    def keep(self, model: Model, fold: int, fitted: FittedModel) -> None:
        """Write down what was fitted."""


def fit_folds(data: MixedData, count: int, *, seed: int, validation: bool = False) -> FittedFolds:
    """Fit what the models share on the rows of each fold of ``data.folds``.

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
    chosen = np.arange(len(data.table)) if rows is None else rows
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
    """Fit all that the models of one fold share on the rows to fit on.

    Args:
        photos: those of all rows.
        unit: of each of the rows to fit on; by default each is one.
        network_rows: of the rows to fit on, those that networks train on and those that they are validated on; by
            default all and none.
    """
    weight = None if data.arrays.weight is None else data.arrays.weight.numpy()[fit_rows]
    fitted_on = data.table.select(fit_rows)
    preprocessor = TablePreprocessor.fit(fitted_on, data.schema, weight)
    arrays = preprocessor.arrays(data.table)
    encoder = RowEncoder.fit(fitted_on, data.schema, preprocessor, weight)
    rows = Rows(
        encoded=encoder.encode(data.table, photos, arrays=arrays),
        layout=Layout.of(
            encoder,
            features=None if photos.values is None else photos.values.shape[1],
            image_columns=len(data.schema.names("image")),
            classes=len(data.target.classes or ()),
        ),
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
        arrays=replace(data.arrays, numeric=torch.from_numpy(arrays[0]), categorical=torch.from_numpy(arrays[1])),
        batch_size=default_batch_size(len(fit_rows)),
        seed=seed,
    )
    unit = np.arange(len(fit_rows)) if unit is None else unit
    return Fold(data=fold_data, fit_rows=fit_rows, unit=unit, encoder=encoder, rows=rows, seed=seed)


def cross_fit(
    model: Model,
    folds: FittedFolds,
    *,
    keeper: Keeper | None = None,
    begin_at: Fitting | None = None,
    seconds: float | None = None,
) -> Fitting:
    """Fit a model on every fold, and let it predict the rows that it did not see.

    Args:
        begin_at: what was fitted on the same folds, where the training of a ``Trainable`` one begins.
        seconds: after which no further fold is begun.
    Raises:
        OutOfTimeError: the time was over before the last fold.
        ConfigError: it gives something else than predictions.
        Diverged: its predictions are not finite.
    """
    started = time.perf_counter()
    if keeper is not None:
        every = [*folds.folds, *([] if folds.final is None else [folds.final])]
        keeper.begin([(fold, folds.rows[folds.number == place]) for place, fold in enumerate(every)])

    def fitted_on(place: int, fold: Fold) -> FittedModel:
        if seconds is not None and time.perf_counter() - started > seconds:
            raise OutOfTimeError(f"the time was over after {place} of {folds.count} folds")
        found = None if keeper is None else keeper.load(model, place, fold.rows.layout)
        if found is not None:
            return found
        ready = model
        if isinstance(ready, Trainable):
            watch = Watch() if keeper is None else keeper.watch(model, place)
            start = None if begin_at is None else begin_at.fitted_on_fold[place]
            ready = ready.ready(start, watch.callbacks, watch.snapshot)
        found = fit_model(ready, fold)
        # What is read again may have another layout in memory, and with it other last bits of its predictions:
        # a run that goes on must not differ from one that was never stopped.
        arrays, config = found.state()
        arrays = {name: np.array(values, order="C") for name, values in arrays.items()}
        found = model.load(arrays, config, fold.rows.layout)
        if keeper is not None:
            keeper.keep(model, place, found)
        return found

    each = [fitted_on(place, fold) for place, fold in enumerate(folds.folds)]
    predictions: np.ndarray | None = None
    for place, (model_of_fold, fold) in enumerate(zip(each, folds.folds, strict=True)):
        judged = np.flatnonzero(folds.number == place)
        values = model_of_fold.predict(fold.rows.take(folds.rows[judged]))
        _check_predictions(model, values, len(judged), fold.classes)
        if predictions is None:
            predictions = np.full((len(folds.rows), *values.shape[1:]), np.nan)
        predictions[judged] = values
    assert predictions is not None  # there are folds
    if folds.final is not None:
        each.append(fitted_on(folds.count, folds.final))
    temperatures, temperature = np.ones(folds.count), 1.0
    if predictions.ndim == 2 and model.sees:  # frequencies of classes, by what sees nothing, are to stay just that
        # A network may know much and be far too sure of it, which would keep it out of every blend of probabilities.
        temperatures = np.array([_temperature(folds, predictions, mask) for mask in folds.plan.learns_from])
        temperature = _temperature(folds, predictions, folds.number >= 0)
    return Fitting(
        model=model,
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


def fit_model(model: Model, fold: Fold) -> FittedModel:
    """Fit a model on the rows of a fold."""
    return model.fit(fold.training, fold.truth, fold.weight, fold.seed)


def _check_predictions(model: Model, values: np.ndarray, rows: int, classes: int) -> None:
    """Whether a model gives what it should, as one of a user may not."""
    expected = (rows, classes) if classes else (rows,)
    if values.shape != expected:
        raise ConfigError(f"The model {model.name!r} predicts an array of shape {values.shape} in place of {expected}.")
    if not np.isfinite(values).all():
        raise Diverged("a prediction is not finite")
    if classes and (values.min() < 0 or np.abs(values.sum(axis=1) - 1).max() > _ROUNDING):
        raise ConfigError(f"The model {model.name!r} predicts probabilities below 0, or that do not sum to 1.")
