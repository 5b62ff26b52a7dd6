"""Metrics: how good predictions are, in the units of the target.

Computed (mostly by scikit-learn) on all rows at once, so that unequal batches cannot bias them. What cannot be computed
(R2 of one row, AUC of one class) is nan, never an invented number. scikit-learn and scipy take two seconds to load,
and a training without metrics needs neither: they are imported where they are used."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

Truth = Float[np.ndarray, " rows"] | Int64[np.ndarray, " rows"]
Prediction = Float[np.ndarray, " rows"] | Float[np.ndarray, "rows classes"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A named measure.

    ``function(truth, prediction)`` gets numbers in the target's unit ``(rows,)``, or class indices ``(rows,)`` and
    probabilities ``(rows, classes)``."""

    name: str
    function: Callable[[np.ndarray, np.ndarray], float]
    higher_is_better: bool


def evaluate(metrics: Sequence[Metric], truth: Truth, prediction: Prediction) -> dict[str, float]:
    """All metrics of these predictions; nan where there are no rows."""
    return {
        metric.name: float(metric.function(truth, prediction)) if len(truth) else float("nan") for metric in metrics
    }


def metric_text(value: float) -> str:
    """Write a value for a terminal: four digits, thousands separated from 10,000 on, "n/a" for nan.

    >>> [metric_text(value) for value in (0.123456, 1234.5, 12345.6, float("nan"))]
    ['0.1235', '1234', '12,346', 'n/a']
    """
    return "n/a" if np.isnan(value) else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _mae(truth: np.ndarray, prediction: np.ndarray) -> float:
    from sklearn.metrics import mean_absolute_error

    return mean_absolute_error(truth, prediction)


def _rmse(truth: np.ndarray, prediction: np.ndarray) -> float:
    from sklearn.metrics import root_mean_squared_error

    return root_mean_squared_error(truth, prediction)


def _r2(truth: np.ndarray, prediction: np.ndarray) -> float:
    from sklearn.metrics import r2_score

    if len(truth) < 2 or np.ptp(truth) == 0:
        return float("nan")
    return r2_score(truth, prediction)


def _r2_log(truth: np.ndarray, prediction: np.ndarray) -> float:
    if min(truth.min(), prediction.min()) <= 0:
        return float("nan")
    return _r2(np.log(truth), np.log(prediction))


def _mape(truth: np.ndarray, prediction: np.ndarray) -> float:
    if (truth == 0).any():
        return float("nan")
    return float(np.mean(np.abs((prediction - truth) / truth)))


def _accuracy(truth: np.ndarray, probabilities: np.ndarray) -> float:
    from sklearn.metrics import accuracy_score

    return accuracy_score(truth, probabilities.argmax(1))


def _balanced_accuracy(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean recall over the classes that occur."""
    hit = probabilities.argmax(1) == truth
    return float(np.mean([hit[truth == label].mean() for label in np.unique(truth)]))


def _macro_f1(truth: np.ndarray, probabilities: np.ndarray) -> float:
    from sklearn.metrics import f1_score

    return f1_score(truth, probabilities.argmax(1), average="macro", zero_division=0)


def _log_loss(truth: np.ndarray, probabilities: np.ndarray) -> float:
    likelihood = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return float(-np.log(likelihood.clip(1e-15)).mean())


def _auc(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Area under the ROC curve; over several classes the mean of one against the rest, of classes that occur.

    By the ranks of Mann and Whitney, for all classes at once: scikit-learn's function takes 100 classes one by one,
    which costs half a second, and this runs once an epoch and hundreds of times in a bootstrap."""
    from scipy.stats import rankdata

    columns = slice(1, 2) if probabilities.shape[1] == 2 else slice(None)
    is_class = (truth[:, None] == np.arange(probabilities.shape[1]))[:, columns]
    inside = is_class.sum(0)
    judged = (inside > 0) & (inside < len(truth))
    if not judged.any():
        return float("nan")
    ranks = (rankdata(probabilities[:, columns], axis=0) * is_class).sum(0)
    areas = (ranks - inside * (inside + 1) / 2)[judged] / (inside * (len(truth) - inside))[judged]
    return float(areas.mean())


MAE = Metric("mae", _mae, higher_is_better=False)
RMSE = Metric("rmse", _rmse, higher_is_better=False)
R2 = Metric("r2", _r2, higher_is_better=True)
R2_LOG = Metric("r2_log", _r2_log, higher_is_better=True)
MAPE = Metric("mape", _mape, higher_is_better=False)
ACCURACY = Metric("accuracy", _accuracy, higher_is_better=True)
BALANCED_ACCURACY = Metric("balanced_accuracy", _balanced_accuracy, higher_is_better=True)
MACRO_F1 = Metric("macro_f1", _macro_f1, higher_is_better=True)
LOG_LOSS = Metric("log_loss", _log_loss, higher_is_better=False)
AUC = Metric("auc", _auc, higher_is_better=True)

REGRESSION_METRICS = (MAE, RMSE, R2, MAPE)
CLASSIFICATION_METRICS = (ACCURACY, BALANCED_ACCURACY, MACRO_F1, LOG_LOSS, AUC)
