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
from torch import Tensor
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset

from mixfit.data.batch import collate
from mixfit.data.dataset import FeatureTable, MixedDataset
from mixfit.data.device_copy import move, pin, tensors_of
from mixfit.data.loader import DataLoader
from mixfit.data.prefetch import in_order
from mixfit.data.sampler import Sampler, SequentialSampler, ShuffledSampler
from mixfit.data.samplers import BalancedSampler, GroupedSampler, ShardedSampler, WeightedSampler
from mixfit.data.store import ImageFiles
from mixfit.data.transform import RandomHorizontalFlip
from mixfit.errors import ConfigError, DataError, ResourceError

ROWS, BATCH, SIZE = 23, 4, 4


class SlowPhotos:
    """Photo i is filled with i + a gradient; odd batches take longer, so that results come in out of order."""

    size = SIZE

    def __init__(self, count: int) -> None:
        self.files = tuple(Path("photos") / f"{i}.jpg" for i in range(count))
        self.failures: dict[int, str] = {}
        self.broken: dict[int, BaseException] = {}
        self.reads = 0

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        self.reads += 1
        time.sleep(0.002 * (int(indices.sum()) % 3))
        for index in indices.tolist():
            if index in self.broken:
                raise self.broken[index]
        pixels = torch.from_numpy(indices.astype(np.uint8))[:, None, None, None].repeat(1, 3, SIZE, SIZE)
        return pixels + torch.arange(SIZE, dtype=torch.uint8), torch.ones(len(indices), dtype=torch.bool)


def photo_rows(source: SlowPhotos | FeatureTable | None = None, *, ragged: bool = False) -> MixedDataset:
    """Row i of the dataset is row i + 100 of its table and has the photos 2 i and 2 i + 1."""
    slots = torch.arange(2 * ROWS).reshape(ROWS, 2)
    if ragged:
        slots[::3, 1] = -1
        slots[::5] = -1
    return MixedDataset(
        numeric=torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0)),
        categorical=torch.arange(ROWS)[:, None],
        target=torch.arange(float(ROWS)),
        rows=torch.arange(ROWS) + 100,
        slots=slots,
        photos=SlowPhotos(2 * ROWS) if source is None else source,
    )


def loader(rows: Any, **settings: Any) -> DataLoader:
    return DataLoader(rows, ShuffledSampler(ROWS, BATCH, seed=5), **settings)


def fingerprint(batches: Any) -> list[tuple[Any, ...]]:
    """Every byte, shape and type of some batches."""
    return [
        tuple((t.dtype, tuple(t.shape), t.contiguous().numpy().tobytes()) for t in tensors_of([xb, yb]))
        for xb, yb in batches
    ]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


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


@pytest.mark.parametrize("prefetch", [0, 2])
def test_f35_an_error_while_fetching_names_row_and_file(prefetch: int) -> None:
    source = SlowPhotos(2 * ROWS)
    source.broken = {21: OSError("disk gone")}
    batches = loader(photo_rows(source), prefetch=prefetch)
    message = r"Could not fetch row 110, photos.20\.jpg, photos.21\.jpg: OSError: disk gone"
    with pytest.raises(DataError, match=message) as caught:
        list(batches)
    assert isinstance(caught.value.__cause__, OSError)
    source.broken = {21: ResourceError("no memory for it")}
    with pytest.raises(ResourceError, match=r"row 110, .*21\.jpg: no memory for it"):
        list(batches)
    source.broken = {}
    assert len(list(batches)) == len(batches)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_batches_before_the_broken_one_arrive(prefetch: int) -> None:
    source = SlowPhotos(2 * ROWS)
    source.broken = {2 * 9: OSError("disk gone")}
    batches = iter(DataLoader(photo_rows(source), SequentialSampler(ROWS, BATCH), prefetch=prefetch))
    assert [yb.tolist() for _, yb in (next(batches), next(batches))] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(DataError, match="row 109"):
        next(batches)


