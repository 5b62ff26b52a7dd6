"""Which rows belong together: groups and copies joined, and chains that would join too many let go of."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from mixfit.config import DataConfig
from mixfit.data.checks import photos as duplicates
from mixfit.data.columns.infer import infer_schema
from mixfit.data.load import load_data
from mixfit.data.photos.find import find_photos
from mixfit.data.ties import Ties
from mixfit.ensemble.cross_fit import fit_folds

ROWS = 60


def table(rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"a": rng.normal(size=rows), "b": rng.normal(size=rows), "y": rng.normal(size=rows)})


def ties_of(frame: pd.DataFrame, photos: Path | None = None, **roles: str) -> Ties:
    schema = infer_schema(frame, "y", roles=roles)  # type: ignore[arg-type]
    found = None if photos is None else find_photos(frame, schema.names("image"), photos)
    return Ties(frame, schema, found)


def together(unit: np.ndarray, *rows: int) -> bool:
    return len(set(unit[list(rows)].tolist())) == 1


def test_rows_without_ties_are_units_of_their_own() -> None:
    joined = ties_of(table()).joined()
    assert joined.count == ROWS
    assert joined.notes == ()


def test_equal_rows_equal_cells_and_groups_are_joined_along_the_chain() -> None:
    frame = table().assign(house_id=[0, 0, *range(1, ROWS - 1)])
    frame.loc[5, ["a", "b", "y"]] = frame.loc[1, ["a", "b", "y"]]  # a copy of a row of house 0
    frame.loc[9, ["a", "b"]] = frame.loc[5, ["a", "b"]]  # the same thing with another target
    unit = ties_of(frame, house_id="group").joined().unit
    assert together(unit, 0, 1, 5, 9)
    assert len(set(unit.tolist())) == ROWS - 3


def draw(path: Path, seed: int, size: int = 96) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(path)


def test_rows_that_share_a_photo_or_one_saved_anew_are_joined(tmp_path: Path) -> None:
    for row in range(ROWS):
        draw(tmp_path / f"{row}.png", row)
    (tmp_path / "7.png").write_bytes((tmp_path / "3.png").read_bytes())
    with Image.open(tmp_path / "3.png") as photo:
        photo.resize((80, 80)).save(tmp_path / "11.png")
    unit = ties_of(table().assign(photo=[f"{row}.png" for row in range(ROWS)]), tmp_path).joined().unit
    assert together(unit, 3, 7, 11)
    assert len(set(unit.tolist())) == ROWS - 2


def draw_all(folder: Path) -> pd.DataFrame:
    for row in range(ROWS):
        draw(folder / f"{row}.png", row)
    return table().assign(photo=[f"{row}.png" for row in range(ROWS)])


def test_photos_that_were_not_looked_at_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = draw_all(tmp_path)
    assert ties_of(frame, tmp_path).joined().notes == ()
    monkeypatch.setattr(duplicates, "_MOST_DECODED", 40)
    told = "nearly equal photos were looked for among 40 of 60 photos"
    ties = ties_of(frame.assign(g=["a", "a", *map(str, range(58))]), tmp_path, g="group")
    for found in (ties_of(frame, tmp_path), ties, ties.without(["g"])):
        assert [told in note for note in found.joined().notes] == [True]
    data = load_data(frame, target="y", images=tmp_path, config=DataConfig(cache_gb=0.0))
    assert [told in note for note in data.notes] == [True]


def test_a_table_that_is_loaded_again_decodes_no_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = draw_all(tmp_path)
    with Image.open(tmp_path / "3.png") as photo:
        photo.resize((80, 80)).save(tmp_path / "11.png")
    config = DataConfig(cache=tmp_path / "cache")
    first = load_data(frame, target="y", images=tmp_path, config=config)
    monkeypatch.setattr(duplicates, "read_image", pytest.fail)
    again = load_data(frame, target="y", images=tmp_path, config=config)
    assert together(again.ties.joined().unit, 3, 11)
    assert np.array_equal(again.split.train, first.split.train)


def test_a_placeholder_joins_nothing_and_is_named_while_real_copies_beside_it_do(tmp_path: Path) -> None:
    for row in range(ROWS):
        draw(tmp_path / f"{row}.png", row)
    names = [f"{row}.png" for row in range(ROWS)]
    for row in range(0, ROWS, 3):  # a third of the rows
        names[row] = "0.png"
    cells = [f"{name};{name}" for name in names]
    cells[6] = "0.png;4.png"  # one of them has a photo of row 4, too
    frame = table().assign(photo=cells)
    frame.loc[::3, "y"] = 5 + 0.1 * frame.loc[::3, "y"]  # alike, so that they might be one thing
    joined = ties_of(frame, tmp_path).joined()
    assert together(joined.unit, 4, 6)
    assert joined.count == ROWS - 1
    (note,) = joined.notes
    assert "would join more than 20% of the 60 rows, and therefore join" in note
    assert "photo 0.png in 20 rows" in note


def test_the_share_depends_on_the_number_of_folds(tmp_path: Path) -> None:
    frame = table()
    frame.loc[:8, ["a", "b", "y"]] = frame.loc[0, ["a", "b", "y"]].to_numpy()  # 15 % of the rows
    ties = ties_of(frame)
    assert together(ties.joined(share=0.2).unit, *range(9))
    assert ties.joined(share=0.1).count == ROWS
    assert "equal rows in 9 rows" in ties.joined(share=0.1).notes[0]


def test_groups_are_whole_whatever_their_size() -> None:
    frame = table().assign(g=["big"] * 40 + [f"{row}" for row in range(20)])
    frame.loc[45, ["a", "b", "y"]] = frame.loc[3, ["a", "b", "y"]]
    joined = ties_of(frame, g="group").joined()
    assert together(joined.unit, *range(40), 45)
    assert joined.notes == ()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=50, max_size=120),
    st.integers(2, 10),
    st.integers(0, 3),
)
def test_no_copy_is_torn_but_in_chains_that_are_named_and_none_joins_too_many(
    keys: list[tuple[int, int]], k: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(61, 2))
    copies, groups = np.array([key for _, key in keys]), np.array([group for group, _ in keys])
    assume(len(set(copies.tolist())) > 25)  # with fewer different numbers, equal rows may be chance
    frame = pd.DataFrame({"a": values[copies, 0], "b": values[copies, 1], "y": values[copies, 1], "g": groups})
    joined = ties_of(frame, g="group").joined(share=1 / k)
    unit = pd.Series(joined.unit)
    assert unit.groupby(groups).nunique().max() == 1
    sizes, largest = (
        unit.groupby(unit).size(),
        pd.Series(groups).groupby(unit).agg(lambda one: one.value_counts().max()),
    )
    assert ((sizes - largest + 1 <= len(keys) / k) | (pd.Series(groups).groupby(unit).nunique() == 1)).all()
    if not joined.notes and not (pd.Series(copies).value_counts() > 0.1 * len(keys)).any():
        assert unit.groupby(copies).nunique().max() == 1


@pytest.mark.parametrize("dedup", [False, True])
def test_every_row_twice_is_torn_neither_by_the_drawn_split_nor_by_folds(dedup: bool) -> None:
    once = table(66)
    frame = pd.concat([once, once], ignore_index=True).sample(frac=1, random_state=0).reset_index(drop=True)
    data = load_data(frame, target="y", config=DataConfig(dedup=dedup))
    twin = frame.groupby("a").ngroup().to_numpy()
    parts = np.full(len(frame), -1)
    for place, rows in enumerate(data.split.parts().values()):
        parts[rows] = place
    assert pd.Series(parts).groupby(twin).nunique().max() == 1
    folds = data.folds(5, seed=0)
    assert pd.Series(folds.number).groupby(twin[folds.rows]).nunique().max() == 1


def test_a_photo_of_rows_that_differ_as_all_rows_do_is_a_placeholder_and_one_of_alike_rows_a_copy(
    tmp_path: Path,
) -> None:
    for row in range(ROWS):
        draw(tmp_path / f"{row}.png", row)
    frame = table().assign(photo=[f"{row}.png" for row in range(ROWS)])
    frame["y"] = np.arange(ROWS) / 7.0
    frame.loc[::6, "photo"] = "0.png"  # ten rows from the lowest to the highest target
    frame.loc[31:37, "photo"] = "31.png"  # the same thing at seven prices
    joined = ties_of(frame, tmp_path).joined()
    assert not together(joined.unit, 0, 6)
    assert together(joined.unit, 31, 32, 33, 34, 35, 37)
    assert any("placeholders" in note and "photo 0.png in 9 rows" in note for note in joined.notes)


def test_few_groups_are_fewer_folds_and_a_sentence(tmp_path: Path) -> None:
    frame = table(160).assign(object_id=np.arange(160) // 20)
    data = load_data(frame, target="y")
    found = fit_folds(data, 10, seed=0)
    assert found.count == 7
    assert "there are only 7 groups of rows, so 7 folds are used instead of 10" in found.notes
