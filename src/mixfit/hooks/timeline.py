"""Statistics over any number of steps in a bounded number of columns: when all are full, pairs are merged."""

from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from mixfit.errors import ConfigError


class Timeline:
    """The columns of statistics over time; each full column covers the same number of observed steps.

    Args:
        columns: maximum number of columns, an even number.
    Raises:
        ConfigError: ``columns`` is odd or below 2.
    """

    def __init__(self, columns: int) -> None:
        if columns < 2 or columns % 2:
            raise ConfigError(f"columns must be an even number of at least 2, got {columns}.")
        self.columns = columns
        self.clear()

    def clear(self) -> None:
        """Remove all steps."""
        self.width = 1
        """Number of observed steps in a full column."""
        self.observed = 0
        self.first = np.full(self.columns, -1, dtype=np.int64)
        """First step of each column, -1 for an empty column."""
        self.last = self.first.copy()

    @property
    def used(self) -> int:
        """Number of columns in use."""
        return -(-self.observed // self.width)

    @property
    def spans(self) -> Int64[np.ndarray, "used 2"]:
        """First and last step of each used column."""
        return np.stack([self.first, self.last], axis=1)[: self.used]

    def advance(self, step: int) -> bool:
        """Begin a step, or continue it if it is the last one; True if columns were merged.

        Data kept per column must then be merged, too: columns 0 and 1 to 0, 2 and 3 to 1, and so on."""
        if self.observed and step == self.last[self.used - 1]:
            return False
        merged = self.observed == self.columns * self.width
        if merged:
            half = self.columns // 2
            self.first = np.concatenate([self.first[::2], np.full(half, -1, dtype=np.int64)])
            self.last = np.concatenate([self.last[1::2], np.full(half, -1, dtype=np.int64)])
            self.width *= 2
        self.observed += 1
        column = self.used - 1
        if self.first[column] < 0:
            self.first[column] = step
        self.last[column] = step
        return merged

    def state_dict(self) -> dict[str, Any]:
        """The state, for JSON."""
        return {
            "width": self.width,
            "observed": self.observed,
            "first": self.first.tolist(),
            "last": self.last.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of ``state_dict``.

        Raises:
            ConfigError: the number of columns differs."""
        if len(state["first"]) != self.columns:
            raise ConfigError(
                f"The saved statistics have {len(state['first'])} columns, but these have {self.columns}; use the same "
                "number."
            )
        self.width, self.observed = int(state["width"]), int(state["observed"])
        self.first, self.last = (np.array(state[name], dtype=np.int64) for name in ("first", "last"))


class Columns:
    """Sums and maxima for each column.

    Args:
        columns: as many as in the timeline.
        sums, largest: number of sums and of maxima; maxima are at least 0.
    """

    def __init__(self, columns: int, sums: int, largest: int) -> None:
        self.sums = np.zeros((columns, sums))
        self.largest = np.zeros((columns, largest))

    def add(self, column: int, sums: Float64[np.ndarray, " sums"], largest: Float64[np.ndarray, " largest"]) -> None:
        """Add one step."""
        self.sums[column] += sums
        np.maximum(self.largest[column], largest, out=self.largest[column])

    def merge_pairs(self) -> None:
        """Merge columns 0 and 1 to 0, 2 and 3 to 1, and so on; the second half is empty afterwards."""
        half = len(self.sums) // 2
        sums = self.sums.reshape(half, 2, -1).sum(1)
        largest = self.largest.reshape(half, 2, -1).max(1, initial=0.0)
        self.sums = np.concatenate([sums, np.zeros_like(sums)])
        self.largest = np.concatenate([largest, np.zeros_like(largest)])
