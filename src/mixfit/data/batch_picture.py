"""A figure of training rows: their photos as the network sees them, with cells of the table below.

In: a batch, and the table that its rows come from. Out: a matplotlib figure, which a notebook displays."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8
from torch import Tensor

from mixfit.data.batch import Inputs
from mixfit.data.columns.schema import Schema
from mixfit.data.transforms.transform import Normalize, Transform
from mixfit.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 4
_CELLS, _WIDTH = 6, 26
"""Number of cells shown below the photos of a row, and characters per line."""


def batch_figure(xb: Inputs, frame: pd.DataFrame, schema: Schema, transforms: Sequence[Transform]) -> "Figure":
    """A panel for each row of a batch.

    Args:
        xb: the batch, on the CPU.
        frame: the table; its index holds the row numbers to show.
        schema: of the table.
        transforms: the transforms that were applied to the photos.
    """
    from matplotlib.figure import Figure

    rows = len(xb)
    pixels = None if xb.images is None else shown_pixels(xb, transforms)
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
        target, cells = _words(frame.iloc[row], schema)
        # A "$" in a cell is a dollar, not the beginning of a formula.
        above.set_title(f"row {frame.index[row]}\n{target}", fontsize=9, parse_math=False)
        below.text(0.02, 1.0, cells, va="top", fontsize=8, transform=below.transAxes, parse_math=False)
    return figure


def shown_pixels(xb: Inputs, transforms: Sequence[Transform]) -> UInt8[Tensor, "batch photos 3 height width"]:
    """The photos of a batch as pixels in 0..255, whatever the scale in the batch.

    Raises:
        ConfigError: they were normalised by a transform other than ``Normalize``, which cannot be inverted.
    """
    images = xb.images
    assert images is not None
    if images.dtype == torch.uint8:
        return images
    if xb.normalized:
        used = next((transform for transform in transforms if isinstance(transform, Normalize)), None)
        if used is None:
            raise ConfigError(
                "The photos are normalised, but not by mixfit.data.Normalize, so they cannot be displayed."
            )
        mean, std = (torch.tensor(values)[:, None, None] for values in (used.mean, used.std))
        images = images * std + mean
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def _words(cells: pd.Series, schema: Schema) -> tuple[str, str]:
    """The target, and the first features, one per line."""
    used = schema.features
    lines = [_line(name, cells[name]) for name in used[:_CELLS]]
    more = len(used) - _CELLS
    return _line(schema.target, cells[schema.target]), "\n".join([*lines, *([f"and {more} more"] * (more > 0))])


def _line(name: str, cell: object) -> str:
    shown = f"{cell:.5g}" if isinstance(cell, float | np.floating) else str(cell)
    shown = "(missing)" if pd.isna(cell) else shown
    text = "".join(character if character.isprintable() else " " for character in f"{name}: {shown}")
    return textwrap.shorten(text, _WIDTH, placeholder="…") if len(text) > _WIDTH else text
