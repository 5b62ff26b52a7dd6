"""Which parameters learn how fast and which decay; gradients cut together."""

import math
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import nn

from mixfit.config import ModelConfig
from mixfit.errors import ConfigError
from mixfit.nn.build import ModelShape, make_model
from mixfit.nn.tabular import TabM
from mixfit.training.optimizer import clip_gradients, layer_rates, parameter_groups, weight_decay_groups


class Member(nn.Module):
    """A layer whose bias has two axes, as in an ensemble."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(4, 3, 2)), nn.Parameter(torch.zeros(4, 2))


class Token(nn.Module):
    """Names what does not decay, as timm's networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1, 6, 2))
        self.linear = nn.Linear(6, 5, bias=False)

    def no_weight_decay(self) -> set[str]:
        return {"place"}


def model() -> nn.Module:
    parts = {"linear": nn.Linear(2, 3), "norm": nn.LayerNorm((2, 3)), "embedding": nn.Embedding(4, 2)}
    return nn.ModuleDict({**parts, "member": Member(), "token": Token()})


def shapes(group: dict[str, Any]) -> set[tuple[int, ...]]:
    return {tuple(parameter.shape) for parameter in group["params"]}


def test_biases_norms_and_embeddings_do_not_decay() -> None:
    decayed, kept = weight_decay_groups(model(), 0.1)
    assert shapes(decayed) == {(3, 2), (4, 3, 2), (5, 6)}
    assert shapes(kept) == {(3,), (2, 3), (4, 2), (1, 6, 2)}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert kept["matrices"] is False
    assert "matrices" not in decayed


def test_a_model_without_anything_to_decay_has_one_group() -> None:
    (group,) = weight_decay_groups(nn.Embedding(4, 2), 0.1)
    assert group["weight_decay"] == 0.0


def test_every_trainable_parameter_is_in_one_group_with_its_rate() -> None:
    network = model()
    network["norm"].requires_grad_(requires_grad=False)  # type: ignore[index]
    rates = {"token": 0.1, "token.linear": 0.5}
    groups = parameter_groups(network, 0.2, weight_decay=0.01, rates=rates)
    found = {id(p): group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found)
    for name, parameter in network.named_parameters():
        if name.startswith("norm"):
            assert id(parameter) not in found
            continue
        factor = 0.5 if name == "token.linear.weight" else 0.1 if name == "token.place" else 1.0
        assert found[id(parameter)]["lr"] == pytest.approx(0.2 * factor)


def test_without_weight_decay_the_optimizer_decides_about_it() -> None:
    groups = parameter_groups(model(), 0.2, rates={"linear": 0.0})
    assert {(group["name"], group["lr"]) for group in groups} == {("", 0.2), ("linear", 0.0)}
    assert all("weight_decay" not in group for group in groups)
    matrices = [shape for group in groups if group.get("matrices", True) for shape in shapes(group)]
    assert sorted(matrices) == [(3, 2), (4, 3, 2), (5, 6)]


EMBEDDED = {"tabular.columns.numbers.weight", "tabular.columns.numbers.frequency", "image.column_tag"}
SCALES = {f"tabular.blocks.{block}.0.{scale}" for block in (0, 1) for scale in ("before", "after")}


@pytest.mark.parametrize(
    ("config", "exempt"),
    [
        (ModelConfig(tabular="resnet", numbers="linear"), EMBEDDED - {"tabular.columns.numbers.frequency"}),
        (ModelConfig(tabular="mlp", numbers="periodic"), EMBEDDED - {"tabular.columns.numbers.weight"}),
        (ModelConfig(members=2, numbers="plain"), SCALES | {"image.column_tag"}),
        (
            ModelConfig(members=2),
            SCALES | {"image.column_tag", "tabular.columns.numbers.straight.weight"},
        ),
    ],
)
def test_embedded_numbers_scales_of_members_and_tags_do_not_decay(config: ModelConfig, exempt: set[str]) -> None:
    shape = ModelShape(
        numeric=2, cardinalities=(4,), photos=True, outputs=1, image_columns=2, image_size=32, bins=((0.0, 1.0),) * 2
    )
    network = make_model(shape, replace(config, backbone="small_resnet"))
    decayed, kept = weight_decay_groups(network, 0.1)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = {names[id(p)] for p in kept["params"] if p.ndim > 1 and not names[id(p)].endswith("bias")}
    assert found == exempt | {"tabular.columns.categories.0.weight"}
    assert "head.weight" in {names[id(p)] for p in decayed["params"]}


