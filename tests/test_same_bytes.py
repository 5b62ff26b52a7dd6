"""The same bytes whatever the load of the machine, and nearly the same predictions whatever the number of threads.

Run with a table and a folder, it trains there: so each training has a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fixed_arithmetic import FIXED
from rich.console import Console
from small_runs import in_few_folds
from threadpoolctl import threadpool_limits

from mixfit.auto.recipe import fit
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.demo import DEMO_TARGET, write_demo
from mixfit.predictor import Predictor

THREADS = 2
ROWS = 40
TRAININGS = {
    "blend on features": (
        ModelConfig(tabular_hidden=(16,), encoding_dim=8),
        TrainConfig(preset="quick", epochs=1, report=False),
    ),
    "network on pixels": (
        ModelConfig(backbone="small_resnet", tabular_hidden=(16,), encoding_dim=8),
        TrainConfig(preset="network", epochs=1, report=False),
    ),
}


def train(table: Path, out: Path) -> None:
    """Make a run for each of ``TRAININGS`` under the folder of its name."""
    in_few_folds(pytest.MonkeyPatch())  # for as long as this process lives
    for name, (model, settings) in TRAININGS.items():
        data, quiet = DataConfig(image_size=32), Console(quiet=True)
        fit(table, target=DEMO_TARGET, data=data, model=model, train=settings, out=out / name, console=quiet)


@contextmanager
def busy_machine() -> Iterator[None]:
    """Beside a process that wants a whole core."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def train_elsewhere(table: Path, out: Path) -> Path:
    """``out``, with runs made in a process with the arithmetic of the machine and a cold cache."""
    # What is fixed for the other tests is not: here this machine and several threads are to show what they do.
    environment = {name: value for name, value in os.environ.items() if name not in FIXED}
    environment |= {"MIXFIT_CACHE": str(out / "cache"), "OMP_NUM_THREADS": str(THREADS)}
    command = [sys.executable, __file__, str(table), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def model_folder(out: Path, name: str) -> Path:
    """Of the one run of that name."""
    [folder] = (out / name).glob("*/model")
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("table") / "vases", rows=ROWS)


@pytest.fixture(scope="module")
def alone(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of which no other test makes the machine busy."""
    return train_elsewhere(table, tmp_path_factory.mktemp("alone"))


@pytest.mark.timeout(900)  # it makes the machine slow
def test_a_busy_machine_trains_the_same_models(table: Path, alone: Path, tmp_path: Path) -> None:
    with busy_machine():
        beside = train_elsewhere(table, tmp_path)
    for name in TRAININGS:
        quiet, busy = model_folder(alone, name), model_folder(beside, name)
        names = {path.name for path in quiet.iterdir()}
        assert {"model.safetensors", "mixfit.json"} <= names == {path.name for path in busy.iterdir()}
        assert [file for file in names if (quiet / file).read_bytes() != (busy / file).read_bytes()] == []
        assert (quiet.parent / "config.toml").read_bytes() == (busy.parent / "config.toml").read_bytes()


@pytest.mark.parametrize("name", TRAININGS)
def test_predictions_hardly_depend_on_the_number_of_threads(name: str, table: Path, alone: Path) -> None:
    predictor = Predictor.load(model_folder(alone, name))
    frame, before, found = pd.read_csv(table).head(24), torch.get_num_threads(), []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            with threadpool_limits(threads):
                found.append(predictor.predict(frame, images=table.parent).select_dtypes("number").to_numpy())
    finally:
        torch.set_num_threads(before)
    assert found[0].shape[1] > 0
    one, four = found
    np.testing.assert_allclose(four, one, rtol=1e-5)


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]))
