"""A fusion written outside mixfit: both encodings brought to one width and multiplied (a low-rank bilinear fusion)."""

import torch
from torch import Tensor, nn

import mixfit


class Product(nn.Module):
    """``(batch, [members,] d_table), (batch, d_image) -> (batch, [members,] out_dim)``."""

    def __init__(self, tabular_dim: int, image_dim: int, out_dim: int = 16) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.table, self.photos = nn.Linear(tabular_dim, out_dim), nn.Linear(image_dim, out_dim)

    def forward(self, tabular: Tensor, image: Tensor) -> Tensor:
        table, photos = self.table(tabular), self.photos(mixfit.nn.for_members(image, tabular))
        return table + photos + torch.tanh(table) * torch.tanh(photos)
