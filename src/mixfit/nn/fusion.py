"""Fusion: the encoding of the table and that of the photos -> one vector.

Each takes ``(batch, d_table)``, or ``(batch, members, d_table)`` from an ensemble, and ``(batch, d_image)``, which all
members share; it gives ``(batch, out_dim)`` or ``(batch, members, out_dim)``."""

from typing import Protocol, assert_never, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixfit.choices import Fusion as FusionName
from mixfit.nn.tabular import MLPBlock


@runtime_checkable
class Fusion(Protocol):
    """What a model needs of a fusion."""

    out_dim: int

    def __call__(self, tabular: Tensor, image: Tensor) -> Tensor: ...


class ConcatFusion(nn.Module):
    """Concatenation of both encodings through an MLP block, with a parallel linear path."""

    def __init__(self, tabular_dim: int, image_dim: int, *, out_dim: int, dropout: float) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.deep = MLPBlock(tabular_dim + image_dim, out_dim, dropout=dropout)
        self.wide = nn.Linear(tabular_dim + image_dim, out_dim)

    def forward(
        self, tabular: Float[Tensor, "batch *members d_table"], image: Float[Tensor, "batch *image_members d_image"]
    ) -> Float[Tensor, "batch *members d"]:
        """Join row by row."""
        x = torch.cat([tabular, for_members(image, tabular)], dim=-1)
        return self.deep(x) + self.wide(x)


class GatedFusion(nn.Module):
    """A gate in [0, 1] for each output: the weight of the photos.

    Arevalo et al. 2017, arXiv:1702.01992."""

    def __init__(self, tabular_dim: int, image_dim: int, *, out_dim: int, dropout: float) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.from_table = MLPBlock(tabular_dim, out_dim, dropout=dropout)
        self.from_photos = MLPBlock(image_dim, out_dim, dropout=dropout)
        self.gate = nn.Linear(tabular_dim + image_dim, out_dim)

    def forward(
        self, tabular: Float[Tensor, "batch *members d_table"], image: Float[Tensor, "batch d_image"]
    ) -> Float[Tensor, "batch *members d"]:
        """``gate * photos + (1 - gate) * table``."""
        image = for_members(image, tabular)
        gate = self.gate(torch.cat([tabular, image], dim=-1)).sigmoid()
        return gate * self.from_photos(image) + (1 - gate) * self.from_table(tabular)


class FiLMFusion(nn.Module):
    """The table scales and shifts the encoding of the photos.

    Perez et al. 2017 (FiLM), arXiv:1709.07871; for medical images with a table DAFT, arXiv:2107.05990. The scale
    starts at 1 and the shift at 0, so that the table's influence is learned."""

    def __init__(self, tabular_dim: int, image_dim: int, *, out_dim: int, dropout: float) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.scale_and_shift = nn.Linear(tabular_dim, 2 * image_dim)
        nn.init.zeros_(self.scale_and_shift.weight)
        nn.init.zeros_(self.scale_and_shift.bias)
        self.join = ConcatFusion(tabular_dim, image_dim, out_dim=out_dim, dropout=dropout)

    def forward(
        self, tabular: Float[Tensor, "batch *members d_table"], image: Float[Tensor, "batch d_image"]
    ) -> Float[Tensor, "batch *members d"]:
        """Concatenate the modulated encoding of the photos with that of the table."""
        scale, shift = self.scale_and_shift(tabular).chunk(2, dim=-1)
        return self.join(tabular, (1 + scale) * for_members(image, tabular) + shift)


class LateFusion(nn.Module):
    """Late fusion: with a linear head, the average of one head per modality."""

    def __init__(self, tabular_dim: int, image_dim: int, *, out_dim: int) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.from_table = nn.Linear(tabular_dim, out_dim)
        self.from_photos = nn.Linear(image_dim, out_dim)

    def forward(
        self, tabular: Float[Tensor, "batch *members d_table"], image: Float[Tensor, "batch d_image"]
    ) -> Float[Tensor, "batch *members d"]:
        """The mean of two linear maps."""
        return (self.from_table(tabular) + self.from_photos(for_members(image, tabular))) / 2


def for_members(image: Tensor, tabular: Tensor) -> Tensor:
    """Repeat the photos' encoding for every member of the table's, unless it has members already."""
    return image if image.ndim == tabular.ndim else image[:, None].expand(-1, tabular.shape[1], -1)


def make_fusion(name: FusionName, tabular_dim: int, image_dim: int, *, out_dim: int, dropout: float) -> Fusion:
    """Make a fusion by name. "attention" differs in the pooling of the photos, not in the fusion of the vectors."""
    match name:
        case "concat" | "attention":
            return ConcatFusion(tabular_dim, image_dim, out_dim=out_dim, dropout=dropout)
        case "gated":
            return GatedFusion(tabular_dim, image_dim, out_dim=out_dim, dropout=dropout)
        case "film":
            return FiLMFusion(tabular_dim, image_dim, out_dim=out_dim, dropout=dropout)
        case "late":
            return LateFusion(tabular_dim, image_dim, out_dim=out_dim)
        case _:
            assert_never(name)
