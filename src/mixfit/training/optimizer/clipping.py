"""Gradients that are too long are shortened, all together."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from mixfit.errors import ConfigError
from mixfit.training.optimizer.cohort import HALF


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by one factor, so that together they are at most ``max_norm`` long (arXiv:1211.5063).

    Args:
        parameters: those without a gradient do not count.
        max_norm: in the unit of the gradients; ``math.inf`` only measures.
    Returns:
        Their length before, float32 or float64 ``()``, on their device: nothing waits for the GPU.
    Raises:
        ConfigError: ``max_norm`` is not above 0.
    """
    if not max_norm > 0:
        raise ConfigError(f"max_norm must be above 0, got {max_norm}.")
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not grads:
        return torch.zeros(())
    # Sums of squares overflow in 16 bits.
    lengths = torch._foreach_norm([grad.float() if grad.dtype in HALF else grad for grad in grads])
    norm = torch.linalg.vector_norm(torch.stack([length.to(grads[0].device) for length in lengths]))
    if max_norm < math.inf:
        # Multiplied also when nothing is to be cut: whether it is, is known only on the device.
        torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
