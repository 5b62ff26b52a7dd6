"""Which photos are copies of each other: byte for byte, or the same picture saved or resized anew.

In: photos. Out: ``PhotoScan`` with a small picture and a hash of each, and pairs of photos that look equal.
Near-duplicates are found by the difference hash (Krawetz 2013, "Kind of Like That"): whether each of 9 x 8 cells is
darker than its right neighbour, 64 bits. Photos of like things on like backgrounds share hashes too, so a pair counts
only when the small pictures agree as well. Knows nothing of rows, splits or targets."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8, UInt64

from mixfit.data.equal_files import equal_files
from mixfit.data.images import ImageError, image_header, read_image

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
_PIXEL_BUDGET = 5e9  # about half a minute on two cores
_MOST_DECODED = 50_000  # photos; comparing them all takes some seconds
_BLOCK = 512  # rows of the matrix of distances at a time
_MOST_CANDIDATES = 2_000_000


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


def scan_photos(files: Sequence[Path | bytes]) -> PhotoScan:
    """Read the header of every photo, and decode them all, or evenly spaced ones where that would take minutes."""
    count = len(files)
    small, hashes = np.zeros((count, SMALL, SMALL, 3), dtype=np.uint8), np.zeros(count, dtype=np.uint64)
    decoded = np.zeros(count, dtype=bool)
    problems: dict[int, str] = {}
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        pixels = np.array(list(pool.map(lambda place: _pixels(files[place], place, problems), range(count))))
        chosen = _affordable(pixels)

        def look(place: int) -> None:
            try:
                photo = read_image(files[place], size=SIDE)
            except ImageError as error:
                problems[place] = str(error)
            else:
                decoded[place], small[place], hashes[place] = True, _small(photo), difference_hash(photo)

        list(pool.map(look, np.flatnonzero(chosen).tolist()))
    return PhotoScan(dict(sorted(problems.items())), decoded, equal_files(files), small, hashes)


def difference_hash(photo: UInt8[np.ndarray, "72 72 3"]) -> np.uint64:
    """64 bits: row by row, whether a cell is darker than its right neighbour."""
    cells = photo.reshape(8, SIDE // 8, 9, SIDE // 9, 3).mean(axis=(1, 3)) @ np.array([0.299, 0.587, 0.114])
    bits = cells[:, 1:] > cells[:, :-1]
    return np.packbits(bits).view(np.uint64)[0]


def near_duplicates(scan: PhotoScan) -> tuple[Int64[np.ndarray, "pairs 2"], bool]:
    """Pairs of photos (smaller number first) that show the same picture but are not equal bytes.

    Of photos with equal bytes only the first takes part; photos without structure, such as blank ones, do not. Also
    whether all pairs were looked at: the search ends at two million that agree coarsely."""
    values = scan.small.reshape(len(scan.small), 3 * SMALL**2).astype(np.float32)
    first = np.zeros(len(values), dtype=bool)
    seen = np.flatnonzero(scan.decoded)
    first[seen[np.unique(scan.content[seen], return_index=True)[1]]] = True
    places = np.flatnonzero(first & (values.std(axis=1) > _FLAT))
    values = values[places] - values[places].mean(axis=1, keepdims=True)
    left, right, complete = _candidates(values)
    # With the hashes of blank backgrounds alone, thousands of products look alike.
    near = np.bitwise_count(scan.hashes[places[left]] ^ scan.hashes[places[right]]) <= MOST_BITS
    left, right = left[near], right[near]
    kept = _same_picture(values[left], values[right])
    return np.stack([places[left[kept]], places[right[kept]]], axis=1).astype(np.int64), complete


def _candidates(values: Float32[np.ndarray, "photos values"]) -> tuple[np.ndarray, np.ndarray, bool]:
    """Pairs whose means over 3 x 3 pixels differ by no more than whole small pictures may: no pair is lost by that.

    About two million pairs at most, which only photos without variety exceed; whether these are all comes last."""
    side = SMALL // 3
    blocks = values.reshape(len(values), side, 3, side, 3, 3)
    coarse = blocks.mean(axis=(2, 4)).reshape(len(values), 3 * side**2)
    squares = (coarse**2).sum(axis=1)
    limit = LARGEST_DIFFERENCE**2 * coarse.shape[1] + 1e-5 * squares.max(initial=0.0)  # for rounding in float32
    found: list[np.ndarray] = [np.zeros((2, 0), dtype=np.int64)]
    total = 0
    for start in range(0, len(coarse), _BLOCK):
        block = coarse[start : start + _BLOCK]
        squared = squares[start : start + _BLOCK, None] + squares[None, start:] - 2 * (block @ coarse[start:].T)
        rows, columns = np.nonzero(squared <= limit)
        later = columns > rows
        found.append(np.stack([rows[later], columns[later]]) + start)
        total += int(later.sum())
        if total > _MOST_CANDIDATES:
            break
    left, right = np.concatenate(found, axis=1)
    return left, right, total <= _MOST_CANDIDATES


def _same_picture(
    left: Float32[np.ndarray, "pairs values"], right: Float32[np.ndarray, "pairs values"]
) -> Bool[np.ndarray, " pairs"]:
    """Whether small pictures, each less its mean, agree."""
    spread = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    correlation = (left * right).sum(axis=1) / np.maximum(spread, 1e-6)
    difference = np.sqrt(((left - right) ** 2).mean(axis=1))
    return (difference <= LARGEST_DIFFERENCE) & (correlation >= LEAST_CORRELATION)


def _pixels(source: Path | bytes, place: int, problems: dict[int, str]) -> int:
    """Pixels by the header, 0 when the photo cannot be used."""
    try:
        header = image_header(source)
    except ImageError as error:
        problems[place] = str(error)
        return 0
    return header.width * header.height


def _affordable(pixels: np.ndarray) -> Bool[np.ndarray, " photos"]:
    """Which photos to decode: all that can be, or evenly spaced ones within the budget."""
    usable = np.flatnonzero(pixels > 0)
    share = min(1.0, _PIXEL_BUDGET / max(float(pixels.sum()), 1.0), _MOST_DECODED / max(len(usable), 1))
    chosen = np.zeros(len(pixels), dtype=bool)
    chosen[usable[np.diff(np.floor(np.arange(len(usable) + 1) * share)) > 0]] = True
    return chosen


def _small(photo: UInt8[np.ndarray, "72 72 3"]) -> UInt8[np.ndarray, "18 18 3"]:
    step = SIDE // SMALL
    return photo.reshape(SMALL, step, SMALL, step, 3).mean(axis=(1, 3)).round().astype(np.uint8)
