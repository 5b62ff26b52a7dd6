"""What all samplers promise, and what each one adds."""

import itertools
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.data.sampler import (
    BalancedSampler,
    GroupedSampler,
    Sampler,
    SequentialSampler,
    ShardedSampler,
    ShuffledSampler,
    WeightedSampler,
)
from mixfit.errors import ConfigError

Maker = Callable[..., Sampler]


def weighted(rows: int, batch_size: int, *, seed: int = 0, drop_last: bool = False) -> Sampler:
    return WeightedSampler(1.0 + np.arange(rows) % 5, batch_size, seed=seed, drop_last=drop_last)


def balanced(rows: int, batch_size: int, *, seed: int = 0, drop_last: bool = False) -> Sampler:
    return BalancedSampler((np.arange(rows) % 7 == 0).astype(np.int64), batch_size, seed=seed, drop_last=drop_last)


def grouped(rows: int, batch_size: int, *, seed: int = 0, drop_last: bool = False) -> Sampler:
    return GroupedSampler(np.arange(rows) % 3, batch_size, seed=seed, drop_last=drop_last)


def sharded(rows: int, batch_size: int, *, seed: int = 0, drop_last: bool = False) -> Sampler:
    whole = ShuffledSampler(rows, batch_size, seed=seed, drop_last=drop_last)
    return ShardedSampler(whole, rank=0, ranks=1)


def sharded_grouped(rows: int, batch_size: int, *, seed: int = 0, drop_last: bool = False) -> Sampler:
    return ShardedSampler(grouped(rows, batch_size, seed=seed, drop_last=drop_last), rank=0, ranks=1)


ALL: tuple[Maker, ...] = (SequentialSampler, ShuffledSampler, weighted, balanced, grouped, sharded, sharded_grouped)
EVERY_ROW_ONCE = (SequentialSampler, ShuffledSampler, grouped, sharded, sharded_grouped)
RANDOM = ALL[1:]


def epoch(sampler: Sampler) -> list[list[int]]:
    return [batch.tolist() for batch in sampler]


@pytest.mark.parametrize("make", ALL)
@settings(deadline=None, max_examples=50)
@given(rows=st.integers(0, 40), batch_size=st.integers(1, 9), drop_last=st.booleans())
def test_an_epoch_is_cut_into_full_batches(make: Maker, rows: int, batch_size: int, drop_last: bool) -> None:
    sampler = make(rows, batch_size, drop_last=drop_last)
    batches = epoch(sampler)
    sizes = [len(batch) for batch in batches]
    full, rest = divmod(rows, batch_size)
    assert sizes == [batch_size] * full + ([rest] if rest and not drop_last else [])
    assert len(batches) == len(sampler)
    assert all(0 <= row < rows for batch in batches for row in batch)


@pytest.mark.parametrize("make", EVERY_ROW_ONCE)
@settings(deadline=None, max_examples=50)
@given(rows=st.integers(0, 40), batch_size=st.integers(1, 9))
def test_an_epoch_has_every_row_once(make: Maker, rows: int, batch_size: int) -> None:
    assert sorted(itertools.chain.from_iterable(epoch(make(rows, batch_size)))) == list(range(rows))


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("drop_last", [False, True])
def test_stopping_after_any_batch_and_going_on_equals_no_stop(make: Maker, drop_last: bool) -> None:
    def at_epoch_two() -> Sampler:
        sampler = make(23, 4, seed=3, drop_last=drop_last)
        sampler.set_epoch(2)
        return sampler

    whole = at_epoch_two()
    expected, following = epoch(whole), epoch(whole)
    for taken in range(len(expected)):
        stopped = at_epoch_two()
        first = [batch.tolist() for batch in itertools.islice(stopped, taken)]
        resumed = make(23, 4, seed=3, drop_last=drop_last)
        resumed.load_state_dict(stopped.state_dict())
        assert first + epoch(resumed) == expected
        assert epoch(resumed) == following, "the epoch after a resumed one is the usual one"


