"""Photos that lie on another file system: their bytes, read by several threads, as the cells of a table name them.

In: the image columns of some rows, and a folder such as s3://bucket/photos. Out: ``Photos`` whose files are bytes.
Cells are untrusted input: they never lead outside the folder."""

import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd

from mixfit.data.bad_inputs import BadInput
from mixfit.data.photos.archive import PhotoSource
from mixfit.data.photos.cells import decode_base64, is_base64_photo, shown_cell
from mixfit.data.photos.decode import MAX_BYTES, ImageError
from mixfit.data.photos.find import Photos
from mixfit.data.photos.rule import PhotoRule
from mixfit.data.photos.shards import photo_key
from mixfit.data.places import Place, is_url
from mixfit.errors import ConfigError, DataError

_THREADS = 16
"""Files that are fetched at the same time: most of the time is waiting."""


def fetch_photos(
    frame: pd.DataFrame, columns: Sequence[str], root: Place, rules: Sequence[PhotoRule] = ()
) -> tuple[Photos, list[str]]:
    """The photos of some rows, and the name of each: its path below the folder, or the sha256 of bytes in a cell.

    Args:
        frame: the rows; a column that it lacks has no photos.
        columns: its image columns, whose cells hold paths, URLs below ``root``, or bytes.
        root: the folder.
        rules: separators of several paths in a cell.
    Raises:
        ConfigError: a rule is not about paths; only a folder of this machine can be searched.
    """
    by_column = {rule.column: rule for rule in rules}
    cells: dict[str, list[list[str | bytes]]] = {}
    for column in columns:
        rule = by_column.get(column, PhotoRule.plain(column))
        if rule.pattern != f"{{{column}}}":
            raise ConfigError(
                f"Photos in {root.shown} are found by their paths only, and {column!r} names them by "
                f"{rule.describe()}: write the paths into the table."
            )
        there = frame[column] if column in frame.columns else [None] * len(frame)
        cells[column] = [_named(rule, cell) for cell in there]
    wanted = list(dict.fromkeys(name for lists in cells.values() for names in lists for name in names))
    with ThreadPoolExecutor(_THREADS, "mixfit-fetch") as pool:
        contents = dict(zip(wanted, pool.map(partial(_content, root), wanted), strict=True))
    files, names, number = list[PhotoSource](), list[str](), dict[str, int]()
    blocks, bad, slot_columns = [np.empty((len(frame), 0), dtype=np.int64)], list[BadInput](), list[str]()
    for column, lists in cells.items():
        block = np.full((len(frame), max([1, *map(len, lists)])), -1, dtype=np.int64)
        for row, named in enumerate(lists):
            for place, name in enumerate(named):
                key, content = contents[name]
                if isinstance(content, str):
                    value, action = shown_cell(name), "photo treated as missing"
                    bad.append(BadInput(row=row, column=column, value=value, problem=content, action=action))
                    continue
                if key not in number:
                    number[key] = len(files)
                    files.append(content)
                    names.append(key)
                block[row, place] = number[key]
        blocks.append(block)
        slot_columns += [column] * block.shape[1]
    found = Photos(
        files=tuple(files),
        slots=np.concatenate(blocks, axis=1),
        slot_columns=tuple(slot_columns),
        bad=bad,
        missing_cells={column: sum(not named for named in lists) for column, lists in cells.items()},
    )
    return found, names


def _named(rule: PhotoRule, cell: object) -> list[str | bytes]:
    """The names, or the bytes, in a cell."""
    if isinstance(cell, bytes | bytearray):
        return [bytes(cell)]
    if isinstance(cell, list | tuple | np.ndarray):
        return [name for one in cell for name in _named(rule, one)]
    return list(rule.names(cell))


def _content(root: Place, name: str | bytes) -> tuple[str, bytes | str]:
    """Name of a photo and its bytes, or the problem."""
    try:
        if isinstance(name, bytes):
            return photo_key(name, ""), name
        if is_base64_photo(name):
            content = decode_base64(name)
            return photo_key(content, ""), content
        path = _below(root, name)
        return path, root.below(path).read(MAX_BYTES)
    except ImageError as error:
        return "", str(error)
    except DataError as error:
        gone = isinstance(error.__cause__, FileNotFoundError)
        return "", "is missing" if gone else "cannot be read"


def _below(root: Place, name: str) -> str:
    """The path of a photo below the folder."""
    url = root.shown.partition("?")[0].rstrip("/") + "/"
    name = name.removeprefix(url)
    if is_url(name):
        raise ImageError(f"is a URL outside of {url}")
    path = posixpath.normpath(name.replace("\\", "/"))
    if path.startswith(("/", "..")):
        raise ImageError("leads outside the images folder; set the correct folder with --images DIR")
    return path
