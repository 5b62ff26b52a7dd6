"""Which photos are copies of each other: byte for byte, or the same picture saved or resized again."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8, UInt64
from scipy.spatial import KDTree

from mixfit.console import tracked
from mixfit.data.photos.archive import ArchivedPhoto, ArchiveError, PhotoSource
from mixfit.data.photos.decode import MAX_BYTES, ImageError, image_header, read_image
from mixfit.data.photos.records import Cache, RecordStore
from mixfit.data.photos.store import decoder_name, lasting_problems, photo_keys
from mixfit.errors import ResourceError


def equal_files(files: Sequence[PhotoSource]) -> Int64[np.ndarray, " files"]:
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


def _size(source: PhotoSource) -> int:
    """In bytes, -1 where there is nothing to be read any more."""
    try:
        return source.stat().st_size if isinstance(source, Path) else len(source)
    except OSError:
        return -1


def _digest(source: PhotoSource) -> bytes | None:
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    try:
        if isinstance(source, ArchivedPhoto):
            return hashlib.sha256(source.read(MAX_BYTES)).digest()
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except (OSError, ArchiveError):
        return None


def _is_photo(source: PhotoSource) -> bool:
    try:
        image_header(source)
    except ImageError:
        return False
    return True


SIDE = 72
"""Photos are decoded to this many pixels a side: it splits into 9 and 8 cells for the hash, 18 for a small picture."""
SMALL = 18
"""Side of the small picture."""
MOST_BITS = 10
"""Of the 64, that may differ; a picture saved anew at low quality changes up to 4."""
LARGEST_DIFFERENCE = 4.0
"""Of two small pictures, root mean square over pixels and colours, 0..255, after equal brightness."""
LEAST_CORRELATION = 0.985

_FLAT = 4.0  # standard deviation of a small picture below which there is nothing to compare
_PIXEL_BUDGET = 6e10  # pixels of a PNG, 10 to 30 ns each: 40,000 JPEGs of 12 megapixels
_JPEG_SHARE = 1 / 8  # libjpeg decodes a large JPEG at an eighth of its size, see ``read_image``
_MOST_DECODED = 50_000  # photos
_AXES = 8  # of coarse pictures along which neighbours are searched
_BLOCK = 128  # photos whose neighbours are searched at a time
_CHUNK = 512  # photos or pairs at a time
_MOST_CANDIDATES = 2_000_000
_VALUES = 3 * SMALL**2  # in a small picture
_RECORD = _VALUES + 16  # bytes: the small picture, the hash, the cost of decoding as int64
_RECORD_VERSION = 1
"""Raise this whenever the small picture, the hash or the cost of a photo becomes another."""


@dataclass(frozen=True, slots=True, eq=False)
class PhotoScan:
    """What was found out about photos; arrays are by number of the photo."""

    problems: dict[int, str]
    """What is wrong with the photos that cannot be used."""
    decoded: Bool[np.ndarray, " photos"]
    """Whose pixels were looked at; of the others only the header was read."""
    content: Int64[np.ndarray, " photos"]
    """Equal numbers mean equal bytes, see ``equal_files``; of all photos, decoded or not."""
    small: UInt8[np.ndarray, "photos small small 3"]
    """RGB, 0 where not decoded."""
    hashes: UInt64[np.ndarray, " photos"]


def scan_photos(files: Sequence[PhotoSource], cache: Cache | None = None) -> PhotoScan:
    """Decode every photo, or evenly spaced ones where there are more than 50,000 or it would take many minutes.

    Which ones does not depend on what the cache holds: the same photos give the same scan.

    Args:
        files: the photos.
        cache: keeps a kilobyte a photo for the next scan, which decodes only photos that are new or were changed.
            Where it cannot be written, the next scan decodes all again.
    """
    scan = _Scan(files, cache)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool, ExitStack() as stack:
        scan.fetch(np.arange(len(files)))
        list(pool.map(scan.measure, np.flatnonzero(~scan.known).tolist()))
        chosen = _affordable(scan.costs)
        if len(scan.missing(chosen)) and cache is not None and scan.store is not None:
            try:
                cache.check_room(len(scan.missing(chosen)) * _RECORD)
                waiting = f"Another process is filling the cache {scan.store.folder}; waiting for it."
                stack.enter_context(scan.store.writing(waiting=partial(cache.warn, waiting)))
                scan.fetch(scan.missing(chosen))  # another process may have added some meanwhile
            except ResourceError:  # the stores of pixels and features, which need far more room, tell of it
                scan.store = None
        rest = scan.missing(chosen)
        pieces = [rest[start : start + _CHUNK] for start in range(0, len(rest), _CHUNK)]
        chunks: Iterable[np.ndarray] = pieces
        if cache is not None and cache.progress:
            chunks = tracked(pieces, total=len(pieces), description=" looking for copies")
        for chunk in chunks:
            list(pool.map(scan.look, chunk.tolist()))
            scan.keep(chunk.tolist())
    decoded = chosen & scan.known
    scan.small[~decoded], scan.hashes[~decoded] = 0, 0
    problems = {place: text for place, text in sorted(scan.problems.items()) if chosen[place] or not scan.costs[place]}
    return PhotoScan(problems, decoded, equal_files(files), scan.small, scan.hashes)


class _Scan:
    """What is known of photos while they are scanned, and where it is kept."""

    def __init__(self, files: Sequence[PhotoSource], cache: Cache | None) -> None:
        self.files, count = files, len(files)
        self.small, self.hashes = np.zeros((count, SMALL, SMALL, 3), dtype=np.uint8), np.zeros(count, dtype=np.uint64)
        self.costs = np.zeros(count, dtype=np.int64)
        """Of decoding, in pixels of a PNG; 0 where the header cannot be read."""
        self.known = np.zeros(count, dtype=bool)
        self.problems: dict[int, str] = {}
        self.store: RecordStore | None = None
        self.keys = [""] * count
        if cache is not None:
            folder = cache.folder / f"copies-{_RECORD_VERSION}-{decoder_name(SIDE, 'squash')}"
            about = "small pictures and hashes of photos"
            self.store = RecordStore(folder, shape=(_RECORD,), dtype=np.uint8, about=about, wait=cache.wait)
            self.keys = photo_keys(files)

    def fetch(self, places: Int64[np.ndarray, " places"]) -> None:
        """Take from the store what it holds of photos."""
        if self.store is None:
            return
        found = self.store.fetch([self.keys[place] for place in places.tolist()])
        there = places[found.positions]
        self.small[there] = found.records[:, :-16].reshape(-1, SMALL, SMALL, 3)
        self.hashes[there] = found.records[:, -16:-8].copy().view(np.uint64)[:, 0]
        self.costs[there] = found.records[:, -8:].copy().view(np.int64)[:, 0]
        self.known[there] = True
        self.problems.update({int(places[position]): text for position, text in found.problems.items()})

    def measure(self, place: int) -> None:
        """Read the header of a photo for the cost of decoding it."""
        try:
            header = image_header(self.files[place])
        except ImageError as error:
            self.problems[place] = str(error)
        else:
            share = _JPEG_SHARE if header.format == "JPEG" else 1
            self.costs[place] = max(1, round(header.width * header.height * share))

    def missing(self, chosen: Bool[np.ndarray, " photos"]) -> Int64[np.ndarray, " missing"]:
        """Which of some photos are still to be decoded."""
        missing = chosen & ~self.known
        missing[list(self.problems)] = False
        return np.flatnonzero(missing)

    def look(self, place: int) -> None:
        """Decode a photo."""
        try:
            photo = read_image(self.files[place], size=SIDE)
        except ImageError as error:
            self.problems[place] = str(error)
        else:
            self.known[place], self.small[place], self.hashes[place] = True, _small(photo), difference_hash(photo)

    def keep(self, places: list[int]) -> None:
        """Put photos that were decoded into the store, as far as it can be written."""
        if self.store is None:
            return
        # A file that was changed while it was decoded may be half the old and half the new one.
        now = photo_keys([self.files[place] for place in places])
        same = [place for place, key in zip(places, now, strict=True) if self.keys[place] == key != ""]
        whole = [place for place in same if self.known[place]]
        pixels, numbers = self.small[whole].reshape(len(whole), -1), (self.hashes[whole], self.costs[whole])
        records = np.concatenate([pixels, *(values[:, None].view(np.uint8) for values in numbers)], axis=1)
        problems = lasting_problems({place: self.problems[place] for place in same if place in self.problems})
        texts = {self.keys[place]: text for place, text in problems.items()}
        try:
            self.store.append([self.keys[place] for place in whole], records, texts)
        except ResourceError:
            self.store = None


def difference_hash(photo: UInt8[np.ndarray, "72 72 3"]) -> np.uint64:
    """64 bits: row by row, whether a cell is darker than its right neighbour."""
    cells = photo.reshape(8, SIDE // 8, 9, SIDE // 9, 3).mean(axis=(1, 3)) @ np.array([0.299, 0.587, 0.114])
    bits = cells[:, 1:] > cells[:, :-1]
    return np.packbits(bits).view(np.uint64)[0]


NearPhotos = tuple[np.ndarray, tuple[str, ...]]
"""Pairs of photos that look nearly the same, int64 ``(pairs, 2)``, and what was not looked at."""


def near_duplicates(scan: PhotoScan) -> NearPhotos:
    """Pairs of photos (smaller number first) that show the same picture but are not equal bytes.

    Of photos with equal bytes only the first takes part; photos without structure, such as blank ones, do not.

    Returns:
        The pairs; and what was not looked at, one sentence each: photos that were not decoded, and pairs that were not
        compared, as the search ends at two million that agree coarsely.
    """
    first = np.zeros(len(scan.small), dtype=bool)
    seen = np.flatnonzero(scan.decoded)
    first[seen[np.unique(scan.content[seen], return_index=True)[1]]] = True
    places = np.flatnonzero(first)
    coarse = np.zeros((len(places), _VALUES // 9), dtype=np.float32)
    structured = np.zeros(len(places), dtype=bool)
    for start in range(0, len(places), _CHUNK):
        part = slice(start, start + _CHUNK)
        values = _less_mean(scan.small[places[part]])
        structured[part] = values.std(axis=1) > _FLAT
        coarse[part] = values.reshape(-1, SMALL // 3, 3, SMALL // 3, 3, 3).mean(axis=(2, 4)).reshape(len(values), -1)
    places, coarse = places[structured], coarse[structured]
    left, right, compared = _candidates(coarse, scan.hashes[places])
    kept = np.zeros(len(left), dtype=bool)
    for start in range(0, len(left), _CHUNK):
        part = slice(start, start + _CHUNK)
        sides = (_less_mean(scan.small[places[side[part]]]) for side in (left, right))
        kept[part] = _same_picture(*sides)
    pairs = np.stack([places[left[kept]], places[right[kept]]], axis=1).astype(np.int64)
    effect = "copies among the others may be on two sides of the split and of folds, and the scores then look too good"
    unseen = []
    usable = len(scan.small) - len(scan.problems)
    if (decoded := int(scan.decoded.sum())) < usable:
        unseen.append(
            f"nearly equal photos were looked for among {decoded:,} of {usable:,} photos, to save time: {effect}"
        )
    if compared < len(places):
        share = f"only {compared:,} of {len(places):,} were compared with all others"
        unseen.append(f"so many photos look alike that {share}: {effect}")
    return pairs, tuple(unseen)


def _less_mean(small: UInt8[np.ndarray, "photos small small 3"]) -> Float32[np.ndarray, "photos values"]:
    values = small.reshape(len(small), -1).astype(np.float32)
    return values - values.mean(axis=1, keepdims=True)


def _candidates(
    coarse: Float32[np.ndarray, "photos coarse"], hashes: UInt64[np.ndarray, " photos"]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Pairs with nearly the same hash, and means over 3 x 3 pixels that differ by no more than whole small pictures
    may: no pair is lost by that.

    About two million pairs at most, which only photos without variety exceed. How many photos were compared with all
    others comes last."""
    if not len(coarse):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), 0
    # Along some orthogonal axes two pictures are no further apart than in all.
    around = (coarse - coarse.mean(axis=0)).astype(np.float64)
    along = around @ np.linalg.eigh(around.T @ around)[1][:, -_AXES:]
    tree = KDTree(along)
    limit = LARGEST_DIFFERENCE * coarse.shape[1] ** 0.5 * (1 + 1e-5)  # for rounding
    found: list[np.ndarray] = [np.zeros((2, 0), dtype=np.int64)]
    total = compared = 0
    while compared < len(coarse) and total <= _MOST_CANDIDATES:
        near = tree.query_ball_point(along[compared : compared + _BLOCK], limit)
        rows = np.repeat(np.arange(compared, compared + len(near)), [len(one) for one in near])
        pairs = np.stack([rows, np.concatenate(near).astype(np.int64)])
        pairs = pairs[:, pairs[1] > pairs[0]]
        # With the hashes of blank backgrounds alone, thousands of products look alike.
        pairs = pairs[:, np.bitwise_count(hashes[pairs[0]] ^ hashes[pairs[1]]) <= MOST_BITS]
        parts = [pairs[:, start : start + _CHUNK] for start in range(0, pairs.shape[1], _CHUNK)]
        parts = [part[:, np.linalg.norm(coarse[part[0]] - coarse[part[1]], axis=1) <= limit] for part in parts]
        found += parts
        total += sum(part.shape[1] for part in parts)
        compared += len(near)
    left, right = np.concatenate(found, axis=1)
    return left, right, compared


