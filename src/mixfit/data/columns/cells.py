"""A table whose cells are read once: each column as it came, and the typed arrays that were made of it.

In: a DataFrame, and how its columns are written where that is known. Out: ``Table``, whose columns are ``Cells``. Each
reading of a column (as numbers, as levels, as dates) is made when first asked for, for all rows of the table, and
shared by all selections of its rows: folds, splits, checks and models select from it and convert nothing again."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Int64

from mixfit.data.arrays import zeros
from mixfit.data.columns import values
from mixfit.data.columns.form import Form, Sign, TextForm, Texts, Vote, keys_of, vote
from mixfit.data.columns.values import Dates, Levels, Numbers
from mixfit.data.photos.cells import plain_photos
from mixfit.errors import DataError, rename_hint


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
        form: how it is written; what that leaves open is learnt from the whole column.
        signs: what the other columns of its table say of it; by default there are none.
    """

    def __init__(self, column: pd.Series, form: Form | None = None, signs: "_Signs | None" = None) -> None:
        self._whole = column
        self._rows: np.ndarray | None = None
        self._read: dict[Any, Any] = {}
        self._taken: dict[Any, Any] = self._read
        self._known, self._signs = form, signs

    def __reduce__(self) -> tuple[Any, ...]:
        """Without what was read, which another process reads again."""
        return _rebuilt, (self._whole, self._rows, self._known, self._signs)

    @classmethod
    def of(cls, column: "pd.Series | Cells") -> "Cells":
        """The column itself, or a new one over the cells of a Series."""
        return column if isinstance(column, Cells) else cls(column)

    def select(self, rows: Int64[np.ndarray, " some"]) -> "Cells":
        """The same column for some rows, by position; what is read of either is read of the whole table once."""
        found = Cells(self._whole, self._known, self._signs)
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

    @property
    def is_whole(self) -> bool:
        """Whether these are all rows of the table."""
        return self._rows is None

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

    def read_levels(self, parse: Callable[..., Read], **settings: str | int) -> Read:
        """As ``read``, of the levels of the cells: what is made of a text is made once for all cells that hold it."""
        return self._once((parse, *settings.items()), lambda whole: parse(whole.levels, **settings))

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
        found = Cells(self._whole, self._known, self._signs)
        found._read = found._taken = self._read
        return found

    @property
    def texts(self) -> Texts:
        """The different texts of the whole table's column."""
        if "texts" not in self._read:
            known = None if self._signs is None else self._signs.texts(self._whole.name)
            self._read["texts"] = values.texts_of(self._whole) if known is None else known
        found: Texts = self._read["texts"]
        return found

    @property
    def form(self) -> Form:
        """How the column is written, as a model learnt it or as the whole table shows it."""
        if "form" not in self._read:
            known = self._known
            if known is None or (not known.decimal and self.holds_texts):
                typed = values.is_plain_number(self._whole)
                if self._signs is None or typed:
                    learnt = values.learn_form(self._whole, texts=None if typed else self.texts)
                else:
                    learnt = self._signs.learn(self._whole, self.texts, holds_texts=self.holds_texts)
                known = learnt if known is None else known.learnt_from(learnt)
            self._read["form"] = known
        found: Form = self._read["form"]
        return found

    @property
    def numbers(self) -> Numbers:
        """The cells as numbers, see ``to_numbers``."""
        return self._once(
            (_numbers,), lambda whole: _numbers(whole._whole, whole._form_of_texts, texts=whole._texts_of_texts)
        )

    @property
    def levels(self) -> Levels:
        """The cells as levels, see ``to_keys``."""
        return self._once((_levels,), lambda whole: whole._whole_levels())

    def _whole_levels(self) -> Levels:
        if values.is_plain_number(self._whole):
            found = values.lazy_levels(self._whole, None, None)
        else:
            found = values.lazy_levels(self._whole, self.form, self.texts)
        return _levels(self._whole, self.form, texts=self.texts) if found is None else found

    @property
    def holds_texts(self) -> bool:
        """Whether there are texts among the cells of the whole table."""
        if "holds texts" not in self._read:
            self._read["holds texts"] = values.holds_texts(self._whole)
        return bool(self._read["holds texts"])

    @property
    def _form_of_texts(self) -> Form | None:
        """What is typed as a number is not written in any way."""
        return self.form if self.holds_texts else None

    @property
    def _texts_of_texts(self) -> Texts | None:
        return self.texts if self.holds_texts else None

    def written(self, keys: Sequence[str]) -> list[str]:
        """For each canonical key the first cell of these rows that stands for it, as it is written."""
        codes = self.texts.codes if self._rows is None else self.texts.codes[self._rows]
        used = self.texts.names.iloc[pd.unique(codes[codes >= 0])]
        own = keys_of(used, self.form.keys)
        first = dict(zip(own.iloc[::-1], used.iloc[::-1], strict=True))
        return [first.get(key, key) for key in keys]

    def key_of(self, texts: Sequence[str]) -> pd.Index:
        """The canonical keys of texts that are written as this column is."""
        return pd.Index(keys_of(pd.Series(list(texts), dtype="str"), self.form.keys), dtype="str")

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
        return not self.typed_dates and bool(self.order_of_dates)

    @property
    def order_of_dates(self) -> bool | None:
        """As ``day_first``; None where no cell shows it, nor any of the table that a model was fitted on."""
        if "day first" not in self._read:
            known = None if self._known is None else self._known.day_first
            self._read["day first"] = values.order_of_dates(self._all.levels) if known is None else known
        found: bool | None = self._read["day first"]
        return found

    def dates(self, *, day_first: bool | None = None) -> Dates:
        """The cells as dates, see ``to_times``.

        Args:
            day_first: what was found of the rows that a model was fitted on; by default as this table shows it.
        """
        if self.typed_dates:
            return self.read(_dates)
        first, clock = self.day_first if day_first is None else day_first, self.clock
        return self._once(
            ("dates", first), lambda whole: values.dates_of_levels(whole.levels, day_first=first, clock=clock)
        )

    @property
    def clock(self) -> bool:
        """Whether the cells are times of the day, as 04:51."""
        if "clock" not in self._read:
            known = None if self._known is None else self._known.clock
            may_be = not self.typed_dates and not values.is_plain_number(self._whole)
            plain = known is not None or not may_be or self.texts.all_plain
            shown = not plain and values.are_clock_times(self.texts.cells)
            self._read["clock"] = shown if known is None else known
        return bool(self._read["clock"])

    @property
    def zone(self) -> str:
        """The time zone of the dates of the whole table: its name, "UTC", or "own" where cells differ."""
        if "zone" not in self._read:
            typed = self.typed_dates
            found = values.zone_of_type(self.dtype) if typed else values.zone_of_dates(self._all.dates())
            self._read["zone"] = found
        return str(self._read["zone"])

    @property
    def typed_dates(self) -> bool:
        """Whether the column is typed as dates."""
        return pd.api.types.is_datetime64_any_dtype(self._whole.dtype)


