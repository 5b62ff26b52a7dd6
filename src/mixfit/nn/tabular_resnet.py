"""A residual network over a table: numbers and category levels of a row -> one vector."""

from collections.abc import Sequence

from jaxtyping import Float, Int64
from torch import Tensor, nn

from mixfit.nn.columns import ColumnEmbedding
from mixfit.nn.layers import Mix
from mixfit.nn.numeric_embeddings import NumericEmbedding


class TabularResNet(nn.Module):
    """Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data", arXiv:2106.11959.

    NOTE[DIFF]: LayerNorm in place of BatchNorm, so that no row sees its neighbours in training either, a batch of one
    can be trained on, and mixed rows do not blur the statistics.

    Args:
        numeric: how many number columns there are.
        cardinalities: levels of each category column, the level 0 (missing or unseen) included.
        width: of the residual stream.
        blocks: how many residual blocks there are.
        hidden: width inside a block.
        out_dim: width of the result.
        dropout: share of units inside a block left out in training, in [0, 1).
        residual_dropout: share of a block's outputs left out in training, in [0, 1).
        numbers: embedding of the numbers; None to take them as they are.
    """

    def __init__(
        self,
        numeric: int,
        cardinalities: Sequence[int],
        *,
        width: int = 128,
        blocks: int = 2,
        hidden: int = 256,
        out_dim: int,
        dropout: float,
        residual_dropout: float = 0.0,
        numbers: NumericEmbedding | None = None,
    ) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.columns = ColumnEmbedding(numeric, cardinalities, numbers=numbers)
        self.first = nn.Linear(self.columns.out_dim, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, hidden),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(hidden, width),
                nn.Dropout(residual_dropout),
            )
            for _ in range(blocks)
        )
        self.last = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, out_dim))

    @property
    def last_layers(self) -> tuple[nn.Module, ...]:
        """The linear layer that gives the result."""
        return (self.last[-1],)

    def forward(
        self,
        numeric: Float[Tensor, "batch numeric"],
        categorical: Int64[Tensor, "batch categorical"],
        mix: Mix | None = None,
    ) -> Float[Tensor, "batch d"]:
        """Encode each row by itself; in a mixed batch its embedded columns are blended with the partner's."""
        x = self.first(self.columns(numeric, categorical, mix))
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)