class Foreign(TorchDataset[Any]):
    """Somebody else's dataset, item by item."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 17:
            raise self.error
        return torch.ones(2), index


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("error", [KeyError("age"), StopIteration(), ValueError("bad")])
def test_an_error_of_a_foreign_dataset_names_the_row(prefetch: int, error: Exception) -> None:
    with pytest.raises(DataError, match=f"Could not fetch row 17: {type(error).__name__}"):
        list(loader(Foreign(error), prefetch=prefetch))


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_what_is_no_fault_of_a_row_passes_through(prefetch: int, error: type[BaseException]) -> None:
    with pytest.raises(error):
        list(loader(Foreign(error()), prefetch=prefetch))


def test_an_error_of_the_whole_batch_names_its_rows() -> None:
    class Whole(Foreign):
        def __getitems__(self, indices: list[int]) -> Any:
            raise RuntimeError("too many at once")

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return torch.ones(2), index

    message = "one of 4 rows from row 0 on .each alone can be fetched.: RuntimeError: too many"
    with pytest.raises(DataError, match=message):
        list(DataLoader(Whole(KeyError()), SequentialSampler(ROWS, BATCH)))


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_an_error_in_a_transform_names_the_rows(prefetch: int, device: str) -> None:
    class Failing(RandomHorizontalFlip):
        error: Exception = ZeroDivisionError("no pixel")

        def __call__(self, batch: Any, random: Any) -> Any:
            raise self.error

    failing = Failing()
    batches = DataLoader(
        photo_rows(),
        SequentialSampler(ROWS, 7),
        transforms=[failing],
        training=True,
        prefetch=prefetch,
        device=device,
    )
    expected = "Could not transform the batch of rows 100, 101, 102, 103, 104 and 2 more: "
    with pytest.raises(DataError, match=f"{expected}ZeroDivisionError: no pixel") as caught:
        list(batches)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    failing.error = ConfigError("p is wrong")
    with pytest.raises(ConfigError, match=f"{expected}p is wrong"):
        list(batches)
    failing.error = MemoryError()
    with pytest.raises(MemoryError):
        list(batches)


def test_an_error_while_collating_names_the_rows() -> None:
    def refuse(items: Any) -> Any:
        raise KeyError("age")

    with pytest.raises(DataError, match="Could not collate the batch of rows 100, 101, 102, 103: KeyError: 'age'"):
        list(DataLoader(photo_rows(), SequentialSampler(ROWS, BATCH), collate_function=refuse))
    with pytest.raises(DataError, match=r"Could not collate the batch of rows 0, 1, 2, 3: RuntimeError: .*size"):
        list(DataLoader(Ragged(), SequentialSampler(ROWS, BATCH)))


def samplers_of_too_many_rows() -> list[Sampler]:
    rows = ROWS + 1
    shuffled = ShuffledSampler(rows, 4)
    return [
        SequentialSampler(rows, 4),
        shuffled,
        WeightedSampler(np.ones(rows), 4, draws=3),
        BalancedSampler(np.arange(rows), 4, draws=3),
        GroupedSampler(np.ones(rows, dtype=np.int64), 4),
        ShardedSampler(shuffled, rank=0, ranks=2),
    ]


@pytest.mark.parametrize("sampler", samplers_of_too_many_rows(), ids=lambda sampler: type(sampler).__name__)
def test_a_sampler_of_more_rows_than_the_dataset_has_is_refused(sampler: Sampler) -> None:
    with pytest.raises(ConfigError, match=f"The sampler is for {ROWS + 1} rows, and the dataset has {ROWS}: make"):
        DataLoader(photo_rows(), sampler)


@pytest.mark.parametrize("rows", [photo_rows(), TensorDataset(torch.zeros(ROWS), torch.zeros(ROWS))])
def test_a_row_beyond_the_dataset_is_named(rows: Any) -> None:
    class Foreign(Sampler):
        def order(self) -> np.ndarray:
            return np.array([0, 1, ROWS + 4])

    with pytest.raises(DataError, match=f"The sampler asked for row {ROWS + 4} of a dataset that has {ROWS} rows"):
        list(DataLoader(rows, Foreign(3, 2)))


def test_a_sampler_may_draw_more_often_than_there_are_rows() -> None:
    drawn = DataLoader(photo_rows(), WeightedSampler(np.ones(ROWS), 4, draws=3 * ROWS))
    assert sum(len(yb) for _, yb in drawn) == 3 * ROWS


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


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="prefetch must be at least 0 batches, got -1"):
        loader(photo_rows(), prefetch=-1)
    with pytest.raises(ConfigError, match="threads must be at least 1, got 0; prefetch=0 uses none"):
        loader(photo_rows(), threads=0)


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


class Ragged(Foreign):
    """Items of different lengths, which PyTorch's collate cannot join."""

    def __init__(self) -> None:
        super().__init__(KeyError())

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.ones(index), index


class Dictionaries(Foreign):
    def __init__(self) -> None:
        super().__init__(KeyError())

    def __getitem__(self, index: int) -> Any:
        return {"a": torch.ones(2), "b": torch.zeros(1)}, index
