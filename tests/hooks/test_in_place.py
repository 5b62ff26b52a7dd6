"""What a hook keeps is what a layer gave, whatever changes it in place afterwards: over all such layers of PyTorch."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixfit.hooks.activation_stats import ActivationStats
from mixfit.hooks.extract import extract
from mixfit.hooks.gradient_stats import FusionGradients
from mixfit.hooks.heat import grad_cam
from mixfit.hooks.sequential import HookedSequential
from mixfit.nn.init import Stage, lsuv

ARGUMENTS: dict[str, tuple[Any, ...]] = {"Threshold": (0.1, 7.0)}
IN_PLACE: dict[str, Callable[[], nn.Module]] = {
    name: lambda kind=kind, name=name: kind(*ARGUMENTS.get(name, ()), inplace=True)
    for name, kind in sorted(vars(nn).items())
    if isinstance(kind, type)
    and issubclass(kind, nn.Module)
    and "inplace" in inspect.signature(kind.__init__).parameters
}
"""Every module of PyTorch that can work in place."""


class Calls(nn.Module):
    """A layer that changes its input in place by a function."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        self.function(x)
        return x


def _masked(x: Tensor) -> None:
    x[x < 0] = 5.0


IN_PLACE |= {
    name: lambda function=function: Calls(function)
    for name, function in {
        "relu_": F.relu_,
        "tanh_": torch.tanh_,
        "add_": lambda x: x.add_(1.0),
        "an index": _masked,
        "a view": lambda x: x.view(-1).mul_(3.0),
        "out=": lambda x: torch.exp(x, out=x),
    }.items()
}
pytestmark = pytest.mark.filterwarnings("ignore:dropout:UserWarning")  # of rows as Dropout2d does not expect them
every_layer = pytest.mark.parametrize("name", IN_PLACE)


@dataclass
class Xb:
    x: Tensor
    rows: Tensor


class Net(nn.Module):
    """A layer, one that changes what it gave, and one that gives on what it gets."""

    def __init__(self, follows: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.same, self.follows, self.head = nn.Linear(4, 6), nn.Identity(), follows, nn.Linear(6, 1)

    def forward(self, xb: Xb) -> Tensor:
        x = self.same(self.first(xb.x))
        return self.head(self.follows(x))


def batches() -> Iterator[tuple[Xb, Tensor]]:
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
    for rows in torch.arange(12).split(5):
        yield Xb(x[rows], rows), torch.zeros(len(rows))


def test_the_layers_of_pytorch_are_found() -> None:
    assert {"ReLU", "Dropout", "Hardswish", "RReLU", "Threshold"} <= set(IN_PLACE)
    assert len(IN_PLACE) > 20


@every_layer
@pytest.mark.parametrize("layer", ["first", "same"])
def test_features_are_those_before_the_next_layer(tmp_path: Path, name: str, layer: str) -> None:
    net = Net(IN_PLACE[name]())
    expected = torch.cat([net.first(xb.x) for xb, _ in batches()]).detach().numpy()
    found = extract(net, layer, batches(), tmp_path / "f.npy")
    np.testing.assert_array_equal(found.values, expected)


@every_layer
def test_statistics_are_those_before_the_next_layer(name: str) -> None:
    net = Net(IN_PLACE[name]()).eval()
    x = torch.cat([xb.x for xb, _ in batches()])
    with torch.no_grad(), ActivationStats(net, "first", training_only=False) as stats:
        net(Xb(x, torch.arange(12)))
    (total,) = stats.total().values()
    before = net.first(x).detach()
    assert (total.minimum, total.maximum) == pytest.approx((float(before.min()), float(before.max())))
    model = HookedSequential(nn.Linear(4, 6), IN_PLACE[name]())
    model[0].load_state_dict(net.first.state_dict())
    with torch.no_grad():
        model(x)
    assert model.statistics[0].mean == pytest.approx(float(before.mean()), abs=1e-6)


@every_layer
def test_lsuv_scales_the_layer_that_it_was_given(name: str) -> None:
    net = Net(IN_PLACE[name]())
    x = torch.cat([xb.x for xb, _ in batches()])
    (scaled,) = lsuv(net, lambda: net(Xb(x, torch.arange(12))), [Stage("first", net.first, (net.first,), centre=True)])
    assert scaled.std_after == pytest.approx(1.0, abs=0.02)
    assert float(net.first(x).detach().std()) == pytest.approx(1.0, abs=0.02)


class Meets(nn.Module):
    def __init__(self, follows: nn.Module) -> None:
        super().__init__()
        self.follows = follows

    def forward(self, table: Tensor, photos: Tensor) -> Tensor:
        return (self.follows(table) * self.follows(photos)).sum()


@every_layer
def test_what_meets_in_the_fusion_is_kept_as_it_came(name: str) -> None:
    fusion = Meets(IN_PLACE[name]()).eval()
    seen = FusionGradients(fusion)
    seen.wanted = True
    generator = torch.Generator().manual_seed(2)
    leaves = [torch.randn(5, 4, generator=generator, requires_grad=True) for _ in range(2)]
    with seen.hook:
        try:
            fusion(*(leaf * 1.0 for leaf in leaves))
        except RuntimeError as error:  # what PyTorch itself cannot do with gradients: out= is one
            pytest.skip(str(error))
    ((table, photos, _),) = seen._pending
    torch.testing.assert_close(table, leaves[0].detach())
    torch.testing.assert_close(photos, leaves[1].detach())


class Photos(nn.Module):
    """A residual block whose shortcut is changed in place after the hooked layer has given it on."""

    def __init__(self, follows: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), layer, follows)

    def forward(self, xb: Any) -> Tensor:
        x = xb.images[xb.image_mask]
        return self.image(x).flatten(1).sum(1)


@dataclass
class PhotoBatch:
    images: Tensor | None
    image_mask: Tensor
    features: Tensor | None = None
    normalized: bool = False

    def __len__(self) -> int:
        return len(self.image_mask)

    def __getitem__(self, rows: list[int]) -> "PhotoBatch":
        assert self.images is not None
        return PhotoBatch(self.images[rows], self.image_mask[rows])


@pytest.mark.parametrize("name", ["ReLU", "Hardswish", "LeakyReLU", "add_", "tanh_", "a view"])
@pytest.mark.parametrize("layer", ["0", "1"])
def test_heat_is_that_of_a_net_that_changes_nothing_in_place(name: str, layer: str) -> None:
    plain = {
        "ReLU": nn.ReLU(),
        "Hardswish": nn.Hardswish(),
        "LeakyReLU": nn.LeakyReLU(),
        "add_": Calls(lambda x: None),
        "tanh_": nn.Tanh(),
        "a view": Calls(lambda x: None),
    }
    images = torch.rand(3, 1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    xb = PhotoBatch(images, torch.ones(3, 1, dtype=torch.bool))
    found = [
        grad_cam(Photos(follows, nn.Identity()), xb, f"image.{layer}", direction="both")
        for follows in (IN_PLACE[name](), plain[name])
    ]
    torch.testing.assert_close(*found)
