"""``load_data`` as a whole: what is fitted on which rows, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mixfit.config import DataConfig
from mixfit.data.batch import Batch
from mixfit.data.columns.infer import infer_schema
from mixfit.data.load import load_data
from mixfit.data.loader import DataLoader
from mixfit.data.sampler import SequentialSampler
from mixfit.errors import ConfigError, DataError, Diverged
from mixfit.training.build import build_model
from mixfit.training.callbacks.guards import NanGuard
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.optimizer import AdamW


@pytest.fixture
def frame() -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "area": random.lognormal(4, 1, 60),
            "town": random.choice(["north", "south", "west"], 60),
            "sold": pd.Timestamp("2020-01-01") + pd.to_timedelta(random.integers(0, 900, 60), unit="D"),
            "price": random.lognormal(6, 1, 60),
            "split": np.repeat(["train", "valid", "test"], [40, 10, 10]),
        }
    )


def test_nothing_is_fitted_on_rows_that_judge(frame: pd.DataFrame) -> None:
    changed = frame.copy()
    judged = changed["split"] != "train"
    changed.loc[judged, ["area", "price"]] *= 1000
    changed.loc[judged, "town"] = "east"
    changed.loc[judged, "sold"] += pd.Timedelta(days=9000)
    before, after = load_data(frame, target="price"), load_data(changed, target="price")
    assert before.preprocessor.to_dict() == after.preprocessor.to_dict()
    assert before.target.to_dict() == after.target.to_dict()
    training = frame.copy()
    training.loc[0, "area"] *= 1000
    assert load_data(training, target="price").preprocessor.to_dict() != before.preprocessor.to_dict()


def test_weights_reach_the_batches_with_a_mean_of_one_in_training(frame: pd.DataFrame) -> None:
    weighted = frame.assign(w=np.arange(60.0))
    weighted.loc[50, "w"] = np.nan
    data = load_data(weighted, target="price", config=DataConfig(roles={"w": "weight"}))
    found = {int(row): float(w) for xb, _ in data.train for row, w in zip(xb.rows, xb.weight, strict=True)}
    assert found == {row: pytest.approx((row + 1) / 20.0) for row in range(39)}  # row 0 of the table weighs 0
    assert {float(w) for xb, _ in data.test for w in xb.weight[xb.rows == 49]} == {1.0}
    for bad in (-1.0, np.nan):
        weighted.loc[3, "w"] = bad
        with pytest.raises(DataError, match=r"1 of 39 training rows have a weight in column 'w'.*the first is row 3"):
            load_data(weighted, target="price", config=DataConfig(roles={"w": "weight"}))


def test_rows_of_weight_0_leave_no_trace_but_their_record(frame: pd.DataFrame) -> None:
    """Neither in roles, levels, medians and scales, nor in the split, nor as cells that are repaired."""
    random = np.random.default_rng(1)
    weighted = frame.assign(w=random.integers(1, 4, 60), rooms=random.integers(1, 3, 60)).astype({"rooms": object})
    junk = weighted.sample(20, random_state=0).assign(w=0, price=1e6, area=-1e9, town="never", rooms="many")
    junk["sold"], junk["split"] = pd.Timestamp("1700-01-01"), "test"
    junk.loc[junk.index[:9], "price"] = np.nan
    both = pd.concat([weighted, junk], ignore_index=True).sample(frac=1, random_state=2, ignore_index=True)
    kept = both[both["w"] > 0].reset_index(drop=True)
    config = DataConfig(roles={"w": "weight"})
    found, wanted = (load_data(one, target="price", config=config) for one in (both, kept))
    assert found.schema == wanted.schema
    assert found.preprocessor.to_dict() == wanted.preprocessor.to_dict()
    assert found.target.to_dict() == wanted.target.to_dict()
    for name, rows in wanted.split.parts().items():
        np.testing.assert_array_equal(found.split.parts()[name], rows)
    for name in ("numeric", "categorical", "target", "weight"):
        assert torch.equal(getattr(found.arrays, name), getattr(wanted.arrays, name))
    assert found.batch_size == wanted.batch_size
    assert not wanted.bad
    assert [record.row for record in found.bad] == np.flatnonzero(both["w"] == 0).tolist()
    assert {(record.column, record.problem, record.action) for record in found.bad} == {
        ("w", "weight is 0", "row of weight 0 left out")
    }
    np.testing.assert_array_equal(found.row_numbers, np.flatnonzero(both["w"] > 0))


def test_photos_of_rows_of_weight_0_are_not_looked_for(frame: pd.DataFrame, tmp_path: Path) -> None:
    for number in range(64):
        Image.new("RGB", (40 if number < 60 else 600, 30), (number, 0, 0)).save(tmp_path / f"{number}.png")
    weighted = frame.assign(w=1.0, photo=[f"{number}.png" for number in range(60)])
    junk = weighted.head(4).assign(w=0.0, photo=["60.png;61.png;62.png", "63.png", "no.png", "1.png"])
    both = pd.concat([junk, weighted], ignore_index=True)
    config = DataConfig(roles={"w": "weight"})
    found, wanted = (load_data(one, target="price", config=config, images=tmp_path) for one in (both, weighted))
    assert found.photos is not None
    assert wanted.photos is not None
    assert found.photos.files == wanted.photos.files
    np.testing.assert_array_equal(found.photos.slots, wanted.photos.slots)
    assert found.image_size == wanted.image_size
    assert {record.problem for record in found.bad} == {"weight is 0"}


def test_batches_and_errors_of_a_training_name_the_rows_of_the_table(frame: pd.DataFrame) -> None:
    weighted = frame.assign(w=np.where(np.arange(60) < 5, 0.0, 2.0))
    data = load_data(weighted, target="price", config=DataConfig(roles={"w": "weight"}), batch_size=64)
    assert data.dataset("train").describe(0) == "row 5"
    assert data.dataset("valid").named([35, 36]) == [40, 41]
    model = build_model(data, seed=0)
    data.arrays.numeric[3, 0] = torch.nan
    learner = Learner(model, data, loss=mse, optimizer=AdamW, callbacks=[NanGuard()], device="cpu")
    with pytest.raises(Diverged, match=r"the input numeric is not finite in row 8\."):
        learner.fit(1, 1e-3)

    def broken(items: object) -> Batch:
        raise ValueError("no")

    loader = DataLoader(data.dataset("valid"), SequentialSampler(10, 4), collate_function=broken)
    with pytest.raises(DataError, match="Could not collate the batch of rows 40, 41, 42, 43"):
        next(iter(loader))


def test_messages_have_the_rows_of_the_table_though_rows_of_weight_0_have_left(frame: pd.DataFrame) -> None:
    config = DataConfig(roles={"w": "weight"})
    weighted = frame.assign(w=np.where(np.arange(60) < 5, 0.0, 2.0)).astype({"area": object, "split": object})
    weighted.loc[7, "area"], weighted.loc[9, "price"] = "big", np.nan
    bad = load_data(weighted, target="price", config=replace(config, roles={"w": "weight", "area": "number"})).bad
    assert [(record.row, record.column) for record in bad[5:]] == [(9, "price"), (7, "area")]
    with pytest.raises(DataError, match=r"1 of 34 training rows have a weight .* the first is row 8;"):
        load_data(weighted.assign(w=weighted["w"].where(weighted.index != 8, -1)), target="price", config=config)
    with pytest.raises(DataError, match=r"1 of 55 cells of the target 'price' are not a number, the first in row 9;"):
        load_data(weighted, target="price", config=replace(config, max_missing_target=0.0))
    with pytest.raises(DataError, match="the first in row 6 is 'later'"):
        load_data(
            weighted.assign(split=weighted["split"].where(weighted.index != 6, "later")),
            target="price",
            config=replace(config, roles={"w": "weight", "split": "split"}),
        )
    with pytest.raises(DataError, match="All 60 weights in column 'w' are 0; some rows need a weight above 0"):
        load_data(frame.assign(w=0), target="price", config=config)


def test_a_schema_that_does_not_fit_is_refused(frame: pd.DataFrame) -> None:
    schema = infer_schema(frame, "price")
    with pytest.raises(ConfigError, match="The schema has the target 'price', not 'area'"):
        load_data(frame, target="area", schema=schema)
    with pytest.raises(ConfigError, match="no column 'town'"):
        load_data(frame.drop(columns="town"), target="price", schema=schema)
    with pytest.raises(ConfigError, match="The schema sets all roles, orders and the task"):
        load_data(frame, target="price", schema=schema, config=DataConfig(ignore=("town",)))
    assert load_data(frame, target="price", schema=schema).schema == schema


def test_settings_of_the_call_are_checked_like_those_of_the_configuration(frame: pd.DataFrame) -> None:
    for size in (0, 5, 5000):
        with pytest.raises(ConfigError, match=f"image_size must be from 32 to 1024, got {size}"):
            load_data(frame, target="price", image_size=size)


def test_photos_of_a_frame_need_a_folder(frame: pd.DataFrame, tmp_path: Path) -> None:
    with_photos = frame.assign(photo=[f"{row}.jpg" for row in range(60)])
    with pytest.raises(ConfigError, match=r"image columns \(photo\).*set it with images="):
        load_data(with_photos, target="price")
    data = load_data(with_photos, target="price", images=tmp_path)
    assert {record.problem for record in data.bad} == {"is missing"}
    xb, _ = next(iter(data.train))
    assert xb.image_mask is not None
    assert not xb.image_mask.any()


def test_batches_say_which_image_column_a_photo_is_from(frame: pd.DataFrame, tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (40, 40)).save(tmp_path / f"{name}.png")
    photos = {"front": ["a.png", None] * 30, "rooms": ["b.png; c.png"] * 60}
    config = DataConfig(roles={"front": "image", "rooms": "image"}, images=tmp_path, image_size=32)
    data = load_data(frame.assign(**photos), target="price", config=config)
    xb, _ = next(iter(data.train))
    assert xb.image_column is not None
    for row, columns in zip(xb.rows.tolist(), xb.image_column.tolist(), strict=True):
        assert columns == ([1, 1, 0] if row % 2 else [0, 1, 1])


def test_validation_rows_of_unknown_classes_alone_are_refused(frame: pd.DataFrame) -> None:
    classes = frame.drop(columns="price").assign(kind=np.tile(["a", "b"], 30))
    classes.loc[40:49, "kind"] = "c"
    with pytest.raises(DataError, match="All 10 validation rows have a class that no training row has"):
        load_data(classes, target="kind")


def test_two_epochs_differ_and_every_row_is_there_once(frame: pd.DataFrame) -> None:
    data = load_data(frame, target="price", batch_size=7)
    first, second = (torch.cat([xb.rows for xb, _ in data.train]) for _ in range(2))
    assert first.tolist() != second.tolist()
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(40))
    assert replace(data).rows("train").sampler.order().tolist() == list(range(40))
