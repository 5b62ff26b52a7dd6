"""Image augmentation: crops, affine maps, colour, erasing, TrivialAugment, and the presets."""

import math
from typing import Literal, assert_never

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from mixfit.choices import Augmentation
from mixfit.data.transforms.transform import (
    Pixels,
    PixelTransform,
    RandomHorizontalFlip,
    Transform,
    between,
    require_range,
)
from mixfit.errors import ConfigError

Padding = Literal["zeros", "border", "reflection"]
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
"""The wide augmentation space of the paper."""
_NUMBER = {name: number for number, name in enumerate(OPERATIONS)}
_STRENGTHS = 31
# Red, green, blue -> luma and two chroma axes (NTSC's YIQ); the chroma rows sum to 0, so that grey stays grey.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], dtype=torch.float64)
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)
# Parts of a colour matrix: the luma, the chroma, and the chroma rotated by 90 degrees.
_LUMA = _FROM_YIQ[:, :1] @ _TO_YIQ[:1]
_CHROMA = _FROM_YIQ[:, 1:] @ _TO_YIQ[1:]
_TURNED = _FROM_YIQ[:, 1:] @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64) @ _TO_YIQ[1:]


def augmentation(name: Augmentation) -> tuple[Transform, ...]:
    """The transforms of a preset, which suit everyday photos; all of them are for training only."""
    match name:
        case "none":
            return ()
        case "flip":
            return (RandomHorizontalFlip(),)
        case "standard":
            crop, turn = RandomResizedCrop(scale=(0.5, 1.0)), RandomAffine(degrees=8.0, p=0.5)
            return (RandomHorizontalFlip(), crop, turn, ColorJitter(), RandomErasing(p=0.1))
        case "trivial":
            return (RandomHorizontalFlip(), TrivialAugment())
        case _:
            assert_never(name)


class RandomResizedCrop(PixelTransform):
    """Crop a random rectangle and resize it to the size of the photo (Szegedy et al. 2014, arXiv:1409.4842).

    # NOTE[DIFF] A rectangle that does not fit is made narrower; the usual implementation redraws up to ten times.

    Args:
        scale: range of the cropped share of the area, in (0, 1].
        ratio: range of the aspect ratio (width / height) of the rectangle, relative to that of the photo.
        p: probability that a row is changed.
    Raises:
        ConfigError: a range is invalid.
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
        """Crop each row; columns of ``uniform``: area, aspect ratio, horizontal and vertical position."""
        area = between(uniform[:, 0], *self.scale)
        ratio = between(uniform[:, 1], math.log(self.ratio[0]), math.log(self.ratio[1])).exp()
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        x = between(uniform[:, 2], -0.5, 0.5) * (1 - width) * pixels.shape[-1]
        y = between(uniform[:, 3], -0.5, 0.5) * (1 - height) * pixels.shape[-2]
        zero = torch.zeros_like(width)
        return warp(pixels, matrices(width, zero, zero, height, x, y), "border")


class RandomAffine(PixelTransform):
    """Rotate, translate, scale and shear about the centre.

    Args:
        degrees: largest rotation in either direction.
        translate: largest translation in either direction, as shares of width and height.
        scale: range of the scale factor.
        shear: largest shear along x in either direction, in degrees.
        padding: how the area outside the photo is filled.
        p: probability that a row is changed.
    Raises:
        ConfigError: an angle or share is negative, or ``scale`` is not a range above 0.
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
        """Transform each row; columns of ``uniform``: angle, horizontal and vertical translation, scale, shear."""
        signed = 2 * uniform - 1
        angle, shear = torch.deg2rad(signed[:, 0] * self.degrees), torch.deg2rad(signed[:, 4] * self.shear)
        across = signed[:, 1] * self.translate[0] * pixels.shape[-1]
        down = signed[:, 2] * self.translate[1] * pixels.shape[-2]
        # The photo is sheared, then rotated, scaled and translated; sampling needs the inverse map.
        scale, sine, cosine = between(uniform[:, 3], *self.scale), angle.sin(), angle.cos()
        a, b = (cosine - sine * shear.tan()) / scale, (cosine * shear.tan() + sine) / scale
        c, d = -sine / scale, cosine / scale
        return warp(pixels, matrices(a, b, c, d, -a * across - b * down, -c * across - d * down), self.padding)


