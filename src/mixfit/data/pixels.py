"""What all transforms of pixels share: which rows change, number types, and what must stay as it is.

In: a batch with pixels. Out: the same batch with new pixels. Knows nothing of what the change is."""

from abc import abstractmethod
from dataclasses import replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mixfit.data.batch import Batch
from mixfit.data.random import RowRandom
from mixfit.data.transform import Transform, require_plain
from mixfit.errors import ConfigError

Pixels = Float[Tensor, "rows photos 3 height width"]
"""float32, 0..255."""


class PixelTransform(Transform):
    """Changes the photos of a row with probability ``p``, all photos of a row alike.

    The pixels keep their type (uint8, or float32 in [0, 1]) and size. Masked places are not touched, and batches
    without pixels (features, or a table alone) pass through. The numbers drawn for a row are equally many for every
    row and batch, so that a row comes out the same whatever its neighbours are.

    Args:
        p: probability that a row is changed.
    Raises:
        ConfigError: ``p`` is outside [0, 1]; when called, the batch is already normalised or mixed.
    """

    train_only = True
    draws: int
    """Uniform numbers that ``change`` needs for a row."""

    def __init__(self, p: float) -> None:
        if not 0 <= p <= 1:
            raise ConfigError(f"p must be between 0 and 1, got {p}.")
        self.p = p

    @abstractmethod
    def change(self, pixels: Pixels, uniform: Float64[Tensor, "rows draws"]) -> Pixels:
        """New photos of some rows, given ``draws`` uniform numbers in [0, 1) for each; values may leave 0..255."""

    def __call__(self, batch: Batch, random: RowRandom) -> Batch:
        """Change the rows that the generator chooses."""
        xb, yb = batch
        if xb.images is None or xb.image_mask is None:
            return batch
        require_plain(self, xb)
        uniform = random.uniform(1 + self.draws)
        rows = torch.nonzero((uniform[:, 0] < self.p) & xb.image_mask.any(1))[:, 0]
        if not len(rows):
            return batch
        before = xb.images[rows]
        unit = 1 if before.dtype == torch.uint8 else 255
        after = self.change(before.float() * unit, uniform[rows, 1:])
        if before.dtype == torch.uint8:
            after = after.round()  # conversion alone would cut off
        after = (after.clamp(0, 255) / unit).to(before.dtype)
        images = xb.images.clone()
        images[rows] = torch.where(xb.image_mask[rows][:, :, None, None, None], after, before)
        return replace(xb, images=images), yb


def between(uniform: Tensor, low: float, high: float) -> Tensor:
    """Uniform numbers in [0, 1) -> uniform numbers in [low, high)."""
    return low + (high - low) * uniform


def require_range(name: str, values: tuple[float, float]) -> None:
    """Refuse a pair that is not ``0 <= low <= high < inf``.

    Raises:
        ConfigError: it is not.
    """
    low, high = values
    if not 0 <= low <= high < float("inf"):
        raise ConfigError(f"{name} must be two rising numbers from 0 on, got {values}.")
