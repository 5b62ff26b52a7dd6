import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset

from mixfit.data.loader import DataLoader
from mixfit.data.sampler import SequentialSampler, ShuffledSampler
from mixfit.errors import ConfigError, DataError, Diverged
from mixfit.training.callback import EVENTS, Callback, CancelBatch, CancelEpoch, CancelFit, TrainState
from mixfit.training.callbacks.control import EarlyStopping
from mixfit.training.learner import Learner
from mixfit.training.loss import cross_entropy, mse
from mixfit.training.metrics import ACCURACY, MAE
from mixfit.training.optimizer import SGD, AdamW, ScheduleFreeAdamW
from mixfit.training.schedule import OneCycle

X = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([1.0, -2.0, 0.5]) + 0.3


class Flat(nn.Module):
    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(3, outputs)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(self.drop(x))
        return y[:, 0] if y.shape[1] == 1 else y


@dataclass
class Loaders:
    train: Any
    valid: Any
    target: None = None


def loaders(y: Tensor = Y, *, batch_size: int = 8) -> Loaders:
    train, valid = TensorDataset(X[:38], y[:38]), TensorDataset(X[38:], y[38:])
    return Loaders(
        DataLoader(train, ShuffledSampler(38, batch_size, seed=0)), DataLoader(valid, SequentialSampler(12, 5))
    )


def learner(*callbacks: Callback, data: Loaders | None = None, lr_free: bool = False, **settings: Any) -> Learner:
    torch.manual_seed(0)
    return Learner(Flat(), data or loaders(), loss=mse, callbacks=callbacks, device="cpu", **settings)


class Diary(Callback):
    """Writes down every event."""

    def __init__(self) -> None:
        self.events: list[str] = []


def _note(event: str) -> Any:
    def method(self: Diary, state: TrainState) -> None:
        self.events.append(event)

    return method


for _event in EVENTS:
    setattr(Diary, _event, _note(_event))


