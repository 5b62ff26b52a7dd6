"""Training that breaks the model ends with one sentence."""

import pytest
import torch
from torch import nn

from mixfit.data.loader import DataLoader
from mixfit.data.sampler import SequentialSampler
from mixfit.errors import Diverged
from mixfit.training.callback import Callback, TrainState
from mixfit.training.learner import Learner
from mixfit.training.loss import cross_entropy
from mixfit.training.metrics import ACCURACY
from mixfit.training.optimizer import SGD


class Loaders:
    target = None

    def __init__(self) -> None:
        x = 1e15 * torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        rows = [(x[i], (x[i, 0] > 0).long()) for i in range(8)]
        self.train = self.valid = DataLoader(rows, SequentialSampler(8, 8))


class Epochs(Callback):
    def __init__(self) -> None:
        self.ended = 0

    def after_epoch(self, state: TrainState) -> None:
        self.ended += 1


def test_a_last_step_that_breaks_the_weights_ends_the_fit() -> None:
    """The loss was finite before the step; what the step did shows in the predictions of the validation rows alone."""
    epochs = Epochs()
    learner = Learner(
        nn.Linear(3, 2),
        Loaders(),
        loss=cross_entropy,
        optimizer=SGD,
        metrics=[ACCURACY],
        callbacks=[epochs],
        device="cpu",
    )
    with pytest.raises(Diverged, match="The outputs for 8 of 8 validation rows are not finite, as the last step made"):
        learner.fit(1, 1e30)
    assert epochs.ended == 0  # nothing of it is recorded or saved
    with pytest.raises(Diverged, match="The outputs for 8 of 8"):
        learner.validate()
