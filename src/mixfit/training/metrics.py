"""Metrics of predictions in the units of the target.

Computed (mostly by scikit-learn) on all rows at once, so that unequal batches do not bias them. Metrics that cannot be
computed (R2 of one row, AUC of one class) are nan. scikit-learn and scipy take two seconds to load and are imported
only where they are used."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from mixfit.choices import MetricName, Task
from mixfit.errors import ConfigError
from mixfit.weighted import taken, weighted_mean

Truth = Float[np.ndarray, " rows"] | Int64[np.ndarray, " rows"]
Prediction = Float[np.ndarray, " rows"] | Float[np.ndarray, "rows classes"]
Weight = Float[np.ndarray, " rows"] | None


@dataclass(frozen=True, slots=True)
class Metric:
    """A named metric.

    ``function(truth, prediction)`` gets numbers in the target's unit ``(rows,)``, or class indices ``(rows,)`` and
    probabilities ``(rows, classes)``. If rows have weights, they are the third argument, ``(rows,)``, above 0: a row of
    weight 2 should count as two rows, and a common factor should change nothing."""

    name: str
    function: Callable[..., float]
    higher_is_better: bool
    label: str = ""
    """Label for headings and sentences; by default the name."""
    decides: bool = False
    """Whether only the predicted class counts, not its probability; see ``decided``."""

    def value(self, truth: Truth, prediction: Prediction, weight: Weight = None) -> float:
        """The metric of these predictions; nan if no row has a weight above 0.

        Args:
            weight: of each row, at least 0, in any unit; None for equal weights.
        Raises:
            ConfigError: there are weights, but the function does not accept them.
        """
        if weight is not None and not weight.all():
            counted = weight > 0
            truth, prediction, weight = truth[counted], prediction[counted], weight[counted]
        if not len(truth):
            return float("nan")
        if weight is None:
            return float(self.function(truth, prediction))
        try:
            inspect.signature(self.function).bind(truth, prediction, weight)
        except TypeError as error:
            raise ConfigError(
                f"the metric {self.name!r} does not accept weights, but the rows have some: give its function a third "
                "argument, weight=None."
            ) from error
        return float(self.function(truth, prediction, weight))


def evaluate(
    metrics: Sequence[Metric], truth: Truth, prediction: Prediction, weight: Weight = None
) -> dict[str, float]:
    """All metrics of these predictions; nan without rows.

    Args:
        weight: as for ``Metric.value``.
    """
    return {metric.name: metric.value(truth, prediction, weight) for metric in metrics}


def metric_text(value: float) -> str:
    """Format a value for a terminal: four digits, thousands separators from 10,000 on, "n/a" for nan.

    >>> [metric_text(value) for value in (0.123456, 1234.5, 12345.6, float("nan"))]
    ['0.1235', '1234', '12,346', 'n/a']
    """
    return "n/a" if np.isnan(value) else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _mae(truth: np.ndarray, prediction: np.ndarray, weight: Weight = None) -> float:
    from sklearn.metrics import mean_absolute_error

    return mean_absolute_error(truth, prediction, sample_weight=weight)


def _rmse(truth: np.ndarray, prediction: np.ndarray, weight: Weight = None) -> float:
    from sklearn.metrics import root_mean_squared_error

    return root_mean_squared_error(truth, prediction, sample_weight=weight)


def _r2(truth: np.ndarray, prediction: np.ndarray, weight: Weight = None) -> float:
    from sklearn.metrics import r2_score

    if len(truth) < 2 or np.ptp(truth) == 0:
        return float("nan")
    return r2_score(truth, prediction, sample_weight=weight)


def _r2_log(truth: np.ndarray, prediction: np.ndarray, weight: Weight = None) -> float:
    if min(truth.min(), prediction.min()) <= 0:
        return float("nan")
    return _r2(np.log(truth), np.log(prediction), weight)


def _mape(truth: np.ndarray, prediction: np.ndarray, weight: Weight = None) -> float:
    if (truth == 0).any():
        return float("nan")
    return weighted_mean(np.abs((prediction - truth) / truth), weight)


def _deviance(truth: np.ndarray, prediction: np.ndarray, weight: Weight = None) -> float:
    """Mean Poisson deviance; nan for a truth below 0, or a prediction that is not above 0."""
    if not len(truth) or truth.min() < 0 or prediction.min() <= 0:
        return float("nan")
    return weighted_mean(poisson_deviance(truth, np.log(prediction)), weight)


def poisson_deviance(truth: np.ndarray, log_rate: np.ndarray) -> np.ndarray:
    """The Poisson deviance of each row: twice the log likelihood that a prediction equal to the truth would gain."""
    known = np.where(truth > 0, truth, 1.0)
    found: np.ndarray = 2 * (np.where(truth > 0, truth * (np.log(known) - log_rate), 0.0) - truth + np.exp(log_rate))
    return found


def _accuracy(truth: np.ndarray, probabilities: np.ndarray, weight: Weight = None) -> float:
    from sklearn.metrics import accuracy_score

    return accuracy_score(truth, probabilities.argmax(1), sample_weight=weight)


def _balanced_accuracy(truth: np.ndarray, probabilities: np.ndarray, weight: Weight = None) -> float:
    """Mean recall over the classes that occur."""
    hit = probabilities.argmax(1) == truth
    members = [truth == label for label in np.unique(truth)]
    return float(np.mean([weighted_mean(hit[inside], taken(weight, inside)) for inside in members]))


def _macro_f1(truth: np.ndarray, probabilities: np.ndarray, weight: Weight = None) -> float:
    from sklearn.metrics import f1_score

    return f1_score(truth, probabilities.argmax(1), average="macro", zero_division=0, sample_weight=weight)


def _f1(truth: np.ndarray, probabilities: np.ndarray, weight: Weight = None) -> float:
    """F1 of the second of two classes; 0 if that class is neither there nor predicted."""
    from sklearn.metrics import f1_score

    return f1_score(truth, probabilities.argmax(1), pos_label=1, zero_division=0, sample_weight=weight)


def _kappa(truth: np.ndarray, probabilities: np.ndarray, weight: Weight = None) -> float:
    """Cohen's kappa with quadratic weights: 1 minus the mean squared difference of ranks, relative to that of the same
    ranks in random pairs."""
    ranks, chosen = truth.astype(np.float64), probabilities.argmax(1).astype(np.float64)
    means = [weighted_mean(one, weight) for one in (ranks, chosen)]
    spread = sum(weighted_mean((one - mean) ** 2, weight) for one, mean in zip((ranks, chosen), means, strict=True))
    if np.ptp(chosen) == 0 < np.ptp(ranks):
        return 0.0
    expected = spread + (means[0] - means[1]) ** 2
    return 1 - weighted_mean((ranks - chosen) ** 2, weight) / expected if expected > 0 else float("nan")


def _mae_steps(truth: np.ndarray, probabilities: np.ndarray, weight: Weight = None) -> float:
    return weighted_mean(np.abs(truth - probabilities.argmax(1)).astype(np.float64), weight)


def median_class(probabilities: Float[np.ndarray, "rows classes"]) -> Int64[np.ndarray, " rows"]:
    """The first class at which the cumulative probability reaches one half: of ordered classes the one with the lowest
    expected number of steps to the truth."""
    found: np.ndarray = (np.cumsum(probabilities, axis=1) < 0.5 - 1e-12).sum(axis=1)
    return np.minimum(found, probabilities.shape[1] - 1).astype(np.int64)


LEAST_LIKELIHOOD = 1e-15
"""Of a true class, wherever a log loss is shown."""


def _log_loss(truth: np.ndarray, probabilities: np.ndarray, weight: Weight = None) -> float:
    likelihood = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return weighted_mean(-np.log(likelihood.clip(LEAST_LIKELIHOOD)), weight)


def _auc(truth: np.ndarray, probabilities: np.ndarray, weight: Weight = None) -> float:
    """Area under the ROC curve; for several classes the mean of one-vs-rest over classes that occur.

    By Mann-Whitney ranks for all classes at once: scikit-learn computes classes one by one, half a second for 100, and
    this runs once per epoch and hundreds of times in a bootstrap."""
    from scipy.stats import rankdata

    columns = slice(1, 2) if probabilities.shape[1] == 2 else slice(None)
    is_class = (truth[:, None] == np.arange(probabilities.shape[1]))[:, columns]
    inside = is_class.sum(0)
    judged = (inside > 0) & (inside < len(truth))
    if not judged.any():
        return float("nan")
    if weight is not None:
        pairs = zip(probabilities[:, columns].T[judged], is_class.T[judged], strict=True)
        return float(np.mean([_weighted_area(scores, positive, weight) for scores, positive in pairs]))
    ranks = (rankdata(probabilities[:, columns], axis=0) * is_class).sum(0)
    areas = (ranks - inside * (inside + 1) / 2)[judged] / (inside * (len(truth) - inside))[judged]
    return float(areas.mean())


def _weighted_area(scores: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> float:
    """The weighted share of pairs in which the positive row has the higher score; ties count half."""
    counts = weight.astype(np.float64)
    _, place = np.unique(scores, return_inverse=True)
    inside = np.bincount(place, weights=counts * positive)
    outside = np.bincount(place, weights=counts * ~positive)
    below = np.cumsum(outside) - outside / 2
    return float((inside * below).sum() / (inside.sum() * outside.sum()))


MAE = Metric("mae", _mae, higher_is_better=False, label="MAE")
RMSE = Metric("rmse", _rmse, higher_is_better=False, label="RMSE")
R2 = Metric("r2", _r2, higher_is_better=True, label="R²")
R2_LOG = Metric("r2_log", _r2_log, higher_is_better=True, label="R² (log)")
MAPE = Metric("mape", _mape, higher_is_better=False, label="MAPE")
DEVIANCE = Metric("deviance", _deviance, higher_is_better=False, label="Poisson deviance")
ACCURACY = Metric("accuracy", _accuracy, higher_is_better=True, decides=True)
BALANCED_ACCURACY = Metric(
    "balanced_accuracy", _balanced_accuracy, higher_is_better=True, label="balanced accuracy", decides=True
)
MACRO_F1 = Metric("macro_f1", _macro_f1, higher_is_better=True, label="macro F1", decides=True)
F1 = Metric("f1", _f1, higher_is_better=True, label="F1", decides=True)
LOG_LOSS = Metric("log_loss", _log_loss, higher_is_better=False, label="log loss")
KAPPA = Metric("kappa", _kappa, higher_is_better=True, label="quadratic kappa", decides=True)
MAE_STEPS = Metric("mae_steps", _mae_steps, higher_is_better=False, label="MAE (steps)", decides=True)
AUC = Metric("auc", _auc, higher_is_better=True, label="ROC AUC")

REGRESSION_METRICS = (MAE, RMSE, R2, MAPE)
COUNT_METRICS = (DEVIANCE, MAE, RMSE, R2)
ORDERED_METRICS = (KAPPA, MAE_STEPS, ACCURACY, BALANCED_ACCURACY, LOG_LOSS)
CLASSIFICATION_METRICS = (ACCURACY, BALANCED_ACCURACY, MACRO_F1, LOG_LOSS, AUC)
METRICS = {
    metric.name: metric
    for metric in (*REGRESSION_METRICS, R2_LOG, DEVIANCE, *CLASSIFICATION_METRICS, F1, KAPPA, MAE_STEPS)
}
"""All metrics that a run reports, by name."""


def metric_named(name: MetricName, task: Task) -> Metric:
    """The metric of a setting other than "auto".

    Raises:
        ConfigError: it does not suit the task.
    """
    from mixfit.config import check_metric  # with the command line's library, which the Learner does without

    check_metric(name, task)
    if name == "mae" and task == "ordered":
        return MAE_STEPS
    return MACRO_F1 if name == "f1" and task != "binary" else METRICS[name]


def decided(classes: Int64[np.ndarray, " rows"], count: int) -> Float[np.ndarray, "rows classes"]:
    """Predicted classes as probabilities of 0 and 1, for metrics of decisions.

    Args:
        count: number of classes.
    """
    found: np.ndarray = np.eye(count)[classes]
    return found


def metric_label(name: str) -> str:
    """The label of a metric; by default its name.

    >>> metric_label("r2_log"), metric_label("mine")
    ('R² (log)', 'mine')
    """
    return (METRICS[name].label if name in METRICS else "") or name
