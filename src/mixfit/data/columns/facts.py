"""What can be counted in one column, and what its name says: the evidence that roles are found from.

In: a column, or two. Out: counts, shares and short reasons. Decides no role itself."""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from mixfit.data.columns.values import Numbers, is_day_first, to_keys, to_numbers, to_times

ID_WORDS = frozenset(["id", "uuid", "guid"])
CODE_WORDS = frozenset(
    ["zip", "zipcode", "postcode", "postal", "postalcode", "plz", "code", "phone", "telephone", "fips", "isbn", "ean"]
)
TEXT_LEVELS = 20
"""Up to so many different cells are levels of a category, however few rows there are."""

_TEXT_SHARE = 0.5
_IMAGE_ENDING = r"(?i)(\.(?:jpe?g|png|webp|bmp|gif|tiff?))$"
_SAMPLE = 20_000  # cells; enough for a share


@dataclass(frozen=True)
class Facts:
    """A column and what can be counted in it; each count is made when first asked for."""

    name: str
    column: pd.Series

    @cached_property
    def keys(self) -> pd.Series:
        """Canonical keys, NaN = empty."""
        return to_keys(self.column)

    @cached_property
    def numbers(self) -> Numbers:
        """The column as numbers."""
        return to_numbers(self.column)

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
        return int(self.keys.notna().sum())

    @cached_property
    def distinct(self) -> int:
        """Different keys."""
        return int(self.keys.nunique())

    @cached_property
    def times(self) -> tuple[Shaped[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
        """The column as dates (NaT = none), and the cells that hold something else."""
        return to_times(self.column, day_first=is_day_first(self.column))

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
        return bool(self.count) and bool(self.keys.dropna().isin(["True", "False"]).all())

    @cached_property
    def number_kind(self) -> str:
        """``integers`` or ``floats``, as the cells are written or the column is typed."""
        if pd.api.types.is_float_dtype(self.column.dtype):
            return "integers" if self.whole and self.count < len(self.column) else "floats"
        written = self.column[np.isfinite(self.numbers.values)].astype("str").str.contains(r"[.eE]", regex=True)
        return "floats" if not self.whole or written.any() else "integers"


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
    keys = fact.keys.dropna()
    if keys.str.fullmatch("0[0-9]+").any():
        return "digits with leading zeros"
    if keys.str.fullmatch("-?[0-9]{16,}").any() and np.abs(fact.finite).max(initial=0.0) >= 2**53:
        return "integers too long for a number"
    return ""


def image_share(fact: Facts) -> tuple[float, str]:
    """Share of the file names in the cells (several are separated by ";") that end like an image, and how most end."""
    if not (pd.api.types.is_string_dtype(fact.column.dtype) or isinstance(fact.column.dtype, pd.CategoricalDtype)):
        return 0.0, ""
    names = _sample(fact.keys.dropna()).str.split(";").explode().str.strip()
    names = names[names.notna() & (names != "")]
    endings = names.str.extract(_IMAGE_ENDING, expand=False).dropna().str.lower()
    return (len(endings) / len(names), str(endings.mode().iloc[0])) if len(endings) else (0.0, "")


def date_share(fact: Facts) -> float:
    """Share of the cells, missing words aside, that are dates."""
    cells = _sample(fact.keys.dropna())
    times, unparsable = to_times(cells, day_first=is_day_first(cells))
    dates = int((~np.isnat(times)).sum())
    return dates / max(dates + int(unparsable.sum()), 1)


def _sample(cells: pd.Series) -> pd.Series:
    return cells.iloc[:: max(1, len(cells) // _SAMPLE)]
