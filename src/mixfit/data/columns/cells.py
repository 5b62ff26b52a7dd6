"""A table whose cells are read once: each column as it came, and the typed arrays that were made of it.

In: a DataFrame. Out: ``Table``, whose columns are ``Cells``. Each reading of a column (as numbers, as levels, as dates)
is made when first asked for, for all rows of the table, and shared by all selections of its rows: folds, splits, checks
and models select from it and convert nothing again."""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Int64

from mixfit.data.columns import values
from mixfit.data.columns.values import Dates, Levels, Numbers
from mixfit.errors import DataError, did_you_mean


@runtime_checkable
class Typed(Protocol):
    """What a column is read as: arrays with a row for each cell, and masks of what is missing."""

    def take(self, rows: Int64[np.ndarray, " some"]) -> "Typed":
        """Those rows, in that order."""


Read = TypeVar("Read", bound=Typed)


class Cells:
    """A column of a table, or of some of its rows, and what its cells are read as.

    Args:
        column: as it came, of any type.
    """

    def __init__(self, column: pd.Series) -> None:
        self._whole = column
        self._rows: np.ndarray | None = None
        self._read: dict[Any, Any] = {}
        self._taken: dict[Any, Any] = self._read

    @classmethod
    def of(cls, column: "pd.Series | Cells") -> "Cells":
        """The column itself, or a new one over the cells of a Series."""
        return column if isinstance(column, Cells) else cls(column)

    def select(self, rows: Int64[np.ndarray, " some"]) -> "Cells":
        """The same column for some rows, by position; what is read of either is read of the whole table once."""
        found = Cells(self._whole)
        found._rows = rows if self._rows is None else self._rows[rows]
        found._read, found._taken = self._read, {}
        return found

    def __len__(self) -> int:
        return len(self._whole) if self._rows is None else len(self._rows)

    @property
    def name(self) -> str:
        """Of the column."""
        return str(self._whole.name)

    @property
    def dtype(self) -> Any:
        """As the column came."""
        return self._whole.dtype

    @cached_property
    def column(self) -> pd.Series:
        """The cells as they came, for messages."""
        return self._whole if self._rows is None else self._whole.iloc[self._rows]

    @cached_property
    def index(self) -> pd.Index:
        """Numbers of the rows, for people."""
        return self._whole.index if self._rows is None else self._whole.index[self._rows]

    def read(self, parse: Callable[..., Read], **settings: bool) -> Read:
        """What ``parse`` makes of all cells of the table, once for all rows and selections; here those of these rows.

        Args:
            parse: takes the column as it came, and the settings.
        """
        return self._once((parse, *settings.items()), lambda whole: parse(whole._whole, **settings))

    def _once(self, key: Any, make: Callable[["Cells"], Read]) -> Read:
        """What ``make`` makes of the whole column, those rows of it."""
        if key not in self._taken:
            if key not in self._read:
                self._read[key] = make(self._all)
            if self._rows is not None:
                self._taken[key] = self._read[key].take(self._rows)
        found: Read = self._taken[key]
        return found

    @property
    def _all(self) -> "Cells":
        """The same column for all rows of its table."""
        if self._rows is None:
            return self
        found = Cells(self._whole)
        found._read = found._taken = self._read
        return found

    @property
    def numbers(self) -> Numbers:
        """The cells as numbers, see ``to_numbers``."""
        return self.read(_numbers)

    @property
    def levels(self) -> Levels:
        """The cells as levels, see ``to_keys``."""
        return self.read(_levels)

    @cached_property
    def keys(self) -> pd.Series:
        """The cells as canonical keys, NaN = empty, see ``to_keys``."""
        levels = self.levels
        return pd.Series(levels.names.append(_NOTHING).take(levels.codes), index=self.index, name=self._whole.name)

    @property
    def nested(self) -> str | None:
        """The type name of the first cell of the table that is no plain value, see ``plain_cells_problem``."""
        if "nested" not in self._read:
            self._read["nested"] = values.plain_cells_problem(self._whole)
        found: str | None = self._read["nested"]
        return found

    @property
    def day_first(self) -> bool:
        """Whether dates of the table are written with the day first, see ``is_day_first``."""
        if "day first" not in self._read:
            self._read["day first"] = not self._typed_dates and values.show_day_first(self._all.levels)
        return bool(self._read["day first"])

    def dates(self, *, day_first: bool | None = None) -> Dates:
        """The cells as dates, see ``to_times``.

        Args:
            day_first: what was found of the rows that a model was fitted on; by default as this table shows it.
        """
        if self._typed_dates:
            return self.read(_dates)
        first = self.day_first if day_first is None else day_first
        return self._once(("dates", first), lambda whole: values.dates_of_levels(whole.levels, day_first=first))

    @property
    def _typed_dates(self) -> bool:
        return pd.api.types.is_datetime64_any_dtype(self._whole.dtype)


