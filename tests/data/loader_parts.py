"""A dataset of photos that are slow to read, and other parts of tests of the loader."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from mixfit.data.dataset import FeatureTable, MixedDataset
from mixfit.data.loader import DataLoader
from mixfit.data.sampler import ShuffledSampler

ROWS, BATCH, SIZE = 23, 4, 4


class SlowPhotos:
    """Photo i is filled with i + a gradient; odd batches take longer, so that results come in out of order."""

    size = SIZE

    def __init__(self, count: int) -> None:
        self.files = tuple(Path("photos") / f"{i}.jpg" for i in range(count))
        self.failures: dict[int, str] = {}
        self.broken: dict[int, BaseException] = {}
        self.reads = 0

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        self.reads += 1
        time.sleep(0.002 * (int(indices.sum()) % 3))
        for index in indices.tolist():
            if index in self.broken:
                raise self.broken[index]
        pixels = torch.from_numpy(indices.astype(np.uint8))[:, None, None, None].repeat(1, 3, SIZE, SIZE)
        return pixels + torch.arange(SIZE, dtype=torch.uint8), torch.ones(len(indices), dtype=torch.bool)


def photo_rows(source: SlowPhotos | FeatureTable | None = None, *, ragged: bool = False) -> MixedDataset:
    """Row i of the dataset is row i + 100 of its table and has the photos 2 i and 2 i + 1."""
    slots = torch.arange(2 * ROWS).reshape(ROWS, 2)
    if ragged:
        slots[::3, 1] = -1
        slots[::5] = -1
    return MixedDataset(
        numeric=torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0)),
        categorical=torch.arange(ROWS)[:, None],
        target=torch.arange(float(ROWS)),
        rows=torch.arange(ROWS) + 100,
        slots=slots,
        photos=SlowPhotos(2 * ROWS) if source is None else source,
    )


def loader(rows: Any, **settings: Any) -> DataLoader:
    return DataLoader(rows, ShuffledSampler(ROWS, BATCH, seed=5), **settings)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class Foreign(TorchDataset[Any]):
    """Somebody else's dataset, item by item."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 17:
            raise self.error
        return torch.ones(2), index
