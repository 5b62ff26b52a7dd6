"""The many models of a preset: planned, cross-validated, blended, and what becomes of them in the folder of a run."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mixfit.auto.blending import Blended, train_blend
from mixfit.auto.budget import duration
from mixfit.auto.kept_models import RunKeeper
from mixfit.auto.planning import RunPlan, plan_run, say_plan, without_photos, without_texts
from mixfit.auto.preparation import unnamed_groups, with_features
from mixfit.auto.presets import unused_settings
from mixfit.auto.started import StartedRun, digest_of, explained_size, finish, save_model
from mixfit.data.load import MixedData
from mixfit.data.split import Split
from mixfit.ensemble.cross_fit import OutOfTimeError
from mixfit.evaluation.baselines import CONSTANT, constants_of_folds
from mixfit.evaluation.result import JudgedSplit, Rows, headline_for, scores_by_fold
from mixfit.nn.image import ImageEncoder
from mixfit.runs.results import (
    BLEND,
    LEVEL,
    LEVELS,
    Run,
    decision_sentence,
    result_of,
    rows_of,
    unreadable,
)
from mixfit.training.metrics import median_class


def run_preset(started: StartedRun) -> Run:
    """Cross-validate and blend many models, and write the files of the run."""
    prepared, timetable = started.prepared, started.timetable
    train_config, network = prepared.train_config, prepared.network
    run_plan = plan_run(
        prepared.data,
        image=network.image if isinstance(network.image, ImageEncoder) else None,
        model=prepared.model_config,
        train=train_config,
        models=started.models,
        timetable=timetable,
    )
    say_plan(started.console, run_plan, timetable)
    mixed, run_plan = _with_features(started, run_plan)
    unnamed = unnamed_groups(mixed)
    unused = unused_settings(mixed, prepared.data_config, prepared.model_config, train_config)
    started = started.warn([*unnamed, *unused])
    keeper = RunKeeper(
        started.folder,
        train_config.save_every,
        started.console,
        started.callbacks,
        started.advice,
        settings=digest_of(prepared),
        elapsed=lambda: timetable.elapsed,
    )
    found = train_blend(
        mixed,
        image=prepared.network.image,
        model=prepared.model_config,
        train=train_config,
        console=started.console,
        keeper=keeper,
        models=started.models,
        run_plan=run_plan,
        timetable=timetable,
        fits=started.fits,
    )
    # All rows of the folds have out-of-fold predictions, so all are scored.
    fitted_on = np.sort(np.concatenate([mixed.split.train, mixed.split.valid]))
    judging = replace(mixed, split=Split(train=fitted_on, valid=found.rows, test=mixed.split.test))
    constants: dict[JudgedSplit, dict[str, np.ndarray]] = {
        "valid": constants_of_folds(mixed, found.number, found.fit_rows),
        "test": constants_of_folds(
            mixed,
            np.zeros(len(mixed.split.test), dtype=np.int64),
            [np.unique(np.concatenate([found.rows, *found.fit_rows]))],
        ),
    }
    headline = headline_for(mixed.schema.task, mixed.target, mixed.metric)
    predictions: dict[JudgedSplit, dict[str, np.ndarray]] = {"valid": found.out_of_fold, "test": found.test}
    judged: dict[JudgedSplit, Rows] = {
        name: rows_of(
            judging,
            name,
            by_model | {CONSTANT: constants[name][headline.name]},
            by_metric={CONSTANT: constants[name]},
            classes=_classes(judging, found, by_model, new=name == "test"),
        )
        for name, by_model in predictions.items()
    }
    with timetable.stage("scores", run_plan.closing / 4):
        contest = replace(
            found.contest,
            coverage=found.coverage(mixed, LEVEL, LEVELS),
            history_of=keeper.history_of,
            fold_scores=scores_by_fold(judged["valid"], BLEND, headline, found.number),
        )
        result = result_of(
            judging,
            judged,
            seconds=found.seconds,
            contest=contest,
            uses_photos=found.predictor.photos,
            uses_text=found.predictor.uses_text,
            unnamed=unnamed,
            decision=decision_sentence(
                mixed,
                goal="the weights of the blend optimise it" if found.objective else "",
                threshold=found.predictor.threshold,
                rows="out-of-fold",
            ),
            refit=found.refitted,
        )
    run = Run(
        folder=started.folder,
        predictor=save_model(started.folder, found.predictor, judging, result, judged),
        result=result,
        history=found.history,
        bad=[*mixed.bad, *unreadable(mixed)],
    )
    started = replace(started, warnings=[*started.warnings, *keeper.notes, *found.left_out])
    fitted = [one for one in (*run_plan.plan.models, *run_plan.late) if one.name in found.seconds]
    predicting = [one for one in fitted if one.name in found.predictor.shares]
    report = run_plan.closing / 4
    size = explained_size(found.predictor, predicting, run_plan.sizes, run_plan.spent(fitted), timetable, report)
    interval = found.interval(mixed, LEVEL)
    return finish(started, run, judging, judged, explained_size=size, seconds=report, interval=interval)


def _with_features(started: StartedRun, run_plan: RunPlan) -> tuple[MixedData, RunPlan]:
    """Compute image features, unless they take too long for the time limit; then the photos are left out."""
    mixed, timetable = started.prepared.data, started.timetable
    if not run_plan.texts:
        mixed = without_texts(mixed)
    if not run_plan.photos:
        return mixed, run_plan
    began, needed = timetable.elapsed, run_plan.needed

    def check(done: int, of: int) -> None:
        took = timetable.elapsed - began
        if took / done * (of - done) > timetable.free(needed):
            raise OutOfTimeError(f"{done:,} of {of:,} image features took {duration(took)}")

    try:
        tell = None if timetable.limit is None else check
        mixed = with_features(mixed, started.prepared.network, started.console, tell=tell)
    except OutOfTimeError as error:
        why = f"photos: {error}, too long for {run_plan.budget}; a later run finds these in the cache"
        started.say(f"skipped: {why}")
        run_plan = without_photos(run_plan, why)
    return mixed, run_plan


def _classes(
    mixed: MixedData, found: Blended, by_model: Mapping[str, np.ndarray], *, new: bool
) -> dict[str, np.ndarray]:
    """Predicted classes by model, where they are not the most probable ones; a constant has its own by metric."""
    models = {model: values for model, values in by_model.items() if model != CONSTANT}
    if mixed.schema.task == "ordered":
        return {model: median_class(values) for model, values in models.items()}
    thresholds = found.thresholds
    return {model: thresholds[model].decide(values, new=new) for model, values in models.items() if model in thresholds}
