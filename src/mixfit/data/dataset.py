"""The dataset: rows of preprocessed arrays together with their photos.

In: arrays of ``TablePreprocessor`` and ``Photos``. Out: ``(Inputs, target)`` of one row or of many.
Imports nothing from ``nn`` or ``training``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor

from mixfit.data.batch import Batch, Inputs
from mixfit.errors import DataError


@runtime_checkable
class ImageSource(Protocol):
    """Square photos by number."""

    @property
    def size(self) -> int:
        """Height and width of every photo in pixels."""

    @property
    def failures(self) -> dict[int, str]:
        """What is wrong with each photo that was asked for and could not be read, by number."""

    def __len__(self) -> int: ...

    def read(
        self, indices: Int64[np.ndarray, " photos"]
    ) -> tuple[UInt8[torch.Tensor, "photos 3 size size"], Bool[torch.Tensor, " photos"]]:
        """Fetch photos; see ``ImageFiles.read``."""


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """Features of a frozen image encoder, computed once per photo."""

    values: Float32[Tensor, "files d"]
    readable: Bool[Tensor, " files"]
    """False where the photo could not be read; its features are zero."""
    failures: dict[int, str] = field(default_factory=dict)
    """What is wrong with each photo that could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedDataset:
    """Rows of a table with their photos; the photos are read on access.

    ``dataset[i]`` is a batch of one row, ``dataset.__getitems__(indices)`` (PyTorch's batched protocol) a batch of
    many in one gather. Both give ``(Inputs, target)``.

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
    """Which photo of the source is in which place of the row; -1 = none."""
    columns: Int64[Tensor, " places"] | None = None
    """Which image column each place belongs to, counted from 0; None = all to the first."""
    photos: ImageSource | FeatureTable | None = None
    weight: Float32[Tensor, " rows"] | None = None
    numbers: Int64[Tensor, " rows"] | None = None
    """What messages call each row, where ``rows`` are positions among those that count; None = ``rows``."""
    text: Float32[Tensor, "rows texts d_text"] | None = None
    """Numbers that describe the text in each text column; arbitrary where ``text_mask`` is False."""
    text_mask: Bool[Tensor, "rows texts"] | None = None
    """False = the cell has no text."""

    def __post_init__(self) -> None:
        """Check the lengths once, so that fetching need not."""
        arrays = {"numeric": self.numeric, "categorical": self.categorical, "target": self.target, "rows": self.rows}
        optional = {"slots": self.slots, "weight": self.weight, "numbers": self.numbers}
        optional |= {"text": self.text, "text_mask": self.text_mask}
        arrays |= {name: array for name, array in optional.items() if array is not None}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"All arrays of a dataset need the same number of rows, got {lengths}.")
        if (self.slots is None) != (self.photos is None):
            raise DataError("A dataset needs both slots and photos, or neither.")
        if (self.text is None) != (self.text_mask is None):
            raise DataError("A dataset needs both text and text_mask, or neither.")
        places = 0 if self.slots is None else self.slots.shape[1]
        if self.columns is not None and len(self.columns) != places:
            raise DataError(f"columns must name the image column of {places} places, got {len(self.columns)}.")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        """One row as a batch of one."""
        return self.__getitems__([range(len(self))[index]])

    def __getitems__(self, indices: Sequence[int] | np.ndarray | Tensor) -> Batch:
        """The rows ``indices`` in that order; an int64 array or tensor is used as it is."""
        chosen = indices if isinstance(indices, Tensor) else torch.as_tensor(np.asarray(indices, dtype=np.int64))
        inputs = Inputs(
            numeric=self.numeric.index_select(0, chosen),
            categorical=self.categorical.index_select(0, chosen),
            rows=self.rows.index_select(0, chosen),
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
        """What messages call some rows of batches."""
        if self.numbers is None:
            return list(rows)
        known = dict(zip(self.rows.tolist(), self.numbers.tolist(), strict=True))
        return [known[row] for row in rows]

    def describe(self, index: int) -> str:
        """Which row of the table this is, and which photo files it has, for messages."""
        row = f"row {int((self.rows if self.numbers is None else self.numbers)[index])}"
        files = getattr(self.photos, "files", None)
        if self.slots is None or files is None:
            return row
        return ", ".join([row, *(str(files[slot]) for slot in self.slots[index].tolist() if slot >= 0)])


def _add_photos(inputs: Inputs, slots: Tensor, columns: Tensor, photos: ImageSource | FeatureTable) -> None:
    """Fill in pixels or features: each row's photos side by side from the left, as many places as the fullest row has.

    So a row's own photos are in the same places whatever its neighbours are, and none of its places is in vain."""
    present, columns = slots >= 0, columns.expand_as(slots)
    if not present.all():
        order = (~present).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(present.sum(1).max())]
        slots, present, columns = slots.gather(1, order), present.gather(1, order), columns.gather(1, order)
    # Where every place is filled, what was fetched already is the batch: no copy of the pixels is made.
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
