"""What every callback of the package promises, whatever happens in a fit."""

import inspect
import io
import json
import math
import os
import pkgutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from small_fits import Loaders, Net, X, Y, assert_same, net
from torch import nn
from torch.utils.data import TensorDataset

import mixfit.training.callbacks
from mixfit.auto.kept_models import callbacks_digest
from mixfit.data.loader import DataLoader
from mixfit.data.sampler import SequentialSampler, ShuffledSampler
from mixfit.diagnostics.doctor import Doctor
from mixfit.training.callback import EVENTS, Callback, CancelBatch, CancelEpoch, CancelFit, CancelTrain, TrainState
from mixfit.training.callbacks.averaging import ExponentialMovingAverage, StochasticWeightAveraging
from mixfit.training.callbacks.control import SIGNALS, Deadline, EarlyStopping, Pruning, StopOnSignal, TimeBudget
from mixfit.training.callbacks.displays import (
    EpochTimes,
    JsonLines,
    NotebookProgress,
    Profiler,
    ProgressLines,
)
from mixfit.training.callbacks.distributed import Distributed
from mixfit.training.callbacks.guards import NanGuard, OutOfMemoryGuard
from mixfit.training.callbacks.inspect import WatchActivations, WatchGradients
from mixfit.training.callbacks.recorder import Recorder
from mixfit.training.callbacks.steps import GradientAccumulation, GradientClipping, MixedPrecision
from mixfit.training.callbacks.tracking import TensorBoard
from mixfit.training.checkpoint import Checkpoints, join_tensors, split_tensors
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.optimizer import SGD
from mixfit.training.schedule import OneCycle, Schedule, one_cycle

BATCHES, EPOCHS = 3, 2


def quiet() -> Console:
    return Console(file=io.StringIO(), width=80)


def terminal() -> Console:
    return Console(file=io.StringIO(), width=80, force_terminal=True)


class Trial:
    """Of a study that goes on with everything."""

    def report(self, value: float, step: int) -> None:
        """Forgotten."""

    def should_prune(self) -> bool:
        return False


FACTORIES: dict[str, Callable[[Path], Callback]] = {
    "Checkpoints": lambda folder: Checkpoints(folder / "checkpoints", mode="min", seconds=1000.0),
    "Deadline": lambda _: Deadline(time.monotonic() + 1000.0),
    "Distributed": lambda _: Distributed(0, 1),
    "Doctor": lambda _: Doctor(every=2),
    "EarlyStopping": lambda _: EarlyStopping(mode="min", patience=5),
    "EpochTimes": lambda _: EpochTimes(),
    "ExponentialMovingAverage": lambda _: ExponentialMovingAverage(0.5),
    "GradientAccumulation": lambda _: GradientAccumulation(3),
    "GradientClipping": lambda _: GradientClipping(1.0, max_value=0.5, record=True),
    "JsonLines": lambda _: JsonLines(io.StringIO()),
    "MixedPrecision": lambda _: MixedPrecision("bfloat16"),
    "MixedPrecision float16": lambda _: MixedPrecision("float16", scale=2.0**17, growth=2),
    "NanGuard": lambda _: NanGuard(),
    "NotebookProgress": lambda _: NotebookProgress(console=quiet()),
    "OneCycle": lambda _: OneCycle(),
    "OutOfMemoryGuard": lambda _: OutOfMemoryGuard(console=quiet()),
    "Profiler": lambda _: Profiler(console=quiet()),
    "ProgressLines": lambda _: ProgressLines(console=quiet()),
    "ProgressLines terminal": lambda _: ProgressLines(console=terminal()),
    "Pruning": lambda _: Pruning(Trial()),
    "Recorder": lambda folder: Recorder(folder),
    "Schedule": lambda _: Schedule("lr", one_cycle()),
    "StochasticWeightAveraging": lambda _: StochasticWeightAveraging(0.3),
    "StopOnSignal": lambda _: StopOnSignal(),
    "TensorBoard": lambda folder: TensorBoard(folder / "board"),
    "TimeBudget": lambda _: TimeBudget(100.0, clock=lambda: 5.0),
    "WatchActivations": lambda _: WatchActivations(every=2, columns=2),
    "WatchGradients": lambda _: WatchGradients(every=2, columns=2),
}


