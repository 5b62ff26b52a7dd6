"""Confidence intervals of metrics: the percentile bootstrap (Efron 1979) over rows, or over groups of rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from mixfit.training.metrics import (
    ACCURACY,
    AUC,
    BALANCED_ACCURACY,
    DEVIANCE,
    F1,
    KAPPA,
    LEAST_LIKELIHOOD,
    LOG_LOSS,
    MACRO_F1,
    MAE,
    MAE_STEPS,
    MAPE,
    R2,
    R2_LOG,
    RMSE,
    Metric,
    Weight,
    poisson_deviance,
)
from mixfit.weighted import taken

Counts = Float[np.ndarray, "resamples rows"]
Values = Float[np.ndarray, " resamples"]


@dataclass(frozen=True, slots=True)
class _Sums:
    """A metric as a function of sums over rows."""

    terms: Any
    """The terms to sum, ``(rows, terms)``: an array, or a sparse matrix."""
    finish: Callable[[np.ndarray], np.ndarray]
    """From the sums ``(resamples, terms)`` to the values ``(resamples,)``."""


def resampled(metric: Metric, truth: np.ndarray, prediction: np.ndarray) -> Callable[[Counts], Values] | None:
    """The function from counts to values of a metric, nan if it cannot be computed; None if there is no fast one.

    Args:
        truth, prediction: as ``Metric.function`` takes them, at least one row.
    """
    if metric == AUC:
        return _area(truth, prediction) if prediction.shape[1] == 2 else None
    sums = _class_sums(metric, truth, prediction) if prediction.ndim == 2 else _number_sums(metric, truth, prediction)
    if sums is None:
        return None

    def values(counts: Counts) -> Values:
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 gives nan: cannot be computed
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
    if metric == DEVIANCE:
        if truth.min() < 0 or prediction.min() <= 0:
            return _mean(unknown)
        return _mean(poisson_deviance(truth, np.log(prediction)))
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
    centred = truth - truth.mean()  # avoids cancellation in the squares
    terms = np.stack([(prediction - truth) ** 2, centred, centred**2, np.ones(len(truth))], axis=1)

    def finish(sums: np.ndarray) -> np.ndarray:
        error, first, second, rows = sums.T
        around = second - first**2 / rows
        return np.where(around > 1e-12 * np.maximum(second, 1e-300), 1 - error / around, np.nan)

    return _Sums(terms, finish)


def _kappa_sums(truth: np.ndarray, chosen: np.ndarray) -> _Sums:
    terms = np.stack([truth, truth**2, chosen, chosen**2, (truth - chosen) ** 2, np.ones(len(truth))], axis=1)

    def finish(sums: np.ndarray) -> np.ndarray:
        first, square, second, square_of_second, apart = (sums[:, :5] / sums[:, 5:]).T
        expected = square + square_of_second - 2 * first * second
        return np.where(expected > 1e-12, 1 - apart / expected, np.nan)

    return _Sums(terms, finish)


def _class_sums(metric: Metric, truth: np.ndarray, probabilities: np.ndarray) -> _Sums | None:
    from scipy import sparse

    rows, classes = probabilities.shape
    chosen = probabilities.argmax(1)
    hit = (chosen == truth).astype(np.float64)
    if metric == ACCURACY:
        return _mean(hit)
    if metric == MAE_STEPS:
        return _mean(np.abs(truth - chosen).astype(np.float64))
    if metric == KAPPA:
        return _kappa_sums(truth.astype(np.float64), chosen.astype(np.float64))
    if metric == LOG_LOSS:
        return _mean(-np.log(probabilities[np.arange(rows), truth].astype(np.float64).clip(LEAST_LIKELIHOOD)))

    def by_class(labels: np.ndarray, values: np.ndarray) -> Any:
        return sparse.csr_array((values, (np.arange(rows), labels)), shape=(rows, classes))

    ones = np.ones(rows)
    if metric == BALANCED_ACCURACY:

        def recall(sums: np.ndarray) -> np.ndarray:
            shares = sums[:, :classes] / sums[:, classes:]
            present = sums[:, classes:] > 0
            return np.where(present, shares, 0.0).sum(1) / present.sum(1)

        return _Sums(sparse.hstack([by_class(truth, hit), by_class(truth, ones)], format="csr"), recall)
    if metric in (MACRO_F1, F1):

        def f1(sums: np.ndarray) -> np.ndarray:
            right, either = sums[:, :classes], sums[:, classes:]
            present = either > 0
            each = np.where(present, 2 * right / either, 0.0)
            return each[:, 1] if metric == F1 else each.sum(1) / present.sum(1)

        either = by_class(truth, ones) + by_class(chosen, ones)
        return _Sums(sparse.hstack([by_class(truth, hit), either], format="csr"), f1)
    return None


def _area(truth: np.ndarray, probabilities: np.ndarray) -> Callable[[Counts], Values]:
    """AUC: the probability that a row of class 1 is ranked above one of class 0; ties count half."""
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


RESAMPLES = 1_000
FEWEST_UNITS = 10
"""Fewest rows, or groups, for an interval: with fewer it would be far too narrow."""
_SLOW_RESAMPLES = 300  # for custom metrics, which are computed one by one
_NUMBERS = 2_000_000  # counts in memory at a time
_NOTHING = (float("nan"), float("nan"))


def bootstrap_values(
    metric: Metric,
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: Int64[np.ndarray, " rows"] | None = None,
    weight: Weight = None,
) -> Values:
    """``metric`` of each resample, nan if it cannot be computed; equal rows, groups and seed give equal resamples.

    Empty for fewer than ``FEWEST_UNITS`` rows or groups, and if the metric ``is_slow``.

    Args:
        truth: ``(rows,)``; prediction: ``(rows,)`` or ``(rows, classes)``.
        groups: rows with the same number are resampled together; by default rows are resampled.
        weight: of each row in the metric, see ``Metric.value``; rows of weight 0 are ignored.
    """
    if is_slow(metric, prediction):
        return np.empty(0)
    counted = np.arange(len(truth)) if weight is None else np.flatnonzero(weight > 0)
    if len(counted) < FEWEST_UNITS:
        return np.empty(0)
    draws = _Draws(len(counted), resamples, seed, None if groups is None else groups[counted])
    if draws.units < FEWEST_UNITS:
        return np.empty(0)
    return _values(metric, truth[counted], prediction[counted], draws, taken(weight, counted))


def ends_of(values: Values, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of the resampled values without nan; nan if all are nan.

    Args:
        level: share of resamples between the two ends.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return _NOTHING
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def is_slow(metric: Metric, prediction: np.ndarray) -> bool:
    """Whether the bootstrap would take too long: for the AUC of more than two classes.

    It ranks the rows in every resample, for each class."""
    return metric == AUC and prediction.ndim == 2 and prediction.shape[1] > 2


def why_no_interval(metric: Metric, prediction: np.ndarray, units: int) -> str:
    """Why the ends of an interval are nan.

    Args:
        units: number of rows or groups with a weight above 0.
    """
    if is_slow(metric, prediction):
        return "it would take too long for more than two classes"
    return f"fewer than {FEWEST_UNITS} rows or groups" if units < FEWEST_UNITS else "it cannot be computed"


class _Draws:
    """Reproducible resamples as counts."""

    def __init__(self, rows: int, resamples: int, seed: int, groups: Int64[np.ndarray, " rows"] | None) -> None:
        self.rows, self.resamples, self.seed = rows, resamples, seed
        self.group = None if groups is None else np.unique(groups, return_inverse=True)[1]
        self.units = rows if self.group is None else int(self.group.max()) + 1

    def counts(self) -> Iterator[np.ndarray]:
        """How often each row is drawn, float64 ``(some resamples, rows)``."""
        random = np.random.default_rng(self.seed)
        some = max(1, _NUMBERS // self.rows)
        for start in range(0, self.resamples, some):
            drawn = random.integers(self.units, size=(min(some, self.resamples - start), self.units))
            drawn += np.arange(len(drawn))[:, None] * self.units
            counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
            yield counts if self.group is None else counts[:, self.group]


def _values(
    metric: Metric, truth: np.ndarray, prediction: np.ndarray, draws: _Draws, weight: np.ndarray | None
) -> np.ndarray:
    quick = resampled(metric, truth, prediction)
    if quick is not None:
        each = 1.0 if weight is None else weight.astype(np.float64)
        return np.concatenate([quick(counts * each) for counts in draws.counts()])
    found: list[float] = []
    for counts in draws.counts():
        for count in counts[: _SLOW_RESAMPLES - len(found)].astype(np.int64):
            rows = np.repeat(np.arange(len(truth)), count)
            found.append(metric.value(truth[rows], prediction[rows], taken(weight, rows)))
    return np.array(found)


def rows_of_groups(groups: Int64[np.ndarray, " rows"]) -> list[Int64[np.ndarray, " _"]] | None:
    """Positions of the rows of each group; None if every row is its own group."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order])) + 1
    return None if len(starts) + 1 >= len(groups) else np.split(order, starts)
