"""Callbacks that decide when training ends and which weights are kept."""

import math
from typing import Any, Literal

from torch import Tensor

from mixfit.errors import ConfigError
from mixfit.training.callback import Callback, CancelFit
from mixfit.training.snapshot import judged_tensors
from mixfit.training.state import TrainState


class EarlyStopping(Callback):
    """End training when a metric has not improved for ``patience`` epochs in a row; the best weights are put back.

    Args:
        metric: a key of ``state.metrics``, such as ``valid_loss``.
        mode: which direction is better.
        patience: epochs without improvement after which training ends, at least 1.
    """

    order = 10  # after the callbacks that record the epoch

    def __init__(self, metric: str = "valid_loss", *, mode: Literal["min", "max"], patience: int) -> None:
        if patience < 1:
            raise ConfigError(f"patience must be at least 1, got {patience}.")
        self.metric, self.mode, self.patience = metric, mode, patience
        self.sign = 1.0 if mode == "min" else -1.0
        self.best, self.best_epoch, self.bad_epochs = math.inf, -1, 0
        self._weights: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """The best epoch with its weights, and how many bad ones have followed."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "bad_epochs": self.bad_epochs,
            "weights": self._weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on waiting."""
        self.best, self.best_epoch, self.bad_epochs = state["best"], state["best_epoch"], state["bad_epochs"]
        self._weights = dict(state["weights"])

    def before_fit(self, state: TrainState) -> None:
        """Start anew."""
        self.best, self.best_epoch, self.bad_epochs, self._weights = math.inf, -1, 0, {}

    def after_epoch(self, state: TrainState) -> None:
        """Compare; remember the weights of a better epoch."""
        if self.metric not in state.metrics:
            known = ", ".join(state.metrics)
            raise ConfigError(f"EarlyStopping watches {self.metric!r}, but the metrics are {known}.")
        value = self.sign * state.metrics[self.metric]
        if value < self.best:
            self.best, self.best_epoch, self.bad_epochs = value, state.epoch, 0
            self._weights = judged_tensors(state)
            return
        self.bad_epochs += 1
        if self.bad_epochs >= self.patience:
            raise CancelFit

    def after_fit(self, state: TrainState) -> None:
        """Put the best weights back."""
        if self._weights:
            state.model.load_state_dict(self._weights, strict=False)

    def close(self, state: TrainState) -> None:
        """Free the copy."""
        self._weights = {}
