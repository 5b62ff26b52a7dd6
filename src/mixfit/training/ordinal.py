"""Losses for ordered classes: cross-entropies of "above class 0", "above class 1" and so on."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mixfit.errors import ConfigError
from mixfit.training.loss import mean_of_rows


def ordered_cross_entropy(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """The sum of the cross-entropies of "above class 0", "above class 1" and so on, from one logit per class.

    A sum of proper scores, which also counts how far a wrong class is; the probabilities are those of softmax.

    Args:
        prediction: logits ``(batch, classes)``.
        target: int64 ``(batch,)``, ordered class indices.
        weight: ``(batch,)`` or None.
    Raises:
        ConfigError: the shapes are wrong, or the target is not of integers.
    """
    _require_ordered("ordered_cross_entropy", "classes", prediction, target)
    log_p = prediction.log_softmax(1)
    at_most = log_p.logcumsumexp(1)[:, :-1]
    above = log_p.flip(1).logcumsumexp(1).flip(1)[:, 1:]
    return mean_of_rows(-torch.where(_is_above(target, at_most), above, at_most).sum(1), weight)


def ordinal(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Ordinal regression: sum of the cross-entropies of "above class 0", "above class 1" and so on.

    Frank and Hall 2001; with one score and a bias per threshold it is CORAL (Cao et al. 2019, arXiv:1901.07884).

    Args:
        prediction: logits ``(batch, classes - 1)``, one for each class except the last.
        target: int64 ``(batch,)``, ordered class indices.
        weight: ``(batch,)`` or None.
    Raises:
        ConfigError: the shapes are wrong, or the target is not of integers.
    """
    _require_ordered("ordinal", "classes - 1", prediction, target)
    above = _is_above(target, prediction).to(prediction.dtype)
    per_step = F.binary_cross_entropy_with_logits(prediction, above, reduction="none")
    return mean_of_rows(per_step.sum(1), weight)


def ordinal_probabilities(prediction: Tensor) -> Tensor:
    """Probabilities ``(batch, classes)`` from logits ``(batch, classes - 1)``.

    "Above class 2" cannot be more probable than "above class 1": if the logits contradict this, the minimum is used.

    >>> ordinal_probabilities(torch.zeros(1, 2))
    tensor([[0.5000, 0.0000, 0.5000]])
    """
    above = prediction.sigmoid().cummin(dim=1).values
    certain = above.new_ones(len(above), 1)
    return torch.cat([certain, above], dim=1) - torch.cat([above, torch.zeros_like(certain)], dim=1)


def _is_above(target: Tensor, steps: Tensor) -> Tensor:
    """Whether a class is above each of the classes of ``steps``, bool ``(batch, steps)``."""
    return target[:, None] > torch.arange(steps.shape[1], device=target.device)


def _require_ordered(name: str, outputs: str, prediction: Tensor, target: Tensor) -> None:
    if prediction.ndim != 2 or target.shape != prediction.shape[:1] or target.is_floating_point():
        raise ConfigError(
            f"{name} needs logits (batch, {outputs}) and integer classes (batch,), "
            f"got {tuple(prediction.shape)} and {tuple(target.shape)} of {target.dtype}."
        )
