"""How the cells of a column are written: learnt from the whole column, kept in the schema, applied to later tables.

In: the different texts of a column, and what the rest of its table says. Out: ``Form``, and what each text says as a
number under it. Decides for whole columns, never for a cell: a comma means the same in all of them."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int64

Sign = Literal["", ".", ","]
Keys = Literal["each", "text", "number", "truth"]

MISSING_WORDS = frozenset(
    ["", "na", "n/a", "#n/a", "nan", "<na>", "nat", "null", "none", "nil", "-", "--", "?", ".", "missing", "unknown"]
)
"""Stripped and lower-cased, these mean "no value" in a column of numbers or dates; in a category they are levels."""
PLAIN = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
"""A number as programs write it."""
_PLAIN_WHOLE = r"[+-]?(?:[0-9]+|[1-9][0-9]{0,2}(?:\.[0-9]{3})+)(?:[eE][+-]?[0-9]+)?"
"""The plain ones that are numbers too where a point parts thousands."""
INFINITE = r"[+-]?(?:inf|infinity)"
WHOLE = r"-?(?:0|[1-9][0-9]*)"
WHOLE_WITH_POINT = rf"{WHOLE}\.0+"
DECIMAL = rf"{WHOLE}(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)"

_MOST_KEPT = 20_000  # texts, taken apart
_MOST_DIGITS = 17  # that a float can tell apart
_READABLE = 0.9
"""Of the texts with digits, that a table's sign or a unit must explain."""
_SPACES = " \u00a0\u2007\u2009\u202f"
_SPACE = f"[{_SPACES}]*"
_APOSTROPHES = "'\u2019"
_DASHES = "\u2013\u2014"
_MINUS = "\\-\u2212"  # within a class of a regular expression
_CODES = (
    "AED|ARS|AUD|BGN|BRL|CAD|CHF|CLP|CNY|COP|CZK|DKK|EGP|EUR|GBP|HKD|HUF|IDR|ILS|INR|JPY|KES|KRW|MAD|MXN|MYR|NGN|NOK"
    "|NZD|PEN|PHP|PKR|PLN|RON|RSD|RUB|SAR|SEK|SGD|THB|TRY|TWD|UAH|USD|VND|ZAR"
)
_BEFORE = rf"(?:[A-Z]{{0,3}}\p{{Sc}}|(?i:{_CODES}|rs\.?|kr\.?|fr\.|zł))"
_MONEY = rf"\p{{Sc}}|\b(?i:{_CODES}|rs|kr|fr|zł)\b"
_CORE = rf"[.,]?[0-9](?:[0-9.,{_APOSTROPHES}{_SPACES}]*[0-9])?[.,]?"
_AFTER = (
    rf"(?:-?[^0-9\s.,:_{_APOSTROPHES}()+{_MINUS}/][^0-9():]*?(?:[0-9]|[^0-9():\s])?"
    r"|/\s?[0-9]+|/\s?[^\s0-9][^0-9():]*)"
)
_PARTS = (
    rf"^(?P<open>\()?(?P<sign>[+{_MINUS}])?{_SPACE}(?P<before>{_BEFORE})?{_SPACE}(?P<second>[+{_MINUS}])?"
    rf"(?P<core>{_CORE})(?P<exponent>[eE][+-]?[0-9]+)?(?:(?P<scale>[kKM]|bn|mn)\b)?(?:[.,][-{_DASHES}]{{1,2}})?{_SPACE}"
    rf"(?P<after>{_AFTER})?(?P<close>\))?$"
)
_TRUE, _FALSE = ["true", "True", "TRUE"], ["false", "False", "FALSE"]
_LENGTHS = {"week": 604_800.0, "day": 86_400.0, "hour": 3_600.0, "minute": 60.0, "second": 1.0}
_AMOUNT = r"[0-9]+(?:[.,][0-9]+)?"
_WORDS = {
    "week": "w|wks?|weeks?|wochen?",
    "day": "d|days?|tage?n?",
    "hour": "h|hrs?|hours?|std|stunden?",
    "minute": "m|mins?|minutes?|minuten?",
    "second": "s|secs?|seconds?|sekunden?",
}
_DURATIONS = (
    (
        r"^(?P<sign>-)?(?:(?P<day>[0-9]+)\s*(?:d|days?|tage?)[,\s]\s*)?"
        r"\+?(?P<first>[0-9]+):(?P<second>[0-5][0-9])(?::(?P<third>[0-5][0-9](?:[.,][0-9]+)?))?$"
    ),
    "^(?P<sign>-)?"
    + "".join(rf"(?:(?P<{name}>{_AMOUNT})\s*(?:{words})\b\.?[,\s]*)?" for name, words in _WORDS.items())
    + "$",
    "^(?P<sign>-)?"
    + "".join(rf"(?:(?P<{name}>{_AMOUNT})\s*{name[0]})?" for name in _WORDS)  # 1h30m
    + "$",
    (
        rf"^(?P<sign>-)?p(?:(?P<day>{_AMOUNT})d)?(?:t(?:(?P<hour>{_AMOUNT})h)?(?:(?P<minute>{_AMOUNT})m)?"
        rf"(?:(?P<second>{_AMOUNT})s)?)?$"
    ),
)
_POWERS = str.maketrans("\u00b2\u00b3", "23")
_SCALES = {"k": 1e3, "K": 1e3, "M": 1e6, "mn": 1e6, "bn": 1e9}


