"""Lion: only the sign of the direction counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mixfit.training.optimizer.base import Optimizer, Parameters, ParamGroup, Piece
from mixfit.training.optimizer.cohort import Update
from mixfit.training.optimizer.statistics import Average
from mixfit.training.optimizer.steppers import Decay


class Lion(Optimizer):
    """Evolved sign momentum (Chen et al. 2023, arXiv:2302.06675); one mean to remember where Adam has two.

    Every number moves by exactly ``lr`` in a step, so ``lr`` should be 3 to 10 times smaller than AdamW's and
    ``weight_decay`` as much larger."""

    def __init__(
        self,
        parameters: Parameters,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, weight_decay=weight_decay)

    def pieces(self, group: ParamGroup) -> Sequence[Piece]:
        """``p -= lr * (sign(beta1 * mean + (1 - beta1) * g) + weight_decay * p)``; the mean follows."""
        beta1, beta2 = group["betas"]
        return Decay(group["lr"] * group["weight_decay"]), SignStep(group["lr"], beta1), Average("mean", beta2)


@dataclass(slots=True)
class SignStep:
    """``p -= lr * sign(beta * mean + (1 - beta) * g)``."""

    lr: float
    beta: float

    def __call__(self, update: Update) -> None:
        """With the mean of the steps before."""
        signs = torch._foreach_lerp(update.remembered("mean"), update.direction, 1 - self.beta)
        torch._foreach_sign_(signs)
        torch._foreach_add_(update.parameters, signs, alpha=-self.lr)
