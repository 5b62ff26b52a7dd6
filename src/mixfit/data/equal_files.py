"""Which photos have equal bytes, found without reading those that cannot have any equal.

In: photos, as files or bytes. Out: a number for each, the same for equal ones. However many photos there are, the size
of each is asked for, and only photos of the same size are read. Knows nothing of rows, splits or targets."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from mixfit.data.images import ImageError, image_header


def equal_files(files: Sequence[Path | bytes]) -> Int64[np.ndarray, " files"]:
    """For each photo the place of the first one with the same bytes: its own place, if there is none before it.

    What cannot be read, or is no photo by its header (a page of a web server under the name of a photo), equals
    nothing."""
    first = np.arange(len(files), dtype=np.int64)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        sizes = np.fromiter(pool.map(_size, files), dtype=np.int64, count=len(files))
        _, group, members = np.unique(sizes, return_inverse=True, return_counts=True)
        read = np.flatnonzero((members[group] > 1) & (sizes >= 0))
        digests = list(pool.map(_digest, [files[place] for place in read.tolist()]))
    seen: dict[bytes, int] = {}
    for place, digest in zip(read.tolist(), digests, strict=True):
        if digest is not None:
            first[place] = seen.setdefault(digest, place)
    for place in np.unique(first[first != np.arange(len(files))]).tolist():
        if not _is_photo(files[place]):
            same = first == place
            first[same] = np.flatnonzero(same)
    return first


def _size(source: Path | bytes) -> int:
    """In bytes, -1 where there is nothing to be read any more."""
    try:
        return len(source) if isinstance(source, bytes) else source.stat().st_size
    except OSError:
        return -1


def _digest(source: Path | bytes) -> bytes | None:
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    try:
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None


def _is_photo(source: Path | bytes) -> bool:
    try:
        image_header(source)
    except ImageError:
        return False
    return True
