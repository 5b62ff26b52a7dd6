"""Rows of the same object (a patient, a city) where no group says so: columns that repeat together.

In: a table and its schema. Out: ``Finding``. Numbers that repeat together nearly, not exactly, are those of
``find_clusters``. Whether rows of one object belong on one side of the split depends on the rows to come: a warning
with the setting, no role."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64

from mixfit.data.checks.table import Finding
from mixfit.data.columns.cells import Table
from mixfit.data.columns.objects import (
    TIME_WORDS,
    Pairs,
    chance_of_equal,
    differing,
    listed,
    same_within,
    set_role,
    words_of,
)
from mixfit.data.columns.schema import Schema

_MOST_COLUMNS = 40
_LEAST_VALUES, _MOST_ROWS_EACH = 20, 50
_LEAST_REPEATED = 0.5  # of the rows
_AS_FINE = 0.5  # of the values of a column, that another must tell apart
_SMOOTH = 0.3  # of the usual step between two values of a number, for a function that was computed from it
_EQUAL, _LIFT = 0.3, 5.0
_MARGIN = np.log(100)


def repeated_objects(table: pd.DataFrame | Table, schema: Schema) -> list[Finding]:
    """A warning if rows repeat the values of several columns together, and no group keeps them together."""
    table = Table.of(table)
    if schema.names("group") or table.in_pieces or len(table) < 2 * _LEAST_VALUES:
        return []
    names = [
        column.name
        for column in schema.columns
        if column.role in ("number", "category", "ordered") and column.name in table and not _timely(column.name)
    ]
    names = names[:_MOST_COLUMNS]
    codes = {name: table[name].levels.codes for name in names}
    numbers = {name: table[name].numbers.values for name in schema.names("number") if name in codes}
    others = [table[column.name].levels.codes for column in schema.columns if _compared(table, column.name)]
    return _one_column(table, schema, codes, numbers, others) or _several(schema, codes, numbers, others)


def _compared(table: Table, name: str) -> bool:
    return name in table and table[name].nested is None


def _timely(name: str) -> bool:
    return bool(TIME_WORDS & set(words_of(name)))


def _set_by_hand(schema: Schema) -> set[str]:
    return {column.name for column in schema.columns if column.reason == "set by hand"}


def _one_column(
    table: Table,
    schema: Schema,
    codes: dict[str, Int64[np.ndarray, " rows"]],
    numbers: dict[str, Float[np.ndarray, " rows"]],
    others: Sequence[Int64[np.ndarray, " rows"]],
) -> list[Finding]:
    """A category, or whole numbers, of which several other columns are functions that tell its values apart."""
    for name in sorted(codes, key=lambda name: name in numbers):
        values = numbers.get(name)
        if name in _set_by_hand(schema) or (values is not None and not (values[np.isfinite(values)] % 1 == 0).all()):
            continue
        counts = np.bincount(codes[name][codes[name] >= 0])
        repeated = counts[counts > 1]
        if len(repeated) < _LEAST_VALUES or repeated.sum() < _LEAST_REPEATED * len(table):
            continue
        if repeated.mean() > _MOST_ROWS_EACH:
            continue
        pairs = differing(Pairs.of(codes[name]), others)
        fine = [
            one
            for one in same_within(pairs, {key: value for key, value in codes.items() if key != name})
            if _tells_apart(codes[one], codes[name]) and not _computed(values, numbers.get(one))
        ]
        if len(fine) >= 2:
            text = (
                f"{name}: {len(repeated):,} values repeat in {repeated.sum():,} rows, and {listed(fine)} the same in "
                f"all rows of one value, so the rows may be of {len(repeated):,} objects; if new rows will be of new "
                f"ones, the scores look too good: {set_role(name, 'group')} keeps each on one side of split and folds"
            )
            return [Finding("warning", f"{text} ({set_role(name, 'category')} if all are known)")]
    return []


def _several(
    schema: Schema,
    codes: dict[str, Int64[np.ndarray, " rows"]],
    numbers: dict[str, Float[np.ndarray, " rows"]],
    others: Sequence[Int64[np.ndarray, " rows"]],
) -> list[Finding]:
    """Columns that repeat together far more often than chance allows."""
    chance = {name: chance_of_equal(cells) for name, cells in codes.items()}
    rows = len(next(iter(codes.values()), ()))
    for name, cells in sorted(codes.items(), key=lambda item: chance[item[0]]):
        pairs = Pairs.of(cells)
        if 2 * len(pairs) < _LEAST_REPEATED * rows:
            continue
        together = [name]
        for one, other in codes.items():
            equal = float((other[pairs.first] == other[pairs.second]).mean())
            if one == name or equal < max(_EQUAL, _LIFT * chance[one]):
                continue
            if any(_computed(numbers.get(before), numbers.get(one)) for before in together):
                continue
            together.append(one)
        if len(together) < 3 or _set_by_hand(schema) & set(together):
            continue
        joint = pd.DataFrame({one: codes[one] for one in together}).groupby(together, sort=False).ngroup().to_numpy()
        pairs = differing(Pairs.of(joint), others)
        counts = np.bincount(joint)
        repeated = counts[counts > 1]
        if repeated.sum() < _LEAST_REPEATED * rows or len(pairs) < _LEAST_REPEATED * (repeated.sum() - len(repeated)):
            continue
        # Rows of independent columns would be equal in all of these in so many pairs.
        by_chance = 2 * np.log(rows) + sum(np.log(chance[one]) for one in together)
        if np.log((repeated * (repeated - 1)).sum()) < by_chance + _MARGIN:
            continue
        if len(repeated) < _LEAST_VALUES or not 1 < repeated.mean() <= _MOST_ROWS_EACH:
            continue
        text = (
            f"the rows appear to form groups that no column identifies: {listed(together)} equal together in "
            f"{repeated.sum():,} rows, {len(repeated):,} times in about {np.median(repeated):.0f} rows; if these rows "
            "show the same object, add a column that identifies it, and --set COLUMN=group, to keep groups together "
            "in folds and split"
        )
        return [Finding("warning", text)]
    return []


def _tells_apart(other: Int64[np.ndarray, " rows"], codes: Int64[np.ndarray, " rows"]) -> bool:
    return len(np.unique(other)) >= _AS_FINE * len(np.unique(codes))


def _computed(values: Float[np.ndarray, " rows"] | None, other: Float[np.ndarray, " rows"] | None) -> bool:
    """Whether a number is a smooth function of another (an hour and its sine), so that it repeats with it anyway."""
    if values is None or other is None:
        return False
    known = np.isfinite(values) & np.isfinite(other)
    if known.sum() < 3:
        return False
    steps, first = np.unique(values[known], return_index=True)
    found = other[known][first]
    if len(steps) < 3 or found.std() == 0:
        return False
    return bool(np.abs(np.diff(found)).mean() < _SMOOTH * np.abs(found - np.roll(found, len(found) // 2)).mean())
