"""What a callback may read and change while a model trains."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
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
    callbacks: Sequence[Any] = ()
    """All callbacks of the fit in the order in which they run."""
    loader: Any = None
    """Of the training rows."""
    epoch: int = 0
    """The current epoch, counted from 0."""
    batch: int = 0
    """Training batches of this epoch that are done, the cancelled ones included."""
    step: int = 0
    """Optimiser steps finished so far in this fit."""
    time_share: float = 0.0
    """Share of a time budget that is used up; 0 without one."""
    training: bool = False
    xb: Any = None
    yb: Any = None
    prediction: Any = None
    """Of the current batch, or of its current part."""
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Of the current batch; its graph is there up to ``after_loss``, in ``after_backward`` it is a mere number."""
    parts: int = 1
    """In how many parts a training batch goes through the model; their gradients add up to those of the whole batch."""
    loss_scale: float = 1.0
    """The gradients are those of the loss times this number; who sets it divides them again in ``after_backward``."""
    arithmetic: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Surrounds prediction and loss, such as ``lambda: torch.autocast("cuda")``."""
    loss_sum: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Training losses of this epoch so far, times their rows."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the current epoch: train_loss, valid_loss and the metrics of the validation rows, in the target's unit."""
    judged: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors of the model by name that were others while ``metrics`` were found, such as averages; mostly none."""
    rows_seen: int = 0
    """Training rows of this epoch so far."""
    stop_requested: str = ""
    """Why the fit is to end after this batch, with all of its state saved; empty to go on."""
    error: BaseException | None = None
    """What broke the fit, in ``on_error``."""

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole fit, if nothing ends it early."""
        return self.epochs * self.steps_per_epoch

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]: of its steps, or of its time budget if that is further on.

        0 at the first step, 1 at the last; schedules read it."""
        return min(max(self.step / max(self.epochs * self.steps_per_epoch - 1, 1), self.time_share), 1.0)
