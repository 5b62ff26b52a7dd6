"""Hooks as context managers: a function that is called at layers of a model within a ``with`` block; selecting layers,
and listing them in execution order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from types import TracebackType
from typing import Any, Literal, assert_never

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mixfit.errors import NAMES_SHOWN, ConfigError, did_you_mean

Predicate = Callable[[str, nn.Module], bool]
LayerChoice = str | nn.Module | type[nn.Module] | Predicate
Layers = LayerChoice | Sequence[LayerChoice]
Event = Literal["pre-forward", "forward", "backward"]


@dataclass(slots=True)
class Call:
    """One call of a layer, or its backward pass.

    A later layer may change the tensors in place (``nn.ReLU(inplace=True)``): to keep one beyond the hook, keep a copy,
    ``tensor.clone()``."""

    name: str
    """Name of the layer in its model, such as "image.backbone.conv1"; "" for the model itself."""
    module: nn.Module
    inputs: tuple[Any, ...]
    """The positional arguments of the layer; in "backward" the gradients with respect to them, which may be None."""
    output: Any = None
    """The output; None in "pre-forward". In "backward" the tuple of the gradients with respect to the output."""
    keywords: dict[str, Any] = field(default_factory=dict)
    """The keyword arguments of the layer; empty in "backward"."""


Function = Callable[[Call], Any]
"""Called at a layer. A return value other than None replaces the output ("forward"), the tuple of inputs
("pre-forward"), or the tuple of gradients with respect to the inputs ("backward")."""


class _Placed:
    """Hooks that are registered on their modules between the first entry and the last exit."""

    def __init__(self, layers: Mapping[str, nn.Module], function: Function, event: Event) -> None:
        self._layers, self._function, self._event = layers, function, event
        self._handles = ExitStack()
        self._depth = 0

    @property
    def placed(self) -> bool:
        """Whether the hooks are currently registered."""
        return self._depth > 0

    def place(self) -> None:
        """Register the hooks, if a ``with`` block cannot span their use; repeated calls register them only once."""
        if not self._depth:
            with ExitStack() as handles:  # removes those already registered if one of them fails
                for name, module in self._layers.items():
                    handles.enter_context(_register(name, module, self._function, self._event))
                self._handles = handles.pop_all()
        self._depth += 1

    def remove(self) -> None:
        """Remove the hooks, however often they were registered; does nothing if there are none."""
        self._depth = 0
        self._handles.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._depth <= 1:
            self.remove()
        else:
            self._depth -= 1


class Hook(_Placed):
    """A hook on one module.

    Args:
        module: any module of any model.
        function: called with each ``Call``; a return value other than None replaces output or gradients.
        event: "forward" after the module, "pre-forward" before it, "backward" when its gradients are computed.
            PyTorch raises an error for "backward" if the output is changed in place afterwards
            (``nn.ReLU(inplace=True)``); use a hook on that ReLU instead.
        name: for ``Call.name``.

    >>> import torch
    >>> seen = []
    >>> layer = nn.ReLU()
    >>> with Hook(layer, lambda call: seen.append(call.output.shape)):
    ...     _ = layer(torch.ones(2, 3))
    >>> _ = layer(torch.ones(4, 4))
    >>> seen
    [torch.Size([2, 3])]
    """

    def __init__(self, module: nn.Module, function: Function, event: Event = "forward", *, name: str = "") -> None:
        super().__init__({name: module}, function, event)
        self.module = module

    def __enter__(self) -> "Hook":
        self.place()
        return self


class Hooks(_Placed):
    """Hooks on several layers of a model.

    Args:
        model: the model with these layers.
        function: called with each ``Call`` of each layer; a return value other than None replaces output or gradients.
        layers: a name, a module, a type, a predicate ``(name, module) -> bool``, or a sequence of these; by default all
            modules without children.
        event: see ``Hook``.
    Raises:
        ConfigError: a name or module is not in the model, or no layer was selected.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    >>> with Hooks(model, lambda call: print(call.name, type(call.module).__name__)):
    ...     _ = model(torch.ones(2, 3))
    0 Linear
    1 ReLU
    """

    def __init__(
        self, model: nn.Module, function: Function, layers: Layers | None = None, event: Event = "forward"
    ) -> None:
        self.layers = select_layers(model, layers)
        """The selected modules by name."""
        super().__init__(self.layers, function, event)

    def __enter__(self) -> "Hooks":
        self.place()
        return self


def _register(name: str, module: nn.Module, function: Function, event: Event) -> RemovableHandle:
    match event:
        case "forward":
            return module.register_forward_hook(
                lambda module, inputs, keywords, output: function(Call(name, module, inputs, output, keywords)),
                with_kwargs=True,
            )
        case "pre-forward":

            def before(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
                changed = function(Call(name, module, inputs, None, keywords))
                return None if changed is None else (changed, keywords)

            return module.register_forward_pre_hook(before, with_kwargs=True)
        case "backward":
            return module.register_full_backward_hook(
                lambda module, inputs, outputs: function(Call(name, module, as_tuple(inputs), as_tuple(outputs)))
            )
        case _:
            raise ConfigError(f"There is no hook event {event!r}: the events are pre-forward, forward and backward.")


def as_tuple(gradients: Any) -> tuple[Any, ...]:
    """Convert to a tuple: PyTorch passes a single gradient, or several in a tuple."""
    return gradients if isinstance(gradients, tuple) else (gradients,)


def select_layers(model: nn.Module, layers: Layers | None = None) -> dict[str, nn.Module]:
    """The selected modules by name, each once, in the order of their registration.

    Args:
        layers: a name ("" is the model itself), a module, a type, a predicate ``(name, module) -> bool``, or a sequence
            of these; None for all modules without children.
    Raises:
        ConfigError: a name or module is not in the model, or no layer was selected."""
    if layers is None:
        layers = is_leaf
    wanted = list(layers) if isinstance(layers, Sequence) and not isinstance(layers, str) else [layers]
    chosen = {id(module) for layer in wanted for module in _those_of(model, layer)}
    found = {name: module for name, module in model.named_modules() if id(module) in chosen}
    if not found:
        raise ConfigError(f"No layer of {type(model).__name__} was selected; its layers are {_listed(model)}.")
    return found


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """The module with a name; "" is the model itself.

    Raises:
        ConfigError: there is none; the message lists the names."""
    # All names, including the additional names of shared modules.
    known = dict(model.named_modules(remove_duplicate=False))
    if name not in known:
        raise ConfigError(
            f"{type(model).__name__} has no layer {name!r}.{did_you_mean(name, known)} layers: {_listed(model)}"
        )
    return known[name]


def _those_of(model: nn.Module, layer: LayerChoice) -> Iterator[nn.Module]:
    if isinstance(layer, str):
        yield find_layer(model, layer)
    elif isinstance(layer, nn.Module):
        if not any(module is layer for module in model.modules()):
            raise ConfigError(f"This {type(layer).__name__} is not a layer of this {type(model).__name__}.")
        yield layer
    elif isinstance(layer, type):
        yield from (module for module in model.modules() if isinstance(module, layer))
    else:
        yield from (module for name, module in model.named_modules() if layer(name, module))


def _listed(model: nn.Module) -> str:
    names = [name for name, _ in model.named_modules() if name]
    more = f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more if names else "none"


def is_leaf(_name: str, module: nn.Module) -> bool:
    """Whether a module has no children."""
    return not any(True for _ in module.children())


MIXED_BRANCHES: Mapping[str, str] = {
    "tabular": "table",
    "text": "text",
    "text_fusion": "fusion and head",
    "image": "photos",
    "fusion": "fusion and head",
    "head": "fusion and head",
    "auxiliary": "fusion and head",
}
"""Prefixes of the layer names of a ``MixedInputModel``, and the branch that each belongs to."""


def branch_of(name: str, branches: Mapping[str, str] = MIXED_BRANCHES) -> str:
    """The branch of a layer name; if no prefix matches, the first part of the name, which is a child of the model.

    >>> branch_of("image.backbone.conv1"), branch_of("encoder.0.weight"), branch_of("")
    ('photos', 'encoder', '')
    >>> branch_of("encoder.0.weight", {"encoder": "words", "encoder.0": "letters"})
    'letters'
    """
    parts = name.split(".")
    for end in range(len(parts), 0, -1):  # the longest matching prefix
        beginning = ".".join(parts[:end])
        if beginning in branches:
            return branches[beginning]
    return parts[0]


def tensors_in(value: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Each tensor with its path, in order: "" for a single tensor, otherwise for instance "[0]" or ".hidden[2]".

    >>> import torch
    >>> [place for place, _ in tensors_in((torch.ones(1), {"h": [torch.ones(2), None]}))]
    ['[0]', '[1][h][0]']
    """
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from tensors_in(part, f"{path}[{key}]")
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            yield from tensors_in(part, f"{path}[{place}]")
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name), f"{path}.{field.name}")


