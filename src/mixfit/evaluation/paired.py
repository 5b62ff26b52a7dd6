"""Several models on the same rows: metrics side by side, and whether their differences are beyond noise.

In: the truth of some rows and each model's predictions of them. Out: ``PairedScores``. The bootstrap draws the same
rows for both models of a difference, so that what makes a row hard for both of them does not count as noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int64

from mixfit.evaluation.bootstrap import bootstrap_difference, bootstrap_interval, rows_of_groups
from mixfit.training.metrics import Metric, Weight, evaluate

Finding = Literal["better", "worse", "within noise", "equal", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The metrics of one model."""

    name: str
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """95 % bootstrap intervals; nan where they cannot be computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A metric of a model minus that of the first one."""

    name: str
    metric: str
    value: float
    low: float
    high: float
    """Ends of the paired 95 % interval."""
    finding: Finding
    """Better or worse when the interval leaves 0 out; unknown where it cannot be computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedScores:
    """All models beside each other."""

    rows: int
    drawn: int
    """What the bootstrap draws: rows, or groups of rows that belong together."""
    metrics: tuple[Metric, ...]
    headline: Metric
    """One of them, which comes first in what is said."""
    standings: tuple[Standing, ...]
    differences: tuple[Difference, ...]
    """Of every model but the first, metric by metric."""

    def of_headline(self) -> list[Difference]:
        """One difference for each model but the first."""
        return [one for one in self.differences if one.metric == self.headline.name]


def paired_scores(
    truth: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    metrics: Sequence[Metric],
    headline: Metric,
    *,
    together: Int64[np.ndarray, " rows"] | None = None,
    weight: Weight = None,
) -> PairedScores:
    """Score all models and compare each with the first.

    Args:
        truth: ``(rows,)``; predictions: by model, ``(rows,)`` or ``(rows, classes)``.
        headline: one of ``metrics``, which comes first in what is said.
        together: rows with the same number are drawn together; None draws each row on its own.
        weight: how much each row counts in the metrics; None for all alike.
    """
    standings = [
        Standing(
            name=name,
            metrics=evaluate(metrics, truth, prediction, weight),
            intervals={
                metric.name: bootstrap_interval(metric, truth, prediction, groups=together, weight=weight)
                for metric in metrics
            },
        )
        for name, prediction in predictions.items()
    ]
    (first, base), *others = predictions.items()
    values = {standing.name: standing.metrics for standing in standings}
    differences = []
    for name, prediction in others:
        for metric in metrics:
            low, high = bootstrap_difference(metric, truth, prediction, base, groups=together, weight=weight)
            value = values[name][metric.name] - values[first][metric.name]
            finding = _finding(value, low, high, higher_is_better=metric.higher_is_better)
            differences.append(
                Difference(name=name, metric=metric.name, value=value, low=low, high=high, finding=finding)
            )
    members = None if together is None else rows_of_groups(together)
    return PairedScores(
        rows=len(truth),
        drawn=len(truth if members is None else members),
        metrics=tuple(metrics),
        headline=headline,
        standings=tuple(standings),
        differences=tuple(differences),
    )


def _finding(value: float, low: float, high: float, *, higher_is_better: bool) -> Finding:
    if np.isnan(value) or np.isnan(low):
        return "unknown"
    if value == low == high == 0:
        return "equal"
    if low <= 0 <= high:
        return "within noise"
    return "better" if (low > 0) == higher_is_better else "worse"
