"""The same bytes whatever the load of the machine, and nearly the same predictions whatever the number of threads."""

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
from threadpoolctl import threadpool_limits

from mixfit.demo import DEMO_TARGET, write_demo
from mixfit.recipe import Run

THREADS = 2


@contextmanager
def busy_machine() -> Iterator[None]:
    """Beside a process that wants a whole core."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def train(table: Path, out: Path, *flags: str) -> dict[str, bytes]:
    """Files of a model by the command line, in a process with the arithmetic of the machine and a cold cache."""
    # What is fixed for the other tests is not: here this machine and several threads are to show what they do.
    environment = {name: value for name, value in os.environ.items() if name not in FIXED}
    environment |= {"MIXFIT_CACHE": str(out / "cache"), "OMP_NUM_THREADS": str(THREADS)}
    program = "import sys; from mixfit.cli import main; sys.exit(main())"
    arguments = ["train", str(table), "--target", DEMO_TARGET, "--image-size", "32", "--out", str(out), *flags]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (model,) = out.glob("*/model")
    return {path.name: path.read_bytes() for path in model.iterdir()} | {
        "config.toml": (model.parent / "config.toml").read_bytes()
    }


@pytest.mark.timeout(900)  # it makes the machine slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--preset", "quick", "--epochs", "1"),
        ("--preset", "network", "--backbone", "small_resnet", "--epochs", "1", "--tabular-hidden", "16"),
    ],
    ids=["blend on features", "network on pixels"],
)
def test_a_busy_machine_trains_the_same_model(flags: tuple[str, ...], tmp_path: Path) -> None:
    table = write_demo(tmp_path / "vases", rows=80)
    alone = train(table, tmp_path / "alone", *flags)
    with busy_machine():
        beside = train(table, tmp_path / "beside", *flags)
    assert {"model.safetensors", "mixfit.json", "config.toml"} <= alone.keys() == beside.keys()
    assert [name for name in alone if alone[name] != beside[name]] == []


@pytest.mark.parametrize("name", ["quick_run", "blend_run", "class_run"])
def test_predictions_hardly_depend_on_the_number_of_threads(
    name: str, request: pytest.FixtureRequest, demo_table: Path
) -> None:
    run: Run = request.getfixturevalue(name)
    table = run.folder.parents[1] / "t" / "table.csv" if name == "class_run" else demo_table
    frame, before, found = pd.read_csv(table), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            with threadpool_limits(threads):
                found.append(run.predictor.predict(frame, images=table.parent).select_dtypes("number").to_numpy())
    finally:
        torch.set_num_threads(before)
    assert found[0].shape[1] > 0
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-5)
