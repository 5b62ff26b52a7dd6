"""Shapley values of a function of coalitions: exact for few players, from sampled orders for many.

The Shapley value of a player is what it adds to the players before it, averaged over all orders in which they can come
(Shapley 1953). In: which coalitions to look at, and the values that they have. Out: one number for each player, which
add up to the value of all players minus that of none. Knows nothing of models, tables or photos."""

from dataclasses import dataclass
from math import comb

import numpy as np
from jaxtyping import Bool, Float, Int64

MOST_EXACT = 10
"""Players up to which every coalition is looked at: 1,024 of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """Every coalition of some players."""

    players: int

    @property
    def coalitions(self) -> Bool[np.ndarray, "coalitions players"]:
        """Coalition ``i`` has player ``p`` where bit ``p`` of ``i`` is set: none comes first and all comes last."""
        numbers = np.arange(2**self.players)
        return (numbers[:, None] >> np.arange(self.players) & 1).astype(bool)

    def values(self, worth: Float[np.ndarray, "coalitions ..."]) -> Float[np.ndarray, "players ..."]:
        """Shapley values from the worth of ``coalitions``.

        Without player ``p`` a coalition of ``s`` others counts ``1 / (players * C(players - 1, s))``: so often, in all
        orders, ``p`` comes right after just these."""
        sizes = self.coalitions.sum(1)
        weight = np.array([1 / (self.players * comb(self.players - 1, s)) for s in range(self.players)])
        found = []
        for player in range(self.players):
            without = np.flatnonzero(~self.coalitions[:, player])
            gains = worth[without + 2**player] - worth[without]  # exactly 0 for one who adds nothing
            found.append(np.tensordot(weight[sizes[without]], gains, axes=1))
        return np.stack(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """Coalitions along some orders of the players: those of the first, the first two, ... of each order."""

    orders: Int64[np.ndarray, "orders players"]

    @classmethod
    def draw(cls, players: int, pairs: int, rng: np.random.Generator) -> "Sampled":
        """Draw ``pairs`` orders, each with its reverse: what a player adds early is set against what it adds late, and
        the error is the less for it (antithetic sampling, Mitchell et al. 2022, arXiv:2104.12199)."""
        drawn = np.stack([rng.permutation(players) for _ in range(pairs)])
        return cls(orders=np.stack([drawn, drawn[:, ::-1]], axis=1).reshape(2 * pairs, players))

    @property
    def coalitions(self) -> Bool[np.ndarray, "coalitions players"]:
        """For each order none, then one player more at a time, then all."""
        place = np.argsort(self.orders, axis=1)
        joined = place[:, None, :] < np.arange(self.orders.shape[1] + 1)[None, :, None]
        return joined.reshape(-1, self.orders.shape[1])

    def values(self, worth: Float[np.ndarray, "coalitions ..."]) -> Float[np.ndarray, "players ..."]:
        """Estimates from the worth of ``coalitions``: the mean over orders of what each player adds."""
        orders, players = self.orders.shape
        gains = np.diff(worth.reshape(orders, players + 1, *worth.shape[1:]), axis=1)
        place = np.argsort(self.orders, axis=1)
        return gains[np.arange(orders)[:, None], place].mean(axis=0)


def mean_and_error(
    parts: Float[np.ndarray, "samples ..."],
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """The mean over independent samples and its standard error, nan for a single sample."""
    count = len(parts)
    spread = parts.std(axis=0, ddof=1) if count > 1 else np.full(parts.shape[1:], np.nan)
    return np.asarray(parts.mean(axis=0)), np.asarray(spread / np.sqrt(count))


def mean_and_error_in_order(
    parts: Float[np.ndarray, "samples ..."],
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """The mean over samples of successive strata, one of each, and its standard error, nan for a single sample.

    The error is from the differences of neighbours (Wolter 2007, Introduction to Variance Estimation, chapter 8), as
    what sets far strata apart moves no mean. Independent samples in any order have their usual error."""
    count = len(parts)
    if count < 2:
        return mean_and_error(parts)
    squares = (np.diff(parts, axis=0) ** 2).sum(axis=0)
    return np.asarray(parts.mean(axis=0)), np.asarray(np.sqrt(squares / (2 * (count - 1) * count)))
