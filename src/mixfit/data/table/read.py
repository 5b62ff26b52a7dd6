"""Reading a table: CSV, TSV, Parquet, Feather or JSON Lines -> DataFrame, with one sentence when it cannot be used.

In: a file. Out: its format and a DataFrame, rows numbered from 0, no cell interpreted: a text file gives columns of
text, where "NA", "007", "7.0" and "1.234,5" stay as they are; the typed formats keep their types. An empty text is a
missing cell in all of them. Knows nothing of roles, targets, photos or splits."""

import codecs
import gzip
import json
import stat
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet

from mixfit.config import SEPARATORS, TextConfig
from mixfit.data.columns.cells import Table
from mixfit.data.columns.form import TextForm, Vote, decimal_text
from mixfit.data.photos.cells import bytes_of_struct, lists_of_bytes
from mixfit.data.table.nested import array_of, is_list_of_plain, kept, lists_of_text
from mixfit.data.table.text import read_cells, read_header, sniff_separator, to_utf8
from mixfit.errors import ConfigError, DataError, did_you_mean
from mixfit.files import read_file, shown

TableKind = Literal["csv", "parquet", "feather", "jsonl"]

KINDS: dict[str, TableKind] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".csv.gz": "csv",
    ".tsv.gz": "csv",
    ".txt.gz": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".feather": "feather",
    ".arrow": "feather",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
SEPARATOR_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe", " ": "space"}
MAX_NAME_LENGTH = 200
UNNAMED_INDEX = "unnamed_0"
"""The name given to a first column without one: the row numbers that ``DataFrame.to_csv`` writes."""
PARQUET_INDEX = "__index_level_0__"
"""The name under which ``DataFrame.to_parquet`` keeps an index without a name."""
UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises of a file that it cannot read; the last one of names that are no text."""
_MOST_SAVED_BYTES, _MOST_SAVED_ROWS = 2**31, 20_000_000
LARGEST_EXACT = 2**53
"""Beyond this, float64 no longer holds every integer."""
_LARGEST_POWER = 22  # of ten that float64 holds exactly
EXACT_DIGITS = 15
"""So many decimal digits float64 always gives back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFormat:
    """How a table is stored; for a text table None means "find out", for the others that there is no such thing."""

    kind: TableKind
    encoding: str | None
    """Name of the text encoding, as Python knows it."""
    separator: str | None
    """The one character between cells."""
    decimal: str | None
    """The sign before a fraction, "." or ",": as it was asked for, or as ``settled`` found it."""
    thousands: str | None = None
    """The sign that parts groups of three digits, "." or ",", None if there is none."""
    guessed: bool = False
    """True if nothing in the file speaks for the encoding: it is not UTF-8 and has no byte order mark."""
    notes: tuple[str, ...] = ()
    """What could not be told about numbers, with the flag that tells it; to be shown to the user."""

    def form(self, config: TextConfig) -> TextForm:
        """What is kept of it for later tables."""
        if self.kind != "csv":
            return TextForm(encoding=self.encoding)
        return TextForm(encoding=self.encoding, separator=self.separator, decimal=config.decimal)

    def describe(self) -> str:
        """Say the format in a few words.

        >>> TableFormat(kind="csv", encoding="utf-8", separator=";", decimal=",", thousands=".").describe()
        'utf-8, semicolon, decimal comma, thousands point'
        """
        if self.kind != "csv":
            return self.kind
        encoding = f"{self.encoding or 'any encoding'}{' (guessed)' if self.guessed else ''}"
        separator = SEPARATOR_NAMES.get(self.separator, repr(self.separator)) if self.separator else "any separator"
        decimal = ["decimal comma"] if self.decimal == "," else []
        thousands = {".": ["thousands point"], ",": ["thousands comma"]}.get(self.thousands or "", [])
        return ", ".join([encoding, separator, *decimal, *thousands])


def read_as_configured(
    path: Path, config: TextConfig, learnt: TextForm | None = None, *, least: int = 1
) -> tuple[Table, TableFormat]:
    """Find out the format and read the table in one pass over the file.

    Args:
        learnt: how the table was written that a model was trained on; another separator than that is only looked for
            where it does not fit, and another encoding than UTF-8 only where no mark in the file says it.
        least: rows that there must be.
    Raises: as ``detect_format`` and ``read_table``.
    """
    asked = asked_format(path, config)
    if asked.kind == "csv":
        cells, found = _read_text(path, asked, learnt or TextForm())
    else:
        cells, found = _read_typed(path, asked), asked
    return Table(to_frame(cells, path, rows=least), found.form(config)), found


