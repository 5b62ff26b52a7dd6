"""Callbacks that a search ends trainings with."""

import time

import pytest
from test_learner import Flat, loaders

from mixfit.errors import ConfigError
from mixfit.training.callbacks.control import Deadline, Pruning
from mixfit.training.learner import Learner
from mixfit.training.loss import mse


class Trial:
    """Gives up after the third epoch."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, int]] = []

    def report(self, value: float, step: int) -> None:
        self.reports.append((value, step))

    def should_prune(self) -> bool:
        return len(self.reports) == 3


def learner() -> Learner:
    return Learner(Flat(), loaders(), loss=mse, device="cpu")


def test_every_epoch_is_reported_and_the_fit_ends_when_it_is_not_worth_it() -> None:
    trial = Trial()
    pruning = Pruning(trial)
    state = learner().fit(9, 0.01, callbacks=[pruning])
    assert pruning.pruned
    assert [step for _, step in trial.reports] == [0, 1, 2]
    assert trial.reports[-1][0] == state.metrics["valid_loss"]


def test_a_trial_that_may_not_end_is_only_reported() -> None:
    trial = Trial()
    pruning = Pruning(trial, may_end=False)
    learner().fit(5, 0.01, callbacks=[pruning])
    assert not pruning.pruned
    assert len(trial.reports) == 5


def test_a_metric_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="Pruning watches 'auc', but the metrics are train_loss, valid_loss"):
        learner().fit(1, 0.01, callbacks=[Pruning(Trial(), "auc")])


def test_a_moment_that_is_over_ends_the_fit_after_the_batch() -> None:
    over, never = Deadline(time.monotonic() - 1), Deadline(None)
    assert learner().fit(3, 0.01, callbacks=[over]).step == 1
    assert learner().fit(1, 0.01, callbacks=[never]).step == 5
    assert (over.over, never.over) == (True, False)
