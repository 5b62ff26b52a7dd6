"""Embeddings of numbers, with which a network of linear layers can fit nonlinear effects of single columns.

The edges of the bins of ``PiecewiseLinearEmbedding`` come from the training rows, see ``bins.compute_bins``."""

import math
from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixfit.errors import ConfigError


@runtime_checkable
class NumericEmbedding(Protocol):
    """The protocol of an embedding, an ``nn.Module``."""

    widths: tuple[int, ...]
    """Embedding width of each column."""

    def __call__(self, numeric: Tensor) -> Tensor: ...


class RawNumbers(nn.Module):
    """The unchanged numbers."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.widths = (1,) * columns

    def forward(self, numeric: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch d"]:
        """``numeric``."""
        return numeric


class LinearEmbedding(nn.Module):
    """Linear embedding ``weight * number + bias``, with a ReLU if ``activation``."""

    def __init__(self, columns: int, d: int, *, activation: bool) -> None:
        super().__init__()
        _check_width(d)
        self.widths, self.activation = (d,) * columns, activation
        self.weight = nn.Parameter(torch.empty(columns, d).uniform_(-(d**-0.5), d**-0.5))
        self.bias = nn.Parameter(torch.empty(columns, d).uniform_(-(d**-0.5), d**-0.5))

    def no_weight_decay(self) -> set[str]:
        """The embedding, for ``parameter_groups``; the authors exclude it from decay, too."""
        return {"weight"}

    def forward(self, numeric: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch d"]:
        """Embed each column."""
        x = torch.addcmul(self.bias, self.weight, numeric[:, :, None])
        return (x.relu() if self.activation else x).flatten(1)


class PeriodicEmbedding(nn.Module):
    """Cosines and sines of learned frequencies, then a linear layer: PL, with ReLU PLR; ``lite``: PLR-lite.

    Args:
        columns: how many numbers there are.
        d: width of each column's embedding.
        frequencies: of each column.
        scale: initial standard deviation of the frequencies. The most important setting: if it is too large,
            neighbouring values have unrelated embeddings.
        activation: whether a ReLU follows.
        lite: one linear layer for all columns instead of one for each (Gorishniy et al. 2023, arXiv:2307.14338).
    Raises:
        ConfigError: ``d``, ``frequencies`` or ``scale`` is not above 0.
    """

    def __init__(
        self,
        columns: int,
        d: int = 24,
        *,
        frequencies: int = 48,
        scale: float = 0.01,
        activation: bool = True,
        lite: bool = False,
    ) -> None:
        super().__init__()
        _check_width(d)
        if frequencies < 1 or not scale > 0:
            raise ConfigError(f"frequencies and scale must be above 0, got {frequencies} and {scale}.")
        self.widths, self.activation = (d,) * columns, activation
        self.frequency = nn.Parameter(torch.empty(columns, frequencies))
        # Truncated, as in the authors' later code.
        nn.init.trunc_normal_(self.frequency, std=scale, a=-3 * scale, b=3 * scale)
        self.linear = nn.Linear(2 * frequencies, d) if lite else ColumnLinear(columns, 2 * frequencies, d)

    def no_weight_decay(self) -> set[str]:
        """The frequencies, for ``parameter_groups``; the authors exclude them from decay, too."""
        return {"frequency"}

    def forward(self, numeric: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch d"]:
        """Embed each column."""
        angle = 2 * math.pi * self.frequency * numeric[:, :, None]
        x = self.linear(torch.cat([angle.cos(), angle.sin()], dim=2))
        return (x.relu() if self.activation else x).flatten(1)


class ColumnLinear(nn.Module):
    """A linear layer for each column: ``(batch, columns, d_in) -> (batch, columns, d_out)``."""

    def __init__(self, columns: int, d_in: int, d_out: int, *, bias: bool = True) -> None:
        super().__init__()
        bound = max(d_in, 1) ** -0.5
        self.weight = nn.Parameter(torch.empty(columns, d_in, d_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(columns, d_out).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Float[Tensor, "batch columns d_in"]) -> Float[Tensor, "batch columns d_out"]:
        """Apply each column's layer."""
        x = (x.transpose(0, 1) @ self.weight).transpose(0, 1)
        return x if self.bias is None else x + self.bias


