"""The blend of out-of-fold predictions: never far from the best of its models, and honest about itself."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.ensemble.blend import Blend, ModelPredictions, gain, row_losses
from mixfit.ensemble.blend import blend as blend_models
from mixfit.training.metrics import LOG_LOSS


def blend(truth: np.ndarray, predictions: dict[str, np.ndarray], fold: np.ndarray, **options: Any) -> Blend:
    models = {name: ModelPredictions(raw=values) for name, values in predictions.items()}
    return blend_models(truth, models, fold, **options)


def noisy(truth: np.ndarray, noise: float, seed: int) -> np.ndarray:
    return truth + noise * np.random.default_rng(seed).normal(size=len(truth))


SEEDS = st.integers(0, 10**6)


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_two_independent_models_are_blended_and_a_useless_one_is_left_out(seed: int) -> None:
    truth = np.random.default_rng(seed).normal(size=600)
    models = {"a": noisy(truth, 0.5, seed + 1), "b": noisy(truth, 0.5, seed + 2)}
    predictions = models | {"useless": noisy(truth * 0, 1.0, seed + 3)}
    found = blend(truth, predictions, np.arange(600) % 5)
    assert set(found.shares) >= {"a", "b"}
    assert found.shares.get("useless", 0.0) < 0.15
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert found.losses.mean() < 0.7 * row_losses(truth, predictions["a"]).mean()


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(5, 60), folds=st.integers(2, 5), wrong=st.floats(-10, 10))
def test_a_single_model_has_the_whole_share(rows: int, folds: int, wrong: float) -> None:
    truth = np.arange(float(rows))
    found = blend(truth, {"a": truth + wrong}, np.arange(rows) % folds)
    assert found.shares == {"a": 1.0}
    np.testing.assert_allclose(found.losses, wrong**2, rtol=1e-6, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_the_honest_loss_is_hardly_worse_than_that_of_the_best_model(seed: int, models: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=200)
    predictions = {str(k): noisy(truth, rng.uniform(0.2, 2.0), seed + k + 1) for k in range(models)}
    found = blend(truth, predictions, np.arange(200) % 5)
    best = min(row_losses(truth, values).mean() for values in predictions.values())
    assert found.losses.mean() <= best * 1.1


def test_the_honest_loss_does_not_see_the_rows_that_it_is_of() -> None:
    """Random models look useful by chance on the rows that chose them, and on others they do not."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=60)
    predictions = {str(number): 0.5 * rng.normal(size=60) for number in range(200)}
    predictions["mean"] = np.zeros(60)
    found = blend(truth, predictions, np.arange(60) % 5)
    chosen = sum(share * predictions[name] for name, share in found.shares.items())
    assert row_losses(truth, np.asarray(chosen)).mean() <= found.losses.mean()
    assert found.losses.mean() > 0.8 * (truth**2).mean()


def test_classes_are_blended_by_probabilities() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    good = np.full((300, 3), 0.2)
    good[np.arange(300), truth] = 0.6
    flat = np.full((300, 3), 1 / 3)
    found = blend(truth, {"flat": flat, "good": good}, np.arange(300) % 5)
    assert found.shares == {"good": 1.0}
    np.testing.assert_allclose(row_losses(truth, found.predictions), -np.log(0.6))
    assert (found.losses < 0.05).all()  # at its temperature it is as sure as it may be


@settings(max_examples=10, deadline=None)
@given(place=st.integers(20, 80))
def test_weights_decide_which_rows_matter(place: int) -> None:
    truth = np.zeros(100)
    first, second = np.zeros(100), np.zeros(100)
    first[place:], second[:place] = 1.0, 1.0  # each is right on one part
    weight = np.where(np.arange(100) < place, 1.0, 1e-6)
    assert blend(truth, {"first": first, "second": second}, np.arange(100) % 5, weight=weight).shares == {"first": 1.0}


@given(seed=SEEDS, rows=st.integers(2, 60), times=st.integers(2, 4))
def test_the_gain_has_the_standard_error_of_a_mean_over_groups(seed: int, rows: int, times: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.random(rows), rng.random(rows)
    found = gain(before, after, np.arange(rows))
    difference = before - after
    assert found.mean == pytest.approx(difference.mean())
    assert found.error == pytest.approx(difference.std(ddof=1) / np.sqrt(rows))
    more = gain(np.repeat(before, times), np.repeat(after, times), np.repeat(np.arange(rows), times))
    assert more.error == pytest.approx(found.error)
    assert gain(before, after, np.zeros(rows, dtype=np.int64)).error == float("inf")


def test_the_weights_are_those_of_the_rows_that_are_scored() -> None:
    """Forward in time the first block is predicted from few rows, where another model is the best."""
    truth = np.random.default_rng(0).normal(size=200)
    fold = np.repeat([0, 1, 2, 3], 50)
    early, late = noisy(truth, 0.1, 1), noisy(truth, 0.6, 2)
    early[50:], late[:50] = noisy(truth, 1.5, 3)[50:], noisy(truth, 40.0, 4)[:50]
    learns = [fold < number for number in range(4)]
    found = blend(truth, {"early": early, "late": late}, fold, learns_from=learns)
    assert np.isnan(found.losses[:50]).all()
    assert found.shares["late"] > 0.8


def test_the_log_loss_of_a_model_is_that_of_the_metrics() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([0.02, 0.02, 0.02], 300)
    truth = rng.integers(0, 3, 300)
    assert row_losses(truth, probabilities).mean() == pytest.approx(LOG_LOSS.value(truth, probabilities))
    assert row_losses(truth, probabilities).max() > 20
