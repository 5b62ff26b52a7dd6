"""Sequential layers that record their outputs: hooks in their simplest form, without those of PyTorch."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixfit.hooks.hook import Call

_NEAR_ZERO = 1e-3


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """Statistics of all outputs of a layer in training mode; NaN if there were none."""

    name: str
    kind: str
    """Type of the layer."""
    values: int
    mean: float
    std: float
    near_zero: float
    """Share of the values with an absolute value of at most 0.001."""


class HookedSequential(nn.Module):
    """``nn.Sequential`` that calls functions after each layer, and keeps mean and std of each layer's output.

    Its layers have the same names as in ``nn.Sequential``, so each can load the weights of the other. The statistics
    cover the batches in training mode since ``clear_statistics``; they stay on the device until they are read, and are
    not part of ``state_dict``.

    Args:
        layers: called in order, each with the output of the one before.
        functions: called after each layer, in order, with its ``Call``; a return value other than None replaces the
            layer's output.

    >>> model = HookedSequential(nn.Linear(3, 4), nn.ReLU(), functions=[lambda call: print(call.name, call.module)])
    >>> _ = model(torch.ones(2, 3))
    0 Linear(in_features=3, out_features=4, bias=True)
    1 ReLU()
    """

    def __init__(self, *layers: nn.Module, functions: Sequence[Callable[[Call], Any]] = ()) -> None:
        super().__init__()
        for place, layer in enumerate(layers):
            self.add_module(str(place), layer)
        self.functions = list(functions)
        self.clear_statistics()

    def clear_statistics(self) -> None:
        """Reset the statistics."""
        self._seen: list[Tensor | None] = [None] * len(self)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[nn.Module]:
        return self.children()

    def __getitem__(self, place: int) -> nn.Module:
        return list(self.children())[place]

    def forward(self, x: Tensor) -> Tensor:
        """Apply all layers."""
        for place, (name, layer) in enumerate(self.named_children()):
            output = layer(x)
            if self.training:
                self._note(place, output.detach())
            for function in self.functions:
                changed = function(Call(name, layer, (x,), output))
                output = output if changed is None else changed
            x = output
        return x

    @property
    def statistics(self) -> list[LayerStatistics]:
        """The statistics of each layer, in order."""
        return [_told(name, layer, seen) for (name, layer), seen in zip(self.named_children(), self._seen, strict=True)]

    @torch.no_grad()
    def _note(self, place: int, output: Tensor) -> None:
        x = output if output.dtype == torch.float64 or output.device.type == "mps" else output.double()
        mean = x.mean()
        new = torch.stack([mean.new_tensor(x.numel()), mean, (x - mean).square().sum(), (x.abs() <= _NEAR_ZERO).sum()])
        old = self._seen[place]
        self._seen[place] = new if old is None else _both(old, new)


def _both(a: Tensor, b: Tensor) -> Tensor:
    """Pool count, mean, sum of squared deviations and near-zero count of two sets of values (Chan et al. 1983)."""
    count = a[0] + b[0]
    away = b[1] - a[1]
    mean = a[1] + away * b[0] / count
    return torch.stack([count, mean, a[2] + b[2] + away.square() * a[0] * b[0] / count, a[3] + b[3]])


def _told(name: str, layer: nn.Module, seen: Tensor | None) -> LayerStatistics:
    kind, nothing = type(layer).__name__, float("nan")
    if seen is None:
        return LayerStatistics(name, kind, 0, nothing, nothing, nothing)
    count, mean, squares, near_zero = seen.tolist()
    return LayerStatistics(name, kind, int(count), mean, float(np.sqrt(squares / count)), near_zero / count)
