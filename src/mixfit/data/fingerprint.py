"""Detect changes of a table or its photos: a short fingerprint of each, equal as long as nothing changes.

In: the table's file and its photos. Out: ``Fingerprint``. Photos are compared by size and modification time, because
reading them all would take as long as training; a copy of a folder with new modification times counts as changed."""

import hashlib
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64

from mixfit.choices import NUMBER_TASKS
from mixfit.data.columns.cells import Cells, Table
from mixfit.data.columns.schema import Schema
from mixfit.data.photos.archive import ArchivedPhoto, PhotoSource
from mixfit.data.photos.cells import is_bytes_column
from mixfit.data.photos.find import Photos
from mixfit.errors import ChangedFileError, DataError
from mixfit.files import Count, from_plain, read_json

FINGERPRINT_FILE = "fingerprint.json"
"""Name of the file that ``mixfit inspect`` writes beside the schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Fingerprint of a table and of the photos that it names."""

    table_sha256: str
    photos_sha256: str
    """Digest of size and modification time of every photo file, in order of use; photos stored in the table itself are
    covered by ``table_sha256``."""
    photos: Count
    """Number of photo files found."""
    photo_bytes: Count
    text_model: str = ""
    """Digest of the files of the sentence encoder; "" for none."""

    @classmethod
    def of(cls, table: Path, photos: Photos | None, text_model: str = "") -> "Fingerprint":
        """Compute it from the files as they are now."""
        with table.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest, found, total = hashlib.sha256(), 0, 0
        for photo in () if photos is None else photos.files:
            size, changed = _size_and_time(photo)
            digest.update(f"{size} {changed}\n".encode())
            found, total = found + (size >= 0), total + max(size, 0)
        return cls(
            table_sha256=content,
            photos_sha256=digest.hexdigest(),
            photos=found,
            photo_bytes=total,
            text_model=text_model,
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Fingerprint | None":
        """Read the result of ``dataclasses.asdict``; other keys are ignored. None if it is absent or damaged."""
        match data:
            case {
                "table_sha256": str(table),
                "photos_sha256": str(photos),
                "photos": int(count),
                "photo_bytes": int(size),
            }:
                model = str(data.get("text_model", ""))
                return cls(table_sha256=table, photos_sha256=photos, photos=count, photo_bytes=size, text_model=model)
        return None

    def changes_since(self, then: "Fingerprint", when: str) -> list[str]:
        """What has changed, one sentence each; empty if nothing has."""
        changed = []
        if self.table_sha256 != then.table_sha256:
            changed.append(f"the table has changed since {when}: its bytes differ")
        if self.photos_sha256 != then.photos_sha256:
            before, now = (f"{one.photos:,} files with {one.photo_bytes:,} bytes" for one in (then, self))
            changed.append(
                f"photos may have changed since {when}: {now}, as then, but single sizes or times of change differ"
                if before == now
                else f"the photos have changed since {when}: {before} then, {now} now"
            )
        if then.text_model and self.text_model and self.text_model != then.text_model:
            changed.append(f"the text model has changed since {when}: its files differ")
        return changed


def read_fingerprint(path: Path) -> Fingerprint | None:
    """Read a fingerprint from a JSON file; None if there is no such file, or it holds something else."""
    try:
        found = from_plain(Fingerprint, read_json(path))
    except ChangedFileError:
        raise
    except DataError:
        return None
    digests = (found.table_sha256, found.photos_sha256)
    return found if all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests) else None


def _size_and_time(photo: PhotoSource) -> tuple[int, int]:
    """In bytes and nanoseconds (checksum instead of time for an entry of an archive); -1 and 0 for a missing file."""
    if not isinstance(photo, Path):
        return len(photo), photo.crc if isinstance(photo, ArchivedPhoto) else 0
    try:
        found = photo.stat()
    except OSError:
        return -1, 0
    return found.st_size, found.st_mtime_ns


def row_prints(table: Table, schema: Schema) -> Int64[np.ndarray, " rows"]:
    """A number for each row, equal for rows with the same values in the columns that the model sees and the target, in
    whatever file, order or way of writing; of a path of a photo only its name counts.

    Args:
        table: as ``schema.table`` reads it, with all of these columns.
    """
    found = np.zeros(len(table), dtype=np.uint64)
    for name in (*schema.inputs, schema.target):
        cells, column = table[name], next(one for one in schema.columns if one.name == name)
        number = column.role == "number" or (column.role == "target" and schema.task in NUMBER_TASKS)
        values = _number_prints(cells) if number else _level_prints(cells, paths=column.role == "image")
        # Multiplied by an odd number for each column, so that the columns may stand in any order.
        found += _mixed(values) * np.uint64(2 * zlib.crc32(name.encode()) + 1)
    return _mixed(found).view(np.int64)


def _mixed(values: np.ndarray) -> np.ndarray:
    return pd.util.hash_array(values)


def _number_prints(cells: Cells) -> np.ndarray:
    values = cells.numbers.values
    return _mixed(np.where(np.isnan(values), np.nan, values + 0.0))  # -0.0 is 0.0, and every nan is one


def _level_prints(cells: Cells, *, paths: bool) -> np.ndarray:
    if is_bytes_column(cells.column):
        return np.zeros(len(cells), dtype=np.uint64)
    levels = cells.levels
    names = levels.names.str.replace(r"[^;|,]*[/\\]", "", regex=True) if paths and len(levels.names) else levels.names
    return np.append(_mixed(names.to_numpy(dtype=object)), np.uint64(0))[levels.codes]