class Table:
    """The columns of a table, or of some of its rows.

    Args:
        frame: as it came; its index has the numbers that people know the rows by.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self._whole = frame
        self._rows: np.ndarray | None = None
        self._every: dict[str, Cells] = {}
        self._cells: dict[str, Cells] = self._every
        self.in_pieces = False
        """Whether it was read in pieces: without its ignored columns, and the cells as their kinds read them."""

    @classmethod
    def of(cls, table: "pd.DataFrame | Table") -> "Table":
        """The table itself, or a new one over a DataFrame."""
        return table if isinstance(table, Table) else cls(table)

    @classmethod
    def of_pieces(cls, pieces: Iterable[pd.DataFrame], numbers: Collection[str]) -> "Table":
        """A table that is larger than memory as it came: of each column only what it is read as is kept.

        Args:
            pieces: rows of the table in its order, with the same columns each; at least one.
            numbers: columns to keep as numbers. Typed dates are kept as such, and all others as levels.
        """
        grown: dict[str, _Grown] = {}
        for piece in pieces:
            for name in piece.columns:
                if name not in grown:
                    dates = pd.api.types.is_datetime64_any_dtype(piece[name].dtype)
                    grown[name] = _Grown(_numbers if name in numbers else _dates if dates else _levels)
                grown[name].add(piece[name])
        cells = {name: one.cells(name) for name, one in grown.items()}
        found = cls(pd.DataFrame({name: one.column for name, one in cells.items()}, copy=False))
        found.in_pieces = True
        found._every.update(cells)
        return found

    def select(self, rows: Int64[np.ndarray, " some"]) -> "Table":
        """Some rows, by position; what is read of either is read of the whole table once."""
        found = Table(self._whole)
        found._rows = rows if self._rows is None else self._rows[rows]
        found._every, found._cells, found.in_pieces = self._every, {}, self.in_pieces
        return found

    def and_then(self, other: "Table", names: Sequence[str]) -> "Table":
        """These rows and then those of another table, with the columns of both; of rows of one table nothing that was
        read is read again."""
        if other._whole is self._whole:
            every = [np.arange(len(one)) if one._rows is None else one._rows for one in (self, other)]
            found = Table(self._whole)
            found._rows, found._every, found._cells = np.concatenate(every), self._every, {}
            return found
        return Table(pd.concat([one.frame[list(names)] for one in (self, other)], ignore_index=True))

    def __len__(self) -> int:
        return len(self._whole) if self._rows is None else len(self._rows)

    def __contains__(self, name: str) -> bool:
        return name in self._whole.columns

    def __getitem__(self, name: str) -> Cells:
        """A column.

        Raises:
            KeyError: there is none of that name.
        """
        if name not in self._cells:
            if name not in self._every:
                self._every[name] = Cells(self._whole[name])
            if self._rows is not None:
                self._cells[name] = self._every[name].select(self._rows)
        return self._cells[name]

    @property
    def names(self) -> list[Any]:
        """Of the columns, in the order of the table; texts in every table that can be used."""
        return list(self._whole.columns)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The rows as they came."""
        return self._whole if self._rows is None else self._whole.iloc[self._rows]

    @cached_property
    def index(self) -> pd.Index:
        """Numbers of the rows, for people."""
        return self._whole.index if self._rows is None else self._whole.index[self._rows]


class _Grown:
    """What the cells of a column are read as, piece by piece."""

    def __init__(self, parse: Callable[[pd.Series], Typed]) -> None:
        self.parse, self.parts, self.names = parse, list[Typed](), dict[str, int]()

    def add(self, column: pd.Series) -> None:
        """The next piece; its levels get the numbers of those before them."""
        found = self.parse(column)
        if isinstance(found, Levels):
            number = [self.names.setdefault(name, len(self.names)) for name in found.names]
            found = Levels(np.array([*number, -1], dtype=np.int64)[found.codes], found.names[:0])
        self.parts.append(found)

    def cells(self, name: str) -> Cells:
        """All pieces as a column, which need not be read again."""
        parts, self.parts = self.parts, []
        read: Typed
        if self.parse is _levels:
            read = Levels(np.concatenate([p.codes for p in parts if isinstance(p, Levels)]), _index(self.names))
            shown = pd.Series(pd.Categorical.from_codes(read.codes, categories=read.names), name=name)
        elif self.parse is _numbers:
            numbers = [part for part in parts if isinstance(part, Numbers)]
            read = Numbers(*(np.concatenate([getattr(p, f) for p in numbers]) for f in _NUMBERS))
            shown = pd.Series(read.values, name=name, copy=False)
        else:
            dates = [part for part in parts if isinstance(part, Dates)]
            read = Dates(np.concatenate([p.times for p in dates]), np.concatenate([p.unparsable for p in dates]))
            shown = pd.Series(read.times, name=name, copy=False)
        found = Cells(shown)
        found._read[(self.parse,)] = read
        return found


def require_columns(table: pd.DataFrame | Table, needed: Sequence[str]) -> None:
    """Refuse a table that lacks a column that a model needs, or has one twice.

    Raises:
        DataError: names all that are missing.
    """
    names = Table.of(table).names
    missing = [name for name in needed if name not in names]
    if missing:
        noun = "column" if len(missing) == 1 else "columns"
        listed = ", ".join(map(repr, missing))
        hint = did_you_mean(missing[0], map(str, names))
        raise DataError(f"the table has no {noun} {listed}, which the model needs.{hint}")
    twice = [name for name in needed if names.count(name) > 1]
    if twice:
        raise DataError(f"the table has {names.count(twice[0])} columns named {twice[0]!r}; leave one of them out.")


_NOTHING = pd.Index([np.nan], dtype="str")
_NUMBERS = ("values", "unparsable", "infinite")


def _numbers(column: pd.Series) -> Numbers:
    return values.to_numbers(column)


def _levels(column: pd.Series) -> Levels:
    codes, names = pd.factorize(values.to_keys(column))
    return Levels(np.asarray(codes, dtype=np.int64), _index(names))


def _index(names: Iterable[str]) -> pd.Index:
    return pd.Index(list(names), dtype="str")


def _dates(column: pd.Series) -> Dates:
    return Dates(*values.to_times(column))
