"""Linear models, kernel ridge, components and the encoding of rows, each against a reference of its own."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV

from mixfit.data.columns.schema import Column, Schema
from mixfit.data.dataset import FeatureTable
from mixfit.data.ties import units_by_size
from mixfit.models import kernels as kernels_module
from mixfit.models import linear as linear_module
from mixfit.models.encoding import EncodedRows, RowEncoder, mean_features
from mixfit.models.kernels import KernelModel, Similarity, fit_kernels
from mixfit.models.linear import (
    INVERSE_STRENGTHS,
    RIDGE_STRENGTHS,
    LinearModel,
    design_matrix,
    find_knots,
    fit_logistic,
    fit_ridge,
)
from mixfit.models.model import Components


def some_rows(rows: int = 200, seed: int = 0) -> EncodedRows:
    rng = np.random.default_rng(seed)
    return EncodedRows(
        numeric=rng.normal(size=(rows, 3)).astype(np.float32),
        categorical=rng.integers(0, 4, (rows, 1)),
        prefixes=rng.integers(0, 3, (rows, 1)),
        photos=rng.normal(size=(rows, 8)).astype(np.float32),
        seen=rng.random(rows) > 0.2,
    )


def test_the_design_matrix_has_indicators_knots_and_components() -> None:
    rows = some_rows(5)
    knots = find_knots(rows.numeric)
    components = np.arange(10.0).reshape(5, 2)
    matrix = design_matrix(rows, (4, 3), knots, components)
    assert matrix.shape == (5, 3 + 9 + 3 + 2 + 2 + 1)
    np.testing.assert_allclose(matrix[:, :3], rows.numeric)
    np.testing.assert_allclose(matrix[:, 3:6], np.maximum(rows.numeric - knots[0], 0), atol=1e-6)
    indicators = matrix[:, 12:15]
    np.testing.assert_array_equal(indicators.sum(axis=1), rows.categorical[:, 0] > 0)
    np.testing.assert_array_equal(matrix[:, -3:-1], components)
    np.testing.assert_array_equal(matrix[:, -1], rows.seen)
    assert design_matrix(rows, (4, 3), knots, components, table=False).shape == (5, 3)


drawn = settings(deadline=None, max_examples=8)
SEEDS = st.integers(0, 10**6)


@drawn
@given(seed=SEEDS, noise=st.floats(0.3, 3))
def test_ridge_is_that_of_scikit_learn(seed: int, noise: float) -> None:
    rows = some_rows(seed=seed)
    matrix = design_matrix(rows, (4, 3), find_knots(rows.numeric))
    truth = matrix[:, 0] - 2 * matrix[:, 12] + noise * np.random.default_rng(seed + 1).normal(size=len(matrix))
    weight = np.random.default_rng(seed + 2).uniform(0.5, 2, len(matrix))
    strengths = RIDGE_STRENGTHS * len(matrix)
    expected = RidgeCV(strengths).fit(matrix, truth, weight / weight.mean()).predict(matrix)
    model = fit_ridge(matrix, truth, weight)
    np.testing.assert_allclose(model.predict(matrix), expected)
    np.testing.assert_array_equal(LinearModel.read(model.arrays()).predict(matrix), model.predict(matrix))


@pytest.mark.parametrize("classes", [0, 3])
def test_models_of_many_levels_are_those_of_their_indicators(monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    """Sparse columns hold what dense ones do, and a model of them is scikit-learn's of the dense ones."""
    rng = np.random.default_rng(0)
    rows = EncodedRows(
        numeric=rng.normal(size=(200, 3)).astype(np.float32),
        categorical=rng.integers(0, 30, (200, 1)),
        prefixes=rng.integers(0, 4, (200, 1)),
        photos=None,
        seen=np.zeros(200, dtype=bool),
    )
    knots = np.zeros((3, 3))
    dense = design_matrix(rows, (30, 4), knots)
    monkeypatch.setattr(linear_module, "WIDE", 10)
    monkeypatch.setattr(linear_module, "_TOLERANCE", 1e-10)
    sparse = design_matrix(rows, (30, 4), knots)
    assert isinstance(dense, np.ndarray)
    assert not isinstance(sparse, np.ndarray)
    np.testing.assert_array_equal(sparse.toarray(), dense)
    weight = rng.uniform(0.5, 2.0, 200)
    if classes:
        truth = rng.integers(0, classes, 200)
        found, expected = (fit_logistic(columns, truth, classes=classes, weight=weight) for columns in (sparse, dense))
        np.testing.assert_allclose(found.predict(sparse), expected.predict(dense), atol=2e-3)
    else:
        goal = rng.normal(size=200) + rows.categorical[:, 0] / 10
        found = fit_ridge(sparse, goal, weight, strengths=np.array([0.01]))
        reference = Ridge(0.01 * 200).fit(dense, goal, weight / weight.mean())
        np.testing.assert_allclose(found.predict(sparse), reference.predict(dense), atol=1e-4)


