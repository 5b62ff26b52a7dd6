"""The pipeline from a table to a run folder with a trained model, baselines and a report."""

import atexit
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from mixfit.auto import cost
from mixfit.auto.blending import Blended, train_blend
from mixfit.auto.budget import EXPLAINED_SHARE, duration, explained
from mixfit.auto.cost import Sizes
from mixfit.auto.kept_models import BelongsTo, RunKeeper, callbacks_digest, earlier_seconds
from mixfit.auto.planning import (
    MAY_DEPEND,
    RunPlan,
    closing_of_network,
    plan_run,
    say_plan,
    sizes_of,
    without_photos,
    without_texts,
)
from mixfit.auto.preparation import (
    Clock,
    Prepared,
    changes_since_inspection,
    check_arguments,
    notes_of,
    prepare,
    unnamed_groups,
    warnings_of,
    with_features,
)
from mixfit.auto.presets import check_models, unused_settings
from mixfit.auto.timetable import Timetable
from mixfit.auto.tracked import around, tracked
from mixfit.choices import MetricName
from mixfit.config import DataConfig, ModelConfig, TrainConfig, parse_duration
from mixfit.config_file import read_config
from mixfit.console import PlainConsole
from mixfit.data.checks.copies import COPY_LEFT_OUT
from mixfit.data.columns.schema import Schema
from mixfit.data.fingerprint import read_fingerprint, row_prints
from mixfit.data.load import MixedData
from mixfit.data.split import Split, describe_times
from mixfit.data.table.write import kept_frame
from mixfit.diagnostics.doctor import Doctor, prepare_doctors
from mixfit.ensemble.cross_fit import Fits, OutOfTimeError
from mixfit.ensemble.threshold import Thresholds, cross_fitted, parts_of_units
from mixfit.errors import ConfigError, DataError, Stopped, check_type
from mixfit.evaluation.baselines import CONSTANT, boosted_trees, constant, constants_of_folds
from mixfit.evaluation.explain import explained_columns, explained_texts
from mixfit.evaluation.facts import model_facts
from mixfit.evaluation.result import JudgedSplit, Result, Rows, headline_for, metrics_for, scores_by_fold
from mixfit.files import is_there, json_numbers, said_by, unseal
from mixfit.models.model import TABLE, TEXT, Model
from mixfit.models.network import TUNED_BACKBONE_RATE, Network
from mixfit.nn.freezing import NORMS, freeze
from mixfit.nn.image import ImageEncoder
from mixfit.nn.model import MixedInputModel
from mixfit.predictor import Predictor
from mixfit.runs.folder import (
    changed_versions,
    locked,
    new_run_folder,
    note_resumption,
    run_name,
    settings_digest,
    write_settings,
    write_split,
)
from mixfit.runs.results import (
    BLEND,
    JUDGED,
    LEVEL,
    LEVELS,
    Run,
    decision_sentence,
    judged_rows,
    our_name,
    result_of,
    rows_of,
    say_end,
    truth_of,
    unreadable,
    write_results,
)
from mixfit.seeding import seeded
from mixfit.training.callback import Callback
from mixfit.training.callbacks.control import EarlyStopping, SecondSignal, StopOnSignal, TimeBudget, interruptible
from mixfit.training.callbacks.displays import ProgressLines
from mixfit.training.callbacks.distributed import join_processes, process_rank, wait_for_processes
from mixfit.training.callbacks.guards import NanGuard, OutOfMemoryGuard
from mixfit.training.callbacks.recorder import Recorder
from mixfit.training.callbacks.tracking import Tracker
from mixfit.training.checkpoint import Checkpoints, Snapshot, newest_checkpoint
from mixfit.training.choose import choose_optimizer, watched_metric
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.metrics import median_class

_FEWEST_SECONDS, _MARGIN = 1.0, 1.25
"""Shortest training of a network, and a factor of the estimated time of what comes after it."""
KEPT_TABLE = "table.parquet"
"""The rows of a run on a DataFrame, in its folder."""


