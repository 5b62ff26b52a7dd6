"""A small residual network for photos, written out: the image network that learns from scratch."""

import itertools

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


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
