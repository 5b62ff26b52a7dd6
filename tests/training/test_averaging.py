from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from small_fits import EPOCHS, X, assert_resumes, assert_same, learner, loaders, net
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn, update_bn

from mixfit.errors import ConfigError
from mixfit.nn.freezing import freeze, unfreeze
from mixfit.training.callback import Callback, CancelEpoch, TrainState
from mixfit.training.callbacks.averaging import Averaging, ExponentialMovingAverage, StochasticWeightAveraging
from mixfit.training.callbacks.control import EarlyStopping
from mixfit.training.checkpoint import Checkpoints, load_weights, read_checkpoint
from mixfit.training.optimizer import SGD, ScheduleFreeAdamW


class Reference(Callback):
    """PyTorch's AveragedModel beside the fit."""

    order = 50

    def __init__(self, model: nn.Module, average: Any, start: float | None = None) -> None:
        self.model = AveragedModel(model, multi_avg_fn=average)
        self.start = start
        self.raw: list[dict[str, Tensor]] = []
        self.judged: list[dict[str, Tensor]] = []

    def after_step(self, state: TrainState) -> None:
        if self.start is None:
            self.model.update_parameters(state.model)

    def after_train(self, state: TrainState) -> None:
        if self.start is not None and state.progress >= self.start:
            self.model.update_parameters(state.model)

    def before_validate(self, state: TrainState) -> None:
        self.judged.append(deepcopy(state.model.state_dict()))

    def after_epoch(self, state: TrainState) -> None:
        self.raw.append(deepcopy(state.model.state_dict()))


def fitted(callback: Averaging, average: Any, start: float | None, *more: Callback, **settings: Any) -> Any:
    model = settings.pop("model", None) or net(norm=True, drop=0.0)
    reference = Reference(model, average, start)
    subject = learner(callback, reference, *more, model=model, **{"optimizer": SGD} | settings)
    state = subject.fit(EPOCHS, 0.05)
    return subject, reference, state


def test_ema_equals_pytorchs_to_the_bit() -> None:
    callback = ExponentialMovingAverage(0.9, warmup=False)
    subject, reference, _ = fitted(callback, get_ema_multi_avg_fn(0.9), None)
    for (name, ours), theirs in zip(subject.model.named_parameters(), reference.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
        assert not torch.equal(ours, reference.raw[-1][name])
    assert torch.equal(subject.model.norm.running_mean, reference.raw[-1]["norm.running_mean"])


def test_a_warmed_up_ema_forgets_the_first_weights_sooner() -> None:
    steps = iter(range(1, 100))

    @torch.no_grad()
    def average(averaged: Any, current: Any, _: Any) -> None:
        n = next(steps)
        torch._foreach_lerp_(averaged, current, 1 - min(0.9, (1 + n) / (10 + n)))

    subject, reference, _ = fitted(ExponentialMovingAverage(0.9), average, None)
    for ours, theirs in zip(subject.model.parameters(), reference.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_swa_equals_pytorchs_with_statistics_found_anew() -> None:
    callback = StochasticWeightAveraging(0.6)
    data = loaders()
    subject, reference, _ = fitted(callback, get_swa_multi_avg_fn(), 0.6, data=data)
    assert callback.count == 2
    for ours, theirs in zip(subject.model.parameters(), reference.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    data.train.set_epoch(EPOCHS - 1)
    update_bn(data.train, reference.model)
    theirs = reference.model.module.norm
    torch.testing.assert_close(subject.model.norm.running_mean, theirs.running_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(subject.model.norm.running_var, theirs.running_var, rtol=1e-6, atol=1e-6)
    assert subject.model.norm.momentum == 0.1
    raw = reference.raw[-1]["norm.running_mean"]
    assert not torch.allclose(theirs.running_mean, raw, atol=1e-3)


KINDS: list[Any] = [lambda: ExponentialMovingAverage(0.8), lambda: StochasticWeightAveraging(0.4)]


@pytest.mark.parametrize("make", KINDS)
def test_the_average_is_judged_and_training_does_not_see_it(make: Any) -> None:
    average = get_ema_multi_avg_fn(0.9)
    subject, reference, state = fitted(make(), average, None)
    _, without, _ = fitted(StochasticWeightAveraging(0.99999), average, 9.0)  # averages nothing before the last
    for ours, theirs in zip(reference.raw, without.raw, strict=True):
        assert_same(ours, theirs)
    assert_same(subject.model.state_dict(), reference.judged[-1])
    assert subject.validate()["valid_loss"] == state.metrics["valid_loss"]
    assert not torch.equal(reference.judged[-1]["last.weight"], reference.raw[-1]["last.weight"])


class Losses(Callback):
    """Makes epoch 3 the best."""

    order = -20

    def after_epoch(self, state: TrainState) -> None:
        state.metrics["valid_loss"] = [3.0, 2.0, 1.0, 4.0][state.epoch]


@pytest.mark.parametrize("make", KINDS)
def test_the_best_weights_are_the_average_and_the_last_ones_are_not(tmp_path: Path, make: Any) -> None:
    class Stop(Callback):
        order = 101

        def after_epoch(self, state: TrainState) -> None:
            if state.epoch == 3:
                self.last = read_checkpoint(tmp_path / "last")

    stop = Stop()
    kept = [Losses(), EarlyStopping(mode="min", patience=9), Checkpoints(tmp_path, mode="min", seconds=0.0), stop]
    subject, reference, _ = fitted(make(), get_ema_multi_avg_fn(0.9), None, *kept)
    assert_same(subject.model.state_dict(), reference.judged[2])
    assert_same(dict(stop.last.weights), dict(reference.raw[3]))
    best = net()
    load_weights(tmp_path / "best", best)
    assert_same(best.state_dict(), reference.judged[2])
    last = net()
    load_weights(tmp_path / "last", last)
    assert_same(last.state_dict(), subject.model.state_dict())


@pytest.mark.parametrize("make", KINDS)
def test_it_goes_on_where_it_stopped(tmp_path: Path, make: Any) -> None:
    assert_resumes(tmp_path, make, stops=(5, 18))


@pytest.mark.parametrize("make", KINDS)
def test_it_goes_on_with_an_optimizer_that_averages_too(tmp_path: Path, make: Any) -> None:
    assert_resumes(tmp_path, make, stops=(8,), optimizer=ScheduleFreeAdamW)


@pytest.mark.parametrize("make", KINDS)
def test_frozen_parameters_and_norms_are_left_alone(make: Any) -> None:
    model = net(drop=0.0)
    model.train = lambda mode=True: _train_but_norm(model, mode)  # type: ignore[method-assign, assignment]
    freeze(model.norm, model.first)
    before = deepcopy(model.state_dict())
    callback = make()
    learner(callback, model=model).fit(EPOCHS, 0.05)
    assert set(callback.averages) == {"last.weight", "last.bias"}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not name.startswith("last")), name


def _train_but_norm(model: nn.Module, mode: bool) -> nn.Module:
    nn.Module.train(model, mode)
    model.norm.eval()  # type: ignore[union-attr, operator]
    return model


class Unfreeze(Callback):
    def before_epoch(self, state: TrainState) -> None:
        if state.epoch == 2:
            unfreeze(state.model.first)
            state.optimizer.add_param_group({"params": list(state.model.first.parameters())})


@pytest.mark.parametrize("make", KINDS)
def test_a_parameter_that_is_set_free_later_joins(make: Any) -> None:
    model, callback = net(norm=False, drop=0.0), make()
    freeze(model.first)
    Unfreeze.order = -10
    learner(Unfreeze(), callback, model=model).fit(EPOCHS, 0.05)
    assert set(callback.averages) == {"last.weight", "last.bias", "first.weight", "first.bias"}


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).tanh()).tanh())[:, 0]