class ColorJitter(PixelTransform):
    """Random brightness, contrast, saturation and hue, the same for all photos of a row.

    Args:
        brightness, contrast, saturation: factors are drawn uniformly from [1 - value, 1 + value].
        hue: largest shift in either direction, as a fraction of a full turn; at most 0.5.
        p: probability that a row is changed.
    Raises:
        ConfigError: a value is outside [0, 1], or ``hue`` outside [0, 0.5].
    """

    draws = 4

    def __init__(
        self,
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.2,
        hue: float = 0.02,
        p: float = 1.0,
    ) -> None:
        super().__init__(p)
        if not (all(0 <= value <= 1 for value in (brightness, contrast, saturation)) and 0 <= hue <= 0.5):
            raise ConfigError(
                "brightness, contrast and saturation must be from 0 to 1 and hue from 0 to 0.5, "
                f"got {brightness}, {contrast}, {saturation} and {hue}."
            )
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    def change(self, pixels: Pixels, uniform: Float64[Tensor, "rows draws"]) -> Pixels:
        """Change the colours of each row; columns of ``uniform``: brightness, contrast, saturation, hue."""
        return recolour(
            pixels,
            brightness=between(uniform[:, 0], 1 - self.brightness, 1 + self.brightness),
            contrast=between(uniform[:, 1], 1 - self.contrast, 1 + self.contrast),
            saturation=between(uniform[:, 2], 1 - self.saturation, 1 + self.saturation),
            hue=between(uniform[:, 3], -self.hue, self.hue),
        )


class RandomErasing(PixelTransform):
    """Erase a random rectangle, the same for all photos of a row.

    Args:
        scale: range of the erased share of the area, in [0, 1].
        ratio: range of the aspect ratio (width / height) of the rectangle, relative to that of the photo.
        value: the grey level to fill with, 0..255.
        p: probability that a row is changed.
    Raises:
        ConfigError: a range or the value is invalid.
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
        """Erase in each row; columns of ``uniform``: area, aspect ratio, horizontal and vertical position."""
        area = between(uniform[:, 0], *self.scale)
        ratio = between(uniform[:, 1], math.log(self.ratio[0]), math.log(self.ratio[1])).exp()
        box = boxes(area, ratio, uniform[:, 2:], *pixels.shape[-2:])
        return pixels.masked_fill(box[:, None, None], self.value)


class TrivialAugment(PixelTransform):
    """One of 14 operations at one of 31 strengths, the same for all photos of a row.

    # NOTE[DIFF] Photos are translated by up to a seventh of their side (the paper's 32 pixels at size 224), so that
    small photos are not moved out of the frame.

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
    """Apply one operation to each row.

    Args:
        pixels: 0..255.
        operation: indices into ``OPERATIONS``.
        strength: 0 to 1, for operations without direction.
        signed: -1 to 1, for operations with a direction.
    """
    from torchvision.transforms.v2 import functional as tv  # the import takes two seconds, and most runs do not need it

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
    """Shear, translate or rotate each row."""

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
    """Convert for those operations of torchvision that need integer pixels."""
    return pixels.round().clamp(0, 255).to(torch.uint8)