def test_the_scale_of_a_mini_ensemble_does_not_decay() -> None:
    decayed, kept = weight_decay_groups(TabM(2, (), members=3, blocks=1, width=4, variant="mini"), 0.1)
    assert (shapes(decayed), shapes(kept)) == ({(4, 2)}, {(3, 2), (4,)})


def test_rates_of_no_part_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"begins with 'line'; the parts of the model are linear, norm, embedding"):
        parameter_groups(model(), 0.1, rates={"line": 0.1})
    with pytest.raises(ConfigError, match=r"rate of 'linear' must be at least 0, got -1\.0"):
        parameter_groups(model(), 0.1, rates={"linear": -1.0})


def test_earlier_layers_learn_more_slowly() -> None:
    network = nn.ModuleDict({"photos": timm.create_model("resnet18"), "head": nn.Linear(2, 1)})
    rates = layer_rates(network, "photos", 0.5)
    assert list(rates)[:3] == ["photos.conv1", "photos.bn1", "photos.layer1.0"]
    assert rates["photos.fc"] == 1.0
    assert rates["photos.layer4.1"] == 0.5
    assert rates["photos.conv1"] == rates["photos.bn1"] == 0.5**9
    groups = parameter_groups(network, 1.0, rates=rates)
    assert {group["name"] for group in groups} == {*rates, ""}


def test_one_layer_is_a_part_too() -> None:
    assert layer_rates(nn.ModuleDict({"head": nn.Linear(2, 1)}), "head", 0.5) == {"head": 1.0}


def test_impossible_layer_rates_are_refused() -> None:
    network = nn.ModuleDict({"head": nn.Linear(2, 1), "act": nn.ReLU()})
    with pytest.raises(ConfigError, match=r"factor must be above 0 and at most 1, got 0"):
        layer_rates(network, "head", 0.0)
    with pytest.raises(ConfigError, match="The model has no part 'tail'"):
        layer_rates(network, "tail", 0.5)
    with pytest.raises(ConfigError, match="The part 'act' has no parameters"):
        layer_rates(network, "act", 0.5)


def with_gradients(*, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in ((3, 4), (5,), ())]
    for parameter in parameters[:2]:
        parameter.grad = (scale * torch.randn(parameter.shape, generator=generator)).to(dtype)
    return parameters


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_gradients_are_cut_as_pytorch_does(max_norm: float) -> None:
    ours, theirs = with_gradients(), with_gradients()
    norm = clip_gradients(ours, max_norm)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(theirs, max_norm))
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad)
    assert clip_gradients(ours, math.inf) <= max_norm


def test_measuring_alone_changes_no_bit() -> None:
    measured, untouched = with_gradients(scale=1e30), with_gradients(scale=1e30)
    clip_gradients(measured, math.inf)
    for a, b in zip(measured[:2], untouched[:2], strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)


def test_16_bits_do_not_overflow() -> None:
    parameters = with_gradients(dtype=torch.float16, scale=1e3)
    assert 1e3 < clip_gradients(parameters, 1.0) < 1e4
    assert parameters[0].grad is not None
    assert parameters[0].grad.dtype == torch.float16


def test_clipping_without_gradients_or_length() -> None:
    assert clip_gradients([nn.Parameter(torch.zeros(2))], 1.0) == 0
    with pytest.raises(ConfigError, match=r"max_norm must be above 0, got 0\.0"):
        clip_gradients(with_gradients(), 0.0)
