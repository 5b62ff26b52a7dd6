"""Steppers: pieces that turn gradients into a direction, or go along it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mixfit.training.optimizer.cohort import Update


@dataclass(slots=True)
class L2:
    """Adds ``weight_decay * p`` to the gradient, as if half the squared length of the weights were in the loss."""

    weight_decay: float

    def __call__(self, update: Update) -> None:
        """Leaves the gradient itself alone."""
        if self.weight_decay:
            update.direction = list(torch._foreach_add(update.direction, update.parameters, alpha=self.weight_decay))


@dataclass(slots=True)
class Decay:
    """Shrinks the parameters by a share, apart from the gradient (Loshchilov and Hutter 2017, arXiv:1711.05101)."""

    share: float

    def __call__(self, update: Update) -> None:
        """``p -= share * p``."""
        if self.share:
            torch._foreach_mul_(update.parameters, 1 - self.share)


@dataclass(slots=True)
class Descend:
    """``p -= lr * direction``."""

    lr: float

    def __call__(self, update: Update) -> None:
        """One step downhill."""
        torch._foreach_add_(update.parameters, update.direction, alpha=-self.lr)


@dataclass(slots=True)
class DivideByRoot:
    """``direction / (sqrt(square) + eps)``: long steps where gradients are small."""

    eps: float

    def __call__(self, update: Update) -> None:
        """Needs ``AverageSquare`` before it."""
        denominators = _roots(update, self.eps)
        update.direction = list(torch._foreach_div(update.direction, denominators))


@dataclass(slots=True)
class RootStep:
    """``DivideByRoot`` and ``Descend`` in one pass over the memory."""

    lr: float
    eps: float

    def __call__(self, update: Update) -> None:
        """``p -= lr * direction / (sqrt(square) + eps)``."""
        torch._foreach_addcdiv_(update.parameters, update.direction, _roots(update, self.eps), -self.lr)


@dataclass(slots=True)
class AdamStep:
    """``p -= lr * mean / (sqrt(square) + eps)``, both corrected for their start at 0 (Kingma and Ba, arXiv:1412.6980).

    Needs ``Average("mean", betas[0])`` and ``AverageSquare(betas[1])`` before it."""

    lr: float
    betas: tuple[float, float]
    eps: float

    def __call__(self, update: Update) -> None:
        """Both sides of the fraction are multiplied by the second correction, which spares a pass over the memory."""
        start1, start2 = corrections(update, self.betas)
        denominators = _roots(update, self.eps * start2)
        torch._foreach_addcdiv_(update.parameters, update.remembered("mean"), denominators, -self.lr * start2 / start1)


@dataclass(slots=True)
class AdamDirection:
    """Adam's direction without its step, for optimisers that change its length."""

    betas: tuple[float, float]
    eps: float

    def __call__(self, update: Update) -> None:
        """As ``AdamStep``."""
        start1, start2 = corrections(update, self.betas)
        directions = list(torch._foreach_div(update.remembered("mean"), _roots(update, self.eps * start2)))
        torch._foreach_mul_(directions, start2 / start1)
        update.direction = directions


def corrections(update: Update, betas: tuple[float, float]) -> tuple[float, float]:
    """The shares of the mean, and of the root of the mean square, that a running mean from 0 has reached by now."""
    beta1, beta2 = betas
    return 1 - beta1**update.count, (1 - beta2**update.count) ** 0.5


def _roots(update: Update, eps: float) -> list[Tensor]:
    roots = list(torch._foreach_sqrt(update.remembered("square")))
    torch._foreach_add_(roots, eps)
    return roots
