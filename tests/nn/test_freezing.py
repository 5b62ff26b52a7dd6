"""Freezing, gradual unfreezing and rates by layer, for every kind of backbone on offer."""

import itertools

import pytest
import torch
from torch import nn

from mixfit.errors import ConfigError
from mixfit.nn.backbones import LITE0, SMALL_RESNET, make_backbone
from mixfit.nn.freezing import blocks, freeze, gradual, has_only_norms, is_frozen_module, unfreeze_last
from mixfit.nn.image import ImageEncoder
from mixfit.training.optimizer import layer_rates, parameter_groups

SIZE = 160
"""The one size that timm's small networks for tests take."""
NAMES = [
    SMALL_RESNET,
    LITE0,
    "mobilenetv3_small_050",
    "test_byobnet",
    "test_convnext",
    "test_efficientnet_gn",
    "test_mambaout",
    "test_nfnet",
    "test_resnet",
    "test_vit",
    "test_vit4",
]


@pytest.fixture(scope="module", params=NAMES)
def encoder(request: pytest.FixtureRequest) -> ImageEncoder:
    """Freezing is all that tests change in it."""
    torch.manual_seed(0)
    found = make_backbone(request.param, image_size=SIZE, pretrained=False)
    return ImageEncoder(
        found.module, found.num_features, mean=found.mean, std=found.std, out_dim=4, dropout=0.0, frozen=False
    )


def names_that_learn(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def names_in(backbone: nn.Module, *parts: nn.Module) -> set[str]:
    inside = {id(parameter) for part in parts for parameter in part.parameters()}
    return {name for name, parameter in backbone.named_parameters() if id(parameter) in inside}


def test_blocks_are_all_parameters_once_and_none_is_norms_alone(encoder: ImageEncoder) -> None:
    parts = blocks(encoder.backbone)
    assert len(parts) > 2
    ids = [id(parameter) for part in parts for parameter in part.parameters()]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(parameter) for parameter in encoder.backbone.parameters()}
    assert not any(has_only_norms(part) for part in parts)


def test_the_last_blocks_learn_and_no_other(encoder: ImageEncoder) -> None:
    backbone = encoder.backbone
    parts = blocks(backbone)
    for count in range(len(parts) + 1):
        unfreeze_last(backbone, count)
        assert names_that_learn(backbone) == names_in(backbone, *parts[len(parts) - count :])
        assert encoder.frozen == (count == 0)
    with pytest.raises(ConfigError, match=f"has {len(parts)} blocks, so 0 to {len(parts)} can be trained, not -1"):
        unfreeze_last(backbone, -1)


def test_parts_are_set_free_from_the_last_to_the_first(encoder: ImageEncoder) -> None:
    backbone = encoder.backbone
    parts = blocks(backbone)
    before: set[str] = set()
    for count in range(len(parts) + 1):
        gradual(parts, count)
        now = names_that_learn(backbone)
        assert before < now or count == 0
        before = now
    assert before == {name for name, _ in backbone.named_parameters()}
    gradual(parts, len(parts) + 5)
    assert names_that_learn(backbone) == before
    gradual(parts, 0)
    assert is_frozen_module(backbone)


def test_what_is_frozen_stays_as_it_is_in_training_statistics_included(encoder: ImageEncoder) -> None:
    backbone = encoder.backbone
    unfreeze_last(backbone, 1)
    learns = names_that_learn(backbone)
    # A layer that learns moves its statistics, too; all others stay still.
    layers = {name.rpartition(".")[0] for name in learns}
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    encoder.train()
    for _ in range(2):  # a last layer may start at zero
        encoder(torch.rand(4, 1, 3, SIZE, SIZE), None, torch.ones(4, 1, dtype=torch.bool)).square().sum().backward()
        optimizer.step()
    changed = {name for name, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed & learns
    assert {name for name in changed if name.rpartition(".")[0] not in layers} == set()
    freeze(backbone)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    encoder.train()
    encoder(torch.rand(4, 1, 3, SIZE, SIZE), None, torch.ones(4, 1, dtype=torch.bool))
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_rates_fall_from_the_last_layer_to_the_first(encoder: ImageEncoder) -> None:
    backbone = encoder.backbone.requires_grad_(requires_grad=True)
    rates = layer_rates(encoder, "backbone", 0.5)
    groups = parameter_groups(encoder, 1.0, rates=rates)
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    inside = [[rate[id(parameter)] for parameter in part.parameters()] for part in blocks(backbone)]
    assert max(inside[-1]) == 1.0
    assert max(max(part) for part in inside[:-1]) < 1.0
    for earlier, later in itertools.pairwise(inside):
        assert max(earlier) < min(later)
    modules = dict(encoder.named_modules())
    for before, name in itertools.pairwise(rates):
        assert name not in modules or not has_only_norms(modules[name]) or rates[name] == rates[before], name
    own = [rate[id(parameter)] for parameter in backbone.parameters(recurse=False)]
    assert all(value == min(rate.values()) for value in own)
