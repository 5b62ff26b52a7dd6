"""Hooks as context managers: a function that is called at layers of a model, for the length of a ``with`` block; which
layers are meant, and in which order they run."""

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
    """One call of a layer, or the way back through it.

    A later layer may change the tensors in place (``nn.ReLU(inplace=True)``): who keeps one beyond the hook keeps a
    copy, ``tensor.clone()``."""

    name: str
    """Of the layer in its model, such as "image.backbone.conv1"; the model itself is ""."""
    module: nn.Module
    inputs: tuple[Any, ...]
    """What the layer was called with by position; in "backward" the gradients for that, None where there is none."""
    output: Any = None
    """What it gave; nothing yet in "pre-forward". In "backward" the tuple of the gradients that come in for it."""
    keywords: dict[str, Any] = field(default_factory=dict)
    """What it was called with by name; empty in "backward"."""


Function = Callable[[Call], Any]
"""Called at a layer. What it returns, unless None, takes the place of the output ("forward"), of the tuple of inputs
("pre-forward"), or of the tuple of gradients for the inputs ("backward")."""


class _Placed:
    """Hooks that are on their modules between the first entry and the last exit."""

    def __init__(self, layers: Mapping[str, nn.Module], function: Function, event: Event) -> None:
        self._layers, self._function, self._event = layers, function, event
        self._handles = ExitStack()
        self._depth = 0

    @property
    def placed(self) -> bool:
        """Whether they are on their modules now."""
        return self._depth > 0

    def place(self) -> None:
        """Put them on, where no ``with`` block can span their use; placed twice, they are called once all the same."""
        if not self._depth:
            with ExitStack() as handles:  # takes off those that are on, should one of them fail
                for name, module in self._layers.items():
                    handles.enter_context(_register(name, module, self._function, self._event))
                self._handles = handles.pop_all()
        self._depth += 1

    def remove(self) -> None:
        """Take them off, however often they were placed; nothing happens where there are none."""
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
    """A function at one module.

    Args:
        module: any module of any model.
        function: called with each ``Call``; what it returns, unless None, replaces output or gradients.
        event: "forward" after the module, "pre-forward" before it, "backward" when its gradients are there. A module
            whose output is changed in place afterwards (``nn.ReLU(inplace=True)``) refuses "backward": PyTorch says
            so. Hook that ReLU in its place.
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
    """A function at many layers of a model.

    Args:
        model: whose layers are hooked.
        function: called with each ``Call`` of each of them; what it returns, unless None, replaces output or gradients.
        layers: a name, a module, a type, a predicate ``(name, module) -> bool``, or a sequence of these; by default all
            modules without children.
        event: see ``Hook``.
    Raises:
        ConfigError: a name or module is not in the model, or nothing was chosen.

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
        """The chosen modules by name."""
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
            raise ConfigError(f"There is no hook {event!r}: events are pre-forward, forward and backward.")


def as_tuple(gradients: Any) -> tuple[Any, ...]:
    """PyTorch gives one gradient alone, or several in a tuple."""
    return gradients if isinstance(gradients, tuple) else (gradients,)


def select_layers(model: nn.Module, layers: Layers | None = None) -> dict[str, nn.Module]:
    """The chosen modules by name, each once, in the order of their registration.

    Args:
        layers: a name ("" is the model itself), a module, a type, a predicate ``(name, module) -> bool``, or a sequence
            of these; None for all modules without children.
    Raises:
        ConfigError: a name or module is not in the model, or nothing was chosen."""
    if layers is None:
        layers = is_leaf
    wanted = list(layers) if isinstance(layers, Sequence) and not isinstance(layers, str) else [layers]
    chosen = {id(module) for layer in wanted for module in _those_of(model, layer)}
    found = {name: module for name, module in model.named_modules() if id(module) in chosen}
    if not found:
        raise ConfigError(f"No layer of {type(model).__name__} was chosen: it has {_listed(model)}.")
    return found


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """The module of a name, "" being the model itself.

    Raises:
        ConfigError: there is none; the message says which there are."""
    # All names, a shared module's others too.
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
            raise ConfigError(f"This {type(layer).__name__} is no layer of {type(model).__name__}.")
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
"""Of a ``MixedInputModel``: beginnings of names, and the branch of what begins so."""


def branch_of(name: str, branches: Mapping[str, str] = MIXED_BRANCHES) -> str:
    """The branch of a name; where none is given, the first part of the name, which is a child of the model.

    >>> branch_of("image.backbone.conv1"), branch_of("encoder.0.weight"), branch_of("")
    ('photos', 'encoder', '')
    >>> branch_of("encoder.0.weight", {"encoder": "words", "encoder.0": "letters"})
    'letters'
    """
    parts = name.split(".")
    for end in range(len(parts), 0, -1):  # the longest beginning that is given
        beginning = ".".join(parts[:end])
        if beginning in branches:
            return branches[beginning]
    return parts[0]


def tensors_in(value: object, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Each tensor with its place, in order: "" alone, else such as "[0]" or ".hidden[2]"; anything else is left out.

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
