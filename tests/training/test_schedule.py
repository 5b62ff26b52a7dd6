"""Shapes of schedules, and the callbacks that set hyper-parameters by them."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_learner import Flat, loaders
from torch import nn

from mixfit.errors import ConfigError
from mixfit.training.callback import Callback, TrainState
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.optimizer import SGD, AdamW, Muon, ScheduleFreeAdamW
from mixfit.training.schedule import (
    Constant,
    Cosine,
    Exponential,
    Linear,
    OneCycle,
    Polynomial,
    Schedule,
    Shape,
    cosine_with_restarts,
    joined,
    numbers,
    one_cycle,
    one_cycle_momentum,
    warm_up,
)

POSITIONS = [i / 40 for i in range(41)]
VALUES = st.floats(1e-6, 1e3)


@pytest.mark.parametrize("kind", [Linear, Cosine, Exponential, Polynomial])
@given(start=VALUES, end=VALUES)
def test_a_shape_starts_and_ends_where_it_says_and_never_turns(kind: Any, start: float, end: float) -> None:
    shape = kind(start, end)
    assert shape(0.0) == pytest.approx(start)
    assert shape(1.0) == pytest.approx(end)
    values = [shape(position) for position in POSITIONS]
    steps = [(after - before) * (1 if end > start else -1) for before, after in pairwise(values)]
    assert min(steps) >= -1e-12 * max(start, end)  # as exact as floats are


@pytest.mark.parametrize(
    ("shape", "middle"),
    [
        (Linear(0.0, 1.0), 0.5),
        (Cosine(0.0, 1.0), 0.5),
        (Exponential(1.0, 1e-4), 1e-2),
        (Constant(3.0), 3.0),
        (Polynomial(1.0, 0.0, power=3.0), 0.125),
    ],
)
def test_the_middle_is_that_of_the_formula(shape: Shape, middle: float) -> None:
    assert shape(0.5) == pytest.approx(middle)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_each_of_joined_shapes_has_its_share(parts: list[int]) -> None:
    shape = joined(*((part / sum(parts), Linear(float(place), place + 0.5)) for place, part in enumerate(parts)))
    for place, part in enumerate(parts):
        begun = sum(parts[:place])
        for share in (0.25, 0.5, 0.75):
            assert shape((begun + share * part) / sum(parts)) == pytest.approx(place + share / 2)


def test_joined_shapes_follow_each_other() -> None:
    shape = joined((0.2, Linear(0.0, 1.0)), (0.5, Constant(2.0)), (0.3, Linear(5.0, 4.0)))
    assert [shape(p) for p in (0.0, 0.1, 0.2, 0.69, 0.7, 1.0)] == pytest.approx([0.0, 0.5, 2.0, 2.0, 5.0, 4.0])


def test_fractions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"must sum to 1, but 0\.5 \+ 0\.6 is 1\.1"):
        joined((0.5, Constant(1.0)), (0.6, Constant(1.0)))
    with pytest.raises(ConfigError, match="must sum to 1, but nothing is 0"):
        joined()
    with pytest.raises(ConfigError, match=r"above 0 and at most 1, got -0\.5"):
        joined((-0.5, Constant(1.0)), (1.5, Constant(1.0)))
    joined(*[(1 / 7, Constant(1.0))] * 7)  # as exact as floats are


def test_a_warm_up_ends_at_the_first_value_of_what_follows() -> None:
    shape = warm_up(Cosine(0.8, 0.0), 0.25, start=0.5)
    assert [shape(p) for p in (0.0, 0.125, 0.25, 0.625, 1.0)] == pytest.approx([0.4, 0.6, 0.8, 0.4, 0.0])
    with pytest.raises(ConfigError, match="share must be between 0 and 1, got 1"):
        warm_up(Constant(1.0), 1.0)


@given(highest=VALUES, share=st.floats(0.05, 0.95), start=st.floats(0, 1))
def test_a_warm_up_rises_to_what_follows_and_then_is_it(highest: float, share: float, start: float) -> None:
    shape, follows = warm_up(Cosine(highest, 0.0), share, start=start), Cosine(highest, 0.0)
    assert shape(0.0) == pytest.approx(start * highest)
    for part in (0.0, 0.3, 1.0):
        assert shape(min(1.0, share + part * (1 - share))) == pytest.approx(follows(part), abs=1e-9 * highest)


@given(cycles=st.integers(1, 6), end=st.floats(0, 0.5), decay=st.floats(0.2, 1.0))
def test_equal_restarts_begin_at_their_decayed_height_and_end_at_the_end(cycles: int, end: float, decay: float) -> None:
    shape = cosine_with_restarts(cycles, end=end, decay=decay)
    for cycle in range(cycles):
        assert shape((cycle + 1e-9) / cycles) == pytest.approx(decay**cycle, abs=1e-6)
    assert shape(1.0) == pytest.approx(end)


def test_restarts_jump_up_and_may_grow_and_decay() -> None:
    shape = cosine_with_restarts(2, end=0.1, growth=3.0, decay=0.5)
    assert [shape(p) for p in (0.0, 0.2499, 0.25, 1.0)] == pytest.approx([1.0, 0.1, 0.5, 0.1], abs=1e-4)
    with pytest.raises(ConfigError, match="cycles must be at least 1, got 0"):
        cosine_with_restarts(0)
    with pytest.raises(ConfigError, match="growth and decay must be above 0, got 0"):
        cosine_with_restarts(2, growth=0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Exponential(0.0, 1.0), "ends above 0, got 0"),
        (lambda: Polynomial(0.0, 1.0, power=0.0), "power must be above 0"),
        (lambda: one_cycle(warmup=1.0), "warmup must be between 0 and 1, got 1"),
        (lambda: one_cycle_momentum(0.85, 0.95), r"a pair \(high, low\) with 0 <= low <= high < 1, got 0.85 and 0.95"),
    ],
)
def test_impossible_shapes_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


class Notes(Callback):
    """Notes the numbers of every group at every step."""

    order = 5

    def __init__(self) -> None:
        self.steps: list[list[dict[str, float]]] = []

    def after_step(self, state: TrainState) -> None:
        self.steps.append([numbers(group) for group in state.optimizer.param_groups])


def noted(*callbacks: Callback, lr: float = 0.1, epochs: int = 4, **settings: Any) -> list[list[dict[str, float]]]:
    torch.manual_seed(0)
    notes = Notes()
    Learner(Flat(), loaders(), loss=mse, callbacks=[notes, *callbacks], device="cpu", **settings).fit(epochs, lr)
    return notes.steps


def test_one_cycle_gives_the_rates_it_always_gave() -> None:
    """Bit for bit: runs of earlier versions must come out as they did."""

    def cosine(start: float, end: float, position: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * position)) / 2

    for warmup, start, end, epochs in ((0.25, 0.04, 1e-4, 7), (0.3, 0.1, 0.0, 1), (0.123, 0.04, 1e-4, 11)):
        found = noted(OneCycle(warmup=warmup, start=start, end=end), epochs=epochs, lr=0.07)
        for step, groups in enumerate(found):
            position = step / (5 * epochs - 1)
            factor = (
                cosine(start, 1.0, position / warmup)
                if position < warmup
                else cosine(1.0, end, (position - warmup) / (1 - warmup))
            )
            assert groups[0]["lr"] == 0.07 * factor


def test_factors_keep_the_rates_of_parts_in_proportion() -> None:
    found = noted(Schedule("lr", Linear(1.0, 0.5)), rates={"linear.bias": 0.1})
    assert found[0][0]["lr"] == pytest.approx(0.1)
    assert found[-1][0]["lr"] == pytest.approx(0.05)
    assert all(groups[1]["lr"] == pytest.approx(0.1 * groups[0]["lr"]) for groups in found)


def test_values_are_alike_for_all_groups() -> None:
    found = noted(Schedule("weight_decay", Linear(0.0, 0.2), gives="values"), rates={"linear.bias": 0.1})
    assert [[group["weight_decay"] for group in found[step]] for step in (0, -1)] == [[0.0, 0.0], [0.2, 0.2]]


def test_the_first_of_the_betas_can_be_set_alone() -> None:
    found = noted(Schedule("betas.0", Linear(0.9, 0.5), gives="values"), optimizer=AdamW)
    assert [found[step][0]["betas.0"] for step in (0, -1)] == [0.9, 0.5]
    assert {groups[0]["betas.1"] for groups in found} == {0.999}


@pytest.mark.parametrize(
    ("optimizer", "key"), [(SGD, "momentum"), (AdamW, "betas.0"), (Muon, "momentum"), (torch.optim.Adam, "betas.0")]
)
def test_the_momentum_of_one_cycle_goes_the_other_way_round(optimizer: Any, key: str) -> None:
    found = noted(OneCycle(momentum=(0.95, 0.85)), optimizer=optimizer, epochs=8)
    values = [groups[0][key] for groups in found]
    rates = [groups[0]["lr"] for groups in found]
    assert values[0] == pytest.approx(0.95)
    assert values[-1] == pytest.approx(0.95)
    assert min(values) == pytest.approx(0.85, abs=1e-3)
    assert values.index(min(values)) == rates.index(max(rates))


def test_an_optimizer_without_momentum_is_refused() -> None:
    def plain(groups: Any, lr: float) -> Any:
        return torch.optim.Adagrad(groups, lr=lr)

    with pytest.raises(ConfigError, match="the optimizer has neither momentum nor betas"):
        noted(OneCycle(momentum=(0.95, 0.85)), optimizer=plain)


def test_a_key_that_no_group_has_is_refused_with_those_there_are() -> None:
    message = r"has 'wieght_decay'\. Did you mean 'weight_decay'\? A schedule can set .*lr, .*betas\.0, betas\.1"
    with pytest.raises(ConfigError, match=message):
        noted(Schedule("wieght_decay", Constant(1.0)), optimizer=AdamW)
    with pytest.raises(ConfigError, match="momentum is 0 in every parameter group, so factors have no effect"):
        noted(Schedule("momentum", Constant(1.0)), optimizer=SGD)


def test_factors_go_on_from_the_first_values_of_a_saved_fit() -> None:
    optimizer = ScheduleFreeAdamW([nn.Parameter(torch.zeros(2))], lr=0.4)
    state = TrainState(
        model=nn.Identity(), optimizer=optimizer, loss_function=mse, epochs=1, steps_per_epoch=11, training=True
    )
    for made in (lambda: OneCycle(momentum=(0.9, 0.8)), lambda: Schedule("lr", Linear(1.0, 0.0))):
        optimizer.param_groups[0]["lr"] = 0.4
        saved = made()
        saved.before_fit(state)
        optimizer.param_groups[0]["lr"] = 0.001  # as the schedule left it when the state was saved
        resumed = made()
        resumed.before_fit(state)
        resumed.load_state_dict(saved.state_dict())
        state.step = 4
        saved.before_batch(state)
        expected = optimizer.param_groups[0]["lr"]
        resumed.before_batch(state)
        assert optimizer.param_groups[0]["lr"] == expected > 0.1


def test_progress_goes_from_0_to_1_and_stays_there() -> None:
    state = TrainState(model=nn.Identity(), optimizer=None, loss_function=mse, epochs=2, steps_per_epoch=3)
    found = []
    for state.step in range(8):
        found.append(state.progress)
    assert found == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1])
