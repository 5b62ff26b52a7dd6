"""The loader: ``for xb, yb in loader:`` is one epoch; batches are prefetched and copied to a device."""

import copy
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from mixfit.data.batch import Inputs, collate
from mixfit.data.dataset import FeatureTable, MixedDataset
from mixfit.data.sampler import Sampler
from mixfit.data.transforms.transform import Compose, Transform
from mixfit.errors import ConfigError, DataError, MixfitError
from mixfit.seeding import RowRandom

Job = TypeVar("Job")
Result = TypeVar("Result")


@runtime_checkable
class Dataset(Protocol):
    """A map-style dataset. ``__getitems__(list[int])``, PyTorch's batched protocol, is used if it exists."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class _Job(NamedTuple):
    """One batch to be prepared."""

    indices: np.ndarray
    epoch: int
    position: dict[str, Any]
    """State of the sampler after this batch has been returned."""


class DataLoader:
    """Loads the batches that the sampler selects.

    The batches are identical, byte for byte, for any ``prefetch`` and ``threads``.

    Args:
        dataset: the rows.
        sampler: which rows form a batch. To change its position, call ``set_epoch`` or ``load_state_dict`` of the
            loader, not of the sampler.
        transforms: applied to each batch of ``Inputs`` in order, on ``device``.
        training: False skips the transforms that are for training only.
        device: where the batches are moved.
        collate_function: items -> ``(xb, yb)``.
        prefetch: number of batches prepared ahead in background threads; 0 starts no thread. By default 2 for photos
            that must be decoded or copied to another device; 0 for tables, features and decoded photos on the CPU,
            where a thread costs more than it saves, and for datasets of other libraries, which may not be thread-safe.
        threads: number of batches prepared at the same time.
    Raises:
        ConfigError: ``prefetch`` is below 0, ``threads`` is below 1, or the sampler is for more rows than the dataset
            has.
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
        prefetch: int | None = None,
        threads: int = 1,
    ) -> None:
        if prefetch is not None and prefetch < 0:
            raise ConfigError(f"prefetch must be at least 0 batches, got {prefetch}.")
        if threads < 1:
            raise ConfigError(f"threads must be at least 1, got {threads}; prefetch=0 uses none.")
        if not isinstance(sampler, Sampler):
            raise ConfigError(
                "DataLoader needs a sampler of mixfit, such as ShuffledSampler, but got "
                f"{type(sampler).__name__}; for a PyTorch sampler, use torch.utils.data.DataLoader with "
                "batch_sampler=... and collate_fn=mixfit.data.collate."
            )
        if sampler.population is not None and sampler.population > len(dataset):
            raise ConfigError(
                f"The sampler is for {sampler.population} rows, but the dataset has {len(dataset)}: create the sampler "
                "for this dataset."
            )
        self.dataset, self.sampler, self.training = dataset, sampler, training
        self.device = torch.device(device)
        self.collate_function = collate_function
        self.transform = Compose(transforms) if training else Compose(transforms).for_prediction()
        self.prefetch = _default_prefetch(dataset, self.device) if prefetch is None else prefetch
        self.threads = threads
        # For an unfinished iteration: its epoch, and the sampler's state after the batches returned so far. The sampler
        # itself is ahead by the prefetched batches.
        self._under_way: tuple[int, dict[str, Any]] | None = None

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        """One epoch; an epoch that was left early starts again from its beginning.

        Raises:
            MixfitError: an item cannot be read, or a batch cannot be collated or transformed. Any exception from the
                caller's dataset, collate function or transforms, and any ``OSError``, becomes a ``DataError`` unless it
                is a ``MixfitError`` already; the message names the row and its files, or the rows of the batch, and the
                cause is chained. Other exceptions from mixfit's own dataset and transforms are bugs and are not
                converted.
        """
        if self._under_way is not None:
            self.sampler.set_epoch(self._under_way[0])
        epoch = self.sampler.epoch
        self._under_way = epoch, self.sampler.state_dict()
        with closing(in_order(self._jobs(epoch), self._make, ahead=self.prefetch, threads=self.threads)) as made:
            for position, rows, xb, yb in on_device(made, self.device):
                self._under_way = epoch, position
                yield (xb, yb) if self.device.type == "cpu" else self._transformed(xb, yb, epoch, rows)
        self._under_way = None

    def set_epoch(self, epoch: int) -> None:
        """Move to the start of an epoch."""
        self._under_way = None
        self.sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The position after the batches returned so far; ``load_state_dict`` resumes with the next one."""
        return self.sampler.state_dict() if self._under_way is None else dict(self._under_way[1])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from ``state`` in the next iteration."""
        self._under_way = None
        self.sampler.load_state_dict(state)

    def bookmark(self) -> Callable[[], None]:
        """Return a function that restores the current position of the loader.

        Unlike ``load_state_dict``, which resumes in the middle of an epoch, an unfinished epoch starts again."""
        here, sampler = dict(vars(self)), copy.copy(vars(self.sampler))

        def restore() -> None:
            vars(self).update(here)
            vars(self.sampler).update(sampler)

        return restore

    def _jobs(self, epoch: int) -> Iterator[_Job]:
        for indices in self.sampler:
            yield _Job(indices, epoch, self.sampler.state_dict())

    def _make(self, job: _Job) -> tuple[dict[str, Any], np.ndarray, Any, Tensor]:
        """The part of the work that needs no other device; runs in a thread when prefetching."""
        items = self._fetch(job.indices)
        rows = _table_rows(self.dataset, job.indices)
        ours = self.collate_function is collate and isinstance(self.dataset, MixedDataset)
        with _naming_rows("collate", rows, ours=ours):
            xb, yb = self.collate_function(items)
        if self.device.type == "cuda":
            return job.position, rows, pin(xb), pin(yb)
        if self.device.type == "cpu":
            xb, yb = self._transformed(xb, yb, job.epoch, rows)
        return job.position, rows, xb, yb

    def _transformed(self, xb: Any, yb: Tensor, epoch: int, rows: np.ndarray) -> tuple[Any, Tensor]:
        if not self.transform.transforms or not isinstance(xb, Inputs):  # mixfit's transforms need Inputs
            return xb, yb
        ours = all(type(one).__module__.startswith("mixfit.") for one in self.transform.transforms)
        with _naming_rows("transform", rows, ours=ours):
            return self.transform((xb, yb), RowRandom(self.sampler.seed, epoch, xb.rows))

    def _fetch(self, indices: np.ndarray) -> Any:
        if isinstance(self.dataset, MixedDataset):
            chosen: Any = indices  # not converted: a list of Python integers would cost more than the gather
        else:
            chosen = indices.tolist()
        try:
            batched = getattr(self.dataset, "__getitems__", None)
            return [self.dataset[index] for index in chosen] if batched is None else batched(chosen)
        except MemoryError:
            raise
        except Exception as error:
            inside = bool(((indices >= 0) & (indices < len(self.dataset))).all())
            if inside and isinstance(self.dataset, MixedDataset) and not isinstance(error, MixfitError | OSError):
                raise  # a bug of mixfit, not a problem of a row
            raise fetch_error(self.dataset, indices.tolist(), error) from error


