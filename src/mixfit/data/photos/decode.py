"""Decode one photo: training, prediction and serving all use this module to turn a file into pixels.

In: a path or the bytes of a JPEG, PNG, WEBP, BMP, GIF or TIFF file, recognised by content, never by name.
Out: uint8 RGB pixels, or an ``ImageError`` that states in one clause what is wrong with the file.
Keeps no global state (no Pillow setting is changed, only libtiff's messages are disabled), so it can run in many
threads.
Knows nothing of tables, tensors or models.

How the pixels of each format are converted to RGB:

- The EXIF orientation is applied; damaged EXIF is ignored. ICC profiles are not applied.
- Transparent pixels (alpha, or a transparent colour or palette entry) are composited over white.
- CMYK and YCCK are converted without a profile; LAB becomes sRGB; grey and 1-bit become equal R, G and B.
- 16-bit grey is divided by 257 (12-bit TIFF by 4095 / 255); 16-bit colour keeps its high byte, as Pillow reads it.
- Floats and 32-bit integers are scaled by the range of their values: floats within 0..1 are multiplied by 255;
  otherwise 0..255 is kept, 0..65,535 is divided by 257, and any other range is stretched to 0..255; NaN is black.
- Of several frames or pages, the first is read."""

import ctypes
import errno
import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import assert_never

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, _imaging
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base as ExifTag
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from mixfit.choices import Crop
from mixfit.data.photos.archive import ArchivedPhoto, ArchiveError, PhotoSource
from mixfit.errors import ConfigError, DataError

MAX_PIXELS = 89_478_485
"""Largest number of pixels of a photo: a quarter of a gigabyte of RGB; above it, Pillow warns of a bomb."""
MAX_SIDE = 30_000
"""Largest side of a photo in pixels: only panoramas come close to it."""
MAX_BYTES = 200_000_000
"""Largest file that is opened."""
MAX_SCANS = 100
"""Largest number of scans of a progressive JPEG: normal files have about ten, and each is a pass over all pixels."""

PAD_GREY = 128
_JPEG_MARKER = re.compile(b"\xff[^\x00\x01\xd0-\xd8\xff]")  # of those with a length; \xff\x00 is part of the pixels
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
_GREY_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N")


class ImageError(DataError):
    """A photo that cannot be used; the message states what is wrong, without the location ("is truncated")."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The properties of a photo that are known before pixels are decoded."""

    width: int
    """Pixels, after the EXIF orientation."""
    height: int
    """Pixels, after the EXIF orientation."""
    format: str
    """JPEG, PNG, WEBP, BMP, GIF or TIFF."""
    mode: str
    """Pillow's name of the pixel format: "RGB", "L", "I;16", ..."""


def read_image(
    source: PhotoSource, *, size: int | None = None, crop: Crop = "squash", follow_links: bool = True
) -> UInt8[np.ndarray, "height width 3"]:
    """Decode one photo to RGB, upright, and make it square if a size is given.

    Args:
        source: a file, the bytes of one, or an entry of an archive; all give the same pixels.
        size: side of the square result in pixels; None keeps the photo's own width and height.
        crop: how a photo is made square; no effect without ``size``. Resizing is bicubic with antialiasing.
        follow_links: False refuses a file that is a symbolic link.
    Returns:
        uint8 ``(height, width, 3)``, values 0..255; a new array that the caller owns.
    Raises:
        ImageError: the file is missing, empty, too large, truncated, damaged or not a photo.
        ConfigError: ``size`` is below 1."""
    if size is not None and size < 1:
        raise ConfigError(f"The image size must be at least 1 pixel, got {size}.")
    with _problems_as_image_errors():
        photo = _upright(source, size, follow_links=follow_links)
        # Grey is resized as one channel instead of three equal ones, in a third of the time.
        return np.array((photo if size is None else _to_square(photo, size, crop)).convert("RGB"))


