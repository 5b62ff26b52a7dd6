"""Photos by number, as tensors: decoded from files on access, or decoded once and kept in the cache folder."""

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import PIL
import torch
from jaxtyping import Bool, Int64, UInt8
from PIL import features

from mixfit.choices import Crop
from mixfit.console import tracked
from mixfit.data.photos.archive import ArchivedPhoto, PhotoSource
from mixfit.data.photos.decode import ImageError, image_header, read_image
from mixfit.data.photos.records import Cache, Found, RecordStore, matches
from mixfit.errors import ConfigError, ResourceError

DECODER_VERSION = 1
"""Increase this whenever ``read_image`` gives different pixels for any file."""
_CHUNK_BYTES = 16_000_000
# These may not occur on the next attempt, even if the file is unchanged.
_PASSING_PROBLEMS = ("is missing", "cannot be read", "does not fit into the memory", "has become a symbolic link")


class ImageFiles:
    """Photos decoded from their files on access, in several threads.

    It can be pickled, and used in forked worker processes: each process starts its own threads and records its own
    failures. Use it as a context manager, or call ``close``, to end the threads early.

    Args:
        files: one photo each.
        size: height and width of the result in pixels.
        crop: how a photo is made square, see ``mixfit.choices.Crop``.
        threads: decoding threads; None for one per available CPU, at most 16.
        follow_links: False for files from ``find_photos``, which are not links, unless replaced by one since.
    Raises:
        ConfigError: ``size`` or ``threads`` is below 1."""

    full_chunks = True
    """Whether a frozen network sees chunks of a fixed size, filled up with black photos: the features of a photo then
    have the same bits whatever the number of others, and one photo takes the time of a chunk."""

    def __init__(
        self,
        files: Sequence[PhotoSource],
        *,
        size: int,
        crop: Crop = "squash",
        threads: int | None = None,
        follow_links: bool = True,
    ) -> None:
        if size < 1:
            raise ConfigError(f"The image size must be at least 1 pixel, got {size}.")
        if threads is not None and threads < 1:
            raise ConfigError(f"The number of decoding threads must be at least 1, got {threads}.")
        self.files = tuple(files)
        self.size = size
        self.crop: Crop = crop
        self.follow_links = follow_links
        self.threads = threads or min(16, _usable_cpus())
        self._failures: dict[int, str] = {}
        # Per process: after a fork, the parent's pool exists without its threads, and its lock may never be released.
        self._pools: dict[int, ThreadPoolExecutor] = {}
        self._locks: dict[int, threading.Lock] = {}

    def __len__(self) -> int:
        return len(self.files)

    @property
    def failures(self) -> dict[int, str]:
        """For each file that was requested and could not be read: its number (ascending) and the reason."""
        return dict(sorted(self._failures.items()))

    def read(
        self, indices: Int64[np.ndarray, " photos"]
    ) -> tuple[UInt8[torch.Tensor, "photos 3 size size"], Bool[torch.Tensor, " photos"]]:
        """Decode photos; a photo that is requested several times is decoded once.

        Args:
            indices: numbers of files, 0 to ``len(self) - 1``, in any order.
        Returns:
            The pixels, values 0..255, all 0 for a file that cannot be read; and a mask of the readable files.
        Raises:
            IndexError: a number is out of range, including -1 (no photo)."""
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise IndexError(f"photo numbers must be 0 to {len(self) - 1}, got {indices.min()} to {indices.max()}")
        pixels = np.zeros((len(indices), 3, self.size, self.size), dtype=np.uint8)
        ok = np.zeros(len(indices), dtype=np.bool_)
        _, first, group = np.unique(indices, return_index=True, return_inverse=True)

        def decode(place: int) -> str | None:
            try:
                photo = read_image(
                    self.files[indices[place]], size=self.size, crop=self.crop, follow_links=self.follow_links
                )
            except ImageError as error:
                return str(error)
            pixels[place] = photo.transpose(2, 0, 1)
            return None

        problems = self._map(decode, first.tolist())
        for place, problem in zip(first.tolist(), problems, strict=True):
            ok[place] = problem is None
            if problem is not None:
                self._failures[int(indices[place])] = problem
        source = first[group]
        repeated = np.flatnonzero(source != np.arange(len(indices)))
        pixels[repeated], ok[repeated] = pixels[source[repeated]], ok[source[repeated]]
        return torch.from_numpy(pixels), torch.from_numpy(ok)

    def close(self) -> None:
        """End the threads after the current reads; a later ``read`` starts new ones."""
        with self._lock():
            pool = self._pools.pop(os.getpid(), None)
        if pool is not None:
            pool.shutdown()

    def __enter__(self) -> "ImageFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pools": {}, "_locks": {}}

    def _lock(self) -> threading.Lock:
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def _map(self, decode: Callable[[int], str | None], places: list[int]) -> list[str | None]:
        if self.threads == 1 or len(places) < 2:
            return [decode(place) for place in places]
        problems: list[str | None] = [None] * len(places)
        numbers = iter(range(len(places)))  # shared: each thread takes the next one, without waiting for others

        def work(_: int) -> None:
            for number in numbers:
                problems[number] = decode(places[number])

        with self._lock():  # so that the pool is not shut down before all work is submitted
            pool = self._pools.get(os.getpid())
            if pool is None:
                pool = self._pools[os.getpid()] = ThreadPoolExecutor(self.threads, "mixfit-decode")
            done = pool.map(work, range(self.threads))  # starts immediately
        list(done)
        return problems


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ImageStore:
    """Photos from a store, or from their files if they are not in the store; created by ``open_image_store``.

    It can be pickled, and used in forked worker processes and in threads.

    Args:
        files: the files of the photos.
        keys: their ``photo_keys``.
        store: the store with the pixels.
        found: the records that the store holds for ``keys``.
        written: numbers of the photos that this process has just stored; all others are verified when first read.
    """

    def __init__(
        self,
        files: ImageFiles,
        keys: Sequence[str],
        store: RecordStore,
        found: Found,
        written: Int64[np.ndarray, " written"] | None = None,
    ) -> None:
        self.source, self.keys, self.store = files, tuple(keys), store
        self.size, self.crop = files.size, files.crop
        self._places, self._checksums, self._problems = found.places, found.checksums, found.problems
        self._broken = np.zeros(len(files), dtype=np.bool_)
        self._broken[list(found.problems)] = True
        self._checked = np.zeros(len(files), dtype=np.bool_)
        self._checked[[] if written is None else written] = True
        self._reader = store.reader()

    def __len__(self) -> int:
        return len(self.source)

    @property
    def files(self) -> tuple[PhotoSource, ...]:
        """The files of the photos."""
        return self.source.files

    @property
    def failures(self) -> dict[int, str]:
        """For each photo that could not be read: its number (ascending) and the reason."""
        return dict(sorted((self._problems | self.source.failures).items()))

    def read(
        self, indices: Int64[np.ndarray, " photos"]
    ) -> tuple[UInt8[torch.Tensor, "photos 3 size size"], Bool[torch.Tensor, " photos"]]:
        """Read photos; if a record is lost or damaged, the photo is decoded from its file again.

        Args:
            indices: numbers of files, 0 to ``len(self) - 1``, in any order.
        Returns:
            The pixels, values 0..255, all 0 for a file that cannot be read; and a mask of the readable files.
        Raises:
            IndexError: a number is out of range, including -1 (no photo)."""
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise IndexError(f"photo numbers must be 0 to {len(self) - 1}, got {indices.min()} to {indices.max()}")
        pixels = torch.empty(len(indices), 3, self.size, self.size, dtype=torch.uint8)
        ok = self._from_store(indices, pixels.numpy())
        if not ok.all():
            rest = np.flatnonzero(~ok)
            pixels[rest] = 0
            rest = rest[~self._broken[indices[rest]]]
            if len(rest):
                pixels[rest], decoded = self.source.read(indices[rest])
                ok[rest] = decoded.numpy()
        return pixels, torch.from_numpy(ok)

    @property
    def is_complete(self) -> bool:
        """Whether all photos are stored, so that none has to be decoded (unless a record turns out to be lost)."""
        return bool(((self._places >= 0) | self._broken).all())

    def close(self) -> None:
        """End the decoding threads; a later ``read`` starts new ones."""
        self.source.close()

    def _from_store(self, indices: Int64[np.ndarray, " photos"], out: np.ndarray) -> Bool[np.ndarray, " photos"]:
        places = self._places[indices]
        if places.size and places.min() >= 0:
            ok, lost = self._reader.read(places, out)
        else:
            stored = np.flatnonzero(places >= 0)
            ok, lost = np.zeros((2, len(indices)), dtype=np.bool_)
            part = np.empty((len(stored), *out.shape[1:]), dtype=np.uint8)
            ok[stored], lost[stored] = self._reader.read(places[stored], part)
            out[stored] = part
        for position in np.flatnonzero(ok & ~self._checked[indices]).tolist():
            number = indices[position]
            ok[position] = matches(self.keys[number], out[position], int(self._checksums[number]))
            self._checked[number] = ok[position]
            lost[position] = not ok[position]
        if lost.any():
            numbers, first = np.unique(indices[lost], return_index=True)
            gone = places[lost][first]
            self._places[numbers] = -1
            self.store.forget([self.keys[number] for number in numbers.tolist()], gone, self._checksums[numbers])
        return ok

    def __getstate__(self) -> dict[str, object]:
        # The files may have changed when another process unpickles this, so it must check the records itself.
        return self.__dict__ | {"_checked": np.zeros_like(self._checked)}


