"""How a cell becomes a number, a category key or a point in time: the one place that says so.

In: one column of a DataFrame, of any type. Out: numpy arrays, or a column of keys.
The same cell gives the same result whether it comes from a text file ("7.0"), from Parquet (7) or from Python (7.0).
Knows nothing about roles, training or what is done with a cell that cannot be converted."""

import re
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int64, Shaped

from mixfit.weighted import weighted_mean

MISSING_WORDS = frozenset(
    ["", "na", "n/a", "#n/a", "nan", "<na>", "nat", "null", "none", "nil", "-", "--", "?", ".", "missing", "unknown"]
)
"""Stripped and lower-cased, these mean "no value" in a column of numbers or dates; in a category they are levels."""

# Spelled out, because what counts as white space differs between text stored by Arrow and by Python.
_BLANKS = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u2002\u2003\u2007\u2009\u200b\u202f\u3000\ufeff"
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_INFINITE = r"[+-]?(?:inf|infinity)"
_WHOLE_WITH_POINT = r"-?(?:0|[1-9][0-9]*)\.0+"
_DECIMAL = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)"
_MOST_DIGITS = 17  # that a float can tell apart

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


@dataclass(frozen=True, eq=False)
class Numbers:
    """A column as numbers."""

    values: Float[np.ndarray, " rows"]
    """float64, finite, or nan where the cell is missing or not a usable number."""
    unparsable: Bool[np.ndarray, " rows"]
    """True where the cell holds something that is no finite number: a text, or infinity."""
    infinite: Bool[np.ndarray, " rows"]
    """The part of ``unparsable`` that is infinite or beyond float64 ("inf", "1e400")."""

    def take(self, rows: Int64[np.ndarray, " some"]) -> "Numbers":
        """Those rows, in that order."""
        return Numbers(self.values[rows], self.unparsable[rows], self.infinite[rows])


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

    def cut(self, length: int) -> "Levels":
        """By the first ``length`` characters of each level."""
        codes, names = pd.factorize(self.names.str[:length])
        return Levels(np.append(codes.astype(np.int64), -1)[self.codes], pd.Index(names, dtype="str"))


@dataclass(frozen=True, eq=False)
class Dates:
    """A column as points in time."""

    times: Shaped[np.ndarray, " rows"]
    """datetime64[us] in UTC, NaT where the cell is missing or no date."""
    unparsable: Bool[np.ndarray, " rows"]
    """True where the cell holds something that is no date."""

    def take(self, rows: Int64[np.ndarray, " some"]) -> "Dates":
        """Those rows, in that order."""
        return Dates(self.times[rows], self.unparsable[rows])


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
        nested = arrow_type.startswith(("list", "large_list", "fixed_size", "struct", "map", "binary", "large_binary"))
        return arrow_type if nested else None
    if not pd.api.types.is_object_dtype(column.dtype):
        return None
    kinds = pd.Series([type(cell) for cell in column], dtype=object).unique()
    nested_kinds = (list, tuple, set, frozenset, dict, bytes, bytearray, np.ndarray, pd.Series, pd.DataFrame)
    return next((kind.__name__ for kind in kinds if issubclass(kind, nested_kinds)), None)


def to_numbers(column: pd.Series) -> Numbers:
    """Numbers of a column: booleans are 0 and 1, durations are seconds, missing words are missing.

    >>> to_numbers(pd.Series(["7", "7.0", "n/a", "12 sqft", "1e400", "1_000"])).values.tolist()
    [7.0, 7.0, nan, nan, nan, nan]
    """
    kind = pd.api.types
    if isinstance(column.dtype, pd.CategoricalDtype):
        levels, codes = to_numbers(pd.Series(column.cat.categories)), column.cat.codes.to_numpy()
        return Numbers(
            np.append(levels.values, np.nan)[codes],
            np.append(levels.unparsable, np.False_)[codes],
            np.append(levels.infinite, np.False_)[codes],
        )
    if kind.is_object_dtype(column.dtype):
        return _numbers_of_objects(column)
    if kind.is_timedelta64_dtype(column.dtype):
        return _checked(column.dt.total_seconds().to_numpy(dtype=np.float64, na_value=np.nan))
    if kind.is_complex_dtype(column.dtype) or not (
        kind.is_numeric_dtype(column.dtype) or kind.is_string_dtype(column.dtype)
    ):
        return _checked(np.full(len(column), np.nan), unparsable=column.notna().to_numpy(dtype=bool))
    if kind.is_string_dtype(column.dtype):
        return _numbers_of_texts(_texts(column))
    return _checked(column.to_numpy(dtype=np.float64, na_value=np.nan))


