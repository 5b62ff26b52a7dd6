"""How fast are batches of photos, against ``torch.utils.data.DataLoader`` with Pillow and against a tensor in RAM?

Every way gives float32 photos, normalised, from the same files, shuffled, in batches of 32:
- later epochs: mixfit over its store of decoded photos, against one uint8 tensor in RAM, indexed and converted in the
  same way;
- whole epochs: the DataLoader with Pillow, 0 and 2 workers, against the first epoch of mixfit (an empty cache folder is
  filled, then the batches are made), against decoding on the fly, and against a later epoch from the store.
Run: MIXFIT_DATA=... python benchmarks/bench_loader.py [photos]"""

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
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
from mixfit.data.dataset import ImageSource, MixedDataset
from mixfit.data.loader import DataLoader
from mixfit.data.photos.records import Cache
from mixfit.data.photos.store import ImageFiles, open_image_store
from mixfit.data.sampler import ShuffledSampler
from mixfit.data.transforms.transform import Transform
from mixfit.seeding import RowRandom

SIZE, BATCH = 128, 32
FAST_ROUNDS, SLOW_ROUNDS = 15, 5
FOLDERS = ("houses", "movies", "leaf99", "covid_xray")
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
SCALE, SHIFT = 1 / (255 * STD), -MEAN / STD


def normalised(pixels: Tensor) -> Tensor:
    """uint8 -> float32, the same operations for everybody."""
    return pixels.float().mul_(SCALE).add_(SHIFT)


class Normalised(Transform):
    """The conversion as a transform of the loader."""

    def __call__(self, batch: Batch, random: RowRandom) -> Batch:
        """Convert the pixels of the batch."""
        xb, yb = batch
        assert xb.images is not None
        return replace(xb, images=normalised(xb.images)), yb


class PillowFiles(Dataset[tuple[Tensor, float]]):
    """What users of PyTorch write."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        """One photo."""
        with Image.open(self.files[index]) as image:
            pixels = np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        return normalised(torch.from_numpy(pixels.copy()).permute(2, 0, 1)), float(index)


def indexed(pixels: Tensor, target: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """One epoch of the reference: all photos in RAM."""
    for chosen in torch.randperm(len(pixels)).split(BATCH):
        yield normalised(pixels[chosen]), target[chosen]


def selected(pixels: Tensor, target: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """The same by ``index_select``, which is faster for uint8."""
    for chosen in torch.randperm(len(pixels)).split(BATCH):
        yield normalised(pixels.index_select(0, chosen)), target.index_select(0, chosen)


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

    def epoch(photos: ImageSource, prefetch: int | None = None, threads: int = 1) -> DataLoader:
        sampler = ShuffledSampler(len(files), BATCH)
        return DataLoader(rows_of(photos), sampler, transforms=[Normalised()], prefetch=prefetch, threads=threads)

    with tempfile.TemporaryDirectory(prefix="mixfit-bench-") as scratch:

        def new_store() -> ImageSource:
            cache = Cache(folder=Path(tempfile.mkdtemp(dir=scratch)), limit_bytes=10**12)
            return open_image_store(files, size=SIZE, cache=cache)

        def first_epoch() -> Iterator[Any]:
            yield from epoch(new_store())

        store = new_store()
        fast = {
            "uint8 tensor in RAM, indexed": lambda: indexed(pixels, target),
            "uint8 tensor in RAM, index_select": lambda: selected(pixels, target),
            "mixfit store, prefetch 0 (default)": lambda: epoch(store),
            "mixfit store, prefetch 1": lambda: epoch(store, 1),
            "mixfit store, prefetch 2": lambda: epoch(store, 2),
            "mixfit store, prefetch 4, 2 threads": lambda: epoch(store, 4, 2),
        }
        slow = {
            "torch DataLoader + Pillow, 0 workers": lambda: TorchDataLoader(theirs, BATCH, shuffle=True),
            "torch DataLoader + Pillow, 2 workers": lambda: TorchDataLoader(theirs, BATCH, shuffle=True, num_workers=2),
            "mixfit, first epoch (empty cache)": first_epoch,
            "mixfit, decoding on the fly": lambda: epoch(decoder),
            "mixfit store, later epoch": lambda: epoch(store),
        }
        later = measure(fast, len(files), FAST_ROUNDS)
        report("later epochs", later, "uint8 tensor in RAM, indexed")
        whole = measure(slow, len(files), SLOW_ROUNDS)
        workers = [name for name in whole if name.startswith("torch")]
        report("whole epochs", whole, max(workers, key=lambda name: statistics.median(whole[name])))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2176)
