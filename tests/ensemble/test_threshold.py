"""The decision threshold of two classes: the best one, and honest on the rows that it was chosen on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.ensemble.threshold import best_threshold, cross_fitted, decide, parts_of_units
from mixfit.training.metrics import ACCURACY, BALANCED_ACCURACY, F1, LOG_LOSS, MACRO_F1, Metric, decided

DECISIONS = [ACCURACY, BALANCED_ACCURACY, F1, MACRO_F1]


def drawn(seed: int, rows: int, share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = (random.random(rows) < share).astype(np.int64)
    positive = np.clip(0.25 * truth + random.normal(0.3, 0.2, rows), 0.001, 0.999).round(2)
    return truth, np.stack([1 - positive, positive], axis=1)


@pytest.mark.parametrize("metric", DECISIONS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("weighted", [False, True])
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(4, 60))
def test_no_other_threshold_is_better(metric: Metric, weighted: bool, seed: int, rows: int) -> None:
    truth, found = drawn(seed, rows)
    weight = np.random.default_rng(seed).uniform(0.1, 3, rows) if weighted else None
    chosen = best_threshold(truth, found[:, 1], metric, weight)

    def value(threshold: float) -> float:
        return metric.value(truth, decided(decide(found, threshold), 2), weight)

    assert (
        value(chosen) >= max(value(one) for one in np.linspace(0.005, 0.995, 67)) - 1e-9
        or len(set(truth.tolist())) == 1
    )
    assert value(chosen) >= value(0.5) - 1e-9


@pytest.mark.parametrize("metric", DECISIONS, ids=lambda metric: metric.name)
def test_with_one_class_only_the_threshold_stays_one_half(metric: Metric) -> None:
    assert best_threshold(np.ones(9, dtype=np.int64), np.linspace(0, 1, 9), metric) == 0.5


def test_a_threshold_of_a_probability_is_refused() -> None:
    truth, found = drawn(0, 50)
    with pytest.raises(ValueError, match="log_loss has no threshold"):
        best_threshold(truth, found[:, 1], LOG_LOSS)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_threshold_of_a_fold_does_not_depend_on_its_rows(seed: int) -> None:
    truth, found = drawn(seed, 80)
    fold = np.arange(80) % 4
    changed = np.where(fold == 2, 1 - truth, truth)
    before, after = (cross_fitted(labels, found, F1, fold).of_row for labels in (truth, changed))
    np.testing.assert_array_equal(before[fold == 2], after[fold == 2])
    assert len(np.unique(before[fold == 2])) == 1


def test_a_fold_that_may_learn_from_no_rows_decides_at_one_half() -> None:
    truth, found = drawn(1, 60)
    fold = np.arange(60) // 20
    earlier = [fold < number for number in range(3)]
    chosen = cross_fitted(truth, found, F1, fold, learns_from=earlier)
    assert (chosen.of_row[fold == 0] == 0.5).all()
    assert (chosen.of_row[fold == 2] == best_threshold(truth[fold < 2], found[fold < 2, 1], F1)).all()


def test_rows_of_one_unit_are_in_one_part() -> None:
    unit = np.repeat(np.arange(40), 3)
    parts = parts_of_units(unit, 7).reshape(40, 3)
    assert (parts == parts[:, :1]).all()
    assert set(parts[:, 0].tolist()) == set(range(5))
