"""Photos of requests: decoded once in one pool, by the rules of training, before their row waits for the model.

In: bytes. Out: ``DecodedPhoto``. Knows nothing of PyTorch."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

from mixfit.data.photos.decode import ImageError, image_header
from mixfit.serve.problems import Problem


@dataclass(frozen=True, slots=True, eq=False)
class DecodedPhoto:
    """A photo as the model sees it, or why it cannot be read."""

    content: bytes = field(repr=False)
    """The file, which is named by its size in messages."""
    digest: bytes = field(repr=False)
    pixels: UInt8[np.ndarray, "..."] | None = field(repr=False)
    """As the model wants them; None if it cannot be read."""
    problem: str = ""
    """As in the status of a row; "" if it was read."""


def decode_photo(
    content: bytes, read: Callable[[bytes], UInt8[np.ndarray, "..."]], *, most_pixels: int, where: str
) -> DecodedPhoto:
    """Decode a photo; one that is damaged is no error, as its row is predicted without it.

    Args:
        read: gives the pixels, or raises ``ImageError``.
        most_pixels: of a photo, beyond the limits of ``read``.
        where: the place in the request, for messages.
    Raises:
        Problem: it has more pixels; nothing was decoded.
    """
    digest = hashlib.sha256(content).digest()
    try:
        header = image_header(content)
        if header.width * header.height > most_pixels:
            raise Problem(
                413,
                f"The photo has {header.width:,} x {header.height:,} pixels; at most {most_pixels:,} are read: "
                "send a smaller one.",
                where,
            )
        return DecodedPhoto(content, digest, read(content))
    except ImageError as error:
        return DecodedPhoto(content, digest, None, str(error))
