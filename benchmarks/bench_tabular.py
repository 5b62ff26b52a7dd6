"""Which model predicts best from the tables alone of the five shared data sets: TabM, an MLP, or boosted trees?

Every model sees the same training rows of a repeated random split (patients stay whole) and the same arrays of
``TablePreprocessor``, and chooses its length or its strength on the same validation rows (15 %); the test rows (20 %)
judge. Scores, higher is better: R2 of the scaled target (log price for houses) for numbers, ROC-AUC for two classes,
minus log-loss for more (accuracy beside it). "within noise": the paired difference to the best mean is below two
standard errors. Random splits share rows, so standard errors over splits are somewhat too small.
Run: MIXFIT_DATA=... python benchmarks/bench_tabular.py [splits] [set ...]"""

import importlib.metadata
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, r2_score, roc_auc_score
from torch import Tensor

from mixfit.choices import Role
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.data.load import MixedData, load_data
from mixfit.training.build import build_model
from mixfit.training.callbacks.control import EarlyStopping
from mixfit.training.choose import choose_optimizer
from mixfit.training.learner import Learner
from mixfit.training.loss import cross_entropy, mse

TREES = 500
"""The most trees of a boosted model, for each class."""


@dataclass(frozen=True)
class Table:
    """A data set: its target, what is left out, and roles that only its description knows."""

    target: str
    ignore: tuple[str, ...]
    roles: tuple[tuple[str, Role], ...] = ()
    rows: int | None = None
    """Rows drawn for each split; None for all."""


_PHOTOS = ("frontal_image", "bedroom_image", "bathroom_image", "kitchen_image")
SETS = {
    "houses": Table("price", ("split", "house_id", *_PHOTOS)),
    "covid_xray": Table("covid19", ("split", "x_id", "image"), (("patient_id", "group"),)),
    "leaf99": Table("species", ("split", "leaf_id", "image")),
    "movies": Table("imdb_rating", ("split", "movie_id", "title", "image")),
    "fashion_products": Table("gender", ("split", "product_id", "image"), rows=5000),
}


@dataclass(frozen=True)
class Arrays:
    """One part of the rows."""

    numeric: Tensor
    categorical: Tensor
    target: Tensor

    def features(self) -> np.ndarray:
        """All columns side by side, as trees take them."""
        return np.concatenate([self.numeric.numpy(), self.categorical.numpy()], axis=1)


@dataclass(frozen=True)
class Problem:
    """One split of one set."""

    train: Arrays
    valid: Arrays
    test: Arrays
    data: MixedData
    seed: int

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Levels of each category column, the level 0 included."""
        return self.data.preprocessor.cardinalities

    @property
    def outputs(self) -> int:
        """1 for regression, else the number of classes."""
        return self.data.target.outputs


def load(name: str, seed: int) -> Problem:
    """Split, then fit what is fitted on the training rows."""
    table = SETS[name]
    frame = pd.read_csv(Path(os.environ["MIXFIT_DATA"]) / name / "table.csv", dtype=str)
    if table.rows is not None:
        frame = frame.sample(table.rows, random_state=seed)
    config = DataConfig(roles=dict(table.roles), ignore=table.ignore, valid=0.15, test=0.2, cache_gb=0.0)
    data = load_data(frame, target=table.target, config=config, seed=seed)
    parts = [_arrays(data, rows) for rows in (data.split.train, data.split.valid, data.split.test)]
    return Problem(*parts, data=data, seed=seed)


def _arrays(data: MixedData, rows: np.ndarray) -> Arrays:
    chosen = torch.from_numpy(rows)
    return Arrays(data.arrays.numeric[chosen], data.arrays.categorical[chosen], data.arrays.target[chosen])


# --- networks -------------------------------------------------------------------------------------------------------


def network(config: ModelConfig, train: TrainConfig | None = None) -> Callable[[Problem], np.ndarray]:
    """What ``build_model`` and the Learner make of a configuration, trained as ``mixfit train`` does."""
    train = TrainConfig() if train is None else train
    chosen = choose_optimizer(train)

    def predictions(problem: Problem) -> np.ndarray:
        data = problem.data
        torch.manual_seed(problem.seed)
        model = build_model(data, config)
        learner = Learner(
            model,
            data,
            loss=mse if problem.outputs == 1 else cross_entropy,
            callbacks=[EarlyStopping("valid_loss", mode="min", patience=train.patience)],
            weight_decay=chosen.weight_decay,
        )
        learner.fit_one_cycle(train.epochs, chosen.lr)
        outputs, _ = learner.predict(data.test)
        return outputs.numpy() if problem.outputs == 1 else outputs.softmax(1).numpy()

    return predictions


# --- what they are compared with ------------------------------------------------------------------------------------


def histogram_trees(problem: Problem) -> np.ndarray:
    """scikit-learn's HistGradientBoosting, default settings with early stopping on the validation rows."""
    numbers = problem.train.numeric.shape[1]
    categorical = [False] * numbers + [levels <= 255 for levels in problem.cardinalities]
    kind = HistGradientBoostingRegressor if problem.outputs == 1 else HistGradientBoostingClassifier
    model = kind(max_iter=TREES, early_stopping=True, random_state=problem.seed, categorical_features=categorical)
    valid = problem.valid.features(), problem.valid.target.numpy()
    model.fit(problem.train.features(), problem.train.target.numpy(), X_val=valid[0], y_val=valid[1])
    return _predicted(model, problem)


