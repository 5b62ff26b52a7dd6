"""The base of the optimisers: groups and steps, statistics of gradients, steppers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mixfit.errors import ConfigError

HALF = (torch.float16, torch.bfloat16)
NUMBERS_A_BLOCK = 2**19
"""2 MB in float32, of which Adam has five lists; a larger tensor is its own block."""


class Cohort:
    """Parameters with equal step counts, as parallel lists.

    Args:
        parameters: parameters that took part in the same steps.
        block: only cohorts of the same block are merged, see ``blocks``.
    """

    def __init__(self, parameters: list[Tensor], block: int) -> None:
        self.parameters, self.block = parameters, block
        self.numbers: dict[str, float] = {"count": 0}
        """``count`` of steps, and other numbers shared by all."""
        self.tensors: dict[str, list[Tensor]] = {}
        """State tensors of each parameter, in its shape; in float32 for 16-bit parameters."""

    @property
    def past(self) -> tuple[object, ...]:
        """Equal for cohorts that can be merged."""
        return (self.block, *self.numbers.items(), *self.tensors)

    def take(self, places: list[int]) -> "Cohort":
        """The parameters at these positions, as a separate cohort."""
        part = Cohort([self.parameters[i] for i in places], self.block)
        part.numbers = dict(self.numbers)
        part.tensors = {name: [tensors[i] for i in places] for name, tensors in self.tensors.items()}
        return part

    def join(self, other: "Cohort") -> None:
        """Add the parameters of a cohort with the same history."""
        self.parameters.extend(other.parameters)
        for name, tensors in self.tensors.items():
            tensors.extend(other.tensors[name])

    def split(self) -> dict[bool, "Cohort"]:
        """Parameters with a gradient under True, others under False; the cohort itself if it need not be split."""
        having: list[int] = []
        lacking: list[int] = []
        for place, parameter in enumerate(self.parameters):
            (lacking if parameter.grad is None else having).append(place)
        if not (having and lacking):
            return {bool(having): self}
        return {True: self.take(having), False: self.take(lacking)}


def regroup(cohorts: list[Cohort]) -> tuple[list[Cohort], list[Cohort]]:
    """Split into parameters with and without a gradient, in as few cohorts as possible."""
    moving: list[Cohort] = []
    resting: list[Cohort] = []
    for cohort in cohorts:
        for has_gradients, part in cohort.split().items():
            (moving if has_gradients else resting).append(part)
    return joined(moving), joined(resting)


def joined(cohorts: list[Cohort]) -> list[Cohort]:
    """Merge cohorts with the same history."""
    found: dict[tuple[object, ...], Cohort] = {}
    for cohort in cohorts:
        same = found.setdefault(cohort.past, cohort)
        if same is not cohort:
            same.join(cohort)
    return list(found.values())


def blocks(parameters: list[Tensor]) -> list[int]:
    """The block of each parameter: parameters of a block are updated together.

    They have the same device and dtype. On a CPU, blocks are small enough to stay in its cache between the pieces of a
    step and to reuse the memory of intermediate results; on a GPU all are updated at once."""
    found: list[int] = []
    kind, filled = None, 0
    for parameter in parameters:
        new_kind = (parameter.device, parameter.dtype)
        filled += parameter.numel()
        full = parameter.device.type == "cpu" and filled > NUMBERS_A_BLOCK
        if new_kind != kind or full:
            found.append(found[-1] + 1 if found else 0)
            kind, filled = new_kind, parameter.numel()
        else:
            found.append(found[-1])
    return found


class Update:
    """One step of one cohort: the parallel lists that its pieces read and change.

    Args:
        cohort: all of its parameters have a gradient.
    Raises:
        ConfigError: a gradient is sparse or has another dtype than its parameter.
    """

    def __init__(self, cohort: Cohort) -> None:
        self._cohort = cohort
        cohort.numbers["count"] += 1
        grads = [checked_gradient(parameter) for parameter in cohort.parameters]
        # 16 bits are not enough for running means: 0.999 * v + 0.001 * g**2 would round to v.
        self._halves = [i for i, parameter in enumerate(cohort.parameters) if parameter.dtype in HALF]
        self.parameters: list[Tensor] = list(cohort.parameters)
        """Changed in place."""
        for i in self._halves:
            self.parameters[i], grads[i] = self.parameters[i].float(), grads[i].float()
        self.direction = grads
        """The direction to subtract: the gradients, until a piece replaces them. Never changed in place."""
        self.numbers = cohort.numbers

    @property
    def count(self) -> int:
        """Number of steps of these parameters, including this one."""
        return int(self.numbers["count"])

    def remembered(self, name: str, start: Callable[[Tensor], Tensor] = torch.zeros_like) -> list[Tensor]:
        """Persistent state tensors; ``start`` creates the initial one from a parameter."""
        tensors = self._cohort.tensors
        if name not in tensors:
            tensors[name] = [start(parameter) for parameter in self.parameters]
        return tensors[name]

    def finish(self) -> None:
        """Convert float32 results back for 16-bit parameters."""
        if self._halves:
            targets = [self._cohort.parameters[i] for i in self._halves]
            torch._foreach_copy_(targets, [self.parameters[i] for i in self._halves])


def checked_gradient(parameter: Tensor) -> Tensor:
    """The gradient, dense and of the parameter's dtype.

    Raises:
        ConfigError: it is sparse or has another dtype."""
    grad = parameter.grad
    assert grad is not None
    if grad.layout is not torch.strided or grad.dtype != parameter.dtype:
        kind = "sparse" if grad.layout is not torch.strided else str(grad.dtype)
        raise ConfigError(
            f"The gradient of a parameter {tuple(parameter.shape)} of {parameter.dtype} is {kind}; the optimisers need "
            "dense gradients of the parameter's dtype, so make its layer without sparse=True."
        )
    return grad


ParamGroup = dict[str, Any]
Parameters = Iterable[nn.Parameter] | Iterable[ParamGroup]


@runtime_checkable
class Piece(Protocol):
    """One part of a step: changes ``update.direction``, the state, or the parameters."""

    def __call__(self, update: Update) -> None: ...


class Optimizer(ABC):
    """Base of the optimisers.

    Args:
        parameters: parameters, or groups ``{"params": [...], "lr": ...}`` whose settings override the defaults.
        defaults: default settings of groups; they can be changed between steps.
    Raises:
        ConfigError: there are no parameters, one is repeated or not floating point, or a setting is invalid.
    """

    def __init__(self, parameters: Parameters, **defaults: Any) -> None:
        self.defaults = defaults
        self.param_groups: list[ParamGroup] = []
        self._cohorts: list[list[Cohort]] = []
        given: list[Any] = list(parameters)
        for group in given if given and isinstance(given[0], dict) else [{"params": given}]:
            self.add_param_group(group)
        if not any(group["params"] for group in self.param_groups):
            raise ConfigError("The optimizer got no parameters; is the whole model frozen?")

    @abstractmethod
    def pieces(self, group: ParamGroup) -> Sequence[Piece]:
        """The pieces of a step of this group, in order."""

    def add_param_group(self, group: ParamGroup) -> None:
        """Add parameters, such as those of a part that was just unfrozen."""
        group = {**self.defaults, **group, "params": list(group["params"])}
        _check_settings(group)
        known = {parameter for other in self.param_groups for parameter in other["params"]}
        doubles = len(known) + len(group["params"]) - len(known | set(group["params"]))
        if doubles:
            raise ConfigError(f"{doubles} parameters are in more than one group.")
        for parameter in group["params"]:
            if not parameter.is_floating_point():
                raise ConfigError(f"A parameter {tuple(parameter.shape)} of {parameter.dtype} is not floating point.")
        self.param_groups.append(group)
        self._cohorts.append(_restored(group["params"], [{}] * len(group["params"])))

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for place, group in enumerate(self.param_groups):
            moving, resting = regroup(self._cohorts[place])
            self._cohorts[place] = moving + resting
            pieces = self.pieces(group)
            for cohort in moving:
                update = Update(cohort)
                for piece in pieces:
                    piece(update)
                update.finish()

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Set all gradients to None."""
        if set_to_none:
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
            return
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if grads:
            torch._foreach_zero_(grads)

    def train(self) -> None:  # noqa: B027 - not abstract: most need neither this nor eval
        """Called before the first step of an epoch; most optimisers have nothing to do."""

    def eval(self) -> None:  # noqa: B027
        """Called before the model is used or saved; most optimisers have nothing to do."""

    def state_dict(self) -> dict[str, Any]:
        """Settings of each group, and the state of each parameter by its position in the groups.

        Only tensors, numbers, strings and lists, for safetensors and JSON; the tensors are those in use, not copies."""
        positions = {id(p): i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        groups = [{**group, "params": len(group["params"])} for group in self.param_groups]
        state = {
            positions[id(parameter)]: {**cohort.numbers, **{name: held[i] for name, held in cohort.tensors.items()}}
            for cohorts in self._cohorts
            for cohort in cohorts
            if cohort.numbers["count"]
            for i, parameter in enumerate(cohort.parameters)
        }
        return {"kind": type(self).__name__, "groups": groups, "state": dict(sorted(state.items()))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict()`` of the same kind of optimizer over parameters of the same shapes and order.

        Raises:
            ConfigError: it is of another kind of optimizer or of other parameters; nothing is changed then.
        """
        saved = {int(position): values for position, values in state["state"].items()}
        self._check_state(state["kind"], state["groups"], saved)
        position = 0
        for place, (group, settings) in enumerate(zip(self.param_groups, state["groups"], strict=True)):
            group.update({k: _like(group.get(k), v) for k, v in settings.items() if k != "params"})
            values = [saved.get(position + i, {}) for i in range(len(group["params"]))]
            self._cohorts[place] = _restored(group["params"], values)
            position += len(values)

    def _check_state(self, kind: str, groups: list[ParamGroup], saved: dict[int, dict[str, Any]]) -> None:
        if kind != type(self).__name__:
            raise ConfigError(f"The saved optimizer is {kind}, this one is {type(self).__name__}.")
        if len(groups) != len(self.param_groups):
            raise ConfigError(
                f"The saved optimizer has {len(groups)} parameter groups, this one has {len(self.param_groups)}."
            )
        for number, (theirs, ours) in enumerate(zip(groups, self.param_groups, strict=True)):
            if theirs["params"] != len(ours["params"]):
                raise ConfigError(
                    f"Parameter group {number} of the saved optimizer has {theirs['params']} parameters, "
                    f"here it has {len(ours['params'])}."
                )
        everything = [parameter for group in self.param_groups for parameter in group["params"]]
        for position, values in saved.items():
            shape = tuple(everything[position].shape) if position < len(everything) else None
            for name, value in values.items():
                if isinstance(value, Tensor) and tuple(value.shape) != shape:
                    raise ConfigError(
                        f"The saved {name} of parameter {position} has the shape {tuple(value.shape)}, "
                        f"the parameter has {shape}."
                    )


def _restored(parameters: list[Tensor], states: list[dict[str, Any]]) -> list[Cohort]:
    """Cohorts of parameters with these states; empty for a parameter before its first step."""
    cohorts: list[Cohort] = []
    for parameter, block, values in zip(parameters, blocks(parameters), states, strict=True):
        cohort = Cohort([parameter], block)
        for name, value in values.items():
            if isinstance(value, Tensor):
                cohort.tensors[name] = [torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()]
            else:
                cohort.numbers[name] = value
        cohorts.append(cohort)
    return joined(cohorts)


def _like(ours: object, saved: Any) -> Any:
    """Convert tuples to lists, for JSON."""
    return tuple(saved) if isinstance(ours, tuple) else saved


def _check_settings(group: ParamGroup) -> None:
    for name in ("lr", "weight_decay", "eps", "warmup"):
        if not group.get(name, 0) >= 0:  # also refuses nan
            raise ConfigError(f"{name} must be at least 0, got {group[name]}.")
    shares: dict[str, float] = {name: group[name] for name in ("momentum", "alpha") if name in group}
    shares |= {f"betas[{i}]": beta for i, beta in enumerate(group.get("betas", ()))}
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ConfigError(f"{name} must be in [0, 1), got {share}.")


@dataclass(slots=True)
class Momentum:
    """Momentum: the direction becomes the velocity ``v = momentum * v + g`` (Polyak 1964)."""

    momentum: float

    def __call__(self, update: Update) -> None:
        """Update the velocity; without momentum there is no state."""
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
        """Update the mean."""
        torch._foreach_lerp_(update.remembered(self.name), update.direction, 1 - self.beta)


@dataclass(slots=True)
class AverageSquare:
    """The running mean of the squared gradient, ``v = beta * v + (1 - beta) * g**2``, under the name ``square``."""

    beta: float

    def __call__(self, update: Update) -> None:
        """Update the mean square."""
        squares = update.remembered("square")
        torch._foreach_mul_(squares, self.beta)
        torch._foreach_addcmul_(squares, update.direction, update.direction, 1 - self.beta)


@dataclass(slots=True)
class L2:
    """L2 penalty: adds ``weight_decay * p`` to the gradient."""

    weight_decay: float

    def __call__(self, update: Update) -> None:
        """Change the direction, not the gradient itself."""
        if self.weight_decay:
            update.direction = list(torch._foreach_add(update.direction, update.parameters, alpha=self.weight_decay))


@dataclass(slots=True)
class Decay:
    """Decoupled weight decay (Loshchilov and Hutter 2017, arXiv:1711.05101)."""

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
        """Take the step."""
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
    """``DivideByRoot`` and ``Descend`` fused."""

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
        """The fraction is expanded by the second correction, which saves a pass over the memory."""
        start1, start2 = corrections(update, self.betas)
        denominators = _roots(update, self.eps * start2)
        torch._foreach_addcdiv_(update.parameters, update.remembered("mean"), denominators, -self.lr * start2 / start1)


@dataclass(slots=True)
class AdamDirection:
    """Adam's direction without the step, for optimisers that rescale it."""

    betas: tuple[float, float]
    eps: float

    def __call__(self, update: Update) -> None:
        """As ``AdamStep``."""
        start1, start2 = corrections(update, self.betas)
        directions = list(torch._foreach_div(update.remembered("mean"), _roots(update, self.eps * start2)))
        torch._foreach_mul_(directions, start2 / start1)
        update.direction = directions


def corrections(update: Update, betas: tuple[float, float]) -> tuple[float, float]:
    """Bias corrections of the mean, and of the root mean square."""
    beta1, beta2 = betas
    return 1 - beta1**update.count, (1 - beta2**update.count) ** 0.5


def _roots(update: Update, eps: float) -> list[Tensor]:
    roots = list(torch._foreach_sqrt(update.remembered("square")))
    torch._foreach_add_(roots, eps)
    return roots
