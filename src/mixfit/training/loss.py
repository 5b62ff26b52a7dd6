"""Losses: raw outputs and targets -> one number to minimise.

For numbers, quantiles, classes, and the members of an ensemble; ``ordinal.py`` has those for ordered classes. Losses
without settings are functions; those with settings are frozen dataclasses, with lower-case instances of the default
settings: ``huber`` is ``Huber()``. No loss broadcasts: ``(batch, 1)`` against ``(batch,)`` is an error."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from mixfit.errors import ConfigError

_LARGEST_LOG_RATE = 30.0
"""Above it, the exponential of a rate has no gradient: it would exceed the range of float32."""


@runtime_checkable
class Loss(Protocol):
    """``(prediction, target, weight) -> scalar``; ``weight`` is one number per row, or None for equal weights."""

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor: ...


def mean_of_rows(per_row: Tensor, weight: Tensor | None) -> Tensor:
    """The weighted sum of ``(batch,)`` over the number of rows.

    Raises:
        ConfigError: the weights are not one for each row."""
    if weight is None:
        return per_row.mean()
    require_same_shape("weight", weight, per_row)
    # Divided by the number of rows, not by the sum of this batch's weights, so that a row's contribution does not
    # depend on the other rows. Weights have a mean of 1 over the training rows.
    return (per_row * weight).mean()


def require_same_shape(name: str, prediction: Tensor, target: Tensor) -> None:
    """Refuse to broadcast.

    Raises:
        ConfigError: the shapes differ."""
    if prediction.shape != target.shape:
        raise ConfigError(
            f"{name}: prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape; "
            "they must be equal, as losses do not broadcast. (In training, tabm returns a prediction per member: "
            "wrap the loss in PerMember, as Learner does.)"
        )


def mse(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error of ``(batch,)`` against ``(batch,)``."""
    require_same_shape("mse", prediction, target)
    if weight is None:
        return F.mse_loss(prediction, target)  # one operation rather than three, which shows in small networks
    return mean_of_rows((prediction - target) ** 2, weight)


def poisson(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Poisson loss of logarithms of expected counts ``(batch,)`` against counts ``(batch,)``, in any common unit."""
    require_same_shape("poisson", prediction, target)
    bounded = prediction.clamp(max=_LARGEST_LOG_RATE)
    return mean_of_rows(bounded.exp() - target * prediction, weight)


def mae(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute error of ``(batch,)`` against ``(batch,)``."""
    require_same_shape("mae", prediction, target)
    return mean_of_rows((prediction - target).abs(), weight)


@dataclass(frozen=True, slots=True)
class Huber:
    """Half the squared error up to ``delta``, linear beyond, which is robust to outliers (Huber 1964).

    Args:
        delta: in the unit of the scaled target, above 0.
    Raises:
        ConfigError: ``delta`` is not above 0.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ConfigError(f"delta must be above 0, got {self.delta}.")

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Of ``(batch,)`` against ``(batch,)``."""
        require_same_shape("huber", prediction, target)
        return mean_of_rows(F.huber_loss(prediction, target, reduction="none", delta=self.delta), weight)


huber = Huber()


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Pinball loss of several quantiles at once, the mean over them (Koenker and Bassett 1978).

    Args:
        levels: of the quantiles, each in (0, 1); the model needs one output for each.
    Raises:
        ConfigError: there is no level, or one is invalid.
    """

    levels: tuple[float, ...] = (0.05, 0.5, 0.95)

    def __post_init__(self) -> None:
        if not self.levels or not all(0 < level < 1 for level in self.levels):
            raise ConfigError(f"Quantiles need levels between 0 and 1, got {self.levels}.")

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Of ``(batch, levels)`` against ``(batch,)``."""
        if prediction.shape != (*target.shape, len(self.levels)) or target.ndim != 1:
            raise ConfigError(
                f"Quantiles need predictions (batch, {len(self.levels)}) and targets (batch,), "
                f"got {tuple(prediction.shape)} and {tuple(target.shape)}."
            )
        levels = torch.tensor(self.levels, dtype=prediction.dtype, device=prediction.device)
        error = target[:, None] - prediction
        return mean_of_rows(torch.maximum(levels * error, (levels - 1) * error).mean(1), weight)


def binary_cross_entropy(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy with one logit per row.

    ``(batch,)`` against ``(batch,)`` of 0 and 1, or probabilities of 1."""
    require_same_shape("binary_cross_entropy", prediction, target)
    per_row = F.binary_cross_entropy_with_logits(prediction, target.to(prediction.dtype), reduction="none")
    return mean_of_rows(per_row, weight)


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Negative log-likelihood of the truth under softmax of the logits ``(batch, classes)``.

    Args:
        class_weights: weight of the rows of each class, see ``balanced_class_weights``; None for equal weights. The sum
            is divided by the number of rows, not by the sum of these weights.
        smoothing: label smoothing, in [0, 1) (Szegedy et al. 2015, arXiv:1512.00567).
    Raises:
        ConfigError: a weight is below 0, or ``smoothing`` is invalid.
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
    """Focal loss: cross-entropy with smaller weights for well-classified rows (Lin et al. 2017, arXiv:1708.02002).

    Args:
        gamma: the log-likelihood is multiplied by ``(1 - p) ** gamma``; 0 is cross-entropy.
        class_weights: weight of the rows of each class (alpha in the paper); None for equal weights.
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
        # Avoids the infinite gradient at 0 for gamma below 1.
        rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).eps)
        per_class = -log_p * rest**self.gamma
        weights = _weights_for(prediction, self.class_weights)
        if weights is not None:
            per_class = per_class * weights
        if target.is_floating_point():
            return mean_of_rows((target * per_class).sum(1), weight)
        return mean_of_rows(per_class.gather(1, target[:, None])[:, 0], weight)


def balanced_class_weights(counts: Sequence[int | float]) -> tuple[float, ...]:
    """Weights with equal sums over classes, and a mean of 1 over the training rows.

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


@dataclass(frozen=True, slots=True)
class PerMember:
    """The mean of the members' losses instead of the loss of their mean, which keeps the members diverse.

    As in TabM (Gorishniy et al. 2024, arXiv:2410.24210). A prediction without members, as in evaluation, is passed to
    the loss unchanged.

    Args:
        loss: of one member.
        axes: of a prediction of one member: 1 for ``(batch,)``, 2 for ``(batch, classes)``. The members are axis 1.
    """

    loss: Loss
    axes: Literal[1, 2]

    def __call__(self, prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Of ``(batch, members)`` or ``(batch, members, classes)``; targets and weights have no axis of members.

        Raises:
            ConfigError: the prediction has another number of axes, or not as many rows as the target.
        """
        if prediction.ndim == self.axes:
            return self.loss(prediction, target, weight)
        if prediction.ndim != self.axes + 1 or len(prediction) != len(target):
            wanted = "(batch, members)" if self.axes == 1 else "(batch, members, classes)"
            raise ConfigError(
                f"PerMember needs predictions {wanted} and one target for each row, "
                f"got {tuple(prediction.shape)} and {tuple(target.shape)}."
            )
        members = prediction.shape[1]
        repeated = None if weight is None else weight.repeat_interleave(members, dim=0)
        return self.loss(prediction.flatten(0, 1), target.repeat_interleave(members, dim=0), repeated)
