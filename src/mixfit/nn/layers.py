"""Small layers that the encoders share, and how two rows are blended."""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
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


class MLPBlock(nn.Sequential):
    """Linear, LayerNorm, SiLU, dropout: ``(batch, d_in) -> (batch, d_out)``."""

    def __init__(self, d_in: int, d_out: int, *, dropout: float) -> None:
        super().__init__(nn.Linear(d_in, d_out), nn.LayerNorm(d_out), nn.SiLU(), nn.Dropout(dropout))


class MemberLinear(nn.Module):
    """A linear layer for each member of an ensemble: ``(batch, members, d_in) -> (batch, members, d_out)``."""

    def __init__(self, members: int, d_in: int, d_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, d_in, d_out))
        self.bias = nn.Parameter(torch.zeros(members, d_out))
        nn.init.uniform_(self.weight, -(d_in**-0.5), d_in**-0.5)

    def forward(self, x: Float[Tensor, "batch members d_in"]) -> Float[Tensor, "batch members d_out"]:
        """Each member's own map."""
        return torch.einsum("bmi,mio->bmo", x, self.weight) + self.bias


def ensemble_mean(y: Float[Tensor, "batch members outputs"]) -> Float[Tensor, "batch outputs"]:
    """What an ensemble says: the mean of its numbers, or the logarithm of the mean of its class probabilities."""
    if y.shape[2] == 1:
        return y.mean(1)
    return y.log_softmax(2).logsumexp(1) - math.log(y.shape[1])
