"""Embeddings of numbers: the same weights give what the authors' package gives."""

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import rtdl_num_embeddings as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.nn.bins import compute_bins
from mixfit.nn.numbers import (
    LinearEmbedding,
    PeriodicEmbedding,
    PiecewiseLinearEmbedding,
    PiecewiseLinearEncoding,
)

RANDOM = np.random.default_rng(1)
TRAIN = np.column_stack([RANDOM.normal(size=200), RANDOM.integers(0, 4, 200), RANDOM.random(200) < 0.2])
BINS = compute_bins(TRAIN, bins=6)
D = 5
drawn = settings(deadline=None, max_examples=25)
ROWS = arrays(np.float64, st.tuples(st.integers(1, 9), st.just(3)), elements=st.floats(-20, 20)).map(
    lambda rows: torch.cat([torch.from_numpy(rows), numbers()])
)
"""Of the three columns: what was drawn, and what lies at the edges."""


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """The reference makes its tensors in the default type."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The .*-th feature has just two bin edges")
        warnings.filterwarnings("ignore", ".*row_stack")
        yield
    torch.set_default_dtype(torch.float32)


def numbers() -> Tensor:
    """Inside and outside the range of the training rows, and exactly on edges."""
    edges = torch.stack([edges[[0, -1]] for edges in BINS], dim=1)
    return torch.cat([torch.linspace(-9, 9, 120).reshape(3, 40).T, torch.from_numpy(TRAIN[:20]), edges])


def reference_places() -> list[Tensor]:
    """The reference keeps the last bin of every column at the end of its padding."""
    counts = [len(edges) - 1 for edges in BINS]
    return [torch.tensor([*range(count - 1), max(counts) - 1]) for count in counts]


def give_piecewise_weights(ours: PiecewiseLinearEmbedding, theirs: nn.Module) -> None:
    nn.init.normal_(theirs.linear.weight)  # version B starts at 0
    for column, places in enumerate(reference_places()):
        ours.linear.weight.data[column, : len(places)] = theirs.linear.weight.data[column, places]
    if ours.straight is None:
        assert ours.linear.bias is not None
        ours.linear.bias.data.copy_(theirs.linear.bias)
    else:
        ours.straight.load_state_dict(theirs.linear0.state_dict())


@drawn
@given(x=ROWS, activation=st.booleans())
def test_linear_embeddings_equal_the_reference(x: Tensor, activation: bool) -> None:
    theirs = (reference.LinearReLUEmbeddings if activation else reference.LinearEmbeddings)(3, D)
    ours = LinearEmbedding(3, D, activation=activation)
    ours.load_state_dict((theirs.linear if activation else theirs).state_dict())
    torch.testing.assert_close(ours(x), theirs(x).flatten(1), atol=1e-12, rtol=0)


@drawn
@given(
    x=ROWS,
    kind=st.sampled_from([(False, False), (False, True), (True, True)]),
    frequencies=st.integers(1, 9),
    scale=st.floats(0.01, 2),
)
def test_periodic_embeddings_equal_the_reference(
    x: Tensor, kind: tuple[bool, bool], frequencies: int, scale: float
) -> None:
    lite, activation = kind
    theirs = reference.PeriodicEmbeddings(
        3, D, n_frequencies=frequencies, frequency_init_scale=scale, lite=lite, activation=activation
    )
    ours = PeriodicEmbedding(3, D, frequencies=frequencies, scale=scale, lite=lite, activation=activation)
    ours.frequency.data.copy_(theirs.periodic.weight)
    ours.linear.load_state_dict(theirs.linear.state_dict())
    torch.testing.assert_close(ours(x), theirs(x).flatten(1), atol=1e-11, rtol=0)


@drawn
@given(rows=ROWS, columns=st.lists(st.integers(0, 2), min_size=1, max_size=5))
def test_piecewise_linear_encoding_equals_the_reference(rows: Tensor, columns: list[int]) -> None:
    bins = [BINS[column] for column in columns]
    x = rows[:, columns]
    found, expected = PiecewiseLinearEncoding(bins)(x), reference.PiecewiseLinearEncoding(bins)(x)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("version", ["A", "B"])
@drawn
@given(x=ROWS, activation=st.booleans())
def test_piecewise_linear_embeddings_equal_the_reference(version: str, x: Tensor, activation: bool) -> None:
    theirs = reference.PiecewiseLinearEmbeddings(BINS, D, activation=activation, version=version)  # type: ignore[arg-type]
    ours = PiecewiseLinearEmbedding(BINS, D, activation=activation, version=version)  # type: ignore[arg-type]
    give_piecewise_weights(ours, theirs)
    torch.testing.assert_close(ours(x), theirs(x).flatten(1), atol=1e-11, rtol=0)


@drawn
@given(x=ROWS, activation=st.booleans())
def test_version_b_starts_as_a_line(x: Tensor, activation: bool) -> None:
    embed = PiecewiseLinearEmbedding(BINS, D, activation=activation)
    assert embed.straight is not None
    line = embed.straight(x)
    assert torch.equal(embed(x), line)


def test_the_encoding_is_a_ladder_and_exact_at_the_edges() -> None:
    encode = PiecewiseLinearEncoding([torch.tensor([0.0, 1.0, 3.0, 4.0])])
    found = encode(torch.tensor([[-2.0], [0.0], [0.5], [1.0], [2.0], [4.0], [6.0]]))
    assert found.tolist() == [[-2, 0, 0], [0, 0, 0], [0.5, 0, 0], [1, 0, 0], [1, 0.5, 0], [1, 1, 1], [1, 1, 3]]


def test_bins_are_saved_with_the_network() -> None:
    bins = [torch.tensor([0.0, 1.0, 3.0])]
    saved = PiecewiseLinearEncoding(bins).state_dict()
    other = PiecewiseLinearEncoding([torch.tensor([5.0, 6.0, 9.0])])
    other.load_state_dict(saved)
    assert torch.equal(other(torch.tensor([[2.0]])), PiecewiseLinearEncoding(bins)(torch.tensor([[2.0]])))


@pytest.mark.parametrize("edges", [[1.0], [1.0, 1.0], [2.0, 1.0], [0.0, torch.inf]])
def test_edges_that_are_no_bins_are_refused(edges: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"number column 1 need at least 2 edges, finite and increasing"):
        PiecewiseLinearEncoding([torch.tensor([0.0, 1.0]), torch.tensor(edges)])


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="width d of an embedding must be at least 1, got 0"):
        LinearEmbedding(3, 0, activation=False)
    with pytest.raises(ConfigError, match=r"frequencies and scale must be above 0, got 48 and 0\.0"):
        PeriodicEmbedding(3, scale=0.0)


def test_what_is_saved_is_finite_and_brings_the_edges_back() -> None:
    other = compute_bins(TRAIN * 3 + 1, bins=6)
    saved, loaded = (PiecewiseLinearEmbedding(bins, D) for bins in (BINS, other))
    assert all(tensor.isfinite().all() for tensor in saved.state_dict().values())
    loaded.load_state_dict(saved.state_dict())
    torch.testing.assert_close(loaded(numbers()), saved(numbers()), rtol=0, atol=0)
