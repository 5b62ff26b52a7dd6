"""Blend weights ("shares") from the out-of-fold predictions of several models, and the score of the blend.

Shares come from greedy selection with replacement (Caruana et al. 2004): in each step the model is added that lowers
the loss most. Then they are shrunk towards the best single model, by the amount that is best on held-out folds, and
models with a small share are left out, as each costs time in every prediction. The score of the blend is cross-fitted:
the parameters for the predictions of a fold (temperatures, shares, shrinkage) are learnt only from the rows that the
fold may learn from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from mixfit.ensemble.intervals import best_temperature, tempered
from mixfit.ensemble.objective import Objective, bounded, loss_objective
from mixfit.training.metrics import LEAST_LIKELIHOOD, poisson_deviance

_ADDITIONS = 40
_SHRINKAGES = (0.0, 0.25, 0.5, 0.75, 1.0)
_UNKNOWN_SHRINKAGE = 0.5
"""Shrinkage if there is only one fold to learn from."""
_LEAST_SHARE = 0.05
"""A model with a smaller share is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """Shares of models, with cross-fitted predictions and losses of the rows."""

    shares: dict[str, float]
    """Learnt from all rows that are scored, for new rows: above 0, sum 1."""
    losses: Float[np.ndarray, " rows"]
    """Squared errors of scaled numbers, or log losses of ``calibrated``; nan for rows that are not scored."""
    predictions: np.ndarray
    """Cross-fitted out-of-fold predictions; nan for rows that are not scored."""
    calibrated: np.ndarray
    """Probabilities at a cross-fitted temperature; numbers unchanged."""
    shrinkage: float
    """Weight of the best single model in the shrinkage: 0 none, 1 full."""


