"""Small layers that the encoders share, and how two rows are blended."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


@runtime_checkable
class Mix(Protocol):
    """The partners of a mixed batch (``MixUp``, ``CutMix``); ``mixfit.data.batch.Mix`` has these fields."""

    share: Tensor
    """Weight of the row itself, in [0, 1], ``(batch,)``."""
    own_numeric: Tensor
    numeric: Tensor
    categorical: Tensor
    image_mask: Tensor | None


def blend(
    own: Float[Tensor, "batch ..."], other: Float[Tensor, "batch ..."], share: Float[Tensor, " batch"]
) -> Float[Tensor, "batch ..."]:
    """``share * own + (1 - share) * other`` row by row; exactly ``own`` for 1 and ``other`` for 0."""
    share = share.reshape(-1, *[1] * (own.ndim - 1)).to(own.dtype)
    return share * own + (1 - share) * other


class MaskedMean(nn.Module):
    """Mean over the photos of a row that are there; a learned vector for a row without any."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.no_photo = nn.Parameter(torch.zeros(d))

    def forward(
        self, x: Float[Tensor, "batch photos d"], mask: Bool[Tensor, "batch photos"]
    ) -> Float[Tensor, "batch d"]:
        """What stands in masked places, NaN included, has no influence."""
        total = x.masked_fill(~mask[:, :, None], 0).sum(1)
        count = mask.sum(1, keepdim=True)
        return torch.where(count > 0, total / count.clamp(min=1), self.no_photo)


class MLPBlock(nn.Sequential):
    """Linear, LayerNorm, SiLU, dropout: ``(batch, d_in) -> (batch, d_out)``."""

    def __init__(self, d_in: int, d_out: int, *, dropout: float) -> None:
        super().__init__(nn.Linear(d_in, d_out), nn.LayerNorm(d_out), nn.SiLU(), nn.Dropout(dropout))
