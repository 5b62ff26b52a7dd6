"""Inner folds: which training rows of a fold may judge what was fitted on the others.

In: the unit of each row, and its time if the folds go forward in time. Out: pairs of rows to fit on and rows to judge.
Units stay whole, and nothing is judged by earlier rows."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, Shaped

from mixfit.data.split import Times, Units, forward_blocks

InnerFold = tuple[Int64[np.ndarray, " fit"], Int64[np.ndarray, " judged"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependence:
    """How the training rows of a fold depend on each other."""

    unit: Int64[np.ndarray, " rows"]
    """Rows with the same number form one unit (a group, copies)."""
    times: Times | None = None
    """Times of the rows, if later rows must be predicted from earlier ones."""
    gap: float = 0.0
    """Gap between the rows fitted on and the rows judged, in the unit of ``times``."""

    @classmethod
    def none(cls, rows: int) -> "Dependence":
        """Of independent rows."""
        return cls(unit=np.arange(rows))

    def take(self, rows: Int64[np.ndarray, " some"]) -> "Dependence":
        """Of those rows, in that order."""
        return Dependence(
            unit=self.unit[rows], times=None if self.times is None else self.times.take(rows), gap=self.gap
        )

    def folds(
        self, count: int, *, seed: int, truth: Shaped[np.ndarray, " rows"] | None = None, classes: bool = False
    ) -> list[InnerFold]:
        """Positions of the rows to fit on and of those to judge.

        Units are dealt to ``count`` folds, fewer for fewer units. Rows with times form blocks in time order, each
        judged from earlier rows; the first two blocks are only fitted on. Empty if no rows can judge.

        Args:
            seed: of the random assignment.
            truth: numbers, or class indices, by which folds are stratified; None for folds that depend on no target.
        """
        if self.times is not None:
            if (count := min(count, len(self.unit) - 2)) < 1:
                return []
            blocks = forward_blocks(self.times, self.unit, count, gap=self.gap)
            return [
                (np.flatnonzero(fit), np.flatnonzero(blocks.number == place)) for place, fit in enumerate(blocks.fit)
            ]
        strata = np.zeros(len(self.unit))
        if truth is not None:
            strata = truth.astype(np.float64) if classes else _ranks(truth)
        units = Units.shuffled(self.unit, strata, np.random.default_rng(seed), classes=classes)
        count = min(count, len(units.order))
        if count < 2:
            return []
        fold_of_unit = np.empty(len(units.order), dtype=np.int64)
        fold_of_unit[units.order] = np.arange(len(units.order)) % count
        number = fold_of_unit[units.of_row]
        return [(np.flatnonzero(number != place), np.flatnonzero(number == place)) for place in range(count)]


def _ranks(truth: Shaped[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """The share of smaller values, in [0, 1)."""
    return np.searchsorted(np.sort(truth), truth) / max(len(truth), 1)
