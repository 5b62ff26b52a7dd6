"""Fault cases 28 and 35 to 43: seeds, workers, losses that are not finite, batches, edited checkpoints, long runs."""

import gc
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import QUICK, mixfit
from safetensors.torch import load_file, save_file
from tiny_fit import Loaders, Net, X, Y, loaders, same_bytes, tiny_fit
from torch import Tensor, nn
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import Dataset, TensorDataset

from mixfit.data.loader import DataLoader
from mixfit.data.sampler import SequentialSampler
from mixfit.errors import ConfigError, DataError, Diverged, Stopped
from mixfit.training.callback import Callback, TrainState
from mixfit.training.checkpoint import load_weights, newest_checkpoint, read_checkpoint
from mixfit.training.learner import Learner
from mixfit.training.loss import mse


@pytest.mark.parametrize("workers", [0, 2])
def test_f28_one_seed_gives_the_same_bytes_whatever_the_workers(tmp_path: Path, workers: int) -> None:
    ours = [tiny_fit(folder(tmp_path, f"ours-{prefetch}"), data=loaders(prefetch=prefetch)) for prefetch in (0, 3)]
    assert same_bytes(*ours)

    def torchs(count: int) -> Loaders:
        return Loaders(TorchLoader(TensorDataset(X, Y), batch_size=10, num_workers=count), loaders().valid)

    runs = [
        tiny_fit(folder(tmp_path, f"torch-{count}-{i}"), data=torchs(count)) for i, count in enumerate((0, workers))
    ]
    assert same_bytes(*runs)
    losses = [(tmp_path / name / "history.csv").read_text() for name in ("ours-0", "ours-3")]
    assert without_seconds(losses[0]) == without_seconds(losses[1])


def folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def without_seconds(history: str) -> list[list[str]]:
    rows = [line.split(",") for line in history.splitlines()]
    place = rows[0].index("seconds")
    return [[*row[:place], *row[place + 1 :]] for row in rows]


DYING = """
import os, signal, sys
import torch
from tiny_fit import *
from torch.utils.data import DataLoader as TorchLoader, Dataset
from mixfit.errors import MixfitError

class Dying(Dataset):
    def __len__(self):
        return 40
    def __getitem__(self, index):
        if index == 25:
            os.kill(os.getpid(), signal.SIGKILL)
        return X[index], Y[index]

try:
    tiny_fit(Path(sys.argv[1]), data=Loaders(TorchLoader(Dying(), batch_size=10, num_workers=1), loaders().valid))
except MixfitError as error:
    print(error.exit_code, error)
"""