def open_image_store(
    files: Sequence[PhotoSource] | ImageFiles, *, size: int, crop: Crop = "squash", cache: Cache
) -> ImageStore | ImageFiles:
    """Decode the photos that are not in the cache yet, in parallel threads, and open all of them.

    If the cache cannot store them (limit reached, disk full or read-only), ``cache.warn`` is called, and photos that
    are not in the cache are decoded on every access, with identical results.

    Args:
        files: one photo each.
        size, crop: as in ``ImageFiles``.
        cache: where the pixels are kept.
    """
    source = files if isinstance(files, ImageFiles) else ImageFiles(files, size=size, crop=crop)
    folder = cache.folder / f"photos-{decoder_name(size, crop)}"
    store = RecordStore(folder, shape=(3, size, size), dtype=np.uint8, about="photos", wait=cache.wait)
    keys = photo_keys(source.files, follow_links=source.follow_links)
    found, written = store.find(keys), None
    if len(_with_key(found.missing, keys)):
        try:
            cache.check_room(len(_with_key(found.missing, keys)) * store.record_bytes)
            written = _fill(store, source, keys, cache)
        except ResourceError as error:
            cache.warn(f"{error} Photos that are not in the cache are decoded on every access.")
        found = store.find(keys)
    if not (found.places >= 0).any() and not found.problems:
        return source
    return ImageStore(source, keys, store, found, written)


