"""Batch normalisation folded into convolutions: the same features, and nothing where that would be wrong."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mixfit.nn.backbones import SmallResNet, make_backbone
from mixfit.nn.folding import folded


def norms(network: nn.Module) -> int:
    return sum(isinstance(one, nn.BatchNorm2d) for one in network.modules())


def lived(network: nn.Module) -> nn.Module:
    """With statistics and scales as after a training."""
    generator = torch.Generator().manual_seed(1)
    for one in network.modules():
        if isinstance(one, nn.BatchNorm2d) and one.track_running_stats:
            for values, low, high in (
                (one.running_mean, -0.5, 0.5),
                (one.running_var, 0.2, 2.0),
                (one.weight, -1.0, 1.5),
                (one.bias, -0.5, 0.5),
            ):
                if values is not None:
                    with torch.no_grad():
                        values.uniform_(low, high, generator=generator)
    return network.eval()


def pair(first: nn.Module, second: nn.Module) -> nn.Module:
    return nn.Sequential(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class UsedTwice(nn.Module):
    """The output of the convolution is also added to the result."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return (self.norm(y) + y).mean((2, 3))


class Shared(nn.Module):
    """One convolution before two norms, and one norm after both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.first(self.one(self.first(x)))).mean((2, 3))


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (SmallResNet, 0),
        (lambda: make_backbone("tf_efficientnet_lite0", pretrained=False).module, 0),
        (lambda: pair(nn.Conv2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d(6, affine=False)), 0),
        (lambda: pair(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), 1),
        (UsedTwice, 1),
        (Shared, 2),
        (lambda: pair(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), 1),
    ],
    ids=["small resnet", "lite0", "grouped", "norm first", "used twice", "shared", "no statistics"],
)
def test_the_features_are_the_same(make: Callable[[], nn.Module], left: int) -> None:
    network = lived(make())
    before = {name: values.clone() for name, values in network.state_dict().items()}
    found = folded(network, 64)
    assert norms(found) == left
    assert (found is network) == (left == norms(network))
    x = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(found(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())
    assert folded(found, 64) is found


def test_a_network_in_training_is_left_as_it_is() -> None:
    network = SmallResNet().train()
    assert folded(network, 32) is network
