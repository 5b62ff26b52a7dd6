"""Baselines on the same rows: what a prediction costs nothing, and what the table alone gives.

Both are fitted on the training rows and give predictions in the unit of the target, as the network does."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from mixfit.data.load import MixedData
from mixfit.data.split import SplitName

CONSTANT = "constant"
BOOSTED_TREES = "boosted trees, table only"
# HistGradientBoosting takes a column as categorical only up to this many levels.
_MOST_LEVELS = 255


@dataclass(frozen=True, slots=True)
class Baseline:
    """Predictions of a simple model for the validation and test rows, in the target's unit."""

    name: str
    predictions: dict[SplitName, np.ndarray]
    seconds: float


def constant(data: MixedData) -> Baseline:
    """The median of the training target, or the frequencies of its classes."""
    start = time.perf_counter()
    truth = _targets(data, "train")
    if data.target.classes is None:
        row = data.target.decode(np.median(truth)[None].astype(np.float32))
    else:
        row = (np.bincount(truth, minlength=len(data.target.classes)) / len(truth))[None]
    splits: tuple[SplitName, ...] = ("valid", "test")
    predictions = {name: np.repeat(row, len(data.split.of(name)), axis=0) for name in splits}
    return Baseline(CONSTANT, predictions, time.perf_counter() - start)


def boosted_trees(data: MixedData, *, seed: int = 0) -> Baseline:
    """scikit-learn's HistGradientBoosting by default settings but without early stopping, on the table alone."""
    start = time.perf_counter()
    levels = np.array(data.preprocessor.cardinalities, dtype=np.int64)
    categorical = np.concatenate([np.zeros(data.arrays.numeric.shape[1], dtype=bool), levels <= _MOST_LEVELS])
    settings: dict[str, Any] = {
        "random_state": seed,
        "categorical_features": categorical if categorical.any() else None,
        # Early stopping gives up a stratified tenth of the rows, which fails for a class with one row.
        "early_stopping": False,
    }
    truth, weight = _targets(data, "train"), _weights(data, "train")
    splits: tuple[SplitName, ...] = ("valid", "test")
    if data.target.classes is None:
        regressor = HistGradientBoostingRegressor(**settings).fit(_features(data, "train"), truth, weight)
        predictions = {name: data.target.decode(_predict(regressor.predict, data, name)) for name in splits}
    else:
        classifier = HistGradientBoostingClassifier(**settings).fit(_features(data, "train"), truth, weight)
        predictions = {}
        for name in splits:
            # Classes that the training rows lack have probability 0.
            full = np.zeros((len(data.split.of(name)), len(data.target.classes)))
            full[:, classifier.classes_] = _predict(classifier.predict_proba, data, name, len(classifier.classes_))
            predictions[name] = full
    return Baseline(BOOSTED_TREES, predictions, time.perf_counter() - start)


def _features(data: MixedData, name: SplitName) -> np.ndarray:
    rows = data.split.of(name)
    features = np.concatenate([data.arrays.numeric.numpy()[rows], data.arrays.categorical.numpy()[rows]], axis=1)
    # A table of photos alone has no column; scikit-learn wants one.
    return features if features.shape[1] else np.zeros((len(rows), 1))


def _predict(function: Any, data: MixedData, name: SplitName, classes: int | None = None) -> np.ndarray:
    """scikit-learn refuses to predict no rows at all; an empty split is fine here."""
    if not len(data.split.of(name)):
        return np.zeros((0,) if classes is None else (0, classes), dtype=np.float32)
    return np.asarray(function(_features(data, name)), dtype=np.float32)


def _targets(data: MixedData, name: SplitName) -> np.ndarray:
    return data.arrays.target.numpy()[data.split.of(name)]


def _weights(data: MixedData, name: SplitName) -> np.ndarray | None:
    return None if data.arrays.weight is None else data.arrays.weight.numpy()[data.split.of(name)]
