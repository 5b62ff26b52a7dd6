"""Statistics of the stages of an image network beside its features."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from mixfit.nn.backbones import SMALL_RESNET, make_backbone
from mixfit.nn.image import ImageEncoder
from mixfit.nn.stages import PlaceStatistics, stage_widths

FAMILIES = (
    "tf_efficientnet_lite0",
    "resnet18",
    "mobilenetv3_small_050",
    "convnext_atto",
    "regnety_002",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
)
"""Convolutions, tokens, and channels at the end."""


def encoder_of(backbone: nn.Module, num_features: int, **settings: Any) -> ImageEncoder:
    ends: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "out_dim": 8, "dropout": 0.0, "frozen": True}
    return ImageEncoder(backbone, num_features, **(ends | settings)).eval()


def outputs_of(module: Any, pixels: Tensor, count: int) -> list[Tensor]:
    """Outputs of the last stages, by hooks on the layers that timm names, as (photos, channels, places)."""
    found: dict[str, Tensor] = {}
    stages = module.feature_info[-count:]
    for stage in stages:
        layer = module.get_submodule(stage["module"])
        layer.register_forward_hook(lambda _m, _i, output, name=stage["module"]: found.update({name: output}))
    with torch.inference_mode():
        module(pixels)
    outputs = []
    for stage in stages:
        output = found[stage["module"]]
        if output.ndim == 3:
            output = output[:, getattr(module, "num_prefix_tokens", 0) :].transpose(1, 2)
        elif output.shape[1] != stage["num_chs"]:
            output = output.permute(0, 3, 1, 2)
        outputs.append(output.flatten(2))
    return outputs


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_those_of_the_network_and_the_statistics_of_its_stages(name: str) -> None:
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False, num_classes=0).eval()
    pixels = torch.rand(2, 3, 224, 224)
    encoder = encoder_of(module, module.num_features if name != "mobilenetv3_small_050" else 1024, stages=3)
    assert encoder.stages == 3
    with torch.inference_mode():
        found = encoder.encode(pixels, normalized=True)
        last = module(pixels)
    assert found.shape == (2, encoder.num_features)
    torch.testing.assert_close(found[:, : last.shape[1]], last)
    expected = [part for one in outputs_of(module, pixels, 3) for part in (one.mean(2), one.std(2, correction=0))]
    torch.testing.assert_close(found[:, last.shape[1] :], torch.cat(expected, dim=1), atol=1e-3, rtol=1e-3)


def test_a_network_without_stages_has_its_features_alone() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoder = encoder_of(plain, 4, stages=3)
    assert encoder.stages == 0
    assert encoder.num_features == 4
    assert encoder.encode(torch.rand(2, 3, 8, 8)).shape == (2, 4)


def test_the_small_network_has_stages_like_those_of_timm() -> None:
    backbone = make_backbone(SMALL_RESNET)
    assert stage_widths(backbone.module, 2) == (64, 128)
    assert stage_widths(backbone.module, 9) == (32, 64, 128)
    encoder = encoder_of(backbone.module, backbone.num_features, stages=2)
    pixels = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(encoder.encode(pixels, normalized=True)[:, :128], backbone.module.eval()(pixels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_statistics_of_large_and_of_equal_values_are_finite_and_have_gradients(dtype: torch.dtype) -> None:
    large = torch.full((1, 1, 8, 8), 6e4, dtype=dtype)
    large[0, 0, :4] = -6e4
    equal = torch.ones(1, 1, 8, 8, dtype=dtype)
    maps = torch.cat([large, equal], dim=1).requires_grad_()
    found = PlaceStatistics()(maps)
    assert found.dtype == torch.float32
    mean, wide, deviation, none = found[0].tolist()
    assert abs(mean) < 1e-3
    assert wide == 1
    assert deviation == pytest.approx(6e4, rel=0.01)
    assert none < 1e-3
    found.sum().backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


def test_bfloat16_gives_nearly_the_same_features() -> None:
    torch.manual_seed(0)
    module = make_backbone(SMALL_RESNET).module
    pixels = torch.rand(4, 3, 32, 32)
    exact, coarse = (
        encoder_of(module, 128, stages=3, precision=precision).encode(pixels) for precision in ("float32", "bfloat16")
    )
    assert coarse.dtype == torch.float32
    torch.testing.assert_close(coarse, exact, atol=0.05, rtol=0.05)


def test_scores_of_photos_come_from_the_features_unless_they_are_given() -> None:
    torch.manual_seed(0)
    encoder = encoder_of(make_backbone(SMALL_RESNET).module, 128, stages=2, scores=3)
    d = encoder.num_features
    features, mask = torch.randn(4, 2, d), torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    features[~mask] = torch.nan
    plain = encoder(None, features, mask)
    projection, middle = torch.randn(d, 3), torch.randn(3)
    encoder.set_scores(projection, middle)
    means = torch.stack([features[0].mean(0), features[1, 0], features[2, 1]])
    expected = torch.cat([means @ projection - middle, torch.zeros(1, 3)])
    found = encoder(None, features, mask)
    torch.testing.assert_close(found, encoder(None, features, mask, scores=expected))
    assert encoder.from_scores is not None
    pooled = found - encoder.from_scores(expected)
    torch.testing.assert_close(pooled, plain, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found[:3], encoder(None, features, mask, scores=torch.zeros(4, 3))[:3])
