"""From table cells to safe files: which photo belongs to which row, and which cells name none that may be read.

In: the image columns of a table, which hold paths, bytes or base64 text, and the folder that paths are relative to.
Out: ``Photos``: the unique files, an index of them for every row, and one record for every photo that was refused.
Asks the file system about each file once and opens none; what is inside them is for ``decode.py``.
A cell is text from a stranger: it never leads outside the images folder."""

import hashlib
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64

from mixfit.data.bad_inputs import BadInput
from mixfit.data.photos.cells import decode_base64, holds_contents, is_base64_photo, shown_cell
from mixfit.data.photos.decode import ImageError, check_file
from mixfit.errors import ConfigError, DataError

_URL = re.compile(r"[a-z][a-z0-9+.-]*://|(file|data|https?):", re.IGNORECASE)
_DATA_URL = re.compile("data:", re.IGNORECASE)
_DRIVE = re.compile(r"[a-z]:[\\/]", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Photos:
    """The photos of a table. Slots are places for a photo in a row, the same for every row."""

    files: tuple[Path | bytes, ...]
    """Each usable photo once, in the order in which the rows use them: a resolved path, or the bytes of a file."""
    slots: Int64[np.ndarray, "rows slots"]
    """Index into ``files``; -1 where the row has no photo or a refused one. One block of slots per image column, in
    column order; it is as wide as the most photos in one of its cells (at least 1), and cells fill it from the left."""
    slot_columns: tuple[str, ...]
    """The image column of each slot."""
    bad: list[BadInput]
    """One record per refused photo, by row, then by slot."""
    missing_cells: dict[str, int]
    """For each image column, how many cells name no photo at all; that is allowed."""

    @property
    def columns(self) -> Int64[np.ndarray, " slots"]:
        """Number of the image column of each slot, counted from 0 in column order."""
        number = {column: place for place, column in enumerate(dict.fromkeys(self.slot_columns))}
        return np.array([number[column] for column in self.slot_columns], dtype=np.int64)

    def readable(self, failures: Collection[int]) -> Bool[np.ndarray, "rows slots"]:
        """Which slots hold a photo that could be read; ``failures`` are the numbers of those that could not."""
        return np.asarray((self.slots >= 0) & ~np.isin(self.slots, list(failures)))


def find_photos(frame: pd.DataFrame, columns: Sequence[str], root: Path) -> Photos:
    """Find the photos that the cells of a table name.

    A cell holds a path relative to ``root``, the bytes of a photo or such bytes as base64 text (of paths and base64
    several, separated by ``;``), or nothing. Equal bytes count as one photo. Refused are URLs (``data:`` URLs too),
    absolute paths, whatever leads outside ``root`` (also through a link), and what is missing, empty or no readable
    file.
    A path with backslashes is also tried with slashes.

    Args:
        frame: a table; rows are counted by position, whatever its index.
        columns: its image columns.
        root: the images folder; not looked at when no column names files.
    Raises:
        ConfigError: a column is not in the table.
        DataError: ``root`` is not a folder."""
    _check_arguments(frame, columns, root)
    code_of_name: dict[str | bytes, int] = {}
    blocks = [_name_codes(frame[column], code_of_name) for column in columns]
    name_codes = np.concatenate([np.empty((len(frame), 0), dtype=np.int64), *blocks], axis=1)
    slot_columns = [column for column, block in zip(columns, blocks, strict=True) for _ in range(block.shape[1])]

    files, file_codes, problems = _locate_all(list(code_of_name), root)
    slots, order = _in_order_of_use(file_codes[name_codes], len(files))

    names = list(code_of_name)
    rows, places = np.nonzero((name_codes >= 0) & (slots < 0))
    refused = zip(rows.tolist(), places.tolist(), name_codes[rows, places].tolist(), strict=True)
    bad = [
        BadInput(
            row=row,
            column=slot_columns[place],
            value=shown_cell(names[code]),
            problem=problems[code],
            action="photo masked",
        )
        for row, place, code in refused
    ]
    return Photos(
        files=tuple(files[index] for index in order.tolist()),
        slots=slots,
        slot_columns=tuple(slot_columns),
        bad=bad,
        missing_cells={
            column: int((block < 0).all(axis=1).sum()) for column, block in zip(columns, blocks, strict=True)
        },
    )


def needs_folder(frame: pd.DataFrame, columns: Sequence[str]) -> bool:
    """Whether any of the image columns names files, rather than holding photos."""
    return any(not holds_contents(frame[column]) for column in columns)


def _check_arguments(frame: pd.DataFrame, columns: Sequence[str], root: Path) -> None:
    for column in columns:
        if column not in frame.columns:
            raise ConfigError(
                f"The table has no image column {column!r}; its columns are {', '.join(map(str, frame.columns))}."
            )
    if needs_folder(frame, columns) and not root.is_dir():
        raise DataError(
            f"The images folder {root} {'is not a folder' if root.exists() else 'does not exist'}; "
            "name the folder that the image paths are relative to with --images DIR."
        )


def _name_codes(cells: pd.Series, code_of_name: dict[str | bytes, int]) -> Int64[np.ndarray, "rows slots"]:
    """Split the cells of one column and give each distinct name a code, -1 where a cell has no more names."""
    if cells.dtype == object:
        # Not by map, whose result would be inferred to be text, which half a surrogate pair is not.
        cells = pd.Series([bytes(cell) if isinstance(cell, bytearray) else cell for cell in cells], dtype=object)
    codes, distinct = pd.factorize(cells)
    split = [[code_of_name.setdefault(name, len(code_of_name)) for name in _names_in(cell)] for cell in distinct]
    width = max([1, *map(len, split)])
    # A missing cell has the code -1: it takes the last line, which stays empty.
    lines = np.full((len(split) + 1, width), -1, dtype=np.int64)
    for line, names in zip(lines, split, strict=False):
        line[: len(names)] = names
    return lines[codes]


def _names_in(cell: object) -> list[str | bytes]:
    """The photos of one cell: bytes as they are, a text split at its semicolons; a data: URL has some of its own."""
    if isinstance(cell, bytes):
        return [cell] if cell else []
    text = str(cell).strip()
    return [text] if _DATA_URL.match(text) else [name for name in map(str.strip, text.split(";")) if name]


def _locate_all(
    names: list[str | bytes], root: Path
) -> tuple[list[Path | bytes], Int64[np.ndarray, " codes"], dict[int, str]]:
    """Look for each name once.

    Returns:
        The distinct files; for each name the index of its file or -1, with one more -1 at the end for the code of no
        name; and for each refused name what is wrong with it."""
    real_root = os.path.realpath(root)
    files: list[Path | bytes] = []
    code_of_file: dict[Path | bytes, int] = {}
    problems: dict[int, str] = {}
    file_codes = np.full(len(names) + 1, -1, dtype=np.int64)
    for code, name in enumerate(names):
        try:
            if isinstance(name, str) and not is_base64_photo(name):
                file: Path | bytes = _locate(name, real_root)
            else:
                file = name if isinstance(name, bytes) else decode_base64(name)
        except ImageError as error:
            problems[code] = str(error)
        else:
            key = hashlib.sha256(file).digest() if isinstance(file, bytes) else file
            file_codes[code] = code_of_file.setdefault(key, len(files))
            if file_codes[code] == len(files):
                files.append(file)
    return files, file_codes, problems


def _locate(name: str, real_root: str) -> Path:
    """Resolve one name inside the root, or say in an ``ImageError`` why it is refused."""
    if "\0" in name:
        raise ImageError("has a NUL character in its name")
    if not name.isprintable() and any(0xD800 <= ord(character) <= 0xDFFF for character in name):
        raise ImageError("has a name that is no valid Unicode (half a surrogate pair)")
    if _DATA_URL.match(name):
        raise ImageError("is a data: URL; keep only the base64 text behind its comma")
    if _URL.match(name):
        raise ImageError("is a URL; only files in the images folder are read")
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        raise ImageError("is an absolute path; write it relative to the images folder")
    path = os.path.realpath(os.path.join(real_root, name))  # noqa: PTH118 - pathlib takes a third of the whole time
    if not (path + os.sep).startswith(os.path.join(real_root, "")):  # noqa: PTH118
        raise ImageError("leads outside the images folder; name the right folder with --images DIR")
    file = Path(path)
    if "\\" in name and not file.exists():
        return _locate(name.replace("\\", "/"), real_root)
    check_file(file)
    return file


def _in_order_of_use(
    slots: Int64[np.ndarray, "rows slots"], file_count: int
) -> tuple[Int64[np.ndarray, "rows slots"], Int64[np.ndarray, " files"]]:
    """Number the files by their first use, row by row; returns the new slots and the old number of each file."""
    order = pd.unique(slots[slots >= 0])
    new_number = np.full(file_count + 1, -1, dtype=np.int64)  # the last entry serves the -1 of an empty slot
    new_number[order] = np.arange(len(order))
    return new_number[slots], order
