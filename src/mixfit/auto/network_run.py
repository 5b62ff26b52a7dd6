"""The training of a single network, and what becomes of it in the folder of a run."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mixfit.auto import cost
from mixfit.auto.budget import duration
from mixfit.auto.kept_models import BelongsTo, callbacks_digest
from mixfit.auto.planning import MAY_DEPEND, closing_of_network, sizes_of
from mixfit.auto.preparation import Clock, unnamed_groups, with_features
from mixfit.auto.started import StartedRun, digest_of, explained_size, finish, save_model
from mixfit.data.load import MixedData
from mixfit.diagnostics.doctor import Doctor, prepare_doctors
from mixfit.ensemble.threshold import Thresholds, cross_fitted, parts_of_units
from mixfit.evaluation.baselines import boosted_trees, constant
from mixfit.evaluation.result import JudgedSplit, headline_for, metrics_for
from mixfit.models.model import TABLE, TEXT
from mixfit.models.network import TUNED_BACKBONE_RATE, Network
from mixfit.nn.freezing import NORMS, freeze
from mixfit.nn.image import ImageEncoder
from mixfit.nn.model import MixedInputModel
from mixfit.predictor import Predictor
from mixfit.runs.results import (
    JUDGED,
    Run,
    decision_sentence,
    judged_rows,
    our_name,
    result_of,
    truth_of,
    unreadable,
)
from mixfit.training.callbacks.control import EarlyStopping, StopOnSignal, TimeBudget
from mixfit.training.callbacks.displays import ProgressLines
from mixfit.training.callbacks.guards import NanGuard, OutOfMemoryGuard
from mixfit.training.callbacks.recorder import Recorder
from mixfit.training.checkpoint import Checkpoints, Snapshot
from mixfit.training.choose import choose_optimizer, watched_metric
from mixfit.training.learner import Learner
from mixfit.training.loss import mse

_FEWEST_SECONDS, _MARGIN = 1.0, 1.25
"""Shortest training of a network, and a factor of the estimated time of what comes after it."""


def run_network(started: StartedRun, snapshot: Snapshot | None) -> Run:
    """Train a network, or resume it from a checkpoint, compare it with baselines and write the files of the run."""
    prepared, timetable = started.prepared, started.timetable
    train_config, network, clock = prepared.train_config, prepared.network, Clock()
    mixed = with_features(prepared.data, network, started.console)
    unnamed = unnamed_groups(mixed)
    started = started.warn(unnamed)
    sizes = sizes_of(mixed, network.image, 1)
    closing = closing_of_network(sizes)
    most = None
    if timetable.limit is not None:
        most = max(_FEWEST_SECONDS, timetable.free(_MARGIN * closing))
        started.say(f"plan    the training ends within {duration(most)}, for the time limit")
        started.say(f"note: {MAY_DEPEND}")
    recorder = _train(started, mixed, snapshot, most)
    seconds = {our_name(mixed): clock.lap()}
    ours = {name: _predict(network, mixed, name) for name in JUDGED}
    trees = [boosted_trees(mixed, seed=train_config.seed)] if mixed.has_columns else []
    baselines = [*trees, constant(mixed)]
    seconds |= {baseline.name: baseline.seconds for baseline in baselines}
    on_valid = {our_name(mixed): ours["valid"]} | {one.name: one.predictions["valid"] for one in trees}
    thresholds = _thresholds(mixed, on_valid)
    judged = {name: judged_rows(mixed, name, ours[name], baselines, thresholds) for name in JUDGED}
    final = thresholds[our_name(mixed)].final if thresholds else None
    watched = watched_metric(mixed)
    goal = "" if watched[0] == "valid_loss" else "the epoch was chosen by it"
    decision = decision_sentence(mixed, goal=goal, threshold=final, rows="validation")
    result = result_of(mixed, judged, seconds=seconds, unnamed=unnamed, decision=decision)
    predictor = replace(
        Predictor.from_training(network, mixed, prepared.model_config), metric=mixed.metric, threshold=final
    )
    run = Run(
        folder=started.folder,
        predictor=save_model(started.folder, predictor, mixed, result, judged),
        result=result,
        history=recorder.history,
        bad=[*mixed.bad, *unreadable(mixed)],
        doctor=next((one for one in started.callbacks if isinstance(one, Doctor)), None),
    )
    trained = Network(
        sees=TABLE | TEXT if mixed.schema.names("text") else TABLE,
        config=prepared.model_config,
        train=replace(train_config, epochs=max(1, len(recorder.history))),
    )
    spent = cost.seconds(cost.reading_work(sizes)) + cost.seconds(cost.fit_work(trained, sizes)) + closing
    size = explained_size(predictor, [trained], sizes, spent, timetable, closing)
    return finish(started, run, mixed, judged, explained_size=size, seconds=closing / 2, watched=watched)


def _train(run: StartedRun, mixed: MixedData, snapshot: Snapshot | None, seconds: float | None) -> Recorder:
    """Train until the validation loss no longer improves; the network keeps the best weights."""
    prepared, folder, console = run.prepared, run.folder, run.console
    recorder, config = Recorder(folder), prepared.train_config
    chosen, image = choose_optimizer(config), prepared.network.image
    tuned = config.fine_tune and image is not None and bool(prepared.model_config.freeze_backbone)
    headline = headline_for(mixed.schema.task, mixed.target, mixed.metric)
    watched, mode = watched_metric(mixed)
    learner = Learner(
        prepared.network,
        mixed,
        loss=prepared.loss,
        optimizer=chosen.make,
        metrics=metrics_for(mixed.schema.task, mixed.target, mixed.metric),
        callbacks=[
            recorder,
            ProgressLines(headline.name, console=console),
            EarlyStopping(watched, mode=mode, patience=config.patience),
            NanGuard(),
            OutOfMemoryGuard(console=console),
            BelongsTo(f"{digest_of(prepared)} {callbacks_digest(run.callbacks)}"),
            *([] if seconds is None else [TimeBudget(seconds)]),
            Checkpoints(folder / "checkpoints", watched, mode=mode, seconds=config.save_every),
            *run.callbacks,
            StopOnSignal(run.advice),
        ],
        weight_decay=chosen.weight_decay,
        rates={"image.backbone": TUNED_BACKBONE_RATE} if tuned else None,
    )
    if tuned and isinstance(image, ImageEncoder):
        freeze(*(one for one in image.backbone.modules() if isinstance(one, NORMS)))
    prepare_doctors(learner)
    fit_epochs = learner.fit_one_cycle if chosen.one_cycle else learner.fit
    fit_epochs(config.epochs, chosen.lr, resume=snapshot)
    return recorder


def _predict(network: MixedInputModel, mixed: MixedData, split: JudgedSplit) -> np.ndarray:
    """Predictions of the network in the unit of the target, or probabilities; empty for a split without rows."""
    if not len(mixed.split.of(split)):
        return np.zeros((0,) if mixed.target.classes is None else (0, len(mixed.target.classes)))
    outputs, _ = Learner(network, mixed, loss=mse).predict(mixed.rows(split))
    return mixed.target.decode(outputs.float().numpy())


def _thresholds(mixed: MixedData, on_valid: Mapping[str, np.ndarray]) -> dict[str, Thresholds]:
    """Decision thresholds of a network and its baseline from validation rows; empty unless the metric has one."""
    metric = headline_for(mixed.schema.task, mixed.target, mixed.metric)
    if mixed.metric == "auto" or not metric.decides or mixed.target.outputs != 2:
        return {}
    parts = parts_of_units(mixed.ties.joined(mixed.split.valid).unit, mixed.seed)
    truth, weight = truth_of(mixed, "valid"), mixed.weights("valid")
    return {name: cross_fitted(truth, found, metric, parts, weight=weight) for name, found in on_valid.items()}
