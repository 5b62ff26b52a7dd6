"""Freezing and gradual unfreezing of parts of a model."""

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
"""Normalisation layers."""


def freeze(*modules: nn.Module) -> None:
    """Freeze modules: their parameters get no gradient, and they are in evaluation mode.

    Evaluation mode fixes the statistics of BatchNorm; ``keep_frozen_still`` restores it after ``train()``."""
    for module in modules:
        module.requires_grad_(requires_grad=False)
        module.eval()


def unfreeze(*modules: nn.Module) -> None:
    """Unfreeze modules, and put them into training mode."""
    for module in modules:
        module.requires_grad_(requires_grad=True)
        module.train()


def is_frozen_module(module: nn.Module) -> bool:
    """Whether the module has parameters, all of them frozen."""
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
    """Whether all parameters of a module belong to norm layers."""
    layers = [layer for layer in module.modules() if any(True for _ in layer.parameters(recurse=False))]
    return bool(layers) and all(isinstance(layer, NORMS) for layer in layers)


def blocks(backbone: nn.Module) -> list[nn.Module]:
    """The blocks of a backbone for gradual unfreezing, from the pixels to the features.

    Blocks are children with parameters, or the members of a child that is a sequence. A norm belongs to the block
    before it; parameters of the backbone itself, such as the position embeddings of a transformer, belong to the
    first block."""
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
    """Freeze a backbone except for its last ``count`` blocks.

    Raises:
        ConfigError: it has fewer blocks."""
    parts = blocks(backbone)
    if not 0 <= count <= len(parts):
        raise ConfigError(f"The backbone has {len(parts)} blocks, so 0 to {len(parts)} can be trained, not {count}.")
    freeze(backbone)
    unfreeze(*parts[len(parts) - count :])


def gradual(parts: Sequence[nn.Module], unfrozen: int) -> None:
    """Gradual unfreezing (Howard and Ruder 2018, arXiv:1801.06146): train only the last ``unfrozen`` parts."""
    split = max(0, len(parts) - unfrozen)
    freeze(*parts[:split])
    unfreeze(*parts[split:])
