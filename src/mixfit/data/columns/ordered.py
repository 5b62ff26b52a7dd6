"""Ordered columns: levels with a known order, such as low < medium < high. Models get the rank and the level.

The order is that of numbers, of well-known words, of a typed column, or is given by the user."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Int64

from mixfit.choices import Role
from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.category import Category
from mixfit.data.columns.cells import Cells
from mixfit.data.columns.facts import Facts
from mixfit.data.columns.kind import ColumnArrays, Guess, Weight, bad_cells, refuse_nested
from mixfit.data.columns.number import NumberState
from mixfit.data.columns.values import to_numbers
from mixfit.errors import ConfigError, DataError

ORDERED: Role = "ordered"
SCALES: tuple[tuple[str, ...], ...] = (
    ("none", "very low", "low", "medium low", "medium", "moderate", "medium high", "high", "very high", "extreme"),
    ("lowest", "low", "middle", "mid", "average", "normal", "high", "highest"),
    ("very bad", "bad", "fair", "average", "good", "very good", "excellent"),
    ("very poor", "poor", "fair", "average", "good", "very good", "excellent"),
    ("unsatisfactory", "satisfactory", "good", "very good", "excellent", "outstanding"),
    ("never", "almost never", "rarely", "seldom", "sometimes", "often", "usually", "very often", "always"),
    ("strongly disagree", "disagree", "neutral", "agree", "strongly agree"),
    ("very dissatisfied", "dissatisfied", "neutral", "satisfied", "very satisfied"),
    ("xxs", "xs", "s", "m", "l", "xl", "xxl", "xxxl"),
    ("tiny", "very small", "small", "medium", "large", "very large", "huge"),
    ("none", "minimal", "mild", "moderate", "severe", "very severe", "critical"),
    ("beginner", "elementary", "intermediate", "advanced", "expert"),
    ("bronze", "silver", "gold", "platinum"),
    ("first", "second", "third", "fourth", "fifth"),
    ("primary", "secondary", "tertiary"),
    ("i", "ii", "iii", "iv", "v", "vi", "vii"),
    ("sehr niedrig", "niedrig", "mittel", "hoch", "sehr hoch"),
    ("sehr schlecht", "schlecht", "mittel", "gut", "sehr gut"),
    ("klein", "mittel", "gross"),
    ("faible", "moyen", "élevé"),
)
"""Words whose order is known, each from the lowest to the highest. Letters are left out: A may be the best or the
first."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SHOWN = 5


