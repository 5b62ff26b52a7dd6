"""How a cell becomes a number, a category key or a point in time: the one place that says so.

In: one column of a DataFrame, of any type. Out: numpy arrays, or a column of keys.
The same cell gives the same result whether it comes from a text file ("7.0"), from Parquet (7) or from Python (7.0).
How a column of texts is written is decided for all of it, see ``form``, and kept for later tables.
Knows nothing about roles, training or what is done with a cell that cannot be converted."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int64, Shaped

from mixfit.data.columns.form import (
    DECIMAL,
    Form,
    Sign,
    Texts,
    canonical_number,
    decimal_text,
    keys_of,
    learn_keys,
    learn_numbers,
    read_numbers,
    said_missing,
    sign_name,
)
from mixfit.weighted import weighted_mean

# Spelled out, because what counts as white space differs between text stored by Arrow and by Python.
_BLANKS = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u2002\u2003\u2007\u2009\u200b\u202f\u3000\ufeff"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH_NAME = (
    r"(?P<month_name>(?i:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?))"
)
_WEEKDAY = r"(?:(?i:mon|tue|wed|thu|fri|sat|sun)[a-z]*,?\s+)?"
_ZONE = r"(?:\s*(?:Z|z|UTC|GMT|(?P<zone_sign>[+-])(?P<zone_hour>[0-9]{2}):?(?P<zone_minute>[0-9]{2})?))?"
_CLOCK = (
    r"(?:(?:T|\s+)(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<seconds>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?)?"
    r"(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?" + _ZONE + ")?"
)
_NUMERIC_DATE = (
    r"^(?P<first>[0-9]{1,2})(?P<separator>[-/.])(?P<second>[0-9]{1,2})[-/.](?P<year>[0-9]{4}|[0-9]{2})" + _CLOCK + "$"
)
_DATE_FORMS = (
    r"^(?P<year>[0-9]{4})[-/.](?P<month>[0-9]{1,2})[-/.](?P<day>[0-9]{1,2})" + _CLOCK + "$",
    _NUMERIC_DATE,
    r"^(?P<year>[0-9]{4})(?P<month>[0-9]{2})(?P<day>[0-9]{2})"
    r"(?:T(?P<hour>[0-9]{2})(?P<minute>[0-9]{2})(?P<seconds>[0-9]{2})?" + _ZONE + ")?$",
    r"^(?P<year>[0-9]{4})(?:[-/](?P<month>[0-9]{1,2}))?$",
    "^"
    + _WEEKDAY
    + r"(?P<day>[0-9]{1,2})(?:st|nd|rd|th)?[\s-]+"
    + _MONTH_NAME
    + r"\.?,?[\s-]+(?P<year>[0-9]{4})"
    + _CLOCK
    + "$",
    "^" + _WEEKDAY + _MONTH_NAME + r"\.?\s+(?P<day>[0-9]{1,2})(?:st|nd|rd|th)?,?\s+(?P<year>[0-9]{4})" + _CLOCK + "$",
)

_TIME = r"(?P<hour>[0-9]{1,2})[:h.](?P<minute>[0-9]{2})(?::(?P<seconds>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?)?"
_CLOCK_FORMS = (
    "^" + _TIME.replace("[:h.]", "[:h]") + r"(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?(?:\s*(?:Uhr|uhr|h))?$",
    "^" + _TIME.replace("[:h.]", "[.]") + r"\s*(?:(?P<half>[AaPp])\.?[Mm]\.?|[Uu]hr)$",
    r"^(?P<hour>[0-9]{1,2})\s*(?P<half>[AaPp])\.?[Mm]\.?$",
    r"^(?P<hour>[0-9]{1,2})\s*[Uu]hr$",
)
_CLOCK_HINT = r"[0-9]\s*(?:[:h]|[AaPp]\.?[Mm]|[.][0-9]{2}\s|[Uu]hr)"
_CLOCK_SHARE = 0.9
_LONGEST_TYPE = 60  # characters


@dataclass(frozen=True, eq=False)
class Numbers:
    """A column as numbers."""

    values: Float[np.ndarray, " rows"]
    """float64, finite, or nan where the cell is missing or not a usable number."""
    unparsable: Bool[np.ndarray, " rows"]
    """True where the cell holds something that is no finite number: a text, or infinity."""
    infinite: Bool[np.ndarray, " rows"]
    """The part of ``unparsable`` that is infinite or beyond float64 ("inf", "1e400")."""
    contradiction: str = ""
    """What to say where most of the cells that tell speak for another way of writing than that which was learnt."""

    def take(self, rows: Int64[np.ndarray, " some"]) -> "Numbers":
        """Those rows, in that order."""
        return Numbers(self.values[rows], self.unparsable[rows], self.infinite[rows], self.contradiction)


@dataclass(frozen=True, eq=False)
class Levels:
    """A column as levels of a category."""

    codes: Int64[np.ndarray, " rows"]
    """Index into ``names``, -1 where the cell is empty."""
    names: pd.Index
    """Canonical keys, dtype str, by first appearance in the whole table; some may have no row here."""

    def take(self, rows: Int64[np.ndarray, " some"]) -> "Levels":
        """Those rows, in that order."""
        return Levels(self.codes[rows], self.names)

    def keys(self, rows: Int64[np.ndarray, " some"]) -> list[str]:
        """Canonical keys of some rows, "" where the cell is empty."""
        codes = self.codes[rows]
        seen = codes >= 0
        found = np.full(len(codes), "", dtype=object)
        found[seen] = self._names_of(codes[seen])
        return [str(key) for key in found]

    def _names_of(self, codes: Int64[np.ndarray, " some"]) -> pd.Index:
        return self.names[codes]

    def cut(self, length: int) -> "Levels":
        """By the first ``length`` characters of each level."""
        codes, names = pd.factorize(self.names.str[:length])
        return Levels(np.append(codes.astype(np.int64), -1)[self.codes], pd.Index(names, dtype="str"))


class LazyLevels(Levels):
    """Levels whose names are made when first asked for: of most columns of numbers nobody asks.

    Args:
        codes: as for ``Levels``.
        make: makes the names of some levels, by their codes.
        whole: makes the names of all levels, only once.
    """

    make: Callable[[Any], pd.Index]
    whole: Callable[[], pd.Index]

    def __init__(
        self, codes: Int64[np.ndarray, " rows"], make: Callable[[Any], pd.Index], whole: Callable[[], pd.Index]
    ) -> None:
        for name, value in {"codes": codes, "make": make, "whole": whole}.items():
            object.__setattr__(self, name, value)

    @property
    def names(self) -> pd.Index:
        """As for ``Levels``."""
        return self.whole()

    def _names_of(self, codes: Int64[np.ndarray, " some"]) -> pd.Index:
        """Without the names of the other levels."""
        return self.make(codes)

    def take(self, rows: Int64[np.ndarray, " some"]) -> Levels:
        """Those rows, in that order."""
        return LazyLevels(self.codes[rows], self.make, self.whole)


def lazy_levels(column: pd.Series, form: Form | None, texts: Texts | None) -> Levels | None:
    """Of a column of plain numbers, as ``to_keys`` would have it; None of any other."""
    if is_plain_number(column):
        codes, values = pd.factorize(column.to_numpy())

        def make(some: Any) -> pd.Index:
            return pd.Index(to_keys(pd.Series(values[some])), dtype="str")

        return LazyLevels(np.asarray(codes, dtype=np.int64), make, cache(lambda: make(slice(None))))
    if texts is None or form is None or form.keys != "number" or texts.numbers_repeat:
        return None
    spelt = texts.names

    def make_spelt(some: Any) -> pd.Index:
        return pd.Index(keys_of(spelt.iloc[some], "number"), dtype="str")

    return LazyLevels(texts.codes, make_spelt, cache(lambda: make_spelt(slice(None))))


def is_plain_number(column: pd.Series) -> bool:
    """Whether a column is typed as numbers as numpy has them."""
    return isinstance(column.dtype, np.dtype) and column.dtype.kind in "iuf"


@dataclass(frozen=True, eq=False)
class Dates:
    """A column as points in time."""

    times: Shaped[np.ndarray, " rows"]
    """datetime64[us] in UTC, NaT where the cell is missing or no date."""
    unparsable: Bool[np.ndarray, " rows"]
    """True where the cell holds something that is no date."""
    ahead: Int64[np.ndarray, " rows"]
    """Minutes by which the clock of the cell's own time zone is ahead of UTC; 0 where it names none."""

    def take(self, rows: Int64[np.ndarray, " some"]) -> "Dates":
        """Those rows, in that order."""
        return Dates(self.times[rows], self.unparsable[rows], self.ahead[rows])

    def in_zone(self, zone: str) -> Shaped[np.ndarray, " rows"]:
        """What the clocks show in a time zone, datetime64[us]; of each cell's own with ``OWN_ZONE``."""
        if zone == "UTC":
            return self.times
        if zone == OWN_ZONE:
            return self.times + (self.ahead * 60_000_000).astype("timedelta64[us]")
        local = pd.Series(self.times).dt.tz_localize("UTC").dt.tz_convert(zone).dt.tz_localize(None)
        return local.to_numpy().astype("datetime64[us]")


