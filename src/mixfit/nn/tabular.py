"""The tabular encoder: numbers and category levels of a row -> one vector."""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from mixfit.nn.layers import Mix, MLPBlock, blend


def embedding_size(levels: int) -> int:
    """Width of a category's embedding: grows slowly with the number of levels, at most 32."""
    return min(32, round(1.6 * levels**0.56))


class TabularEncoder(nn.Module):
    """Category embeddings and numbers through an MLP, with a linear path beside it.

    The linear path (Cheng et al. 2016, "Wide & Deep Learning", arXiv:1606.07792) lets a small table be fitted as
    well as a linear model would.

    Args:
        numeric: how many number columns there are.
        cardinalities: levels of each category column, the level 0 (missing or unseen) included.
        hidden: width of each hidden layer.
        out_dim: width of the result.
        dropout: share of units left out in training, in [0, 1).
    """

    def __init__(
        self, numeric: int, cardinalities: Sequence[int], *, hidden: Sequence[int], out_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.out_dim = out_dim
        embeddings = [nn.Embedding(levels, embedding_size(levels)) for levels in cardinalities]
        for embedding in embeddings:
            nn.init.normal_(embedding.weight, std=0.1)
        self.embeddings = nn.ModuleList(embeddings)
        # A table of photos alone has no column; a constant stands in for it.
        d_in = max(1, numeric + sum(embedding_size(levels) for levels in cardinalities))
        widths = [d_in, *hidden]
        blocks = [MLPBlock(a, b, dropout=dropout) for a, b in itertools.pairwise(widths)]
        self.deep = nn.Sequential(*blocks, nn.Linear(widths[-1], out_dim))
        self.wide = nn.Linear(d_in, out_dim)

    @property
    def last_layers(self) -> tuple[nn.Module, ...]:
        """The linear layers whose sum is the result."""
        last = self.deep[-1]
        return last, self.wide

    def forward(
        self,
        numeric: Float32[Tensor, "batch numeric"],
        categorical: Int64[Tensor, "batch categorical"],
        mix: Mix | None = None,
    ) -> Float32[Tensor, "batch d"]:
        """Encode each row by itself; in a mixed batch embeddings are blended with the partner's, as numbers are."""
        embedded = self._embed(categorical)
        if mix is not None:
            embedded = blend(embedded, self._embed(mix.categorical), mix.share)
        x = torch.cat([numeric, embedded], dim=1)
        if not x.shape[1]:
            x = x.new_ones(len(x), 1)
        return self.deep(x) + self.wide(x)

    def _embed(self, categorical: Int64[Tensor, "batch categorical"]) -> Float32[Tensor, "batch d"]:
        """Embeddings of all category columns side by side."""
        if not len(self.embeddings):
            return self.wide.weight.new_zeros(len(categorical), 0)
        return torch.cat([embedding(categorical[:, i]) for i, embedding in enumerate(self.embeddings)], dim=1)
