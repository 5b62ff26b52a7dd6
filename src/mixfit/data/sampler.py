"""Samplers: which rows form a batch, in which order.

A sampler yields one int64 index array per batch. The order depends on ``(seed, epoch)`` alone, and a sampler
can be stopped and restored in the middle of an epoch. Knows nothing of what the indices point at."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from mixfit.errors import ConfigError


class Sampler(ABC):
    """Cuts an order of rows into batches.

    Args:
        rows: how many rows there are.
        batch_size: rows per batch; the last batch of an epoch may be smaller.
        seed: of all orders of this sampler.
        drop_last: leave out a last batch that is not full.
    """

    def __init__(self, rows: int, batch_size: int, *, seed: int = 0, drop_last: bool = False) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
        self.rows, self.batch_size, self.seed, self.drop_last = rows, batch_size, seed, drop_last
        self.epoch = 0
        self.batches_given = 0
        self._resume_at = 0

    @abstractmethod
    def order(self) -> np.ndarray:
        """All row indices of the current epoch, int64 ``(rows,)``."""

    @property
    def population(self) -> int | None:
        """How many rows the dataset must have, all indices being below this number; None if that is not known."""
        return None

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        full, rest = divmod(self.rows, self.batch_size)
        return full if self.drop_last or not rest else full + 1

    def __iter__(self) -> Iterator[np.ndarray]:
        """One epoch from its start, or from where ``load_state_dict`` put it; a finished epoch starts the next."""
        start, self._resume_at = self._resume_at, 0
        order = self.order()
        for batch in range(start, len(self)):
            self.batches_given = batch + 1
            yield self._batch(order, batch)
        self.set_epoch(self.epoch + 1)

    def _batch(self, order: np.ndarray, batch: int) -> np.ndarray:
        """The rows of batch number ``batch``."""
        return order[batch * self.batch_size : (batch + 1) * self.batch_size]

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self.epoch, self.batches_given, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Where this sampler is: the epoch and the batches given in it."""
        return {"epoch": self.epoch, "batches_given": self.batches_given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration goes on from ``state``."""
        self.set_epoch(state["epoch"])
        self.batches_given = self._resume_at = state["batches_given"]


class SequentialSampler(Sampler):
    """Rows in the order of the table, every epoch alike."""

    @property
    def population(self) -> int:
        """All rows, each once."""
        return self.rows

    def order(self) -> np.ndarray:
        """0, 1, 2, ..."""
        return np.arange(self.rows)


class ShuffledSampler(Sampler):
    """Every row once an epoch, in an order drawn from ``(seed, epoch)``."""

    @property
    def population(self) -> int:
        """All rows, each once."""
        return self.rows

    def order(self) -> np.ndarray:
        """A permutation."""
        return np.random.default_rng([self.seed, self.epoch]).permutation(self.rows)
