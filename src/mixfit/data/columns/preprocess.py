"""From typed columns to the arrays that a network takes: what is learnt of each column, side by side.

In: the training rows, once, to learn medians, scales and levels; then any rows with the same columns.
Out: ``TableArrays``, and a record of every cell that could not be used. The state is pure JSON.
Imports nothing from ``nn`` or ``training``; leaves images and the target to others."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int64

from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.cells import Table, require_columns
from mixfit.data.columns.form import Form
from mixfit.data.columns.kind import ColumnState, Kind
from mixfit.data.columns.kinds import KINDS
from mixfit.data.columns.schema import Schema
from mixfit.errors import DataError
from mixfit.files import from_plain


@dataclass(frozen=True, slots=True)
class TableArrays:
    """The table part of some rows, in the order of the rows handed in."""

    numeric: Float32[np.ndarray, "rows numeric"]
    """z-scores in [-10, 10], flags and sines; finite."""
    categorical: Int64[np.ndarray, "rows categorical"]
    """Level from 1, or 0 = missing, unseen or rare in training."""
    repaired: list[BadInput]
    """Cells that hold something unusable, and categories not seen in training; an empty cell is not in here."""


@dataclass(frozen=True, slots=True)
class TablePreprocessor:
    """All that was learnt from the training rows of a table; columns are found by name, other columns do not matter."""

    columns: tuple[ColumnState, ...] = ()
    """By kind, and then in the order of the table."""
    forms: Mapping[str, Form] = field(default_factory=dict, compare=False, repr=False)
    """How the columns are written, from the schema; a table that a schema has read already is left as it is."""

    @classmethod
    def fit(
        cls, table: pd.DataFrame | Table, schema: Schema, weight: Float[np.ndarray, " rows"] | None = None
    ) -> "TablePreprocessor":
        """Learn from the training rows, and only those.

        Args:
            weight: how much each row counts in medians, means and standard deviations, in any unit; see
                ``row_weights``.
        Raises:
            DataError: a column of the schema is missing, or there are no rows.
        """
        table, chosen = schema.table(table), schema.table_columns
        require_columns(table, [name for _, name in chosen])
        if not len(table):
            raise DataError("there are no training rows to learn medians and levels from.")
        states = tuple(kind.fit(table[name], weight) for kind, name in chosen)
        return cls(states, {column.name: column.form for column in schema.columns})

    @property
    def names(self) -> list[str]:
        """Of the columns of the table that are needed."""
        return [column.name for column in self.columns]

    @property
    def numeric_names(self) -> tuple[str, ...]:
        """Names of the columns of ``numeric``: "area", "age is missing", "sold year"."""
        return tuple(output for column in self.columns for output in column.outputs)

    @property
    def numeric_sources(self) -> tuple[str, ...]:
        """For each column of ``numeric`` the column of the table that it was made of."""
        return tuple(column.name for column in self.columns for _ in column.outputs)

    @property
    def categorical_names(self) -> tuple[str, ...]:
        """Names of the columns of ``categorical``."""
        return tuple(column.name for column in self.columns if column.cardinality)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """For each column with levels one more than these, for index 0."""
        return tuple(column.cardinality for column in self.columns if column.cardinality)

    def transform(self, table: pd.DataFrame | Table) -> TableArrays:
        """Arrays of any rows, none included; ``BadInput.row`` is the position in ``table``.

        Raises:
            DataError: a column that the model needs is missing, or is there twice.
        """
        table = Table.of(table)
        table = table if table.forms else table.written(self.forms)
        return TableArrays(*self.arrays(table), self.problems(table))

    def arrays(self, table: Table) -> tuple[Float32[np.ndarray, "rows numeric"], Int64[np.ndarray, "rows categorical"]]:
        """As ``transform``, without looking for what is unusable."""
        require_columns(table, self.names)
        numeric = np.zeros((len(table), len(self.numeric_names)), dtype=np.float32)
        categorical = np.zeros((len(table), len(self.cardinalities)), dtype=np.int64)
        place = levels = 0
        for column in self.columns:
            found = column.transform(table[column.name])
            for output in found.numeric:
                numeric[:, place] = output
                place += 1
            if found.level is not None:
                categorical[:, levels] = found.level
                levels += 1
        return numeric, categorical

    def problems(self, table: Table) -> list[BadInput]:
        """As ``TableArrays.repaired``."""
        return [record for column in self.columns for record in column.problems(table[column.name])]

    def to_dict(self) -> dict[str, Any]:
        """State as plain dicts, lists, texts and finite numbers, ready for JSON."""
        found: dict[str, list[Any]] = {kind.state.saved_as: [] for kind in KINDS if kind.state is not None}
        for column in self.columns:
            found.setdefault(column.saved_as, []).append(_plain(column))
        return found

    @classmethod
    def from_dict(cls, data: Any, kinds: Sequence[Kind] = KINDS) -> "TablePreprocessor":
        """Read what ``to_dict`` gave: the result transforms to the same bytes.

        Raises:
            DataError: it is something else.
        """
        try:
            said = from_plain(dict[str, list[Any]], data)
            if not any(kind.state is not None and kind.state.saved_as in said for kind in kinds):
                raise DataError("it holds no columns of any kind.")
            every = [
                from_plain(kind.state, column, f"{kind.state.saved_as}[{place}]", finite=True)
                for kind in kinds
                if kind.state is not None
                for place, column in enumerate(said.get(kind.state.saved_as, []))
            ]
            names = [column.name for column in every]
            if len(set(names)) != len(names):
                raise DataError("there is a column twice.")
            for column in every:
                column.check()
        except DataError as error:
            raise DataError(f"the saved preprocessing state is damaged: {error}") from error
        return cls(tuple(every))


def _plain(value: Any) -> Any:
    """A state as dicts and lists."""
    found = asdict(value)
    return {name: list(part) if isinstance(part, tuple) else part for name, part in found.items()}
