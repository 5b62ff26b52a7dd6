"""What a model makes of validation rows that get each other's photos or each other's cells (Breiman 2001, as
permutation importance), and how far the vectors vary that meet in its fusion.

In: a batch in evaluation mode. Out: numbers of each row, to be pooled over the batches of an epoch."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from mixfit.data.batch import Inputs
from mixfit.training.doctor.observed import Encodings, PhotoColumn
from mixfit.training.loss import Loss

DEALS = 3
"""How often photos are dealt out anew; the mean over them is less noisy than one."""


@dataclass(slots=True)
class Pooled:
    """What was seen of the validation rows of one epoch."""

    rows: int = 0
    table: list[Tensor] = field(default_factory=list)
    """Squared move of each row's outputs, ``(batch,)``."""
    effects: dict[int, list[Tensor]] = field(default_factory=dict)
    """The same of each image column."""
    gains: dict[int, list[Tensor]] = field(default_factory=dict)
    """Rise of each row's loss."""
    differ: dict[int, bool] = field(default_factory=dict)
    first: dict[int, Tensor] = field(default_factory=dict)
    """The input of one photo of each column, that others are compared with."""
    encodings: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Of table ``(rows, d)`` and photos ``(rows, d)``, of rows with photos."""

    def columns(self) -> tuple[PhotoColumn, ...]:
        """Of each image column."""
        found = []
        for column in sorted(self.gains):
            gain = torch.cat(self.gains[column])
            error = float(gain.std() / len(gain) ** 0.5) if len(gain) > 1 else 0.0
            effect = float(torch.cat(self.effects[column]).mean().sqrt())
            differ = self.differ.get(column, True)
            found.append(
                PhotoColumn(effect=effect, gain=float(gain.mean()), error=error, rows=len(gain), differ=differ)
            )
        return tuple(found)

    def table_effect(self) -> float | None:
        """Of all cells together."""
        return float(torch.cat(self.table).mean().sqrt()) if self.table else None

    def spread(self) -> Encodings | None:
        """Of what met in the fusion."""
        if not self.encodings:
            return None
        table, photos = (torch.cat(list(parts)).double() for parts in zip(*self.encodings, strict=True))
        if len(table) < 2:
            return None
        size = float(photos.square().mean().sqrt())
        return Encodings(table=_spread(table), photos=_spread(photos), photos_size=size)


def look(model: nn.Module, loss: Loss, xb: Inputs, yb: Tensor, output: Tensor, pooled: Pooled, *, seed: int) -> None:
    """Deal photos and cells of a batch out anew, and note what comes of it; no global random number is drawn."""
    generator = torch.Generator().manual_seed(seed)
    before, count = _losses(loss, output, yb), len(yb)
    pooled.rows += count
    order = torch.randperm(count, generator=generator).to(yb.device)
    pooled.table.append(_moved(model(with_cells_of(xb, order)), output))
    if xb.image_mask is None:
        return
    for column in range(columns_of(xb)):
        there = photos_of(xb, column)
        rows = there.any(1).nonzero()[:, 0]
        if len(rows) < 2:
            continue
        _compare(xb, there, column, pooled)
        effects, gains = [], []
        for _ in range(DEALS):
            order = torch.arange(count, device=yb.device)
            # Each row gets another's: a turn of the shuffled rows by one leaves none in its place.
            shuffled = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
            order[shuffled] = shuffled.roll(1)
            dealt = model(with_photos_of(xb, order, column))
            effects.append(_moved(dealt, output)[rows])
            gains.append((_losses(loss, dealt, yb) - before)[rows])
        pooled.effects.setdefault(column, []).append(torch.stack(effects).mean(0))
        pooled.gains.setdefault(column, []).append(torch.stack(gains).mean(0))


def columns_of(xb: Inputs) -> int:
    """How many image columns the photos of a batch come from."""
    if xb.image_column is None or xb.image_mask is None or not xb.image_mask.any():
        return 1
    return int(xb.image_column[xb.image_mask].max()) + 1


def photos_of(xb: Inputs, column: int) -> Tensor:
    """Where there are photos of one column, bool ``(batch, photos)``."""
    assert xb.image_mask is not None
    return xb.image_mask if xb.image_column is None else xb.image_mask & (xb.image_column == column)


def with_cells_of(xb: Inputs, order: Tensor) -> Inputs:
    """The rows with the numbers and categories of others, and their own photos."""
    return replace(xb, numeric=xb.numeric[order], categorical=xb.categorical[order])


def with_photos_of(xb: Inputs, order: Tensor, column: int) -> Inputs:
    """The rows with the photos of others in one column; all else is their own.

    The others' photos stand behind the row's own, of which those of the column are masked: so rows may have different
    numbers of photos in different places."""
    theirs = photos_of(xb, column)[order]
    own = xb.image_mask & ~photos_of(xb, column) if xb.image_mask is not None else theirs

    def join(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else torch.cat([tensor, tensor[order]], dim=1)

    return replace(
        xb,
        images=join(xb.images),
        features=join(xb.features),
        image_mask=torch.cat([own, theirs], dim=1),
        image_column=join(xb.image_column),
    )


def _compare(xb: Inputs, there: Tensor, column: int, pooled: Pooled) -> None:
    """Whether the photos of a column differ from the first one."""
    pixels = xb.features if xb.images is None else xb.images
    if pixels is None:
        return
    photos = pixels[there]
    first = pooled.first.setdefault(column, photos[0].clone())
    pooled.differ[column] = pooled.differ.get(column, False) or bool((photos != first).any())


def _moved(dealt: Tensor, output: Tensor) -> Tensor:
    """Squared distance of each row's outputs; of logits, of what makes a difference between classes."""
    difference = (dealt - output).float()
    if difference.ndim > 1:
        difference = difference - difference.mean(-1, keepdim=True)
    return difference.reshape(len(output), -1).square().mean(1)


def _losses(loss: Loss, output: Tensor, yb: Tensor) -> Tensor:
    """Of each row, ``(batch,)``; a loss gives the mean of rows only, so each is asked for alone."""
    return torch.stack([loss(output[row : row + 1], yb[row : row + 1]) for row in range(len(yb))]).float()


def _spread(vectors: Tensor) -> float:
    return float(vectors.var(0).mean().sqrt())
