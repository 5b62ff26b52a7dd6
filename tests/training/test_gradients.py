"""Clipping, and batches in parts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from small_fits import Loaders, X, Y, assert_resumes, learner, net
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.training.callback import Callback, TrainState
from mixfit.training.callbacks.steps import GradientAccumulation, GradientClipping, MixedPrecision
from mixfit.training.loss import PerMember, mse
from mixfit.training.optimizer import SGD


class Gradients(Callback):
    """Keeps the gradients of every step, as the optimizer gets them."""

    order = 50

    def __init__(self) -> None:
        self.steps: list[list[Tensor]] = []

    def after_backward(self, state: TrainState) -> None:
        self.steps.append([p.grad.clone() for p in state.model.parameters() if p.grad is not None])


def length(gradients: list[Tensor]) -> float:
    return float(torch.cat([g.flatten() for g in gradients]).norm())


def test_clipping_equals_pytorchs_and_records_the_length_before() -> None:
    before, after, clipping = Gradients(), Gradients(), GradientClipping(0.5, record=True)
    before.order = 0
    ours = learner(before, clipping, after, optimizer=SGD)
    ours.fit(2, 0.1)
    assert clipping.norms == pytest.approx([length(step) for step in before.steps], rel=1e-6)
    assert max(clipping.norms) > 0.6
    for uncut, cut in zip(before.steps, after.steps, strict=True):
        parameters = [nn.Parameter(g.clone()) for g in uncut]
        for parameter, gradient in zip(parameters, uncut, strict=True):
            parameter.grad = gradient.clone()
        nn.utils.clip_grad_norm_(parameters, 0.5)
        for parameter, gradient in zip(parameters, cut, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_clipping_by_value_cuts_each_number() -> None:
    before, after = Gradients(), Gradients()
    before.order = 0
    learner(before, GradientClipping(max_value=0.1), after, optimizer=SGD).fit(1, 0.1)
    for uncut, cut in zip(before.steps, after.steps, strict=True):
        assert all(torch.equal(a.clamp(-0.1, 0.1), b) for a, b in zip(uncut, cut, strict=True))


def test_recording_alone_changes_nothing() -> None:
    plain, measured, clipping = learner(), learner(), GradientClipping(record=True)
    plain.fit(1, 0.1)
    measured.fit(1, 0.1, callbacks=[clipping])
    assert len(clipping.norms) == 5
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), measured.model.parameters(), strict=True))


def test_clipping_and_its_record_go_on_where_they_stopped(tmp_path: Path) -> None:
    clipping = assert_resumes(tmp_path, lambda: GradientClipping(0.3, max_value=0.2, record=True), stops=(1, 7, 20))
    assert len(clipping.norms) == 20


def test_parts_go_on_where_they_stopped(tmp_path: Path) -> None:
    assert_resumes(tmp_path, lambda: GradientAccumulation(3), stops=(7,))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: GradientClipping(), "GradientClipping needs max_norm, max_value or record=True"),
        (lambda: GradientClipping(0.0), r"max_norm must be above 0, got 0\.0"),
        (lambda: GradientClipping(max_value=-1.0), r"max_value must be above 0, got -1\.0"),
        (lambda: GradientAccumulation(0), "parts must be at least 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(make: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()


@dataclass
class Weighted:
    """Rows that may carry a weight."""

    x: Tensor
    weight: Tensor | None

    def to(self, device: torch.device) -> "Weighted":
        return self

    def __getitem__(self, rows: slice) -> "Weighted":
        return Weighted(self.x[rows], None if self.weight is None else self.weight[rows])


class Several(nn.Module):
    """As many predictions a row as there are members; one without an axis of its own where there is one."""

    def __init__(self, members: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.members = members
        self.layers = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, members))

    def forward(self, batch: Weighted) -> Tensor:
        y = self.layers(batch.x)
        return y[:, 0] if self.members == 1 else y if self.training else y.mean(1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("members", [1, 4])
@pytest.mark.parametrize("clipped", [False, True])
def test_parts_learn_as_the_whole_batch(
    dtype: torch.dtype, tolerance: float, weighted: bool, members: int, clipped: bool
) -> None:
    weight = torch.rand(46, generator=torch.Generator().manual_seed(1)) * 3
    weight[:3] = 0.0  # a part may weigh nothing

    def batch(start: int, end: int) -> tuple[Weighted, Tensor]:
        part = weight[start:end].to(dtype) if weighted else None
        return Weighted(X[start:end].to(dtype), part), Y[start:end].to(dtype)

    batches = [batch(0, 11), batch(11, 24), batch(24, 26)]  # 11 rows in 4 parts: 3, 3, 3, 2; and 2 rows in 2
    found = []
    for parts in (1, 4):
        gradients = Gradients()
        callbacks: list[Callback] = [GradientAccumulation(parts), gradients]
        callbacks += [GradientClipping(0.1)] if clipped else []
        loss = mse if members == 1 else PerMember(mse, 1)
        subject = learner(
            *callbacks,
            model=Several(members).to(dtype),
            data=Loaders(batches, [batch(26, 46)]),
            loss=loss,
            optimizer=SGD,
        )
        state = subject.fit(3, 0.1)
        tensors = [g for step in gradients.steps for g in step] + list(subject.model.parameters())
        found.append((tensors, state.metrics))
    (whole, metrics), (in_parts, metrics_in_parts) = found
    for a, b in zip(whole, in_parts, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)
    assert metrics_in_parts == pytest.approx(metrics, rel=1e-5)
    assert any(bool(a.abs().max() > 1e-3) for a in whole)


def test_clipping_sees_gradients_without_the_scale_of_float16() -> None:
    clipping = GradientClipping(record=True)
    plain = GradientClipping(record=True)
    learner(clipping, MixedPrecision("float16", scale=1024.0)).fit(1, 1e-3)
    learner(plain).fit(1, 1e-3)
    assert clipping.norms == pytest.approx(plain.norms, rel=0.05)


def test_parts_of_a_network_with_batch_norm_and_dropout_train_too() -> None:
    assert learner(GradientAccumulation(3), model=net()).fit(2, 0.01).metrics["train_loss"] < 10