OWN_ZONE = "own"
"""In place of the name of a time zone: that of each cell, as they differ."""


@dataclass(frozen=True)
class Moments:
    """Mean, population standard deviation and skewness; 0 spread counts rounding noise as constant."""

    mean: float
    std: float
    skew: float


def moments(values: Float[np.ndarray, " rows"], weight: Float[np.ndarray, " rows"] | None = None) -> Moments:
    """Moments of finite float64 values; up to 1e308 and down to denormals without overflow. No values: all 0.

    Args:
        weight: how much each value counts, in any unit; None for all alike.
    """
    if weight is not None and not weight.all():  # a huge value of weight 0 must not scale the others
        values, weight = values[weight > 0], weight[weight > 0]
    largest = float(np.max(np.abs(values), initial=0.0))
    if largest < np.finfo(np.float64).tiny:
        return Moments(0.0, 0.0, 0.0)
    scaled = values / largest
    mean = weighted_mean(scaled, weight)
    centred = scaled - mean
    std = float(np.sqrt(weighted_mean(centred**2, weight)))
    if std <= 1e-13 or std * largest < np.finfo(np.float64).tiny:
        return Moments(mean * largest, 0.0, 0.0)
    return Moments(mean * largest, std * largest, weighted_mean((centred / std) ** 3, weight))


