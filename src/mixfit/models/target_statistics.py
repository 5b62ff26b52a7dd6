"""Target statistics: the mean target of each level of a category with many levels, as columns of numbers for trees.

In: levels and the target of the training rows of a fold. Out: ``TargetStatistics``, which turns levels into columns;
the state is arrays. A mean of few rows is shrunk towards that of all rows (Micci-Barreca 2001, SIGKDD Explorations 3,
27-32), by the ratio of the variance within levels to that between them (empirical Bayes), so a category without an
effect hardly changes anything. The training rows get means of the rows of other inner folds, or of earlier rows if the
folds go forward in time, as a mean that includes the row's own target would be trusted too much."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64

from mixfit.models.dependence import Dependence
from mixfit.models.model import saved_array

MOST_CLASSES = 10
"""Largest number of classes that have a column each; of more, the most frequent ones have."""
_INNER_FOLDS = 5
_BLOCKS = 10
"""Number of blocks for rows in time order."""
_SHRINKAGE = (1.0, 1_000.0)
"""Range of the shrinkage: the weight of the mean of all rows, in rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetStatistics:
    """Shrunk mean targets by level."""

    means: tuple[Float32[np.ndarray, "levels goals"], ...]
    """Of each column: the mean minus that of all rows; 0 for a level without rows."""

    @classmethod
    def fit(
        cls,
        levels: Int64[np.ndarray, "rows columns"],
        cardinalities: tuple[int, ...],
        truth: np.ndarray,
        *,
        classes: int,
        weight: np.ndarray | None = None,
        dependence: Dependence | None = None,
        seed: int = 0,
    ) -> tuple["TargetStatistics", Float32[np.ndarray, "rows outputs"]]:
        """Learn from the training rows.

        Args:
            levels: level of each row in each column, 0 = missing, unseen or rare.
            cardinalities: number of levels of each column, level 0 included.
            truth: numbers, or class indices.
            classes: number of classes; 0 for regression.
            weight: of each row, in any unit.
            dependence: of the rows; by default they are independent.
            seed: of the inner folds.
        Returns:
            What was learnt, and the columns of these rows, from means of other rows.
        """
        goals = _goals(truth, classes, weight)
        counts = np.ones(len(truth)) if weight is None else weight / weight.mean(dtype=np.float64)
        dependence = Dependence.none(len(truth)) if dependence is None else dependence
        folds = dependence.folds(_INNER_FOLDS if dependence.times is None else _BLOCKS, seed=seed)
        means, own = [], []
        for column, size in zip(levels.T, cardinalities, strict=True):
            values = np.zeros((len(truth), goals.shape[1]), dtype=np.float32)
            for fit, held_out in folds:
                values[held_out] = _means(column[fit], size, goals[fit], counts[fit])[column[held_out]]
            means.append(_means(column, size, goals, counts))
            own.append(values)
        return cls(means=tuple(means)), np.concatenate([np.zeros((len(truth), 0), np.float32), *own], axis=1)

    def apply(self, levels: Int64[np.ndarray, "rows columns"]) -> Float32[np.ndarray, "rows outputs"]:
        """The columns of any rows."""
        each = [means[column] for means, column in zip(self.means, levels.T, strict=True)]
        return np.concatenate([np.zeros((len(levels), 0), np.float32), *each], axis=1)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays, by name."""
        return {f"statistics.{place}": means for place, means in enumerate(self.means)}

    @classmethod
    def read(
        cls, arrays: Mapping[str, np.ndarray], cardinalities: tuple[int, ...], *, classes: int
    ) -> "TargetStatistics":
        """Read the output of ``arrays``.

        Raises:
            DataError: it is invalid, or does not match the columns or classes.
        """
        goals = goal_count(classes)
        return cls(
            means=tuple(
                saved_array(arrays, f"statistics.{place}", size, goals) for place, size in enumerate(cardinalities)
            )
        )


def goal_count(classes: int) -> int:
    """Number of columns for each category: 1 for numbers and for two classes, else one per class."""
    return min(classes, MOST_CLASSES) if classes > 2 else 1


def _goals(truth: np.ndarray, classes: int, weight: np.ndarray | None) -> Float[np.ndarray, "rows goals"]:
    """The target, or whether it is each of the most frequent classes."""
    if not classes:
        return truth.astype(np.float64)[:, None]
    if classes <= 2:
        return (truth == 1).astype(np.float64)[:, None]
    frequent = np.argsort(-np.bincount(truth, weights=weight, minlength=classes), kind="stable")[:MOST_CLASSES]
    return (truth[:, None] == np.sort(frequent)).astype(np.float64)


def _means(
    column: Int64[np.ndarray, " rows"],
    size: int,
    goals: Float[np.ndarray, "rows goals"],
    counts: Float[np.ndarray, " rows"],
) -> Float32[np.ndarray, "levels goals"]:
    """Shrunk means by level, without the mean of all rows."""
    of_level, total = np.bincount(column, weights=counts, minlength=size), counts.sum()
    found = np.zeros((size, goals.shape[1]), dtype=np.float32)
    if total <= 0:
        return found
    for place, goal in enumerate(goals.T):
        centred = goal - counts @ goal / total
        sums = np.bincount(column, weights=counts * centred, minlength=size)
        shrinkage = _shrinkage(float(counts @ centred**2), sums, of_level)
        found[:, place] = sums / (of_level + shrinkage)
    return found


def _shrinkage(squares: float, sums: Float[np.ndarray, " levels"], of_level: Float[np.ndarray, " levels"]) -> float:
    """The variance within levels divided by that between them, from an analysis of variance with unequal groups.

    Args:
        squares: sum of the squared goals, which have mean 0.
        sums, of_level: sum of the goals, and number of rows, of each level.
    """
    there = of_level > 0
    sums, of_level = sums[there], of_level[there]
    total, levels = float(of_level.sum()), len(of_level)
    if levels < 2 or total <= levels:
        return _SHRINKAGE[1]
    between = float((sums**2 / of_level).sum())
    within = max(squares - between, 0.0) / (total - levels)
    typical = (total - float((of_level**2).sum()) / total) / (levels - 1)
    variance = (between / (levels - 1) - within) / typical
    return float(np.clip(within / variance, *_SHRINKAGE)) if variance > 0 else _SHRINKAGE[1]