def _rebuilt(whole: pd.Series, rows: np.ndarray | None, form: Form | None, signs: "_Signs | None") -> Cells:
    found = Cells(whole, form, signs)
    return found if rows is None else found.select(rows)


class _Signs:
    """What all columns of a table say of the sign before fractions, and with it how any of them is written.

    It knows neither the table nor its cells, which know it: a circle would keep the memory of a piece of a large table
    until Python next looks for circles."""

    def __init__(self, whole: pd.DataFrame, file: TextForm) -> None:
        self._whole, self._file = whole, file
        self._texts: dict[Any, Texts | None] = {}

    def texts(self, name: Any) -> Texts | None:
        """The different texts of a column; None if it holds no texts."""
        if name not in self._texts:
            column = self._whole[name]
            self._texts[name] = values.texts_of(column) if values.holds_texts(column) else None
        return self._texts[name]

    @cached_property
    def votes(self) -> dict[str, Vote]:
        """See ``Table``."""
        found = {}
        for name in dict.fromkeys(self._whole.columns):
            texts = self.texts(name) if isinstance(self._whole[name], pd.Series) else None
            said = None if texts is None else vote(texts, self._separator)
            if said is not None:
                found[name] = said
        return found

    @cached_property
    def decimal(self) -> Sign:
        """See ``Table``."""
        named = self._file.decimal
        if named in (".", ","):
            return "," if named == "," else "."
        spoken = {said.decimal for said in self.votes.values()}
        by_commas = self._file.separator in (",", None)
        if "," in spoken and "." not in spoken and self._file.separator != ",":
            return ","
        if "," not in spoken and ("." in spoken or by_commas):
            return "."
        return ""

    @property
    def _separator(self) -> str | None:
        """Of the file; it says nothing of points where the user names the decimal sign."""
        return None if self._file.decimal else self._file.separator

    def learn(self, column: pd.Series, texts: Texts, *, holds_texts: bool) -> Form:
        """How a column is written."""
        return values.learn_form(
            column,
            self.decimal if holds_texts else "",
            forced=self._file.decimal is not None,
            separator=self._separator,
            texts=texts,
        )


