"""Transforms: functions of a whole batch, on its device; the base class for pixel transforms, and normalisation."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mixfit.data.batch import Batch, Inputs
from mixfit.errors import ConfigError
from mixfit.seeding import RowRandom

Pixels = Float[Tensor, "rows photos 3 height width"]
"""float32, 0..255."""


class Transform:
    """Base class; changes nothing. ``train_only`` transforms are skipped if the loader is not for training."""

    train_only: bool = False

    def __call__(self, batch: Batch, random: RowRandom) -> Batch:
        """``(xb, yb)`` -> ``(xb, yb)``, a new batch or the same one; the input is never modified in place."""
        return batch


class Compose(Transform):
    """Several transforms, one after the other."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = tuple(transforms)

    def __call__(self, batch: Batch, random: RowRandom) -> Batch:
        """Apply all of them."""
        for transform in self.transforms:
            batch = transform(batch, random)
        return batch

    def for_prediction(self) -> "Compose":
        """The same without the transforms that are for training only."""
        return Compose([transform for transform in self.transforms if not transform.train_only])


class RandomHorizontalFlip(Transform):
    """Mirror all photos of a row with probability ``p``.

    Raises:
        ConfigError: ``p`` is outside [0, 1]; when called, the batch is already normalised or mixed.
    """

    train_only = True

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ConfigError(f"p must be between 0 and 1, got {p}.")
        self.p = p

    def __call__(self, batch: Batch, random: RowRandom) -> Batch:
        """Flip left and right; batches without pixels are returned unchanged."""
        xb, yb = batch
        if xb.images is None:
            return batch
        require_plain(self, xb)
        flipped = random.uniform() < self.p
        images = torch.where(flipped[:, :, None, None, None], xb.images.flip(-1), xb.images)
        return replace(xb, images=images), yb


class Normalize(Transform):
    """``(pixel / 255 - mean) / std`` per channel, as float32; in training and in prediction.

    The batch is marked ``normalized``, so that the models of ``nn`` do not scale the pixels again. Batches without
    pixels are returned unchanged.

    Args:
        mean, std: of red, green and blue, for pixels in [0, 1].
    Raises:
        ConfigError: ``mean`` or ``std`` does not have three numbers, or a ``std`` is not above 0; when called, the
            batch is already normalised.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
            raise ConfigError(f"mean and std must be three numbers each, std above 0, got {mean} and {std}.")
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, batch: Batch, random: RowRandom) -> Batch:
        """Scale all photos; uses no random numbers."""
        xb, yb = batch
        if xb.images is None:
            return batch
        if xb.normalized:
            raise ConfigError("The pixels are already normalised: use Normalize only once.")
        images = xb.images
        unit = 255.0 if images.dtype == torch.uint8 else 1.0
        # One multiplication and one addition: (x / unit - mean) / std.
        factor = torch.tensor([1 / (unit * std) for std in self.std], device=images.device)[:, None, None]
        shift = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)], device=images.device)
        # The conversion from uint8 makes a copy, which may be changed in place.
        scaled = images.float().mul_(factor) if images.dtype == torch.uint8 else images.mul(factor)
        return replace(xb, images=scaled.add_(shift[:, None, None]), normalized=True), yb


class PixelTransform(Transform):
    """Changes the photos of a row with probability ``p``; all photos of a row are changed in the same way.

    The pixels keep their type (uint8, or float32 in [0, 1]) and size. Masked places are not changed, and batches
    without pixels (with features, or without photos) are returned unchanged. The same number of random numbers is drawn
    for every row, so that the result for a row does not depend on the other rows of its batch.

    Args:
        p: probability that a row is changed.
    Raises:
        ConfigError: ``p`` is outside [0, 1]; when called, the batch is already normalised or mixed.
    """

    train_only = True
    draws: int
    """How many uniform random numbers ``change`` needs per row."""

    def __init__(self, p: float) -> None:
        if not 0 <= p <= 1:
            raise ConfigError(f"p must be between 0 and 1, got {p}.")
        self.p = p

    @abstractmethod
    def change(self, pixels: Pixels, uniform: Float64[Tensor, "rows draws"]) -> Pixels:
        """New photos of rows, given ``draws`` uniform numbers in [0, 1) per row; values may lie outside 0..255."""

    def __call__(self, batch: Batch, random: RowRandom) -> Batch:
        """Change a random selection of the rows."""
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
            after = after.round()  # conversion alone would truncate
        after = (after.clamp(0, 255) / unit).to(before.dtype)
        images = xb.images.clone()
        images[rows] = torch.where(xb.image_mask[rows][:, :, None, None, None], after, before)
        return replace(xb, images=images), yb


def require_plain(transform: Transform, xb: Inputs) -> None:
    """Check that the pixels are neither normalised nor mixed.

    Raises:
        ConfigError: they are.
    """
    if xb.normalized or xb.mix is not None:
        raise ConfigError(
            f"{type(transform).__name__} must come before {'Normalize' if xb.normalized else 'MixUp and CutMix'}."
        )


def require_range(name: str, values: tuple[float, float]) -> None:
    """Check that ``0 <= low <= high < inf``.

    Raises:
        ConfigError: it is not so.
    """
    low, high = values
    if not 0 <= low <= high < float("inf"):
        raise ConfigError(f"{name} must be two increasing numbers of at least 0, got {values}.")


def between(uniform: Tensor, low: float, high: float) -> Tensor:
    """Uniform numbers in [0, 1) -> uniform numbers in [low, high)."""
    return low + (high - low) * uniform
