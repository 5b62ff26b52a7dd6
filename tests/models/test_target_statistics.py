"""Target statistics: no row knows its own target, means are those of the levels, and few rows are shrunk."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.data.split import Times
from mixfit.errors import DataError
from mixfit.models.dependence import Dependence
from mixfit.models.target_statistics import MOST_CLASSES, TargetStatistics, goal_count


def levels_of(rows: int, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, count, (rows, 1))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), classes=st.sampled_from([0, 2, 5]), units=st.sampled_from([20, 10_000]))
def test_the_columns_of_a_row_do_not_depend_on_the_targets_of_its_unit(seed: int, classes: int, units: int) -> None:
    rng = np.random.default_rng(seed)
    levels, unit = levels_of(120, 9, seed), rng.integers(0, units, 120)
    truth = levels[:, 0] + rng.normal(size=120)
    if classes:
        truth = np.where(rng.random(120) < 0.5, levels[:, 0], rng.integers(0, 9, 120)) % classes
    changed = unit == unit[60]
    truth[changed] = 1  # of one class, so that the changes of several rows do not cancel out
    other = np.where(changed, 0 if classes else truth + 9.0, truth)
    dependence = Dependence(unit=unit)
    one, two = (
        TargetStatistics.fit(levels, (9,), goal, classes=classes, dependence=dependence, seed=seed)[1]
        for goal in (truth, other)
    )
    np.testing.assert_allclose(one[changed], two[changed], atol=1e-7)
    assert np.abs(one - two).max() > 1e-4


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 999), gap=st.sampled_from([0.0, 5.0]))
def test_in_time_order_only_earlier_targets_count(seed: int, gap: float) -> None:
    rng = np.random.default_rng(seed)
    levels, times = levels_of(200, 6, seed), rng.permutation(200).astype(np.float64)
    truth = levels[:, 0] + rng.normal(size=200)
    other = np.where(times >= 120 - gap, -truth, truth)
    dependence = Dependence(unit=np.arange(200), times=Times(times, dates=False), gap=gap)
    one, two = (
        TargetStatistics.fit(levels, (6,), goal, classes=0, dependence=dependence)[1] for goal in (truth, other)
    )
    np.testing.assert_array_equal(one[times < 120], two[times < 120])
    assert np.abs(one - two).max() > 0.1
    assert not one[times < 20].any()  # nothing is earlier


def test_means_are_those_of_the_levels() -> None:
    rng = np.random.default_rng(0)
    levels = levels_of(30_000, 20)
    truth = np.arange(20)[levels[:, 0]] + rng.normal(size=30_000)
    statistics, own = TargetStatistics.fit(levels, (20,), truth, classes=0)
    expected = [truth[levels[:, 0] == level].mean() - truth.mean() for level in range(20)]
    np.testing.assert_allclose(statistics.means[0][:, 0], expected, atol=0.02)
    np.testing.assert_allclose(own, statistics.apply(levels), atol=0.1)


def test_classes_have_their_frequencies() -> None:
    levels = levels_of(30_000, 5)
    truth = (levels[:, 0] + (np.random.default_rng(1).random(30_000) < 0.2)) % 5
    statistics, _ = TargetStatistics.fit(levels, (5,), truth, classes=5)
    for level in range(5):
        expected = [(truth[levels[:, 0] == level] == one).mean() - (truth == one).mean() for one in range(5)]
        np.testing.assert_allclose(statistics.means[0][level], expected, atol=0.01)
    for classes, goals in ((0, 1), (2, 1), (3, 3), (99, MOST_CLASSES)):
        assert goal_count(classes) == goals


def test_a_category_without_an_effect_is_shrunk_and_permuted_labels_teach_nothing() -> None:
    rng = np.random.default_rng(0)
    correlations, naive = [], []
    for seed in range(8):
        levels, truth = levels_of(800, 300, seed), rng.normal(size=800)
        statistics, own = TargetStatistics.fit(levels, (300,), truth, classes=0, seed=seed)
        naive.append(np.corrcoef(statistics.apply(levels)[:, 0], truth)[0, 1])
        correlations.append(np.corrcoef(own[:, 0], truth)[0, 1])
        assert statistics.means[0].std() < 0.5 * truth.std() / np.sqrt(800 / 300)
    assert abs(np.mean(correlations)) < 0.06
    assert np.mean(naive) > 0.4


def test_rows_count_by_their_weight_whatever_its_unit() -> None:
    rng = np.random.default_rng(0)
    levels, truth, weight = levels_of(400, 12), rng.normal(size=400), rng.integers(0, 4, 400).astype(np.float32)
    junk = np.where(weight > 0, truth, 1e6)
    plain, scaled, other = (
        TargetStatistics.fit(levels, (12,), goal, classes=0, weight=counts)
        for goal, counts in ((truth, weight), (truth, 1024 * weight), (junk, weight))
    )
    for one in (scaled, other):
        np.testing.assert_allclose(one[0].means[0], plain[0].means[0], atol=1e-6)
        np.testing.assert_allclose(one[1], plain[1], atol=1e-6)
    unweighted = TargetStatistics.fit(levels, (12,), truth, classes=0)[0]
    assert np.abs(unweighted.means[0] - plain[0].means[0]).max() > 1e-3


def test_levels_without_rows_are_at_the_mean() -> None:
    levels = np.array([[0], [2], [2], [2], [3], [3], [3]])
    statistics, _ = TargetStatistics.fit(levels, (6,), np.array([1.0, 5, 5, 5.1, -2, -2, -2.1]), classes=0)
    assert statistics.apply(np.array([[1], [4], [5]])).tolist() == [[0.0], [0.0], [0.0]]
    assert statistics.apply(np.array([[2]]))[0, 0] > 0 > statistics.apply(np.array([[3]]))[0, 0]
    assert statistics.apply(levels[:0]).shape == (0, 1)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_few_rows_are_enough(rows: int) -> None:
    statistics, own = TargetStatistics.fit(levels_of(rows, 3), (3,), np.arange(float(rows)), classes=0)
    assert own.shape == (rows, 1)
    assert np.isfinite(own).all()
    assert np.isfinite(statistics.means[0]).all()


def test_arrays_are_read_again_or_refused() -> None:
    statistics, _ = TargetStatistics.fit(levels_of(50, 4), (4,), np.arange(50.0), classes=0)
    again = TargetStatistics.read(statistics.arrays(), (4,), classes=0)
    np.testing.assert_array_equal(again.means[0], statistics.means[0])
    with pytest.raises(DataError, match=r"'statistics\.0' has the shape \(4, 1\) instead of \(5, 1\)"):
        TargetStatistics.read(statistics.arrays(), (5,), classes=0)
    with pytest.raises(DataError, match=r"the tensor 'statistics\.1' is missing"):
        TargetStatistics.read(statistics.arrays(), (4, 4), classes=0)
    with pytest.raises(DataError, match="is not finite"):
        TargetStatistics.read({"statistics.0": np.full((4, 1), np.nan)}, (4,), classes=0)
