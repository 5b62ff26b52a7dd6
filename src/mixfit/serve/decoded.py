"""Decoded photos in place of files, as PyTorch models read them."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8

from mixfit.choices import Crop
from mixfit.data.photos.store import ImageFiles
from mixfit.serve.photos import DecodedPhoto


class DecodedPhotos(ImageFiles):
    """Photos that are decoded already, in place of files.

    Args:
        photos: each different one once.
        size, crop: as they were decoded.
    """

    full_chunks = False
    """A single photo must not take the time of four; its features then differ by rounding."""

    def __init__(self, photos: Sequence[DecodedPhoto], *, size: int, crop: Crop) -> None:
        super().__init__([photo.content for photo in photos], size=size, crop=crop, threads=1)
        self.decoded = tuple(photos)

    def read(
        self, indices: Int64[np.ndarray, " photos"]
    ) -> tuple[UInt8[torch.Tensor, "photos 3 size size"], Bool[torch.Tensor, " photos"]]:
        """See ``ImageFiles``."""
        pixels = np.zeros((len(indices), 3, self.size, self.size), dtype=np.uint8)
        ok = np.zeros(len(indices), dtype=np.bool_)
        for place, number in enumerate(indices.tolist()):
            photo = self.decoded[number]
            if photo.pixels is None:
                self._failures[number] = photo.problem
            else:
                pixels[place], ok[place] = photo.pixels, True
        return torch.from_numpy(pixels), torch.from_numpy(ok)
