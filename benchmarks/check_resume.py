"""Does a run that goes on with damaged or foreign files end with another model, and does it say so?

Run: python benchmarks/check_resume.py. A preset of linear models, trees and networks on 60 rows without photos is run
once; then its folder is damaged in several ways, resumed, and the bytes of its model are compared."""

import contextlib
import io
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from mixfit import __version__
from mixfit.auto import recipe
from mixfit.cli import main
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.console import PlainConsole
from mixfit.ensemble import cross_fit
from mixfit.training.callback import Callback, TrainState


def write_table(path: Path) -> None:
    """A number from two numbers and a category."""
    random = np.random.default_rng(0)
    x, z, kind = random.normal(size=60), random.normal(size=60), random.choice(["a", "b", "c"], 60)
    frame = pd.DataFrame({"x": x, "z": z, "kind": kind, "y": x + (kind == "a") + 0.3 * random.normal(size=60)})
    frame.to_csv(path, index=False)


def train(table: Path, out: Path, *more: str) -> tuple[int, str]:
    """Exit code and what was printed of a training on the command line."""
    flags = ["--preset", "quick", "--epochs", "2", "--tabular", "mlp", "--tabular-hidden", "8", "--cache-gb", "0"]
    return typed("train", str(table), "--target", "y", "--out", str(out), *flags, *more)


def typed(*arguments: str) -> tuple[int, str]:
    """Exit code and output of a command."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(list(arguments))
        except SystemExit as stop:
            return int(str(stop.code)), said.getvalue()
        except KeyboardInterrupt:
            return 130, said.getvalue()
    return 0, said.getvalue()


def resumed(run: Path) -> tuple[str, object, str]:
    """How a resumption ended, the losses of all models, and what it warned of."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            found = recipe.resume(run, console=PlainConsole())
        except Exception as error:  # whatever it is, it is what is measured
            return type(error).__name__, None, str(error)
    told = "; ".join(line.strip() for line in said.getvalue().splitlines() if "fitted again" in line)
    losses = [(line.model, line.loss) for line in found.contest.leaderboard] if found.contest else []
    return "finished", losses, told


def flip(path: Path) -> None:
    """One bit near the end, where the tensors are."""
    content = bytearray(path.read_bytes())
    content[-6] ^= 32
    path.write_bytes(content)


def swap(a: Path, b: Path) -> None:
    """Two kept models change places, with all that belongs to them by name."""
    for suffix in (".safetensors", ".json"):
        one, other = a.with_suffix(suffix), b.with_suffix(suffix)
        if one.exists():
            first, second = one.read_bytes(), other.read_bytes()
            one.write_bytes(second)
            other.write_bytes(first)


def begun(run: Path) -> None:
    """As a kill after the first file of the run leaves it."""
    shutil.rmtree(run / "candidates")
    for name in ("schema.json", "environment.json"):
        (run / name).unlink()


def interrupted(table: Path, out: Path) -> tuple[int, str]:
    """Ctrl-C between two simple models."""
    real, calls = cross_fit.fit_model, [0]

    def fit_model(*arguments: object, **settings: object) -> object:
        calls[0] += 1
        if calls[0] == 9:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments, **settings)  # type: ignore[arg-type]

    cross_fit.fit_model = fit_model  # type: ignore[assignment]
    try:
        return train(table, out)
    finally:
        cross_fit.fit_model = real


class Sizes(Callback):
    """The most rows of a training batch."""

    largest = 0

    def after_batch(self, state: TrainState) -> None:
        """Look at one."""
        if state.training:
            self.largest = max(self.largest, len(state.yb))


def check(folder: Path) -> None:
    """Print one line for each damage."""
    table = folder / "table.csv"
    write_table(table)
    train(table, folder / "whole")
    (run,) = (folder / "whole").iterdir()
    model = (run / "model" / "model.safetensors").read_bytes()
    train(table, folder / "other", "--seed", "1")
    (other,) = (folder / "other").iterdir()
    kept = "candidates"
    damages: dict[str, Callable[[Path], None]] = {
        "nothing": lambda _: None,
        "a bit of a linear model": lambda to: flip(to / kept / "linear-table-1.safetensors"),
        "a bit of a network": lambda to: flip(to / kept / "network-table-2.safetensors"),
        "two folds of a linear model swapped": lambda to: swap(
            to / kept / "linear-table-1", to / kept / "linear-table-2"
        ),
        "a linear model under the name of trees": lambda to: swap(
            to / kept / "linear-table-1", to / kept / "boosted_trees-table-1"
        ),
        "a network of a run with another seed": lambda to: swap(
            to / kept / "network-table-1", Path(shutil.copytree(other, to / "other")) / kept / "network-table-1"
        ),
        "killed before schema.json was written": begun,
    }
    print(f"mixfit {__version__}")
    expected: object = None
    for name, damage in damages.items():
        copy = Path(shutil.copytree(run, folder / f"copy of {name}" / run.name))
        damage(copy)
        shutil.rmtree(copy / "model")
        how, losses, told = resumed(copy)
        expected = losses if name == "nothing" else expected
        found = copy / "model" / "model.safetensors"
        same = "same" if losses == expected and found.read_bytes() == model else "OTHER MODELS"
        print(f"{name:<42}{how:<12} {'none' if losses is None else same:<14} {told[:110] or '-'}")
    code, said = interrupted(table, folder / "interrupted")
    print(f"Ctrl-C between two models: exit {code}, said {said.splitlines()[-1]!r}"[:240])
    sizes = Sizes()
    model_config = ModelConfig(tabular="mlp", tabular_hidden=(8,))
    recipe.fit(
        table,
        target="y",
        out=folder / "batches",
        data=DataConfig(cache_gb=0.0),
        model=model_config,
        train=TrainConfig(preset="quick", epochs=2, batch_size=7),
        callbacks=[sizes],
        console=Console(quiet=True),
    )
    print(f"batch_size=7: the largest batch of a network has {sizes.largest} rows")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        check(Path(name))
