"""What can be counted in one column, and what its name says: the evidence that roles are found from.

In: a column, or two. Out: counts, shares and short reasons. Decides no role itself."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from mixfit.data.columns.cells import Cells
from mixfit.data.columns.form import MISSING_WORDS
from mixfit.data.columns.values import Dates, Levels, Numbers, dates_of_levels, show_day_first
from mixfit.data.photos.tree import ENDINGS

ID_WORDS = frozenset(["id", "uuid", "guid"])
CODE_WORDS = frozenset(
    ["zip", "zipcode", "postcode", "postal", "postalcode", "plz", "code", "phone", "telephone", "fips", "isbn", "ean"]
)
TEXT_LEVELS = 20
"""Up to so many different cells are levels of a category, however few rows there are."""

UNIQUE_ROWS = 10
"""With fewer rows, "all cells differ" says nothing."""

_STRAY_SHARE = 0.05  # of the cells, that may be words in a column of numbers
_WORDS_SHARE, _FEW_WORDS = 0.25, 3  # of the cells, that may be a few words which repeat
_TEXT_SHARE = 0.5
_DATE_SHARE = 0.9  # of the cells must be dates
_ENDINGS = "|".join(sorted(ENDINGS, key=len, reverse=True))
_SOME_ENDING = rf"(?i)\.(?:{_ENDINGS})"
_IMAGE_ENDING = rf"(?i)^(?![a-z][a-z0-9+.-]*://).*(\.(?:{_ENDINGS}))(?:[?#].*)?$"
_MOST_WORDS = 20
_SAMPLE = 20_000  # cells; enough for a share
Cut = TypeVar("Cut", pd.Series, np.ndarray)


@dataclass(frozen=True)
class Facts:
    """A column and what can be counted in it; each count is made when first asked for."""

    cells: Cells

    @property
    def name(self) -> str:
        """Of the column."""
        return self.cells.name

    @property
    def column(self) -> pd.Series:
        """The cells as they came."""
        return self.cells.column

    @property
    def keys(self) -> pd.Series:
        """Canonical keys, NaN = empty."""
        return self.cells.keys

    @property
    def numbers(self) -> Numbers:
        """The column as numbers."""
        return self.cells.numbers

    @property
    def dates(self) -> Dates:
        """The column as dates."""
        return self.cells.dates()

    @cached_property
    def finite(self) -> Float[np.ndarray, " cells"]:
        """The cells that are numbers."""
        return self.numbers.values[np.isfinite(self.numbers.values)]

    @cached_property
    def stray(self) -> int:
        """Cells that are neither numbers, nor infinite, nor missing."""
        return int((self.numbers.unparsable & ~self.numbers.infinite).sum())

    @cached_property
    def count(self) -> int:
        """Cells that are not empty."""
        return int((self.cells.levels.codes >= 0).sum())

    @cached_property
    def counts(self) -> pd.Series:
        """How often each key is there, the most frequent first."""
        codes = self.cells.levels.codes
        numbers, used = pd.factorize(codes[codes >= 0])
        counts = np.bincount(numbers, minlength=len(used))
        order = np.argsort(-counts, kind="stable")
        return pd.Series(counts[order], index=self.cells.levels.names[used[order]])

    @cached_property
    def distinct(self) -> int:
        """Different keys."""
        codes = self.cells.levels.codes
        return int(np.count_nonzero(np.bincount(codes[codes >= 0])))

    @cached_property
    def distinct_numbers(self) -> int:
        """Different numbers."""
        return len(np.unique(self.finite))

    @property
    def all_different(self) -> bool:
        """No cell is empty and none is like another."""
        return self.distinct == len(self.column)

    @property
    def text_like(self) -> bool:
        """So many different cells that they can hardly be levels of a category."""
        return self.distinct > TEXT_LEVELS and self.distinct > _TEXT_SHARE * self.count

    @cached_property
    def whole(self) -> bool:
        """All numbers are integers, however they are written."""
        return bool(len(self.finite)) and bool((self.finite % 1 == 0).all())

    @cached_property
    def boolean(self) -> bool:
        """All cells are true or false, as words or typed."""
        if self.typed_numbers or (self.cells.holds_texts and len(self.finite)):
            return False
        return bool(self.count) and bool(self.counts.index.isin(["True", "False"]).all())

    @property
    def typed_numbers(self) -> bool:
        """Typed as numbers, so that no cell is a word."""
        return isinstance(self.cells.dtype, np.dtype) and self.cells.dtype.kind in "iuf"

    @property
    def numeric(self) -> bool:
        """Every cell that is not empty or infinite is a number, up to a few of many, and is not typed as a level."""
        return (
            bool(len(self.finite))
            and (self.stray == 0 or self._few_stray)
            and not isinstance(self.cells.dtype, pd.CategoricalDtype)
        )

    @property
    def _few_stray(self) -> bool:
        """A few cells among numbers that are amounts rather than levels, or more of one word such as "k. A."."""
        if self.distinct_numbers <= TEXT_LEVELS or self.stray > _WORDS_SHARE * self.count:
            return False
        if self.stray <= _STRAY_SHARE * self.count:
            return True
        words = self.keys[self.numbers.unparsable & ~self.numbers.infinite].str.lower()
        repeated = words.nunique() <= _FEW_WORDS and words.value_counts().min() > 1
        return bool(repeated and not words.str.contains("[0-9]").any())

    @property
    def mostly_numeric(self) -> bool:
        """More cells are numbers than are something else."""
        return len(self.finite) > self.stray and not isinstance(self.cells.dtype, pd.CategoricalDtype)

    @cached_property
    def date_reason(self) -> str:
        """Why the column is one of dates: its type, texts, or digits under a name that says "date"; empty if it is
        none."""
        if pd.api.types.is_datetime64_any_dtype(self.cells.dtype) or isinstance(self.cells.dtype, pd.PeriodDtype):
            return "typed as dates"
        if self.boolean:
            return ""
        if self.cells.clock:
            return f"times of the day such as {short(self._first_word)}"
        if self.numeric:
            return "digits such as 20200131" if _digits_of_dates(self) else ""
        if self.mostly_numeric or date_share(self) < _DATE_SHARE:
            return ""
        return f"dates such as {short(self._first_word)}"

    @property
    def _first_word(self) -> str:
        """The first cell that has a value."""
        return next(str(key) for key in self.keys.dropna() if key.lower() not in MISSING_WORDS)

    @cached_property
    def number_kind(self) -> str:
        """``integers`` or ``floats``, as the cells are written or the column is typed."""
        if pd.api.types.is_float_dtype(self.column.dtype):
            return "integers" if self.whole and self.count < len(self.column) else "floats"
        if not self.whole or self.typed_numbers:
            return "integers" if self.whole else "floats"
        mark = "," if self.cells.holds_texts and self.cells.form.decimal == "," else "[.]"
        fraction = rf"{mark}(?:[0-9]{{1,2}}|[0-9]{{4,}})?(?:[^0-9]|$)|[0-9][eE][+-]?[0-9]"
        finite = np.isfinite(self.numbers.values)
        if isinstance(self.cells.dtype, pd.StringDtype) and self.cells.is_whole:
            codes = np.unique(self.cells.texts.codes[finite])
            return "floats" if _any_match(self.cells.texts.cells.take(pa.array(codes)), fraction) else "integers"
        written = self.column[finite].astype("str").str.contains(fraction, regex=True)
        return "floats" if written.any() else "integers"


def name_words(name: str) -> list[str]:
    """Lower-case words of a column name.

    >>> name_words("HouseId"), name_words("zip_code"), name_words("ZIP")
    (['house', 'id'], ['zip', 'code'], ['zip'])
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.split(r"[^0-9A-Za-z]+", spaced) if word]


