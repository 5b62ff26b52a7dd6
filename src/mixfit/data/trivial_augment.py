"""TrivialAugment: one operation of random strength for each row (Müller and Hutter 2021, arXiv:2103.10158).

In: photos of some rows, and uniform numbers. Out: photos of the same size. Rows that drew operations of one kind go
through it together, each with its own strength."""

import math

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from mixfit.data.colour import recolour
from mixfit.data.geometry import matrices, warp
from mixfit.data.pixels import Pixels, PixelTransform

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "saturation",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
)
"""The wide space of the paper."""
_NUMBER = {name: number for number, name in enumerate(OPERATIONS)}
_STRENGTHS = 31


class TrivialAugment(PixelTransform):
    """One of 14 operations with one of 31 strengths, the same for all photos of a row.

    # NOTE[DIFF] Photos move by up to a seventh of their side, which is the paper's 32 pixels at 224, so that small
    photos are not pushed out of the frame.

    Args:
        p: probability that a row is changed.
    """

    draws = 3

    def __init__(self, p: float = 1.0) -> None:
        super().__init__(p)

    def change(self, pixels: Pixels, uniform: Float64[Tensor, "rows draws"]) -> Pixels:
        """Columns of ``uniform``: operation, strength, direction."""
        operation = (uniform[:, 0] * len(OPERATIONS)).long()
        strength = (uniform[:, 1] * _STRENGTHS).floor() / (_STRENGTHS - 1)
        signed = torch.where(uniform[:, 2] < 0.5, -strength, strength)
        return apply_operations(pixels, operation, strength, signed)


def apply_operations(
    pixels: Pixels,
    operation: Int64[Tensor, " rows"],
    strength: Float64[Tensor, " rows"],
    signed: Float64[Tensor, " rows"],
) -> Pixels:
    """Apply to each row its operation.

    Args:
        pixels: 0..255.
        operation: places in ``OPERATIONS``.
        strength: 0 to 1, for operations without direction.
        signed: -1 to 1, for the others.
    """
    from torchvision.transforms.v2 import functional as tv  # takes two seconds, and most trainings change no photo

    result = pixels.clone()

    def rows_with(first: str, last: str) -> Int64[Tensor, " chosen"]:
        return torch.nonzero((operation >= _NUMBER[first]) & (operation <= _NUMBER[last]))[:, 0]

    if len(rows := rows_with("shear_x", "rotate")):
        result[rows] = _moved(pixels[rows], operation[rows], signed[rows])
    if len(rows := rows_with("brightness", "contrast")):
        result[rows] = _recoloured(pixels[rows], operation[rows], signed[rows])
    if len(rows := rows_with("sharpness", "sharpness")):
        blurred = tv.adjust_sharpness(_as_uint8(pixels[rows]), 0.0).float()
        factor = (1 + 0.99 * signed[rows]).float()[:, None, None, None, None]
        result[rows] = blurred + factor * (pixels[rows] - blurred)
    if len(rows := rows_with("posterize", "posterize")):
        dropped_bits = (strength[rows] * 6).round().to(torch.uint8)  # 8 bits stay at strength 0, 2 at strength 1
        kept = (255 >> dropped_bits << dropped_bits)[:, None, None, None, None]
        result[rows] = (_as_uint8(pixels[rows]) & kept).float()
    if len(rows := rows_with("solarize", "solarize")):
        threshold = (255 * (1 - strength[rows])).float()[:, None, None, None, None]
        result[rows] = torch.where(pixels[rows] >= threshold, 255 - pixels[rows], pixels[rows])
    if len(rows := rows_with("auto_contrast", "auto_contrast")):
        result[rows] = tv.autocontrast(_as_uint8(pixels[rows])).float()
    if len(rows := rows_with("equalize", "equalize")):
        result[rows] = tv.equalize(_as_uint8(pixels[rows])).float()
    return result


def _moved(pixels: Pixels, operation: Tensor, signed: Tensor) -> Pixels:
    """Shear, translate or turn each row."""

    def where(name: str, value: Tensor) -> Tensor:
        return torch.where(operation == _NUMBER[name], value, torch.zeros_like(value))

    angle = where("rotate", signed * math.radians(135))
    matrix = matrices(
        angle.cos(),
        angle.sin() + where("shear_x", signed * 0.99),
        -angle.sin() + where("shear_y", signed * 0.99),
        angle.cos(),
        where("translate_x", signed * pixels.shape[-1] / 7),
        where("translate_y", signed * pixels.shape[-2] / 7),
    )
    return warp(pixels, matrix, "zeros")


def _recoloured(pixels: Pixels, operation: Tensor, signed: Tensor) -> Pixels:
    """Change brightness, saturation or contrast of each row."""

    def factor(name: str) -> Tensor:
        return torch.where(operation == _NUMBER[name], 1 + 0.99 * signed, torch.ones_like(signed))

    return recolour(
        pixels, brightness=factor("brightness"), saturation=factor("saturation"), contrast=factor("contrast")
    )


def _as_uint8(pixels: Pixels) -> Tensor:
    """torchvision's operations by value want whole numbers."""
    return pixels.round().clamp(0, 255).to(torch.uint8)
