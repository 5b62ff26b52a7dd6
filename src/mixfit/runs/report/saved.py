"""The files of a run folder for its report: ``report.json``, thumbnails in ``report_files``, and the predictions of
validation and test rows; with result, history, schema and bad inputs, the page shows nothing else.

In: ``ReportFacts``, predictions and thumbnails. Out: the files, and from them ``ReportContent``: nothing outside the
folder is needed, so a report can be rewritten without the table and its photos."""

import base64
import io
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float, Int64

from mixfit.choices import NUMBER_TASKS
from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.schema import Schema
from mixfit.data.photos.decode import ImageError, image_header
from mixfit.data.table.read import saved_columns
from mixfit.errors import DataError
from mixfit.evaluation.result import RESULTS, Rows, read_result, read_versioned
from mixfit.files import (
    explained,
    from_plain,
    is_there,
    read_csv,
    read_file,
    shown,
    to_plain,
    write_file,
)
from mixfit.runs.report.content import ReportContent, ReportFacts
from mixfit.runs.report.watched import check_watched

VERSION = 2
FACTS, FILES, HISTORY, BAD = "report.json", "report_files", "history.csv", "bad_inputs.csv"
_MOST_PHOTO = 2**22  # bytes
PROBABILITY = "probability_"
OF_MODEL, TRUE_CLASS = "prediction: ", "probability of the truth: "
"""Column prefixes for the models that ours is compared with."""


def write_facts(folder: Path, facts: ReportFacts, photos: Mapping[str, bytes]) -> None:
    """Write ``report.json`` and the thumbnails, replacing older ones.

    Args:
        photos: small JPEGs by their names in the facts.
    """
    files = folder / FILES
    text = json.dumps({"version": VERSION, **to_plain(facts)}, indent=1, ensure_ascii=False)
    with explained(files, None):
        if files.exists():
            shutil.rmtree(files)
        files.mkdir()
        for name, content in photos.items():
            (files / name).write_bytes(content)
    write_file(folder / FACTS, text.encode("utf-8", "backslashreplace"))


def read_facts(folder: Path) -> ReportFacts:
    """Read ``report.json`` of a run folder.

    Raises:
        ConfigError: the file does not exist.
        DataError: it is damaged, or written by another version of mixfit.
    """
    return from_plain(ReportFacts, read_versioned(folder, FACTS, VERSION), FACTS)


def read_content(folder: Path) -> ReportContent:
    """Read everything that the report of a run shows.

    Raises:
        ConfigError: the folder is not that of a finished run.
        DataError: a file in it is damaged.
    """
    result, facts = read_result(folder), read_facts(folder)
    _check(facts)
    schema = Schema.load(folder / "schema.json", kinds=None)
    if (schema.task in NUMBER_TASKS) != (not facts.classes):
        raise DataError(f"{FACTS} is damaged: its classes do not match the task {schema.task}.")
    if (result.target, result.task) != (schema.target, schema.task):
        raise DataError(f"{RESULTS} is damaged: its target is not that of {folder / 'schema.json'}.")
    found = read_predictions(folder / f"predictions_{result.final.split}.parquet", facts.classes)
    return ReportContent(
        **{one.name: getattr(facts, one.name) for one in fields(ReportFacts)},
        result=result,
        schema=schema,
        history=_history(folder / HISTORY),
        truth=found.truth,
        prediction=found.prediction,
        predicted_rows=found.row,
        probabilities=found.probabilities,
        interval=found.interval,
        weight=found.weight,
        photo_files=_photo_files(folder, facts),
        bad_inputs=_bad_inputs(folder / BAD),
    )


