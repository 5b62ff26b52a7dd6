"""How sure a metric is: the percentile bootstrap over rows (Efron 1979), or over groups of rows."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from mixfit.training.metrics import Metric


def bootstrap_interval(
    metric: Metric,
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    groups: Int64[np.ndarray, " rows"] | None = None,
    level: float = 0.95,
    resamples: int = 300,
    seed: int = 0,
) -> tuple[float, float]:
    """Lower and upper end of the interval of ``metric``; nan where it cannot be computed.

    Args:
        truth: ``(rows,)``; prediction: ``(rows,)`` or ``(rows, classes)``.
        groups: rows with the same number are drawn together, as several rows of one patient are not several patients;
            None draws each row on its own.
        level: share of resamples between the two ends.
    """
    members = None if groups is None else rows_of_groups(groups)
    if len(truth if members is None else members) < 2:
        return float("nan"), float("nan")
    draws = _draws(len(truth), members, np.random.default_rng(seed), resamples)
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
    groups: Int64[np.ndarray, " rows"] | None = None,
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
    return bootstrap_interval(paired, positions, positions, groups=groups, level=level, resamples=resamples, seed=seed)


def rows_of_groups(groups: Int64[np.ndarray, " rows"]) -> list[Int64[np.ndarray, " _"]] | None:
    """Positions of the rows of each group; None where every row is a group of its own."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order])) + 1
    return None if len(starts) + 1 >= len(groups) else np.split(order, starts)


def _draws(
    rows: int, members: list[np.ndarray] | None, random: np.random.Generator, resamples: int
) -> Iterator[Int64[np.ndarray, " drawn"]]:
    """Positions with replacement, as many rows, or groups, as there are."""
    for _ in range(resamples):
        if members is None:
            yield random.integers(rows, size=rows)
        else:
            yield np.concatenate([members[number] for number in random.integers(len(members), size=len(members))])
