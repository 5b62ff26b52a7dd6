"""Loss and optimizer by name: every name works, and what does not fit is refused."""

from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from mixfit.choices import LossName, OptimizerName, Task
from mixfit.config import TrainConfig
from mixfit.data.columns.target import ClassTarget, RegressionTarget
from mixfit.errors import ConfigError
from mixfit.training.choose import LOSSES_OF_CLASSES, LOSSES_OF_COUNTS, LOSSES_OF_NUMBERS, choose_loss, choose_optimizer
from mixfit.training.learner import Learner
from mixfit.training.loss import CrossEntropy, cross_entropy, mse, poisson
from mixfit.training.ordinal import ordered_cross_entropy

OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)


def test_every_loss_is_for_numbers_or_for_classes() -> None:
    assert {"auto", *LOSSES_OF_NUMBERS, *LOSSES_OF_COUNTS, *LOSSES_OF_CLASSES} == set(get_args(LossName))
    assert not set(LOSSES_OF_NUMBERS) & set(LOSSES_OF_CLASSES)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_gets_nearer_to_the_minimum_with_its_own_rates(name: OptimizerName) -> None:
    weight = nn.Parameter(torch.full((4, 4), 1.0))
    chosen = choose_optimizer(TrainConfig(optimizer=name))
    optimizer = chosen.make([weight], lr=chosen.lr, weight_decay=chosen.weight_decay)
    for _ in range(150):
        weight.grad = weight.detach() - 0.5  # of half the squared distance to 0.5
        optimizer.step()
    assert abs(weight.mean().item() - 0.5) < 0.49


def test_rates_that_are_given_win_over_those_of_the_optimizer() -> None:
    open_rates = choose_optimizer(TrainConfig(optimizer="lion"))
    assert open_rates.lr < choose_optimizer(TrainConfig()).lr == 2e-3
    given = choose_optimizer(TrainConfig(optimizer="lion", lr=0.5, weight_decay=0.0))
    assert (given.lr, given.weight_decay) == (0.5, 0.0)
    assert given.make is open_rates.make


def test_momentum_and_nesterov_are_sgd_with_those_settings() -> None:
    settings = {
        name: choose_optimizer(TrainConfig(optimizer=name)).make([nn.Parameter(torch.zeros(2))], lr=0.1).defaults
        for name in ("sgd", "momentum", "nesterov")
    }
    found = {name: (defaults["momentum"], defaults["nesterov"]) for name, defaults in settings.items()}
    assert found == {"sgd": (0.0, False), "momentum": (0.9, False), "nesterov": (0.9, True)}


def test_only_schedule_free_is_left_without_a_schedule() -> None:
    constant = [name for name in OPTIMIZERS if not choose_optimizer(TrainConfig(optimizer=name)).one_cycle]
    assert constant == ["schedule_free"]


@pytest.mark.parametrize("task", get_args(Task))
def test_auto_is_the_plain_loss_of_the_task(task: Task) -> None:
    own = {"regression": mse, "count": poisson, "ordered": ordered_cross_entropy}
    assert choose_loss("auto", task) == own.get(task, cross_entropy)


def test_a_loss_of_counts_is_for_counts_alone() -> None:
    assert choose_loss("poisson", "count") is poisson
    with pytest.raises(
        ConfigError, match=r"--loss mse is for numbers, but the target is a count \(count\): use poisson"
    ):
        choose_loss("mse", "count")
    with pytest.raises(ConfigError, match=r"--loss poisson is for counts, but the target is a number"):
        choose_loss("poisson", "regression")


@pytest.mark.parametrize("name", LOSSES_OF_CLASSES)
def test_losses_of_numbers_and_of_classes_are_not_mixed_up(name: LossName) -> None:
    with pytest.raises(ConfigError, match=rf"--loss {name} is for classes, but the target is a number \(regression\)"):
        choose_loss(name, "regression")
    for other in LOSSES_OF_NUMBERS:
        with pytest.raises(ConfigError, match=rf"--loss {other} is for numbers.*use cross_entropy, balanced, smooth"):
            choose_loss(other, "multiclass")


def test_balanced_gives_every_class_the_same_say() -> None:
    loss = choose_loss("balanced", "binary", [30, 10])
    assert isinstance(loss, CrossEntropy)
    prediction = torch.zeros(40, 2, requires_grad=True)
    target = torch.tensor([0] * 30 + [1] * 10)
    loss(prediction, target).backward()  # type: ignore[no-untyped-call]
    # With equal logits, the pull of the many and of the few cancels.
    torch.testing.assert_close(prediction.grad.sum(0), torch.zeros(2))  # type: ignore[union-attr]


class _Rows:
    """Two columns of numbers and a target, as ``Learner`` takes them."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, scale: RegressionTarget | ClassTarget) -> None:
        self.train = self.valid = [(x[i : i + 100], y[i : i + 100]) for i in range(0, len(x), 100)]
        self.target = scale


class _Scores(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y[:, 0] if self.out_features == 1 else y


@pytest.mark.parametrize("name", LOSSES_OF_NUMBERS)
def test_numbers_come_back_in_their_unit_whatever_the_loss(name: LossName) -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 2)
    prices = pd.Series((200 + 30 * x[:, 0] - 20 * x[:, 1]).numpy())
    scale = RegressionTarget.fit(prices)
    y = torch.from_numpy(scale.encode(prices))
    learner = Learner(_Scores(2, 1), _Rows(x, y, scale), loss=choose_loss(name, "regression"))
    learner.fit_one_cycle(40, 0.2)
    outputs, _ = learner.predict(learner.data.valid)
    np.testing.assert_allclose(scale.decode(outputs.numpy()), prices, rtol=0.05)


@pytest.mark.parametrize("name", LOSSES_OF_CLASSES)
def test_classes_are_told_apart_whatever_the_loss(name: LossName) -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 2)
    labels = pd.Series(np.where(x[:, 0] > 0.5, "high", "low"), dtype="str")
    scale = ClassTarget.fit(labels)
    y = torch.from_numpy(scale.encode(labels))
    loss = choose_loss(name, "binary", np.bincount(y.numpy()).tolist())
    learner = Learner(_Scores(2, 2), _Rows(x, y, scale), loss=loss)
    learner.fit_one_cycle(20, 0.3)
    outputs, _ = learner.predict(learner.data.valid)
    probabilities = scale.decode(outputs.numpy())
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (probabilities.argmax(1) == y.numpy()).mean() > 0.95
