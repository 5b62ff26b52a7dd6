"""The bookkeeping of every optimiser: groups, steps, state that can be saved.

An optimiser is a list of pieces, which run in order over all parameters of a group at once (``torch._foreach_*``). A
statistic remembers something of each parameter, a stepper changes the parameters. A subclass says which pieces and with
which numbers. Group dictionaries have PyTorch's form, so schedules work with either kind."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.training.optimizer.cohort import Cohort, Update, blocks, joined, regroup

ParamGroup = dict[str, Any]
Parameters = Iterable[nn.Parameter] | Iterable[ParamGroup]


@runtime_checkable
class Piece(Protocol):
    """One part of a step: changes ``update.direction``, what is remembered, or the parameters."""

    def __call__(self, update: Update) -> None: ...


class Optimizer(ABC):
    """Base of the optimisers written here.

    Args:
        parameters: parameters, or groups ``{"params": [...], "lr": ...}`` whose settings win over the defaults.
        defaults: settings of groups that do not say otherwise; they can be changed between steps.
    Raises:
        ConfigError: there are no parameters, one is given twice or not of floating point, or a setting is impossible.
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
        """What a step of this group consists of, in order."""

    def add_param_group(self, group: ParamGroup) -> None:
        """Train further parameters too, such as those of a part that was just unfrozen."""
        group = {**self.defaults, **group, "params": list(group["params"])}
        _check_settings(group)
        known = {parameter for other in self.param_groups for parameter in other["params"]}
        doubles = len(known) + len(group["params"]) - len(known | set(group["params"]))
        if doubles:
            raise ConfigError(f"{doubles} parameters are in more than one group.")
        for parameter in group["params"]:
            if not parameter.is_floating_point():
                raise ConfigError(
                    f"A parameter {tuple(parameter.shape)} of {parameter.dtype} is not of floating point."
                )
        self.param_groups.append(group)
        self._cohorts.append(_restored(group["params"], [{}] * len(group["params"])))

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient."""
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
        """Forget the gradients."""
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

        Tensors, numbers, texts and lists only, for safetensors and JSON; the tensors are those in use, not copies."""
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
        """Go on, bit for bit, from ``state_dict()`` of such an optimizer over parameters of the same shapes and order.

        Raises:
            ConfigError: it is the state of another kind of optimizer or of other parameters; nothing is changed then.
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
    """Cohorts of parameters with these states; an empty one is that of a parameter before its first step."""
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
    """JSON knows no tuples."""
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
