"""How fast is one epoch of batches from a large table, against slicing whole tensors by a shuffled index?

The reference draws a permutation and indexes each tensor by a piece of it, as a plain PyTorch loop over tensors in RAM
does: with ``tensor[index]``, and with ``tensor.index_select``, which is faster. The per-item
``torch.utils.data.DataLoader`` that users of PyTorch write is timed on fewer rows.
Run: python benchmarks/bench_table.py [rows]"""

import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset

from mixfit.data.dataset import MixedDataset
from mixfit.data.loader import DataLoader
from mixfit.data.sampler import ShuffledSampler

ROUNDS, BATCH = 11, 1024


def sliced(tensors: Sequence[Tensor], gather: Callable[[Tensor, Tensor], Tensor]) -> Iterable[Any]:
    """One epoch of the reference."""
    order = torch.randperm(len(tensors[0]))
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        yield tuple(gather(tensor, chosen) for tensor in tensors)


def rows_per_second(batches: Callable[[], Iterable[Any]], rows: int) -> float:
    """One epoch from its start to its end, the shuffling included."""
    start = time.perf_counter()
    for _ in batches():
        pass
    return rows / (time.perf_counter() - start)


def main(rows: int) -> None:
    """Print rows per second and ratios, medians over interleaved rounds."""
    random = torch.Generator().manual_seed(0)
    numeric = torch.randn(rows, 10, generator=random)
    categorical = torch.randint(0, 50, (rows, 5), generator=random)
    target = torch.randn(rows, generator=random)
    dataset = MixedDataset(numeric=numeric, categorical=categorical, target=target, rows=torch.arange(rows))
    whole = (numeric, categorical, target)
    few = min(rows, 50_000)
    per_item = TensorDataset(numeric[:few], categorical[:few], target[:few])
    ways: dict[str, tuple[Callable[[], Iterable[Any]], int]] = {
        "tensor[index] (reference)": (lambda: sliced(whole, Tensor.__getitem__), rows),
        "tensor.index_select": (lambda: sliced(whole, lambda tensor, chosen: tensor.index_select(0, chosen)), rows),
        "mixfit": (lambda: DataLoader(dataset, ShuffledSampler(rows, BATCH)), rows),
        "mixfit, prefetch 2": (lambda: DataLoader(dataset, ShuffledSampler(rows, BATCH), prefetch=2), rows),
        "torch DataLoader": (lambda: TorchDataLoader(per_item, BATCH, shuffle=True), few),
    }
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (batches, count) in ways.items():
            figures[name].append(rows_per_second(batches, count))
    print(f"python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads, {rows:,} rows x 10 numbers + 5 categories, batch {BATCH}")
    reference = figures["tensor[index] (reference)"]
    for name, values in figures.items():
        ratios = [value / other for value, other in zip(values, reference, strict=True)]
        print(
            f"{name:28}{statistics.median(values):>14,.0f} rows/s, ratio {statistics.median(ratios):5.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} rounds)"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
