"""Pictures of heat: laid over its photo, and all photos of a row beside each other with their heat.

In: photos and heat in [0, 1]. Out: a Pillow picture, a matplotlib figure. Knows nothing of models."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

if TYPE_CHECKING:
    import matplotlib.figure
    import PIL.Image

_GREY = (0.299, 0.587, 0.114)
"""How bright red, green and blue are (ITU-R BT.601)."""
_INCHES = 1.9


def overlay(
    photo: UInt8[Tensor, "3 height width"] | Float[Tensor, "3 height width"],
    heat: Float[Tensor, "height width"],
    *,
    colours: str = "turbo",
    opacity: float = 0.6,
) -> "PIL.Image.Image":
    """Heat over the photo: the photo in grey, coloured where it is warm.

    Args:
        photo: uint8 in 0..255, or float in [0, 1].
        heat: in [0, 1]; the colour's opacity grows with it.
        colours: name of a matplotlib colormap.
        opacity: of the hottest place, in [0, 1].
    """
    import matplotlib
    from PIL import Image

    shades = np.asarray(_floats(photo).permute(1, 2, 0)) @ np.array(_GREY)
    warmth = np.asarray(heat.detach().cpu().float().clamp(0, 1))
    colour = matplotlib.colormaps[colours](warmth)[..., :3]
    # The square root: also what is half as warm is to be seen.
    share = opacity * np.sqrt(warmth)[..., None]
    mixed = (1 - share) * shades[..., None] + share * colour
    return Image.fromarray((255 * mixed).round().clip(0, 255).astype(np.uint8))


def heat_figure(
    photos: Sequence[UInt8[Tensor, "3 height width"] | Float[Tensor, "3 height width"]],
    heats: Sequence[Float[Tensor, "height width"]],
    titles: Sequence[str] | None = None,
    *,
    title: str = "",
    colours: str = "turbo",
) -> "matplotlib.figure.Figure":
    """All photos of a row in one line, each with its heat below; an empty figure with a note for a row without any.

    Args:
        photos, heats: as for ``overlay``, one each.
        titles: above each photo.
        title: above all.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_INCHES * max(1, len(photos)), 2 * _INCHES + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=9, parse_math=False)
    if not photos:
        figure.text(0.5, 0.5, "no photo", ha="center", va="center")
        return figure
    grid = figure.subplots(2, len(photos), squeeze=False)
    for place, (photo, heat) in enumerate(zip(photos, heats, strict=True)):
        grid[0, place].imshow(_floats(photo).permute(1, 2, 0).numpy())
        grid[1, place].imshow(overlay(photo, heat, colours=colours))
        grid[0, place].set_axis_off()
        grid[1, place].set_axis_off()
        if titles is not None:
            grid[0, place].set_title(titles[place], fontsize=8, parse_math=False)
    return figure


def _floats(photo: Tensor) -> Tensor:
    """On the CPU, in [0, 1]."""
    photo = photo.detach().cpu()
    return photo / 255 if photo.dtype == torch.uint8 else photo.float().clamp(0, 1)