Kind = Literal["leaf", "inner", "all"] | type[nn.Module] | tuple[type[nn.Module], ...] | Predicate


@dataclass(frozen=True, slots=True)
class Layer:
    """A module that was called."""

    name: str
    """Name in the model, the first one if it has several; "" for the model itself."""
    module: nn.Module
    calls: int
    """How often it was called in one forward pass."""


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One call of a module in a forward pass."""

    name: str
    module: nn.Module
    number: int
    """Number of the call of this module, from 0."""


def modules(model: nn.Module, xb: Any, kind: Kind = "leaf") -> list[Layer]:
    """The modules that a forward pass calls, each once, in the order in which they start: outer before inner.

    Args:
        xb: the input for a single call of the model, in evaluation mode and without gradients; the modes are restored.
        kind: modules without children ("leaf"), with children ("inner"), "all", those of a type or of a tuple of types,
            or those that satisfy a predicate ``(name, module) -> bool``.
    Returns:
        Modules with several names or several calls occur once; modules that are not called do not occur."""
    counts: dict[str, int] = {}
    found: dict[str, nn.Module] = {}
    for call in calls(model, xb, kind):
        found[call.name] = call.module
        counts[call.name] = call.number + 1
    return [Layer(name, module, counts[name]) for name, module in found.items()]


def calls(model: nn.Module, xb: Any, kind: Kind = "leaf") -> list[LayerCall]:
    """All module calls of a forward pass, in order: a ReLU that is used in two places occurs twice.

    Args:
        xb, kind: as for ``modules``."""
    seen: list[LayerCall] = []
    counts: dict[str, int] = {}

    def note(call: Call) -> None:
        number = counts.get(call.name, 0)
        counts[call.name] = number + 1
        seen.append(LayerCall(call.name, call.module, number))

    chosen = _predicate(kind)
    # All modules are hooked, so that a kind that does not occur gives an empty list.
    with Hooks(model, note, lambda _name, _module: True, "pre-forward"), evaluating(model), torch.no_grad():
        model(xb)
    return [call for call in seen if chosen(call.name, call.module)]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards the mode of every module is restored."""
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
