"""Cross-validation: fit models on folds and predict the out-of-fold rows.

In: data, folds and models. Out: the fitted models, one per fold, and their out-of-fold predictions.
Preprocessing is fitted in each fold; features of the frozen backbone do not depend on the target and are shared.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from mixfit.data.arrays import take
from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.columns.text_features import TextFeatures
from mixfit.data.dataset import ImageSource
from mixfit.data.folds import Folds
from mixfit.data.load import MixedData, default_batch_size
from mixfit.data.photos.scores import PhotoScores
from mixfit.data.split import Split, Times
from mixfit.ensemble.intervals import best_temperature, tempered
from mixfit.ensemble.pool import pooled
from mixfit.errors import ConfigError, Diverged
from mixfit.models.encoding import PhotoMeans, RowEncoder, mean_features
from mixfit.models.model import (
    Components,
    FittedModel,
    Layout,
    Model,
    Rows,
    State,
    Trainable,
    TrainingRows,
    is_of_all_rows,
)
from mixfit.training.callback import Callback
from mixfit.training.checkpoint import Snapshot

VALIDATION = 0.15
"""Share of a fold's training rows held out for validation, if a callback chooses by it."""
_ROUNDING = 1e-3


@dataclass(frozen=True, kw_only=True)
class Fold:
    """The data of one fold; everything is fitted on ``fit_rows`` only."""

    data: MixedData
    """With features instead of pixels, preprocessed by ``encoder.preprocessor``; its training and validation rows are
    those of networks, a subset of ``fit_rows``."""
    fit_rows: np.ndarray
    """Positions of the rows to fit on."""
    unit: np.ndarray
    """Unit of each of them; inner cross-validation holds out whole units."""
    encoder: RowEncoder
    rows: Rows
    """All rows of the table."""
    seed: int
    times: Times | None = None
    """Times of the rows to fit on if the folds go forward in time."""
    gap: float = 0.0
    """Gap between rows fitted on and rows judged, in the unit of ``times``."""
    components: dict[int, Components] = field(default_factory=dict, repr=False)
    """Principal components of the photos of the training rows, computed on demand."""

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
            times=self.times,
            gap=self.gap,
            data=self.data,
            found=self.components,
        )

    @cached_property
    def truth(self) -> np.ndarray:
        """Scaled numbers or class indices of the rows to fit on."""
        return self.data.arrays.target.numpy()[self.fit_rows]

    @cached_property
    def weight(self) -> np.ndarray | None:
        """Weights of the rows to fit on."""
        return None if self.data.arrays.weight is None else self.data.arrays.weight.numpy()[self.fit_rows]

    @property
    def classes(self) -> int:
        """Number of classes; 0 for regression."""
        return self.rows.layout.classes


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """A model fitted on every fold."""

    model: Model
    fitted: list[FittedModel]
    """Models that predict new rows: one per fold, or one of all rows (see ``FittedFolds.predicting``)."""
    predictions: np.ndarray
    """Out-of-fold predictions, ``(rows,)`` or ``(rows, classes)``, without temperature; nan for rows that are only
    training rows."""
    temperatures: np.ndarray
    """Temperature of each fold, from the rows it may learn from; 1 for regression."""
    temperature: float
    """Temperature from all rows, for new rows."""
    fitted_on_fold: list[FittedModel]
    """One model per fold, followed by the one of all rows, if there is one."""
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
        """Pooled prediction of the models for any rows of the table, each at the temperature as in a predictor."""
        pairs = zip(self.fitted, folds.predicting(self.model), strict=True)
        found = [model.predict(fold.rows.take(rows)) for model, fold in pairs]
        return pooled([one if one.ndim == 1 else tempered(one, self.temperature) for one in found])


