"""The target: from raw cells to the scale that a network is trained on, and back to the original unit.

In: the target column of the training rows. Out: scaled numbers or class indices, and the inverse transformation.
Imports nothing from ``nn`` or ``training``; fitted on all rows that are passed, so pass training rows only."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int64, Shaped

from mixfit.choices import NUMBER_TASKS, Task
from mixfit.data.bad_inputs import BadInput, in_table_rows
from mixfit.data.columns.cells import Cells, Table
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.values import Moments, moments, standardise, to_numbers, with_columns
from mixfit.errors import DataError
from mixfit.files import from_plain
from mixfit.weighted import taken

WEIGHTLESS = "row of weight 0 left out"
"""The action in the record of a row that ``counted_rows`` leaves out."""
_LARGEST = float(np.finfo(np.float64).max)
_LARGEST_EXPONENT = 700.0  # exp(709.8) is beyond float64
_LARGEST_SCALED = 1e30  # finite in float32
_LARGEST_LOG = 20.0  # of a count relative to the mean count
SAME = 1e-6  # counts are whole, their scaled values are rounded


Column: TypeAlias = pd.Series | Cells
"""Cells of a target, raw or parsed."""


@runtime_checkable
class Target(Protocol):
    """The interface of a target."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes by index, or None for a numeric target."""

    @property
    def outputs(self) -> int:
        """Number of network outputs: 1 for a numeric target, otherwise one logit per class."""

    @property
    def log(self) -> bool:
        """True if the network is trained on the logarithm of the target."""

    def encode(self, column: Column) -> Shaped[np.ndarray, " rows"]:
        """The training target: float32 (nan = missing) or int64 class index (-1 = missing or unseen)."""

    def decode(self, outputs: Float[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows ..."]:
        """Convert raw outputs to float64: numbers in the target's unit, or probabilities that sum to 1."""

    def truth(self, column: Column) -> Shaped[np.ndarray, " rows"]:
        """The column for metrics: unrounded float64 numbers (nan = missing), or class indices."""

    def decode_truth(self, encoded: Shaped[np.ndarray, " rows"]) -> Shaped[np.ndarray, " rows"]:
        """Convert the result of ``encode`` for metrics: numbers in the target's unit, or class indices."""

    def decode_interval(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert the ends of intervals of a numeric target to its unit."""

    def to_dict(self) -> dict[str, Any]:
        """The state for JSON; ``target_from_dict`` is the inverse."""


@dataclass(frozen=True, kw_only=True)
class RegressionTarget:
    """A numeric target, standardised with the mean and std of the training rows; on a log scale if skewed."""

    log: bool
    mean: float
    std: float

    @classmethod
    def fit(cls, train_values: Column, weight: Float[np.ndarray, " rows"] | None = None) -> "RegressionTarget":
        """Fit the scale on the training rows; missing values are ignored.

        Args:
            weight: row weights.
        Raises:
            DataError: no cell is a number, or all numbers are equal.
        """
        cells = Cells.of(train_values)
        values = cells.numbers.values
        finite = np.isfinite(values)
        values, weight = values[finite], taken(weight, finite)
        if not len(values):
            raise DataError(f"none of the {len(cells)} training rows has a number in the target {cells.name!r}.")
        log = wants_log(values, weight)
        found = moments(np.log(values) if log else values, weight)
        if found.std == 0:
            raise DataError(
                f"the target {cells.name!r} is {values[0]:g} in all {len(values)} training rows: "
                "a constant cannot be modelled; choose another target."
            )
        return cls(log=log, mean=found.mean, std=found.std)

    @property
    def classes(self) -> None:
        """None: a numeric target has no classes."""
        return

    @property
    def outputs(self) -> int:
        """One number."""
        return 1

    def encode(self, column: Column) -> Float[np.ndarray, " rows"]:
        """float32 z-scores, nan where missing; on a log scale, values that are not above 0 become -10."""
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
        with np.errstate(over="ignore"):  # overflow is clipped
            values = np.asarray(outputs, dtype=np.float64) * self.std + self.mean
        if self.log:
            return np.exp(np.clip(values, -_LARGEST_EXPONENT, _LARGEST_EXPONENT))
        return np.clip(values, -_LARGEST, _LARGEST)

    def truth(self, column: Column) -> Float[np.ndarray, " rows"]:
        """The numbers of the column, without rounding errors from scaling."""
        return Cells.of(column).numbers.values

    def decode_truth(self, encoded: Shaped[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        """As ``decode``."""
        return self.decode(encoded)

    def decode_interval(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As ``decode``."""
        return self.decode(low), self.decode(high)

    def to_dict(self) -> dict[str, Any]:
        """State for JSON."""
        return {"kind": "number", **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class CountTarget:
    """Counts, divided by the mean of the training rows; models predict the logarithm of the expected count."""

    mean: float
    largest: float
    """Largest count of the training rows; predictions are at most ten times as large."""

    @classmethod
    def fit(cls, train_values: Column, weight: Float[np.ndarray, " rows"] | None = None) -> "CountTarget":
        """Fit the scale on the training rows; missing values are ignored.

        Args:
            weight: row weights.
        Raises:
            DataError: no cell is a number, a number is below 0 or not whole, or all numbers are equal.
        """
        cells = Cells.of(train_values)
        values = cells.numbers.values
        finite = np.isfinite(values)
        values, weight = values[finite], taken(weight, finite)
        if not len(values):
            raise DataError(f"none of the {len(cells)} training rows has a number in the target {cells.name!r}.")
        wrong = np.flatnonzero(~is_count(values))
        if len(wrong):
            raise DataError(no_count(cells, np.flatnonzero(finite)[wrong]))
        if values.min() == values.max():
            raise DataError(
                f"the target {cells.name!r} is {values[0]:g} in all {len(values)} training rows: "
                "a constant cannot be modelled; choose another target."
            )
        mean = float(np.average(values, weights=weight))
        return cls(mean=mean if mean > 0 else float(values.mean()), largest=float(values.max()))

    @property
    def classes(self) -> None:
        """None: a count has no classes."""
        return

    @property
    def outputs(self) -> int:
        """One number."""
        return 1

    @property
    def log(self) -> bool:
        """True: models predict the logarithm of the expected count."""
        return True

    def encode(self, column: Column) -> Float[np.ndarray, " rows"]:
        """float32 counts divided by their mean, nan where missing."""
        return np.clip(Cells.of(column).numbers.values / self.mean, 0, _LARGEST_SCALED).astype(np.float32)

    def decode(self, outputs: Float[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows ..."]:
        """Expected counts, float64, above 0, from logarithms of scaled expected counts."""
        rates = np.exp(np.clip(np.asarray(outputs, dtype=np.float64), -_LARGEST_LOG, _LARGEST_LOG)) * self.mean
        return np.clip(rates, None, 10 * self.largest)

    def truth(self, column: Column) -> Float[np.ndarray, " rows"]:
        """The counts of the column."""
        return Cells.of(column).numbers.values

    def decode_truth(self, encoded: Shaped[np.ndarray, " rows"]) -> Shaped[np.ndarray, " rows"]:
        """Counts, rounded to whole numbers as they were."""
        return np.round(encoded.astype(np.float64) * self.mean)

    def decode_interval(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest whole number in the interval, at least 0; the nearest ones if there is none."""
        low, high = np.maximum(low, 0) * self.mean, np.maximum(high, 0) * self.mean
        first, last = np.ceil(low - SAME) + 0.0, np.floor(high + SAME)  # 0 has no sign
        empty = first > last
        return np.where(empty, np.floor(low), first), np.where(empty, np.ceil(high), last)

    def to_dict(self) -> dict[str, Any]:
        """State for JSON."""
        return {"kind": "count", **asdict(self)}


def is_count(values: Float[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    """Whether each finite number is whole and at least 0."""
    return (values >= 0) & (values == np.round(values))


def no_count(cells: Cells, wrong: Int64[np.ndarray, " wrong"]) -> str:
    """That a target has cells that are no counts.

    Args:
        wrong: their positions.
    """
    return (
        f"{len(wrong)} of {len(cells)} cells of the target {cells.name!r} are below 0 or not whole, the first in row "
        f"{cells.index[wrong[0]]}; counts are whole numbers from 0: set --task regression."
    )


@dataclass(frozen=True)
class ClassTarget:
    """A class target; classes are sorted, by value if all are numbers."""

    classes: tuple[str, ...]
    """As written in the training rows."""

    @classmethod
    def fit(cls, train_values: Column) -> "ClassTarget":
        """Fit the classes on the training rows; missing values are ignored.

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
        """One logit per class."""
        return len(self.classes)

    @property
    def log(self) -> bool:
        """False: classes have no logarithm."""
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
        """Class indices are returned unchanged."""
        return encoded

    def decode_interval(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Refused: classes have prediction sets.

        Raises:
            TypeError: always.
        """
        raise TypeError("Classes have no intervals.")

    def to_dict(self) -> dict[str, Any]:
        """State for JSON."""
        return {"kind": "class", "classes": list(self.classes)}


@dataclass(frozen=True)
class OrderedTarget(ClassTarget):
    """A target of ordered classes, the lowest first."""

    @classmethod
    def fit(cls, train_values: Column) -> "OrderedTarget":
        """Fit the classes on the training rows; missing values are ignored.

        Raises:
            DataError: there are fewer than three classes, or their order is not known.
        """
        cells = Cells.of(train_values)
        levels, order = cells.levels, cells.form.order
        seen = set(levels.names[np.unique(levels.codes[levels.codes >= 0])].tolist())
        if unknown := sorted(seen - set(order)):
            raise DataError(
                f"the order of the target {cells.name!r} lacks {len(unknown)} values, the first is {unknown[0]!r}: "
                "name all, the lowest first, with --order, or as order in the form of the column in the schema."
            )
        if len(seen) < 3:
            raise DataError(
                f"the {len(cells)} training rows have {len(seen)} classes in the target {cells.name!r}; ordered "
                "classes need at least 3: set --task binary."
            )
        return cls(tuple(cells.written(tuple(key for key in order if key in seen))))

    def to_dict(self) -> dict[str, Any]:
        """State for JSON."""
        return {"kind": "ordered", "classes": list(self.classes)}


def fit_target(
    train_values: Column, task: Task, weight: Float[np.ndarray, " rows"] | None = None
) -> RegressionTarget | CountTarget | ClassTarget:
    """Fit the target for a task on the training rows.

    Args:
        weight: row weights for the scale of a numeric target; classes do not depend on them.
    Raises:
        DataError: there is no value, or only one distinct value.
    """
    if task == "count":
        return CountTarget.fit(train_values, weight)
    if task == "ordered":
        return OrderedTarget.fit(train_values)
    return RegressionTarget.fit(train_values, weight) if task in NUMBER_TASKS else ClassTarget.fit(train_values)


def target_from_dict(data: Any) -> RegressionTarget | CountTarget | ClassTarget:
    """Restore the result of ``to_dict``.

    Raises:
        DataError: the data are not such a result.
    """
    kind = data.get("kind") if isinstance(data, dict) else None
    try:
        if kind == "number":
            number: RegressionTarget = from_plain(RegressionTarget, data, finite=True)
            if number.std > 0:
                return number
        elif kind == "count":
            count: CountTarget = from_plain(CountTarget, data, finite=True)
            if count.mean > 0 and count.largest > 0:
                return count
        elif kind in ("class", "ordered"):
            found: ClassTarget = from_plain(OrderedTarget if kind == "ordered" else ClassTarget, data)
            if len(found.classes) > 1 and len(set(found.classes)) == len(found.classes):
                return found
    except DataError as error:
        raise DataError(f"the saved target is damaged: {error}") from error
    raise DataError("the saved target is damaged: it is neither the scale of a number nor a list of distinct classes.")


def usable_rows(
    table: pd.DataFrame | Table, schema: Schema, max_missing: float = 0.05
) -> tuple[Bool[np.ndarray, " rows"], list[BadInput]]:
    """Which rows have a usable target, and one record for each row that has not.

    Rows of weight 0 are excluded first, see ``counted_rows``: they are among the records, but their target is not
    examined. A table without the weight column, as ``evaluate`` may receive, has no such rows.

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
    """As ``usable_rows``, without rows of weight 0."""
    cells = table[schema.target]
    if schema.task in NUMBER_TASKS:
        numbers = cells.numbers
        if numbers.contradiction:
            raise DataError(f"the target cannot be read: {numbers.contradiction}")
        negative = (numbers.values < 0) & (schema.task == "count")
        usable = np.isfinite(numbers.values) & ~negative
        problem = np.where(numbers.unparsable, "target is not a number", "target is missing")
        problem[numbers.infinite] = "target is infinite"
        problem[negative] = "target is below 0"
    else:
        levels = cells.levels
        words = pd.api.types.is_float_dtype(cells.dtype) & levels.names.isin(["inf", "-inf"])
        infinite = np.append(words, np.False_)[levels.codes]
        usable = (levels.codes >= 0) & ~infinite
        problem = np.where(infinite, "target is infinite", "target is missing")
    bad = np.flatnonzero(~usable)
    if len(bad) > max_missing * len(cells) or len(bad) == len(cells):
        share = min(1.0, np.ceil(len(bad) / max(len(cells), 1) * 100) / 100)
        wanted = "a number" if schema.task in NUMBER_TASKS else "a class"
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
    """Which rows have a weight other than 0, and one record for each row of weight 0, which is dropped.

    Args:
        column: the weight column; if it is None or not in the table, all rows are kept.
    Raises:
        DataError: all weights are 0.
    """
    table = Table.of(table)
    if column is None or column not in table:
        return np.ones(len(table), dtype=bool), []
    counted = table[column].numbers.values != 0
    if len(table) and not counted.any():
        raise DataError(f"All {len(table)} weights in column {column!r} are 0; some rows need a weight above 0.")
    return counted, [
        BadInput(row=int(row), column=column, value="0", problem="weight is 0", action=WEIGHTLESS)
        for row in np.flatnonzero(~counted)
    ]


def without_weightless(table: pd.DataFrame | Table, column: str | None) -> tuple[Table, list[BadInput]]:
    """A table without its rows of weight 0, and one record for each of those.

    Args:
        table: with rows numbered from 0.
        column: as for ``counted_rows``.
    Returns:
        A table whose index holds the original row numbers; rows of weight 0 have no influence on anything inferred
        from it.
    """
    table = Table.of(table)
    counted, records = counted_rows(table, column)
    return (Table(table.frame[counted], table.file, table.forms) if records else table), records


def row_weights(
    table: pd.DataFrame | Table, schema: Schema, training_rows: Int64[np.ndarray, " train"]
) -> Float32[np.ndarray, " rows"] | None:
    """Weights with a mean of 1 over the training rows; validation and test rows without a weight get 1.

    Weights are relative: a row of weight 2 counts like two rows in sums and means only. Anything that depends on the
    number of rows (minimum leaf sizes, the threshold for rare levels, standard errors) uses unweighted counts.

    Args:
        table: without rows of weight 0 among the training rows, see ``counted_rows``.
    Returns:
        None if no column has the role weight.
    Raises:
        DataError: the weight of a training row is missing or negative.
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
            f"negative or not a number, the first is row {table.index[wrong[0]]}; give each a weight of at least 0."
        )
    largest = values[training_rows].max()  # the sum of huge weights would overflow
    scaled = values / largest
    weights = np.where(values >= 0, scaled / scaled[training_rows].mean(), 1.0)
    least = np.where(values == 0, 0.0, np.finfo(np.float32).tiny)
    return np.clip(weights, least, np.finfo(np.float32).max).astype(np.float32)


def judging_weights(
    table: pd.DataFrame | Table, schema: Schema, rows: Int64[np.ndarray, " rows"]
) -> Float32[np.ndarray, " rows"] | None:
    """Weights of the rows used to evaluate a trained model, with a mean of 1; a row without a weight gets 1.

    Returns:
        None if no column has the role weight, or the table lacks that column.
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
    """True if finite numbers are all above 0, right-skewed, and less skewed on the log scale."""
    if not len(values) or values.min() <= 0:
        return False
    skew = moments(values, weight).skew
    return skew > 1 and abs(moments(np.log(values), weight).skew) < skew


def sort_classes(keys: list[str]) -> tuple[str, ...]:
    """Sort classes: by value if all are numbers, otherwise as text."""
    values = to_numbers(pd.Series(keys, dtype="str")).values
    if np.isfinite(values).all():
        return tuple(key for _, key in sorted(zip(values.tolist(), keys, strict=True)))
    return tuple(sorted(keys))


_TRUE = frozenset(["true", "t", "yes", "y", "1", "on", "ja", "oui"])
_FALSE = frozenset(["false", "f", "no", "n", "0", "off", "nein", "non"])
_SHOWN = 3


def with_labels_of_training(table: Table, schema: Schema, target: Target) -> tuple[Table, str]:
    """A table with a known target whose classes may be spelt in another way than in training: other capitals or blanks,
    or other words for true and false.

    Returns:
        The table, its labels spelt as in training where there is one class that they can only stand for; and what is
        read as what, empty where nothing had to be changed.
    """
    if target.classes is None:
        return table, ""
    levels = table[schema.target].levels
    used = np.unique(levels.codes[levels.codes >= 0])
    known = table[schema.target].key_of(target.classes)
    strange = [place for place in used.tolist() if levels.names[place] not in known]
    spelt = {place: named for place in strange if (named := _spelt(levels.names[place], target.classes))}
    if not spelt:
        return table, ""
    names = np.append(levels.names.to_numpy(dtype=object), np.nan)
    said = [f"{names[place]!r} as {named!r}" for place, named in spelt.items()]
    more = f" and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    for place, named in spelt.items():
        names[place] = named
    labels = pd.Series(names[levels.codes], index=table.index, name=schema.target, dtype="str")
    changed = Table(with_columns(table.frame, {schema.target: labels}), table.file, table.forms)
    return changed, f"the classes of {schema.target!r} are read as in training: {', '.join(said[:_SHOWN])}{more}"


def _spelt(label: str, classes: tuple[str, ...]) -> str:
    """The class that a label can only stand for; empty where there is none, or several."""
    alike = [name for name in classes if _folded(name) == _folded(label)]
    if not alike and len(classes) == 2:
        words = next((words for words in (_TRUE, _FALSE) if _folded(label) in words), frozenset())
        both = {_folded(name) in _TRUE for name in classes if _folded(name) in _TRUE | _FALSE}
        alike = [name for name in classes if _folded(name) in words] if len(both) == 2 else []
    return alike[0] if len(alike) == 1 else ""


def _folded(label: str) -> str:
    return " ".join(label.casefold().split())


def unknown_classes(table: Table, schema: Schema, target: Target) -> str:
    """That no label of a table is a class of the model: both, a few of each."""
    if target.classes is None:
        return ""
    levels = table[schema.target].levels
    found = levels.names[np.unique(levels.codes[levels.codes >= 0])].tolist()
    there, wanted = (
        ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
        for names in (found, list(target.classes))
    )
    return f": it has {there}, and the model knows {wanted}" if found else ""
