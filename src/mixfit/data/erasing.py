"""Random erasing: a rectangle of each photo becomes grey (Zhong et al. 2017, arXiv:1708.04896)."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from mixfit.data.pixels import Pixels, PixelTransform, between, require_range
from mixfit.errors import ConfigError


class RandomErasing(PixelTransform):
    """Paint a random rectangle over, the same for all photos of a row.

    Args:
        scale: smallest and largest share of the area, in [0, 1].
        ratio: smallest and largest width / height, relative to the photo's own.
        value: the grey to paint with, 0..255.
        p: probability that a row is changed.
    Raises:
        ConfigError: the ranges or the value are not such.
    """

    draws = 4

    def __init__(
        self,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        value: float = 128.0,
        p: float = 0.25,
    ) -> None:
        super().__init__(p)
        require_range("scale", scale)
        require_range("ratio", ratio)
        if not (scale[1] <= 1 and ratio[0] > 0 and 0 <= value <= 255):
            raise ConfigError(
                f"scale must be at most 1, ratio above 0 and value from 0 to 255, got {scale}, {ratio} and {value}."
            )
        self.scale, self.ratio, self.value = scale, ratio, value

    def change(self, pixels: Pixels, uniform: Float64[Tensor, "rows draws"]) -> Pixels:
        """Erase in each row; columns of ``uniform``: area, shape, place across, place down."""
        area = between(uniform[:, 0], *self.scale)
        ratio = between(uniform[:, 1], math.log(self.ratio[0]), math.log(self.ratio[1])).exp()
        box = boxes(area, ratio, uniform[:, 2:], *pixels.shape[-2:])
        return pixels.masked_fill(box[:, None, None], self.value)


def boxes(area: Tensor, ratio: Tensor, place: Tensor, height: int, width: int) -> Tensor:
    """Rectangles that lie inside the photo, bool ``(rows, height, width)``.

    Args:
        area: share of the photo ``(rows,)``; met up to whole pixels, and unless the rectangle would not fit.
        ratio: width / height relative to the photo's own ``(rows,)``.
        place: uniform numbers in [0, 1) ``(rows, 2)``: how far to the right and how far down.
    """
    across = _between_ends((area * ratio).sqrt(), place[:, 0], width)
    down = _between_ends((area / ratio).sqrt(), place[:, 1], height)
    return across[:, None, :] & down[:, :, None]


def _between_ends(share: Tensor, place: Tensor, size: int) -> Tensor:
    """Whole pixels of one axis that the rectangle covers, bool ``(rows, size)``."""
    length = (share.clamp(max=1) * size).round()
    start = (place * (size - length + 1)).floor()
    at = torch.arange(size, device=share.device)
    return (at >= start[:, None]) & (at < (start + length)[:, None])
