"""Muon: the step of a weight matrix is made orthogonal, so that it moves in all directions alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mixfit.training.optimizer.base import Optimizer, Parameters, ParamGroup, Piece
from mixfit.training.optimizer.classic import adam_pieces
from mixfit.training.optimizer.cohort import Update
from mixfit.training.optimizer.statistics import Average
from mixfit.training.optimizer.steppers import Decay

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial ``a x + b x**3 + c x**5``, chosen by Jordan et al. to lift small singular values quickly."""
ITERATIONS = 5


class Muon(Optimizer):
    """Momentum orthogonalised by Newton-Schulz for 2-D weights, AdamW for all others.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. A step of a matrix ``(rows, columns)`` is scaled
    by ``0.2 * sqrt(max(rows, columns))``, which makes it about as long as AdamW's (Liu et al. 2025, arXiv:2502.16982),
    so one learning rate and one weight decay serve both.

    A group given with ``"matrices": False`` is left to AdamW as a whole. Embeddings should be, and Jordan et al. leave
    the output layer to AdamW, too. ``parameter_groups``, and with it ``Learner``, marks the groups of what does not
    decay so, embeddings among them; the output layer it does not know.

    Args:
        parameters: as for every optimizer; each given group becomes one of matrices and one of the others.
        lr: of both.
        momentum: share of the running mean of a matrix's gradient that stays at each step.
        nesterov: look ahead along that mean.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: decoupled, of both.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(
            parameters, lr=lr, momentum=momentum, nesterov=nesterov, betas=betas, eps=eps, weight_decay=weight_decay
        )

    def add_param_group(self, group: ParamGroup) -> None:
        """Add the matrices of a group, and the other parameters as a group of their own."""
        parameters = list(group["params"])
        matrices = [p for p in parameters if p.ndim == 2] if group.get("matrices", True) else []
        others = [p for p in parameters if not (p.ndim == 2 and group.get("matrices", True))]
        if matrices:
            super().add_param_group({**group, "params": matrices, "matrices": True})
        if others:
            super().add_param_group({**group, "params": others, "matrices": False})

    def pieces(self, group: ParamGroup) -> Sequence[Piece]:
        """``p -= lr * (weight_decay * p + step)``, where ``step`` is orthogonal or Adam's."""
        decay = Decay(group["lr"] * group["weight_decay"])
        if not group["matrices"]:
            return decay, *adam_pieces(group)
        momentum = group["momentum"]
        return (
            decay,
            Average("momentum", momentum),
            OrthogonalStep(group["lr"], momentum if group["nesterov"] else None),
        )


@dataclass(slots=True)
class OrthogonalStep:
    """Goes along the nearest matrix with equal singular values."""

    lr: float
    ahead: float | None
    """How far to look from the gradient towards its mean; None for the mean itself."""

    def __call__(self, update: Update) -> None:
        """Needs ``Average("momentum", ...)`` before it. Matrices of one shape are orthogonalised together."""
        means = update.remembered("momentum")
        wanted = means if self.ahead is None else list(torch._foreach_lerp(update.direction, means, self.ahead))
        alike: dict[tuple[object, ...], list[int]] = {}
        for i, matrix in enumerate(wanted):
            alike.setdefault((matrix.shape, matrix.dtype, matrix.device), []).append(i)
        for places in alike.values():
            rows, columns = wanted[places[0]].shape
            steps = orthogonalized(torch.stack([wanted[i] for i in places]))
            length = 0.2 * max(rows, columns) ** 0.5
            targets = [update.parameters[i] for i in places]
            torch._foreach_add_(targets, list(steps.unbind()), alpha=-self.lr * length)


def orthogonalized(
    matrices: Float[Tensor, "matrices rows columns"], eps: float = 1e-7
) -> Float[Tensor, "matrices rows columns"]:
    """Matrices with the same singular vectors and all singular values between about 0.7 and 1.2.

    Singular values far below the largest are lifted less. ``eps`` is the least length that a matrix is divided by."""
    a, b, c = COEFFICIENTS
    # The products are of the shorter side.
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=eps)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