def standardise(values: Float[np.ndarray, " rows"], scale: Moments) -> Float[np.ndarray, " rows"]:
    """z-scores without overflow on the way; all 0 (nan stays nan) where the standard deviation is 0."""
    if scale.std == 0:
        return values * 0.0
    with np.errstate(over="ignore"):  # beyond float64 is clipped by the callers
        return (values / 4 - scale.mean / 4) / (scale.std / 4)


def plain_cells_problem(column: pd.Series) -> str | None:
    """The type name of the first cell that is a container or a file's bytes rather than a plain value, else None."""
    if isinstance(column.dtype, pd.ArrowDtype) and column.dtype.kind == "O":
        arrow_type = str(column.dtype.pyarrow_dtype)
        kind = column.dtype.pyarrow_dtype
        nested = pa.types.is_nested(kind) or arrow_type.startswith(("fixed_size", "binary", "large_binary"))
        return _shortened(arrow_type) if nested else None
    if not pd.api.types.is_object_dtype(column.dtype):
        return None
    kinds = pd.Series([type(cell) for cell in column], dtype=object).unique()
    nested_kinds = (list, tuple, set, frozenset, dict, bytes, bytearray, np.ndarray, pd.Series, pd.DataFrame)
    return next((kind.__name__ for kind in kinds if issubclass(kind, nested_kinds)), None)


def _shortened(arrow_type: str) -> str:
    """A type for a message; that of an object may name a hundred fields."""
    return arrow_type if len(arrow_type) <= _LONGEST_TYPE else f"{arrow_type[: _LONGEST_TYPE - 3]}..."


def texts_of(column: pd.Series) -> Texts:
    """The different texts of a column; what is typed is written as Python and text files have it."""
    found = pc.dictionary_encode(_stripped(_texts(column)))
    codes = found.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return Texts(codes, found.dictionary)


def learn_form(
    column: pd.Series,
    sign: Sign = ".",
    *,
    forced: bool = False,
    separator: str | None = None,
    texts: Texts | None = None,
) -> Form:
    """How the cells of a column are written; arguments as for ``learn_numbers``."""
    if is_plain_number(column):
        cells = column.to_numpy()
        some = len(cells) and not (cells.dtype.kind == "f" and np.isnan(cells).all())
        return Form(keys="number" if some else "each")
    texts = texts_of(column) if texts is None else texts
    numbers = learn_numbers(texts, sign, forced=forced, separator=separator) if holds_texts(column) else Form()
    return replace(numbers, keys=learn_keys(texts))


def unwrapped(column: pd.Series) -> pd.Series:
    """A column of a type of Arrow's in the type of pandas that knows its cells, where it has one."""
    if not isinstance(column.dtype, pd.ArrowDtype):
        return column
    kind, types = column.dtype.pyarrow_dtype, pa.types
    if types.is_dictionary(kind):
        return unwrapped(column.astype(pd.ArrowDtype(kind.value_type)))
    if types.is_boolean(kind):
        return column.astype("boolean")
    if types.is_duration(kind):
        return column.astype(f"timedelta64[{kind.unit}]")
    if types.is_float16(kind):
        return column.astype("float32")
    if types.is_decimal(kind):
        return column.astype(object)
    if types.is_string_view(kind) or types.is_null(kind):
        found = pa.array(column).cast(pa.large_string()).to_pandas()
        return pd.Series(found.to_numpy(), index=column.index, name=column.name, dtype="str")
    return column


