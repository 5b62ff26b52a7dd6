"""The loader: ``for xb, yb in loader:`` is one epoch; batches are made ahead and copied to a device."""

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
    """How an item is fetched. ``__getitems__(list[int])``, PyTorch's batched protocol, is used when it is there."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class _Job(NamedTuple):
    """One batch to be made."""

    indices: np.ndarray
    epoch: int
    position: dict[str, Any]
    """State of the sampler once this batch is handed out."""


class DataLoader:
    """Fetches the batches that the sampler names.

    The batches are the same, byte for byte, whatever ``prefetch`` and ``threads`` are.

    Args:
        dataset: where the rows come from.
        sampler: which rows form a batch. To move it, call the loader's own ``set_epoch`` or ``load_state_dict``.
        transforms: applied to each batch of ``Inputs`` in order, on ``device``.
        training: False leaves out the transforms that are for training only.
        device: where the batches are put.
        collate_function: items -> ``(xb, yb)``.
        prefetch: how many batches are made ahead in background threads; 0 starts no thread. By default 2 for photos
            that are to be decoded or copied to another device, and 0 for tables, features and decoded photos on the
            CPU, where handing over to a thread costs more than it saves, and for foreign datasets, which may not
            expect threads.
        threads: how many batches are made at the same time.
    Raises:
        ConfigError: ``prefetch`` is below 0, ``threads`` below 1, or the sampler is for more rows than the dataset has.
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
                f"DataLoader wants a sampler of mixfit, such as ShuffledSampler, and got {type(sampler).__name__}; for "
                "one of PyTorch's use torch.utils.data.DataLoader with batch_sampler=... and "
                "collate_fn=mixfit.data.collate."
            )
        if sampler.population is not None and sampler.population > len(dataset):
            raise ConfigError(
                f"The sampler is for {sampler.population} rows, and the dataset has {len(dataset)}: make the sampler "
                "for this dataset."
            )
        self.dataset, self.sampler, self.training = dataset, sampler, training
        self.device = torch.device(device)
        self.collate_function = collate_function
        self.transform = Compose(transforms) if training else Compose(transforms).for_prediction()
        self.prefetch = _default_prefetch(dataset, self.device) if prefetch is None else prefetch
        self.threads = threads
        # Of an iteration that has begun and not ended: its epoch, and the sampler's state after the batches handed out.
        # The sampler itself is further on by the batches made ahead.
        self._under_way: tuple[int, dict[str, Any]] | None = None

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        """One epoch; one that was left early is started anew.

        Raises:
            MixfitError: an item cannot be fetched, or a batch not collated or transformed. What the caller's dataset,
                collate function or transforms raise and is no ``MixfitError`` already becomes a ``DataError``, as does
                an ``OSError`` of any; the message names the row and its files, or the rows of the batch, and the cause
                is chained. Other errors of mixfit's own dataset and transforms are bugs and stay what they are.
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
        """Go to the start of an epoch."""
        self._under_way = None
        self.sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands, by the batches handed out; ``load_state_dict`` goes on with the next one."""
        return self.sampler.state_dict() if self._under_way is None else dict(self._under_way[1])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration goes on from ``state``."""
        self._under_way = None
        self.sampler.load_state_dict(state)

    def bookmark(self) -> Callable[[], None]:
        """A function that puts the loader back to where it stands now.

        Unlike ``load_state_dict``, which goes on in the middle of an epoch: one that was left will start anew."""
        here, sampler = dict(vars(self)), copy.copy(vars(self.sampler))

        def restore() -> None:
            vars(self).update(here)
            vars(self.sampler).update(sampler)

        return restore

    def _jobs(self, epoch: int) -> Iterator[_Job]:
        for indices in self.sampler:
            yield _Job(indices, epoch, self.sampler.state_dict())

    def _make(self, job: _Job) -> tuple[dict[str, Any], np.ndarray, Any, Tensor]:
        """What of a batch can be made without another device; runs in a thread when prefetching."""
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
        if not self.transform.transforms or not isinstance(xb, Inputs):  # ours do not apply to a foreign dataset
            return xb, yb
        ours = all(type(one).__module__.startswith("mixfit.") for one in self.transform.transforms)
        with _naming_rows("transform", rows, ours=ours):
            return self.transform((xb, yb), RowRandom(self.sampler.seed, epoch, xb.rows))

    def _fetch(self, indices: np.ndarray) -> Any:
        if isinstance(self.dataset, MixedDataset):
            chosen: Any = indices  # taken as it is: a list of Python integers would cost more than the gather
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
                raise  # a fault of ours and of no row
            raise fetch_error(self.dataset, indices.tolist(), error) from error


def in_order(
    jobs: Iterable[Job], work: Callable[[Job], Result], *, ahead: int, threads: int = 1
) -> Generator[Result, None, None]:
    """``map(work, jobs)``, but while one result is in use the next ``ahead`` are already in the making.

    ``jobs`` is iterated in the caller's thread. Whatever ``work`` raises is raised here, in its turn. When the
    iteration ends, by itself, by an error, by ``close`` or as garbage, jobs not begun are dropped, those begun are
    waited for and the threads are gone; another thread than the one that began it does not wait for them.

    Args:
        jobs: taken ``ahead`` before their results are.
        work: called in any of the threads, several calls at a time.
        ahead: 0 works in the caller's thread and starts no other.
        threads: at most, and never more than ``ahead``.

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
        # The garbage collector may end the iteration from within any thread: one of these, or one that they wait for.
        pool.shutdown(wait=threading.current_thread() is owner, cancel_futures=True)


