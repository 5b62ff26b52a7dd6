"""Baselines on the same rows: a constant, and boosted trees on the table.

Both are fitted on the training rows and predict in the unit of the target, as the network does.

The constant is optimal for each metric: the weighted median for MAE and MAPE (the optimum of MAPE would be a median
weighted by 1/|truth|, a low value that depends on the smallest truths), the weighted mean for RMSE and R², the mean of
the logarithms for the R² of the logarithm, the second class for F1, and the weighted class frequencies. This holds for
the scores of networks and presets, for the verdict, which uses the headline metric, and for the leaderboard of a
preset, whose loss is the squared error on the fitted scale, or the log loss: its constant is the mean on that scale, or
the frequencies."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int64
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from mixfit.data.load import MixedData
from mixfit.data.split import SplitName
from mixfit.evaluation.result import headline_for, metrics_for
from mixfit.models.linear import class_frequencies
from mixfit.training.metrics import F1, MAE, MAE_STEPS, MAPE, R2_LOG, Metric, decided, median_class
from mixfit.weighted import weighted_mean, weighted_median

CONSTANT = "constant"
BOOSTED_TREES = "boosted trees, table only"
# HistGradientBoosting supports categorical columns of up to this many levels.
_MOST_LEVELS = 255


@dataclass(frozen=True, slots=True)
class Baseline:
    """Predictions of a simple model for the validation and test rows, in the target's unit."""

    name: str
    predictions: dict[SplitName, np.ndarray]
    seconds: float
    by_metric: dict[SplitName, dict[str, np.ndarray]] = field(default_factory=dict)
    """By split and metric, if predictions depend on the metric; ``predictions`` is for the headline metric."""


def constant(data: MixedData) -> Baseline:
    """The best constants of the training rows, by metric."""
    start = time.perf_counter()
    splits: tuple[SplitName, ...] = ("valid", "test")
    metrics = metrics_for(data.schema.task, data.target, data.metric)
    found = {metric.name: best_constant(data, metric, data.split.train) for metric in metrics}
    by_metric = {
        split: {name: np.repeat(row, len(data.split.of(split)), axis=0) for name, row in found.items()}
        for split in splits
    }
    headline = headline_for(data.schema.task, data.target, data.metric).name
    predictions = {split: by_metric[split][headline] for split in splits}
    return Baseline(CONSTANT, predictions, time.perf_counter() - start, by_metric)


def constants_of_folds(
    data: MixedData, number: Int64[np.ndarray, " rows"], fit_rows: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """By metric: for each row, the best constant of the training rows of its fold.

    Args:
        number: fold that predicts each row.
        fit_rows: positions in the table, one array a fold.
    """
    found = {}
    for metric in metrics_for(data.schema.task, data.target, data.metric):
        of_folds = np.concatenate([best_constant(data, metric, rows) for rows in fit_rows])
        found[metric.name] = of_folds[number]
    return found


def best_constant(data: MixedData, metric: Metric, rows: Int64[np.ndarray, " fitted"]) -> np.ndarray:
    """The constant prediction that is optimal for a metric.

    Args:
        rows: positions of the rows to fit on.
    Returns:
        float64 ``(1,)`` in the unit of the target, or ``(1, classes)``.
    """
    weight = None if data.arrays.weight is None else data.arrays.weight.numpy()[rows]
    if metric is F1:
        return decided(np.ones(1, dtype=np.int64), 2)
    if data.target.classes is not None:
        labels = data.arrays.target.numpy()[rows]
        shares = class_frequencies(labels, weight, len(data.target.classes))[None]
        return decided(median_class(shares), shares.shape[1]) if metric is MAE_STEPS else shares
    truth = data.target.truth(data.table[data.schema.target].select(rows))
    if metric in (MAE, MAPE):
        return np.array([weighted_median(truth, weight)])
    if metric is R2_LOG:
        scaled = data.arrays.target.numpy()[rows]  # defined also for numbers without a logarithm
        return data.target.decode(np.array([weighted_mean(scaled, weight)]))
    largest = float(np.abs(truth).max()) or 1.0  # prevents overflow
    return np.array([weighted_mean(truth / largest, weight) * largest])


def boosted_trees(data: MixedData, *, seed: int = 0) -> Baseline:
    """scikit-learn's HistGradientBoosting on the table, with default settings but without early stopping.

    Weights affect gradients and leaf values, but neither bins nor the minimum number of rows per leaf."""
    start = time.perf_counter()
    levels = np.array(data.preprocessor.cardinalities, dtype=np.int64)
    categorical = np.concatenate([np.zeros(data.arrays.numeric.shape[1], dtype=bool), levels <= _MOST_LEVELS])
    settings: dict[str, Any] = {
        "random_state": seed,
        "categorical_features": categorical if categorical.any() else None,
        # Early stopping holds out a stratified 10 % of the rows, which fails for a class with one row.
        "early_stopping": False,
    }
    truth, weight = _targets(data, "train"), _weights(data, "train")
    splits: tuple[SplitName, ...] = ("valid", "test")
    if data.target.classes is None:
        if data.schema.task == "count":
            settings["loss"] = "poisson"
        regressor = HistGradientBoostingRegressor(**settings).fit(_features(data, "train"), truth, weight)
        found = {name: _predict(regressor.predict, data, name) for name in splits}
        if data.schema.task == "count":
            found = {name: np.log(np.maximum(values, 1e-9)) for name, values in found.items()}
        predictions = {name: data.target.decode(values) for name, values in found.items()}
    else:
        classifier = HistGradientBoostingClassifier(**settings).fit(_features(data, "train"), truth, weight)
        predictions = {}
        for name in splits:
            # Classes missing from the training rows have probability 0.
            full = np.zeros((len(data.split.of(name)), len(data.target.classes)))
            full[:, classifier.classes_] = _predict(classifier.predict_proba, data, name, len(classifier.classes_))
            predictions[name] = full
    return Baseline(BOOSTED_TREES, predictions, time.perf_counter() - start)


def _features(data: MixedData, name: SplitName) -> np.ndarray:
    rows = data.split.of(name)
    features = np.concatenate([data.arrays.numeric.numpy()[rows], data.arrays.categorical.numpy()[rows]], axis=1)
    # A table with only photos has no columns, but scikit-learn requires one.
    return features if features.shape[1] else np.zeros((len(rows), 1))


def _predict(function: Any, data: MixedData, name: SplitName, classes: int | None = None) -> np.ndarray:
    """Predict; unlike scikit-learn, also for an empty split."""
    if not len(data.split.of(name)):
        return np.zeros((0,) if classes is None else (0, classes), dtype=np.float32)
    return np.asarray(function(_features(data, name)), dtype=np.float32)


def _targets(data: MixedData, name: SplitName) -> np.ndarray:
    return data.arrays.target.numpy()[data.split.of(name)]


def _weights(data: MixedData, name: SplitName) -> np.ndarray | None:
    return None if data.arrays.weight is None else data.arrays.weight.numpy()[data.split.of(name)]
