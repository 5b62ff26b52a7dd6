"""How much does training through our loader and Learner cost, against a bare PyTorch loop over tensors in RAM?

Each photo of ``houses`` is a row: the photo at 128 px, 3 numbers and the zip code. Both sides train networks of the
same class with ``torch.optim.AdamW`` in batches of 32, shuffled, float32; both convert uint8 pixels in the network.
ResNet-18 shows what a user sees; a tiny network makes loader and trainer show. Validation is not counted.
Run: MIXFIT_DATA=... python benchmarks/bench_training.py [rounds] [resnet18|tiny]"""

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixfit.data.batch import Inputs
from mixfit.data.dataset import ImageSource, MixedDataset
from mixfit.data.loader import DataLoader
from mixfit.data.photos.records import Cache
from mixfit.data.photos.store import open_image_store
from mixfit.data.sampler import SequentialSampler, ShuffledSampler
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.optimizer import AdamW

SIZE, BATCH = 128, 32
ROWS = {"tiny": 2140, "resnet18": 320}  # an epoch of ResNet-18 over all rows takes a minute


@dataclass
class Rows:
    """All rows in RAM."""

    numeric: Tensor
    zipcode: Tensor
    pixels: Tensor
    target: Tensor
    photos: ImageSource
    """The pixels again, in mixfit's store."""


def read_rows(folder: Path, cache: Cache, limit: int) -> Rows:
    """One row for each of the four photos of a house."""
    table = pd.read_csv(folder / "table.csv")
    columns = [name for name in table.columns if name.endswith("_image")]
    files = [folder / cell for name in columns for cell in table[name]][:limit]
    photos = open_image_store(files, size=SIZE, cache=cache)
    pixels, readable = photos.read(np.arange(len(files)))
    assert readable.all()
    numbers = table[["bedrooms", "bathrooms", "area"]].to_numpy(np.float32)
    numbers = (numbers - numbers.mean(0)) / numbers.std(0)
    price = np.log(table["price"].to_numpy(np.float32))
    codes = pd.factorize(table["zipcode"])[0]
    repeat = len(columns)
    return Rows(
        torch.from_numpy(np.tile(numbers, (repeat, 1))[:limit]),
        torch.from_numpy(np.tile(codes, repeat)[:limit]),
        pixels,
        torch.from_numpy(np.tile((price - price.mean()) / price.std(), repeat)[:limit]),
        photos,
    )


class Network(nn.Module):
    """Photo, numbers and zip code side by side into one linear layer."""

    def __init__(self, kind: str, levels: int) -> None:
        super().__init__()
        self.photo: Any
        if kind == "resnet18":
            self.photo, width = timm.create_model("resnet18", pretrained=False, num_classes=0), 512
        else:
            width = 8
            self.photo = nn.Sequential(nn.Conv2d(3, width, 8, stride=8), nn.ReLU(), nn.Flatten(2), Mean())
        self.zipcode = nn.Embedding(levels, 8)
        self.head = nn.Linear(width + 3 + 8, 1)

    def forward(self, numeric: Tensor, zipcode: Tensor, pixels: Tensor) -> Tensor:
        """The scaled price."""
        photo = self.photo((pixels.float() / 255 - 0.5) / 0.25)
        return self.head(torch.cat([photo, numeric, self.zipcode(zipcode)], 1))[:, 0]


class Mean(nn.Module):
    """Over all places."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, d, places) -> (n, d)."""
        return x.mean(2)


class OfInputs(Network):
    """The same network called with ``xb``."""

    def forward(self, xb: Inputs) -> Tensor:  # type: ignore[override]
        """The scaled price."""
        assert xb.images is not None
        return super().forward(xb.numeric, xb.categorical[:, 0], xb.images[:, 0])


def bare_loop(model: nn.Module, rows: Rows) -> Callable[[], None]:
    """The reference: one epoch over tensors in RAM."""

    def epoch() -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)  # each round is a new fit, as with the Learner
        model.train()
        order = torch.randperm(len(rows.target))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            prediction = model(rows.numeric[chosen], rows.zipcode[chosen], rows.pixels[chosen])
            loss = F.mse_loss(prediction, rows.target[chosen])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def ours(model: nn.Module, rows: Rows, optimizer: Any, prefetch: int | None) -> Callable[[], None]:
    """One epoch of ``Learner.fit`` with an empty validation set."""
    count = len(rows.target)
    dataset = MixedDataset(
        numeric=rows.numeric,
        categorical=rows.zipcode[:, None],
        target=rows.target,
        rows=torch.arange(count),
        slots=torch.arange(count)[:, None],
        photos=rows.photos,
    )

    class Data:
        train = DataLoader(dataset, ShuffledSampler(count, BATCH), prefetch=prefetch)
        valid = DataLoader(dataset, SequentialSampler(0, BATCH))
        target = None

    learner = Learner(model, Data(), loss=mse, optimizer=optimizer, device="cpu")  # type: ignore[arg-type]
    return lambda: learner.fit(1, 1e-3) and None


def main(rounds: int, kinds: list[str]) -> None:
    """Print rows per second and ratios, medians over interleaved rounds."""
    with tempfile.TemporaryDirectory(prefix="mixfit-bench-") as scratch:
        cache = Cache(folder=Path(scratch), limit_bytes=10**12)
        for kind in kinds:
            rows = read_rows(Path(os.environ["MIXFIT_DATA"]) / "houses", cache, ROWS[kind])
            print(
                f"python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}, "
                f"{torch.get_num_threads()} threads; houses, {len(rows.target):,} rows with a photo at {SIZE} px, "
                f"batch {BATCH}"
            )
            compare(kind, rows, rounds)


def compare(kind: str, rows: Rows, rounds: int) -> None:
    """All ways with one network."""
    levels, count = int(rows.zipcode.max()) + 1, len(rows.target)
    ways = {
        "bare loop": bare_loop(Network(kind, levels), rows),
        "mixfit": ours(OfInputs(kind, levels), rows, torch.optim.AdamW, None),
        "mixfit, prefetch 2": ours(OfInputs(kind, levels), rows, torch.optim.AdamW, 2),
        "mixfit, its own AdamW": ours(OfInputs(kind, levels), rows, AdamW, None),
    }
    figures: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds + 1):
        first = number % len(names)  # each way has its turn after each other
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            ways[name]()
            if number:  # the first round warms up
                figures[name].append(count / (time.perf_counter() - start))
    print(f"{kind} ({rounds} interleaved rounds of one epoch of {count:,} rows, medians)")
    for name, values in figures.items():
        ratios = [value / other for value, other in zip(values, figures["bare loop"], strict=True)]
        print(
            f"  {name:32}{statistics.median(values):>10,.1f} rows/s, ratio {statistics.median(ratios):.3f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2:] or ["tiny", "resnet18"])
