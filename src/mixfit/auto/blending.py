"""Cross-validate all models of a preset, blend them, and decide whether to use the photos.

In: data with features of their photos. Out: ``Blended``: the predictor, the score of each model, and the choice with
its reason."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from rich.console import Console

from mixfit.auto import cost
from mixfit.auto.budget import duration, model_seconds
from mixfit.auto.cross_validation import CrossValidation
from mixfit.auto.judged import Judged
from mixfit.auto.kept_models import RunKeeper
from mixfit.auto.planning import RunPlan, sizes_of
from mixfit.auto.presets import plan_for
from mixfit.auto.timetable import Timetable
from mixfit.config import ModelConfig, TrainConfig
from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.load import MixedData
from mixfit.data.ties import COPIES_TIE_NONE
from mixfit.ensemble.blend import Blend
from mixfit.ensemble.calibration import FIFTHS, fifths
from mixfit.ensemble.cross_fit import (
    VALIDATION,
    Fits,
    FittedFolds,
    Fitting,
    Fold,
    OutOfTimeError,
    fit_folds,
    photo_means,
    refit,
)
from mixfit.ensemble.intervals import (
    ClassUncertainty,
    NumberUncertainty,
    Uncertainty,
    class_uncertainty,
    number_uncertainty,
)
from mixfit.ensemble.photo_rule import TEXT_READ_BESIDE_PHOTOS, PhotoRule, judge_photos
from mixfit.ensemble.pool import FLOOR
from mixfit.ensemble.threshold import Thresholds
from mixfit.errors import ConfigError, Diverged, ResourceError
from mixfit.evaluation.result import Contest, LeaderboardLine, loss_name
from mixfit.models.encoding import EncodedRows, RowEncoder
from mixfit.models.model import SMALL, FittedModel, Model, is_of_all_rows, looks, one_thread, reads
from mixfit.nn.image import ImageEncoder
from mixfit.predictor.blend import BlendPredictor, FoldModels, PhotoEncoder
from mixfit.predictor.card import Coverage
from mixfit.runs.results import BLEND, PHOTO_BLEND, TABLE_BLEND, TEXT_BLEND, TEXT_ONLY_BLEND
from mixfit.training.metrics import metric_label


@dataclass(frozen=True, kw_only=True)
class Blended:
    """The result of fitting many models."""

    predictor: BlendPredictor
    contest: Contest
    rows: np.ndarray
    """Positions of the out-of-fold rows."""
    number: np.ndarray
    """Fold that predicts each of ``rows``."""
    fit_rows: list[np.ndarray]
    """Positions of the training rows of each fold."""
    out_of_fold: dict[str, np.ndarray]
    """Predictions of ``rows`` in the unit of the target, or probabilities, by model, including the blends."""
    test: dict[str, np.ndarray]
    """The same for the test rows."""
    seconds: dict[str, float]
    history: pd.DataFrame
    """History of the network that was trained last; empty without a network."""
    left_out: list[str]
    """Skipped models with the reason, one sentence each."""
    scaled_test: np.ndarray
    """The blend's test predictions in the scale of the target, or its calibrated probabilities."""
    thresholds: dict[str, Thresholds]
    """Decision thresholds by model, the blends included; empty unless the chosen metric has one."""
    objective: bool
    """Whether the weights of the blend follow the chosen metric."""
    refitted: bool = False
    """Whether the delivered models were fitted once more on all rows."""

    def covered(self, mixed: MixedData, level: float) -> np.ndarray:
        """Whether the prediction interval or set of each test row contains the true value, bool ``(rows,)``."""
        rows = mixed.split.test
        truth, uncertainty = mixed.arrays.target.numpy()[rows], self.predictor.uncertainty
        if isinstance(uncertainty, ClassUncertainty):
            return self.predictor.sets(uncertainty, self.scaled_test, level)[np.arange(len(rows)), truth]
        low, high = mixed.target.decode_interval(*self._scaled_interval(uncertainty, mixed, level))
        truth = mixed.target.decode_truth(truth)
        return (low <= truth) & (truth <= high)

    def interval(self, mixed: MixedData, level: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Prediction intervals of the test rows in the unit of the target; None for classes, or with too few rows."""
        uncertainty = self.predictor.uncertainty
        if isinstance(uncertainty, ClassUncertainty) or not len(mixed.split.test):
            return None
        try:
            low, high = self._scaled_interval(uncertainty, mixed, level)
        except ConfigError:  # too few calibration rows, or too few with a weight
            return None
        return mixed.target.decode_interval(low, high)

    def _scaled_interval(
        self, uncertainty: NumberUncertainty, mixed: MixedData, level: float
    ) -> tuple[np.ndarray, np.ndarray]:
        encoded = _encoded(mixed, uncertainty.encoder, mixed.split.test, photos=self.predictor.photos)
        return uncertainty.interval(self.scaled_test, encoded, level)

    def coverage(self, mixed: MixedData, level: float, levels: Sequence[float]) -> list[Coverage]:
        """Empirical coverage on test rows: of all rows at each of ``levels``, and at ``level`` of rows without a photo
        and by fifths of the prediction; levels with too few calibration rows are left out."""
        rows, weight, found = mixed.split.test, _test_weight(mixed), []
        for one in levels if len(rows) else ():
            try:
                inside = self.covered(mixed, one)
            except ConfigError:  # too few calibration rows, or too few with a weight
                continue
            parts = {"all": np.ones(len(rows), dtype=bool)}
            if one == level:
                parts |= self._kinds_of_rows(mixed)
            found += [
                Coverage(
                    rows=name,
                    count=int(part.sum()),
                    inside=int(inside[part].sum()),
                    level=one,
                    share=_share(inside[part], None if weight is None else weight[part]),
                    width=self._width(mixed, one) if name == "all" else None,
                )
                for name, part in parts.items()
                if part.any()
            ]
        return found

    def _kinds_of_rows(self, mixed: MixedData) -> dict[str, np.ndarray]:
        """Masks of test rows without a photo, and in each fifth of the prediction."""
        parts = {}
        if mixed.photos is not None:
            parts["without a photo"] = ~mixed.photos.readable(mixed.photo_failures)[mixed.split.test].any(axis=1)
        if mixed.target.classes is None:
            place = fifths(self.scaled_test)
            parts |= {name: place == number for number, name in enumerate(FIFTHS)}
        return parts

    def _width(self, mixed: MixedData, level: float) -> float:
        """Median width of the intervals, or mean size of the prediction sets."""
        uncertainty = self.predictor.uncertainty
        if isinstance(uncertainty, ClassUncertainty):
            sets = self.predictor.sets(uncertainty, self.scaled_test, level)
            return float(np.average(sets.sum(1), weights=_test_weight(mixed)))
        ends = self.interval(mixed, level)
        assert ends is not None
        return float(np.median(ends[1] - ends[0]))


def train_blend(
    mixed: MixedData,
    *,
    image: ImageEncoder | None,
    model: ModelConfig,
    train: TrainConfig,
    console: Console,
    keeper: RunKeeper | None = None,
    models: Sequence[Model] = (),
    run_plan: RunPlan | None = None,
    timetable: Timetable | None = None,
    fits: Fits | None = None,
) -> Blended:
    """Fit the models of a preset, blend them and build the predictor.

    Args:
        mixed: with features instead of pixels if the backbone is frozen.
        image: the encoder that computed the features; None for a table without photos.
        model, train: settings of networks; ``train.preset`` selects the models.
        keeper: saves fitted models, so that a stopped run can be resumed; by default nothing is saved.
        models: the user's models, in addition to those of the preset.
        run_plan: the models to fit; by default all of the preset.
        timetable: the clock of the run, with its time limit if there is one; by default without.
        fits: fits the models of each fold in other processes; by default here, one after another.
    """
    started, timetable = time.perf_counter(), timetable or Timetable(console)
    features = None if mixed.photos is None else mixed.photos.features
    backbone = image.backbone if image is not None and features is not None else None
    if run_plan is None:
        every = plan_for(mixed, train, model=model, backbone=backbone, models=models)
        run_plan = RunPlan(plan=every, sizes=sizes_of(mixed, image, every.folds))
    plan, sizes = run_plan.plan, run_plan.sizes
    if keeper is not None:
        keeper.check_models([one.name for one in models])
    choosing = keeper is not None and any(callback.chooses for callback in keeper.callbacks)
    texts = mixed.schema.names("text")
    few = len(mixed.split.train) + len(mixed.split.valid) <= SMALL
    encoding = timetable.stage("encoding the rows of each fold", cost.seconds(cost.shared_work(sizes)))
    with encoding, one_thread() if few else nullcontext():
        alone = any(is_of_all_rows(one) for one in (*plan.models, *run_plan.late))
        folds = fit_folds(
            mixed, plan.folds, seed=train.seed, validation=choosing, scores=run_plan.scores, all_rows=alone
        )
    if texts:
        columns = f"{len(texts)} column{'' if len(texts) == 1 else 's'}"
        seconds = time.perf_counter() - started
        console.print(f" text features of {columns} fitted in {folds.count} folds in {seconds:.1f} s", markup=False)
    judged = Judged.of(folds, mixed)
    on_features = mixed.photos is None or features is not None
    left_out = [*run_plan.notes, *plan.left_out]
    if run_plan.photos and not on_features:
        left_out.append("simple models of photos: the image network is not frozen")
        console.print(f" skipped: {left_out[-1]}", markup=False)
    told = any(COPIES_TIE_NONE in note for note in mixed.notes)
    notes = [note for note in folds.notes if note not in mixed.notes and not (told and COPIES_TIE_NONE in note)]
    if choosing:
        notes.append(
            f"a callback may use validation rows, so networks train on {1 - VALIDATION:.0%} of the training rows of "
            "each fold"
        )
    for note in notes:
        console.print(f" warning: {note}", markup=False)
    loss = loss_name(mixed.schema.task, _scale(mixed))
    console.print(
        f" cross-validation, {folds.count} folds; loss: mean out-of-fold {loss} +- standard error, lower is better",
        markup=False,
    )
    width = max(34, *(len(one.name) + 1 for one in plan.models))
    heading = "" if judged.metric is None else f"{metric_label(judged.metric.name):>19}"
    console.print(f"   {'model':<{width}}{'loss':>9} +- {'error':<6}{'time':>11}{heading}", markup=False)
    done = CrossValidation(
        run_plan=run_plan,
        folds=folds,
        judged=judged,
        keeper=keeper,
        timetable=timetable,
        console=console,
        elsewhere=fits,
    )
    done.run(width)
    at_first = [sentence for sentence in left_out if sentence.partition(":")[0] not in done.late]
    fittings, judged, left_out = done.fittings, done.judged, [*at_first, *done.left_out]
    folds = judged.folds
    timetable.ahead = run_plan.closing
    closing = timetable.stage("blend and intervals", run_plan.closing / 2)
    with closing, one_thread() if len(folds.rows) <= SMALL else nullcontext():
        chosen = _choose(fittings, judged)
        predictor = _predictor(mixed, image, model, folds, fittings, chosen.blend, judged)
        history = pd.DataFrame() if keeper is None else keeper.history
        refitted = False
        if train.refit:
            fitted = [one.model for one in fittings if one.model.name in predictor.shares]
            needed = sum(model_seconds(one, sizes) for one in fitted) / sizes.folds
            delivered = predictor
            if needed <= timetable.left_for(run_plan.closing):
                try:
                    with timetable.ending(run_plan.closing / 2):
                        predictor = _refitted(mixed, predictor, fitted, folds, console, keeper)
                except (Diverged, ResourceError, MemoryError, OutOfTimeError) as error:
                    problem = str(error).rstrip(".") or "there is not enough memory"
                    left_out.append(f"refit: {problem}; the models of the folds are delivered")
            else:
                left_out.append(f"refit: a fit of all rows takes about {duration(needed)}, too long for the time limit")
            refitted = predictor is not delivered
            if not refitted:
                console.print(f" skipped: {left_out[-1]}", markup=False)
        shortened = plan.shortened if timetable.limit is None else tuple(done.shortened.values())
        found = _blended(mixed, predictor, fittings, judged, chosen, history, [*notes, *shortened, *left_out])
        return replace(found, refitted=refitted)


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """The chosen blend, those that it is compared with, and the reason."""

    blend: Blend
    table: Blend
    """Of the models without photos and without text."""
    reason: str
    columns: bool
    """Whether a model of the table alone was fitted, beside the constant."""
    text: Blend | None = None
    """Of the models without photos; None without columns of text."""
    photos: Blend | None = None
    """Of all models; None if none uses photos."""
    text_rule: PhotoRule | None = None
    rule: PhotoRule | None = None
    """The decision about photos."""

    @property
    def named(self) -> list[tuple[str, Blend]]:
        """All blends with their names, the delivered one by its own alone unless it is that of the table."""
        # The blend of the constant alone is the constant, which is compared with anyway.
        table = [(TABLE_BLEND, self.table)] if self.columns else []
        name = TEXT_BLEND if self.columns else TEXT_ONLY_BLEND
        text = [] if self.text is None or self.text is self.blend else [(name, self.text)]
        photos = [] if self.photos is None or self.photos is self.blend else [(PHOTO_BLEND, self.photos)]
        return [*table, *text, (BLEND, self.blend), *photos]


def _choose(fittings: list[Fitting], judged: Judged) -> _Choice:
    """Blend without text and photos, with text, and with both, and choose by ``judge_photos``."""
    of_cells = [fitting for fitting in fittings if not looks(fitting.model.sees)]
    of_table = [fitting for fitting in of_cells if not reads(fitting.model.sees)]
    columns = len(of_table) > 1  # than the constant
    table = chosen = judged.blend(of_table)
    text = photos = text_rule = rule = None
    fit_rows = np.array([len(rows) for rows in judged.folds.plan.fit])
    judging = partial(
        judge_photos,
        fold=judged.number,
        group=judged.unit,
        weight=judged.weight,
        fit_rows=fit_rows,
        table=columns,
    )
    if len(of_cells) > len(of_table):
        text = judged.blend(of_cells)
        text_rule = judging(table.losses, text.losses, columns=columns, what="text")
        chosen = text if text_rule.use else table
    if len(fittings) > len(of_cells):
        photos = judged.blend(fittings)
        before = table if text is None else text
        rule = judging(before.losses, photos.losses, columns=len(of_cells) > 1, beside_text=text is not None)
        chosen = photos if rule.use else chosen
    whys = [one.why for one in (text_rule, rule) if one is not None]
    by_name = {one.model.name: one.model for one in fittings}
    if text_rule is not None and not text_rule.use and any(reads(by_name[name].sees) for name in chosen.shares):
        whys.append(TEXT_READ_BESIDE_PHOTOS)
    loss = "log loss" if judged.target.classes is not None else "Poisson deviance" if judged.counts else "squared error"
    goal = loss if judged.objective is None or judged.metric is None else metric_label(judged.metric.name)
    weights = [] if judged.metric is None else [f"Its weights optimise the out-of-fold {goal}."]
    selection = ["It was chosen on these rows, so its out-of-fold scores are slightly optimistic."] if whys else []
    return _Choice(
        blend=chosen,
        table=table,
        columns=columns,
        reason=" ".join([*whys, f"The blend is {_listed(chosen)}.", *weights, *selection]),
        text=text,
        photos=photos,
        text_rule=text_rule,
        rule=rule,
    )


def _listed(found: Blend) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in sorted(found.shares.items(), key=lambda one: -one[1]))


def _predictor(
    mixed: MixedData,
    image: ImageEncoder | None,
    model: ModelConfig,
    folds: FittedFolds,
    fittings: list[Fitting],
    chosen: Blend,
    judged: Judged,
) -> BlendPredictor:
    """The predictor of the models with a share, with its preprocessing and uncertainty."""
    by_name = {fitting.model.name: fitting for fitting in fittings}
    photos = any(looks(by_name[name].model.sees) for name in chosen.shares)
    texts = any(reads(by_name[name].model.sees) for name in chosen.shares)
    photo_encoder = None
    if photos and image is not None and mixed.photos is not None and mixed.photos.features is not None:
        photo_encoder = PhotoEncoder(encoder=image, config=model, image_size=mixed.image_size)
    preprocessor = TablePreprocessor.fit(mixed.table.select(folds.rows), mixed.schema, folds.weight)
    return BlendPredictor(
        shares=chosen.shares,
        sees={name: by_name[name].model.sees for name in chosen.shares},
        folds=[
            FoldModels(
                encoder=replace(
                    fold.encoder,
                    text=fold.encoder.text if texts else None,
                    photos=fold.encoder.photos if photo_encoder is not None else None,
                ),
                layout=fold.rows.layout,
                models=models,
            )
            for fold, models in _models_by_fold(folds, [by_name[name] for name in chosen.shares])
        ],
        temperatures={name: by_name[name].temperature for name in chosen.shares},
        photos=photos,
        photo_encoder=photo_encoder,
        uncertainty=_uncertainty(mixed, judged, preprocessor, chosen, photos=photos),
        pool_floor=None if mixed.target.classes is None else FLOOR,
        schema=mixed.schema,
        preprocessor=preprocessor,
        target=mixed.target,
        crop=mixed.crop,
        image_size=mixed.image_size,
        metric=mixed.metric,
        threshold=judged.final_threshold(chosen.calibrated),
    )


def _models_by_fold(folds: FittedFolds, fittings: Sequence[Fitting]) -> list[tuple[Fold, dict[str, FittedModel]]]:
    """The models that predict new rows, by the fold that they were fitted on."""
    found: list[tuple[Fold, dict[str, FittedModel]]] = [(fold, {}) for fold in folds.every]
    for one in fittings:
        for fitted, of_it in zip(one.fitted, folds.predicting(one.model), strict=True):
            next(models for fold, models in found if fold is of_it)[one.model.name] = fitted
    return [(fold, models) for fold, models in found if models]


def _refitted(
    mixed: MixedData,
    predictor: BlendPredictor,
    models: Sequence[Model],
    folds: FittedFolds,
    console: Console,
    keeper: RunKeeper | None,
) -> BlendPredictor:
    """The same blend with models fitted once on all rows; shares, calibration and threshold stay those of the folds."""
    started = time.perf_counter()
    if keeper is not None:
        keeper.seconds = None
    fold, fitted = refit(models, list(predictor.shares), mixed, folds, keeper=keeper)
    seconds = time.perf_counter() - started
    console.print(f" fitted again on all {len(fold.fit_rows):,} rows in {seconds:.1f} s", markup=False)
    encoder = replace(
        fold.encoder,
        text=fold.encoder.text if predictor.uses_text else None,
        photos=fold.encoder.photos if predictor.photo_encoder is not None else None,
    )
    return replace(
        predictor,
        folds=[FoldModels(encoder=encoder, layout=fold.rows.layout, models=fitted)],
        preprocessor=fold.encoder.preprocessor,
    )


def _uncertainty(
    mixed: MixedData, judged: Judged, preprocessor: TablePreprocessor, chosen: Blend, *, photos: bool
) -> Uncertainty:
    if mixed.target.classes is not None:
        return class_uncertainty(judged.truth, chosen.predictions, judged.weight, calibrated=chosen.calibrated)
    encoder = RowEncoder.fit(mixed.table.select(judged.folds.rows), mixed.schema, preprocessor, judged.folds.weight)
    encoded = _encoded(mixed, encoder, judged.rows, photos=photos)
    others = [mask[judged.mask] for mask in judged.folds.plan.learns_from]
    return number_uncertainty(
        judged.truth,
        chosen.predictions,
        encoded,
        encoder,
        judged.number,
        judged.weight,
        others=others,
        counts=judged.counts,
    )


def _encoded(mixed: MixedData, encoder: RowEncoder, rows: np.ndarray, *, photos: bool) -> EncodedRows:
    """Rows of the table encoded as for a predictor."""
    return encoder.encode(mixed.table.select(rows), photo_means(mixed, rows) if photos else None)


def _blended(
    mixed: MixedData,
    predictor: BlendPredictor,
    fittings: list[Fitting],
    judged: Judged,
    chosen: _Choice,
    history: pd.DataFrame,
    left_out: list[str],
) -> Blended:
    """Leaderboard and predictions of every model, in the unit of the target."""
    test_rows = mixed.split.test
    on_test = {fitting.model.name: fitting.mean(judged.folds, test_rows) for fitting in fittings}
    out_of_fold = {fitting.model.name: judged.predictions(fitting) for fitting in fittings}
    blends = chosen.named
    for name, found in blends:
        out_of_fold[name] = found.calibrated
        raw = np.sum([share * on_test[model] for model, share in found.shares.items()], axis=0)
        if name == BLEND:
            on_test[name] = predictor.uncertainty.calibrated(raw)
        elif mixed.target.classes is None:
            on_test[name] = raw
        else:
            uncertainty = class_uncertainty(judged.truth, found.predictions, judged.weight, calibrated=found.calibrated)
            on_test[name] = uncertainty.calibrated(raw)
    lines = []
    for fitting in fittings:
        mean, error = judged.loss(fitting)
        name = fitting.model.name
        lines.append(
            LeaderboardLine(
                model=name,
                photos=looks(fitting.model.sees),
                text=reads(fitting.model.sees),
                loss=mean,
                error=error,
                share=chosen.blend.shares.get(name, 0.0),
                seconds=fitting.seconds,
                score=judged.score(name, out_of_fold[name]),
            )
        )
    for name, found in blends:
        if name == PHOTO_BLEND:  # it was refused
            judged.score(name, found.calibrated)
            continue
        mean, error = judged.mean(found.losses)
        photos = name == BLEND and predictor.photos
        text = name in (TEXT_BLEND, TEXT_ONLY_BLEND) or (name == BLEND and predictor.uses_text)
        lines.append(
            LeaderboardLine(
                model=name,
                photos=photos,
                text=text,
                loss=mean,
                error=error,
                share=None,
                seconds=None,
                score=judged.score(name, found.calibrated),
            )
        )

    def shown(values: np.ndarray) -> np.ndarray:
        return values if mixed.target.classes is not None else mixed.target.decode(values)

    return Blended(
        predictor=predictor,
        contest=Contest(
            leaderboard=sorted(lines, key=judged.place),
            choice=chosen.reason,
            folds=judged.folds.plan.describe(),
            photos=chosen.rule,
            text=chosen.text_rule,
        ),
        rows=judged.rows,
        number=judged.number,
        fit_rows=[fold.fit_rows for fold in judged.folds.folds],
        out_of_fold={name: shown(values) for name, values in out_of_fold.items()},
        test={name: shown(values) for name, values in on_test.items()},
        seconds={fitting.model.name: fitting.seconds for fitting in fittings},
        history=history,
        left_out=left_out,
        scaled_test=on_test[BLEND],
        thresholds=judged.thresholds,
        objective=judged.objective is not None,
    )


def _test_weight(mixed: MixedData) -> np.ndarray | None:
    weight = None if mixed.arrays.weight is None else mixed.arrays.weight.numpy()[mixed.split.test]
    return weight if weight is not None and weight.any() else None


def _share(inside: np.ndarray, weight: np.ndarray | None) -> float | None:
    return None if weight is None or not weight.any() else float(np.average(inside, weights=weight))


def _scale(mixed: MixedData) -> str:
    return "standardised logarithm of the target" if mixed.target.log else "standardised target"