def order_of(fact: Facts, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """The levels of a column in their order, the lowest first.

    Args:
        given: by the user, as written in the table.
    Raises:
        ConfigError: the order is not known, or the given one lacks a level or repeats one.
    """
    refuse_nested(fact, ORDERED)
    keys = fact.counts.index.tolist()
    if given is not None:
        return _given(fact, keys, given)
    dtype = fact.column.dtype
    if isinstance(dtype, pd.CategoricalDtype) and dtype.ordered:
        known = fact.cells.key_of([str(one) for one in dtype.categories]).tolist()
        return tuple(key for key in known if key in set(keys))
    found = _by_number(keys) or _by_scale(keys)
    if not found:
        listed = ", ".join(map(repr, sorted(keys)[:_SHOWN])) + (", ..." if len(keys) > _SHOWN else "")
        raise ConfigError(
            f"the order of the {len(keys)} values of {fact.name!r} ({listed}) is not known: give it from the lowest to "
            f"the highest with --order {fact.name}=LOWEST,...,HIGHEST."
        )
    return found


def parse_orders(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Orders by column, from texts such as ``grade=low,medium,high``.

    Raises:
        ConfigError: a text is of another form.
    """
    found = {}
    for text in texts:
        column, _, listed = text.partition("=")
        levels = tuple(level.strip() for level in listed.split(","))
        if not column or len(levels) < 2 or not all(levels):
            raise ConfigError(
                f"--order must be COLUMN=LOWEST,...,HIGHEST, such as grade=low,medium,high, got {text!r}."
            )
        found[column] = levels
    return found


def _given(fact: Facts, keys: list[str], given: Sequence[str]) -> tuple[str, ...]:
    order = fact.cells.key_of(list(given)).tolist()
    missing = [key for key in keys if key not in order]
    if missing or len(set(order)) < len(order):
        twice = next((one for one in order if order.count(one) > 1), "")
        fault = f"lacks {missing[0]!r}, which the column has" if missing else f"has {twice!r} twice"
        raise ConfigError(f"the order of {fact.name!r} ({', '.join(given)}) {fault}: name every value once.")
    return tuple(key for key in order if key in set(keys))


def _by_number(keys: list[str]) -> tuple[str, ...]:
    """By value if all are numbers, or texts that differ only in one number, such as "stage 2"."""
    values = to_numbers(pd.Series(keys, dtype="str")).values
    if not np.isfinite(values).all():
        numbers = [_NUMBER.findall(key) for key in keys]
        if any(len(found) != 1 for found in numbers) or len({_NUMBER.sub("", key) for key in keys}) > 1:
            return ()
        values = np.array([float(found[0]) for found in numbers])
    if len(np.unique(values)) < len(keys):
        return ()
    return tuple(key for _, key in sorted(zip(values.tolist(), keys, strict=True)))


def _by_scale(keys: list[str]) -> tuple[str, ...]:
    said = {" ".join(re.split(r"[\s_-]+", key.casefold().strip())): key for key in keys}
    for scale in SCALES:
        if len(said) == len(keys) and set(said) <= set(scale):
            return tuple(said[word] for word in scale if word in said)
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedColumn:
    """The fitted state of a column: its levels in their order, and the scale of their ranks."""

    role: ClassVar[Role] = ORDERED
    saved_as: ClassVar[str] = "ordered"
    name: str
    levels: tuple[str, ...]
    """The lowest first; those of the training rows."""
    scale: NumberState

    @property
    def outputs(self) -> list[str]:
        """The rank."""
        return [self.name]

    @property
    def cardinality(self) -> int:
        """Number of levels plus one, for index 0."""
        return len(self.levels) + 1

    def _index(self, cells: Cells) -> Int64[np.ndarray, " rows"]:
        found = cells.levels
        place = pd.Index(self.levels, dtype="str").get_indexer(found.names).astype(np.int64) + 1
        return np.append(place, 0)[found.codes]

    def transform(self, cells: Cells) -> ColumnArrays:
        """The scaled rank, that of the median for an unknown level, and the index of the level."""
        index = self._index(cells)
        rank = np.where(index > 0, index.astype(np.float64), np.nan)
        return ColumnArrays(numeric=[self.scale.apply(rank)], level=index)

    def problems(self, cells: Cells) -> list[BadInput]:
        """Cells with a level that was not seen in training."""
        bad = (self._index(cells) == 0) & (cells.levels.codes >= 0)
        return bad_cells(cells, bad, "category not seen in training", "treated as unknown")

    def check(self) -> None:
        """No level occurs twice."""
        if len(set(self.levels)) != len(self.levels):
            raise DataError("an ordered level occurs twice.")


class Ordered(Category):
    """Ordered columns; never inferred."""

    role: Role = ORDERED
    state = OrderedColumn  # type: ignore[assignment]

    def guess(self, fact: Facts) -> Guess | None:
        """None: an order is set by hand."""
        return None

    def fit(self, cells: Cells, weight: Weight) -> OrderedColumn:  # type: ignore[override]
        """Fit the levels of the training rows, and the scale of their ranks."""
        found = cells.levels
        seen = set(found.names[np.unique(found.codes[found.codes >= 0])].tolist())
        levels = tuple(level for level in cells.form.order if level in seen)
        place = pd.Index(levels, dtype="str").get_indexer(found.names).astype(np.float64) + 1
        ranks = np.append(np.where(place > 0, place, np.nan), np.nan)[found.codes]
        return OrderedColumn(name=cells.name, levels=levels, scale=NumberState.fit(ranks, weight, may_log=False))