def written_otherwise(now: TextForm, then: TextForm, asked: TextConfig) -> str:
    """One sentence on a later text table with another separator or encoding than an earlier one; empty where both are
    the same, not known, or asked for.

    >>> written_otherwise(TextForm(separator=";"), TextForm(separator=","), TextConfig())
    'the table is separated by semicolons, and was separated by commas in training: if that is wrong, say --sep'
    """
    found, flags = [], []
    if asked.sep is None and now.separator and then.separator and now.separator != then.separator:
        found.append([f"separated by {_several(sign)}" for sign in (now.separator, then.separator)])
        flags.append("--sep")
    if asked.encoding is None and now.encoding and then.encoding:
        names = [_encoding_name(one) for one in (now.encoding, then.encoding)]
        if names[0] != names[1]:
            found.append([f"encoded as {name}" for name in names])
            flags.append("--encoding")
    if not found:
        return ""
    is_now, was = (" and ".join(said) for said in zip(*found, strict=True))
    return f"the table is {is_now}, and was {was} in training: if that is wrong, say {' or '.join(flags)}"


def _several(separator: str) -> str:
    name = SEPARATOR_NAMES.get(separator)
    return repr(separator) if name is None else f"{name}s"


def _encoding_name(encoding: str) -> str:
    return codecs.lookup(encoding).name.removesuffix("-sig")


def detect_format(
    path: Path, *, separator: str | None = None, decimal: str | None = None, encoding: str | None = None
) -> TableFormat:
    """Find out how a table is stored: the kind by the file's extension, the rest from the whole of a text file.

    A ``separator`` (one character, or a word like "tab"), ``decimal`` ("." or ",") or ``encoding`` that is named is not
    questioned.

    Raises:
        ConfigError: unknown extension or encoding, an impossible separator or decimal sign, or one for a typed format.
        DataError: the file is missing, no file, or a text table that cannot be read.
    """
    config = TextConfig(sep=separator, decimal=decimal, encoding=encoding)
    asked = asked_format(path, config)
    if asked.kind != "csv":
        return asked
    cells, found = _read_text(path, asked, TextForm())
    return settled(found, Table(to_frame(cells, path, rows=0), found.form(config)))


def settled(found: TableFormat, table: Table) -> TableFormat:
    """The format with the signs in the numbers of a text table, and a note where they cannot be told.

    A column speaks for one sign only if nearly all its cells are numbers that way and fewer are the other way: "12,5"
    and "1.234.567" for the comma, "12.5" and "1,234,567" for the point; "1,234" alone speaks for neither, and is read
    as the other columns say. In a table separated by commas that is with a point before fractions, unless another
    column speaks for the comma. Where no column speaks or they disagree, such a column stays text.
    """
    if found.kind != "csv":
        return found
    decimal = table.decimal or "."
    other = {".": ",", ",": "."}[decimal]
    own = [said for said in table.votes.values() if said.decimal in ("", decimal)] if table.decimal else []
    grouped = any(other in said.signs for said in own)
    return replace(found, decimal=decimal, thousands=other if grouped else None, notes=_notes(table.undecided))


def _notes(undecided: Mapping[str, Vote]) -> tuple[str, ...]:
    if not undecided:
        return ()
    name, said = next(iter(undecided.items()))
    text = (
        f"{len(undecided)} columns stay text, the first is {name!r} with cells like {said.example!r}: their sign may "
        "stand before a fraction or part thousands; say --decimal , or --decimal ."
    )
    return (text,)


