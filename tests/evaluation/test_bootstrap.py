"""Resamples by counts give what the metric itself gives on the rows that were drawn."""

import math

import numpy as np
import pytest
from bootstrap_ends import bootstrap_difference, bootstrap_interval

from mixfit.ensemble.calibration import calibration_error, judged_probability, reliability
from mixfit.evaluation.bootstrap import FEWEST_UNITS, _values, resampled, why_no_interval
from mixfit.training.metrics import (
    ACCURACY,
    AUC,
    CLASSIFICATION_METRICS,
    MAE,
    MAPE,
    R2,
    R2_LOG,
    REGRESSION_METRICS,
    Metric,
)

RANDOM = np.random.default_rng(0)


def numbers(rows: int) -> tuple[np.ndarray, np.ndarray]:
    truth = RANDOM.lognormal(3, 1, rows)
    return truth, truth * RANDOM.lognormal(0, 0.3, rows)


def classes(rows: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    truth = RANDOM.integers(0, count, rows)
    raw = RANDOM.random((rows, count)).round(1) + 0.05  # with ties
    raw[np.arange(rows), truth] += 0.4
    return truth, raw / raw.sum(1, keepdims=True)


def drawn(rows: int, resamples: int = 7) -> np.ndarray:
    return RANDOM.multinomial(rows, np.full(rows, 1 / rows), size=resamples).astype(np.float64)


@pytest.mark.parametrize("metric", [*REGRESSION_METRICS, R2_LOG], ids=lambda metric: metric.name)
def test_numbers_by_counts_are_those_of_the_metric_itself(metric: Metric) -> None:
    truth, prediction = numbers(40)
    check(metric, truth, prediction)


@pytest.mark.parametrize("metric", CLASSIFICATION_METRICS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("count", [2, 5])
def test_classes_by_counts_are_those_of_the_metric_itself(metric: Metric, count: int) -> None:
    truth, probabilities = classes(30, count)
    if metric == AUC and count > 2:
        assert resampled(metric, truth, probabilities) is None
    else:
        check(metric, truth, probabilities)


def check(metric: Metric, truth: np.ndarray, prediction: np.ndarray) -> None:
    counts, quick = drawn(len(truth)), resampled(metric, truth, prediction)
    assert quick is not None
    expected = []
    for count in counts.astype(int):
        rows = np.repeat(np.arange(len(truth)), count)
        expected.append(metric.function(truth[rows], prediction[rows]))
    np.testing.assert_allclose(quick(counts), expected, rtol=1e-9)


def test_what_the_metric_cannot_compute_is_nan_in_every_resample() -> None:
    truth, prediction = numbers(10)
    truth[3] = 0
    for metric in (MAPE, R2_LOG):
        quick = resampled(metric, truth, prediction)
        assert quick is not None
        assert np.isnan(quick(drawn(10))).all()
    constant = resampled(R2, np.full(10, 7.0), prediction)
    assert constant is not None
    assert np.isnan(constant(drawn(10))).all()


def test_rows_of_one_group_are_drawn_together() -> None:
    truth = np.zeros(200)
    prediction = np.repeat(RANDOM.normal(size=20), 10)  # ten rows each with the same error
    groups = np.repeat(np.arange(20), 10)
    alone = bootstrap_interval(MAE, truth, prediction)
    together = bootstrap_interval(MAE, truth, prediction, groups=groups)
    assert (together[1] - together[0]) > 2 * (alone[1] - alone[0])
    expected = bootstrap_interval(MAE, truth[::10], prediction[::10])
    assert together == pytest.approx(expected)


def test_one_group_has_no_interval() -> None:
    truth, prediction = numbers(10)
    assert all(map(math.isnan, bootstrap_interval(MAE, truth, prediction, groups=np.zeros(10, dtype=np.int64))))


@pytest.mark.parametrize("per_group", [1, 30])
def test_few_units_have_no_interval_however_many_rows_they_are(per_group: int) -> None:
    for units in (2, 3, FEWEST_UNITS - 1, FEWEST_UNITS):
        truth, prediction = numbers(units * per_group)
        groups = np.repeat(np.arange(units), per_group)
        ends = (
            *bootstrap_interval(MAE, truth, prediction, groups=groups),
            *bootstrap_difference(MAE, truth, prediction, truth + 1, groups=groups),
        )
        assert [math.isnan(end) for end in ends] == [units < FEWEST_UNITS] * 4


def test_the_area_of_many_classes_has_no_interval_and_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (2, 3):
        truth, probabilities = classes(60, count)
        monkeypatch.setattr("mixfit.evaluation.bootstrap._values", _values if count == 2 else pytest.fail)
        ends = (
            *bootstrap_interval(AUC, truth, probabilities),
            *bootstrap_difference(AUC, truth, probabilities, probabilities[::-1]),
        )
        assert [math.isnan(end) for end in ends] == [count == 3] * 4


def test_groups_that_do_not_differ_are_seldom_told_apart() -> None:
    """The true difference is 0, and the rows of a group share what makes one model better there."""
    found = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        units = int(random.integers(2, 2 * FEWEST_UNITS))
        apart = np.repeat(random.normal(size=units), 30) + 0.1 * random.normal(size=units * 30)
        groups = np.repeat(np.arange(units), 30)
        ends = bootstrap_difference(MAE, np.zeros(units * 30), 9 + apart, np.full(units * 30, 9.0), groups=groups)
        found += ends[0] > 0 or ends[1] < 0
    assert found <= 20  # one in ten; with intervals of two groups and more there are 29


def test_the_difference_is_paired_over_groups_too() -> None:
    truth = numbers(60)[0]
    groups = np.repeat(np.arange(12), 5)
    low, high = bootstrap_difference(MAE, truth, truth + 3, truth + 3.5, groups=groups)
    assert low == pytest.approx(-0.5)
    assert high == pytest.approx(-0.5)


def test_a_metric_of_ones_own_is_resampled_row_by_row() -> None:
    own = Metric("worst", lambda truth, prediction: float(np.abs(truth - prediction).max()), higher_is_better=False)
    truth, prediction = numbers(25)
    low, high = bootstrap_interval(own, truth, prediction)
    assert low <= high == np.abs(truth - prediction).max()


def test_calibrated_probabilities_have_a_small_error_and_their_bins_hold_all_rows() -> None:
    probability = RANDOM.random(20_000)
    came_true = RANDOM.random(20_000) < probability
    bins = reliability(probability, came_true)
    assert sum(one.count for one in bins) == 20_000
    assert calibration_error(bins) < 0.02
    assert calibration_error(reliability(probability, ~came_true)) > 0.3
    first = came_true[probability < 0.1]
    assert bins[0].observed == pytest.approx(first.mean())
    assert math.isnan(calibration_error([]))


def test_calibration_is_judged_by_the_second_of_two_classes_and_by_the_predicted_one_of_more() -> None:
    probability, came_true = judged_probability(np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]))
    assert probability.tolist() == [0.1, 0.2]
    assert came_true.tolist() == [False, True]
    probability, came_true = judged_probability(np.array([0, 2]), np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3]]))
    assert probability.tolist() == [0.7, 0.5]
    assert came_true.tolist() == [True, False]


def test_accuracy_has_an_interval_around_its_value() -> None:
    truth, probabilities = classes(300, 3)
    low, high = bootstrap_interval(ACCURACY, truth, probabilities)
    assert low < ACCURACY.function(truth, probabilities) < high


def test_the_lack_of_an_interval_has_its_reason() -> None:
    random = np.random.default_rng(0)
    three, numbers = random.dirichlet(np.ones(3), 50), random.normal(size=50)
    assert why_no_interval(AUC, three, 50) == "it would take too long for more than two classes"
    assert why_no_interval(R2, numbers[:4], 4) == f"fewer than {FEWEST_UNITS} rows or groups"
    assert why_no_interval(R2, numbers, 50) == "it cannot be computed"
