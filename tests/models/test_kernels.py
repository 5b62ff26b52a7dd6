"""Kernel ridge regression: far from its training rows, on classes, and with landmarks in place of many rows."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge

from mixfit.data.ties import units_by_size
from mixfit.errors import DataError
from mixfit.models import kernels as kernels_module
from mixfit.models.kernels import KernelModel, Similarity, fit_kernels


def rows_of(numbers: np.ndarray) -> Similarity:
    count = len(numbers)
    return Similarity(numbers=numbers, levels=np.zeros((count, 0), dtype=np.int64), photos=np.zeros((count, 0)))


def test_predictions_far_away_stay_near_the_training_targets_and_those_nearby_are_as_before() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(80, 2))
    truth = 3 * numbers[:, 0] + 0.1 * rng.normal(size=80)
    model = fit_kernels(rows_of(numbers), truth)
    far = rows_of(np.array([[500.0, 0.0], [-500.0, 3.0]]))
    free = replace(model, bounds=None)
    width = np.ptp(truth)
    assert np.abs(free.predict(far)).min() > 20 * width
    np.testing.assert_allclose(model.predict(far), [truth.max() + width, truth.min() - width])
    np.testing.assert_array_equal(model.predict(rows_of(numbers)), free.predict(rows_of(numbers)))
    photos = np.zeros((1, 0))
    mixed = model.predict_mixed(far, photos, np.arange(2), np.zeros(2, dtype=np.int64))
    np.testing.assert_allclose(mixed, model.predict(far))


def test_the_bounds_are_saved_and_models_of_before_have_none() -> None:
    numbers = np.random.default_rng(0).normal(size=(30, 2))
    model = fit_kernels(rows_of(numbers), numbers[:, 0])
    arrays = model.arrays()
    assert KernelModel.read(arrays, (2, 0, 0)).bounds == model.bounds
    del arrays["model.bounds"]
    assert KernelModel.read(arrays, (2, 0, 0)).bounds is None
    with pytest.raises(DataError, match="in the wrong order"):
        KernelModel.read(arrays | {"model.bounds": np.array([1.0, -1.0])}, (2, 0, 0))


def of_classes(count: int, seed: int) -> tuple[Similarity, np.ndarray]:
    """Three classes that lie on rings, told apart by no linear model, and a level that shifts them."""
    rng = np.random.default_rng(seed)
    numbers, levels = rng.normal(size=(count, 2)), rng.integers(1, 4, (count, 1))
    radius = np.sqrt((numbers**2).sum(axis=1)) + 0.3 * (levels[:, 0] == 2) + 0.05 * rng.normal(size=count)
    rows = Similarity(numbers=numbers, levels=levels, photos=np.zeros((count, 0)))
    return rows, np.digitize(radius, [0.8, 1.5]).astype(np.int64)


def log_loss(truth: np.ndarray, found: np.ndarray) -> float:
    return float(-np.log(found[np.arange(len(truth)), truth]).mean())


def test_classes_are_regressed_on_as_indicators_and_told_apart() -> None:
    rows, truth = of_classes(300, 0)
    new, unseen = of_classes(500, 1)
    model = fit_kernels(rows, truth, classes=3)
    found = model.predict(new)
    assert found.shape == (500, 3)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert (found.argmax(axis=1) == unseen).mean() > 0.7
    assert log_loss(unseen, found) < 0.6 * np.log(3)
    kernel = kernels_module._total(kernels_module._kernels(rows, rows), model.shares)
    crossed = kernels_module._total(kernels_module._kernels(new, rows), model.shares)
    goal = np.eye(3)[truth]
    reached = []
    for strength in kernels_module._STRENGTHS:
        reference = KernelRidge(alpha=strength, kernel="precomputed").fit(kernel, goal - goal.mean(0))
        outputs = np.clip(reference.predict(crossed) + goal.mean(0), -1.0, 2.0)
        reached.append(np.abs(softmax(model.inverse_temperature * outputs, axis=1) - found).max())
    assert min(reached) < 1e-8


def test_the_temperature_is_the_best_for_rows_left_out() -> None:
    rows, truth = of_classes(200, 0)
    model = fit_kernels(rows, truth, classes=3)
    kernel = kernels_module._total(kernels_module._kernels(rows, rows), model.shares)
    goal = np.eye(3)[truth] - model.bias
    _, strength = kernels_module._left_out(kernel, goal, units_by_size(np.arange(200)))
    outputs = np.empty((200, 3))
    for out in range(200):
        rest = np.arange(200) != out
        dual = np.linalg.solve(kernel[np.ix_(rest, rest)] + strength * np.eye(199), goal[rest])
        outputs[out] = kernel[out, rest] @ dual + model.bias
    assert model.inverse_temperature is not None
    losses = [
        log_loss(truth, softmax(model.inverse_temperature * factor * outputs, axis=1)) for factor in (0.95, 1.0, 1.05)
    ]
    assert losses[1] == min(losses)


def test_labels_at_random_give_the_shares_of_the_classes() -> None:
    rows, _ = of_classes(300, 0)
    truth = (np.random.default_rng(5).uniform(size=300) < 0.3).astype(np.int64)
    found = fit_kernels(rows, truth, classes=2).predict(of_classes(300, 1)[0])
    constant = np.tile([1 - truth.mean(), truth.mean()], (300, 1))
    fresh = (np.random.default_rng(6).uniform(size=300) < 0.3).astype(np.int64)
    assert log_loss(fresh, found) < log_loss(fresh, constant) + 0.05


def test_a_class_without_rows_and_a_class_of_one_row_are_predicted_all_the_same() -> None:
    rows, truth = of_classes(120, 0)
    truth = np.where(np.arange(120) == 7, 4, truth)
    found = fit_kernels(rows, truth, classes=5).predict(rows)
    assert found.shape == (120, 5)
    assert np.isfinite(found).all()
    assert found[:, 3].mean() < 0.05
    alone = fit_kernels(rows, np.zeros(120, dtype=np.int64), classes=2).predict(rows)
    assert (alone[:, 0] > 0.9).all()


def test_weights_of_classes_are_shares_of_a_distribution() -> None:
    rows, truth = of_classes(150, 0)
    weight = np.random.default_rng(0).uniform(0.1, 2.0, 150)
    found = fit_kernels(rows, truth, weight, classes=3).predict(rows)
    np.testing.assert_allclose(fit_kernels(rows, truth, 7 * weight, classes=3).predict(rows), found, atol=1e-9)
    nothing = np.where(np.arange(150) < 100, 1.0, 0.0)
    spoiled = np.where(nothing > 0, truth, 2 - truth)
    few = fit_kernels(rows.take(np.arange(100)), truth[:100], classes=3)
    apart = fit_kernels(rows, spoiled, nothing, classes=3).predict(rows.take(np.arange(100)))
    assert log_loss(truth[:100], apart) < 1.5 * log_loss(truth[:100], few.predict(rows.take(np.arange(100)))) + 0.05


@pytest.mark.parametrize("classes", [0, 3])
def test_models_come_back_from_their_arrays(classes: int) -> None:
    rows, truth = of_classes(90, 0)
    model = fit_kernels(rows, truth if classes else truth + 0.5, classes=classes)
    arrays = model.arrays()
    again = KernelModel.read(arrays, (2, 1, 0), classes=classes)
    np.testing.assert_array_equal(again.predict(rows), model.predict(rows))
    with pytest.raises(DataError, match=r"model\.dual"):
        KernelModel.read(arrays, (2, 1, 0), classes=4)
    if classes:
        with pytest.raises(DataError, match=r"'model\.inverse_temperature' is missing"):
            KernelModel.read(
                {k: v for k, v in arrays.items() if k != "model.inverse_temperature"}, (2, 1, 0), classes=classes
            )
        assert arrays["model.dual"].shape == (90, 3)
    else:
        assert arrays["model.dual"].shape == (90,)


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_landmarks_are_ridge_regression_on_their_kernels(
    classes: int, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against scikit-learn's ridge regression on the kernels, whitened by the root of those of the landmarks."""
    monkeypatch.setattr(kernels_module, "_LANDMARK_BLOCK", 60 * 77)  # four blocks, the last one smaller
    rows, truth = of_classes(250, 0)
    new, _ = of_classes(40, 1)
    weight = np.random.default_rng(3).uniform(0.2, 3.0, 250) if weighted else None
    values = np.eye(3)[truth] if classes else (truth + rows.numbers[:, 0])[:, None]
    model = fit_kernels(rows, truth if classes else values[:, 0], weight, classes=classes, kept=60, seed=4)
    assert len(model.train.numbers) == 60

    def kernel(some: Similarity) -> np.ndarray:
        return kernels_module._total(kernels_module._kernels(some, model.train), model.shares)

    counts = np.ones(250) if weight is None else weight / weight.mean()
    bias = np.average(values, axis=0, weights=counts)
    own = kernel(model.train)
    sizes, axes = np.linalg.eigh(own + kernels_module._ROUNDING * np.trace(own) / 60 * np.eye(60))
    reached = []
    for strength in kernels_module._STRENGTHS:
        ridge = Ridge(alpha=strength, fit_intercept=False)
        ridge.fit(kernel(rows) @ axes / np.sqrt(sizes), values - bias, counts)
        wanted = ridge.predict(kernel(new) @ axes / np.sqrt(sizes)).reshape(40, -1)
        wanted = np.clip(wanted + bias, *model.bounds)
        wanted = softmax(model.inverse_temperature * wanted, axis=1) if classes else wanted[:, 0]
        reached.append(np.abs(wanted - model.predict(new)).max())
    assert sorted(reached)[0] < 1e-5 < 1e-3 < sorted(reached)[1]


