"""Scores of the photos of a row: a ridge regression on the mean of all their features.

In: mean features of the photos of the training rows of a fold, and the target. Out: ``PhotoScores``, a few arrays."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from mixfit.data.arrays import sampled, whole_or_parts
from mixfit.data.scores import MOST_SCORES, goals_of, held_out_scores, inner_folds
from mixfit.errors import DataError

_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoScores:
    """Scores of the photos of a row: a ridge regression on the mean of all their features, see ``held_out_scores``."""

    projection: Float32[np.ndarray, "d scores"]
    """Scores of each feature."""
    middle: Float32[np.ndarray, " scores"]
    """Their mean over the training rows with a photo, which is taken off."""

    @classmethod
    def fit(
        cls,
        values: Float32[np.ndarray, "rows d"],
        seen: Bool[np.ndarray, " rows"],
        truth: np.ndarray,
        *,
        classes: int,
        weight: Float[np.ndarray, " rows"] | None = None,
        unit: Int64[np.ndarray, " rows"] | None = None,
        seed: int = 0,
    ) -> tuple["PhotoScores", Float32[np.ndarray, "rows scores"]]:
        """Learn from the training rows.

        Args:
            values: mean features of the photos of these rows.
            seen: whether the row has a photo.
            truth: scaled numbers, or class indices, of these rows.
            classes: number of classes; 0 for regression.
            weight: of each row, in any unit.
            unit: rows with the same number (a group, copies) are held out together; by default each row is a unit.
            seed: of the inner folds.
        Returns:
            What was learnt, and the scores of these rows by models that did not see them. Of more rows than an array
            in memory holds, it is learnt from some, drawn at random.
        """
        fold = inner_folds(np.arange(len(truth)) if unit is None else unit, seed)
        rows = sampled(np.flatnonzero((fold >= 0) & seen), 4 * values.shape[1], seed)
        counts = np.ones(len(rows)) if weight is None else weight[rows].astype(np.float64)
        scores = min(1 if classes <= 2 else classes, MOST_SCORES)
        if not len(rows) or not counts.any():
            nothing = np.zeros((values.shape[1], scores), dtype=np.float32)
            return cls(projection=nothing, middle=nothing[0]), np.zeros((len(truth), scores), dtype=np.float32)
        counts /= counts.mean()
        scaled = values[rows].astype(np.float64)
        middle, scale = pareto_scale(scaled, counts)
        scaled -= middle
        scaled /= scale
        length = np.sqrt(max(float(counts @ (scaled**2).sum(axis=1) / counts.sum()), _ROUNDING**2))
        scale *= length
        scaled /= length
        goals = goals_of(truth[rows], classes, counts)
        weights, held_out = held_out_scores(scaled, goals, counts, fold[rows], seed)
        projection = (weights / scale[:, None]).astype(np.float32)
        found = cls(projection=projection, middle=(middle @ projection).astype(np.float32))
        own = found.apply(values, seen)
        own[rows] = held_out
        return found, own

    def apply(
        self, values: Float32[np.ndarray, "rows d"], seen: Bool[np.ndarray, " rows"]
    ) -> Float32[np.ndarray, "rows scores"]:
        """Scores of any rows; 0, the mean, without a photo."""
        scores = np.zeros((len(values), self.projection.shape[1]), dtype=np.float32)
        for part in whole_or_parts(values):
            scores[part] = values[part] @ self.projection - self.middle
        scores[~seen] = 0.0
        return scores

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays."""
        return {"projection": self.projection, "middle": self.middle}

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray]) -> "PhotoScores":
        """Read the output of ``arrays``.

        Raises:
            DataError: it is invalid.
        """
        projection, middle = arrays.get("projection"), arrays.get("middle")
        if projection is None or middle is None:
            raise DataError("the scores of photos lack an array")
        fits = projection.ndim == 2 and 1 <= projection.shape[1] <= MOST_SCORES
        if not fits or middle.shape != projection.shape[1:] or {projection.dtype, middle.dtype} != {np.dtype("f4")}:
            raise DataError("the arrays of the scores of photos do not match each other")
        if not (np.isfinite(projection).all() and np.isfinite(middle).all()):
            raise DataError("the scores of photos are not finite")
        return cls(projection=projection, middle=middle)


def pareto_scale(
    values: Float[np.ndarray, "rows d"], counts: Float[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Weighted mean of each column, and the root of its standard deviation; infinite where that is 0, so that the
    column is left out.

    Divided by the root (Pareto scaling, van den Berg et al. 2006, BMC Genomics 7:142), columns of early stages, which
    vary many times more than those of the last layer, do not outweigh these, and columns that hardly vary do not count
    as much as all others (docs/LOG.md)."""
    share = counts / counts.sum()  # products with it take a tenth of the time of np.average
    middle = share @ values
    spread = np.sqrt(share @ (values - middle) ** 2)
    varies = spread > _ROUNDING * max(float(spread.max(initial=0.0)), _ROUNDING)
    return middle, np.sqrt(np.where(varies, spread, np.inf))
