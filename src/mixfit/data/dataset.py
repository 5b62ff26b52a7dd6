"""The dataset: preprocessed rows of a table together with their photos.

In: the arrays of ``TablePreprocessor``, and ``Photos``. Out: ``(Inputs, target)`` for one row or for many.
Imports nothing from ``nn`` or ``training``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor

from mixfit.data.arrays import zeros
from mixfit.data.batch import Batch, Inputs
from mixfit.errors import DataError


@runtime_checkable
class ImageSource(Protocol):
    """Square photos, accessed by number."""

    @property
    def size(self) -> int:
        """Height and width of every photo, in pixels."""

    @property
    def failures(self) -> dict[int, str]:
        """For each photo that was requested and could not be read: its number and the reason."""

    def __len__(self) -> int: ...

    def read(
        self, indices: Int64[np.ndarray, " photos"]
    ) -> tuple[UInt8[torch.Tensor, "photos 3 size size"], Bool[torch.Tensor, " photos"]]:
        """Read photos; see ``ImageFiles.read``."""


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """Features from a frozen image encoder, computed once per photo."""

    values: Float32[Tensor, "files d"]
    readable: Bool[Tensor, " files"]
    """False where the photo could not be read; its features are zero."""
    failures: dict[int, str] = field(default_factory=dict)
    """For each photo that could not be read: its number and the reason."""

    @classmethod
    def empty(cls, files: int, d: int) -> "FeatureTable":
        """Of photos whose features are to be filled in; they may be larger than memory, see ``mixfit.data.arrays``."""
        return cls(torch.from_numpy(zeros((files, d))), torch.zeros(files, dtype=torch.bool), {})


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedDataset:
    """Rows of a table with their photos; photos are read on access.

    ``dataset[i]`` returns a batch of one row; ``dataset.__getitems__(indices)`` (PyTorch's batched protocol) gathers
    many rows in one call. Both return ``(Inputs, target)``.

    Raises:
        DataError: the arrays have different numbers of rows, or only one of slots and photos, or of text and
            text_mask, is given.
    """

    numeric: Float32[Tensor, "rows numeric"]
    categorical: Int64[Tensor, "rows categorical"]
    target: Tensor
    """float32 or int64 ``(rows,)``."""
    rows: Int64[Tensor, " rows"]
    """Position of each row in its table."""
    slots: Int64[Tensor, "rows photos"] | None = None
    """Number of the photo in each place of the row; -1 = no photo."""
    columns: Int64[Tensor, " places"] | None = None
    """Image column of each place, counted from 0; None = all places belong to the first."""
    photos: ImageSource | FeatureTable | None = None
    weight: Float32[Tensor, " rows"] | None = None
    numbers: Int64[Tensor, " rows"] | None = None
    """Row numbers for messages, if they differ from ``rows`` because rows of weight 0 were dropped; None = ``rows``."""
    photo_scores: Float32[Tensor, "rows scores"] | None = None
    """Scores of the photos of training rows, see ``Inputs.photo_scores``."""
    text: Float32[Tensor, "rows texts d_text"] | None = None
    """Numbers that describe the text in each text column; arbitrary where ``text_mask`` is False."""
    text_mask: Bool[Tensor, "rows texts"] | None = None
    """False = the cell has no text."""

    def __post_init__(self) -> None:
        """Check the lengths once, here, instead of at every access."""
        arrays = {"numeric": self.numeric, "categorical": self.categorical, "target": self.target, "rows": self.rows}
        optional = {"slots": self.slots, "weight": self.weight, "numbers": self.numbers}
        optional |= {"photo_scores": self.photo_scores, "text": self.text, "text_mask": self.text_mask}
        arrays |= {name: array for name, array in optional.items() if array is not None}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"All arrays of a dataset must have the same number of rows, got {lengths}.")
        if (self.slots is None) != (self.photos is None):
            raise DataError("A dataset needs both slots and photos, or neither.")
        if (self.text is None) != (self.text_mask is None):
            raise DataError("A dataset needs both text and text_mask, or neither.")
        places = 0 if self.slots is None else self.slots.shape[1]
        if self.columns is not None and len(self.columns) != places:
            raise DataError(f"columns must give the image column of each of {places} places, got {len(self.columns)}.")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        """One row as a batch of one."""
        return self.__getitems__([range(len(self))[index]])

    def __getitems__(self, indices: Sequence[int] | np.ndarray | Tensor) -> Batch:
        """The rows ``indices``, in that order; an int64 array or tensor is used without conversion."""
        chosen = indices if isinstance(indices, Tensor) else torch.as_tensor(np.asarray(indices, dtype=np.int64))
        inputs = Inputs(
            numeric=self.numeric.index_select(0, chosen),
            categorical=self.categorical.index_select(0, chosen),
            rows=self.rows.index_select(0, chosen),
            photo_scores=None if self.photo_scores is None else self.photo_scores.index_select(0, chosen),
            text=None if self.text is None else self.text.index_select(0, chosen),
            text_mask=None if self.text_mask is None else self.text_mask.index_select(0, chosen),
            weight=None if self.weight is None else self.weight.index_select(0, chosen),
        )
        if self.slots is not None and self.photos is not None:
            slots = self.slots.index_select(0, chosen)
            columns = slots.new_zeros(slots.shape[1]) if self.columns is None else self.columns
            _add_photos(inputs, slots, columns, self.photos)
        return inputs, self.target.index_select(0, chosen)

    def named(self, rows: Sequence[int]) -> list[int]:
        """Row numbers for messages, given ``rows`` of batches."""
        if self.numbers is None:
            return list(rows)
        known = dict(zip(self.rows.tolist(), self.numbers.tolist(), strict=True))
        return [known[row] for row in rows]

    def describe(self, index: int) -> str:
        """The row number and the photo files of one item, for messages."""
        row = f"row {int((self.rows if self.numbers is None else self.numbers)[index])}"
        files = getattr(self.photos, "files", None)
        if self.slots is None or files is None:
            return row
        return ", ".join([row, *(str(files[slot]) for slot in self.slots[index].tolist() if slot >= 0)])


def _add_photos(inputs: Inputs, slots: Tensor, columns: Tensor, photos: ImageSource | FeatureTable) -> None:
    """Add pixels or features: the photos of each row are left-aligned, and there are as many places as the row with the
    most photos needs.

    The places of a row's photos therefore do not depend on the other rows of the batch, and padding is minimal."""
    present, columns = slots >= 0, columns.expand_as(slots)
    if not present.all():
        order = (~present).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(present.sum(1).max())]
        slots, present, columns = slots.gather(1, order), present.gather(1, order), columns.gather(1, order)
    # If every place is filled, the photos as read already form the batch, and the pixels are not copied.
    full = bool(present.all())
    files = slots.flatten() if full else slots[present]
    if isinstance(photos, FeatureTable):
        values, readable = photos.values.index_select(0, files), photos.readable.index_select(0, files)
    else:
        values, readable = photos.read(files.numpy())
    if full:
        values, mask = values.reshape(*slots.shape, *values.shape[1:]), readable.reshape(slots.shape)
    else:
        fetched, mask = values, present.clone()
        values = fetched.new_zeros(*slots.shape, *fetched.shape[1:])
        values[present] = fetched
        mask[present] = readable
    inputs.image_mask, inputs.image_column = mask, columns.where(mask, 0)
    if isinstance(photos, FeatureTable):
        inputs.features = values
    else:
        inputs.images = values
