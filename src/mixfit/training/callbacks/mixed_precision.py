"""Forward passes in 16 bits, weights and steps in 32 (Micikevicius et al. 2017, arXiv:1710.03740)."""

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from mixfit.errors import ConfigError, Diverged
from mixfit.training.callback import Callback, CancelBatch
from mixfit.training.callbacks.gradients import learning_parameters
from mixfit.training.state import TrainState

_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class MixedPrecision(Callback):
    """Prediction and loss under ``torch.autocast``: half the memory, and much faster where the device has it.

    bfloat16 has the range of float32 and needs no more than that. float16 has not: small gradients would become 0, so
    the loss is multiplied by a scale and the gradients are divided by it. A step whose gradients overflow is left out
    and halves the scale, ``growth`` steps without an overflow double it.

    Args:
        dtype: of the arithmetic, ``"bfloat16"`` or ``"float16"``; the weights stay as they are.
        scale: first scale of float16, a power of 2 so that dividing by it changes no digit.
        growth: steps without an overflow after which the scale is doubled.
    Raises:
        ConfigError: an argument is impossible.
        Diverged: in a fit, gradients overflow at a scale of 1 too.
    """

    order = -100  # before all who look at gradients
    chooses = False

    def __init__(self, dtype: str, *, scale: float = 65536.0, growth: int = 2000) -> None:
        if dtype not in _TYPES:
            raise ConfigError(f"MixedPrecision knows bfloat16 and float16, not {dtype!r}.")
        if not (1 <= scale < math.inf and math.frexp(scale)[0] == 0.5):
            raise ConfigError(f"scale must be a power of 2, and at least 1, got {scale}.")
        if growth < 1:
            raise ConfigError(f"growth must be at least 1 step, got {growth}.")
        self.dtype, self.first_scale, self.growth = dtype, scale, growth
        self.scale, self.good_steps, self.skipped = scale, 0, 0
        self._former: Any = None

    def settings_dict(self) -> dict[str, Any]:
        """With the first scale, not that of now."""
        return super().settings_dict() | {"scale": self.first_scale}

    def state_dict(self) -> dict[str, Any]:
        """The scale of float16, and how long it has been good."""
        if self.dtype == "bfloat16":
            return {}
        return {"scale": self.scale, "good_steps": self.good_steps, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with that scale."""
        self.scale, self.good_steps, self.skipped = state["scale"], state["good_steps"], state["skipped"]

    def before_fit(self, state: TrainState) -> None:
        """Surround prediction and loss."""
        self.scale, self.good_steps, self.skipped = self.first_scale, 0, 0
        self._former = state.arithmetic
        device, dtype = state.loss_sum.device.type, _TYPES[self.dtype]

        def arithmetic() -> AbstractContextManager[Any]:
            return torch.autocast(device, dtype=dtype)

        state.arithmetic = arithmetic

    def before_epoch(self, state: TrainState) -> None:
        """The first scale, or that of the fit that is resumed."""
        if self.dtype == "float16":
            state.loss_scale = self.scale

    def after_backward(self, state: TrainState) -> None:
        """Divide the gradients by the scale, or leave the step out."""
        if self.dtype == "bfloat16":
            return
        grads = [parameter.grad for parameter in learning_parameters(state) if parameter.grad is not None]
        if _are_finite(grads):
            if self.scale != 1:
                torch._foreach_mul_(grads, 1 / self.scale)
            self.good_steps += 1
            if self.good_steps == self.growth:
                self._set_scale(2 * self.scale, state)
            return
        if not bool(state.loss.isfinite()):
            return  # not for the scale to cure: NanGuard's, or the end of the epoch's
        if self.scale == 1:
            raise Diverged(
                f"The gradients of step {state.step + 1} (epoch {state.epoch + 1}, batch {state.batch}) overflow in "
                "float16 even without a scale: train in bfloat16, or with a smaller learning rate."
            )
        self.skipped += 1
        self._set_scale(self.scale / 2, state)
        raise CancelBatch

    def close(self, state: TrainState) -> None:
        """What surrounded them before."""
        if self._former is not None:
            state.arithmetic, self._former = self._former, None
            state.loss_scale = 1.0

    def _set_scale(self, scale: float, state: TrainState) -> None:
        self.scale, self.good_steps = scale, 0
        state.loss_scale = scale


def _are_finite(grads: list[Tensor]) -> bool:
    """Whether all numbers are; waits for the device."""
    if not grads:
        return True
    largest = torch._foreach_norm(grads, math.inf)  # nan wins over every number
    return bool(torch.stack([size.float().to(grads[0].device) for size in largest]).isfinite().all())