def to_keys(column: pd.Series) -> pd.Series:
    """Canonical category keys, dtype str, missing = NaN only for empty or blank cells; the index is kept.

    A number that is written with a point or an exponent, and true or false, become what Python writes for them, so that
    a text file, Parquet and JSON give the same key. Whole numbers and codes with leading zeros stay as they are.

    >>> to_keys(pd.Series(["7.0", " 7", "007", "NA", ""])).tolist()
    ['7', '7', '007', 'NA', nan]
    >>> to_keys(pd.Series([7.0, 7.5, None])).tolist()
    ['7', '7.5', nan]
    >>> to_keys(pd.Series(["7.50", "1e5", "TRUE"])).tolist()
    ['7.5', '100000', 'True']
    """
    texts = _texts(column)
    whole = texts.str.fullmatch(_WHOLE_WITH_POINT).to_numpy(dtype=bool)
    if whole.any():
        texts = texts.mask(whole, texts.str.replace(r"\.0+$", "", regex=True))
        texts = texts.mask(whole & (texts == "-0").to_numpy(dtype=bool), "0")
    written_by_python = isinstance(column.dtype, np.dtype) and column.dtype.kind == "f"
    decimal = texts.str.fullmatch(_DECIMAL).to_numpy(dtype=bool)
    if decimal.any() and not written_by_python:
        codes, levels = pd.factorize(texts[decimal])
        texts[decimal] = np.array([_canonical(level) for level in levels], dtype=object)[codes]
    texts = texts.mask(texts.isin(["true", "TRUE"]), "True").mask(texts.isin(["false", "FALSE"]), "False")
    texts.index = column.index
    return texts


def _canonical(text: str) -> str:
    """A number as Python writes it, without the point of a whole one; as it is where a float has too few digits."""
    digits = re.sub("[^0-9]", "", re.split("[eE]", text)[0]).strip("0")
    value = float(text)
    if len(digits) > _MOST_DIGITS or not np.isfinite(value) or (value == 0 and digits):
        return text
    return "0" if value == 0 else repr(value).removesuffix(".0")


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
    codes, names = pd.factorize(to_keys(column))
    found = dates_of_levels(Levels(codes, pd.Index(names, dtype="str")), day_first=day_first)
    return found.times, found.unparsable


def dates_of_levels(levels: Levels, *, day_first: bool) -> Dates:
    """As ``to_times``, of a column that was read as levels."""
    texts = _time_texts(levels)
    times = np.append(_parse_times(texts, day_first=day_first), np.datetime64("NaT"))
    unparsable = np.append(np.isnat(times[:-1]) & texts.notna().to_numpy(dtype=bool), np.False_)
    return Dates(times[levels.codes], unparsable[levels.codes])