@dataclass(frozen=True, kw_only=True)
class FittedFolds:
    """Folds with everything that is fitted per fold and shared by all models."""

    plan: Folds
    folds: list[Fold]
    final: Fold | None
    """A fold of all rows, for models of which one fit predicts; if the folds are in time order, for all models, as new
    rows are later than all of them."""
    truth: np.ndarray
    """Scaled numbers or class indices of ``rows``."""
    weight: np.ndarray | None
    """Weights of ``rows``."""
    notes: tuple[str, ...] = ()
    """Warnings, such as of copies that would have merged too many rows into one group."""

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
        """Number of folds."""
        return len(self.folds)

    def predicting(self, model: Model) -> list[Fold]:
        """Folds of which a model predicts new rows."""
        alone = self.plan.times is not None or is_of_all_rows(model)
        return [self.final] if self.final is not None and alone else self.folds

    def fitting(self, model: Model) -> list[Fold]:
        """Folds that a model is fitted on, the one of all rows last."""
        return [*self.folds, *(fold for fold in self.predicting(model) if fold is self.final)]

    @property
    def every(self) -> list[Fold]:
        """All folds, the one of all rows last."""
        return [*self.folds, *([] if self.final is None else [self.final])]

    def with_pixels(self, pixels: ImageSource | None) -> "FittedFolds":
        """The same folds, with pixels in addition to features."""

        def seen(fold: Fold) -> Fold:
            return replace(fold, rows=replace(fold.rows, pixels=pixels))

        return replace(
            self,
            folds=[seen(fold) for fold in self.folds],
            final=None if self.final is None else seen(self.final),
        )


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Callbacks of the training of one network, and the checkpoint to resume from."""

    callbacks: Sequence[Callback] = ()
    snapshot: Snapshot | None = None


_TELLING = 2.0
"""Seconds of fits from which they foretell those of the other folds: the first one also loads libraries."""


class OutOfTimeError(Exception):
    """A model exceeded its time limit."""

    def __init__(self, message: str, *, folds: int = 0, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.folds, self.seconds = folds, seconds
        """Folds that were fitted here before it was given up, and how long they took together."""


@runtime_checkable
class Keeper(Protocol):
    """Saves fitted models, so that a resumed run does not fit them again."""

    def begin(self, folds: Sequence[tuple[Fold, np.ndarray]]) -> None:
        """Set the folds, each with the positions of its out-of-fold rows.

        Saved models are used only for the same rows."""

    def load(self, model: Model, fold: int, layout: Layout) -> FittedModel | None:
        """The saved model, or None."""

    def spent(self, model: Model) -> float:
        """Seconds that the loaded fits of a model took when they were made."""

    def watch(self, model: Model, fold: int) -> Watch:
        """Callbacks and checkpoint for the training of a ``Trainable`` model."""

    def keep(
        self, model: Model, fold: int, fitted: FittedModel, history: bytes | None = None, *, seconds: float = 0.0
    ) -> None:
        """Save a fitted model.

        Args:
            history: of a network that was trained elsewhere, as ``history.csv``.
            seconds: that the fit took.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class FitElsewhere:
    """A model that was fitted in another process."""

    state: State
    history: bytes | None = None
    """``history.csv`` of a network."""
    seconds: float = 0.0


@runtime_checkable
class Fits(Protocol):
    """Fits models of folds in other processes, several at the same time."""

    def begin(self, model: Model, folds: Sequence[tuple[int, Fold, FittedModel | None]], seconds: float | None) -> None:
        """Begin to fit a model on folds, unless that has begun already.

        Args:
            folds: number of each, the fold, and the starting point of a ``Trainable`` model.
            seconds: time limit for the training of a network.
        """

    def result(self, model: Model, place: int, fold: Fold) -> FitElsewhere:
        """Wait for a model on a fold that was begun.

        Raises: what ``model.fit`` raises.
        """

    def stop(self, model: Model) -> None:
        """End the fits of a model that nobody waits for any more."""


