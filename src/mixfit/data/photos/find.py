"""From table cells to safe files: which photos belong to each row, and which cells name photos that cannot be used.

In: the image columns of a table, which hold paths, bytes or base64 text, and the folder that paths are relative to.
Out: ``Photos``: the unique files, their indices for every row, and one record for every photo that was refused.
Each file is looked up once in the file system; its contents are read in ``decode.py``. How a cell names photos is
defined in ``rule.py``.
Cells are untrusted input: they never lead outside the images folder."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64

from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.cells import Table
from mixfit.data.photos.archive import PhotoSource
from mixfit.data.photos.cells import decode_base64, holds_contents, is_base64_photo, photo_name, shown_cell
from mixfit.data.photos.decode import ImageError
from mixfit.data.photos.rule import PhotoRule, cell_text, hand_rule, split_images
from mixfit.data.photos.tree import ARCHIVE_ENDING, Tree
from mixfit.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Photos:
    """The photos of a table. Slots are places for photos, the same number for every row."""

    files: tuple[PhotoSource, ...]
    """Each usable photo once, in order of first use by the rows: a resolved path, the bytes of a file, or an entry of
    an archive."""
    slots: Int64[np.ndarray, "rows slots"]
    """Index into ``files``; -1 for no photo or a refused one. There is one block of slots per image column, in column
    order; its width is the largest number of photos in a cell (at least 1), and photos are left-aligned."""
    slot_columns: tuple[str, ...]
    """The image column of each slot."""
    bad: list[BadInput]
    """One record per refused photo, by row, then by slot."""
    missing_cells: dict[str, int]
    """For each image column, the number of cells without any photo, which is allowed."""

    @property
    def columns(self) -> Int64[np.ndarray, " slots"]:
        """Index of the image column of each slot, from 0 in column order."""
        number = {column: place for place, column in enumerate(dict.fromkeys(self.slot_columns))}
        return np.array([number[column] for column in self.slot_columns], dtype=np.int64)

    def readable(self, failures: Collection[int]) -> Bool[np.ndarray, "rows slots"]:
        """Which slots hold a readable photo; ``failures`` are the numbers of photos that could not be read."""
        return np.asarray((self.slots >= 0) & ~np.isin(self.slots, list(failures)))


def find_photos(
    frame: pd.DataFrame,
    columns: Sequence[str],
    root: Path,
    rules: Sequence[PhotoRule] = (),
    *,
    absent: bool = False,
) -> Photos:
    """Find the photos that the cells of a table name.

    A cell holds names of photos, the bytes of a photo, such bytes as base64 text, or nothing. Equal bytes count as one
    photo. URLs (including ``data:`` URLs), absolute paths, and paths that lead outside ``root`` (even through a link)
    are refused, as are files that are missing, empty or not readable.

    Args:
        frame: a table; rows are counted by position, whatever its index.
        columns: its image columns.
        root: the images folder or archive, optionally followed by a pattern that overrides ``rules``, as in
            ``images/{id}/*``. Not used if no column names files.
        rules: how cells name photos; a column without a rule holds paths separated by ``;``.
        absent: treat a column that is not in the table as having no photos, instead of raising an error.
    Raises:
        ConfigError: a column is not in the table.
        DataError: ``root`` is not a folder, or an archive is refused."""
    root, pattern = split_images(root)
    by_column = {rule.column: rule for rule in rules}
    if pattern and columns:
        by_hand = hand_rule(pattern, [str(name) for name in frame.columns])
        by_column[by_hand.column] = by_hand
    _check_arguments(frame, columns, root, absent=absent)
    found = _Found(Tree(root))
    blocks = [
        found.column(frame, by_column.get(column, PhotoRule.plain(column)))
        if column in frame.columns
        else np.full((len(frame), 1), -1, dtype=np.int64)
        for column in columns
    ]
    codes = np.concatenate([np.empty((len(frame), 0), dtype=np.int64), *blocks], axis=1)
    slot_columns = [column for column, block in zip(columns, blocks, strict=True) for _ in range(block.shape[1])]
    slots, order = _in_order_of_use(np.array([*found.file_of, -1], dtype=np.int64)[codes], len(found.files))

    rows, places = np.nonzero((codes >= 0) & (slots < 0))
    refused = zip(rows.tolist(), places.tolist(), codes[rows, places].tolist(), strict=True)
    bad = [
        BadInput(
            row=row,
            column=slot_columns[place],
            value=shown_cell(found.problems[code][0]),
            problem=found.problems[code][1],
            action="photo treated as missing",
        )
        for row, place, code in refused
    ]
    return Photos(
        files=tuple(found.files[index] for index in order.tolist()),
        slots=slots,
        slot_columns=tuple(slot_columns),
        bad=bad,
        missing_cells={
            column: int((block < 0).all(axis=1).sum()) for column, block in zip(columns, blocks, strict=True)
        },
    )


def unreadable_photos(table: Table, photos: Photos, failures: Mapping[int, str]) -> list[BadInput]:
    """One record for each photo that could not be decoded; ``failures`` is by number of the file."""
    places = np.argwhere(np.isin(photos.slots, list(failures)))
    return [
        BadInput(
            row=int(row),
            column=photos.slot_columns[place],
            value=_shown(table, photos.slot_columns[place], int(row)),
            problem=f"{photo_name(photos.files[file])} {failures[file]}",
            action="photo treated as missing",
        )
        for row, place in places
        for file in (int(photos.slots[row, place]),)
    ]


def _shown(table: Table, column: str, row: int) -> str:
    """A cell for messages; "" for photos that came beside the table."""
    return shown_cell(table[column].column.iloc[row]) if column in table else ""


def needs_folder(frame: pd.DataFrame, columns: Sequence[str]) -> bool:
    """Whether any of the image columns in the table names files, rather than holding photos or nothing at all."""
    named = (frame[column] for column in columns if column in frame.columns)
    return any(column.notna().any() and not holds_contents(column) for column in named)


def _check_arguments(frame: pd.DataFrame, columns: Sequence[str], root: Path, *, absent: bool) -> None:
    for column in columns:
        if column not in frame.columns and not absent:
            raise ConfigError(
                f"The table has no image column {column!r}; its columns are {', '.join(map(str, frame.columns))}."
            )
    archive = root.suffix.lower() == ARCHIVE_ENDING and root.is_file()
    if needs_folder(frame, columns) and not root.is_dir() and not archive:
        raise DataError(
            f"The images folder {root} {'is not a folder' if root.exists() else 'does not exist'}; "
            "set the folder that the image paths are relative to with --images DIR."
        )


class _Found:
    """The photos of names; each name is looked up once. A code stands for a photo, or for a refused one."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.files: list[PhotoSource] = []
        self.file_of: list[int] = []
        """Index of the file by code, -1 for a refused photo."""
        self.problems: dict[int, tuple[str | bytes, str]] = {}
        """By code, the name of a refused photo and the reason."""
        self._number: dict[PhotoSource, int] = {}
        self._code: dict[int, int] = {}
        self._codes: dict[tuple[object, ...], list[int]] = {}

    def column(self, frame: pd.DataFrame, rule: PhotoRule) -> Int64[np.ndarray, "rows slots"]:
        """Codes of the photos of every cell, padded with -1."""
        cells = frame[rule.column]
        others = [name for name in rule.columns if name != rule.column]
        if others:
            every = zip(*(frame[name] for name in (rule.column, *others)), strict=True)
            cells = pd.Series(
                [tuple(map(cell_text, row)) if cell_text(row[0]) else None for row in every], dtype=object
            )
        elif cells.dtype == object:
            # Not by map, whose result would be inferred to be text, which half a surrogate pair is not.
            cells = pd.Series([_hashable(cell) for cell in cells], dtype=object)
        if cells.dtype == object:
            codes, distinct = pd.factorize(_as_objects(cells))
        else:
            codes, distinct = pd.factorize(cells)
        rule = rule.below(self.tree)
        split = []
        for cell in distinct:
            beside = dict(zip(others, cell[1:], strict=True)) if others else {}
            split.append(self._of_cell(rule, _hashable(cell[0]) if others else cell, beside))
        width = max([1, *map(len, split)])
        # A missing cell has the code -1, which selects the last line; that line is empty.
        lines = np.full((len(split) + 1, width), -1, dtype=np.int64)
        for line, found in zip(lines, split, strict=False):
            line[: len(found)] = found
        return lines[codes]

    def _of_cell(self, rule: PhotoRule, cell: object, beside: dict[str, str]) -> list[int]:
        if isinstance(cell, tuple):
            return [code for one in cell for code in self._of_cell(rule, one, beside)]
        found: list[int] = []
        for name in ([cell] if cell else []) if isinstance(cell, bytes) else rule.names(cell):
            key = (rule.column, name, *beside.values())
            if key not in self._codes:
                self._codes[key] = self._of_name(rule, name, beside)
            found += self._codes[key]
        return found

    def _of_name(self, rule: PhotoRule, name: str | bytes, beside: dict[str, str]) -> list[int]:
        try:
            if isinstance(name, str) and not is_base64_photo(name):
                return [self._add(file) for file in rule.find(self.tree, name, beside)]
            return [self._add(name if isinstance(name, bytes) else decode_base64(name))]
        except ImageError as error:
            self.file_of.append(-1)
            self.problems[len(self.file_of) - 1] = (name, str(error))
            return [len(self.file_of) - 1]

    def _add(self, file: PhotoSource) -> int:
        key = hashlib.sha256(file).digest() if isinstance(file, bytes) else file
        number = self._number.setdefault(key, len(self.files))
        if number == len(self.files):
            self.files.append(file)
        if number not in self._code:
            self._code[number] = len(self.file_of)
            self.file_of.append(number)
        return self._code[number]


def _hashable(cell: object) -> object:
    if isinstance(cell, bytearray):
        return bytes(cell)
    return tuple(cell) if isinstance(cell, list | np.ndarray) else cell


def _as_objects(cells: pd.Series) -> pd.Series:
    """Cells in an object array, in which a tuple stays a single cell."""
    values = np.empty(len(cells), dtype=object)
    for place, cell in enumerate(cells):
        values[place] = cell
    return pd.Series(values, dtype=object)


def _in_order_of_use(
    slots: Int64[np.ndarray, "rows slots"], file_count: int
) -> tuple[Int64[np.ndarray, "rows slots"], Int64[np.ndarray, " files"]]:
    """Renumber the files by first use, row by row; returns the new slots and the old number of each file."""
    order = pd.unique(slots[slots >= 0])
    new_number = np.full(file_count + 1, -1, dtype=np.int64)  # the last entry is for the -1 of empty slots
    new_number[order] = np.arange(len(order))
    return new_number[slots], order
