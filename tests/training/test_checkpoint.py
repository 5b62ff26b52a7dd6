import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mixfit.errors import ConfigError, DataError
from mixfit.training.callback import Callback
from mixfit.training.callbacks.checkpoint import Checkpoints, checkpoint_content, load_checkpoint
from mixfit.training.callbacks.control import EarlyStopping
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.optimizer import SGD, AdamW, parameter_groups
from mixfit.training.state import TrainState


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
    for name, epoch in (("last", 3), ("best", 2)):
        model = network()
        facts = load_checkpoint(tmp_path / name, model)
        assert facts["epoch"] == epoch
        assert facts["step"] == 4 * epoch
        assert torch.equal(model.state_dict()["0.weight"], losses.weights[epoch - 1])
    assert {path.name for path in tmp_path.iterdir()} == {"last", "best"}


def test_frozen_parameters_are_left_out_and_the_optimizer_is_in(tmp_path: Path) -> None:
    fit(tmp_path, [1.0])
    assert set(load_file(tmp_path / "last" / "model.safetensors")) == {"0.weight", "0.bias"}
    assert "/state/0/mean" in load_file(tmp_path / "last" / "optimizer.safetensors")


class Break(Callback):
    order = 50

    def after_epoch(self, state: TrainState) -> None:
        if state.epoch == 1:
            raise ZeroDivisionError


def test_what_was_learned_before_an_error_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, [3.0, 2.0, 1.0], Break(), seconds=1000.0)
    assert load_checkpoint(tmp_path / "last", network())["epoch"] == 2


def test_a_flipped_byte_and_another_network_are_refused(tmp_path: Path) -> None:
    fit(tmp_path, [1.0])
    with pytest.raises(DataError, match="holds the weights of another network: 6 names differ"):
        load_checkpoint(tmp_path / "last", nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(4, 1)}))
    weights = tmp_path / "last" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DataError, match=r"model\.safetensors is damaged: its sha256"):
        load_checkpoint(tmp_path / "last", network())
    weights.unlink()
    with pytest.raises(DataError, match="is not a whole checkpoint"):
        load_checkpoint(tmp_path / "last", network())


def test_a_checkpoint_puts_the_optimizer_back_too(tmp_path: Path) -> None:
    fit(tmp_path, [1.0, 0.5])
    model = network()
    optimizer = AdamW(parameter_groups(model, 7.0), lr=7.0)
    assert load_checkpoint(tmp_path / "last", model, optimizer)["epoch"] == 2
    restored = optimizer.state_dict()
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert [values["count"] for values in restored["state"].values()] == [8, 8]
    assert restored["state"][0]["mean"].any()


def test_the_state_of_another_optimizer_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    fit(tmp_path, [1.0])
    model = network()
    before = model.state_dict()["0.weight"].clone()
    with pytest.raises(ConfigError, match=r"^The saved optimizer is AdamW, this one is SGD"):
        load_checkpoint(tmp_path / "last", model, SGD(model.parameters(), lr=0.1))
    assert torch.equal(model.state_dict()["0.weight"], before)


def steps(model: nn.Module, optimizer: Any, first: int, last: int) -> None:
    for step in range(first, last):
        optimizer.zero_grad()
        model(torch.randn(8, 3, generator=torch.Generator().manual_seed(step))).square().sum().backward()
        optimizer.step()


def save(folder: Path, model: nn.Module, optimizer: Any) -> None:
    state = TrainState(model=model, optimizer=optimizer, loss_function=mse, epochs=1, steps_per_epoch=1)
    for name, content in checkpoint_content(state).items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.RMSprop])
def test_pytorchs_optimizers_go_on_exactly_too(tmp_path: Path, kind: Any) -> None:
    whole, stopped, resumed = network(), network(), network()
    steps(whole, kind(whole.parameters(), lr=0.01), 0, 6)
    optimizer = kind(stopped.parameters(), lr=0.01)
    steps(stopped, optimizer, 0, 3)
    save(tmp_path, stopped, optimizer)
    optimizer = kind(resumed.parameters(), lr=0.5)
    load_checkpoint(tmp_path, resumed, optimizer)
    steps(resumed, optimizer, 3, 6)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_pytorchs_optimizer_of_other_groups_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    fit(tmp_path, [1.0])
    model = network()
    before = model.state_dict()["0.weight"].clone()
    with pytest.raises(ConfigError, match="The saved optimizer does not fit this one"):
        load_checkpoint(tmp_path / "last", model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert torch.equal(model.state_dict()["0.weight"], before)


def test_weights_of_other_shapes_are_refused(tmp_path: Path) -> None:
    fit(tmp_path, [1.0])
    wider = Flat(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1).requires_grad_(requires_grad=False))
    with pytest.raises(DataError, match=r"another network: 0.weight is \(4, 3\) there and \(4, 5\) here"):
        load_checkpoint(tmp_path / "last", wider)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_an_epoch_without_the_metric_is_never_the_best(tmp_path: Path, mode: Any) -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    state = TrainState(model=model, optimizer=optimizer, loss_function=mse, epochs=4, steps_per_epoch=1)
    saving = Checkpoints(tmp_path, "r2", mode=mode, seconds=0.0)
    saving.before_fit(state)
    for state.epoch, metrics in enumerate(({}, {"r2": math.nan}, {"r2": 0.5}, {})):
        state.metrics = dict(metrics)
        saving.after_epoch(state)
    assert load_checkpoint(tmp_path / "best", network())["epoch"] == 3
