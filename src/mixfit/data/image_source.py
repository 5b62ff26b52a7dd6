"""What a dataset needs of its photos; ``ImageFiles`` and ``ImageStore`` have it.

Apart from them, so that a dataset can be had without what decodes photos."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8


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
