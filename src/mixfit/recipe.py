"""The automatic whole: from a table to a run folder with a trained model, its baselines and a report."""

import io
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.config_file import read_config
from mixfit.console import PlainConsole
from mixfit.data.augment import augmentation
from mixfit.data.bad_inputs import BadInput, describe_bad, write_bad_inputs
from mixfit.data.checks import class_balance, parts_of, torn_ids
from mixfit.data.copies import COPY_LEFT_OUT, equal_photos, row_copies
from mixfit.data.dataset import FeatureTable
from mixfit.data.equal_files import equal_files
from mixfit.data.fingerprint import FINGERPRINT_FILE, Fingerprint, read_fingerprint
from mixfit.data.load import MixedData, load_data
from mixfit.data.schema import Schema, suspicious_columns
from mixfit.data.split_time import describe_times
from mixfit.device import default_device
from mixfit.duration import parse_duration
from mixfit.errors import ConfigError, DataError
from mixfit.evaluation.baselines import BOOSTED_TREES, CONSTANT, Baseline, boosted_trees, constant
from mixfit.evaluation.scores import Comparison, JudgedSplit, Rows, compare, headline_for, metrics_for, score
from mixfit.files import explained, write_file
from mixfit.nn.build import is_frozen
from mixfit.nn.model import MixedInputModel
from mixfit.predictor import Predictor, unreadable_photos
from mixfit.report.content import ModelKind, ReportContent, Score
from mixfit.run_folder import (
    changed_versions,
    describe_environment,
    locked,
    new_run_folder,
    note_resumption,
    run_name,
    shown_settings,
    write_settings,
)
from mixfit.training.arithmetic import settle_arithmetic
from mixfit.training.build import build_model, precompute_features, sized_for
from mixfit.training.callback import Callback
from mixfit.training.callbacks.checkpoint import Checkpoints
from mixfit.training.callbacks.control import EarlyStopping
from mixfit.training.callbacks.nan_guard import NanGuard
from mixfit.training.callbacks.out_of_memory import OutOfMemoryGuard
from mixfit.training.callbacks.progress import ProgressLines
from mixfit.training.callbacks.recorder import Recorder
from mixfit.training.callbacks.signals import StopOnSignal
from mixfit.training.callbacks.time_budget import TimeBudget
from mixfit.training.checkpoint_files import newest_checkpoint
from mixfit.training.choose import check_loss, choose_optimizer, loss_for
from mixfit.training.learner import Learner
from mixfit.training.loss import Loss, mse
from mixfit.training.metrics import evaluate
from mixfit.training.snapshot import Snapshot

