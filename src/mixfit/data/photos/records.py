"""The cache folder, and stores of fixed-size records in it, which are looked up by text keys."""

import json
import os
import shutil
import sqlite3
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt32

from mixfit.config import DataConfig
from mixfit.data.photos.shards import StoredFeatures
from mixfit.errors import ResourceError
from mixfit.files import explained, write_file

if sys.platform != "win32":
    import fcntl

DESCRIPTION, INDEX, RECORDS, LOCK = "mixfit-store.json", "index.sqlite", "records.bin", "lock"
_TABLE = "CREATE TABLE records (key TEXT PRIMARY KEY, place INTEGER UNIQUE, crc INTEGER, problem TEXT)"
_KEYS_PER_QUERY = 500
# These errors concern the disk or other processes; every other SQLite error means that the index is damaged.
_PASSING = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
}
PATIENCE = 60.0
"""How long, in seconds, to wait for another process that holds the store but adds no records."""
OWN_FILES = (RECORDS, INDEX, f"{INDEX}-journal", LOCK, DESCRIPTION)


class InUse(ResourceError):  # noqa: N818 - named after the condition
    """Another process is writing to the store."""


def _say_nothing(text: str) -> None:
    """Of a cache that a user has disabled nobody wants to hear that it is full."""


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """A cache folder and its settings."""

    folder: Path
    limit_bytes: int
    warn: Callable[[str], None] = _warn
    """Called with a sentence if the cache cannot be used; the work continues without it."""
    progress: bool = False
    """Show a progress bar while photos are decoded, if there is a terminal."""
    wait: bool = True
    """Whether to wait for another process that is filling the cache; if not, missing records are computed, not kept."""
    stored: StoredFeatures | None = None
    """Features that ``mixfit embed`` computed, which are looked up first."""

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, which warns in its own way."""
        same: dict[str, Any] = {
            "folder": self.folder,
            "limit_bytes": self.limit_bytes,
            "wait": self.wait,
            "stored": self.stored,
        }
        return partial(Cache, **same), ()

    @classmethod
    def configured(
        cls,
        config: DataConfig,
        *,
        warn: Callable[[str], None] | None = None,
        progress: bool = False,
        stored: StoredFeatures | None = None,
    ) -> "Cache | None":
        """The cache according to the settings; None if caching is disabled and there are no stored features."""
        if config.cache_gb == 0 and stored is None:
            return None
        folder = default_folder() if config.cache is None else config.cache
        limit = int(config.cache_gb * 1e9)
        say = warn or _warn if limit else _say_nothing
        return cls(folder=folder, limit_bytes=limit, warn=say, progress=progress, stored=stored)

    def check_room(self, needed: int) -> None:
        """Check, before anything is written, that ``needed`` more bytes fit.

        Raises:
            ResourceError: the limit or the free space of the disk is too small for ``needed`` more bytes.
        """
        used = sum(store.bytes for store in list_stores(self.folder))
        if used + needed > self.limit_bytes:
            raise ResourceError(
                f"The cache {self.folder} holds {used:,} bytes and would need {needed:,} more, but its limit is "
                f"{self.limit_bytes:,}: raise the limit with --cache-gb, or empty the cache with mixfit cache --clear."
            )
        with suppress(OSError):
            disk = shutil.disk_usage(_existing_parent(self.folder))
            if needed + min(_RESERVE_BYTES, disk.total * _RESERVE_SHARE) > disk.free:
                raise ResourceError(
                    f"The cache {self.folder} needs {needed:,} bytes, but the disk has {disk.free:,} free: "
                    "free some space, or choose a folder on another disk with --cache."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFolder:
    """One store in the cache."""

    folder: Path
    records: int
    bytes: int


def default_folder() -> Path:
    """``MIXFIT_CACHE``, or ``mixfit`` in the user's cache folder."""
    if chosen := os.environ.get("MIXFIT_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "mixfit" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mixfit"
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # According to the specification of XDG_CACHE_HOME, relative paths must be ignored.
    return (base if base.is_absolute() else Path.home() / ".cache") / "mixfit"


def list_stores(folder: Path) -> list[StoreFolder]:
    """The stores in a cache folder, sorted by name; other folders and links are skipped."""
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return []
    return [
        StoreFolder(
            folder=path, records=_count(path / INDEX), bytes=sum(_disk_bytes(path / name) for name in OWN_FILES)
        )
        for path in inside
        if not path.is_symlink() and (path / DESCRIPTION).is_file()
    ]


def clear(folder: Path) -> tuple[list[StoreFolder], list[StoreFolder]]:
    """Remove all stores that no process is writing to. Other files, and folders that contain such files, are kept.

    A process that is reading a store can continue; the disk space is released when that process ends.

    Returns:
        The stores that were removed and those that were in use.
    Raises:
        ResourceError: a file cannot be removed.
    """
    removed, kept = [], []
    for store in list_stores(folder):
        try:
            with lock(store.folder, patience=0.0):
                for name in OWN_FILES:
                    (store.folder / name).unlink(missing_ok=True)
        except InUse:
            kept.append(store)
            continue
        except ResourceError as error:
            reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else str(error)
            raise ResourceError(f"{store.folder} cannot be removed: {reason}.") from error
        except OSError as error:
            raise ResourceError(f"{store.folder} cannot be removed: {error.strerror}.") from error
        removed.append(store)
        with suppress(OSError):  # not empty
            store.folder.rmdir()
    with suppress(OSError):
        folder.rmdir()
    return removed, kept


def _count(index: Path) -> int:
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(index.absolute().as_uri() + "?mode=rw", uri=True)) as database,
    ):
        return int(database.execute("SELECT COUNT(*) FROM records").fetchone()[0])
    return 0


