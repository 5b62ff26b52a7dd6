import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.data.sampler import Sampler, SequentialSampler, ShuffledSampler
from mixfit.errors import ConfigError

SAMPLERS = (SequentialSampler, ShuffledSampler)


def epoch(sampler: Sampler) -> list[list[int]]:
    return [batch.tolist() for batch in sampler]


@pytest.mark.parametrize("kind", SAMPLERS)
@given(rows=st.integers(0, 40), batch_size=st.integers(1, 9))
def test_an_epoch_has_every_row_once(kind: type[Sampler], rows: int, batch_size: int) -> None:
    sampler = kind(rows, batch_size)
    batches = epoch(sampler)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(rows))
    assert len(batches) == len(sampler)
    assert all(len(batch) == batch_size for batch in batches[:-1])


@pytest.mark.parametrize("kind", SAMPLERS)
def test_drop_last_leaves_out_only_the_batch_that_is_not_full(kind: type[Sampler]) -> None:
    assert [len(b) for b in epoch(kind(10, 4, drop_last=True))] == [4, 4]
    assert [len(b) for b in epoch(kind(8, 4, drop_last=True))] == [4, 4]


@pytest.mark.parametrize("kind", SAMPLERS)
@settings(deadline=None)
@given(rows=st.integers(1, 30), batch_size=st.integers(1, 7), data=st.data())
def test_taking_k_batches_and_resuming_equals_no_stop(
    kind: type[Sampler], rows: int, batch_size: int, data: st.DataObject
) -> None:
    whole = kind(rows, batch_size, seed=3)
    whole.set_epoch(2)
    expected = epoch(whole)
    taken = data.draw(st.integers(0, len(expected)))
    stopped = kind(rows, batch_size, seed=3)
    stopped.set_epoch(2)
    first = [batch.tolist() for batch, _ in zip(stopped, range(taken), strict=False)]
    state = {"epoch": 2, "batches_given": taken}
    if taken < len(expected):
        assert stopped.state_dict() == ({"epoch": 2, "batches_given": max(taken, stopped.batches_given)})
    resumed = kind(rows, batch_size, seed=3)
    resumed.load_state_dict(state)
    assert first[:taken] + epoch(resumed) == expected


def test_state_counts_the_batches_handed_out() -> None:
    sampler = SequentialSampler(10, 3)
    batches = iter(sampler)
    next(batches)
    next(batches)
    assert sampler.state_dict() == {"epoch": 0, "batches_given": 2}


def test_epochs_and_seeds_differ_and_repeat() -> None:
    sampler = ShuffledSampler(50, 50, seed=1)
    first, second = epoch(sampler), epoch(sampler)
    assert first != second
    sampler.set_epoch(0)
    assert epoch(sampler) == first
    assert epoch(ShuffledSampler(50, 50, seed=2)) != first


def test_order_does_not_depend_on_the_batch_size() -> None:
    small, large = ShuffledSampler(20, 3, seed=5), ShuffledSampler(20, 20, seed=5)
    np.testing.assert_array_equal(np.concatenate(list(small)), np.concatenate(list(large)))


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        SequentialSampler(3, 0)
