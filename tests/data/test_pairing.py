"""Photos tested against their rows by shuffling."""

import numpy as np
import pandas as pd
import pytest

from mixfit.data.checks.table import MOST_ROWS, Pairing, compare_with_shuffled
from mixfit.data.columns.infer import infer_schema

ROWS = 200


def table_and_photos(seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows whose brightness of the photo follows a number, with noise."""
    rng = np.random.default_rng(seed)
    size = rng.normal(size=ROWS)
    frame = pd.DataFrame({"size": size, "kind": rng.choice(["a", "b"], ROWS), "y": rng.normal(size=ROWS)})
    light = 120 + 20 * size[:, None, None, None] + rng.normal(0, 30, (ROWS, 18, 18, 3))
    return frame, light.clip(0, 255).astype(np.uint8)


def compare(frame: pd.DataFrame, photos: np.ndarray, present: np.ndarray | None = None) -> Pairing | None:
    place = np.arange(len(frame)) if present is None else np.where(present, np.arange(len(frame)), -1)
    return compare_with_shuffled(photos, place, frame, infer_schema(frame, "y"))


def test_right_pairs_shuffled_pairs_and_slipped_pairs_are_told_apart() -> None:
    frame, photos = table_and_photos()
    right = compare(frame, photos)
    assert (right.own, right.rows) == (0.001, ROWS)
    slipped = compare(frame, np.roll(photos, 1, axis=0))
    assert slipped.own > 0.05
    assert slipped.next_row == 0.001
    assert slipped.previous_row > 0.05
    back = compare(frame, np.roll(photos, -1, axis=0))
    assert back.previous_row == 0.001


def test_wrong_pairs_look_like_chance() -> None:
    """Over many shuffles the share is uniform, so it is seldom small."""
    shares = []
    for seed in range(20):
        frame, photos = table_and_photos(seed)
        shares.append(compare(frame, np.random.default_rng(seed).permutation(photos)).own)
    assert sum(share <= 0.05 for share in shares) <= 4
    assert 0.3 < np.mean(shares) < 0.7


def test_rows_without_photos_and_missing_cells_do_not_matter() -> None:
    frame, photos = table_and_photos()
    present = np.arange(ROWS) % 4 > 0
    photos[~present] = 255
    frame.loc[frame.index % 7 == 0, "size"] = np.nan
    assert compare(frame, photos, present).own == 0.001
    assert compare(frame, photos, present).rows == 150


@pytest.mark.parametrize("rows", [0, 39])
def test_too_few_rows_give_no_answer(rows: int) -> None:
    frame, photos = table_and_photos()
    assert compare(frame, photos, np.arange(ROWS) < rows) is None


def test_no_photo_at_all_gives_no_answer() -> None:
    frame, photos = table_and_photos()
    assert compare(frame, photos[:0], np.zeros(ROWS, dtype=bool)) is None


def test_of_many_rows_some_are_enough() -> None:
    frame, photos = table_and_photos()
    many, place = pd.concat([frame] * 20, ignore_index=True), np.tile(np.arange(ROWS), 20)
    found = compare_with_shuffled(photos, place, many, infer_schema(frame, "y"))
    assert found == Pairing(own=0.001, next_row=found.next_row, previous_row=found.previous_row, rows=MOST_ROWS)
