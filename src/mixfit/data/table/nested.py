"""Cells that hold lists, objects or maps: kept unchanged, so that the role of the column decides how they are used.

In: such a column, from Parquet, Feather, JSON Lines or Python. Out: Python lists of text if its cells are lists of
scalars; otherwise the Arrow type, which models cannot use. Knows nothing of roles."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mixfit.data.columns.values import json_text, python_cells, text_of

LISTS = (list, tuple, set, frozenset, np.ndarray, pd.Series)
_kinds = pa.types
_LIST_KINDS = (
    _kinds.is_list,
    _kinds.is_large_list,
    _kinds.is_fixed_size_list,
    _kinds.is_list_view,
    _kinds.is_large_list_view,
)
_BYTES = (_kinds.is_binary, _kinds.is_large_binary, _kinds.is_fixed_size_binary, _kinds.is_binary_view)


def is_list_of_plain(kind: pa.DataType) -> bool:
    """Whether cells are lists of texts, numbers, dates or Booleans."""
    if not any(is_kind(kind) for is_kind in _LIST_KINDS):
        return False
    item = kind.value_type.value_type if _kinds.is_dictionary(kind.value_type) else kind.value_type
    return not _kinds.is_nested(item) and not any(is_kind(item) for is_kind in _BYTES)


def lists_of_text(column: pa.ChunkedArray) -> list[list[str] | None]:
    """Convert lists of scalars to lists of text; missing items are dropped."""
    return [None if cell is None else [text_of(item) for item in cell if item is not None] for cell in _plainly(column)]


def _plainly(column: pa.ChunkedArray) -> list[Any]:
    """Convert to Python objects; values without a Python type, such as nanosecond times, become text."""
    try:
        found: list[Any] = column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):
        cells = (None if not cell.is_valid else cell.values for chunk in column.chunks for cell in chunk)
        return [None if items is None else items.cast(pa.large_string()).to_pylist() for items in cells]
    return found


def kept(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of containers, unchanged if pandas and every file format support its type; otherwise as text."""
    kind = column.type
    if _kinds.is_union(kind) or any(is_kind(kind) for is_kind in _LIST_KINDS[3:]) or not _is_storable(kind):
        return pa.chunked_array([pa.array(texts_of_cells(column.to_pylist()), pa.large_string())])
    return column


def array_of(cells: Sequence[Any]) -> pa.Array:
    """Cells as an Arrow array: of their common type if there is one; otherwise lists of mixed scalars become lists of
    text, and all other cells become text.

    Raises:
        UnicodeEncodeError: a text is not valid Unicode.
    """
    try:
        found = pa.array(cells)
        if _is_storable(found.type):
            return found
    except (pa.ArrowException, OverflowError, TypeError):
        pass
    filled = [cell for cell in cells if cell is not None]
    if filled and all(isinstance(cell, list) and not any(isinstance(i, dict | list) for i in cell) for cell in filled):
        return pa.array([None if cell is None else [text_of(i) for i in cell if i is not None] for cell in cells])
    return pa.array(texts_of_cells(cells), pa.large_string())


def texts_of_cells(cells: Sequence[Any]) -> list[str | None]:
    """Each cell as in a text table: text as it is, NaN as missing, infinity as "Infinity", everything else as JSON."""
    return [None if cell is None or cell != cell else _cell_text(cell) for cell in cells]


def _cell_text(cell: Any) -> str:
    if isinstance(cell, str):
        return cell
    if isinstance(cell, float) and math.isinf(cell):
        return "Infinity" if cell > 0 else "-Infinity"
    return json_text(cell)


def from_python(column: pd.Series) -> pd.Series:
    """A column of Python's containers in a type that a file has; every other column as it is."""
    if isinstance(column.dtype, pd.ArrowDtype):
        kind = column.dtype.pyarrow_dtype
        if not _kinds.is_nested(kind) or _is_storable(kind):
            return column
    elif not pd.api.types.is_object_dtype(column.dtype) or not any(isinstance(one, (*LISTS, dict)) for one in column):
        return column
    found = array_of([_as_list(cell) for cell in python_cells(column)])
    texts = _kinds.is_large_string(found.type)
    dtype = "str" if texts else pd.ArrowDtype(found.type)
    values = found.to_pylist() if texts else pd.arrays.ArrowExtensionArray(found)
    return pd.Series(values, index=column.index, name=column.name, dtype=dtype)


def _as_list(cell: Any) -> Any:
    """Convert a set (in a fixed order), tuple or array to a list; return everything else unchanged."""
    if isinstance(cell, set | frozenset):
        return sorted(cell, key=str)
    if isinstance(cell, np.ndarray | pd.Series):
        return cell.tolist()
    return list(cell) if isinstance(cell, tuple) else cell


def _is_storable(kind: pa.DataType) -> bool:
    """Whether Parquet supports the type: it has no structs without fields."""
    if _kinds.is_struct(kind):
        return kind.num_fields > 0 and all(_is_storable(one.type) for one in kind)
    if _kinds.is_map(kind):
        return _is_storable(kind.item_type) and _is_storable(kind.key_type)
    return _is_storable(kind.value_type) if any(is_kind(kind) for is_kind in _LIST_KINDS) else True