LOOK_ON = {
    "Distributed",
    "Doctor",
    "EpochTimes",
    "JsonLines",
    "NanGuard",
    "NotebookProgress",
    "OutOfMemoryGuard",
    "Profiler",
    "ProgressLines",
    "Recorder",
    "StopOnSignal",
    "TensorBoard",
    "WatchActivations",
    "WatchGradients",
}


def callbacks_of_the_package() -> set[str]:
    found = [
        value
        for package in (mixfit.training, mixfit.diagnostics)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        for value in vars(import_module(module.name)).values()
    ]
    return {
        value.__name__
        for value in found
        if isinstance(value, type) and issubclass(value, Callback) and not inspect.isabstract(value)
    } - {"Callback", "RateFinder"}  # the finder is for a trial that it ends itself, see test_lr_find


def test_every_callback_of_the_package_is_tested_here() -> None:
    assert {name.split()[0] for name in FACTORIES} == callbacks_of_the_package()


@dataclass(frozen=True)
class Strike:
    """What is raised, and where: at the first such event of the training, or of the validation."""

    event: str
    error: type[BaseException]
    validating: bool = False


IN_A_BATCH = ("before_batch", "after_prediction", "after_loss", "after_backward", "after_step", "after_batch")
IN_VALIDATION = ("before_batch", "after_prediction", "after_loss", "after_batch")
IN_AN_EPOCH = ("before_epoch", "before_train", "after_train", "before_validate", "after_validate", "after_epoch")
CANCELS = [
    *(Strike(event, kind) for event in IN_A_BATCH for kind in (CancelBatch, CancelFit)),
    *(Strike(event, kind) for event in IN_A_BATCH[::2] for kind in (CancelTrain, CancelEpoch)),
    Strike("after_batch", CancelTrain),
    *(
        Strike(event, kind, True)
        for event, kind in zip(IN_VALIDATION, (CancelEpoch, CancelBatch, CancelEpoch, CancelFit), strict=True)
    ),
    *(Strike(event, kind, "valid" in event) for event in IN_AN_EPOCH for kind in (CancelEpoch, CancelFit)),
    *(Strike(event, CancelFit) for event in ("before_fit", "after_fit")),
]
ERRORS = [
    *(Strike(event, ZeroDivisionError) for event in (*IN_A_BATCH, "before_fit", "before_epoch", "before_train")),
    *(Strike(event, ZeroDivisionError) for event in ("after_train", "after_epoch", "after_fit", "close")),
    *(Strike(event, ZeroDivisionError, True) for event in (*IN_VALIDATION, "before_validate", "after_validate")),
    Strike("after_backward", KeyboardInterrupt),
    Strike("after_prediction", KeyboardInterrupt, True),
]
ANYWHERE = ("before_fit", "after_fit", "after_epoch", "close")  # the training flag says nothing there


class Striker(Callback):
    """Raises once, before or after all others."""

    def __init__(self, strike: Strike | None, order: int) -> None:
        self.strike, self.order = strike, order
        self.state: TrainState | None = None

    def at(self, event: str, state: TrainState) -> None:
        self.state = state
        strike = self.strike
        if strike is None or event != strike.event:
            return
        if event not in ANYWHERE and (state.training is strike.validating):
            return
        self.strike = None
        raise strike.error


def _event(name: str) -> Any:
    return lambda self, state: self.at(name, state)


for _name in EVENTS:
    setattr(Striker, _name, _event(_name))


def data() -> Loaders:
    train, valid = TensorDataset(X[:22], Y[:22]), TensorDataset(X[22:30], Y[22:30])
    return Loaders(DataLoader(train, ShuffledSampler(22, 8, seed=3)), DataLoader(valid, SequentialSampler(8, 5)))


