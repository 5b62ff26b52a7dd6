"""TabM: an ensemble of MLPs over a table in one network, whose members share almost all weights.

Gorishniy et al. 2024, "TabM: Advancing Tabular Deep Learning with Parameter-Efficient Ensembling", arXiv:2410.24210.
Members are trained at the same time, each on its own loss; their mean is the prediction."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mixfit.errors import ConfigError
from mixfit.nn.columns import ColumnEmbedding
from mixfit.nn.layers import Mix
from mixfit.nn.numeric_embeddings import NumericEmbedding, RawNumbers

TabMVariant = Literal["tabm", "mini"]
"""Scales of each member before and after every layer, or before the first one alone."""


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
        """The scales, for ``parameter_groups``: numbers one by one like those of a norm, and no matrix for ``Muon``.

        NOTE[DIFF]: in the authors' program they decay towards 0, together with the weight that they scale."""
        return {"before", "after"}

    def forward(self, x: Float[Tensor, "batch members d_in"]) -> Float[Tensor, "batch members d_out"]:
        """Each member's view of the shared layer."""
        return torch.addcmul(self.bias, (x * self.before) @ self.weight.T, self.after)


class TabM(nn.Module):
    """An ensemble of MLPs that gives a vector for each member and row.

    What makes the members differ is the first scale, drawn at random; all later scales start at 1. Within a column of
    several places it is the same number, so that a member sees whole columns louder or softer.

    Args:
        numeric: how many number columns there are.
        cardinalities: levels of each category column, the level 0 (missing or unseen) included.
        members: of the ensemble, k in the paper.
        blocks: layers of each MLP, at least 1.
        width: of each layer, and of the result.
        dropout: share of units left out in training, in [0, 1).
        numbers: embedding of the numbers; None to take them as they are. ``PiecewiseLinearEmbedding`` is the best
            on average over the paper's data sets.
        variant: "tabm", or "mini" with the first scale alone.
        wide: whether a linear path from the columns to the result, the same for all members, runs beside the MLPs.
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
        # Signs where a column is one place, as without embeddings; else they would flip half of all embeddings.
        signs = isinstance(self.columns.numbers, RawNumbers)
        scales = _draw_scales(members, self.columns.widths, signs=signs)
        shared = variant == "mini"
        self.scale = nn.Parameter(scales) if shared else None
        layers = [
            nn.Linear(a, width) if shared else ScaledLinear(members, a, width) for a in [d_in, *[width] * (blocks - 1)]
        ]
        if isinstance(layers[0], ScaledLinear):
            layers[0].before.data.copy_(scales)
        self.blocks = nn.ModuleList(nn.Sequential(layer, nn.ReLU(), nn.Dropout(dropout)) for layer in layers)
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
        """Encode each row by itself; in a mixed batch its embedded columns are blended with the partner's."""
        columns = self.columns(numeric, categorical, mix)
        x = columns[:, None].expand(-1, self.members, -1)
        if self.scale is not None:
            x = x * self.scale
        for block in self.blocks:
            x = block(x)
        return x if self.wide is None else x + self.wide(columns)[:, None]


def _draw_scales(members: int, widths: Sequence[int], *, signs: bool) -> Float[Tensor, "members d"]:
    """One random number for each member and column, repeated over the column's places: -1 or 1, or standard normal."""
    drawn = torch.randn(members, len(widths))
    drawn = drawn.sign() if signs else drawn
    return drawn.repeat_interleave(torch.tensor(widths), dim=1, output_size=sum(widths))
