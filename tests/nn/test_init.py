"""First weights: variances, the last bias, and networks that cannot explode."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from mixfit.config import ModelConfig
from mixfit.data.batch import Inputs
from mixfit.errors import ConfigError
from mixfit.nn.backbones import SmallResNet
from mixfit.nn.bins import compute_bins
from mixfit.nn.build import ModelShape, make_model
from mixfit.nn.init import Stage, init_weights, lsuv, start_at_target
from mixfit.nn.tabular import MemberLinear
from mixfit.training.loss import mse
from mixfit.training.optimizer import AdamW


def test_variance_neither_explodes_nor_dies_through_thirty_layers() -> None:
    torch.manual_seed(0)
    deep = nn.Sequential(*(layer for _ in range(30) for layer in (nn.Linear(256, 256), nn.ReLU())))
    x = torch.randn(512, 256)
    with torch.no_grad():
        untouched = deep(x).square().mean().item()
        init_weights(deep)
        initialised = deep(x).square().mean().item()
    assert untouched < 1e-2
    assert 0.2 < initialised < 5


@pytest.mark.parametrize("activation", [nn.SiLU, nn.GELU])
def test_a_layer_before_a_smooth_activation_keeps_the_second_moment(activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(512, 512), activation())
    init_weights(net)
    assert net(torch.randn(2000, 512)).square().mean().item() == pytest.approx(1, rel=0.1)


def test_ends_of_residual_branches_stay_zero_and_biases_are_zero() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.zeros_(net[2].weight)
    init_weights(net)
    assert not net[2].weight.any()
    assert not net[0].bias.any()
    resnet = SmallResNet()
    assert all(not block.body[4].weight.any() for block in resnet.blocks)


def test_weights_have_the_variance_of_their_activation() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(400, 400), nn.LayerNorm(400), nn.Dropout(0.1), nn.ReLU(), nn.Linear(400, 400))
    init_weights(net)
    assert net[0].weight.std().item() == pytest.approx(math.sqrt(2 / 400), rel=0.02)
    assert net[4].weight.std().item() == pytest.approx(math.sqrt(1 / 400), rel=0.02)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(400), nn.GroupNorm(4, 400), nn.RMSNorm(400), nn.Identity(), nn.AlphaDropout(0.1)]
)
def test_a_layer_between_does_not_hide_the_activation(norm: nn.Module) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(400, 400), norm, nn.ReLU())
    init_weights(net)
    assert net[0].weight.std().item() == pytest.approx(math.sqrt(2 / 400), rel=0.02)


@pytest.mark.parametrize("slope", [0.01, 0.5])
def test_leaky_layers_keep_the_second_moment_whatever_their_slope(slope: float) -> None:
    torch.manual_seed(0)
    deep = nn.Sequential(*(layer for _ in range(20) for layer in (nn.Linear(256, 256), nn.LeakyReLU(slope))))
    init_weights(deep)
    with torch.no_grad():
        assert 0.2 < deep(torch.randn(512, 256)).square().mean().item() < 5


def test_a_convolution_in_groups_keeps_the_variance_of_each_group() -> None:
    torch.manual_seed(0)
    depthwise = nn.Conv2d(256, 256, 3, groups=256)
    init_weights(depthwise)
    with torch.no_grad():
        assert depthwise(torch.randn(8, 256, 8, 8)).var().item() == pytest.approx(1, rel=0.15)


def test_frozen_layers_keep_their_weights() -> None:
    net = nn.Sequential(nn.Linear(3, 3).requires_grad_(requires_grad=False), nn.ReLU(), nn.Linear(3, 3))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    init_weights(net)
    same = {name for name, tensor in net.state_dict().items() if torch.equal(tensor, before[name])}
    assert same == {"0.weight", "0.bias"}


def test_each_stage_gets_unit_variance_on_a_real_batch() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.SiLU(), nn.Dropout(0.5), nn.Linear(8, 3)).train()
    x = 1e4 * torch.randn(200, 5) + 3e4
    stages = [Stage("hidden", net[1], (net[0],)), Stage("output", net[3], (net[3],), centre=True)]
    found = lsuv(net, lambda: net(x), stages)
    assert [line.name for line in found] == ["hidden", "output"]
    assert found[0].std_before > 1e3
    assert net.training
    assert net[1]._forward_hooks == {}
    net.eval()
    assert net[:2](x).std().item() == pytest.approx(1, abs=0.03)
    assert net(x).std().item() == pytest.approx(1, abs=0.03)
    assert net(x).mean().item() == pytest.approx(0, abs=0.03)


def test_a_stage_that_is_not_used_or_not_finite_is_refused() -> None:
    net, spare = nn.Linear(2, 2), nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="The part spare is not used"):
        lsuv(net, lambda: net(torch.ones(3, 2)), [Stage("spare", spare, (spare,))])
    with pytest.raises(ConfigError, match=r"The output of net is nan .* its inputs are not finite"):
        lsuv(net, lambda: net(torch.full((3, 2), torch.nan)), [Stage("net", net, (net,))])
    assert net._forward_hooks == {}


@pytest.mark.parametrize("head", [nn.Linear(4, 3), MemberLinear(5, 4, 3)])
def test_the_first_prediction_is_the_share_of_each_class(head: nn.Linear | MemberLinear) -> None:
    nn.init.zeros_(head.weight)
    start_at_target(head, class_share=[0.7, 0.2, 0.1])
    x = torch.randn(2, 4) if isinstance(head, nn.Linear) else torch.randn(2, 5, 4)
    torch.testing.assert_close(head(x).softmax(-1)[0].reshape(-1, 3)[0], torch.tensor([0.7, 0.2, 0.1]))


def test_the_target_of_a_head_must_be_told_in_one_way() -> None:
    with pytest.raises(ConfigError, match="Give either mean or class_share"):
        start_at_target(nn.Linear(2, 1))
    with pytest.raises(ConfigError, match="There are 2 classes and 3 outputs"):
        start_at_target(nn.Linear(2, 3), class_share=[0.5, 0.5])


@pytest.mark.parametrize("photos", [False, True])
@pytest.mark.parametrize("config", [ModelConfig(), ModelConfig(tabular="mlp", numbers="plain")], ids=["default", "mlp"])
def test_unscaled_numbers_and_targets_around_ten_million_do_not_explode(config: ModelConfig, *, photos: bool) -> None:
    """The classic failure of a raw table with photos: gradients that become NaN within the first steps."""
    torch.manual_seed(0)
    xb = Inputs(
        numeric=torch.randn(64, 3) * torch.tensor([1.0, 1e3, 1e6]) + torch.tensor([0.0, 1e4, 2e6]),
        categorical=torch.randint(0, 5, (64, 1)),
        rows=torch.arange(64),
        images=torch.randint(0, 256, (64, 1, 3, 32, 32), dtype=torch.uint8),
        image_mask=torch.rand(64, 1) < 0.8,
    )
    bins = tuple(tuple(edges.tolist()) for edges in compute_bins(xb.numeric)) if config.numbers == "piecewise" else ()
    shape = ModelShape(numeric=3, cardinalities=(5,), photos=photos, outputs=1, bins=bins)
    model = make_model(shape, replace(config, backbone="small_resnet")).train()
    target = 1e7 + 3e6 * torch.randn(64)
    optimizer = AdamW(model.parameters(), lr=2e-3)
    for _ in range(30):
        output = model(xb)
        loss = mse(output, target if output.ndim == 1 else target[:, None].expand_as(output))
        assert loss.isfinite()
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_frozen_blocks_stay_still_and_the_last_ones_learn() -> None:
    torch.manual_seed(0)
    shape = ModelShape(numeric=1, cardinalities=(), photos=True, outputs=1, image_size=32)
    config = ModelConfig(train_blocks=1, numbers="plain")
    model = make_model(shape, config).train()
    assert model.image is not None
    assert not model.image.frozen
    before = {name: tensor.clone() for name, tensor in model.image.backbone.state_dict().items()}
    xb = Inputs(
        numeric=torch.randn(4, 1),
        categorical=torch.zeros(4, 0, dtype=torch.int64),
        rows=torch.arange(4),
        images=torch.randint(0, 256, (4, 1, 3, 32, 32), dtype=torch.uint8),
        image_mask=torch.ones(4, 1, dtype=torch.bool),
    )
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        model(xb).square().sum().backward()
        optimizer.step()
    changed = {name for name, t in model.image.backbone.state_dict().items() if not torch.equal(t, before[name])}
    assert changed
    assert all(name.startswith(("bn2", "conv_head")) for name in changed), changed
    with pytest.raises(ConfigError, match=r"The backbone has \d+ blocks, so 0 to \d+ can be trained, not 99"):
        make_model(shape, replace(config, train_blocks=99))