def _disk_bytes(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _existing_parent(folder: Path) -> Path:
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """The result of a lookup, in the order of the keys."""

    places: Int64[np.ndarray, " keys"]
    """Number of the record; -1 if there is none."""
    checksums: UInt32[np.ndarray, " keys"]
    problems: dict[int, str]
    """Position of a key in the query -> the permanent reason why it has no record."""

    @property
    def missing(self) -> Int64[np.ndarray, " missing"]:
        """Positions of the keys about which nothing is stored."""
        unknown = self.places < 0
        unknown[list(self.problems)] = False
        return np.flatnonzero(unknown)


class ReadRecords(NamedTuple):
    """The outcome of reading records; a record that is neither ok nor lost could not be read due to a disk error."""

    ok: Bool[np.ndarray, " records"]
    """The record was copied."""
    lost: Bool[np.ndarray, " records"]
    """The file ends before the record does."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fetched:
    """Records for some keys; positions refer to the keys in the query."""

    positions: Int64[np.ndarray, " records"]
    """Positions of the keys with undamaged records."""
    records: np.ndarray
    """``(records, *shape)``."""
    problems: dict[int, str]
    """As in ``Found``."""
    missing: Int64[np.ndarray, " missing"]
    """Positions of the keys about which nothing is stored, or whose record is damaged."""


def _read_at(descriptor: int, out: np.ndarray, offset: int) -> int:
    """Fill ``out``, uint8 ``(bytes,)``, from this place of a file, and return how many bytes there were."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [out.data], offset)
    with _SEEKING:  # where a file has one position for all threads
        os.lseek(descriptor, offset, os.SEEK_SET)
        data = os.read(descriptor, len(out))
    out[: len(data)] = np.frombuffer(data, np.uint8)
    return len(data)


_SEEKING = threading.Lock()


class RecordReader:
    """Reads records by number, from any thread or process, without a lock."""

    def __init__(self, path: Path, *, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        self._record_bytes = int(np.prod(shape)) * dtype.itemsize
        self._opened: list[int] = []

    def read(self, places: Int64[np.ndarray, " records"], out: np.ndarray) -> ReadRecords:
        """Copy records into ``out``, C-contiguous ``(records, *shape)``."""
        if out.shape != (len(places), *self.shape) or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(f"out must be contiguous {self.dtype} {(len(places), *self.shape)}, got {out.shape}")
        ok, lost = np.zeros((2, len(places)), dtype=np.bool_)
        size, rows = self._record_bytes, out.reshape(-1).view(np.uint8).reshape(len(places), self._record_bytes)
        with suppress(OSError):
            descriptor = self._descriptor()
            for position, place in enumerate(places.tolist()):
                with suppress(OSError):  # the other records may still be readable
                    ok[position] = _read_at(descriptor, rows[position], place * size) == size
                    lost[position] = not ok[position]
        return ReadRecords(ok, lost)

    def _descriptor(self) -> int:
        if not self._opened:
            # If several threads get here at once, all use the first in the list; the others are closed in __del__.
            wanted = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_BINARY"))  # neither is on all systems
            self._opened.append(os.open(self.path, os.O_RDONLY | wanted))
        return self._opened[0]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_opened": []}

    def __del__(self) -> None:
        for descriptor in getattr(self, "_opened", ()):
            with suppress(OSError, TypeError):
                os.close(descriptor)


class RecordStore:
    """A folder of records of one shape. It can be pickled, and used in forked processes and in threads.

    Args:
        folder: created by the first ``append``; nothing is written before.
        shape, dtype: of one record.
        about: one line of description, for users who look into the folder.
        wait: whether to wait for other processes that hold the store; if not, it is neither written nor read then.
    """

    def __init__(
        self, folder: Path, *, shape: tuple[int, ...], dtype: type[np.generic], about: str = "", wait: bool = True
    ) -> None:
        self.folder, self.shape, self.about, self.wait = folder, shape, about, wait
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.record_bytes = int(np.prod(shape)) * self.dtype.itemsize

    def find(self, keys: Sequence[str]) -> Found:
        """Look up keys. A store that cannot be read, or is not a store, has none.

        Returns:
            Record numbers for ``read``; index entries beyond the end of the record file count as missing."""
        places = np.full(len(keys), -1, dtype=np.int64)
        checksums = np.zeros(len(keys), dtype=np.uint32)
        problems: dict[int, str] = {}
        rows: dict[str, tuple[int | None, int, str | None]] = {}
        count = 0
        with suppress(sqlite3.Error, OSError), closing(self._connect(write=False)) as index:
            for start in range(0, len(keys) if self._described() else 0, _KEYS_PER_QUERY):
                part = keys[start : start + _KEYS_PER_QUERY]
                query = f"SELECT key, place, crc, problem FROM records WHERE key IN ({','.join('?' * len(part))})"
                rows |= {key: (place, crc, problem) for key, place, crc, problem in index.execute(query, part)}
            count = _file_size(self.folder / RECORDS) // self.record_bytes
        for position, key in enumerate(keys):
            place, crc, problem = rows.get(key, (None, 0, None))
            if isinstance(place, int) and isinstance(crc, int) and 0 <= place < count:
                places[position], checksums[position] = place, crc & 0xFFFFFFFF
            elif isinstance(problem, str) and crc == zlib.crc32(problem.encode(), zlib.crc32(key.encode())):
                problems[position] = problem
        return Found(places=places, checksums=checksums, problems=problems)

    def fetch(self, keys: Sequence[str]) -> Fetched:
        """Look up keys and read their records; damaged records are removed from the index."""
        found = self.find(keys)
        stored = np.flatnonzero(found.places >= 0)
        records = np.empty((len(stored), *self.shape), dtype=self.dtype)
        read, lost = self.reader().read(found.places[stored], records)
        for row, position in enumerate(stored.tolist()):
            if read[row] and not matches(keys[position], records[row], int(found.checksums[position])):
                read[row], lost[row] = False, True
        gone = stored[lost]
        self.forget([keys[position] for position in gone.tolist()], found.places[gone], found.checksums[gone])
        return Fetched(
            positions=stored[read],
            records=records if read.all() else records[read],
            problems=found.problems,
            missing=np.sort(np.concatenate([found.missing, stored[~read]])),
        )

    @contextmanager
    def writing(self, *, waiting: Callable[[], None] | None = None, patience: float = PATIENCE) -> Iterator[None]:
        """Be the only writer while the block runs; call ``append`` only within such a block.

        Args:
            waiting: called once if it is necessary to wait for another writer.
            patience: how long, in seconds, to wait for a writer that adds no records; 0 in a store that does not wait.
        Raises:
            ResourceError: the folder cannot be created or written, or another process holds the store but is idle.
        """
        if sys.platform == "win32":
            raise ResourceError(f"The cache in {self.folder} needs file locks that Windows does not have.")
        with lock(self.folder, waiting=waiting, patience=patience if self.wait else 0.0):
            with _disk_errors(self.folder):
                self._repair()
            yield

    def append(
        self, keys: Sequence[str], records: np.ndarray, problems: dict[str, str] | None = None
    ) -> tuple[Int64[np.ndarray, " keys"], UInt32[np.ndarray, " keys"]]:
        """Add records, all or none; an existing key then points to its new record.

        Args:
            keys: one for each record.
            records: ``(keys, *shape)``.
            problems: for keys without a record, the reason.
        Returns:
            Number and checksum of each record.
        Raises:
            ResourceError: the disk is full or not writable.
        """
        records = np.ascontiguousarray(records, dtype=self.dtype).reshape(len(keys), *self.shape)
        data = records.reshape(-1).view(np.uint8).data
        crcs = [_checksum(key, record) for key, record in zip(keys, records, strict=True)]
        bad = [(key, None, _checksum(key, text.encode()), text) for key, text in (problems or {}).items()]
        with _disk_errors(self.folder, len(data)), closing(self._connect(write=True)) as index:
            index.execute("BEGIN IMMEDIATE")
            (first,) = index.execute("SELECT COALESCE(MAX(place) + 1, 0) FROM records").fetchone()
            # After everything in the file, committed or not: a reader may know of records that the index has lost.
            first = max(first, -(-_file_size(self.folder / RECORDS) // self.record_bytes))
            if len(data):
                self._write(first * self.record_bytes, data)
            places = range(first, first + len(keys))
            rows = [*zip(keys, places, crcs, [None] * len(keys), strict=True), *bad]
            index.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", rows)
            index.execute("COMMIT")
        return np.arange(first, first + len(keys)), np.array(crcs, dtype=np.uint32)

    def forget(self, keys: Sequence[str], places: Int64[np.ndarray, " keys"], checksums: np.ndarray) -> None:
        """Remove damaged records from the index, so that the next writer recreates them; their numbers are not reused.

        Only if the index entry is still the one that ``find`` returned: another process may have recreated it."""
        rows = zip(keys, places.tolist(), checksums.tolist(), strict=True)
        update = "UPDATE records SET key = 'damaged ' || place WHERE key = ? AND place = ? AND crc & 4294967295 = ?"
        with suppress(sqlite3.Error, OSError), closing(self._connect(write=True)) as index:
            index.executemany(update, list(rows))

    def reader(self) -> "RecordReader":
        """Read-only access to the current records."""
        return RecordReader(self.folder / RECORDS, shape=self.shape, dtype=self.dtype)

    @property
    def _description(self) -> dict[str, object]:
        return {"about": self.about, "shape": list(self.shape), "dtype": self.dtype.name}

    def _described(self) -> bool:
        """Whether the description in the folder matches this store."""
        with suppress(FileNotFoundError, ValueError):
            return bool(json.loads((self.folder / DESCRIPTION).read_text(encoding="utf-8")) == self._description)
        return False

    def _connect(self, *, write: bool) -> sqlite3.Connection:
        """A connection for one operation: a connection must not be used across a fork.

        Readers also open for writing if possible, to roll back an incomplete transaction of a killed writer. SQLite
        does not wait for the disk (synchronous = OFF)."""
        uri = f"{(self.folder / INDEX).absolute().as_uri()}?mode={'rwc' if write else 'rw'}"
        connection = sqlite3.connect(uri, uri=True, timeout=30 if self.wait else 0, isolation_level=None)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    def _repair(self) -> None:
        """Recreate the store if the index is missing or damaged, or does not match the records.

        The old files are unlinked, never overwritten: a reader that has them open can still read its records."""
        if self._described() and self._index_is_whole():
            return
        for name in (INDEX, f"{INDEX}-journal", RECORDS):
            (self.folder / name).unlink(missing_ok=True)
        write_file(self.folder / DESCRIPTION, json.dumps(self._description))
        with closing(self._connect(write=True)) as index:
            index.execute(_TABLE)

    def _index_is_whole(self) -> bool:
        """Whether the index has this format, is undamaged, and all its records are in the file."""
        count = _file_size(self.folder / RECORDS) // self.record_bytes
        try:
            with closing(self._connect(write=True)) as index:
                schema = index.execute("SELECT sql FROM sqlite_master WHERE name = 'records'").fetchone()
                if schema != (_TABLE,) or index.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                    return False
                query = "SELECT COUNT(*) FROM records WHERE place < 0 OR place >= ?"
                return bool(index.execute(query, (count,)).fetchone() == (0,))
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING:
                raise
            return False

    def _write(self, offset: int, data: memoryview) -> None:
        """Reserve the space, then fill it: a full disk is detected before anything is written."""
        descriptor = os.open(self.folder / RECORDS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, offset, len(data))
            written = 0
            while written < len(data):
                written += os.pwrite(descriptor, data[written:], offset + written)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, offset)  # there are no committed records beyond: readers never look there
            raise
        finally:
            os.close(descriptor)


@contextmanager
def lock(folder: Path, *, waiting: Callable[[], None] | None = None, patience: float = PATIENCE) -> Iterator[None]:
    """Keep other writers out of a store while the block runs; arguments and errors as in ``RecordStore.writing``."""
    if sys.platform == "win32":
        raise ResourceError(f"The cache in {folder} needs file locks that Windows does not have.")
    path, size, since = folder / LOCK, -1, time.monotonic()
    while True:
        with explained(folder, None):
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                break
            os.close(descriptor)  # the cache was cleared in the meantime: this was the lock of a removed store
        except FileNotFoundError:
            os.close(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            if waiting is not None and patience > 0:
                waiting()
                waiting = None
            with suppress(OSError):
                if (now := _file_size(folder / RECORDS)) != size:
                    size, since = now, time.monotonic()
            if time.monotonic() - since >= patience:
                since_when = f" and has added nothing for {patience:.0f} s" if patience else ""
                raise InUse(f"Another process holds the cache in {folder}{since_when}.") from None
            time.sleep(0.1)
        except OSError as error:  # some network file systems do not support locks
            os.close(descriptor)
            raise ResourceError(f"The cache in {folder} cannot be locked: {error.strerror}.") from error
    try:
        yield
    finally:
        # Closing alone would not release the lock if a process forked in the meantime has the file open, too.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _file_size(path: Path) -> int:
    """Size in bytes, 0 if there is no file; any other ``OSError`` is raised, because the size is unknown then."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def matches(key: str, record: np.ndarray, checksum: int) -> bool:
    """Whether a record is the one that was stored under this key."""
    return _checksum(key, record) == checksum


def _checksum(key: str, record: np.ndarray | bytes) -> int:
    # The key is included, so that an index that swaps two records is detected, too.
    data = record if isinstance(record, bytes) else record.reshape(-1).view(np.uint8).data
    return zlib.crc32(data, zlib.crc32(key.encode()))


@contextmanager
def _disk_errors(folder: Path, size: int | None = None) -> Iterator[None]:
    """Convert errors of SQLite and the system, such as a full or read-only disk, to a ResourceError with the sizes."""
    with explained(folder / RECORDS, size):
        try:
            yield
        except sqlite3.Error as error:
            raise OSError(None, str(error)) from error


_RESERVE_BYTES, _RESERVE_SHARE = 1_000_000_000, 0.05
