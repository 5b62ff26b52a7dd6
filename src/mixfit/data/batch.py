"""A batch: rows as tensors, batch axis first; a single row is a batch of one.

In: items of a dataset. Out: ``(xb, yb)``. Imports nothing from ``nn`` or ``training``."""

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
    """The parts of each row's partner that only the model can blend, see ``MixUp``.

    It holds values, not positions of other rows, so that rows can still be selected from a mixed batch."""

    share: Float32[Tensor, " batch"]
    """Mixing weight of the row itself, in [0, 1]; that of the partner is 1 minus this."""
    own_numeric: Float32[Tensor, "batch numeric"]
    """Numeric features of the row itself; ``Inputs.numeric`` is the blend, for networks without number embeddings."""
    numeric: Float32[Tensor, "batch numeric"]
    """Numeric features of the partner; a network that embeds numbers blends the embeddings."""
    categorical: Int64[Tensor, "batch categorical"]
    """Category levels of the partner; the model blends the embeddings."""
    image_mask: Bool[Tensor, "batch photos"] | None = None
    """Places of the partner's photos, as ``Inputs.image_mask`` marks those of the row itself: the same places if the
    photos are blended, separate places after the row's own photos if they are not."""
    text: Float32[Tensor, "batch texts d_text"] | None = None
    """Texts of the partner, as ``Inputs.text``; the model blends the encodings."""
    text_mask: Bool[Tensor, "batch texts"] | None = None
    """Which text columns of the partner have a text."""

    def map(self, function: Callable[[Tensor], Tensor]) -> "Mix":
        """Apply ``function`` to every tensor."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: None if value is None else function(value) for name, value in values.items()}
        return Mix(**changed)


@dataclass(slots=True, kw_only=True)
class Inputs:
    """The model inputs for a batch of rows: ``xb``."""

    numeric: Float32[Tensor, "batch numeric"]
    """Scaled numeric features, without NaN."""
    categorical: Int64[Tensor, "batch categorical"]
    """Index of the category level; 0 = missing or unseen."""
    rows: Int64[Tensor, " batch"]
    """Position of each row in its table, for messages and for random numbers per row."""
    images: UInt8[Tensor, "batch photos 3 height width"] | Float32[Tensor, "batch photos 3 height width"] | None = None
    """uint8 in 0..255, or float32 in [0, 1] (any range if ``normalized``); undefined where ``image_mask`` is False."""
    features: Float32[Tensor, "batch photos d"] | None = None
    """Output of the frozen image encoder, instead of ``images``."""
    image_mask: Bool[Tensor, "batch photos"] | None = None
    """False = no photo in this place. None = the data have no photos at all."""
    image_column: Int64[Tensor, "batch photos"] | None = None
    """The image column of the table that each photo is from, counted from 0; 0 where ``image_mask`` is False.

    None = all photos are from the first image column."""
    photo_scores: Float32[Tensor, "batch scores"] | None = None
    """Scores of the row's photos by models that were fitted without the row, for training. None = the network has no
    scores, or computes them from the features."""
    text: Float32[Tensor, "batch texts d_text"] | None = None
    """Numbers that describe the text in each text column; arbitrary where ``text_mask`` is False."""
    text_mask: Bool[Tensor, "batch texts"] | None = None
    """False = the cell has no text. None exactly where ``text`` is None: the data have no text columns."""
    weight: Float32[Tensor, " batch"] | None = None
    """Weight of each row in the loss."""
    mix: Mix | None = None
    """Set by ``MixUp`` and ``CutMix``."""
    normalized: bool = False
    """Set by ``Normalize``: the pixels already have the scale of the backbone, so the model does not scale them."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> "Inputs":
        """Select rows by a slice, a list or an index tensor; the result is a batch, too."""
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Inputs":
        """All tensors on ``device``; the same object if they are there already."""
        if self.rows.device == torch.device(device):
            return self
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Inputs":
        """All tensors in page-locked memory, so that copies to a GPU can be asynchronous."""
        return self._map(Tensor.pin_memory)

    def tensors(self) -> dict[str, Tensor]:
        """The fields that hold tensors, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Inputs":
        changed: dict[str, Any] = {name: function(tensor) for name, tensor in self.tensors().items()}
        return replace(self, **changed, mix=None if self.mix is None else self.mix.map(function))


Batch = tuple[Inputs, Tensor]
"""``(xb, yb)``; ``yb`` is float32 ``(batch,)``, or int64 class index ``(batch,)``."""


def concatenate(parts: Sequence[Inputs]) -> Inputs:
    """The rows of all parts in order; rows with fewer photos are padded with masked places, and so are the texts of
    parts without any.

    Raises:
        ConfigError: a part is already mixed, or only some are normalised."""
    if any(part.mix is not None or part.normalized != parts[0].normalized for part in parts):
        raise ConfigError("Concatenate batches before they are mixed or normalised, not after.")
    photos = max((part.image_mask.shape[1] for part in parts if part.image_mask is not None), default=0)

    def join(name: str) -> Tensor | None:
        tensors = [getattr(part, name) for part in parts]
        known = next((tensor for tensor in tensors if tensor is not None), None)
        if known is None:
            return None
        # A part without the field has no photos: only padding.
        nothing = known[:0, :0]
        return torch.cat(
            [
                _pad_photos(nothing.new_zeros(len(part), 0, *nothing.shape[2:]) if tensor is None else tensor, photos)
                for part, tensor in zip(parts, tensors, strict=True)
            ]
        )

    def join_rows(name: str) -> Tensor | None:
        tensors = [getattr(part, name) for part in parts]
        known = next((tensor for tensor in tensors if tensor is not None), None)
        if known is None:
            return None
        pairs = zip(parts, tensors, strict=True)
        return torch.cat([known.new_zeros(len(part), *known.shape[1:]) if t is None else t for part, t in pairs])

    weights = [part.weight for part in parts if part.weight is not None]
    if 0 < len(weights) < len(parts):
        raise DataError(f"{len(parts) - len(weights)} of {len(parts)} parts have no row weights, but the others do.")
    return Inputs(
        numeric=torch.cat([part.numeric for part in parts]),
        categorical=torch.cat([part.categorical for part in parts]),
        rows=torch.cat([part.rows for part in parts]),
        images=join("images"),
        features=join("features"),
        image_mask=join("image_mask"),
        image_column=join("image_column"),
        photo_scores=join_rows("photo_scores"),
        text=join_rows("text"),
        text_mask=join_rows("text_mask"),
        weight=torch.cat(weights) if weights else None,
        normalized=parts[0].normalized,
    )


def _pad_photos(tensor: Tensor, photos: int) -> Tensor:
    """Append zeros (no photo) along axis 1 up to ``photos``."""
    return F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, photos - tensor.shape[1]))


def collate(items: Batch | Sequence[Any]) -> tuple[Any, Tensor]:
    """Combine items of a dataset into one batch.

    A whole batch, as a dataset with ``__getitems__`` may return, is passed through. Items of mixfit's datasets are
    concatenated and padded; items of other PyTorch datasets go through PyTorch's ``default_collate``."""
    if isinstance(items, tuple):
        xb, yb = items
        return xb, yb
    pairs = list(items)
    if isinstance(pairs[0], tuple) and isinstance(pairs[0][0], Inputs):
        return concatenate([x for x, _ in pairs]), torch.cat([y for _, y in pairs])
    xb, yb = default_collate(pairs)
    return xb, yb
