"""From raw cells to the arrays that a network takes: numbers, dates and categories.

In: the training rows, once, to learn medians, scales and levels; then any rows with the same columns.
Out: ``TableArrays``, and a record of every cell that could not be used. The state is pure JSON.
Imports nothing from ``nn`` or ``training``; leaves images and the target to others."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int64, Shaped

from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.target import standardise
from mixfit.data.columns.values import Moments, is_day_first, moments, to_keys, to_numbers, to_times
from mixfit.errors import DataError, did_you_mean
from mixfit.files import Within, from_plain
from mixfit.weighted import taken, weighted_median

MIN_COUNT = 2
"""A category seen less often in training shares index 0 with the unseen, so that index 0 is trained."""
LARGEST_SCORE = 10.0
_LOG_ABOVE_SKEW = 2.0
_DAY = np.timedelta64(1, "D")
_FURTHEST = 2**62  # microseconds, 146,000 years


@dataclass(frozen=True, slots=True)
class TableArrays:
    """The table part of some rows, in the order of the rows handed in."""

    numeric: Float32[np.ndarray, "rows numeric"]
    """z-scores in [-10, 10], flags and sines; finite."""
    categorical: Int64[np.ndarray, "rows categorical"]
    """Level from 1, or 0 = missing, unseen or rare in training."""
    repaired: list[BadInput]
    """Cells that hold something unusable, and categories not seen in training; an empty cell is not in here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberState:
    """What is learnt of one series of numbers."""

    log: bool
    """Take the signed log1p first: the values are skewed amounts."""
    fill: float
    """Median of the training rows, after the logarithm; stands in for missing cells."""
    mean: float
    std: Annotated[float, Within(0)]
    """Population mean and standard deviation after filling; std 0 = constant, and then the output is always 0."""

    @classmethod
    def fit(
        cls,
        values: Float[np.ndarray, " rows"],
        weight: Float[np.ndarray, " rows"] | None = None,
        *,
        may_log: bool = True,
    ) -> "NumberState":
        """Learn from training values, nan = missing."""
        there = ~np.isnan(values)
        seen, counts = values[there], taken(weight, there)
        log = bool(may_log and len(seen) and seen.min() >= 0 and _is_tamed_by_log(seen, counts))
        if log:
            values, seen = np.log1p(values), np.log1p(seen)
        fill = weighted_median(seen, counts) if len(seen) else 0.0
        found = moments(np.where(there, values, fill), weight)
        return cls(log=log, fill=fill, mean=found.mean, std=found.std)

    def apply(self, values: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        """Fill, scale and clip; nan = missing."""
        if self.log:
            values = np.sign(values) * np.log1p(np.abs(values))
        filled = np.where(np.isnan(values), self.fill, values)
        return np.clip(standardise(filled, Moments(self.mean, self.std, 0.0)), -LARGEST_SCORE, LARGEST_SCORE)


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberColumn:
    """A column of role number: its z-score, and a flag where training rows had missing cells."""

    name: str
    scale: NumberState
    flag: bool

    @property
    def outputs(self) -> list[str]:
        """Names of the output columns."""
        return [self.name, f"{self.name} is missing"][: 1 + self.flag]

    @classmethod
    def fit(cls, name: str, column: pd.Series, weight: Float[np.ndarray, " rows"] | None = None) -> "NumberColumn":
        """Learn from the training rows."""
        values = to_numbers(column).values
        return cls(name=name, scale=NumberState.fit(values, weight), flag=bool(np.isnan(values).any()))

    def apply(self, column: pd.Series) -> tuple[list[Float[np.ndarray, " rows"]], list[BadInput]]:
        """Output columns, and cells that are no finite number."""
        numbers = to_numbers(column)
        problem = np.where(numbers.infinite, "infinite", "not a number").astype(object)
        bad = _records(self.name, column, numbers.unparsable, problem, "cell treated as missing")
        flags = [np.isnan(numbers.values).astype(np.float64)] if self.flag else []
        return [self.scale.apply(numbers.values), *flags], bad


@dataclass(frozen=True, slots=True, kw_only=True)
class DateColumn:
    """A column of role date: calendar parts, the season as a point on a circle, and the days since a middle date."""

    name: str
    day_first: bool
    origin: Annotated[int, Within(-_FURTHEST, _FURTHEST)]
    """Median of the training dates, microseconds since 1970."""
    scales: tuple[NumberState, ...]
    """Of year, month, day of week and days elapsed."""
    flag: bool

    @property
    def outputs(self) -> list[str]:
        """Names of the output columns."""
        parts = ["year", "month", "day of week", "days elapsed", "season sine", "season cosine", "is missing"]
        return [f"{self.name} {part}" for part in parts[: 6 + self.flag]]

    @classmethod
    def fit(cls, name: str, column: pd.Series, weight: Float[np.ndarray, " rows"] | None = None) -> "DateColumn":
        """Learn from the training rows."""
        day_first = is_day_first(column)
        times, _ = to_times(column, day_first=day_first)
        there = ~np.isnat(times)
        seen = times[there].astype(np.int64)
        origin = round(weighted_median(seen.astype(np.float64), taken(weight, there))) if len(seen) else 0
        scales = tuple(NumberState.fit(part, weight, may_log=False) for part in _calendar(times, origin))
        return cls(name=name, day_first=day_first, origin=origin, scales=scales, flag=not there.all())

    def apply(self, column: pd.Series) -> tuple[list[Float[np.ndarray, " rows"]], list[BadInput]]:
        """Output columns, and cells that are no date."""
        times, unparsable = to_times(column, day_first=self.day_first)
        problem = np.full(len(column), "not a date", dtype=object)
        bad = _records(self.name, column, unparsable, problem, "cell treated as missing")
        parts = _calendar(times, self.origin)
        scaled = [scale.apply(part) for scale, part in zip(self.scales, parts, strict=True)]
        missing = np.isnat(times)
        day_of_year = (times.astype("datetime64[D]") - times.astype("datetime64[Y]")) / _DAY
        angle = np.where(missing, 0.0, day_of_year) * (2 * np.pi / 365.25)
        circle = [np.where(missing, 0.0, np.sin(angle)), np.where(missing, 0.0, np.cos(angle))]
        return [*scaled, *circle, *([missing.astype(np.float64)] if self.flag else [])], bad


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryColumn:
    """A column of role category: its levels in the order of their index, which starts at 1."""

    name: str
    levels: tuple[str, ...]
    rare: tuple[str, ...]
    """Seen in training, but too rarely for an index of their own; nothing to report when they come again."""

    @classmethod
    def fit(cls, name: str, column: pd.Series) -> "CategoryColumn":
        """Learn from the training rows: how often a level is seen is a number of rows, whatever they weigh."""
        counts = to_keys(column).value_counts()
        often = counts.to_numpy() >= MIN_COUNT
        return cls(name=name, levels=tuple(sorted(counts.index[often])), rare=tuple(sorted(counts.index[~often])))

    def apply(self, column: pd.Series) -> tuple[Int64[np.ndarray, " rows"], list[BadInput]]:
        """Indices, and cells whose category is new."""
        keys = to_keys(column)
        index = pd.Index(self.levels, dtype="str").get_indexer(keys).astype(np.int64) + 1
        unseen = (index == 0) & keys.notna().to_numpy(dtype=bool) & ~keys.isin(self.rare).to_numpy(dtype=bool)
        problem = np.full(len(column), "category not seen in training", dtype=object)
        return index, _records(self.name, column, unseen, problem, "treated as unknown")


@dataclass(frozen=True, slots=True)
class TablePreprocessor:
    """All that was learnt from the training rows of a table; columns are found by name, other columns do not matter."""

    numbers: tuple[NumberColumn, ...]
    dates: tuple[DateColumn, ...]
    categories: tuple[CategoryColumn, ...]

    @classmethod
    def fit(
        cls, frame: pd.DataFrame, schema: Schema, weight: Float[np.ndarray, " rows"] | None = None
    ) -> "TablePreprocessor":
        """Learn from the training rows, and only those.

        Args:
            weight: how much each row counts in medians, means and standard deviations, in any unit; see
                ``row_weights``.
        Raises:
            DataError: a column of the schema is missing, or there are no rows.
        """
        names = {role: schema.names(role) for role in ("number", "date", "category")}
        require_columns(frame, [name for group in names.values() for name in group])
        if not len(frame):
            raise DataError("there are no training rows to learn medians and levels from.")
        return cls(
            numbers=tuple(NumberColumn.fit(name, frame[name], weight) for name in names["number"]),
            dates=tuple(DateColumn.fit(name, frame[name], weight) for name in names["date"]),
            categories=tuple(CategoryColumn.fit(name, frame[name]) for name in names["category"]),
        )

    @property
    def _numeric_columns(self) -> tuple[NumberColumn | DateColumn, ...]:
        return (*self.numbers, *self.dates)

    @property
    def numeric_names(self) -> tuple[str, ...]:
        """Names of the columns of ``numeric``: "area", "age is missing", "sold year"."""
        return tuple(output for column in self._numeric_columns for output in column.outputs)

    @property
    def numeric_sources(self) -> tuple[str, ...]:
        """For each column of ``numeric`` the column of the table that it was made of."""
        return tuple(column.name for column in self._numeric_columns for _ in column.outputs)

    @property
    def categorical_names(self) -> tuple[str, ...]:
        """Names of the columns of ``categorical``."""
        return tuple(column.name for column in self.categories)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """For each category column one more than its levels, for index 0."""
        return tuple(len(column.levels) + 1 for column in self.categories)

    def transform(self, frame: pd.DataFrame) -> TableArrays:
        """Arrays of any rows, none included; ``BadInput.row`` is the position in ``frame``.

        Raises:
            DataError: a column that the model needs is missing, or is there twice.
        """
        require_columns(frame, [*(column.name for column in self._numeric_columns), *self.categorical_names])
        numeric = np.zeros((len(frame), len(self.numeric_names)), dtype=np.float32)
        categorical = np.zeros((len(frame), len(self.categories)), dtype=np.int64)
        repaired: list[BadInput] = []
        place = 0
        for column in self._numeric_columns:
            outputs, bad = column.apply(frame[column.name])
            for output in outputs:
                numeric[:, place] = output
                place += 1
            repaired += bad
        for index, category in enumerate(self.categories):
            categorical[:, index], bad = category.apply(frame[category.name])
            repaired += bad
        return TableArrays(numeric, categorical, repaired)

    def to_dict(self) -> dict[str, Any]:
        """State as plain dicts, lists, texts and finite numbers, ready for JSON."""
        state = asdict(self)
        for column in state["categories"]:
            column["levels"], column["rare"] = list(column["levels"]), list(column["rare"])
        for column in state["dates"]:
            column["scales"] = list(column["scales"])
        return {kind: list(columns) for kind, columns in state.items()}

    @classmethod
    def from_dict(cls, data: Any) -> "TablePreprocessor":
        """Read what ``to_dict`` gave: the result transforms to the same bytes.

        Raises:
            DataError: it is something else.
        """
        try:
            read: TablePreprocessor = from_plain(cls, data, finite=True)
            read._check()
        except DataError as error:
            raise DataError(f"the saved preprocessing state is damaged: {error}") from error
        return read

    def _check(self) -> None:
        """What belongs together.

        Raises:
            DataError: it does not.
        """
        names = [*(column.name for column in self._numeric_columns), *self.categorical_names]
        if len(set(names)) != len(names):
            raise DataError("there is a column twice.")
        for date in self.dates:
            if len(date.scales) != 4:
                raise DataError(f"a date has {len(date.scales)} scales in place of 4.")
        for category in self.categories:
            if any(len(set(texts)) != len(texts) for texts in (category.levels, category.rare)):
                raise DataError("there is a level of a category twice.")


def _is_tamed_by_log(values: Float[np.ndarray, " rows"], weight: Float[np.ndarray, " rows"] | None) -> bool:
    skew = moments(values, weight).skew
    return skew > _LOG_ABOVE_SKEW and abs(moments(np.log1p(values), weight).skew) < skew


def _calendar(times: Shaped[np.ndarray, " rows"], origin: int) -> list[Float[np.ndarray, " rows"]]:
    """Year, month, day of week (Monday = 0) and days since ``origin``; nan where there is no date."""
    missing = np.isnat(times)
    days = times.astype("datetime64[D]").astype(np.int64)
    months = times.astype("datetime64[M]").astype(np.int64)
    elapsed = (times - np.datetime64(origin, "us")) / _DAY
    parts = [months // 12 + 1970, months % 12 + 1, (days + 3) % 7, elapsed]  # 1970-01-01 was a Thursday
    return [np.where(missing, np.nan, part) for part in parts]


def _records(
    name: str,
    column: pd.Series,
    bad: Bool[np.ndarray, " rows"],
    problem: Shaped[np.ndarray, " rows"],
    action: str,
) -> list[BadInput]:
    rows = np.flatnonzero(bad)
    cells = column.iloc[rows].astype(object)
    return [
        BadInput(row=int(row), column=name, value=str(cell)[:200], problem=str(problem[row]), action=action)
        for row, cell in zip(rows, cells, strict=True)
    ]


def require_columns(frame: pd.DataFrame, needed: Sequence[str]) -> None:
    """Refuse a table that lacks a column that a model needs, or has one twice.

    Raises:
        DataError: names all that are missing.
    """
    names = list(frame.columns)
    missing = [name for name in needed if name not in names]
    if missing:
        noun = "column" if len(missing) == 1 else "columns"
        listed = ", ".join(map(repr, missing))
        hint = did_you_mean(missing[0], map(str, names))
        raise DataError(f"the table has no {noun} {listed}, which the model needs.{hint}")
    twice = [name for name in needed if names.count(name) > 1]
    if twice:
        raise DataError(f"the table has {names.count(twice[0])} columns named {twice[0]!r}; leave one of them out.")