def fit(
    table: str | Path | pd.DataFrame,
    *,
    target: str,
    images: str | Path | None = None,
    metric: MetricName | None = None,
    data: DataConfig | None = None,
    model: ModelConfig | None = None,
    train: TrainConfig | None = None,
    schema: Schema | str | Path | None = None,
    out: str | Path = "runs",
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
    models: Sequence[Model] = (),
    command: str | None = None,
    began: float | None = None,
    fits: Fits | None = None,
) -> Run:
    """Train on a table and its photos; write the run folder ``out/<table>-<target>-NNN``.

    Args:
        table: a CSV, TSV, Parquet, Feather or JSON Lines file; or a DataFrame, which is saved as ``table.parquet`` in
            the run folder, so that the run can be resumed, evaluated and explained.
        target: the column to predict.
        images: folder that photo paths are relative to, overrides ``data.images``; by default the table's folder, and
            for a DataFrame the working directory.
        metric: overrides ``train.metric``.
        data, model, train: settings; the defaults suit a laptop.
        schema: known roles of the columns; with the ``schema.json`` of ``inspect``, a warning is given if the data
            have changed since.
        out: folder in which run folders are created.
        console: where progress is written, by default standard output; ``Console(quiet=True)`` for none.
        callbacks: further callbacks, such as ``TensorBoard``, or ``Doctor``, whose findings on a single network
            (``preset="network"``) are reported.
        models: your own models, see ``mixfit.Model``: they are fitted after those of the preset on the same folds,
            appear in the leaderboard, and get a share of the blend if this lowers its out-of-fold loss. Pass them to
            ``resume`` and ``Predictor.load``, too.
        command: the command shown in the report; by default this call.
        began: value of ``time.monotonic()`` that ``train.time`` counts from; by default now.
        fits: fits the models of each fold in other processes, such as ``mixfit.distributed.ray_fits.RayFits``.
    Raises:
        ConfigError, DataError, ResourceError, Diverged: with one sentence that says what to do.
        Stopped: a signal stopped the run; everything is saved, and ``resume`` continues it.
    """
    check_arguments(table, target=target, images=images, data=data, model=model, train=train, schema=schema, out=out)
    check_type("callbacks", callbacks, (list, tuple), "a list of callbacks")
    check_type("models", models, (list, tuple), "a list of models")
    console, data, train = console or PlainConsole(), data or DataConfig(), train or TrainConfig()
    if metric is not None:
        train = replace(train, metric=metric)
    _check_callbacks(callbacks, train)
    _check_fits(fits, callbacks, train)
    check_models(models, train)
    if _rank_among(train):
        out, console = _folder_of_process(), Console(quiet=True)
    timetable = _timetable(console, train, began)
    if images is not None:
        data = replace(data, images=Path(images))
    with seeded(train.seed), around(callbacks):
        if isinstance(table, pd.DataFrame):
            path = new_run_folder(Path(out), run_name(Path("dataframe"), target)) / KEPT_TABLE
            data = replace(data, images=data.images or Path())
            written: AbstractContextManager[None] = kept_frame(table, path)
            command = command or f"mixfit.fit(frame, target={target!r})"
        else:
            path, written = Path(table), nullcontext()
        try:
            with written, timetable.stage("reading the table", cost.seconds_of_reading(path), learn=False):
                prepared = prepare(
                    path,
                    target=target,
                    data=data,
                    model=model or ModelConfig(),
                    train=train,
                    schema=schema,
                    console=console,
                )
        except BaseException:
            if isinstance(table, pd.DataFrame):
                shutil.rmtree(path.parent)  # it contains only the caller's rows
            raise
        folder = path.parent if isinstance(table, pd.DataFrame) else new_run_folder(Path(out), run_name(path, target))
        advice = _resume_command(folder, callbacks, models)
        with locked(folder), _stoppable(folder, advice):
            settings = _write_settings(folder, prepared)
            warnings = [
                *warnings_of(prepared.data, prepared.images_beside),
                *changes_since_inspection(prepared.fingerprint, schema),
            ]
            command = command or f"mixfit.fit({path.name!r}, target={target!r})"
            with tracked(callbacks, folder, settings, console) as finished:
                run = _train_and_judge(
                    folder,
                    prepared,
                    settings,
                    warnings,
                    console,
                    command,
                    callbacks,
                    models,
                    advice,
                    timetable,
                    fits=fits,
                )
                finished(run)
            return run


