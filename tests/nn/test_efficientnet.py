"""The default image network against that of timm, and what it imports."""

import subprocess
import sys
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from mixfit.nn.backbones import LITE0
from mixfit.nn.efficientnet import EfficientNetLite0, SameConv2d, lite0_weights


def of_timm() -> Any:
    found = timm.create_model(LITE0, num_classes=0)
    found.load_state_dict(lite0_weights())
    return found


def photos(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(224, 224), (97, 97), (64, 81), (33, 32)])
def test_features_and_stages_are_those_of_timm(size: tuple[int, int]) -> None:
    own, reference, x = EfficientNetLite0().eval(), of_timm().eval(), photos(2, 3, *size)
    with torch.inference_mode():
        same(own(x), reference(x))
        for count in (0, 1, 3, 5):
            last, maps = own.forward_intermediates(x, indices=count)
            wanted, every = reference.forward_intermediates(x)
            same(last, wanted)
            same(maps, every[len(every) - count :])
    assert [one["num_chs"] for one in own.feature_info] == [one["num_chs"] for one in reference.feature_info]
    assert own.num_features == reference.num_features
    for name in ("mean", "std"):
        assert own.default_cfg[name] == reference.default_cfg[name]


def test_gradients_and_statistics_are_those_of_timm() -> None:
    own, reference, x = EfficientNetLite0().train(), of_timm().train(), photos(4, 3, 64, 64)
    for module in (own, reference):
        module(x).square().sum().backward()
    same({name: one.grad for name, one in own.named_parameters()}, {n: p.grad for n, p in reference.named_parameters()})
    same(dict(own.state_dict()), dict(reference.state_dict()))


def test_first_weights_have_the_variance_of_those_of_timm() -> None:
    own, reference = EfficientNetLite0(pretrained=False), timm.create_model(LITE0, num_classes=0)
    for (name, one), other in zip(own.named_parameters(), reference.parameters(), strict=True):
        if one.ndim == 4:
            assert float((one.std() / other.std()).detach()) == pytest.approx(1, abs=5 / one.numel() ** 0.5), name
        else:
            same(one, other)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 5, 8, 9])
def test_a_convolution_has_a_place_for_each_stride(kernel: int, stride: int, size: int) -> None:
    """As in TensorFlow, so a photo of a single pixel has one, too."""
    found = SameConv2d(2, 3, kernel, stride=stride)(torch.ones(1, 2, size, size + 1))
    assert found.shape == (1, 3, -(-size // stride), -(-(size + 1) // stride))


def test_predicting_with_the_default_network_imports_neither_timm_nor_torchvision() -> None:
    """They import the compiler of PyTorch, all of which takes longer than a prediction."""
    code = (
        "import sys, torch; from mixfit.config import ModelConfig; from mixfit.nn.build import ModelShape, make_model\n"
        "from mixfit.nn.folding import without_norms; from mixfit.predictor import Predictor\n"
        "shape = ModelShape(numeric=1, cardinalities=(4,), photos=True, outputs=1, bins=((0.0, 1.0, 2.0),))\n"
        "with torch.device('meta'): make_model(shape, ModelConfig())\n"
        "model = make_model(shape, ModelConfig()).eval()\n"
        "without_norms(model.image, 64).encode(torch.zeros(1, 3, 64, 64))\n"
        "print(*{name for name in ('timm', 'torchvision', 'torch._dynamo') if name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_activations_are_modules_for_hooks() -> None:
    own = EfficientNetLite0()
    assert sum(isinstance(one, nn.ReLU6) for one in own.modules()) == 33