OURS = "mixfit, table and photos"
OURS_TABLE_ONLY = "mixfit, table only"
JUDGED: tuple[JudgedSplit, ...] = ("valid", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished training run."""

    folder: Path
    predictor: Predictor
    scores: dict[JudgedSplit, dict[str, dict[str, float]]]
    """Split -> model -> metric -> value in the target's unit."""
    comparison: Comparison
    history: pd.DataFrame
    """One row per epoch."""
    bad: list[BadInput]


@dataclass(slots=True)
class _Clock:
    """Seconds of each part of a run."""

    started: float = field(default_factory=time.perf_counter)

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self.started = now - self.started, now
        return seconds


def fit(
    table: str | Path,
    *,
    target: str,
    data: DataConfig | None = None,
    model: ModelConfig | None = None,
    train: TrainConfig | None = None,
    schema: Schema | str | Path | None = None,
    out: str | Path = "runs",
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
    command: str | None = None,
) -> Run:
    """Train on a table and its photos; write the run folder ``out/<table>-<target>-NNN``.

    Args:
        table: a CSV, TSV, Parquet, Feather or JSON Lines file; photo paths in it start from its folder.
        target: the column to predict.
        data, model, train: settings; the defaults suit a laptop.
        schema: roles that are known already; from the ``schema.json`` that ``inspect`` wrote it is also known what the
            data were then, and a warning says when they have changed.
        out: where run folders are made.
        console: where progress is written, by default standard output; ``Console(quiet=True)`` for silence.
        callbacks: further ones of the training, such as ``TensorBoard``.
        command: what the report says started the run; by default this call.
    Raises:
        ConfigError, DataError, ResourceError, Diverged: with one sentence that says what to do.
        Stopped: a signal came; all of the training is saved, and ``resume`` goes on.
    """
    console, table = console or PlainConsole(), Path(table)
    prepared = _prepare(
        table,
        target=target,
        data=data or DataConfig(),
        model=model or ModelConfig(),
        train=train or TrainConfig(),
        schema=schema,
        console=console,
    )
    folder = new_run_folder(Path(out), run_name(table, target))
    with locked(folder):
        settings = _write_settings(folder, prepared)
        warnings = [*_warnings(prepared.data), *_changes(prepared.fingerprint, schema)]
        command = command or f"mixfit.fit({table.name!r}, target={target!r})"
        return _train_and_judge(folder, prepared, settings, warnings, console, command, callbacks)


def resume(
    run: str | Path,
    *,
    table: str | Path | None = None,
    force: bool = False,
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
    command: str | None = None,
) -> Run:
    """Go on with a run that was stopped or killed, to the bit as if it had not been.

    A run that was stopped before anything was saved begins anew; of one that was finished the results are written
    again. To the bit means: on the same machine, with the same versions and number of threads.

    Args:
        run: its folder.
        table: where the table is now; by default where it was.
        force: go on though the table or its photos have changed, or the files are not those of this run.
        console, callbacks, command: as for ``fit``; with the callbacks that the run began with, if they carry a state.
    Raises:
        ConfigError, DataError, ResourceError, Diverged, Stopped: as ``fit``; and when the data are not those of then.
    """
    folder, console = Path(run), console or PlainConsole()
    if not (folder / "config.toml").is_file():
        raise ConfigError(f"{folder} is not a run folder: it has no config.toml.")
    said = read_config(folder / "config.toml")
    table = said.table if table is None else Path(table)
    if table is None or said.target is None:
        raise ConfigError(f"{folder}/config.toml does not say the table and the target.")
    with locked(folder):
        prepared = _prepare(
            table,
            target=said.target,
            # the roles, also those that were set, are in the schema
            data=replace(said.data, roles={}, ignore=(), task=None),
            model=said.model,
            train=said.train,
            schema=folder / "schema.json",
            console=console,
        )
        prepared = replace(prepared, data_config=said.data)
        snapshot = newest_checkpoint(folder / "checkpoints")
        warnings = _differences(folder, prepared, force=force)
        if snapshot is not None and snapshot.note:
            warnings.append(f"{snapshot.note} Going on from the checkpoint before it.")
        _say_where(console, folder, snapshot, len(prepared.data.train))
        settings = shown_settings(prepared.data_config, prepared.model_config, prepared.train_config)
        settings["table_sha256"] = prepared.fingerprint.table_sha256
        if force:
            note_resumption(folder, warnings)
        warnings = [*_warnings(prepared.data), *warnings]
        command = command or f"mixfit.resume({folder.name!r})"
        return _train_and_judge(folder, prepared, settings, warnings, console, command, callbacks, snapshot)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """Data and settings of a run before anything is trained."""

    table: Path
    data: MixedData
    network: MixedInputModel
    loss: Loss
    data_config: DataConfig
    model_config: ModelConfig
    train_config: TrainConfig
    fingerprint: Fingerprint
    known: Schema | None
    """Roles that were given."""


def _prepare(
    table: Path,
    *,
    target: str,
    data: DataConfig,
    model: ModelConfig,
    train: TrainConfig,
    schema: Schema | str | Path | None,
    console: Console,
) -> _Prepared:
    """Read the data, and settle what the settings leave open."""
    model_config = replace(model, freeze_backbone=is_frozen(model))
    data_config, train_config = data, train
    _check_augmentation(train_config, model_config)
    known = Schema.load(schema) if isinstance(schema, str | Path) else schema
    task = data_config.task if known is None else known.task
    if task is not None:
        check_loss(train_config.loss, task)  # before the table is read, where that is possible
    mixed = load_data(
        table,
        target=target,
        config=data_config,
        schema=known,
        batch_size=train_config.batch_size,
        seed=train_config.seed,
        transforms=augmentation(train_config.augment),
        device=default_device(),
        warn=lambda text: console.print(f" {text}", markup=False),
        progress=console.is_terminal and not console.quiet,
    )
    data_config = replace(data_config, image_size=mixed.image_size)
    loss = loss_for(mixed, train_config.loss)
    chosen = choose_optimizer(train_config)
    train_config = replace(train_config, batch_size=mixed.batch_size, lr=chosen.lr, weight_decay=chosen.weight_decay)
    model_config = sized_for(mixed, model_config)
    if mixed.photos is not None:
        model_config = settle_arithmetic(
            model_config,
            image_size=mixed.image_size,
            photos=len(mixed.photos.files),
            device=torch.device(mixed.device),
            folder=None if mixed.cache is None else mixed.cache.folder,
        )
    return _Prepared(
        table=table,
        data=mixed,
        network=build_model(mixed, model_config, seed=train_config.seed).to(mixed.device),
        loss=loss,
        data_config=data_config,
        model_config=model_config,
        train_config=train_config,
        fingerprint=Fingerprint.of(table, mixed.photos),
        known=known,
    )


def _write_settings(folder: Path, prepared: _Prepared) -> dict[str, object]:
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
    prepared: _Prepared,
    settings: dict[str, object],
    warnings: list[str],
    console: Console,
    command: str,
    callbacks: Sequence[Callback],
    snapshot: Snapshot | None = None,
) -> Run:
    """Train, or go on with it, and write all that a run folder holds."""
    train_config, network = prepared.train_config, prepared.network
    _say_start(console, folder, prepared.data, train_config, prepared.data_config, warnings)
    clock = _Clock()
    mixed = _with_features(prepared.data, network, console)
    recorder = _train(network, mixed, train_config, prepared.loss, folder, console, callbacks, snapshot)
    seconds = {_our_name(mixed): clock.lap()}
    ours = {name: _predict(network, mixed, name) for name in JUDGED}
    predictor = _save(folder, network, mixed, prepared.model_config, ours)  # before anything else can fail
    baselines = [boosted_trees(mixed, seed=train_config.seed), constant(mixed)]
    seconds |= {baseline.name: baseline.seconds for baseline in baselines}
    judged = {name: _judged_rows(mixed, name, ours[name], baselines) for name in JUDGED}
    run = Run(
        folder=folder,
        predictor=predictor,
        scores={name: score(rows, metrics_for(mixed.schema.task, mixed.target)) for name, rows in judged.items()},
        comparison=_compare(mixed, judged),
        history=recorder.history,
        bad=[*mixed.bad, *_unreadable(mixed)],
    )
    _write_results(run, mixed, judged, seconds, settings, command, warnings)
    _say_end(console, run, prepared.table, mixed, prepared.data_config)
    return run


