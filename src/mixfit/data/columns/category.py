"""Columns of categories: the levels of the training rows by number, and 0 for what is missing, unseen or rare."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Int64

from mixfit.choices import Role
from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.cells import Cells
from mixfit.data.columns.facts import TEXT_LEVELS, UNIQUE_ROWS, Facts, code_reason, counts_rows, short, url_share
from mixfit.data.columns.kind import ColumnArrays, Guess, Weight, bad_cells, empty_cells, joined
from mixfit.data.columns.values import Levels
from mixfit.errors import DataError

MIN_COUNT = 2
"""A category seen less often in training shares index 0 with the unseen, so that index 0 is trained."""
_LONG_TEXT = 100  # characters
_URLS = 0.9  # of the cells


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryColumn:
    """What was learnt of a column: its levels in the order of their index, which starts at 1."""

    role: ClassVar[Role] = "category"
    saved_as: ClassVar[str] = "categories"
    outputs: ClassVar[tuple[str, ...]] = ()
    name: str
    levels: tuple[str, ...]
    rare: tuple[str, ...]
    """Seen in training, but too rarely for an index of their own; nothing to report when they come again."""

    @classmethod
    def of(cls, name: str, found: Levels) -> "CategoryColumn":
        """Learn from the training rows: how often a level is seen is a number of rows, whatever they weigh."""
        counts = np.bincount(found.codes[found.codes >= 0], minlength=len(found.names))
        often = sorted(found.names[counts >= MIN_COUNT])
        return cls(name=name, levels=tuple(often), rare=tuple(sorted(found.names[(counts > 0) & (counts < MIN_COUNT)])))

    @property
    def cardinality(self) -> int:
        """One more than the levels, for index 0."""
        return len(self.levels) + 1

    def index(self, found: Levels) -> Int64[np.ndarray, " rows"]:
        """Level of each row from 1; 0 = missing, unseen or rare."""
        return np.append(self._number_of(found), 0)[found.codes]

    def _number_of(self, found: Levels) -> Int64[np.ndarray, " names"]:
        return pd.Index(self.levels, dtype="str").get_indexer(found.names).astype(np.int64) + 1

    def transform(self, cells: Cells) -> ColumnArrays:
        """The levels."""
        return ColumnArrays(level=self.index(cells.levels))

    def problems(self, cells: Cells) -> list[BadInput]:
        """Cells whose category is new."""
        found = cells.levels
        new = (self._number_of(found) == 0) & ~found.names.isin(self.rare)
        bad = np.append(new, np.False_)[found.codes]
        return bad_cells(cells, bad, "category not seen in training", "treated as unknown")

    def check(self) -> None:
        """No level is there twice."""
        if any(len(set(texts)) != len(texts) for texts in (self.levels, self.rare)):
            raise DataError("there is a level of a category twice.")


class Category:
    """One of several levels."""

    role: Role = "category"
    state = CategoryColumn
    nested, orders, levels = False, False, True

    def parse(self, cells: Cells) -> Levels:
        """As levels."""
        return cells.levels

    def guess(self, fact: Facts) -> Guess | None:
        """Texts and truth values, one level or empty cells, and numbers that are codes."""
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
                f"{fact.stray} of {len(fact.column)} cells are not numbers: --set {fact.name}=number makes them missing"
            )
            return guess._replace(note=joined(stray, guess.note if guess.role == self.role else ""))
        return guess

    def _unless_text_like(self, fact: Facts, reason: str) -> Guess:
        """A category, or ignored when nearly every row has a level of its own or the cells are prose or addresses."""
        if fact.all_different and fact.count >= UNIQUE_ROWS:
            return Guess("ignored", f"every cell is different{', urls' if url_share(fact) > _URLS else ''}")
        long = fact.distinct > TEXT_LEVELS and fact.keys.str.len().median() > _LONG_TEXT
        if fact.text_like or long:
            what = "urls" if url_share(fact) > _URLS else "long text" if long else "text"
            return Guess("ignored", f"{what} with {fact.distinct} distinct values")
        return Guess(self.role, reason, self.check(fact))

    def check(self, fact: Facts) -> str:
        """How many levels are rare."""
        seldom = int((fact.counts < 5).sum())
        return f"{fact.distinct} levels, {seldom} seen < 5x" if seldom else ""

    def missing(self, cells: Cells) -> int:
        """Empty cells."""
        return empty_cells(cells)

    def fit(self, cells: Cells, weight: Weight) -> CategoryColumn:
        """The levels that are frequent enough; rows are counted, whatever they weigh."""
        return CategoryColumn.of(cells.name, cells.levels)

    def describe(self, cells: Cells) -> tuple[float, str]:
        """How many levels there are."""
        codes = cells.levels.codes
        count = len(np.unique(codes[codes >= 0]))
        return float((codes < 0).mean()), f"{count:,} value{'' if count == 1 else 's'}"

    def values(self, cells: Cells) -> Int64[np.ndarray, " rows"]:
        """By level."""
        return cells.levels.codes
