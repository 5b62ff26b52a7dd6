"""A finished run applied to a table: ``evaluate`` where the truth is known, ``predict`` where it is not."""

import json
import time
import tomllib
from hashlib import file_digest
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from rich.console import Console

from mixfit.config import TextConfig
from mixfit.data.bad_inputs import BadInput, describe_bad
from mixfit.data.photo_cells import bytes_columns
from mixfit.data.split import split_rows
from mixfit.data.table import read_as_configured
from mixfit.data.table_writer import write_table
from mixfit.data.target import usable_rows
from mixfit.errors import ConfigError, DataError
from mixfit.evaluation.bootstrap import bootstrap_interval
from mixfit.evaluation.scores import metrics_for
from mixfit.files import write_file
from mixfit.predictor import Predictor
from mixfit.recipe import json_numbers
from mixfit.suggest import unknown_column
from mixfit.training.metrics import evaluate

SplitChoice = Literal["train", "valid", "test", "all"]
BadRows = Literal["mark", "drop", "fail"]


def load_run(run: Path) -> Predictor:
    """The predictor of a run folder, or of a model folder itself.

    Raises:
        ConfigError: there is no such folder, or its training never finished.
    """
    if not run.is_dir():
        known = sorted(path.name for path in run.parent.glob("*-[0-9][0-9][0-9]")) if run.parent.is_dir() else []
        raise ConfigError(f"There is no run folder {run}; the runs there are: {', '.join(known[-5:]) or 'none'}.")
    if (run / "mixfit.json").is_file():
        return Predictor.load(run)
    if not (run / "model").is_dir():
        raise ConfigError(f"{run} holds no finished model; its training was stopped before the end. Train again.")
    return Predictor.load(run / "model")


def evaluate_table(
    run: Path,
    table: Path,
    *,
    split: SplitChoice | None = None,
    images: Path | None = None,
    out: Path | None = None,
    text: TextConfig | None = None,
    console: Console | None = None,
) -> dict[str, float]:
    """Metrics of a run on rows whose target is known, printed with 95 % intervals and written as JSON.

    Args:
        split: by default ``test`` for the table that the run was trained on, all rows of any other.
        images: folder that the photo paths start from, by default the table's.
        out: JSON file, by default ``metrics-SPLIT.json`` in the run folder.
        text: how a text table is written, by default found out.
    Raises:
        ConfigError: the table lacks the target, or its rows cannot be told into splits.
        DataError: no row of that split has a target.
    """
    predictor, console = load_run(run), console or Console(soft_wrap=True)
    frame, _ = read_as_configured(table, text or TextConfig())
    name = predictor.schema.target
    if name not in frame.columns:
        raise unknown_column(name, frame.columns)
    usable, left_out = usable_rows(frame, predictor.schema, 1.0)
    chosen = split or ("test" if _is_training_table(run, table) else "all")
    rows = _rows_of(run, table, frame, predictor, usable, chosen)
    truth = predictor.target.truth(frame[name].iloc[rows])
    if predictor.target.classes is not None and (truth < 0).any():
        first = rows[np.flatnonzero(truth < 0)[0]]
        raise DataError(
            f"{(truth < 0).sum()} of {len(rows)} rows have a class that the model was not trained on, the first in "
            f"row {first}: {frame[name].iloc[first]!r}. Leave those rows out."
        )
    found = predictor.predictions(frame.iloc[rows], images=images or table.parent)
    metrics = metrics_for(predictor.schema.task, predictor.target)
    values = evaluate(metrics, truth, found.values)
    intervals = {metric.name: bootstrap_interval(metric, truth, found.values) for metric in metrics}

    console.print(f" {table}   {chosen} rows: {len(rows)}", highlight=False, markup=False)
    for metric_name, value in values.items():
        low, high = intervals[metric_name]
        console.print(f"   {metric_name:<20}{value:>14.6g}   95 % CI {low:.4g} to {high:.4g}", highlight=False)
    bad = [*left_out, *_in_table_rows(found.bad, rows)]
    if bad:
        console.print(f" {describe_bad(bad)}", highlight=False, markup=False)
    ends = {f"{key}_ci95": [None if np.isnan(end) else end for end in pair] for key, pair in intervals.items()}
    path = (run / f"metrics-{chosen}.json") if out is None else out
    write_file(path, json.dumps({"split": chosen, "rows": len(rows), **json_numbers(values), **ends}, indent=1))
    console.print(f" metrics {path}", highlight=False, markup=False)
    return values


