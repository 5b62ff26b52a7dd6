"""Image encoders: the photos of a row -> one vector.

A backbone turns one photo into features; ``ImageEncoder`` scales the pixels for its backbone, projects the
features and takes the mean over the photos that are there. Knows nothing of files."""

import itertools

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from mixfit.nn.layers import MaskedMean, Mix, blend


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2015, arXiv:1512.03385); halves the picture for stride 2."""

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
        # Each block starts as its shortcut alone, which keeps the first steps calm (arXiv:1706.02677).
        nn.init.zeros_(last_norm.weight)

    def forward(self, x: Float[Tensor, "n d_in h w"]) -> Float[Tensor, "n d_out h2 w2"]:
        """Add what the convolutions found to the shortcut."""
        return F.relu(self.body(x) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A residual network of about 0.7 million parameters that learns from scratch: photos -> ``(n, num_features)``."""

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

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Mean of the last feature map over all places."""
        return self.blocks(self.stem(x)).mean((2, 3))


class ImageEncoder(nn.Module):
    """One backbone for all photos of a row, then a projection and the mean over the photos that are there.

    Args:
        backbone: float photos ``(n, 3, h, w)`` -> ``(n, num_features)``.
        num_features: width of the backbone's result.
        mean, std: per channel, of pixels in [0, 1], as the backbone was trained with.
        out_dim: width of the result.
        dropout: of the projected features of each photo.
        frozen: the backbone does not learn, and its BatchNorm statistics stay still.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        num_features: int,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        out_dim: int,
        dropout: float,
        frozen: bool,
    ) -> None:
        super().__init__()
        # Channels-last is the faster layout for convolutions on CPUs and on GPUs with tensor cores.
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.num_features, self.out_dim, self.frozen = num_features, out_dim, frozen
        self.register_buffer("pixel_mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std)[:, None, None], persistent=False)
        self.project = nn.Sequential(
            nn.LayerNorm(num_features), nn.Dropout(dropout), nn.Linear(num_features, out_dim), nn.SiLU()
        )
        self.pool = MaskedMean(out_dim)
        if frozen:
            self.backbone.requires_grad_(requires_grad=False)
            self.backbone.eval()

    def train(self, mode: bool = True) -> "ImageEncoder":  # noqa: FBT001, FBT002 - PyTorch's signature
        """A frozen backbone always stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def encode(
        self, images: UInt8[Tensor, "n 3 h w"] | Float[Tensor, "n 3 h w"], *, normalized: bool = False
    ) -> Float[Tensor, "n {self.num_features}"]:
        """Features of single photos: uint8 in 0..255 or float in [0, 1]; ``normalized`` ones are taken as they are."""
        if images.dtype == torch.uint8:
            images = images.float() / 255
        pixels = images if normalized else (images - self.pixel_mean) / self.pixel_std
        if len(pixels) == 1 and self.training and not self.frozen:
            # BatchNorm cannot take the variance of one value, which is what a single small photo comes down to.
            return self._backbone_features(pixels.repeat(2, 1, 1, 1))[:1]
        return self._backbone_features(pixels)

    def _backbone_features(self, pixels: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self.backbone(pixels.contiguous(memory_format=torch.channels_last))

    def forward(
        self,
        images: UInt8[Tensor, "batch photos 3 h w"] | Float[Tensor, "batch photos 3 h w"] | None,
        features: Float[Tensor, "batch photos d"] | None,
        mask: Bool[Tensor, "batch photos"],
        mix: Mix | None = None,
        *,
        normalized: bool = False,
    ) -> Float[Tensor, "batch out"]:
        """Encode each row by itself, from pixels or from features of this encoder's frozen backbone.

        In a mixed batch the mean over the row's own places is blended with the mean over the partner's places: the same
        ones, whose photos are blended already, or others."""
        others = None if mix is None else mix.image_mask
        present = mask if others is None else mask | others
        if features is None:
            features = torch.zeros(*mask.shape, self.num_features, device=mask.device)
            if images is not None and present.any():
                features[present] = self.encode(images[present], normalized=normalized).to(features.dtype)
        x = self.project(features)
        pooled = self.pool(x, mask)
        return pooled if mix is None or others is None else blend(pooled, self.pool(x, others), mix.share)
