"""The automatic whole: from a table to a run folder with a trained model, its baselines and a report."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.data.augment import augmentation
from mixfit.data.bad_inputs import BadInput, describe_bad, write_bad_inputs
from mixfit.data.dataset import FeatureTable
from mixfit.data.load import MixedData, load_data
from mixfit.data.schema import Schema
from mixfit.data.store import ImageSource
from mixfit.device import default_device
from mixfit.errors import ConfigError
from mixfit.evaluation.baselines import BOOSTED_TREES, boosted_trees, constant
from mixfit.evaluation.scores import Comparison, JudgedSplit, Rows, compare, headline_for, metrics_for, score
from mixfit.files import explained
from mixfit.nn.model import MixedInputModel, is_frozen
from mixfit.predictor import Predictor, unreadable_photos
from mixfit.report.content import ModelKind, ReportContent, Score
from mixfit.report.page import write_report
from mixfit.run_folder import describe_environment, new_run_folder, run_name, shown_path, write_settings
from mixfit.training.build import build_model, precompute_features
from mixfit.training.callbacks.control import EarlyStopping
from mixfit.training.callbacks.progress import ProgressLines
from mixfit.training.callbacks.recorder import Recorder
from mixfit.training.learner import Learner
from mixfit.training.loss import cross_entropy, mse
from mixfit.training.optimizer import AdamW

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
    schema: Schema | None = None,
    out: str | Path = "runs",
    console: Console | None = None,
) -> Run:
    """Train on a table and its photos; write the run folder ``out/<table>-<target>-NNN``.

    Args:
        table: a CSV, TSV, Parquet, Feather or JSON Lines file; photo paths in it start from its folder.
        target: the column to predict.
        data, model, train: settings; the defaults suit a laptop.
        schema: roles that are known already.
        out: where run folders are made.
        console: where progress is written, by default standard output; ``Console(quiet=True)`` for silence.
    Raises:
        ConfigError, DataError, ResourceError, Diverged: with one sentence that says what to do.
    """
    data_config, model_config = data or DataConfig(), model or ModelConfig()
    model_config = replace(model_config, freeze_backbone=is_frozen(model_config))
    train_config, console = train or TrainConfig(), console or Console(soft_wrap=True)
    if train_config.augment != "none" and model_config.freeze_backbone:
        raise ConfigError(
            f"--augment {train_config.augment} needs an image network that is trained on pixels: "
            "add --no-freeze-backbone or --backbone small_resnet."
        )
    table = Path(table)
    device = default_device()
    mixed = load_data(
        table,
        target=target,
        config=data_config,
        schema=schema,
        batch_size=train_config.batch_size,
        seed=train_config.seed,
        transforms=augmentation(train_config.augment),
        device=device,
    )
    data_config = replace(data_config, image_size=mixed.image_size)
    train_config = replace(train_config, batch_size=mixed.batch_size)
    folder = new_run_folder(Path(out), run_name(table, target))
    settings = write_settings(folder, table, target, mixed.schema, data_config, model_config, train_config)
    _say_start(console, folder, mixed, device, train_config)

    clock = _Clock()
    network = build_model(mixed, model_config, seed=train_config.seed).to(device)
    pixels, mixed = mixed.source, _with_features(mixed, network, console)
    recorder = _train(network, mixed, train_config, folder, console)
    train_seconds = clock.lap()
    trees, nothing = boosted_trees(mixed, seed=train_config.seed), constant(mixed)

    ours = OURS if mixed.photos is not None else OURS_TABLE_ONLY
    judged = [_judge(network, mixed, name, {ours: None, trees.name: trees, nothing.name: nothing}) for name in JUDGED]
    metrics = metrics_for(mixed.schema.task, mixed.target)
    scores = {rows.split: score(rows, metrics) for rows in judged}
    headline = headline_for(mixed.schema.task, mixed.target)
    final = judged[1] if len(judged[1].truth) else judged[0]
    comparison = compare(final, headline, ours, BOOSTED_TREES)
    bad = [*mixed.bad, *_unreadable(mixed, pixels)]
    predictor = Predictor.from_training(
        network,
        mixed,
        model_config,
        crop=data_config.crop,
        metrics={split: json_numbers(by_model[ours]) for split, by_model in scores.items()},
    )
    predictor.save(folder / "model")
    with explained(folder, None):
        write_bad_inputs(bad, folder / "bad_inputs.csv")
        _predictions_frame(mixed, judged[0], ours).to_parquet(folder / "predictions_valid.parquet")
    seconds = {ours: train_seconds, trees.name: trees.seconds, nothing.name: nothing.seconds}
    kinds: dict[str, ModelKind] = {ours: "ours", trees.name: "table", nothing.name: "constant"}
    write_report(
        ReportContent(
            title=run_name(table, target),
            target=target,
            schema=mixed.schema,
            rows={"train": len(mixed.split.train), "valid": len(mixed.split.valid), "test": len(mixed.split.test)},
            headline_metric=headline.name,
            higher_is_better=headline.higher_is_better,
            verdict=comparison.verdict,
            scores=[
                Score(model=model, kind=kinds[model], split=split, metrics=values, seconds=seconds[model])
                for split, by_model in scores.items()
                for model, values in by_model.items()
            ],
            history=recorder.history,
            predicted_split=final.split,
            truth=final.truth,
            prediction=final.predictions[ours] if mixed.target.classes is None else final.predictions[ours].argmax(1),
            classes=mixed.target.classes or (),
            log_scale=mixed.target.log,
            bad_inputs=bad,
            warnings=[
                f"{column.name}: {column.note}" for column in mixed.schema.columns if "suspicious" in column.note
            ],
            command=f"mixfit train {shown_path(table)} --target {target}",
            settings=settings,
            environment=describe_environment(),
        ),
        folder / "report.html",
    )
    run = Run(
        folder=folder, predictor=predictor, scores=scores, comparison=comparison, history=recorder.history, bad=bad
    )
    _say_end(console, run, table, mixed)
    return run


def _with_features(mixed: MixedData, network: MixedInputModel, console: Console) -> MixedData:
    """Run a frozen backbone once over all photos."""
    if network.image is None or not network.image.frozen:
        return mixed
    clock = _Clock()
    with_features = precompute_features(mixed, network, progress=console.is_terminal and not console.quiet)
    if isinstance(with_features.source, FeatureTable):
        files = len(with_features.source.readable)
        console.print(f" {files:,} photos through the frozen image network in {clock.lap():.0f} s", highlight=False)
    return with_features


def _train(network: MixedInputModel, mixed: MixedData, config: TrainConfig, folder: Path, console: Console) -> Recorder:
    """Train until the validation loss no longer improves; the best weights stay in ``network``."""
    recorder = Recorder(folder)
    headline = headline_for(mixed.schema.task, mixed.target)
    learner = Learner(
        network,
        mixed,
        loss=mse if mixed.schema.task == "regression" else cross_entropy,
        optimizer=AdamW,
        metrics=metrics_for(mixed.schema.task, mixed.target),
        callbacks=[
            recorder,
            ProgressLines(headline.name, console=console),
            EarlyStopping("valid_loss", mode="min", patience=config.patience),
        ],
        weight_decay=config.weight_decay,
    )
    learner.fit_one_cycle(config.epochs, config.lr)
    return recorder


def _judge(network: MixedInputModel, mixed: MixedData, split: JudgedSplit, models: dict[str, Any]) -> Rows:
    """Predictions of the network (None) and of the baselines for the rows of a split."""
    learner = Learner(network, mixed, loss=mse)
    rows = mixed.split.of(split)
    truth = mixed.target.truth(mixed.frame[mixed.schema.target].iloc[rows])
    predictions: dict[str, np.ndarray] = {}
    for name, baseline in models.items():
        if baseline is not None:
            predictions[name] = baseline.predictions[split]
        elif len(rows):
            predictions[name] = mixed.target.decode(learner.predict(mixed.rows(split))[0].float().numpy())
        else:
            shape = (0,) if mixed.target.classes is None else (0, len(mixed.target.classes))
            predictions[name] = np.zeros(shape)
    return Rows(split, truth, predictions)


def _unreadable(mixed: MixedData, pixels: ImageSource | FeatureTable | None) -> list[BadInput]:
    """Photos whose file is there but could not be decoded."""
    if mixed.photos is None or pixels is None or isinstance(pixels, FeatureTable):
        return []
    return unreadable_photos(mixed.frame, mixed.photos, pixels.failures)


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


def _suspicious(schema: Schema) -> list[str]:
    """Columns that may give the target away."""
    return [f"{column.name}: {column.note}" for column in schema.columns if "suspicious" in column.note]


def json_numbers(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no nan."""
    return {name: None if np.isnan(value) else value for name, value in values.items()}


def _say_start(console: Console, folder: Path, mixed: MixedData, device: torch.device, config: TrainConfig) -> None:
    split = mixed.split
    threads = f" ({torch.get_num_threads()} threads)" if device.type == "cpu" else ""
    console.print(
        f" run {folder}   device {device}{threads}   seed {config.seed}   "
        f"{len(split.train)} train / {len(split.valid)} valid / {len(split.test)} test",
        highlight=False,
        markup=False,
    )
    for line in _suspicious(mixed.schema):
        console.print(f" warning: {line}", highlight=False, markup=False)


def _say_end(console: Console, run: Run, table: Path, mixed: MixedData) -> None:
    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

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
    say(f" next    mixfit predict {run.folder} NEW.csv -o out.csv")
    say(f"         mixfit evaluate {run.folder} {table} --split test")


def _short(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
