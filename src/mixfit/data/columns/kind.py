"""What a kind of column is: how its cells are read, told from others, learnt from, shown and given to models.

A kind is one file beside this one and one line in ``KINDS`` of ``kinds.py``: nothing else lists roles. Its cells are
read once for a whole table; what it learns comes from the training rows alone and is JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped

from mixfit.choices import Role
from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.cells import Cells, Typed
from mixfit.data.columns.facts import Facts, short
from mixfit.errors import ConfigError

Weight = Float[np.ndarray, " rows"] | None


class Guess(NamedTuple):
    """A role with its evidence."""

    role: Role
    reason: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class ColumnArrays:
    """What a model sees of a column."""

    numeric: Sequence[Float[np.ndarray, " rows"]] = ()
    """In the order of ``ColumnState.outputs``; finite."""
    level: Int64[np.ndarray, " rows"] | None = None
    """From 1, 0 = missing or unseen; None for a column without levels."""


@runtime_checkable
class ColumnState(Protocol):
    """What was learnt of a column from the training rows: a dataclass whose fields are JSON."""

    @property
    def role(self) -> Role:
        """Of its kind."""

    @property
    def saved_as(self) -> str:
        """The key of all states of this kind in a saved model."""

    @property
    def name(self) -> str:
        """Of the column."""

    @property
    def outputs(self) -> Sequence[str]:
        """Names of its columns of numbers: "area", "area is missing"."""

    @property
    def cardinality(self) -> int:
        """One more than its levels, for index 0; 0 for a column without levels."""

    def transform(self, cells: Cells) -> ColumnArrays:
        """What a model sees of any rows."""

    def problems(self, cells: Cells) -> list[BadInput]:
        """Cells that hold something unusable, by position; an empty cell is none."""

    def check(self) -> None:
        """Whether a state that was read from a file is whole.

        Raises:
            DataError: it is not.
        """


@runtime_checkable
class Kind(Protocol):
    """A kind of column."""

    @property
    def role(self) -> Role:
        """What ``--set COLUMN=`` calls it."""

    @property
    def state(self) -> type[Any] | None:
        """The class of its states; None where models get the cells another way, as photos."""

    @property
    def nested(self) -> bool:
        """Whether its cells may be bytes or containers; all others are plain values."""

    @property
    def orders(self) -> bool:
        """Whether its values have an order that may give the target away."""

    @property
    def levels(self) -> bool:
        """Whether its values may be levels that give the target away."""

    def parse(self, cells: Cells) -> Typed:
        """The cells as typed arrays: ``cells.numbers``, or ``cells.read(my_function)``; once for the whole table."""

    def guess(self, fact: Facts) -> Guess | None:
        """The role of a column of plain cells by what it holds; None where it looks like none of this kind."""

    def check(self, fact: Facts) -> str:
        """A note on a column that was set to be of this kind.

        Raises:
            ConfigError: its cells cannot be read so, see ``refuse_if``.
        """

    def missing(self, cells: Cells) -> int:
        """Cells without a value; those that hold something unusable are not counted."""

    def fit(self, cells: Cells, weight: Weight) -> ColumnState:
        """Learn from the training rows, and only those.

        Args:
            weight: how much each row counts, in any unit; None for all alike.
        """

    def describe(self, cells: Cells) -> tuple[float, str]:
        """Share of the cells without a usable value, and what the others are: "0 to 9.5", "12 values"."""

    def values(self, cells: Cells) -> Int64[np.ndarray, " rows"]:
        """Equal numbers for cells that stand for the same value: explanations put other values in their place."""


def bad_cells(
    cells: Cells, bad: Bool[np.ndarray, " rows"], problem: str | Shaped[np.ndarray, " rows"], action: str
) -> list[BadInput]:
    """One record for each cell that cannot be used.

    Args:
        problem: of all of them, or one for each row.
    """
    rows = np.flatnonzero(bad)
    if not len(rows):
        return []
    shown = cells.column.iloc[rows].astype(object)
    said = np.full(len(bad), problem, dtype=object) if isinstance(problem, str) else problem
    return [
        BadInput(row=int(row), column=cells.name, value=str(cell)[:200], problem=str(said[row]), action=action)
        for row, cell in zip(rows, shown, strict=True)
    ]


def refuse_if(wrong: bool, fact: Facts, role: Role, wanted: str, bad: Bool[np.ndarray, " rows"]) -> None:  # noqa: FBT001
    """Refuse a role that the cells of a column cannot fill.

    Raises:
        ConfigError: it is wrong.
    """
    if wrong:
        place = int(bad.argmax())
        first = f", the first in row {fact.column.index[place]} is {short(fact.keys.iloc[place])}" if bad.any() else ""
        raise ConfigError(
            f"column {fact.name!r} cannot be {role}: {bad.sum()} of {len(bad)} cells are not {wanted} "
            f"and {len(bad) - fact.count} are empty{first}."
        )


def refuse_nested(fact: Facts, role: Role) -> None:
    """Refuse a role for cells that are no plain values.

    Raises:
        ConfigError: they are none.
    """
    if fact.cells.nested is not None:
        raise ConfigError(
            f"column {fact.name!r} cannot be {role}: its cells are of type {fact.cells.nested}, not plain values."
        )


def missing_numbers(cells: Cells) -> int:
    """Cells that are empty or a word for "no value"."""
    return int((np.isnan(cells.numbers.values) & ~cells.numbers.unparsable).sum())


def empty_cells(cells: Cells) -> int:
    """Cells that hold nothing."""
    return int(cells.column.isna().sum()) if cells.nested else int((cells.levels.codes < 0).sum())


def joined(*notes: str) -> str:
    """Those notes that say something, as one."""
    return "; ".join(filter(None, notes))
