"""Random changes of colour.

In: photos of some rows, and uniform numbers. Out: photos of the same size. Brightness, contrast, saturation and hue
together are one matrix and one offset for each photo, so all rows go through one multiplication."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from mixfit.data.pixels import Pixels, PixelTransform, between
from mixfit.errors import ConfigError

# Red, green, blue -> luma and two chroma axes (NTSC's YIQ); the chroma rows add up to 0, so that grey stays grey.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], dtype=torch.float64)
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)
# Parts of a colour matrix: the luma, the chroma, and the chroma turned by a quarter.
_LUMA = _FROM_YIQ[:, :1] @ _TO_YIQ[:1]
_CHROMA = _FROM_YIQ[:, 1:] @ _TO_YIQ[1:]
_TURNED = _FROM_YIQ[:, 1:] @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64) @ _TO_YIQ[1:]


def recolour(
    pixels: Pixels,
    *,
    brightness: Float64[Tensor, " rows"] | float = 1.0,
    contrast: Float64[Tensor, " rows"] | float = 1.0,
    saturation: Float64[Tensor, " rows"] | float = 1.0,
    hue: Float64[Tensor, " rows"] | float = 0.0,
) -> Pixels:
    """Change brightness, then contrast about the photo's mean grey, then saturation and hue about each pixel's grey.

    Factors of 1 and a hue of 0 change nothing; ``hue`` is in turns (0.5 gives the opposite colours).

    # NOTE[DIFF] Nothing is cut off at 0 and 255 between the steps, and hue turns the chroma at constant luma rather
    than through HSV, so that all is one matrix."""
    rows, device = len(pixels), pixels.device
    brightness, contrast, saturation, hue = (
        torch.as_tensor(value, dtype=torch.float64, device=device).expand(rows)[:, None, None]
        for value in (brightness, contrast, saturation, hue)
    )
    luma, chroma, turned = (part.to(device) for part in (_LUMA, _CHROMA, _TURNED))
    angle = 2 * math.pi * hue
    gain = (contrast * brightness)[..., None]
    matrix = luma + saturation * (angle.cos() * chroma + angle.sin() * turned)
    # In float64 the sum of whole numbers is exact, whatever order they are added in.
    means = pixels.sum((3, 4), dtype=torch.float64) / (pixels.shape[3] * pixels.shape[4])
    grey = (means * _TO_YIQ[0].to(device)).sum(2)
    offset = ((1 - contrast) * brightness)[..., 0] * grey
    scaled = (matrix[:, None] * gain).float()
    result = offset.float()[:, :, None, None, None].expand_as(pixels)
    for channel in range(3):
        result = result + scaled[..., channel][:, :, :, None, None] * pixels[:, :, channel : channel + 1]
    return result


class ColorJitter(PixelTransform):
    """Random brightness, contrast, saturation and hue, the same for all photos of a row.

    Args:
        brightness, contrast, saturation: factors are drawn from 1 - value to 1 + value.
        hue: in turns, up to this much either way; at most 0.5.
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
        """Recolour each row; columns of ``uniform``: brightness, contrast, saturation, hue."""
        return recolour(
            pixels,
            brightness=between(uniform[:, 0], 1 - self.brightness, 1 + self.brightness),
            contrast=between(uniform[:, 1], 1 - self.contrast, 1 + self.contrast),
            saturation=between(uniform[:, 2], 1 - self.saturation, 1 + self.saturation),
            hue=between(uniform[:, 3], -self.hue, self.hue),
        )
