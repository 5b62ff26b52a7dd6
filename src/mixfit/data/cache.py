"""The cache folder: where it is, what is in it, how much may be in it, and how it is cleared.

In: settings. Out: ``Cache``, for the stores of photos and of features, each of which is one folder in it.
Knows nothing of what the records mean."""

import os
import shutil
import sqlite3
import sys
import warnings
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from mixfit.config import DataConfig
from mixfit.data.record_store import DESCRIPTION, INDEX, LOCK, RECORDS, lock
from mixfit.errors import ResourceError

OWN_FILES = (RECORDS, INDEX, f"{INDEX}-journal", LOCK, DESCRIPTION)
_RESERVE_BYTES, _RESERVE_SHARE = 1_000_000_000, 0.05


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """A cache folder and how it may be used."""

    folder: Path
    limit_bytes: int
    warn: Callable[[str], None] = _warn
    """Gets a sentence when the cache cannot be used; the work goes on without it."""
    progress: bool = False
    """Show a bar while photos are decoded, if there is a terminal."""

    @classmethod
    def configured(
        cls, config: DataConfig, *, warn: Callable[[str], None] | None = None, progress: bool = False
    ) -> "Cache | None":
        """The cache that the settings ask for; None if they ask for none."""
        if config.cache_gb == 0:
            return None
        folder = default_folder() if config.cache is None else config.cache
        return cls(folder=folder, limit_bytes=int(config.cache_gb * 1e9), warn=warn or _warn, progress=progress)

    def check_room(self, needed: int) -> None:
        """Refuse what would not fit, before anything is written.

        Raises:
            ResourceError: the limit or the free space of the disk is too small for ``needed`` more bytes.
        """
        used = sum(store.bytes for store in list_stores(self.folder))
        if used + needed > self.limit_bytes:
            raise ResourceError(
                f"The cache {self.folder} would need {needed:,} bytes more than the {used:,} it holds, and its limit "
                f"is {self.limit_bytes:,}: raise it with --cache-gb, or clear it with mixfit cache --clear."
            )
        with suppress(OSError):
            disk = shutil.disk_usage(_existing_parent(self.folder))
            if needed + min(_RESERVE_BYTES, disk.total * _RESERVE_SHARE) > disk.free:
                raise ResourceError(
                    f"The cache {self.folder} needs {needed:,} bytes, and the disk has {disk.free:,} free: "
                    "make room, or choose a folder on another disk with --cache."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFolder:
    """One store in the cache."""

    folder: Path
    records: int
    bytes: int


def default_folder() -> Path:
    """``MIXFIT_CACHE``, or ``mixfit`` in the user's folder for caches."""
    if chosen := os.environ.get("MIXFIT_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "mixfit" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mixfit"
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The specification of XDG_CACHE_HOME says that relative paths are to be ignored.
    return (base if base.is_absolute() else Path.home() / ".cache") / "mixfit"


def list_stores(folder: Path) -> list[StoreFolder]:
    """The stores in a cache folder by name; other folders and links are passed over."""
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
    """Remove all stores that no process is writing to. Files that are not ours stay, and folders with such files, too.

    A process that is reading a store goes on with it; its disk space is free when that process ends.

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
        except ResourceError:
            kept.append(store)
            continue
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
