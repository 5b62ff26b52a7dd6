"""Scores of several models on the same rows, and in plain words who wins."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mixfit.choices import Task
from mixfit.data.columns.target import Target
from mixfit.evaluation.bootstrap import bootstrap_difference, bootstrap_interval
from mixfit.training.metrics import (
    ACCURACY,
    AUC,
    CLASSIFICATION_METRICS,
    MAE,
    MAPE,
    R2_LOG,
    REGRESSION_METRICS,
    Metric,
    evaluate,
)

JudgedSplit = Literal["valid", "test"]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows that judge: their true target and what each model predicts for them."""

    split: JudgedSplit
    truth: np.ndarray
    predictions: dict[str, np.ndarray]
    """By model; numbers ``(rows,)`` or probabilities ``(rows, classes)``."""
    groups: np.ndarray | None = None
    """Number of the group of each row, where rows belong together; intervals are then those over groups."""
    weight: np.ndarray | None = None
    """How much each row counts in every metric; None for all alike."""
    by_metric: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    """By model and metric, where a model predicts otherwise for another metric: a constant, see ``baselines``."""

    def of(self, model: str, metric: Metric) -> np.ndarray:
        """What a model predicts where it is judged by this metric."""
        return self.by_metric.get(model, {}).get(metric.name, self.predictions[model])


def metrics_for(task: Task, target: Target) -> tuple[Metric, ...]:
    """What is reported for a kind of target; R2 of the logarithm too where the model is fitted on it."""
    if task != "regression":
        return CLASSIFICATION_METRICS
    return (*REGRESSION_METRICS, R2_LOG) if target.log else REGRESSION_METRICS


def headline_for(task: Task, target: Target) -> Metric:
    """The one metric that comes first: relative error for skewed amounts, absolute error for other numbers."""
    if task == "binary":
        return AUC
    if task == "multiclass":
        return ACCURACY
    return MAPE if target.log else MAE


def score(rows: Rows, metrics: tuple[Metric, ...]) -> dict[str, dict[str, float]]:
    """Metrics of every model on these rows."""
    return {
        model: {
            name: value
            for metric in metrics
            for name, value in evaluate((metric,), rows.truth, rows.of(model, metric), rows.weight).items()
        }
        for model in rows.predictions
    }


@dataclass(frozen=True, slots=True)
class Comparison:
    """The mixed model against the table alone, by the headline metric."""

    verdict: str
    loses: bool
    """The table alone has the better value, be it within noise."""


def compare(
    rows: Rows,
    headline: Metric,
    ours: str,
    table: str,
    *,
    constant: str | None = None,
    with_photos: bool = True,
    called: str | None = None,
) -> Comparison:
    """Say in a sentence which of two models predicts better, with the paired bootstrap interval of the difference.

    Where a constant does as well as ours, or better, another sentence says so. ``called`` is what our model is called
    in the sentences, by default the mixed model, or without photos the network."""
    called = called or ("mixed model" if with_photos else "network")
    found = _compare_two(rows, headline, ours, table, called, with_photos=with_photos)
    if constant is None:
        return found
    values = score(rows, (headline,))
    mine, nothing = values[ours][headline.name], values[constant][headline.name]
    lead = (mine - nothing) * (1 if headline.higher_is_better else -1)
    if np.isnan(lead) or lead > 0:
        return found
    how = "just as good" if lead == 0 else "better"
    warning = f"A constant is {how} ({nothing:.3g}): nothing that helps on these rows was learned."
    return Comparison(f"{found.verdict} {warning}", loses=True)


def _compare_two(rows: Rows, headline: Metric, ours: str, table: str, model: str, *, with_photos: bool) -> Comparison:
    found = score(rows, (headline,))
    mine, theirs = found[ours][headline.name], found[table][headline.name]
    if np.isnan(mine) or np.isnan(theirs):
        return Comparison(f"{headline.name} cannot be computed on the {rows.split} rows: no comparison.", loses=False)
    low, high = bootstrap_interval(
        headline, rows.truth, rows.of(ours, headline), groups=rows.groups, weight=rows.weight
    )
    sign = 1 if headline.higher_is_better else -1
    ends = bootstrap_difference(
        headline,
        rows.truth,
        rows.of(ours, headline),
        rows.of(table, headline),
        groups=rows.groups,
        weight=rows.weight,
    )
    gain_low, gain_high = sorted(sign * end for end in ends)
    interval = "n/a" if np.isnan(low) else f"{low:.3g} to {high:.3g}"
    on = f"{len(rows.truth)} row{'' if len(rows.truth) == 1 else 's'}"
    numbers = f"{rows.split} {headline.name} {mine:.3g} (95 % CI {interval}) against {theirs:.3g} on {on}"
    if sign * (mine - theirs) < 0:
        advice = f"prefer {table} here" if gain_high < 0 else "the photos have not shown their worth"
        advice = f"; {advice}" if with_photos else ""
        how = "LOSES clearly to {}" if gain_high < 0 else "is behind {}, within the noise of so few rows"
        return Comparison(f"The {model} {how.format(table)}: {numbers}{advice}.", loses=True)
    if mine == theirs:
        return Comparison(f"The {model} is exactly as good as {table}: {numbers}.", loses=False)
    how = "beats {}" if gain_low > 0 else "is ahead of {}, within the noise of so few rows"
    return Comparison(f"The {model} {how.format(table)}: {numbers}.", loses=False)
