"""Fine-tuning: the rest learns first, then the image network at its own rate."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_learner import Flat, loaders

from mixfit.config import DataConfig, ModelConfig
from mixfit.data.load import MixedData, load_data
from mixfit.errors import ConfigError
from mixfit.training.build import build_model, precompute_features
from mixfit.training.callback import Callback, TrainState
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.optimizer import SGD

MODEL = ModelConfig(backbone="small_resnet", tabular="mlp", numbers="plain", tabular_hidden=(8,), encoding_dim=8)


@pytest.fixture(scope="module")
def data(demo_table: Path) -> MixedData:
    return load_data(demo_table, target="price", config=DataConfig(image_size=32), batch_size=32)


class Notes(Callback):
    """What learns at which rate, at the highest rate of each fit."""

    def __init__(self, *, fail: bool = False) -> None:
        self.fits: list[dict[str, float]] = []
        self.frozen: list[bool] = []
        self.fail = fail

    def before_fit(self, state: TrainState) -> None:
        self.fits.append({group["name"]: group["lr"] for group in state.optimizer.param_groups})
        self.frozen.append(state.model.image.frozen)  # type: ignore[union-attr]

    def before_batch(self, state: TrainState) -> None:
        if self.fail and len(self.fits) == 2:
            raise KeyboardInterrupt


def learner(data: MixedData, **settings: Any) -> Learner:
    model = build_model(data, MODEL, seed=0)
    return Learner(model, data, loss=mse, optimizer=SGD, device="cpu", **settings)


def test_first_the_rest_learns_then_the_backbone_at_its_rate(data: MixedData) -> None:
    notes, subject = Notes(), learner(data)
    backbone = subject.model.image.backbone
    before = [parameter.clone() for parameter in backbone.parameters()]
    subject.fine_tune(1, 0.01, backbone_rate=0.2, callbacks=[notes])
    assert notes.fits == [{"": 0.01}, {"": 0.01, "image.backbone": pytest.approx(0.002)}]
    assert notes.frozen == [True, False]
    moved = [not torch.equal(a, b) for a, b in zip(before, backbone.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert subject.rates is None


def test_rates_of_parts_of_the_backbone_win(data: MixedData) -> None:
    notes = Notes()
    subject = learner(data, rates={"image.backbone": 0.5, "tabular": 2.0})
    subject.fine_tune(1, 0.01, callbacks=[notes])
    assert notes.fits[1] == pytest.approx({"": 0.01, "tabular": 0.02, "image.backbone": 0.005})


@pytest.mark.parametrize("trained", [False, True])
def test_after_an_interrupt_the_same_parameters_learn_as_before(data: MixedData, trained: bool) -> None:
    subject = learner(data)
    subject.model.image.backbone.requires_grad_(requires_grad=trained)
    before = [parameter.requires_grad for parameter in subject.model.parameters()]
    with pytest.raises(KeyboardInterrupt):
        subject.fine_tune(1, 0.01, callbacks=[Notes(fail=True)])
    assert [parameter.requires_grad for parameter in subject.model.parameters()] == before
    assert not subject.model.training


def test_without_epochs_of_the_head_all_is_free_at_once(data: MixedData) -> None:
    notes = Notes()
    learner(data).fine_tune(1, 0.01, head_epochs=0, callbacks=[notes])
    assert notes.frozen == [False]


def test_what_cannot_be_fine_tuned_is_one_sentence(data: MixedData) -> None:
    with pytest.raises(ConfigError, match="a model with an image network, which this one lacks: use fit_one_cycle"):
        Learner(Flat(), loaders(), loss=mse, device="cpu").fine_tune(1, 0.1)
    frozen = build_model(data, replace(MODEL, backbone="tf_efficientnet_lite0"), seed=0)
    features = precompute_features(data, frozen)
    with pytest.raises(ConfigError, match="have precomputed features, so the image network cannot be trained"):
        Learner(frozen, features, loss=mse, device="cpu").fine_tune(1, 0.1)
    for settings, message in (
        ({"epochs": 0}, "epochs must be at least 1 and head_epochs at least 0, got 0 and 1"),
        ({"epochs": 1, "head_epochs": -1}, "got 1 and -1"),
        ({"epochs": 1, "backbone_rate": 0.0}, "backbone_rate must be above 0, got 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            learner(data).fine_tune(lr=0.1, **settings)  # type: ignore[arg-type]
