"""Preprocessing: from typed columns to the arrays that a network takes.

In: the training rows, once, to fit medians, scales and levels; then any rows with the same columns.
Out: ``TableArrays``, and a record of every cell that could not be used. The state is pure JSON.
Imports nothing from ``nn`` or ``training``; does not handle images or the target."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int64

from mixfit.data.arrays import zeros
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
    """The tabular features of some rows, in the order of the input rows."""

    numeric: Float32[np.ndarray, "rows numeric"]
    """z-scores in [-10, 10], indicators, sines and cosines; finite."""
    categorical: Int64[np.ndarray, "rows categorical"]
    """Index of the level from 1; 0 = missing, or unseen or rare in training."""
    repaired: list[BadInput]
    """Cells with unusable values, and categories not seen in training; empty cells are not included."""


@dataclass(frozen=True, slots=True)
class TablePreprocessor:
    """The preprocessing fitted on the training rows of a table; columns are matched by name, others are ignored."""

    columns: tuple[ColumnState, ...] = ()
    """By kind, and then in the order of the table."""
    forms: Mapping[str, Form] = field(default_factory=dict, compare=False, repr=False)
    """Formats of the columns, from the schema; not applied to a table that already has formats."""

    @classmethod
    def fit(
        cls, table: pd.DataFrame | Table, schema: Schema, weight: Float[np.ndarray, " rows"] | None = None
    ) -> "TablePreprocessor":
        """Fit on the training rows, and only on those.

        Args:
            weight: row weights for medians, means and standard deviations, on any scale; see ``row_weights``.
        Raises:
            DataError: a column of the schema is missing, or there are no rows.
        """
        table, chosen = schema.table(table), schema.table_columns
        require_columns(table, [name for _, name in chosen])
        if not len(table):
            raise DataError("there are no training rows to fit the preprocessing on.")
        states = tuple(kind.fit(table[name], weight) for kind, name in chosen)
        return cls(states, {column.name: column.form for column in schema.columns})

    @property
    def names(self) -> list[str]:
        """Names of the required columns of the table."""
        return [column.name for column in self.columns]

    @property
    def numeric_names(self) -> tuple[str, ...]:
        """Names of the columns of ``numeric``: "area", "age is missing", "sold year"."""
        return tuple(output for column in self.columns for output in column.outputs)

    @property
    def numeric_sources(self) -> tuple[str, ...]:
        """For each column of ``numeric``, the column of the table that it is derived from."""
        return tuple(column.name for column in self.columns for _ in column.outputs)

    @property
    def categorical_names(self) -> tuple[str, ...]:
        """Names of the columns of ``categorical``."""
        return tuple(column.name for column in self.columns if column.cardinality)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """For each column of ``categorical``, its number of levels plus one, for index 0."""
        return tuple(column.cardinality for column in self.columns if column.cardinality)

    def transform(self, table: pd.DataFrame | Table) -> TableArrays:
        """Arrays of any rows, possibly none; ``BadInput.row`` is the position in ``table``.

        Raises:
            DataError: a column that the model needs is missing or occurs more than once.
        """
        table = Table.of(table)
        table = table if table.forms else table.written(self.forms)
        return TableArrays(*self.arrays(table), self.problems(table))

    def arrays(self, table: Table) -> tuple[Float32[np.ndarray, "rows numeric"], Int64[np.ndarray, "rows categorical"]]:
        """As ``transform``, but without the search for unusable cells."""
        require_columns(table, self.names)
        numeric = zeros((len(table), len(self.numeric_names)))
        categorical = zeros((len(table), len(self.cardinalities)), np.int64)
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
        """The state as plain dicts, lists, strings and finite numbers, for JSON."""
        found: dict[str, list[Any]] = {kind.state.saved_as: [] for kind in KINDS if kind.state is not None}
        for column in self.columns:
            found.setdefault(column.saved_as, []).append(_plain(column))
        return found

    @classmethod
    def from_dict(cls, data: Any, kinds: Sequence[Kind] = KINDS) -> "TablePreprocessor":
        """Restore the result of ``to_dict``; its output is identical, byte for byte.

        Raises:
            DataError: the data are not such a result.
        """
        try:
            said = from_plain(dict[str, list[Any]], data)
            if not any(kind.state is not None and kind.state.saved_as in said for kind in kinds):
                raise DataError("it has no columns of any known kind.")
            every = [
                from_plain(kind.state, column, f"{kind.state.saved_as}[{place}]", finite=True)
                for kind in kinds
                if kind.state is not None
                for place, column in enumerate(said.get(kind.state.saved_as, []))
            ]
            names = [column.name for column in every]
            if len(set(names)) != len(names):
                raise DataError("a column occurs twice.")
            for column in every:
                column.check()
        except DataError as error:
            raise DataError(f"the saved preprocessing state is damaged: {error}") from error
        return cls(tuple(every))


def _plain(value: Any) -> Any:
    """Convert a state to dicts and lists."""
    found = asdict(value)
    return {name: list(part) if isinstance(part, tuple) else part for name, part in found.items()}
