"""Makers of photo files for the tests: through Pillow where it can write them, byte by byte where it cannot."""

import random
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

KINDS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def drawing(width: int = 48, height: int = 32) -> Image.Image:
    """Smooth, and different on every side."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray(np.stack([x * 255, y * 255, (1 - x * y) * 200], axis=-1).astype(np.uint8))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, pixels: bytes, *extra: bytes) -> bytes:
    """A PNG of the given raw samples; colour 0 grey, 2 RGB, 4 grey + alpha."""
    stride = len(pixels) // height
    rows = b"".join(b"\0" + pixels[row * stride : (row + 1) * stride] for row in range(height))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(width: int, height: int, photometric: int, bits: tuple[int, ...], sample_format: int, pixels: bytes) -> bytes:
    """An uncompressed little-endian TIFF of one strip."""
    extra = struct.pack(f"<{len(bits)}H", *bits)
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, len(bits), 8 if len(bits) > 2 else bits[0]),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, 8 + len(extra)),
        (277, 3, 1, len(bits)),
        (278, 4, 1, height),
        (279, 4, 1, len(pixels)),
        (339, 3, 1, sample_format),
    ]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + b"\0\0\0\0"
    start = 8 + len(extra) + len(pixels)
    return b"II*\0" + struct.pack("<I", start) + extra + pixels + directory


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Flip bits, more often in the header; or cut; or repeat a part."""
    changed = bytearray(data)
    match rng.randrange(4):
        case 0:
            return data[: rng.randrange(len(data))]
        case 1:
            at = rng.randrange(len(data))
            return data[:at] + data[max(0, at - rng.randrange(1, 64)) :]
        case 2:
            end = min(len(data), 200)
        case _:
            end = len(data)
    for _ in range(rng.randrange(1, 9)):
        changed[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(changed)
