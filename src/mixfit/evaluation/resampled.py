"""Metrics of many resamples at once, from how often each row was drawn, times its weight where it has one.

All but the area under the curve are functions of sums over rows, so that a thousand resamples of twenty thousand rows
are one product of matrices. In: a metric of ``training.metrics`` and counts. Out: its value for each resample."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from mixfit.training.metrics import (
    ACCURACY,
    AUC,
    BALANCED_ACCURACY,
    LOG_LOSS,
    MACRO_F1,
    MAE,
    MAPE,
    R2,
    R2_LOG,
    RMSE,
    Metric,
)

Counts = Float[np.ndarray, "resamples rows"]
Values = Float[np.ndarray, " resamples"]


@dataclass(frozen=True, slots=True)
class _Sums:
    """A metric as a function of sums over rows."""

    terms: Any
    """What is added up, ``(rows, terms)``: an array, or a sparse matrix."""
    finish: Callable[[np.ndarray], np.ndarray]
    """From the sums ``(resamples, terms)`` to the values ``(resamples,)``."""


def resampled(metric: Metric, truth: np.ndarray, prediction: np.ndarray) -> Callable[[Counts], Values] | None:
    """The function from counts to values of a metric, nan where it cannot be computed; None if there is no quick one.

    Args:
        truth, prediction: as ``Metric.function`` takes them, at least one row.
    """
    if metric == AUC:
        return _area(truth, prediction) if prediction.shape[1] == 2 else None
    sums = _class_sums(metric, truth, prediction) if prediction.ndim == 2 else _number_sums(metric, truth, prediction)
    if sums is None:
        return None

    def values(counts: Counts) -> Values:
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is the nan of what cannot be computed
            return np.asarray(sums.finish(counts @ sums.terms), dtype=np.float64)

    return values


def _mean(terms: np.ndarray) -> _Sums:
    return _Sums(np.stack([terms, np.ones(len(terms))], axis=1), lambda sums: sums[:, 0] / sums[:, 1])


def _number_sums(metric: Metric, truth: np.ndarray, prediction: np.ndarray) -> _Sums | None:
    unknown = np.full(len(truth), np.nan)
    if metric == MAE:
        return _mean(np.abs(prediction - truth))
    if metric == MAPE:
        return _mean(unknown if (truth == 0).any() else np.abs((prediction - truth) / np.where(truth == 0, 1.0, truth)))
    if metric == RMSE:
        squared = _mean((prediction - truth) ** 2)
        return _Sums(squared.terms, lambda sums: np.sqrt(squared.finish(sums)))
    if metric == R2:
        return _r2(truth, prediction)
    if metric == R2_LOG:
        if min(truth.min(), prediction.min()) <= 0:
            return _mean(unknown)
        return _r2(np.log(truth), np.log(prediction))
    return None


def _r2(truth: np.ndarray, prediction: np.ndarray) -> _Sums:
    centred = truth - truth.mean()  # its squares then hold all digits that matter
    terms = np.stack([(prediction - truth) ** 2, centred, centred**2, np.ones(len(truth))], axis=1)

    def finish(sums: np.ndarray) -> np.ndarray:
        error, first, second, rows = sums.T
        around = second - first**2 / rows
        return np.where(around > 1e-12 * np.maximum(second, 1e-300), 1 - error / around, np.nan)

    return _Sums(terms, finish)


def _class_sums(metric: Metric, truth: np.ndarray, probabilities: np.ndarray) -> _Sums | None:
    from scipy import sparse

    rows, classes = probabilities.shape
    chosen = probabilities.argmax(1)
    hit = (chosen == truth).astype(np.float64)
    if metric == ACCURACY:
        return _mean(hit)
    if metric == LOG_LOSS:
        return _mean(-np.log(probabilities[np.arange(rows), truth].astype(np.float64).clip(1e-15)))

    def by_class(labels: np.ndarray, values: np.ndarray) -> Any:
        return sparse.csr_array((values, (np.arange(rows), labels)), shape=(rows, classes))

    ones = np.ones(rows)
    if metric == BALANCED_ACCURACY:

        def recall(sums: np.ndarray) -> np.ndarray:
            shares = sums[:, :classes] / sums[:, classes:]
            present = sums[:, classes:] > 0
            return np.where(present, shares, 0.0).sum(1) / present.sum(1)

        return _Sums(sparse.hstack([by_class(truth, hit), by_class(truth, ones)], format="csr"), recall)
    if metric == MACRO_F1:

        def f1(sums: np.ndarray) -> np.ndarray:
            right, either = sums[:, :classes], sums[:, classes:]
            present = either > 0
            return np.where(present, 2 * right / either, 0.0).sum(1) / present.sum(1)

        either = by_class(truth, ones) + by_class(chosen, ones)
        return _Sums(sparse.hstack([by_class(truth, hit), either], format="csr"), f1)
    return None


def _area(truth: np.ndarray, probabilities: np.ndarray) -> Callable[[Counts], Values]:
    """The chance that a row of class 1 has the higher probability than one of class 0; a tie counts half."""
    order = np.argsort(probabilities[:, 1], kind="stable")
    ranked = probabilities[order, 1]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))  # of rows with equal probabilities
    positive = truth[order] == 1

    def values(counts: Counts) -> Values:
        drawn = counts[:, order]
        inside = np.add.reduceat(drawn * positive, starts, axis=1)
        outside = np.add.reduceat(drawn * ~positive, starts, axis=1)
        before = np.cumsum(outside, axis=1) - outside / 2
        with np.errstate(invalid="ignore"):
            return (inside * before).sum(1) / (inside.sum(1) * outside.sum(1))

    return values
