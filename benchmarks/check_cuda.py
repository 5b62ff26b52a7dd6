"""Does mixfit compute on a GPU what it computes on the CPU, and how much faster?

On made vases with photos (``mixfit demo``): training on pixels in float32 and with bfloat16, features of the pretrained
network, a training that is stopped and resumed, and prediction with a saved model. Each step runs on the CPU and on the
device, where its second run is timed, as the first one loads kernels. A table has seconds, speed-up and the largest
difference of the results relative to the largest result; training amplifies rounding, so its tolerance is wider. A
resumed training is compared with an uninterrupted one on the same device.
Exit codes: 0 all within tolerance, or there is no GPU (one sentence says so); 1 a difference is too large.
Run: python benchmarks/check_cuda.py [--device cuda|cpu] [--rows 300]     (cpu compares the CPU with itself)"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

import mixfit
from mixfit.config import ModelConfig, TrainConfig
from mixfit.data.load import MixedData
from mixfit.demo import DEMO_TARGET, write_demo
from mixfit.training.build import build_model, encode_photos
from mixfit.training.callback import Callback
from mixfit.training.checkpoint import Checkpoints, newest_checkpoint
from mixfit.training.learner import Learner, TrainState
from mixfit.training.loss import mse

PIXELS = ModelConfig(backbone="small_resnet", tabular="mlp", numbers="plain", dropout=0.0, image_dropout=0.0)
EPOCHS, STOPPED_AFTER = 2, 3  # the latter in batches
ROUNDING, TRAINED, COARSE = 1e-4, 2e-2, 1e-1
"""Tolerances of a forward pass, of a training, and of numbers with 8 bits of precision."""


@dataclass(frozen=True, slots=True)
class Step:
    """One comparison."""

    name: str
    run: Callable[[torch.device], np.ndarray]
    tolerance: float
    count: int
    """Photos or rows that are processed, for the speed."""
    expected: Callable[[torch.device], np.ndarray] | None = None
    """What it is compared with; by default the same step on the CPU."""


class Stop(Callback):
    """Raise KeyboardInterrupt after some batches, as a second signal would."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def after_batch(self, state: TrainState) -> None:
        """Count."""
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def outputs(learner: Learner, data: MixedData, device: torch.device) -> np.ndarray:
    """Predictions of the validation rows."""
    model = learner.model.eval()
    with torch.inference_mode():
        found = [model(xb.to(device)).float().cpu() for xb, _ in data.valid]
    return torch.cat(found).numpy()


def trained(data: MixedData, device: torch.device, config: ModelConfig, *, stopped: Path | None = None) -> np.ndarray:
    """Train on pixels; with ``stopped``, a folder, the training is interrupted and resumed from there."""
    learner = learner_of(data, device, config)
    if stopped is not None:
        saving = Checkpoints(stopped, "train_loss", mode="min", seconds=0)
        try:
            learner.fit(EPOCHS, 1e-3, callbacks=[saving, Stop(STOPPED_AFTER)])
        except KeyboardInterrupt:
            data.train.set_epoch(0)
        learner = learner_of(data, device, config)
        learner.fit(EPOCHS, 1e-3, callbacks=[saving], resume=newest_checkpoint(stopped))
    else:
        learner.fit(EPOCHS, 1e-3)
    data.train.set_epoch(0)
    return outputs(learner, data, device)


def learner_of(data: MixedData, device: torch.device, config: ModelConfig) -> Learner:
    """A new network, whose initial weights do not depend on the device."""
    return Learner(build_model(data, config, seed=0), data, loss=mse, device=device)


def synchronised(device: torch.device) -> float:
    """The time when the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def steps(folder: Path, rows: int) -> list[Step]:
    """All comparisons, in order."""
    table = write_demo(folder / "vases", rows=rows)
    data = mixfit.load_data(table, target=DEMO_TARGET, image_size=64, batch_size=32, progress=False)
    assert data.photos is not None
    photos, count = data.photos.decoder, len(data.photos.files)
    coarse = ModelConfig(**{**PIXELS.to_dict(), "precision": "bfloat16"})
    frozen = build_model(data, ModelConfig(tabular="mlp", numbers="plain"), seed=0)
    half = build_model(data, ModelConfig(tabular="mlp", numbers="plain", precision="bfloat16"), seed=0)
    quiet = Console(quiet=True)
    run = mixfit.fit(
        table, target=DEMO_TARGET, train=TrainConfig(preset="quick", epochs=2), out=folder / "runs", console=quiet
    )
    frame = mixfit.read_table(table).drop(columns=DEMO_TARGET)
    places = iter(range(10**6))

    def features(model: torch.nn.Module, device: torch.device) -> np.ndarray:
        return encode_photos(model.to(device).image, photos).values.numpy()

    def predicted(device: torch.device) -> np.ndarray:
        found = mixfit.Predictor.load(run.folder).predictions(frame, images=table.parent, device=device)
        return found.values

    def resumed(device: torch.device) -> np.ndarray:
        return trained(data, device, PIXELS, stopped=folder / f"checkpoints{next(places)}")

    seen = EPOCHS * count
    return [
        Step("training, float32", lambda device: trained(data, device, PIXELS), TRAINED, seen),
        Step("training, bfloat16", lambda device: trained(data, device, coarse), COARSE, seen),
        Step("features, float32", lambda device: features(frozen, device), ROUNDING, count),
        Step("features, bfloat16", lambda device: features(half, device), COARSE, count),
        Step("stopped and resumed", resumed, ROUNDING, seen, lambda device: trained(data, device, PIXELS)),
        Step("prediction", predicted, ROUNDING, rows),
    ]


def main() -> int:
    """Print the table; the result is the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=300)
    arguments = parser.parse_args()
    device, cpu = torch.device(arguments.device), torch.device("cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        print("There is no GPU that PyTorch can use, so nothing was compared; --device cpu tries the script itself.")
        return 0
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    print(f"mixfit {version('mixfit')}, torch {torch.__version__}, {name} against cpu, {arguments.rows} rows")
    print(f"{'':<22}{'cpu s':>8}{'device s':>10}{'faster':>8}{'per s':>9}{'difference':>12}{'tolerance':>11}")
    wrong = 0
    with tempfile.TemporaryDirectory() as place:
        for step in steps(Path(place), arguments.rows):
            began = time.perf_counter()
            expected = step.run(cpu) if step.expected is None else step.expected(device)
            on_cpu = time.perf_counter() - began
            step.run(device)
            began = synchronised(device)
            found = step.run(device)
            seconds = synchronised(device) - began
            difference = float(np.abs(found - expected).max() / np.abs(expected).max())
            fine = difference <= step.tolerance  # also refuses nan
            wrong += not fine
            print(
                f"{step.name:<22}{on_cpu:>8.2f}{seconds:>10.2f}{on_cpu / seconds:>8.1f}{step.count / seconds:>9.0f}"
                f"{difference:>12.1e}{step.tolerance:>11.0e}{'' if fine else '   TOO LARGE'}",
                flush=True,
            )
    print("all within tolerance" if not wrong else f"{wrong} differences are too large")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