@pytest.mark.parametrize("make", KINDS)
def test_a_shared_weight_is_averaged_and_kept_once(make: Any) -> None:
    model = Tied()
    subject = learner(make(), EarlyStopping(mode="min", patience=9), model=model)
    state = subject.fit(EPOCHS, 0.01)
    assert model.a.weight is model.b.weight
    assert subject.validate()["valid_loss"] == pytest.approx(state.metrics["valid_loss"], rel=1e-6)


@pytest.mark.parametrize("make", KINDS)
def test_the_model_trains_on_after_a_validation_that_was_cancelled(make: Any) -> None:
    class CancelOnce(Callback):
        def after_loss(self, state: TrainState) -> None:
            if not state.training and state.epoch == 2:
                raise CancelEpoch

    model = net(drop=0.0)
    reference = Reference(model, get_ema_multi_avg_fn(0.9))
    learner(make(), reference, CancelOnce(), model=model, optimizer=SGD).fit(EPOCHS, 0.05)
    plain = net(drop=0.0)
    expected = Reference(plain, get_ema_multi_avg_fn(0.9))
    learner(expected, model=plain, optimizer=SGD).fit(EPOCHS, 0.05)
    assert_same(reference.raw[-1]["last.weight"], expected.raw[-1]["last.weight"])


@pytest.mark.parametrize("make", KINDS)
def test_after_an_error_the_model_has_its_own_weights(make: Any) -> None:
    class Break(Callback):
        order = 60

        def after_batch(self, state: TrainState) -> None:
            if not state.training and state.epoch == 3:
                raise ZeroDivisionError

    model, plain = net(drop=0.0), net(drop=0.0)
    for subject, callbacks in ((model, [make(), Break()]), (plain, [])):
        try:
            learner(*callbacks, model=subject, optimizer=SGD).fit(EPOCHS, 0.05)
        except ZeroDivisionError:
            assert subject is model
    assert_same(model.last.weight, plain.last.weight)


def test_a_fit_that_ends_before_the_start_keeps_its_weights() -> None:
    callback = StochasticWeightAveraging(0.9)
    subject = learner(callback, EarlyStopping("train_loss", mode="max", patience=1), optimizer=SGD)
    subject.fit(10, 0.05)
    assert (callback.averages, callback.count) == ({}, 0)
    assert bool(subject.model(X).isfinite().all())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ExponentialMovingAverage(1.0), r"decay must be in \[0, 1\), got 1\.0"),
        (lambda: StochasticWeightAveraging(-0.1), r"start must be in \[0, 1\), got -0\.1"),
    ],
)
def test_impossible_settings_are_refused(make: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()
