"""What a callback may read and change while a model trains."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mixfit.training.loss import Loss


@dataclass(slots=True, kw_only=True)
class TrainState:
    """The state of one fit. Fields are read and set by name; there is nothing hidden."""

    model: nn.Module
    optimizer: Any
    """One of ours or any ``torch.optim.Optimizer``."""
    loss_function: Loss
    epochs: int
    steps_per_epoch: int
    epoch: int = 0
    """The current epoch, counted from 0."""
    step: int = 0
    """Optimiser steps finished so far in this fit."""
    training: bool = False
    xb: Any = None
    yb: Any = None
    prediction: Any = None
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Of the current batch, with its graph until ``after_batch``."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the current epoch: train_loss, valid_loss and the metrics of the validation rows, in the target's unit."""
    rows_seen: int = 0
    """Training rows of this epoch so far."""
    error: BaseException | None = None
    """What broke the fit, in ``on_error``."""

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole fit, if nothing ends it early."""
        return self.epochs * self.steps_per_epoch

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]: 0 at the first step and 1 at the last; schedules read it."""
        return min(1.0, self.step / max(self.steps - 1, 1))
