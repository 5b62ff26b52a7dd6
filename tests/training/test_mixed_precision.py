from pathlib import Path
from typing import Any

import pytest
import torch
from small_fits import Y, assert_resumes, learner, loaders, net
from torch import nn

from mixfit.errors import ConfigError, Diverged
from mixfit.training.callback import Callback, TrainState
from mixfit.training.callbacks.steps import MixedPrecision
from mixfit.training.optimizer import SGD

EPOCHS = 3


class Watch(Callback):
    """The types that a fit computes in, and the weights after every batch."""

    order = 50

    def __init__(self) -> None:
        self.types: set[torch.dtype] = set()
        self.weights: list[torch.Tensor] = []
        self.cancelled: list[int] = []

    def after_prediction(self, state: TrainState) -> None:
        self.types.add(state.prediction.dtype)

    def after_batch(self, state: TrainState) -> None:
        if state.training:
            self.weights.append(state.model.first.weight.detach().clone())

    def after_cancel_batch(self, state: TrainState) -> None:
        self.cancelled.append(state.epoch * state.steps_per_epoch + state.batch)


def test_bfloat16_equals_autocast_written_by_hand() -> None:
    watch = Watch()
    ours = learner(MixedPrecision("bfloat16"), watch, optimizer=SGD)
    ours.fit(EPOCHS, 0.05)
    model, data = net(norm=False, drop=0.0), loaders()
    optimizer = SGD(model.parameters(), lr=0.05)
    for epoch in range(EPOCHS):
        data.train.set_epoch(epoch)
        for xb, yb in data.train:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = nn.functional.mse_loss(model(xb), yb)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(ours.model.parameters(), model.parameters(), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)
    assert watch.types == {torch.bfloat16}


def test_float16_equals_pytorchs_scaler() -> None:
    """With overflows at first, whose steps both leave out, and scales that grow."""
    callback, watch = MixedPrecision("float16", scale=2.0**20, growth=3), Watch()
    ours = learner(callback, watch, optimizer=torch.optim.SGD)
    ours.fit(EPOCHS, 0.05)
    model, data = net(norm=False, drop=0.0), loaders()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=3)
    skipped = []
    for epoch in range(EPOCHS):
        data.train.set_epoch(epoch)
        for place, (xb, yb) in enumerate(data.train):
            with torch.autocast("cpu", dtype=torch.float16):
                loss = nn.functional.mse_loss(model(xb), yb)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scale = scaler.get_scale()
            scaler.update()
            if scaler.get_scale() < scale:
                skipped.append(epoch * len(data.train) + place + 1)
            optimizer.zero_grad()
    for a, b in zip(ours.model.parameters(), model.parameters(), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)
    assert callback.scale == scaler.get_scale()
    assert callback.skipped == len(skipped) > 1
    assert watch.cancelled == skipped
    assert watch.types == {torch.float16}


class Overflow(Callback):
    """Makes the loss of one batch so steep that float16 cannot hold its gradients."""

    order = -200

    def before_batch(self, state: TrainState) -> None:
        if state.training and state.epoch == 0 and state.batch == 3:
            state.yb = state.yb + 1e4


def test_an_overflow_leaves_out_just_that_step() -> None:
    callback, watch = MixedPrecision("float16", scale=512.0), Watch()
    state = learner(Overflow(), callback, watch, optimizer=SGD).fit(1, 0.01)
    assert watch.cancelled == [3]
    assert (state.step, callback.skipped, callback.scale) == (4, 1, 256.0)
    assert len(watch.weights) == 4
    assert all(not torch.equal(a, b) for a, b in zip(watch.weights, watch.weights[1:], strict=False))


def test_weights_that_overflow_without_a_scale_end_the_fit() -> None:
    class Steep(Overflow):
        def before_batch(self, state: TrainState) -> None:
            state.yb = state.yb + 1e7

    with pytest.raises(
        Diverged, match=r"The gradients of step 1 \(epoch 1, batch 3\) overflow in float16 even without"
    ):
        learner(Steep(), MixedPrecision("float16", scale=4.0)).fit(1, 0.01)


def test_the_state_is_as_before_when_the_fit_is_over() -> None:
    state = learner(MixedPrecision("float16")).fit(1, 0.01)
    assert type(state.arithmetic()).__name__ == "nullcontext"
    assert state.loss_scale == 1
    assert not torch.is_autocast_enabled("cpu")


def test_a_loss_that_is_not_finite_is_not_a_matter_of_the_scale() -> None:
    class Broken(Overflow):
        def before_batch(self, state: TrainState) -> None:
            state.yb = state.yb * float("nan")

    callback = MixedPrecision("float16")
    with pytest.raises(Diverged, match="The training loss of epoch 1 is nan"):
        learner(Broken(), callback).fit(1, 0.01)
    assert callback.skipped == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_goes_on_where_it_stopped(tmp_path: Path, dtype: Any) -> None:
    callback = assert_resumes(tmp_path, lambda: MixedPrecision(dtype, scale=2.0**17, growth=4), stops=(1, 13), lr=0.01)
    assert dtype == "bfloat16" or callback.skipped


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"dtype": "float8"}, "MixedPrecision supports bfloat16 and float16, not 'float8'"),
        ({"dtype": "float16", "scale": 3.0}, r"scale must be a power of 2, and at least 1, got 3\.0"),
        ({"dtype": "float16", "growth": 0}, "growth must be at least 1 step, got 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        MixedPrecision(**settings)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_trains_on_a_gpu(dtype: Any) -> None:
    watch = Watch()
    subject = learner(MixedPrecision(dtype), watch, device="cuda")
    assert subject.fit(20, 0.05).metrics["valid_loss"] < float(Y.var())
    assert watch.types == {torch.bfloat16 if dtype == "bfloat16" else torch.float16}
