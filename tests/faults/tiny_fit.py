"""A fit of a fraction of a second with all that ``mixfit train`` has, as fault cases of training want it."""

from pathlib import Path

import torch
from small_fits import BATCHES as BATCHES
from small_fits import Loaders as Loaders
from small_fits import Net as Net
from small_fits import X as X
from small_fits import Y as Y
from small_fits import loaders as loaders
from torch import nn

from mixfit.training.callback import Callback
from mixfit.training.callbacks.control import EarlyStopping, StopOnSignal
from mixfit.training.callbacks.guards import NanGuard
from mixfit.training.callbacks.recorder import Recorder
from mixfit.training.checkpoint import Checkpoints, newest_checkpoint
from mixfit.training.learner import Learner
from mixfit.training.loss import mse


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