def read_table(path: Path, *, table_format: TableFormat | None = None) -> pd.DataFrame:
    """Read a table; its rows are numbered from 0 and its column names are stripped of blanks.

    Text tables: every cell as ``str``, as it stands there, missing only where it is empty. How its numbers are written
    is found out where they are needed, see ``columns/form.py``. A first column without a name becomes ``unnamed_0``.
    Blank lines at the end are ignored. Typed tables keep their types, except that an integer column becomes text
    when float64 or int64 could not hold it, and so does a JSON column whose cells have different types. Cells that are
    lists of plain values become lists of text; objects, maps and lists of these keep Arrow's type.

    Args:
        table_format: how the file is stored; by default found out.
    Raises:
        ConfigError: unknown extension or encoding, or an impossible separator or decimal sign.
        DataError: the file is missing, no file, empty, damaged or without data rows; rows are longer or shorter than
            the header; or column names are empty, equal or too long.
    """
    _check_file(path)
    if table_format is None:
        table_format = TableFormat(kind=_kind_of(path), encoding=None, separator=None, decimal=None, thousands=None)
    _check_settings(table_format, path)
    if table_format.kind == "csv":
        table, _ = _read_text(path, table_format, TextForm())
    else:
        table = _read_typed(path, table_format)
    return to_frame(table, path)


def parquet_pieces(
    path: Path, columns: Sequence[str] | None, *, rows: int, groups: list[int] | None = None
) -> Iterator[pd.DataFrame]:
    """Rows of a Parquet file, so many at a time, with the cells that ``read_table`` gives; None means all. Others
    are not read, and no more than a row group is in memory.
    Raises:
        ConfigError: the file is not Parquet by its name.
        DataError: the file is missing, empty or damaged, lacks a column, or holds names or cells that cannot be used.
    """
    _check_file(path)
    if _kind_of(path) != "parquet":
        raise ConfigError(f"{path} is no Parquet file; only those can be read in pieces.")
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:  # which would keep all that was read
            stored = dict(zip(checked_names(file.schema_arrow.names, path), file.schema_arrow.names, strict=True))
            wanted = list(stored) if columns is None else list(columns)
            missing = [name for name in wanted if name not in stored]
            if missing:
                raise DataError(f"{path} has no column {missing[0]!r}.{did_you_mean(missing[0], stored)}")
            for batch in file.iter_batches(rows, row_groups=groups, columns=[stored[name] for name in wanted]):
                batch.validate(full=True)
                piece = pa.Table.from_batches([batch]).select([stored[name] for name in wanted]).rename_columns(wanted)
                yield to_frame(piece, path)
    except UNREADABLE as error:
        raise damaged(path, "parquet", error) from None


