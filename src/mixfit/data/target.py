"""The target: from raw cells to what a network is trained on, and back to the unit people know.

In: the target column of the training rows. Out: scaled numbers or class indices, and their inverse.
Imports nothing from ``nn`` or ``training``; fitted on whatever rows are handed in, so hand in training rows only."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int64, Shaped

from mixfit.choices import Task
from mixfit.data.bad_inputs import BadInput
from mixfit.data.schema import Schema
from mixfit.data.values import Moments, moments, to_keys, to_numbers
from mixfit.errors import DataError

_LARGEST = float(np.finfo(np.float64).max)
_LARGEST_EXPONENT = 700.0  # exp(709.8) is beyond float64
_LARGEST_SCALED = 1e30  # within float32, and its square too is no surprise to anybody


@runtime_checkable
class Target(Protocol):
    """What the rest of mixfit needs to know of a target."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes by index, or None when the target is a number."""

    @property
    def outputs(self) -> int:
        """How many outputs the network needs: 1 for a number, one logit a class otherwise."""

    @property
    def log(self) -> bool:
        """True when the network is trained on the logarithm."""

    def encode(self, column: pd.Series) -> Shaped[np.ndarray, " rows"]:
        """What the network is trained on: float32 (nan = missing) or int64 class index (-1 = missing or unseen)."""

    def decode(self, outputs: Float[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows ..."]:
        """Raw outputs as float64: numbers in the target's unit, or probabilities that sum to 1."""

    def truth(self, column: pd.Series) -> Shaped[np.ndarray, " rows"]:
        """The column as metrics want it: float64 numbers exactly as they are (nan = missing), or class indices."""

    def decode_truth(self, encoded: Shaped[np.ndarray, " rows"]) -> Shaped[np.ndarray, " rows"]:
        """What ``encode`` gave, as metrics want it: numbers in the target's unit, or class indices."""

    def to_dict(self) -> dict[str, Any]:
        """State for JSON; ``target_from_dict`` is the inverse."""


@dataclass(frozen=True, kw_only=True)
class RegressionTarget:
    """A number, z-scored with mean and standard deviation of the training rows; its logarithm when skewed."""

    log: bool
    mean: float
    std: float

    @classmethod
    def fit(cls, train_values: pd.Series) -> "RegressionTarget":
        """Learn the scale from the training rows; missing cells are passed over.

        Raises:
            DataError: no cell is a number, or all numbers are the same.
        """
        values = to_numbers(train_values).values
        values = values[np.isfinite(values)]
        if not len(values):
            raise DataError(
                f"none of the {len(train_values)} training rows has a number as target {train_values.name!r}."
            )
        log = wants_log(values)
        found = moments(np.log(values) if log else values)
        if found.std == 0:
            raise DataError(
                f"the target {train_values.name!r} is {values[0]:g} in all {len(values)} training rows: "
                "there is nothing to learn; choose another target."
            )
        return cls(log=log, mean=found.mean, std=found.std)

    @property
    def classes(self) -> None:
        """Numbers have no classes."""
        return

    @property
    def outputs(self) -> int:
        """One number."""
        return 1

    def encode(self, column: pd.Series) -> Float[np.ndarray, " rows"]:
        """float32 z-scores, nan where missing; under a logarithm, numbers that are not above 0 count as -10."""
        values = to_numbers(column).values
        if not self.log:
            scaled = standardise(values, Moments(self.mean, self.std, 0.0))
        else:
            positive = values > 0
            scaled = np.where(np.isnan(values), np.nan, -10.0)
            scaled[positive] = (np.log(values[positive]) - self.mean) / self.std
        return np.clip(scaled, -_LARGEST_SCALED, _LARGEST_SCALED).astype(np.float32)

    def decode(self, outputs: Float[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows ..."]:
        """float64 in the unit of the column; finite for any finite output."""
        with np.errstate(over="ignore"):  # what overflows is clipped
            values = np.asarray(outputs, dtype=np.float64) * self.std + self.mean
        if self.log:
            return np.exp(np.clip(values, -_LARGEST_EXPONENT, _LARGEST_EXPONENT))
        return np.clip(values, -_LARGEST, _LARGEST)

    def truth(self, column: pd.Series) -> Float[np.ndarray, " rows"]:
        """The numbers of the column, not rounded by scaling and back."""
        return to_numbers(column).values

    def decode_truth(self, encoded: Shaped[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        """The numbers themselves, as ``decode``."""
        return self.decode(encoded)

    def to_dict(self) -> dict[str, Any]:
        """State for JSON."""
        return {"kind": "number", **asdict(self)}


@dataclass(frozen=True)
class ClassTarget:
    """One of several classes, known by their canonical keys; sorted, by value when all are numbers."""

    classes: tuple[str, ...]

    @classmethod
    def fit(cls, train_values: pd.Series) -> "ClassTarget":
        """Learn the classes of the training rows; missing cells are passed over.

        Raises:
            DataError: there are fewer than two classes.
        """
        keys = to_keys(train_values).dropna().unique().tolist()
        if len(keys) < 2:
            only = f"only the class {keys[0]!r}" if keys else "no class at all"
            raise DataError(
                f"the {len(train_values)} training rows have {only} in the target {train_values.name!r}; "
                "at least 2 classes are needed."
            )
        return cls(sort_classes(keys))

    @property
    def outputs(self) -> int:
        """One logit a class."""
        return len(self.classes)

    @property
    def log(self) -> bool:
        """Classes have no logarithm."""
        return False

    def encode(self, column: pd.Series) -> Int64[np.ndarray, " rows"]:
        """int64 index into ``classes``, -1 where missing or not seen in training."""
        return pd.Index(self.classes, dtype="str").get_indexer(to_keys(column)).astype(np.int64)

    def decode(self, outputs: Float[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows ..."]:
        """Probabilities from logits (softmax), float64."""
        logits = np.asarray(outputs, dtype=np.float64)
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)

    def truth(self, column: pd.Series) -> Int64[np.ndarray, " rows"]:
        """Class indices, -1 where missing or unseen."""
        return self.encode(column)

    def decode_truth(self, encoded: Shaped[np.ndarray, " rows"]) -> Shaped[np.ndarray, " rows"]:
        """Class indices stay as they are."""
        return encoded

    def to_dict(self) -> dict[str, Any]:
        """State for JSON."""
        return {"kind": "class", "classes": list(self.classes)}


def fit_target(train_values: pd.Series, task: Task) -> RegressionTarget | ClassTarget:
    """Fit the target that suits the task on the training rows.

    Raises:
        DataError: there is nothing to learn: no value, or only one.
    """
    return RegressionTarget.fit(train_values) if task == "regression" else ClassTarget.fit(train_values)


def target_from_dict(data: Any) -> RegressionTarget | ClassTarget:
    """Read what ``to_dict`` gave.

    Raises:
        DataError: it is something else.
    """
    match data:
        case {"kind": "number", "log": bool(log), "mean": int() | float() as mean, "std": int() | float() as std}:
            if np.isfinite(mean) and 0 < std < np.inf:
                return RegressionTarget(log=log, mean=float(mean), std=float(std))
        case {"kind": "class", "classes": [_, _, *_] as classes} if all(isinstance(name, str) for name in classes):
            if len(set(classes)) == len(classes):
                return ClassTarget(tuple(classes))
    raise DataError("the saved target is damaged: it is neither a scale of numbers nor a list of different classes.")


def usable_rows(
    frame: pd.DataFrame, schema: Schema, max_missing: float = 0.05
) -> tuple[Bool[np.ndarray, " rows"], list[BadInput]]:
    """Which rows have a target to learn from, and one record for each that has none.

    Raises:
        DataError: more than the share ``max_missing`` of the rows, or all of them, have no usable target.
    """
    column = frame[schema.target]
    if schema.task == "regression":
        numbers = to_numbers(column)
        usable = np.isfinite(numbers.values)
        problem = np.where(numbers.unparsable, "target is not a number", "target is missing")
        problem[numbers.infinite] = "target is infinite"
    else:
        keys = to_keys(column)
        infinite = pd.api.types.is_float_dtype(column.dtype) & keys.isin(["inf", "-inf"]).to_numpy(dtype=bool)
        usable = keys.notna().to_numpy(dtype=bool) & ~infinite
        problem = np.where(infinite, "target is infinite", "target is missing")
    bad = np.flatnonzero(~usable)
    if len(bad) > max_missing * len(frame) or len(bad) == len(frame):
        share = min(1.0, np.ceil(len(bad) / max(len(frame), 1) * 100) / 100)
        wanted = "a number" if schema.task == "regression" else "a class"
        cure = "check the column" if share == 1 else f"--max-missing-target {share:g} leaves those rows out"
        raise DataError(
            f"{len(bad)} of {len(frame)} cells of the target {schema.target!r} are not {wanted}, "
            f"the first in row {bad[0] if len(bad) else 0}; {cure}."
        )
    cells = column.iloc[bad].astype(object)
    return usable, [
        BadInput(
            row=int(row),
            column=schema.target,
            value="" if pd.isna(cell) else str(cell)[:200],
            problem=str(problem[row]),
            action="row left out",
        )
        for row, cell in zip(bad, cells, strict=True)
    ]


def row_weights(
    frame: pd.DataFrame,
    schema: Schema,
    training_rows: Int64[np.ndarray, " train"],
    validation_rows: Int64[np.ndarray, " valid"],
) -> Float32[np.ndarray, " rows"] | None:
    """Weights with a mean of 1 over the training rows; rows that only judge may lack one and then weigh 1.

    Returns:
        None if no column has the role.
    Raises:
        DataError: a training row has no weight or a negative one, or all of them are 0, or all of the validation rows,
            whose loss would be 0 over 0.
    """
    names = schema.names("weight")
    if not names:
        return None
    values = to_numbers(frame[names[0]]).values
    wrong = training_rows[~(values[training_rows] >= 0)]
    if len(wrong):
        raise DataError(
            f"{len(wrong)} of {len(training_rows)} training rows have a weight in column {names[0]!r} that is missing, "
            f"negative or no number, the first is row {wrong[0]}; give each a weight of at least 0."
        )
    mean = values[training_rows].mean()
    if mean == 0:
        raise DataError(f"All weights of the training rows in column {names[0]!r} are 0.")
    weights = np.where(values >= 0, values / mean, 1.0).astype(np.float32)
    if len(validation_rows) and not weights[validation_rows].any():
        raise DataError(
            f"All weights of the {len(validation_rows)} validation rows in column {names[0]!r} are 0, so that no epoch "
            "could be told from another: weigh some of them, or leave their cells empty."
        )
    return weights


def wants_log(values: Float[np.ndarray, " rows"]) -> bool:
    """True when finite numbers are all above 0, skewed to the right, and less skewed on the log scale."""
    if not len(values) or values.min() <= 0:
        return False
    skew = moments(values).skew
    return skew > 1 and abs(moments(np.log(values)).skew) < skew


def sort_classes(keys: list[str]) -> tuple[str, ...]:
    """Sorted by value when all are numbers, else by text."""
    values = to_numbers(pd.Series(keys, dtype="str")).values
    if np.isfinite(values).all():
        return tuple(key for _, key in sorted(zip(values.tolist(), keys, strict=True)))
    return tuple(sorted(keys))


def standardise(values: Float[np.ndarray, " rows"], scale: Moments) -> Float[np.ndarray, " rows"]:
    """z-scores without overflow on the way; all 0 (nan stays nan) where the standard deviation is 0."""
    if scale.std == 0:
        return values * 0.0
    with np.errstate(over="ignore"):  # beyond float64 is clipped by the callers
        return (values / 4 - scale.mean / 4) / (scale.std / 4)
