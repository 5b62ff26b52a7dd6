"""Random crops and affine maps: where each pixel of the new photo is taken from.

In: photos of some rows, and uniform numbers. Out: photos of the same size. All rows go through one bilinear sampling,
each with a matrix of its own."""

import math
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional as F

from mixfit.data.pixels import Pixels, PixelTransform, between, require_range
from mixfit.errors import ConfigError

Padding = Literal["zeros", "border", "reflection"]


def warp(pixels: Pixels, matrix: Float[Tensor, "rows 2 3"], padding: Padding) -> Pixels:
    """Take the pixel at ``(x, y)``, in pixels from the photo's centre, from ``matrix @ (x, y, 1)`` of the old photo.

    ``padding`` says what lies outside: black, the nearest border pixel, or the mirrored photo."""
    height, width = pixels.shape[-2:]
    m = matrix.to(pixels.dtype)[:, None, None]
    x = torch.arange(width, device=pixels.device, dtype=pixels.dtype) - (width - 1) / 2
    y = (torch.arange(height, device=pixels.device, dtype=pixels.dtype) - (height - 1) / 2)[:, None]
    # Written out rather than as a matrix product, whose rounding may depend on the number of rows.
    source_x = m[..., 0, 0] * x + m[..., 0, 1] * y + m[..., 0, 2]
    source_y = m[..., 1, 0] * x + m[..., 1, 1] * y + m[..., 1, 2]
    grid = torch.stack([source_x * (2 / width), source_y * (2 / height)], dim=-1)
    # The photos of a row share a grid, as if they were channels of one picture.
    sampled = F.grid_sample(pixels.flatten(1, 2), grid, mode="bilinear", padding_mode=padding, align_corners=False)
    return sampled.reshape(pixels.shape)


def matrices(a: Tensor, b: Tensor, c: Tensor, d: Tensor, x: Tensor, y: Tensor) -> Float64[Tensor, "rows 2 3"]:
    """One matrix ``[[a, b, x], [c, d, y]]`` for each row, from the entries ``(rows,)``."""
    return torch.stack([a, b, x, c, d, y], dim=1).reshape(-1, 2, 3)


class RandomResizedCrop(PixelTransform):
    """Cut a random rectangle out and stretch it to the size of the photo (Szegedy et al. 2014, arXiv:1409.4842).

    # NOTE[DIFF] A rectangle that would not fit is made narrower, where the usual code draws up to ten times.

    Args:
        scale: smallest and largest share of the photo's area, in (0, 1].
        ratio: smallest and largest width / height of the rectangle, relative to the photo's own.
        p: probability that a row is changed.
    Raises:
        ConfigError: the ranges are not such.
    """

    draws = 4

    def __init__(
        self, scale: tuple[float, float] = (0.35, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3), p: float = 1.0
    ) -> None:
        super().__init__(p)
        require_range("scale", scale)
        require_range("ratio", ratio)
        if not (scale[0] > 0 and scale[1] <= 1 and ratio[0] > 0):
            raise ConfigError(f"scale must lie in (0, 1] and ratio above 0, got {scale} and {ratio}.")
        self.scale, self.ratio = scale, ratio

    def change(self, pixels: Pixels, uniform: Float64[Tensor, "rows draws"]) -> Pixels:
        """Crop each row; columns of ``uniform``: area, shape, place across, place down."""
        area = between(uniform[:, 0], *self.scale)
        ratio = between(uniform[:, 1], math.log(self.ratio[0]), math.log(self.ratio[1])).exp()
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        x = between(uniform[:, 2], -0.5, 0.5) * (1 - width) * pixels.shape[-1]
        y = between(uniform[:, 3], -0.5, 0.5) * (1 - height) * pixels.shape[-2]
        zero = torch.zeros_like(width)
        return warp(pixels, matrices(width, zero, zero, height, x, y), "border")


class RandomAffine(PixelTransform):
    """Turn, move, scale and shear about the centre.

    Args:
        degrees: turned by up to this angle either way.
        translate: moved by up to these shares of width and height either way.
        scale: smallest and largest enlargement.
        shear: sheared along x by up to this angle either way, in degrees.
        padding: what appears outside of the photo.
        p: probability that a row is changed.
    Raises:
        ConfigError: an angle or share is negative, or ``scale`` is no range above 0.
    """

    draws = 5

    def __init__(
        self,
        degrees: float = 10.0,
        translate: tuple[float, float] = (0.05, 0.05),
        scale: tuple[float, float] = (0.9, 1.1),
        shear: float = 0.0,
        padding: Padding = "reflection",
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        require_range("scale", scale)
        if not (degrees >= 0 and min(translate) >= 0 and 0 <= shear < 90 and scale[0] > 0):
            raise ConfigError(
                "degrees and translate must be at least 0, shear from 0 to below 90 and scale above 0, "
                f"got {degrees}, {translate}, {shear} and {scale}."
            )
        self.degrees, self.translate, self.scale, self.shear = degrees, translate, scale, shear
        self.padding: Padding = padding

    def change(self, pixels: Pixels, uniform: Float64[Tensor, "rows draws"]) -> Pixels:
        """Map each row; columns of ``uniform``: angle, across, down, scale, shear."""
        signed = 2 * uniform - 1
        angle, shear = torch.deg2rad(signed[:, 0] * self.degrees), torch.deg2rad(signed[:, 4] * self.shear)
        across = signed[:, 1] * self.translate[0] * pixels.shape[-1]
        down = signed[:, 2] * self.translate[1] * pixels.shape[-2]
        # The photo is sheared, then turned, scaled and moved; sampling needs the inverse of that.
        scale, sine, cosine = between(uniform[:, 3], *self.scale), angle.sin(), angle.cos()
        a, b = (cosine - sine * shear.tan()) / scale, (cosine * shear.tan() + sine) / scale
        c, d = -sine / scale, cosine / scale
        return warp(pixels, matrices(a, b, c, d, -a * across - b * down, -c * across - d * down), self.padding)