def _timetable(console: Console, train: TrainConfig, began: float | None) -> Timetable:
    return Timetable(console, None if train.time is None else parse_duration(train.time), began=began)


def resume(
    run: str | Path,
    *,
    table: str | Path | None = None,
    force: bool = False,
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
    models: Sequence[Model] = (),
    command: str | None = None,
    began: float | None = None,
    fits: Fits | None = None,
) -> Run:
    """Resume a stopped or killed run; the result is bit-identical to an uninterrupted run.

    A run that was stopped before anything was saved restarts; the results of a finished run are written again.
    Bit-identical holds on the same machine, with the same versions and number of threads.

    Args:
        run: its folder.
        table: path of the table; by default unchanged.
        force: resume even if the table or its photos have changed, or the files are not those of this run.
        console, callbacks, models, command: as for ``fit``; pass the same models, and the same callbacks that may
            change a training: with others, the networks of a preset are fitted again, and a single network is
            refused.
        began, fits: as for ``fit``; the time limit of a run counts the time before it was stopped, too.
    Raises:
        ConfigError, DataError, ResourceError, Diverged, Stopped: as ``fit``; and if the data have changed.
    """
    check_type("run", run, (str, PathLike), "a run or the path of its folder")
    folder, console = Path(run), console or PlainConsole()
    settings_file = folder / "config.toml"
    if not is_there(settings_file):
        raise ConfigError(f"{folder} is not a run folder: it has no config.toml.")
    with said_by(settings_file):
        said = read_config(settings_file)
    advice = _resume_command(folder, callbacks, models, table=table, force=force)
    table = said.table if table is None else Path(table)
    if table is None or said.target is None:
        raise DataError(f"{settings_file} lacks the table or the target.")
    _check_callbacks(callbacks, said.train)
    _check_fits(fits, callbacks, said.train)
    check_models(models, said.train)
    if _rank_among(said.train):
        here = _folder_of_process() / folder.name
        shutil.copytree(folder, here)
        folder, console = here, Console(quiet=True)
    wait_for_processes()  # before the first one changes the folder
    schema = folder / "schema.json"
    timetable = _timetable(console, said.train, began)
    timetable.began -= earlier_seconds(folder)
    with locked(folder), _stoppable(folder, advice), seeded(said.train.seed), around(callbacks):
        with said_by(settings_file), timetable.stage("reading the table", cost.seconds_of_reading(table), learn=False):
            prepared = prepare(
                table,
                target=said.target,
                # the schema contains all roles, unless the run was killed before it was written
                data=replace(said.data, roles={}, ignore=(), task=None, order=()) if is_there(schema) else said.data,
                model=said.model,
                train=said.train,
                schema=schema if is_there(schema) else said.schema,
                console=console,
            )
        prepared = replace(prepared, data_config=said.data)
        snapshot = newest_checkpoint(folder / "checkpoints")
        begun = snapshot is not None or _count_kept(folder) > 0
        # files missing after a kill are written now; if nothing was fitted, there is nothing to compare
        warnings = _differences(folder, prepared, force=force) if begun or _has_environment(folder) else []
        unseal(folder)
        settings = _write_settings(folder, prepared)
        key, _, begun_with = ("" if snapshot is None else BelongsTo.of(snapshot)).partition(" ")
        if snapshot is not None and key != _digest(prepared) and not force:
            raise DataError(
                f"{folder}/checkpoints has the weights of another network: its settings, data or seed are not those of "
                "this run. Restore the right checkpoints, or remove that folder to restart the training."
            )
        if snapshot is not None and not snapshot.finished and begun_with != callbacks_digest(callbacks):
            if not force:
                raise ConfigError(
                    f"{folder} was started with other callbacks or callback settings: pass the same callbacks to "
                    "mixfit.resume(..., callbacks=[...])."
                )
            warnings.append("From here on, the training uses other callbacks than before.")
        if snapshot is not None and snapshot.note:
            warnings.append(f"{snapshot.note} Resuming from the previous checkpoint.")
        _say_where(console, folder, snapshot, len(prepared.data.train))
        if force:
            note_resumption(folder, warnings)
        warnings = [*warnings_of(prepared.data, prepared.images_beside), *warnings]
        command = command or f"mixfit.resume({folder.name!r})"
        with tracked(callbacks, folder, settings, console) as finished:
            done = _train_and_judge(
                folder,
                prepared,
                settings,
                warnings,
                console,
                command,
                callbacks,
                models,
                advice,
                timetable,
                snapshot,
                fits,
            )
            finished(done)
        return done