def test_f35_a_killed_worker_of_pytorchs_loader_is_told_in_one_sentence(tmp_path: Path) -> None:
    # in a process of its own, as PyTorch's signal handler raises wherever Python happens to be
    command, here = (
        [sys.executable, "-c", DYING, str(tmp_path)],
        {"PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:2]))},
    )
    done = subprocess.run(command, env=os.environ | here, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.startswith("4 A worker of the DataLoader was killed"), done.stderr
    assert "num_workers=0" in done.stdout


class Poisoned(Dataset[Any]):
    """Row 17 cannot be fetched."""

    def __len__(self) -> int:
        return 38

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == 17:
            raise OSError("the disk says no")
        return X[index], Y[index]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_f35_an_error_in_a_thread_names_the_row_and_leaves_no_thread(tmp_path: Path, prefetch: int) -> None:
    data = Loaders(DataLoader(Poisoned(), SequentialSampler(38, 8), prefetch=prefetch), loaders().valid)
    with pytest.raises(DataError, match=r"Could not read row 17: OSError: the disk says no"):
        tiny_fit(tmp_path, data=data)


class Poison(Callback):
    """Makes something infinite at a step."""

    def __init__(self, what: str, step: int = 7) -> None:
        self.what, self.step = what, step

    def before_batch(self, state: TrainState) -> None:
        if not state.training or state.step != self.step - 1:
            return
        if self.what == "weight":
            next(iter(state.model.parameters())).data[0, 0] = torch.inf
        elif self.what == "input":
            state.xb = state.xb.clone()
            state.xb[2, 1] = torch.nan
        elif self.what == "target":
            state.yb = state.yb.clone()
            state.yb[3] = torch.inf

    def after_prediction(self, state: TrainState) -> None:
        if self.what == "loss" and state.training and state.step == self.step - 1:
            state.prediction = state.prediction * 1e38


class Overflowing(Net):
    """Its last layer overflows for rows that are far out."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).exp().exp())[:, 0]


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        (
            "weight",
            r"the previous step made first\.weight non-finite, by a gradient of rows 0, 1, 2, 3, 4 and 3 more\.",
        ),
        ("input", r"the input xb is not finite in row 2\."),
        ("target", r"the target is not finite in row 3\."),
        ("loss", r"the loss itself overflows for rows 0, 1, 2"),
    ],
)
def test_f37_a_loss_that_is_not_finite_ends_the_fit_at_that_step_and_says_why(
    tmp_path: Path, what: str, cause: str
) -> None:
    place = r"^The loss is no longer finite at step 7 \(epoch 2, batch 2\): "
    with pytest.raises(Diverged, match=place + cause + ".* the last good checkpoint is kept") as error:
        tiny_fit(tmp_path, Poison(what))
    assert error.value.exit_code == 5
    assert "\n" not in str(error.value)
    found = newest_checkpoint(tmp_path / "checkpoints")
    assert found is not None
    assert found.step == 6
    assert all(bool(tensor.isfinite().all()) for tensor in found.weights.values())


def test_f37_the_first_layer_that_overflows_is_named(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1)
            nn.init.constant_(self.second.weight, 1e38)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.second(self.first(x).abs() * 100))[:, 0]

    with pytest.raises(
        Diverged, match=r"at step 1 .*the layer second \(Linear\) is the first that is not finite, for rows"
    ):
        tiny_fit(tmp_path, model=Two())
    assert newest_checkpoint(tmp_path / "checkpoints") is None


def test_f37_a_learning_rate_of_a_million_ends_within_a_step_of_the_first_bad_loss(tmp_path: Path) -> None:
    class Quadratic(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) ** 3

    with pytest.raises(Diverged, match="Train with a smaller learning rate"):
        tiny_fit(tmp_path, lr=1e15, epochs=50, model=Quadratic())
    found = newest_checkpoint(tmp_path / "checkpoints")
    assert found is None or all(bool(tensor.isfinite().all()) for tensor in found.weights.values())


@pytest.mark.parametrize("rows", [1, 2, 9, pytest.param(17, marks=pytest.mark.long)])
def test_f38_a_last_batch_of_one_row_and_fewer_rows_than_a_batch(
    demo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: int
) -> None:
    """An image network with batch norms, trained on pixels."""
    import pandas as pd

    table = pd.read_csv(demo_table).iloc[: rows + 12].copy()
    table["split"] = ["train"] * rows + ["valid"] * 6 + ["test"] * 6
    table.to_csv(tmp_path / "table.csv", index=False)
    code, printed = mixfit(
        capsys, "train", tmp_path / "table.csv", "--target", "price", "--images", demo_table.parent, "--out", tmp_path,
        "--image-size", "32", "--backbone", "small_resnet", "--batch-size", "8", "--epochs", "1", "--preset", "network",
        "--tabular-hidden", "8",
    )  # fmt: skip
    assert code == (0 if rows > 1 else 3), printed
    if code:
        assert "rows" in printed


def test_f38_no_validation_rows(tmp_path: Path) -> None:
    data = loaders()
    empty = Loaders(data.train, DataLoader(TensorDataset(X[:0], Y[:0]), SequentialSampler(0, 4)))
    learner = Learner(Net(), empty, loss=mse, device="cpu")
    state = learner.fit(1, 0.1)
    assert "valid_loss" not in state.metrics
    with pytest.raises(ConfigError, match="EarlyStopping watches 'valid_loss', but the metrics are train_loss"):
        tiny_fit(tmp_path, data=empty)


def stopped(path: Path) -> Path:
    """A run that was stopped at its ninth step; its checkpoints."""

    class Stop(Callback):
        order = 99

        def after_batch(self, state: TrainState) -> None:
            if state.step == 9:
                state.stop_requested = "SIGTERM"

    with pytest.raises(Stopped):
        tiny_fit(path, Stop())
    return path / "checkpoints"


class Canary:
    """What a pickle that is loaded would leave behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("what", ["truncated", "longer", "swapped", "nan", "shape", "pickle", "newer", "no manifest"])
def test_f39_an_edited_checkpoint_is_refused_and_nothing_of_it_executed(tmp_path: Path, what: str) -> None:
    last = stopped(tmp_path) / "last"
    weights, canary = last / "model.safetensors", tmp_path / "canary"
    content = weights.read_bytes()
    if what == "truncated":
        weights.write_bytes(content[:-9])
    elif what == "longer":
        weights.write_bytes(content + b"0")
    elif what == "swapped":
        tensors = load_file(weights)
        tensors["first.bias"], tensors["norm.bias"] = tensors["norm.bias"], tensors["first.bias"]
        save_file(tensors, weights)
    elif what == "nan":
        save_file({name: tensor * torch.nan for name, tensor in load_file(weights).items()}, weights)
    elif what == "shape":
        save_file(
            {name: tensor[:1].contiguous() for name, tensor in load_file(weights).items() if tensor.ndim}, weights
        )
    elif what == "pickle":
        torch.save({"canary": Canary(canary)}, weights)
    elif what == "newer":
        state = json.loads((last / "state.json").read_text())
        (last / "state.json").write_text(json.dumps(state | {"format": 99}))
    else:
        (last / "MANIFEST.json").unlink()
    with pytest.raises(DataError, match=r"last(/\w+\.\w+ is damaged: its sha256| is not a complete checkpoint)"):
        read_checkpoint(last)
    with pytest.raises(DataError, match=r"last(/\w+\.\w+ is damaged: its sha256| is not a complete checkpoint)"):
        load_weights(last, Net())
    assert not canary.exists()


def test_f39_a_checkpoint_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    from mixfit.training import checkpoint as checkpoint_files

    last = stopped(tmp_path) / "last"
    files = {name: (last / name).read_bytes() for name in checkpoint_files.FILES}
    facts = json.loads(files["state.json"])
    files["state.json"] = json.dumps(facts | {"format": checkpoint_files.FORMAT + 1}).encode()
    checkpoint_files.write_whole(tmp_path / "newer", files)
    with pytest.raises(
        DataError, match=r"newer has the format 2, but this version of mixfit supports up to 1: update mixfit"
    ):
        read_checkpoint(tmp_path / "newer")


def test_f43_200_tiny_epochs_hold_no_more_memory_and_files(tmp_path: Path) -> None:
    class Watch(Callback):
        order = 120

        def __init__(self) -> None:
            self.memory: list[float] = []
            self.files: list[int] = []

        def after_epoch(self, state: TrainState) -> None:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.memory.append(pages * resource.getpagesize() / 1e6)
            self.files.append(len(list(Path("/proc/self/fd").iterdir())))

    watch = Watch()
    gc.collect()  # files of earlier tests are closed now, not in the middle
    tiny_fit(tmp_path, watch, data=loaders(prefetch=2), epochs=200, seconds=1000.0)
    assert len(watch.memory) == 200
    early, late = (statistics.median(watch.memory[start : start + 20]) for start in (100, 180))
    assert (late - early) / 80 < 0.02, "MB an epoch"
    # Threads of earlier tests may open some for a moment.
    assert statistics.median(watch.files[-20:]) == statistics.median(watch.files[:20])
    assert (tmp_path / "metrics.jsonl").stat().st_size < 200 * 300


SURROUNDINGS = {
    "bare": {
        "LC_ALL": "C", "TZ": "Pacific/Kiritimati", "TERM": "dumb", "PYTHONHASHSEED": "1", "PYTHONUTF8": "0",
        "COLUMNS": "20", "NO_COLOR": "1",
    },
    "turkish": {"LC_ALL": "tr_TR.UTF-8", "TZ": ""},
}  # fmt: skip


@pytest.mark.parametrize("name", ["bare", pytest.param("turkish", marks=pytest.mark.long)])
def test_f42_surroundings_change_no_byte(
    name: str, demo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # a folder with spaces and letters of other alphabets
    out = tmp_path / "läufe und ρυνς"
    arguments = ["train", str(demo_table), "--target", "price", *QUICK, "--image-size", "32", "--out"]
    code, printed = mixfit(capsys, *arguments, out / "here")
    assert code == 0, printed
    command = [sys.executable, "-m", "mixfit.cli", *arguments, str(out / name)]
    done = subprocess.run(command, env=os.environ | SURROUNDINGS[name], capture_output=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    here, there = (next((out / place).iterdir()) / "model" / "model.safetensors" for place in ("here", name))
    assert there.read_bytes() == here.read_bytes()