def fit_folds(
    data: MixedData, count: int, *, seed: int, validation: bool = False, scores: bool = True, all_rows: bool = False
) -> FittedFolds:
    """Fit what the models share on the training rows of each fold of ``data.folds``.

    Args:
        data: with features instead of pixels, if it has photos.
        validation: hold out validation rows from the training rows of each fold, for callbacks that choose by them.
            No network ever sees the out-of-fold rows of its fold.
        scores: learn scores of photos, which trees and networks take.
        all_rows: also make the fold of all rows, for models of which one fit of it predicts, without scores of photos;
            with folds in time order it is always made.
    """
    plan, photos = data.folds(count, seed=seed), photo_means(data)
    notes = data.ties.joined(plan.rows, share=1 / count).notes
    if plan.times is None and plan.count < count:
        notes += (f"there are only {plan.count} groups of rows, so {plan.count} folds are used instead of {count}",)

    def fitted(place: int) -> Fold:
        fit_rows = plan.rows if place == plan.count else plan.fit[place]
        network_rows = plan.validation(place, VALIDATION, seed=seed) if validation else None
        inside = np.flatnonzero(np.isin(plan.rows, fit_rows))
        times = None if plan.times is None else plan.times.take(inside)
        fold = make_fold(
            data,
            fit_rows,
            photos,
            seed=seed + place,
            unit=plan.unit[inside],
            network_rows=network_rows,
            scores=scores and (place < plan.count or plan.times is not None),
        )
        return replace(fold, times=times, gap=plan.gap)

    weight = data.arrays.weight
    return FittedFolds(
        plan=plan,
        folds=[fitted(place) for place in range(plan.count)],
        final=fitted(plan.count) if all_rows or plan.times is not None else None,
        truth=data.arrays.target.numpy()[plan.rows],
        weight=None if weight is None else weight.numpy()[plan.rows],
        notes=notes,
    )


