"""Cohorts: parameters with the same past, so that one number of steps serves all of them.

A group of parameters is one cohort as long as all of them get gradients. When some get none in a step, as a layer that
is frozen or was not used, the cohort is split, and cohorts that come to have the same past are joined again."""

from collections.abc import Callable

import torch
from torch import Tensor

from mixfit.errors import ConfigError

HALF = (torch.float16, torch.bfloat16)
NUMBERS_A_BLOCK = 2**19
"""2 MB in float32, and Adam holds five lists of them; a larger tensor is a block by itself."""


class Cohort:
    """Parallel lists, one place for each parameter, and what is known of all of them together.

    Args:
        parameters: that took part in the same steps.
        block: cohorts of one block only are joined, see ``blocks``.
    """

    def __init__(self, parameters: list[Tensor], block: int) -> None:
        self.parameters, self.block = parameters, block
        self.numbers: dict[str, float] = {"count": 0}
        """``count`` of the steps taken, and what else is one number for all."""
        self.tensors: dict[str, list[Tensor]] = {}
        """What is remembered of each parameter, in its shape; in float32 for parameters of 16 bits."""

    @property
    def past(self) -> tuple[object, ...]:
        """Equal for cohorts that can be joined."""
        return (self.block, *self.numbers.items(), *self.tensors)

    def take(self, places: list[int]) -> "Cohort":
        """The parameters at these places, as a cohort of their own."""
        part = Cohort([self.parameters[i] for i in places], self.block)
        part.numbers = dict(self.numbers)
        part.tensors = {name: [tensors[i] for i in places] for name, tensors in self.tensors.items()}
        return part

    def join(self, other: "Cohort") -> None:
        """Add the parameters of a cohort with the same past."""
        self.parameters.extend(other.parameters)
        for name, tensors in self.tensors.items():
            tensors.extend(other.tensors[name])

    def split(self) -> dict[bool, "Cohort"]:
        """Those with a gradient under True, those without under False; the cohort itself when it need not be split."""
        having: list[int] = []
        lacking: list[int] = []
        for place, parameter in enumerate(self.parameters):
            (lacking if parameter.grad is None else having).append(place)
        if not (having and lacking):
            return {bool(having): self}
        return {True: self.take(having), False: self.take(lacking)}


def regroup(cohorts: list[Cohort]) -> tuple[list[Cohort], list[Cohort]]:
    """The parameters that have a gradient and those that have none, in as few cohorts as possible."""
    moving: list[Cohort] = []
    resting: list[Cohort] = []
    for cohort in cohorts:
        for has_gradients, part in cohort.split().items():
            (moving if has_gradients else resting).append(part)
    return joined(moving), joined(resting)


def joined(cohorts: list[Cohort]) -> list[Cohort]:
    """The same parameters, those with the same past in one cohort."""
    found: dict[tuple[object, ...], Cohort] = {}
    for cohort in cohorts:
        same = found.setdefault(cohort.past, cohort)
        if same is not cohort:
            same.join(cohort)
    return list(found.values())


def blocks(parameters: list[Tensor]) -> list[int]:
    """A number for each parameter: those with the same number are changed together.

    They are of one device and one kind of number. On a CPU they are also few enough to stay in its cache from one piece
    of a step to the next, and for the memory of intermediate results to be used again; a GPU wants all at once."""
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
    """One step of one cohort: what its pieces read and change. All lists run parallel.

    Args:
        cohort: all of its parameters have a gradient.
    Raises:
        ConfigError: a gradient is sparse or of another kind of number than its parameter.
    """

    def __init__(self, cohort: Cohort) -> None:
        self._cohort = cohort
        cohort.numbers["count"] += 1
        grads = [checked_gradient(parameter) for parameter in cohort.parameters]
        # 16 bits are too few for running means: 0.999 * v + 0.001 * g**2 would round to v.
        self._halves = [i for i, parameter in enumerate(cohort.parameters) if parameter.dtype in HALF]
        self.parameters: list[Tensor] = list(cohort.parameters)
        """Changed in place."""
        for i in self._halves:
            self.parameters[i], grads[i] = self.parameters[i].float(), grads[i].float()
        self.direction = grads
        """What is to be subtracted: the gradients, until a piece puts other tensors here. Never changed in place."""
        self.numbers = cohort.numbers

    @property
    def count(self) -> int:
        """Steps of these parameters, this one included."""
        return int(self.numbers["count"])

    def remembered(self, name: str, start: Callable[[Tensor], Tensor] = torch.zeros_like) -> list[Tensor]:
        """Tensors that stay from step to step; ``start`` makes the first of each from its parameter."""
        tensors = self._cohort.tensors
        if name not in tensors:
            tensors[name] = [start(parameter) for parameter in self.parameters]
        return tensors[name]

    def finish(self) -> None:
        """Round what was computed in float32 for parameters of 16 bits."""
        if self._halves:
            targets = [self._cohort.parameters[i] for i in self._halves]
            torch._foreach_copy_(targets, [self.parameters[i] for i in self._halves])


def checked_gradient(parameter: Tensor) -> Tensor:
    """The gradient, dense and of the parameter's kind of number.

    Raises:
        ConfigError: it is not."""
    grad = parameter.grad
    assert grad is not None
    if grad.layout is not torch.strided or grad.dtype != parameter.dtype:
        kind = "sparse" if grad.layout is not torch.strided else str(grad.dtype)
        raise ConfigError(
            f"The gradient of a parameter {tuple(parameter.shape)} of {parameter.dtype} is {kind}; the optimisers take "
            "dense gradients of the parameter's own kind, so make its layer without sparse=True."
        )
    return grad