def lightgbm_trees(problem: Problem) -> np.ndarray:
    """LightGBM, default settings with early stopping on the validation rows."""
    kind = lightgbm.LGBMRegressor if problem.outputs == 1 else lightgbm.LGBMClassifier
    numbers = problem.train.numeric.shape[1]
    model = kind(n_estimators=TREES, random_state=problem.seed, n_jobs=1, verbose=-1)
    model.fit(
        problem.train.features(),
        problem.train.target.numpy(),
        eval_set=[(problem.valid.features(), problem.valid.target.numpy())],
        categorical_feature=list(range(numbers, numbers + len(problem.cardinalities))),
        callbacks=[lightgbm.early_stopping(16, verbose=False)],
    )
    return _predicted(model, problem)


def linear(problem: Problem) -> np.ndarray:
    """Ridge or logistic regression on numbers and one-hot levels; the strength that is best on the validation rows."""
    parts = [_one_hot(rows, problem.cardinalities) for rows in (problem.train, problem.valid, problem.test)]
    truth, valid = problem.train.target.numpy(), problem.valid.target.numpy()
    tries = []
    for strength in (0.1, 1.0, 10.0, 100.0):
        if problem.outputs == 1:
            ridge = Ridge(alpha=strength).fit(parts[0], truth)
            tries.append((-r2_score(valid, ridge.predict(parts[1])), ridge.predict(parts[2])))
        else:
            model = LogisticRegression(C=1 / strength, max_iter=300).fit(parts[0], truth)
            found = [_all_classes(model, part, problem.outputs) for part in parts[1:]]
            tries.append((log_loss(valid, found[0], labels=range(problem.outputs)), found[1]))
    return min(tries, key=lambda pair: pair[0])[1]


def _one_hot(rows: Arrays, cardinalities: tuple[int, ...]) -> np.ndarray:
    levels = [np.eye(count)[rows.categorical[:, i].numpy()] for i, count in enumerate(cardinalities)]
    return np.concatenate([rows.numeric.numpy(), *levels], axis=1)


def _predicted(model: Any, problem: Problem) -> np.ndarray:
    features = problem.test.features()
    return model.predict(features) if problem.outputs == 1 else _all_classes(model, features, problem.outputs)


def _all_classes(model: Any, features: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities; 0 for classes that no training row has."""
    full = np.zeros((len(features), classes))
    full[:, model.classes_] = model.predict_proba(features)
    return full


# --- the table ------------------------------------------------------------------------------------------------------

MODELS: dict[str, Callable[[Problem], np.ndarray]] = {
    "TabM + piecewise-linear": network(ModelConfig()),
    "MLP": network(ModelConfig(tabular="mlp", numbers="plain")),
    "HistGradientBoosting": histogram_trees,
    "LightGBM": lightgbm_trees,
    "ridge / logistic": linear,
}


def score(problem: Problem, predictions: np.ndarray) -> tuple[float, float]:
    """The score that ranks, and the accuracy (nan for numbers)."""
    truth = problem.test.target.numpy()
    if problem.outputs == 1:
        return float(r2_score(truth, predictions)), float("nan")
    accuracy = float((predictions.argmax(1) == truth).mean())
    if problem.outputs == 2:
        return float(roc_auc_score(truth, predictions[:, 1])), accuracy
    clipped = np.clip(predictions, 1e-6, None)
    clipped /= clipped.sum(1, keepdims=True)
    return -float(log_loss(truth, clipped, labels=range(problem.outputs))), accuracy


def compare(name: str, splits: int) -> dict[str, int]:
    """Print one set; the rank of each model by its mean score."""
    scores: dict[str, list[float]] = {model: [] for model in MODELS}
    accuracies: dict[str, list[float]] = {model: [] for model in MODELS}
    seconds = dict.fromkeys(MODELS, 0.0)
    for seed in range(splits):
        problem = load(name, seed)
        for model, run in MODELS.items():
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # LightGBM without column names, logistic regression cut short
                found = score(problem, run(problem))
            seconds[model] += time.perf_counter() - start
            scores[model].append(found[0])
            accuracies[model].append(found[1])
    means = {model: float(np.mean(values)) for model, values in scores.items()}
    order = sorted(means, key=lambda model: -means[model])
    numbers, categories = problem.train.numeric.shape[1], len(problem.cardinalities)
    parts = "/".join(str(len(rows.target)) for rows in (problem.train, problem.valid, problem.test))
    print(f"{name}: {parts} rows, {numbers} numbers, {categories} categories, {splits} splits")
    for model in order:
        difference = np.array(scores[order[0]]) - np.array(scores[model])
        noise = difference.std(ddof=1) / np.sqrt(splits) if splits > 1 else float("nan")
        note = "" if model == order[0] else "within noise" if difference.mean() < 2 * noise else "behind"
        error = np.std(scores[model], ddof=1) / np.sqrt(splits) if splits > 1 else float("nan")
        accuracy = np.mean(accuracies[model])
        extra = "" if np.isnan(accuracy) else f"accuracy {accuracy:.3f}  "
        rank = order.index(model) + 1
        print(
            f"  {rank} {model:26}{means[model]:8.4f} +- {error:.4f}  {extra}{seconds[model] / splits:6.1f} s  {note}",
            flush=True,
        )
    return {model: order.index(model) + 1 for model in MODELS}


def main(splits: int, names: list[str]) -> None:
    """Print every set, then the mean ranks."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "scikit-learn", "lightgbm"))
    print(f"python {platform.python_version()}, {versions}, {torch.get_num_threads()} threads")
    ranks = [compare(name, splits) for name in names]
    print(f"mean rank over {len(names)} sets")
    for model in sorted(MODELS, key=lambda model: sum(rank[model] for rank in ranks)):
        print(f"    {model:26}{np.mean([rank[model] for rank in ranks]):5.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2:] or list(SETS))
