"""The optimisers, each a short list of pieces: SGD, RMSProp, Adam, AdamW, LAMB, Lion, Muon and schedule-free AdamW."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mixfit.errors import ConfigError
from mixfit.training.optimizer.base import (
    L2,
    AdamDirection,
    AdamStep,
    Average,
    AverageSquare,
    Cohort,
    Decay,
    Descend,
    DivideByRoot,
    Momentum,
    Optimizer,
    Parameters,
    ParamGroup,
    Piece,
    RootStep,
    Update,
)


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Polyak 1964) or Nesterov's (Sutskever et al. 2013).

    Weight decay is added to the gradient, as in ``torch.optim.SGD``.

    Raises:
        ConfigError: ``nesterov`` without ``momentum``."""

    def __init__(
        self,
        parameters: Parameters,
        lr: float,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
        if any(group["nesterov"] and not group["momentum"] > 0 for group in self.param_groups):
            raise ConfigError("SGD with nesterov needs a momentum above 0, such as momentum=0.9.")

    def pieces(self, group: ParamGroup) -> Sequence[Piece]:
        """``v = momentum * v + g``; ``p -= lr * v``; for Nesterov's ``p -= lr * (g + momentum * v)``."""
        l2, momentum, lr = L2(group["weight_decay"]), group["momentum"], group["lr"]
        if momentum and group["nesterov"]:
            return l2, Descend(lr), Momentum(momentum), Descend(lr * momentum)
        return l2, Momentum(momentum), Descend(lr)


class RMSProp(Optimizer):
    """Gradients divided by the root of their running mean square (Hinton, Coursera lecture 6e, 2012).

    As ``torch.optim.RMSprop``: ``alpha`` is the decay of the mean square, ``eps`` is added outside the root, weight
    decay is added to the gradient, momentum applies after the division."""

    def __init__(
        self,
        parameters: Parameters,
        lr: float,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr=lr, alpha=alpha, eps=eps, momentum=momentum, weight_decay=weight_decay)

    def pieces(self, group: ParamGroup) -> Sequence[Piece]:
        """``p -= lr * g / (sqrt(square) + eps)``."""
        square, lr, eps = (L2(group["weight_decay"]), AverageSquare(group["alpha"])), group["lr"], group["eps"]
        if group["momentum"]:
            return *square, DivideByRoot(eps), Momentum(group["momentum"]), Descend(lr)
        return *square, RootStep(lr, eps)


class Adam(Optimizer):
    """Momentum and RMSProp combined (Kingma and Ba 2014, arXiv:1412.6980); weight decay is added to the gradient."""

    def __init__(
        self,
        parameters: Parameters,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def pieces(self, group: ParamGroup) -> Sequence[Piece]:
        """``p -= lr * mean / (sqrt(square) + eps)``, both means corrected for their start at 0."""
        return L2(group["weight_decay"]), *adam_pieces(group)


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv:1711.05101)."""

    def __init__(
        self,
        parameters: Parameters,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def pieces(self, group: ParamGroup) -> Sequence[Piece]:
        """``p -= lr * (weight_decay * p + mean / (sqrt(square) + eps))``, both means corrected for their start at 0."""
        return Decay(group["lr"] * group["weight_decay"]), *adam_pieces(group)


def adam_pieces(group: ParamGroup) -> Sequence[Piece]:
    """Adam without weight decay; reads ``lr``, ``betas`` and ``eps``."""
    betas = group["betas"]
    return Average("mean", betas[0]), AverageSquare(betas[1]), AdamStep(group["lr"], betas, group["eps"])


class LAMB(Optimizer):
    """Layer-wise adaptive moments for large batches (You et al. 2019, arXiv:1904.00962).

    Groups without weight decay, with biases and norms, use Adam's plain step unless ``always_adapt``: a bias that
    starts at 0 would otherwise hardly move, as steps are proportional to its norm."""

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
    """Rescales the direction of each tensor, including weight decay, to the norm of the tensor."""

    weight_decay: float

    def __call__(self, update: Update) -> None:
        """A tensor or a direction of norm 0 leaves the direction unchanged. The ratios stay on the device."""
        directions = torch._foreach_add(update.direction, update.parameters, alpha=self.weight_decay)
        lengths = torch.stack(list(torch._foreach_norm(update.parameters)))
        wanted = torch.stack(list(torch._foreach_norm(directions)))
        ratios = torch.where((lengths > 0) & (wanted > 0), lengths / wanted, 1.0)
        update.direction = list(torch._foreach_mul(directions, list(ratios.unbind())))


class Lion(Optimizer):
    """Evolved sign momentum (Chen et al. 2023, arXiv:2302.06675); one state tensor instead of Adam's two.

    Every entry moves by exactly ``lr`` in a step, so ``lr`` should be 3 to 10 times smaller than AdamW's and
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
        """Use the mean of the previous steps."""
        signs = torch._foreach_lerp(update.remembered("mean"), update.direction, 1 - self.beta)
        torch._foreach_sign_(signs)
        torch._foreach_add_(update.parameters, signs, alpha=-self.lr)


COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of ``a x + b x**3 + c x**5``, chosen by Jordan et al. to increase small singular values quickly."""
ITERATIONS = 5


class Muon(Optimizer):
    """Momentum orthogonalised by Newton-Schulz for 2-D weights, AdamW for all others.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. A step of a matrix ``(rows, columns)`` is scaled
    by ``0.2 * sqrt(max(rows, columns))``, which makes it about as large as AdamW's (Liu et al. 2025, arXiv:2502.16982),
    so both use the same learning rate and weight decay.

    A group with ``"matrices": False`` uses AdamW for all parameters. This is recommended for embeddings, and by Jordan
    et al. also for the output layer. ``parameter_groups``, and so ``Learner``, sets it for groups without decay,
    including embeddings, but not for the output layer.

    Args:
        parameters: as for every optimizer; each group is split into matrices and others.
        lr: of both.
        momentum: decay of the running mean of a matrix's gradient.
        nesterov: whether to use Nesterov momentum.
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
        """Add the matrices of a group, and the other parameters as a separate group."""
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
    """Takes a step along the nearest matrix with equal singular values."""

    lr: float
    ahead: float | None
    """Nesterov interpolation from the gradient to its mean; None for the mean itself."""

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

    Singular values far below the largest are increased less. ``eps`` is a lower bound of the divisor."""
    a, b, c = COEFFICIENTS
    # The products are of the shorter side.
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=eps)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class ScheduleFreeAdamW(Optimizer):
    """AdamW without a schedule (Defazio et al. 2024, arXiv:2405.15682).

    There are three points: ``fast`` takes the steps, ``average`` is the weighted mean of all points of ``fast``, and
    gradients are computed at an interpolation, ``betas[0]`` of the way from ``fast`` to ``average``. In training, the
    parameters are the interpolation; ``eval()`` sets them to the average, which predicts best and should be saved, and
    ``train()`` restores the interpolation. ``Learner`` calls both. Each is computed from ``fast`` and ``average``
    alone, so switching does not affect the training.

    The rate is constant after ``warmup`` steps; no schedule is needed. Running statistics of batch norms are those of
    the interpolation, not of the average.
    As in the authors' program, the correction of the mean square for its start at 0 does not enter the weights of the
    average (in the paper's algorithm it does).

    Args:
        parameters: as for every optimizer.
        lr: often larger than AdamW's, 1 to 10 times.
        betas: share of the average in the interpolation, and Adam's second beta.
        eps: as Adam's.
        weight_decay: applied at the interpolation.
        warmup: number of steps in which the rate increases from 0.
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
        """The mean square as in Adam; no mean of gradients, as the averaging of weights replaces it.

        Raises:
            ConfigError: ``eval()`` was the last call."""
        if not group["training"]:
            raise ConfigError("The parameters are set to their average; call train() before step().")
        beta1, beta2 = group["betas"]
        step = AveragedStep(group["lr"], beta1, beta2, group["eps"], group["weight_decay"], group["warmup"])
        return AverageSquare(beta2), step

    @torch.no_grad()
    def train(self) -> None:
        """Set the parameters to the interpolation of ``fast`` and ``average``."""
        for group, cohorts in zip(self.param_groups, self._cohorts, strict=True):
            if not group["training"]:
                for cohort in _started(cohorts):
                    between = _between(cohort.tensors["fast"], cohort.tensors["average"], group["betas"][0])
                    torch._foreach_copy_(cohort.parameters, between)
            group["training"] = True

    @torch.no_grad()
    def eval(self) -> None:
        """Set the parameters to the average."""
        for group, cohorts in zip(self.param_groups, self._cohorts, strict=True):
            if group["training"]:
                for cohort in _started(cohorts):
                    torch._foreach_copy_(cohort.parameters, cohort.tensors["average"])
            group["training"] = False


@dataclass(slots=True)
class AveragedStep:
    """Adam's step for ``fast``, then update ``average`` and the parameters."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    warmup: int

    def __call__(self, update: Update) -> None:
        """A point is weighted in the average by the square of its rate."""
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
