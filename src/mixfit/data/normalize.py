"""Normalize: uint8 pixels -> float32 at the scale of a network.

The models of ``nn`` scale pixels themselves and need no such transform; it is for networks that do not."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from mixfit.data.batch import Batch
from mixfit.data.random import RowRandom
from mixfit.data.transform import Transform
from mixfit.errors import ConfigError


class Normalize(Transform):
    """``(pixel / 255 - mean) / std`` per channel, as float32; at training and at prediction.

    The batch is marked ``normalized``: the models of ``nn`` then leave its pixels as they are, so nothing is scaled
    twice. Batches without pixels pass through.

    Args:
        mean, std: of red, green and blue, for pixels in [0, 1].
    Raises:
        ConfigError: ``mean`` or ``std`` has not three numbers, or a ``std`` is not above 0; when called, the batch is
            normalised already.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
            raise ConfigError(f"mean and std must be three numbers each, std above 0, got {mean} and {std}.")
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, batch: Batch, random: RowRandom) -> Batch:
        """Scale all photos; draws no random numbers."""
        xb, yb = batch
        if xb.images is None:
            return batch
        if xb.normalized:
            raise ConfigError("These pixels are normalised already: use Normalize once.")
        images = xb.images
        unit = 255.0 if images.dtype == torch.uint8 else 1.0
        # One multiplication and one addition: (x / unit - mean) / std.
        factor = torch.tensor([1 / (unit * std) for std in self.std], device=images.device)[:, None, None]
        shift = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)], device=images.device)
        # From uint8 the conversion is a copy already, which may be changed in place.
        scaled = images.float().mul_(factor) if images.dtype == torch.uint8 else images.mul(factor)
        return replace(xb, images=scaled.add_(shift[:, None, None]), normalized=True), yb
