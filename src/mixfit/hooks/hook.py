"""Hooks as context managers: a function that is called at layers of a model, for the length of a ``with`` block.

In: modules, or a model and which of its layers. Out: each call of a layer, as a ``Call``. However the block is left,
by its end, ``return``, an exception or the closing of a generator, no hook stays on the model."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

from torch import nn
from torch.utils.hooks import RemovableHandle

from mixfit.errors import ConfigError
from mixfit.hooks.select import Layers, select_layers

Event = Literal["pre-forward", "forward", "backward"]


@dataclass(slots=True)
class Call:
    """One call of a layer, or the way back through it."""

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
