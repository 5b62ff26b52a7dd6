"""Samplers: which rows form a batch, and in which order: sequential, shuffled, weighted, balanced over classes, grouped
by the number of photos, or sharded over ranks."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int64

from mixfit.errors import ConfigError


class Sampler(ABC):
    """Divides an order of rows into batches.

    Args:
        rows: number of rows in an epoch.
        batch_size: rows per batch; the last batch of an epoch may be smaller.
        seed: of the random order.
        drop_last: drop the last batch if it is not full.
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
        """Number of rows that the dataset must have (all indices are below it); None if unknown."""
        return None

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        full, rest = divmod(self.rows, self.batch_size)
        return full if self.drop_last or not rest else full + 1

    def __iter__(self) -> Iterator[np.ndarray]:
        """One epoch, from its start or from the position of ``load_state_dict``; at its end the next epoch begins."""
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
        """Move to the start of an epoch."""
        self.epoch, self.batches_given, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """The position of this sampler: the epoch, and the number of batches returned in it."""
        return {"epoch": self.epoch, "batches_given": self.batches_given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume from ``state`` in the next iteration."""
        self.set_epoch(state["epoch"])
        self.batches_given = self._resume_at = state["batches_given"]


class SequentialSampler(Sampler):
    """Rows in the order of the table, in every epoch."""

    @property
    def population(self) -> int:
        """The number of rows."""
        return self.rows

    def order(self) -> np.ndarray:
        """0, 1, 2, ..."""
        return np.arange(self.rows)


class ShuffledSampler(Sampler):
    """Every row once per epoch, in a random order that depends on ``(seed, epoch)``."""

    @property
    def population(self) -> int:
        """The number of rows."""
        return self.rows

    def order(self) -> np.ndarray:
        """A permutation."""
        return np.random.default_rng([self.seed, self.epoch]).permutation(self.rows)


class WeightedSampler(Sampler):
    """Draws rows with replacement, with probability proportional to their weight.

    A row drawn twice in an epoch is augmented identically, because augmentation depends on (seed, epoch, row).

    Args:
        weights: one per row, at least 0; they need not sum to 1.
        batch_size: rows per batch.
        draws: rows in an epoch; by default the number of weights.
        seed, drop_last: as in ``Sampler``.
    Raises:
        ConfigError: a weight is negative or not finite, or all are 0.
    """

    def __init__(
        self,
        weights: Float[np.ndarray, " rows"] | Sequence[float],
        batch_size: int,
        *,
        draws: int | None = None,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        weights = np.asarray(weights, dtype=np.float64)
        super().__init__(len(weights) if draws is None else draws, batch_size, seed=seed, drop_last=drop_last)
        wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
        if len(wrong):
            raise ConfigError(
                f"{len(wrong)} of {len(weights)} sampling weights are negative or not finite, "
                f"the first is {weights[wrong[0]]} in row {wrong[0]}."
            )
        if self.rows and not weights.any():
            raise ConfigError("All sampling weights are 0, so no row can be drawn.")
        # Divided by the largest weight first, so that the sum of huge weights stays finite.
        scaled = weights.astype(np.float64) / max(float(weights.max(initial=0)), np.finfo(np.float64).tiny)
        self.probabilities = scaled / max(scaled.sum(), np.finfo(np.float64).tiny)

    @property
    def population(self) -> int:
        """The number of weights."""
        return len(self.probabilities)

    def order(self) -> np.ndarray:
        """Independent draws."""
        if not self.rows:
            return np.zeros(0, dtype=np.int64)
        generator = np.random.default_rng([self.seed, self.epoch])
        return generator.choice(len(self.probabilities), size=self.rows, p=self.probabilities)


class BalancedSampler(Sampler):
    """Oversamples rare classes: every class that occurs gets the same share of an epoch.

    Within a class, rows are drawn by systematic sampling: with three times as many draws as rows, each row is drawn
    three times; with a third as many, each row is drawn at most once, and different rows are drawn in other epochs.

    Args:
        classes: int64 class of each row.
        batch_size: rows per batch.
        strength: 1 for equal shares, 0 for the class frequencies of the table; between these, shares are proportional
            to ``count ** (1 - strength)``.
        draws: rows in an epoch; by default the number of rows.
        seed, drop_last: as in ``Sampler``.
    Raises:
        ConfigError: ``strength`` is outside [0, 1].
    """

    def __init__(
        self,
        classes: Int64[np.ndarray, " rows"],
        batch_size: int,
        *,
        strength: float = 1.0,
        draws: int | None = None,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(len(classes) if draws is None else draws, batch_size, seed=seed, drop_last=drop_last)
        if not 0 <= strength <= 1:
            raise ConfigError(f"strength must be between 0 and 1, got {strength}.")
        if self.rows and not len(classes):
            raise ConfigError("There are no rows to draw from.")
        _, self.classes, counts = np.unique(classes, return_inverse=True, return_counts=True)
        self.weights = (counts ** -float(strength))[self.classes]  # integers have no negative powers

    @property
    def population(self) -> int:
        """The number of rows in ``classes``."""
        return len(self.classes)

    def order(self) -> np.ndarray:
        """Each row as often as its expected count, rounded up or down, in random order."""
        if not self.rows:
            return np.zeros(0, dtype=np.int64)
        generator = np.random.default_rng([self.seed, self.epoch])
        shuffled = generator.permutation(len(self.classes))
        by_class = shuffled[np.argsort(self.classes[shuffled], kind="stable")]
        ends = np.cumsum(self.weights[by_class])
        marks = (np.arange(self.rows) + generator.random()) * (ends[-1] / self.rows)
        chosen = np.minimum(np.searchsorted(ends, marks, side="right"), len(ends) - 1)
        return generator.permutation(by_class[chosen])


class GroupedSampler(Sampler):
    """Every row once per epoch, in batches of rows with the same number of photos, so that padding is minimal.

    A batch mixes different numbers of photos only at the boundary between two groups. Rows are shuffled within each
    group, and the order of the batches is random.

    Args:
        photo_counts: int64 number of photos in each row.
        batch_size, seed, drop_last: as in ``Sampler``.
    """

    def __init__(
        self, photo_counts: Int64[np.ndarray, " rows"], batch_size: int, *, seed: int = 0, drop_last: bool = False
    ) -> None:
        super().__init__(len(photo_counts), batch_size, seed=seed, drop_last=drop_last)
        self.photo_counts = photo_counts

    @property
    def population(self) -> int:
        """The number of rows in ``photo_counts``."""
        return len(self.photo_counts)

    def order(self) -> np.ndarray:
        """A permutation."""
        generator = np.random.default_rng([self.seed, self.epoch])
        shuffled = generator.permutation(self.rows)
        grouped = shuffled[np.argsort(self.photo_counts[shuffled], kind="stable")]
        # Rotated, so that the incomplete batch does not always hold the rows with most photos; by whole batches, so
        # that rows with the most and the fewest photos do not share a batch.
        count = self.rows // self.batch_size
        grouped = np.roll(grouped, int(generator.integers(count + 1)) * self.batch_size)
        full = count * self.batch_size
        batches = generator.permutation(grouped[:full].reshape(-1, self.batch_size))
        return np.concatenate([batches.ravel(), grouped[full:]])


class ShardedSampler(Sampler):
    """The share of one rank: every batch of ``sampler`` is divided over all ranks.

    The ranks are disjoint, together have exactly the rows of ``sampler``, and have the same number of batches, each
    with at least one row, so that no rank waits for another. ``batch_size`` of ``sampler`` is the total over all ranks:
    the gradients of ``ranks`` processes sum to those of a single process with the same sampler. A last batch with fewer
    rows than ranks is merged into the batch before it.

    Args:
        sampler: the rows of all ranks together.
        rank: number of this process, from 0.
        ranks: number of processes.
    Raises:
        ConfigError: a batch, or the epoch, has fewer rows than there are ranks.
    """

    def __init__(self, sampler: Sampler, *, rank: int, ranks: int) -> None:
        if not 0 <= rank < ranks:
            raise ConfigError(f"rank must be from 0 to {ranks - 1}, got {rank}.")
        if 0 < min(sampler.batch_size, sampler.rows) < ranks:
            raise ConfigError(
                f"Batches of {sampler.batch_size} out of {sampler.rows} rows cannot be divided over {ranks} ranks: "
                "each rank needs at least one row of every batch."
            )
        super().__init__(sampler.rows, sampler.batch_size, seed=sampler.seed, drop_last=sampler.drop_last)
        self.sampler, self.rank, self.ranks = sampler, rank, ranks

    @property
    def population(self) -> int | None:
        """That of ``sampler``."""
        return self.sampler.population

    def order(self) -> np.ndarray:
        """The order of ``sampler``, for all ranks together."""
        self.sampler.set_epoch(self.epoch)
        return self.sampler.order()

    def __len__(self) -> int:
        """Number of batches in an epoch, the same on every rank."""
        joined = 0 < self.rows % self.batch_size < self.ranks and not self.drop_last
        return super().__len__() - joined

    def _batch(self, order: np.ndarray, batch: int) -> np.ndarray:
        start = batch * self.batch_size
        last = batch == len(self) - 1 and not self.drop_last
        return order[start : None if last else start + self.batch_size][self.rank :: self.ranks]
