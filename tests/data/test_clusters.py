"""Groups that no column names are found where there are some, and not where there are none."""

import numpy as np
import pytest

from mixfit.data.checks.table import find_clusters


@pytest.mark.parametrize("size", [2, 4, 10])
@pytest.mark.parametrize("columns", [5, 50])
def test_things_that_were_measured_several_times_are_found(size: int, columns: int) -> None:
    rng = np.random.default_rng(0)
    things = rng.normal(size=(400 // size, columns))
    found = find_clusters(np.repeat(things, size, axis=0) + 0.05 * rng.normal(size=(400 // size * size, columns)))
    assert found is not None
    assert found.share > 0.9
    assert found.size == size


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "skewed", "few dimensions", "two clouds"])
def test_rows_without_groups_have_none(kind: str) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        rows, columns = int(rng.integers(80, 600)), int(rng.integers(3, 40))
        values = rng.normal(size=(rows, columns))
        if kind == "heavy tails":
            values = rng.standard_t(2, size=(rows, columns))
        elif kind == "skewed":
            values = np.exp(values)
        elif kind == "few dimensions":
            values = values[:, :3] @ rng.normal(size=(3, columns)) + 0.02 * values
        elif kind == "two clouds":
            values[::2] += 20
        assert find_clusters(values) is None


def test_rows_of_one_class_are_no_group() -> None:
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(4), 100)
    values = 30 * rng.normal(size=(4, 8))[classes] + rng.normal(size=(400, 8))
    assert find_clusters(values, classes) is None
    assert find_clusters(values[:60], np.arange(60) // 10) is None  # small classes cannot be looked at
    assert find_clusters(values[:0]) is None
