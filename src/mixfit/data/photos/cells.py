"""Photos stored in the table itself: the bytes of an image file, those bytes as base64 text, or what Python holds.

In: cells. Out: the bytes of the photo, whether a column holds such cells, and names for messages.
Does not decode pixels, see ``decode.py``. A ``data:`` URL is refused like every other URL."""

import base64
import binascii
import io
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from mixfit.data.photos.archive import PhotoSource
from mixfit.data.photos.decode import ImageError

BASE64_STARTS = ("/9j/", "iVBORw0KGgo", "UklGR", "R0lGOD", "SUkqA", "TU0AK", "Qk")
"""First characters of the base64 text of a JPEG, PNG, WEBP, GIF, TIFF or BMP file."""
SHORTEST_BASE64 = 40
"""Characters; no photo is smaller, and a shorter text with such a beginning is a name."""

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_PHOTO_KEYS = {"bytes", "path"}
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
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


def plain_photos(frame: pd.DataFrame) -> pd.DataFrame:
    """The photos that Python objects hold as bytes of image files or as names; all other cells as they are.

    PIL images and arrays of pixels, uint8 ``(height, width, 3 or 4)``, become PNG files, paths become text, and the
    dictionaries of Hugging Face datasets their ``bytes`` or ``path``; also those in lists. A frame without any is
    returned unchanged."""
    changed = {}
    for place, kind in enumerate(frame.dtypes):
        if pd.api.types.is_object_dtype(kind):
            cells = list(frame.iloc[:, place])
            plain = [_plain_photo(cell) for cell in cells]
            if any(one is not cell for one, cell in zip(plain, cells, strict=True)):
                changed[place] = pd.Series(plain, index=frame.index, dtype=object)
    if not changed:
        return frame
    found = frame.copy(deep=False)
    for place, column in changed.items():
        texts = all(isinstance(cell, str) for cell in column[column.notna()])
        found.isetitem(place, column.astype("str") if texts else column)
    return found


def _plain_photo(cell: object) -> object:
    """One cell; the same object if it is nothing of that kind."""
    match cell:
        case str():
            return cell
        case Image.Image():
            content = io.BytesIO()
            (cell if cell.mode in _PNG_MODES else cell.convert("RGB")).save(content, "PNG")
            return content.getvalue()
        case bytearray() | memoryview():
            return bytes(cell)
        case os.PathLike():
            return os.fspath(cell)
        case dict() if set(cell) == _PHOTO_KEYS:
            return cell["path"] if cell["bytes"] is None else cell["bytes"]
        case np.ndarray() if cell.dtype == np.uint8 and cell.ndim == 3 and cell.shape[2] in (3, 4) and cell.size:
            return _plain_photo(Image.fromarray(cell))
        case list() | tuple() | np.ndarray(dtype=np.dtypes.ObjectDType(), ndim=1):
            items = [_plain_photo(one) for one in cell]
            return items if any(one is not other for one, other in zip(items, cell, strict=True)) else cell
        case _:
            return cell


def is_bytes_column(column: pd.Series) -> bool:
    """Whether all non-missing cells are bytes, or lists of bytes."""
    if isinstance(column.dtype, pd.ArrowDtype):
        return _is_binary(column.dtype.pyarrow_dtype)
    if not pd.api.types.is_object_dtype(column.dtype):
        return False
    cells = column[column.notna().to_numpy(dtype=bool)]
    kinds = {type(cell) for cell in cells}
    if kinds & {list, tuple, np.ndarray}:
        items = [one for cell in cells for one in (cell if isinstance(cell, list | tuple | np.ndarray) else [cell])]
        kinds = {type(one) for one in items if one is not None}
    return bool(kinds) and kinds <= {bytes, bytearray}


def _is_binary(kind: pa.DataType) -> bool:
    """Whether cells are bytes, or lists of bytes."""
    if any(is_list(kind) for is_list in _LISTS):
        kind = kind.value_type
    return "binary" in str(kind) and not pa.types.is_nested(kind)


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
        listed = any(isinstance(cell, list | tuple | np.ndarray) for cell in cells)
        items = [one for cell in cells for one in cell if one is not None] if listed else list(cells)
        formats, kind = [photo_format(bytes(one)) for one in items], "bytes of {} files"
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
    """The photos of a column in the format of Hugging Face datasets: structs of ``bytes`` and ``path``, or lists."""
    kind = column.type
    if any(is_list(kind) for is_list in _LISTS) and is_photo_struct(kind.value_type):
        cells = column.to_pylist()
        contents = [None if cell is None else [one["bytes"] for one in cell if one is not None] for cell in cells]
        return pa.chunked_array([pa.array(contents, pa.list_(pa.large_binary()))])
    return pc.struct_field(column, "bytes") if is_photo_struct(kind) else column


def lists_of_bytes(column: pa.ChunkedArray) -> list[list[bytes] | None] | None:
    """The cells of a column of lists of bytes, missing items dropped; None for any other column."""
    if not pa.types.is_nested(column.type) or not _is_binary(column.type):
        return None
    cells = column.to_pylist()
    return [None if cell is None else [one for one in cell if one is not None] for cell in cells]


def is_photo_struct(kind: pa.DataType) -> bool:
    """Whether cells are photos as ``bytes_of_struct`` reads them."""
    return pa.types.is_struct(kind) and {field.name for field in kind} == _PHOTO_KEYS


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
