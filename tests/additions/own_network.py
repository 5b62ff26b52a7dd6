"""A whole network written outside mixfit: one matrix over the numbers, the categories and the mean colours."""

import torch
from torch import Tensor, nn

import mixfit


class Whole(nn.Module):
    """``xb -> (batch,)`` for a number, ``(batch, outputs)`` for classes."""

    def __init__(self, numeric: int, cardinalities: tuple[int, ...], outputs: int, width: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.levels = nn.ModuleList(nn.Embedding(levels, 2) for levels in cardinalities)
        self.layers = nn.Sequential(
            nn.Linear(numeric + 2 * len(cardinalities) + 3, width), nn.ReLU(), nn.Linear(width, outputs)
        )

    def forward(self, xb: mixfit.data.Inputs) -> Tensor:
        parts = [xb.numeric, *(level(xb.categorical[:, place]) for place, level in enumerate(self.levels))]
        colours = xb.numeric.new_zeros(len(xb), 3)
        if xb.images is not None and xb.image_mask is not None:
            there = xb.image_mask[..., None]
            means = (xb.images.float() / 255).mean((3, 4)) * there
            colours = means.sum(1) / there.sum(1).clamp(min=1)
        found = self.layers(torch.cat([*parts, colours], dim=1))
        return found[:, 0] if self.outputs == 1 else found


def build(shape, config, settings) -> Whole:  # type: ignore[no-untyped-def]
    return Whole(shape.numeric, shape.cardinalities, shape.outputs, **settings)