class Table:
    """The columns of a table, or of some of its rows.

    Args:
        frame: as it came; its index has the numbers that people know the rows by.
        file: how the text file was written that it came from.
        forms: how columns are written, as a model learnt it.
    """

    def __init__(
        self, frame: pd.DataFrame, file: TextForm | None = None, forms: Mapping[str, Form] | None = None
    ) -> None:
        self._whole = frame
        self.file, self.forms = file or TextForm(), forms or {}
        self._rows: np.ndarray | None = None
        self._every: dict[str, Cells] = {}
        self._cells: dict[str, Cells] = self._every
        self._signs = _Signs(frame, self.file)
        self.in_pieces = False
        """Whether it was read in pieces: without its ignored columns, and the cells as their kinds read them."""

    @classmethod
    def of(cls, table: "pd.DataFrame | Table") -> "Table":
        """The table itself, or a new one over a DataFrame."""
        return table if isinstance(table, Table) else cls(plain_photos(table))

    @classmethod
    def of_pieces(
        cls,
        pieces: Iterable[pd.DataFrame],
        numbers: Collection[str],
        forms: Mapping[str, Form] | None = None,
        *,
        rows: int | None = None,
    ) -> "Table":
        """A table that is larger than memory as it came: of each column only what it is read as is kept.

        Args:
            pieces: rows of the table in its order, with the same columns each; at least one.
            numbers: columns to keep as numbers. Typed dates are kept as such, and all others as levels.
            forms: how columns are written.
            rows: number of rows, if it is known; what is kept then lies in files, see ``mixfit.data.arrays``.
        """
        grown, forms = dict[str, _Grown](), forms or {}
        for piece in pieces:
            for name in piece.columns:
                if name not in grown:
                    dates = pd.api.types.is_datetime64_any_dtype(piece[name].dtype)
                    parse = _numbers if name in numbers else _dates if dates else _levels
                    grown[name] = _Grown(parse, forms.get(name), rows)
                grown[name].add(piece[name])
        cells = {name: one.cells(name) for name, one in grown.items()}
        found = cls(pd.DataFrame({name: one.column for name, one in cells.items()}, copy=False), forms=forms)
        found.in_pieces = True
        found._every.update(cells)
        return found

    def select(self, rows: Int64[np.ndarray, " some"]) -> "Table":
        """Some rows, by position; what is read of either is read of the whole table once."""
        found = Table(self._whole, self.file, self.forms)
        found._rows = rows if self._rows is None else self._rows[rows]
        found._every, found._cells, found.in_pieces = self._every, {}, self.in_pieces
        found._signs = self._signs
        return found

    def written(self, forms: Mapping[str, Form]) -> "Table":
        """The same rows, their columns written as a model learnt; what was read under the same form is kept."""
        changed = {
            name
            for name, form in forms.items()
            if name in self._whole and self.forms.get(name) != form and not self._is_read_as(name, form)
        }
        if self.in_pieces or not changed:
            return self
        found = Table(self._whole, self.file, {**self.forms, **forms})
        found._rows, found._signs = self._rows, self._signs
        found._every.update({name: cells for name, cells in self._every.items() if name not in changed})
        if self._rows is not None:
            found._cells = {}
        return found

    def _is_read_as(self, name: str, form: Form) -> bool:
        """Whether a column was read already, and in this form."""
        if name not in self._every:
            return False
        cells = self._every[name]
        if replace(form, day_first=None, clock=None) != cells.form:
            return False
        ordered = form.day_first is None or form.day_first == cells.order_of_dates
        return ordered and (form.clock is None or form.clock == cells.clock)

    @property
    def votes(self) -> dict[str, Vote]:
        """What each column of texts says of the sign before fractions."""
        return self._signs.votes

    @property
    def decimal(self) -> Sign:
        """The sign before fractions in columns that do not show it: as named, or as the other columns show it.

        Empty where they contradict each other, or where no column of a file that is not separated by commas shows
        it."""
        return self._signs.decimal

    @property
    def undecided(self) -> dict[str, Vote]:
        """Columns with commas that stay text, as they may stand before a fraction or part thousands."""
        if self.decimal:
            return {}
        return {name: said for name, said in self.votes.items() if not said.decimal and "," in said.signs}

    def _of_all(self, name: str) -> Cells:
        """A column for all rows."""
        if name not in self._every:
            self._every[name] = Cells(self._whole[name], self.forms.get(name), self._signs)
        return self._every[name]

    def and_then(self, other: "Table", names: Sequence[str]) -> "Table":
        """These rows and then those of another table, with the columns of both; of rows of one table nothing that was
        read is read again."""
        if other._whole is self._whole:
            every = [np.arange(len(one)) if one._rows is None else one._rows for one in (self, other)]
            found = Table(self._whole, self.file, self.forms)
            found._rows, found._every, found._cells = np.concatenate(every), self._every, {}
            found._signs = self._signs
            return found
        joined = pd.concat([one.frame[list(names)] for one in (self, other)], ignore_index=True)
        return Table(joined, self.file, self.forms)

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
            whole = self._of_all(name)
            if self._rows is not None:
                self._cells[name] = whole.select(self._rows)
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

    def __init__(self, parse: Callable[..., Typed], form: Form | None, rows: int | None) -> None:
        self.parse, self.form, self.names = parse, form, dict[str, int]()
        self.said = ""
        self.arrays = {one: _Pieces(rows) for one in _FIELDS[parse]}

    def add(self, column: pd.Series) -> None:
        """The next piece; its levels get the numbers of those before them."""
        found = self.parse(column) if self.parse is _dates else self.parse(column, self.form)
        if isinstance(found, Levels):
            number = [self.names.setdefault(name, len(self.names)) for name in found.names]
            found = Levels(np.array([*number, -1], dtype=np.int64)[found.codes], found.names[:0])
        elif isinstance(found, Numbers):
            self.said = self.said or found.contradiction
        for one, pieces in self.arrays.items():
            pieces.add(getattr(found, one))

    def cells(self, name: str) -> Cells:
        """All pieces as a column, which need not be read again."""
        arrays = [pieces.whole() for pieces in self.arrays.values()]
        read: Typed
        if self.parse is _levels:
            read = Levels(arrays[0], _index(self.names))
            shown = pd.Series(pd.Categorical.from_codes(read.codes, categories=read.names), name=name)
        elif self.parse is _numbers:
            read = Numbers(arrays[0], arrays[1], arrays[2], self.said)
            shown = pd.Series(read.values, name=name, copy=False)
        else:
            read = Dates(*arrays)
            shown = pd.Series(read.times, name=name, copy=False)
        found = Cells(shown)
        found._read["form"] = self.form or Form()
        found._read[(self.parse,)] = read
        return found


