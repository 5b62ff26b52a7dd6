"""How sure a metric is: the percentile bootstrap over rows (Efron 1979)."""

import numpy as np

from mixfit.training.metrics import Metric


def bootstrap_interval(
    metric: Metric,
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 300,
    seed: int = 0,
) -> tuple[float, float]:
    """Lower and upper end of the interval of ``metric``; nan where it cannot be computed.

    Args:
        truth: ``(rows,)``; prediction: ``(rows,)`` or ``(rows, classes)``.
        level: share of resamples between the two ends.
    """
    if len(truth) < 2:
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    draws = (random.integers(len(truth), size=len(truth)) for _ in range(resamples))
    values = np.array([metric.function(truth[rows], prediction[rows]) for rows in draws])
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_difference(
    metric: Metric,
    truth: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 300,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of ``metric(first) - metric(second)`` over the same resampled rows; nan where it cannot be computed."""
    paired = Metric(
        metric.name,
        lambda rows, _: metric.function(truth[rows], first[rows]) - metric.function(truth[rows], second[rows]),
        metric.higher_is_better,
    )
    positions = np.arange(len(truth))
    return bootstrap_interval(paired, positions, positions, level=level, resamples=resamples, seed=seed)