@pytest.mark.parametrize("make", RANDOM)
def test_the_order_depends_on_seed_and_epoch_alone(make: Maker) -> None:
    sampler = make(60, 10, seed=1)
    np.random.default_rng().random()
    first, second = epoch(sampler), epoch(sampler)
    assert first != second
    assert epoch(make(60, 10, seed=2)) != first
    np.random.seed(99)  # noqa: NPY002 - the global generator must not matter
    again = make(60, 10, seed=1)
    again.set_epoch(1)
    assert epoch(again) == second
    again.set_epoch(0)
    assert epoch(again) == first


@pytest.mark.parametrize("make", ALL)
def test_batches_hold_int64(make: Maker) -> None:
    assert {batch.dtype for batch in make(5, 2)} == {np.dtype(np.int64)}
    assert make(0, 2).order().dtype == np.int64


def test_rows_are_drawn_by_their_weight() -> None:
    weights = np.array([0.0, 1.0, 3.0, 6.0])
    drawn = WeightedSampler(weights, 1000, draws=40_000, seed=5).order()
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    # Five standard errors of a share of a half over 40,000 draws.
    np.testing.assert_allclose(shares, weights / 10, atol=0.0125)
    assert shares[0] == 0


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e308])
def test_weights_of_any_size_are_shares(scale: float) -> None:
    drawn = WeightedSampler(np.array([scale, scale, 0.0]), 10, draws=1000).order()
    counts = np.bincount(drawn, minlength=3)
    assert counts[2] == 0
    assert abs(counts[0] - 500) < 80


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_weights_that_are_none_are_refused(wrong: float) -> None:
    with pytest.raises(ConfigError, match=r"1 of 3 sampling weights are negative or not finite, .* in row 1"):
        WeightedSampler(np.array([1.0, wrong, 2.0]), 2)
    with pytest.raises(ConfigError, match="All sampling weights are 0"):
        WeightedSampler(np.zeros(3), 2)


@settings(deadline=None, max_examples=40)
@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=5), seed=st.integers(0, 9))
def test_classes_get_equal_shares_and_rows_of_a_class_come_evenly(counts: list[int], seed: int) -> None:
    classes = np.repeat(np.arange(len(counts)), counts)
    drawn = BalancedSampler(classes, 8, seed=seed).order()
    times = np.bincount(drawn, minlength=len(classes))
    for label, count in enumerate(counts):
        share = len(classes) / len(counts)
        assert abs(times[classes == label].sum() - share) <= 1
        assert np.ptp(times[classes == label]) <= 1
        assert abs(times[classes == label] - share / count).max() < 1


def test_strength_zero_keeps_the_shares_of_the_table() -> None:
    classes = np.repeat([0, 1, 2], [60, 30, 10])
    assert sorted(BalancedSampler(classes, 10, strength=0.0).order().tolist()) == list(range(100))
    half = np.bincount(classes[BalancedSampler(classes, 10, strength=0.5).order()])
    expected = np.sqrt([60, 30, 10])
    np.testing.assert_allclose(half, 100 * expected / expected.sum(), atol=1)


def test_over_the_epochs_common_rows_have_their_turn() -> None:
    sampler = BalancedSampler(np.repeat([0, 1], [90, 10]), 10)
    seen: set[int] = set()
    for number in range(8):
        sampler.set_epoch(number)
        seen |= set(sampler.order().tolist())
    assert len(seen) > 95


def test_a_strength_of_one_may_be_an_integer() -> None:
    """In a process of its own: here the types of arguments are checked, and for users they are not."""
    code = (
        "import numpy as np; from mixfit.data.sampler import BalancedSampler; "
        "print(BalancedSampler(np.array([0, 0, 0, 1]), 2, strength=1).weights.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([1 / 3] * 3 + [1.0])


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_a_strength_outside_the_range_is_refused(strength: float) -> None:
    with pytest.raises(ConfigError, match="strength must be between 0 and 1"):
        BalancedSampler(np.zeros(3, dtype=np.int64), 2, strength=strength)
    with pytest.raises(ConfigError, match="no rows to draw from"):
        BalancedSampler(np.zeros(0, dtype=np.int64), 2, draws=5)


@settings(deadline=None, max_examples=40)
@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=80), batch_size=st.integers(1, 9))
def test_only_batches_at_borders_hold_different_numbers_of_photos(counts: list[int], batch_size: int) -> None:
    photo_counts = np.array(counts)
    batches = list(GroupedSampler(photo_counts, batch_size, seed=1))
    mixed = sum(len(np.unique(photo_counts[batch])) > 1 for batch in batches)
    assert mixed <= len(np.unique(photo_counts)) - 1, "one for each border between neighbouring numbers"


