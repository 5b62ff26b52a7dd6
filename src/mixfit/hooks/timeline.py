"""Statistics over any number of steps in a bounded number of columns: when all are full, two old ones are pooled."""

from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from mixfit.errors import ConfigError


class Timeline:
    """The columns that statistics over time are kept in, each of as many observed steps as the others.

    Args:
        columns: at most so many, an even number.
    Raises:
        ConfigError: ``columns`` is odd or below 2.
    """

    def __init__(self, columns: int) -> None:
        if columns < 2 or columns % 2:
            raise ConfigError(f"columns must be an even number from 2 on, got {columns}.")
        self.columns = columns
        self.clear()

    def clear(self) -> None:
        """Forget all steps."""
        self.width = 1
        """Observed steps in a full column."""
        self.observed = 0
        self.first = np.full(self.columns, -1, dtype=np.int64)
        """First step of each column, -1 where there is none yet."""
        self.last = self.first.copy()

    @property
    def used(self) -> int:
        """Columns with a step."""
        return -(-self.observed // self.width)

    @property
    def spans(self) -> Int64[np.ndarray, "used 2"]:
        """First and last step of each used column."""
        return np.stack([self.first, self.last], axis=1)[: self.used]

    def advance(self, step: int) -> bool:
        """Begin a step, or stay in it when it is the last one again; True when columns were merged.

        Whoever keeps something by column then merges columns 0 and 1 to 0, 2 and 3 to 1, and so on."""
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
        """All of it, as JSON can say it."""
        return {
            "width": self.width,
            "observed": self.observed,
            "first": self.first.tolist(),
            "last": self.last.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave.

        Raises:
            ConfigError: it was of another number of columns."""
        if len(state["first"]) != self.columns:
            raise ConfigError(f"The saved statistics have {len(state['first'])} columns, these {self.columns}.")
        self.width, self.observed = int(state["width"]), int(state["observed"])
        self.first, self.last = (np.array(state[name], dtype=np.int64) for name in ("first", "last"))


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