def fit(callback: Callback, strike: Strike | None = None, *, order: int = -1000) -> tuple[Net, TrainState]:
    """Two epochs of three batches."""
    model, striker = net(), Striker(strike, order)
    subject = Learner(model, data(), loss=mse, optimizer=SGD, callbacks=[callback, striker], device="cpu")
    try:
        subject.fit(EPOCHS, 0.01)
    except (ZeroDivisionError, KeyboardInterrupt):
        assert strike is not None
        assert not issubclass(strike.error, (CancelBatch, CancelTrain, CancelEpoch, CancelFit))
    assert striker.strike is None
    assert striker.state is not None
    return model, striker.state


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Net], None]]:
    """Asserts that a fit has left nothing behind, on its model or in the process."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # hundreds of checkpoints
    threads, signals = set(threading.enumerate()), [signal.getsignal(number) for number in SIGNALS]

    def untouched(model: Net) -> None:
        for module in model.modules():
            for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
                assert not getattr(module, hooks), (module, hooks)
            assert not module.training
        for thread in set(threading.enumerate()) - threads:
            thread.join(1.0)  # rich only asks its thread to end
        assert set(threading.enumerate()) <= threads  # one of an earlier test may have ended meanwhile
        assert [signal.getsignal(number) for number in SIGNALS] == signals
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_autocast_enabled("cpu")
        assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
        assert isinstance(model.norm, nn.BatchNorm1d)
        assert model.norm.momentum == 0.1

    yield untouched
    for number, handler in zip(SIGNALS, signals, strict=True):
        signal.signal(number, handler)


every_callback = pytest.mark.parametrize("name", FACTORIES)


@every_callback
def test_two_fits_in_a_row_give_the_same(name: str, tmp_path: Path, shared: Callable[[Net], None]) -> None:
    callback = FACTORIES[name](tmp_path)
    settings = callbacks_digest([callback])
    first, state = fit(callback)
    second, again = fit(callback)
    assert callbacks_digest([callback]) == settings
    assert_same(first.state_dict(), second.state_dict())
    assert state.metrics == again.metrics
    assert math.isfinite(state.metrics["valid_loss"])
    assert state.step == EPOCHS * BATCHES - getattr(callback, "skipped", 0)
    shared(first)


@pytest.mark.parametrize("name", [name for name, make in FACTORIES.items() if name.split()[0] in LOOK_ON])
def test_those_that_only_look_on_change_no_bit_of_a_training(name: str, tmp_path: Path) -> None:
    callback = FACTORIES[name](tmp_path)
    assert not callback.changes
    assert_same(fit(callback)[0].state_dict(), fit(Callback())[0].state_dict())


@every_callback
def test_cancelling_anywhere_leaves_nothing_behind(name: str, tmp_path: Path, shared: Callable[[Net], None]) -> None:
    callback = FACTORIES[name](tmp_path)
    for place, strike in enumerate(CANCELS):
        model, state = fit(callback, strike, order=-1000 if place % 2 else 1000)
        shared(model)
        assert state.loss_scale == 1
        assert type(state.arithmetic()).__name__ == "nullcontext"


@every_callback
def test_an_error_anywhere_leaves_nothing_behind(name: str, tmp_path: Path, shared: Callable[[Net], None]) -> None:
    callback = FACTORIES[name](tmp_path)
    for place, strike in enumerate(ERRORS):
        model, state = fit(callback, strike, order=1000 if place % 2 else -1000)
        shared(model)
        assert isinstance(state.error, strike.error) or strike.event == "close"
        callback.close(state)
        callback.close(state)
        shared(model)
    after, _ = fit(callback)  # it is as good as new
    fresh, _ = fit(FACTORIES[name](tmp_path))
    assert_same(after.state_dict(), fresh.state_dict())


class Peek(Callback):
    """What another callback would save in the middle of the second epoch."""

    order = 1000
    saved: Any = None

    def __init__(self, callback: Callback) -> None:
        self.callback = callback

    def after_batch(self, state: TrainState) -> None:
        if state.training and state.epoch == 1 and state.batch == 2:
            tensors, rest = split_tensors(self.callback.state_dict())
            self.saved = {name: tensor.clone() for name, tensor in tensors.items()}, json.dumps(rest, allow_nan=False)


@every_callback
def test_what_is_saved_is_json_and_tensors_and_can_be_taken_back(name: str, tmp_path: Path) -> None:
    callback = FACTORIES[name](tmp_path)
    peek = Peek(callback)
    learner = Learner(net(), data(), loss=mse, optimizer=SGD, callbacks=[callback, peek], device="cpu")
    state = learner.fit(EPOCHS, 0.01)
    tensors, rest = peek.saved
    saved = join_tensors(json.loads(rest), tensors)
    fresh = FACTORIES[name](tmp_path)
    fresh.before_fit(state)
    try:
        assert (fresh.state_dict() == {}) == (saved == {}), "a fit that can be resumed is told by its callbacks' states"
        if saved:
            fresh.load_state_dict(saved)
        again, _ = split_tensors(fresh.state_dict())
        assert_same(again, tensors)
        assert_same(join_tensors(json.loads(json.dumps(split_tensors(fresh.state_dict())[1])), again), saved)
    finally:
        fresh.close(state)
    assert callback.state_dict().keys() == saved.keys()
