"""What share of a training's time do its checkpoints take, and how large are they?

The embedded example with the default network, whose image features are computed once. Run:
python benchmarks/bench_saving.py [EPOCHS]"""

import io
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console

import mixfit
from mixfit.demo import DEMO_TARGET, write_demo
from mixfit.training.checkpoint import Checkpoints


def main(epochs: int) -> None:
    """Print a line for each distance between savings."""
    print(
        f"python {sys.version.split()[0]}, torch {version('torch')}, {torch.get_num_threads()} threads, {epochs} epochs"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = mixfit.load_data(write_demo(folder / "vases"), target=DEMO_TARGET)
        model = mixfit.build_model(data, seed=0)
        data = mixfit.precompute_features(data, model)
        for seconds in (15.0, 1.0, 0.0):
            model = mixfit.build_model(data, seed=0)
            saving = Checkpoints(folder / f"{seconds}", mode="min", seconds=seconds)
            progress = mixfit.ProgressLines(console=Console(file=io.StringIO()))
            learner = mixfit.Learner(model, data, loss=mixfit.mse, callbacks=[saving, progress])
            started = time.perf_counter()
            learner.fit_one_cycle(epochs, 2e-3)
            total = time.perf_counter() - started
            size = sum(file.stat().st_size for file in (folder / f"{seconds}" / "last").iterdir())
            how = "after every batch" if seconds == 0 else f"every {seconds:.0f} s"
            spent, share = saving.seconds_saving, saving.seconds_saving / total
            print(f"{how:<20} {total:7.1f} s, of which saving {spent:6.2f} s = {share:6.2%}; {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