def read_for_size(source: PhotoSource, size: int, *, follow_links: bool = True) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels that ``read_image`` makes square for this size, with the photo's own shape: RGB, upright, and of a
    large JPEG no more than are needed.

    Raises:
        ImageError: as for ``read_image``."""
    with _problems_as_image_errors():
        return np.array(_upright(source, size, follow_links=follow_links).convert("RGB"))


def _upright(source: PhotoSource, size: int | None, *, follow_links: bool) -> Image.Image:
    """A photo in mode L or RGB, upright; of a JPEG at least twice the size remains."""
    data = _contents(source, follow_links=follow_links)
    image = _open(BytesIO(data))
    if isinstance(image, JpegImageFile) and (scans := _count_scans(data)) > MAX_SCANS:
        raise ImageError(f"has {scans} scans; at most {MAX_SCANS} scans are read")
    if size is not None and isinstance(image, JpegImageFile):
        # libjpeg can decode at 1/2, 1/4 or 1/8 of the size in a fraction of the time. At least twice the target
        # size must remain, so that the quality is determined by the bicubic filter.
        with _decoder_errors():
            image.draft(None, (2 * size, 2 * size))
    with _decoder_errors():
        image.load()
    _parse_exif(image)
    with suppress(Exception):  # the photo is rotated first; only rewriting damaged EXIF afterwards can fail
        ImageOps.exif_transpose(image, in_place=True)
    return _to_grey_or_rgb(image)


def image_header(source: PhotoSource) -> ImageHeader:
    """Read only the header of a photo, with the same checks of format and size as ``read_image``.

    Raises:
        ImageError: the file is missing, empty, too large, not a photo, or its header is damaged."""
    with _problems_as_image_errors():
        if not isinstance(source, Path):
            return _header(BytesIO(_contents(source)))
        with _opened(source) as file:
            return _header(file)


def check_file(path: Path) -> None:
    """Refuse, using ``stat`` only, what cannot be a photo or must not be opened: opening a FIFO would block forever.

    Raises:
        ImageError: the file does not exist, is not a regular file, is empty or too large, or is not readable."""
    with _problems_as_image_errors():
        if "\0" in str(path):
            raise ImageError("has a NUL character in its name")
        _check_status(path.stat())
        if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
            raise PermissionError(errno.EACCES, "permission denied")


def _check_status(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ImageError("is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("is not a regular file")
    _check_bytes(status.st_size)


@contextmanager
def _opened(path: Path, *, follow_links: bool = True) -> Iterator[BufferedReader]:
    """Open a file and check it again: it may have been replaced since its path was checked."""
    check_file(path)
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    # Without O_NONBLOCK, opening a FIFO would block.
    flags |= getattr(os, "O_NONBLOCK", 0) | (0 if follow_links else getattr(os, "O_NOFOLLOW", 0))
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow_links:
            raise ImageError("has become a symbolic link since its name was looked up") from error
        raise
    try:
        _check_status(os.fstat(descriptor))
    except ImageError:
        os.close(descriptor)
        raise
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        yield file


def _header(file: BytesIO | BufferedReader) -> ImageHeader:
    image = _open(file)
    width, height = image.size
    # Pillow swaps the sides of a TIFF itself. It would decode a whole PNG to look for EXIF after the pixels.
    if not isinstance(image, TiffImageFile) and "exif" in image.info:
        _parse_exif(image)
        with _decoder_errors():
            orientation = image.getexif().get(ExifTag.Orientation)
        if orientation in (5, 6, 7, 8):
            width, height = height, width
    return ImageHeader(width, height, str(image.format), image.mode)


@contextmanager
def _problems_as_image_errors() -> Iterator[None]:
    """Convert system errors about a file, and lack of memory, to an ``ImageError``."""
    try:
        yield
    except ArchiveError as error:
        raise ImageError(str(error)) from error
    except (OSError, MemoryError, UnicodeError) as error:
        raise ImageError(_problem(error)) from error


@contextmanager
def _decoder_errors() -> Iterator[None]:
    """Convert any exception of Pillow about the content of a file to an ``ImageError``; wrap only calls of Pillow.

    Decoders raise nearly every built-in exception for damaged files, hence the broad clause; if warnings are errors,
    Pillow's warnings are handled here, too."""
    try:
        yield
    except Exception as error:
        raise ImageError(_problem(error)) from error