def holds_texts(column: pd.Series) -> bool:
    """Whether the cells are texts, so that a way of writing numbers can be learnt of them."""
    if isinstance(column.dtype, pd.StringDtype) or is_plain_number(column):
        return isinstance(column.dtype, pd.StringDtype)
    column = unwrapped(column)
    dtype = column.cat.categories.dtype if isinstance(column.dtype, pd.CategoricalDtype) else column.dtype
    if pd.api.types.is_object_dtype(dtype):
        return any(isinstance(cell, str) for cell in column)
    return bool(pd.api.types.is_string_dtype(dtype))


def to_numbers(column: pd.Series, form: Form | None = None, *, texts: Texts | None = None) -> Numbers:
    """Numbers of a column: booleans are 0 and 1, durations are seconds, missing words are missing.

    Args:
        form: how the column is written; by default learnt from it.
        texts: of the column, where they are known.

    >>> to_numbers(pd.Series(["7", "7.0", "n/a", "12 sqft", "1e400", "1_000"])).values.tolist()
    [7.0, 7.0, nan, nan, nan, nan]
    >>> to_numbers(pd.Series(["$1,200", "$950", "on request"])).values.tolist()
    [1200.0, 950.0, nan]
    """
    kind, column = pd.api.types, unwrapped(column)
    if isinstance(column.dtype, pd.CategoricalDtype):
        levels, codes = to_numbers(pd.Series(column.cat.categories), form), column.cat.codes.to_numpy()
        return Numbers(
            np.append(levels.values, np.nan)[codes],
            np.append(levels.unparsable, np.False_)[codes],
            np.append(levels.infinite, np.False_)[codes],
            levels.contradiction,
        )
    if kind.is_object_dtype(column.dtype):
        return _numbers_of_objects(column, form, texts)
    if kind.is_timedelta64_dtype(column.dtype):
        lengths = column.to_numpy()
        parts = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[np.datetime_data(lengths.dtype)[0]]
        return _checked(np.where(np.isnat(lengths), np.nan, lengths.astype(np.int64) / parts))
    if kind.is_complex_dtype(column.dtype) or not (
        kind.is_numeric_dtype(column.dtype) or kind.is_string_dtype(column.dtype)
    ):
        return _checked(np.full(len(column), np.nan), unparsable=column.notna().to_numpy(dtype=bool))
    if kind.is_string_dtype(column.dtype):
        return _numbers_of_texts(column, form, texts)
    return _checked(column.to_numpy(dtype=np.float64, na_value=np.nan))


def to_keys(column: pd.Series, form: Form | None = None, *, texts: Texts | None = None) -> pd.Series:
    """Canonical category keys, dtype str, missing = NaN only for empty or blank cells; the index is kept.

    Where all cells are numbers, or all true or false, and no two that are written differently would become one, the key
    is what Python writes for them, so that a text file, Parquet and JSON give the same key. In any other column of
    texts the key is the text.

    Args:
        form, texts: as for ``to_numbers``.

    >>> to_keys(pd.Series(["7.0", " 7", "007", "NA", ""])).tolist()
    ['7.0', '7', '007', 'NA', nan]
    >>> to_keys(pd.Series([7.0, 7.5, None])).tolist()
    ['7', '7.5', nan]
    >>> to_keys(pd.Series(["7.50", "1e5", "12"])).tolist(), to_keys(pd.Series(["TRUE", "FALSE"])).tolist()
    (['7.5', '100000', '12'], ['True', 'False'])
    """
    levels = to_levels(column, form, texts=texts)
    names = np.append(levels.names.to_numpy(dtype=object), np.nan)
    return pd.Series(names[levels.codes], index=column.index, name=column.name, dtype="str")


def to_levels(column: pd.Series, form: Form | None = None, *, texts: Texts | None = None) -> Levels:
    """The same as levels: what is done with a text is done once for all cells that hold it."""
    texts = texts_of(column) if texts is None else texts
    keys = learn_keys(texts) if form is None else form.keys
    if keys == "text":
        return Levels(texts.codes, pd.Index(texts.names))
    codes, names = pd.factorize(keys_of(texts.names, keys))
    return Levels(np.append(codes.astype(np.int64), -1)[texts.codes], pd.Index(names, dtype="str"))


