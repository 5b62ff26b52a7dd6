"""What a Learner needs of its data: batches to train on and to judge by, and the scale of the target.

``MixedData`` has it, and so has any object with these attributes."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Shaped


@runtime_checkable
class Batches(Protocol):
    """An iterable over batches with a length: our ``DataLoader`` or PyTorch's."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


@runtime_checkable
class TargetScale(Protocol):
    """Back to the unit that people know; the part of ``data.target.Target`` that needs no table."""

    def decode(self, outputs: Float[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows ..."]:
        """Raw outputs as float64: numbers in the target's unit, or probabilities that sum to 1."""

    def decode_truth(self, encoded: Shaped[np.ndarray, " rows"]) -> Shaped[np.ndarray, " rows"]:
        """The targets of batches as metrics want them: numbers in the target's unit, or class indices."""


@runtime_checkable
class TrainingData(Protocol):
    """Batches of training and validation rows; ``target`` None leaves numbers as they are and makes logits shares."""

    @property
    def train(self) -> Batches: ...

    @property
    def valid(self) -> Batches: ...

    @property
    def target(self) -> TargetScale | None: ...
