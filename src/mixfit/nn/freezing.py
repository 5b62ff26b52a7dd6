"""Freezing: which parts of a model learn, and in which order they are set free."""

from collections.abc import Sequence

from torch import nn

from mixfit.errors import ConfigError

NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
)
"""Layers that scale what others give."""


def freeze(*modules: nn.Module) -> None:
    """Make modules stay as they are: their parameters get no gradient, and they are in evaluation mode.

    Evaluation mode keeps the statistics of BatchNorm still; ``keep_frozen_still`` holds it through ``train()``."""
    for module in modules:
        module.requires_grad_(requires_grad=False)
        module.eval()


def unfreeze(*modules: nn.Module) -> None:
    """Let modules learn, and put them into training mode."""
    for module in modules:
        module.requires_grad_(requires_grad=True)
        module.train()


def is_frozen_module(module: nn.Module) -> bool:
    """Whether there are parameters in it and none of them learns."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def keep_frozen_still(model: nn.Module) -> None:
    """Put every frozen module into evaluation mode; models call it at the end of their ``train``."""
    if is_frozen_module(model):
        model.eval()
        return
    for child in model.children():
        keep_frozen_still(child)


def has_only_norms(module: nn.Module) -> bool:
    """Whether all parameters of a module are those of norm layers."""
    layers = [layer for layer in module.modules() if any(True for _ in layer.parameters(recurse=False))]
    return bool(layers) and all(isinstance(layer, NORMS) for layer in layers)


def blocks(backbone: nn.Module) -> list[nn.Module]:
    """The parts of a backbone that are set free one after the other, from the pixels to the features.

    A stage counts as one part: children with parameters, and where a child is a sequence its members. A norm belongs
    to the part before it, as it has next to nothing to learn alone; parameters of the backbone itself, such as the
    places of a transformer, belong to the first part."""
    found: list[list[nn.Module]] = []
    for child in backbone.children():
        members = list(child.children()) if isinstance(child, nn.Sequential) else [child]
        for member in members:
            if not any(True for _ in member.parameters()):
                continue
            if found and has_only_norms(member):
                found[-1].append(member)
            else:
                found.append([member])
    own = list(backbone.parameters(recurse=False))
    if own:
        found = found or [[]]
        found[0].append(nn.ParameterList(own))
    return [part[0] if len(part) == 1 else nn.ModuleList(part) for part in found]


def unfreeze_last(backbone: nn.Module, count: int) -> None:
    """Freeze a backbone but for its last ``count`` blocks.

    Raises:
        ConfigError: it has not that many."""
    parts = blocks(backbone)
    if not 0 <= count <= len(parts):
        raise ConfigError(f"The backbone has {len(parts)} blocks, so 0 to {len(parts)} can learn, not {count}.")
    freeze(backbone)
    unfreeze(*parts[len(parts) - count :])


def gradual(parts: Sequence[nn.Module], unfrozen: int) -> None:
    """Gradual unfreezing (Howard and Ruder 2018, arXiv:1801.06146): only the last ``unfrozen`` of ``parts`` learn."""
    split = max(0, len(parts) - unfrozen)
    freeze(*parts[:split])
    unfreeze(*parts[split:])
