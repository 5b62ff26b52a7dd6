"""Classes in an order, such as grades: a model says for each step of the ladder whether the truth is above it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mixfit.errors import ConfigError
from mixfit.training.loss.base import mean_of_rows


def ordinal(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum of the cross-entropies of "above class 0", "above class 1" and so on.

    Frank and Hall 2001; with one score and a bias for each step it is CORAL (Cao et al. 2019, arXiv:1901.07884).

    Args:
        prediction: logits ``(batch, classes - 1)``, one for each class but the last.
        target: int64 ``(batch,)``, classes numbered in their order.
        weight: ``(batch,)`` or None.
    Raises:
        ConfigError: the shapes are others, or the target is not of integers.
    """
    if prediction.ndim != 2 or target.shape != prediction.shape[:1] or target.is_floating_point():
        raise ConfigError(
            f"ordinal needs logits (batch, classes - 1) and integer classes (batch,), "
            f"got {tuple(prediction.shape)} and {tuple(target.shape)} of {target.dtype}."
        )
    above = target[:, None] > torch.arange(prediction.shape[1], device=target.device)
    per_step = F.binary_cross_entropy_with_logits(prediction, above.to(prediction.dtype), reduction="none")
    return mean_of_rows(per_step.sum(1), weight)


def ordinal_probabilities(prediction: Tensor) -> Tensor:
    """Probabilities ``(batch, classes)`` from logits ``(batch, classes - 1)``.

    "Above class 2" cannot be likelier than "above class 1": where the logits say so, the lower figure holds.

    >>> ordinal_probabilities(torch.zeros(1, 2))
    tensor([[0.5000, 0.0000, 0.5000]])
    """
    above = prediction.sigmoid().cummin(dim=1).values
    certain = above.new_ones(len(above), 1)
    return torch.cat([certain, above], dim=1) - torch.cat([above, torch.zeros_like(certain)], dim=1)
