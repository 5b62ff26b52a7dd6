"""The loader's threads: the same batches however they are made, errors that say where, and nothing left behind."""

import gc
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from loader_parts import BATCH, ROWS, Foreign, SlowPhotos, loader, no_thread_is_left, photo_rows  # noqa: F401 - a fixture
from torch import Tensor
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset

from mixfit.data.batch import collate
from mixfit.data.dataset import FeatureTable, MixedDataset
from mixfit.data.loader import in_order, move, pin, tensors_of
from mixfit.data.photos.store import ImageFiles
from mixfit.data.sampler import ShuffledSampler
from mixfit.data.transforms.transform import RandomHorizontalFlip


def fingerprint(batches: Any) -> list[tuple[Any, ...]]:
    """Every byte, shape and type of some batches."""
    return [
        tuple((t.dtype, tuple(t.shape), t.contiguous().numpy().tobytes()) for t in tensors_of([xb, yb]))
        for xb, yb in batches
    ]


@pytest.mark.parametrize("ragged", [False, True])
def test_batches_are_the_same_bytes_for_any_prefetch_and_threads(*, ragged: bool) -> None:
    flips = [RandomHorizontalFlip()]
    rows = photo_rows(ragged=ragged)
    plain = loader(rows, prefetch=0, transforms=flips, training=True)
    expected = [fingerprint(plain) for _ in range(2)]
    assert expected[0] != expected[1]
    for prefetch, threads in ((1, 1), (2, 2), (3, 2), (50, 4)):
        ahead = loader(rows, prefetch=prefetch, threads=threads, transforms=flips, training=True)
        assert [fingerprint(ahead) for _ in range(2)] == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_pytorchs_loader_gives_the_same_bytes_as_ours_with_threads(workers: int) -> None:
    rows = photo_rows()
    sampler = ListedBatches(ROWS, BATCH, seed=5)
    theirs = TorchDataLoader(rows, batch_sampler=sampler, collate_fn=collate, num_workers=workers)
    assert fingerprint(theirs) == fingerprint(loader(rows, prefetch=2, threads=2))


class ListedBatches(ShuffledSampler):
    """A sampler of ours in the form that PyTorch's loader wants: lists of integers."""

    def __iter__(self) -> Iterator[Any]:
        return (indices.tolist() for indices in super().__iter__())


def test_pytorchs_dataset_works_with_threads() -> None:
    data = TensorDataset(torch.randn(ROWS, 3), torch.arange(ROWS))
    assert fingerprint(loader(data, prefetch=3, threads=2)) == fingerprint(loader(data))


def test_a_list_a_tensor_and_an_array_of_indices_give_the_same_rows() -> None:
    rows, chosen = photo_rows(ragged=True), [7, 0, 7, 3]
    batches = [rows.__getitems__(indices) for indices in (chosen, np.array(chosen), torch.tensor(chosen))]
    first, second, third = (fingerprint([batch]) for batch in batches)
    assert first == second == third


