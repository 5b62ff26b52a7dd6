"""Parameter groups by learning rate and weight decay, and gradient clipping."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.nn.freezing import NORMS, has_only_norms
from mixfit.training.optimizer.base import HALF

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_SEQUENCES = (nn.Sequential, nn.ModuleList)


def parameter_groups(
    model: nn.Module, lr: float, *, weight_decay: float | None = None, rates: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters in groups of one learning rate and one weight decay each.

    With ``weight_decay``, matrices and kernels decay; biases, norms and embeddings do not, nor parameters listed in a
    module's ``no_weight_decay()``, as in timm. Parameters without decay are always in separate groups with
    ``"matrices": False``, which ``Muon`` reads.

    Args:
        model: frozen parameters are left out.
        lr: learning rate of parameters not in ``rates``.
        weight_decay: of the parameters that decay; None for the optimizer's default for all parameters.
        rates: factors of ``lr`` by prefix of the parameter's name, such as ``{"image": 0.1}``; the longest match
            applies. ``layer_rates`` computes them for the layers of a part.
    Returns:
        Groups ``{"params", "name", "lr"}``, with ``"weight_decay"`` if that is given.
    Raises:
        ConfigError: a name in ``rates`` matches no parameter, or a factor is below 0.
    """
    rates = rates or {}
    _check_rates(model, rates)
    kept = _not_decaying(model)
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = _part_of(name, rates)
        decays = id(parameter) not in kept
        if (part, decays) not in groups:
            group: dict[str, Any] = {"params": [], "name": part, "lr": lr * rates.get(part, 1.0)}
            group |= {} if decays else {"matrices": False}
            if weight_decay is not None:
                group |= {"weight_decay": weight_decay if decays else 0.0}
            groups[part, decays] = group
        groups[part, decays]["params"].append(parameter)
    return list(groups.values())


def weight_decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in at most two groups: with decay, and biases, norms and embeddings without."""
    groups = parameter_groups(model, 0.0, weight_decay=weight_decay)
    ordered = sorted(groups, key=lambda group: group["weight_decay"], reverse=True)
    return [{key: value for key, value in group.items() if key not in ("lr", "name")} for group in ordered]


def layer_rates(model: nn.Module, part: str, factor: float) -> dict[str, float]:
    """Layer-wise rates of a part, for ``parameter_groups``: 1 for the last, times ``factor`` for each earlier one.

    Early layers of a pretrained backbone have general features and should change least (Howard and Ruder 2018,
    arXiv:1801.06146).

    Args:
        model: the model with the part.
        part: name of a submodule whose children run in order, such as ``"image.backbone"``; "" for the model.
            Sequences are expanded; a norm belongs to the layer before it, and parameters of the part itself, such as
            position embeddings of a transformer, to the first layer.
        factor: above 0 and at most 1.
    Raises:
        ConfigError: the part does not exist, it has no parameters, or ``factor`` is invalid.
    """
    if not 0 < factor <= 1:
        raise ConfigError(f"factor must be above 0 and at most 1, got {factor}.")
    try:
        module = model.get_submodule(part)
    except AttributeError as error:
        raise ConfigError(f"The model has no part {part!r}.") from error
    layers: list[list[str]] = []
    for name, layer in _layers(module, part):
        if layers and has_only_norms(layer):
            layers[-1].append(name)
        else:
            layers.append([name])
    own = [name for name, _ in module.named_parameters(prefix=part, recurse=False)]
    if own and [part] not in layers:  # a part without children is a layer itself
        layers = [[*own, *(layers[0] if layers else [])], *layers[1:]]
    if not layers:
        raise ConfigError(f"The part {part!r} has no parameters.")
    return {name: factor ** (len(layers) - 1 - depth) for depth, names in enumerate(layers) for name in names}


def _layers(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Children with parameters in order, sequences expanded; the module itself if it has none."""
    children = [(f"{name}.{key}" if name else key, child) for key, child in module.named_children()]
    if not children and any(True for _ in module.parameters()):
        yield name, module
    for path, child in children:
        if isinstance(child, _SEQUENCES):
            yield from _layers(child, path)
        elif any(True for _ in child.parameters()):
            yield path, child


def _part_of(name: str, rates: Mapping[str, float]) -> str:
    """The longest prefix in ``rates`` of a parameter's name; "" if there is none."""
    return max((part for part in rates if f"{name}.".startswith(f"{part}.")), key=len, default="")


def _check_rates(model: nn.Module, rates: Mapping[str, float]) -> None:
    names = [f"{name}." for name, _ in model.named_parameters()]
    for part, factor in rates.items():
        if not any(name.startswith(f"{part}.") for name in names):
            known = ", ".join(name for name, child in model.named_children() if any(True for _ in child.parameters()))
            raise ConfigError(f"No parameter's name begins with {part!r}; the parts of the model are {known}.")
        if not factor >= 0:
            raise ConfigError(f"The rate of {part!r} must be at least 0, got {factor}.")


def _not_decaying(model: nn.Module) -> set[int]:
    """Ids of biases, norms and embeddings; by identity, as parameters may be shared."""
    kept: set[int] = set()
    for module in model.modules():
        exempt = getattr(module, "no_weight_decay", None)
        named = set(exempt()) if callable(exempt) else set()
        for name, parameter in module.named_parameters(recurse=False):
            whole = isinstance(module, (*NORMS, *_EMBEDDINGS))
            if whole or parameter.ndim < 2 or name == "bias" or name in named:
                kept.add(id(parameter))
        kept |= {id(parameter) for name, parameter in module.named_parameters() if name in named}
    return kept


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Clip gradients by global norm (arXiv:1211.5063).

    Args:
        parameters: those without a gradient are ignored.
        max_norm: largest norm of all gradients together; ``math.inf`` only measures.
    Returns:
        The norm before clipping, float32 or float64 ``()``, on their device, without synchronisation.
    Raises:
        ConfigError: ``max_norm`` is not above 0.
    """
    if not max_norm > 0:
        raise ConfigError(f"max_norm must be above 0, got {max_norm}.")
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not grads:
        return torch.zeros(())
    # Sums of squares overflow in 16 bits.
    lengths = torch._foreach_norm([grad.float() if grad.dtype in HALF else grad for grad in grads])
    norm = torch.linalg.vector_norm(torch.stack([length.to(grads[0].device) for length in lengths]))
    if max_norm < math.inf:
        # Multiply even if nothing is clipped, as only the device knows whether it is.
        torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