def _problem(error: Exception) -> str:
    """State what is wrong in one clause, without Pillow's own text, which may contain memory addresses."""
    text = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return _file_problem(error)
    if isinstance(error, MemoryError):
        return "does not fit into the memory that is free"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"has too many pixels; at most {MAX_PIXELS:,} pixels are read"
    if "MAX_TEXT" in text:
        return "has a text or colour profile that unpacks to more than 1 MB"
    if isinstance(error, (EOFError, struct.error)) or "truncated" in text.lower():
        return "is truncated"
    return "is damaged or truncated"


def _file_problem(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return "is missing"
        case errno.EACCES | errno.EPERM:
            return "cannot be read (permission denied)"
        case errno.ENAMETOOLONG:
            return "has a name that is too long"
        case errno.ELOOP:
            return "is a symbolic link to itself"
        case _:
            return f"cannot be read ({error.strerror})"


def _check_bytes(count: int) -> None:
    if count == 0:
        raise ImageError("is empty (0 bytes)")
    if count > MAX_BYTES:
        raise ImageError(f"has {count:,} bytes; files of at most {MAX_BYTES:,} bytes are read")


def _contents(source: PhotoSource, *, follow_links: bool = True) -> bytes:
    if isinstance(source, bytes):
        _check_bytes(len(source))
        return source
    if isinstance(source, ArchivedPhoto):
        _check_bytes(len(source))
        return source.read(MAX_BYTES)
    # Read into memory, because Pillow may map the file: a file truncated while mapped would crash the process.
    with _opened(source, follow_links=follow_links) as file:
        # One byte more than expected detects a file that grows. Reading MAX_BYTES would allocate that much memory.
        data = file.read(os.fstat(file.fileno()).st_size + 1)
    _check_bytes(len(data))
    return data


def _count_scans(data: bytes) -> int:
    """Number of scans of a JPEG, or 0 if a quick check shows that there are not too many.

    Bytes that look like a scan inside another segment, or in a video after the photo, are not counted."""
    if data.count(bytes((0xFF, _JPEG_SCAN))) <= MAX_SCANS:
        return 0
    scans, place = 0, 2
    while (marker := _JPEG_MARKER.search(data, place)) and data[marker.end() - 1] != _JPEG_END:
        scans += data[marker.end() - 1] == _JPEG_SCAN
        place = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return scans


class _Jpeg(JpegImageFile):
    """A JPEG (or the first frame of an MPO) without reading its resolution, which would warn about damaged EXIF."""

    def _read_dpi_from_exif(self) -> None:
        pass


def _plugin(prefix: bytes) -> type[ImageFile]:
    """Choose the decoder by the first bytes, among the allowed formats only."""
    if prefix.startswith(b"\xff\xd8\xff"):
        return _Jpeg
    if prefix.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if prefix.startswith(b"RIFF") and prefix[8:12] == b"WEBP":
        return WebPImageFile
    if prefix.startswith((b"GIF87a", b"GIF89a")):
        return GifImageFile
    if prefix.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return TiffImageFile
    if prefix.startswith(b"BM"):
        return BmpImageFile
    if prefix.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        raise ImageError("is a text file (HTML, XML or SVG), not a photo")
    raise ImageError("is not a JPEG, PNG, WEBP, BMP, GIF or TIFF photo")


def _open(file: BytesIO | BufferedReader) -> ImageFile:
    """Read the header and check the size, without decoding pixels.

    The plugin is called directly because ``Image.open`` warns about large images, and suppressing warnings is not
    thread-safe."""
    plugin = _plugin(file.read(64))
    file.seek(0)
    if plugin is TiffImageFile:
        _silence_libtiff()
    with _decoder_errors():
        image = plugin(file)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"has {width} x {height} pixels; at most {MAX_PIXELS:,} pixels are read")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"has {width} x {height} pixels; sides of at most {MAX_SIDE:,} pixels are read")
    return image


