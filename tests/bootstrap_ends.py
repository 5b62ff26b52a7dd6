"""Intervals of one metric, and of one difference, as a result has them."""

from typing import Any

import numpy as np

from mixfit.evaluation.bootstrap import bootstrap_values, ends_of
from mixfit.training.metrics import Metric


def bootstrap_interval(
    metric: Metric, truth: np.ndarray, prediction: np.ndarray, *, level: float = 0.95, **options: Any
) -> tuple[float, float]:
    """Lower and upper end of the interval of ``metric``; arguments as for ``bootstrap_values`` and ``ends_of``."""
    return ends_of(bootstrap_values(metric, truth, prediction, **options), level)


def bootstrap_difference(
    metric: Metric, truth: np.ndarray, first: np.ndarray, second: np.ndarray, *, level: float = 0.95, **options: Any
) -> tuple[float, float]:
    """Interval of ``metric(first) - metric(second)`` over the same draws; nan as for ``bootstrap_interval``."""
    values = [bootstrap_values(metric, truth, one, **options) for one in (first, second)]
    return ends_of(values[0] - values[1], level)
