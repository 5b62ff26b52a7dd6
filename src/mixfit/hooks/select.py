"""Which layers of a model are meant: by name, module, type or predicate."""

from collections.abc import Callable, Iterator, Sequence

from torch import nn

from mixfit.errors import ConfigError
from mixfit.suggest import NAMES_SHOWN, did_you_mean

Predicate = Callable[[str, nn.Module], bool]
LayerChoice = str | nn.Module | type[nn.Module] | Predicate
Layers = LayerChoice | Sequence[LayerChoice]


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


def is_leaf(_name: str, module: nn.Module) -> bool:
    """Whether a module has no children."""
    return not any(True for _ in module.children())


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
