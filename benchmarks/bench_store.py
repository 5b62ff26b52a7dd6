"""How long does the first decoding of photos into the cache take, how fast is it read, how much memory does it take?

Against torch's DataLoader with Pillow on the same files, in the same run, and against photos that are in RAM.
Run: python benchmarks/bench_store.py FOLDER_OF_PHOTOS [photos for the memory test, 0 for none]"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from mixfit.data.photos.records import Cache
from mixfit.data.photos.store import ImageStore, open_image_store

SIZE, BATCH, ROUNDS = 128, 32, 3


class PillowPhotos(Dataset[torch.Tensor]):
    """What users of PyTorch write: one file per item."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.files[index]) as image:
            square = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def seconds(function: Callable[[], object]) -> float:
    """One call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def build(files: list[Path], size: int) -> ImageStore:
    """A cold build in a new folder."""
    folder = Path(tempfile.mkdtemp(dir=SCRATCH.name))
    photos = open_image_store(files, size=size, cache=Cache(folder=folder, limit_bytes=10**12))
    assert isinstance(photos, ImageStore)
    return photos


def epoch(photos: ImageStore, order: np.ndarray) -> None:
    """All photos once, in batches."""
    for start in range(0, len(order), BATCH):
        photos.read(order[start : start + BATCH])


def resident() -> int:
    """Bytes of RAM that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def speed(files: list[Path]) -> None:
    """Cold and warm, against the DataLoader."""
    times: dict[str, list[float]] = {}

    def measure(name: str, function: Callable[[], object]) -> None:
        times.setdefault(name, []).append(seconds(function))

    order = np.random.default_rng(0).permutation(len(files))
    ram = build(files, SIZE).read(np.arange(len(files)))[0]
    for _ in range(ROUNDS):
        measure("cold build", lambda: build(files, SIZE))
        for workers in (0, 2):
            loader = DataLoader(PillowPhotos(files), BATCH, num_workers=workers)
            measure(f"DataLoader + Pillow, {workers} workers", lambda loader=loader: list(map(len, loader)))  # type: ignore[misc]
        photos = build(files, SIZE)
        measure("store, first epoch (verifies checksums)", lambda photos=photos: epoch(photos, order))  # type: ignore[misc]
        measure("store, later epoch", lambda photos=photos: epoch(photos, order))  # type: ignore[misc]
        measure("index of a tensor in RAM", lambda: [ram[order[i : i + BATCH]] for i in range(0, len(order), BATCH)])
    medians = {name: statistics.median(values) for name, values in times.items()}
    best = min(value for name, value in medians.items() if name.startswith("DataLoader"))
    for name, value in medians.items():
        print(
            f"{name:<42}{value:8.3f} s {len(files) / value:12,.0f} photos/s   "
            f"{best / value:8.2f} x the better DataLoader (median of {ROUNDS})"
        )


def memory(files: list[Path], count: int) -> None:
    """Growth of the process while many photos are read."""
    size = 64
    folder = Path(tempfile.mkdtemp(dir=SCRATCH.name))
    originals = [folder / f"original_{number}.jpg" for number in range(min(len(files), 2_000))]
    for original, file in zip(originals, files, strict=False):
        original.write_bytes(file.read_bytes())
    links = [folder / f"{number}.jpg" for number in range(count)]
    for number, link in enumerate(links):
        link.hardlink_to(originals[number % len(originals)])
    began = time.perf_counter()
    photos = build(links, size)
    building, order = time.perf_counter() - began, np.random.default_rng(0).permutation(count)
    epoch(photos, order[:BATCH])
    start, highest = resident(), 0
    began = time.perf_counter()
    for first in range(0, count, BATCH):
        photos.read(order[first : first + BATCH])
        highest = max(highest, resident())
    print(
        f"{count:,} photos at {size} px: built in {building:.1f} s; read in {time.perf_counter() - began:.1f} s; "
        f"memory grew by {(highest - start) / 1e6:.1f} MB over the first batch"
    )


if __name__ == "__main__":
    SCRATCH = tempfile.TemporaryDirectory(prefix="mixfit-bench-")
    chosen = sorted(Path(sys.argv[1]).glob("*.jpg"))
    print(
        f"torch {torch.__version__}, Pillow {PIL.__version__}, {os.cpu_count()} CPUs, {len(chosen)} photos of "
        f"{sum(file.stat().st_size for file in chosen) / len(chosen) / 1e3:.0f} kB, {SIZE} px, batch {BATCH}"
    )
    with SCRATCH:
        speed(chosen)
        wanted = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
        if wanted:
            memory(chosen, wanted)
