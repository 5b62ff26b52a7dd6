"""Comparison of finished runs: scores on their common test rows, and settings that differ.

In: run folders of one table and one target. Out: ``RunComparison``, which ``report/compare_page.py`` lays out.
Training and validation rows of any of the runs are never used."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64
from rich.console import Console

from mixfit.console import PlainConsole
from mixfit.data.columns.cells import Table
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.target import judging_weights, usable_rows
from mixfit.data.fingerprint import Fingerprint, read_fingerprint
from mixfit.data.photos.records import Cache
from mixfit.data.photos.rule import images_root
from mixfit.errors import ConfigError, DataError, check_type
from mixfit.evaluation.bootstrap import FEWEST_UNITS
from mixfit.evaluation.groups import groups_if_known
from mixfit.evaluation.result import Part, Rows, headline_for, judge, metrics_for
from mixfit.files import check_new_file, is_there
from mixfit.models.model import Model
from mixfit.predictor import Predictor
from mixfit.predictor.card import refit_note
from mixfit.runs.report.compare_page import RunComparison, write_compare
from mixfit.runs.report.saved import read_predictions
from mixfit.runs.scoring import load_run, model_folder, read_table_of_run, run_config, run_settings, split_of_run
from mixfit.training.metrics import metric_label, metric_text

FEW_ROWS = 20
"""Number of common rows (or groups) below which a warning is given."""
# Locations, which do not affect the result of a run.
_NO_SETTINGS = ("table", "target", "schema", "data.cache", "data.cache_gb", "data.images")


@dataclass(frozen=True, slots=True, kw_only=True)
class _HeldBack:
    """The test rows of a run and its predictions for them."""

    rows: Int64[np.ndarray, " rows"]
    truth: np.ndarray
    values: np.ndarray
    groups: Int64[np.ndarray, " rows"] | None
    """Groups of the rows, as set in this run."""
    weight: np.ndarray | None
    """Weights of the rows, as set in this run."""


def compare_runs(
    runs: Sequence[str | PathLike[str]],
    *,
    out: str | Path = Path("compare.html"),
    table: str | Path | None = None,
    images: str | Path | None = None,
    cache: Cache | None = None,
    console: Console | None = None,
    models: Sequence[Model] = (),
    text_model: str | Path | None = None,
) -> RunComparison:
    """Compare all other runs with the first one, print the result and write a page.

    Args:
        runs: folders of runs trained on the same table with the same target.
        out: the page.
        table: path of the table; by default that of the runs.
        images: folder that photo paths are relative to; by default that of the runs.
        cache: cache of image features.
        models: your own models, as passed to ``fit``.
        text_model: folder of the text model that some of the runs were given; not needed for ``minilm``.
    Raises:
        ConfigError: there are fewer than two runs, they cannot be compared, or none has a text model from a folder.
        DataError: the table is not that of the runs, or a run folder is damaged.
    """
    console, out = console or PlainConsole(), Path(out)
    check_type("runs", runs, (list, tuple), "a list of runs or of paths of their folders")
    for run in runs:
        check_type("runs", run, (str, PathLike), "a list of runs or of paths of their folders")
    for name, path in (("table", table), ("images", images), ("text_model", text_model)):
        check_type(name, path, (str, PathLike, NoneType), "a path")
    folders = [Path(run) for run in runs]
    table, images = (None if path is None else Path(path) for path in (table, images))
    check_new_file(out)
    if len(runs) < 2:
        raise ConfigError(f"compare needs at least two runs, got {len(runs)}: mixfit compare RUN RUN")
    names = run_names(folders)
    for run in folders:
        if model_folder(run) == run:
            raise ConfigError(f"{run} is not a run folder: it has no config.toml.")
    # Small files first: models take seconds to load.
    settings, prints = differing_settings(folders), [_table_of(run) for run in folders]
    predictors, saved = list[Predictor](), list[_HeldBack | None]()
    for run in folders:
        predictors.append(load_run(run, models))
        saved.append(_read_saved(run, predictors[-1]))
    if text_model is not None:
        needed = [_text_model_of_folder(one) for one in predictors]
        if not any(needed):
            raise ConfigError("None of the runs uses a text model from a folder: leave out text_model.")
        predictors = [
            load_run(run, models, text_model) if needs else one
            for run, one, needs in zip(folders, predictors, needed, strict=True)
        ]
    _check_alike(folders, predictors, prints)
    tables = [
        None if table is None and not _needs_table(one, kept) else _read_table(run, table)
        for run, one, kept in zip(folders, predictors, saved, strict=True)
    ]
    held = {
        name: _held_back(run, one, kept, frame, images=images, cache=cache)
        for name, run, one, kept, frame in zip(names, folders, predictors, saved, tables, strict=True)
    }
    rows, truth, predictions = _in_common(held)
    together = _together(held, rows)
    schema, target = predictors[0].schema, predictors[0].target
    chosen = predictors[0].metric
    metrics = metrics_for(schema.task, target, chosen)
    weight, doubt = _weight(held, rows)
    pairs = {(name, names[0]): metrics for name in names[1:]}
    classes = {name: one.decide(predictions[name]) for name, one in zip(names, predictors, strict=True) if one.decides}
    rows_of_runs = Rows("test", truth, predictions, groups=together, weight=weight, classes=classes)
    scores = judge(rows_of_runs, metrics, pairs=pairs)
    found = RunComparison(
        target=schema.target,
        headline=headline_for(schema.task, target, chosen).name,
        scores=scores,
        test_rows={name: len(one.rows) for name, one in held.items()},
        settings=settings,
        warnings=(
            *_warnings(held, scores),
            *filter(None, [doubt, _metrics_differ(names, predictors), *_refitted(names, predictors)]),
        ),
    )
    write_compare(found, out)
    for line in _lines(found):
        console.print(line, markup=False, highlight=False, no_wrap=True, overflow="ignore", crop=False)
    console.print(f" page {out}", markup=False)
    return found


def _text_model_of_folder(predictor: Predictor) -> bool:
    """Whether a model reads texts with a text model that is not of the package."""
    learnt = predictor.text_features
    return learnt is not None and learnt.embedder is not None and learnt.embedder.facts.source == "folder"


def run_names(runs: Sequence[Path]) -> list[str]:
    """Names of runs: of their folders, with as many of the folders above as tell them apart.

    >>> run_names([Path("/a/one/x-001"), Path("/a/two/x-001"), Path("/a/y-001")])
    ['one/x-001', 'two/x-001', 'y-001']
    """
    parts = [run.resolve().parts for run in runs]

    def name(own: tuple[str, ...]) -> str:
        counts = range(1, len(own) + 1)
        alone = (n for n in counts if all(other == own or other[-n:] != own[-n:] for other in parts))
        return "/".join(own[-next(alone, 1) :])

    return unique_names([name(own) for own in parts])


def unique_names(names: Sequence[str]) -> list[str]:
    """Make names unique by appending a number to repeated ones.

    >>> unique_names(["a-001", "b-001", "a-001"])
    ['a-001', 'b-001', 'a-001 (2)']
    """
    found: list[str] = []
    for name in names:
        number, free = 1, name
        while free in found:
            number += 1
            free = f"{name} ({number})"
        found.append(free)
    return found


def differing_settings(runs: Sequence[Path]) -> dict[str, tuple[str, ...]]:
    """Settings of ``config.toml`` and column roles that differ between the runs."""
    flat = [_flat(run_config(run)) | _roles(run) for run in runs]
    names = sorted({name for settings in flat for name in settings})
    values = {name: tuple(settings.get(name, "") for settings in flat) for name in names}
    return {name: shown for name, shown in values.items() if len(set(shown)) > 1}


def _table_of(run: Path) -> Fingerprint:
    """The fingerprint of the table of a run."""
    found = read_fingerprint(run / "environment.json")
    if found is None:
        raise DataError(f"{run}/environment.json does not name the table of the run: train it again.")
    return found


def _check_alike(runs: Sequence[Path], predictors: Sequence[Predictor], prints: Sequence[Fingerprint]) -> None:
    """Refuse runs with different targets, tasks, classes or tables."""
    first, model, origin = runs[0], predictors[0], prints[0]
    for run, other, found in zip(runs[1:], predictors[1:], prints[1:], strict=True):
        differs = None
        if other.schema.target != model.schema.target:
            differs = f"the target {other.schema.target!r}", f"{model.schema.target!r}"
        elif other.schema.task != model.schema.task:
            differs = f"the task {other.schema.task}", f"{model.schema.task}"
        elif other.target.classes != model.target.classes:
            counts = [len(one.target.classes or ()) for one in (other, model)]
            differs = f"{counts[0]} classes", f"{counts[1]} other classes"
        if differs:
            raise ConfigError(
                f"{run} has {differs[0]}, but {first} has {differs[1]}: compare runs with the same target."
            )
        if found.table_sha256 != origin.table_sha256:
            raise ConfigError(f"{run} and {first} were trained on different tables: compare runs of the same table.")


def _read_saved(run: Path, predictor: Predictor) -> _HeldBack | None:
    """Test predictions saved at the end of training; None if not saved."""
    path = run / "predictions_test.parquet"
    if not is_there(path):
        return None
    try:
        found = read_predictions(path, predictor.target.classes or ())
    except DataError as error:
        raise DataError(f"{error} Remove it to recompute the predictions.") from error
    values = found.prediction if found.probabilities is None else found.probabilities
    return _HeldBack(rows=found.row, truth=found.truth, values=values, groups=found.groups, weight=found.weight)


def _needs_table(predictor: Predictor, saved: _HeldBack | None) -> bool:
    """Whether there are no saved predictions, or they lack groups or weights."""
    if saved is None:
        return True
    roles = ((saved.groups, "group"), (saved.weight, "weight"))
    return any(told is None and predictor.schema.names(role) for told, role in roles)


def _read_table(run: Path, given: Path | None) -> tuple[Path, Table]:
    """The table of a run, as it was in training."""
    path = run_settings(run).table if given is None else given
    if path is None or not path.is_file():
        raise ConfigError(f"The table of {run} is not at {path}: give its path with --table.")
    if Fingerprint.of(path, None).table_sha256 != _table_of(run).table_sha256:
        raise DataError(f"{path} is not the table that {run} was trained on: the contents differ.")
    return path, read_table_of_run(run, path)


def _held_back(
    run: Path,
    predictor: Predictor,
    saved: _HeldBack | None,
    table: tuple[Path, Table] | None,
    *,
    images: Path | None,
    cache: Cache | None,
) -> _HeldBack:
    """Predictions from the file in the run folder, or recomputed."""
    if table is None:
        assert saved is not None
        return saved
    place, cells = table[0], predictor.schema.table(table[1])
    if saved is not None:
        if len(saved.rows) and saved.rows.max() >= len(cells):
            raise DataError(f"{run}/predictions_test.parquet is damaged: it has rows that are not in {place}.")
        groups = groups_if_known(cells.select(saved.rows), predictor.schema) if saved.groups is None else saved.groups
        weight = judging_weights(cells, predictor.schema, saved.rows) if saved.weight is None else saved.weight
        return replace(saved, groups=groups, weight=weight)
    if predictor.refitted:
        raise ConfigError(
            f"{run} has no predictions_test.parquet, and its model was fitted on the test rows too: train it again."
        )
    column = cells[predictor.schema.target]
    usable, _ = usable_rows(cells, predictor.schema, 1.0)
    rows = split_of_run(run, cells, predictor.schema, usable).test
    truth = predictor.target.truth(column.select(rows))
    if predictor.target.classes is not None:
        rows, truth = rows[truth >= 0], truth[truth >= 0]
    folder = images_root(images or run_settings(run).data.images, place.parent)
    found = predictor.predictions(cells.select(rows), images=folder, cache=cache)
    groups = groups_if_known(cells.select(rows), predictor.schema)
    weight = judging_weights(cells, predictor.schema, rows)
    return _HeldBack(rows=rows, truth=truth, values=found.values, groups=groups, weight=weight)


def _in_common(
    held: dict[str, _HeldBack],
) -> tuple[Int64[np.ndarray, " rows"], np.ndarray, dict[str, np.ndarray]]:
    """Test rows common to all runs, their truth, and the predictions of each run."""
    first, *others = held.values()
    rows = first.rows
    for other in others:
        rows = np.intersect1d(rows, other.rows)
    if not len(rows):
        counts = ", ".join(f"{len(one.rows)} of {name}" for name, one in held.items())
        raise ConfigError(
            f"The runs have no test row in common (test rows: {counts}): train them with the same "
            "--seed, --test and --split-time."
        )
    places = {name: pd.Index(one.rows).get_indexer(rows) for name, one in held.items()}
    predictions = {name: one.values[places[name]] for name, one in held.items()}
    return rows, next(iter(held.values())).truth[next(iter(places.values()))], predictions


def _together(held: dict[str, _HeldBack], rows: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"] | None:
    """Groups of the common rows from any run that has groups; None without groups.

    Of several groupings the one with the fewest groups is used, which gives the widest intervals."""
    told = [one.groups[pd.Index(one.rows).get_indexer(rows)] for one in held.values() if one.groups is not None]
    return min(told, key=lambda groups: (len(np.unique(groups)), pd.factorize(groups)[0].tolist()), default=None)


def _weight(held: dict[str, _HeldBack], rows: Int64[np.ndarray, " rows"]) -> tuple[np.ndarray | None, str]:
    """Weights of the common rows from the first run that has weights, and a warning if other runs differ."""
    told = {
        name: None if one.weight is None else one.weight[pd.Index(one.rows).get_indexer(rows)].astype(np.float64)
        for name, one in held.items()
    }
    chosen, weight = next(((name, one) for name, one in told.items() if one is not None), ("", None))
    if weight is None:
        return None, ""
    others = [one for name, one in told.items() if name != chosen]
    if all(one is not None and np.allclose(one / one.mean(), weight / weight.mean()) for one in others):
        return weight, ""
    return weight, f"The runs have different weights: the rows are weighted as in {chosen}."


def _refitted(names: Sequence[str], predictors: Sequence[Predictor]) -> list[str]:
    """A note on each run whose scores are not those of its delivered model."""
    return [f"{name}: {refit_note(one.refitted)}" for name, one in zip(names, predictors, strict=True) if one.refitted]


def _metrics_differ(names: Sequence[str], predictors: Sequence[Predictor]) -> str:
    """A warning if the runs were trained for different metrics."""
    told = {name: one.metric for name, one in zip(names, predictors, strict=True)}
    if len(set(told.values())) == 1:
        return ""
    listed = ", ".join(f"{metric} in {name}" for name, metric in told.items())
    return f"The runs were trained for different metrics ({listed}): they are compared by that of {names[0]}."


def _warnings(held: dict[str, _HeldBack], scores: Part) -> list[str]:
    warnings, rows = [], scores.rows
    most = max(len(one.rows) for one in held.values())
    if rows < most:
        warnings.append(f"The runs were split differently: only {rows} of up to {most} test rows are common to all.")
    if scores.drawn < FEW_ROWS:
        drawn = f"{rows} rows" if scores.drawn == rows else f"{rows} rows in {scores.drawn} groups"
        unless = "" if scores.drawn < FEWEST_UNITS else ", unless the differences are large"
        warnings.append(f"{drawn} are too few to tell models apart{unless}.")
    if len(held) > 2:
        warnings.append("The score of the best of several runs is optimistic: evaluate it on new rows.")
    return warnings


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten sections to names such as ``train.lr``; absolute paths are shortened to their name."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if name in _NO_SETTINGS:
            continue
        if isinstance(value, dict):
            found |= _flat(value, f"{name}.")
        else:
            hidden = isinstance(value, str) and Path(value).is_absolute()
            found[name] = Path(value).name if hidden else _text(value)
    return found


def _roles(run: Path) -> dict[str, str]:
    """Role of each column."""
    path = run / "schema.json"
    columns = Schema.load(path).columns if is_there(path) else ()
    return {f"role of {column.name}": column.role for column in columns}


def _lines(found: RunComparison) -> list[str]:
    """Lines for the terminal."""
    scores = found.scores.scores
    names = list(scores[0].metrics)
    width = max(24, *(len(one.model) + 2 for one in scores))
    lines = [
        f" {found.scores.rows} test rows common to all runs",
        f"   {'':<{width}}" + "".join(f"{metric_label(name):>19}" for name in names),
    ]
    for one in scores:
        lines.append(f"   {one.model:<{width}}" + "".join(f"{metric_text(one.metrics[name]):>19}" for name in names))
    lines.append(f" differences to {scores[0].model}, with paired 95 % intervals")
    for difference in found.scores.differences:
        value, interval = difference.texts
        lines.append(
            f"   {difference.model:<{width}}{metric_label(difference.metric):>19}{value:>12}"
            f"   {interval:<26}{difference.finding}"
        )
    if found.settings:
        lines.append(" settings that differ")
        lines += [
            f"   {name:<{width}}{' | '.join(value or '-' for value in values)}"
            for name, values in found.settings.items()
        ]
    return [*lines, *(f" {one}" for one in found.sentences()), *(f" warning: {one}" for one in found.warnings)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