def test_training_equals_the_loop_written_by_hand() -> None:
    ours = learner(optimizer=SGD)
    ours.fit(3, 0.05)
    torch.manual_seed(0)
    model, data = Flat(), loaders()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for epoch in range(3):
        data.train.set_epoch(epoch)
        model.train()
        for xb, yb in data.train:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(xb), yb).backward()
            optimizer.step()
    for a, b in zip(ours.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_events_come_in_the_order_of_the_design() -> None:
    diary = Diary()
    data = loaders(batch_size=38)
    learner(diary, data=data).fit(1, 0.1)
    forward = ["before_batch", "after_prediction", "after_loss"]
    assert diary.events == [
        *("before_fit", "before_epoch", "before_train"),
        *(*forward, "after_backward", "after_step", "after_batch"),
        *("after_train", "before_validate"),
        *(*forward, "after_batch") * 3,
        *("after_validate", "after_epoch", "after_fit", "close"),
    ]


def test_losses_are_means_over_rows_whatever_the_batches() -> None:
    data = loaders()
    found = learner(data=data, metrics=[MAE]).validate()
    model = learner(data=data).model.eval()
    with torch.inference_mode():
        prediction = model(X[38:])
    assert found["valid_loss"] == pytest.approx(float((prediction - Y[38:]).square().mean()), rel=1e-5)
    assert found["mae"] == pytest.approx(float((prediction - Y[38:]).abs().mean()), rel=1e-5)


def test_classes_are_scored_by_their_probabilities() -> None:
    data = loaders((Y > 0).long())
    model = Flat(outputs=2)
    state = Learner(model, data, loss=cross_entropy, metrics=[ACCURACY], device="cpu").fit(20, 0.1)
    assert state.metrics["accuracy"] > 0.8


def test_predict_gives_the_rows_in_order() -> None:
    fitted = learner()
    output, target = fitted.predict(loaders().valid)
    assert torch.equal(target, Y[38:])
    with torch.inference_mode():
        torch.testing.assert_close(output, fitted.model.eval()(X[38:]))


def test_pytorchs_loaders_and_optimizers_are_welcome() -> None:
    train, valid = TensorDataset(X[:38], Y[:38]), TensorDataset(X[38:], Y[38:])
    data = Loaders(TorchDataLoader(train, batch_size=8), TorchDataLoader(valid, batch_size=8))
    state = learner(data=data, optimizer=torch.optim.Adam).fit(30, 0.05)
    assert state.metrics["valid_loss"] < 0.5


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = learner(), learner()
    torch.manual_seed(1)
    first.fit_one_cycle(3, 0.1)
    torch.manual_seed(1)
    second.fit_one_cycle(3, 0.1)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_loss_that_is_no_longer_finite_ends_the_fit() -> None:
    with pytest.raises(Diverged, match=r"training loss of epoch 1 is (inf|nan); train again with a smaller"):
        learner(optimizer=SGD).fit(3, 1e30)


def test_no_training_rows_are_refused() -> None:
    empty = DataLoader(TensorDataset(X[:0], Y[:0]), SequentialSampler(0, 4))
    with pytest.raises(DataError, match="There are no training rows"):
        learner(data=Loaders(empty, empty)).fit(1, 0.1)


class RaiseAt(Callback):
    """Raises something at one event, once."""

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = error

    def strike(self) -> None:
        error, self.error = self.error, None
        if error is not None:
            raise error


def raising(event: str, error: BaseException) -> Callback:
    kind = type("RaiseAtEvent", (RaiseAt,), {event: lambda self, state: self.strike()})
    return kind(error)


LOOP_EVENTS = [event for event in EVENTS if not event.startswith(("after_cancel", "on_")) and event != "close"]


@pytest.mark.parametrize("event", LOOP_EVENTS)
def test_an_error_at_any_event_closes_all_callbacks(event: str) -> None:
    diary = Diary()
    subject = learner(raising(event, ValueError("broken")), diary)
    with pytest.raises(ValueError, match="broken"):
        subject.fit(1, 0.1)
    assert diary.events[-2:] == ["on_error", "close"]
    assert not subject.model.training
    diary.events.clear()
    subject.fit(1, 0.1)
    assert diary.events[-2:] == ["after_fit", "close"]


@pytest.mark.parametrize("event", LOOP_EVENTS)
def test_the_fit_can_be_cancelled_at_any_event(event: str) -> None:
    diary = Diary()
    learner(diary, raising(event, CancelFit())).fit(2, 0.1)
    if event == "after_fit":
        assert diary.events[-3:] == ["after_fit", "after_cancel_fit", "close"]
    else:
        assert diary.events[-3:] == ["after_cancel_fit", "after_fit", "close"]


def test_cancelling_a_batch_or_an_epoch_leaves_just_that() -> None:
    diary = Diary()
    learner(raising("after_prediction", CancelBatch()), diary, data=loaders(batch_size=19)).fit(1, 0.1)
    assert diary.events.count("after_cancel_batch") == 1
    assert diary.events.count("after_step") == 1
    diary = Diary()
    learner(raising("before_train", CancelEpoch()), diary).fit(2, 0.1)
    assert diary.events.count("after_cancel_epoch") == 1
    assert diary.events.count("after_epoch") == 1


class SkipFirst(Callback):
    """Cancels the first batch once its gradients are there."""

    def after_backward(self, state: TrainState) -> None:
        if state.step == 0 and state.rows_seen == len(state.yb):
            raise CancelBatch


def test_the_gradients_of_a_cancelled_batch_do_not_join_the_next() -> None:
    data = loaders(batch_size=19)
    skipped = learner(SkipFirst(), data=data, optimizer=SGD)
    skipped.model.drop.p = 0.0
    skipped.fit(1, 0.1)
    model = learner(data=data).model
    model.drop.p = 0.0
    data.train.set_epoch(0)
    _, (xb, yb) = list(data.train)
    nn.functional.mse_loss(model(xb), yb).backward()
    expected = model.linear.weight - 0.1 * model.linear.weight.grad
    torch.testing.assert_close(skipped.model.linear.weight, expected)


class Weighted:
    """Rows that carry a weight."""

    def __init__(self, x: Tensor, weight: Tensor) -> None:
        self.x, self.weight = x, weight

    def to(self, device: torch.device) -> "Weighted":
        return self


class TakesWeighted(Flat):
    def forward(self, x: Weighted) -> Tensor:  # type: ignore[override]
        return super().forward(x.x)


def test_the_validation_loss_is_a_weighted_mean_whatever_the_batches() -> None:
    torch.manual_seed(0)
    model, weight = TakesWeighted().eval(), torch.rand(12)
    found = set()
    for size in (1, 5, 12):
        batches = [
            (Weighted(x, w), y)
            for x, y, w in zip(X[:12].split(size), Y[:12].split(size), weight.split(size), strict=False)
        ]
        subject = Learner(model, Loaders(batches, batches), loss=mse, device="cpu")
        found.add(round(subject.validate()["valid_loss"], 5))
    with torch.inference_mode():
        errors = (Flat.forward(model, X[:12]) - Y[:12]).square()
    assert found == {round(float((errors * weight).sum() / weight.sum()), 5)}


def test_a_misspelt_event_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.after_bacth is not an event; the events are before_fit"):
        type("Wrong", (Callback,), {"after_bacth": lambda self, state: None})


def test_callbacks_run_by_their_order() -> None:
    ran: list[int] = []

    def made(order: int) -> Callback:
        return type(f"C{order}", (Callback,), {"order": order, "before_fit": lambda self, state: ran.append(order)})()

    learner(made(5), made(-5), made(0)).fit(1, 0.1)
    assert ran == [-5, 0, 5]


class Losses(Callback):
    """Sets the validation loss of each epoch, and notes the weights."""

    order = -20

    def __init__(self, values: list[float]) -> None:
        self.values, self.weights = values, []  # type: ignore[var-annotated]

    def after_epoch(self, state: TrainState) -> None:
        state.metrics["valid_loss"] = self.values[state.epoch]
        self.weights.append(state.model.linear.weight.clone())  # type: ignore[union-attr, operator]


@pytest.mark.parametrize(("mode", "sign"), [("min", 1.0), ("max", -1.0)])
def test_early_stopping_waits_for_patience_and_puts_the_best_weights_back(mode: Any, sign: float) -> None:
    losses = Losses([sign * value for value in (5.0, 3.0, 4.0, 3.5, 9.0, 1.0)])
    stop = EarlyStopping("valid_loss", mode=mode, patience=3)
    subject = learner(losses, stop)
    subject.fit(6, 0.1)
    assert len(losses.weights) == 5
    assert stop.best_epoch == 1
    assert torch.equal(subject.model.linear.weight, losses.weights[1])  # type: ignore[union-attr, arg-type]


def test_a_loss_of_nan_is_never_the_best() -> None:
    losses = Losses([math.nan, 2.0, math.nan])
    subject = learner(losses, EarlyStopping(mode="min", patience=5))
    subject.fit(3, 0.1)
    assert torch.equal(subject.model.linear.weight, losses.weights[1])  # type: ignore[union-attr, arg-type]


def test_early_stopping_refuses_a_metric_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="watches 'accuracy', but the metrics are train_loss, valid_loss"):
        learner(EarlyStopping("accuracy", mode="max", patience=1)).fit(1, 0.1)


