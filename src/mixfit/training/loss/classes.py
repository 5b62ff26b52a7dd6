"""Losses of classes: logits against class indices or probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mixfit.errors import ConfigError
from mixfit.training.loss.base import mean_of_rows, require_same_shape


def binary_cross_entropy(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of yes and no under one logit for each row.

    ``(batch,)`` against ``(batch,)``, which holds 0 and 1, or probabilities of 1."""
    require_same_shape("binary_cross_entropy", prediction, target)
    per_row = F.binary_cross_entropy_with_logits(prediction, target.to(prediction.dtype), reduction="none")
    return mean_of_rows(per_row, weight)


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Negative log-likelihood of the truth under softmax of the logits ``(batch, classes)``.

    Args:
        class_weights: how much a row of each class counts, see ``balanced_class_weights``; None for all alike. Rows are
            divided by their number, not by the sum of these weights.
        smoothing: share of the truth that is spread over all classes, in [0, 1) (Szegedy et al. 2015,
            arXiv:1512.00567).
    Raises:
        ConfigError: a weight is below 0, or ``smoothing`` is impossible.
    """

    class_weights: tuple[float, ...] | None = None
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        _check_weights(self.class_weights)
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"smoothing must be in [0, 1), got {self.smoothing}.")

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """``target`` holds class indices ``(batch,)``, or probabilities ``(batch, classes)`` as ``MixUp`` gives."""
        _require_classes("cross_entropy", prediction, target)
        per_row = F.cross_entropy(
            prediction,
            target,
            weight=_weights_for(prediction, self.class_weights),
            label_smoothing=self.smoothing,
            reduction="none",
        )
        return mean_of_rows(per_row, weight)


@dataclass(frozen=True, slots=True)
class Focal:
    """Cross-entropy in which rows that are already right count little (Lin et al. 2017, arXiv:1708.02002).

    Args:
        gamma: how little: the log-likelihood is multiplied by ``(1 - p) ** gamma``; 0 is cross-entropy.
        class_weights: how much a row of each class counts (alpha in the paper); None for all alike.
    Raises:
        ConfigError: ``gamma`` or a weight is below 0.
    """

    gamma: float = 2.0
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_weights(self.class_weights)
        if not self.gamma >= 0:
            raise ConfigError(f"gamma must be at least 0, got {self.gamma}.")

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """``target`` holds class indices ``(batch,)``, or probabilities ``(batch, classes)``."""
        _require_classes("focal", prediction, target)
        log_p = prediction.log_softmax(1)
        # 0 would have no gradient under a root, as which a gamma below 1 acts.
        rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).eps)
        per_class = -log_p * rest**self.gamma
        weights = _weights_for(prediction, self.class_weights)
        if weights is not None:
            per_class = per_class * weights
        if target.is_floating_point():
            return mean_of_rows((target * per_class).sum(1), weight)
        return mean_of_rows(per_class.gather(1, target[:, None])[:, 0], weight)


def balanced_class_weights(counts: Sequence[int | float]) -> tuple[float, ...]:
    """Weights that give all classes the same sum, with a mean of 1 over the training rows.

    Args:
        counts: training rows of each class, or the sums of their weights.
    Raises:
        ConfigError: a class has no rows.

    >>> balanced_class_weights([30, 10])
    (0.6666666666666666, 2.0)
    """
    if not counts or min(counts) <= 0:
        raise ConfigError(f"Every class needs at least one training row, got {list(counts)}.")
    return tuple(sum(counts) / (len(counts) * count) for count in counts)


def _check_weights(class_weights: tuple[float, ...] | None) -> None:
    if class_weights is not None and not all(weight >= 0 for weight in class_weights):
        raise ConfigError(f"class_weights must be at least 0, got {class_weights}.")


def _weights_for(prediction: Tensor, class_weights: tuple[float, ...] | None) -> Tensor | None:
    if class_weights is None:
        return None
    if len(class_weights) != prediction.shape[1]:
        raise ConfigError(f"There are {len(class_weights)} class weights for {prediction.shape[1]} classes.")
    return torch.tensor(class_weights, dtype=prediction.dtype, device=prediction.device)


def _require_classes(name: str, prediction: Tensor, target: Tensor) -> None:
    wanted = prediction.shape if target.is_floating_point() else prediction.shape[:1]
    if prediction.ndim != 2 or target.shape != wanted:
        raise ConfigError(
            f"{name} needs logits (batch, classes) and classes (batch,) or probabilities (batch, classes), "
            f"got {tuple(prediction.shape)} and {tuple(target.shape)}."
        )


cross_entropy = CrossEntropy()
