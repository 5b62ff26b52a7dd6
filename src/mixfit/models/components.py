"""Principal components of photo features, or of a table's numbers: few directions that hold most of the differences."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

_FEW = 600
"""Up to so many rows, or numbers of each, the directions are exact."""
_ROUNDING = 1e-6
"""A direction whose standard deviation is a smaller share of that of the first is made of rounding errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """Directions learnt from the rows that have a photo: those of the largest variance, weighted as the rows are.

    The result is scaled so that the first component has variance 1 and the others keep their proportion to it."""

    mean: Float32[np.ndarray, " d"]
    axes: Float32[np.ndarray, "components d"]

    @classmethod
    def fit(
        cls,
        photos: Float32[np.ndarray, "rows d"],
        seen: Bool[np.ndarray, " rows"],
        *,
        most: int,
        seed: int,
        weight: Float[np.ndarray, " rows"] | None = None,
    ) -> "Components":
        """Learn from the training rows with a photo; none of them are no directions.

        Args:
            most: directions; fewer where the rows differ in fewer.
            seed: of the approximation that is used where there are many rows and many numbers.
            weight: how much each row counts, in any unit.
        """
        from sklearn.utils.extmath import randomized_svd, svd_flip

        values = photos[seen].astype(np.float64)
        if not len(values) or not np.ptp(values, axis=0).any():
            return cls(mean=np.zeros(photos.shape[1], np.float32), axes=np.zeros((0, photos.shape[1]), np.float32))
        counts = np.ones(len(values)) if weight is None else weight[seen].astype(np.float64)
        counts /= counts.sum()
        mean = counts @ values
        # Rows times the root of their share: the products of these columns are the weighted covariances.
        spread = (values - mean) * np.sqrt(counts)[:, None]
        if min(values.shape) <= _FEW:
            left, sizes, axes = np.linalg.svd(spread, full_matrices=False)
            left, axes = svd_flip(left, axes, u_based_decision=False)
        else:
            _, sizes, axes = randomized_svd(spread, most, random_state=seed, flip_sign=True)
        real = sizes > _ROUNDING * sizes[0]
        return cls(mean=mean.astype(np.float32), axes=(axes[real][:most] / sizes[0]).astype(np.float32))

    def first(self, count: int) -> "Components":
        """Only the first ``count`` directions."""
        return Components(mean=self.mean, axes=self.axes[:count])

    def apply(
        self, photos: Float32[np.ndarray, "rows d"], seen: Bool[np.ndarray, " rows"]
    ) -> Float[np.ndarray, "rows components"]:
        """float64 components of any rows; 0, the mean, for rows without a photo."""
        values = (photos.astype(np.float64) - self.mean) @ self.axes.T.astype(np.float64)
        values[~seen] = 0.0
        return values
