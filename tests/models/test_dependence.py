"""Inner folds: units stay whole, and nothing is judged by earlier rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.data.split import Times
from mixfit.models.dependence import Dependence


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(2, 60),
    units=st.integers(1, 60),
    count=st.integers(2, 6),
    seed=st.integers(0, 99),
    kind=st.sampled_from(["no target", "numbers", "classes"]),
)
def test_units_stay_whole_and_each_row_is_judged_once(rows: int, units: int, count: int, seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    unit = rng.integers(0, units, rows)
    truth = {"no target": None, "numbers": rng.normal(size=rows), "classes": rng.integers(0, 3, rows)}[kind]
    folds = Dependence(unit=unit).folds(count, seed=seed, truth=truth, classes=kind == "classes")
    assert len(folds) == (min(count, len(set(unit))) if len(set(unit)) > 1 else 0)
    for fit, judged in folds:
        assert len(fit)
        assert len(judged)
        assert not set(unit[fit]) & set(unit[judged])
        assert sorted([*fit, *judged]) == list(range(rows))
    if folds:
        assert sorted(np.concatenate([judged for _, judged in folds])) == list(range(rows))


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(2, 60),
    days=st.integers(1, 30),
    gap=st.sampled_from([0.0, 1.0, 3.0]),
    units=st.sampled_from([5, 1000]),
    count=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_no_row_is_judged_by_earlier_ones(rows: int, days: int, gap: float, units: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    times, unit = rng.integers(0, days, rows), rng.integers(0, units, rows)
    dependence = Dependence(unit=unit, times=Times(times, dates=False), gap=gap)
    for fit, judged in dependence.folds(count, seed=seed):
        assert times[fit].max() < times[judged].min() - gap + (gap == 0) * 1e-9
        assert not set(unit[fit]) & set(unit[judged])


@pytest.mark.parametrize("classes", [False, True])
def test_folds_are_stratified(classes: bool) -> None:
    truth = np.arange(90) % 3 if classes else np.random.default_rng(0).normal(size=90)
    means = [truth[judged].mean() for _, judged in Dependence.none(90).folds(3, seed=0, truth=truth, classes=classes)]
    np.testing.assert_allclose(means, truth.mean(), atol=0.2 * truth.std())


def test_some_rows_keep_their_units_and_times() -> None:
    whole = Dependence(unit=np.arange(6) // 2, times=Times(np.arange(6.0), dates=False), gap=1.0)
    some = whole.take(np.array([5, 0]))
    assert some.unit.tolist() == [2, 0]
    assert some.times is not None
    assert some.times.value.tolist() == [5.0, 0.0]
    assert some.gap == 1.0
