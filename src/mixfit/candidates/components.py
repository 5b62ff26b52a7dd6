"""Principal components of photo features, or of a table's numbers: few directions that hold most of the differences."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """Directions learnt from the rows that have a photo, see ``sklearn.decomposition.PCA``.

    The result is scaled so that the first component has variance 1 and the others keep their proportion to it."""

    mean: Float32[np.ndarray, " d"]
    axes: Float32[np.ndarray, "components d"]

    @classmethod
    def fit(
        cls, photos: Float32[np.ndarray, "rows d"], seen: Bool[np.ndarray, " rows"], *, most: int, seed: int
    ) -> "Components":
        """Learn from the training rows with a photo; none of them are no directions."""
        from sklearn.decomposition import PCA

        values = photos[seen]
        count = min(most, len(values) - 1, photos.shape[1])
        if count < 1 or not np.ptp(values, axis=0).any():
            return cls(mean=np.zeros(photos.shape[1], np.float32), axes=np.zeros((0, photos.shape[1]), np.float32))
        found = PCA(count, svd_solver="full" if min(values.shape) <= 600 else "randomized", random_state=seed)
        found.fit(values.astype(np.float64))
        scale = 1 / np.sqrt(found.explained_variance_[0])
        return cls(mean=found.mean_.astype(np.float32), axes=(found.components_ * scale).astype(np.float32))

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
