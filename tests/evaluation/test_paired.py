"""Models on the same rows."""

import math

import numpy as np
import pytest

from mixfit.evaluation.bootstrap import paired_scores
from mixfit.training.metrics import ACCURACY, AUC, CLASSIFICATION_METRICS, MAE, REGRESSION_METRICS, evaluate

RANDOM = np.random.default_rng(0)
TRUTH = RANDOM.lognormal(size=200)
GOOD, BAD = TRUTH * np.exp(0.1 * RANDOM.normal(size=(200,))), TRUTH * np.exp(0.5 * RANDOM.normal(size=(200,)))


def test_a_model_does_not_differ_from_itself() -> None:
    found = paired_scores(TRUTH, {"a": GOOD, "b": GOOD}, REGRESSION_METRICS, MAE)
    assert [(one.value, one.low, one.high, one.finding) for one in found.differences] == [(0, 0, 0, "equal")] * 4


def test_better_and_worse_are_told_by_the_direction_of_the_metric() -> None:
    worse = paired_scores(TRUTH, {"good": GOOD, "bad": BAD}, REGRESSION_METRICS, MAE)
    better = paired_scores(TRUTH, {"bad": BAD, "good": GOOD}, REGRESSION_METRICS, MAE)
    assert [one.finding for one in worse.differences] == ["worse"] * 4
    assert [one.finding for one in better.differences] == ["better"] * 4
    by_metric = {one.metric: one.value for one in worse.differences}
    assert by_metric["mae"] > 0 > by_metric["r2"]
    assert [one.metric for one in worse.of_headline()] == ["mae"]


def test_values_are_the_metrics_and_the_interval_is_around_the_difference() -> None:
    found = paired_scores(TRUTH, {"good": GOOD, "bad": BAD}, REGRESSION_METRICS, MAE)
    assert found.standings[1].metrics == evaluate(REGRESSION_METRICS, TRUTH, BAD)
    for one in found.differences:
        values = [standing.metrics[one.metric] for standing in found.standings]
        assert one.value == values[1] - values[0]
        assert one.low < one.value < one.high


def test_pairs_are_told_apart_that_single_intervals_do_not() -> None:
    shared = RANDOM.normal(size=200)
    found = paired_scores(TRUTH, {"a": TRUTH + 3 + shared, "b": TRUTH + 3.1 + shared}, (MAE,), MAE)
    (low, high), (other_low, _) = (one.intervals["mae"] for one in found.standings)
    assert low < other_low < high
    assert found.differences[0].finding == "worse"


def test_a_small_difference_is_noise() -> None:
    errors = RANDOM.normal(size=200)
    found = paired_scores(TRUTH, {"a": TRUTH + errors, "b": TRUTH + errors[::-1]}, (MAE,), MAE)
    assert found.differences[0].finding == "within noise"


def test_what_cannot_be_computed_is_unknown() -> None:
    one_class = np.zeros(30, dtype=np.int64)
    probabilities = RANDOM.dirichlet(np.ones(2), (2, 30))
    found = paired_scores(one_class, {"a": probabilities[0], "b": probabilities[1]}, CLASSIFICATION_METRICS, ACCURACY)
    by_metric = {one.metric: one for one in found.differences}
    assert by_metric[AUC.name].finding == "unknown"
    assert math.isnan(by_metric[AUC.name].low)


@pytest.mark.parametrize("per_group", [1, 5])
def test_rows_of_a_group_are_drawn_together(per_group: int) -> None:
    groups = np.arange(200) // per_group
    found = paired_scores(TRUTH, {"a": GOOD, "b": BAD}, (MAE,), MAE, together=groups)
    assert (found.rows, found.drawn) == (200, 200 // per_group)
