"""What the weights of a blend minimise: the loss of the models, or a metric that the user chose.

In: a metric, and how scaled predictions become numbers in the unit of the target. Out: ``Objective``."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mixfit.training.metrics import AUC, MAE, MAPE, R2, RMSE, Metric, poisson_deviance

LEAST_PROBABILITY = 1e-6
_RANKED = 2_000
"""Largest number of rows of each class that are ranked: the AUC does not depend on the shares of the classes."""
_LARGEST_LOG = 20.0
_LOSS_BESIDE_AUC = 0.1
"""Weight of the log loss beside 1 minus the AUC, which alone does not see whether probabilities are far from 0.5: a
constant would be added to a blend at no cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A mean loss of blends, as a function of one number for each model and row."""

    pick: Callable[[np.ndarray, np.ndarray], Float[np.ndarray, " rows"]]
    """``(predictions, truth)`` -> the number of each row: the prediction, or the probability of one class."""
    mean: Callable[[np.ndarray, np.ndarray, Float[np.ndarray, " rows"]], Float[np.ndarray, " *blends"]]
    """``(numbers, truth, counts)`` -> the sum of ``counts`` times the losses; numbers may have axes before the rows."""


def loss_objective(predictions: np.ndarray, *, counts: bool = False) -> Objective:
    """The squared error of scaled numbers ``(rows,)``, the Poisson deviance of counts, or the log loss of probabilities
    ``(rows, classes)``."""
    if counts:
        return Objective(
            pick=_number, mean=lambda mixed, truth, counts: poisson_deviance(truth, bounded(mixed)) @ counts
        )
    if predictions.ndim == 1:
        return Objective(pick=_number, mean=lambda mixed, truth, counts: (mixed - truth) ** 2 @ counts)
    return Objective(
        pick=lambda found, truth: found[np.arange(len(found)), truth],
        mean=lambda mixed, truth, counts: -np.log(np.clip(mixed, LEAST_PROBABILITY, 1.0)) @ counts,
    )


def bounded(log_rates: np.ndarray) -> np.ndarray:
    """Logarithms of expected counts relative to the mean count, of a size that has a finite exponential."""
    found: np.ndarray = np.clip(log_rates, -_LARGEST_LOG, _LARGEST_LOG)
    return found


def metric_objective(
    metric: Metric,
    decode: Callable[[np.ndarray], np.ndarray],
    decode_truth: Callable[[np.ndarray], np.ndarray],
    *,
    classes: int,
) -> Objective | None:
    """The objective of a metric; None if the weights cannot follow it, so that they minimise the loss.

    The AUC of several classes is too slow, and metrics of decisions are too noisy: for two classes the decision
    threshold follows them instead, see ``threshold.py``.

    Args:
        decode, decode_truth: from scaled predictions and truths to the unit of the target.
        classes: number of classes; 0 for numbers.
    """
    if metric == AUC and classes == 2:
        return Objective(pick=lambda found, truth: found[:, 1], mean=_ranking_loss)
    if metric == MAE:
        return Objective(
            pick=_number, mean=lambda mixed, truth, counts: np.abs(decode(mixed) - decode_truth(truth)) @ counts
        )
    if metric == MAPE:

        def relative(mixed: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> np.ndarray:
            goal = decode_truth(truth)
            known = goal != 0  # with a 0 among the truths, MAPE itself is unknown
            return np.abs(decode(mixed[..., known]) / goal[known] - 1) @ counts[known]

        return Objective(pick=_number, mean=relative)
    if metric in (RMSE, R2):
        return Objective(
            pick=_number, mean=lambda mixed, truth, counts: (decode(mixed) - decode_truth(truth)) ** 2 @ counts
        )
    return None


def _number(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return found


def _ranking_loss(mixed: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """1 minus the AUC and a tenth of the log loss, times the sum of ``counts``; only the latter for a single class."""
    chosen = np.where(truth == 1, mixed, 1 - mixed)
    loss = np.asarray(-np.log(np.clip(chosen, LEAST_PROBABILITY, 1.0)) @ counts * _LOSS_BESIDE_AUC)
    places = [np.flatnonzero((truth == label) & (counts > 0)) for label in (0, 1)]
    if not all(map(len, places)):
        return loss
    low, high = (rows[:: -(-len(rows) // _RANKED)] for rows in places)
    found = []
    for scores in mixed.reshape(-1, mixed.shape[-1]):
        order = np.argsort(scores[low], kind="stable")
        ranked, below = scores[low][order], np.concatenate([[0.0], np.cumsum(counts[low][order])])
        left, right = (below[np.searchsorted(ranked, scores[high], side=side)] for side in ("left", "right"))
        found.append(1 - (left + right) / 2 @ counts[high] / (below[-1] * counts[high].sum()))
    return np.asarray(loss + np.reshape(found, mixed.shape[:-1]) * counts.sum())
