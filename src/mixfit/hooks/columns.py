"""Sums and maxima in the columns of a timeline."""

import numpy as np
from jaxtyping import Float64


class Columns:
    """Numbers that are summed, and numbers of which the largest is kept, for each column.

    Args:
        columns: as many as the timeline's.
        sums, largest: how many numbers of each kind; the largest are never below 0.
    """

    def __init__(self, columns: int, sums: int, largest: int) -> None:
        self.sums = np.zeros((columns, sums))
        self.largest = np.zeros((columns, largest))

    def add(self, column: int, sums: Float64[np.ndarray, " sums"], largest: Float64[np.ndarray, " largest"]) -> None:
        """One step more."""
        self.sums[column] += sums
        np.maximum(self.largest[column], largest, out=self.largest[column])

    def merge_pairs(self) -> None:
        """Columns 0 and 1 become 0, 2 and 3 become 1, and so on; the second half is empty then."""
        half = len(self.sums) // 2
        sums = self.sums.reshape(half, 2, -1).sum(1)
        largest = self.largest.reshape(half, 2, -1).max(1, initial=0.0)
        self.sums = np.concatenate([sums, np.zeros_like(sums)])
        self.largest = np.concatenate([largest, np.zeros_like(largest)])
