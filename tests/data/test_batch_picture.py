"""Pictures of training rows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mixfit.data.batch_picture import shown_pixels
from mixfit.data.dataset import FeatureTable
from mixfit.data.load import MixedData, load_data
from mixfit.data.transforms.augment import augmentation
from mixfit.data.transforms.transform import Normalize
from mixfit.errors import ConfigError


def data(table: Path, **settings: Any) -> MixedData:
    return load_data(table, target="price", image_size=32, **settings)


def pictures(figure: Any) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for axes in figure.axes for image in axes.get_images()]


def words(figure: Any) -> str:
    return "\n".join(
        [axes.get_title() for axes in figure.axes] + [text.get_text() for a in figure.axes for text in a.texts]
    )


def test_the_rows_are_training_rows_with_their_photos_target_and_cells(demo_table: Path) -> None:
    mixed = data(demo_table)
    figure = mixed.show_batch(6)
    titles = [axes.get_title().splitlines() for axes in figure.axes if axes.get_title()]
    assert len(titles) == 6
    for row, target in titles:
        number = int(row.removeprefix("row "))
        assert number in mixed.split.train
        assert target == f"price: {mixed.frame['price'].iloc[number]}"[:26]
        assert f"maker: {mixed.frame['maker'].iloc[number]}"[:20] in words(figure)
    for picture in pictures(figure):
        assert picture.dtype == np.uint8
        assert picture.shape[0] == 32
        assert picture.shape[1] % 32 == 0


def test_photos_are_shown_as_they_were_before_they_were_normalised(demo_table: Path) -> None:
    normal = Normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.3))
    plain, normalised = (data(demo_table, transforms=part).show_batch(4) for part in ((), (normal,)))
    assert len(pictures(plain)) == len(pictures(normalised)) > 0
    for one, other in zip(pictures(plain), pictures(normalised), strict=True):
        np.testing.assert_array_equal(one, other)


def test_photos_are_augmented_as_the_network_sees_them(demo_table: Path) -> None:
    plain, changed = (data(demo_table, transforms=part) for part in ((), augmentation("standard")))
    one, other = pictures(plain.show_batch(4)), pictures(changed.show_batch(4))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_pixels_are_shown_where_the_network_sees_features(demo_table: Path) -> None:
    mixed = data(demo_table)
    assert mixed.photos is not None
    count = len(mixed.photos.files)
    features = FeatureTable(torch.zeros(count, 4), torch.ones(count, dtype=torch.bool))
    one, other = pictures(mixed.show_batch(4)), pictures(mixed.with_features(features).show_batch(4))
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_table_without_photos_has_a_picture_and_dollars_are_dollars(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": ["$x$ and $y", "b\x1b$"] * 20, "y": np.arange(40.0)})
    figure = load_data(frame, target="y").show_batch()
    assert "no photo" in words(figure)
    figure.savefig(tmp_path / "picture.png")
    assert "$x$ and $y" in words(figure)
    assert "\x1b" not in words(figure)


def test_a_picture_has_as_many_rows_as_there_are_at_most(demo_table: Path) -> None:
    mixed = data(demo_table)
    few = replace(mixed, split=replace(mixed.split, train=mixed.split.train[:3]))
    assert sum(bool(axes.get_title()) for axes in few.show_batch().axes) == 3
    with pytest.raises(ConfigError, match="rows must be at least 1, got 0"):
        mixed.show_batch(0)


def test_photos_that_somebody_else_normalised_are_refused(demo_table: Path) -> None:
    mixed = data(demo_table)
    xb, _ = next(iter(mixed.train))
    assert xb.images is not None
    strange = replace(xb, images=xb.images.float(), normalized=True)
    with pytest.raises(ConfigError, match=r"normalised, but not by mixfit\.data\.Normalize"):
        shown_pixels(strange, mixed.transforms)