def _with_key(numbers: Int64[np.ndarray, " n"], keys: Sequence[str]) -> Int64[np.ndarray, " m"]:
    """Drop missing files, and keep each photo once even if several links lead to it."""
    first = {keys[number]: number for number in reversed(numbers.tolist()) if keys[number]}
    return np.array(sorted(first.values()), dtype=np.int64)


def _fill(store: RecordStore, source: ImageFiles, keys: Sequence[str], cache: Cache) -> Int64[np.ndarray, " written"]:
    """Decode and append all missing photos; one chunk is written while the next one is decoded.

    Returns:
        Numbers of the photos that were stored."""
    say_waiting = partial(cache.warn, f"Another process is filling the cache {store.folder}; waiting for it.")
    with store.writing(waiting=say_waiting), ThreadPoolExecutor(1, thread_name_prefix="mixfit-cache") as writer:
        missing = _with_key(store.find(keys).missing, keys)
        size = max(16, _CHUNK_BYTES // store.record_bytes)
        pieces = [missing[start : start + size] for start in range(0, len(missing), size)]
        chunks: Iterable[np.ndarray] = pieces
        if cache.progress:
            chunks = tracked(pieces, total=len(pieces), description=" decoding photos")
        pending: Callable[[], object] = list
        written = [np.zeros(0, dtype=np.int64)]
        for chunk in chunks:
            pixels, ok = source.read(chunk)
            now = photo_keys([source.files[number] for number in chunk], follow_links=source.follow_links)
            # A file that was changed while it was decoded may be a mixture of the old and the new version.
            same = np.array([keys[number] == key for number, key in zip(chunk, now, strict=True)])
            stored = np.flatnonzero(same & ok.numpy())
            failures = source.failures  # the property sorts on every access
            problems = lasting_problems({int(n): failures[int(n)] for n in chunk[same & ~ok.numpy()]})
            pending()
            names = [keys[number] for number in chunk[stored].tolist()]
            texts = {keys[number]: text for number, text in problems.items()}
            pending = writer.submit(store.append, names, pixels.numpy()[stored], texts).result
            written.append(chunk[stored])
        pending()
    return np.concatenate(written)


def photo_keys(files: Sequence[PhotoSource], *, follow_links: bool = True) -> list[str]:
    """Keys that identify photos: a digest of resolved path, size and modification time (for an entry of an archive,
    those of the archive and the entry), or of the bytes in a cell.

    "" for a file that does not exist, or is a link that must not be followed."""
    resolved: dict[str, str] = {}
    keys = []
    for file in files:
        if isinstance(file, bytes):
            keys.append(hashlib.sha256(file).hexdigest())
            continue
        if isinstance(file, ArchivedPhoto):
            of_archive = _photo_key(str(file.archive), follow_links)
            identity = f"{of_archive}\0{file.member}\0{file.start}\0{file.crc}"
            keys.append(of_archive and hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest())
            continue
        folder, name = os.path.split(file)
        if folder not in resolved:
            resolved[folder] = os.path.realpath(folder)
        keys.append(_photo_key(os.path.join(resolved[folder], name), follow_links))  # noqa: PTH118 - five times as fast
    return keys


def _photo_key(path: str, follow_links: bool) -> str:  # noqa: FBT001
    with suppress(OSError, ValueError):
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            if not follow_links:
                return ""
            path = os.path.realpath(path)
            status = os.stat(path)  # noqa: PTH116
        identity = b"%s\0%d\0%d" % (os.fsencode(path), status.st_size, status.st_mtime_ns)
        return hashlib.blake2b(identity, digest_size=16).hexdigest()
    return ""


def decoder_name(size: int, crop: Crop) -> str:
    """Everything besides the file that determines the pixels of a photo, as part of a folder name."""
    # Pillow itself resizes; these libraries decode, and their versions depend on the build of Pillow.
    libraries = [f"{name} {features.version(name)}" for name in ("libjpeg_turbo", "jpg", "webp", "libtiff", "zlib")]
    digest = hashlib.sha256("\n".join(libraries).encode()).hexdigest()[:8]
    return f"{size}px-{crop}-{DECODER_VERSION}-pillow-{PIL.__version__}-{digest}"


def lasting_problems(problems: dict[int, str]) -> dict[int, str]:
    """The problems that persist as long as the file is unchanged, so that they can be stored."""
    return {number: text for number, text in problems.items() if not text.startswith(_PASSING_PROBLEMS)}


def typical_side(files: Sequence[PhotoSource], sample: int = 64) -> int:
    """Estimate the size of photos: the median of the shorter side in pixels, over evenly spaced files.

    Reads headers only; unreadable files are skipped. 224 if no file can be read."""
    chosen = np.linspace(0, len(files) - 1, min(sample, len(files))).round().astype(np.int64)
    sides = []
    for index in chosen.tolist():
        with suppress(ImageError):
            header = image_header(files[index])
            sides.append(min(header.width, header.height))
    return int(np.median(sides)) if sides else 224
