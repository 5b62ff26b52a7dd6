"""Initialisation of weights by the following activation, and by the variance on a real batch.

Layers should preserve the variance: if each doubles or halves it, the signal explodes or vanishes in a deep network.
``init_weights`` achieves this for random inputs, ``lsuv`` for the actual inputs."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.hooks.hook import Hook, evaluating
from mixfit.nn.tabular import MemberLinear

# The g for which E[activation(g x)^2] is 1 for standard normal x.
_GAIN_OF_SILU, _GAIN_OF_GELU = 1.559, 1.468
_PASSED_OVER = (
    nn.Identity,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.modules.dropout._DropoutNd,
)


@torch.no_grad()
def init_weights(module: nn.Module) -> None:
    """Reinitialise all weights of linear layers and convolutions, and set their biases to 0.

    Layers before a ReLU use the initialisation of He et al. 2015 (arXiv:1502.01852), before SiLU or GELU one that
    preserves the second moment, others that of Glorot and Bengio 2010. The following activation is found in the
    layer's ``nn.Sequential``, skipping norms and dropout. Deep stacks of SiLU or GELU still need norms, as these,
    unlike ReLU, have no fixed scale. All-zero weights are kept, as they end
    residual branches, and so are frozen weights."""
    gains = dict(_gains(module))
    for layer in module.modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d) or not layer.weight.requires_grad:
            continue
        if layer.bias is not None:
            layer.bias.zero_()
        if not layer.weight.any():
            continue
        fan_in = layer.weight[0].numel()
        if layer in gains:
            layer.weight.normal_(std=gains[layer] / math.sqrt(fan_in))
        else:
            # PyTorch's function counts the channels of all groups, though connections are within a group.
            groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
            fan_out = layer.weight[:, 0].numel() // groups
            layer.weight.normal_(std=math.sqrt(2 / (fan_in + fan_out)))


def _gains(module: nn.Module) -> Iterator[tuple[nn.Module, float]]:
    for sequence in module.modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        before: nn.Module | None = None
        for layer in sequence:
            if isinstance(layer, nn.Linear | nn.Conv2d):
                before = layer
            elif isinstance(layer, nn.ReLU | nn.LeakyReLU) and before is not None:
                slope = layer.negative_slope if isinstance(layer, nn.LeakyReLU) else 0.0
                yield before, math.sqrt(2 / (1 + slope**2))
            elif isinstance(layer, nn.SiLU | nn.GELU) and before is not None:
                yield before, _GAIN_OF_SILU if isinstance(layer, nn.SiLU) else _GAIN_OF_GELU
            elif not isinstance(layer, _PASSED_OVER):
                before = None


@dataclass(frozen=True, slots=True)
class Stage:
    """A point in a model whose output should have unit variance."""

    name: str
    module: nn.Module
    """The module whose output is measured."""
    layers: tuple[nn.Module, ...]
    """Layers to scale, with ``weight`` and maybe ``bias``, whose output or sum of outputs it is."""
    centre: bool = False
    """Whether to set the mean to 0, too, by the bias of the first layer."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """Mean and standard deviation of a stage's output on the batch, before and after."""

    name: str
    mean_before: float
    std_before: float
    mean_after: float
    std_after: float


@torch.no_grad()
def lsuv(
    model: nn.Module, run: Callable[[], object], stages: Sequence[Stage], *, tolerance: float = 0.02, attempts: int = 10
) -> list[Scaled]:
    """Scale layers until each stage has unit variance on one real batch.

    Layer-sequential unit variance (Mishkin and Matas 2015, arXiv:1511.06422). A model with several inputs needs it at
    the end of every branch, as a branch with larger values would dominate the fusion.

    Args:
        model: in evaluation mode during the measurement, so that dropout adds no noise; its modes are restored.
        run: calls the model on the batch.
        stages: in the order of the model.
        tolerance: of the standard deviation, and of the mean if it is set to 0.
        attempts: largest number of measurements per stage; more than one is needed if an activation follows.
    Returns:
        One line for each stage.
    Raises:
        ConfigError: a stage was not reached, or its output is not finite.
    """
    with evaluating(model):
        return [_scale(run, stage, tolerance, attempts) for stage in stages]


def _scale(run: Callable[[], object], stage: Stage, tolerance: float, attempts: int) -> Scaled:
    mean, std = before = _measure(run, stage)
    for _ in range(attempts):
        if abs(std - 1) < tolerance and (not stage.centre or abs(mean) < tolerance):
            break
        if std < 1e-8:  # constant: there is nothing to scale
            break
        _shift_and_scale(stage, mean if stage.centre else 0.0, std)
        mean, std = _measure(run, stage)
    return Scaled(stage.name, *before, mean, std)


def _shift_and_scale(stage: Stage, mean: float, std: float) -> None:
    for number, layer in enumerate(stage.layers):
        assert isinstance(layer.weight, Tensor)
        layer.weight.div_(std)
        if isinstance(layer.bias, Tensor):
            layer.bias.sub_(mean if number == 0 else 0.0).div_(std)


def _measure(run: Callable[[], object], stage: Stage) -> tuple[float, float]:
    seen: list[Tensor] = []
    # A copy: what follows, such as ReLU(inplace=True), may change the output.
    with Hook(stage.module, lambda call: seen.append(call.output.clone())):
        run()
    if not seen:
        raise ConfigError(f"The part {stage.name} is not used in the forward pass of this batch.")
    values = torch.cat([output.flatten() for output in seen]).double()
    mean, std = float(values.mean()), float(values.std()) if len(values) > 1 else 0.0
    if not (math.isfinite(mean) and math.isfinite(std)):
        raise ConfigError(f"The output of {stage.name} is {mean} +- {std} for this batch: its inputs are not finite.")
    return mean, std


@torch.no_grad()
def start_at_target(
    head: nn.Linear | MemberLinear, *, mean: float | None = None, class_share: Sequence[float] | None = None
) -> None:
    """Set the bias of the last layer so that the initial prediction is the best constant.

    Args:
        head: the last layer; every member of an ensemble gets the same bias.
        mean: of the scaled target, for regression.
        class_share: class frequencies of the training rows, for classes; the bias is their logarithm.
    Raises:
        ConfigError: neither or both are given, or the number of classes is not the number of outputs."""
    if (mean is None) == (class_share is None):
        raise ConfigError("Give either mean or class_share.")
    if mean is not None:
        head.bias.fill_(mean)
    if class_share is None:
        return
    if len(class_share) != head.bias.shape[-1]:
        raise ConfigError(f"There are {len(class_share)} classes and {head.bias.shape[-1]} outputs.")
    head.bias.copy_(torch.tensor(class_share, dtype=torch.float64).clamp(min=1e-6).log())
