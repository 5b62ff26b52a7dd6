"""LAMB: Adam whose step for each tensor is as long as the tensor's own weights ask for."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mixfit.training.optimizer.base import Optimizer, Parameters, ParamGroup, Piece
from mixfit.training.optimizer.cohort import Update
from mixfit.training.optimizer.statistics import Average, AverageSquare
from mixfit.training.optimizer.steppers import AdamDirection, Descend


class LAMB(Optimizer):
    """Layer-wise adaptive moments for large batches (You et al. 2019, arXiv:1904.00962).

    Groups without weight decay, which hold biases and norms, take Adam's plain step unless ``always_adapt``: a bias
    that starts at 0 would otherwise hardly move, as its step were as short as itself."""

    def __init__(
        self,
        parameters: Parameters,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        always_adapt: bool = False,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, always_adapt=always_adapt)

    def pieces(self, group: ParamGroup) -> Sequence[Piece]:
        """``r`` is Adam's direction plus ``weight_decay * p``; ``p -= lr * |p| / |r| * r``."""
        return (
            Average("mean", group["betas"][0]),
            AverageSquare(group["betas"][1]),
            AdamDirection(group["betas"], group["eps"]),
            *((TrustRatio(group["weight_decay"]),) if group["weight_decay"] or group["always_adapt"] else ()),
            Descend(group["lr"]),
        )


@dataclass(slots=True)
class TrustRatio:
    """Gives the direction of each tensor, weight decay included, the length of the tensor itself."""

    weight_decay: float

    def __call__(self, update: Update) -> None:
        """A tensor or a direction of length 0 leaves the direction as it is. The ratios stay on the device."""
        directions = torch._foreach_add(update.direction, update.parameters, alpha=self.weight_decay)
        lengths = torch.stack(list(torch._foreach_norm(update.parameters)))
        wanted = torch.stack(list(torch._foreach_norm(directions)))
        ratios = torch.where((lengths > 0) & (wanted > 0), lengths / wanted, 1.0)
        update.direction = list(torch._foreach_mul(directions, list(ratios.unbind())))
