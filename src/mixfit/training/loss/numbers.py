"""Losses of numbers: ``(batch,)`` against ``(batch,)``, or several quantiles of each number."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mixfit.errors import ConfigError
from mixfit.training.loss.base import mean_of_rows, require_same_shape


def mse(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error of ``(batch,)`` against ``(batch,)``."""
    require_same_shape("mse", prediction, target)
    if weight is None:
        return F.mse_loss(prediction, target)  # one operation rather than three, which shows in small networks
    return mean_of_rows((prediction - target) ** 2, weight)


def mae(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute error of ``(batch,)`` against ``(batch,)``."""
    require_same_shape("mae", prediction, target)
    return mean_of_rows((prediction - target).abs(), weight)


@dataclass(frozen=True, slots=True)
class Huber:
    """Half the squared error up to ``delta``, linear beyond, which outliers bend less (Huber 1964).

    Args:
        delta: in the unit of the scaled target, above 0.
    Raises:
        ConfigError: it is not.
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
        levels: of the quantiles, each in (0, 1); a model gives one output for each.
    Raises:
        ConfigError: there is no level, or one is impossible.
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