def _check_augmentation(train: TrainConfig, model: ModelConfig) -> None:
    if train.augment != "none" and model.freeze_backbone and not model.train_blocks:
        raise ConfigError(
            f"--augment {train.augment} needs an image network that is trained on pixels: "
            "add --no-freeze-backbone, --train-blocks or --backbone small_resnet."
        )


def _with_features(mixed: MixedData, network: MixedInputModel, console: Console) -> MixedData:
    """Run a frozen backbone once over all photos."""
    if network.image is None or not network.image.frozen:
        return mixed
    clock = _Clock()
    with_features = precompute_features(mixed, network, progress=console.is_terminal and not console.quiet)
    if isinstance(with_features.source, FeatureTable):
        files = len(with_features.source.readable)
        console.print(f" image features of {files:,} photos in {clock.lap():.1f} s")
    return with_features


def _train(
    network: MixedInputModel,
    mixed: MixedData,
    config: TrainConfig,
    loss: Loss,
    folder: Path,
    console: Console,
    callbacks: Sequence[Callback],
    snapshot: Snapshot | None,
) -> Recorder:
    """Train until the validation loss no longer improves; the best weights stay in ``network``."""
    recorder = Recorder(folder)
    chosen = choose_optimizer(config)
    headline = headline_for(mixed.schema.task, mixed.target)
    learner = Learner(
        network,
        mixed,
        loss=loss,
        optimizer=chosen.make,
        metrics=metrics_for(mixed.schema.task, mixed.target),
        callbacks=[
            recorder,
            ProgressLines(headline.name, console=console),
            EarlyStopping("valid_loss", mode="min", patience=config.patience),
            NanGuard(),
            OutOfMemoryGuard(console=console),
            *([] if config.time is None else [TimeBudget(parse_duration(config.time))]),
            Checkpoints(folder / "checkpoints", "valid_loss", mode="min", seconds=config.save_every),
            *callbacks,
            StopOnSignal(f"Go on with: mixfit train --resume {shlex.quote(str(folder))}"),
        ],
        weight_decay=chosen.weight_decay,
    )
    fit_epochs = learner.fit_one_cycle if chosen.one_cycle else learner.fit
    fit_epochs(config.epochs, chosen.lr, resume=snapshot)
    return recorder


def _our_name(mixed: MixedData) -> str:
    return OURS if mixed.photos is not None else OURS_TABLE_ONLY


