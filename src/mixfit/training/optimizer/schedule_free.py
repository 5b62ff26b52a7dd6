"""Schedule-free AdamW: an average of all weights so far does what a falling learning rate does."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixfit.errors import ConfigError
from mixfit.training.optimizer.base import Optimizer, Parameters, ParamGroup, Piece
from mixfit.training.optimizer.cohort import Cohort, Update
from mixfit.training.optimizer.statistics import AverageSquare


class ScheduleFreeAdamW(Optimizer):
    """AdamW without a schedule (Defazio et al. 2024, arXiv:2405.15682).

    There are three points in place of one: ``fast`` takes the steps, ``average`` is the weighted mean of all points
    that ``fast`` has been at, and gradients are taken between the two, ``betas[0]`` of the way from ``fast`` to
    ``average``. In training the parameters are that point between; ``eval()`` puts the average into them, which is
    what predicts best and is to be saved, and ``train()`` goes back. ``Learner`` calls both. Each is computed from
    ``fast`` and ``average`` alone, so switching changes no bit of the training.

    The rate is constant after ``warmup`` steps; a schedule on top of it is not needed. Running statistics of batch
    norms are those of the point between, not of the average.
    As in the authors' program, the correction of the mean square for its start at 0 does not enter the weights of the
    average (in the paper's algorithm it does).

    Args:
        parameters: as for every optimizer.
        lr: often larger than AdamW's, 1 to 10 times.
        betas: share of the average in the point between, and Adam's second beta.
        eps: as Adam's.
        weight_decay: of the point between.
        warmup: steps in which the rate rises from 0.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup: int = 0,
    ) -> None:
        super().__init__(
            parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, warmup=warmup, training=True
        )

    def pieces(self, group: ParamGroup) -> Sequence[Piece]:
        """The mean square as in Adam; no mean, as the average of the weights does its work.

        Raises:
            ConfigError: ``eval()`` was the last call."""
        if not group["training"]:
            raise ConfigError("The parameters hold their average, which takes no steps; call train() before step().")
        beta1, beta2 = group["betas"]
        step = AveragedStep(group["lr"], beta1, beta2, group["eps"], group["weight_decay"], group["warmup"])
        return AverageSquare(beta2), step

    @torch.no_grad()
    def train(self) -> None:
        """Put the point between ``fast`` and ``average`` into the parameters."""
        for group, cohorts in zip(self.param_groups, self._cohorts, strict=True):
            if not group["training"]:
                for cohort in _started(cohorts):
                    between = _between(cohort.tensors["fast"], cohort.tensors["average"], group["betas"][0])
                    torch._foreach_copy_(cohort.parameters, between)
            group["training"] = True

    @torch.no_grad()
    def eval(self) -> None:
        """Put the average into the parameters."""
        for group, cohorts in zip(self.param_groups, self._cohorts, strict=True):
            if group["training"]:
                for cohort in _started(cohorts):
                    torch._foreach_copy_(cohort.parameters, cohort.tensors["average"])
            group["training"] = False


@dataclass(slots=True)
class AveragedStep:
    """Adam's step for ``fast``, which ``average`` and the parameters follow."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    warmup: int

    def __call__(self, update: Update) -> None:
        """A point weighs as much in the average as the square of its rate."""
        fast, average = update.remembered("fast", torch.clone), update.remembered("average", torch.clone)
        rate = self.lr * min(1.0, update.count / max(self.warmup, 1))
        start = (1 - self.beta2**update.count) ** 0.5
        if self.weight_decay:
            torch._foreach_add_(fast, update.parameters, alpha=-rate * self.weight_decay)
        roots = torch._foreach_sqrt(update.remembered("square"))
        torch._foreach_add_(roots, self.eps * start)
        torch._foreach_addcdiv_(fast, update.direction, roots, -rate * start)
        total = update.numbers["weights"] = update.numbers.get("weights", 0.0) + rate**2
        if total:
            torch._foreach_lerp_(average, fast, rate**2 / total)
        torch._foreach_copy_(update.parameters, _between(fast, average, self.beta1))


def _between(fast: list[Tensor], average: list[Tensor], share: float) -> list[Tensor]:
    return list(torch._foreach_lerp(fast, average, share))


def _started(cohorts: list[Cohort]) -> list[Cohort]:
    return [cohort for cohort in cohorts if cohort.tensors]
