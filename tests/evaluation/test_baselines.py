from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from mixfit.data.load import MixedData, load_data
from mixfit.data.split import Split
from mixfit.evaluation.baselines import boosted_trees, constant


@pytest.fixture
def frame() -> pd.DataFrame:
    random = np.random.default_rng(0)
    area = random.uniform(50, 200, 300)
    town = random.choice(["north", "south", "west"], 300)
    price = np.exp(area / 80 + (town == "north") + random.normal(0, 0.1, 300))
    kind = np.where(price > np.median(price), "dear", "cheap")
    return pd.DataFrame({"area": area, "town": town, "price": price, "kind": kind, "noise": random.normal(size=300)})


def data(frame: pd.DataFrame, target: str) -> MixedData:
    return load_data(frame.drop(columns={"price": "kind", "kind": "price"}[target]), target=target)


def test_the_constant_is_the_median_of_the_training_rows(frame: pd.DataFrame) -> None:
    mixed = data(frame, "price")
    found = constant(mixed)
    median = frame["price"].iloc[mixed.split.train].median()
    assert len(found.predictions["test"]) == len(mixed.split.test)
    # Under a logarithm the median of an even number of rows lies between the two middle ones, not half-way.
    np.testing.assert_allclose(found.predictions["test"], median, rtol=0.01)


def test_the_constant_of_classes_is_their_frequency(frame: pd.DataFrame) -> None:
    mixed = data(frame, "kind")
    share = (frame["kind"].iloc[mixed.split.train] == "cheap").mean()
    np.testing.assert_allclose(constant(mixed).predictions["valid"][:, 0], share)


def test_boosted_trees_equal_scikit_learns_on_the_same_rows(frame: pd.DataFrame) -> None:
    mixed = data(frame, "price")
    codes = pd.factorize(frame["town"])[0]
    features = np.column_stack([frame["area"], frame["noise"], codes])
    model = HistGradientBoostingRegressor(random_state=0, categorical_features=[False, False, True])
    model.fit(features[mixed.split.train], np.log(frame["price"].iloc[mixed.split.train]))
    expected = np.exp(model.predict(features[mixed.split.test]))
    # float32 arrays move a split point now and then, hence not to the last digit.
    assert np.corrcoef(expected, boosted_trees(mixed).predictions["test"])[0, 1] > 0.999


def test_probabilities_sum_to_one_and_beat_chance(frame: pd.DataFrame) -> None:
    mixed = data(frame, "kind")
    found = boosted_trees(mixed).predictions["test"]
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    truth = mixed.arrays.target.numpy()[mixed.split.test]
    assert (found.argmax(1) == truth).mean() > 0.8


def test_an_empty_test_split_gives_no_predictions(frame: pd.DataFrame) -> None:
    mixed = data(frame, "price")
    split = Split(train=mixed.split.train, valid=mixed.split.valid, test=mixed.split.test[:0])
    empty = replace(mixed, split=split)
    assert boosted_trees(empty).predictions["test"].shape == (0,)
    assert constant(empty).predictions["test"].shape == (0,)
