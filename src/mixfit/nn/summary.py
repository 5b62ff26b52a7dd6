"""Summary of a model: layers, output shapes, parameters, and the cost of a forward pass."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from mixfit.hooks.hook import Call, Hooks, evaluating, tensors_in
from mixfit.html import Grid


@dataclass(frozen=True, slots=True)
class LayerLine:
    """One call of a layer."""

    name: str
    kind: str
    shapes: str
    """Shapes of its outputs."""
    parameters: int
    trainable: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Summary of a model on one batch; print it."""

    layers: tuple[LayerLine, ...]
    """Layers in the order of execution; a layer that is called twice has two lines."""
    parameters: int
    trainable: int
    flops: int
    """Floating point operations of matrix products and convolutions in one forward pass."""
    rows: int

    def __str__(self) -> str:
        """Layers in order; of a model with very many, each run of layers in one part of it is a line."""
        table = [("layer", "kind", "output", "parameters", "learn")]
        table += [
            (line.name, line.kind, line.shapes, f"{line.parameters:,}", "yes" if line.trainable else "no")
            if line.parameters
            else (line.name, line.kind, line.shapes, "", "")
            for line in _shortened(self.layers)
        ]
        widths = [max(len(row[i]) for row in table) for i in range(5)]
        lines = [
            f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {d:>{widths[3]}}  {e}".rstrip()
            for a, b, c, d, e in table
        ]
        share = self.trainable / self.parameters if self.parameters else 0.0
        lines.append(
            f"{self.parameters:,} parameters, {self.trainable:,} trainable ({share:.1%}); "
            f"{self.flops / max(self.rows, 1) / 1e6:,.2f} MFLOPs per row"
        )
        return "\n".join(lines)


_MOST_LINES = 60


def _shortened(layers: tuple[LayerLine, ...]) -> list[LayerLine]:
    """At most about ``_MOST_LINES``: layers that follow one another and whose names begin alike become one line."""
    for depth in range(max((line.name.count(".") + 1 for line in layers), default=1), 0, -1):
        runs = [list(run) for _, run in groupby(layers, key=lambda line: tuple(line.name.split(".")[:depth]))]
        if len(runs) <= _MOST_LINES:
            break
    return [_as_one(run, depth) if len(run) > 1 else run[0] for run in runs] if layers else []


def _as_one(run: list[LayerLine], depth: int) -> LayerLine:
    names = {line.name: line for line in run}  # of a layer that is called twice the parameters count once
    return LayerLine(
        name=".".join(run[0].name.split(".")[:depth]),
        kind=f"{len(run)} layers" if len(names) > 1 else run[0].kind,
        shapes=run[-1].shapes,
        parameters=sum(line.parameters for line in names.values()),
        trainable=sum(line.trainable for line in names.values()),
    )


def summary(model: nn.Module, xb: Any) -> Summary:
    """Run a batch through a model and summarise it.

    Args:
        xb: input of the model; its ``len`` is the number of rows. Also data, a loader, or a pair ``(xb, yb)``, of which
            the first batch is taken.
    Returns:
        A line for every leaf layer that was called. The model is not changed, including hooks and modes."""
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton with it: a tenth of a second

    xb = _batch_of(xb, model)
    lines: list[LayerLine] = []
    with (
        Hooks(model, lambda call: lines.append(_line(call))),
        evaluating(model),
        torch.inference_mode(),
        FlopCounterMode(display=False) as counter,
    ):
        model(xb)
    parameters = list(model.parameters())
    return Summary(
        layers=tuple(lines),
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        flops=int(counter.get_total_flops()),
        rows=len(xb),
    )


def _batch_of(data: Any, model: nn.Module) -> Any:
    """The inputs of a batch, where the model is."""
    data = getattr(data, "train", data)
    if not isinstance(data, Tensor) and hasattr(type(data), "__iter__") and not isinstance(data, tuple | list | dict):
        data = next(iter(data))
    xb = data[0] if isinstance(data, tuple) and len(data) == 2 else data
    device = next((tensor.device for tensor in model.parameters()), None)
    return xb.to(device) if device is not None and hasattr(xb, "to") else xb


def _line(call: Call) -> LayerLine:
    own = list(call.module.parameters())
    shapes = [f"({', '.join(map(str, tensor.shape))})" for _, tensor in tensors_in(call.output)]
    return LayerLine(
        name=call.name,
        kind=type(call.module).__name__,
        shapes=", ".join(shapes) or type(call.output).__name__,
        parameters=sum(parameter.numel() for parameter in own),
        trainable=sum(parameter.numel() for parameter in own if parameter.requires_grad),
    )


def parts_grid(model: nn.Module) -> Grid:
    """The parts of a model with their numbers of parameters, as a table of a card."""
    rows = []
    for name, part in [*model.named_children(), ("together", model)]:
        parameters = [one for one in part.parameters() if not isinstance(one, nn.UninitializedParameter)]
        trainable = sum(one.numel() for one in parameters if one.requires_grad)
        rows.append((name, type(part).__name__, sum(one.numel() for one in parameters), trainable))
    return Grid(heading="parts of the model", head=("part", "kind", "parameters", "trainable"), rows=rows)
