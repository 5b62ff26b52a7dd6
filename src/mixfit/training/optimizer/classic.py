"""SGD, RMSProp, Adam and AdamW: each a short list of pieces."""

from collections.abc import Sequence

from mixfit.errors import ConfigError
from mixfit.training.optimizer.base import Optimizer, Parameters, ParamGroup, Piece
from mixfit.training.optimizer.statistics import Average, AverageSquare, Momentum
from mixfit.training.optimizer.steppers import L2, AdamStep, Decay, Descend, DivideByRoot, RootStep


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Polyak 1964) or Nesterov's (Sutskever et al. 2013).

    Weight decay is added to the gradient, as in ``torch.optim.SGD``.

    Raises:
        ConfigError: ``nesterov`` without ``momentum``, which would be plain descent."""

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

    As ``torch.optim.RMSprop``: ``alpha`` is the share of the mean square that stays at each step, ``eps`` is added
    outside the root, weight decay is added to the gradient, momentum gathers what was divided."""

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
    """Momentum and RMSProp together (Kingma and Ba 2014, arXiv:1412.6980); weight decay is added to the gradient."""

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