def id_reason(name: str) -> str:
    """Why the name looks like that of an identifier, or an empty text."""
    words = name_words(name)
    if not words or not ID_WORDS & {words[0], words[-1]}:
        return ""
    if len(words) == 1:
        return f"name is {name}"
    return f"name ends in _{words[-1]}" if words[-1] in ID_WORDS else f"name starts with {words[0]}"


def code_reason(fact: Facts) -> str:
    """Why whole numbers are codes rather than amounts, or an empty text."""
    if CODE_WORDS & set(name_words(fact.name)):
        return "integers that look like codes"
    if fact.typed_numbers and np.abs(fact.finite).max(initial=0.0) < 2**53:
        return ""
    if _any_match(fact.cells.texts.cells, "^0[0-9]+$"):
        return "digits with leading zeros"
    if _any_match(fact.cells.texts.cells, "^-?[0-9]{16,}$") and np.abs(fact.finite).max(initial=0.0) >= 2**53:
        return "integers too long for a number"
    return ""


def image_share(fact: Facts) -> tuple[float, str]:
    """Share of the file names in the cells (several are separated by ";") that end like an image, and how most end;
    addresses in the web are no file names."""
    if not (pd.api.types.is_string_dtype(fact.column.dtype) or isinstance(fact.column.dtype, pd.CategoricalDtype)):
        return 0.0, ""
    if fact.numeric and not fact.cells.form.unit:  # 7.jpg may be taken for seven of a unit
        return 0.0, ""
    if not _any_match(fact.cells.texts.cells, _SOME_ENDING):
        return 0.0, ""
    names = _sample(fact.keys.dropna()).str.split(";").explode().str.strip()
    names = names[names.notna() & (names != "")]
    endings = names.str.extract(_IMAGE_ENDING, expand=False).dropna().str.lower()
    return (len(endings) / len(names), str(endings.mode().iloc[0])) if len(endings) else (0.0, "")


