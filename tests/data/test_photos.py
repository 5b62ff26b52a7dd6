"""From cells to files: slots, order, duplicates, records of what was refused."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mixfit.data.photos.find import find_photos
from mixfit.errors import ConfigError, DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "images").mkdir(parents=True)
    for name in "abcd":
        (folder / "images" / f"{name}.jpg").write_bytes(b"not opened here")
    return folder


def table(**columns: Sequence[object]) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_one_photo_per_cell(root: Path) -> None:
    photos = find_photos(table(photo=["images/b.jpg", "images/a.jpg", "images/b.jpg"]), ["photo"], root)
    assert photos.files == (root / "images/b.jpg", root / "images/a.jpg")
    np.testing.assert_array_equal(photos.slots, [[0], [1], [0]])
    assert photos.slots.dtype == np.int64
    assert photos.slot_columns == ("photo",)
    assert photos.bad == []
    assert photos.missing_cells == {"photo": 0}


def test_half_a_surrogate_pair_is_a_wrong_name_not_an_error(root: Path) -> None:
    names = ["images/a.jpg", "images/\ud800.jpg", "\udcff", "\U0001f600.jpg"]
    photos = find_photos(table(photo=pd.Series(names, dtype=object)), ["photo"], root)
    assert photos.slots.tolist() == [[0], [-1], [-1], [-1]]
    assert [record.problem for record in photos.bad] == [
        "has a name that is not valid Unicode (half a surrogate pair)",
        "has a name that is not valid Unicode (half a surrogate pair)",
        "is missing",
    ]
    assert [record.value for record in photos.bad] == ["images/\\ud800.jpg", "\\udcff", "\U0001f600.jpg"]


def test_each_column_has_a_block_as_wide_as_its_fullest_cell(root: Path) -> None:
    frame = table(
        front=["images/a.jpg", None, "images/b.jpg"],
        rooms=["images/c.jpg; images/d.jpg ;", "images/a.jpg", " ; "],
    )
    photos = find_photos(frame, ["front", "rooms"], root)
    a, b, c, d = (photos.files.index(root / f"images/{name}.jpg") for name in "abcd")
    np.testing.assert_array_equal(photos.slots, [[a, c, d], [-1, a, -1], [b, -1, -1]])
    assert photos.slot_columns == ("front", "rooms", "rooms")
    assert photos.columns.tolist() == [0, 1, 1]
    assert photos.missing_cells == {"front": 1, "rooms": 1}


def test_files_are_numbered_by_first_use_row_by_row(root: Path) -> None:
    frame = table(x=["images/d.jpg", "images/b.jpg"], y=["images/c.jpg", "images/a.jpg"])
    photos = find_photos(frame, ["x", "y"], root)
    assert [file.stem for file in photos.files] == ["d", "c", "b", "a"]
    np.testing.assert_array_equal(photos.slots, [[0, 1], [2, 3]])


def test_two_spellings_of_a_file_are_one_file(root: Path) -> None:
    (root / "link.jpg").symlink_to("images/a.jpg")
    names = ["images/a.jpg", "./images/a.jpg", "images/../images//a.jpg", "link.jpg", "images\\a.jpg", " images/a.jpg "]
    photos = find_photos(table(photo=names), ["photo"], root)
    assert photos.files == ((root / "images/a.jpg").resolve(),)
    assert photos.bad == []


def test_equal_names_in_different_folders_are_different_files(root: Path) -> None:
    (root / "other").mkdir()
    (root / "other/a.jpg").write_bytes(b"x")
    photos = find_photos(table(photo=["images/a.jpg", "other/a.jpg"]), ["photo"], root)
    assert len(photos.files) == 2


def test_a_backslash_in_a_real_name_wins(root: Path) -> None:
    (root / "images\\a.jpg").write_bytes(b"x")
    photos = find_photos(table(photo=["images\\a.jpg"]), ["photo"], root)
    assert photos.files == (root / "images\\a.jpg",)


def test_a_refused_photo_keeps_its_place_and_is_named(root: Path) -> None:
    frame = table(photo=["images/a.jpg", "images/a.jpg; images/lost.jpg; images/b.jpg", "images/lost.jpg"])
    photos = find_photos(frame, ["photo"], root)
    np.testing.assert_array_equal(photos.slots, [[0, -1, -1], [0, -1, 1], [-1, -1, -1]])
    assert [(bad.row, bad.column, bad.value, bad.problem, bad.action) for bad in photos.bad] == [
        (1, "photo", "images/lost.jpg", "is missing", "photo treated as missing"),
        (2, "photo", "images/lost.jpg", "is missing", "photo treated as missing"),
    ]
    assert photos.missing_cells == {"photo": 0}


@pytest.mark.parametrize("dtype", ["str", "object", "category"])
def test_a_column_without_any_photo_keeps_one_empty_slot(root: Path, dtype: str) -> None:
    frame = table(photo=pd.Series([None, None], dtype=dtype))
    photos = find_photos(frame, ["photo"], root)
    np.testing.assert_array_equal(photos.slots, [[-1], [-1]])
    assert photos.files == ()
    assert photos.missing_cells == {"photo": 2}


def test_missing_cells_of_every_kind_are_counted_and_are_not_bad(root: Path) -> None:
    cells = pd.Series([None, np.nan, pd.NA, "", "  ", ";", "images/a.jpg"], dtype=object)
    photos = find_photos(table(photo=cells), ["photo"], root)
    assert photos.missing_cells == {"photo": 6}
    assert photos.bad == []


def test_rows_count_by_position_not_by_index(root: Path) -> None:
    frame = table(photo=["images/a.jpg", "lost.jpg"]).set_index(pd.Index([70, 50]))
    assert [bad.row for bad in find_photos(frame, ["photo"], root).bad] == [1]


def test_no_rows_and_no_columns(root: Path) -> None:
    assert find_photos(table(photo=[]), ["photo"], root).slots.shape == (0, 1)
    photos = find_photos(table(photo=["a", "b"]), [], root / "no such folder")
    assert photos.slots.shape == (2, 0)
    assert photos.slot_columns == ()


def test_a_missing_root_names_the_folder_and_the_flag(root: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist; .* --images DIR"):
        find_photos(table(photo=["a.jpg"]), ["photo"], root / "nowhere")
    with pytest.raises(DataError, match=r"a\.jpg is not a folder; .* --images DIR"):
        find_photos(table(photo=["a.jpg"]), ["photo"], root / "images/a.jpg")


def test_an_unknown_column_is_a_config_error(root: Path) -> None:
    with pytest.raises(ConfigError, match="no image column 'foto'; its columns are photo"):
        find_photos(table(photo=["a.jpg"]), ["foto"], root)


def test_many_files_of_nothing_are_told_apart_from_the_one_with_something(root: Path) -> None:
    for number in range(500):
        os.mknod(root / f"images/{number}.jpg")
    os.truncate(root / "images/0.jpg", 1)
    frame = table(photo=[f"images/{number}.jpg" for number in range(500)])
    photos = find_photos(frame, ["photo"], root)
    assert len(photos.files) == 1
    assert {bad.problem for bad in photos.bad} == {"is empty (0 bytes)"}


@pytest.mark.skipif("MIXFIT_DATA" not in os.environ, reason="MIXFIT_DATA is not set")
def test_the_houses_have_four_photos_each() -> None:
    folder = Path(os.environ["MIXFIT_DATA"]) / "houses"
    frame = pd.read_csv(folder / "table.csv")
    columns = [f"{room}_image" for room in ("frontal", "bedroom", "bathroom", "kitchen")]
    photos = find_photos(frame, columns, folder)
    assert photos.slots.shape == (535, 4)
    assert (photos.slots >= 0).all()
    assert photos.bad == []
    assert photos.files[photos.slots[17, 2]].name == Path(frame["bathroom_image"][17]).name
