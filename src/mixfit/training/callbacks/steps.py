"""Callbacks between the loss and the step: accumulation and clipping of gradients, mixed precision."""

import math
from array import array
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from mixfit.errors import ConfigError, Diverged
from mixfit.training.callback import Callback, CancelBatch, TrainState
from mixfit.training.optimizer import clip_gradients

_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class GradientClipping(Callback):
    """Clips gradients before the step, by norm, by value, or both in this order.

    Args:
        max_norm: largest norm of all gradients together; None for no limit.
        max_value: largest absolute value of any entry; None for no limit.
        record: record the norm of every step before clipping in ``norms``.
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
        """Norm of the gradients of every step, if recorded."""
        self._flush()
        return self._norms.tolist()

    def state_dict(self) -> dict[str, Any]:
        """The norms so far, if recorded."""
        return {"norms": torch.tensor(self.norms, dtype=torch.float64)} if self.record else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the norms."""
        self._norms, self._new_norms = array("d", state["norms"].tolist()), []

    def before_fit(self, state: TrainState) -> None:
        """Reset."""
        self._norms, self._new_norms = array("d"), []

    def after_backward(self, state: TrainState) -> None:
        """Measure, then clip."""
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
        """Fetch the norms of the epoch from their device."""
        self._flush()

    def close(self, state: TrainState) -> None:
        """Fetch the norms of a cancelled epoch."""
        self._flush()

    def _flush(self) -> None:
        if self._new_norms:
            self._norms.extend(torch.stack(self._new_norms).double().cpu().tolist())
            self._new_norms = []


class GradientAccumulation(Callback):
    """Gradient accumulation: each training batch is processed in parts, whose gradients sum to those of the batch.

    For batches that do not fit in memory. Batch statistics, as in batch norms, are those of a part.

    Args:
        parts: number of parts; the last one may be smaller.
    Raises:
        ConfigError: ``parts`` is below 1.
    """

    chooses = False

    def __init__(self, parts: int) -> None:
        if parts < 1:
            raise ConfigError(f"parts must be at least 1, got {parts}.")
        self.parts = parts

    def before_fit(self, state: TrainState) -> None:
        """Set the parts; a resumed fit keeps its number of parts."""
        state.parts = self.parts


class MixedPrecision(Callback):
    """Mixed precision with ``torch.autocast``: half the memory, and much faster on devices that support it.

    bfloat16 has the range of float32. With float16, small gradients would underflow, so the loss is multiplied by a
    scale and the gradients are divided by it. A step with an overflow is skipped and halves the scale; ``growth`` steps
    without an overflow double it.

    Args:
        dtype: ``"bfloat16"`` or ``"float16"``; the weights are not converted.
        scale: initial scale of float16, a power of 2, so that scaling is exact.
        growth: steps without an overflow after which the scale is doubled.
    Raises:
        ConfigError: an argument is invalid.
        Diverged: in a fit, gradients overflow even at a scale of 1.
    """

    order = -100  # before all callbacks that read gradients
    chooses = False

    def __init__(self, dtype: str, *, scale: float = 65536.0, growth: int = 2000) -> None:
        if dtype not in _TYPES:
            raise ConfigError(f"MixedPrecision supports bfloat16 and float16, not {dtype!r}.")
        if not (1 <= scale < math.inf and math.frexp(scale)[0] == 0.5):
            raise ConfigError(f"scale must be a power of 2, and at least 1, got {scale}.")
        if growth < 1:
            raise ConfigError(f"growth must be at least 1 step, got {growth}.")
        self.dtype, self.first_scale, self.growth = dtype, scale, growth
        self.scale, self.good_steps, self.skipped = scale, 0, 0
        self._former: Any = None

    def settings_dict(self) -> dict[str, Any]:
        """Settings with the initial scale, not the current one."""
        return super().settings_dict() | {"scale": self.first_scale}

    def state_dict(self) -> dict[str, Any]:
        """The scale of float16, and the number of steps without an overflow."""
        if self.dtype == "bfloat16":
            return {}
        return {"scale": self.scale, "good_steps": self.good_steps, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the scale."""
        self.scale, self.good_steps, self.skipped = state["scale"], state["good_steps"], state["skipped"]

    def before_fit(self, state: TrainState) -> None:
        """Set the autocast context."""
        self.scale, self.good_steps, self.skipped = self.first_scale, 0, 0
        self._former = state.arithmetic
        device, dtype = state.loss_sum.device.type, _TYPES[self.dtype]

        def arithmetic() -> AbstractContextManager[Any]:
            return torch.autocast(device, dtype=dtype)

        state.arithmetic = arithmetic

    def before_epoch(self, state: TrainState) -> None:
        """Set the initial scale, or that of the resumed fit."""
        if self.dtype == "float16":
            state.loss_scale = self.scale

    def after_backward(self, state: TrainState) -> None:
        """Unscale the gradients, or skip the step."""
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
            return  # the loss itself is not finite: handled by NanGuard, or at the end of the epoch
        if self.scale == 1:
            raise Diverged(
                f"The gradients of step {state.step + 1} (epoch {state.epoch + 1}, batch {state.batch}) overflow in "
                "float16 even without a scale: train in bfloat16, or with a smaller learning rate."
            )
        self.skipped += 1
        self._set_scale(self.scale / 2, state)
        raise CancelBatch

    def close(self, state: TrainState) -> None:
        """Restore the previous context."""
        if self._former is not None:
            state.arithmetic, self._former = self._former, None
            state.loss_scale = 1.0

    def _set_scale(self, scale: float, state: TrainState) -> None:
        self.scale, self.good_steps = scale, 0
        state.loss_scale = scale


def learning_parameters(state: TrainState) -> list[Tensor]:
    """Gradients of the optimizer's parameters."""
    return [parameter for group in state.optimizer.param_groups for parameter in group["params"]]


def _are_finite(grads: list[Tensor]) -> bool:
    """Whether all gradients are finite; synchronises with the device."""
    if not grads:
        return True
    largest = torch._foreach_norm(grads, math.inf)  # nan propagates
    return bool(torch.stack([size.float().to(grads[0].device) for size in largest]).isfinite().all())
