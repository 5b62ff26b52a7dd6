"""A fit of a fraction of a second, as tests of fault cases of training want it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from mixfit.data.loader import DataLoader
from mixfit.data.sampler import SequentialSampler, ShuffledSampler
from mixfit.training.callback import Callback
from mixfit.training.callbacks.checkpoint import Checkpoints
from mixfit.training.callbacks.control import EarlyStopping
from mixfit.training.callbacks.nan_guard import NanGuard
from mixfit.training.callbacks.recorder import Recorder
from mixfit.training.callbacks.signals import StopOnSignal
from mixfit.training.checkpoint_files import newest_checkpoint
from mixfit.training.learner import Learner
from mixfit.training.loss import mse

X = torch.randn(46, 3, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([1.0, -2.0, 0.5]) + 0.3
BATCHES = 5


class Net(nn.Module):
    """With all that a forward pass may change or draw."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop, self.last = (
            nn.Linear(3, 6),
            nn.BatchNorm1d(6),
            nn.Dropout(0.3),
            nn.Linear(6, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(self.first(x)).relu()))[:, 0]


@dataclass
class Loaders:
    train: Any
    valid: Any
    target: None = None


def loaders(y: Tensor = Y, x: Tensor = X, *, prefetch: int = 0, batch_size: int = 8) -> Loaders:
    train, valid = TensorDataset(x[:38], y[:38]), TensorDataset(x[38:], y[38:])
    return Loaders(
        DataLoader(train, ShuffledSampler(38, batch_size, seed=3), prefetch=prefetch, threads=2),
        DataLoader(valid, SequentialSampler(8, 5)),
    )


def tiny_fit(
    folder: Path,
    *callbacks: Callback,
    data: Loaders | None = None,
    epochs: int = 4,
    lr: float = 0.05,
    seconds: float = 0.0,
    model: nn.Module | None = None,
) -> Learner:
    """With everything that ``mixfit train`` has around its training; goes on with what the folder holds."""
    torch.manual_seed(0)
    learner = Learner(
        Net() if model is None else model,
        loaders() if data is None else data,
        loss=mse,
        callbacks=[
            Recorder(folder),
            EarlyStopping(mode="min", patience=999),
            NanGuard(),
            Checkpoints(folder / "checkpoints", mode="min", seconds=seconds),
            StopOnSignal("Go on."),
            *callbacks,
        ],
        device="cpu",
    )
    learner.fit_one_cycle(epochs, lr, resume=newest_checkpoint(folder / "checkpoints"))
    return learner


def same_bytes(a: Learner, b: Learner) -> bool:
    """Whether two fits ended with the same weights."""
    one, other = a.model.state_dict(), b.model.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
