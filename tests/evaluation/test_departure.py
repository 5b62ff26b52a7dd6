"""A test that is not what the other rows promise is told, with its causes; one that is passes in silence."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mixfit.config import DataConfig
from mixfit.data.load import MixedData, load_data
from mixfit.evaluation.departure import causes_of_departure, departure
from mixfit.evaluation.result import Rows, Score, judge
from mixfit.training.metrics import ACCURACY, MAE, R2

ROWS = 200


def table(seed: int = 0, **columns: Any) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    split = ["train"] * 120 + ["valid"] * 20 + ["test"] * 60
    frame = pd.DataFrame({"a": rng.normal(size=ROWS), "b": rng.choice(list("uvw"), ROWS), "y": rng.normal(size=ROWS)})
    return frame.assign(split=split, **columns)


def data_of(frame: pd.DataFrame, **options: Any) -> MixedData:
    return load_data(frame, target="y", config=DataConfig(**options))


def score(error: float, count: int = 60, seed: int = 0) -> Score:
    truth = np.random.default_rng(seed).normal(size=count)
    errors = error * np.random.default_rng(seed + 1).normal(size=count)
    return judge(Rows("test", truth, {"model": truth + errors}), (MAE, R2)).score("model")


@pytest.mark.parametrize("metric", [MAE, R2])
def test_a_worse_and_a_better_test_are_told_and_noise_is_not(metric: Any) -> None:
    data = data_of(table())

    def said(promised: float, found: float) -> str:
        return departure(data, score(promised), score(found, seed=5), metric, where="out-of-fold", counts=(140, 60))

    worse = said(0.2, 1.0)
    assert worse.startswith(f"The test {metric.label} of ")
    assert "is worse than the out-of-fold estimate of" in worse
    assert "add such a column, and --set COLUMN=group" in worse  # there is no cause in this table
    assert "is better than the out-of-fold estimate of" in said(1.0, 0.2)
    assert said(0.5, 0.52) == ""


def test_equal_levels_are_seldom_told_apart() -> None:
    data = data_of(table())
    false = sum(
        departure(data, score(0.5, 100, seed), score(0.5, 60, seed + 500), MAE, where="", counts=(100, 60)) != ""
        for seed in range(100)
    )
    assert false <= 5


def test_test_rows_that_are_all_right_are_as_uncertain_as_the_others() -> None:
    """27 of 27 right are no surprise at a rate of .94, though no resample of them differs."""
    data = data_of(table())

    def rate(value: float, low: float, high: float) -> Score:
        return Score(model="m", kind="ours", metrics={"accuracy": value}, intervals={"accuracy": (low, high)})

    assert (
        departure(data, rate(0.94, 0.9, 0.98), rate(1.0, 1.0, 1.0), ACCURACY, where="out-of-fold", counts=(140, 60))
        == ""
    )
    said = departure(data, rate(0.5, 0.42, 0.58), rate(1.0, 1.0, 1.0), ACCURACY, where="out-of-fold", counts=(140, 60))
    assert said.startswith("The test accuracy of 1 is better than the out-of-fold estimate of 0.5, beyond noise")
    assert (
        departure(data, rate(1.0, 1.0, 1.0), rate(0.98, 0.94, 1.0), ACCURACY, where="out-of-fold", counts=(140, 60))
        == ""
    )
    few = departure(data, rate(0.95, 0.91, 0.99), rate(1.0, 1.0, 1.0), ACCURACY, where="validation", counts=(20, 2_000))
    assert few == ""  # the estimate itself is as uncertain as before
    many = departure(data, rate(0.94, 0.93, 0.95), rate(1.0, 1.0, 1.0), ACCURACY, where="validation", counts=(90, 90))
    assert "is better than the validation estimate" in many


def test_too_few_rows_say_nothing() -> None:
    assert departure(data_of(table()), score(0.1), score(9.0, 5), MAE, where="out-of-fold", counts=(140, 60)) == ""


def test_a_table_without_a_cause_has_none() -> None:
    for seed in range(5):
        assert causes_of_departure(data_of(table(seed))) == []


def test_each_cause_is_named() -> None:
    frame = table(house_id=np.arange(ROWS) % 40)
    assert causes_of_departure(data_of(frame)) == ["60 of 60 test rows share a value of 'house_id' with other rows"]
    assert causes_of_departure(data_of(frame, roles={"house_id": "ignored"})) == [
        "values of 'house_id' repeat in 140 rows, and the folds do not keep them together",
        "60 of 60 test rows share a value of 'house_id' with other rows",
    ]
    frame = table()
    frame.loc[[150, 160, 170], ["a", "b", "y"]] = frame.loc[[1, 2, 3], ["a", "b", "y"]].to_numpy()
    assert causes_of_departure(data_of(frame)) == ["3 of 60 test rows are copies of others, or share a photo"]
    frame = table(sold_on=pd.date_range("2020-01-01", periods=ROWS).strftime("%Y-%m-%d"))
    assert "the test rows are later by 'sold_on': try --split-time sold_on" in causes_of_departure(data_of(frame))
    frame = table()
    frame.loc[140:, "a"] += 2.0
    (cause,) = causes_of_departure(data_of(frame))
    assert cause.startswith("covariate shift: a classifier distinguishes test rows from the others with an AUC")
    assert cause.endswith("most by 'a'")
    frame = table()
    frame.loc[140:, "y"] += 2.0
    assert causes_of_departure(data_of(frame)) == ["the target itself is higher in the test rows"]


def test_a_level_that_no_training_row_has_is_no_shift_by_itself() -> None:
    """Of rare levels some are in the test alone, in any split."""
    rng = np.random.default_rng(0)
    frame = table(place=rng.integers(0, 120, ROWS).astype(str) + "x")
    assert causes_of_departure(data_of(frame, roles={"place": "category"})) == []
