"""Pooling: the photos of a row -> one vector, whatever their number and order."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class AttentionPool(nn.Module):
    """A weighted mean over the photos of a row that are there; a learned vector for a row without any.

    The weights are a softmax over the photos (Ilse et al. 2018, arXiv:1802.04712). They start equal, so that training
    starts from the plain mean. With ``query_dim`` the table asks: the weights then depend on the table's encoding, too,
    which is cross-attention with one query and ``heads`` heads (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        d: width of a photo's vector, divisible by ``heads``.
        query_dim: width of the query, 0 for none.
        heads: parts of the vector that are weighted apart.
    """

    def __init__(self, d: int, *, query_dim: int = 0, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads if query_dim and d % heads == 0 else 1
        self.no_photo = nn.Parameter(torch.zeros(d))
        self.key = nn.Linear(d, d if query_dim else self.heads, bias=False)
        self.query = nn.Linear(query_dim, d) if query_dim else None
        if self.query is None:
            nn.init.zeros_(self.key.weight)
        else:
            nn.init.zeros_(self.query.weight)
            nn.init.zeros_(self.query.bias)

    def forward(
        self,
        x: Float[Tensor, "batch photos d"],
        mask: Bool[Tensor, "batch photos"],
        query: Float[Tensor, "batch q"] | None = None,
    ) -> Float[Tensor, "batch d"]:
        """What stands in masked places, NaN included, has no influence."""
        x = x.masked_fill(~mask[:, :, None], 0)
        scores = self._scores(x, query).masked_fill(~mask[:, :, None], -torch.inf)
        any_photo = mask.any(1)
        # A row without photos would be a softmax over nothing, NaN; its scores are set to 0 and its result is replaced.
        weights = scores.masked_fill(~any_photo[:, None, None], 0).softmax(1)
        parts = x.reshape(*x.shape[:2], self.heads, x.shape[2] // self.heads)
        pooled = (weights[..., None] * parts).sum(1).flatten(1)
        return torch.where(any_photo[:, None], pooled, self.no_photo.to(pooled.dtype))

    def _scores(self, x: Tensor, query: Tensor | None) -> Tensor:
        """``(batch, photos, heads)``."""
        keys = self.key(x)
        if self.query is None or query is None:
            return keys[:, :, : self.heads] if self.query is None else keys.new_zeros(*x.shape[:2], self.heads)
        d = self.query.out_features // self.heads
        asked = self.query(query).reshape(x.shape[0], self.heads, d)
        return torch.einsum("bphd,bhd->bph", keys.reshape(*x.shape[:2], self.heads, d), asked) / d**0.5
