"""Callbacks between the gradients and the step."""

import math
from array import array
from typing import Any

import torch
from torch import Tensor

from mixfit.errors import ConfigError
from mixfit.training.callback import Callback
from mixfit.training.optimizer import clip_gradients
from mixfit.training.state import TrainState


class GradientClipping(Callback):
    """Shortens gradients before the step: all together to a length, each number to a largest size, or both in turn.

    Args:
        max_norm: the most that all gradients together are long; None leaves the length alone.
        max_value: the most that any number in them is away from 0; None leaves the numbers alone.
        record: keep the length of every step, before anything is cut, in ``norms``.
    Raises:
        ConfigError: neither limit is given and nothing is recorded, or one is not above 0.
    """

    order = 20  # after MixedPrecision, which divides the gradients by their scale
    chooses = False

    def __init__(self, max_norm: float | None = None, *, max_value: float | None = None, record: bool = False) -> None:
        if max_norm is None and max_value is None and not record:
            raise ConfigError("GradientClipping needs max_norm, max_value or record=True.")
        for name, limit in (("max_norm", max_norm), ("max_value", max_value)):
            if limit is not None and not limit > 0:
                raise ConfigError(f"{name} must be above 0, got {limit}.")
        self.max_norm, self.max_value, self.record = max_norm, max_value, record
        self._norms = array("d")
        self._new_norms: list[Tensor] = []

    @property
    def norms(self) -> list[float]:
        """Length of the gradients of every step, in their unit, if it was asked for."""
        self._flush()
        return self._norms.tolist()

    def state_dict(self) -> dict[str, Any]:
        """The lengths so far, if they are recorded."""
        return {"norms": torch.tensor(self.norms, dtype=torch.float64)} if self.record else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on recording."""
        self._norms, self._new_norms = array("d", state["norms"].tolist()), []

    def before_fit(self, state: TrainState) -> None:
        """Forget an earlier fit."""
        self._norms, self._new_norms = array("d"), []

    def after_backward(self, state: TrainState) -> None:
        """Measure, then cut."""
        parameters = learning_parameters(state)
        if self.max_norm is not None or self.record:
            norm = clip_gradients(parameters, math.inf if self.max_norm is None else self.max_norm)
            if self.record:
                self._new_norms.append(norm)
        if self.max_value is not None:
            grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
            torch._foreach_clamp_min_(grads, -self.max_value)
            torch._foreach_clamp_max_(grads, self.max_value)

    def after_train(self, state: TrainState) -> None:
        """Fetch the lengths of the epoch from their device."""
        self._flush()

    def close(self, state: TrainState) -> None:
        """Fetch those of an epoch that was left."""
        self._flush()

    def _flush(self) -> None:
        if self._new_norms:
            self._norms.extend(torch.stack(self._new_norms).double().cpu().tolist())
            self._new_norms = []


class GradientAccumulation(Callback):
    """Sends each training batch through the model in parts, whose gradients add up to those of the whole batch.

    For batches that do not fit in the memory. What looks at the rows of a batch together, such as a batch norm, sees
    those of one part.

    Args:
        parts: into how many a batch is cut; the last one is smaller when they do not divide it.
    Raises:
        ConfigError: ``parts`` is below 1.
    """

    chooses = False

    def __init__(self, parts: int) -> None:
        if parts < 1:
            raise ConfigError(f"parts must be at least 1, got {parts}.")
        self.parts = parts

    def before_fit(self, state: TrainState) -> None:
        """Say it to the loop; a fit that is resumed goes on with the parts it had."""
        state.parts = self.parts


def learning_parameters(state: TrainState) -> list[Tensor]:
    """Those that the optimizer moves."""
    return [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