def test_the_pixels_of_a_full_batch_are_those_that_the_source_gave() -> None:
    """No copy: with every place filled, the batch is a view of what was read."""

    class Remembering(SlowPhotos):
        def read(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
            self.given, ok = super().read(indices)
            return self.given, ok

    source = Remembering(2 * ROWS)
    xb, _ = photo_rows(source).__getitems__([4, 2, 2])
    assert xb.images is not None
    assert xb.images.data_ptr() == source.given.data_ptr()
    assert xb.images[:, :, 0, 0, 0].tolist() == [[8, 9], [4, 5], [4, 5]]


@pytest.mark.parametrize("prefetch", [0, 1, 4])
@pytest.mark.parametrize("taken", [0, 1, 2, 5, 6])
def test_a_stopped_epoch_goes_on_with_the_next_batch(prefetch: int, taken: int) -> None:
    rows = photo_rows()
    whole = loader(rows, prefetch=0)
    expected, next_epoch = fingerprint(whole), fingerprint(whole)
    stopped = loader(rows, prefetch=prefetch)
    batches = iter(stopped)
    first = [next(batches) for _ in range(taken)]
    state = stopped.state_dict()
    restored = loader(rows, prefetch=prefetch, threads=2)
    restored.load_state_dict(state)
    assert fingerprint(first) + fingerprint(restored) == expected
    assert fingerprint(restored) == next_epoch
    del batches
    assert stopped.state_dict() == state


@pytest.mark.parametrize("prefetch", [0, 2, 50])
def test_an_epoch_that_was_left_early_is_started_anew(prefetch: int) -> None:
    ahead = loader(photo_rows(), prefetch=prefetch)
    for _ in ahead:
        break
    first = fingerprint(ahead)
    assert first == fingerprint(loader(photo_rows()))
    left = iter(ahead)
    next(left)
    ahead.set_epoch(0)
    del left
    assert ahead.state_dict() == {"epoch": 0, "batches_given": 0}
    assert fingerprint(ahead) == first


def prefetching_threads() -> int:
    return sum(thread.name.startswith("mixfit-prefetch") for thread in threading.enumerate())


def test_no_thread_is_started_without_prefetch() -> None:
    for _ in loader(photo_rows(), prefetch=0, threads=4):
        assert prefetching_threads() == 0
    for _ in loader(photo_rows(), prefetch=2, threads=2):
        assert 0 < prefetching_threads() <= 2
    assert iter(loader(photo_rows(), prefetch=2))
    assert prefetching_threads() == 0


@pytest.mark.parametrize("ending", ["break", "error", "close", "garbage", "cycle"])
def test_no_thread_is_left_whatever_ends_the_iteration(ending: str) -> None:
    batches: Any = iter(loader(photo_rows(), prefetch=3, threads=2))
    next(batches)
    assert prefetching_threads() > 0
    match ending:
        case "break":
            for _ in batches:
                break
            del batches
        case "error":
            with pytest.raises(ZeroDivisionError):
                consume(batches)
            del batches
        case "close":
            batches.close()
        case "garbage":
            del batches
        case "cycle":
            holder: list[Any] = [batches]
            holder.append(holder)
            del batches, holder
            gc.collect()
    assert prefetching_threads() == 0


def consume(batches: Any) -> None:
    for _, _ in batches:
        raise ZeroDivisionError


def test_jobs_not_begun_are_dropped_when_the_iteration_ends() -> None:
    done: list[int] = []

    def work(job: int) -> int:
        time.sleep(0.01)
        done.append(job)
        return job

    results = in_order(range(100), work, ahead=90)
    assert next(results) == 0
    results.close()
    assert len(done) < 10


def test_the_garbage_collector_may_end_an_iteration_in_its_own_thread() -> None:
    holder: list[Any] = []
    dropped = threading.Event()

    def work(job: int) -> int:
        if job == 1:
            dropped.wait(5)
            holder.clear()
        return job

    holder.append(in_order(range(3), work, ahead=1))
    assert next(holder[0]) == 0
    dropped.set()
    deadline = time.monotonic() + 5
    while prefetching_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert prefetching_threads() == 0


def test_the_garbage_collector_may_end_an_iteration_in_a_thread_that_its_threads_wait_for() -> None:
    holder: list[Any] = []
    dropped, ended = threading.Event(), []

    def work(job: int) -> int:
        if job == 1:
            dropped.wait(5)
            with ThreadPoolExecutor(1) as decoder:
                decoder.submit(holder.clear).result(timeout=20)
            ended.append(job)
        return job

    holder.append(in_order(range(3), work, ahead=1))
    assert next(holder[0]) == 0
    dropped.set()
    deadline = time.monotonic() + 30
    while prefetching_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended == [1]


def test_pixels_are_prefetched_by_default_tables_and_features_are_not(tmp_path: Path) -> None:
    features = FeatureTable(torch.randn(2 * ROWS, 5), torch.ones(2 * ROWS, dtype=torch.bool))
    table = MixedDataset(
        numeric=torch.zeros(ROWS, 1),
        categorical=torch.zeros(ROWS, 0, dtype=torch.int64),
        target=torch.zeros(ROWS),
        rows=torch.arange(ROWS),
    )
    assert loader(table).prefetch == loader(photo_rows(features)).prefetch == 0
    assert loader(TensorDataset(torch.zeros(ROWS), torch.zeros(ROWS))).prefetch == 0
    assert loader(photo_rows(ImageFiles([tmp_path] * 2 * ROWS, size=4))).prefetch > 0  # type: ignore[arg-type]


def test_a_batch_of_any_nesting_is_moved_whole() -> None:
    xb, yb = photo_rows().__getitems__([0, 1])
    moved = move({"ours": xb, "theirs": [yb, ("text", yb)]}, "meta")
    assert {tensor.device.type for tensor in tensors_of(moved)} == {"meta"}
    assert moved["theirs"][1][0] == "text"
    assert len(list(tensors_of(moved))) == len(xb.tensors()) + 2


class Pair(NamedTuple):
    first: Tensor
    second: Any


def test_sequences_stay_what_they_are_when_they_are_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", Tensor.clone)  # which needs a GPU
    pair = Pair(torch.ones(2), [torch.zeros(1), ("text", Pair(torch.ones(1), None))])
    for moved in (move(pair, "meta"), pin(pair)):
        assert isinstance(moved, Pair)
        assert type(moved.second) is list
        assert type(moved.second[1]) is tuple
        assert isinstance(moved.second[1][1], Pair)


def test_batches_go_to_the_device_of_the_loader() -> None:
    on_device = loader(photo_rows(), device="meta", prefetch=2)
    assert {tensor.device.type for batch in on_device for tensor in tensors_of(batch)} == {"meta"}
    with_dictionary = loader(Dictionaries(), device="meta")
    assert {tensor.device.type for batch in with_dictionary for tensor in tensors_of(batch)} == {"meta"}


class Dictionaries(Foreign):
    def __init__(self) -> None:
        super().__init__(KeyError())

    def __getitem__(self, index: int) -> Any:
        return {"a": torch.ones(2), "b": torch.zeros(1)}, index
