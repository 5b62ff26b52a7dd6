"""A picture of training rows: their photos as the network sees them, with the cells of the table below.

In: data that are ready to train on. Out: a matplotlib figure, which a notebook shows by itself."""

import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8
from torch import Tensor

from mixfit.data.batch import Inputs
from mixfit.data.dataset import FeatureTable
from mixfit.data.loader import DataLoader
from mixfit.data.sampler import ShuffledSampler
from mixfit.data.transforms.transform import Normalize
from mixfit.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mixfit.data.load import MixedData

_COLUMNS = 4
_CELLS, _WIDTH = 6, 26
"""Most cells of a row that are written below its photos, and letters in a line."""


def batch_figure(data: "MixedData", rows: int = 8) -> "Figure":
    """See ``MixedData.show_batch``."""
    from matplotlib.figure import Figure

    if rows < 1:
        raise ConfigError(f"rows must be at least 1, got {rows}.")
    rows = min(rows, len(data.split.train))
    if isinstance(data.source, FeatureTable):  # the network sees features; a person wants to see photos
        data = replace(data, source=data.pixel_source)
    sampler = ShuffledSampler(len(data.split.train), rows, seed=data.seed)
    loader = DataLoader(
        data.dataset("train"), sampler, transforms=data.transforms, training=True, device="cpu", prefetch=0
    )
    xb, _ = next(iter(loader))
    pixels = None if xb.images is None else shown_pixels(xb, data)
    across = min(_COLUMNS, rows)
    down = -(-rows // across)
    figure = Figure(figsize=(2.7 * across, 4.1 * down), layout="constrained")
    places = figure.subplots(2 * down, across, squeeze=False, height_ratios=[2.6, 1.5] * down)
    for axes in places.ravel():
        axes.set_axis_off()
    for place in range(rows):
        above, below = places[2 * (place // across) : 2 * (place // across) + 2, place % across]
        there = [] if pixels is None or xb.image_mask is None else list(pixels[place][xb.image_mask[place]])
        if there:
            above.imshow(torch.cat(there, dim=2).permute(1, 2, 0).numpy(), interpolation="nearest")
        else:
            above.text(0.5, 0.5, "no photo", ha="center", va="center", color="0.5", transform=above.transAxes)
        row = int(xb.rows[place])
        target, cells = _words(data, row)
        # A "$" in a cell is a dollar, not the beginning of a formula.
        above.set_title(f"row {data.row_numbers[row]}\n{target}", fontsize=9, parse_math=False)
        below.text(0.02, 1.0, cells, va="top", fontsize=8, transform=below.transAxes, parse_math=False)
    return figure


def shown_pixels(xb: Inputs, data: "MixedData") -> UInt8[Tensor, "batch photos 3 height width"]:
    """The photos of a batch as pixels in 0..255, whatever scale the network sees them in.

    Raises:
        ConfigError: they were normalised by another transform than ``Normalize``, so that it is not known how.
    """
    images = xb.images
    assert images is not None
    if images.dtype == torch.uint8:
        return images
    if xb.normalized:
        used = next((transform for transform in data.transforms if isinstance(transform, Normalize)), None)
        if used is None:
            raise ConfigError(
                "The photos are normalised, but not by mixfit.data.Normalize: no picture of them can be made."
            )
        mean, std = (torch.tensor(values)[:, None, None] for values in (used.mean, used.std))
        images = images * std + mean
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def _words(data: "MixedData", row: int) -> tuple[str, str]:
    """The target, and the first cells that the network sees, one a line."""
    cells = data.frame.iloc[row]
    used = [column.name for column in data.schema.columns if column.role in ("number", "category", "date")]
    lines = [_line(name, cells[name]) for name in used[:_CELLS]]
    more = len(used) - _CELLS
    return _line(data.schema.target, cells[data.schema.target]), "\n".join(
        [*lines, *([f"and {more} more"] * (more > 0))]
    )


def _line(name: str, cell: object) -> str:
    shown = f"{cell:.5g}" if isinstance(cell, float | np.floating) else str(cell)
    shown = "(missing)" if pd.isna(cell) else shown
    text = "".join(character if character.isprintable() else " " for character in f"{name}: {shown}")
    return textwrap.shorten(text, _WIDTH, placeholder="…") if len(text) > _WIDTH else text
