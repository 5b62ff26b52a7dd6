"""Photos in a zip archive, read in place: nothing is unpacked to disk.

In: a zip file. Out: its photos by name; each can be read from any thread or process, because no file is kept open.
Archives are untrusted input: an archive is refused as a whole if an entry leads out of it, is a link, or has a
duplicate name, or if its unpacked size is far larger than its own. The size of each entry is also limited while it is
unpacked, whatever the archive states."""

import os
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from mixfit.errors import DataError

MAX_ENTRIES = 2_000_000
"""Largest number of entries of an archive."""
MAX_RATIO = 100
"""Photos are already compressed, so an archive of photos unpacks to little more than its own size; one that unpacks to
more than this multiple of it, and to more than ``FREE_BYTES``, is a zip bomb."""
FREE_BYTES = 1_000_000_000

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ENCRYPTED = 0x1


class ArchiveError(DataError):
    """An entry that cannot be read; the message states what is wrong, without the location ("is damaged")."""


@dataclass(frozen=True, slots=True)
class ArchivedPhoto:
    """An entry of a zip archive. ``len`` is its size in bytes."""

    archive: Path
    member: str
    """Its name in the archive."""
    start: int
    """Offset of its header in the archive, in bytes."""
    packed: int
    """Compressed size in bytes."""
    size: int
    """Uncompressed size in bytes, as stated in the archive."""
    crc: int
    deflated: bool
    changed: int
    """Modification time of the archive, in nanoseconds."""

    def __len__(self) -> int:
        return self.size

    def __str__(self) -> str:
        return f"{self.archive}/{self.member}"

    @property
    def name(self) -> str:
        """The last part of its name."""
        return self.member.rsplit("/", 1)[-1]

    def read(self, most: int) -> bytes:
        """Its uncompressed bytes, at most ``most``; never more than the archive states.

        Raises:
            ArchiveError: it is damaged or larger than stated.
            OSError: the archive cannot be read.
        """
        wanted = (getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW"))  # none is on all systems
        descriptor = os.open(self.archive, os.O_RDONLY | sum(wanted))
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            if os.fstat(file.fileno()).st_mtime_ns != self.changed:
                raise ArchiveError("is in an archive that has changed since it was opened")
            file.seek(self.start)
            header = file.read(_LOCAL_HEADER.size)
            if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\3\4":
                raise ArchiveError("is damaged in its archive")
            *_, name, extra = _LOCAL_HEADER.unpack(header)
            file.seek(name + extra, os.SEEK_CUR)
            packed = file.read(min(self.packed, most) if not self.deflated else self.packed)
        if not self.deflated:
            data = packed
        else:
            unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                data = unpacker.decompress(packed, min(self.size, most) + 1)
            except zlib.error:
                raise ArchiveError("is damaged in its archive") from None
        if len(data) > self.size:
            raise ArchiveError("unpacks to more bytes than its archive states")
        if len(data) <= most and (len(data) < self.size or zlib.crc32(data) != self.crc) and most >= self.size:
            raise ArchiveError("is damaged in its archive")
        return data[:most]


def read_archive(path: Path) -> dict[str, ArchivedPhoto]:
    """The files of an archive by name, without folders.

    Raises:
        DataError: it is not a zip archive, or is unsafe; the message names the entry.
    """
    try:
        changed, total = path.stat().st_mtime_ns, path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, struct.error) as error:
        raise DataError(f"{path} is not a zip archive, or is damaged.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or 'it is damaged'}.") from error
    if len(entries) > MAX_ENTRIES:
        raise DataError(f"{path} has {len(entries):,} entries; archives of at most {MAX_ENTRIES:,} are read.")
    found: dict[str, ArchivedPhoto] = {}
    seen: set[str] = set()
    for entry in entries:
        _check_entry(path, entry)
        key = unicodedata.normalize("NFC", entry.filename.rstrip("/"))
        if key in seen and not entry.is_dir():
            raise DataError(f"{path} has the entry {entry.filename!r} twice; pack it again with unique names.")
        seen.add(key)
        if not entry.is_dir():
            found[entry.filename] = ArchivedPhoto(
                archive=path,
                member=entry.filename,
                start=entry.header_offset,
                packed=entry.compress_size,
                size=entry.file_size,
                crc=entry.CRC,
                deflated=entry.compress_type == zipfile.ZIP_DEFLATED,
                changed=changed,
            )
    _check_sizes(path, found, total)
    return found


def _check_entry(path: Path, entry: zipfile.ZipInfo) -> None:
    """Refuse entries that do not belong in an archive of photos.

    Raises:
        DataError: with the entry and the reason.
    """
    name = entry.orig_filename  # Python truncates at a NUL, and converts backslashes on Windows
    parts = entry.filename.replace("\\", "/").split("/")
    problem = ""
    if "\0" in name or not entry.filename:
        problem = "has no usable name"
    elif entry.filename.startswith(("/", "\\")) or entry.filename[1:2] == ":":
        problem = "has an absolute path"
    elif ".." in parts:
        problem = "leads out of the archive"
    elif stat.S_ISLNK(entry.external_attr >> 16):
        problem = "is a symbolic link"
    elif entry.flag_bits & _ENCRYPTED:
        problem = "is encrypted"
    elif entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        problem = "has an unsupported compression method (only stored and deflated are supported)"
    if problem:
        shown = name[:200].encode("utf-8", "backslashreplace").decode()
        raise DataError(f"The entry {shown!r} of {path} {problem}, so the archive is refused; pack the photos again.")


def _check_sizes(path: Path, found: Mapping[str, ArchivedPhoto], total: int) -> None:
    """Refuse zip bombs: overlapping entries, and archives that unpack to far more than their size.

    Raises:
        DataError: it is a zip bomb.
    """
    entries = sorted(found.values(), key=lambda entry: entry.start)
    if any(after.start < one.start + one.packed for one, after in pairwise(entries)):
        raise DataError(f"{path} has overlapping entries, as zip bombs have; pack the photos again.")
    unpacked = sum(entry.size for entry in entries)
    if unpacked > max(FREE_BYTES, MAX_RATIO * total):
        raise DataError(
            f"{path} has {total:,} bytes but would unpack to {unpacked:,}, like a zip bomb; pack the photos again."
        )


PhotoSource = Path | bytes | ArchivedPhoto
"""The source of a photo: a file, the bytes of one, or an entry of an archive."""
