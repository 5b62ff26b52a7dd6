"""Predictions of the rows that judge, as a file of the run folder.

In: truth and predictions by model. Out: ``predictions_valid.parquet`` and ``predictions_test.parquet``, and from them
the same again. Of other models than ours there is of classes only what most metrics need: the predicted class, and the
probability of the true one."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float, Int64

from mixfit.data.table.read import saved_columns
from mixfit.errors import DataError
from mixfit.evaluation.scores import Rows
from mixfit.files import shown, write_file

PROBABILITY = "probability_"
OF_MODEL, TRUE_CLASS = "prediction: ", "probability of the truth: "
"""Before the name of a model that ours is compared with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedPredictions:
    """What a file of predictions holds of our model."""

    row: Int64[np.ndarray, " rows"]
    truth: np.ndarray
    """Numbers, or class indices, ``(rows,)``."""
    prediction: np.ndarray
    """The same."""
    probabilities: np.ndarray | None
    """``(rows, classes)``; None for numbers."""
    interval: tuple[np.ndarray, np.ndarray] | None
    groups: Int64[np.ndarray, " rows"] | None = None
    """Number of the group of each row, where rows belong together."""
    weight: Float[np.ndarray, " rows"] | None = None
    """How much each row counts; None for all alike."""


def predictions_frame(
    rows: Rows,
    positions: np.ndarray,
    ours: str,
    others: list[str],
    classes: tuple[str, ...] | None,
    interval: tuple[np.ndarray, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Row number, group where rows belong together, weight where rows have one, truth, our prediction with its interval
    or its probabilities, and the predictions of other models.

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
    columns |= {"truth": names[rows.truth], "prediction": names[found.argmax(1)]}
    columns |= {PROBABILITY + name: found[:, place] for place, name in enumerate(classes)}
    for name in others:
        theirs = rows.predictions[name]
        columns[OF_MODEL + name] = names[theirs.argmax(1)]
        columns[TRUE_CLASS + name] = theirs[np.arange(len(theirs)), rows.truth]
    return pd.DataFrame(columns)


def write_predictions(frame: pd.DataFrame, path: Path) -> None:
    """Write the file whole or not at all."""
    content = io.BytesIO()  # pyarrow itself opens no path whose letters the locale does not have
    frame.to_parquet(content)
    write_file(path, content.getvalue())


def read_predictions(path: Path, classes: tuple[str, ...]) -> SavedPredictions:
    """Read what of our model was written.

    Args:
        classes: names by index; empty for numbers.
    Raises:
        DataError: the file is missing, damaged, or not of these classes.
    """
    needed = ["row", "truth", "prediction", *(PROBABILITY + name for name in classes)]
    frame = saved_columns(path, needed, ["group", "weight", "lower", "upper"])
    row = _whole(frame, "row", path)
    if len(np.unique(row)) != len(row):
        raise DataError(f"{path} is damaged: a row is there twice.")
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
    """Whole numbers from 0."""
    column = table[name]
    if not pa.types.is_integer(column.type) or column.null_count:
        raise DataError(f"{path} is damaged: column {name!r} is not one of whole numbers.")
    values = column.to_numpy()
    if len(values) and not 0 <= values.min() <= values.max() < 2**53:
        raise DataError(f"{path} is damaged: column {name!r} has a number that is no number of a row or a group.")
    return values.astype(np.int64)


def _finite(table: pa.Table, name: str, path: Path) -> np.ndarray:
    """Finite numbers as float64."""
    kind = None if name not in table.column_names else table[name].type
    if kind is None or not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise DataError(f"{path} is damaged: column {shown(name)!r} is not one of numbers.")
    values = np.asarray(table[name].to_numpy(), dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{path} is damaged: column {shown(name)!r} is not finite.")
    return values


def _number_of_class(table: pa.Table, name: str, classes: tuple[str, ...], path: Path) -> Int64[np.ndarray, " rows"]:
    """Classes by their number."""
    column, kinds = table[name], pa.types
    if not (kinds.is_string(column.type) or kinds.is_large_string(column.type)):
        raise DataError(f"{path} is damaged: column {name!r} is not one of classes.")
    numbers = pd.Index(classes, dtype="str").get_indexer(pd.Index(column.to_pandas(), dtype="str"))
    if (numbers < 0).any():
        raise DataError(f"{path} is not a file of predictions of this run: column {name!r} has other classes.")
    return numbers.astype(np.int64)