def test_almost_all_rows_as_landmarks_are_almost_kernel_ridge_itself() -> None:
    rows, truth = of_classes(150, 0)
    new, _ = of_classes(50, 1)
    exact = fit_kernels(rows, truth, classes=3).predict(new)
    found = fit_kernels(rows, truth, classes=3, kept=149)
    assert len(found.train.numbers) == 149
    assert np.abs(found.predict(new) - exact).mean() < 0.01
    assert np.abs(fit_kernels(rows, truth, classes=3, kept=30).predict(new) - exact).mean() > 0.01


def test_more_rows_than_landmarks_are_worth_something() -> None:
    rows, truth = of_classes(2_000, 0)
    new, unseen = of_classes(1_000, 1)
    few = fit_kernels(rows.take(np.arange(80)), truth[:80], classes=3)
    many = fit_kernels(rows, truth, classes=3, kept=80)
    assert log_loss(unseen, many.predict(new)) < 0.9 * log_loss(unseen, few.predict(new))


def test_separable_classes_are_not_told_with_certainty() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(90) % 3
    numbers = 6 * np.eye(3)[truth] + 0.3 * rng.normal(size=(90, 3))
    rows = Similarity(numbers=numbers, levels=np.zeros((90, 0), dtype=np.int64), photos=np.zeros((90, 0)))
    model = fit_kernels(rows, truth, classes=3)
    found = model.predict(rows)
    assert (found.argmax(axis=1) == truth).all()
    assert 1e-4 < 1 - found.max(axis=1).mean() < 0.05
