"""Whether rows come in groups that no column names: photos of one thing, measurements of one patient.

In: numbers that say where each row lies, such as features of photos. Out: ``Clusters``, if most rows have some
neighbours that are far nearer than all others. Knows nothing of columns, splits or models."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

_LEAST_ROWS = 80
_QUERIES = 2_000
"""Rows whose neighbours are looked at; their neighbours may be any row."""
_DIMENSIONS = 30
"""More are reduced to their principal components."""
_LARGEST = 12
"""Rows of the largest group that is found, less one."""
_NEAR, _FAR = 20, 60
"""Neighbours that tell how many dimensions there are where there are no groups."""
_BY_CHANCE = 0.01
_SHARE = 0.5
"""Of the rows, that must have a gap behind their nearest neighbours; of rows without groups about a tenth have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """Rows that lie in groups."""

    share: float
    """Of the rows."""
    size: int
    """Median of the groups'."""


def find_clusters(
    values: Float[np.ndarray, "rows columns"], classes: Int64[np.ndarray, " rows"] | None = None
) -> Clusters | None:
    """Look for a gap behind the nearest neighbours of each row.

    Where rows lie without groups in ``m`` dimensions, the distance to neighbour ``j + 1`` is more than ``r`` times
    that to neighbour ``j`` with probability ``r ** (-m * j)``; ``m`` is told by farther neighbours (Levina and Bickel
    2004). Rows of one class lie together without being one thing, so that each class is looked at alone.

    Args:
        values: finite; each column in its own scale.
        classes: of the target; classes with fewer than 80 rows are passed over.
    """
    from scipy.special import digamma
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    if values.shape[1] > _DIMENSIONS and len(values) > _DIMENSIONS:
        sample = np.sort(np.random.default_rng(0).permutation(len(values))[:_QUERIES])
        values = PCA(_DIMENSIONS, svd_solver="randomized", random_state=0).fit(values[sample]).transform(values)
    labels = np.zeros(len(values), dtype=np.int64) if classes is None else classes
    counts = np.bincount(labels, minlength=1)
    large = np.flatnonzero(counts >= _LEAST_ROWS)
    gaps, sizes = [np.zeros(0, dtype=bool)], [np.zeros(0, dtype=np.int64)]
    rng = np.random.default_rng(0)
    for label in large.tolist():
        rows = values[labels == label]
        queries = max(1, _QUERIES * len(rows) // int(counts[large].sum()))
        asked = np.sort(rng.permutation(len(rows))[:queries])
        distance, _ = NearestNeighbors(n_neighbors=_FAR + 1).fit(rows).kneighbors(rows[asked])
        distance = distance[:, 1:]  # the row itself
        spread = np.log(np.maximum(distance[:, -1], 1e-12) / np.maximum(distance[:, _NEAR - 1], 1e-12)).mean()
        if not spread > 0:
            continue
        dimensions = (digamma(_FAR) - digamma(_NEAR)) / spread
        first, second = distance[:, :_LARGEST], distance[:, 1 : _LARGEST + 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            chance = np.where(first > 0, (second / first) ** (-dimensions * np.arange(1, _LARGEST + 1)), 1.0)
        gaps.append(chance.min(axis=1) < _BY_CHANCE)
        sizes.append(chance.argmin(axis=1) + 2)
    gap, size = np.concatenate(gaps), np.concatenate(sizes)
    if not len(gap) or gap.mean() < _SHARE:
        return None
    return Clusters(share=float(gap.mean()), size=int(np.median(size[gap])))
