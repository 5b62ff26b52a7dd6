"""Bad cells in a table: each fault has the number of the list of promises."""

import json
import os
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.choices import Role
from mixfit.data.columns.infer import SUSPICIOUS, infer_schema
from mixfit.data.columns.preprocess import TableArrays, TablePreprocessor
from mixfit.data.columns.schema import Column, Schema
from mixfit.data.columns.target import fit_target, usable_rows
from mixfit.data.columns.values import to_keys, to_times
from mixfit.data.split import split_rows
from mixfit.data.table.read import read_table
from mixfit.errors import DataError

ROWS = 100
RNG = np.random.default_rng(0)
AREA = RNG.normal(100, 20, ROWS)
PRICE = RNG.lognormal(12, 1, ROWS)


def column_of(schema: Schema, name: str) -> Column:
    return next(column for column in schema.columns if column.name == name)


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as it comes out of a text file."""
    return frame.map(lambda cell: None if pd.isna(cell) else str(cell)).astype("str")


def preprocessor_of(frame: pd.DataFrame, target: str = "price", **roles: Role) -> TablePreprocessor:
    return TablePreprocessor.fit(frame, infer_schema(frame, target, roles=roles))


def same_bytes(left: TableArrays, right: TableArrays) -> bool:
    return (
        left.numeric.tobytes() == right.numeric.tobytes() and left.categorical.tobytes() == right.categorical.tobytes()
    )


def test_f06_mixed_numbers_and_text() -> None:
    cells = ["12", "n/a", "12 sqft", "13"] * 25
    frame = pd.DataFrame({"area": cells, "price": PRICE})
    found = column_of(infer_schema(frame, "price"), "area")
    assert found.role == "category"
    assert "25 of 100 cells are not numbers: --set area=number treats them as missing" in found.note
    assert column_of(infer_schema(frame.assign(area=cells[:4] + ["7"] * 96), "price"), "area").role == "category"
    schema = infer_schema(frame, "price", roles={"area": "number"})
    assert column_of(schema, "area").missing == 25
    assert column_of(schema, "area").note == "25 of 100 cells are not numbers, treated as missing, such as '12 sqft'"
    arrays = TablePreprocessor.fit(frame, schema).transform(frame)
    assert [record.row for record in arrays.repaired] == list(range(2, 100, 4))
    assert arrays.numeric[:, 1].tolist() == [0, 1, 1, 0] * 25


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats() | st.sampled_from(["1e400", "-inf", "NaN", "", "5e-324"]), min_size=3, max_size=40))
def test_f07_nan_and_infinite_features(cells: list[float | str]) -> None:
    schema = Schema(
        columns=(Column(name="x", role="number", reason="", missing=0),), task="regression", task_reason="", rows=0
    )
    frame = pd.DataFrame({"x": pd.Series([str(cell) for cell in cells], dtype="str")})
    arrays = TablePreprocessor.fit(frame, schema).transform(frame)
    assert np.isfinite(arrays.numeric).all()
    assert np.abs(arrays.numeric).max() <= 10
    infinite = [
        i for i, cell in enumerate(cells) if cell in ("1e400", "-inf") or (cell != "" and np.isinf(float(cell)))
    ]
    assert [(record.row, record.problem) for record in arrays.repaired] == [(row, "infinite") for row in infinite]


def test_f07_infinity_leaves_a_column_of_numbers_one_and_is_counted() -> None:
    for frame in (
        pd.DataFrame({"x": [*AREA[1:], np.inf], "price": PRICE}),
        as_text(pd.DataFrame({"x": [*AREA[1:], "1e400"], "price": PRICE})),
    ):
        found = column_of(infer_schema(frame, "price"), "x")
        assert found.role == "number"
        assert "1 of 100 cells are infinite, treated as missing" in found.note


@pytest.mark.parametrize("bad", [None, np.inf, -np.inf])
def test_f08_rows_without_target_are_left_out_up_to_a_share(bad: float | None) -> None:
    frame = pd.DataFrame({"area": AREA, "price": PRICE})
    frame.loc[[3, 50, 51, 52, 99], "price"] = bad
    for table in (frame, as_text(frame)):
        usable, records = usable_rows(table, infer_schema(table, "price"))
        assert np.flatnonzero(~usable).tolist() == [record.row for record in records] == [3, 50, 51, 52, 99]
        assert {record.action for record in records} == {"row left out"}
    frame.loc[4, "price"] = bad
    with pytest.raises(
        DataError, match=r"6 of 100 cells of the target 'price' .* the first in row 3; --max-missing-target 0\.06"
    ):
        usable_rows(frame, infer_schema(frame, "price"))
    assert usable_rows(frame, infer_schema(frame, "price"), 0.06)[0].sum() == 94


def test_f09_constant_empty_and_unique_columns_are_ignored_and_never_matter_again() -> None:
    frame = pd.DataFrame(
        {"area": AREA, "same": "x", "none": None, "row_id": range(5, 5 + ROWS), "key": [f"k{i}" for i in range(ROWS)]}
    ).assign(price=PRICE)
    schema = infer_schema(frame, "price")
    reasons = {name: column_of(schema, name).reason for name in schema.names("ignored")}
    assert reasons == {
        "same": "one value only, 'x'",
        "none": "no values at all",
        "row_id": "unique integer, name ends in _id",
        "key": "every cell is different",
    }
    preprocessor = TablePreprocessor.fit(frame, schema)
    changed = frame.assign(same="y", none=1.0, row_id=-1, key="?").drop(columns="key")
    assert same_bytes(preprocessor.transform(frame), preprocessor.transform(changed))


def test_f09_a_column_that_is_constant_in_training_rows_never_matters() -> None:
    train = pd.DataFrame({"x": [5.0] * 10, "price": PRICE[:10]})
    schema = infer_schema(pd.DataFrame({"x": [5.0, 6.0] * 50, "price": PRICE}), "price")
    preprocessor = TablePreprocessor.fit(train, schema)
    assert preprocessor.transform(pd.DataFrame({"x": [5.0, 1e9, np.nan]})).numeric.tolist() == [[0.0]] * 3


def test_f10_a_single_class_and_a_constant_number_are_refused() -> None:
    frame = pd.DataFrame({"area": AREA, "y": "a"})
    with pytest.raises(DataError, match="the target 'y' has only one class, 'a', in 100 rows"):
        infer_schema(frame, "y")
    with pytest.raises(DataError, match="the target 'y' is 5 in all rows"):
        infer_schema(frame.assign(y=5.0), "y", task="regression")
    with pytest.raises(DataError, match="the target 'y' has no values in 100 rows"):
        infer_schema(frame.assign(y=None), "y")


def test_f10_a_class_with_one_row_is_trained_on() -> None:
    frame = pd.DataFrame({"area": AREA, "y": ["a", "b"] * 50})
    frame.loc[41, "y"] = "once"
    schema = infer_schema(frame, "y")
    assert "1 of 3 classes have one row only, kept in train" in column_of(schema, "y").note
    for seed in range(10):
        split = split_rows(frame, schema, seed=seed)
        assert 41 in split.train
        assert fit_target(frame["y"].iloc[split.train], schema.task).classes == ("a", "b", "once")


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(["area", "rooms", "city", "sold"]), extra=st.text(max_size=3))
def test_f11_columns_at_prediction(order: list[str], extra: str) -> None:
    frame = pd.DataFrame(
        {
            "area": AREA,
            "rooms": RNG.integers(1, 5, ROWS),
            "city": RNG.choice(["Rome", "Oslo"], ROWS),
            "sold": pd.date_range("2020-01-01", periods=ROWS),
            "price": PRICE,
        }
    )
    preprocessor = preprocessor_of(frame)
    expected = preprocessor.transform(frame)
    assert same_bytes(preprocessor.transform(frame[order].assign(**{"_" + extra: 1})), expected)
    with pytest.raises(DataError, match=f"the table has no column '{order[0]}', which the model needs"):
        preprocessor.transform(frame[order[1:]])
    unseen = preprocessor.transform(frame.assign(city=["Paris"] * 3 + ["Rome"] * 97))
    assert unseen.categorical[:3, 0].tolist() == [0, 0, 0]
    assert [record.row for record in unseen.repaired] == [0, 1, 2]


def test_f12_levels_are_kept_as_given() -> None:
    cells = ["NA", "None", "null", "007", "7", "7.0"]
    frame = pd.DataFrame({"c": [cells[i % 6] for i in range(ROWS)], "price": PRICE})
    preprocessor = preprocessor_of(frame, c="category")
    assert preprocessor.columns[-1].levels == ("007", "7", "7.0", "NA", "None", "null")
    assert preprocessor.transform(frame).repaired == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-(10**6), 10**6), min_size=2, max_size=30))
def test_f12_whole_numbers_are_one_level_however_they_are_typed(cells: list[int]) -> None:
    stored = [
        pd.Series(cells, dtype="int64"),
        pd.Series(cells, dtype="float64"),
        pd.Series(cells, dtype="Int64"),
        pd.Series([str(cell) for cell in cells], dtype="str"),
        pd.Series([f" {cell}.0" for cell in cells], dtype="str"),
        pd.Series(cells, dtype=object),
        pd.Series(cells).astype("category"),
    ]
    assert all(to_keys(column).tolist() == [str(cell) for cell in cells] for column in stored)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=30))
def test_f12_decimals_are_one_level_however_they_are_typed_and_written(cells: list[float]) -> None:
    stored = [
        pd.Series(cells, dtype="float64"),
        pd.Series(cells, dtype="Float64"),
        pd.Series(cells, dtype="float64[pyarrow]"),
        pd.Series([repr(cell) for cell in cells], dtype="str"),
        pd.Series([f"{cell:.16e}" for cell in cells], dtype="str"),
        pd.Series(cells).astype("category"),
    ]
    assert {tuple(to_keys(column)) for column in stored} == {tuple(to_keys(stored[0]))}


def test_f12_decimals_of_any_spelling_are_one_level_unless_two_are_written_differently() -> None:
    texts = ["7.50", "1e5", "12.0"]
    assert to_keys(pd.Series(texts)).tolist() == ["7.5", "100000", "12"]
    decimals = pd.Series([Decimal(text) for text in texts], dtype=object)
    assert to_keys(decimals).tolist() == to_keys(pd.Series(texts)).tolist()
    assert to_keys(pd.Series([*texts, "7.5"])).tolist() == [*texts, "7.5"]


@pytest.mark.parametrize("missing", [False, True])
def test_f12_true_and_false_are_the_same_levels_and_classes_in_every_format(tmp_path: Path, missing: bool) -> None:
    rng = np.random.default_rng(0)
    flag = pd.Series(rng.random(ROWS) < 0.5, dtype="boolean").mask(pd.Series(np.arange(ROWS) == 3) & missing)
    frame = pd.DataFrame({"flag": flag, "x": rng.integers(0, 99, ROWS) / 8, "sold": rng.random(ROWS) < 0.5})
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    frame.to_csv(tmp_path / "t.csv", index=False)
    text = (tmp_path / "t.csv").read_text()
    (tmp_path / "upper.csv").write_text(text.replace("True", "TRUE").replace("False", "FALSE"))
    (tmp_path / "lower.csv").write_text(text.lower())
    found = []
    for name in ("t.parquet", "t.jsonl", "t.csv", "upper.csv", "lower.csv"):
        read = read_table(tmp_path / name)
        schema = infer_schema(read, "sold")
        preprocessor = TablePreprocessor.fit(read, schema)
        target = fit_target(read["sold"], schema.task)
        assert column_of(schema, "flag").reason == "true or false"
        assert schema.task_reason == "true or false, 2 classes -> binary"
        found.append((preprocessor, target.encode(read["sold"]).tolist()))
        assert preprocessor.transform(read).repaired == []
        written = {"upper.csv": ("FALSE", "TRUE"), "lower.csv": ("false", "true")}
        assert target.classes == written.get(name, ("False", "True"))
    assert all(other == found[0] for other in found)
    assert found[0][0].columns[-1].levels == ("False", "True")


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_f13_dates_are_equal_across_units_and_text(unit: str) -> None:
    days = pd.date_range("1990-01-01", periods=ROWS, freq="97D")
    frame = pd.DataFrame({"sold": days.as_unit("us"), "price": PRICE})
    preprocessor = preprocessor_of(frame)
    expected = preprocessor.transform(frame)
    assert same_bytes(preprocessor.transform(pd.DataFrame({"sold": days.as_unit(unit)})), expected)
    assert same_bytes(preprocessor.transform(as_text(frame)), expected)


def test_f13_an_instant_gives_the_same_features_in_every_time_zone() -> None:
    times = pd.date_range("1990-01-01", periods=ROWS, freq="97h", tz="UTC")
    frame = pd.DataFrame({"sold": times.strftime("%Y-%m-%dT%H:%M:%SZ"), "price": PRICE})
    preprocessor = preprocessor_of(frame, sold="date")
    expected = preprocessor.transform(frame)
    for zone in ("Asia/Kolkata", "America/St_Johns", "Pacific/Auckland"):
        local = pd.Series(times.tz_convert(zone), name="sold")
        written = local.map(lambda time: time.isoformat()).astype("str")
        for column in (local, written):
            arrays = preprocessor.transform(column.to_frame())
            assert same_bytes(arrays, expected)
            assert arrays.repaired == []


def test_f13_impossible_mixed_and_distant_dates() -> None:
    cells = [
        "2020-02-30",
        "31.12.2020",
        "Jan 5, 2021",
        "2021-03-04T05:06:07+02:00",
        "1500-06-01",
        "2900-01-01",
        "12/24/2020",
    ]
    frame = pd.DataFrame({"sold": pd.Series([cells[i % 7] for i in range(ROWS)], dtype="str"), "price": PRICE})
    schema = infer_schema(frame, "price", roles={"sold": "date"})
    assert column_of(schema, "sold").note == "15 of 100 cells are not dates, treated as missing"
    arrays = TablePreprocessor.fit(frame, schema).transform(frame)
    assert np.isfinite(arrays.numeric).all()
    assert {record.value for record in arrays.repaired} == {"2020-02-30"}
    assert len(arrays.repaired) == 15
    bounds = to_times(pd.Series(["1677-09-21", "2262-04-12"], dtype="str"))[0]
    assert bounds.astype("datetime64[D]").astype(str).tolist() == ["1677-09-21", "2262-04-12"]


@pytest.mark.parametrize(
    "cells",
    [[1e308, -1e308, 1.7e308, 0.0], [5e-324, 0.0, 1e-310, 5e-324], [1e308, 1e308, 1.0, 2.0], [1e-300, 1.0, 1e300, 5.0]],
    ids=["largest", "denormal", "skewed", "wide"],
)
def test_f14_extreme_numbers_do_not_overflow(cells: list[float]) -> None:
    frame = pd.DataFrame({"x": cells * 25, "price": PRICE})
    for table in (frame, as_text(frame)):
        preprocessor = preprocessor_of(table, x="number")
        numeric = preprocessor.transform(table).numeric
        assert np.isfinite(numeric).all()
        json.dumps(preprocessor.to_dict(), allow_nan=False)
        target = fit_target(table["x"], "regression") if max(cells) > 1e-300 else None
        assert target is None or np.isfinite(target.decode(target.encode(table["x"]))).all()


def test_f14_integers_of_20_digits_are_categories_that_keep_every_digit() -> None:
    codes = ["12345678901234567890", "12345678901234567891"]
    frame = pd.DataFrame({"account": pd.Series(codes * 50, dtype="str"), "price": PRICE})
    assert column_of(infer_schema(frame, "price"), "account").reason == "integers too long for a number"
    assert preprocessor_of(frame).cardinalities == (3,)


@pytest.mark.parametrize(
    "copy",
    [PRICE, PRICE * 0.92, -PRICE, np.log(PRICE), PRICE.round(-2)],
    ids=["same", "other currency", "negative", "log", "rounded"],
)
def test_f16_a_number_that_follows_the_target_is_suspicious(copy: np.ndarray) -> None:
    frame = pd.DataFrame({"area": AREA, "paid": copy, "price": PRICE})
    for table in (frame, as_text(frame)):
        schema = infer_schema(table, "price")
        assert SUSPICIOUS in column_of(schema, "paid").note
        assert column_of(schema, "paid").role == "number"
        assert column_of(schema, "area").note == ""


def test_f16_a_column_that_names_the_class_is_suspicious() -> None:
    y = pd.Series(RNG.choice(["no", "yes"], ROWS))
    frame = pd.DataFrame({"code": y.map({"no": 7, "yes": 3}), "label": y.str[0], "other": RNG.choice(["a", "b"], ROWS)})
    frame["score"] = np.where(y == "yes", 10, 0) + RNG.random(ROWS)
    frame["y"] = y
    schema = infer_schema(frame, "y")
    flagged = [column.name for column in schema.columns if SUSPICIOUS in column.note]
    assert flagged == ["code", "label", "score"]
    species = pd.Series(RNG.choice(list("abcde"), ROWS))
    frame = pd.DataFrame({"code": species.map(ord), "part": species.map(ord) // 2, "y": species})
    schema = infer_schema(frame, "y")
    assert [column.name for column in schema.columns if SUSPICIOUS in column.note] == ["code"]


def test_f17_the_same_group_on_both_sides() -> None:
    frame = pd.DataFrame({"area": AREA, "house_id": np.arange(ROWS) // 4, "price": PRICE})
    given = frame.assign(split=["train", "train", "train", "test"] * 25)
    assert "suspicious: 25 of 25 ids are on two sides" in column_of(infer_schema(given, "price"), "house_id").note
    with pytest.raises(DataError, match="25 groups of column 'house_id' are in more than one part"):
        split_rows(given, infer_schema(given, "price", roles={"house_id": "group"}))
    for seed in range(20):
        split = split_rows(frame, infer_schema(frame, "price", roles={"house_id": "group"}), seed=seed)
        houses = [set(frame["house_id"].iloc[split.of(name)]) for name in ("train", "valid", "test")]
        assert all(houses)
        assert sum(map(len, houses)) == 25


@settings(max_examples=8, deadline=None)
@given(number=st.floats(), word=st.text(min_size=1, max_size=5), seed=st.integers(0, 3))
def test_f18_validation_and_test_rows_leave_no_trace_in_the_fitted_state(number: float, word: str, seed: int) -> None:
    frame = pd.DataFrame(
        {
            "area": AREA,
            "city": RNG.choice(["Rome", "Oslo"], ROWS),
            "sold": pd.date_range("2020-01-01", periods=ROWS).astype("str"),
            "price": PRICE,
        }
    )
    schema = infer_schema(frame, "price")
    split = split_rows(frame, schema, seed=seed)
    judged = np.concatenate([split.valid, split.test])
    changed = frame.copy()
    changed.loc[judged, "area"], changed.loc[judged, "city"], changed.loc[judged, "sold"] = number, word, "31/12/1999"
    states = [
        json.dumps(
            [
                TablePreprocessor.fit(table.iloc[split.train], schema).to_dict(),
                fit_target(table["price"].iloc[split.train], schema.task).to_dict(),
            ]
        )
        for table in (frame, changed)
    ]
    assert states[0] == states[1]


@pytest.mark.skipif("MIXFIT_DATA" not in os.environ, reason="MIXFIT_DATA is not set")
@pytest.mark.parametrize(
    ("folder", "target"), [("movies", "imdb_rating"), ("covid_xray", "covid19"), ("houses", "price")]
)
def test_real_tables_become_finite_arrays_without_repairs_in_train(folder: str, target: str) -> None:
    path = Path(os.environ["MIXFIT_DATA"]) / folder / "table.csv"
    frame = pd.read_csv(path, dtype="str", keep_default_na=False, na_values=[""])
    schema = infer_schema(frame, target)
    split = split_rows(frame, schema)
    train = frame.iloc[split.train]
    preprocessor = TablePreprocessor.fit(train, schema)
    arrays = preprocessor.transform(train)
    assert arrays.repaired == []
    assert np.isfinite(arrays.numeric).all()
    assert (arrays.categorical.max(axis=0) + 1 == preprocessor.cardinalities).all()
    typed = preprocessor.transform(pd.read_csv(path).iloc[split.train])
    assert same_bytes(typed, arrays)
