"""A user's script under torchrun: trains a small network and writes what it became; see ``test_distributed``."""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import torch

import mixfit
from mixfit.data.batch import Inputs
from mixfit.data.dataset import MixedDataset
from mixfit.data.loader import DataLoader
from mixfit.data.sampler import SequentialSampler, ShuffledSampler
from mixfit.errors import MixfitError, Stopped
from mixfit.training.callback import Callback, TrainState
from mixfit.training.callbacks.control import StopOnSignal
from mixfit.training.callbacks.distributed import wait_for_processes
from mixfit.training.callbacks.steps import GradientAccumulation, MixedPrecision
from mixfit.training.checkpoint import Checkpoints, newest_checkpoint
from mixfit.training.metrics import MAE, R2
from mixfit.training.optimizer import SGD, AdamW

ROWS, BATCH = 53, 10
"""The last batch has three rows, so that two processes have shares of different sizes."""


class Small(torch.nn.Module):
    """Two layers, and noise between them."""

    def __init__(self, *, dropout: bool = False) -> None:
        super().__init__()
        noise = torch.nn.Dropout(0.2 if dropout else 0.0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), noise, torch.nn.Linear(8, 1))

    def forward(self, xb: Inputs) -> torch.Tensor:
        return self.layers(xb.numeric).squeeze(1)


class Data:
    """Loaders of random rows with weights."""

    target = None

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        numeric = torch.randn(ROWS, 4, generator=random)
        weight = torch.rand(ROWS, generator=random) + 0.5
        dataset = MixedDataset(
            numeric=numeric,
            categorical=torch.zeros(ROWS, 0, dtype=torch.int64),
            target=numeric[:, 0] * numeric[:, 1] + 0.1 * torch.randn(ROWS, generator=random),
            rows=torch.arange(ROWS),
            weight=weight / weight.mean(),
        )
        self.train = DataLoader(dataset, ShuffledSampler(ROWS, BATCH, seed=3))
        self.valid = DataLoader(dataset, SequentialSampler(ROWS, BATCH))


class Losses(Callback):
    """Keeps the loss of each step, the seed of its noise, and how many rows were validated."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seeds: list[int] = []
        self.validated = 0

    def after_step(self, state: TrainState) -> None:
        self.losses.append(float(state.loss))
        self.seeds.append(torch.initial_seed())

    def after_batch(self, state: TrainState) -> None:
        self.validated += 0 if state.training else len(state.yb)


class KilledAt(Callback):
    """Kills a process before a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_loss(self, state: TrainState) -> None:
        if state.training and state.step == self.step and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)


class StopsAt(Callback):
    """Asks one process to stop after a step, as a signal does."""

    order = -200

    def after_step(self, state: TrainState) -> None:
        if state.step == 4 and os.environ.get("RANK", "1") == "1":
            state.stop_requested = "SIGTERM"


def fitted(optimizer: type, folder: Path, *callbacks: Callback, dropout: bool = False) -> dict[str, object]:
    """Losses, metrics and weights after two epochs."""
    torch.manual_seed(1)
    losses = Losses()
    saved = Checkpoints(folder, "valid_loss", mode="min", seconds=0.0)
    found = newest_checkpoint(folder)
    learner = mixfit.Learner(
        Small(dropout=dropout),
        Data(),
        loss=mixfit.mse,
        optimizer=optimizer,
        metrics=[MAE, R2],
        callbacks=[losses, saved, *callbacks],
    )
    state = learner.fit(2, 0.01, resume=found)
    weights = torch.cat([one.detach().flatten() for one in learner.model.parameters()])
    found = {"losses": losses.losses, "metrics": state.metrics, "weights": weights.tolist()}
    return found | {"seeds": losses.seeds, "validated": losses.validated}


def stopped_and_resumed(folder: Path) -> dict[str, object]:
    """A fit with noise that was stopped after some steps, and resumed with as many processes."""
    with suppress(Stopped):
        fitted(AdamW, folder, StopsAt(), StopOnSignal(), dropout=True)
    wait_for_processes()
    return fitted(AdamW, folder, StopOnSignal(), dropout=True)


def main() -> None:
    """Write results to OUT for each process, or end with a sentence."""
    what, out = sys.argv[1], Path(sys.argv[2])
    rank = os.environ.get("RANK", "0")
    try:
        if what == "killed":
            fitted(AdamW, out / "checkpoints", KilledAt(3))
        elif what == "stopped":
            fitted(AdamW, out / "checkpoints", StopsAt(), StopOnSignal())
        elif what == "resumed":
            (out / f"resumed-{rank}.json").write_text(json.dumps(fitted(AdamW, out / "checkpoints")))
        else:
            found = {
                "AdamW": fitted(AdamW, out / "adamw"),
                "SGD": fitted(SGD, out / "sgd"),
                "parts": fitted(AdamW, out / "parts", GradientAccumulation(2)),
                "bfloat16": fitted(AdamW, out / "bfloat16", MixedPrecision("bfloat16")),
                "float16": fitted(AdamW, out / "float16", MixedPrecision("float16", scale=16.0)),
                "noise": fitted(AdamW, out / "noise", dropout=True),
                "noise, resumed": stopped_and_resumed(out / "resumed"),
            }
            (out / f"{rank}.json").write_text(json.dumps(found))
    except MixfitError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
