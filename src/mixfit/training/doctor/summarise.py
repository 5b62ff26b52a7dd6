"""Statistics of hooks, in the plain values that the rules judge."""

import math

from torch import Tensor, nn

from mixfit.hooks.activation_stats import ActivationStats
from mixfit.hooks.branches import branch_of
from mixfit.hooks.gradient_records import Part
from mixfit.hooks.gradient_stats import GradientStats
from mixfit.hooks.records import Output
from mixfit.training.doctor.observed import LayerGradient, PartMotion, UnitShares

GATE_END = 4.6
"""The input of a sigmoid from which on it is within 1 % of an end of its range."""
_ACTIVATIONS = ("ReLU", "SiLU", "GELU", "Sigmoid", "Tanh", "LeakyReLU", "ELU", "Hardswish", "Mish")
_TABLES = (nn.Embedding, nn.EmbeddingBag)  # rows that no example has get no gradient


def layer_gradients(model: nn.Module, stats: GradientStats) -> tuple[LayerGradient, ...]:
    """Of the matrices and kernels that learn, and of their biases, in the order of registration."""
    total, found = stats.total(), []
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        layer, _, own = name.rpartition(".")
        told, weight = total.get(Part("parameter", name)), getattr(modules[layer], "weight", None)
        if told is None or own not in ("weight", "bias") or isinstance(modules[layer], _TABLES):
            continue
        if not isinstance(weight, Tensor) or weight.ndim < 2 or not parameter.requires_grad:
            continue
        size = told.gradient / math.sqrt(parameter.numel()) if math.isfinite(told.gradient) else 0.0
        found.append(LayerGradient(layer=layer, branch=branch_of(name), bias=own == "bias", size=size))
    return tuple(found)


def part_motions(model: nn.Module, stats: GradientStats) -> tuple[PartMotion, ...]:
    """Of the branches in which something learns."""
    learning = {branch_of(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = []
    for part, told in stats.total().items():
        if part.kind != "branch" or part.name not in learning:
            continue
        weights = [record.weight for record in stats.over_time(part) if math.isfinite(record.weight)]
        found.append(
            PartMotion(
                branch=part.name,
                gradient=told.gradient if math.isfinite(told.gradient) else 0.0,
                ratio=told.ratio if math.isfinite(told.ratio) else None,
                growth=weights[-1] / weights[0] if weights and weights[0] else None,
                broken=told.broken,
            )
        )
    return tuple(found)


def fusion_units(stats: ActivationStats) -> tuple[UnitShares, ...]:
    """Of the layers of the fusion."""
    return tuple(_shares(stats, output) for output in stats.outputs if output.layer.split(".")[0] == "fusion")


def _shares(stats: ActivationStats, output: Output) -> UnitShares:
    told = stats.over_time(output)
    told = [record for record in told[len(told) // 2 :] if record.values]
    values = sum(record.values for record in told)

    def mean(numbers: list[tuple[float, int]]) -> float:
        return sum(number * weight for number, weight in numbers) / values if values else 0.0

    ends = [(record.saturated, record.values) for record in told if record.saturated is not None]
    saturated = mean(ends) if ends else None
    if output.layer.endswith("gate") and output.kind == "Linear":  # what it gives goes through a sigmoid
        saturated = _beyond(stats, output)
    return UnitShares(
        layer=str(output),
        saturated=saturated,
        dead_units=mean([(record.dead_units, record.values) for record in told]),
        near_zero=mean([(record.near_zero, record.values) for record in told]),
        activation=output.kind in _ACTIVATIONS,
    )


def _beyond(stats: ActivationStats, output: Output) -> float:
    """Share of the values beyond ``GATE_END`` in the second half of the steps."""
    histogram = stats.histogram(output)
    counts = histogram.counts[len(histogram.counts) // 2 :].sum(0)
    inside = (histogram.edges[:-1] >= -GATE_END) & (histogram.edges[1:] <= GATE_END)
    return float(counts[~inside].sum() / max(counts.sum(), 1))
