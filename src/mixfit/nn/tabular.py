"""Encoders of a table, numbers and category levels of a row -> one vector: an MLP, a residual network, TabM."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.nn.numbers import NumericEmbedding, RawNumbers


@runtime_checkable
class Mix(Protocol):
    """The partners of a mixed batch (``MixUp``, ``CutMix``); ``mixfit.data.batch.Mix`` has these fields."""

    share: Tensor
    """Weight of the row itself, in [0, 1], ``(batch,)``."""
    own_numeric: Tensor
    numeric: Tensor
    categorical: Tensor
    image_mask: Tensor | None
    text: Tensor | None
    text_mask: Tensor | None


def blend(
    own: Float[Tensor, "batch ..."], other: Float[Tensor, "batch ..."], share: Float[Tensor, " batch"]
) -> Float[Tensor, "batch ..."]:
    """``share * own + (1 - share) * other`` row by row; exactly ``own`` for 1 and ``other`` for 0."""
    share = share.reshape(-1, *[1] * (own.ndim - 1)).to(own.dtype)
    return share * own + (1 - share) * other


class Dropout(nn.Dropout):
    """``nn.Dropout``, three times as fast on a CPU: one random 64-bit number gives four masks.

    For the many values of an ensemble. The probability is rounded to a multiple of 2^-16."""

    def forward(self, input: Float[Tensor, "..."]) -> Float[Tensor, "..."]:  # noqa: A002 - the name in PyTorch
        """Set random entries to 0 and scale the others; in evaluation mode nothing."""
        if not self.training or not self.p or self.p == 1 or input.device.type != "cpu":
            return super().forward(input)
        words = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        noise = words.view(torch.int16)[: input.numel()].view(input.shape)
        kept = noise >= round(self.p * 2**16) - 2**15
        return input * kept.to(input.dtype).mul_(1 / (1 - self.p))


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
    """The mean of an ensemble's numbers, or the logarithm of the mean of its class probabilities."""
    if y.shape[2] == 1:
        return y.mean(1)
    return y.log_softmax(2).logsumexp(1) - math.log(y.shape[1])


def embedding_size(levels: int) -> int:
    """Embedding width of a category: grows slowly with the number of levels, at most 32."""
    return min(32, round(1.6 * levels**0.56))


def _embedding(levels: int, size: int) -> nn.Embedding:
    """An embedding with small random vectors; on the meta device, where they have no values, none are drawn."""
    weight = torch.empty(levels, size)
    if not weight.is_meta:  # PyTorch would import its compiler, which takes two seconds
        weight.normal_().normal_(std=0.1)  # twice, as by nn.Embedding and after it, so that seeds keep their networks
    return nn.Embedding(levels, size, _weight=weight)