def predict_table(
    run: Path,
    table: Path,
    *,
    out: Path,
    images: Path | None = None,
    bad_rows: BadRows = "mark",
    raw_csv: bool = False,
    text: TextConfig | None = None,
    console: Console | None = None,
) -> None:
    """Predict the rows of a table and write them to ``out`` with all their columns, the predictions and a status.

    Args:
        images: folder that the photo paths start from, by default the table's.
        bad_rows: mark rows with broken cells or photos in the status, drop them, or refuse the table.
        raw_csv: leave text cells that a spreadsheet would run as formulas as they are.
        text: how a text table is written, by default found out.
    Raises:
        DataError: a column that the model needs is missing, or ``bad_rows="fail"`` and there are such rows.
    """
    started, console = time.perf_counter(), console or Console(soft_wrap=True)
    predictor = load_run(run)
    frame, _ = read_as_configured(table, text or TextConfig())
    found = predictor.predictions(frame, images=images or table.parent)
    broken = sorted({record.row for record in found.bad})
    if broken and bad_rows == "fail":
        raise DataError(f"{len(broken)} of {len(frame)} rows are broken: {describe_bad(found.bad)}.")
    columns = predictor.as_frame(found, frame.index)
    taken = {name: f"{name}_mixfit" for name in columns if name in frame.columns}
    written = pd.concat([frame, columns.rename(columns=taken)], axis=1)
    if bad_rows == "drop":
        written = written.drop(index=broken)
    held = [] if out.suffix.lower() in (".parquet", ".pq") else bytes_columns(written)
    write_table(written.drop(columns=held), out, raw=raw_csv)
    if held:
        listed = ", ".join(held)
        console.print(
            f" left out of {out}: {listed} (bytes; a .parquet file keeps them)", highlight=False, markup=False
        )
    ok = sum(status == "ok" for status in found.status)
    no_photo = sum(status == "no photo" for status in found.status)
    console.print(
        f" {len(frame)} rows: {ok} ok, {no_photo} without photo, {len(broken)} with broken cells or photos"
        f"{' (dropped)' if bad_rows == 'drop' else ''} -> status column   {time.perf_counter() - started:.1f} s",
        highlight=False,
    )
    if found.bad:
        console.print(f" {describe_bad(found.bad)}", highlight=False, markup=False)
    console.print(f" written {out}", highlight=False, markup=False)


def _rows_of(
    run: Path, table: Path, frame: pd.DataFrame, predictor: Predictor, usable: np.ndarray, split: SplitChoice
) -> np.ndarray:
    """Positions of the rows to judge; all have a target."""
    positions = np.flatnonzero(usable)
    if split != "all":
        config = _run_config(run)
        given = predictor.schema.names("split")
        if not given and not _is_training_table(run, table):
            raise ConfigError(
                f"The {split} rows were drawn by chance from the table that the run was trained on, and {table} is "
                "another one: use --split all."
            )
        data = config.get("data", {})
        found = split_rows(
            frame.iloc[positions],
            predictor.schema,
            valid=data.get("valid", 0.15),
            test=data.get("test", 0.15),
            seed=config.get("train", {}).get("seed", 0),
        )
        positions = positions[found.of(split)]
    if not len(positions):
        raise DataError(f"{table} has no {split} row with a target.")
    return positions


def _run_config(run: Path) -> dict[str, Any]:
    path = run / "config.toml"
    if not path.is_file():
        raise ConfigError(f"{run} has no config.toml that tells how the rows were split: use --split all.")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _is_training_table(run: Path, table: Path) -> bool:
    """Whether the run was trained on just this file."""
    environment = run / "environment.json"
    if not environment.is_file():
        return False
    with table.open("rb") as file:
        fingerprint = file_digest(file, "sha256").hexdigest()
    return bool(json.loads(environment.read_text(encoding="utf-8")).get("table_sha256") == fingerprint)


def _in_table_rows(bad: list[BadInput], rows: np.ndarray) -> list[BadInput]:
    """Records counted in chosen rows -> counted in rows of the table."""
    return [
        BadInput(row=int(rows[b.row]), column=b.column, value=b.value, problem=b.problem, action=b.action) for b in bad
    ]
