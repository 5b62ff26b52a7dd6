"""All columns of a table side by side: embedded numbers, then embedded category levels.

In: scaled numbers and level indices. Out: one vector a row, which every table encoder starts from."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.nn.layers import Mix, blend
from mixfit.nn.numeric_embeddings import NumericEmbedding, RawNumbers


def embedding_size(levels: int) -> int:
    """Width of a category's embedding: grows slowly with the number of levels, at most 32."""
    return min(32, round(1.6 * levels**0.56))


class ColumnEmbedding(nn.Module):
    """Numbers by a numeric embedding, categories by one embedding each.

    Level 0 stands for missing, unseen and too rare categories (``data/preprocess.py``), and is learned like any other.

    In a mixed batch the embedded columns of a row are blended with its partner's, numbers as well as categories. The
    mean of two numbers is a third number, which lies in a bin that neither row is in; the blend of two encodings says
    exactly what mixing means, this share of one and the rest of the other, whatever the embedding. For raw numbers both
    are the same.

    Args:
        numeric: how many number columns there are.
        cardinalities: levels of each category column, the level 0 included.
        numbers: embedding of the numbers; None to take them as they are.
        category_widths: of each category's embedding; None for ``embedding_size`` of its levels.
    Raises:
        ConfigError: ``numbers`` is for another number of columns, or ``category_widths`` has another length.
    """

    def __init__(
        self,
        numeric: int,
        cardinalities: Sequence[int],
        *,
        numbers: NumericEmbedding | None = None,
        category_widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if numbers is not None and len(numbers.widths) != numeric:
            raise ConfigError(
                f"the embedding of the numbers is for {len(numbers.widths)} columns, but there are {numeric}."
            )
        # Without numbers an embedding may still have weights, shared by columns: they could never learn.
        self.numbers: NumericEmbedding = RawNumbers(numeric) if numbers is None or not numeric else numbers
        sizes = [embedding_size(levels) for levels in cardinalities] if category_widths is None else category_widths
        if len(sizes) != len(cardinalities):
            raise ConfigError(f"there are {len(sizes)} category_widths for {len(cardinalities)} category columns.")
        embeddings = [nn.Embedding(levels, size) for levels, size in zip(cardinalities, sizes, strict=True)]
        for embedding in embeddings:
            nn.init.normal_(embedding.weight, std=0.1)
        self.categories = nn.ModuleList(embeddings)
        # A table of photos alone has no column; a constant stands in for it.
        self.widths = (*self.numbers.widths, *sizes) or (1,)
        """Places of each column in the result."""
        self.out_dim = sum(self.widths)

    def forward(
        self,
        numeric: Float[Tensor, "batch numeric"],
        categorical: Int64[Tensor, "batch categorical"],
        mix: Mix | None = None,
    ) -> Float[Tensor, "batch d"]:
        """Embed each row by itself; in a mixed batch blend it with its partner."""
        if mix is None:
            return self._embed(numeric, categorical)
        own = self._embed(mix.own_numeric, categorical)
        return blend(own, self._embed(mix.numeric, mix.categorical), mix.share)

    def _embed(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        parts = [self.numbers(numeric)] if self.numbers.widths else []
        parts += [embedding(categorical[:, i]) for i, embedding in enumerate(self.categories)]
        return torch.cat(parts, dim=1) if parts else numeric.new_ones(numeric.shape[0], 1)