class _Pieces:
    """An array of which one piece comes after the other: in a file if the number of rows is known."""

    def __init__(self, rows: int | None) -> None:
        self.rows, self.kept, self.filled = rows, list[np.ndarray](), 0

    def add(self, piece: np.ndarray) -> None:
        if self.rows is None:
            self.kept.append(piece)
            return
        if not self.kept:
            self.kept.append(zeros((self.rows,), piece.dtype, in_file=True))
        self.kept[0][self.filled : self.filled + len(piece)] = piece
        self.filled += len(piece)

    def whole(self) -> np.ndarray:
        kept, self.kept = self.kept, []
        return kept[0] if len(kept) == 1 else np.concatenate(kept)


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
        hints = [rename_hint(one, [str(name) for name in names if name not in needed]) for one in missing]
        them = "it, with empty cells where it is" if len(missing) == 1 else "them, with empty cells where they are"
        fix = "".join(dict.fromkeys(hints)) or f" Add {them} not known."
        raise DataError(f"the table has no {noun} {listed}, which the model needs.{fix}")
    twice = [name for name in needed if names.count(name) > 1]
    if twice:
        raise DataError(f"the table has {names.count(twice[0])} columns named {twice[0]!r}; leave one of them out.")


_NOTHING = pd.Index([np.nan], dtype="str")


def _numbers(column: pd.Series, form: Form | None = None, texts: Texts | None = None) -> Numbers:
    return values.to_numbers(column, form, texts=texts)


def _levels(column: pd.Series, form: Form | None = None, texts: Texts | None = None) -> Levels:
    return values.to_levels(column, form, texts=texts)


def _index(names: Iterable[str]) -> pd.Index:
    return pd.Index(list(names), dtype="str")


def _dates(column: pd.Series) -> Dates:
    return values.typed_dates(column)


_FIELDS: dict[Callable[..., Typed], tuple[str, ...]] = {
    _levels: ("codes",),
    _numbers: ("values", "unparsable", "infinite"),
    _dates: ("times", "unparsable", "ahead"),
}
"""Arrays of what a column is read as."""
