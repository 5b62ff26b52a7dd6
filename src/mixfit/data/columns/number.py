"""Numeric columns: z-scores, log-transformed first if skewed, and an indicator of missing values."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float, Int64

from mixfit.choices import Role
from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.cells import Cells
from mixfit.data.columns.facts import Facts, counts_rows, infinite_note, stray_note
from mixfit.data.columns.kind import ColumnArrays, Guess, Weight, bad_cells, joined, missing_numbers, refuse_if
from mixfit.data.columns.values import Moments, Numbers, moments, standardise
from mixfit.files import Within
from mixfit.weighted import taken, weighted_median

LARGEST_SCORE = 10.0
FEW_VALUES = 20
"""Integer columns with up to this many different values may be categories or classes."""
_LOG_ABOVE_SKEW = 2.0
_OUTLIER = 6.0  # standard deviations


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberState:
    """The fitted transformation of one numeric feature."""

    log: bool
    """Apply the signed log1p first, because the values are skewed."""
    fill: float
    """Median of the training rows, after the logarithm; replaces missing values."""
    mean: float
    std: Annotated[float, Within(0)]
    """Population mean and standard deviation after imputation; for a constant, std is 0 and the output is always 0."""

    @classmethod
    def fit(
        cls,
        values: Float[np.ndarray, " rows"],
        weight: Float[np.ndarray, " rows"] | None = None,
        *,
        may_log: bool = True,
    ) -> "NumberState":
        """Fit on training values, nan = missing."""
        there = ~np.isnan(values)
        seen, counts = values[there], taken(weight, there)
        log = bool(may_log and len(seen) and seen.min() >= 0 and _is_tamed_by_log(seen, counts))
        if log:
            values, seen = np.log1p(values), np.log1p(seen)
        fill = weighted_median(seen, counts) if len(seen) else 0.0
        found = moments(np.where(there, values, fill), weight)
        return cls(log=log, fill=fill, mean=found.mean, std=found.std)

    def apply(self, values: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        """Impute, scale and clip; nan = missing."""
        if self.log:
            values = np.sign(values) * np.log1p(np.abs(values))
        filled = np.where(np.isnan(values), self.fill, values)
        return np.clip(standardise(filled, Moments(self.mean, self.std, 0.0)), -LARGEST_SCORE, LARGEST_SCORE)


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberColumn:
    """The fitted state of a column: its scaling, and whether there is an indicator of missing values."""

    role: ClassVar[Role] = "number"
    saved_as: ClassVar[str] = "numbers"
    cardinality: ClassVar[int] = 0
    name: str
    scale: NumberState
    flag: bool

    @property
    def outputs(self) -> list[str]:
        """Names of the output columns."""
        return [self.name, f"{self.name} is missing"][: 1 + self.flag]

    def transform(self, cells: Cells) -> ColumnArrays:
        """The z-scores, and the indicator of missing values."""
        values = cells.numbers.values
        flags = [np.isnan(values).astype(np.float64)] if self.flag else []
        return ColumnArrays([self.scale.apply(values), *flags])

    def problems(self, cells: Cells) -> list[BadInput]:
        """Cells that are not finite numbers."""
        found = cells.numbers
        problem = np.where(found.infinite, "infinite", "not a number").astype(object)
        return bad_cells(cells, found.unparsable, problem, "cell treated as missing")

    def check(self) -> None:
        """Nothing to check beyond the fields themselves."""


class Number:
    """Numeric columns."""

    role: Role = "number"
    state = NumberColumn
    nested = False
    orders = levels = True

    def parse(self, cells: Cells) -> Numbers:
        """Parse as numbers."""
        return cells.numbers

    def guess(self, fact: Facts) -> Guess | None:
        """A numeric column if its cells are numbers."""
        if not fact.numeric:
            return None
        if counts_rows(fact):
            return Guess("ignored", "numbers the rows", f"to use it: --set {fact.name}=number")
        notes = [stray_note(fact), infinite_note(fact)]
        scale = moments(fact.finite)
        extreme = fact.finite[np.argmax(np.abs(fact.finite / 2 - scale.mean / 2))]
        distance = abs(extreme / 2 - scale.mean / 2) / (scale.std / 2) if scale.std else 0.0
        if distance > _OUTLIER:
            end = "largest" if extreme > scale.mean else "smallest"
            notes.append(f"the {end}, {extreme:.6g}, is {distance:.1f} standard deviations from the mean; it is kept")
        if fact.whole and 2 < fact.distinct_numbers <= FEW_VALUES:
            notes.append("could be a category")
        several = fact.whole and fact.distinct_numbers <= len(fact.finite) / 2
        detail = f", {fact.distinct_numbers} distinct" if several else ""
        return Guess(self.role, f"{fact.number_kind}{_written(fact)}{detail}", joined(*notes))

    def check(self, fact: Facts) -> str:
        """A note on how many cells are not numbers."""
        refuse_if(not len(fact.finite), fact, self.role, "numbers", fact.numbers.unparsable)
        return joined(stray_note(fact), infinite_note(fact))

    def missing(self, cells: Cells) -> int:
        """Empty cells and missing-value markers."""
        return missing_numbers(cells)

    def fit(self, cells: Cells, weight: Weight) -> NumberColumn:
        """Fit median, scale, and whether values are missing."""
        values = cells.numbers.values
        return NumberColumn(name=cells.name, scale=NumberState.fit(values, weight), flag=bool(np.isnan(values).any()))

    def describe(self, cells: Cells) -> tuple[float, str]:
        """The share of missing values, and the range."""
        values = cells.numbers.values
        known = values[~np.isnan(values)]
        return float(np.isnan(values).mean()), f"{known.min():.6g} to {known.max():.6g}" if len(known) else ""

    def values(self, cells: Cells) -> Int64[np.ndarray, " rows"]:
        """By number."""
        return np.unique(cells.numbers.values, return_inverse=True)[1].astype(np.int64)


def _written(fact: Facts) -> str:
    """Particularities of the number format: ", decimal comma, in sqft"."""
    said = fact.cells.form.describe() if fact.cells.holds_texts else ""
    return f", {said}" if said else ""


def _is_tamed_by_log(values: Float[np.ndarray, " rows"], weight: Float[np.ndarray, " rows"] | None) -> bool:
    skew = moments(values, weight).skew
    return skew > _LOG_ABOVE_SKEW and abs(moments(np.log1p(values), weight).skew) < skew
