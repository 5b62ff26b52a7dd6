"""The loader: ``for xb, yb in loader:`` is one epoch.

In: a dataset (how rows are fetched), a sampler (which rows), transforms. Out: batches on a device.
Works with any dataset that has ``__len__`` and ``__getitem__``, PyTorch's own included."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from mixfit.data.batch import Inputs, collate
from mixfit.data.random import RowRandom
from mixfit.data.sampler import Sampler
from mixfit.data.transform import Compose, Transform


@runtime_checkable
class Dataset(Protocol):
    """How an item is fetched. ``__getitems__(list[int])``, PyTorch's batched protocol, is used when it is there."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class DataLoader:
    """Fetches the batches that the sampler names.

    Args:
        dataset: where the rows come from.
        sampler: which rows form a batch.
        transforms: applied to each batch of ``Inputs`` in order, on ``device``.
        training: False leaves out the transforms that are for training only.
        device: where the batches are put.
        collate_function: items -> ``(xb, yb)``.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampler: Sampler,
        *,
        transforms: Sequence[Transform] = (),
        training: bool = False,
        device: torch.device | str = "cpu",
        collate_function: Callable[[Any], tuple[Any, Tensor]] = collate,
    ) -> None:
        self.dataset, self.sampler, self.training = dataset, sampler, training
        self.device = torch.device(device)
        self.collate_function = collate_function
        self.transform = Compose(transforms) if training else Compose(transforms).for_prediction()

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        epoch = self.sampler.epoch
        for indices in self.sampler:
            yield self._finish(self.collate_function(self._fetch(indices)), epoch)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self.sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """Where the epoch stands; ``load_state_dict`` goes on with the next batch."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration goes on from ``state``."""
        self.sampler.load_state_dict(state)

    def _fetch(self, indices: np.ndarray) -> Any:
        batched = getattr(self.dataset, "__getitems__", None)
        chosen = indices.tolist()
        return batched(chosen) if batched is not None else [self.dataset[index] for index in chosen]

    def _finish(self, batch: tuple[Any, Tensor], epoch: int) -> tuple[Any, Tensor]:
        xb, yb = batch
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            xb, yb = xb.pin_memory(), yb.pin_memory()
        xb, yb = xb.to(self.device, non_blocking=on_gpu), yb.to(self.device, non_blocking=on_gpu)
        if not isinstance(xb, Inputs):  # a foreign dataset: our transforms do not apply
            return xb, yb
        return self.transform((xb, yb), RowRandom(self.sampler.seed, epoch, xb.rows))
