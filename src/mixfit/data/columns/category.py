"""Categorical columns: an index for each level of the training rows, and 0 for missing, unseen or rare levels."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from jaxtyping import Int64

from mixfit.choices import Role
from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.cells import Cells
from mixfit.data.columns.facts import TEXT_LEVELS, UNIQUE_ROWS, Facts, code_reason, counts_rows, short, url_share
from mixfit.data.columns.kind import ColumnArrays, Guess, Weight, bad_cells, empty_cells, joined
from mixfit.data.columns.values import Levels
from mixfit.errors import DataError

MIN_COUNT = 2
"""Levels that occur less often in training share index 0 with unseen levels, so that index 0 is trained."""
_LONG_TEXT = 100  # characters
_URLS = 0.9  # of the cells


@dataclass(frozen=True, kw_only=True)
class CategoryColumn:
    """The fitted state of a column: its levels in the order of their index, which starts at 1."""

    role: ClassVar[Role] = "category"
    saved_as: ClassVar[str] = "categories"
    outputs: ClassVar[tuple[str, ...]] = ()
    name: str
    levels: tuple[str, ...]
    rare: tuple[str, ...]
    """Levels that are too rare in training for an index of their own; not reported as unseen."""

    @classmethod
    def of(cls, name: str, found: Levels) -> "CategoryColumn":
        """Fit on the training rows; level frequencies are unweighted numbers of rows."""
        counts = np.bincount(found.codes[found.codes >= 0], minlength=len(found.names))
        often = sorted(found.names[counts >= MIN_COUNT])
        return cls(name=name, levels=tuple(often), rare=tuple(sorted(found.names[(counts > 0) & (counts < MIN_COUNT)])))

    @property
    def cardinality(self) -> int:
        """Number of levels plus one, for index 0."""
        return len(self.levels) + 1

    def index(self, found: Levels) -> Int64[np.ndarray, " rows"]:
        """Index of each row's level, from 1; 0 = missing, unseen or rare."""
        return np.append(self._number_of(found), 0)[found.codes]

    def _number_of(self, found: Levels) -> Int64[np.ndarray, " names"]:
        numbers = self._numbers
        return np.array([numbers.get(name, 0) for name in found.names.tolist()], dtype=np.int64)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """The index of each level; of the few levels of a single row, a dict finds it a hundred times as fast."""
        return {name: number for number, name in enumerate(self.levels, 1)}

    def transform(self, cells: Cells) -> ColumnArrays:
        """The indices of the levels."""
        return ColumnArrays(level=self.index(cells.levels))

    def problems(self, cells: Cells) -> list[BadInput]:
        """Cells with a level that was not seen in training."""
        found = cells.levels
        new = self._number_of(found) == 0
        if new.any():
            new &= ~found.names.isin(self.rare)
        bad = np.append(new, np.False_)[found.codes]
        return bad_cells(cells, bad, "category not seen in training", "treated as unknown")

    def check(self) -> None:
        """No level occurs twice."""
        if any(len(set(texts)) != len(texts) for texts in (self.levels, self.rare)):
            raise DataError("a category level occurs twice.")


class Category:
    """Categorical columns."""

    role: Role = "category"
    state = CategoryColumn
    nested, orders, levels = False, False, True

    def parse(self, cells: Cells) -> Levels:
        """Parse as levels."""
        return cells.levels

    def guess(self, fact: Facts) -> Guess | None:
        """A category for texts, Booleans, a single level with or without empty cells, and numeric codes."""
        if fact.distinct == 1:
            return Guess(self.role, f"{short(str(fact.counts.index[0]))} or empty")
        if fact.boolean:
            return Guess(self.role, "true or false")
        if fact.date_reason:
            return None
        if fact.numeric:
            code = "" if counts_rows(fact) or not fact.whole else code_reason(fact)
            return self._unless_text_like(fact, code) if code else None
        guess = self._unless_text_like(fact, f"text, {fact.distinct} distinct")
        if fact.mostly_numeric:
            stray = (
                f"{fact.stray} of {len(fact.column)} cells are not numbers: --set {fact.name}=number treats them as "
                "missing"
            )
            return guess._replace(note=joined(stray, guess.note if guess.role == self.role else ""))
        return guess

    def _unless_text_like(self, fact: Facts, reason: str) -> Guess:
        """A category, or ignored if nearly every row has its own level, or the cells are prose or URLs."""
        if fact.all_different and fact.count >= UNIQUE_ROWS:
            return Guess("ignored", f"every cell is different{', URLs' if url_share(fact) > _URLS else ''}")
        long = fact.distinct > TEXT_LEVELS and fact.keys.str.len().median() > _LONG_TEXT
        if fact.text_like or long:
            what = "URLs" if url_share(fact) > _URLS else "long text" if long else "text"
            return Guess("ignored", f"{what} with {fact.distinct} distinct values")
        return Guess(self.role, reason, self.check(fact))

    def check(self, fact: Facts) -> str:
        """A note on how many levels are rare."""
        seldom = int((fact.counts < 5).sum())
        return f"{fact.distinct} levels, {seldom} in fewer than 5 rows" if seldom else ""

    def missing(self, cells: Cells) -> int:
        """Empty cells."""
        return empty_cells(cells)

    def fit(self, cells: Cells, weight: Weight) -> CategoryColumn:
        """Fit the levels that are frequent enough; frequencies are unweighted."""
        return CategoryColumn.of(cells.name, cells.levels)

    def describe(self, cells: Cells) -> tuple[float, str]:
        """The share of missing values, and the number of levels."""
        codes = cells.levels.codes
        count = len(np.unique(codes[codes >= 0]))
        return float((codes < 0).mean()), f"{count:,} value{'' if count == 1 else 's'}"

    def values(self, cells: Cells) -> Int64[np.ndarray, " rows"]:
        """By level."""
        return cells.levels.codes
