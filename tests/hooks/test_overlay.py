import matplotlib
import numpy as np
import pytest
import torch

from mixfit.hooks.heat import heat_figure, overlay

PHOTO = torch.randint(0, 256, (3, 12, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_where_there_is_no_heat_the_photo_is_grey_and_where_it_is_hot_it_has_the_hottest_colour() -> None:
    heat = torch.zeros(12, 10)
    heat[3, 4] = 1.0
    picture = np.asarray(overlay(PHOTO, heat, colours="inferno", opacity=1.0)).astype(float)
    assert picture.shape == (12, 10, 3)
    cold = np.delete(picture.reshape(-1, 3), 3 * 10 + 4, axis=0)
    assert (cold == cold[:, :1]).all()
    grey = np.asarray(PHOTO.permute(1, 2, 0)) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(np.delete(grey.ravel(), 3 * 10 + 4) - cold[:, 0]).max() <= 0.5
    assert np.abs(picture[3, 4] - 255 * np.array(matplotlib.colormaps["inferno"](1.0)[:3])).max() <= 0.5


def test_a_warmer_place_is_coloured_more() -> None:
    grey = torch.full((3, 1, 3), 0.5)
    picture = np.asarray(overlay(grey, torch.tensor([[0.0, 0.2, 1.0]]))).astype(float)[0]
    spread = picture.max(1) - picture.min(1)
    assert spread[0] == 0
    assert spread[0] < spread[1] < spread[2]


def test_bytes_and_floats_give_the_same_picture() -> None:
    heat = torch.rand(12, 10, generator=torch.Generator().manual_seed(1))
    assert overlay(PHOTO, heat).tobytes() == overlay(PHOTO / 255, heat).tobytes()


@pytest.mark.parametrize("photos", [1, 3])
def test_every_photo_of_a_row_is_in_its_figure_above_its_heat(photos: int) -> None:
    heats = [torch.full((12, 10), place / 4) for place in range(photos)]
    names = [f"${place}_front.jpg" for place in range(photos)]
    figure = heat_figure([PHOTO] * photos, heats, names, title="row 3: 12 $")
    figure.canvas.draw()
    pictures = [axes.get_images()[0].get_array() for axes in figure.axes]
    assert len(pictures) == 2 * photos
    assert [axes.get_title() for axes in figure.axes[:photos]] == names
    assert figure.get_suptitle() == "row 3: 12 $"
    for place in range(photos):
        np.testing.assert_allclose(pictures[place], PHOTO.permute(1, 2, 0) / 255)
        np.testing.assert_array_equal(pictures[photos + place], np.asarray(overlay(PHOTO, heats[place])))


def test_a_row_without_photo_has_a_figure_that_says_so() -> None:
    figure = heat_figure([], [], title="row 1")
    figure.canvas.draw()
    assert [text.get_text() for text in figure.texts] == ["row 1", "no photo"]
    assert figure.axes == []
