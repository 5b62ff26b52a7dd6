"""What goes wrong while a batch is made says which row it was, and settings that cannot work are refused."""

from typing import Any

import numpy as np
import pytest
import torch
from loader_parts import BATCH, ROWS, Foreign, SlowPhotos, loader, no_thread_is_left, photo_rows  # noqa: F401 - a fixture
from torch import Tensor
from torch.utils.data import TensorDataset

from mixfit.data.loader import DataLoader
from mixfit.data.sampler import (
    BalancedSampler,
    GroupedSampler,
    Sampler,
    SequentialSampler,
    ShardedSampler,
    ShuffledSampler,
    WeightedSampler,
)
from mixfit.data.transforms.transform import RandomHorizontalFlip
from mixfit.errors import ConfigError, DataError, ResourceError


class Ragged(Foreign):
    """Items of different lengths, which PyTorch's collate cannot join."""

    def __init__(self) -> None:
        super().__init__(KeyError())

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.ones(index), index


@pytest.mark.parametrize("prefetch", [0, 2])
def test_f35_an_error_while_fetching_names_row_and_file(prefetch: int) -> None:
    source = SlowPhotos(2 * ROWS)
    source.broken = {21: OSError("disk gone")}
    batches = loader(photo_rows(source), prefetch=prefetch)
    message = r"Could not read row 110, photos.20\.jpg, photos.21\.jpg: OSError: disk gone"
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


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("error", [KeyError("age"), StopIteration(), ValueError("bad")])
def test_an_error_of_a_foreign_dataset_names_the_row(prefetch: int, error: Exception) -> None:
    with pytest.raises(DataError, match=f"Could not read row 17: {type(error).__name__}"):
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

    message = "one of 4 rows starting at row 0 .each can be read alone.: RuntimeError: too many"
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
    with pytest.raises(ConfigError, match=f"The sampler is for {ROWS + 1} rows, but the dataset has {ROWS}: create"):
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


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="prefetch must be at least 0 batches, got -1"):
        loader(photo_rows(), prefetch=-1)
    with pytest.raises(ConfigError, match="threads must be at least 1, got 0; prefetch=0 uses none"):
        loader(photo_rows(), threads=0)