def _check_callbacks(callbacks: Sequence[Callback], train: TrainConfig) -> None:
    """Refuse a doctor with a preset of many models, which it cannot diagnose, and callbacks that need validation rows
    where the delivered models are fitted on all rows."""
    if train.preset != "network" and any(isinstance(one, Doctor) for one in callbacks):
        raise ConfigError(
            f"A doctor diagnoses the training of a single network, but the preset {train.preset} trains many models: "
            "use the preset network."
        )
    choosing = [type(one).__name__ for one in callbacks if one.chooses]
    if train.refit and choosing:
        raise ConfigError(
            f"refit=True leaves no validation rows, which the callback {choosing[0]} may use: leave one out, or "
            "set chooses = False in a callback that only reports."
        )


def _check_fits(fits: Fits | None, callbacks: Sequence[Callback], train: TrainConfig) -> None:
    """Refuse what cannot be fitted in other processes."""
    if fits is None:
        return
    if train.preset == "network":
        raise ConfigError(
            "Another engine fits the many models of a preset, and the preset network has one: start one training on "
            "many processes with torchrun."
        )
    acting = [type(one).__name__ for one in callbacks if one.changes]
    if acting:
        raise ConfigError(f"The callback {acting[0]} cannot act on trainings in other processes: leave it out.")


def _rank_among(train: TrainConfig) -> int:
    """Number of this process among those that torchrun started, from 0; 0 without torchrun.

    Raises:
        ConfigError: the training is not one of a single network, which several processes can share.
    """
    if process_rank()[1] == 1:
        return 0
    if train.preset != "network":
        raise ConfigError(
            f"torchrun trains one network on several processes, and the preset {train.preset} fits many models: add "
            "--preset network, or use --engine ray without torchrun."
        )
    if train.time is not None:
        raise ConfigError("Several processes cannot agree on a clock: set --epochs in place of --time under torchrun.")
    return join_processes()[0]


