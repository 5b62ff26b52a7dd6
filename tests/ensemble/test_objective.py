"""What the weights of a blend minimise, each against scikit-learn, and that the weights follow it."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_absolute_percentage_error, mean_squared_error, roc_auc_score

from mixfit.ensemble.blend import ModelPredictions, blend
from mixfit.ensemble.objective import metric_objective
from mixfit.training.metrics import ACCURACY, AUC, F1, LOG_LOSS, MAE, MAPE, RMSE, Metric

NUMBERS = [(MAE, mean_absolute_error), (MAPE, mean_absolute_percentage_error), (RMSE, mean_squared_error)]


@pytest.mark.parametrize(("metric", "reference"), NUMBERS, ids=[metric.name for metric, _ in NUMBERS])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_errors_are_those_of_the_unit_of_the_target(metric: Metric, reference: Callable[..., float], seed: int) -> None:
    random = np.random.default_rng(seed)
    truth, models, counts = random.normal(size=30), random.normal(size=(3, 30)), random.uniform(0.1, 2, 30)
    objective = metric_objective(metric, np.exp, np.exp, classes=0)
    assert objective is not None
    found = objective.mean(models, truth, counts / counts.sum())
    wanted = [reference(np.exp(truth), np.exp(one), sample_weight=counts) for one in models]
    np.testing.assert_allclose(found, wanted)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_ranking_is_that_of_the_roc_curve_and_a_tenth_of_the_log_loss(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = np.append(random.integers(0, 2, 40), [0, 1])
    models, counts = random.uniform(0.01, 0.99, (2, 42)).round(1).clip(0.01, 0.99), random.uniform(0.1, 2, 42)
    objective = metric_objective(AUC, np.exp, np.exp, classes=2)
    assert objective is not None
    found = objective.mean(models, truth, counts)
    for value, one in zip(found, models, strict=True):
        area = roc_auc_score(truth, one, sample_weight=counts)
        loss = -(np.log(np.where(truth == 1, one, 1 - one)) * counts).sum()
        assert value == pytest.approx((1 - area) * counts.sum() + 0.1 * loss)


def test_the_weights_follow_the_loss_where_a_metric_is_too_slow_or_counts_decisions() -> None:
    assert metric_objective(AUC, np.exp, np.exp, classes=3) is None
    assert all(metric_objective(metric, np.exp, np.exp, classes=2) is None for metric in (F1, ACCURACY, LOG_LOSS))


def test_a_blend_for_the_absolute_error_ignores_a_few_wild_rows() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=500)
    steady, wild = truth + random.normal(0, 0.8, 500), truth + random.normal(0, 0.3, 500)
    wild[::50] += 12  # seldom far off: worse by squares, better by absolute errors
    models = {"steady": ModelPredictions(raw=steady), "wild": ModelPredictions(raw=wild)}
    objective = metric_objective(MAE, lambda values: values, lambda values: values, classes=0)
    by_squares, by_size = (blend(truth, models, np.arange(500) % 5, objective=one) for one in (None, objective))
    assert by_size.shares["wild"] > by_squares.shares["wild"] + 0.2
    errors = [np.abs(found.predictions - truth).mean() for found in (by_size, by_squares)]
    assert errors[0] < errors[1]


def test_a_constant_gets_no_share_in_a_blend_for_the_ranking() -> None:
    random = np.random.default_rng(1)
    truth = (random.random(600) < 0.15).astype(np.int64)
    score = 1 / (1 + np.exp(2.2 - 2 * truth - random.normal(size=600)))
    models = {
        name: ModelPredictions(raw=np.stack([1 - one, one], axis=1), temperatures=np.ones(5))
        for name, one in {"constant": np.full(600, 0.15), "scores": score}.items()
    }
    objective = metric_objective(AUC, np.exp, np.exp, classes=2)
    assert blend(truth, models, np.arange(600) % 5, objective=objective).shares.get("constant", 0.0) < 0.2
