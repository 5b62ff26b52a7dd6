"""What every loss is, and what every loss does: check shapes, weigh rows, take the mean."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from mixfit.errors import ConfigError


@runtime_checkable
class Loss(Protocol):
    """``(prediction, target, weight) -> scalar``; ``weight`` is one number per row, or None for all alike."""

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor: ...


def mean_of_rows(per_row: Tensor, weight: Tensor | None) -> Tensor:
    """The weighted sum of ``(batch,)`` over the number of rows.

    Raises:
        ConfigError: the weights are not one for each row."""
    if weight is None:
        return per_row.mean()
    require_same_shape("weight", weight, per_row)
    # Divided by the number of rows, not by the sum of this batch's weights: what a row counts must not depend on its
    # neighbours. Weights have a mean of 1 over the training rows.
    return (per_row * weight).mean()


def require_same_shape(name: str, prediction: Tensor, target: Tensor) -> None:
    """Refuse to broadcast.

    Raises:
        ConfigError: the shapes differ."""
    if prediction.shape != target.shape:
        raise ConfigError(
            f"{name}: prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape; "
            "they must be equal, as nothing is broadcast. (In training, tabm gives a prediction of each member: "
            "wrap the loss in PerMember, as Learner does.)"
        )