def _folder_of_process() -> Path:
    """Where all but the first of several processes keep their run, until they end."""
    folder = tempfile.mkdtemp(prefix="mixfit-process-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@contextmanager
def _stoppable(folder: Path, advice: str) -> Iterator[None]:
    """Turn a signal between two trainings into a sentence on what is saved where, and how to resume.

    During the training of a network, ``StopOnSignal`` stops it after the batch.

    Raises:
        Stopped: on one signal.
        KeyboardInterrupt: on a second signal, or if the settings are not saved yet.
    """
    with interruptible() as came:
        try:
            yield
        except SecondSignal:
            raise SecondSignal(f"interrupted. {_saved(folder)} {advice}") from None
        except KeyboardInterrupt:
            if not (folder / "config.toml").is_file():
                raise
            raise Stopped(f"stopped by {came[0] if came else 'SIGINT'}. {_saved(folder)} {advice}") from None


def _saved(folder: Path) -> str:
    """A sentence on what is saved in the run folder."""
    kept = _count_kept(folder)
    if kept:
        return f"{kept} fitted fold model{'' if kept == 1 else 's'} and all settings are saved in {folder}."
    if (folder / "checkpoints").is_dir():
        return f"The training and all settings are saved in {folder}."
    return f"No model has been fitted yet; the settings are saved in {folder}."


def _count_kept(folder: Path) -> int:
    return len(list((folder / "candidates").glob("*.safetensors")))


def _has_environment(folder: Path) -> bool:
    return (folder / "environment.json").exists()


def _digest(prepared: Prepared) -> str:
    return settings_digest(
        prepared.data.schema,
        prepared.data_config,
        prepared.model_config,
        prepared.train_config,
        prepared.fingerprint,
    )


def _write_settings(folder: Path, prepared: Prepared) -> dict[str, object]:
    return write_settings(
        folder,
        prepared.table,
        prepared.data.schema.target,
        prepared.data.schema,
        prepared.data_config,
        prepared.model_config,
        prepared.train_config,
        prepared.fingerprint,
        given=prepared.known,
    )


def _train_and_judge(
    folder: Path,
    prepared: Prepared,
    settings: dict[str, object],
    warnings: list[str],
    console: Console,
    command: str,
    callbacks: Sequence[Callback],
    models: Sequence[Model],
    advice: str,
    timetable: Timetable,
    snapshot: Snapshot | None = None,
    fits: Fits | None = None,
) -> Run:
    """Train or resume, and write the files of the run folder."""
    train_config, network = prepared.train_config, prepared.network
    _write_split(folder, prepared.data)
    notes = notes_of(prepared.data)
    _say_start(console, folder, prepared.data, train_config, prepared.data_config, warnings, notes)
    clock, mixed = Clock(), prepared.data
    if train_config.preset == "network":
        mixed = with_features(mixed, network, console)
        run_plan = None
    else:
        run_plan = plan_run(
            mixed,
            image=network.image if isinstance(network.image, ImageEncoder) else None,
            model=prepared.model_config,
            train=train_config,
            models=models,
            timetable=timetable,
        )
        say_plan(console, run_plan, timetable)
        mixed, run_plan = _with_features(mixed, network, console, run_plan, timetable)
    unnamed = unnamed_groups(mixed)
    for line in unnamed:
        console.print(f" warning: {line}", markup=False)
    warnings = [*warnings, *unnamed]
    if run_plan is not None:
        return _blend_and_judge(
            folder,
            prepared,
            mixed,
            settings,
            warnings,
            notes,
            unnamed,
            console,
            command,
            callbacks,
            models,
            advice,
            run_plan,
            timetable,
            fits,
        )
    sizes = sizes_of(mixed, network.image, 1)
    closing = closing_of_network(sizes)
    most = None
    if timetable.limit is not None:
        most = max(_FEWEST_SECONDS, timetable.free(_MARGIN * closing))
        console.print(f" plan    the training ends within {duration(most)}, for the time limit", markup=False)
        console.print(f" note: {MAY_DEPEND}", markup=False)
    recorder = _train(folder, prepared, mixed, console, callbacks, advice, snapshot, most)
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
        folder=folder,
        predictor=_save_model(folder, predictor, mixed, result, judged),
        result=result,
        history=recorder.history,
        bad=[*mixed.bad, *unreadable(mixed)],
        doctor=next((one for one in callbacks if isinstance(one, Doctor)), None),
    )
    trained = Network(
        sees=TABLE | TEXT if mixed.schema.names("text") else TABLE,
        config=prepared.model_config,
        train=replace(train_config, epochs=max(1, len(recorder.history))),
    )
    spent = cost.seconds(cost.reading_work(sizes)) + cost.seconds(cost.fit_work(trained, sizes)) + closing
    size = _explained_size(predictor, [trained], sizes, spent, timetable, closing)
    with timetable.stage("report", closing / 2, learn=False):
        write_results(
            run,
            mixed,
            judged,
            settings,
            command,
            warnings,
            notes,
            images=prepared.images,
            explained_size=size,
            page=train_config.report,
        )
    say_end(console, run, prepared.table, prepared.data_config, watched)
    console.print(f" time    {timetable.elapsed:.0f} s", markup=False, highlight=False)
    return run


