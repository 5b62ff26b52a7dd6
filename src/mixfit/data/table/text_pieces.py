"""A large text table (CSV, TSV), read piece by piece, if it is well-formed.

In: a file, plain or compressed by gzip. Out: ``TextPieces``, which gives the cells of ``read_cells`` in frames of any
number of rows. The file is read twice: once to check all of it, once for its rows. What needs the whole file at once,
a stray quote, a blank line between rows, another encoding than UTF-8, is left to ``read_cells``."""

import codecs
import gzip
import io
import zlib
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from mixfit.data.columns.form import TextForm, said_missing
from mixfit.data.table.text import (
    BLOCK_BYTES,
    CHUNK_BYTES,
    QUOTE,
    SNIFFED_RECORDS,
    Header,
    convert_options,
    delimiting,
    has_blank_record,
    is_ascii_compatible,
    read_header,
    sniff_separator,
)
from mixfit.errors import DataError

_NOT_READABLE = (gzip.BadGzipFile, EOFError, zlib.error, OSError)
_BLANKS = b" \t\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPieces:
    """A well-formed text table in UTF-8."""

    path: Path
    header: Header
    separator: str
    encoding: str
    start: int
    """Bytes from the start of the file to the first record."""
    end: int
    """Bytes from the start of the file to the end of the last record."""
    quotes: bool
    """Whether any cell is quoted."""
    rows: int = 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The records in blocks, every column as text, "" as missing; columns are named "0", "1", ...

        Raises:
            pa.ArrowInvalid: a record is longer or shorter than the header.
        """
        names = [str(number) for number in range(len(self.header.names))]
        with _opened(self.path) as stream:
            part = io.BufferedReader(_Part(stream, self.start, self.end), CHUNK_BYTES)
            yield from pyarrow.csv.open_csv(
                pa.PythonFile(part),
                read_options=pyarrow.csv.ReadOptions(column_names=names, block_size=BLOCK_BYTES, use_threads=False),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=self.separator, newlines_in_values=self.quotes, ignore_empty_lines=False
                ),
                convert_options=convert_options(names),
            )


def text_pieces(
    path: Path,
    *,
    separator: str | None,
    encoding: str | None,
    learnt: TextForm,
    least_bytes: int,
    undecided: Collection[str],
) -> TextPieces | None:
    """Check a text table; None if it is small, or must be read whole.

    Args:
        separator, encoding: as asked for; None for unknown.
        learnt: how the table was written that a model was trained on.
        least_bytes: a smaller table, uncompressed, is read whole.
        undecided: columns whose way of writing numbers is learnt from the whole table: they must be plain numbers.
    """
    with suppress(*_NOT_READABLE, UnicodeDecodeError, DataError, pa.ArrowInvalid):
        found = _scanned(path, separator, encoding, learnt, least_bytes)
        if found is not None:
            rows = _count_rows(found, undecided)
            if rows is not None:
                return replace(found, rows=rows)
    return None


def _scanned(
    path: Path, separator: str | None, encoding: str | None, learnt: TextForm, least_bytes: int
) -> TextPieces | None:
    """The places of header and records, if the bytes are those of a well-formed table; without its number of rows.

    Raises:
        DataError, UnicodeDecodeError, or one of ``_NOT_READABLE``: it is not.
    """
    if encoding is not None and codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig"):
        return None
    if path.stat().st_size < least_bytes and not path.name.lower().endswith(".gz"):
        return None
    with _opened(path) as stream:
        head = stream.read(CHUNK_BYTES)
        mark = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
        first = head[mark : head.rfind(b"\n") + 1]
        if first.count(b"\n") <= SNIFFED_RECORDS:
            return None
        by_name = "\t" if path.name.lower().endswith((".tsv", ".tsv.gz")) else None
        separator = separator or by_name or sniff_separator(first, prefer=learnt.separator)
        header = read_header(first, separator, path)
        width, blanks = len(header.names), _BLANKS.replace(separator.encode(), b"")
        if width == 1:  # its blank lines are cells
            return None
        if first[header.size :].startswith(codecs.BOM_UTF8):  # pyarrow would drop it
            return None
        decoder, quotes = codecs.getincrementaldecoder("utf-8")(), _Quotes(separator)
        size, end, ascii_only, chunk = 0, None, True, head
        while chunk:
            if b"\0" in chunk:
                return None
            decoder.decode(chunk)
            ascii_only = ascii_only and chunk.isascii()
            if not quotes.add(chunk):
                return None
            last = len(chunk.rstrip(blanks))
            if last or end is None:
                ends = [place for place in (chunk.find(b"\n", last), chunk.find(b"\r", last)) if place >= 0]
                end = size + min(ends) if ends else None
            size += len(chunk)
            chunk = stream.read(CHUNK_BYTES)
        decoder.decode(b"", final=True)
    if size < least_bytes or not quotes.paired():
        return None
    if encoding is None:
        encoding = "utf-8-sig" if mark else "utf-8"
        if ascii_only and not mark and learnt.encoding and is_ascii_compatible(learnt.encoding):
            encoding = learnt.encoding
    return TextPieces(
        path=path,
        header=header,
        separator=separator,
        encoding=encoding,
        start=mark + header.size,
        end=size if end is None else end,
        quotes=quotes.count > 0,
    )


def _count_rows(table: TextPieces, undecided: Collection[str]) -> int | None:
    """The number of records; None if one is blank, or an undecided column is not plain numbers with a point.

    Raises:
        pa.ArrowInvalid: a record is longer or shorter than the header.
    """
    names = [name.strip() for name in table.header.names]
    open_ = [place for place, name in enumerate(names) if name in undecided]
    if open_ and table.separator != ",":  # points could part thousands
        return None
    rows = 0
    for batch in table.batches():
        if has_blank_record(pa.Table.from_batches([batch])):
            return None
        for place in open_:
            cells = pc.utf8_trim_whitespace(pc.drop_null(batch.column(place)))
            pc.cast(cells.filter(pa.array(~said_missing(cells))), pa.float64())  # raises for any other text
        rows += batch.num_rows
    return rows


class _Quotes:
    """Whether every quote opens a cell, closes a cell, or is half of a doubled quote, see ``read_cells``; chunk by
    chunk."""

    def __init__(self, separator: str) -> None:
        self.delimits, self.count = delimiting(ord(separator)), 0
        self.before, self.open_end = True, False
        """Whether the last byte so far delimits cells, and whether it is a quote that closes one."""

    def add(self, chunk: bytes) -> bool:
        """Look at the next bytes; False if a quote is out of place."""
        view = np.frombuffer(chunk, dtype=np.uint8)
        if self.open_end and not self.delimits[view[0]]:
            return False
        places = np.flatnonzero(view == QUOTE)
        opening, closing = places[self.count % 2 :: 2], places[(self.count + 1) % 2 :: 2]
        self.count += len(places)
        if len(opening) and opening[0] == 0:
            if not self.before:
                return False
            opening = opening[1:]
        self.open_end = bool(len(closing)) and int(closing[-1]) == len(view) - 1
        closing = closing[:-1] if self.open_end else closing
        self.before = bool(self.delimits[view[-1]])
        return bool(self.delimits[view[opening - 1]].all() and self.delimits[view[closing + 1]].all())

    def paired(self) -> bool:
        """Whether all that were opened are closed."""
        return self.count % 2 == 0


class _Part(io.RawIOBase):
    """The bytes of a stream from ``start`` to ``end``, both from its beginning."""

    def __init__(self, stream: io.BufferedIOBase, start: int, end: int) -> None:
        self.stream, self.left = stream, end - start
        stream.seek(start)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As for any raw stream."""
        view = memoryview(buffer).cast("B")
        data = self.stream.read(min(len(view), self.left))
        view[: len(data)] = data
        self.left -= len(data)
        return len(data)


def _opened(path: Path) -> io.BufferedIOBase:
    """The uncompressed bytes of a file."""
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")
