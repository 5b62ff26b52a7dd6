"""Writing tables as CSV, TSV, Parquet or JSON Lines, completely or not at all.

In: a DataFrame, or one piece after another. Out: a file. In CSV and TSV, text that a spreadsheet would run as a formula
is escaped. The index is not written. Knows nothing of predictions or of what the columns mean."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Number
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from mixfit.data.columns.values import json_text, json_value, plain_cells_problem, python_cells, with_columns
from mixfit.data.photos.cells import bytes_columns, plain_photos
from mixfit.data.table.nested import from_python
from mixfit.errors import ConfigError, DataError, ResourceError, check_type
from mixfit.files import new_file, write_file

EXTENSIONS = (".csv", ".tsv", ".parquet", ".pq", ".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
# Spreadsheets run a cell with such a first character as a formula (OWASP, "CSV Injection").
_FORMULA = r"[=+\-@\t\r]"
_PLAIN_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"


def check_writable_kind(path: Path) -> None:
    """Check the path early, so that ``write_table`` does not fail after all the work is done.

    Raises:
        ConfigError: unknown extension.
        ResourceError: the folder does not exist.
    """
    if path.suffix.lower() not in EXTENSIONS:
        raise ConfigError(f"{path} has no supported extension; the name must end in {', '.join(EXTENSIONS)}.")
    if not path.parent.is_dir():
        raise ResourceError(f"{path} cannot be written: the folder {path.parent} does not exist.")


def write_table(frame: pd.DataFrame, path: Path, *, raw: bool = False) -> None:
    """Write a table in the format given by the extension; an existing file is replaced atomically.

    In CSV and TSV, missing cells and empty texts are both written as empty cells, and a text cell or column name that
    begins with =, +, -, @, a tab or a carriage return gets a leading apostrophe, unless it is a plain number ("-5",
    "+1.5"). Numeric columns, Parquet and JSON Lines are not escaped. JSON has neither NaN nor infinity; both become
    null.

    Args:
        raw: do not escape texts in CSV and TSV.
    Raises:
        ConfigError: unknown extension.
        DataError: two columns have the same name, or a column cannot be written in that format.
        ResourceError: the folder is missing or not writable, or the disk is full; an existing file is kept.
    """
    check_writable_kind(path)
    content = io.BytesIO()  # complete before the file is opened, so that messages can state the number of bytes
    with _pieces_in(content, path, raw=raw, types={}) as write:
        write(frame)
    write_file(path, content.getbuffer())


@contextmanager
def kept_frame(frame: pd.DataFrame, path: Path) -> Iterator[None]:
    """Write a DataFrame as the Parquet file ``path``; messages from the block then name the DataFrame, not the file.

    Columns that mix texts and numbers are converted to text, as are containers of types that no file format supports.

    Raises:
        ConfigError, DataError, ResourceError: as ``write_table``, and those of the block.
    """
    try:
        write_table(_with_mixed_as_text(frame), path)
        yield
    except (ConfigError, DataError) as error:
        raise type(error)(str(error).replace(str(path), "the DataFrame")) from error


def check_table(table: object) -> None:
    """Refuse what is neither a file nor a DataFrame.

    Raises:
        ConfigError: it is something else.
    """
    check_type("table", table, (str, PathLike, pd.DataFrame), "a path of a table or a DataFrame")


@contextmanager
def table_file(table: str | Path | pd.DataFrame) -> Iterator[Path]:
    """The file of a table, or, within the block, a temporary Parquet file of a DataFrame, see ``kept_frame``."""
    check_table(table)
    if not isinstance(table, pd.DataFrame):
        yield Path(table)
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / "dataframe.parquet"
        with kept_frame(table, path):
            yield path


def _with_mixed_as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Convert columns that mix texts and numbers, and columns of types that no file format supports, to text."""
    frame = plain_photos(frame)
    found = frame.copy(deep=False)
    for place, kind in enumerate(frame.dtypes):
        column = frame.iloc[:, place]
        if isinstance(kind, pd.SparseDtype):
            found.isetitem(place, column.sparse.to_dense())
        elif isinstance(kind, pd.PeriodDtype | pd.IntervalDtype):
            found.isetitem(place, column.astype("str").where(column.notna()))
        cells = column.dropna() if pd.api.types.is_object_dtype(kind) else ()
        texts = sum(isinstance(cell, str) for cell in cells)
        if 0 < texts < len(cells) and all(isinstance(cell, str | Number) for cell in cells):
            found.isetitem(place, column.map(str, na_action="ignore"))
        elif (plain := from_python(column)) is not column:
            found.isetitem(place, plain)
    return found