def _explained_size(
    predictor: Predictor,
    models: Sequence[Model],
    sizes: Sizes,
    spent: float,
    timetable: Timetable,
    report: float,
) -> tuple[int, int] | None:
    """Numbers of explained rows and of predictions for each that take at most a tenth of the run; None for none.

    Args:
        models: that predict.
        spent: estimated seconds of the run.
        report: estimated seconds of the report, which has to be written within the time limit.
    """
    seconds = EXPLAINED_SHARE * spent
    if timetable.limit is not None:
        seconds = min(EXPLAINED_SHARE * timetable.elapsed, timetable.free(report)) / timetable.pace
    table, photos = explained_columns(predictor)
    sides = 3 if explained_texts(predictor) else 2
    return explained(models, sizes, len(table) + len(photos), seconds, sides=sides)


def _with_features(
    mixed: MixedData, network: MixedInputModel, console: Console, run_plan: RunPlan, timetable: Timetable
) -> tuple[MixedData, RunPlan]:
    """Compute image features, unless they take too long for the time limit; then the photos are left out."""
    if not run_plan.texts:
        mixed = without_texts(mixed)
    if not run_plan.photos:
        return mixed, run_plan
    started, needed = timetable.elapsed, run_plan.needed

    def check(done: int, of: int) -> None:
        took = timetable.elapsed - started
        if took / done * (of - done) > timetable.free(needed):
            raise OutOfTimeError(f"{done:,} of {of:,} image features took {duration(took)}")

    try:
        mixed = with_features(mixed, network, console, tell=None if timetable.limit is None else check)
    except OutOfTimeError as error:
        why = f"photos: {error}, too long for {run_plan.budget}; a later run finds these in the cache"
        console.print(f" skipped: {why}", markup=False)
        run_plan = without_photos(run_plan, why)
    return mixed, run_plan


def _blend_and_judge(
    folder: Path,
    prepared: Prepared,
    mixed: MixedData,
    settings: dict[str, object],
    warnings: list[str],
    notes: list[str],
    unnamed: list[str],
    console: Console,
    command: str,
    callbacks: Sequence[Callback],
    models: Sequence[Model],
    advice: str,
    run_plan: RunPlan,
    timetable: Timetable,
    fits: Fits | None,
) -> Run:
    """Cross-validate and blend many models, and write the files of the run folder."""
    unused = unused_settings(mixed, prepared.data_config, prepared.model_config, prepared.train_config)
    for line in unused:
        console.print(f" warning: {line}", markup=False)
    save_every = prepared.train_config.save_every
    keeper = RunKeeper(
        folder, save_every, console, callbacks, advice, settings=_digest(prepared), elapsed=lambda: timetable.elapsed
    )
    found = train_blend(
        mixed,
        image=prepared.network.image,
        model=prepared.model_config,
        train=prepared.train_config,
        console=console,
        keeper=keeper,
        models=models,
        run_plan=run_plan,
        timetable=timetable,
        fits=fits,
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
        folder=folder,
        predictor=_save_model(folder, found.predictor, judging, result, judged),
        result=result,
        history=found.history,
        bad=[*mixed.bad, *unreadable(mixed)],
    )
    warnings = [*warnings, *unused, *keeper.notes, *found.left_out]
    fitted = [one for one in run_plan.plan.models if one.name in found.seconds]
    predicting = [one for one in fitted if one.name in found.predictor.shares]
    report = run_plan.closing / 4
    size = _explained_size(found.predictor, predicting, run_plan.sizes, run_plan.spent(fitted), timetable, report)
    interval = found.interval(mixed, LEVEL)
    with timetable.stage("report", report, learn=False):
        write_results(
            run,
            judging,
            judged,
            settings,
            command,
            warnings,
            notes,
            images=prepared.images,
            interval=interval,
            explained_size=size,
            page=prepared.train_config.report,
        )
    say_end(console, run, prepared.table, prepared.data_config)
    console.print(f" time    {timetable.elapsed:.0f} s", markup=False, highlight=False)
    return run


