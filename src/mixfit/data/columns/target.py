"""The target: from raw cells to what a network is trained on, and back to the unit people know.

In: the target column of the training rows. Out: scaled numbers or class indices, and their inverse.
Imports nothing from ``nn`` or ``training``; fitted on whatever rows are handed in, so hand in training rows only."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int64, Shaped

from mixfit.choices import Task
from mixfit.data.bad_inputs import BadInput, in_table_rows
from mixfit.data.columns.cells import Cells, Table
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.values import Moments, moments, standardise, to_numbers
from mixfit.errors import DataError
from mixfit.files import from_plain
from mixfit.weighted import taken

WEIGHTLESS = "row of weight 0 left out"
"""The action in the record of a row that ``counted_rows`` leaves out."""
_LARGEST = float(np.finfo(np.float64).max)
_LARGEST_EXPONENT = 700.0  # exp(709.8) is beyond float64
_LARGEST_SCALED = 1e30  # within float32, and its square too is no surprise to anybody


Column: TypeAlias = pd.Series | Cells
"""Cells of a target, as they came or read already."""


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

    def encode(self, column: Column) -> Shaped[np.ndarray, " rows"]:
        """What the network is trained on: float32 (nan = missing) or int64 class index (-1 = missing or unseen)."""

    def decode(self, outputs: Float[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows ..."]:
        """Raw outputs as float64: numbers in the target's unit, or probabilities that sum to 1."""

    def truth(self, column: Column) -> Shaped[np.ndarray, " rows"]:
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
    def fit(cls, train_values: Column, weight: Float[np.ndarray, " rows"] | None = None) -> "RegressionTarget":
        """Learn the scale from the training rows; missing cells are passed over.

        Args:
            weight: how much each row counts.
        Raises:
            DataError: no cell is a number, or all numbers are the same.
        """
        cells = Cells.of(train_values)
        values = cells.numbers.values
        finite = np.isfinite(values)
        values, weight = values[finite], taken(weight, finite)
        if not len(values):
            raise DataError(f"none of the {len(cells)} training rows has a number as target {cells.name!r}.")
        log = wants_log(values, weight)
        found = moments(np.log(values) if log else values, weight)
        if found.std == 0:
            raise DataError(
                f"the target {cells.name!r} is {values[0]:g} in all {len(values)} training rows: "
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

    def encode(self, column: Column) -> Float[np.ndarray, " rows"]:
        """float32 z-scores, nan where missing; under a logarithm, numbers that are not above 0 count as -10."""
        values = Cells.of(column).numbers.values
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

    def truth(self, column: Column) -> Float[np.ndarray, " rows"]:
        """The numbers of the column, not rounded by scaling and back."""
        return Cells.of(column).numbers.values

    def decode_truth(self, encoded: Shaped[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        """The numbers themselves, as ``decode``."""
        return self.decode(encoded)

    def to_dict(self) -> dict[str, Any]:
        """State for JSON."""
        return {"kind": "number", **asdict(self)}


@dataclass(frozen=True)
class ClassTarget:
    """One of several classes; sorted, by value when all are numbers."""

    classes: tuple[str, ...]
    """As they are written in the training rows."""

    @classmethod
    def fit(cls, train_values: Column) -> "ClassTarget":
        """Learn the classes of the training rows; missing cells are passed over.

        Raises:
            DataError: there are fewer than two classes.
        """
        cells = Cells.of(train_values)
        levels = cells.levels
        keys = levels.names[pd.unique(levels.codes[levels.codes >= 0])].tolist()
        if len(keys) < 2:
            only = f"only the class {keys[0]!r}" if keys else "no class at all"
            raise DataError(
                f"the {len(cells)} training rows have {only} in the target {cells.name!r}; "
                "at least 2 classes are needed."
            )
        return cls(tuple(cells.written(sort_classes(keys))))

    @property
    def outputs(self) -> int:
        """One logit a class."""
        return len(self.classes)

    @property
    def log(self) -> bool:
        """Classes have no logarithm."""
        return False

    def encode(self, column: Column) -> Int64[np.ndarray, " rows"]:
        """int64 index into ``classes``, -1 where missing or not seen in training."""
        cells = Cells.of(column)
        levels = cells.levels
        places = cells.key_of(self.classes).get_indexer(levels.names).astype(np.int64)
        return np.append(places, -1)[levels.codes]

    def decode(self, outputs: Float[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows ..."]:
        """Probabilities from logits (softmax), float64."""
        logits = np.asarray(outputs, dtype=np.float64)
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)

    def truth(self, column: Column) -> Int64[np.ndarray, " rows"]:
        """Class indices, -1 where missing or unseen."""
        return self.encode(column)

    def decode_truth(self, encoded: Shaped[np.ndarray, " rows"]) -> Shaped[np.ndarray, " rows"]:
        """Class indices stay as they are."""
        return encoded

    def to_dict(self) -> dict[str, Any]:
        """State for JSON."""
        return {"kind": "class", "classes": list(self.classes)}


def fit_target(
    train_values: Column, task: Task, weight: Float[np.ndarray, " rows"] | None = None
) -> RegressionTarget | ClassTarget:
    """Fit the target that suits the task on the training rows.

    Args:
        weight: how much each row counts for the scale of a number; the names of classes do not depend on it.
    Raises:
        DataError: there is nothing to learn: no value, or only one.
    """
    return RegressionTarget.fit(train_values, weight) if task == "regression" else ClassTarget.fit(train_values)


def target_from_dict(data: Any) -> RegressionTarget | ClassTarget:
    """Read what ``to_dict`` gave.

    Raises:
        DataError: it is something else.
    """
    kind = data.get("kind") if isinstance(data, dict) else None
    try:
        if kind == "number":
            number: RegressionTarget = from_plain(RegressionTarget, data, finite=True)
            if number.std > 0:
                return number
        elif kind == "class":
            found: ClassTarget = from_plain(ClassTarget, data)
            if len(found.classes) > 1 and len(set(found.classes)) == len(found.classes):
                return found
    except DataError as error:
        raise DataError(f"the saved target is damaged: {error}") from error
    raise DataError("the saved target is damaged: it is neither a scale of numbers nor a list of different classes.")


def usable_rows(
    table: pd.DataFrame | Table, schema: Schema, max_missing: float = 0.05
) -> tuple[Bool[np.ndarray, " rows"], list[BadInput]]:
    """Which rows have a target to learn from, and one record for each that has none.

    Rows of weight 0 have left before, see ``counted_rows``: they are among the records, but their target is not looked
    at. A table without the weight column, as ``evaluate`` may get, has no such rows.

    Raises:
        DataError: more than the share ``max_missing`` of the other rows, or all of them, have no usable target.
    """
    table = schema.table(table)
    counted, without_weight = counted_rows(table, next(iter(schema.names("weight")), None))
    if without_weight:
        positions = np.flatnonzero(counted)
        usable = np.zeros(len(table), dtype=bool)
        inner, missing = _with_target(table.select(positions), schema, max_missing)
        usable[positions[inner]] = True
        return usable, sorted([*without_weight, *in_table_rows(missing, positions)], key=lambda record: record.row)
    return _with_target(table, schema, max_missing)


def _with_target(table: Table, schema: Schema, max_missing: float) -> tuple[Bool[np.ndarray, " rows"], list[BadInput]]:
    """See ``usable_rows``; for rows that all count."""
    cells = table[schema.target]
    if schema.task == "regression":
        numbers = cells.numbers
        usable = np.isfinite(numbers.values)
        problem = np.where(numbers.unparsable, "target is not a number", "target is missing")
        problem[numbers.infinite] = "target is infinite"
    else:
        levels = cells.levels
        words = pd.api.types.is_float_dtype(cells.dtype) & levels.names.isin(["inf", "-inf"])
        infinite = np.append(words, np.False_)[levels.codes]
        usable = (levels.codes >= 0) & ~infinite
        problem = np.where(infinite, "target is infinite", "target is missing")
    bad = np.flatnonzero(~usable)
    if len(bad) > max_missing * len(cells) or len(bad) == len(cells):
        share = min(1.0, np.ceil(len(bad) / max(len(cells), 1) * 100) / 100)
        wanted = "a number" if schema.task == "regression" else "a class"
        cure = "check the column" if share == 1 else f"--max-missing-target {share:g} leaves those rows out"
        raise DataError(
            f"{len(bad)} of {len(cells)} cells of the target {schema.target!r} are not {wanted}, "
            f"the first in row {cells.index[bad[0]] if len(bad) else 0}; {cure}."
        )
    shown = cells.column.iloc[bad].astype(object)
    return usable, [
        BadInput(
            row=int(row),
            column=schema.target,
            value="" if pd.isna(cell) else str(cell)[:200],
            problem=str(problem[row]),
            action="row left out",
        )
        for row, cell in zip(bad, shown, strict=True)
    ]


def counted_rows(table: pd.DataFrame | Table, column: str | None) -> tuple[Bool[np.ndarray, " rows"], list[BadInput]]:
    """Which rows have another weight than 0, and one record for each of the others, which leave with all they hold.

    Args:
        column: that of the weights; None, or one that the table lacks, and every row counts.
    Raises:
        DataError: no row counts.
    """
    table = Table.of(table)
    if column is None or column not in table:
        return np.ones(len(table), dtype=bool), []
    counted = table[column].numbers.values != 0
    if len(table) and not counted.any():
        raise DataError(f"All {len(table)} weights in column {column!r} are 0, so that no row counts.")
    return counted, [
        BadInput(row=int(row), column=column, value="0", problem="weight is 0", action=WEIGHTLESS)
        for row in np.flatnonzero(~counted)
    ]


def without_weightless(table: pd.DataFrame | Table, column: str | None) -> tuple[Table, list[BadInput]]:
    """The rows of a table that count, and one record for each other.

    Args:
        table: with rows numbered from 0.
        column: as for ``counted_rows``.
    Returns:
        A table whose index has the numbers that its rows had; nothing that is found out of it comes from the others.
    """
    table = Table.of(table)
    counted, records = counted_rows(table, column)
    return (Table(table.frame[counted], table.file, table.forms) if records else table), records


def row_weights(
    table: pd.DataFrame | Table, schema: Schema, training_rows: Int64[np.ndarray, " train"]
) -> Float32[np.ndarray, " rows"] | None:
    """Weights with a mean of 1 over the training rows; rows that only judge may lack one and then weigh 1.

    A weight says how much a row counts beside others, and has no unit: only in the sums and means of a table is a row
    of weight 2 the same as two rows. Whatever depends on how many rows there are (how many a leaf holds, how seldom a
    rare category is, how far a mean may be wrong) counts rows.

    Args:
        table: without rows of weight 0 among the training rows, see ``counted_rows``.
    Returns:
        None if no column has the role.
    Raises:
        DataError: a training row has no weight or a negative one.
    """
    names = schema.names("weight")
    if not names:
        return None
    table = Table.of(table)
    values = table[names[0]].numbers.values
    wrong = training_rows[~(values[training_rows] >= 0)]
    if len(wrong):
        raise DataError(
            f"{len(wrong)} of {len(training_rows)} training rows have a weight in column {names[0]!r} that is missing, "
            f"negative or no number, the first is row {table.index[wrong[0]]}; give each a weight of at least 0."
        )
    largest = values[training_rows].max()  # the sum of huge weights would overflow
    scaled = values / largest
    weights = np.where(values >= 0, scaled / scaled[training_rows].mean(), 1.0)
    least = np.where(values == 0, 0.0, np.finfo(np.float32).tiny)
    return np.clip(weights, least, np.finfo(np.float32).max).astype(np.float32)


def judging_weights(
    table: pd.DataFrame | Table, schema: Schema, rows: Int64[np.ndarray, " rows"]
) -> Float32[np.ndarray, " rows"] | None:
    """Weights of rows that a finished model is judged by, with a mean of 1; a row without one counts as 1.

    Returns:
        None if no column has the role, or if the table lacks it.
    """
    table = schema.table(table).select(rows)
    names = [name for name in schema.names("weight") if name in table]
    if not names:
        return None
    values = table[names[0]].numbers.values
    usable = values >= 0
    known = table.select(np.flatnonzero(usable))
    weights = np.ones(len(rows), dtype=np.float32)
    if len(known) and values[usable].any():
        found = row_weights(known, schema, np.arange(len(known)))
        assert found is not None
        weights[usable] = found
    return weights


def wants_log(values: Float[np.ndarray, " rows"], weight: Float[np.ndarray, " rows"] | None = None) -> bool:
    """True when finite numbers are all above 0, skewed to the right, and less skewed on the log scale."""
    if not len(values) or values.min() <= 0:
        return False
    skew = moments(values, weight).skew
    return skew > 1 and abs(moments(np.log(values), weight).skew) < skew


def sort_classes(keys: list[str]) -> tuple[str, ...]:
    """Sorted by value when all are numbers, else by text."""
    values = to_numbers(pd.Series(keys, dtype="str")).values
    if np.isfinite(values).all():
        return tuple(key for _, key in sorted(zip(values.tolist(), keys, strict=True)))
    return tuple(sorted(keys))