def test_most_and_fewest_photos_never_share_a_batch() -> None:
    counts = np.repeat([1, 2, 3], 20)
    for seed in range(20):
        for batch in GroupedSampler(counts, 7, seed=seed):
            assert set(counts[batch]) != {1, 3}


def test_the_batch_that_is_not_full_has_now_these_now_those_rows() -> None:
    counts = np.repeat([1, 2, 3], 20)
    assert {int(counts[[*GroupedSampler(counts, 7, seed=seed)][-1][0]]) for seed in range(20)} == {1, 2, 3}


def test_groups_come_in_random_order_and_rows_in_random_batches() -> None:
    photo_counts = np.repeat([1, 2], 40)
    sampler = GroupedSampler(photo_counts, 8)
    firsts = set()
    for number in range(10):
        sampler.set_epoch(number)
        firsts.add(int(photo_counts[next(iter(sampler))[0]]))
    assert firsts == {1, 2}


@pytest.mark.parametrize("make", ALL)
@settings(deadline=None, max_examples=30)
@given(ranks=st.integers(1, 4), extra=st.integers(0, 30), spare=st.integers(0, 5), drop_last=st.booleans())
def test_ranks_share_an_epoch(make: Maker, ranks: int, extra: int, spare: int, drop_last: bool) -> None:
    rows, batch_size = ranks + extra, ranks + spare
    whole = make(rows, batch_size, seed=2, drop_last=drop_last)
    whole.set_epoch(1)
    expected = np.concatenate([np.zeros(0, dtype=np.int64), *whole])
    shards = [
        ShardedSampler(make(rows, batch_size, seed=2, drop_last=drop_last), rank=r, ranks=ranks) for r in range(ranks)
    ]
    parts = []
    for shard in shards:
        shard.set_epoch(1)
        parts.append(list(shard))
    assert {len(part) for part in parts} == {len(shards[0])}, "no rank waits for another"
    assert all(len(batch) for part in parts for batch in part)
    together = np.concatenate([np.zeros(0, dtype=np.int64), *itertools.chain.from_iterable(parts)])
    assert sorted(together.tolist()) == sorted(expected.tolist()), "disjoint and complete"
    for batches in zip(*parts, strict=True):
        assert max(map(len, batches)) - min(map(len, batches)) <= 1


def test_a_step_of_all_ranks_is_a_step_of_one_process() -> None:
    whole = epoch(ShuffledSampler(24, 8, seed=4))
    parts = [epoch(ShardedSampler(ShuffledSampler(24, 8, seed=4), rank=r, ranks=4)) for r in range(4)]
    assert [sorted(itertools.chain(*step)) for step in zip(*parts, strict=True)] == [sorted(b) for b in whole]


def test_a_shard_is_resumed_in_the_middle_of_an_epoch() -> None:
    def shard() -> Sampler:
        return ShardedSampler(ShuffledSampler(22, 4, seed=1), rank=1, ranks=2)

    whole = shard()
    expected, following = epoch(whole), epoch(whole)
    for taken in range(len(expected)):
        stopped, resumed = shard(), shard()
        first = [batch.tolist() for batch in itertools.islice(stopped, taken)]
        resumed.load_state_dict(stopped.state_dict())
        assert first + epoch(resumed) == expected
        assert epoch(resumed) == following


def test_ranks_that_cannot_all_have_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="Batches of 2 out of 9 rows cannot be divided over 3 ranks"):
        ShardedSampler(SequentialSampler(9, 2), rank=0, ranks=3)
    with pytest.raises(ConfigError, match="Batches of 8 out of 2 rows cannot be divided over 3 ranks"):
        ShardedSampler(SequentialSampler(2, 8), rank=0, ranks=3)
    with pytest.raises(ConfigError, match="rank must be from 0 to 1, got 2"):
        ShardedSampler(SequentialSampler(9, 4), rank=2, ranks=2)
