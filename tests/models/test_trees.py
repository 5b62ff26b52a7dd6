"""Boosted trees as arrays against scikit-learn's own predictions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from mixfit.errors import DataError
from mixfit.models.tree_model import LEAF, TreeModel
from mixfit.models.trees import grow_trees


def columns_with_levels(rows: int = 300, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 40, (rows, 2)).astype(np.float64)
    return np.concatenate([rng.normal(size=(rows, 3)), levels], axis=1)


def truth_of(columns: np.ndarray, classes: int) -> np.ndarray:
    score = columns[:, 0] + np.isin(columns[:, 3], [3, 9, 33]) - 0.5 * (columns[:, 4] > 20)
    if not classes:
        return score
    return np.digitize(score, np.quantile(score, np.linspace(0, 1, classes + 1)[1:-1]))


@pytest.mark.parametrize("classes", [0, 2, 4])
def test_predictions_are_those_of_scikit_learn(classes: int) -> None:
    columns = columns_with_levels()
    truth = truth_of(columns, classes)
    model = grow_trees(columns, truth, levels=(40, 40), classes=classes, rounds=20)
    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    categorical = [False] * 3 + [True] * 2
    reference = kind(max_iter=20, early_stopping=False, random_state=0, categorical_features=categorical)
    reference.fit(columns, truth)
    new = columns_with_levels(seed=1)
    expected = reference.predict_proba(new) if classes else reference.predict(new)
    np.testing.assert_allclose(model.predict(new), expected, atol=1e-10)
    again = TreeModel.from_tensors(model.tensors())
    np.testing.assert_array_equal(again.predict(new), model.predict(new))


def test_columns_of_many_levels_are_taken_as_numbers_and_unseen_levels_predicted() -> None:
    rng = np.random.default_rng(0)
    columns = np.stack([rng.integers(0, 400, 500), rng.integers(1, 5, 500)], axis=1).astype(np.float64)
    model = grow_trees(columns, columns[:, 0] / 400, levels=(401, 9), classes=0, rounds=20)
    assert np.corrcoef(model.predict(columns), columns[:, 0])[0, 1] > 0.99
    unseen = np.array([[200.0, 8.0], [200.0, 0.0]])
    assert np.isfinite(model.predict(unseen)).all()


def test_classes_that_no_row_has_are_improbable_but_there() -> None:
    columns = columns_with_levels()
    truth = np.where(columns[:, 0] > 0, 3, 1)
    found = grow_trees(columns, truth, levels=(40, 40), classes=5, rounds=10).predict(columns)
    assert found.shape == (300, 5)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert found[:, [0, 2, 4]].max() < 1e-6
    assert (found.argmax(axis=1) == truth).mean() > 0.95


def test_no_rows_and_many_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = columns_with_levels()
    model = grow_trees(columns, truth_of(columns, 0), levels=(40, 40), classes=0, rounds=10)
    assert model.predict(columns[:0]).shape == (0,)
    whole = model.predict(columns)
    monkeypatch.setattr("mixfit.models.tree_model._BLOCK", 70)  # seven rows at a time
    np.testing.assert_array_equal(model.predict(columns), whole)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("left", 10**6, "points to where there is none"),
        ("right", 0, "below two others, or in a circle"),
        ("right", 2, "below two others, or in a circle"),
        ("feature", 99, "points to where there is none"),
        ("feature", -1, "'feature' has a number out of its range"),
        ("value", np.nan, "'value' is not finite"),
        ("flags", 255, "'flags' has a number out of its range"),
    ],
)
def test_damaged_trees_are_refused(name: str, value: float, text: str) -> None:
    columns = columns_with_levels()
    model = grow_trees(columns, truth_of(columns, 0), levels=(40, 40), classes=0, rounds=3)
    damaged = model.nodes[name].copy()
    damaged[model.nodes["flags"] & LEAF == 0] = value
    tensors = replace(model, nodes=model.nodes | {name: damaged}).tensors()
    with pytest.raises(DataError, match=text):
        TreeModel.from_tensors({key: torch.clone(tensor) for key, tensor in tensors.items()})