def warp(pixels: Pixels, matrix: Float[Tensor, "rows 2 3"], padding: Padding) -> Pixels:
    """Resample: the pixel at ``(x, y)``, relative to the centre, is read from ``matrix @ (x, y, 1)`` of the old photo.

    ``padding`` fills the outside with black, the nearest border pixel, or the mirrored photo."""
    height, width = pixels.shape[-2:]
    m = matrix.to(pixels.dtype)[:, None, None]
    x = torch.arange(width, device=pixels.device, dtype=pixels.dtype) - (width - 1) / 2
    y = (torch.arange(height, device=pixels.device, dtype=pixels.dtype) - (height - 1) / 2)[:, None]
    # Written out, because the rounding of a matrix product may depend on the number of rows.
    source_x = m[..., 0, 0] * x + m[..., 0, 1] * y + m[..., 0, 2]
    source_y = m[..., 1, 0] * x + m[..., 1, 1] * y + m[..., 1, 2]
    grid = torch.stack([source_x * (2 / width), source_y * (2 / height)], dim=-1)
    # The photos of a row share one grid, like the channels of one image.
    sampled = F.grid_sample(pixels.flatten(1, 2), grid, mode="bilinear", padding_mode=padding, align_corners=False)
    return sampled.reshape(pixels.shape)


def matrices(a: Tensor, b: Tensor, c: Tensor, d: Tensor, x: Tensor, y: Tensor) -> Float64[Tensor, "rows 2 3"]:
    """One matrix ``[[a, b, x], [c, d, y]]`` for each row, from the entries ``(rows,)``."""
    return torch.stack([a, b, x, c, d, y], dim=1).reshape(-1, 2, 3)


def recolour(
    pixels: Pixels,
    *,
    brightness: Float64[Tensor, " rows"] | float = 1.0,
    contrast: Float64[Tensor, " rows"] | float = 1.0,
    saturation: Float64[Tensor, " rows"] | float = 1.0,
    hue: Float64[Tensor, " rows"] | float = 0.0,
) -> Pixels:
    """Change brightness, then contrast about the photo's mean grey, then saturation and hue about each pixel's grey.

    Factors of 1 and a hue of 0 change nothing; ``hue`` is a fraction of a turn (0.5 gives complementary colours).

    # NOTE[DIFF] Values are not clipped to 0..255 between the steps, and hue rotates the chroma at constant luma instead
    of using HSV, so that all steps form one matrix."""
    rows, device = len(pixels), pixels.device
    brightness, contrast, saturation, hue = (
        torch.as_tensor(value, dtype=torch.float64, device=device).expand(rows)[:, None, None]
        for value in (brightness, contrast, saturation, hue)
    )
    luma, chroma, turned = (part.to(device) for part in (_LUMA, _CHROMA, _TURNED))
    angle = 2 * math.pi * hue
    gain = (contrast * brightness)[..., None]
    matrix = luma + saturation * (angle.cos() * chroma + angle.sin() * turned)
    # In float64, sums of integers are exact in any order.
    means = pixels.sum((3, 4), dtype=torch.float64) / (pixels.shape[3] * pixels.shape[4])
    grey = (means * _TO_YIQ[0].to(device)).sum(2)
    offset = ((1 - contrast) * brightness)[..., 0] * grey
    scaled = (matrix[:, None] * gain).float()
    result = offset.float()[:, :, None, None, None].expand_as(pixels)
    for channel in range(3):
        result = result + scaled[..., channel][:, :, :, None, None] * pixels[:, :, channel : channel + 1]
    return result


def boxes(area: Tensor, ratio: Tensor, place: Tensor, height: int, width: int) -> Tensor:
    """Rectangles inside the photo, as bool masks ``(rows, height, width)``.

    Args:
        area: share of the photo's area ``(rows,)``, up to rounding to whole pixels; smaller if it does not fit.
        ratio: aspect ratio (width / height) relative to that of the photo ``(rows,)``.
        place: uniform numbers in [0, 1) ``(rows, 2)``: horizontal and vertical position.
    """
    across = _between_ends((area * ratio).sqrt(), place[:, 0], width)
    down = _between_ends((area / ratio).sqrt(), place[:, 1], height)
    return across[:, None, :] & down[:, :, None]


def _between_ends(share: Tensor, place: Tensor, size: int) -> Tensor:
    """The pixels along one axis that the rectangle covers, bool ``(rows, size)``."""
    length = (share.clamp(max=1) * size).round()
    start = (place * (size - length + 1)).floor()
    at = torch.arange(size, device=share.device)
    return (at >= start[:, None]) & (at < (start + length)[:, None])