def counts_rows(fact: Facts) -> bool:
    """Whether the cells are 0, 1, 2, ... or 1, 2, 3, ..."""
    if len(fact.column) < UNIQUE_ROWS or len(fact.finite) < len(fact.column):
        return False
    return bool(fact.finite[0] in (0, 1) and (np.diff(fact.finite) == 1).all())


def _digits_of_dates(fact: Facts) -> bool:
    """8 digits each, which a date could be written as, and the name says that it is."""
    if not fact.whole or "date" not in name_words(fact.name) or id_reason(fact.name):
        return False
    return bool(fact.counts.index.str.fullmatch("[12][0-9]{7}").all()) and not fact.dates.unparsable.any()


def stray_note(fact: Facts) -> str:
    """How many cells are no numbers, and how such a cell looks."""
    if not fact.stray:
        return ""
    first = fact.keys[fact.numbers.unparsable & ~fact.numbers.infinite].mode().iloc[0]
    return f"{fact.stray} of {len(fact.column)} cells are not numbers, treated as missing, such as {short(str(first))}"


def url_share(fact: Facts) -> float:
    """Share of the cells that are addresses of web pages."""
    if not _any_match(fact.cells.texts.cells, r"(?i)^(?:https?://|www\.)"):
        return 0.0
    cells = _sample(fact.keys.dropna())
    return float(cells.str.match(r"(?i)(?:https?://|www\.)").mean()) if len(cells) else 0.0


def infinite_note(fact: Facts) -> str:
    """How many cells are infinite."""
    infinite = int(fact.numbers.infinite.sum())
    return f"{infinite} of {len(fact.column)} cells are infinite, treated as missing" if infinite else ""


def words_for_missing(fact: Facts) -> tuple[str, ...]:
    """Words of a column of numbers that stand more than once in place of one, lower-cased: "on request"."""
    if not fact.cells.holds_texts or not fact.numbers.unparsable.any():
        return ()
    stray = fact.numbers.unparsable & ~fact.numbers.infinite
    counts = fact.keys[stray].str.lower().value_counts()
    words = counts.index[(counts > 1) & ~counts.index.str.contains("[0-9]")]
    return tuple(sorted(words[:_MOST_WORDS]))


def short(text: str) -> str:
    """A cell in quotes, shortened."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def date_share(fact: Facts) -> float:
    """Share of the cells, missing words aside, that are dates."""
    levels = fact.cells.levels
    if len(levels.codes) <= _SAMPLE and fact.cells.is_whole:  # what is asked for again, if they are
        return _share_of_dates(fact.dates)
    there = _sample(levels.codes[levels.codes >= 0])
    used, codes = np.unique(there, return_inverse=True)
    sample = Levels(codes, levels.names[used])
    return _share_of_dates(dates_of_levels(sample, day_first=show_day_first(sample)))


def _share_of_dates(found: Dates) -> float:
    dates = int((~np.isnat(found.times)).sum())
    return dates / max(dates + int(found.unparsable.sum()), 1)


def _any_match(cells: pa.Array, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(cells, pattern)).as_py())


def _sample(cells: Cut) -> Cut:
    return cells[:: max(1, len(cells) // _SAMPLE)]