def _same_picture(
    left: Float32[np.ndarray, "pairs values"], right: Float32[np.ndarray, "pairs values"]
) -> Bool[np.ndarray, " pairs"]:
    """Whether small pictures, each less its mean, agree."""
    spread = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    correlation = (left * right).sum(axis=1) / np.maximum(spread, 1e-6)
    difference = np.sqrt(((left - right) ** 2).mean(axis=1))
    return (difference <= LARGEST_DIFFERENCE) & (correlation >= LEAST_CORRELATION)


def _affordable(costs: Int64[np.ndarray, " photos"]) -> Bool[np.ndarray, " photos"]:
    """Which photos to decode: all that can be, or evenly spaced ones within the budget."""
    usable = np.flatnonzero(costs > 0)
    share = min(1.0, _PIXEL_BUDGET / max(float(costs.sum()), 1.0), _MOST_DECODED / max(len(usable), 1))
    chosen = np.zeros(len(costs), dtype=bool)
    chosen[usable[np.diff(np.floor(np.arange(len(usable) + 1) * share)) > 0]] = True
    return chosen


def _small(photo: UInt8[np.ndarray, "72 72 3"]) -> UInt8[np.ndarray, "18 18 3"]:
    step = SIDE // SMALL
    return photo.reshape(SMALL, step, SMALL, step, 3).mean(axis=(1, 3)).round().astype(np.uint8)
