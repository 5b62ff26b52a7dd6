"""Samplers: which rows form a batch, in which order; also by weight, balanced over classes, grouped by the number of
photos, and shared between ranks."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int64

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


class WeightedSampler(Sampler):
    """Draws rows with replacement, each in proportion to its weight.

    A row drawn twice in an epoch is augmented alike both times, as augmentation depends on (seed, epoch, row).

    Args:
        weights: one per row, at least 0; they need not add up to 1.
        batch_size: rows per batch.
        draws: rows in an epoch; by default as many as there are weights.
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
                f"the first is {weights[wrong[0]]} of row {wrong[0]}."
            )
        if self.rows and not weights.any():
            raise ConfigError("All sampling weights are 0, so no row can be drawn.")
        # Divided by the largest first, so that the sum of huge weights stays finite.
        scaled = weights.astype(np.float64) / max(float(weights.max(initial=0)), np.finfo(np.float64).tiny)
        self.probabilities = scaled / max(scaled.sum(), np.finfo(np.float64).tiny)

    @property
    def population(self) -> int:
        """As many rows as there are weights."""
        return len(self.probabilities)

    def order(self) -> np.ndarray:
        """Independent draws."""
        if not self.rows:
            return np.zeros(0, dtype=np.int64)
        generator = np.random.default_rng([self.seed, self.epoch])
        return generator.choice(len(self.probabilities), size=self.rows, p=self.probabilities)


class BalancedSampler(Sampler):
    """Rows of rare classes more often: every class that occurs gets the same share of an epoch.

    Within a class rows are taken evenly: with three times as many draws as rows each row comes three times, with a
    third as many each row comes at most once and other rows have their turn in other epochs (systematic sampling).

    Args:
        classes: int64 class of each row.
        batch_size: rows per batch.
        strength: 1 for equal shares, 0 for the shares that the table has, in between for a compromise
            (shares in proportion to ``count ** (1 - strength)``).
        draws: rows in an epoch; by default as many as there are rows.
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
        """As many rows as there are classes."""
        return len(self.classes)

    def order(self) -> np.ndarray:
        """Each row floor or ceil of its expected number of times, in random order."""
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
    """Every row once an epoch, in batches of rows with the same number of photos, so that little is padded.

    Only at the borders between two numbers of photos does a batch hold both. Rows are shuffled within their number,
    and batches come in random order.

    Args:
        photo_counts: int64 number of photos of each row.
        batch_size, seed, drop_last: as in ``Sampler``.
    """

    def __init__(
        self, photo_counts: Int64[np.ndarray, " rows"], batch_size: int, *, seed: int = 0, drop_last: bool = False
    ) -> None:
        super().__init__(len(photo_counts), batch_size, seed=seed, drop_last=drop_last)
        self.photo_counts = photo_counts

    @property
    def population(self) -> int:
        """As many rows as there are photo counts."""
        return len(self.photo_counts)

    def order(self) -> np.ndarray:
        """A permutation."""
        generator = np.random.default_rng([self.seed, self.epoch])
        shuffled = generator.permutation(self.rows)
        grouped = shuffled[np.argsort(self.photo_counts[shuffled], kind="stable")]
        # The batch that is not full should not always hold the rows with most photos. Moved by whole batches, as else
        # the rows with most photos would share a batch with those that have fewest.
        count = self.rows // self.batch_size
        grouped = np.roll(grouped, int(generator.integers(count + 1)) * self.batch_size)
        full = count * self.batch_size
        batches = generator.permutation(grouped[:full].reshape(-1, self.batch_size))
        return np.concatenate([batches.ravel(), grouped[full:]])


class ShardedSampler(Sampler):
    """The part of one rank: every batch of ``sampler`` is dealt out to all ranks.

    Ranks are disjoint, together they have exactly the rows of ``sampler``, and each has equally many batches with at
    least one row, so that none waits for another. ``batch_size`` of ``sampler`` is the one over all ranks: the
    gradients of ``ranks`` processes add up to those of one process with the same sampler. Where the last batch has
    fewer rows than there are ranks, it joins the batch before it.

    Args:
        sampler: which rows, for all ranks together.
        rank: of this process, from 0.
        ranks: how many processes there are.
    Raises:
        ConfigError: there are fewer rows in a batch, or in the epoch, than ranks.
    """

    def __init__(self, sampler: Sampler, *, rank: int, ranks: int) -> None:
        if not 0 <= rank < ranks:
            raise ConfigError(f"rank must be from 0 to {ranks - 1}, got {rank}.")
        if 0 < min(sampler.batch_size, sampler.rows) < ranks:
            raise ConfigError(
                f"{ranks} ranks cannot share batches of {sampler.batch_size} out of {sampler.rows} rows: "
                "each needs at least one row of every batch."
            )
        super().__init__(sampler.rows, sampler.batch_size, seed=sampler.seed, drop_last=sampler.drop_last)
        self.sampler, self.rank, self.ranks = sampler, rank, ranks

    @property
    def population(self) -> int | None:
        """That of the sampler it divides."""
        return self.sampler.population

    def order(self) -> np.ndarray:
        """The order of all ranks together."""
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
