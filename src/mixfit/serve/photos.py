"""Photos of requests: decoded once in one pool, by the rules of training, before their row waits for the model.

In: bytes. Out: ``DecodedPhoto``, and ``DecodedPhotos``, which stands for the files of a table."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8

from mixfit.choices import Crop
from mixfit.data.photos.decode import ImageError, image_header, read_image
from mixfit.data.photos.store import ImageFiles
from mixfit.serve.problems import Problem


@dataclass(frozen=True, slots=True, eq=False)
class DecodedPhoto:
    """A photo as the model sees it, or why it cannot be read."""

    content: bytes = field(repr=False)
    """The file, which is named by its size in messages."""
    digest: bytes = field(repr=False)
    pixels: UInt8[np.ndarray, "3 size size"] | None = field(repr=False)
    problem: str = ""
    """As in the status of a row; "" if it was read."""


def decode_photo(content: bytes, *, size: int, crop: Crop, most_pixels: int, where: str) -> DecodedPhoto:
    """Decode a photo; one that is damaged is no error, as its row is predicted without it.

    Args:
        most_pixels: of a photo, beyond the limits of ``read_image``.
        where: the place in the request, for messages.
    Raises:
        Problem: it has more pixels; nothing was decoded.
    """
    digest = hashlib.sha256(content).digest()
    try:
        header = image_header(content)
    except ImageError as error:
        return DecodedPhoto(content, digest, None, str(error))
    if header.width * header.height > most_pixels:
        raise Problem(
            413,
            f"The photo has {header.width:,} x {header.height:,} pixels; at most {most_pixels:,} are read: "
            "send a smaller one.",
            where,
        )
    try:
        pixels = read_image(content, size=size, crop=crop)
    except ImageError as error:
        return DecodedPhoto(content, digest, None, str(error))
    return DecodedPhoto(content, digest, np.ascontiguousarray(pixels.transpose(2, 0, 1)))


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
