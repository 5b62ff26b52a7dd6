"""The records of a training as plain values, and the findings of the doctor."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mixfit.training.loss import Loss
from mixfit.training.lr_find import RateSearch


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One problem of a training."""

    name: str
    """The kind of problem, such as "dead image branch"; one of ``rules.NAMES``."""
    sentence: str
    """The problem with its main numbers."""
    evidence: Mapping[str, int | float]
    """All numbers that the finding is based on."""
    fix: str
    """The first thing to try, in one line."""

    def __str__(self) -> str:
        return f"{self.name}: {self.sentence} {self.fix}"


def constant_outputs(targets: Tensor, output: Tensor) -> list[Tensor]:
    """The best constants for the training targets as outputs of a model, one row each; empty if unknown.

    Args:
        targets: of the training rows, numbers or class indices ``(rows,)``.
        output: of a model, ``(batch,)`` or ``(batch, classes)``."""
    if not len(targets) or targets.ndim != 1:
        return []
    if output.ndim == 1 and targets.is_floating_point():
        found = [targets.mean()[None], targets.median()[None]]  # for squared and for absolute errors
        return found if targets.min() < 0 else [*found, targets.mean().clamp(min=1e-6).log()[None]]  # for counts
    if output.ndim == 2 and not targets.is_floating_point() and int(targets.max()) < output.shape[1]:
        counts = torch.bincount(targets, minlength=output.shape[1]).double() + 1  # avoids zero probabilities
        return [(counts / counts.sum()).log()[None].to(output.dtype)]
    return []


def constant_losses(constants: list[Tensor], loss: Loss, output: Tensor, yb: Tensor) -> list[float]:
    """The loss of each constant, summed over the rows of a batch."""
    return [
        float(loss(constant.to(output.device).expand_as(output).contiguous(), yb)) * len(yb) for constant in constants
    ]


SHOWN = 60
"""Largest length of a column's name in a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoColumn:
    """Permutation importance of the photos of one column on validation rows."""

    effect: float
    """Root mean square change of the outputs when photos are permuted."""
    gain: float
    """Mean increase of the loss when photos are permuted; at most 0 if the photos are uninformative."""
    error: float
    """Standard error of ``gain`` over the rows."""
    rows: int
    """Number of rows with photos."""
    differ: bool
    """Whether the photos differ between rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encodings:
    """Variation of the fusion's inputs over validation rows with photos."""

    table: float
    """Root mean square, over the entries of the vector, of the standard deviation over rows."""
    photos: float
    photos_size: float
    """Root mean square of the photos' vectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """Records of one epoch; None if not available."""

    train_loss: float | None = None
    valid_loss: float | None = None
    constant_loss: float | None = None
    """Validation loss of the best constant of the training rows."""
    table_effect: float | None = None
    """Root mean square change of the outputs when table cells are permuted."""
    columns: tuple[PhotoColumn, ...] = ()
    encodings: Encodings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGradient:
    """The gradient of the weights of one layer, or of its biases.

    Both are needed: if activations grow forwards as gradients grow backwards, as between ReLUs, the gradients of the
    weights stay equal; those of the biases are the backpropagated gradients, summed over rows."""

    layer: str
    branch: str
    bias: bool
    size: float
    """Root mean square of its entries, mean over steps; 0 without a gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartMotion:
    """Parameter updates of one branch of the model."""

    branch: str
    gradient: float
    """Mean gradient norm; 0 without gradients."""
    ratio: float | None
    """Update-to-weight ratio, mean over steps; None if not available."""
    growth: float | None
    """Ratio of the final to the initial norm of the weights."""
    broken: int
    """Number of steps with a gradient that is not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitShares:
    """Saturation of the units of a fusion layer in the second half of the training; shares in [0, 1]."""

    layer: str
    saturated: float | None
    """Share of values at an end of the range of a sigmoid, tanh or gate; None without such an end."""
    dead_units: float
    """Share of units near zero for whole batches."""
    near_zero: float
    activation: bool
    """Whether the layer is an activation, whose zeros are meaningful."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """All values that the rules use."""

    epochs: tuple[Epoch, ...] = ()
    steps: int = 0
    peak_rates: tuple[float, float] = (0.0, 0.0)
    """The highest learning rate of the group whose rate is lowest, and of the one whose rate is highest."""
    search: RateSearch | None = None
    layers: tuple[LayerGradient, ...] = ()
    """In the order of registration."""
    parts: tuple[PartMotion, ...] = ()
    """Branches with trainable parameters."""
    fusion: tuple[UnitShares, ...] = ()
    met: tuple[float, float] | None = None
    """Mean norms of the gradients with respect to the fusion's inputs: table, photos."""
    frozen_changes: Mapping[str, float] = field(default_factory=dict)
    """Largest relative change of frozen tensors, by name; only those that changed."""
    photo_columns: tuple[str, ...] = ()
    """Names of the image columns, if known."""

    @property
    def best(self) -> Epoch | None:
        """The epoch with the lowest validation loss."""
        judged = [epoch for epoch in self.epochs if epoch.valid_loss is not None]
        return min(judged, key=lambda epoch: epoch.valid_loss or 0.0) if judged else None

    @property
    def learned(self) -> bool:
        """Whether any epoch was better than a constant on the validation rows."""
        best = self.best
        return best is not None and _below(best.valid_loss, best.constant_loss)

    def column_name(self, place: int) -> str:
        """Name of an image column for a sentence."""
        if place >= len(self.photo_columns):
            return f"column {place + 1}"
        name = self.photo_columns[place]
        return f"column {name if len(name) <= SHOWN else name[: SHOWN - 1] + '…'!r}"


def _below(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and a < b
