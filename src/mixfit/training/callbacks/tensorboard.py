"""Shows how training goes in TensorBoard."""

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixfit.errors import ConfigError, ResourceError
from mixfit.training.callback import Callback
from mixfit.training.state import TrainState


class TensorBoard(Callback):
    """Writes loss and rate of every step, and all metrics of every epoch; all over the steps done.

    Look at them with ``tensorboard --logdir FOLDER``. What a fit that is resumed does again replaces what it did.

    Args:
        folder: of this one fit; created if needed.
        every: steps after which the losses are fetched from their device and written.
    Raises:
        ConfigError: ``every`` is below 1.
        ResourceError: TensorBoard is not installed.
    """

    order = -9  # as the recorder, before the callbacks that may end the fit
    chooses = changes = False

    def __init__(self, folder: Path, *, every: int = 50) -> None:
        if every < 1:
            raise ConfigError(f"every must be at least 1 step, got {every}.")
        if find_spec("tensorboard") is None:
            raise ResourceError("TensorBoard is not installed; install it with: pip install 'mixfit[track]'")
        self.folder, self.every = folder, every
        self._writer: Any = None
        self._losses: list[Tensor] = []
        self._steps: list[tuple[int, float, float]] = []

    def before_fit(self, state: TrainState) -> None:
        """Forget what an earlier fit had not written."""
        self._losses, self._steps = [], []

    def before_epoch(self, state: TrainState) -> None:
        """Open the file, now that it is known at which step the fit begins."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=state.step + 1 if state.step else None)

    def after_step(self, state: TrainState) -> None:
        """Note the step with its time."""
        self._losses.append(state.loss.detach())
        self._steps.append((state.step, state.optimizer.param_groups[0]["lr"], time.time()))
        if len(self._losses) >= self.every:
            self._write_steps()

    def after_epoch(self, state: TrainState) -> None:
        """Write the metrics."""
        self._write_steps()
        for name, value in state.metrics.items():
            self._writer.add_scalar(f"epoch/{name}", value, state.step)
        self._writer.flush()

    def close(self, state: TrainState) -> None:
        """Close the file, and end the thread that writes it."""
        if self._writer is not None:
            self._write_steps()
            self._writer.close()
            self._writer = None

    def _write_steps(self) -> None:
        if not self._losses:
            return
        losses = torch.stack(self._losses).double().cpu().tolist()
        for loss, (step, lr, moment) in zip(losses, self._steps, strict=True):
            self._writer.add_scalar("step/loss", loss, step, moment)
            self._writer.add_scalar("step/lr", lr, step, moment)
        self._losses, self._steps = [], []
