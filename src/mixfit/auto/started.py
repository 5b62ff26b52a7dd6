"""A run that has begun: what both ways of training need, and what they do alike.

In: prepared data, settings and the folder of the run. Out: its first lines, the files of its folder, its last lines."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console

from mixfit.auto.budget import EXPLAINED_SHARE, explained
from mixfit.auto.cost import Sizes
from mixfit.auto.preparation import Prepared
from mixfit.auto.timetable import Timetable
from mixfit.data.checks.copies import COPY_LEFT_OUT
from mixfit.data.columns.infer import OTHER_TASKS
from mixfit.data.fingerprint import row_prints
from mixfit.data.load import MixedData
from mixfit.data.split import Split, describe_times
from mixfit.ensemble.cross_fit import Fits
from mixfit.evaluation.explain import explained_columns, explained_texts
from mixfit.evaluation.facts import model_facts
from mixfit.evaluation.result import JudgedSplit, Result, Rows
from mixfit.files import json_numbers
from mixfit.models.model import Model
from mixfit.predictor import Predictor
from mixfit.runs.folder import settings_digest, write_split
from mixfit.runs.results import Run, say_end, write_results
from mixfit.training.callback import Callback


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedRun:
    """A run whose data are prepared and whose settings are written."""

    folder: Path
    prepared: Prepared
    settings: dict[str, object]
    """As ``write_settings`` wrote them."""
    console: Console
    command: str
    """For the report."""
    callbacks: Sequence[Callback]
    models: Sequence[Model]
    """The user's."""
    advice: str
    """How to resume after a signal."""
    timetable: Timetable
    fits: Fits | None
    """Fits the models of each fold in other processes."""
    warnings: list[str]
    notes: list[str]

    def say(self, line: str) -> None:
        """Print a line."""
        self.console.print(f" {line}", markup=False)

    def warn(self, lines: Sequence[str]) -> "StartedRun":
        """Print further warnings, and keep them for the report."""
        for line in lines:
            self.say(f"warning: {line}")
        return replace(self, warnings=[*self.warnings, *lines])


def digest_of(prepared: Prepared) -> str:
    """A digest of all settings and data that affect the models of a run."""
    return settings_digest(
        prepared.data.schema,
        prepared.data_config,
        prepared.model_config,
        prepared.train_config,
        prepared.fingerprint,
    )


def write_parts(folder: Path, mixed: MixedData) -> None:
    """Write the part of each row of the table and what it is known again by; rows of weight 0 have none."""
    split = Split(*(mixed.row_numbers[rows] for rows in mixed.split.parts().values()))
    prints = np.zeros(len(mixed.table) + mixed.weightless, dtype=np.int64)
    prints[mixed.row_numbers] = row_prints(mixed.table, mixed.schema)
    write_split(folder, split, len(prints), prints)


def say_start(run: StartedRun) -> None:
    """Print what is trained on which rows, and what is to be known of them."""
    mixed, split = run.prepared.data, run.prepared.data.split
    console, data = run.console, run.prepared.data_config
    threads = f" ({torch.get_num_threads()} threads)" if mixed.device.type == "cpu" else ""
    console.print(
        f" run {run.folder}   device {mixed.device}{threads}   seed {run.prepared.train_config.seed}   "
        f"{len(split.train)} train / {len(split.valid)} valid / {len(split.test)} test",
        markup=False,
    )
    schema = mixed.schema
    note = next(column.note for column in schema.columns if column.name == schema.target)
    if schema.task == "count" or OTHER_TASKS in note:
        hint = f"; {note}" if OTHER_TASKS in note else ""
        console.print(f" target {schema.target!r}: {schema.task_reason}{hint}", markup=False)
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
    for line in run.warnings:
        console.print(f" warning: {line}", markup=False)
    for line in run.notes:
        console.print(f" note: {line}", markup=False)


def explained_size(
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


def save_model(
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


def finish(
    started: StartedRun,
    run: Run,
    mixed: MixedData,
    judged: dict[JudgedSplit, Rows],
    *,
    explained_size: tuple[int, int] | None,
    seconds: float,
    interval: tuple[np.ndarray, np.ndarray] | None = None,
    watched: tuple[str, Literal["min", "max"]] = ("valid_loss", "min"),
) -> Run:
    """Write the results and the report, and print the scores.

    Args:
        mixed, judged, explained_size, interval: see ``write_results``.
        seconds: estimated, of the report.
        watched: see ``say_end``.
    """
    prepared, timetable = started.prepared, started.timetable
    with timetable.stage("report", seconds, learn=False):
        write_results(
            run,
            mixed,
            judged,
            started.settings,
            started.command,
            started.warnings,
            started.notes,
            images=prepared.images,
            interval=interval,
            explained_size=explained_size,
            page=prepared.train_config.report,
        )
    say_end(started.console, run, prepared.table, prepared.data_config, watched)
    started.console.print(f" time    {timetable.elapsed:.0f} s", markup=False, highlight=False)
    return run
