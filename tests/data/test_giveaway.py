"""Columns that give the target away, in every disguise; and columns that are only useful."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mixfit.data.columns.infer import SUSPICIOUS, infer_schema
from mixfit.data.columns.schema import suspicious_columns
from mixfit.data.columns.values import to_numbers
from mixfit.data.table.read import read_table

ROWS = 400
SETS = {
    "houses": "price",
    "fashion_products": "gender",
    "covid_xray": "covid19",
    "leaf99": "species",
    "movies": "imdb_rating",
}


def suspicious(target: np.ndarray, **columns: object) -> list[str]:
    """Names of the suspicious columns among these and a harmless one."""
    noise = np.random.default_rng(9).normal(size=len(target))
    frame = pd.DataFrame({"noise": noise, **columns, "y": target})
    return [line.split(":")[0] for line in suspicious_columns(infer_schema(frame, "y"))]


def churn(seed: int = 0) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random(ROWS) < 0.26, "left", "stayed")


def test_f16_several_levels_for_one_class() -> None:
    left = churn() == "left"
    reasons = np.random.default_rng(1).choice(["price", "service", "moved", "rival"], ROWS)
    given = np.where(left, reasons, "none")
    assert suspicious(churn(), reason=given) == ["reason"]
    assert suspicious(churn(), reason=pd.Series(given).mask(~left)) == ["reason"], "left empty instead of none"
    assert suspicious(churn(), reason=np.where(left, reasons, np.roll(reasons, 1))) == [], "reasons for all"
    one_slip = given.copy()
    one_slip[np.flatnonzero(~left)[0]] = "price"
    assert suspicious(churn(), reason=one_slip) == []


def test_f16_codes_of_classes_in_any_order() -> None:
    classes = np.random.default_rng(0).choice(["a", "b", "c"], ROWS)
    codes = pd.Series(classes).map({"a": 2, "b": 30, "c": 7}).to_numpy()
    assert suspicious(classes, code=codes) == ["code"]
    finer = codes * 10 + np.random.default_rng(1).integers(0, 5, ROWS)
    assert suspicious(classes, code=finer) == ["code"]


def test_f16_cells_that_are_filled_for_one_class_only() -> None:
    left, rng = churn() == "left", np.random.default_rng(2)
    refund = pd.Series(rng.normal(50, 9, ROWS))
    dates = pd.Series(np.datetime64("2024-01-01") + rng.integers(0, 900, ROWS).astype("timedelta64[D]"))
    assert suspicious(churn(), refund=refund.mask(~left)) == ["refund"]
    assert suspicious(churn(), left_on=dates.dt.strftime("%Y-%m-%d").mask(~left)) == ["left_on"]
    some = left & (rng.random(ROWS) < 0.7)
    assert suspicious(churn(), refund=refund.mask(~some)) == ["refund"], "not for all of the class"
    few = left & (rng.random(ROWS) < 0.2)
    assert suspicious(churn(), refund=refund.mask(~few)) == []
    assert suspicious(churn(), refund=refund.mask(rng.random(ROWS) < 0.3)) == []


def test_f16_levels_of_rounded_numbers() -> None:
    rng = np.random.default_rng(3)
    price = rng.lognormal(12, 0.4, ROWS)
    band = pd.Series(np.searchsorted(np.quantile(price, np.linspace(0, 1, 41)[1:-1]), price)).map("band {}".format)
    assert suspicious(price, band=band) == ["band"]
    coarse = pd.Series(np.searchsorted(np.quantile(price, [0.33, 0.66]), price)).map("band {}".format)
    assert suspicious(price, band=coarse) == [], "three bands are a hint, no copy"
    assert suspicious(price, place=rng.choice([f"place {i}" for i in range(60)], ROWS)) == []


@pytest.mark.parametrize("share", [0.5, 0.95])
@pytest.mark.parametrize("levels", [2, 20, 60, 150])
def test_levels_by_chance_are_not_suspicious(levels: int, share: float) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        classes = np.where(rng.random(ROWS) < share, "no", "yes")
        place = pd.Series(rng.integers(0, levels, ROWS)).map("place {}".format)
        assert suspicious(classes, place=place) == []
        assert suspicious(rng.normal(size=ROWS), place=place) == []


@pytest.mark.skipif("MIXFIT_DATA" not in os.environ, reason="MIXFIT_DATA is not set")
@pytest.mark.parametrize("name", SETS)
def test_f16_no_false_alarm_on_real_data_and_none_missed(name: str) -> None:
    frame = read_table(Path(os.environ["MIXFIT_DATA"]) / name / "table.csv")
    target = SETS[name]
    if name == "leaf99":
        frame = frame[[column for column in frame.columns if not column[-2:].isdigit() or column.endswith("01")]]
    assert suspicious_columns(infer_schema(frame, target)) == []
    if infer_schema(frame, target).task == "regression":
        disguised = pd.qcut(to_numbers(frame[target]).values, 40, duplicates="drop").codes.astype("str")
    else:
        disguised = frame[target].astype("str") + " " + (frame.index % 2).astype("str")
    schema = infer_schema(frame.assign(copy=disguised), target, roles={"copy": "category"})
    assert [column.name for column in schema.columns if column.note.startswith(SUSPICIOUS)] == ["copy"]
