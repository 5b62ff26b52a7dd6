"""Microseconds a training step costs beside its arithmetic: Linear(4, 1), batches of 8 rows, SGD, one thread.

The Learner with its usual callbacks (Recorder, a metric, one-cycle, lines on a console that is no terminal) against
the five lines of PyTorch, which fetch, train and sum up the loss. Interleaved rounds of one epoch over batches that are
there already; the time of the processor, which others on the machine disturb least.
Run: python benchmarks/bench_step.py [STEPS] [ROUNDS] [--profile]"""

import cProfile
import io
import pstats
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from mixfit.training.callback import Callback
from mixfit.training.callbacks.displays import ProgressLines
from mixfit.training.callbacks.recorder import Recorder
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.metrics import MAE
from mixfit.training.schedule import OneCycle


class Flat(nn.Module):
    """One number a row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 4) -> (batch,)``."""
        return self.linear(x)[:, 0]


@dataclass
class Loaders:
    """Batches that are there already."""

    train: Any
    valid: Any
    target: None = None


def bare(batches: list[tuple[Tensor, Tensor]]) -> Callable[[], None]:
    """The loop as people write it, with PyTorch's SGD and loss."""

    def epoch() -> None:
        model = Flat()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        total = torch.zeros(())
        for xb, yb in batches:
            loss = nn.functional.mse_loss(model(xb), yb)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.detach() * len(yb)
        total.item()

    return epoch


def ours(
    batches: list[tuple[Tensor, Tensor]], optimizer: Any, callbacks: Callable[[], list[Callback]]
) -> Callable[[], None]:
    """A fit of one epoch with one validation batch; its beginning and end are in the figure."""

    def epoch() -> None:
        data = Loaders(batches, batches[:1])
        Learner(Flat(), data, loss=mse, optimizer=optimizer, metrics=[MAE], callbacks=callbacks(), device="cpu").fit(
            1, 1e-3
        )

    return epoch


def usual() -> list[Callback]:
    """What a fit mostly has."""
    return [Recorder(), OneCycle(), ProgressLines("mae", console=Console(file=io.StringIO()))]


def main() -> None:
    """Print the cost of a step, and what of it is more than the bare loop."""
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdecimal()]
    steps, rounds = (numbers + [1000, 61][len(numbers) :])[:2]
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(8, 4, generator=generator), torch.randn(8, generator=generator)) for _ in range(steps)]
    from mixfit.training.optimizer import SGD

    runs = {
        "bare loop": bare(batches),
        "Learner without callbacks, PyTorch's SGD": ours(batches, torch.optim.SGD, list),
        "Learner, PyTorch's SGD": ours(batches, torch.optim.SGD, usual),
        "Learner, its own SGD": ours(batches, SGD, usual),
    }
    if "--profile" in sys.argv:
        profile = cProfile.Profile()
        profile.runcall(runs["Learner, its own SGD"])
        pstats.Stats(profile).sort_stats("tottime").print_stats(22)
        return
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.process_time()
            run()
            times[name].append(1e6 * (time.process_time() - started) / steps)
    print(
        f"python {sys.version.split()[0]}, torch {version('torch')}, 1 thread; Linear(4, 1), batches of 8, "
        f"{rounds} interleaved rounds of {steps:,} steps"
    )
    for name, found in times.items():
        more = [a - b for a, b in zip(found, times["bare loop"], strict=True)]
        ratios = [a / b for a, b in zip(found, times["bare loop"], strict=True)]
        print(
            f"  {name:<42}{statistics.median(found):6.1f} us/step, {statistics.median(more):+6.1f} us, ratio "
            f"{statistics.median(ratios):.2f}; fastest rounds {min(found):6.1f}, "
            f"{min(found) - min(times['bare loop']):+6.1f} us"
        )


if __name__ == "__main__":
    main()
