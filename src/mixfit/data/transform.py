"""Transforms: functions of a whole batch, on the device of the batch.

A transform gets its randomness handed in, row by row (``RowRandom``), so that a row is changed in the same way
whatever batch it is in. Knows nothing of models: pixels are brought to the backbone's scale by the encoder."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from mixfit.data.batch import Batch, Inputs
from mixfit.data.random import RowRandom
from mixfit.errors import ConfigError


class Transform:
    """Base: changes nothing. ``train_only`` transforms are skipped when the loader is not for training."""

    train_only: bool = False

    def __call__(self, batch: Batch, random: RowRandom) -> Batch:
        """``(xb, yb)`` -> ``(xb, yb)``, new or the same; the given batch is never written to."""
        return batch


def require_plain(transform: Transform, xb: Inputs) -> None:
    """Refuse pixels that are already normalised or mixed.

    Raises:
        ConfigError: they are.
    """
    if xb.normalized or xb.mix is not None:
        raise ConfigError(
            f"{type(transform).__name__} must come before {'Normalize' if xb.normalized else 'MixUp and CutMix'}."
        )


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
        """Without the parts that are for training only."""
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
        """Flip left and right; batches without pixels pass through."""
        xb, yb = batch
        if xb.images is None:
            return batch
        require_plain(self, xb)
        flipped = random.uniform() < self.p
        images = torch.where(flipped[:, :, None, None, None], xb.images.flip(-1), xb.images)
        return replace(xb, images=images), yb