@contextmanager
def new_table(
    path: Path, *, raw: bool = False, types: Mapping[str, pa.DataType] | None = None
) -> Iterator[Callable[[pd.DataFrame], None]]:
    """``write_table`` piece by piece: call the returned function with one frame after another.

    All frames must have the columns and dtypes of the first. The file appears when the block ends without an error;
    until then it is written to the same folder under another name, with only one piece in memory. A Parquet file has
    one row group per piece.

    Args:
        types: of columns of Python objects; without it, types are inferred from the first piece.
    Raises: as ``write_table``, for each piece when it is written.
    """
    check_writable_kind(path)
    with new_file(path) as file, _pieces_in(file, path, raw=raw, types=types or {}) as write:
        yield write


@contextmanager
def _pieces_in(
    file: io.BufferedIOBase, path: Path, *, raw: bool, types: Mapping[str, pa.DataType]
) -> Iterator[Callable[[pd.DataFrame], None]]:
    """``path`` determines the format, and is used in messages."""
    if path.suffix.lower() in PARQUET:
        with _ParquetPieces(file, types) as pieces:
            yield lambda frame: _write_piece(frame, path, pieces.write)
    else:
        texts = _TextPieces(file, path.suffix.lower(), raw=raw)
        yield lambda frame: _write_piece(frame, path, texts.write)


def _write_piece(frame: pd.DataFrame, path: Path, write: Callable[[pd.DataFrame], None]) -> None:
    frame = frame.set_axis([str(name) for name in frame.columns], axis="columns")
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise DataError(f"{path} is not written: the column name {twice!r} occurs more than once; rename one.")
    if path.suffix.lower() not in PARQUET and (held := bytes_columns(frame)):
        raise DataError(
            f"{path} is not written: {len(held)} columns hold bytes, the first is {held[0]!r}; text formats do not "
            "support bytes: drop these columns, or write a .parquet file."
        )
    try:
        write(frame)
    except UnicodeEncodeError:
        raise DataError(f"{path} is not written: a text is not valid Unicode (half a surrogate pair).") from None
    except _UnwritableError as error:
        raise DataError(f"{path} is not written: {error}; convert that column.") from None


class _UnwritableError(Exception):
    """A column holds values that the file format does not support."""


@contextmanager
def _cells_told() -> Iterator[None]:
    """Convert errors of libraries that write cells; wrap only calls of such libraries."""
    try:
        yield
    except UnicodeEncodeError:
        raise
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise _UnwritableError(" ".join(map(str, error.args))) from None


class _TextPieces:
    """CSV, TSV and JSON Lines; the header is written once."""

    def __init__(self, file: io.BufferedIOBase, extension: str, *, raw: bool) -> None:
        self.file, self.extension, self.raw = file, extension, raw
        self.header = True

    def write(self, frame: pd.DataFrame) -> None:
        if self.extension in (".csv", ".tsv"):
            separator = "," if self.extension == ".csv" else "\t"
            plain = _without_containers(frame)
            texts = plain if self.raw else _without_formulas(plain)
            self.file.write(_delimited(texts, separator, header=self.header))
            self.header = False
        else:
            self.file.write(_json_lines(frame))


class _ParquetPieces:
    """Row groups with the schema of the first piece."""

    def __init__(self, file: io.BufferedIOBase, types: Mapping[str, pa.DataType]) -> None:
        self.file, self.types = file, types
        self.writer: pyarrow.parquet.ParquetWriter | None = None

    def __enter__(self) -> "_ParquetPieces":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.writer is None:
            return
        if kind is None:
            self.writer.close()
            return
        with suppress(Exception):  # the file is discarded, and the first error is the one to report
            self.writer.close()
        self.writer.is_open = False

    def write(self, frame: pd.DataFrame) -> None:
        schema = None if self.writer is None else self.writer.schema
        with _cells_told():
            table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
        if self.writer is None:
            for place, name in enumerate(table.schema.names):
                if name in self.types and table.schema.field(place).type != self.types[name]:
                    with _cells_told():
                        table = table.set_column(place, name, table.column(place).cast(self.types[name]))
            with _cells_told():
                self.writer = pyarrow.parquet.ParquetWriter(self.file, table.schema)
        with _cells_told():
            self.writer.write_table(table)


