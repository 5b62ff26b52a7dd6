import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mixfit.errors import DataError
from mixfit.training.callback import Callback, TrainState
from mixfit.training.callbacks.control import EarlyStopping
from mixfit.training.checkpoint import Checkpoints, load_weights, newest_checkpoint, read_checkpoint, write_last
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.optimizer import SGD


@dataclass
class Loaders:
    train: Any
    valid: Any
    target: None = None


class Flat(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:, 0]


class Losses(Callback):
    """Sets the validation loss of each epoch and keeps its weights."""

    order = -20

    def __init__(self, values: list[float]) -> None:
        self.values = values
        self.weights: list[torch.Tensor] = []

    def after_epoch(self, state: TrainState) -> None:
        state.metrics["valid_loss"] = self.values[state.epoch]
        self.weights.append(state.model.state_dict()["0.weight"].clone())


def network() -> Flat:
    torch.manual_seed(0)
    model = Flat(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    model[2].requires_grad_(requires_grad=False)
    return model


def fit(folder: Path, values: list[float], *callbacks: Callback, seconds: float = 0.0) -> tuple[Losses, nn.Module]:
    data = TensorDataset(torch.randn(20, 3), torch.randn(20))
    losses = Losses(values)
    saving = Checkpoints(folder, mode="min", seconds=seconds)
    loaders = Loaders(DataLoader(data, batch_size=5), DataLoader(data, batch_size=20))
    learner = Learner(network(), loaders, loss=mse, callbacks=[losses, saving, *callbacks], device="cpu")
    learner.fit(len(values), 0.1)
    return losses, learner.model


@pytest.mark.parametrize("seconds", [0.0, 1000.0])
def test_last_and_best_hold_the_weights_of_their_epochs(tmp_path: Path, seconds: float) -> None:
    losses, _ = fit(tmp_path, [3.0, 1.0, 2.0], EarlyStopping(mode="min", patience=9), seconds=seconds)
    # the fit ends with the best weights, and so does what is saved last
    for name, epoch, weights in (("last", 3, 2), ("best", 2, 2)):
        model = network()
        facts = load_weights(tmp_path / name, model)
        assert facts["epoch"] == epoch
        assert facts["step"] == 4 * epoch
        assert torch.equal(model.state_dict()["0.weight"], losses.weights[weights - 1])
    assert {path.name for path in tmp_path.iterdir()} == {"last", "previous", "best"}


def test_frozen_parameters_are_left_out_and_the_optimizer_is_in(tmp_path: Path) -> None:
    fit(tmp_path, [1.0])
    assert set(load_file(tmp_path / "last" / "model.safetensors")) == {"0.weight", "0.bias"}
    assert "/optimizer/state/0/mean" in load_file(tmp_path / "last" / "training.safetensors")


class Break(Callback):
    order = 50

    def after_epoch(self, state: TrainState) -> None:
        if state.epoch == 1:
            raise ZeroDivisionError


def test_what_was_learned_before_an_error_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, [3.0, 2.0, 1.0], Break(), seconds=0.0)
    assert read_checkpoint(tmp_path / "last").epoch == 1
    assert load_weights(tmp_path / "best", network())["epoch"] == 1


def test_a_flipped_byte_and_another_network_are_refused(tmp_path: Path) -> None:
    fit(tmp_path, [1.0])
    with pytest.raises(DataError, match="holds the weights of another network: 6 names differ"):
        load_weights(tmp_path / "last", nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(4, 1)}))
    weights = tmp_path / "last" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DataError, match=r"model\.safetensors is damaged: its sha256"):
        load_weights(tmp_path / "last", network())
    weights.unlink()
    with pytest.raises(DataError, match="is not a complete checkpoint"):
        load_weights(tmp_path / "last", network())


def test_weights_of_other_shapes_are_refused(tmp_path: Path) -> None:
    fit(tmp_path, [1.0])
    wider = Flat(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1).requires_grad_(requires_grad=False))
    with pytest.raises(DataError, match=r"another network: 0.weight is \(4, 3\) there and \(4, 5\) here"):
        load_weights(tmp_path / "last", wider)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_an_epoch_without_the_metric_is_never_the_best(tmp_path: Path, mode: Any) -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    state = TrainState(model=model, optimizer=optimizer, loss_function=mse, epochs=4, steps_per_epoch=1, loader=[])
    saving = Checkpoints(tmp_path, "r2", mode=mode, seconds=0.0)
    saving.before_fit(state)
    for state.epoch, metrics in enumerate(({}, {"r2": math.nan}, {"r2": 0.5}, {})):
        state.metrics = dict(metrics)
        saving.after_epoch(state)
    assert load_weights(tmp_path / "best", network())["epoch"] == 3


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "state.json", "MANIFEST.json"])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_it_taken(tmp_path: Path, name: str) -> None:
    fit(tmp_path, [3.0, 2.0])
    flip_a_byte(tmp_path / "last" / name)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert str(tmp_path / "last") in found.note
    assert found.epoch == 2
    assert not found.finished
    flip_a_byte(tmp_path / "previous" / name)
    with pytest.raises(DataError, match=r"All checkpoints of .* are damaged: .*last.*previous"):
        newest_checkpoint(tmp_path)


def test_no_checkpoint_yet_is_no_error(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None


def test_there_is_a_whole_checkpoint_after_every_system_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rename, removal and flush of a writing is made to be the last that the process does."""
    fit(tmp_path, [3.0, 2.0])
    snapshot, first = read_checkpoint(tmp_path / "last"), tmp_path / "first"
    shutil.copytree(tmp_path / "last", first)

    class Killed(BaseException):
        pass

    calls = [(Path, "rename"), (Path, "replace"), (shutil, "rmtree"), (os, "fsync")]
    for deadline in range(1, 100):
        folder, count = tmp_path / f"{deadline}", 0
        for name in ("last", "previous"):
            shutil.copytree(first, folder / name)

        def dying(real: Any, deadline: int = deadline) -> Any:
            def call(*args: Any, **settings: Any) -> Any:
                nonlocal count
                count += 1
                if count >= deadline:
                    raise Killed
                return real(*args, **settings)

            return call

        with monkeypatch.context() as patch:
            for owner, name in calls:
                patch.setattr(owner, name, dying(getattr(owner, name)))
            try:
                write_last(folder, snapshot)
                finished = True
            except Killed:
                finished = False
        if finished:
            assert deadline > 8  # as many calls were tried
            break
        found = newest_checkpoint(folder)
        assert found is not None
        write_last(folder, snapshot)  # what was left behind is not in the way
        assert {path.name for path in folder.iterdir()} == {"last", "previous"}
    else:
        raise AssertionError("the writing never came to its end")