def _check(facts: ReportFacts) -> None:
    """Check the consistency of the facts.

    Raises:
        DataError: they are inconsistent.
    """
    for one in [] if facts.data is None else facts.data.distributions:
        if len(one.labels) != len(one.counts):
            raise DataError(f"{FACTS} is damaged: {len(one.labels)} labels for {len(one.counts)} counts.")
    if len(set(facts.classes)) != len(facts.classes) or len(facts.classes) == 1:
        raise DataError(f"{FACTS} is damaged: a class is repeated.")
    if facts.watched is not None:
        check_watched(facts.watched)


def _history(path: Path) -> pd.DataFrame:
    """The history by epoch; empty if there is none."""
    if not is_there(path):
        return pd.DataFrame()
    names, rows = read_csv(path)
    try:
        numbers = [[float(cell) if cell else math.nan for cell in row] for row in rows]
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}.") from error
    return pd.DataFrame(np.array(numbers, dtype=np.float64).reshape(len(rows), len(names)), columns=names)


def _bad_inputs(path: Path) -> list[BadInput]:
    if not is_there(path):
        return []
    names, rows = read_csv(path)
    if sorted(names) != sorted(BadInput.__dataclass_fields__):
        raise DataError(f"{path} is damaged: it has the wrong columns.")
    found = [dict(zip(names, row, strict=True)) for row in rows]
    odd = [cells["row"] for cells in found if not (cells["row"].isdecimal() and len(cells["row"]) < 16)]
    if odd:
        raise DataError(f"{path} is damaged: {shown(odd[0])!r} is not a row number.")
    return [BadInput(**{**cells, "row": int(cells["row"])}) for cells in found]  # type: ignore[arg-type]


def _photo_files(folder: Path, facts: ReportFacts) -> dict[str, str]:
    """Existing thumbnails; the page reports missing ones."""
    rows = [*facts.worst, *([] if facts.data is None else facts.data.samples)]
    names = {photo.file for row in rows for photo in row.photos if photo.file}
    found = {}
    for name in sorted(names):
        path = folder / FILES / Path(name).name  # never outside of the folder, whatever the file says
        if "\0" in name or not is_there(path):
            continue
        content = read_file(path, inside=folder, most=_MOST_PHOTO)
        try:
            kind = image_header(content).format
        except ImageError as error:
            raise DataError(f"{path} is damaged: it {error}.") from error
        if kind != "JPEG":
            raise DataError(f"{path} is damaged: it is not a JPEG.")
        found[name] = "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedPredictions:
    """Predictions of our model in a file."""

    row: Int64[np.ndarray, " rows"]
    truth: np.ndarray
    """Numbers, or class indices, ``(rows,)``."""
    prediction: np.ndarray
    """The same."""
    probabilities: np.ndarray | None
    """``(rows, classes)``; None for numbers."""
    interval: tuple[np.ndarray, np.ndarray] | None
    groups: Int64[np.ndarray, " rows"] | None = None
    """Group number of each row, if rows are grouped."""
    weight: Float[np.ndarray, " rows"] | None = None
    """Weights of the rows; None for equal weights."""