def row_losses(truth: np.ndarray, predictions: np.ndarray, *, counts: bool = False) -> Float[np.ndarray, " rows"]:
    """Squared errors of numbers ``(rows,)``, Poisson deviances of counts, or minus the logarithm of the true class's
    probability."""
    if counts:
        return poisson_deviance(truth, bounded(predictions))
    if predictions.ndim == 1:
        return (predictions - truth) ** 2
    chosen = predictions[np.arange(len(truth)), truth].astype(np.float64)
    return -np.log(np.clip(chosen, LEAST_LIKELIHOOD, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPredictions:
    """Out-of-fold predictions of one model."""

    raw: np.ndarray
    """Scaled numbers ``(rows,)`` or probabilities ``(rows, classes)``."""
    temperatures: Float[np.ndarray, " folds"] | None = None
    """Temperature of each fold, learnt from the rows that it may learn from; None for numbers."""
    temperature: float = 1.0
    """Temperature learnt from all rows."""

    def temperature_of(self, fold: int) -> float:
        """The temperature for the predictions of a fold."""
        return 1.0 if self.temperatures is None else float(self.temperatures[fold])

    def at(self, rows: np.ndarray, temperature: float) -> np.ndarray:
        """Predictions of some rows at a temperature."""
        return self.raw[rows] if self.raw.ndim == 1 else tempered(self.raw[rows], temperature)


def blend(
    truth: np.ndarray,
    models: dict[str, ModelPredictions],
    fold: Int64[np.ndarray, " rows"],
    *,
    learns_from: Sequence[Bool[np.ndarray, " rows"]] | None = None,
    weight: np.ndarray | None = None,
    objective: Objective | None = None,
    counts: bool = False,
) -> Blend:
    """Learn the shares.

    Args:
        truth: scaled numbers or class indices.
        models: by name.
        fold: the fold that predicts each row; -1 for none.
        learns_from: for each fold, the rows that its parameters may be learnt from; by default those of all other
            folds. A fold without such rows is not scored.
        weight: of each row.
        objective: what the shares minimise; by default the loss of ``Blend.losses``.
        counts: the truth is a count, and predictions are logarithms.
    """
    if learns_from is None:
        learns_from = [(fold >= 0) & (fold != number) for number in range(int(fold.max()) + 1)]
    each = np.ones(len(truth)) if weight is None else weight
    raw = next(iter(models.values())).raw
    learner = _Learner(truth, models, fold, learns_from, each, objective or loss_objective(raw, counts=counts))
    honest = np.full_like(raw, np.nan, dtype=np.float64)
    calibrated = honest.copy()
    for number, rows in enumerate(learns_from):
        if not rows.any():
            continue
        judged = fold == number
        temperatures = [model.temperature_of(number) for model in models.values()]
        learnt = learner.learn(rows, temperatures)
        honest[judged] = learner.blended(judged, temperatures, learnt.shares)
        calibrated[judged] = honest[judged]
        if honest.ndim == 2:
            calibrated[judged] = tempered(honest[judged], learner.temperature(learnt, temperatures))
    known = np.asarray(~np.isnan(honest).reshape(len(truth), -1).any(axis=1))
    # Forward in time, the first block is predicted from few rows, and would decide about models of many.
    final = learner.learn(known if known.any() else fold >= 0, [model.temperature for model in models.values()])
    losses = np.full(len(truth), np.nan)
    losses[known] = row_losses(truth[known], calibrated[known], counts=counts)
    return Blend(
        shares={name: float(share) for name, share in zip(models, final.shares, strict=True) if share > 0},
        losses=losses,
        predictions=honest,
        calibrated=calibrated,
        shrinkage=final.shrinkage,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Learnt:
    """Blend parameters learnt from some rows."""

    shares: Float[np.ndarray, " models"]
    shrinkage: float
    held_out: list[tuple[Bool[np.ndarray, " rows"], Float[np.ndarray, " models"]]]
    """Rows of each fold, and the shares learnt from the other folds."""


class _Learner:
    """Learns shares from any subset of the rows.

    The loss of a blend depends on one number per model and row, see ``Objective``, as blending is linear."""

    def __init__(
        self,
        truth: np.ndarray,
        models: dict[str, ModelPredictions],
        fold: Int64[np.ndarray, " rows"],
        learns_from: Sequence[Bool[np.ndarray, " rows"]],
        counts: Float[np.ndarray, " rows"],
        objective: Objective,
    ) -> None:
        self.truth, self.models, self.fold = truth, list(models.values()), fold
        self.learns_from, self.counts, self.objective = learns_from, counts, objective

    def learn(self, rows: Bool[np.ndarray, " rows"], temperatures: list[float]) -> _Learnt:
        """Learn shares from ``rows`` at these temperatures, with the shrinkage that is best across their folds."""
        stacked = np.full((len(self.models), len(self.truth)), np.nan)
        for place, (model, temperature) in enumerate(zip(self.models, temperatures, strict=True)):
            stacked[place, rows] = self.objective.pick(model.at(rows, temperature), self.truth[rows])
        parts = []
        for number in np.unique(self.fold[rows]):
            inside, others = rows & (self.fold == number), rows & self.learns_from[number]
            if others.any():
                parts.append((inside, *self._shares(stacked, others)))
        tries = []
        for shrinkage in _SHRINKAGES if parts else ():
            total = sum(
                float(
                    self.objective.mean(
                        _mixed(found, single, shrinkage) @ stacked[:, inside],
                        self.truth[inside],
                        self.counts[inside],
                    )
                )
                for inside, found, single in parts
            )
            tries.append((total, shrinkage))
        shrinkage = min(tries)[1] if tries else _UNKNOWN_SHRINKAGE
        found, single = self._shares(stacked, rows)
        return _Learnt(
            shares=_mixed(found, single, shrinkage),
            shrinkage=shrinkage,
            held_out=[(inside, _mixed(a, b, shrinkage)) for inside, a, b in parts],
        )

    def blended(
        self, rows: Bool[np.ndarray, " rows"], temperatures: list[float], shares: Float[np.ndarray, " models"]
    ) -> np.ndarray:
        """Predictions of the blend for some rows."""
        parts = zip(self.models, temperatures, shares.tolist(), strict=True)
        return np.sum([share * model.at(rows, temperature) for model, temperature, share in parts if share], axis=0)

    def temperature(self, learnt: _Learnt, temperatures: list[float]) -> float:
        """Temperature of a blend's probabilities, from rows that its shares were not learnt from."""
        if not learnt.held_out:
            return 1.0
        found = [self.blended(rows, temperatures, shares) for rows, shares in learnt.held_out]
        truth = np.concatenate([self.truth[rows] for rows, _ in learnt.held_out])
        counts = np.concatenate([self.counts[rows] for rows, _ in learnt.held_out])
        return best_temperature(truth, np.concatenate(found), counts)

    def _shares(self, stacked: np.ndarray, rows: Bool[np.ndarray, " rows"]) -> tuple[np.ndarray, np.ndarray]:
        """Greedy shares on some rows, and the one-hot shares of the best single model."""
        some, truth, counts = stacked[:, rows], self.truth[rows], self.counts[rows] / self.counts[rows].sum()
        alone = self.objective.mean(some, truth, counts)
        single = np.zeros(len(some))
        single[int(np.argmin(alone))] = 1.0
        times, total = single.copy(), single @ some
        best, best_times = float(alone.min()), times.copy()
        for added in range(1, _ADDITIONS):
            losses = self.objective.mean((total + some) / (added + 1), truth, counts)
            choice = int(np.argmin(losses))
            times[choice] += 1
            total = total + some[choice]
            if losses[choice] < best:
                best, best_times = float(losses[choice]), times.copy()
        return best_times / best_times.sum(), single


def _mixed(
    found: Float[np.ndarray, " models"], single: Float[np.ndarray, " models"], shrinkage: float
) -> Float[np.ndarray, " models"]:
    """Shares shrunk towards those of the best single model, without small ones."""
    shares = (1 - shrinkage) * found + shrinkage * single
    kept = np.where(shares >= min(_LEAST_SHARE, shares.max()), shares, 0.0)
    return kept / kept.sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Reduction of the mean loss from one model to another on the same rows."""

    mean: float
    error: float
    """Standard error of the mean over rows, or over groups."""


def gain(
    before: Float[np.ndarray, " rows"],
    after: Float[np.ndarray, " rows"],
    group: Int64[np.ndarray, " rows"],
    weight: np.ndarray | None = None,
) -> Gain:
    """Reduction of the mean loss from ``before`` to ``after``.

    Args:
        group: rows with the same number form one unit.
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
