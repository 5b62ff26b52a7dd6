"""Copies of rows and photos: which are told, and which training does without."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mixfit.config import DataConfig
from mixfit.data.checks.copies import COPY_LEFT_OUT, equal_photos, row_copies, without_copies
from mixfit.data.checks.photos import equal_files
from mixfit.data.checks.table import parts_of
from mixfit.data.columns.infer import infer_schema
from mixfit.data.load import load_data
from mixfit.data.photos.find import find_photos
from mixfit.data.split import split_rows
from mixfit.errors import DataError

ROWS = 30


def table() -> pd.DataFrame:
    """Rows 0 to 19 train, 20 to 24 choose the epoch, 25 to 29 judge."""
    rng = np.random.default_rng(0)
    split = ["train"] * 20 + ["valid"] * 5 + ["test"] * 5
    return pd.DataFrame({"house_id": np.arange(ROWS) + 70, "a": rng.normal(size=ROWS), "split": split, "y": rng.normal(size=ROWS)})  # fmt: skip  # noqa: E501


def left_out(frame: pd.DataFrame, photos: Path | None = None) -> dict[int, str]:
    schema = infer_schema(frame, "y")
    split = split_rows(frame, schema)
    found = None if photos is None else find_photos(frame, ["photo"], photos)
    kept, records = without_copies(frame, schema, split, found)
    assert all(record.action == COPY_LEFT_OUT for record in records)
    assert sorted([*kept.train, *kept.valid, *(record.row for record in records)]) == sorted(
        [*split.train, *split.valid]
    )
    left = [record.row for record in records]
    np.testing.assert_array_equal(kept.valid, np.setdiff1d(split.valid, left))
    np.testing.assert_array_equal(kept.test, split.test)
    return {record.row: record.problem for record in records}


def test_training_rows_that_equal_rows_that_judge_are_left_out() -> None:
    frame = table()
    assert left_out(frame) == {}
    frame.loc[3, ["a", "y"]] = frame.loc[21, ["a", "y"]]
    frame.loc[[7, 8], ["a", "y"]] = frame.loc[[29, 29], ["a", "y"]].to_numpy()
    frame.loc[11, ["a", "y"]] = frame.loc[12, ["a", "y"]]  # both train
    frame.loc[23, ["a", "y"]] = frame.loc[28, ["a", "y"]]  # both judge, but the folds of a preset fit on the first
    frame.loc[15, "a"] = frame.loc[26, "a"]  # another target
    assert left_out(frame) == {
        3: "equals row 21, which is in valid",
        7: "equals row 29, which is in test",
        8: "equals row 29, which is in test",
        23: "equals row 28, which is in test",
    }


def test_training_rows_with_a_photo_of_a_row_that_judges_are_left_out_but_not_for_a_placeholder(tmp_path: Path) -> None:
    frame = table().assign(photo=[f"{row}.bmp" for row in range(ROWS)])
    for row in range(ROWS):
        Image.new("RGB", (8, 8), (row, 0, 0)).save(tmp_path / f"{row}.bmp")
    (tmp_path / "2.bmp").write_bytes((tmp_path / "27.bmp").read_bytes())
    frame.loc[2, "y"] = frame.loc[27, "y"]
    for row in (4, 5, 22):
        (tmp_path / f"{row}.bmp").write_bytes((tmp_path / "28.bmp").read_bytes())
    assert left_out(frame, tmp_path) == {2: "has a photo of row 27, which is in test"}


def test_a_table_whose_training_rows_are_all_copies_is_refused() -> None:
    judging = pd.concat([table()] * 2, ignore_index=True).assign(a=np.arange(60) / 7, split=["valid", "test"] * 30)
    frame = pd.concat([*[judging.assign(split="train")] * 3, judging], ignore_index=True)
    with pytest.raises(
        DataError, match="All 180 training rows are copies of validation or test rows: leave --dedup out"
    ):
        left_out(frame)


def test_load_data_learns_from_the_rows_that_are_left(tmp_path: Path) -> None:
    frame = table()
    frame.loc[3, ["a", "y"]] = frame.loc[21, ["a", "y"]]
    plain, without = (load_data(frame, target="y", config=DataConfig(dedup=dedup)) for dedup in (False, True))
    assert 3 in plain.split.train
    assert 3 not in without.split.train
    assert [(record.row, record.action) for record in without.bad] == [(3, COPY_LEFT_OUT)]
    alone = load_data(frame.drop(index=3), target="y")
    assert without.preprocessor == alone.preprocessor
    assert without.target == alone.target


def test_equal_photos_are_told_with_what_they_may_mean(tmp_path: Path) -> None:
    photo = tmp_path / "0.bmp"
    Image.new("RGB", (8, 8)).save(photo)
    frame = table().assign(photo=[None] * ROWS)
    frame.loc[[1, 2, 26], "photo"] = "0.bmp"
    schema = infer_schema(frame, "y")
    photos = find_photos(frame, ["photo"], tmp_path)
    parts = parts_of(split_rows(frame, schema), ROWS)
    (found,) = equal_photos(frame, schema, photos, equal_files(photos.files), parts)
    assert found.level == "warning"
    assert found.text == (
        "1 photo is used (equal bytes) by 3 rows, the first by rows 1 and 2; 1 of these photos come with different "
        "targets; 1 of these photos are on two sides of the split, so the scores will look too good: "
        "rows 1 (train) and 26 (test)"
    )


def test_cells_that_hold_lists_can_be_compared() -> None:
    frame = table().assign(tags=[[row] for row in range(ROWS)])
    schema = infer_schema(frame, "y")
    parts = np.full(ROWS, "", dtype=object)
    assert row_copies(frame, schema, parts) == []
    again = pd.concat([frame, frame.iloc[[4]]], ignore_index=True)
    (found,) = row_copies(again, schema, np.full(ROWS + 1, "", dtype=object))
    assert found.text == "1 row is a copy of an earlier row, the first is row 30, of row 4"