def _style(decimal: str, grouping: str) -> str:
    """Numbers with this sign before the fraction, and with or without groups of three digits."""
    two = rf"|[1-9][0-9]?(?:{grouping}[0-9]{{2}})+{grouping}[0-9]{{3}}"  # lakh and crore
    groups = "|".join(
        rf"[1-9][0-9]{{0,2}}(?:{one}[0-9]{{3}})+" for one in (grouping, f"[{_SPACES}]", f"[{_APOSTROPHES}]")
    )
    fraction = rf"(?:{decimal}[0-9]*)?" if decimal == r"\." else rf"(?:{decimal}[0-9]+)?"
    return rf"^(?:{groups}{two if grouping == ',' else ''}|[0-9]+)?{fraction}$"


_STYLES: dict[str, str] = {".": _style(r"\.", ","), ",": _style(",", r"\.")}
_NAMES = {".": "point", ",": "comma"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextForm:
    """How a text table is written; None where that is not known, or there is no such thing."""

    encoding: str | None = None
    separator: str | None = None
    decimal: str | None = None
    """The sign before fractions, where the user named it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the cells of one column are written."""

    decimal: Sign = ""
    """The sign before fractions; the other one, blanks and apostrophes part groups of digits. Empty where no cell nor
    any other column has shown it: then each table is read as it shows itself."""
    unit: str = ""
    """What stands around the numbers, as in most cells: "$", "sqft", "%"."""
    scaled: bool = False
    """Whether 2k means 2000, and 3M three millions."""
    duration: Literal["", "h:m", "m:s"] = ""
    """Whether the cells are durations, which are read as seconds, and what 12:30 means among them."""
    keys: Keys = "each"
    """What makes two cells the same level: the text; the number that all cells are; true or false; or, as in folders
    of mixfit before this was learnt, whatever each cell for itself looks like."""
    day_first: bool | None = None
    """Whether 1/2/2020 is in February; None where no cell shows it."""
    clock: bool | None = None
    """Whether dates are times of the day, as 04:51; None of a column that is none of dates."""
    missing: tuple[str, ...] = ()
    """Words of this column, lower-cased, that mean "no value" beside those that always do."""
    order: tuple[str, ...] = ()
    """The levels of an ordered column, the lowest first."""

    def learnt_from(self, other: "Form") -> "Form":
        """This form, and of another what is not known here."""
        if self.decimal:
            return self
        return replace(self, decimal=other.decimal, unit=other.unit, scaled=other.scaled, duration=other.duration)

    def describe(self) -> str:
        """What is particular in how numbers are written: "decimal comma, in sqft"."""
        said = ["decimal comma"] if self.decimal == "," else []
        said += [f"durations ({self.duration}) in seconds"] if self.duration else []
        said += [f"in {self.unit}"] if self.unit else []
        return ", ".join(said)


UNKNOWN, UNKNOWN_TEXT = Form(), TextForm()
"""Nothing is known."""


@dataclass(frozen=True, eq=False)
class Texts:
    """The different texts of a column, stripped of blanks around them, and what is found out of them once for all that
    ask: most columns of numbers never need more than the plain ones."""

    codes: Int64[np.ndarray, " rows"]
    """Index into ``names``, -1 where the cell is empty."""
    cells: pa.Array
    """large_string, by first appearance."""

    @cached_property
    def names(self) -> pd.Series:
        """The texts, dtype str."""
        return pd.Series(self.cells, dtype="str")

    def __len__(self) -> int:
        return len(self.cells)

    @cached_property
    def floats(self) -> Float[np.ndarray, " texts"]:
        """The numbers that are written as programs write them, nan for all other texts; may be infinite."""
        return self._plain[0]

    @cached_property
    def plain(self) -> Bool[np.ndarray, " texts"]:
        """Which texts are numbers as programs write them."""
        return self._plain[1]

    @cached_property
    def all_plain(self) -> bool:
        """Whether all are, so that none means "no value"."""
        return bool(self.plain.all())

    @cached_property
    def _plain(self) -> tuple[np.ndarray, np.ndarray]:
        # Both Arrow and Python's own float() round correctly, so a text and the number it was written from are the same
        # bits. What Arrow takes is what PLAIN takes, less a plus sign, and infinity.
        try:
            values = pc.cast(self.cells, pa.float64()).to_numpy(zero_copy_only=False)
            if np.isfinite(values).all():
                return values, np.ones(len(values), dtype=bool)
        except pa.ArrowInvalid:
            pass
        plain = _matches(self.cells, f"^(?:{PLAIN})$")
        values = np.full(len(self), np.nan)
        texts = self.cells.filter(pa.array(plain)).to_pylist()
        values[plain] = np.fromiter(map(float, texts), np.float64, len(texts))
        return values, plain

    @cached_property
    def digits(self) -> Bool[np.ndarray, " texts"]:
        """Which texts hold a digit, without which none is a number, a duration or a date."""
        return _matches(self.cells, "[0-9]")

    @cached_property
    def has_point(self) -> bool:
        """Whether a point is in any text."""
        return bool(pc.any(pc.match_substring(self.cells, ".")).as_py())

    @cached_property
    def numbers_repeat(self) -> bool:
        """Whether two texts are one number: 7 and 7.0."""
        return len(np.unique(self.floats[self.plain])) < int(self.plain.sum())

    @cached_property
    def missing(self) -> Bool[np.ndarray, " texts"]:
        """Which texts mean that there is no value, in every column."""
        return np.zeros(len(self), dtype=bool) if self.all_plain else said_missing(self.cells)

    @property
    def there(self) -> "Texts":
        """All others, without their rows."""
        return self if self._there is None else self._there

    @cached_property
    def _there(self) -> "Texts | None":
        """None for all, as an object that holds itself stays in memory until Python looks for circles."""
        if not self.missing.any():
            return None
        return Texts(self.codes[:0], self.cells.filter(pa.array(~self.missing)))

    @property
    def readings(self) -> "Readings":
        """All taken apart, plain or not; kept unless there are very many."""
        return self._readings if len(self) <= _MOST_KEPT else Readings.of(self.cells)

    @cached_property
    def _readings(self) -> "Readings":
        return Readings.of(self.cells)

    @classmethod
    def of(cls, names: pd.Series) -> "Texts":
        """Different texts, without rows."""
        return cls(np.zeros(0, dtype=np.int64), _arrow(names))


@dataclass(frozen=True, slots=True, eq=False)
class Readings:
    """Texts taken apart as numbers; one entry for each text."""

    core: pa.Array
    """Digits and signs, empty where the text is no number at all."""
    sign: Float[np.ndarray, " texts"]
    exponent: pa.Array
    scale: pa.Array
    unit: Int64[np.ndarray, " texts"]
    """Index into ``units``."""
    units: list[str]
    """The different units, as they stand there; some may be of no number."""
    fits: dict[str, Bool[np.ndarray, " texts"]]
    """By decimal sign, whether the text is a number under it."""

    @classmethod
    def of(cls, cells: pa.Array) -> "Readings":
        """Take texts apart."""
        found = pc.extract_regex(cells, _PARTS)
        there = found.is_valid().to_numpy(zero_copy_only=False)
        blank = pa.scalar("", pa.large_string())
        parts = {
            field.name: pc.if_else(found.is_valid(), pc.cast(column, pa.large_string()), blank)
            for field, column in zip(found.type, found.flatten(), strict=True)
        }
        opens, sign, second = (~_are(parts[name], "") for name in ("open", "sign", "second"))
        there &= opens == _are(parts["close"], ")")
        there &= ~(sign & second)
        negative = opens | _are(parts["sign"], "-", "\u2212") | _are(parts["second"], "-", "\u2212")
        core = pc.if_else(pa.array(there), pc.utf8_trim(parts["core"], _SPACES), blank)
        there &= ~(_are(parts["exponent"], "") & _are(parts["after"], "e", "E"))
        fits = {sign: there & _matches(core, pattern) for sign, pattern in _STYLES.items()}
        digits = _matches(core, "[0-9]")
        units = pc.dictionary_encode(_joined(parts["before"], parts["after"]))
        return cls(
            core=core,
            sign=np.where(negative, -1.0, 1.0),
            exponent=parts["exponent"],
            scale=parts["scale"],
            unit=units.indices.to_numpy(zero_copy_only=False).astype(np.int64),
            units=units.dictionary.to_pylist(),
            fits={sign: fit & digits for sign, fit in fits.items()},
        )

    @property
    def unit_keys(self) -> np.ndarray:
        """For each of ``units`` what is equal for spellings of one."""
        return np.array([unit_key(unit) for unit in self.units], dtype=object)

    def values(self, decimal: str) -> Float[np.ndarray, " texts"]:
        """What the texts that fit say, nan for all others; without their scale."""
        other = {".": ",", ",": "."}[decimal]
        plain = pc.replace_substring_regex(self.core, f"[{_SPACES}{_APOSTROPHES}{other}]", "")
        plain = pc.replace_substring(plain, decimal, ".") if decimal != "." else plain
        plain = pc.binary_join_element_wise(plain, self.exponent, pa.scalar("", pa.large_string()))
        values, fit = np.full(len(plain), np.nan), self.fits[decimal]
        values[fit] = np.fromiter(map(float, plain.filter(pa.array(fit)).to_pylist()), np.float64, int(fit.sum()))
        return values * self.sign

    def factors(self) -> Float[np.ndarray, " texts"]:
        """What k and M stand for, 1 where there is none."""
        found: Float[np.ndarray, " texts"] = np.ones(len(self.sign))
        for name, factor in _SCALES.items():
            found[_are(self.scale, name)] = factor
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """What a column says of the sign before fractions in its table."""

    decimal: Sign
    """Empty where its cells are numbers both ways."""
    signs: frozenset[str]
    """Those that stand between digits."""
    example: str
    """A cell with a sign."""


def vote(texts: Texts, separator: str | None) -> Vote | None:
    """Look at a column; None where it has no numbers with signs, or is none of numbers.

    Args:
        separator: of the cells of the file: where that is a comma, points alone are never taken for groups.
    """
    there = texts.there
    if there.all_plain and not there.has_point:
        return None
    signs = _matches(there.cells, "[0-9][.,][0-9]")
    if not signs.any():
        return None
    example = there.cells[int(signs.argmax())].as_py()
    if there.all_plain and (separator == "," or not re.fullmatch(_PLAIN_WHOLE, example)):
        return Vote(decimal=".", signs=frozenset("."), example=example)
    comma, point = _fits_both(there)
    with_comma = _matches(there.cells, "[0-9],[0-9]")
    if separator == ",":
        comma = comma & (with_comma | ~signs)
    best = max(int(comma.sum()), int(point.sum()))
    digits = int(there.digits.sum())
    if best < _READABLE * digits or digits < _READABLE * len(there):
        return None
    speaks: Sign = "," if comma.sum() > point.sum() else "." if point.sum() > comma.sum() else ""
    with_point = _matches(there.cells, r"[0-9]\.[0-9]")
    shown = frozenset(sign for sign, found in ((",", with_comma), (".", with_point)) if found.any())
    return Vote(decimal=speaks, signs=shown, example=example)


def _fits_both(texts: Texts) -> tuple[Bool[np.ndarray, " texts"], Bool[np.ndarray, " texts"]]:
    """Which texts are numbers with a comma before the fraction, and which with a point."""
    if not texts.all_plain:
        return texts.readings.fits[","], texts.readings.fits["."]
    return _matches(texts.cells, f"^(?:{_PLAIN_WHOLE})$"), texts.plain


def said_missing(cells: pa.Array, words: tuple[str, ...] = ()) -> Bool[np.ndarray, " texts"]:
    """Which texts mean that there is no value."""
    lower = pc.utf8_lower(cells)
    known = pa.array([*MISSING_WORDS, *words], lower.type)
    found: Bool[np.ndarray, " texts"] = pc.is_in(lower, known).to_numpy(zero_copy_only=False)
    return found


def learn_keys(texts: Texts) -> Keys:
    """What makes two cells of a column the same level: numbers and truth values only where all cells are such, and no
    two that are written differently would become one, other than 7 and 7.0."""
    there = texts.there
    if not len(there):
        return "each"
    if not there.plain.any() and there.names.isin([*_TRUE, *_FALSE]).all():
        return "truth" if there.names.str.lower().is_unique else "text"
    if not _matches(there.cells, f"^(?:{WHOLE}|{DECIMAL}|(?i:{INFINITE}))$").all():
        return "text"
    # Numbers that differ have keys that differ.
    if not there.numbers_repeat if there.all_plain else len(set(map(float, there.cells.to_pylist()))) == len(there):
        return "number"
    names = there.names
    whole = names.str.fullmatch(f"{WHOLE}|{WHOLE_WITH_POINT}").all()  # 7 and 7.0 are one, 1.1 and 1.10 may be two
    return "number" if whole or keys_of(names, "number").is_unique else "text"


def keys_of(names: pd.Series, keys: Keys) -> pd.Series:
    """The canonical key of each text, see ``Form.keys``: what Python writes for a number or a truth value."""
    if keys == "text" or not len(names):
        return names
    found = names
    if keys != "truth":
        written = names.str.fullmatch(DECIMAL).to_numpy(dtype=bool)
        if written.any():
            found = found.copy()
            found[written] = [canonical_number(text) for text in names[written]]
    if keys in ("truth", "each"):
        found = found.mask(found.isin(_TRUE), "True").mask(found.isin(_FALSE), "False")
    return found


def decimal_text(cell: Decimal | float, digits: int | None = None) -> str:
    """A decimal without exponent and zeros at its end.

    Args:
        digits: after the point, of a float that stands for a decimal.
    """
    text = f"{cell:f}" if digits is None else f"{cell:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def canonical_number(text: str) -> str:
    """A number as Python writes it, without the point of a whole one; as it is where a float has too few digits."""
    if re.fullmatch(WHOLE_WITH_POINT, text):
        whole = text.split(".")[0]
        return "0" if whole == "-0" else whole
    digits = re.sub("[^0-9]", "", re.split("[eE]", text)[0]).strip("0")
    value = float(text)
    if len(digits) > _MOST_DIGITS or not np.isfinite(value) or (value == 0 and digits):
        return text
    return "0" if value == 0 else repr(value).removesuffix(".0")


def learn_numbers(texts: Texts, sign: Sign, *, forced: bool = False, separator: str | None = None) -> Form:
    """How the numbers of a column are written; decided by the most of its texts.

    Args:
        sign: what the table says of the sign before fractions, empty where it says nothing.
        forced: it was named by the user, and no column has another.
        separator: as for ``vote``.
    """
    there = texts.there
    cells, plain = there.cells, there.plain
    if there.all_plain and not there.has_point:
        return Form(decimal=sign if len(there) else "")
    if there.all_plain and sign != ",":
        return Form(decimal=".")
    if not there.digits.any():
        return Form(decimal=sign or ".")
    found = there.readings
    comma, point = found.fits[","], found.fits["."]
    if separator == ",":
        comma = comma & (_matches(cells, ",") | ~_matches(cells, r"\."))
    counts = {",": int(comma.sum()), ".": int(point.sum())}
    if forced and sign and not (plain.all() and not counts[sign]):
        decimal: Sign = sign
    elif counts[","] == counts["."]:
        signs = _matches(found.core, "[.,]") & (comma | point)
        decimal = sign or ("." if plain[signs].all() else "")
        if not forced and (money := _sign_of_money(found, signs)):
            decimal = money
    else:
        decimal = "," if counts[","] > counts["."] else "."
    if not decimal:
        return Form()
    fits = comma if decimal == "," else point
    unit, scaled = _unit(found, fits)
    own = fits & np.isin(found.unit_keys, ["", unit_key(unit)])[found.unit]
    if own.sum() <= len(there) / 2:  # a column of other things, some of which are numbers
        return Form(decimal=sign or ".", duration=_duration(cells))
    return Form(decimal=decimal, unit=unit, scaled=scaled)


def _duration(cells: pa.Array) -> Literal["", "h:m", "m:s"]:
    """What durations mean, if nearly all texts are such."""
    if _matches(cells, "[0-9]").mean() < _READABLE or (~np.isnan(_seconds(cells, "h:m"))).mean() < _READABLE:
        return ""
    three = _matches(cells, r"[0-9]:[0-9]+:[0-9]")
    two = _matches(cells, r"^-?[0-9]+:[0-9]+$")
    return "m:s" if three.any() and two.any() else "h:m"


def _seconds(cells: pa.Array, two: str) -> Float[np.ndarray, " texts"]:
    """Durations in seconds, nan for all other texts; ``two`` says what 12:30 means."""
    values, lower = np.full(len(cells), np.nan), pc.utf8_lower(cells)
    for pattern in _DURATIONS:
        found = pc.extract_regex(lower, pattern)
        there = found.is_valid().to_numpy(zero_copy_only=False)
        if not there.any():
            continue
        parts = {
            field.name: _amounts(column.filter(pa.array(there)))
            for field, column in zip(found.type, found.flatten(), strict=True)
        }
        sign = np.where(np.isnan(parts.pop("sign")), 1.0, -1.0)
        said = ~np.isnan(np.stack(list(parts.values())))
        if "first" in parts:
            short = np.isnan(parts["third"]) & (two == "m:s")
            first, second, third = (parts.pop(name) for name in ("first", "second", "third"))
            parts["hour"], parts["minute"] = np.where(short, 0.0, first), np.where(short, first, second)
            parts["second"] = np.where(short, second, third)
        total = sum(_LENGTHS[name] * np.nan_to_num(amount) for name, amount in parts.items())
        values[there] = np.where(said.any(axis=0), sign * total, np.nan)
    return values


def _amounts(texts: pa.Array) -> Float[np.ndarray, " texts"]:
    """Digits as numbers, nan where there are none; a sign of minus is 1."""
    cells = texts.to_numpy(zero_copy_only=False)
    return np.array([float(cell.replace(",", ".")) if cell not in ("", "-") else len(cell) or np.nan for cell in cells])


def _sign_of_money(found: Readings, signs: Bool[np.ndarray, " texts"]) -> Sign:
    """Amounts of money have no three digits after the sign before fractions: so it is the other one."""
    money = _matches(pa.array(found.units, pa.large_string()), _MONEY)
    if not signs.any() or 2 * money[found.unit][signs].sum() <= signs.sum():
        return ""
    core = found.core.filter(pa.array(signs))
    points, commas = _matches(core, r"\.").any(), _matches(core, ",").any()
    return "," if points and not commas else "." if commas and not points else ""


def _unit(found: Readings, fits: Bool[np.ndarray, " texts"]) -> tuple[str, bool]:
    """What stands around most numbers, and whether k and M are factors."""
    scale = ~_are(found.scale, "")
    counts: Counter[str] = Counter()
    by_unit = dict(zip(found.units, np.bincount(found.unit[fits], minlength=len(found.units)).tolist(), strict=True))
    blank = by_unit.pop("", 0)
    there = int(fits.sum()) - blank
    if 2 * there <= fits.sum():
        return "", bool(2 * (scale & fits).sum() > fits.sum())
    for unit, count in by_unit.items():
        counts[unit_key(unit)] += count
    most = _most_frequent(counts)
    if counts[most] < _READABLE * there:
        return "", False
    shown = _most_frequent({unit: count for unit, count in by_unit.items() if unit_key(unit) == most})
    money = _matches(pa.array([shown]), _MONEY)[0]
    return shown, bool(money or 2 * (scale & fits).sum() > fits.sum())


def _most_frequent(counts: Mapping[str, int]) -> str:
    """Of several the first in the alphabet."""
    return min(counts, key=lambda name: (-counts[name], name))


def unit_key(unit: str) -> str:
    """Equal for spellings of one unit: "Beds" and "bed", "sq. ft." and "sq.ft"."""
    found = "".join(unit.split()).casefold().rstrip(".").translate(_POWERS)
    return found[:-1] if len(found) > 3 and found.endswith("s") else found


@dataclass(frozen=True, slots=True, eq=False)
class NumberTexts:
    """What the texts of a column say as numbers."""

    values: Float[np.ndarray, " texts"]
    """nan where a text is no number in this form; may be infinite."""
    missing: Bool[np.ndarray, " texts"]
    other_sign: Bool[np.ndarray, " texts"]
    """No number here, but one if the other sign stood before fractions."""
    same_sign: Bool[np.ndarray, " texts"]
    """A number here, and none if the other sign stood before fractions."""
    other_unit: Bool[np.ndarray, " texts"]
    """A number with something else around it."""
    own_unit: Bool[np.ndarray, " texts"]
    """A number with nothing or the column's own around it."""


def read_numbers(texts: Texts, form: Form) -> NumberTexts:
    """Read texts as numbers of this form."""
    cells, nothing = texts.cells, np.zeros(len(texts), dtype=bool)
    missing = said_missing(cells, form.missing) if form.missing else texts.missing
    plain, values = texts.plain, texts.floats
    if form.decimal == "," and texts.has_point:
        plain = plain & ~_matches(cells, r"\.")
        values = np.where(plain, values, np.nan)
    if plain.all():
        return NumberTexts(values, missing, nothing, nothing, nothing, ~np.isnan(values))
    values = values.copy()
    values[_matches(cells, f"^(?i:{INFINITE})$")] = np.inf
    if form.duration:
        values = np.where(missing, np.nan, _seconds(cells, form.duration))
        return NumberTexts(values, missing, nothing, nothing, nothing, ~np.isnan(values))
    rest = np.flatnonzero(np.isnan(values) & ~missing & texts.digits)
    other_sign, other_unit = nothing.copy(), nothing.copy()
    if not len(rest) or not form.decimal:
        return NumberTexts(values, missing, other_sign, nothing, other_unit, ~np.isnan(values))
    found = texts.readings if len(rest) == len(texts) else Readings.of(cells.take(pa.array(rest)))
    fits, others = found.fits[form.decimal], found.fits[{".": ",", ",": "."}[form.decimal]]
    own = np.isin(found.unit_keys, ["", unit_key(form.unit)])[found.unit]
    factors = found.factors()
    right = own & ((factors == 1) | form.scaled)
    values[rest] = np.where(fits & right, found.values(form.decimal) * np.where(form.scaled, factors, 1.0), np.nan)
    other_sign[rest] = others & ~fits
    other_unit[rest] = fits & ~right
    same_sign = nothing.copy()
    same_sign[rest] = fits & ~others
    if form.decimal == ".":
        same_sign |= plain & _matches(cells, r"\.[0-9]{1,2}$|\.[0-9]{4,}$|^0\.")
    return NumberTexts(values, missing, other_sign, same_sign, other_unit, ~np.isnan(values))


def sign_name(decimal: str) -> str:
    """In words."""
    return _NAMES[decimal]


def _arrow(texts: pd.Series) -> pa.Array:
    cells = pa.array(texts, pa.large_string())
    return cells.combine_chunks() if isinstance(cells, pa.ChunkedArray) else cells


def _are(cells: pa.Array, *words: str) -> Bool[np.ndarray, " texts"]:
    """Which cells are one of a few words."""
    if len(words) == 1:
        found = pc.equal(cells, pa.scalar(words[0], cells.type))
    else:
        found = pc.is_in(cells, pa.array(words, cells.type))
    return found.to_numpy(zero_copy_only=False)


def _joined(before: pa.Array, after: pa.Array) -> pa.Array:
    """Both with a blank between them, where both are there."""
    both = pc.binary_join_element_wise(before, after, pa.scalar(" ", before.type))
    return pc.if_else(pc.equal(before, ""), after, pc.if_else(pc.equal(after, ""), before, both))


def _matches(cells: pa.Array, pattern: str) -> Bool[np.ndarray, " texts"]:
    found: Bool[np.ndarray, " texts"] = pc.fill_null(
        pc.match_substring_regex(cells, pattern), fill_value=False
    ).to_numpy(zero_copy_only=False)
    return found