class ColumnEmbedding(nn.Module):
    """Embeddings of numbers and of each category.

    Level 0 stands for missing, unseen and too rare categories, see ``TablePreprocessor``; it is learned like any other.

    In a mixed batch, the embeddings of a row are blended with its partner's, for numbers and categories. The mean of
    two numbers could lie in a bin of neither row, while the blend of two embeddings is the intended mixture for any
    embedding. For raw numbers both are the same.

    Args:
        numeric: number of number columns.
        cardinalities: levels of each category column, the level 0 included.
        numbers: embedding of the numbers; None for none.
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
            raise ConfigError(f"the embedding of numbers has {len(numbers.widths)} columns, but there are {numeric}.")
        # Without numbers an embedding may still have weights, shared by columns, which would never be trained.
        self.numbers: NumericEmbedding = RawNumbers(numeric) if numbers is None or not numeric else numbers
        sizes = [embedding_size(levels) for levels in cardinalities] if category_widths is None else category_widths
        if len(sizes) != len(cardinalities):
            raise ConfigError(f"there are {len(sizes)} category_widths for {len(cardinalities)} category columns.")
        self.categories = nn.ModuleList(
            _embedding(levels, size) for levels, size in zip(cardinalities, sizes, strict=True)
        )
        # A table with only photos has no columns; use a constant instead.
        self.widths = (*self.numbers.widths, *sizes) or (1,)
        """Embedding width of each column."""
        self.out_dim = sum(self.widths)

    def forward(
        self,
        numeric: Float[Tensor, "batch numeric"],
        categorical: Int64[Tensor, "batch categorical"],
        mix: Mix | None = None,
    ) -> Float[Tensor, "batch d"]:
        """Embed each row; in a mixed batch blend it with its partner."""
        if mix is None:
            return self._embed(numeric, categorical)
        own = self._embed(mix.own_numeric, categorical)
        return blend(own, self._embed(mix.numeric, mix.categorical), mix.share)

    def _embed(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        parts = [self.numbers(numeric)] if self.numbers.widths else []
        parts += [embedding(categorical[:, i]) for i, embedding in enumerate(self.categories)]
        return torch.cat(parts, dim=1) if parts else numeric.new_ones(numeric.shape[0], 1)


class TabularEncoder(nn.Module):
    """Category embeddings and numbers through an MLP, with a parallel linear path.

    The linear path (Cheng et al. 2016, "Wide & Deep Learning", arXiv:1606.07792) lets a small table be fitted as
    well as a linear model would.

    Args:
        numeric: number of number columns.
        cardinalities: levels of each category column, the level 0 (missing or unseen) included.
        hidden: width of each hidden layer.
        out_dim: width of the result.
        dropout: dropout probability, in [0, 1).
        numbers: embedding of the numbers; None for none.
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
        """Encode each row; in a mixed batch its embeddings are blended with the partner's."""
        x = self.columns(numeric, categorical, mix)
        return self.deep(x) + self.wide(x)


class TabularResNet(nn.Module):
    """Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data", arXiv:2106.11959.

    NOTE[DIFF]: LayerNorm instead of BatchNorm, so that rows are independent in training too, a batch may have one row,
    and mixed rows do not distort the statistics.

    Args:
        numeric: number of number columns.
        cardinalities: levels of each category column, the level 0 (missing or unseen) included.
        width: of the residual stream.
        blocks: number of residual blocks.
        hidden: width inside a block.
        out_dim: width of the result.
        dropout: dropout probability inside a block, in [0, 1).
        residual_dropout: dropout probability of a block's output, in [0, 1).
        numbers: embedding of the numbers; None for none.
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
        """Encode each row; in a mixed batch its embeddings are blended with the partner's."""
        x = self.first(self.columns(numeric, categorical, mix))
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


_SPREAD = 0.3
"""Standard deviation of the first scales of embedded columns."""
TabMVariant = Literal["tabm", "mini"]
"""Scales of each member before and after every layer, or only before the first one."""


class ScaledLinear(nn.Module):
    """One linear layer that each member scales before and after: ``(batch, members, d_in) -> (batch, members, d_out)``.

    BatchEnsemble (Wen et al. 2020, arXiv:2002.06715). Each member has a bias of its own; they start equal."""

    def __init__(self, members: int, d_in: int, d_out: int) -> None:
        super().__init__()
        bound = d_in**-0.5
        self.weight = nn.Parameter(torch.empty(d_out, d_in).uniform_(-bound, bound))
        self.before = nn.Parameter(torch.ones(members, d_in))
        self.after = nn.Parameter(torch.ones(members, d_out))
        self.bias = nn.Parameter(torch.empty(d_out).uniform_(-bound, bound).repeat(members, 1))

    def no_weight_decay(self) -> set[str]:
        """The scales, for ``parameter_groups``: elementwise like those of a norm, not a matrix for ``Muon``.

        NOTE[DIFF]: in the authors' program they decay towards 0, together with the weights that they scale."""
        return {"before", "after"}

    def forward(self, x: Float[Tensor, "batch members d_in"]) -> Float[Tensor, "batch members d_out"]:
        """Apply the shared layer with each member's scales."""
        return torch.addcmul(self.bias, (x * self.before) @ self.weight.T, self.after)


