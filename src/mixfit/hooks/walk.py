"""The layers of a model in the order in which they run, which only a run can tell."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, assert_never

import torch
from torch import nn

from mixfit.hooks.hook import Call, Hooks
from mixfit.hooks.select import Predicate, is_leaf

Kind = Literal["leaf", "inner", "all"] | type[nn.Module] | tuple[type[nn.Module], ...] | Predicate


@dataclass(frozen=True, slots=True)
class Layer:
    """A module that has run."""

    name: str
    """In the model; the first one where it has several. The model itself is ""."""
    module: nn.Module
    calls: int
    """How often it ran in one forward pass."""


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One of the calls of a module in a forward pass."""

    name: str
    module: nn.Module
    number: int
    """Which of the calls of this module it is, from 0."""


def modules(model: nn.Module, xb: Any, kind: Kind = "leaf") -> list[Layer]:
    """The modules that a forward pass runs, each once, in the order in which they begin: outer before inner.

    Args:
        xb: what the model is called with, once, in evaluation mode and without gradients; the modes are restored.
        kind: modules without children ("leaf"), with some ("inner"), "all", those of a type or of a tuple of types, or
            of a predicate ``(name, module) -> bool``.
    Returns:
        A module with several names or several calls is there once; a module that the pass leaves out is not there."""
    counts: dict[str, int] = {}
    found: dict[str, nn.Module] = {}
    for call in calls(model, xb, kind):
        found[call.name] = call.module
        counts[call.name] = call.number + 1
    return [Layer(name, module, counts[name]) for name, module in found.items()]


def calls(model: nn.Module, xb: Any, kind: Kind = "leaf") -> list[LayerCall]:
    """Every call that a forward pass makes, in order: a ReLU that is used in two places is there twice.

    Args:
        xb, kind: as for ``modules``."""
    seen: list[LayerCall] = []
    counts: dict[str, int] = {}

    def note(call: Call) -> None:
        number = counts.get(call.name, 0)
        counts[call.name] = number + 1
        seen.append(LayerCall(call.name, call.module, number))

    chosen = _predicate(kind)
    # All are hooked, so that a kind of which the model has none gives an empty list.
    with Hooks(model, note, lambda _name, _module: True, "pre-forward"), evaluating(model), torch.no_grad():
        model(xb)
    return [call for call in seen if chosen(call.name, call.module)]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every module has its own mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _predicate(kind: Kind) -> Callable[[str, nn.Module], bool]:
    if isinstance(kind, str):
        match kind:
            case "leaf":
                return is_leaf
            case "inner":
                return lambda name, module: not is_leaf(name, module)
            case "all":
                return lambda _name, _module: True
            case _:
                assert_never(kind)
    if isinstance(kind, type | tuple):
        return lambda _name, module: isinstance(module, kind)
    return kind