@cache
def _silence_libtiff() -> None:
    """Disable, once per process, the messages that libtiff writes to standard error about damaged files.

    The ``ImageError`` states the problem anyway. The handlers of libtiff are set through Pillow's library, which is
    linked with it; if that is not possible, the messages remain."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(library, name)
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)


def _parse_exif(image: Image.Image) -> None:
    """Parse the EXIF once; if it is damaged, Pillow keeps the tags before the damage for later calls."""
    with suppress(Exception):
        image.getexif()


def _to_grey_or_rgb(image: Image.Image) -> Image.Image:
    """Convert any pixel format to mode L or RGB, as described in the module docstring."""
    if image.mode in _GREY_16_BIT:
        return _grey_from_16_bit(image)
    if image.mode in ("I", "F"):
        return _grey_from_any_range(image)
    with _decoder_errors():  # transparency and palette of the file may be damaged
        if image.has_transparency_data:
            rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        else:
            return image if image.mode in ("L", "RGB") else image.convert("RGB")
    return _over_white(rgba)


def _grey_from_16_bit(image: Image.Image) -> Image.Image:
    """Scale with a lookup table of all 65,536 levels; ``convert("RGB")`` would clip every level above 255 to white."""
    top, white_is_zero = 65_535, False
    if isinstance(image, TiffImageFile):
        with _decoder_errors():
            top = 4_095 if image.tag_v2.get(BITSPERSAMPLE) == (12,) else top
            white_is_zero = image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0
    levels = np.minimum(np.arange(65_536), top)
    grey = ((levels * 255 + top // 2) // top).astype(np.uint8)
    if white_is_zero:
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and 0 <= transparent < len(grey):
        grey[transparent] = 255
    return Image.fromarray(grey[np.asarray(image)])


def _grey_from_any_range(image: Image.Image) -> Image.Image:
    """Scale 32-bit integers or floats by the range of their values, because the file does not define a range."""
    values = np.array(image, dtype=np.float32)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low >= 0 and high <= 1 and image.mode == "F":
        values *= 255
    elif low >= 0 and high <= 65_535:
        values /= 1 if high <= 255 else 257
    else:
        values = values.astype(np.float64)  # the span of two large float32 may overflow
        values -= low
        values *= 255 / ((high - low) or 1.0)
    return Image.fromarray(np.rint(np.nan_to_num(values.clip(0, 255), nan=0.0)).astype(np.uint8))


def _to_square(photo: Image.Image, size: int, crop: Crop) -> Image.Image:
    width, height = photo.size
    if width == height == size:
        return photo
    match crop:
        case "squash":
            return photo.resize((size, size), Image.Resampling.BICUBIC)
        case "center":
            # Cropped before resizing: a thin strip that is resized first could have gigapixels.
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
            return photo.resize((size, size), Image.Resampling.BICUBIC, box=box)
        case "pad":
            longer = max(width, height)
            inner = max(1, round(width * size / longer)), max(1, round(height * size / longer))
            square = Image.new(photo.mode, (size, size), PAD_GREY if photo.mode == "L" else (PAD_GREY,) * 3)
            inside = photo.resize(inner, Image.Resampling.BICUBIC)
            square.paste(inside, ((size - inner[0]) // 2, (size - inner[1]) // 2))
            return square
        case _:
            assert_never(crop)


def _over_white(rgba: Image.Image) -> Image.Image:
    if rgba.getchannel("A").getextrema() == (255, 255):
        return rgba.convert("RGB")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")