class TabM(nn.Module):
    """An ensemble of MLPs that returns a vector for each member and row.

    Members differ by the first scale, which is random; all later scales start at 1. It is constant within the embedding
    of a column, so that a member scales whole columns.

    Args:
        numeric: number of number columns.
        cardinalities: levels of each category column, the level 0 (missing or unseen) included.
        members: of the ensemble, k in the paper.
        blocks: layers of each MLP, at least 1.
        width: of each layer, and of the result.
        dropout: dropout probability, in [0, 1).
        numbers: embedding of the numbers; None for none. ``PiecewiseLinearEmbedding`` is the best
            on average over the paper's data sets.
        variant: "tabm", or "mini" with only the first scale.
        wide: whether to add a linear path from the columns to the result, shared by all members.
        category_widths: of each category's embedding; None for ``embedding_size`` of its levels.
    Raises:
        ConfigError: ``members`` or ``blocks`` is below 1.
    """

    def __init__(
        self,
        numeric: int,
        cardinalities: Sequence[int],
        *,
        members: int = 32,
        blocks: int = 2,
        width: int = 128,
        dropout: float = 0.1,
        numbers: NumericEmbedding | None = None,
        variant: TabMVariant = "tabm",
        wide: bool = False,
        category_widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if members < 1 or blocks < 1:
            raise ConfigError(f"members and blocks must be at least 1, got {members} and {blocks}.")
        self.members, self.out_dim = members, width
        self.columns = ColumnEmbedding(numeric, cardinalities, numbers=numbers, category_widths=category_widths)
        d_in = self.columns.out_dim
        # Random signs for columns without embeddings.
        signs = isinstance(self.columns.numbers, RawNumbers)
        scales = _draw_scales(members, self.columns.widths, signs=signs)
        shared = variant == "mini"
        self.scale = nn.Parameter(scales) if shared else None
        layers = [
            nn.Linear(a, width) if shared else ScaledLinear(members, a, width) for a in [d_in, *[width] * (blocks - 1)]
        ]
        if isinstance(layers[0], ScaledLinear):
            layers[0].before.data.copy_(scales)
        self.blocks = nn.ModuleList(nn.Sequential(layer, nn.ReLU(), Dropout(dropout)) for layer in layers)
        self.wide = nn.Linear(d_in, width) if wide else None

    def no_weight_decay(self) -> set[str]:
        """The scale, for ``parameter_groups``; the others are those of ``ScaledLinear``."""
        return {"scale"}

    @property
    def last_layers(self) -> tuple[nn.Module, ...]:
        """The layer before the last ReLU, and the linear path."""
        block = self.blocks[-1]
        assert isinstance(block, nn.Sequential)
        last = block[0]
        return (last,) if self.wide is None else (last, self.wide)

    def forward(
        self,
        numeric: Float[Tensor, "batch numeric"],
        categorical: Int64[Tensor, "batch categorical"],
        mix: Mix | None = None,
    ) -> Float[Tensor, "batch members d"]:
        """Encode each row; in a mixed batch its embeddings are blended with the partner's."""
        columns = self.columns(numeric, categorical, mix)
        x = columns[:, None].expand(-1, self.members, -1)
        if self.scale is not None:
            x = x * self.scale
        for block in self.blocks:
            x = block(x)
        return x if self.wide is None else x + self.wide(columns)[:, None]


def _draw_scales(members: int, widths: Sequence[int], *, signs: bool) -> Float[Tensor, "members d"]:
    """One random number per member and column, repeated over its embedding: -1 or 1, or near 1 and for a quarter of the
    members near -1.

    NOTE[DIFF]: the authors draw standard normal numbers for embedded columns. A few members learn a column slowly that
    all of them scale by little, and half of them with the other sign (docs/LOG.md)."""
    drawn = torch.randn(members, len(widths))
    if signs:
        drawn = drawn.sign()
    elif not drawn.is_meta:  # there are no values, and PyTorch would import its compiler
        flipped = torch.rand(members, len(widths)).argsort(0) < members // 4
        drawn = torch.where(flipped, -1.0, 1.0) * (1 + _SPREAD * drawn)
    return drawn.repeat_interleave(torch.tensor(widths), dim=1, output_size=sum(widths))
