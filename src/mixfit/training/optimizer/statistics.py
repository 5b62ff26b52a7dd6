"""Statistics: pieces that remember something of the gradients, one tensor for each parameter."""

from dataclasses import dataclass

import torch

from mixfit.training.optimizer.cohort import Update


@dataclass(slots=True)
class Momentum:
    """A velocity, ``v = momentum * v + g``, becomes the direction (Polyak 1964)."""

    momentum: float

    def __call__(self, update: Update) -> None:
        """Gather speed; without momentum nothing is remembered."""
        if not self.momentum:
            return
        velocity = update.remembered("momentum")
        torch._foreach_mul_(velocity, self.momentum)
        torch._foreach_add_(velocity, update.direction)
        update.direction = velocity


@dataclass(slots=True)
class Average:
    """The running mean of the gradient under a name: ``m = beta * m + (1 - beta) * g``."""

    name: str
    beta: float

    def __call__(self, update: Update) -> None:
        """Take the gradient in."""
        torch._foreach_lerp_(update.remembered(self.name), update.direction, 1 - self.beta)


@dataclass(slots=True)
class AverageSquare:
    """The running mean of the squared gradient, ``v = beta * v + (1 - beta) * g**2``, under the name ``square``."""

    beta: float

    def __call__(self, update: Update) -> None:
        """Take the squared gradient in."""
        squares = update.remembered("square")
        torch._foreach_mul_(squares, self.beta)
        torch._foreach_addcmul_(squares, update.direction, update.direction, 1 - self.beta)
