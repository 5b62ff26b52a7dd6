"""From the out-of-fold predictions of several models to the shares of a blend, and to what it is worth.

Shares are found by greedy selection with replacement (Caruana et al. 2004): again and again the model is added whose
addition helps most. Then they are shrunk towards the best single model, as far as this helps on folds that the shares
were not found on; so is everything that is said of the blend's error."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

_ADDITIONS = 40
_SHRINKAGES = (0.0, 0.25, 0.5, 0.75, 1.0)
_LEAST_PROBABILITY = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """Shares of models, and the loss of each row when the shares were found on the other folds."""

    shares: dict[str, float]
    """Above 0; they sum to 1."""
    losses: Float[np.ndarray, " rows"]
    """Squared errors of scaled numbers, or log-losses: honest ones, by folds."""
    predictions: np.ndarray
    """Out of fold, by shares that were found on the other folds: for intervals and calibration."""
    shrinkage: float
    """How far the shares were moved to the best single model: 0 not at all, 1 wholly."""


def row_losses(truth: np.ndarray, predictions: np.ndarray) -> Float[np.ndarray, " rows"]:
    """Squared errors of numbers ``(rows,)``, or minus the logarithm of the true class's probability."""
    if predictions.ndim == 1:
        return (predictions - truth) ** 2
    chosen = np.clip(predictions[np.arange(len(truth)), truth], _LEAST_PROBABILITY, 1.0)
    return -np.log(chosen)


def blend(
    truth: np.ndarray,
    predictions: dict[str, np.ndarray],
    fold: Int64[np.ndarray, " rows"],
    *,
    weight: np.ndarray | None = None,
) -> Blend:
    """Find the shares.

    Args:
        truth: scaled numbers or class indices.
        predictions: of each model, out of fold.
        fold: in which each row judged.
        weight: how much each row counts.
    """
    names = list(predictions)
    stacked = np.stack([predictions[name] for name in names])
    counts = np.ones(len(truth)) if weight is None else weight
    by_fold = {number: _shares(truth, stacked, counts, fold != number) for number in np.unique(fold)}
    tried: list[tuple[float, float, np.ndarray]] = []
    for shrinkage in _SHRINKAGES:
        found = np.empty_like(stacked[0])
        for number, (shares, single) in by_fold.items():
            rows = fold == number
            mixed = (1 - shrinkage) * shares + shrinkage * single
            found[rows] = np.tensordot(mixed, stacked[:, rows], axes=1)
        tried.append((float(np.average(row_losses(truth, found), weights=counts)), shrinkage, found))
    _, shrinkage, honest = min(tried, key=lambda one: one[0])
    shares, single = _shares(truth, stacked, counts, np.ones(len(truth), dtype=bool))
    final = (1 - shrinkage) * shares + shrinkage * single
    return Blend(
        shares={name: float(share) for name, share in zip(names, final, strict=True) if share > 0},
        losses=row_losses(truth, honest),
        predictions=honest,
        shrinkage=shrinkage,
    )


def _shares(truth: np.ndarray, stacked: np.ndarray, counts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """Greedy shares on some rows, and those of the best single model."""
    truth, stacked, counts = truth[rows], stacked[:, rows], counts[rows]

    def mean_loss(predictions: np.ndarray) -> float:
        return float(np.average(row_losses(truth, predictions), weights=counts))

    single = np.zeros(len(stacked))
    single[int(np.argmin([mean_loss(predictions) for predictions in stacked]))] = 1.0
    times, total = single.copy(), np.tensordot(single, stacked, axes=1)
    best, best_times = mean_loss(total), times.copy()
    for added in range(1, _ADDITIONS):
        losses = [mean_loss((total + predictions) / (added + 1)) for predictions in stacked]
        choice = int(np.argmin(losses))
        times[choice] += 1
        total = total + stacked[choice]
        if losses[choice] < best:
            best, best_times = losses[choice], times.copy()
    return best_times / best_times.sum(), single


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How much less the mean loss of one is than that of another, on the same rows."""

    mean: float
    error: float
    """Standard error of the mean, over rows, or over groups where rows belong together."""

    @property
    def beyond_noise(self) -> bool:
        """More than one standard error."""
        return self.mean > self.error


def gain(
    before: Float[np.ndarray, " rows"],
    after: Float[np.ndarray, " rows"],
    group: Int64[np.ndarray, " rows"],
    weight: np.ndarray | None = None,
) -> Gain:
    """Of ``after`` over ``before``, in mean loss.

    Args:
        group: rows with the same number count as one.
    """
    counts = np.ones(len(before)) if weight is None else weight
    total = counts.sum()
    difference = (before - after) * counts
    mean = float(difference.sum() / total)
    _, number = np.unique(group, return_inverse=True)
    residual = np.bincount(number, weights=difference - mean * counts)
    groups = len(residual)
    if groups < 2:
        return Gain(mean=mean, error=float("inf"))
    return Gain(mean=mean, error=float(np.sqrt((residual**2).sum() * groups / (groups - 1)) / total))
