"""An image encoder written outside mixfit: two convolutions, and the mean over the places and photos of a row."""

from torch import Tensor, nn


class Edges(nn.Module):
    """Photos of a row ``(batch, photos, 3, height, width)`` -> ``(batch, out_dim)``; zeros for a row without any."""

    def __init__(self, out_dim: int) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.Conv2d(8, out_dim, 3, stride=2), nn.ReLU()
        )

    def forward(self, images, features, mask, mix=None, *, column=None, query=None, normalized=False) -> Tensor:  # type: ignore[no-untyped-def]
        if images is None:
            return query.new_zeros(len(mask), self.out_dim)
        pixels = images.float() / 255
        seen = self.layers(pixels.flatten(0, 1)).mean((2, 3)).reshape(*mask.shape, self.out_dim)
        return (seen * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