def to_times(
    column: pd.Series, *, day_first: bool = False
) -> tuple[Shaped[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
    """Points in time as datetime64[us] in UTC (missing = NaT), and a mask of cells that hold no date we can read.

    Read are ISO dates with or without time and zone, 20200131, 2020-01, 2020, 1/31/2020, 31.1.2020 (dots mean day
    first), 31 Jan 2020, Jan 31, 2020; formats may be mixed. ``day_first`` decides 1/2/2020: see ``is_day_first``.

    >>> times, unparsable = to_times(pd.Series(["2020-01-31", "1/31/2020 6:30 pm", "2020-02-30", ""]))
    >>> times.astype("datetime64[m]").astype(str).tolist(), unparsable.tolist()
    (['2020-01-31T00:00', '2020-01-31T18:30', 'NaT', 'NaT'], [False, False, True, False])
    """
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        times = utc_times(column)
        return times, np.zeros(len(column), dtype=bool)
    levels = to_levels(column)
    found = dates_of_levels(levels, day_first=day_first, clock=are_clock_times(_arrow(levels.names)))
    return found.times, found.unparsable


def typed_dates(column: pd.Series) -> Dates:
    """Of a column that is typed as dates."""
    times = utc_times(column)
    local = Dates(times, np.isnat(times), np.zeros(len(times), dtype=np.int64)).in_zone(zone_of_type(column.dtype))
    ahead = np.where(np.isnat(times), 0, (local - times).astype(np.int64) // 60_000_000)
    return Dates(times, np.zeros(len(times), dtype=bool), ahead)


def zone_of_type(dtype: Any) -> str:
    """The time zone of typed dates, "UTC" where there is none."""
    zone = getattr(dtype.pyarrow_dtype, "tz", None) if isinstance(dtype, pd.ArrowDtype) else getattr(dtype, "tz", None)
    return "UTC" if zone is None else str(zone)


def zone_of_dates(dates: Dates) -> str:
    """The time zone of dates that are written with one: fixed where it is the same in all cells."""
    ahead = np.unique(dates.ahead[~np.isnat(dates.times)])
    if len(ahead) > 1:
        return OWN_ZONE
    if not len(ahead) or ahead[0] == 0:
        return "UTC"
    hours, minutes = divmod(abs(int(ahead[0])), 60)
    return f"UTC{'-' if ahead[0] < 0 else '+'}{hours:02d}:{minutes:02d}"


def are_clock_times(cells: pa.Array) -> bool:
    """Whether different texts are times of the day such as 04:51 rather than points in time or durations."""
    if not pc.any(pc.match_substring_regex(cells, _CLOCK_HINT)).as_py():
        return False
    texts = cells.filter(pa.array(~said_missing(cells)))
    if not np.mean(pc.match_substring_regex(texts, _CLOCK_HINT).to_numpy(zero_copy_only=False)) >= _CLOCK_SHARE:
        return False
    times, _ = _parse_times(texts, day_first=False, clock=True)
    return bool((~np.isnat(times)).mean() >= _CLOCK_SHARE)


def dates_of_levels(levels: Levels, *, day_first: bool, clock: bool = False) -> Dates:
    """As ``to_times``, of a column that was read as levels; times of the day are those of 1970-01-01."""
    texts = _time_texts(levels)
    times, ahead = _parse_times(texts, day_first=day_first, clock=clock)
    times, ahead = np.append(times, np.datetime64("NaT", "us")), np.append(ahead, 0)
    there = texts.is_valid().to_numpy(zero_copy_only=False)
    unparsable = np.append(np.isnat(times[:-1]) & there, np.False_)
    return Dates(times[levels.codes], unparsable[levels.codes], ahead[levels.codes])


def is_day_first(column: pd.Series) -> bool:
    """True when any cell such as 31/1/2020 shows that the day stands first; otherwise months do, as in 1/31/2020."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return False
    return show_day_first(to_levels(column))


def show_day_first(levels: Levels) -> bool:
    """As ``is_day_first``, of a column that was read as levels; all names count."""
    return bool(order_of_dates(levels))


def order_of_dates(levels: Levels) -> bool | None:
    """Whether the day stands first in dates such as 31/1/2020; None where no cell shows it."""
    fits, parts = _match(_time_texts(levels), _NUMERIC_DATE)
    if not fits.any():
        return None
    first, second, plain = _whole(parts, "first"), _whole(parts, "second"), ~_equal(parts["separator"], ".")
    if (plain & (first > 12) & (second <= 12)).any():
        return True
    return False if (plain & (second > 12) & (first <= 12)).any() else None


def first_twofold(levels: Levels) -> str:
    """The first date that is another day when day and month change places; empty where there is none."""
    fits, parts = _match(_time_texts(levels), _NUMERIC_DATE)
    first, second, plain = _whole(parts, "first"), _whole(parts, "second"), ~_equal(parts["separator"], ".")
    twofold = np.flatnonzero(fits)[plain & (first != second) & (first <= 12) & (second <= 12)]
    return str(levels.names[twofold[0]]) if len(twofold) else ""


def _time_texts(levels: Levels) -> pa.Array:
    """The names of levels, those that mean "no value" null."""
    names = _arrow(levels.names)
    return pc.if_else(pa.array(said_missing(names)), pa.scalar(None, names.type), names)


def _arrow(texts: pd.Index | pd.Series) -> pa.Array:
    cells = pa.array(texts, pa.large_string())
    return cells.combine_chunks() if isinstance(cells, pa.ChunkedArray) else cells


def _match(cells: pa.Array, form: str) -> tuple[Bool[np.ndarray, " rows"], dict[str, Any]]:
    """Which texts a form fits, and the named groups of those as arrow arrays, "" where a group was not used."""
    found = pc.extract_regex(cells, form)
    fits = found.is_valid()
    found = found.filter(fits)
    names = [field.name for field in found.type]
    return fits.to_numpy(zero_copy_only=False), dict(zip(names, found.flatten(), strict=True))


def _whole(parts: dict[str, Any], name: str, default: int = 0) -> Int64[np.ndarray, " rows"]:
    """A named group as integers, ``default`` where it was not used."""
    if name not in parts:
        return np.full(len(parts["year"]), default, dtype=np.int64)
    digits = pc.if_else(_equal_arrow(parts[name], ""), str(default), parts[name])
    return pc.cast(digits, pa.int64()).to_numpy(zero_copy_only=False)


def _equal_arrow(texts: Any, word: str) -> Any:
    return pc.equal(texts, pa.scalar(word, texts.type))


def _equal(texts: Any, word: str) -> Bool[np.ndarray, " rows"]:
    return _equal_arrow(texts, word).to_numpy(zero_copy_only=False)


def _parse_times(
    texts: pa.Array, *, day_first: bool, clock: bool = False
) -> tuple[Shaped[np.ndarray, " rows"], Int64[np.ndarray, " rows"]]:
    """Points in time in UTC, and the minutes by which each cell's own zone is ahead."""
    times, ahead = np.full(len(texts), np.datetime64("NaT", "us")), np.zeros(len(texts), dtype=np.int64)
    digits = pc.fill_null(pc.match_substring_regex(texts, "[0-9]"), fill_value=False)
    open_rows = np.flatnonzero(digits.to_numpy(zero_copy_only=False))
    for form in _CLOCK_FORMS if clock else _DATE_FORMS:
        if not len(open_rows):
            break
        hit, parts = _match(texts.take(pa.array(open_rows)), form)
        if hit.any():
            times[open_rows[hit]], ahead[open_rows[hit]] = _assemble_times(parts, day_first=day_first)
            open_rows = open_rows[~hit]
    return times, np.where(np.isnat(times), 0, ahead)


def _assemble_times(
    parts: dict[str, Any], *, day_first: bool
) -> tuple[Shaped[np.ndarray, " rows"], Int64[np.ndarray, " rows"]]:
    """From the named groups of one date form; NaT where they name no day or hour that exists."""
    if "year" not in parts:  # a time of the day
        parts = {**parts, "year": pa.array(["1970"] * len(parts["hour"]), parts["hour"].type)}
    year, month, day = _whole(parts, "year"), _whole(parts, "month", 1), _whole(parts, "day", 1)
    if "month_name" in parts:
        short = pc.utf8_slice_codeunits(pc.utf8_lower(parts["month_name"]), 0, 3)
        month = pc.index_in(short, pa.array(_MONTHS, short.type)).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    if "first" in parts:
        first, second = _whole(parts, "first"), _whole(parts, "second")
        swapped = day_first | _equal(parts["separator"], ".")
        month, day = np.where(swapped, second, first), np.where(swapped, first, second)
        four_digits = pc.utf8_length(parts["year"]).to_numpy(zero_copy_only=False) == 4
        year = year + np.where(four_digits, 0, np.where(year >= 69, 1900, 2000))
    hour, minute, seconds = _whole(parts, "hour"), _whole(parts, "minute"), _whole(parts, "seconds")
    valid = (month >= 1) & (month <= 12) & (day >= 1) & (hour < 24) & (minute < 60) & (seconds < 60)
    if "half" in parts:
        half = pc.utf8_lower(parts["half"])
        twelve_hours = _equal(half, "a") | _equal(half, "p")
        valid &= ~twelve_hours | ((hour >= 1) & (hour <= 12))
        hour = np.where(twelve_hours, hour % 12 + 12 * _equal(half, "p"), hour)
    months = ((year - 1970) * 12 + np.where(valid, month, 1) - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (np.where(valid, day, 1) - 1)
    valid &= days.astype("datetime64[M]") == months
    microseconds = (hour * 3600 + minute * 60 + seconds) * 1_000_000
    if "fraction" in parts:
        padded = pc.utf8_slice_codeunits(pc.utf8_rpad(parts["fraction"], 6, "0"), 0, 6)
        microseconds += _whole({"fraction": padded}, "fraction")
    minutes_ahead = np.zeros(len(year), dtype=np.int64)
    if "zone_sign" in parts:
        zone_hour, zone_minute = _whole(parts, "zone_hour"), _whole(parts, "zone_minute")
        valid &= (zone_hour < 24) & (zone_minute < 60)
        minutes_ahead = np.where(_equal(parts["zone_sign"], "-"), -1, 1) * (zone_hour * 60 + zone_minute)
        microseconds -= minutes_ahead * 60_000_000
    times = days.astype("datetime64[us]") + microseconds.astype("timedelta64[us]")
    return np.where(valid, times, np.datetime64("NaT", "us")), minutes_ahead


def _texts(column: pd.Series) -> pd.Series:
    """Text of every cell, of a type of texts, missing where there is none."""
    if isinstance(column.dtype, pd.StringDtype):
        return column
    column = unwrapped(column.reset_index(drop=True))
    kind = pd.api.types
    if plain_cells_problem(column) is not None:
        column = pd.Series(python_cells(column), dtype=object)
    if isinstance(column.dtype, pd.CategoricalDtype):
        levels = np.array(_stripped(_texts(pd.Series(column.cat.categories))).to_pylist(), dtype=object)
        column = pd.Series(np.append(levels, np.nan)[column.cat.codes.to_numpy()], dtype="str")
    elif kind.is_object_dtype(column.dtype):
        missing = column.isna().to_numpy(dtype=bool)
        cells = [np.nan if gone else text_of(cell) for cell, gone in zip(column, missing, strict=True)]
        column = pd.Series(cells, dtype="str")
    elif kind.is_datetime64_any_dtype(column.dtype):
        column = _texts_of_times(utc_times(column))
    elif isinstance(column.dtype, pd.PeriodDtype):
        column = _texts_of_times(utc_times(column.dt.to_timestamp()))
    elif not isinstance(column.dtype, pd.StringDtype):
        codes, levels = pd.factorize(column)
        level_texts = pd.Series(levels).astype("str").to_numpy(dtype=object)
        if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_integer_dtype(column.dtype):
            level_texts = np.array([_canonical(str(text)) for text in level_texts], dtype=object)
        column = pd.Series(np.append(level_texts, np.nan)[codes], dtype="str")
    return column.astype("str")


def _stripped(texts: pd.Series) -> pa.Array:
    """Without blanks around them, null where nothing is left."""
    found = pc.utf8_trim(_arrow(texts), _BLANKS)
    empty = pc.equal(found, "")
    return pc.if_else(empty, pa.scalar(None, found.type), found) if pc.any(empty).as_py() else found


def utc_times(column: pd.Series) -> Shaped[np.ndarray, " rows"]:
    """datetime64[us] of a datetime column of any unit; time zones are converted to UTC, missing = NaT."""
    if isinstance(column.dtype, pd.ArrowDtype):
        zone = getattr(column.dtype.pyarrow_dtype, "tz", None)  # plain days have none
        column = column.astype(f"datetime64[us, {zone}]" if zone else "datetime64[us]")
    if column.dt.tz is not None:
        column = column.dt.tz_convert("UTC").dt.tz_localize(None)
    return column.to_numpy().astype("datetime64[us]")


def _texts_of_times(times: Shaped[np.ndarray, " rows"]) -> pd.Series:
    """ISO text as a text file would have it: midnight is written as the bare day."""
    texts = pd.Series(np.datetime_as_string(times).astype(object), dtype="str")
    return texts.mask(np.isnat(times)).str.replace(r"\.0+$", "", regex=True).str.replace("T00:00:00", "", regex=False)


def text_of(cell: Any) -> str:
    """A cell as a text file would have it; a list as JSON of the texts of its items."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, list | tuple | set | frozenset | np.ndarray):
        return _text_of_list(cell)
    if isinstance(cell, Decimal) and cell.is_finite():
        return _canonical(decimal_text(cell))
    if isinstance(cell, float):
        return _canonical(str(cell))
    if isinstance(cell, timedelta):
        return str(pd.Timedelta(cell))
    if isinstance(cell, date):  # datetime and pandas' Timestamp are dates too
        return cell.isoformat().removesuffix("T00:00:00")
    return str(cell)


def _text_of_list(cell: Any) -> str:
    items = json_value(cell)
    plain = not any(isinstance(item, list | dict) for item in items)
    return json.dumps([text_of(item) for item in items if item is not None] if plain else items, ensure_ascii=False)


def json_value(cell: Any) -> Any:
    """A cell with what JSON has a place for: containers of any kind as lists and objects, sets in a fixed order, None
    for what is not finite, and text for all else."""
    if isinstance(cell, dict):
        return {text_of(key): json_value(part) for key, part in cell.items()}
    if isinstance(cell, np.ndarray | pd.Series | np.generic):
        return json_value(cell.tolist())
    if isinstance(cell, set | frozenset):
        return [json_value(part) for part in sorted(cell, key=str)]
    if isinstance(cell, list | tuple):
        return [json_value(part) for part in cell]
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else None
    return cell if cell is None or isinstance(cell, str | int) else text_of(cell)


def with_columns(frame: pd.DataFrame, columns: Mapping[str, Any]) -> pd.DataFrame:
    """The table with columns set, by any name: ``frame.assign`` cannot set one that is called "self"."""
    changed = frame.copy(deep=False)
    for name, cells in columns.items():
        changed[name] = cells
    return changed


def json_text(cell: Any) -> str:
    """A container as JSON."""
    return json.dumps(json_value(cell), ensure_ascii=False)


def python_cells(column: pd.Series) -> list[Any]:
    """Cells as Python objects, missing ones None; pandas would make floats of whole numbers within Arrow's lists."""
    if isinstance(column.dtype, pd.ArrowDtype):
        found: list[Any] = pa.array(column).to_pylist()
        return found
    return column.astype(object).where(column.notna(), None).tolist()


def _numbers_of_texts(column: pd.Series, form: Form | None, texts: Texts | None) -> Numbers:
    texts = texts_of(column) if texts is None else texts
    form = learn_numbers(texts, ".") if form is None else form
    found = read_numbers(texts, form)
    said = ""
    for wrong, right in ((found.other_unit, found.own_unit), (found.other_sign, found.same_sign)):
        if not wrong.any():
            continue
        counts = np.bincount(texts.codes[texts.codes >= 0], minlength=len(texts))
        if counts[wrong].sum() > counts[right].sum():
            said = _contradiction(column, texts, wrong, form, sign=wrong is found.other_sign)
    values = np.append(found.values, np.nan)[texts.codes]
    missing = np.append(found.missing, np.True_)[texts.codes]
    return replace(_checked(values, unparsable=~missing & np.isnan(values)), contradiction=said)


def _contradiction(
    column: pd.Series, texts: Texts, wrong: Bool[np.ndarray, " texts"], form: Form, *, sign: bool
) -> str:
    """What to say of a table that is written in another way than that which a model learnt."""
    cells = np.append(wrong, np.False_)[texts.codes]
    row = int(cells.argmax())
    where = f"{int(cells.sum())} of {len(cells)} cells, the first in row {column.index[row]}: {column.iloc[row]!r}"
    if sign:
        other = sign_name({".": ",", ",": "."}[form.decimal])
        return (
            f"column {column.name!r} has a decimal {other} in {where}, and had a decimal {sign_name(form.decimal)} in "
            "training; write it as it was, or say --decimal"
        )
    had = f"{form.unit!r} beside its numbers" if form.unit else "nothing beside its numbers"
    return f"column {column.name!r} has another unit in {where}, and had {had} in training; write it as it was."


def _numbers_of_objects(column: pd.Series, form: Form | None, texts: Texts | None) -> Numbers:
    cells = column.to_numpy(dtype=object)
    is_text = np.fromiter((isinstance(cell, str) for cell in cells), bool, len(cells))
    if is_text.all():
        return _numbers_of_texts(column, form, texts)
    values = np.full(len(cells), np.nan)
    written = _numbers_of_texts(column[is_text].astype("str"), form, None)
    values[is_text] = np.where(written.infinite, np.inf, written.values)
    values[~is_text] = [_number(cell) for cell in cells[~is_text]]
    unparsable = ~is_text & np.isnan(values) & column.notna().to_numpy(dtype=bool)
    unparsable[is_text] = written.unparsable
    return replace(_checked(values, unparsable=unparsable), contradiction=written.contradiction)


def _number(cell: Any) -> float:
    if isinstance(cell, timedelta):
        return cell.total_seconds()
    try:
        return float(cell)
    except OverflowError:
        return float("inf")
    except (TypeError, ValueError):
        return float("nan")


def _canonical(text: str) -> str:
    return canonical_number(text) if re.fullmatch(DECIMAL, text) else text


def _checked(values: Float[np.ndarray, " rows"], unparsable: Bool[np.ndarray, " rows"] | None = None) -> Numbers:
    infinite = np.isinf(values)
    unparsable = infinite if unparsable is None else unparsable | infinite
    return Numbers(np.where(infinite, np.nan, values), unparsable, infinite)