class _Bins(nn.Module):
    """Piecewise-linear encoding, padded with zeros to the largest number of bins: ``(batch, columns, bins)``.

    For a number in bin b, entries before b are 1, those after it 0, and entry b is the relative position in the bin.
    Below the first edge the first entry is negative, above the last edge the last one exceeds 1, so numbers outside
    the training range stay distinct. The edges are buffers: they are saved, moved and exported with the network."""

    left: Tensor
    width: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(self, bins: Sequence[Tensor]) -> None:
        super().__init__()
        _check_bins(bins)
        self.counts = tuple(len(edges) - 1 for edges in bins)
        shape = (len(bins), max(self.counts, default=0))
        # The padding is clamped to 0 from both sides.
        self.register_buffer("left", torch.zeros(shape))
        self.register_buffer("width", torch.ones(shape))
        # Not saved: they contain infinities, and follow from the number of bins.
        self.register_buffer("lowest", torch.zeros(shape), persistent=False)
        self.register_buffer("highest", torch.zeros(shape), persistent=False)
        if not self.counts:
            return
        counts, place = np.array(self.counts)[:, None], np.arange(shape[1])
        inside, edges = place < counts, np.zeros((shape[0], shape[1] + 1))
        edges[np.arange(shape[1] + 1) <= counts] = np.concatenate([edge.detach().cpu().numpy() for edge in bins])
        # Copied, as a sketch of a network has no values (device "meta").
        self.left.copy_(torch.from_numpy(np.where(inside, edges[:, :-1], 0.0)))
        self.width.copy_(torch.from_numpy(np.where(inside, np.diff(edges), 1.0)))
        self.highest.copy_(torch.from_numpy(np.where(inside, np.where(place == counts - 1, np.inf, 1.0), 0.0)))
        self.lowest[:, 0] = -torch.inf

    def forward(self, numeric: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns bins"]:
        """Exactly 0 and 1 at the edges, as the difference is computed first."""
        # In place: new memory for each step takes longer than the arithmetic.
        return (numeric[:, :, None] - self.left).div_(self.width).clamp_(self.lowest, self.highest)


class PiecewiseLinearEncoding(nn.Module):
    """Piecewise-linear encoding of each number (section 3.2), without parameters.

    Args:
        bins: of ``compute_bins``.
    Raises:
        ConfigError: the edges of a column are fewer than 2, not finite or not increasing.
    """

    places: Tensor

    def __init__(self, bins: Sequence[Tensor]) -> None:
        super().__init__()
        self.encode = _Bins(bins)
        self.widths = self.encode.counts
        padded = max(self.widths, default=0)
        places = [column * padded + bin_ for column, count in enumerate(self.widths) for bin_ in range(count)]
        # An index instead of a mask, so that the size of the result is known in an export.
        self.register_buffer("places", torch.tensor(places, dtype=torch.int64))

    def forward(self, numeric: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch d"]:
        """Encode each column, without padding."""
        return self.encode(numeric).flatten(1)[:, self.places]


class PiecewiseLinearEmbedding(nn.Module):
    """A linear layer for each column after the piecewise-linear encoding.

    Args:
        bins: of ``compute_bins``.
        d: width of each column's embedding.
        activation: whether a ReLU follows the layer.
        version: "A" as in the paper; "B" (with TabM, arXiv:2410.24210) adds a linear embedding and starts the piecewise
            part at 0: the network starts linear in the numbers, which suits small tables.
    Raises:
        ConfigError: ``d`` is below 1, or the edges of a column are fewer than 2, not finite or not increasing.
    """

    def __init__(
        self, bins: Sequence[Tensor], d: int, *, activation: bool = False, version: Literal["A", "B"] = "B"
    ) -> None:
        super().__init__()
        _check_width(d)
        self.widths, self.activation = (d,) * len(bins), activation
        self.encode = _Bins(bins)
        self.straight = LinearEmbedding(len(bins), d, activation=False) if version == "B" else None
        self.linear = ColumnLinear(len(bins), max(self.encode.counts, default=0), d, bias=version == "A")
        if version == "B":
            nn.init.zeros_(self.linear.weight)

    def forward(self, numeric: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch d"]:
        """Embed each column."""
        x = self.linear(self.encode(numeric))
        x = (x.relu() if self.activation else x).flatten(1)
        return x if self.straight is None else x + self.straight(numeric)


def _check_width(d: int) -> None:
    if d < 1:
        raise ConfigError(f"the width d of an embedding must be at least 1, got {d}.")


def _check_bins(bins: Sequence[Tensor]) -> None:
    for column, edges in enumerate(bins):
        if edges.ndim != 1 or len(edges) < 2 or not edges.isfinite().all() or not (edges.diff() > 0).all():
            raise ConfigError(
                f"the bins of number column {column} need at least 2 edges, finite and increasing, got "
                f"{edges.tolist()}: take them from compute_bins."
            )
