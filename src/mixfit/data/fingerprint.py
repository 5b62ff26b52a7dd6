"""Whether a table and its photos are still what they were: a short text for each, equal while nothing changes.

In: the table's file and its photos. Out: ``Fingerprint``. Photos are told apart by size and time of change, as reading
them all would take as long as training does; a copy of a folder that loses the times counts as changed."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixfit.data.photos.archive import ArchivedPhoto, PhotoSource
from mixfit.data.photos.find import Photos
from mixfit.errors import DataError
from mixfit.files import Count, from_plain, read_json

FINGERPRINT_FILE = "fingerprint.json"
"""Where ``mixfit inspect`` writes it, beside the schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Of a table and the photos that it names."""

    table_sha256: str
    photos_sha256: str
    """Of size and time of change of every file in the order of use; photos in the table itself count by the table."""
    photos: Count
    """Files that were there."""
    photo_bytes: Count

    @classmethod
    def of(cls, table: Path, photos: Photos | None) -> "Fingerprint":
        """Look at the files now."""
        with table.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest, found, total = hashlib.sha256(), 0, 0
        for photo in () if photos is None else photos.files:
            size, changed = _size_and_time(photo)
            digest.update(f"{size} {changed}\n".encode())
            found, total = found + (size >= 0), total + max(size, 0)
        return cls(table_sha256=content, photos_sha256=digest.hexdigest(), photos=found, photo_bytes=total)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Fingerprint | None":
        """What ``dataclasses.asdict`` gave, perhaps among other things; None when it is not there or damaged."""
        match data:
            case {
                "table_sha256": str(table),
                "photos_sha256": str(photos),
                "photos": int(count),
                "photo_bytes": int(size),
            }:
                return cls(table_sha256=table, photos_sha256=photos, photos=count, photo_bytes=size)
        return None

    def changes_since(self, then: "Fingerprint", when: str) -> list[str]:
        """What is no longer as it was, one sentence each; none when all is equal."""
        changed = []
        if self.table_sha256 != then.table_sha256:
            changed.append(f"the table is not the one of {when}: its bytes differ")
        if self.photos_sha256 != then.photos_sha256:
            changed.append(
                f"the photos changed since {when}: {then.photos:,} files of {then.photo_bytes:,} bytes then, "
                f"{self.photos:,} files of {self.photo_bytes:,} bytes now"
            )
        return changed


def read_fingerprint(path: Path) -> Fingerprint | None:
    """The one that a JSON file holds; None when there is no such file, or it says something else."""
    try:
        found = from_plain(Fingerprint, read_json(path))
    except DataError:
        return None
    digests = (found.table_sha256, found.photos_sha256)
    return found if all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests) else None


def _size_and_time(photo: PhotoSource) -> tuple[int, int]:
    """In bytes and nanoseconds (of an entry of an archive its checksum); -1 and 0 for a file that is gone."""
    if not isinstance(photo, Path):
        return len(photo), photo.crc if isinstance(photo, ArchivedPhoto) else 0
    try:
        found = photo.stat()
    except OSError:
        return -1, 0
    return found.st_size, found.st_mtime_ns