def _classes(
    mixed: MixedData, found: Blended, by_model: Mapping[str, np.ndarray], *, new: bool
) -> dict[str, np.ndarray]:
    """Predicted classes by model, where they are not the most probable ones; a constant has its own by metric."""
    models = {model: values for model, values in by_model.items() if model != CONSTANT}
    if mixed.schema.task == "ordered":
        return {model: median_class(values) for model, values in models.items()}
    thresholds = found.thresholds
    return {model: thresholds[model].decide(values, new=new) for model, values in models.items() if model in thresholds}


def _thresholds(mixed: MixedData, on_valid: Mapping[str, np.ndarray]) -> dict[str, Thresholds]:
    """Decision thresholds of a network and its baseline from validation rows; empty unless the metric has one."""
    metric = headline_for(mixed.schema.task, mixed.target, mixed.metric)
    if mixed.metric == "auto" or not metric.decides or mixed.target.outputs != 2:
        return {}
    parts = parts_of_units(mixed.ties.joined(mixed.split.valid).unit, mixed.seed)
    truth, weight = truth_of(mixed, "valid"), mixed.weights("valid")
    return {name: cross_fitted(truth, found, metric, parts, weight=weight) for name, found in on_valid.items()}


def _write_split(folder: Path, mixed: MixedData) -> None:
    """Write the part of each row of the table and what it is known again by; rows of weight 0 have none."""
    split = Split(*(mixed.row_numbers[rows] for rows in mixed.split.parts().values()))
    prints = np.zeros(len(mixed.table) + mixed.weightless, dtype=np.int64)
    prints[mixed.row_numbers] = row_prints(mixed.table, mixed.schema)
    write_split(folder, split, len(prints), prints)


def _train(
    folder: Path,
    prepared: Prepared,
    mixed: MixedData,
    console: Console,
    callbacks: Sequence[Callback],
    advice: str,
    snapshot: Snapshot | None,
    seconds: float | None,
) -> Recorder:
    """Train until the validation loss no longer improves; the network keeps the best weights."""
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
            BelongsTo(f"{_digest(prepared)} {callbacks_digest(callbacks)}"),
            *([] if seconds is None else [TimeBudget(seconds)]),
            Checkpoints(folder / "checkpoints", watched, mode=mode, seconds=config.save_every),
            *callbacks,
            StopOnSignal(advice),
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


def _resume_command(
    folder: Path,
    callbacks: Sequence[Callback],
    models: Sequence[Model] = (),
    *,
    table: str | Path | None = None,
    force: bool = False,
) -> str:
    """The command to resume, with the flags and callbacks that must be given again."""
    acting = [one for one in callbacks if one.changes or isinstance(one, Doctor)]
    if models or any(one.changes for one in callbacks):  # these cannot be given on the command line
        given = {"callbacks": acting, "models": models}
        again = [
            f", {name}=[{', '.join(f'{type(one).__name__}(...)' for one in them)}]"
            for name, them in given.items()
            if them
        ]
        what = " and ".join(name for name, them in given.items() if them)
        place = "" if table is None else f", table={str(table)!r}"
        return (
            f"Resume in Python with the same {what}: mixfit.resume({str(folder)!r}{place}"
            f"{', force=True' * force}{''.join(again)})"
        )
    moved = "" if table is None else f"{shlex.quote(str(table))} "
    flags = " --force" * force + " --doctor" * any(isinstance(one, Doctor) for one in callbacks)
    flags += "".join(f" --track {one.flag}" for one in callbacks if isinstance(one, Tracker) and one.flag)
    return f"Resume with: mixfit train {moved}--resume {shlex.quote(str(folder))}{flags}"