def in_order(
    jobs: Iterable[Job], work: Callable[[Job], Result], *, ahead: int, threads: int = 1
) -> Generator[Result, None, None]:
    """``map(work, jobs)``, but the next ``ahead`` results are computed in the background while one is in use.

    ``jobs`` is iterated in the caller's thread. An exception from ``work`` is raised here, in the order of the jobs.
    When the iteration ends (by exhaustion, an exception, ``close`` or garbage collection), pending jobs are cancelled
    and running ones are waited for, unless it ends in a thread other than the one that started it.

    Args:
        jobs: consumed up to ``ahead`` items before their results.
        work: called in any of the threads, several calls at a time.
        ahead: number of results computed in advance; 0 runs in the caller's thread and starts no other.
        threads: number of threads, limited to ``ahead``.

    >>> list(in_order([1, 2, 3], lambda x: x * x, ahead=2))
    [1, 4, 9]
    """
    if ahead == 0:
        yield from map(work, jobs)
        return
    owner = threading.current_thread()
    pool = ThreadPoolExecutor(min(threads, ahead), "mixfit-prefetch")
    waiting: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(work, job))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Garbage collection may end the iteration in any thread: one of the workers, or one that they wait for.
        pool.shutdown(wait=threading.current_thread() is owner, cancel_futures=True)