def photo_means(data: MixedData, rows: np.ndarray | None = None) -> PhotoMeans:
    """Mean photo features of some rows, by default of all; empty without features."""
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
    scores: bool = True,
) -> Fold:
    """Fit everything that the models of one fold share on its training rows.

    Args:
        photos: of all rows.
        unit: of each training row; by default each row is a unit.
        network_rows: training and validation rows of networks, among the rows to fit on; by default all and none.
        scores: learn scores of photos.
    """
    weight = None if data.arrays.weight is None else data.arrays.weight.numpy()[fit_rows]
    fitted_on = data.table.select(fit_rows)
    preprocessor = TablePreprocessor.fit(fitted_on, data.schema, weight)
    arrays = preprocessor.arrays(data.table)
    unit = np.arange(len(fit_rows)) if unit is None else unit
    truth, classes = data.arrays.target.numpy()[fit_rows], len(data.target.classes or ())
    scored: Any = {"classes": classes, "weight": weight, "unit": unit, "seed": seed}
    text = own_text = of_photos = own_scores = None
    if texts := data.schema.names("text"):
        embedder = None if data.text is None else data.text.embedder
        text, own_text = TextFeatures.fit(fitted_on, texts, truth, embedder=embedder, **scored)
    if photos.values is not None and scores:
        of_photos, own_scores = PhotoScores.fit(take(photos.values, fit_rows), photos.seen[fit_rows], truth, **scored)
    encoder = RowEncoder.fit(fitted_on, data.schema, preprocessor, weight, text=text, photos=of_photos)
    encoded = encoder.encode(data.table, photos, arrays=arrays)
    if encoded.text is not None:
        encoded.text[fit_rows] = own_text
    if encoded.photo_scores is not None:
        encoded.photo_scores[fit_rows] = own_scores
    rows = Rows(
        encoded=encoded,
        layout=Layout.of(
            encoder,
            features=None if photos.values is None else photos.values.shape[1],
            image_columns=len(data.schema.names("image")),
            classes=classes,
            task=data.schema.task,
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
        arrays=replace(
            data.arrays,
            numeric=torch.from_numpy(arrays[0]),
            categorical=torch.from_numpy(arrays[1]),
            text=None if encoded.text is None else torch.from_numpy(encoded.text),
            text_mask=None if encoded.text_seen is None else torch.from_numpy(encoded.text_seen),
            photo_scores=None if encoded.photo_scores is None else torch.from_numpy(encoded.photo_scores),
        ),
        scores=of_photos,
        batch_size=default_batch_size(len(fit_rows)),
        seed=seed,
    )
    return Fold(data=fold_data, fit_rows=fit_rows, unit=unit, encoder=encoder, rows=rows, seed=seed)


def cross_fit(
    model: Model,
    folds: FittedFolds,
    *,
    keeper: Keeper | None = None,
    begin_at: Fitting | None = None,
    seconds: float | None = None,
    foresee: bool = False,
    tell: Callable[[int], None] | None = None,
    fits: Fits | None = None,
    network_seconds: float | None = None,
) -> Fitting:
    """Fit a model on every fold and predict the out-of-fold rows.

    Args:
        begin_at: a model fitted on the same folds, as the starting point of a ``Trainable`` model.
        seconds: time limit; a fold that would end after it, as long as those before it took, is not started.
        foresee: whether none is started, either, when the last one would end after it.
        tell: called with the number of each fold, from 0, before it is fitted.
        fits: fits the folds in other processes; by default they are fitted here, one after another.
        network_seconds: time limit for each training of a network elsewhere.
    Raises:
        OutOfTimeError: the time limit was reached before the last fold.
        ConfigError: the model does not return valid predictions.
        Diverged: its predictions are not finite.
    """
    started, own, spent, known = time.perf_counter(), list[float](), list[float](), dict[int, FittedModel]()
    every = folds.fitting(model)
    if keeper is not None:
        keeper.begin([(fold, folds.rows[folds.number == place]) for place, fold in enumerate(folds.every)])
    if fits is not None:
        if keeper is not None:
            saved = ((place, keeper.load(model, place, fold.rows.layout)) for place, fold in enumerate(every))
            known = {place: one for place, one in saved if one is not None}
        starts = [None if begin_at is None else begin_at.fitted_on_fold[place] for place in range(len(every))]
        todo = [(place, fold, starts[place]) for place, fold in enumerate(every) if place not in known]
        fits.begin(model, todo, network_seconds)

    def fitted_on(place: int, fold: Fold) -> FittedModel:
        if fits is None and keeper is not None:
            loaded = keeper.load(model, place, fold.rows.layout)
            if loaded is not None:
                return loaded
        elapsed = time.perf_counter() - started
        # Elsewhere folds are fitted at the same time.
        usual = elapsed / max(place, 1) if fits is not None else sum(own, start=0.0) / max(len(own), 1)
        todo = len(every) - place if foresee and sum(own, start=0.0) >= _TELLING else 1
        if seconds is not None and elapsed + todo * usual > seconds:
            message = f"the time limit was reached after {place} of {folds.count} folds"
            raise OutOfTimeError(message, folds=len(own), seconds=sum(own, start=0.0))
        if tell is not None:
            tell(place)
        if place in known:
            return known[place]
        if fits is not None:
            elsewhere = fits.result(model, place, fold)
            spent.append(elsewhere.seconds)
            return _kept(model, place, fold, elsewhere.state, keeper, elsewhere.history, seconds=elsewhere.seconds)
        start = None if begin_at is None else begin_at.fitted_on_fold[place]
        began = time.perf_counter()
        found = _fit(model, place, fold, keeper=keeper, start=start)
        own.append(time.perf_counter() - began)
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
    each += [fitted_on(folds.count, fold) for fold in every[folds.count :]]
    temperatures, temperature = np.ones(folds.count), 1.0
    if predictions.ndim == 2 and model.sees:  # the class frequencies of a constant stay unchanged
        # An accurate but overconfident network would otherwise get no share in a blend of probabilities.
        temperatures = np.array([_temperature(folds, predictions, mask) for mask in folds.plan.learns_from])
        temperature = _temperature(folds, predictions, folds.number >= 0)
    return Fitting(
        model=model,
        fitted=each[-len(folds.predicting(model)) :],
        fitted_on_fold=each,
        predictions=predictions,
        temperatures=temperatures,
        temperature=temperature,
        seconds=(sum(spent) or time.perf_counter() - started) + (0.0 if keeper is None else keeper.spent(model)),
    )


def fit_or_load(
    model: Model, place: int, fold: Fold, *, keeper: Keeper | None, start: FittedModel | None = None
) -> FittedModel:
    """Fit a model on one fold, unless the keeper has it.

    Args:
        place: number of the fold among those that the keeper began with.
        start: the starting point of a ``Trainable`` model.
    """
    found = None if keeper is None else keeper.load(model, place, fold.rows.layout)
    return _fit(model, place, fold, keeper=keeper, start=start) if found is None else found


def _fit(model: Model, place: int, fold: Fold, *, keeper: Keeper | None, start: FittedModel | None) -> FittedModel:
    ready = model
    if isinstance(ready, Trainable):
        watch = Watch() if keeper is None else keeper.watch(model, place)
        ready = ready.ready(start, watch.callbacks, watch.snapshot)
    started = time.perf_counter()
    state = fit_model(ready, fold).state()
    return _kept(model, place, fold, state, keeper, seconds=time.perf_counter() - started)


def _kept(
    model: Model,
    place: int,
    fold: Fold,
    state: State,
    keeper: Keeper | None,
    history: bytes | None = None,
    *,
    seconds: float,
) -> FittedModel:
    """A model from the state of one that was fitted here or elsewhere, and saved.

    A loaded model may have another memory layout, which changes the last bits of its predictions. Loading every model
    makes a resumed run, and one that was fitted elsewhere, identical to an uninterrupted one."""
    arrays, config = state
    arrays = {name: np.array(values, order="C") for name, values in arrays.items()}
    found = model.load(arrays, config, fold.rows.layout)
    if keeper is not None:
        keeper.keep(model, place, found, history, seconds=seconds)
    return found


def refit(
    models: Sequence[Model], names: Sequence[str], data: MixedData, folds: FittedFolds, *, keeper: Keeper | None = None
) -> tuple[Fold, dict[str, FittedModel]]:
    """Fit some models once on all rows of the data, test rows included.

    Args:
        models: all models of the folds.
        names: the models to fit; those that they begin with are fitted too.
    Returns:
        The fold of all rows, and the fitted models by name.
    """
    rows = np.sort(np.concatenate([data.split.train, data.split.valid, data.split.test]))
    every = folds.every
    unit, scores = data.ties.joined(rows).unit, any(one.encoder.photos is not None for one in every)
    fold = make_fold(data, rows, photo_means(data), seed=every[0].seed + len(every), unit=unit, scores=scores)
    times = None if data.split_time is None else Times.of(data.table.select(rows)[data.split_time])
    fold = replace(fold, rows=replace(fold.rows, pixels=every[0].rows.pixels), times=times, gap=folds.plan.gap)
    if keeper is not None:
        judged = [folds.rows[folds.number == place] for place in range(len(every) + 1)]
        keeper.begin(list(zip([*every, fold], judged, strict=True)))
    begins = {one.name: one.begins_with for one in models if isinstance(one, Trainable)}
    wanted = {*names, *(begins.get(name) for name in names)}
    found: dict[str, FittedModel] = {}
    for model in models:
        if model.name in wanted:
            start = found.get(begins.get(model.name) or "")
            found[model.name] = fit_or_load(model, len(every), fold, keeper=keeper, start=start)
    return fold, {name: found[name] for name in names}


def _temperature(folds: FittedFolds, predictions: np.ndarray, rows: np.ndarray) -> float:
    """The temperature with the lowest log loss on some rows; 1 without rows."""
    if not rows.any():
        return 1.0
    weight = None if folds.weight is None else folds.weight[rows]
    return best_temperature(folds.truth[rows], predictions[rows], weight)


def fit_model(model: Model, fold: Fold) -> FittedModel:
    """Fit a model on the training rows of a fold."""
    return model.fit(fold.training, fold.truth, fold.weight, fold.seed)


def _check_predictions(model: Model, values: np.ndarray, rows: int, classes: int) -> None:
    """Check the predictions of a model, which may be a user's."""
    expected = (rows, classes) if classes else (rows,)
    if values.shape != expected:
        raise ConfigError(
            f"The model {model.name!r} returns predictions of shape {values.shape} instead of {expected}."
        )
    if not np.isfinite(values).all():
        raise Diverged("a prediction is not finite")
    if classes and (values.min() < 0 or np.abs(values.sum(axis=1) - 1).max() > _ROUNDING):
        raise ConfigError(f"The model {model.name!r} returns probabilities that are negative or do not sum to 1.")
