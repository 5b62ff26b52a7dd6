"""The loss of predicting the same for every row, the least that a model must beat."""

import torch
from torch import Tensor

from mixfit.training.loss import Loss


def constant_outputs(targets: Tensor, output: Tensor) -> list[Tensor]:
    """The best constants for the training targets in the form of a model's outputs, one row each; none where unknown.

    Args:
        targets: of the training rows, numbers or class indices ``(rows,)``.
        output: of a model, ``(batch,)`` or ``(batch, classes)``."""
    if not len(targets) or targets.ndim != 1:
        return []
    if output.ndim == 1 and targets.is_floating_point():
        return [targets.mean()[None], targets.median()[None]]  # one for squared, one for absolute errors
    if output.ndim == 2 and not targets.is_floating_point() and int(targets.max()) < output.shape[1]:
        counts = torch.bincount(targets, minlength=output.shape[1]).double() + 1  # no class is impossible
        return [(counts / counts.sum()).log()[None].to(output.dtype)]
    return []


def constant_losses(constants: list[Tensor], loss: Loss, output: Tensor, yb: Tensor) -> list[float]:
    """The sum over the rows of a batch of the loss of each constant."""
    return [
        float(loss(constant.to(output.device).expand_as(output).contiguous(), yb)) * len(yb) for constant in constants
    ]