def predictions_frame(
    rows: Rows,
    positions: np.ndarray,
    ours: str,
    others: list[str],
    classes: tuple[str, ...] | None,
    interval: tuple[np.ndarray, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Columns: row number, group and weight if there are any, truth, our prediction with its interval or probabilities,
    and the predictions of other models.

    Args:
        positions: of the rows in the table, ``(rows,)``.
    """
    columns: dict[str, np.ndarray] = {"row": positions}
    if rows.groups is not None:
        columns["group"] = rows.groups
    if rows.weight is not None:
        columns["weight"] = rows.weight
    found = rows.predictions[ours]
    if classes is None:
        columns |= {"truth": rows.truth, "prediction": found}
        if interval is not None:
            columns["lower"], columns["upper"] = interval
        return pd.DataFrame(columns | {OF_MODEL + name: rows.predictions[name] for name in others})
    names = np.array(classes)
    columns |= {"truth": names[rows.truth], "prediction": names[rows.decisions(ours)]}
    columns |= {PROBABILITY + name: found[:, place] for place, name in enumerate(classes)}
    for name in others:
        theirs = rows.predictions[name]
        columns[OF_MODEL + name] = names[rows.decisions(name)]
        columns[TRUE_CLASS + name] = theirs[np.arange(len(theirs)), rows.truth]
    return pd.DataFrame(columns)


def write_predictions(frame: pd.DataFrame, path: Path) -> None:
    """Write the file atomically."""
    content = io.BytesIO()  # pyarrow cannot open paths with characters outside the locale
    frame.to_parquet(content)
    write_file(path, content.getvalue())


def read_predictions(path: Path, classes: tuple[str, ...]) -> SavedPredictions:
    """Read the predictions of our model.

    Args:
        classes: names by index; empty for numbers.
    Raises:
        DataError: the file is missing, damaged, or not of these classes.
    """
    needed = ["row", "truth", "prediction", *(PROBABILITY + name for name in classes)]
    frame = saved_columns(path, needed, ["group", "weight", "lower", "upper"])
    row = _whole(frame, "row", path)
    if len(np.unique(row)) != len(row):
        raise DataError(f"{path} is damaged: a row is repeated.")
    groups = _whole(frame, "group", path) if "group" in frame.column_names else None
    weight = _finite(frame, "weight", path).astype(np.float32) if "weight" in frame.column_names else None
    if weight is not None and not (np.isfinite(weight).all() and (weight > 0).all()):
        raise DataError(f"{path} is damaged: a weight is not above 0.")
    if not classes:
        interval = None
        if {"lower", "upper"} & set(frame.column_names):
            interval = _finite(frame, "lower", path), _finite(frame, "upper", path)
        return SavedPredictions(
            row=row,
            truth=_finite(frame, "truth", path),
            prediction=_finite(frame, "prediction", path),
            probabilities=None,
            interval=interval,
            groups=groups,
            weight=weight,
        )
    probabilities = [_finite(frame, PROBABILITY + name, path) for name in classes]
    return SavedPredictions(
        row=row,
        truth=_number_of_class(frame, "truth", classes, path),
        prediction=_number_of_class(frame, "prediction", classes, path),
        probabilities=np.clip(np.stack(probabilities, axis=1), 0, 1),
        interval=None,
        groups=groups,
        weight=weight,
    )


def _whole(table: pa.Table, name: str, path: Path) -> Int64[np.ndarray, " rows"]:
    """Check and return non-negative integers."""
    column = table[name]
    if not pa.types.is_integer(column.type) or column.null_count:
        raise DataError(f"{path} is damaged: column {name!r} does not hold whole numbers.")
    values = column.to_numpy()
    if len(values) and not 0 <= values.min() <= values.max() < 2**53:
        raise DataError(f"{path} is damaged: column {name!r} has an invalid row or group number.")
    return values.astype(np.int64)


def _finite(table: pa.Table, name: str, path: Path) -> np.ndarray:
    """Check and return finite numbers as float64."""
    kind = None if name not in table.column_names else table[name].type
    if kind is None or not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise DataError(f"{path} is damaged: column {shown(name)!r} does not hold numbers.")
    values = np.asarray(table[name].to_numpy(), dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{path} is damaged: column {shown(name)!r} is not finite.")
    return values


def _number_of_class(table: pa.Table, name: str, classes: tuple[str, ...], path: Path) -> Int64[np.ndarray, " rows"]:
    """Check and return class indices."""
    column, kinds = table[name], pa.types
    if not (kinds.is_string(column.type) or kinds.is_large_string(column.type)):
        raise DataError(f"{path} is damaged: column {name!r} does not hold classes.")
    numbers = pd.Index(classes, dtype="str").get_indexer(pd.Index(column.to_pandas(), dtype="str"))
    if (numbers < 0).any():
        raise DataError(f"{path} is not of this run: column {name!r} has other classes.")
    return numbers.astype(np.int64)
