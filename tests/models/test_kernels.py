"""Kernel ridge regression far from its training rows: bounded by the range of the training targets."""

from dataclasses import replace

import numpy as np
import pytest

from mixfit.errors import DataError
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