def is_day_first(column: pd.Series) -> bool:
    """True when any cell such as 31/1/2020 shows that the day stands first; otherwise months do, as in 1/31/2020."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return False
    codes, names = pd.factorize(to_keys(column))
    return show_day_first(Levels(codes, pd.Index(names, dtype="str")))


def show_day_first(levels: Levels) -> bool:
    """As ``is_day_first``, of a column that was read as levels; all names count."""
    _, parts = _match(_time_texts(levels), _NUMERIC_DATE)
    shows = (_whole(parts, "first") > 12) & (_whole(parts, "second") <= 12) & ~_equal(parts["separator"], ".")
    return bool(shows.any())


def _time_texts(levels: Levels) -> pd.Series:
    """The names of levels, those that mean "no value" missing."""
    names = pd.Series(levels.names, dtype="str")
    return names.mask(names.str.lower().isin(MISSING_WORDS))


def _match(texts: pd.Series, form: str) -> tuple[Bool[np.ndarray, " rows"], dict[str, Any]]:
    """Which texts a form fits, and the named groups of those as arrow arrays, "" where a group was not used.

    Arrow's regular expressions, not pandas': ten times as fast with so many groups."""
    cells = pa.array(texts)
    cells = cells.combine_chunks() if isinstance(cells, pa.ChunkedArray) else cells
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


def _parse_times(texts: pd.Series, *, day_first: bool) -> Shaped[np.ndarray, " rows"]:
    times = np.full(len(texts), np.datetime64("NaT", "us"))
    open_rows = np.arange(len(texts))
    for form in _DATE_FORMS:
        hit, parts = _match(texts.iloc[open_rows], form)
        if hit.any():
            times[open_rows[hit]] = _assemble_times(parts, day_first=day_first)
            open_rows = open_rows[~hit]
    return times


def _assemble_times(parts: dict[str, Any], *, day_first: bool) -> Shaped[np.ndarray, " rows"]:
    """Times from the named groups of one date form; NaT where they name no day or hour that exists."""
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
    if "zone_sign" in parts:
        zone_hour, zone_minute = _whole(parts, "zone_hour"), _whole(parts, "zone_minute")
        valid &= (zone_hour < 24) & (zone_minute < 60)
        ahead = np.where(_equal(parts["zone_sign"], "-"), -1, 1)
        microseconds -= ahead * (zone_hour * 60 + zone_minute) * 60_000_000
    times = days.astype("datetime64[us]") + microseconds.astype("timedelta64[us]")
    return np.where(valid, times, np.datetime64("NaT", "us"))


def _texts(column: pd.Series) -> pd.Series:
    """Stripped text of every cell, dtype str, NaN where empty, index 0..rows - 1."""
    column = column.reset_index(drop=True)
    kind = pd.api.types
    if plain_cells_problem(column) is not None:
        column = column.astype(object)
    if isinstance(column.dtype, pd.CategoricalDtype):
        levels = _texts(pd.Series(column.cat.categories)).to_numpy(dtype=object)
        column = pd.Series(np.append(levels, np.nan)[column.cat.codes.to_numpy()], dtype="str")
    elif kind.is_object_dtype(column.dtype):
        missing = column.isna().to_numpy(dtype=bool)
        cells = [np.nan if gone else _text(cell) for cell, gone in zip(column, missing, strict=True)]
        column = pd.Series(cells, dtype="str")
    elif kind.is_datetime64_any_dtype(column.dtype):
        column = _texts_of_times(utc_times(column))
    elif isinstance(column.dtype, pd.PeriodDtype):
        column = _texts_of_times(utc_times(column.dt.to_timestamp()))
    elif not isinstance(column.dtype, pd.StringDtype):
        codes, levels = pd.factorize(column)
        level_texts = pd.Series(levels).astype("str").to_numpy(dtype=object)
        column = pd.Series(np.append(level_texts, np.nan)[codes], dtype="str")
    texts = column.astype("str").str.strip(_BLANKS)
    return texts.mask(texts == "")


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


def _text(cell: Any) -> str:
    if isinstance(cell, str):
        return cell
    if isinstance(cell, date):  # datetime and pandas' Timestamp are dates too
        return cell.isoformat().removesuffix("T00:00:00")
    return str(cell)


def _numbers_of_texts(texts: pd.Series) -> Numbers:
    matches = texts.str.fullmatch(_NUMBER).to_numpy(dtype=bool)
    missing = (texts.isna() | texts.str.lower().isin(MISSING_WORDS)).to_numpy(dtype=bool)
    values = np.full(len(texts), np.nan)
    # Python's own float() rounds correctly, so a text and the number it was written from are the same bits.
    values[matches] = np.fromiter(map(float, texts.to_numpy(dtype=object)[matches]), np.float64, int(matches.sum()))
    values[texts.str.lower().str.fullmatch(_INFINITE).to_numpy(dtype=bool)] = np.inf
    return _checked(values, unparsable=~missing & np.isnan(values))


def _numbers_of_objects(column: pd.Series) -> Numbers:
    cells = column.to_numpy(dtype=object)
    is_text = np.fromiter((isinstance(cell, str) for cell in cells), bool, len(cells))
    values = np.full(len(cells), np.nan)
    texts = _numbers_of_texts(_texts(pd.Series(cells[is_text], dtype="str")))
    values[is_text] = np.where(texts.infinite, np.inf, texts.values)
    values[~is_text] = [_number(cell) for cell in cells[~is_text]]
    unparsable = ~is_text & np.isnan(values) & column.notna().to_numpy(dtype=bool)
    unparsable[is_text] = texts.unparsable
    return _checked(values, unparsable=unparsable)


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except OverflowError:
        return float("inf")
    except (TypeError, ValueError):
        return float("nan")


def _checked(values: Float[np.ndarray, " rows"], unparsable: Bool[np.ndarray, " rows"] | None = None) -> Numbers:
    infinite = np.isinf(values)
    unparsable = infinite if unparsable is None else unparsable | infinite
    return Numbers(np.where(infinite, np.nan, values), unparsable, infinite)
