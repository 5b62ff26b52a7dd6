"""A batch: some rows as tensors, batch axis first; one row is a batch of one.

In: rows of a dataset. Out: ``(xb, yb)``. Imports nothing from ``nn`` or ``training``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import default_collate

from mixfit.errors import ConfigError, DataError


@dataclass(slots=True, kw_only=True)
class Mix:
    """What each row of a mixed batch got from its partner and cannot be blended before the model, see ``MixUp``.

    It names no neighbours, so that rows of a mixed batch can still be taken out of it."""

    share: Float32[Tensor, " batch"]
    """Weight of the row itself, in [0, 1]; the partner has the rest."""
    own_numeric: Float32[Tensor, "batch numeric"]
    """Numbers of the row itself; ``Inputs.numeric`` is the blend, for networks that take raw numbers."""
    numeric: Float32[Tensor, "batch numeric"]
    """Numbers of the partner; a network that embeds numbers blends the embeddings."""
    categorical: Int64[Tensor, "batch categorical"]
    """Levels of the partner; the model blends the embeddings."""
    image_mask: Bool[Tensor, "batch photos"] | None = None
    """Places of the partner's photos, as ``Inputs.image_mask`` has those of the row's own: the same places where the
    photos are blended, others where they stand whole behind the row's own."""
    text: Float32[Tensor, "batch texts d_text"] | None = None
    """Texts of the partner, as ``Inputs.text``; the model blends the encodings."""
    text_mask: Bool[Tensor, "batch texts"] | None = None
    """Which text columns of the partner have a text."""

    def map(self, function: Callable[[Tensor], Tensor]) -> "Mix":
        """``function`` of every tensor."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: None if value is None else function(value) for name, value in values.items()}
        return Mix(**changed)


@dataclass(slots=True, kw_only=True)
class Inputs:
    """What the model sees of some rows: ``xb``."""

    numeric: Float32[Tensor, "batch numeric"]
    """Scaled numbers, no NaN."""
    categorical: Int64[Tensor, "batch categorical"]
    """Level of each category; 0 = missing or unseen."""
    rows: Int64[Tensor, " batch"]
    """Position of each row in its table, for messages and per-row randomness."""
    images: UInt8[Tensor, "batch photos 3 height width"] | Float32[Tensor, "batch photos 3 height width"] | None = None
    """uint8 in 0..255, or float32: in [0, 1] unless ``normalized``; arbitrary where ``image_mask`` is False."""
    features: Float32[Tensor, "batch photos d"] | None = None
    """Output of the frozen image encoder, in place of ``images``."""
    image_mask: Bool[Tensor, "batch photos"] | None = None
    """False = there is no photo in this place. None = the data have no photos at all."""
    image_column: Int64[Tensor, "batch photos"] | None = None
    """Which image column of the table each photo is from, counted from 0; 0 where ``image_mask`` is False.

    None = all from the first."""
    text: Float32[Tensor, "batch texts d_text"] | None = None
    """Numbers that describe the text in each text column; arbitrary where ``text_mask`` is False."""
    text_mask: Bool[Tensor, "batch texts"] | None = None
    """False = the cell has no text. None exactly where ``text`` is None: the data have no text columns."""
    weight: Float32[Tensor, " batch"] | None = None
    """Weight of each row in the loss."""
    mix: Mix | None = None
    """Set by ``MixUp`` and ``CutMix``."""
    normalized: bool = False
    """Set by ``Normalize``: the pixels have the backbone's scale, and the model does not scale them again."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> "Inputs":
        """The chosen rows (a slice, a list or an index tensor), still a batch."""
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Inputs":
        """All tensors on ``device``; the same object if they are there already."""
        if self.rows.device == torch.device(device):
            return self
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Inputs":
        """All tensors in page-locked memory, so that copies to a GPU need not wait."""
        return self._map(Tensor.pin_memory)

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are tensors and are there."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Inputs":
        changed: dict[str, Any] = {name: function(tensor) for name, tensor in self.tensors().items()}
        return replace(self, **changed, mix=None if self.mix is None else self.mix.map(function))


Batch = tuple[Inputs, Tensor]
"""``(xb, yb)``; ``yb`` is float32 ``(batch,)``, or int64 class index ``(batch,)``."""


def concatenate(parts: Sequence[Inputs]) -> Inputs:
    """Rows of all parts in order; rows with fewer photos are padded with masked ones, and so are the texts of parts
    without any.

    Raises:
        ConfigError: a part is mixed already, or only some are normalised."""
    if any(part.mix is not None or part.normalized != parts[0].normalized for part in parts):
        raise ConfigError("Join batches before they are mixed or normalised, not after.")
    photos = max((part.image_mask.shape[1] for part in parts if part.image_mask is not None), default=0)

    def join(name: str) -> Tensor | None:
        tensors = [getattr(part, name) for part in parts]
        known = next((tensor for tensor in tensors if tensor is not None), None)
        if known is None:
            return None
        # A part without the field has no photos there: padding alone.
        nothing = known[:0, :0]
        return torch.cat(
            [
                _pad_photos(nothing.new_zeros(len(part), 0, *nothing.shape[2:]) if tensor is None else tensor, photos)
                for part, tensor in zip(parts, tensors, strict=True)
            ]
        )

    def join_text(name: str) -> Tensor | None:
        tensors = [getattr(part, name) for part in parts]
        known = next((tensor for tensor in tensors if tensor is not None), None)
        if known is None:
            return None
        pairs = zip(parts, tensors, strict=True)
        return torch.cat([known.new_zeros(len(part), *known.shape[1:]) if t is None else t for part, t in pairs])

    weights = [part.weight for part in parts if part.weight is not None]
    if 0 < len(weights) < len(parts):
        raise DataError(f"{len(parts) - len(weights)} of {len(parts)} parts have no weight, the others have.")
    return Inputs(
        numeric=torch.cat([part.numeric for part in parts]),
        categorical=torch.cat([part.categorical for part in parts]),
        rows=torch.cat([part.rows for part in parts]),
        images=join("images"),
        features=join("features"),
        image_mask=join("image_mask"),
        image_column=join("image_column"),
        text=join_text("text"),
        text_mask=join_text("text_mask"),
        weight=torch.cat(weights) if weights else None,
        normalized=parts[0].normalized,
    )


def _pad_photos(tensor: Tensor, photos: int) -> Tensor:
    """Append zeros (no photo) along axis 1 up to ``photos``."""
    return F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, photos - tensor.shape[1]))


def collate(items: Batch | Sequence[Any]) -> tuple[Any, Tensor]:
    """Items of a dataset -> one batch.

    A dataset with ``__getitems__`` may hand over a whole batch, which passes through. Items of our datasets
    are concatenated and padded; items of any other PyTorch dataset go through PyTorch's own collate."""
    if isinstance(items, tuple):
        xb, yb = items
        return xb, yb
    pairs = list(items)
    if isinstance(pairs[0], tuple) and isinstance(pairs[0][0], Inputs):
        return concatenate([x for x, _ in pairs]), torch.cat([y for _, y in pairs])
    xb, yb = default_collate(pairs)
    return xb, yb
