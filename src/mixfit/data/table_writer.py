"""Writing a table for people and other programs: CSV, TSV, Parquet or JSON Lines, whole or not at all.

In: a DataFrame. Out: a file. In CSV and TSV a text that a spreadsheet would run as a formula is made harmless.
The index is not written. Knows nothing of predictions or of what the columns mean."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from mixfit.data.photo_cells import bytes_columns
from mixfit.errors import ConfigError, DataError, ResourceError
from mixfit.files import write_file

EXTENSIONS = (".csv", ".tsv", ".parquet", ".pq", ".jsonl", ".ndjson")
# Spreadsheets run a cell that begins so as a formula (OWASP, "CSV Injection").
_FORMULA = r"[=+\-@\t\r]"
_PLAIN_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"


def check_writable_kind(path: Path) -> None:
    """Refuse early what ``write_table`` would refuse after all the work is done.

    Raises:
        ConfigError: unknown extension.
        ResourceError: the folder does not exist.
    """
    if path.suffix.lower() not in EXTENSIONS:
        raise ConfigError(f"{path} is of no kind that can be written; its name must end in {', '.join(EXTENSIONS)}.")
    if not path.parent.is_dir():
        raise ResourceError(f"{path} cannot be written: there is no folder {path.parent}.")


def write_table(frame: pd.DataFrame, path: Path, *, raw: bool = False) -> None:
    """Write a table in the format that the extension names; an existing file is replaced in one step.

    Missing cells and empty texts are both written as nothing in CSV and TSV. There, a text cell or column name that
    begins with one of = + - @ tab or carriage return gets a leading apostrophe, unless it is a plain number ("-5",
    "+1.5"). Columns of numbers, Parquet and JSON Lines are never touched. JSON has no NaN and no infinity: null.

    Args:
        raw: write texts in CSV and TSV as they are.
    Raises:
        ConfigError: unknown extension.
        DataError: two columns have the same name, or a column cannot be written in that format.
        ResourceError: the folder is missing or cannot be written, or the disk is full; an existing file stays.
    """
    check_writable_kind(path)
    extension = path.suffix.lower()
    frame = frame.set_axis([str(name) for name in frame.columns], axis="columns")
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise DataError(f"{path} is not written: the column name {twice!r} occurs more than once; rename one.")
    if extension not in (".parquet", ".pq") and (held := bytes_columns(frame)):
        raise DataError(
            f"{path} is not written: {len(held)} columns hold bytes, the first is {held[0]!r}; text has no place for "
            "them: leave them out, or write a .parquet file."
        )
    try:
        match extension:
            case ".csv" | ".tsv":
                content = _delimited(frame if raw else _without_formulas(frame), "," if extension == ".csv" else "\t")
            case ".parquet" | ".pq":
                content = _parquet(frame)
            case _:
                content = _json_lines(frame)
    except UnicodeEncodeError:
        raise DataError(f"{path} is not written: a text is no valid Unicode (half a surrogate pair).") from None
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"{path} is not written: {' '.join(map(str, error.args))}; convert that column.") from None
    write_file(path, content)


def _without_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before every text that a spreadsheet would run, column names included."""
    frame = frame.copy(deep=False)
    for name in frame.columns:
        column = frame[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            column = column.astype(column.cat.categories.dtype)
        if pd.api.types.is_string_dtype(column.dtype) or pd.api.types.is_object_dtype(column.dtype):
            frame[name] = column.mask(_is_formula(column), "'" + column.astype("str"))
    names = pd.Series(frame.columns, dtype="str")
    return frame.set_axis(names.mask(_is_formula(names), "'" + names), axis="columns")


def _is_formula(texts: pd.Series) -> pd.Series:
    """True for text cells that a spreadsheet would run; numbers and missing cells among them are False."""
    starts = texts.str.match(_FORMULA, na=False).astype(bool)
    return starts & ~texts.str.fullmatch(_PLAIN_NUMBER, na=False).astype(bool)


def _delimited(frame: pd.DataFrame, separator: str) -> bytes:
    buffer = io.StringIO(newline="")
    # Python's csv writer leaves a carriage return without quotes, where readers take it for the end of the line.
    quoting = csv.QUOTE_NONNUMERIC if _has_carriage_return(frame) else csv.QUOTE_MINIMAL
    frame.to_csv(buffer, sep=separator, index=False, lineterminator="\n", quoting=quoting)
    return buffer.getvalue().encode()


def _has_carriage_return(frame: pd.DataFrame) -> bool:
    texts = frame.select_dtypes(include=["str", "object", "category"])
    columns = [pd.Series(frame.columns, dtype="str"), *(texts[name].astype("str") for name in texts.columns)]
    return any(column.str.contains("\r", regex=False, na=False).any() for column in columns)


def _parquet(frame: pd.DataFrame) -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink)
    return sink.getvalue().to_pybytes()


def _json_lines(frame: pd.DataFrame) -> bytes:
    names = list(frame.columns)
    columns = [_json_cells(frame[name]) for name in names]
    lines = (
        json.dumps(dict(zip(names, cells, strict=True)), ensure_ascii=False, allow_nan=False)
        for cells in zip(*columns, strict=True)
    )
    return "".join(f"{line}\n" for line in lines).encode()


def _json_cells(column: pd.Series) -> list[Any]:
    """Cells as JSON has them: full precision, points in time as ISO 8601 texts, nothing that is not finite."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        column = column.map(lambda moment: moment.isoformat(), na_action="ignore")
    present = column.notna()
    if pd.api.types.is_float_dtype(column.dtype):
        present &= np.isfinite(column.to_numpy(dtype=np.float64, na_value=np.nan))
    return column.astype(object).where(present, None).tolist()
