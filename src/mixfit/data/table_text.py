"""The cells of a delimited text file (CSV, TSV), each as the text that stands there.

In: the bytes of a file. Out: its encoding, separator, header and a pyarrow table of strings; an empty cell is missing.
Two readers give the same cells: pyarrow, fast, for well-formed files, and ``csv.reader``, which also takes stray quotes
and can name the lines that are wrong. Knows nothing of numbers, of roles of columns, or of pandas."""

import codecs
from dataclasses import dataclass
from pathlib import Path

from mixfit.errors import ConfigError, DataError

# UTF-32 comes first: its mark begins with the mark of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Of two separators that fit equally well, the one that is rarer in running text is right.
SEPARATORS = ("\t", "|", ";", ",")
SNIFFED_RECORDS = 200
CHUNK_BYTES = 1 << 22
# A record must fit into one block of pyarrow; a longer one is left to csv.reader.
BLOCK_BYTES = 1 << 23
QUOTE = ord('"')
LINES_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first record of the file that is not blank."""

    names: list[str]
    """The names as they stand there, neither stripped nor checked."""
    size: int
    """Bytes from the start of the file to the end of the header's line."""


def to_utf8(data: bytes, encoding: str | None, path: Path) -> tuple[bytes, str, bool]:
    """Give the text as UTF-8 without byte order mark, the name of its encoding, and whether that was guessed.

    Without ``encoding``: the byte order mark decides; else strict UTF-8 over the whole file; else cp1252 (latin-1 where
    even that has no character), which is a guess, since any bytes are valid there.

    Raises:
        ConfigError: there is no such encoding.
        DataError: the bytes are not valid in ``encoding``, or there are NUL characters.
    """
    guessed = False
    if encoding is None:
        encoding, guessed = _detect_encoding(data)
    try:
        if codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig"):
            data = data.decode(encoding).encode("utf-8")
        elif not _is_utf8(data):
            data.decode("utf-8")  # raises, with the position in the whole file
    except LookupError:
        raise ConfigError(
            f"--encoding: {encoding!r} is no text encoding; use for example utf-8, cp1252, utf-16."
        ) from None
    except UnicodeError as error:
        raise DataError(_not_decodable(path, data, encoding, error)) from None
    data = data.removeprefix(codecs.BOM_UTF8)
    if (position := data.find(b"\0")) >= 0:
        raise DataError(
            f"{path} has a NUL byte in line {data.count(b'\n', 0, position) + 1}: it is not a text table, "
            "or it is UTF-16 without a byte order mark (then try --encoding utf-16-le)."
        )
    return data, encoding, guessed