@pytest.mark.parametrize("together", [0, 7, 1_000])
def test_ridge_regression_of_sparse_columns_is_that_of_scikit_learn(
    monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """However many columns are solved together: numbers far from 0 and close to each other, knots, a constant, a column
    without entries, levels from frequent to unique, and rows without weight."""
    monkeypatch.setattr(linear_module, "_TOLERANCE", 1e-12)
    monkeypatch.setattr(linear_module, "TOGETHER", together)
    rng = np.random.default_rng(0)
    number = rng.normal(size=(600, 1)) + 50
    level = (rng.pareto(0.5, 600) * 3).astype(np.int64) % 150
    excess, near = np.maximum(number - 50, 0), number + 1e-3 * rng.normal(size=(600, 1))
    dense = np.concatenate([number, excess, near, np.ones((600, 1)), np.zeros((600, 1)), np.eye(150)[level]], axis=1)
    goal, weight = 3 * dense[:, 1] + rng.normal(size=150)[level] + 0.1 * rng.normal(size=600), rng.uniform(0, 2, 600)
    weight[::7] = 0
    columns = csr_matrix(dense)
    for strength in (1e-5, 1e-2, 10.0):
        found = fit_ridge(columns, goal, weight, strengths=np.array([strength]))
        reference = Ridge(strength * 600, solver="svd").fit(dense, goal, weight / weight.mean())
        np.testing.assert_allclose(found.predict(columns), reference.predict(dense), atol=1e-6)


def test_the_penalty_of_sparse_columns_is_the_best_for_a_held_out_fifth() -> None:
    """Also where the weaker ones after it, which begin at its weights, are worse."""
    rng = np.random.default_rng(1)
    level = rng.integers(0, 100, 1_000)
    goal = rng.normal(size=100)[level] + 2 * rng.normal(size=1_000)
    columns = csr_matrix(np.eye(100)[level])
    found = fit_ridge(columns, goal)
    truth = columns @ found.weights[:, 0] + found.bias
    each = [
        np.abs(Ridge(one * 1_000).fit(columns, goal).predict(columns) - truth).max() for one in RIDGE_STRENGTHS[::3]
    ]
    assert min(each) < 1e-3
    assert 0 < int(np.argmin(each)) < len(each) - 1


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_is_that_of_scikit_learn_at_one_of_its_strengths(classes: int) -> None:
    rows = some_rows()
    matrix = design_matrix(rows, (4, 3), find_knots(rows.numeric))
    truth = np.digitize(matrix[:, 0] + 0.5 * matrix[:, 12], [0.0, 0.8][: classes - 1])
    found = fit_logistic(matrix, truth, classes=classes).predict(matrix)
    distances = [
        np.abs(LogisticRegression(C=c / 200, max_iter=200).fit(matrix, truth).predict_proba(matrix) - found).max()
        for c in INVERSE_STRENGTHS
    ]
    assert min(distances) < 1e-8


def test_a_class_without_rows_and_a_single_class_are_predicted_all_the_same() -> None:
    rows = some_rows()
    matrix = design_matrix(rows, (4, 3), find_knots(rows.numeric))
    truth = np.where(matrix[:, 0] > 0, 2, 0)
    found = fit_logistic(matrix, truth, classes=4).predict(matrix)
    assert found.shape == (200, 4)
    assert found[:, [1, 3]].max() < 1e-6
    assert (found.argmax(axis=1) == truth).mean() > 0.9
    alone = fit_logistic(matrix, np.zeros(200, dtype=np.int64), classes=2).predict(matrix)
    assert (alone[:, 0] > 0.99).all()


def similarity(rows: int, seed: int, photos: int = 4) -> Similarity:
    rng = np.random.default_rng(seed)
    return Similarity(
        numbers=rng.normal(size=(rows, 2)),
        levels=rng.integers(0, 5, (rows, 1)),
        photos=rng.normal(size=(rows, photos)),
    )


def test_kernel_ridge_is_the_mean_of_a_gaussian_process() -> None:
    rows, new = similarity(80, 0), similarity(20, 1)
    rows = Similarity(numbers=rows.numbers, levels=rows.levels[:, :0], photos=rows.photos[:, :0])
    new = Similarity(numbers=new.numbers, levels=new.levels[:, :0], photos=new.photos[:, :0])
    truth = rows.numbers @ [1.0, -2.0] + 0.1 * np.random.default_rng(2).normal(size=80)
    model = fit_kernels(rows, truth)
    only_linear = KernelModel(
        train=rows,
        dual=np.linalg.solve(rows.numbers @ rows.numbers.T + 0.5 * np.eye(80), truth - truth.mean())[:, None],
        shares={"numbers, linear": 1.0, "numbers, near": 0.0},
        bias=np.array([truth.mean()]),
    )
    process = GaussianProcessRegressor(DotProduct(0.0, "fixed"), alpha=0.5, optimizer=None)
    process.fit(rows.numbers, truth - truth.mean())
    np.testing.assert_allclose(only_linear.predict(new), process.predict(new.numbers) + truth.mean())
    assert np.abs(model.predict(new) - new.numbers @ [1.0, -2.0]).max() < 0.3


def test_kernel_ridge_learns_interactions_and_comes_back_from_its_tensors() -> None:
    rows, new = similarity(400, 0), similarity(100, 1)

    def truth_of(some: Similarity) -> np.ndarray:
        return np.where(some.levels[:, 0] > 2, some.numbers[:, 0], -some.numbers[:, 0]) + some.photos[:, 0]

    model = fit_kernels(rows, truth_of(rows))
    error = ((model.predict(new) - truth_of(new)) ** 2).mean() / truth_of(new).var()
    assert error < 0.25
    again = KernelModel.read(model.arrays(), (2, 1, 4))
    np.testing.assert_array_equal(again.predict(new), model.predict(new))


def test_predictions_of_kernel_ridge_are_the_sum_over_all_training_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for unseen and missing levels, and for more rows than are computed at once."""
    rng = np.random.default_rng(0)
    train, new = similarity(60, 0), similarity(47, 1)
    new.levels[:10] = rng.integers(0, 9, (10, 1))
    model = fit_kernels(train, train.numbers[:, 0] * train.photos[:, 0] + train.levels[:, 0])

    def gaussian(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        distance = ((rows[:, None] - others[None]) ** 2).sum(axis=2)
        return np.exp(-0.3 * distance / others.var(axis=0).sum())

    near, photos = gaussian(new.numbers, train.numbers), gaussian(new.photos, train.photos)
    levels = ((new.levels == train.levels.T) & (new.levels > 0)).astype(float)
    kernels = {
        "numbers, linear": new.numbers @ train.numbers.T,
        "numbers, near": near,
        "levels": levels,
        "levels and numbers": levels * near,
        "photos": photos,
        "photos and levels": photos * levels,
    }
    assert set(model.shares) == set(kernels)
    wanted = (model.bias + sum(model.shares[name] * kernels[name] for name in kernels) @ model.dual)[:, 0]
    np.testing.assert_allclose(model.predict(new), wanted, rtol=1e-10)
    monkeypatch.setattr(kernels_module, "_BLOCK", 600)  # ten rows at once
    np.testing.assert_allclose(model.predict(new), wanted, rtol=1e-10)


def test_the_error_that_chooses_kernels_is_that_of_rows_left_out_with_their_unit() -> None:
    rng = np.random.default_rng(0)
    columns, goal = rng.normal(size=(30, 4)), rng.normal(size=30)
    unit = np.repeat(np.arange(18), [1] * 10 + [2] * 4 + [3] * 4)
    matrix, total = columns @ columns.T, 0.0
    for one in range(18):
        fit, out = unit != one, unit == one
        dual = np.linalg.solve(matrix[np.ix_(fit, fit)] + 0.5 * np.eye(int(fit.sum())), goal[fit])
        total += float(((goal[out] - matrix[np.ix_(out, fit)] @ dual) ** 2).sum())
    found = kernels_module._left_out_at(matrix, goal[:, None], units_by_size(unit), 0.5)
    np.testing.assert_allclose(found, total / 30)


def test_rows_of_weight_nothing_do_not_matter_to_kernel_ridge() -> None:
    rows, new = similarity(120, 0), similarity(10, 1)
    truth = rows.numbers[:, 0].copy()
    weight = np.ones(120)
    weight[100:] = 1e-9
    spoiled = truth.copy()
    spoiled[100:] = 50.0
    found = fit_kernels(rows, spoiled, weight).predict(new)
    assert np.abs(found - new.numbers[:, 0]).max() < 0.5


@drawn
@given(seed=SEEDS, most=st.integers(1, 5))
def test_components_are_those_of_pca_scaled_by_the_first_and_rows_without_photo_are_its_middle(
    seed: int, most: int
) -> None:
    rows = some_rows(seed=seed)
    assert rows.photos is not None
    found = Components.fit(rows.photos, rows.seen, most=most, seed=0)
    seen = rows.photos[rows.seen].astype(np.float64)
    scaled = seen / np.sqrt(seen.std(axis=0))  # Pareto scaling
    expected = PCA(most).fit(scaled).transform(scaled)
    expected /= expected[:, 0].std()
    np.testing.assert_allclose(np.abs(found.apply(rows.photos, rows.seen)[rows.seen]), np.abs(expected), atol=1e-4)
    assert not found.apply(rows.photos, rows.seen)[~rows.seen].any()
    nothing = Components.fit(rows.photos, np.zeros(len(rows), dtype=bool), most=most, seed=0)
    assert nothing.apply(rows.photos, rows.seen).shape == (len(rows), 0)


def test_the_mean_of_features_passes_over_unreadable_and_missing_photos() -> None:
    features = FeatureTable(torch.tensor([[1.0], [3.0], [100.0]]), torch.tensor([True, True, False]))
    slots = np.array([[0, 1], [1, 2], [2, -1], [-1, -1]])
    found = mean_features(4, slots, features)
    assert found.values is not None
    np.testing.assert_array_equal(found.values[:, 0], [2.0, 3.0, 0.0, 0.0])
    np.testing.assert_array_equal(found.seen, [True, True, False, False])


def schema_of_codes() -> Schema:
    columns = (
        Column(name="zip", role="category", reason="set", missing=0),
        Column(name="kind", role="category", reason="set", missing=0),
        Column(name="y", role="target", reason="set", missing=0),
    )
    return Schema(columns=columns, task="regression", task_reason="set", rows=24)


def test_codes_have_prefixes_whose_unseen_ends_are_known_by_their_beginning() -> None:
    zips = [f"{90 + number % 3}{number % 4}{number:02d}" for number in range(12)] * 2
    frame = pd.DataFrame({"zip": zips, "kind": ["a", "b"] * 12, "y": range(24)})
    encoder = RowEncoder.fit(frame, schema_of_codes())
    assert [prefix.length for prefix in encoder.prefixes] == [2, 3, 4]
    new = encoder.encode(pd.DataFrame({"zip": ["90099", "77777"], "kind": ["a", "c"], "y": [0, 0]}))
    np.testing.assert_array_equal(new.categorical[:, 0], [0, 0])  # neither zip was seen
    assert new.prefixes[0, 0] > 0
    assert not new.prefixes[1].any()
    again = RowEncoder.from_dict(encoder.to_dict())
    np.testing.assert_array_equal(again.encode(frame).prefixes, encoder.encode(frame).prefixes)
    assert again.cardinalities == encoder.cardinalities


def test_the_strength_of_ridge_regression_is_the_best_when_whole_units_are_left_out() -> None:
    rng = np.random.default_rng(0)
    columns, unit = rng.normal(size=(80, 10)), rng.integers(0, 25, 80)
    truth, weight = columns[:, 0] + rng.normal(size=25)[unit] + 0.3 * rng.normal(size=80), rng.uniform(0.5, 2, 80)
    strengths = np.array([1e-4, 1e-2, 1.0, 10.0])

    def left_out(strength: float) -> float:
        total = 0.0
        for number in np.unique(unit):
            rest = unit != number
            counts = weight[rest] / weight.mean()
            model = Ridge(alpha=strength * 80).fit(columns[rest], truth[rest], counts)
            total += float((weight[~rest] * (truth[~rest] - model.predict(columns[~rest])) ** 2).sum())
        return total

    best = min(strengths.tolist(), key=left_out)
    found = fit_ridge(columns, truth, weight, unit=unit, strengths=strengths)
    expected = fit_ridge(columns, truth, weight, strengths=np.array([best]))
    np.testing.assert_allclose(found.weights, expected.weights)


@pytest.mark.parametrize("kind", ["ridge", "kernels"])
def test_a_model_of_things_measured_many_times_does_not_remember_each(kind: str) -> None:
    """Leaving out one row at a time, its siblings would tell its value, and no strength would be too weak."""
    rng = np.random.default_rng(1)
    thing, place, own = np.repeat(np.arange(80), 6), rng.normal(size=(80, 5)), rng.normal(size=80)
    columns = place[thing] + 0.02 * rng.normal(size=(480, 5))
    truth, fit = own[thing] - own.mean(), thing < 60
    wide = np.concatenate([columns, np.tanh(3 * columns @ rng.normal(size=(5, 120)))], axis=1)

    def loss(unit: np.ndarray | None) -> float:
        if kind == "ridge":
            predicted = fit_ridge(wide[fit], truth[fit], unit=unit).predict(wide[~fit])
        else:
            rows = Similarity(numbers=columns, levels=np.zeros((480, 0), np.int64), photos=np.zeros((480, 0)))
            model = fit_kernels(rows.take(np.flatnonzero(fit)), truth[fit], unit=unit)
            predicted = model.predict(rows.take(np.flatnonzero(~fit)))
        return float(((truth[~fit] - predicted) ** 2).mean())

    honest = loss(thing[fit])
    assert honest < 1.3 * float((truth[~fit] ** 2).mean())
    assert loss(None) > 1.5 * honest


def test_the_fifth_that_chooses_a_logistic_regression_holds_whole_units() -> None:
    rng = np.random.default_rng(0)
    thing = np.repeat(np.arange(80), 6)
    columns = rng.normal(size=(80, 5))[thing] + 0.02 * rng.normal(size=(480, 5))
    wide = np.concatenate([columns, np.tanh(columns @ rng.normal(size=(5, 60)))], axis=1)
    truth, fit = rng.integers(0, 2, 80)[thing], thing < 60

    def loss(unit: np.ndarray | None) -> float:
        model = fit_logistic(wide[fit], truth[fit], classes=2, unit=unit)
        return float(-np.log(model.predict(wide[~fit])[np.arange(120), truth[~fit]]).mean())

    assert loss(thing[fit]) < 0.8
    assert loss(None) > 1.2 * loss(thing[fit])


@drawn
@given(seed=SEEDS, rows=st.integers(2, 30), columns=st.integers(1, 30))
def test_a_decomposition_gives_the_columns_back(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    values, target = rng.normal(size=(rows, columns)), rng.normal(size=rows)
    sizes, axes, along = linear_module._decomposed(lambda some: values[some], target, columns)
    left = values @ axes.T / sizes
    np.testing.assert_allclose(left.T @ target, along, atol=1e-5)
    np.testing.assert_allclose(left * sizes @ axes, values, atol=1e-6)
    np.testing.assert_allclose(left.T @ left, np.eye(len(sizes)), atol=1e-5)


def test_logistic_regression_compares_penalties_on_some_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(1_200, 10))
    truth = (columns[:, :3].sum(axis=1) + rng.logistic(size=1_200) > 0).astype(np.int64)
    whole = fit_logistic(columns, truth, classes=2, seed=1)
    monkeypatch.setattr(linear_module, "_FEWEST_TRIED", 400)
    monkeypatch.setattr(linear_module, "_TRIED_SIZE", 0)
    seen, fit = [], linear_module._logistic

    def watched(columns: np.ndarray, *rest: Any, **settings: Any) -> Any:
        seen.append(len(columns))
        return fit(columns, *rest, **settings)

    monkeypatch.setattr(linear_module, "_logistic", watched)
    some = fit_logistic(columns, truth, classes=2, seed=1)
    assert seen[-1] == 1_200
    assert max(seen[:-1]) < 400
    np.testing.assert_allclose(some.predict(columns), whole.predict(columns), atol=0.06)


def test_wide_logistic_regression_compares_penalties_roughly_and_fits_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    columns = rng.normal(size=(150, linear_module.WIDE + 1))
    truth = np.digitize(columns[:, 0] + 0.5 * rng.normal(size=150), [-0.5, 0.5])
    steps, fit = [], linear_module._logistic

    def watched(*given: Any, **settings: Any) -> Any:
        model = fit(*given, **settings)
        steps.append(int(model.n_iter_[0]))
        return model

    monkeypatch.setattr(linear_module, "_logistic", watched)
    rough = fit_logistic(csr_matrix(columns), truth, classes=3)
    tried, compared = len(steps) - 1, sum(steps[:-1])
    steps.clear()
    monkeypatch.setattr(linear_module, "_ROUGH_GRADIENT", linear_module._GRADIENT)
    exact = fit_logistic(csr_matrix(columns), truth, classes=3)
    assert (len(steps) - 1, 0 < compared < sum(steps[:-1])) == (tried, True)
    np.testing.assert_allclose(rough.weights, exact.weights, atol=1e-9)


def test_ridge_regression_in_blocks_of_rows_is_that_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    columns, unit = rng.normal(size=(300, 20)), np.repeat(np.arange(100), [1, 2, 6] * 33 + [3])[:300]
    truth, weight = columns[:, :3].sum(axis=1) + rng.normal(size=300), rng.uniform(0.5, 2.0, 300)
    whole = fit_ridge(columns, truth, weight, unit=unit)
    monkeypatch.setattr(linear_module, "_BLOCK", 7)
    np.testing.assert_allclose(fit_ridge(columns, truth, weight, unit=unit).weights, whole.weights, atol=1e-12)
    # Fewer rows choose the penalty, but all are fitted.
    monkeypatch.setattr(linear_module, "_LEFT_OUT_ROWS", 60)
    some = fit_ridge(columns, truth, weight, unit=unit)
    np.testing.assert_allclose(some.predict(columns), whole.predict(columns), atol=0.1)
    assert np.corrcoef(some.predict(columns), whole.predict(columns))[0, 1] > 0.99


@drawn
@given(seed=SEEDS, factor=st.sampled_from([0.1, 7.0]))
def test_ridge_regression_does_not_depend_on_the_unit_of_weights_nor_on_the_order_of_rows(
    seed: int, factor: float
) -> None:
    rng = np.random.default_rng(seed)
    columns, truth, weight = rng.normal(size=(40, 5)), rng.normal(size=40), rng.uniform(0.5, 2.0, 40)
    order = rng.permutation(40)
    one = fit_ridge(columns, truth, weight)
    other = fit_ridge(columns[order], truth[order], factor * weight[order])
    np.testing.assert_allclose(one.weights, other.weights, atol=1e-8)