def _without_containers(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with lists and objects converted to JSON."""
    frame = frame.copy(deep=False)
    for place in range(frame.shape[1]):
        column = frame.iloc[:, place]
        if plain_cells_problem(column) is not None:
            texts = [None if cell is None else json_text(cell) for cell in python_cells(column)]
            frame.isetitem(place, pd.Series(texts, index=frame.index, dtype="str"))
    return frame


def _without_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before every text that a spreadsheet would run, column names included."""
    frame = frame.copy(deep=False)
    for name in frame.columns if len(frame) else ():
        column = frame[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype(column.cat.categories.dtype)
        if pd.api.types.is_string_dtype(column.dtype) or pd.api.types.is_object_dtype(column.dtype):
            frame[name] = column.mask(_is_formula(column), "'" + column.astype("str"))
    names = pd.Series(frame.columns, dtype="str")
    return frame.set_axis(names.mask(_is_formula(names), "'" + names), axis="columns")


def _is_formula(texts: pd.Series) -> pd.Series:
    """True for text cells that a spreadsheet would run as formulas; False for numbers and missing cells."""
    if pd.api.types.is_object_dtype(texts.dtype):
        texts = texts.where([isinstance(cell, str) for cell in texts]).astype("str")
    starts = texts.str.match(_FORMULA, na=False).astype(bool)
    return starts & ~texts.str.fullmatch(_PLAIN_NUMBER, na=False).astype(bool)


def _delimited(frame: pd.DataFrame, separator: str, *, header: bool) -> bytes:
    head = _quoted(frame.iloc[:0], separator, header=True) if header else b""
    body = _unquoted(frame, separator) if len(frame) else b""
    return head + (_quoted(frame, separator, header=False) if body is None else body)


def _unquoted(frame: pd.DataFrame, separator: str) -> bytes | None:
    """Rows of numbers and texts, written by Arrow in an eighth of the time; None if a cell needs quotes."""
    if frame.shape[1] < 2 or not all(map(_is_number_or_text, frame.dtypes)):  # an empty cell alone needs quotes
        return None
    buffer = io.BytesIO()
    options = pyarrow.csv.WriteOptions(include_header=False, delimiter=separator, quoting_style="none")
    try:
        pyarrow.csv.write_csv(pa.Table.from_pandas(frame, preserve_index=False), buffer, options)
    except pa.ArrowInvalid:
        return None
    return buffer.getvalue()


def _is_number_or_text(dtype: Any) -> bool:
    number = pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)
    return (number and dtype.kind in "iuf") or isinstance(dtype, pd.StringDtype)


def _quoted(frame: pd.DataFrame, separator: str, *, header: bool) -> bytes:
    """Any cells; those with a separator, a quote or the end of a line in quotes."""
    buffer = io.StringIO(newline="")
    # Python's csv writer does not quote a carriage return, which readers treat as the end of the line.
    quoting = csv.QUOTE_NONNUMERIC if _has_carriage_return(frame) else csv.QUOTE_MINIMAL
    # Numbers have the same texts as by Arrow; those of single precision have as few digits as tell them apart.
    texts = {name: _number_texts(frame[name]) for name, dtype in frame.dtypes.items() if dtype.kind == "f"}
    with_columns(frame, texts).to_csv(
        buffer, sep=separator, index=False, header=header, lineterminator="\n", quoting=quoting
    )
    return buffer.getvalue().encode()


def _number_texts(column: pd.Series) -> pd.Series:
    texts = pyarrow.compute.cast(pa.array(column, from_pandas=True), pa.string())
    return pd.Series(texts.to_pandas(), index=column.index)


def _has_carriage_return(frame: pd.DataFrame) -> bool:
    texts = frame.select_dtypes(include=["str", "object", "category"]) if len(frame) else frame.iloc[:, :0]
    columns = [pd.Series(frame.columns, dtype="str"), *(texts[name].astype("str") for name in texts.columns)]
    return any(column.str.contains("\r", regex=False, na=False).any() for column in columns)


def _json_lines(frame: pd.DataFrame) -> bytes:
    names = list(frame.columns)
    columns = [_json_cells(frame[name]) for name in names]
    rows = [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]
    with _cells_told():
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def _json_cells(column: pd.Series) -> list[Any]:
    """Cells as JSON values: numbers in full precision, times as ISO 8601 texts, null for values that are not finite."""
    if plain_cells_problem(column) is not None:
        return [json_value(cell) for cell in python_cells(column)]
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        column = column.map(lambda moment: moment.isoformat(), na_action="ignore")
    present = column.notna()
    if pd.api.types.is_float_dtype(column.dtype):
        present &= np.isfinite(column.to_numpy(dtype=np.float64, na_value=np.nan))
    return column.astype(object).where(present, None).tolist()
