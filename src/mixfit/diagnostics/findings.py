"""What a watched training showed, as plain values, and what the doctor says of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mixfit.training.loss import Loss
from mixfit.training.lr_find import RateSearch


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault of a training."""

    name: str
    """Of the kind of fault, such as "dead image branch"; always one of ``rules.NAMES``."""
    sentence: str
    """What is wrong, with the numbers that matter."""
    evidence: Mapping[str, int | float]
    """All numbers that the judgement is from."""
    fix: str
    """What to try first, in one line."""

    def __str__(self) -> str:
        return f"{self.name}: {self.sentence} {self.fix}"


def constant_outputs(targets: Tensor, output: Tensor) -> list[Tensor]:
    """The best constants for the training targets in the form of a model's outputs, one row each; none where unknown.

    Args:
        targets: of the training rows, numbers or class indices ``(rows,)``.
        output: of a model, ``(batch,)`` or ``(batch, classes)``."""
    if not len(targets) or targets.ndim != 1:
        return []
    if output.ndim == 1 and targets.is_floating_point():
        return [targets.mean()[None], targets.median()[None]]  # one for squared, one for absolute errors
    if output.ndim == 2 and not targets.is_floating_point() and int(targets.max()) < output.shape[1]:
        counts = torch.bincount(targets, minlength=output.shape[1]).double() + 1  # no class is impossible
        return [(counts / counts.sum()).log()[None].to(output.dtype)]
    return []


def constant_losses(constants: list[Tensor], loss: Loss, output: Tensor, yb: Tensor) -> list[float]:
    """The sum over the rows of a batch of the loss of each constant."""
    return [
        float(loss(constant.to(output.device).expand_as(output).contiguous(), yb)) * len(yb) for constant in constants
    ]


SHOWN = 60
"""Letters of a column's name in a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoColumn:
    """What the photos of one column do for the predictions of validation rows, told by giving rows each other's."""

    effect: float
    """Root mean square of how far outputs move when rows get each other's photos."""
    gain: float
    """Mean over rows of how much the loss rises then; at most 0 where the photos say nothing of their own row."""
    error: float
    """Standard error of ``gain`` over the rows."""
    rows: int
    """With photos, which these are the means of."""
    differ: bool
    """Whether the inputs of the photos are not the same in all rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encodings:
    """How far the vectors that meet in the fusion vary from row to row, over validation rows that have photos."""

    table: float
    """Root mean square over the numbers of the vector of its standard deviation over the rows."""
    photos: float
    photos_size: float
    """Root mean square of the photos' vectors themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One epoch; None for what could not be told."""

    train_loss: float | None = None
    valid_loss: float | None = None
    constant_loss: float | None = None
    """Of the validation rows, when the same is predicted for all: the best constant of the training rows."""
    table_effect: float | None = None
    """Root mean square of how far outputs move when rows get each other's table cells."""
    columns: tuple[PhotoColumn, ...] = ()
    encodings: Encodings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGradient:
    """The gradient of the weights of one layer, or of its biases.

    Both are needed: where activations grow forwards as gradients grow backwards, as between ReLUs, the gradients of
    the weights stay alike; those of the biases are what comes back, summed over the rows."""

    layer: str
    branch: str
    bias: bool
    size: float
    """Root mean square of its numbers, mean over the steps; 0 where none came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartMotion:
    """How one branch of the model moved."""

    branch: str
    gradient: float
    """Mean norm; 0 where none came."""
    ratio: float | None
    """Update / weight, mean over the steps; None where it never had both."""
    growth: float | None
    """Norm of the weights at the end / at the beginning."""
    broken: int
    """Steps with a gradient that is not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitShares:
    """What the units of a layer of the fusion did in the second half of the training; shares in [0, 1]."""

    layer: str
    saturated: float | None
    """Values at an end of the range of a sigmoid, a tanh or a gate; None where there is no end."""
    dead_units: float
    """Units near zero for whole batches."""
    near_zero: float
    activation: bool
    """Whether the layer is an activation, whose zeros mean something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """All that is judged."""

    epochs: tuple[Epoch, ...] = ()
    steps: int = 0
    peak_rates: tuple[float, float] = (0.0, 0.0)
    """The highest learning rate of the group whose rate is lowest, and of the one whose rate is highest."""
    search: RateSearch | None = None
    layers: tuple[LayerGradient, ...] = ()
    """In the order of registration."""
    parts: tuple[PartMotion, ...] = ()
    """Those branches that have parameters which learn."""
    fusion: tuple[UnitShares, ...] = ()
    met: tuple[float, float] | None = None
    """Norms of the gradients that came out of the fusion, mean over the steps: for the table's vector, the photos'."""
    frozen_changes: Mapping[str, float] = field(default_factory=dict)
    """Largest relative change of tensors of frozen parts, by name; only those that changed."""
    photo_columns: tuple[str, ...] = ()
    """Names of the image columns, as far as they are known."""

    @property
    def best(self) -> Epoch | None:
        """The epoch with the lowest validation loss."""
        judged = [epoch for epoch in self.epochs if epoch.valid_loss is not None]
        return min(judged, key=lambda epoch: epoch.valid_loss or 0.0) if judged else None

    @property
    def learned(self) -> bool:
        """Whether any epoch was better on the validation rows than a constant."""
        best = self.best
        return best is not None and _below(best.valid_loss, best.constant_loss)

    def column_name(self, place: int) -> str:
        """Of an image column, for a sentence."""
        if place >= len(self.photo_columns):
            return f"column {place + 1}"
        name = self.photo_columns[place]
        return f"column {name if len(name) <= SHOWN else name[: SHOWN - 1] + '…'!r}"


def _below(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and a < b
