"""Damages photos in thousands of ways and reads each. Run: python tests/faults/fuzz_photos.py CASES

In a process of its own with little memory, so that a decoder that takes too much of it is found out. Prints one JSON
object: for each kind of file how many of the damaged ones were read, and how many were refused for which reason."""

import json
import random
import resource
import sys
from collections import Counter

import numpy as np
from photo_files import KINDS, damaged, drawing, encoded, exif
from PIL import Image

from mixfit.data.photos.decode import ImageError, image_header, read_image

MEMORY = 4_000_000_000
OPTIONS = {
    **{kind: {} for kind in KINDS},
    "progressive JPEG": {"progressive": True},
    "compressed TIFF": {"compression": "tiff_lzw"},
}


def pictures() -> list[Image.Image]:
    """Smooth colours, noise in grey, and a palette with transparency."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 24), dtype=np.uint8)
    return [drawing(), Image.fromarray(noise), drawing(64, 64).quantize(32)]


def read_damaged(kind: str, cases: int) -> Counter[str]:
    """What came of each case; anything but pixels or an ``ImageError`` ends this process."""
    outcomes: Counter[str] = Counter()
    for number, picture in enumerate(pictures()):
        drawn = picture.convert("RGB") if kind.endswith(("JPEG", "WEBP")) else picture
        data = encoded(drawn, kind.split()[-1], exif=exif(6), **OPTIONS[kind])
        rng = random.Random(f"{kind} {number}")
        for _ in range(cases):
            sample = damaged(data, rng)
            try:
                image_header(sample)
                pixels = read_image(sample, size=16)
            except ImageError as error:
                outcomes[str(error)] += 1
            else:
                assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)
                outcomes["read"] += 1
    return outcomes


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print(json.dumps({kind: read_damaged(kind, int(sys.argv[1])) for kind in OPTIONS}))
