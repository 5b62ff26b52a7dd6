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

from mixfit.errors import DataError
from mixfit.evaluation.scores import Rows
from mixfit.files import write_file

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
    try:
        frame = pd.read_parquet(io.BytesIO(path.read_bytes()))
        row = frame["row"].to_numpy(dtype=np.int64)
        groups = frame["group"].to_numpy(dtype=np.int64) if "group" in frame else None
        weight = frame["weight"].to_numpy(dtype=np.float32) if "weight" in frame else None
        if weight is not None and not (weight > 0).all():
            raise ValueError("a weight is not above 0")
        if not classes:
            interval = (frame["lower"].to_numpy(), frame["upper"].to_numpy()) if "lower" in frame else None
            truth, prediction = (frame[name].to_numpy(dtype=np.float64) for name in ("truth", "prediction"))
            return SavedPredictions(
                row=row,
                truth=truth,
                prediction=prediction,
                probabilities=None,
                interval=interval,
                groups=groups,
                weight=weight,
            )
        number = {name: place for place, name in enumerate(classes)}
        truth, prediction = (
            np.array([number[name] for name in frame[column]], dtype=np.int64) for column in ("truth", "prediction")
        )
        probabilities = frame[[PROBABILITY + name for name in classes]].to_numpy(dtype=np.float64)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a file of predictions of this run: {error}.") from error
    return SavedPredictions(
        row=row,
        truth=truth,
        prediction=prediction,
        probabilities=probabilities,
        interval=None,
        groups=groups,
        weight=weight,
    )