def _predict(network: MixedInputModel, mixed: MixedData, split: JudgedSplit) -> np.ndarray:
    """Predictions of the network in the unit of the target, or probabilities; empty for a split without rows."""
    if not len(mixed.split.of(split)):
        return np.zeros((0,) if mixed.target.classes is None else (0, len(mixed.target.classes)))
    outputs, _ = Learner(network, mixed, loss=mse).predict(mixed.rows(split))
    return mixed.target.decode(outputs.float().numpy())


def _save_model(
    folder: Path, predictor: Predictor, mixed: MixedData, result: Result, judged: dict[JudgedSplit, Rows]
) -> Predictor:
    """Write the model folder with its scores."""
    predictor = replace(
        predictor,
        metrics={split: json_numbers(by_model[result.ours]) for split, by_model in result.scores.items()},
        facts=model_facts(mixed, result, judged["valid"]),
    )
    if (folder / "model").exists():  # of a finished run that is resumed
        shutil.rmtree(folder / "model")
    predictor.save(folder / "model")
    return predictor


def _differences(folder: Path, now: Prepared, *, force: bool) -> list[str]:
    """Changes since the start of the run.

    Raises:
        DataError: the table or its photos have changed, without ``force``.
    """
    then = read_fingerprint(folder / "environment.json")
    changed = [] if then is None else now.fingerprint.changes_since(then, "this run")
    if changed and not force:
        raise DataError(f"{'; '.join(changed)}: start a new training, or resume with --force.")
    return changed + changed_versions(folder)


def _say_where(console: Console, folder: Path, snapshot: Snapshot | None, batches: int) -> None:
    fitted = _count_kept(folder)
    if fitted:
        text = f"resuming: {fitted} fold models are already fitted"
    elif snapshot is None:
        text = "nothing was saved yet: restarting"
    elif snapshot.finished:
        text = "the training is finished: rewriting its results"
    else:
        text = f"resuming at epoch {snapshot.epoch + 1}, batch {snapshot.batch + 1} of {batches}"
    console.print(f" {text}", markup=False)


def _say_start(
    console: Console,
    folder: Path,
    mixed: MixedData,
    config: TrainConfig,
    data: DataConfig,
    warnings: list[str],
    notes: list[str],
) -> None:
    split = mixed.split
    threads = f" ({torch.get_num_threads()} threads)" if mixed.device.type == "cpu" else ""
    console.print(
        f" run {folder}   device {mixed.device}{threads}   seed {config.seed}   "
        f"{len(split.train)} train / {len(split.valid)} valid / {len(split.test)} test",
        markup=False,
    )
    if mixed.schema.task == "count":
        console.print(f" target {mixed.schema.target!r}: {mixed.schema.task_reason}", markup=False)
    for rule in mixed.schema.photos:
        console.print(f" photos by {rule.reason}", markup=False)
    if data.split_time is not None:
        times = describe_times(mixed.table[data.split_time], split.parts())
        console.print(f" split by {data.split_time}: {times}", markup=False)
    if mixed.weightless:
        console.print(f" {mixed.weightless} row{'' if mixed.weightless == 1 else 's'} of weight 0: ignored")
    if data.dedup:
        copies = sum(record.action == COPY_LEFT_OUT for record in mixed.bad)
        rows = len(split.train) + len(split.valid) + copies
        console.print(f" {copies} of {rows} training and validation rows are copies of held-back rows: left out")
    for line in warnings:
        console.print(f" warning: {line}", markup=False)
    for line in notes:
        console.print(f" note: {line}", markup=False)
