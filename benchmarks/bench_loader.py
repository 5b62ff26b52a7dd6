"""How fast are batches of photos, against ``torch.utils.data.DataLoader`` with Pillow and against a tensor in RAM?

Every way gives float32 photos, normalised, from the same files, shuffled, in batches of 32:
- later epochs: mixfit over photos in RAM (``ImageSource``), over those decoded on the fly, the DataLoader with Pillow
  with 0 and with 2 workers, and indexing one uint8 tensor in RAM, converted in the same way;
- the first epoch: mixfit decoding on the fly, against the DataLoader's epoch.
Run: MIXFIT_DATA=... python benchmarks/bench_loader.py [photos]"""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset

from mixfit.data.batch import Batch
from mixfit.data.dataset import MixedDataset
from mixfit.data.loader import DataLoader
from mixfit.data.random import RowRandom
from mixfit.data.sampler import ShuffledSampler
from mixfit.data.store import ImageFiles, ImageSource
from mixfit.data.transform import Transform

SIZE, BATCH = 128, 32
FAST_ROUNDS, SLOW_ROUNDS = 15, 5
FOLDERS = ("houses", "movies", "leaf99", "covid_xray")
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def normalised(pixels: Tensor) -> Tensor:
    """uint8 -> float32, the same operations for everybody."""
    return pixels.float().div_(255).sub_(MEAN).div_(STD)


class Normalised(Transform):
    """The conversion as a transform of the loader."""

    def __call__(self, batch: Batch, random: RowRandom) -> Batch:
        """Convert the pixels of the batch."""
        xb, yb = batch
        assert xb.images is not None
        return replace(xb, images=normalised(xb.images)), yb


class PhotosInRam:
    """What a store of decoded photos does, without the disk."""

    size = SIZE

    def __init__(self, pixels: Tensor) -> None:
        self.pixels, self.failures = pixels, dict[int, str]()

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """One gather."""
        return self.pixels.index_select(0, torch.from_numpy(indices)), torch.ones(len(indices), dtype=torch.bool)


class PillowFiles(Dataset[tuple[Tensor, float]]):
    """What users of PyTorch write."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        """One photo."""
        with Image.open(self.files[index]) as image:
            pixels = np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        return normalised(torch.from_numpy(pixels.copy()).permute(2, 0, 1)), float(index)


def indexed(pixels: Tensor, target: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """One epoch of the reference: all photos in RAM."""
    order = torch.randperm(len(pixels))
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        yield normalised(pixels[chosen]), target[chosen]


def rows_per_second(batches: Iterable[Any], rows: int) -> float:
    """One epoch."""
    start = time.perf_counter()
    seen = sum(len(yb) for _, yb in batches)
    assert seen == rows
    return rows / (time.perf_counter() - start)


def measure(ways: dict[str, Callable[[], Iterable[Any]]], rows: int, rounds: int) -> dict[str, list[float]]:
    """Rows per second of every way, in interleaved rounds."""
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, batches in ways.items():
            figures[name].append(rows_per_second(batches(), rows))
    return figures


def report(title: str, figures: dict[str, list[float]], reference: str) -> None:
    """Medians, and the median of the ratios of each round."""
    print(f"{title} (median of {len(figures[reference])} interleaved rounds; ratio to: {reference})")
    for name, values in figures.items():
        ratios = [value / other for value, other in zip(values, figures[reference], strict=True)]
        print(
            f"  {name:44}{statistics.median(values):>10,.0f} rows/s, ratio {statistics.median(ratios):6.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def rows_of(source: ImageSource) -> MixedDataset:
    """A row for each photo, with three numbers."""
    count = len(source)
    return MixedDataset(
        numeric=torch.randn(count, 3),
        categorical=torch.zeros(count, 1, dtype=torch.int64),
        target=torch.randn(count),
        rows=torch.arange(count),
        slots=torch.arange(count)[:, None],
        photos=source,
    )


def main(limit: int) -> None:
    """Print all comparisons."""
    root = Path(os.environ["MIXFIT_DATA"])
    files = [file for name in FOLDERS for file in sorted((root / name / "images").iterdir())]
    rng = np.random.default_rng(0)
    files = [files[i] for i in rng.permutation(len(files))[:limit]]
    decoder = ImageFiles(files, size=SIZE)
    pixels, readable = decoder.read(np.arange(len(files)))
    print(
        f"python {platform.python_version()}, torch {torch.__version__}, Pillow {PIL.__version__}, "
        f"{torch.get_num_threads()} threads; {len(files):,} photos of {', '.join(FOLDERS)} ({int(readable.sum()):,} "
        f"readable) at {SIZE} px, batch {BATCH}"
    )
    target, theirs = torch.randn(len(files)), PillowFiles(files)

    def ours(dataset: MixedDataset, prefetch: int | None = None, threads: int = 1) -> Callable[[], Iterable[Any]]:
        sampler = ShuffledSampler(len(files), BATCH)
        return lambda: DataLoader(dataset, sampler, transforms=[Normalised()], prefetch=prefetch, threads=threads)

    in_ram, on_the_fly = rows_of(PhotosInRam(pixels)), rows_of(decoder)
    fast = {
        "uint8 tensor in RAM, indexed": lambda: indexed(pixels, target),
        "mixfit, photos in RAM, prefetch 0": ours(in_ram, 0),
        "mixfit, photos in RAM, prefetch 1": ours(in_ram, 1),
        "mixfit, photos in RAM, prefetch 2": ours(in_ram, 2),
        "mixfit, photos in RAM, prefetch 4, 2 threads": ours(in_ram, 4, 2),
    }
    slow = {
        "torch DataLoader + Pillow, 0 workers": lambda: TorchDataLoader(theirs, BATCH, shuffle=True),
        "torch DataLoader + Pillow, 2 workers": lambda: TorchDataLoader(theirs, BATCH, shuffle=True, num_workers=2),
        "mixfit, decoding on the fly, prefetch 0": ours(on_the_fly, 0),
        "mixfit, decoding on the fly (default)": ours(on_the_fly),
        "mixfit, photos in RAM (default)": ours(in_ram),
    }
    later = measure(fast, len(files), FAST_ROUNDS)
    report("later epochs", later, "uint8 tensor in RAM, indexed")
    whole = measure(slow, len(files), SLOW_ROUNDS)
    workers = [name for name in whole if name.startswith("torch")]
    report("whole epochs", whole, max(workers, key=lambda name: statistics.median(whole[name])))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2176)
