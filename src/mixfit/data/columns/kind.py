"""The interface of a kind of column: how its cells are parsed, recognised, fitted, described and given to models.

A kind is one module beside this one and one line in ``KINDS`` of ``kinds.py``; roles are listed nowhere else. Its cells
are parsed once for a whole table; its state is fitted on the training rows only and can be stored as JSON."""

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
    """An inferred role with its evidence."""

    role: Role
    reason: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class ColumnArrays:
    """The model inputs derived from a column."""

    numeric: Sequence[Float[np.ndarray, " rows"]] = ()
    """In the order of ``ColumnState.outputs``; finite."""
    level: Int64[np.ndarray, " rows"] | None = None
    """Index from 1; 0 = missing or unseen. None for a column without levels."""


@runtime_checkable
class ColumnState(Protocol):
    """The state of a column fitted on the training rows: a dataclass whose fields can be stored as JSON."""

    @property
    def role(self) -> Role:
        """The role of its kind."""

    @property
    def saved_as(self) -> str:
        """The key of all states of this kind in a saved model."""

    @property
    def name(self) -> str:
        """Name of the column."""

    @property
    def outputs(self) -> Sequence[str]:
        """Names of its numeric outputs: "area", "area is missing"."""

    @property
    def cardinality(self) -> int:
        """Number of levels plus one, for index 0; 0 for a column without levels."""

    def transform(self, cells: Cells) -> ColumnArrays:
        """The model inputs for any rows."""

    def problems(self, cells: Cells) -> list[BadInput]:
        """Cells with unusable values, by position; empty cells are not included."""

    def check(self) -> None:
        """Check the consistency of a state that was read from a file.

        Raises:
            DataError: it is inconsistent.
        """


@runtime_checkable
class Kind(Protocol):
    """A kind of column."""

    @property
    def role(self) -> Role:
        """The name used in ``--set COLUMN=``."""

    @property
    def state(self) -> type[Any] | None:
        """The class of its states; None if models receive the cells in another way, as photos."""

    @property
    def nested(self) -> bool:
        """Whether its cells may be bytes or containers, not only scalars."""

    @property
    def orders(self) -> bool:
        """Whether its values are ordered, so that their order is checked for target leakage."""

    @property
    def levels(self) -> bool:
        """Whether its values may be levels, so that they are checked for target leakage."""

    def parse(self, cells: Cells) -> Typed:
        """Parse the cells to typed arrays, once per table: ``cells.numbers``, or ``cells.read(my_function)``."""

    def guess(self, fact: Facts) -> Guess | None:
        """The role inferred from the contents of a column; None if the column does not look like this kind."""

    def check(self, fact: Facts) -> str:
        """A note on a column that the user set to this kind.

        Raises:
            ConfigError: its cells cannot be parsed as this kind, see ``refuse_if``.
        """

    def missing(self, cells: Cells) -> int:
        """Number of cells without a value, not counting cells with unusable values."""

    def fit(self, cells: Cells, weight: Weight) -> ColumnState:
        """Fit on the training rows, and only on those.

        Args:
            weight: row weights, on any scale; None for equal weights.
        """

    def describe(self, cells: Cells) -> tuple[float, str]:
        """The share of cells without a usable value, and a summary of the others: "0 to 9.5", "12 values"."""

    def values(self, cells: Cells) -> Int64[np.ndarray, " rows"]:
        """Codes that are equal for cells with the same value; explanations use them to replace values."""


def bad_cells(
    cells: Cells, bad: Bool[np.ndarray, " rows"], problem: str | Shaped[np.ndarray, " rows"], action: str
) -> list[BadInput]:
    """One record for each cell that cannot be used.

    Args:
        problem: one text for all of them, or one for each row.
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
    """Refuse a role that does not fit the cells of a column.

    Raises:
        ConfigError: ``wrong`` is true.
    """
    if wrong:
        place = int(bad.argmax())
        first = f", the first in row {fact.column.index[place]} is {short(fact.keys.iloc[place])}" if bad.any() else ""
        raise ConfigError(
            f"column {fact.name!r} cannot have the role {role}: {bad.sum()} of {len(bad)} cells are not {wanted} "
            f"and {len(bad) - fact.count} are empty{first}."
        )


def refuse_nested(fact: Facts, role: Role) -> None:
    """Refuse a role that needs scalars for cells that are bytes or containers.

    Raises:
        ConfigError: the cells are not scalars.
    """
    if fact.cells.nested is not None:
        raise ConfigError(
            f"column {fact.name!r} cannot have the role {role}: its cells are of type {fact.cells.nested}, "
            "not plain values."
        )


def missing_numbers(cells: Cells) -> int:
    """Number of cells that are empty or missing-value markers."""
    return int((np.isnan(cells.numbers.values) & ~cells.numbers.unparsable).sum())


def empty_cells(cells: Cells) -> int:
    """Number of empty cells."""
    return int(cells.column.isna().sum()) if cells.nested else int((cells.levels.codes < 0).sum())


def joined(*notes: str) -> str:
    """The non-empty notes, joined."""
    return "; ".join(filter(None, notes))
