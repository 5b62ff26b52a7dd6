"""The cells of a delimited text file (CSV, TSV), as text.

In: the bytes of a file. Out: its encoding, separator, header and a pyarrow table of strings; an empty cell is missing.
Two readers give the same cells: pyarrow, fast, for well-formed files, and ``csv.reader``, which also accepts stray
quotes and reports the numbers of invalid lines. Knows nothing of numbers, column roles or pandas."""

import codecs
import csv
import io
import itertools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from mixfit.errors import ConfigError, DataError

# UTF-32 comes first: its mark begins with the mark of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# In order of preference: of two separators that fit equally well, the one that is rarer in prose is chosen.
SEPARATORS = ("\t", "|", ";", ",")
SNIFFED_RECORDS = 200
CHUNK_BYTES = 1 << 22
# A record must fit into one block of pyarrow; longer records are read by csv.reader.
BLOCK_BYTES = 1 << 23
QUOTE = ord('"')
LINES_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first non-blank record of the file."""

    names: list[str]
    """The names exactly as written, neither stripped nor checked."""
    size: int
    """Bytes from the start of the file to the end of the header line."""
    lines: int
    """Lines of the file up to the end of the header."""


def to_utf8(data: bytes, encoding: str | None, path: Path, *, fallback: str | None = None) -> tuple[bytes, str, bool]:
    """Return the text as UTF-8 without byte order mark, the name of its encoding, and whether that was guessed.

    Without ``encoding``, the byte order mark decides; otherwise UTF-8 if the whole file is valid UTF-8; otherwise
    cp1252 (or latin-1, if the bytes are not valid in cp1252), which is a guess.

    Args:
        fallback: the encoding of an earlier table of the same kind, used instead of that guess, and instead of UTF-8
            for plain ASCII.
    Raises:
        ConfigError: the encoding does not exist.
        DataError: the bytes are not valid in ``encoding``, or there are NUL characters.
    """
    guessed = False
    if encoding is None:
        encoding, guessed = _detect_encoding(data)
        if fallback is not None and _may_be(data, fallback, unsure=guessed) and _is_valid(data, fallback):
            encoding, guessed = fallback, False
    try:
        if codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig"):
            data = data.decode(encoding).encode("utf-8")
        elif not _is_utf8(data):
            data.decode("utf-8")  # raises, with the position in the whole file
    except LookupError:
        raise ConfigError(
            f"--encoding: {encoding!r} is not a text encoding; use for example utf-8, cp1252 or utf-16."
        ) from None
    except UnicodeError as error:
        raise DataError(_not_decodable(path, data, encoding, error)) from None
    data = data.removeprefix(codecs.BOM_UTF8)
    if (position := data.find(b"\0")) >= 0:
        raise DataError(
            f"{path} has a NUL byte in line {_line_of(data, position)}: it is not a text file, "
            "or it is UTF-16 without a byte order mark (then use --encoding utf-16-le)."
        )
    return data, encoding, guessed


def sniff_separator(data: bytes, *, prefer: str | None = None) -> str:
    """The separator for which most of the first records have as many cells as the header; a comma for one column.

    Args:
        prefer: chosen if it gives all of the first records as many cells as the header.
    """
    best, best_score = ",", (0.0, 0)
    for separator in dict.fromkeys([*filter(None, [prefer]), *SEPARATORS]):
        widths: list[int] = []
        with suppress(csv.Error):
            for record in itertools.islice(csv.reader(_lines(data), delimiter=separator), SNIFFED_RECORDS):
                if not _is_blank(record):
                    widths.append(len(record))
        if not widths or widths[0] < 2:
            continue
        score = (widths.count(widths[0]) / len(widths), widths[0])
        if separator == prefer and score[0] == 1:
            return separator
        if score > best_score:
            best, best_score = separator, score
    return best


def read_header(data: bytes, separator: str, path: Path) -> Header:
    """Read the first non-blank record; ``data`` is UTF-8 and has one.

    Raises:
        DataError: a quote in it is not closed.
    """
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in _lines(data):
            taken.append(line)
            yield line

    reader = csv.reader(lines(), delimiter=separator, strict=True)
    before = 0
    try:
        for record in reader:
            if taken[-1].strip():
                size = sum(len(line.encode()) for line in taken)
                return Header(names=record, size=size, lines=reader.line_num)
            before = reader.line_num
    except csv.Error as error:
        raise _quote_error(path, before + 1, reader.line_num, error) from None
    raise DataError(f"{path} is empty; a header and at least 1 data row are needed.")


def read_cells(data: bytes, header: Header, separator: str, path: Path) -> pa.Table:
    """Read the records below the header, every column as text, "" as missing; columns are named "0", "1", ...

    Blank lines at the end are ignored. In a table of one column, a blank line elsewhere is a missing cell.

    Raises:
        DataError: a record is longer or shorter than the header, or a quote is not closed.
    """
    width = len(header.names)
    end = _end_of_records(data, separator, width)
    body = data[header.size : max(end, header.size)]
    # pyarrow would treat U+FEFF at the start of the first cell as a byte order mark.
    if body and not body.startswith(codecs.BOM_UTF8) and _has_only_paired_quotes(data, ord(separator)):
        # Records with another number of cells, or longer than a block, are read by csv.reader, which reports them.
        with suppress(pa.ArrowInvalid):
            table = _read_fast(body, width, separator, quotes=b'"' in data)
            # pyarrow reads a blank line as a record of missing cells; only csv.reader can tell it from ",,,".
            if width == 1 or not has_blank_record(table):
                return table
    return _read_exactly(body, width, separator, path, lines_above=header.lines)


def _detect_encoding(data: bytes) -> tuple[str, bool]:
    for mark, encoding in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return encoding, False
    if _is_utf8(data):
        return "utf-8", False
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1", True
    return "cp1252", True


def _may_be(data: bytes, encoding: str, *, unsure: bool) -> bool:
    """Whether the encoding of an earlier table should be tried: where none of this one shows, or where plain ASCII is
    the same in it; one of two or four bytes a character only where there are NUL bytes without a mark."""
    if data.startswith(tuple(mark for mark, _ in BYTE_ORDER_MARKS)):
        return False
    if is_ascii_compatible(encoding):
        return unsure or (data.isascii() and b"\0" not in data)
    return b"\0" in data[:CHUNK_BYTES]


def is_ascii_compatible(encoding: str) -> bool:
    """Whether plain ASCII is the same in an encoding."""
    signs = bytes(range(1, 128))
    return _is_valid(signs, encoding) and signs.decode(encoding) == signs.decode("ascii")


def _is_valid(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except (LookupError, UnicodeError):
        return False
    return True


def _is_utf8(data: bytes) -> bool:
    """Check in pieces, so that a large file is not held in memory twice."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(data), CHUNK_BYTES):
            decoder.decode(data[start : start + CHUNK_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _not_decodable(path: Path, data: bytes, encoding: str, error: UnicodeError) -> str:
    place = ""
    if isinstance(error, UnicodeDecodeError):
        place = f": byte 0x{data[error.start]:02x} in line {_line_of(data, error.start)}"
    other = "utf-8" if codecs.lookup(encoding).name == "cp1252" else "cp1252"
    return f"{path} is not valid {encoding}{place}; use --encoding {other}, or omit --encoding."


def _line_of(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def _lines(data: bytes) -> Iterator[str]:
    """Lines with their original line ends, which the csv module needs to keep line breaks within cells."""
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="")


def _is_blank(record: list[str]) -> bool:
    return not record or (len(record) == 1 and not record[0].strip())


def _end_of_records(data: bytes, separator: str, width: int) -> int:
    """Where the last non-blank line ends; in a table of one column, a line of spaces is a cell."""
    blanks = b"\r\n" if width == 1 else b" \t\r\n".replace(separator.encode(), b"")
    last = len(data.rstrip(blanks))
    line_ends = [end for end in (data.find(b"\n", last), data.find(b"\r", last)) if end >= 0]
    return min(line_ends, default=len(data))


def _has_only_paired_quotes(data: bytes, separator: int) -> bool:
    """True if every quote opens a cell, closes a cell, or is half of a doubled quote within a quoted cell.

    Numbered from 0, even quotes open and odd quotes close; a doubled quote closes and opens again. So even quotes must
    follow a separator, a line end or a closing quote, and odd quotes must precede one of these.
    """
    view, delimits = np.frombuffer(data, dtype=np.uint8), delimiting(separator)
    count = 0
    for start in range(0, len(view), CHUNK_BYTES):
        quotes = np.flatnonzero(view[start : start + CHUNK_BYTES] == QUOTE) + start
        opening, closing = quotes[count % 2 :: 2], quotes[(count + 1) % 2 :: 2]
        count += len(quotes)
        opening, closing = opening[opening > 0], closing[closing < len(view) - 1]
        if not (delimits[view[opening - 1]].all() and delimits[view[closing + 1]].all()):
            return False
    return count % 2 == 0


def delimiting(separator: int) -> np.ndarray:
    """Which bytes may stand before a quote that opens a cell, or after one that closes it; bool ``(256,)``."""
    found = np.zeros(256, dtype=bool)
    found[[QUOTE, separator, ord("\n"), ord("\r")]] = True
    return found


def _read_fast(body: bytes, width: int, separator: str, *, quotes: bool) -> pa.Table:
    names = [str(number) for number in range(width)]
    return pyarrow.csv.read_csv(
        pa.BufferReader(body),
        read_options=pyarrow.csv.ReadOptions(column_names=names, block_size=BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=separator, newlines_in_values=quotes, ignore_empty_lines=False
        ),
        convert_options=convert_options(names),
    )


def convert_options(names: list[str]) -> pyarrow.csv.ConvertOptions:
    """Every column as text, "" as missing; the bytes are known to be UTF-8."""
    return pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.large_string()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
        check_utf8=False,
    )


def has_blank_record(table: pa.Table) -> bool:
    """Whether all cells of a record are missing."""
    blank = table.column(0).is_null()
    for column in table.columns[1:]:
        if not pc.any(blank).as_py():
            return False
        blank = pc.and_(blank, column.is_null())
    return bool(pc.any(blank).as_py())


def _read_exactly(body: bytes, width: int, separator: str, path: Path, *, lines_above: int) -> pa.Table:
    """As ``_read_fast``, but with ``csv.reader``: slower, strict about quotes, and with the line of every record."""
    reader = csv.reader(_lines(body), delimiter=separator, strict=True)
    records: list[list[str]] = []
    wrong: list[tuple[int, int]] = []
    before = lines_above
    try:
        for record in reader:
            if len(record) == width:
                records.append(record)
            elif width == 1 and not record:
                records.append([""])
            else:
                wrong.append((before + 1, 0 if _is_blank(record) else len(record)))
            before = lines_above + reader.line_num
    except csv.Error as error:
        raise _quote_error(path, before + 1, lines_above + reader.line_num, error) from None
    if wrong:
        raise _ragged_error(path, wrong, len(records) + len(wrong), width, separator)
    columns = zip(*records, strict=True) if records else [()] * width
    arrays = [pa.array([cell or None for cell in column], pa.large_string()) for column in columns]
    return pa.table(arrays, names=[str(number) for number in range(width)])


def _ragged_error(path: Path, wrong: list[tuple[int, int]], records: int, width: int, separator: str) -> DataError:
    shown = ", ".join(f"line {line} {f'has {cells}' if cells else 'is blank'}" for line, cells in wrong[:LINES_SHOWN])
    more = ", ..." if len(wrong) > LINES_SHOWN else ""
    return DataError(
        f"{path}: {len(wrong)} of {records} rows do not have {width} cells like the header: {shown}{more}. "
        f"Put cells that contain {separator!r} in quotes, or set the correct separator with --sep."
    )


def _quote_error(path: Path, first: int, last: int, error: csv.Error) -> DataError:
    if "expected after" in str(error):
        return DataError(
            f"{path}: in lines {first} to {last}, text follows a closing quote; close every quoted cell, "
            "and double the quotes within a cell."
        )
    too_long = f" (or a cell has more than {csv.field_size_limit()} characters)" if "limit" in str(error) else ""
    return DataError(
        f"{path}: the quote opened in the row of line {first} is not closed{too_long}; "
        "close it, and double the quotes within a cell."
    )
