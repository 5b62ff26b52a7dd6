"""Optimisers: parameter groups, a step over lists of tensors, state that can be saved.

``Optimizer`` does the bookkeeping, a subclass only computes. Arithmetic runs through ``torch._foreach_*``, one call
for all parameters of a group. Group dictionaries have PyTorch's form, so schedules work with either kind."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mixfit.errors import ConfigError

ParamGroup = dict[str, Any]
State = dict[str, Any]


class Optimizer(ABC):
    """Base of the optimisers written here.

    Args:
        parameters: parameters, or groups ``{"params": [...], "lr": ...}`` whose settings win over the defaults.
        defaults: settings of groups that do not say otherwise.
    Raises:
        ConfigError: there are no parameters, or one is in two groups.
    """

    def __init__(self, parameters: Iterable[nn.Parameter] | Iterable[ParamGroup], **defaults: Any) -> None:
        given: list[Any] = list(parameters)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        self.param_groups: list[ParamGroup] = [
            {**defaults, **group, "params": list(group["params"])} for group in groups
        ]
        everything = [parameter for group in self.param_groups for parameter in group["params"]]
        if not everything:
            raise ConfigError("The optimizer got no parameters; is the whole model frozen?")
        if len(set(everything)) < len(everything):
            raise ConfigError(f"{len(everything) - len(set(everything))} parameters are in more than one group.")
        self.state: dict[nn.Parameter, dict[str, Any]] = {}

    @abstractmethod
    def init_state(self, parameter: nn.Parameter) -> State:
        """The state of a parameter before its first step."""

    @abstractmethod
    def update(self, group: ParamGroup, parameters: list[Tensor], grads: list[Tensor], states: list[State]) -> None:
        """Change the parameters in place, given their gradients."""

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            for parameter in parameters:
                if parameter not in self.state:
                    self.state[parameter] = self.init_state(parameter)
            states = [self.state[parameter] for parameter in parameters]
            self.update(group, parameters, [parameter.grad for parameter in parameters], states)

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        grads = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if set_to_none:
            for parameter in grads:
                parameter.grad = None
        elif grads:
            torch._foreach_zero_([parameter.grad for parameter in grads])

    def state_dict(self) -> dict[str, Any]:
        """Settings of each group, and the state of each parameter by its position in the groups."""
        everything = [parameter for group in self.param_groups for parameter in group["params"]]
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups]
        state = {i: dict(self.state[parameter]) for i, parameter in enumerate(everything) if parameter in self.state}
        return {"groups": settings, "state": state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict()`` of an optimizer over the same parameters in the same order.

        Raises:
            ConfigError: the number of groups differs, or there are fewer parameters.
        """
        if len(state["groups"]) != len(self.param_groups):
            raise ConfigError(
                f"The saved optimizer has {len(state['groups'])} parameter groups, "
                f"this one has {len(self.param_groups)}."
            )
        everything = [parameter for group in self.param_groups for parameter in group["params"]]
        strange = [i for i in state["state"] if int(i) >= len(everything)]
        if strange:
            raise ConfigError(
                f"The saved optimizer knows {len(strange)} parameters more than the {len(everything)} of this one."
            )
        for group, settings in zip(self.param_groups, state["groups"], strict=True):
            group.update(settings)
        self.state = {everything[int(i)]: _copy(values, everything[int(i)]) for i, values in state["state"].items()}


def _copy(values: dict[str, Any], parameter: nn.Parameter) -> dict[str, Any]:
    return {k: v.to(parameter.device, copy=True) if isinstance(v, Tensor) else v for k, v in values.items()}


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Polyak 1964) or Nesterov's (Sutskever et al. 2013).

    Weight decay is added to the gradient, as in ``torch.optim.SGD``."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[ParamGroup],
        lr: float,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)

    def init_state(self, parameter: nn.Parameter) -> State:
        """The running sum of gradients."""
        return {"momentum": torch.zeros_like(parameter)}

    def update(self, group: ParamGroup, parameters: list[Tensor], grads: list[Tensor], states: list[State]) -> None:
        """``v = momentum * v + g``; ``p -= lr * v``."""
        if group["weight_decay"]:
            grads = list(torch._foreach_add(grads, parameters, alpha=group["weight_decay"]))
        if group["momentum"]:
            velocity = [state["momentum"] for state in states]
            torch._foreach_mul_(velocity, group["momentum"])
            torch._foreach_add_(velocity, grads)
            grads = (
                list(torch._foreach_add(grads, velocity, alpha=group["momentum"])) if group["nesterov"] else velocity
            )
        torch._foreach_add_(parameters, grads, alpha=-group["lr"])


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv:1711.05101)."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[ParamGroup],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def init_state(self, parameter: nn.Parameter) -> State:
        """Running means of the gradient and of its square, and the number of steps."""
        return {"mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter), "step": 0}

    def update(self, group: ParamGroup, parameters: list[Tensor], grads: list[Tensor], states: list[State]) -> None:
        """``p -= lr * (weight_decay * p + mean / (sqrt(square) + eps))``, both means corrected for their start at 0."""
        beta1, beta2 = group["betas"]
        for state in states:
            state["step"] += 1
        means, squares = [state["mean"] for state in states], [state["square"] for state in states]
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_div_(denominators, [(1 - beta2 ** state["step"]) ** 0.5 for state in states])
        torch._foreach_add_(denominators, group["eps"])
        rates = [-group["lr"] / (1 - beta1 ** state["step"]) for state in states]
        torch._foreach_addcdiv_(parameters, means, denominators, rates)


def weight_decay_groups(model: nn.Module, weight_decay: float) -> list[ParamGroup]:
    """Trainable parameters in two groups: matrices and kernels decay; biases, norms and embeddings do not."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [p for p in trainable if p.ndim > 1 and id(p) not in embeddings]
    decayed_ids = {id(p) for p in decayed}
    kept = [p for p in trainable if id(p) not in decayed_ids]
    groups: Sequence[ParamGroup] = (
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    )
    return [group for group in groups if group["params"]]
