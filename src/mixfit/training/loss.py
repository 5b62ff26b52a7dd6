"""Loss functions: raw outputs and targets -> one number to minimise.

None of them broadcasts: ``(batch, 1)`` against ``(batch,)`` is an error, not a silent matrix."""

from typing import Protocol, runtime_checkable

from torch import Tensor
from torch.nn import functional as F

from mixfit.errors import ConfigError


@runtime_checkable
class Loss(Protocol):
    """``(prediction, target, weight) -> scalar``; ``weight`` is one number per row, or None for all alike."""

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor: ...


def mse(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error of ``(batch,)`` against ``(batch,)``."""
    _require_same_shape("mse", prediction, target)
    return _mean((prediction - target) ** 2, weight)


def mae(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute error of ``(batch,)`` against ``(batch,)``."""
    _require_same_shape("mae", prediction, target)
    return _mean((prediction - target).abs(), weight)


def huber(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Squared for errors up to 1, linear beyond (Huber 1964), which outliers bend less."""
    _require_same_shape("huber", prediction, target)
    return _mean(F.huber_loss(prediction, target, reduction="none"), weight)


def cross_entropy(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of the truth under softmax of the logits ``(batch, classes)``.

    ``target`` holds class indices ``(batch,)``, or probabilities ``(batch, classes)`` as ``MixUp`` makes them."""
    wanted = prediction.shape if target.is_floating_point() else prediction.shape[:1]
    if prediction.ndim != 2 or target.shape != wanted:
        raise ConfigError(
            f"cross_entropy needs logits (batch, classes) and classes (batch,) or probabilities (batch, classes), "
            f"got {tuple(prediction.shape)} and {tuple(target.shape)}."
        )
    return _mean(F.cross_entropy(prediction, target, reduction="none"), weight)


def _mean(per_row: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return per_row.mean()
    _require_same_shape("weight", weight, per_row)
    # Divided by the number of rows, not by the sum of this batch's weights: what a row counts must not depend on its
    # neighbours. Weights have a mean of 1 over the training rows.
    return (per_row * weight).mean()


def _require_same_shape(name: str, prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:
        raise ConfigError(
            f"{name}: prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape; "
            "they must be equal, as nothing is broadcast."
        )
