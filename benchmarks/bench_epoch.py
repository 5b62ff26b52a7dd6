"""One epoch over a table of 1,000,000 rows through the Learner, against the loop that a person writes.

10 numbers and 5 categories, embeddings and an MLP 200-100, batches of 1024, AdamW, the same network in both. The
reference slices whole tensors by a shuffled index and trains with PyTorch's AdamW; ours has the DataLoader, the Learner
with its usual callbacks, and our AdamW. Interleaved rounds. Run: python benchmarks/bench_epoch.py [ROWS] [ROUNDS]"""

import io
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from mixfit.data.batch import Inputs
from mixfit.data.dataset import MixedDataset
from mixfit.data.loader import DataLoader
from mixfit.data.sampler import SequentialSampler, ShuffledSampler
from mixfit.training.callbacks.displays import ProgressLines
from mixfit.training.callbacks.recorder import Recorder
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.optimizer import AdamW
from mixfit.training.schedule import OneCycle

NUMBERS, CATEGORIES, LEVELS, BATCH = 10, 5, 50, 1024


class Network(nn.Module):
    """Embeddings and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(LEVELS, 8) for _ in range(CATEGORIES))
        width = NUMBERS + 8 * CATEGORIES
        self.layers = nn.Sequential(nn.Linear(width, 200), nn.ReLU(), nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 1))

    def forward(self, xb: Inputs) -> Tensor:
        """``(batch,)``."""
        return self.both(xb.numeric, xb.categorical)

    def both(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        """The same from the two tensors."""
        embedded = [embedding(categorical[:, i]) for i, embedding in enumerate(self.embeddings)]
        return self.layers(torch.cat([numeric, *embedded], 1))[:, 0]


@dataclass
class Data:
    """What the Learner wants."""

    train: DataLoader
    valid: DataLoader
    target: None = None


def main(rows: int, rounds: int) -> None:
    """Print seconds and ratios."""
    print(
        f"python {sys.version.split()[0]}, torch {version('torch')}, {torch.get_num_threads()} threads, {rows:,} rows"
    )
    generator = torch.Generator().manual_seed(0)
    numeric = torch.randn(rows, NUMBERS, generator=generator)
    categorical = torch.randint(LEVELS, (rows, CATEGORIES), generator=generator)
    target = numeric.sum(1) + torch.randn(rows, generator=generator)
    dataset = MixedDataset(numeric=numeric, categorical=categorical, target=target, rows=torch.arange(rows))
    data = Data(DataLoader(dataset, ShuffledSampler(rows, BATCH)), DataLoader(dataset, SequentialSampler(0, BATCH)))

    def bare() -> float:
        torch.manual_seed(0)
        model = Network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        order, total = torch.randperm(rows), torch.zeros(())
        started = time.perf_counter()
        for start in range(0, rows, BATCH):
            index = order[start : start + BATCH]
            loss = F.mse_loss(model.both(numeric[index], categorical[index]), target[index])
            total += loss.detach() * len(index)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print(f"    loss {total.item() / rows:.4f}", end="")
        return time.perf_counter() - started

    def ours() -> float:
        torch.manual_seed(0)
        console = Console(file=io.StringIO(), width=80)
        callbacks = [Recorder(), ProgressLines(console=console), OneCycle()]
        learner = Learner(Network(), data, loss=mse, optimizer=AdamW, callbacks=callbacks, device="cpu")
        started = time.perf_counter()
        state = learner.fit(1, 1e-3)
        seconds = time.perf_counter() - started
        print(f"    loss {state.metrics['train_loss']:.4f}", end="")
        return seconds

    ways: dict[str, Callable[[], float]] = {"bare loop": bare, "Learner": ours}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(way())
            print(f"  {name} {times[name][-1]:.2f} s")
    base = statistics.median(times["bare loop"])
    for name, found in times.items():
        median = statistics.median(found)
        print(f"{name:<12} {rows / median:>12,.0f} rows/s, ratio {base / median:.3f} (median of {rounds})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, int(sys.argv[2]) if len(sys.argv) > 2 else 5)
