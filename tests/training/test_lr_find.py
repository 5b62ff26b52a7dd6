"""The learning-rate finder, and that a trial training leaves no trace."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from test_learner import Flat, Loaders, X, Y, loaders
from torch import Tensor, nn
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset

from mixfit.data.loader import DataLoader
from mixfit.data.sampler import SequentialSampler
from mixfit.errors import ConfigError, DataError, Diverged
from mixfit.training.callback import Callback, TrainState
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.lr_find import RateSearch, preserved
from mixfit.training.optimizer import SGD, AdamW, ScheduleFreeAdamW


class Normed(nn.Module):
    """BatchNorm, dropout, a frozen layer, and a buffer that is replaced by a new tensor and not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3)
        self.frozen, self.last = nn.Linear(8, 8).requires_grad_(requires_grad=False), nn.Linear(8, 1)
        self.register_buffer("calls", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return self.last(self.frozen(self.drop(self.norm(self.first(x)).relu())))[:, 0]


def normed(**settings: Any) -> Learner:
    torch.manual_seed(0)
    learner = Learner(Normed(), loaders(), loss=mse, device="cpu", **settings)
    nn.functional.mse_loss(learner.model(X[:8]), Y[:8]).backward()
    learner.model.train()
    learner.model.norm.eval()
    learner.data.train.set_epoch(3)
    iterator = iter(learner.data.train)
    next(iterator)
    next(iterator)
    return learner


def drawn() -> list[float]:
    """What PyTorch would draw next; the bytes of its state have padding that is not set."""
    with torch.random.fork_rng(devices=[]):
        return torch.randn(3).tolist() + torch.rand(3).tolist()


def everything(learner: Learner) -> dict[str, Any]:
    """Bytes of all that a trial training could change."""
    model, train = learner.model, learner.data.train
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        "tensors": {name: tensor.detach().numpy().tobytes() for name, tensor in tensors},
        "objects": [id(tensor) for _, tensor in tensors],
        "gradients": {name: None if p.grad is None else p.grad.numpy().tobytes() for name, p in tensors},
        "learns": [parameter.requires_grad for parameter in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "loader": (train.state_dict(), train._under_way, dict(vars(train.sampler))),
        "randomness": (repr(np.random.get_state()), drawn()),  # noqa: NPY002
        "callbacks": learner.callbacks,
    }


@pytest.mark.parametrize("optimizer", [SGD, AdamW, ScheduleFreeAdamW, torch.optim.Adam])
def test_a_search_leaves_no_trace(optimizer: Any) -> None:
    learner = normed(optimizer=optimizer)
    before = everything(learner)
    learner.lr_find(steps=30)
    assert everything(learner) == before


def test_pythons_random_numbers_go_on_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from its functions: the type checks of the tests draw from Python's generator, too."""
    put_back: list[object] = []
    before = (3, tuple(range(625)), 0.5)
    monkeypatch.setattr(random, "getstate", lambda: before)
    monkeypatch.setattr(random, "setstate", put_back.append)
    with preserved(nn.Linear(1, 1)):
        assert put_back == []
    assert put_back == [before]


class Breaks(Callback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def after_step(self, state: TrainState) -> None:
        random.random()
        np.random.rand()  # noqa: NPY002
        state.model.frozen.requires_grad_(requires_grad=True)  # type: ignore[union-attr, operator]
        if state.step == 7:
            raise self.error


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_a_search_that_breaks_leaves_no_trace_either(error: BaseException) -> None:
    learner = normed(optimizer=ScheduleFreeAdamW)
    before = everything(learner)
    with pytest.raises(type(error)):
        learner.lr_find(callbacks=[Breaks(error)])
    assert everything(learner) == before


def test_training_after_a_search_is_as_without_it() -> None:
    plain, searched = normed(), normed()
    state = torch.get_rng_state()
    plain.fit(2, 0.01)
    torch.set_rng_state(state)
    searched.lr_find()
    searched.fit(2, 0.01)
    for a, b in zip(plain.model.parameters(), searched.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_order_of_pytorchs_loader_is_as_without_a_search() -> None:
    generator = torch.Generator().manual_seed(5)
    train = TorchDataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True, generator=generator)
    before = generator.get_state()
    torch.manual_seed(0)
    Learner(Flat(), Loaders(train, train), loss=mse, device="cpu").lr_find()
    assert torch.equal(generator.get_state(), before)


class Counted:
    """A loader of somebody else's, which can say where it stands."""

    def __init__(self) -> None:
        self.given = 2

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in range(5):
            self.given += 1
            yield X[8 * batch : 8 * batch + 8], Y[8 * batch : 8 * batch + 8]

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.given = state["given"]


def test_a_loader_with_a_state_is_put_back() -> None:
    train = Counted()
    Learner(Flat(), Loaders(train, train), loss=mse, device="cpu").lr_find(steps=12)
    assert train.given == 2


class Count(Callback):
    def __init__(self) -> None:
        self.validations, self.epochs = 0, 0

    def before_epoch(self, state: TrainState) -> None:
        self.epochs += 1

    def before_validate(self, state: TrainState) -> None:
        self.validations += 1


def test_few_rows_are_repeated_and_the_learners_own_callbacks_rest() -> None:
    own, count = Count(), Count()
    learner = Learner(Flat(), loaders(), loss=mse, callbacks=[own], device="cpu")
    found = learner.lr_find(start=1e-6, end=1e-3, steps=23, callbacks=[count])  # 5 batches in an epoch
    assert (len(found.rates), len(found.losses), len(found.smoothed)) == (23, 23, 23)
    assert (count.epochs, count.validations, own.epochs) == (5, 0, 0)
    assert (found.rates[0], found.rates[-1]) == pytest.approx((1e-6, 1e-3))
    ratios = np.diff(np.log(found.rates))
    assert ratios == pytest.approx(ratios[0])


@pytest.mark.parametrize("optimizer", [SGD, AdamW])
def test_the_search_ends_when_the_loss_explodes_and_suggests_rates_before(optimizer: Any) -> None:
    torch.manual_seed(0)
    learner = Learner(Flat(), loaders(), loss=mse, optimizer=optimizer, device="cpu")
    found = learner.lr_find(start=1e-5, end=1e4, steps=200)
    assert len(found.rates) < 200
    lowest = found.rates[int(np.argmin(found.smoothed))]
    assert 1e-4 < found.steepest <= lowest
    assert found.steepest / 10 < found.valley <= lowest
    start = learner.validate()["valid_loss"]
    assert learner.fit_one_cycle(5, found.valley).metrics["valid_loss"] < 0.5 * start


def test_the_rate_of_an_optimizer_with_its_own_warm_up_is_the_one_that_is_tried() -> None:
    def made(groups: Any, lr: float, warmup: int) -> ScheduleFreeAdamW:
        return ScheduleFreeAdamW(groups, lr, warmup=warmup)

    losses = []
    for warmup in (0, 1000):
        torch.manual_seed(0)
        learner = Learner(
            Flat(), loaders(), loss=mse, optimizer=lambda groups, lr, w=warmup: made(groups, lr, w), device="cpu"
        )
        losses.append(learner.lr_find().losses)
    assert losses[0] == losses[1]


def test_parts_keep_their_rates_in_proportion() -> None:
    torch.manual_seed(0)
    learner = Learner(Flat(), loaders(), loss=mse, rates={"linear.bias": 0.1}, device="cpu")
    seen = []

    class Notes(Callback):
        def after_step(self, state: TrainState) -> None:
            seen.append([group["lr"] for group in state.optimizer.param_groups])

    learner.lr_find(start=1e-4, end=1e-2, steps=20, callbacks=[Notes()])
    assert all(bias == pytest.approx(0.1 * weight) for weight, bias in seen)


def curve(smoothed: list[float]) -> RateSearch:
    rates = tuple(10.0 ** (-4 + i / 4) for i in range(len(smoothed)))
    return RateSearch(rates=rates, losses=tuple(smoothed), smoothed=tuple(smoothed))


def test_suggestions_of_a_curve_that_was_drawn() -> None:
    found = curve([1.0, 1.0, 1.0, 0.9, 0.6, 0.3, 0.2, 0.2, 0.4, 2.0])
    assert found.steepest == found.rates[4]
    assert found.valley == pytest.approx((found.rates[4] * found.rates[6]) ** 0.5)


def test_a_curve_that_falls_nowhere_has_no_suggestion_but_a_picture() -> None:
    found = curve([1.0, 1.1, 1.2, 1.5, 1.9, 2.5, 3.0, 4.0, 5.0, 6.0])
    for name in ("steepest", "valley"):
        with pytest.raises(ConfigError, match=r"did not decrease between the rates 1\.0e-04 and 1\.8e-02: use a"):
            getattr(found, name)
    assert isinstance(found.plot(), Figure)


def test_the_picture_is_a_figure_of_its_own() -> None:
    import matplotlib.pyplot as plt

    figure = curve([1.0, 1.0, 0.9, 0.6, 0.3, 0.2, 0.4]).plot()
    assert plt.get_fignums() == []
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    (legend,) = figure.legends
    assert "valley" in "".join(text.get_text() for text in legend.get_texts())
    figure.draw_without_rendering()
    assert legend.get_window_extent().y0 > axes.get_window_extent().y1  # hides none of the curves


def broken(x: Tensor) -> Loaders:
    rows = DataLoader(TensorDataset(x, Y), SequentialSampler(len(x), 8))
    return Loaders(rows, rows)


@pytest.mark.parametrize(
    ("make", "settings", "error", "message"),
    [
        (loaders, {"start": 1.0, "end": 0.1}, ConfigError, r"start must be above 0 and below end, got 1\.0 and 0\.1"),
        (loaders, {"steps": 3}, ConfigError, "steps must be at least 10, got 3"),
        (lambda: broken(X * torch.nan), {}, Diverged, "loss of the first batch is not finite before the first step"),
        (
            loaders,
            {"start": 1e30, "end": 1e35},
            Diverged,
            r"no longer finite after \d steps, at the rate .*smaller start",
        ),
    ],
)
def test_a_search_that_cannot_be_is_one_sentence(
    make: Callable[[], Loaders], settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    learner = Learner(Flat(), make(), loss=mse, optimizer=SGD, device="cpu")
    with pytest.raises(error, match=message):
        learner.lr_find(**settings)


def test_no_training_rows_are_refused() -> None:
    empty = DataLoader(TensorDataset(X[:0], Y[:0]), SequentialSampler(0, 4))
    with pytest.raises(DataError, match="no training rows"):
        Learner(Flat(), Loaders(empty, empty), loss=mse, device="cpu").lr_find()
