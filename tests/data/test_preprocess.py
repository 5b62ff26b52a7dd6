"""Arrays from cells: like scikit-learn where it has the same thing, and safe where cells are strange."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from scipy.stats import skew
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler

from mixfit.choices import Role
from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.columns.schema import Column, Schema
from mixfit.errors import DataError

DATES = pd.Series(["2020-01-31", "2021-12-25", None, "2019-06-15 12:30", "2020-02-30"], dtype="str")


def schema_of(**roles: Role) -> Schema:
    columns = tuple(Column(name=name, role=role, reason="", missing=0) for name, role in roles.items())
    return Schema(columns=columns, task="regression", task_reason="", rows=0)


def fitted(frame: pd.DataFrame, **roles: Role) -> TablePreprocessor:
    return TablePreprocessor.fit(frame, schema_of(**roles))


def mixed() -> tuple[pd.DataFrame, TablePreprocessor]:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "area": rng.lognormal(5, 2, 60),
            "age": [None, *rng.normal(size=59)],
            "flag": rng.random(60) > 0.5,
            "sold": pd.date_range("2020-01-01", periods=60, freq="11D").astype("str"),
            "city": pd.Series(rng.choice(["Rome", "Oslo", "NA", "007"], 60)),
        }
    )
    return frame, fitted(frame, area="number", age="number", flag="number", sold="date", city="category")


columns_of_numbers = nps.arrays(
    np.float64,
    st.integers(4, 40),
    elements=st.floats(-1e6, 1e6) | st.just(float("nan")) | st.integers(-3, 3).map(float),
)


@settings(max_examples=80, deadline=None)
@given(train=columns_of_numbers, other=columns_of_numbers)
def test_imputation_and_scaling_agree_with_scikit_learn(train: np.ndarray, other: np.ndarray) -> None:
    seen = train[~np.isnan(train)]
    if len(seen) < 2 or np.ptp(seen) < 1e-3:
        return
    pipeline = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    logged = len(seen) and seen.min() >= 0 and skew(seen) > 2 and abs(skew(np.log1p(seen))) < skew(seen)
    signed_log = (lambda x: np.sign(x) * np.log1p(np.abs(x))) if logged else (lambda x: x)
    pipeline.fit(signed_log(train)[:, None])
    expected = np.clip(pipeline.transform(signed_log(other)[:, None])[:, 0], -10, 10)
    preprocessor = fitted(pd.DataFrame({"x": train}), x="number")
    found = preprocessor.transform(pd.DataFrame({"x": other}))
    np.testing.assert_allclose(found.numeric[:, 0], expected, atol=1e-4)
    assert preprocessor.numeric_names == ("x", "x is missing")[: 1 + np.isnan(train).any()]
    if np.isnan(train).any():
        np.testing.assert_array_equal(found.numeric[:, 1], np.isnan(other))


@settings(max_examples=60, deadline=None)
@given(
    train=st.lists(st.sampled_from("abcde"), min_size=1, max_size=30),
    other=st.lists(st.sampled_from("abcdefg") | st.none(), max_size=20),
)
def test_category_indices_agree_with_scikit_learn(train: list[str], other: list[str | None]) -> None:
    preprocessor = fitted(pd.DataFrame({"c": train}), c="category")
    found = preprocessor.transform(pd.DataFrame({"c": pd.Series(other, dtype=object)}))
    often = sorted({cell for cell in train if train.count(cell) >= 2})
    if often:
        encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1).fit(np.array(often)[:, None])
        cells = np.array([cell or "missing" for cell in other] or ["missing"])[:, None]
        np.testing.assert_array_equal(found.categorical[:, 0], encoder.transform(cells)[: len(other), 0] + 1)
    assert preprocessor.cardinalities == (len(often) + 1,)
    assert [record.row for record in found.repaired] == [
        i for i, cell in enumerate(other) if cell and cell not in train
    ]


def test_rare_levels_share_index_zero_without_a_record() -> None:
    frame = pd.DataFrame({"c": ["b", "a", "b", "a", "once"]})
    found = fitted(frame, c="category").transform(frame)
    assert found.categorical[:, 0].tolist() == [2, 1, 2, 1, 0]
    assert found.repaired == []


def test_skewed_amounts_are_logged_and_moderate_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"amount": rng.lognormal(8, 2, 500), "plain": rng.normal(size=500), "mixed": rng.normal(size=500) ** 5}
    )
    state = fitted(frame, amount="number", plain="number", mixed="number").to_dict()
    assert [column["scale"]["log"] for column in state["numbers"]] == [True, False, False]
    numeric = fitted(frame, amount="number").transform(pd.DataFrame({"amount": [-5.0, 0.0, 5.0]})).numeric[:, 0]
    assert numeric[0] < numeric[1] < numeric[2]


def test_dates_become_calendar_parts() -> None:
    preprocessor = fitted(pd.DataFrame({"sold": DATES}), sold="date")
    assert preprocessor.numeric_names == tuple(
        f"sold {part}"
        for part in (
            *("year", "month", "day", "day of week", "hour", "minute", "days elapsed", "season sine", "season cosine"),
            *("week sine", "week cosine", "time sine", "time cosine", "is missing"),
        )
    )
    found = preprocessor.transform(pd.DataFrame({"sold": DATES}))
    assert [(record.row, record.value, record.problem) for record in found.repaired] == [
        (4, "2020-02-30", "not a date")
    ]
    stamps = pd.to_datetime(DATES.iloc[[0, 1, 3]], format="ISO8601")
    median = stamps.sort_values().iloc[1]
    elapsed = (stamps - median) / pd.Timedelta("1D")
    dates = stamps.dt
    parts = [dates.year, dates.month, dates.day, dates.day_of_week, dates.hour, dates.minute, elapsed]
    for place, part in enumerate(parts):
        filled = np.full(5, np.median(part))
        filled[[0, 1, 3]] = part
        expected = (filled - filled.mean()) / (filled.std() or 1)
        np.testing.assert_allclose(found.numeric[:, place], expected, atol=1e-5)
    angle = (stamps.dt.day_of_year - 1) * 2 * np.pi / 365.25
    np.testing.assert_allclose(found.numeric[[0, 1, 3], 7], np.sin(angle), atol=1e-6)
    np.testing.assert_allclose(found.numeric[[0, 1, 3], 8], np.cos(angle), atol=1e-6)
    assert found.numeric[[2, 4], 7:].tolist() == [[0, 0, 0, 0, 0, 0, 1]] * 2


def test_day_first_is_learnt_in_training_and_kept() -> None:
    train = pd.DataFrame({"sold": ["25/12/2020", "1/2/2020", "3/4/2021"]})
    preprocessor = fitted(train, sold="date")
    slashes = preprocessor.transform(pd.DataFrame({"sold": ["2/3/2020"]})).numeric
    iso = preprocessor.transform(pd.DataFrame({"sold": ["2020-03-02"]})).numeric
    np.testing.assert_array_equal(slashes, iso)


def test_strange_cells_are_counted_and_missing_ones_are_not() -> None:
    frame = pd.DataFrame({"x": pd.Series(["1", "2", "12 sqft", "inf", "NA", None, "x" * 300], dtype="str")})
    found = fitted(frame.iloc[:2], x="number").transform(frame)
    assert [(r.row, r.column, r.value, r.problem, r.action) for r in found.repaired] == [
        (2, "x", "12 sqft", "not a number", "cell treated as missing"),
        (3, "x", "inf", "infinite", "cell treated as missing"),
        (6, "x", "x" * 200, "not a number", "cell treated as missing"),
    ]


def test_unseen_categories_are_recorded() -> None:
    found = fitted(pd.DataFrame({"c": ["a", "a"]}), c="category").transform(pd.DataFrame({"c": ["b", None, "a"]}))
    assert [(r.row, r.value, r.problem, r.action) for r in found.repaired] == [
        (0, "b", "category not seen in training", "treated as unknown")
    ]


def test_the_state_survives_json_byte_for_byte() -> None:
    frame, preprocessor = mixed()
    text = json.dumps(preprocessor.to_dict(), allow_nan=False)
    again = TablePreprocessor.from_dict(json.loads(text))
    assert again == preprocessor
    assert json.dumps(again.to_dict()) == text
    left, right = preprocessor.transform(frame), again.transform(frame)
    assert left.numeric.tobytes() == right.numeric.tobytes()
    assert left.categorical.tobytes() == right.categorical.tobytes()


def test_text_and_typed_cells_give_the_same_arrays() -> None:
    frame, preprocessor = mixed()
    text = (
        frame.assign(flag=frame["flag"].astype(int))
        .map(lambda cell: None if pd.isna(cell) else str(cell))
        .astype("str")
    )
    left, right = preprocessor.transform(frame), preprocessor.transform(text)
    assert left.numeric.tobytes() == right.numeric.tobytes()
    assert left.categorical.tobytes() == right.categorical.tobytes()
    assert left.repaired == right.repaired == []


def test_a_row_does_not_see_its_neighbours() -> None:
    frame, preprocessor = mixed()
    whole = preprocessor.transform(frame)
    for row in (0, 17, 59):
        alone = preprocessor.transform(frame.iloc[[row]])
        assert alone.numeric.tobytes() == whole.numeric[[row]].tobytes()
        assert alone.categorical.tobytes() == whole.categorical[[row]].tobytes()


def test_no_rows_no_numbers_and_no_categories() -> None:
    frame, preprocessor = mixed()
    none = preprocessor.transform(frame.iloc[:0])
    assert none.numeric.shape == (0, len(preprocessor.numeric_names))
    assert none.categorical.shape == (0, 1)
    empty = fitted(frame).transform(frame)
    assert (empty.numeric.shape, empty.categorical.shape) == ((60, 0), (60, 0))
    assert (empty.numeric.dtype, empty.categorical.dtype) == (np.float32, np.int64)
    with pytest.raises(DataError, match="there are no training rows"):
        fitted(frame.iloc[:0], area="number")


def test_columns_that_are_empty_in_training_are_harmless() -> None:
    train = pd.DataFrame({"x": [None, None], "d": [None, None], "c": [None, None]}, dtype="str")
    preprocessor = fitted(train, x="number", d="date", c="category")
    found = preprocessor.transform(pd.DataFrame({"x": ["5"], "d": ["2020-01-01"], "c": ["a"]}))
    assert np.isfinite(found.numeric).all()
    assert preprocessor.cardinalities == (1,)


def test_missing_and_doubled_columns_are_refused() -> None:
    frame, preprocessor = mixed()
    with pytest.raises(
        DataError, match=r"no column 'area', which the model needs\. It has a column 'Area': .*rename it to 'area'"
    ):
        preprocessor.transform(frame.rename(columns={"area": "Area"}))
    with pytest.raises(DataError, match="no columns 'area', 'city', which the model needs"):
        preprocessor.transform(frame[["age", "flag", "sold"]])
    with pytest.raises(DataError, match="2 columns named 'area'"):
        preprocessor.transform(pd.concat([frame, frame[["area"]]], axis=1))


def damaged(*path: Any, value: Any) -> Any:
    state: Any = mixed()[1].to_dict()
    inner = state
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return state


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        damaged("numbers", 0, "name", value=5),
        damaged("numbers", 0, "flag", value=1),
        damaged("numbers", 0, "scale", "std", value=-1.0),
        damaged("numbers", 0, "scale", "mean", value=float("nan")),
        damaged("numbers", 0, "scale", "fill", value="x"),
        damaged("dates", 0, "scales", value=[]),
        damaged("dates", 0, "origin", value="today"),
        damaged("categories", 0, "levels", value=["a", "a"]),
        damaged("categories", 0, "levels", value="ab"),
    ],
)
def test_a_damaged_state_is_refused(state: object) -> None:
    with pytest.raises(DataError, match="saved preprocessing state is damaged"):
        TablePreprocessor.from_dict(state)
