"""LightGBM's trees as arrays against LightGBM's own predictions."""

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.errors import ConfigError
from mixfit.models.lightgbm_trees import grow_lightgbm, lightgbm_is_installed, trees_of_dump
from mixfit.models.tree_model import CATEGORICAL, TreeModel

lightgbm = pytest.importorskip("lightgbm")
LEVELS = (40, 256)  # as many as a set of categories holds
BY_CATEGORY = np.array([False] * 4 + [True] * 2)
SMALL: dict[str, Any] = {
    "num_leaves": 15,
    "min_data_in_leaf": 2,
    "min_data_per_group": 2,
    "cat_smooth": 1,
    "verbosity": -1,
}


def columns_with_levels(rows: int = 300, seed: int = 0, *, missing: float = 0.0) -> np.ndarray:
    """Numbers, one of them mostly 0, and levels, of which the last ones are frequent."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(rows, 4))
    numbers[:, 2] *= rng.random(rows) < 0.3
    numbers[rng.random((rows, 4)) < missing] = np.nan
    return np.concatenate([numbers, *(np.ceil(count * rng.random((rows, 1)) ** 0.3) - 1 for count in LEVELS)], axis=1)


def truth_of(columns: np.ndarray, classes: int) -> np.ndarray:
    score = np.nan_to_num(columns[:, 0], nan=1.0) + np.nan_to_num(columns[:, 2], nan=-2.0)
    score += np.isin(columns[:, 4], [3, 9, 33, 37, 39]) - (columns[:, 5] % 2)
    if not classes:
        return score
    return np.digitize(score, np.quantile(score, np.linspace(0, 1, classes + 1)[1:-1]))


def strange_columns(seed: int) -> np.ndarray:
    """New rows with what no training row has."""
    columns, rng = columns_with_levels(600, seed + 1000, missing=0.1), np.random.default_rng(seed)
    columns[::5, 4], columns[1::5, 4] = -1, 10_000
    columns[::3, 5] = rng.choice([-7.0, 256.0, 300.0, np.nan], len(columns[::3]))
    columns[::4, :4] = rng.choice([0.0, -0.0, 1e300, -1e300, np.inf, -np.inf, 1e-36], (len(columns[::4]), 4))
    return columns


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 999),
    classes=st.sampled_from([0, 2, 4]),
    missing=st.sampled_from([0.0, 0.1]),
    use_missing=st.booleans(),
)
def test_predictions_are_those_of_lightgbm(seed: int, classes: int, missing: float, use_missing: bool) -> None:
    columns = columns_with_levels(900, seed, missing=missing)
    task = {0: {"objective": "regression"}, 2: {"objective": "binary"}}.get(
        classes, {"objective": "multiclass", "num_class": classes}
    )
    chosen = SMALL | task | {"use_missing": use_missing}
    data = lightgbm.Dataset(columns, truth_of(columns, classes), categorical_feature=[4, 5], params=chosen)
    booster = lightgbm.train(chosen, data, 5)
    model = trees_of_dump(booster.dump_model(), BY_CATEGORY, LEVELS, np.arange(classes), classes)
    assert (model.nodes["flags"] & CATEGORICAL).any()
    for new in (columns, strange_columns(seed)):
        expected, found = np.asarray(booster.predict(new)), model.predict(new)
        np.testing.assert_allclose(found[:, 1] if classes == 2 else found, expected, rtol=1e-9, atol=1e-12)
    again = TreeModel.from_tensors(model.tensors())
    np.testing.assert_array_equal(again.predict(new), model.predict(new))


@pytest.mark.parametrize(
    ("other", "text"),
    [({"zero_as_missing": True}, "Trees that take Zero as"), ({"linear_tree": True}, "Trees with linear leaves")],
)
def test_trees_that_mean_something_else_are_refused(other: dict[str, Any], text: str) -> None:
    columns = columns_with_levels()
    chosen = SMALL | {"objective": "regression"} | other
    booster = lightgbm.train(chosen, lightgbm.Dataset(columns, truth_of(columns, 0), params=chosen), 3)
    with pytest.raises(RuntimeError, match=text):
        trees_of_dump(booster.dump_model(), BY_CATEGORY, LEVELS, np.arange(0), 0)


@pytest.mark.parametrize("classes", [0, 2, 4])
def test_new_rows_are_predicted_well_and_permuted_labels_teach_nothing(classes: int) -> None:
    columns, new = columns_with_levels(600), columns_with_levels(600, seed=1)
    truth, expected = truth_of(columns, classes), truth_of(new, classes)
    permuted = np.random.default_rng(2).permutation(truth)
    losses = []
    for labels in (truth, permuted):
        found = grow_lightgbm(columns, labels, levels=LEVELS, classes=classes, rounds=40).predict(new)
        losses.append(-np.log(found[np.arange(600), expected]).mean() if classes else ((found - expected) ** 2).mean())
    chance = np.log(classes) if classes else expected.var()
    assert losses[0] < 0.75 * chance
    assert losses[1] > 0.97 * chance


def test_the_same_bytes_again_and_with_two_threads() -> None:
    columns = columns_with_levels(6000)
    first, again, two = (
        grow_lightgbm(columns, truth_of(columns, 0), levels=LEVELS, classes=0, rounds=20, seed=3, threads=threads)
        for threads in (1, 1, 2)
    )
    for other in (again, two):
        for name, tensor in first.tensors().items():
            assert tensor.numpy().tobytes() == other.tensors()[name].numpy().tobytes()


@pytest.mark.parametrize("known", [(1, 3), (0, 2, 4), (2,)])
def test_classes_that_no_row_has_are_improbable_but_there(known: tuple[int, ...]) -> None:
    columns = columns_with_levels()
    truth = np.array(known)[truth_of(columns, len(known)) if len(known) > 1 else np.zeros(300, np.int64)]
    found = grow_lightgbm(columns, truth, levels=LEVELS, classes=5, rounds=30).predict(columns)
    assert found.shape == (300, 5)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert found[:, [number for number in range(5) if number not in known]].max() < 1e-6
    assert (found.argmax(axis=1) == truth).mean() > 0.8


def test_rows_count_by_their_weight_whatever_its_unit() -> None:
    rng = np.random.default_rng(0)
    columns, truth, weight = np.zeros((200, 1)), rng.normal(size=200), rng.random(200).astype(np.float32)
    alike = grow_lightgbm(columns, truth, levels=(), classes=0, weight=weight, rounds=5).predict(columns)
    np.testing.assert_allclose(alike, np.average(truth, weights=weight), rtol=1e-5)
    columns = columns_with_levels(200)
    weighted, scaled, equal = (
        grow_lightgbm(columns, truth, levels=LEVELS, classes=0, weight=counts, rounds=20).predict(columns)
        for counts in (weight, 1024 * weight, None)
    )
    np.testing.assert_allclose(scaled, weighted, rtol=1e-5)
    assert np.abs(equal - weighted).max() > 0.1


def test_columns_of_many_levels_are_taken_as_numbers() -> None:
    rng = np.random.default_rng(0)
    columns = np.stack([rng.integers(0, 400, 500), rng.integers(1, 5, 500)], axis=1).astype(np.float64)
    model = grow_lightgbm(columns, columns[:, 0] / 400, levels=(401, 9), classes=0, rounds=50)
    assert np.corrcoef(model.predict(columns), columns[:, 0])[0, 1] > 0.99
    assert [codes is None for codes in model.codes] == [True, False]


@pytest.mark.parametrize("rows", [1, 2, 12])
def test_too_few_rows_for_a_split_are_one_leaf(rows: int) -> None:
    columns = columns_with_levels(rows)
    found = grow_lightgbm(columns, np.arange(rows, dtype=np.float64), levels=LEVELS, classes=0, rounds=3)
    np.testing.assert_allclose(found.predict(columns_with_levels()), (rows - 1) / 2, atol=1e-6)


def test_without_lightgbm_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lightgbm_is_installed()
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    assert not lightgbm_is_installed()
    with pytest.raises(ConfigError, match=r"LightGBM is not installed: pip install 'mixfit\[boost\]'"):
        grow_lightgbm(np.zeros((3, 1)), np.zeros(3), levels=(), classes=0)
