"""Shapley values: against their definition over all orders, and their axioms."""

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.evaluation.explain import Exact, Sampled, mean_and_error, mean_and_error_in_order

Worth = Callable[[np.ndarray], float]


def by_definition(worth: Worth, players: int) -> np.ndarray:
    """What each player adds, averaged over all orders one by one."""
    total, orders = np.zeros(players), list(permutations(range(players)))
    for order in orders:
        members = np.zeros(players, dtype=bool)
        before = worth(members)
        for player in order:
            members[player] = True
            after = worth(members)
            total[player] += after - before
            before = after
    return total / len(orders)


def game(players: int, seed: int) -> Worth:
    """Any worth for any coalition."""
    table = np.random.default_rng(seed).normal(size=2**players)
    return lambda members: float(table[int(members @ 2 ** np.arange(players))])


def worths(design: Exact | Sampled, worth: Worth) -> np.ndarray:
    return np.array([worth(members) for members in design.coalitions])


@settings(deadline=None, max_examples=25)
@given(players=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_exact_values_are_those_of_the_definition(players: int, seed: int) -> None:
    worth, design = game(players, seed), Exact(players=players)
    found = design.values(worths(design, worth))
    np.testing.assert_allclose(found, by_definition(worth, players), atol=1e-12)
    everyone = np.ones(players, dtype=bool)
    assert found.sum() == pytest.approx(worth(everyone) - worth(~everyone), abs=1e-10)


@given(players=st.integers(1, 8))
def test_every_coalition_is_there_once_from_none_to_all(players: int) -> None:
    members = Exact(players=players).coalitions
    assert len(np.unique(members, axis=0)) == len(members) == 2**players
    assert not members[0].any()
    assert members[-1].all()


def test_players_who_do_the_same_get_the_same_and_those_who_do_nothing_get_nothing() -> None:
    def worth(members: np.ndarray) -> float:
        return float(3 * members[:2].sum() ** 2 - 2 * members[3] * members[:2].any())

    for design in (Exact(players=5), Sampled.draw(5, 400, np.random.default_rng(0))):
        found = design.values(worths(design, worth))
        assert found[2] == found[4] == 0
        assert found[0] == pytest.approx(found[1], abs=1e-12 if isinstance(design, Exact) else 0.5)


@settings(deadline=None, max_examples=25)
@given(players=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_values_of_sums_are_sums_of_values_and_further_axes_are_kept(players: int, seed: int) -> None:
    design = Exact(players=players)
    worth = np.random.default_rng(seed).normal(size=(2**players, 2, 4))
    found = design.values(worth)
    assert found.shape == (players, 2, 4)
    np.testing.assert_allclose(found[:, 1, 2], design.values(worth[:, 1, 2]))
    np.testing.assert_allclose(design.values(worth.sum(axis=2)), found.sum(axis=2))


@settings(deadline=None, max_examples=25)
@given(players=st.integers(2, 9), pairs=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_each_sampled_order_comes_with_its_reverse_and_adds_up(players: int, pairs: int, seed: int) -> None:
    design = Sampled.draw(players, pairs, np.random.default_rng(seed))
    np.testing.assert_array_equal(design.orders[1::2], design.orders[::2, ::-1])
    worth = game(players, seed + 1)
    everyone = np.ones(players, dtype=bool)
    found = design.values(worths(design, worth))
    assert found.sum() == pytest.approx(worth(everyone) - worth(~everyone), abs=1e-12)


@settings(deadline=None, max_examples=25)
@given(players=st.integers(2, 12), seed=st.integers(0, 10**6))
def test_antithetic_orders_are_exact_where_players_meet_in_pairs_alone(players: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    alone, together = rng.normal(size=players), rng.normal(size=(players, players))

    def worth(members: np.ndarray) -> float:
        return float(members @ alone + members @ together @ members)

    design = Sampled.draw(players, 1, rng)
    expected = alone + np.diag(together) + (together + together.T - 2 * np.diag(np.diag(together))).sum(axis=1) / 2
    np.testing.assert_allclose(design.values(worths(design, worth)), expected, atol=1e-12)


def test_sampled_values_are_within_their_stated_error() -> None:
    worth, players = game(8, 5), 8
    exact = Exact(players=players)
    truth = exact.values(worths(exact, worth))
    rng, away = np.random.default_rng(0), []
    for _ in range(20):
        draws = [Sampled.draw(players, 2, rng) for _ in range(30)]
        mean, error = mean_and_error(np.stack([design.values(worths(design, worth)) for design in draws]))
        away.append((mean - truth) / error)
    score = np.abs(np.array(away))
    assert 0.55 < (score < 1).mean() < 0.8  # 68 % of a normal distribution
    assert (score < 3).mean() > 0.98


@pytest.mark.parametrize("slope", [0.0, 1.0, 5.0])
def test_the_error_of_strata_is_how_far_another_draw_of_them_moves_the_mean(slope: float) -> None:
    """One of each of 32 ranges of what the samples depend on by ``slope``, with noise, 4,000 times."""
    rng = np.random.default_rng(0)
    depends = slope * (np.arange(32)[:, None] + rng.uniform(size=(32, 4_000))) / 32
    mean, error = mean_and_error_in_order(depends + 0.2 * rng.normal(size=(32, 4_000)))
    moved = mean.std()
    assert np.sqrt((error**2).mean()) == pytest.approx(moved, rel=0.25 if slope == 5 else 0.1)
    far = np.sqrt((mean_and_error(depends)[1] ** 2).mean())
    assert (far > 3 * moved) == (slope == 5)


def test_samples_in_any_order_have_their_usual_error() -> None:
    samples = np.random.default_rng(0).gamma(2.0, size=(16, 4_000))
    usual, found = (np.sqrt((one(samples)[1] ** 2).mean()) for one in (mean_and_error, mean_and_error_in_order))
    assert found == pytest.approx(usual, rel=0.05)


@pytest.mark.parametrize("one", [mean_and_error, mean_and_error_in_order])
def test_the_error_of_a_single_sample_is_not_known(one: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
    mean, error = one(np.ones((1, 3)))
    np.testing.assert_array_equal(mean, 1.0)
    assert np.isnan(error).all()