def on_device(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Batches from the CPU -> on ``device``; for CUDA they should be in pinned memory."""
    match device.type:
        case "cpu":
            yield from batches
        case "cuda":
            yield from _copied_ahead(batches, device)
        case _:
            for batch in batches:
                yield move(batch, device)


def _copied_ahead(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """The copy of the next batch is under way while one is in use.

    A copy in the stream of the computation would wait for that computation; these have a stream of their own."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(batch: Any) -> tuple[Any, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return move(batch, device, non_blocking=True), stream.record_event()

    def ready(moved: Any, copied: torch.cuda.Event) -> Any:
        current = torch.cuda.current_stream(device)
        current.wait_event(copied)
        for tensor in tensors_of(moved):
            tensor.record_stream(current)  # its memory came from the other stream: keep it until this one is done
        return moved

    under_way: tuple[Any, torch.cuda.Event] | None = None
    for batch in batches:
        previous, under_way = under_way, start(batch)
        if previous is not None:
            yield ready(*previous)
    if under_way is not None:
        yield ready(*under_way)


def move(value: Any, device: torch.device | str, *, non_blocking: bool = False) -> Any:
    """A tensor, ``Inputs``, or a list, tuple or dictionary of such, on ``device``; anything else as it is."""
    if isinstance(value, Tensor | Inputs):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, Mapping):
        return {key: move(part, device, non_blocking=non_blocking) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return _like(value, [move(part, device, non_blocking=non_blocking) for part in value])
    return value


def pin(value: Any) -> Any:
    """The same in page-locked memory, from where a GPU copies by itself while the CPU goes on."""
    if isinstance(value, Tensor | Inputs):
        return value.pin_memory()
    if isinstance(value, Mapping):
        return {key: pin(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return _like(value, [pin(part) for part in value])
    return value


def _like(value: list[Any] | tuple[Any, ...], parts: list[Any]) -> Any:
    """The parts in the same kind of sequence; a named tuple takes them one by one."""
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
    """Say which row could not be fetched: the first that fails again when it is alone.

    A ``MixfitError`` keeps its type; anything else becomes a ``DataError``."""
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
        place = f"one of {len(indices)} rows from {_describe(dataset, indices[0])} on (each alone can be fetched)"
    return _as_mixfit_error(f"Could not fetch {place}", error)


@contextmanager
def _naming_rows(doing: str, rows: np.ndarray, *, ours: bool) -> Iterator[None]:
    """Say of an error which rows the batch was of.

    Args:
        ours: the code that runs is mixfit's own, so that anything but a ``MixfitError`` is a fault of ours."""
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
    """What messages call the rows."""
    if not isinstance(dataset, MixedDataset):
        return indices
    return (dataset.rows if dataset.numbers is None else dataset.numbers).numpy()[indices]


def _describe(dataset: Dataset, index: int) -> str:
    return dataset.describe(index) if isinstance(dataset, MixedDataset) else f"row {index}"


def _default_prefetch(dataset: Dataset, device: torch.device) -> int:
    if not isinstance(dataset, MixedDataset) or isinstance(dataset.photos, FeatureTable | None):
        return 0
    is_decoded = getattr(dataset.photos, "is_complete", False)  # an ImageStore's, which is not imported for this
    return 0 if is_decoded and device.type == "cpu" else 2
