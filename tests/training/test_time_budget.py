import time
from pathlib import Path

import pytest
from small_fits import StopAt, learner, loaders, net

from mixfit.errors import ConfigError, Stopped
from mixfit.training.callback import Callback, TrainState
from mixfit.training.callbacks.control import StopOnSignal, TimeBudget
from mixfit.training.callbacks.recorder import Recorder
from mixfit.training.checkpoint import Checkpoints, newest_checkpoint
from mixfit.training.schedule import OneCycle


class Clock(Callback):
    """A second for each training batch, and so many for a validation."""

    order = -300

    def __init__(self, validation: float = 2.0) -> None:
        self.now, self.validation = 1000.0, validation

    def __call__(self) -> float:
        return self.now

    def after_backward(self, state: TrainState) -> None:
        self.now += 1.0

    def before_validate(self, state: TrainState) -> None:
        self.now += self.validation


def test_a_fit_ends_on_time_with_a_validation_and_a_whole_cycle() -> None:
    clock, record = Clock(), Recorder()
    state = learner(clock, TimeBudget(31.0, clock=clock), record, OneCycle()).fit(100, 0.05)
    # four epochs of 5 s and 2 s, one step in the fifth would end at 29: 31 less its validation
    assert clock.now - 1000 == 31.0
    assert (state.epoch, state.step) == (4, 21)
    assert len(record.history) == 5
    assert "valid_loss" in state.metrics
    rates = record.steps["lr"]
    assert rates.iloc[-1] == pytest.approx(0.05 * 1e-4)
    assert rates.max() == pytest.approx(0.05, rel=0.1)
    assert rates.iloc[8:].is_monotonic_decreasing


def test_a_budget_within_the_first_epoch_leaves_out_its_other_batches() -> None:
    clock, record = Clock(), Recorder()
    state = learner(clock, TimeBudget(3.0, clock=clock), record).fit(100, 0.05)
    assert (state.step, len(record.history)) == (3, 1)
    assert "valid_loss" in state.metrics


def test_a_long_budget_changes_nothing() -> None:
    clock = Clock()
    state = learner(clock, TimeBudget(1e6, clock=clock)).fit(3, 0.05)
    assert state.step == 15
    assert state.time_share < 1e-3


def test_no_epoch_is_begun_that_has_no_time_for_a_step() -> None:
    clock = Clock(validation=9.0)
    state = learner(clock, TimeBudget(20.0, clock=clock)).fit(100, 0.05)
    assert state.step == 5
    assert clock.now - 1000 == 14.0


def test_the_last_epoch_is_saved_as_the_best(tmp_path: Path) -> None:
    clock = Clock()
    learner(clock, TimeBudget(3.0, clock=clock), Checkpoints(tmp_path, mode="min")).fit(9, 0.05)
    assert {path.name for path in tmp_path.iterdir()} >= {"best", "last"}


@pytest.mark.parametrize("stop", [5, 20])
def test_the_time_before_a_stop_counts_and_the_time_between_does_not(tmp_path: Path, stop: int) -> None:
    weights = []
    for folder, stops in ((tmp_path / "whole", []), (tmp_path / "torn", [StopAt(stop)])):
        clock, model = Clock(), net(norm=False, drop=0.0)

        def fit(*more: Callback, clock: Clock = clock, folder: Path = folder) -> TrainState:
            nonlocal model
            model = net(norm=False, drop=0.0)
            saving = (Checkpoints(folder, mode="min", seconds=1000.0), StopOnSignal())
            budget = TimeBudget(31.0, clock=clock)
            subject = learner(clock, budget, OneCycle(), *saving, *more, model=model)
            return subject.fit(100, 0.05, resume=newest_checkpoint(folder))

        if stops:
            with pytest.raises(Stopped):
                fit(*stops)
            clock.now += 500.0
        state = fit()
        weights.append([float(value) for p in model.parameters() for value in p.detach().flatten()])
        assert state.step == 21
    assert weights[0] == weights[1]


def test_a_second_is_a_second() -> None:
    class Slow(Callback):
        def after_batch(self, state: TrainState) -> None:
            time.sleep(0.01)

    started = time.monotonic()
    learner(Slow(), TimeBudget(1.0), data=loaders()).fit(10_000, 1e-3)
    assert 0.8 < time.monotonic() - started < 1.3


def test_no_time_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"seconds must be above 0, got 0\.0"):
        TimeBudget(0.0)
