"""Fusion: the vectors of the encoders -> one vector."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixfit.nn.layers import MLPBlock


class ConcatFusion(nn.Module):
    """Both encodings side by side through one MLP block, with a linear path beside it."""

    def __init__(self, tabular_dim: int, image_dim: int, *, out_dim: int, dropout: float) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.deep = MLPBlock(tabular_dim + image_dim, out_dim, dropout=dropout)
        self.wide = nn.Linear(tabular_dim + image_dim, out_dim)

    def forward(
        self, tabular: Float[Tensor, "batch d_table"], image: Float[Tensor, "batch d_image"]
    ) -> Float[Tensor, "batch d"]:
        """Join row by row."""
        x = torch.cat([tabular, image], dim=1)
        return self.deep(x) + self.wide(x)
