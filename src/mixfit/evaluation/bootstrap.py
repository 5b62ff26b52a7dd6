"""How sure a metric is: the percentile bootstrap (Efron 1979) over rows, or over groups where rows belong together.

Rows of one group come with the same errors: drawn one by one, they would make an interval too narrow. Weights say here
how much a row matters, not how often it was seen: every row is as likely to be drawn as any other, and the metric of
what was drawn is weighted. So a row of weight 2 is not as much evidence as two rows."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Int64

from mixfit.evaluation.resampled import resampled
from mixfit.training.metrics import AUC, Metric, Weight
from mixfit.weighted import taken

RESAMPLES = 1_000
FEWEST_UNITS = 10
"""Of fewer rows, or groups of rows that are drawn together, no interval is given: it would be far too narrow."""
_SLOW_RESAMPLES = 300  # of metrics of one's own, which are computed one by one
_NUMBERS = 2_000_000  # counts that are held at a time
_NOTHING = (float("nan"), float("nan"))


def bootstrap_interval(
    metric: Metric,
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: Int64[np.ndarray, " rows"] | None = None,
    weight: Weight = None,
) -> tuple[float, float]:
    """Lower and upper end of the interval of ``metric``.

    Both are nan where it cannot be computed, of fewer than ``FEWEST_UNITS`` rows or groups, and where it ``is_slow``.

    Args:
        truth: ``(rows,)``; prediction: ``(rows,)`` or ``(rows, classes)``.
        level: share of resamples between the two ends.
        groups: rows with the same number are drawn together; by default each row is drawn alone.
        weight: how much each row counts in the metric, see ``Metric.value``; rows of weight 0 are not there.
    """
    if is_slow(metric, prediction):
        return _NOTHING
    counted = _counted(weight, len(truth))
    truth, prediction, weight = truth[counted], prediction[counted], taken(weight, counted)
    return _interval(
        lambda draws: _values(metric, truth, prediction, draws, weight),
        len(truth),
        level,
        resamples,
        seed,
        None if groups is None else groups[counted],
    )


def bootstrap_difference(
    metric: Metric,
    truth: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    groups: Int64[np.ndarray, " rows"] | None = None,
    weight: Weight = None,
) -> tuple[float, float]:
    """Interval of ``metric(first) - metric(second)`` over the same draws; nan as for ``bootstrap_interval``."""

    if is_slow(metric, first):
        return _NOTHING
    counted = _counted(weight, len(truth))
    truth, first, second, weight = truth[counted], first[counted], second[counted], taken(weight, counted)

    def values(draws: "_Draws") -> np.ndarray:
        return _values(metric, truth, first, draws, weight) - _values(metric, truth, second, draws, weight)

    return _interval(values, len(truth), level, resamples, seed, None if groups is None else groups[counted])


def _counted(weight: Weight, rows: int) -> np.ndarray:
    """Positions of the rows that count."""
    return np.arange(rows) if weight is None else np.flatnonzero(weight > 0)


def is_slow(metric: Metric, prediction: np.ndarray) -> bool:
    """Whether no interval is given for the time it would take: of the area under the curve of more than two classes.

    It ranks the rows anew in every resample, for each class."""
    return metric == AUC and prediction.ndim == 2 and prediction.shape[1] > 2


class _Draws:
    """Resamples as counts, the same whenever they are asked for."""

    def __init__(self, rows: int, resamples: int, seed: int, groups: Int64[np.ndarray, " rows"] | None) -> None:
        self.rows, self.resamples, self.seed = rows, resamples, seed
        self.group = None if groups is None else np.unique(groups, return_inverse=True)[1]
        self.units = rows if self.group is None else int(self.group.max()) + 1

    def counts(self) -> Iterator[np.ndarray]:
        """How often each row is drawn, float64 ``(some resamples, rows)``."""
        random = np.random.default_rng(self.seed)
        some = max(1, _NUMBERS // self.rows)
        for start in range(0, self.resamples, some):
            drawn = [
                np.bincount(random.integers(self.units, size=self.units), minlength=self.units)
                for _ in range(min(some, self.resamples - start))
            ]
            counts = np.array(drawn, dtype=np.float64)
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


def _interval(
    values: Callable[[_Draws], np.ndarray],
    rows: int,
    level: float,
    resamples: int,
    seed: int,
    groups: Int64[np.ndarray, " rows"] | None,
) -> tuple[float, float]:
    if rows < FEWEST_UNITS:
        return _NOTHING
    draws = _Draws(rows, resamples, seed, groups)
    if draws.units < FEWEST_UNITS:
        return _NOTHING
    found = values(draws)
    found = found[~np.isnan(found)]
    if not len(found):
        return _NOTHING
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def rows_of_groups(groups: Int64[np.ndarray, " rows"]) -> list[Int64[np.ndarray, " _"]] | None:
    """Positions of the rows of each group; None where every row is a group of its own."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order])) + 1
    return None if len(starts) + 1 >= len(groups) else np.split(order, starts)