def _predict(network: MixedInputModel, mixed: MixedData, split: JudgedSplit) -> np.ndarray:
    """Predictions of the network in the unit of the target, or probabilities; none for a split without rows."""
    if not len(mixed.split.of(split)):
        return np.zeros((0,) if mixed.target.classes is None else (0, len(mixed.target.classes)))
    outputs, _ = Learner(network, mixed, loss=mse).predict(mixed.rows(split))
    return mixed.target.decode(outputs.float().numpy())


def _truth(mixed: MixedData, split: JudgedSplit) -> np.ndarray:
    return mixed.target.truth(mixed.frame[mixed.schema.target].iloc[mixed.split.of(split)])


def _save(
    folder: Path,
    network: MixedInputModel,
    mixed: MixedData,
    config: ModelConfig,
    ours: dict[JudgedSplit, np.ndarray],
) -> Predictor:
    """Write the model folder, with our own metrics in it."""
    metrics = metrics_for(mixed.schema.task, mixed.target)
    found = {str(name): evaluate(metrics, _truth(mixed, name), values) for name, values in ours.items()}
    predictor = Predictor.from_training(network, mixed, config, metrics=found)
    predictor.save(folder / "model")
    return predictor


def _judged_rows(mixed: MixedData, split: JudgedSplit, ours: np.ndarray, baselines: list[Baseline]) -> Rows:
    others = {baseline.name: baseline.predictions[split] for baseline in baselines}
    return Rows(split, _truth(mixed, split), {_our_name(mixed): ours, **others})


def _final_rows(judged: dict[JudgedSplit, Rows]) -> Rows:
    """The test rows, or the validation rows where there is no test."""
    return judged["test"] if len(judged["test"].truth) else judged["valid"]


def _compare(mixed: MixedData, judged: dict[JudgedSplit, Rows]) -> Comparison:
    headline = headline_for(mixed.schema.task, mixed.target)
    return compare(
        _final_rows(judged),
        headline,
        _our_name(mixed),
        BOOSTED_TREES,
        constant=CONSTANT,
        with_photos=mixed.photos is not None,
    )


def _write_results(
    run: Run,
    mixed: MixedData,
    judged: dict[JudgedSplit, Rows],
    seconds: dict[str, float],
    settings: dict[str, object],
    command: str,
    warnings: list[str],
) -> None:
    """Write the list of bad inputs, the validation predictions and the report."""
    from mixfit.report.page import write_report  # matplotlib takes a second, which a misspelt flag should not wait for

    ours = _our_name(mixed)
    with explained(run.folder, None):
        write_bad_inputs(run.bad, run.folder / "bad_inputs.csv")
        predictions = io.BytesIO()  # pyarrow itself opens no path whose letters the locale does not have
        _predictions_frame(mixed, judged["valid"], ours).to_parquet(predictions)
        write_file(run.folder / "predictions_valid.parquet", predictions.getvalue())
    final, headline = _final_rows(judged), headline_for(mixed.schema.task, mixed.target)
    kinds: dict[str, ModelKind] = {ours: "ours", BOOSTED_TREES: "table", CONSTANT: "constant"}
    content = ReportContent(
        title=run.folder.name.rpartition("-")[0],
        target=mixed.schema.target,
        schema=mixed.schema,
        rows={"train": len(mixed.split.train), "valid": len(mixed.split.valid), "test": len(mixed.split.test)},
        headline_metric=headline.name,
        higher_is_better=headline.higher_is_better,
        verdict=run.comparison.verdict,
        scores=[
            Score(model=model, kind=kinds[model], split=split, metrics=values, seconds=seconds[model])
            for split, by_model in run.scores.items()
            for model, values in by_model.items()
        ],
        history=run.history,
        predicted_split=final.split,
        truth=final.truth,
        prediction=final.predictions[ours] if mixed.target.classes is None else final.predictions[ours].argmax(1),
        classes=mixed.target.classes or (),
        log_scale=mixed.target.log,
        bad_inputs=run.bad,
        warnings=warnings,
        command=command,
        settings=settings,
        environment=describe_environment(),
    )
    write_report(content, run.folder / "report.html")


def _unreadable(mixed: MixedData) -> list[BadInput]:
    """Photos whose file is there but could not be decoded."""
    if mixed.photos is None:
        return []
    return unreadable_photos(mixed.frame, mixed.photos, mixed.photo_failures)


