"""What a client must know of a model: its columns with their levels, ranges, units and an example of each.

In: a schema and the states of its columns. Out: plain dicts, for /schema, the OpenAPI document and the form."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from mixfit.data.columns.category import CategoryColumn
from mixfit.data.columns.date import DateColumn
from mixfit.data.columns.kind import ColumnState
from mixfit.data.columns.number import NumberColumn
from mixfit.data.columns.ordered import OrderedColumn
from mixfit.data.columns.schema import Column, Schema
from mixfit.data.columns.tags import TagsColumn

MOST_LEVELS = 200
"""Levels that are listed of a column."""
_RANGE = re.compile(r"(\S+) to (\S+)")
_ROUNDED = 1e-5  # ranges are kept with six digits


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFact:
    """One column of a model's input."""

    name: str
    role: str
    unit: str
    """Of numbers, as it stood beside them in training; "" if there was none."""
    low: float | None
    high: float | None
    """Smallest and largest number of the training rows, to six digits; None if unknown, or no numbers."""
    first: str
    last: str
    """First and last day of the training rows; "" if unknown, or no dates."""
    levels: tuple[str, ...]
    """Levels of categories, and tags; ordered ones from the lowest to the highest."""
    example: Any
    """A value as it may be sent; None for a photo."""
    missing: float | None
    """Share of the training rows without it; None if unknown."""

    def outside(self, value: object) -> bool:
        """Whether a cell is a number beyond those of the training rows."""
        if self.low is None or self.high is None or isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low, high = self.low, self.high
        return value < low - _ROUNDED * abs(low) or value > high + _ROUNDED * abs(high)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what is unknown is left out."""
        found: dict[str, Any] = {"name": self.name, "role": self.role, "example": self.example}
        if self.unit:
            found["unit"] = self.unit
        if self.low is not None:
            found["range"] = [self.low, self.high]
        if self.first:
            found["range"] = [self.first, self.last]
        if self.levels:
            found["levels"] = list(self.levels[:MOST_LEVELS])
            found["number_of_levels"] = len(self.levels)
        if self.missing is not None:
            found["missing_in_training"] = self.missing
        return found


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a column in the training rows."""

    missing: float
    """Share of empty cells."""
    said: str
    """Such as "3.5 to 80"."""


def column_facts(
    schema: Schema, states: Sequence[ColumnState], seen: Mapping[str, Seen], *, photos: bool
) -> tuple[ColumnFact, ...]:
    """The columns that the model needs, then those of photos, in the order of the table.

    Args:
        states: what was learnt of columns.
        seen: by column; nothing where it is not known.
        photos: whether the model looks at photos.
    """
    by_name = {state.name: state for state in states}
    found = []
    for column in schema.columns:
        if column.name not in schema.inputs or (column.role == "image" and not photos):
            continue
        about = seen.get(column.name)
        low, high = _range(about.said if about is not None else "")
        number, date = column.role == "number", column.role == "date"
        found.append(
            ColumnFact(
                name=column.name,
                role=column.role,
                unit=column.form.unit,
                low=_number(low) if number and _number(high) is not None else None,
                high=_number(high) if number and _number(low) is not None else None,
                first=low if date else "",
                last=high if date else "",
                levels=_levels(by_name.get(column.name)),
                example=_example(column, by_name.get(column.name)),
                missing=None if about is None else about.missing,
            )
        )
    return tuple(sorted(found, key=lambda one: one.role == "image"))


def example_row(facts: tuple[ColumnFact, ...]) -> dict[str, Any]:
    """A row of examples."""
    return {one.name: one.example for one in facts}


def unit_of_target(schema: Schema) -> str:
    """What stood beside the numbers to predict; "" if nothing did."""
    return next(column.form.unit for column in schema.columns if column.role == "target")


def _range(seen: str) -> tuple[str, str]:
    found = _RANGE.fullmatch(seen)
    return ("", "") if found is None else (found[1], found[2])


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _levels(state: object) -> tuple[str, ...]:
    if isinstance(state, CategoryColumn | OrderedColumn):
        return state.levels
    return state.tags if isinstance(state, TagsColumn) else ()


def _example(column: Column, state: object) -> Any:
    """A typical value of the training rows."""
    if isinstance(state, NumberColumn):
        middle = math.expm1(state.scale.fill) if state.scale.log else state.scale.fill
        return float(f"{middle:.4g}")
    if isinstance(state, DateColumn):
        origin = datetime(1970, 1, 1, tzinfo=UTC)
        try:
            return (origin + timedelta(microseconds=state.origin)).date().isoformat()
        except OverflowError:
            return origin.date().isoformat()
    if isinstance(state, CategoryColumn | OrderedColumn):
        return state.levels[len(state.levels) // 2] if state.levels else None
    if isinstance(state, TagsColumn):
        return list(state.tags[:2])
    return "some words" if column.role == "text" else None
