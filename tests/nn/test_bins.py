"""Bins come from training rows, and equal those of the authors' package."""

import warnings

import numpy as np
import pytest
import rtdl_num_embeddings as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from mixfit.errors import ConfigError, DataError
from mixfit.nn.bins import compute_bins
from mixfit.nn.numbers import PiecewiseLinearEncoding

RANDOM = np.random.default_rng(0)
NUMBERS = np.column_stack(
    [RANDOM.normal(size=300), RANDOM.exponential(size=300), RANDOM.integers(0, 5, 300), RANDOM.random(300) < 0.03]
)


def expected_bins(**settings: object) -> list[Tensor]:
    torch.set_default_dtype(torch.float64)  # of the shares that its quantiles are at
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of columns with one bin, which are fine
            return reference.compute_bins(torch.from_numpy(NUMBERS), **settings)  # type: ignore[arg-type]
    finally:
        torch.set_default_dtype(torch.float32)


@settings(deadline=None, max_examples=25)
@given(bins=st.integers(2, 60))
def test_quantile_bins_lie_between_the_same_values_as_those_of_the_reference(bins: int) -> None:
    """The reference interpolates between two values by their ranks; ours are one of them or their middle."""
    ours, theirs = compute_bins(NUMBERS, bins=bins), expected_bins(n_bins=bins)
    for column, found, wanted in list(zip(NUMBERS.T, ours, theirs, strict=True))[:2]:  # the others have few values
        ordered = np.sort(column)
        above = np.minimum(np.searchsorted(ordered, wanted.numpy()) + 1, len(ordered) - 1)
        below = np.maximum(np.searchsorted(ordered, wanted.numpy(), side="right") - 2, 0)
        assert (ordered[below] <= found.numpy()).all()
        assert (found.numpy() <= ordered[above]).all()
        torch.testing.assert_close(found[[0, -1]], wanted[[0, -1]], atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", ["number", "class"])
@settings(deadline=None, max_examples=10)
@given(bins=st.integers(2, 20), min_rows=st.integers(1, 40))
def test_target_aware_bins_equal_the_reference(kind: str, bins: int, min_rows: int) -> None:
    score = np.sin(3 * NUMBERS[:, 0]) + NUMBERS[:, 2]
    target = score if kind == "number" else (score > 2).astype(np.int64)
    ours = compute_bins(NUMBERS, bins=bins, target=target, min_rows=min_rows)
    theirs = expected_bins(
        n_bins=bins,
        tree_kwargs={"min_samples_leaf": min_rows, "random_state": 0},
        y=torch.from_numpy(target),
        regression=kind == "number",
    )
    for found, wanted in zip(ours, theirs, strict=True):
        # The reference rounds thresholds to float32.
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    assert len(ours[0]) > min(bins, 300 // min_rows, 6) // 2


@settings(deadline=None, max_examples=25)
@given(step=st.integers(16, 284))
def test_target_aware_bins_are_where_the_target_changes(step: int) -> None:
    values = np.sort(NUMBERS[:, 1])
    (edges,) = compute_bins(NUMBERS[:, 1:2], bins=2, target=(NUMBERS[:, 1] >= values[step]).astype(np.float64))
    assert len(edges) == 3
    assert values[step - 1] < edges[1] < values[step]


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(1, 300), bins=st.integers(1, 48))
def test_arrays_and_tensors_give_the_same_bins(rows: int, bins: int) -> None:
    numbers = NUMBERS[:rows]
    for found, wanted in zip(
        compute_bins(torch.from_numpy(numbers), bins=bins), compute_bins(numbers, bins=bins), strict=True
    ):
        assert torch.equal(found, wanted)


@settings(deadline=None, max_examples=60)
@given(
    numeric=arrays(
        np.float32,
        st.tuples(st.integers(1, 12), st.integers(0, 3)),
        elements=st.floats(-10, 10, width=32) | st.sampled_from([0.0, 1.0, 1.0 + 2**-20]),
    ),
    bins=st.integers(1, 48),
    aware=st.booleans(),
)
def test_any_finite_columns_give_bins_that_keep_values_finite_and_in_order(
    numeric: np.ndarray, bins: int, aware: bool
) -> None:
    target = np.arange(len(numeric)) % 2 if aware else None
    edges = compute_bins(numeric, bins=bins, target=target, min_rows=1)
    assert len(edges) == numeric.shape[1]
    assert all(len(found) - 1 <= bins for found in edges)
    encoded = PiecewiseLinearEncoding(edges)(torch.from_numpy(numeric))
    assert encoded.isfinite().all()
    assert -1e-3 <= encoded.min() <= encoded.max() <= 1 + 1e-3 if encoded.numel() else True
    for column, values in zip(encoded.split([len(found) - 1 for found in edges], dim=1), numeric.T, strict=True):
        order = torch.from_numpy(np.argsort(values, kind="stable"))
        assert (column[order].sum(1).diff() >= -1e-4).all()


@given(value=st.integers(-1000, 1000), rows=st.integers(1, 9), columns=st.integers(1, 3))
def test_a_constant_column_and_a_single_row_get_one_bin(value: int, rows: int, columns: int) -> None:
    constant = np.full((rows, columns), float(value))
    assert [edges.tolist() for edges in compute_bins(constant)] == [[value, value + 1.0]] * columns
    assert [edges.tolist() for edges in compute_bins(np.array([[value, 0.0]]))] == [[value, value + 1.0], [0.0, 1.0]]


@given(st.lists(st.booleans(), min_size=2, max_size=40).filter(lambda flags: len(set(flags)) == 2))
def test_a_flag_is_left_as_it_is(flags: list[bool]) -> None:
    flag = np.array(flags, dtype=np.float64)[:, None]
    assert compute_bins(flag)[0].tolist() == [0, 1]
    assert PiecewiseLinearEncoding(compute_bins(flag))(torch.from_numpy(flag)).tolist() == flag.tolist()


def test_numbers_that_cannot_be_binned_are_refused() -> None:
    with pytest.raises(DataError, match="no training rows to compute bins from"):
        compute_bins(np.zeros((0, 2)))
    with pytest.raises(DataError, match=r"1 of 2 number columns are not finite in every training row.*column 1"):
        compute_bins(np.array([[0.0, np.nan], [1.0, 1.0]]))
    with pytest.raises(ConfigError, match="bins and min_rows must be at least 1, got 0 and 16"):
        compute_bins(NUMBERS, bins=0)
    with pytest.raises(ConfigError, match="target has 3 rows, but numeric has 300"):
        compute_bins(NUMBERS, target=np.zeros(3))


def test_the_edges_of_many_rows_come_from_some_and_reach_from_the_smallest_to_the_largest_of_all() -> None:
    rng = np.random.default_rng(0)
    column = rng.random(120_001)
    column[[3, 7]] = -5.0, 9.0  # between the rows of the tree
    (edges,) = compute_bins(column[:, None], bins=4, target=(column > 0.3).astype(np.float64))
    assert (edges[0].item(), edges[-1].item()) == (-5.0, 9.0)
    assert (edges - 0.3).abs().min() < 1e-3