def _predictions_frame(mixed: MixedData, rows: Rows, ours: str) -> pd.DataFrame:
    """Row number, truth and prediction of the validation rows."""
    positions = mixed.split.of(rows.split)
    prediction = rows.predictions[ours]
    classes = mixed.target.classes
    if classes is None:
        return pd.DataFrame({"row": positions, "truth": rows.truth, "prediction": prediction})
    names = np.array(classes)
    columns = {"row": positions, "truth": names[rows.truth], "prediction": names[prediction.argmax(1)]}
    return pd.DataFrame(columns | {f"probability_{name}": prediction[:, i] for i, name in enumerate(classes)})


def _warnings(mixed: MixedData) -> list[str]:
    """What a person must know before trusting the scores."""
    lines = [*mixed.notes, *suspicious_columns(mixed.schema)]
    parts = parts_of(mixed.split, len(mixed.frame))
    findings = torn_ids(mixed.frame, mixed.schema, parts) + row_copies(mixed.frame, mixed.schema, parts)
    findings += class_balance(mixed.frame, mixed.schema, parts)
    if mixed.photos is not None:
        content = equal_files(mixed.photos.files)
        findings += equal_photos(mixed.frame, mixed.schema, mixed.photos, content, parts)
        if not mixed.photos.files:
            lines.append("not one photo was found; see bad_inputs.csv and --images")
    return lines + [finding.text for finding in findings if finding.level == "warning"]


def _differences(folder: Path, now: _Prepared, *, force: bool) -> list[str]:
    """What is no longer as it was when the run began.

    Raises:
        DataError: the table or its photos have changed, and it is not forced.
    """
    then = read_fingerprint(folder / "environment.json")
    changed = [] if then is None else now.fingerprint.changes_since(then, "this run")
    if changed and not force:
        raise DataError(f"{'; '.join(changed)}: train anew, or resume with --force.")
    return changed + changed_versions(folder)


def _say_where(console: Console, folder: Path, snapshot: Snapshot | None, batches: int) -> None:
    if snapshot is None:
        text = "nothing was saved yet: beginning anew"
    elif snapshot.finished:
        text = "the training was finished: writing its results again"
    else:
        text = f"resuming at epoch {snapshot.epoch + 1}, batch {snapshot.batch + 1} of {batches}"
    console.print(f" {text}", markup=False)


def _changes(now: Fingerprint, schema: Schema | str | Path | None) -> list[str]:
    """What is no longer as it was when ``inspect`` wrote the schema."""
    if not isinstance(schema, str | Path):
        return []
    then = read_fingerprint(Path(schema).parent / FINGERPRINT_FILE)
    return [] if then is None else now.changes_since(then, "the inspection")


def _say_start(
    console: Console, folder: Path, mixed: MixedData, config: TrainConfig, data: DataConfig, warnings: list[str]
) -> None:
    split = mixed.split
    threads = f" ({torch.get_num_threads()} threads)" if mixed.device.type == "cpu" else ""
    console.print(
        f" run {folder}   device {mixed.device}{threads}   seed {config.seed}   "
        f"{len(split.train)} train / {len(split.valid)} valid / {len(split.test)} test",
        markup=False,
    )
    if data.split_time is not None:
        times = describe_times(mixed.frame[data.split_time], split.parts())
        console.print(f" split by {data.split_time}: {times}", markup=False)
    if data.dedup:
        copies = sum(record.action == COPY_LEFT_OUT for record in mixed.bad)
        console.print(f" {copies} of {len(split.train) + copies} training rows are copies of held-back rows: left out")
    for line in warnings:
        console.print(f" warning: {line}", markup=False)


def _say_end(console: Console, run: Run, table: Path, mixed: MixedData, config: DataConfig) -> None:
    def say(text: str) -> None:
        console.print(text, markup=False)

    best = run.history.loc[run.history["valid_loss"].idxmin()]
    say(f" best epoch {best['epoch']:.0f} of {len(run.history)}")
    for split, by_model in run.scores.items():
        if not len(mixed.split.of(split)):
            continue
        names = list(next(iter(by_model.values())))
        say(f" {split:<26}" + "".join(f"{name:>18}" for name in names))
        for model, values in by_model.items():
            say(f"   {model:<24}" + "".join(f"{_short(values[name]):>18}" for name in names))
    say(f" {run.comparison.verdict}")
    if run.bad:
        say(f" {describe_bad(run.bad)}; all listed in {run.folder / 'bad_inputs.csv'}")
    say(f" report  {run.folder / 'report.html'}")
    images = f" --images {config.images}" if config.images is not None else ""
    say(f" next    mixfit predict {run.folder} NEW.csv -o out.csv{images}")
    if len(mixed.split.test):
        say(f"         mixfit evaluate {run.folder} {table} --split test{images}")


def _short(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
