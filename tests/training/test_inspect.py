"""The watching callbacks: what they say of a fit, a fit that is resumed, and a fit that does not notice them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_fits import BATCHES, EPOCHS, assert_resumes, assert_same, learner, net
from torch import Tensor, nn

import mixfit
from mixfit.demo import write_demo
from mixfit.errors import ConfigError
from mixfit.hooks.gradient_stats import Part
from mixfit.hooks.hook import Hooks
from mixfit.nn.fusion import ConcatFusion
from mixfit.training.callback import Callback, TrainState
from mixfit.training.callbacks.inspect import WatchActivations, WatchGradients
from mixfit.training.callbacks.steps import GradientAccumulation, GradientClipping, MixedPrecision

STEPS = EPOCHS * BATCHES


class Keep(Callback):
    """Outputs of all layers in the training batches, and the gradients, as a reference."""

    order = 16

    def __init__(self) -> None:
        self.outputs: dict[str, list[Tensor]] = {}
        self.norms: list[float] = []

    def before_fit(self, state: TrainState) -> None:
        def keep(call: Any) -> None:
            if state.training:
                self.outputs.setdefault(call.name, []).append(call.output.detach().clone())

        self.hooks = Hooks(state.model, keep)
        self.hooks.place()

    def after_backward(self, state: TrainState) -> None:
        grads = [parameter.grad for parameter in state.model.parameters()]
        self.norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))

    def close(self, state: TrainState) -> None:
        self.hooks.remove()


def test_activations_are_those_of_the_training_batches() -> None:
    watch, keep = WatchActivations(every=1, sample=None), Keep()
    learner(watch, keep, model=net()).fit(EPOCHS, 0.01)
    total = watch.stats.total()
    assert [output.layer for output in total] == ["first", "norm", "drop", "last"]
    for output, told in total.items():
        outputs = keep.outputs[output.layer]
        values = torch.cat([output.flatten() for output in outputs]).double()
        assert (told.outputs, told.values, told.last_step) == (STEPS, len(values), STEPS - 1)
        assert told.mean == pytest.approx(float(values.mean()), abs=1e-6)
        assert told.std == pytest.approx(float(values.std(correction=0)), abs=1e-6)


def test_gradients_are_measured_before_they_are_cut_and_the_numbers_are_of_steps() -> None:
    watch, keep = WatchGradients(every=3), Keep()
    learner(watch, keep, GradientClipping(1e-3)).fit(EPOCHS, 0.01)
    told = watch.stats.total()[Part("all")]
    norms = keep.norms[::3]
    assert (told.steps, told.last_step) == (len(norms), 3 * (len(norms) - 1))
    assert told.gradient == pytest.approx(sum(norms) / len(norms), rel=1e-5)
    assert told.ratio > 0
    assert {part.name for part in watch.stats.parts if part.kind == "branch"} == {"first", "last"}


@pytest.mark.parametrize("make", [WatchActivations, WatchGradients])
def test_a_fit_does_not_notice_that_it_is_watched(make: Any) -> None:
    plain = net()
    learner(model=plain).fit(2, 0.05)
    watched = net()  # seeds the generator anew
    state = learner(make(every=1), model=watched).fit(2, 0.05)
    assert_same(plain.state_dict(), watched.state_dict())
    assert state.step == 2 * BATCHES


@pytest.mark.parametrize("make", [WatchActivations, WatchGradients])
def test_a_resumed_fit_goes_on_with_its_statistics(make: Any, tmp_path: Path) -> None:
    callback = assert_resumes(tmp_path, lambda: make(every=2, columns=4), stops=(1, 7, 13))
    assert callback.stats.timeline.observed == STEPS // 2


def test_parts_of_a_batch_are_one_step() -> None:
    watch, gradients = WatchActivations(every=1, sample=None), WatchGradients(every=1)
    learner(watch, gradients, GradientAccumulation(2)).fit(1, 0.01)
    told = next(iter(watch.stats.total().values()))
    assert (told.outputs, told.values) == (2 * BATCHES, 38 * 6)
    assert watch.stats.timeline.observed == BATCHES
    assert gradients.stats.total()[Part("all")].steps == BATCHES


def test_before_a_fit_there_are_no_statistics() -> None:
    with pytest.raises(ConfigError, match="WatchActivations has not watched a fit yet"):
        WatchActivations().stats  # noqa: B018
    with pytest.raises(ConfigError, match="WatchGradients has not watched a fit yet"):
        WatchGradients().stats  # noqa: B018
    with pytest.raises(ConfigError, match=r"has no layer 'fist'\. Did you mean 'first'"):
        learner(WatchActivations("fist")).fit(1, 0.01)


class Fused(nn.Module):
    """Two branches over halves of the inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tabular, self.image = nn.Linear(3, 4), nn.Linear(3, 4)
        self.fusion, self.head = ConcatFusion(4, 4, out_dim=4, dropout=0.0), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fusion(self.tabular(x), self.image(x.square())))[:, 0]


def test_the_scale_of_float16_is_taken_out_of_the_gradients_of_encodings() -> None:
    def found(*callbacks: Callback) -> Any:
        watch = WatchGradients(every=1)
        learner(watch, *callbacks, model=Fused()).fit(1, 1e-3)
        return watch.stats.modalities(), watch.stats.total()[Part("all")]

    (plain, all_plain), (scaled, all_scaled) = found(), found(MixedPrecision("float16", scale=2.0**10))
    for name in ("table", "photos", "agreement", "cosine"):
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name), rel=0.05), name
    assert all_scaled.gradient == pytest.approx(all_plain.gradient, rel=0.05)


def test_a_mixed_model_has_the_branches_table_photos_and_fusion(tmp_path: Path) -> None:
    table = write_demo(tmp_path, rows=60)
    data = mixfit.load_data(table, target="price", image_size=32, batch_size=16, seed=0, device="cpu")
    model = mixfit.build_model(data, mixfit.ModelConfig(backbone="small_resnet"), seed=0)
    activations, gradients = WatchActivations(every=1), WatchGradients(every=1)
    learner(activations, gradients, model=model, data=data, loss=mixfit.mse).fit(1, 1e-3)
    assert set(activations.stats.by_branch()) == {"table", "photos", "fusion and head"}
    branches = [part.name for part in gradients.stats.parts if part.kind == "branch"]
    assert branches == ["table", "photos", "fusion and head"]
    told = gradients.stats.modalities()
    assert told.steps == len(data.train)
    assert told.agreement is not None
    assert -1 <= told.agreement <= 1
    assert told.table > 0
    assert told.photos > 0