class Rates(Callback):
    """Notes the learning rate of every step."""

    order = 5

    def __init__(self) -> None:
        self.rates: list[float] = []

    def after_step(self, state: TrainState) -> None:
        self.rates.append(state.optimizer.param_groups[0]["lr"])


def test_one_cycle_rises_to_the_peak_and_falls_to_almost_nothing() -> None:
    rates = Rates()
    learner(rates, optimizer=AdamW).fit_one_cycle(8, 0.1)
    steps = 8 * 5
    assert len(rates.rates) == steps
    peak = int(np.argmax(rates.rates))
    assert 0.2 * steps < peak < 0.3 * steps
    assert rates.rates[0] == pytest.approx(0.004)
    assert max(rates.rates) == pytest.approx(0.1, rel=0.01)
    assert rates.rates[-1] == pytest.approx(1e-5)
    assert all(np.diff(rates.rates[: peak + 1]) > 0)
    assert all(np.diff(rates.rates[peak:]) < 0)


def test_a_warm_up_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="warmup must be between 0 and 1, got 0"):
        OneCycle(warmup=0.0)


class Weights(Callback):
    """Keeps the weights and says which of them are trained on."""

    order = 100

    def __init__(self) -> None:
        self.trained: list[Tensor] = []
        self.judged: list[Tensor] = []

    def after_batch(self, state: TrainState) -> None:
        (self.trained if state.training else self.judged).append(state.model.linear.weight.detach().clone())


def test_a_schedule_free_model_is_judged_and_kept_as_its_average() -> None:
    weights = Weights()
    subject = learner(weights, optimizer=ScheduleFreeAdamW)
    state = subject.fit(3, 0.05)
    average = state.optimizer.state_dict()["state"][0]["average"]
    assert torch.equal(subject.model.linear.weight, average)
    assert torch.equal(weights.judged[-1], average)
    assert not torch.equal(weights.trained[-1], average)


class StopAtStep(Callback):
    def after_step(self, state: TrainState) -> None:
        if state.step == 7:
            raise CancelFit


def test_the_average_is_there_after_a_cancelled_fit_too() -> None:
    subject = learner(StopAtStep(), optimizer=ScheduleFreeAdamW)
    state = subject.fit(3, 0.05)
    assert torch.equal(subject.model.linear.weight, state.optimizer.state_dict()["state"][0]["average"])


def test_the_best_average_is_put_back() -> None:
    subject = learner(EarlyStopping(mode="min", patience=2), optimizer=ScheduleFreeAdamW)
    state = subject.fit(40, 3.0)  # too long steps: the best epoch is not the last
    best = subject.validate()["valid_loss"]
    assert best < state.metrics["valid_loss"]


def test_parts_learn_at_their_own_rates() -> None:
    subject = learner(optimizer=SGD, rates={"linear.weight": 0.0})
    before = subject.model.linear.weight.clone()
    bias = subject.model.linear.bias.clone()
    subject.fit_one_cycle(2, 0.05)
    assert torch.equal(subject.model.linear.weight, before)
    assert not torch.equal(subject.model.linear.bias, bias)