def saved_columns(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> pa.Table:
    """Columns of a Parquet file that we wrote ourselves into a folder, which may come from a stranger.

    Raises:
        DataError: there is no such file, it is damaged or too large, or a column that is needed is missing.
    """
    content = BytesIO(read_file(path, most=_MOST_SAVED_BYTES))
    try:
        with pyarrow.parquet.ParquetFile(content) as file:
            if file.metadata.num_rows > _MOST_SAVED_ROWS:
                raise DataError(f"{path} has {file.metadata.num_rows:,} rows; at most {_MOST_SAVED_ROWS:,} are read.")
            names = file.schema_arrow.names
            missing = [name for name in needed if name not in names]
            if missing or len(set(names)) != len(names):
                what = f"it has no column {shown(missing[0])!r}" if missing else "a column is there twice"
                raise DataError(f"{path} is not what was written: {what}.")
            table = file.read(columns=[*needed, *(name for name in optional if name in names)])
            table.validate(full=True)
            return table
    except UNREADABLE as error:
        raise damaged(path, "parquet", error) from error


def _as_floats(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decimals of up to 15 digits as the nearest float64, which Arrow's own cast misses by a bit in some."""
    near, scale = column.cast(pa.float64()), column.type.scale
    if not 0 < scale <= _LARGEST_POWER:
        return near
    values = near.to_numpy()
    with np.errstate(invalid="ignore"):
        exact = np.round(values * 10.0**scale) / 10.0**scale  # both are whole numbers that float64 holds
    return pa.chunked_array([pa.array(exact, mask=np.asarray(column.is_null()))])


def _fits_float(column: pa.ChunkedArray) -> bool:
    """Whether float64 can tell all decimals of a column apart: none has more than 15 digits."""
    if column.type.precision <= EXACT_DIGITS:
        return True
    ends = pc.min_max(column).as_py()
    largest = 0 if ends["min"] is None else max(-ends["min"], ends["max"])
    return bool(largest < 10 ** (EXACT_DIGITS - column.type.scale))


def damaged(path: Path, kind: str, error: Exception) -> DataError:
    """What to say of a file that pyarrow cannot read."""
    reason = str(error).splitlines()[0] if str(error) else "no reason given"
    return DataError(f"{path} is empty, damaged or not a {kind} file; write it again ({reason}).")


def asked_format(path: Path, config: TextConfig) -> TableFormat:
    """The kind of the file and the settings of the user, both checked."""
    _check_file(path)
    asked = TableFormat(
        kind=_kind_of(path),
        encoding=config.encoding,
        separator=_separator_from_user(config.sep),
        decimal=config.decimal,
    )
    _check_settings(asked, path)
    return asked


def _read_typed(path: Path, table_format: TableFormat) -> pa.Table:
    if table_format.kind == "jsonl":
        return _read_json_lines(path, table_format.encoding)
    return _read_arrow(path, table_format.kind)


def to_frame(table: pa.Table, path: Path, *, rows: int = 1) -> pd.DataFrame:
    """The cells as ``read_table`` gives them.

    Args:
        rows: that there must be.
    """
    names = checked_names(table.column_names, path)
    if table.num_rows < rows:
        raise DataError(f"{path} has a header but no data rows; at least 1 is needed.")
    columns = [_plain(column) for column in table.columns]
    frame = pa.table(columns, names=names).to_pandas(
        ignore_metadata=True, date_as_object=False, types_mapper=_type_of_nested
    )
    for name, column in zip(names, columns, strict=True):
        lists = lists_of_text(column) if is_list_of_plain(column.type) else lists_of_bytes(column)
        if lists is not None:
            frame[name] = pd.Series(lists, dtype=object)
    return frame


def _type_of_nested(kind: pa.DataType) -> pd.ArrowDtype | None:
    return pd.ArrowDtype(kind) if pa.types.is_nested(kind) else None


def _check_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and path.parent.is_dir():
            siblings = [sibling.name for sibling in path.parent.iterdir()]
            raise DataError(f"there is no file {path}.{did_you_mean(path.name, siblings)}") from None
        raise DataError(f"there is no file {path}: {getattr(error, 'strerror', None) or error}.") from None
    if stat.S_ISDIR(mode):
        raise DataError(f"{path} is a folder; give the table file in it.")
    if not stat.S_ISREG(mode):
        raise DataError(f"{path} is not a regular file; write the table to a file first.")


def _kind_of(path: Path) -> TableKind:
    name = path.name.lower()
    for extension, kind in KINDS.items():
        if name.endswith(extension):
            return kind
    raise ConfigError(f"{path} is not of a known kind; its name must end in one of {', '.join(KINDS)}.")


def _separator_from_user(separator: str | None) -> str | None:
    return separator if separator is None else SEPARATORS.get(separator.lower(), separator)


def _check_settings(asked: TableFormat, path: Path) -> None:
    separator = asked.separator
    TextConfig(sep=separator, decimal=asked.decimal, encoding=asked.encoding)  # which checks them
    if asked.thousands not in (None, ".", ","):
        raise ConfigError(f"thousands must be . or , got {asked.thousands!r}.")
    if asked.decimal is not None and asked.decimal == asked.thousands:
        raise ConfigError(f"the decimal sign and the thousands sign are both {asked.decimal!r}.")
    text_only = {"--sep": separator, "--decimal": asked.decimal}
    if asked.kind in ("parquet", "feather"):
        text_only["--encoding"] = asked.encoding
    for flag, value in text_only.items():
        if value is not None and asked.kind != "csv":
            raise ConfigError(f"{flag} is for text tables; {path} is {asked.kind}, leave it out.")


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            data = gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(f"{path} is not a complete gzip file; write it again.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    if not data or data.isspace():
        raise DataError(f"{path} is empty; a header and at least 1 data row are needed.")
    return data


def _read_text(path: Path, asked: TableFormat, learnt: TextForm) -> tuple[pa.Table, TableFormat]:
    """The cells, and the format with the encoding and the separator found out where they were left open."""
    data, encoding, guessed = to_utf8(_read_bytes(path), asked.encoding, path, fallback=learnt.encoding)
    if not data or data.isspace():
        raise DataError(f"{path} is empty; a header and at least 1 data row are needed.")
    by_name = "\t" if path.name.lower().endswith((".tsv", ".tsv.gz")) else None
    separator = asked.separator or by_name or sniff_separator(data, prefer=learnt.separator)
    header = read_header(data, separator, path)
    names = checked_names(header.names, path)
    table = read_cells(data, header, separator, path).rename_columns(names)
    return table, replace(asked, encoding=encoding, separator=separator, guessed=guessed)


def checked_names(names: list[str], path: Path) -> list[str]:
    """The column names of a file as a table has them: without blanks around them; the first may be empty."""
    stripped = [UNNAMED_INDEX if name == PARQUET_INDEX else name.strip() for name in names]
    if not stripped:
        raise DataError(f"{path} has no columns.")
    stripped[0] = stripped[0] or UNNAMED_INDEX
    empty = [position for position, name in enumerate(stripped) if not name]
    if empty:
        raise DataError(
            f"{path}: {len(empty)} of {len(names)} columns have no name, the first is column {empty[0] + 1}; "
            "name them in the header, or remove a separator at the end of its line (see --sep)."
        )
    long = [name for name in stripped if len(name) > MAX_NAME_LENGTH]
    if long:
        raise DataError(
            f"{path}: {len(long)} column names have more than {MAX_NAME_LENGTH} characters, the first begins with "
            f"{long[0][:40]!r}; is the header missing, or is --sep wrong?"
        )
    twice = sorted({name for name in stripped if stripped.count(name) > 1}, key=stripped.index)
    if twice:
        raise DataError(
            f"{path}: {len(twice)} column names occur more than once, the first is {twice[0]!r}; rename these columns."
        )
    return stripped


def _read_arrow(path: Path, kind: TableKind) -> pa.Table:
    try:
        if kind == "parquet":
            with pyarrow.parquet.ParquetFile(path) as parquet:
                table = parquet.read()
        else:
            with pa.OSFile(str(path)) as file:
                table = pyarrow.ipc.open_file(file).read_all()
        table.validate(full=True)  # Arrow takes the places of texts in a file as they are, and would read anywhere
        return table
    except UNREADABLE as error:
        raise damaged(path, kind, error) from None


def _read_json_lines(path: Path, encoding: str | None) -> pa.Table:
    data, _, _ = to_utf8(_read_bytes(path), encoding, path)
    if data.lstrip().startswith(b"["):
        raise DataError(
            f"{path} is one JSON list; write one object a line, in pandas with to_json(orient='records', lines=True)."
        )
    records: list[dict[str, Any]] = []
    for number, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            try:
                records.append(json.loads(line, object_pairs_hook=_object))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}: line {number} is not a JSON object: {error}.") from None
            if not isinstance(records[-1], dict):
                raise DataError(f"{path}: line {number} is not a JSON object but {line[:40].decode(errors='replace')}.")
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = []
    for name in names:
        try:
            columns.append(array_of([record.get(name) for record in records]))
        except UnicodeEncodeError:
            raise DataError(
                f"{path}: column {name!r} holds text that is not valid Unicode (half a surrogate pair)."
            ) from None
    return pa.table(columns, names=names)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key occurs more than once")
    return record


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column in one of the types that pandas has without objects where possible; "" becomes missing."""
    kind = pa.types
    if kind.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if kind.is_string_view(column.type):
        column = column.cast(pa.large_string())
    column = bytes_of_struct(column)
    binary = (kind.is_binary, kind.is_large_binary, kind.is_fixed_size_binary, kind.is_binary_view)
    if any(is_kind(column.type) for is_kind in binary):
        column = column.cast(pa.large_binary())
        return pc.if_else(pc.equal(pc.binary_length(column), 0), pa.scalar(None, column.type), column)
    if kind.is_nested(column.type):
        return column if is_list_of_plain(column.type) else kept(column)
    if kind.is_decimal(column.type):
        if _fits_float(column):
            return _as_floats(column)
        return pa.chunked_array([[None if cell is None else decimal_text(cell) for cell in column.to_pylist()]])
    if kind.is_float16(column.type):
        return column.cast(pa.float32())
    if kind.is_run_end_encoded(column.type):
        return _plain(pa.chunked_array([pc.run_end_decode(part) for part in column.chunks]))
    if kind.is_null(column.type):
        return column.cast(pa.large_string())
    if kind.is_integer(column.type) and column.null_count:
        ends = pc.min_max(column).as_py()
        if ends["min"] is not None and max(-ends["min"], ends["max"]) > LARGEST_EXACT:
            return column.cast(pa.large_string())
    if kind.is_string(column.type) or kind.is_large_string(column.type):
        empty = pc.equal(column, "")
        return pc.if_else(empty, pa.scalar(None, column.type), column) if pc.any(empty).as_py() else column
    return column
