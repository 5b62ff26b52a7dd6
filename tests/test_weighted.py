import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.weighted import weighted_mean, weighted_median, weighted_quantile

SHARES = (0.0, 0.1, 0.25, 0.5, 0.9, 1.0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 4)), min_size=1, max_size=30), st.floats(0.01, 100))
def test_a_weight_counts_as_so_many_rows_whatever_their_unit(rows: list[tuple[int, int]], factor: float) -> None:
    values, counts = np.array(rows, dtype=np.float64).T
    if not counts.any():
        counts[0] = 1
    repeated = np.repeat(values, counts.astype(np.int64))
    float32 = (counts * factor).astype(np.float32)
    for weight in (counts, counts * factor, float32):
        np.testing.assert_array_equal(weighted_quantile(values, SHARES, weight), weighted_quantile(repeated, SHARES))
        assert weighted_median(values, weight) == np.median(repeated)
        assert weighted_mean(values, weight) == pytest.approx(repeated.mean(), abs=1e-6)


def test_quantiles_of_columns_are_those_of_each_column() -> None:
    values = np.random.default_rng(0).normal(size=(40, 3))
    weight = np.random.default_rng(1).random(40)
    for given_weight in (None, weight):
        found = weighted_quantile(values, SHARES, given_weight)
        assert found.shape == (6, 3)
        for column in range(3):
            np.testing.assert_array_equal(found[:, column], weighted_quantile(values[:, column], SHARES, given_weight))


def test_the_middle_of_two_huge_numbers_does_not_overflow() -> None:
    assert weighted_median(np.array([1.5e308, 1.7e308])) == 1.6e308


def test_a_mean_of_nothing_is_nan() -> None:
    assert np.isnan(weighted_mean(np.zeros(0)))
    assert np.isnan(weighted_mean(np.ones(2), np.zeros(2)))
