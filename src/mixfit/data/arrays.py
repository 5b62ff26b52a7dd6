"""Arrays that may be larger than memory: these lie in files, which are removed as soon as nobody uses the array.

In: shapes, rows. Out: NumPy arrays, of zeros or of some rows of another array. What is read or written of an array in
a file takes memory only as long as the system has no other use for it. The files are in the folder for temporary files,
which ``TMPDIR`` sets."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from mixfit.errors import ResourceError

LARGEST = 2**30
"""Bytes of the largest array in memory."""
_PART = 2**24
"""Bytes of a part, see ``parts``."""


def zeros(shape: tuple[int, ...], dtype: Any = np.float32, *, in_file: bool | None = None) -> np.ndarray:
    """An array of zeros.

    Args:
        in_file: whether it lies in a file; by default if it has more than ``LARGEST`` bytes.
    Raises:
        ResourceError: the disk has too little room for it.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if not (size > LARGEST if in_file is None else in_file and size > 0):
        return np.zeros(shape, dtype)
    try:
        with tempfile.TemporaryFile(prefix="mixfit-") as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk would end the process where it writes to the array
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return np.memmap(file, dtype, "r+", shape=shape).view(np.ndarray)
    except OSError as error:
        raise ResourceError(
            f"An array of {size / 1e9:.1f} GB does not fit on the disk of {tempfile.gettempdir()} ({error.strerror}): "
            "set TMPDIR to a folder on a disk with more room."
        ) from error


def take(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Those rows of an array, in that order.

    Args:
        rows: their positions, or a mask of all.
    """
    rows = np.flatnonzero(rows) if rows.dtype == bool else rows
    if len(rows) * _bytes_of_a_row(array) <= LARGEST:
        return array[rows]
    found = zeros((len(rows), *array.shape[1:]), array.dtype)
    for part in parts(len(rows), _bytes_of_a_row(array)):
        found[part] = array[rows[part]]
    return found


def parts(rows: int, bytes_of_a_row: int) -> Iterator[slice]:
    """Rows in parts of at most 16 MB, at least one row each."""
    size = max(1, _PART // max(bytes_of_a_row, 1))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def whole_or_parts(array: np.ndarray) -> Iterator[slice]:
    """The rows of an array: all at once, or in ``parts`` if it has more than ``LARGEST`` bytes."""
    if array.nbytes <= LARGEST:
        yield slice(0, len(array))
    else:
        yield from parts(len(array), _bytes_of_a_row(array))


def beside(columns: Sequence[np.ndarray], dtype: Any = None) -> np.ndarray:
    """Columns of the same rows side by side.

    Args:
        dtype: of the result; by default one that holds all.
    """
    dtype = np.result_type(*columns) if dtype is None else np.dtype(dtype)
    widths = [one.shape[1] for one in columns]
    found = zeros((len(columns[0]), sum(widths)), dtype)
    for one, end, width in zip(columns, np.cumsum(widths), widths, strict=True):
        found[:, end - width : end] = one
    return found


def sampled(rows: Int64[np.ndarray, " rows"], bytes_of_a_row: int, seed: int) -> Int64[np.ndarray, " some"]:
    """The rows, or as many of them as an array in memory holds, drawn at random; in their order."""
    most = max(1, LARGEST // max(bytes_of_a_row, 1))
    return rows if len(rows) <= most else np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _bytes_of_a_row(array: np.ndarray) -> int:
    return array.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
