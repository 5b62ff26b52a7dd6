"""The text encoder: the texts of a row, one in each text column, -> one vector."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.nn.tabular import MemberLinear, Mix, blend


class TextEncoder(nn.Module):
    """A linear map of each column's own, a residual block that all columns share, and the mean over the texts of a row.

    Each column has its own map because the numbers that describe its texts are its own: components of the words of a
    title are not those of a description. The biases of this map are a learned vector for each column, so that the
    shared block knows which column a text is from. Around the block there is a linear path, so that a few rows can be
    fitted as well as a linear model would. A row without any text gets a learned vector, ``no_text``.

    Args:
        columns: number of text columns.
        d: width of the vector that describes a text.
        out_dim: width of the result.
        dropout: dropout probability, in [0, 1).
    Raises:
        ConfigError: ``columns`` or ``d`` is below 1.
    """

    def __init__(self, columns: int, d: int, *, out_dim: int, dropout: float) -> None:
        super().__init__()
        if columns < 1 or d < 1:
            raise ConfigError(
                f"A text encoder needs at least 1 column and a width of at least 1, got {columns} and {d}."
            )
        self.columns, self.d, self.out_dim, self.dropout = columns, d, out_dim, dropout
        self.first = MemberLinear(columns, d, out_dim)
        self.block = nn.Sequential(nn.LayerNorm(out_dim), nn.SiLU(), nn.Dropout(dropout), nn.Linear(out_dim, out_dim))
        self.no_text = nn.Parameter(torch.zeros(out_dim))

    @property
    def last_layers(self) -> tuple[nn.Module, ...]:
        """The linear layers whose sum is the result."""
        return self.first, self.block[-1]

    def none(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Text and mask of rows without any text, as many as ``like`` has, of its type and on its device."""
        rows = like.shape[0]
        mask = torch.zeros(rows, self.columns, dtype=torch.bool, device=like.device)
        return like.new_zeros(rows, self.columns, self.d), mask

    def forward(
        self,
        text: Float[Tensor, "batch columns d"],
        mask: Bool[Tensor, "batch columns"],
        mix: Mix | None = None,
    ) -> Float[Tensor, "batch out"]:
        """Encode each row; in a mixed batch its encoding is blended with its partner's.

        The vectors of two texts are not blended, as one of the two rows may have none in a column.

        Args:
            text: scaled numbers that describe each text.
            mask: True where there is a text; masked values, NaN included, have no influence.
            mix: the partners of a mixed batch.
        """
        own = self._encode(text, mask)
        if mix is None or mix.text is None or mix.text_mask is None:
            return own
        return blend(own, self._encode(mix.text, mix.text_mask), mix.share)

    def _encode(self, text: Tensor, mask: Tensor) -> Tensor:
        x = self.first(text.masked_fill(~mask[:, :, None], 0))
        x = (x + self.block(x)).masked_fill(~mask[:, :, None], 0)
        count = mask.sum(1, keepdim=True)
        mean = x.sum(1) / count.clamp(min=1)
        return torch.where(count > 0, mean, self.no_text.to(mean.dtype))
