"""Dataset, collate, transforms and loader together: what ``for xb, yb in loader`` promises."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import TensorDataset

from mixfit.data.batch import Inputs, collate, concatenate
from mixfit.data.dataset import FeatureTable, MixedDataset
from mixfit.data.loader import DataLoader
from mixfit.data.sampler import SequentialSampler, ShuffledSampler
from mixfit.data.transforms.transform import Compose, RandomHorizontalFlip
from mixfit.errors import ConfigError, DataError
from mixfit.seeding import RowRandom

SIZE = 4


class DrawnPhotos:
    """Photo i has the value i everywhere but in its left column, which is 0; photo 3 is broken."""

    size = SIZE

    def __init__(self, count: int) -> None:
        self.count = count
        self.failures: dict[int, str] = {}

    def __len__(self) -> int:
        return self.count

    def read(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(indices.astype(np.uint8))[:, None, None, None].repeat(1, 3, SIZE, SIZE)
        pixels[..., 0] = 0
        readable = torch.from_numpy(indices != 3)
        return pixels, readable


# Two image columns: the first holds up to two photos a row, the second one. Row 2 has none; row 3's only one is broken.
SLOTS = torch.tensor([[0, 1, 2], [4, -1, 5], [-1, -1, -1], [3, -1, -1], [0, -1, -1]])
COLUMNS = torch.tensor([0, 0, 1])


def dataset(photos: DrawnPhotos | FeatureTable | None = None, *, weight: Tensor | None = None) -> MixedDataset:
    rows = len(SLOTS)
    return MixedDataset(
        numeric=torch.arange(2.0 * rows).reshape(rows, 2),
        categorical=torch.arange(rows)[:, None],
        target=torch.arange(float(rows)),
        rows=torch.arange(rows) + 100,
        slots=None if photos is None else SLOTS,
        columns=None if photos is None else COLUMNS,
        photos=photos,
        weight=weight,
    )


def assert_same(first: Inputs, second: Inputs) -> None:
    for name in ("numeric", "categorical", "rows", "images", "features", "image_mask", "image_column", "weight"):
        a, b = getattr(first, name), getattr(second, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert torch.equal(a, b), name


def test_a_row_has_its_photos_from_the_left_with_their_columns() -> None:
    xb, yb = dataset(DrawnPhotos(6)).__getitems__([1, 0])
    assert xb.images is not None
    assert xb.image_mask is not None
    assert xb.images[:, :, 0, 0, 1].tolist() == [[4, 5, 0], [0, 1, 2]]
    assert xb.image_mask.tolist() == [[True, True, False], [True, True, True]]
    assert xb.image_column is not None
    assert xb.image_column.tolist() == [[0, 1, 0], [0, 0, 1]]
    assert yb.tolist() == [1, 0]
    assert xb.rows.tolist() == [101, 100]


def test_an_unreadable_photo_is_masked_and_the_row_stays() -> None:
    xb, yb = dataset(DrawnPhotos(6)).__getitems__([3])
    assert xb.image_mask is not None
    assert not xb.image_mask.any()
    assert xb.numeric.tolist() == [[6.0, 7.0]]
    assert len(yb) == len(xb) == 1


def test_there_are_as_many_places_as_the_fullest_row_has_photos() -> None:
    """Not as many as there are places that any row uses: these rows use three between them."""
    slots = torch.tensor([[0, -1, -1, -1], [-1, 1, -1, 4], [-1, -1, 2, -1]])
    rows = MixedDataset(
        numeric=torch.zeros(3, 1),
        categorical=torch.zeros(3, 0, dtype=torch.int64),
        target=torch.zeros(3),
        rows=torch.arange(3),
        slots=slots,
        columns=torch.tensor([0, 1, 2, 2]),
        photos=DrawnPhotos(6),
    )
    xb, _ = rows.__getitems__([0, 2, 1])
    assert xb.images is not None
    assert xb.images[:, :, 0, 0, 1].tolist() == [[0, 0], [2, 0], [1, 4]]
    assert xb.image_column is not None
    assert xb.image_column.tolist() == [[0, 0], [2, 0], [1, 2]]
    joined, _ = collate([rows[0], rows[2], rows[1]])
    assert_same(joined, xb)


def test_places_that_no_row_of_the_batch_uses_are_left_out() -> None:
    xb, _ = dataset(DrawnPhotos(6)).__getitems__([2, 4])
    assert xb.images is not None
    assert xb.images.shape == (2, 1, 3, SIZE, SIZE)
    alone, _ = dataset(DrawnPhotos(6)).__getitems__([2])
    assert alone.image_mask is not None
    assert alone.image_mask.shape == (1, 0)


@pytest.mark.parametrize("photos", [None, DrawnPhotos(6), FeatureTable(torch.randn(6, 5), torch.arange(6) != 3)])
def test_items_collated_equal_the_batch_fetched_at_once(photos: DrawnPhotos | FeatureTable | None) -> None:
    rows = dataset(photos, weight=torch.rand(5))
    chosen = [0, 4, 2]
    whole, target = rows.__getitems__(chosen)
    joined, joined_target = collate([rows[i] for i in chosen])
    assert torch.equal(target, joined_target)
    assert_same(whole, joined)


def test_rows_without_any_photo_field_join_rows_with_photos() -> None:
    with_photos, _ = dataset(DrawnPhotos(6)).__getitems__([0])
    without, _ = dataset().__getitems__([1])
    joined = concatenate([without, with_photos])
    assert joined.images is not None
    assert joined.image_mask is not None
    assert joined.image_mask.tolist() == [[False] * 3, [True] * 3]
    assert torch.equal(joined.images[1:], with_photos.images)  # type: ignore[arg-type]
    assert joined.image_column is not None
    assert joined.image_column.tolist() == [[0, 0, 0], [0, 0, 1]]


def test_texts_are_fetched_with_their_rows_and_joined_with_rows_without_any() -> None:
    text, mask = torch.randn(5, 2, 3), torch.tensor([[1, 1], [0, 1], [0, 0], [1, 0], [1, 1]]).bool()
    data = replace(dataset(), text=text, text_mask=mask)
    xb, _ = data.__getitems__([4, 1])
    assert xb.text is not None
    assert xb.text_mask is not None
    assert torch.equal(xb.text, text[[4, 1]])
    assert torch.equal(xb.text_mask, mask[[4, 1]])
    one, _ = collate([data[4], data[1]])
    assert torch.equal(one.text, xb.text)
    assert torch.equal(one.text_mask, xb.text_mask)
    plain, _ = dataset().__getitems__([0, 2, 3])
    for parts in ([plain, xb], [xb, plain]):
        joined = concatenate(parts)
        assert joined.text is not None
        assert joined.text_mask is not None
        assert joined.text_mask.tolist() == [
            row for part in parts for row in ([[False] * 2] * 3 if part is plain else [[True] * 2, [False, True]])
        ]
        assert torch.equal(joined.text[joined.text_mask], xb.text[xb.text_mask])
        assert torch.equal(joined.rows, torch.cat([part.rows for part in parts]))
    assert concatenate([plain, plain]).text is None


def test_texts_without_their_mask_are_refused() -> None:
    with pytest.raises(DataError, match="needs both text and text_mask, or neither"):
        replace(dataset(), text=torch.zeros(5, 2, 3))
    with pytest.raises(DataError, match="needs both text and text_mask, or neither"):
        replace(dataset(), text_mask=torch.ones(5, 2, dtype=torch.bool))


def test_rows_with_and_without_weight_are_not_joined() -> None:
    weighted, _ = dataset(weight=torch.rand(5)).__getitems__([0])
    with pytest.raises(DataError, match="1 of 2 parts have no row weights"):
        concatenate([weighted, dataset().__getitems__([1])[0]])


def test_features_stand_in_for_pixels() -> None:
    table = FeatureTable(torch.arange(12.0).reshape(6, 2), torch.arange(6) != 3)
    xb, _ = dataset(table).__getitems__([0, 3])
    assert xb.images is None
    assert xb.features is not None
    assert xb.features[0].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert xb.image_mask is not None
    assert xb.image_mask.tolist() == [[True, True, True], [False, False, False]]


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(DataError, match=r"same number of rows, got .*'target': 2"):
        MixedDataset(
            numeric=torch.zeros(3, 1),
            categorical=torch.zeros(3, 0, dtype=torch.int64),
            target=torch.zeros(2),
            rows=torch.arange(3),
        )
    with pytest.raises(DataError, match="both slots and photos, or neither"):
        MixedDataset(
            numeric=torch.zeros(5, 1),
            categorical=torch.zeros(5, 0, dtype=torch.int64),
            target=torch.zeros(5),
            rows=torch.arange(5),
            slots=SLOTS,
        )
    with pytest.raises(DataError, match="columns must give the image column of each of 3 places, got 2"):
        replace(dataset(DrawnPhotos(6)), columns=torch.tensor([0, 1]))


def test_inputs_can_be_moved_and_cut() -> None:
    xb, _ = dataset(DrawnPhotos(6)).__getitems__([0, 1, 2])
    assert_same(xb[[2, 0]], xb[torch.tensor([2, 0])])
    assert xb[1:].rows.tolist() == [101, 102]
    assert xb.to("meta").numeric.device.type == "meta"
    assert xb.image_column is not None
    assert torch.equal(xb[[2, 0]].image_column, xb.image_column[[2, 0]])  # type: ignore[arg-type]
    assert xb.to("meta").image_column.device.type == "meta"  # type: ignore[union-attr]


def test_an_epoch_of_the_loader_is_the_dataset_cut_into_batches() -> None:
    rows = dataset(DrawnPhotos(6))
    loader = DataLoader(rows, SequentialSampler(5, 2))
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    for (xb, yb), chosen in zip(batches, ([0, 1], [2, 3], [4]), strict=True):
        expected, target = rows.__getitems__(chosen)
        assert_same(xb, expected)
        assert torch.equal(yb, target)


@pytest.mark.parametrize("workers", [0, 2])
def test_our_dataset_works_in_pytorchs_loader(workers: int) -> None:
    rows = dataset(DrawnPhotos(6))
    theirs = TorchDataLoader(rows, batch_size=2, collate_fn=collate, num_workers=workers)
    for (xb, yb), (expected, target) in zip(theirs, DataLoader(rows, SequentialSampler(5, 2)), strict=True):
        assert_same(xb, expected)
        assert torch.equal(yb, target)


def test_pytorchs_dataset_works_in_our_loader() -> None:
    x, y = torch.randn(7, 3), torch.arange(7)
    batches = list(DataLoader(TensorDataset(x, y), ShuffledSampler(7, 3, seed=1)))
    order = torch.cat([yb for _, yb in batches])
    assert sorted(order.tolist()) == list(range(7))
    assert torch.equal(torch.cat([xb for xb, _ in batches]), x[order])


def test_every_epoch_is_shuffled_anew_and_can_be_repeated() -> None:
    loader = DataLoader(dataset(), ShuffledSampler(5, 2, seed=1))
    first, second = ([xb.rows.tolist() for xb, _ in loader] for _ in range(2))
    assert first != second
    loader.set_epoch(0)
    assert [xb.rows.tolist() for xb, _ in loader] == first


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_a_restored_loader_goes_on_with_the_next_batch(taken: int) -> None:
    expected = [xb.rows.tolist() for xb, _ in DataLoader(dataset(), ShuffledSampler(5, 2, seed=4))]
    loader = DataLoader(dataset(), ShuffledSampler(5, 2, seed=4))
    batches = iter(loader)
    for _ in range(taken):
        next(batches)
    state = loader.state_dict()
    restored = DataLoader(dataset(), ShuffledSampler(5, 2, seed=4))
    restored.load_state_dict(state)
    assert [xb.rows.tolist() for xb, _ in restored] == expected[taken:]


def flips(batches: Sequence[tuple[Inputs, Tensor]]) -> dict[int, bool]:
    """Row -> whether its first photo was mirrored: the dark column is then on the right."""
    found = {}
    for xb, _ in batches:
        assert xb.images is not None
        for row, image in zip(xb.rows.tolist(), xb.images[:, 0, 0, 0], strict=True):
            found[row] = bool(image[-1] == 0)
    return found


def test_a_row_is_augmented_alike_whatever_its_batch() -> None:
    pixels = DrawnPhotos(6)
    rows = MixedDataset(
        numeric=torch.zeros(40, 1),
        categorical=torch.zeros(40, 0, dtype=torch.int64),
        target=torch.zeros(40),
        rows=torch.arange(40),
        slots=torch.ones(40, 1, dtype=torch.int64),
        photos=pixels,
    )

    def run(batch_size: int, seed: int = 0, epoch: int = 0) -> dict[int, bool]:
        sampler = ShuffledSampler(40, batch_size, seed=seed)
        sampler.set_epoch(epoch)
        return flips(list(DataLoader(rows, sampler, transforms=[RandomHorizontalFlip()], training=True)))

    assert run(3) == run(17)
    assert run(3) != run(3, epoch=1)
    assert run(3) != run(3, seed=1)
    assert 8 < sum(run(40).values()) < 32


def test_transforms_for_training_are_skipped_otherwise() -> None:
    loader = DataLoader(dataset(DrawnPhotos(6)), SequentialSampler(5, 5), transforms=[RandomHorizontalFlip(1.0)])
    plain = DataLoader(dataset(DrawnPhotos(6)), SequentialSampler(5, 5))
    assert_same(next(iter(loader))[0], next(iter(plain))[0])


def test_flipping_all_mirrors_the_pixels_and_leaves_the_given_batch_alone() -> None:
    xb, yb = dataset(DrawnPhotos(6)).__getitems__([0, 1])
    assert xb.images is not None
    before = xb.images.clone()
    flip = Compose([RandomHorizontalFlip(1.0), RandomHorizontalFlip(0.0)])
    flipped, _ = flip((xb, yb), RowRandom(0, 0, xb.rows))
    assert torch.equal(xb.images, before)
    assert flipped.images is not None
    assert torch.equal(flipped.images, before.flip(-1))
    table_only = dataset().__getitems__([0])
    assert flip(table_only, RowRandom(0, 0, table_only[0].rows)) is table_only


def test_a_probability_beyond_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"p must be between 0 and 1, got 1\.5"):
        RandomHorizontalFlip(1.5)
