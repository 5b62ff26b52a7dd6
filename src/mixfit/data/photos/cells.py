"""Photos stored in the table itself: the bytes of an image file, or those bytes as base64 text.

In: cells. Out: the bytes of the photo, whether a column holds such cells, and names for messages.
Does not decode pixels, see ``decode.py``. A ``data:`` URL is refused like every other URL."""

import base64
import binascii

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from mixfit.data.photos.archive import PhotoSource
from mixfit.data.photos.decode import ImageError

BASE64_STARTS = ("/9j/", "iVBORw0KGgo", "UklGR", "R0lGOD", "SUkqA", "TU0AK", "Qk")
"""First characters of the base64 text of a JPEG, PNG, WEBP, GIF, TIFF or BMP file."""
SHORTEST_BASE64 = 40
"""Characters; no photo is smaller, and a shorter text with such a beginning is a name."""

_SAMPLE = 200  # cells; enough to estimate a share
_FORMATS = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "GIF": b"GIF8", "BMP": b"BM"}
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def photo_format(data: bytes) -> str | None:
    """The image format of some bytes, judged by the first of them, or None.

    >>> photo_format(b"GIF89a..."), photo_format(b"a,b,c")
    ('GIF', None)
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:4] in _TIFF_STARTS:
        return "TIFF"
    return next((name for name, start in _FORMATS.items() if data.startswith(start)), None)


def is_base64_photo(text: str) -> bool:
    """Whether a text begins like a photo in base64; the rest may still be damaged.

    >>> is_base64_photo("/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwM"), is_base64_photo("/9j/a.jpg")
    (True, False)
    """
    if len(text) < SHORTEST_BASE64 or not text.startswith(BASE64_STARTS):
        return False
    try:
        return photo_format(base64.b64decode(text[:32], validate=True)) is not None
    except binascii.Error:
        return False


def decode_base64(text: str) -> bytes:
    """Decode a base64 text; spaces and line ends in it are ignored.

    Raises:
        ImageError: the text is truncated or contains invalid characters.
    """
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ImageError("is damaged or truncated base64 text") from None


def is_bytes_column(column: pd.Series) -> bool:
    """Whether all non-missing cells are bytes."""
    if isinstance(column.dtype, pd.ArrowDtype):
        return "binary" in str(column.dtype.pyarrow_dtype) and not pa.types.is_nested(column.dtype.pyarrow_dtype)
    if not pd.api.types.is_object_dtype(column.dtype):
        return False
    kinds = {type(cell) for cell in column[column.notna().to_numpy(dtype=bool)]}
    return bool(kinds) and kinds <= {bytes, bytearray}


def bytes_columns(frame: pd.DataFrame) -> list[str]:
    """Names of the columns whose cells are bytes."""
    return [name for name in frame.columns if is_bytes_column(frame[name])]


def holds_contents(column: pd.Series) -> bool:
    """Whether every non-missing cell is a photo, not the name of one, so that no images folder is needed."""
    if is_bytes_column(column):
        return True
    cells = column.dropna()
    return bool(len(cells)) and all(isinstance(cell, str) and is_base64_photo(cell.strip()) for cell in cells)


def content_share(column: pd.Series) -> tuple[float, str]:
    """Share of the cells that begin like a photo, and their kind: "bytes of JPEG files", "base64 text of PNG files"."""
    texts = isinstance(column.dtype, pd.StringDtype)
    contents = not texts and is_bytes_column(column)
    if not (texts or contents or pd.api.types.is_string_dtype(column.dtype) or column.dtype == object):
        return 0.0, ""
    if texts and (pc.max(pc.utf8_length(pa.array(column, pa.large_string()))).as_py() or 0) < SHORTEST_BASE64:
        return 0.0, ""
    cells = column.dropna()
    cells = cells.iloc[:: max(1, len(cells) // _SAMPLE)]
    if contents:
        formats, kind = [photo_format(bytes(cell)) for cell in cells], "bytes of {} files"
    else:
        starts = [str(cell).split(";", 1)[0].strip() for cell in cells.tolist()]
        photos = [photo_format(base64.b64decode(text[:32])) for text in starts if is_base64_photo(text)]
        formats, kind = [*photos, *[None] * (len(starts) - len(photos))], "base64 text of {} files"
    known = [name for name in formats if name is not None]
    if not known:
        return 0.0, ""
    names, counts = np.unique(known, return_counts=True)
    return len(known) / len(formats), kind.format(names[counts.argmax()])


def no_photos_reason(kind: str, share: float) -> str:
    """Why a column of containers or bytes cannot be used, given the type of its cells and ``content_share``."""
    if share:
        return f"only {share:.0%} of the cells are photos, the others are other {kind}"
    return f"cells are of type {kind}, not plain values{' or photos' if 'b' in kind[:6] else ''}"


def bytes_of_struct(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The photos of a column in the format of Hugging Face datasets, a struct of ``bytes`` and ``path``."""
    return pc.struct_field(column, "bytes") if is_photo_struct(column.type) else column


def is_photo_struct(kind: pa.DataType) -> bool:
    """Whether cells are photos as ``bytes_of_struct`` reads them."""
    return pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}


def shown_cell(cell: object) -> str:
    """A cell as text for messages, without the contents of photos."""
    if isinstance(cell, bytes | bytearray):
        return f"{len(cell):,} bytes"
    text = str(cell)
    if is_base64_photo(text.strip()):
        return f"{text[:12]}... ({len(text):,} characters of base64)"
    # Half a surrogate pair cannot be written to a file.
    return text[:200].encode("utf-8", "backslashreplace").decode("utf-8")


def photo_name(source: PhotoSource) -> str:
    """How to name a photo in a message."""
    return f"the photo of {len(source):,} bytes" if isinstance(source, bytes) else source.name
