"""The MLP over a table: numbers and category levels of a row -> one vector."""

import itertools
from collections.abc import Sequence

from jaxtyping import Float, Int64
from torch import Tensor, nn

from mixfit.nn.columns import ColumnEmbedding
from mixfit.nn.layers import Mix, MLPBlock
from mixfit.nn.numeric_embeddings import NumericEmbedding


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
        numbers: embedding of the numbers; None to take them as they are.
    """

    def __init__(
        self,
        numeric: int,
        cardinalities: Sequence[int],
        *,
        hidden: Sequence[int],
        out_dim: int,
        dropout: float,
        numbers: NumericEmbedding | None = None,
    ) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.columns = ColumnEmbedding(numeric, cardinalities, numbers=numbers)
        widths = [self.columns.out_dim, *hidden]
        blocks = [MLPBlock(a, b, dropout=dropout) for a, b in itertools.pairwise(widths)]
        self.deep = nn.Sequential(*blocks, nn.Linear(widths[-1], out_dim))
        self.wide = nn.Linear(self.columns.out_dim, out_dim)

    @property
    def last_layers(self) -> tuple[nn.Module, ...]:
        """The linear layers whose sum is the result."""
        last = self.deep[-1]
        return last, self.wide

    def forward(
        self,
        numeric: Float[Tensor, "batch numeric"],
        categorical: Int64[Tensor, "batch categorical"],
        mix: Mix | None = None,
    ) -> Float[Tensor, "batch d"]:
        """Encode each row by itself; in a mixed batch its embedded columns are blended with the partner's."""
        x = self.columns(numeric, categorical, mix)
        return self.deep(x) + self.wide(x)