def on_device(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Move batches from the CPU to ``device``; for CUDA they should be in pinned memory."""
    match device.type:
        case "cpu":
            yield from batches
        case "cuda":
            yield from _copied_ahead(batches, device)
        case _:
            for batch in batches:
                yield move(batch, device)


def _copied_ahead(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Copy the next batch while the current one is in use.

    The copies have their own CUDA stream: in the stream of the computation, a copy would wait for the computation."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(batch: Any) -> tuple[Any, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return move(batch, device, non_blocking=True), stream.record_event()

    def ready(moved: Any, copied: torch.cuda.Event) -> Any:
        current = torch.cuda.current_stream(device)
        current.wait_event(copied)
        for tensor in tensors_of(moved):
            tensor.record_stream(current)  # allocated in the other stream: keep the memory until this stream is done
        return moved

    under_way: tuple[Any, torch.cuda.Event] | None = None
    for batch in batches:
        previous, under_way = under_way, start(batch)
        if previous is not None:
            yield ready(*previous)
    if under_way is not None:
        yield ready(*under_way)


def move(value: Any, device: torch.device | str, *, non_blocking: bool = False) -> Any:
    """Move a tensor, ``Inputs``, or a list, tuple or dictionary of these to ``device``; return anything else as is."""
    if isinstance(value, Tensor | Inputs):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, Mapping):
        return {key: move(part, device, non_blocking=non_blocking) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return _like(value, [move(part, device, non_blocking=non_blocking) for part in value])
    return value


def pin(value: Any) -> Any:
    """As ``move``, but to page-locked memory, from which copies to a GPU are asynchronous."""
    if isinstance(value, Tensor | Inputs):
        return value.pin_memory()
    if isinstance(value, Mapping):
        return {key: pin(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return _like(value, [pin(part) for part in value])
    return value


def _like(value: list[Any] | tuple[Any, ...], parts: list[Any]) -> Any:
    """The parts in a sequence of the same type, which may be a named tuple."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*parts)
    return tuple(parts) if isinstance(value, tuple) else parts


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors in a batch."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Inputs):
        yield from value.tensors().values()
    elif isinstance(value, Mapping):
        yield from tensors_of(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_of(part)


def fetch_error(dataset: Dataset, indices: Sequence[int], error: Exception) -> MixfitError:
    """An exception that names the row that could not be read: the first that fails again when it is read alone.

    A ``MixfitError`` keeps its type; any other exception becomes a ``DataError``."""
    beyond = [index for index in indices if index >= len(dataset)]
    if beyond:
        return DataError(f"The sampler asked for row {beyond[0]} of a dataset that has {len(dataset)} rows.")
    for index in indices:
        try:
            dataset[index]
        except Exception as again:
            place, error = _describe(dataset, index), again
            break
    else:
        place = f"one of {len(indices)} rows starting at {_describe(dataset, indices[0])} (each can be read alone)"
    return _as_mixfit_error(f"Could not read {place}", error)


@contextmanager
def _naming_rows(doing: str, rows: np.ndarray, *, ours: bool) -> Iterator[None]:
    """Add the row numbers of the batch to the message of an exception.

    Args:
        ours: the code is mixfit's own, so that any exception other than a ``MixfitError`` is a bug."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if ours and not isinstance(error, MixfitError):
            raise
        more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
        named = f"{', '.join(map(str, rows[:5].tolist()))}{more}"
        raise _as_mixfit_error(f"Could not {doing} the batch of rows {named}", error) from error


def _as_mixfit_error(what: str, error: Exception) -> MixfitError:
    if isinstance(error, MixfitError):
        return type(error)(f"{what}: {error}")
    return DataError(f"{what}: {type(error).__name__}: {error}")


def _table_rows(dataset: Dataset, indices: np.ndarray) -> np.ndarray:
    """Row numbers for messages."""
    if not isinstance(dataset, MixedDataset):
        return indices
    return (dataset.rows if dataset.numbers is None else dataset.numbers).numpy()[indices]


def _describe(dataset: Dataset, index: int) -> str:
    return dataset.describe(index) if isinstance(dataset, MixedDataset) else f"row {index}"


def _default_prefetch(dataset: Dataset, device: torch.device) -> int:
    if not isinstance(dataset, MixedDataset) or isinstance(dataset.photos, FeatureTable | None):
        return 0
    is_decoded = getattr(dataset.photos, "is_complete", False)  # attribute of ImageStore, checked without importing it
    return 0 if is_decoded and device.type == "cpu" else 2
