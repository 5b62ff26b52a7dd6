"""Small fits for the tests of training: rows, networks and loaders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from mixfit.data.loader import DataLoader
from mixfit.data.sampler import SequentialSampler, ShuffledSampler
from mixfit.errors import Stopped
from mixfit.training.callback import Callback, TrainState
from mixfit.training.callbacks.control import EarlyStopping, StopOnSignal
from mixfit.training.checkpoint import Checkpoints, newest_checkpoint
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.optimizer import AdamW

X = torch.randn(46, 3, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([1.0, -2.0, 0.5]) + 0.3
EPOCHS, BATCHES = 4, 5


class Net(nn.Module):
    """With all that a forward pass may change or draw."""

    def __init__(self, *, norm: bool = True, drop: float = 0.3) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 1)
        self.norm = nn.BatchNorm1d(6) if norm else nn.Identity()
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(self.first(x)).relu()))[:, 0]


@dataclass
class Loaders:
    train: Any
    valid: Any
    target: None = None


def loaders(batch_size: int = 8, *, dtype: torch.dtype = torch.float32, prefetch: int = 0) -> Loaders:
    x, y = X.to(dtype), Y.to(dtype)
    train, valid = TensorDataset(x[:38], y[:38]), TensorDataset(x[38:], y[38:])
    return Loaders(
        DataLoader(train, ShuffledSampler(38, batch_size, seed=3), prefetch=prefetch, threads=2),
        DataLoader(valid, SequentialSampler(8, 5)),
    )


def net(*, seed: int = 0, norm: bool = True, drop: float = 0.3) -> Net:
    torch.manual_seed(seed)
    return Net(norm=norm, drop=drop)


def learner(
    *callbacks: Callback, model: nn.Module | None = None, data: Loaders | None = None, **settings: Any
) -> Learner:
    """A plain network without norm and dropout, unless another one is given."""
    settings = {"loss": mse, "optimizer": AdamW, "device": "cpu"} | settings
    model = net(norm=False, drop=0.0) if model is None else model
    return Learner(model, loaders() if data is None else data, callbacks=callbacks, **settings)


class StopAt(Callback):
    """Asks for a stop as a signal does."""

    order = 99

    def __init__(self, step: int) -> None:
        self.step = step

    def after_batch(self, state: TrainState) -> None:
        if state.training and state.step == self.step:
            state.stop_requested = "SIGTERM"


def resumable(folder: Path, *callbacks: Callback, optimizer: Any = AdamW, lr: float = 0.05) -> nn.Module:
    """One fit with a checkpoint folder, gone on with if there is one."""
    model = net()
    subject = learner(
        *callbacks,
        EarlyStopping(mode="min", patience=9),
        Checkpoints(folder, mode="min", seconds=1000.0),
        StopOnSignal(),
        model=model,
        optimizer=optimizer,
    )
    subject.fit_one_cycle(EPOCHS, lr, resume=newest_checkpoint(folder))
    return model


def assert_resumes(tmp_path: Path, make: Any, stops: Sequence[int] = (1, 5, 7, 13, 20), **settings: Any) -> Any:
    """A fit with the callback that ``make()`` gives, stopped at several steps, ends with the same bytes and state.

    Returns:
        The callback of the fit that was never stopped."""
    callback = make()
    whole = resumable(tmp_path / "whole", callback, **settings)
    for step in stops:
        folder = tmp_path / f"{step}"
        with pytest.raises(Stopped):
            resumable(folder, make(), StopAt(step), **settings)
        torch.randn(step)  # the generators are elsewhere now
        again = make()
        resumed = resumable(folder, again, **settings)
        assert_same(whole.state_dict(), resumed.state_dict())
        assert_same(callback.state_dict(), again.state_dict())
    return callback


def assert_same(a: Any, b: Any) -> None:
    """Nested states with the same bytes."""
    match a:
        case Tensor():
            assert torch.equal(a, b)
        case dict():
            assert a.keys() == b.keys()
            for key, value in a.items():
                assert_same(value, b[key])
        case _:
            assert a == b
