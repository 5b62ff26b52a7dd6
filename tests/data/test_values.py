"""A cell means the same, however it is stored."""

import datetime as dt
import re
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.data.columns.form import MISSING_WORDS, Texts
from mixfit.data.columns.values import (
    is_day_first,
    moments,
    plain_cells_problem,
    to_keys,
    to_numbers,
    to_times,
)

SEVENS = {
    "text": pd.Series(["7", None, "12"], dtype="str"),
    "text of floats": pd.Series([" 7.0 ", "", "12.00"], dtype="str"),
    "objects": pd.Series([7, None, "12.0"], dtype=object),
    "floats": pd.Series([7.0, np.nan, 12.0]),
    "float32": pd.Series([7.0, np.nan, 12.0], dtype="float32"),
    "nullable": pd.Series([7, None, 12], dtype="Int64"),
    "arrow": pd.Series(pd.array([7, None, 12], dtype=pd.ArrowDtype(pa.int64()))),
    "arrow decimal": pd.Series(pd.array([Decimal(7), None, Decimal(12)], dtype=pd.ArrowDtype(pa.decimal128(6, 2)))),
    "categorical": pd.Series([7.0, None, 12.0]).astype("category"),
    "categorical text": pd.Series(["7.0", None, "12"]).astype("category"),
}


@pytest.mark.parametrize("kind", SEVENS)
def test_a_number_is_the_same_number_and_key_in_every_storage(kind: str) -> None:
    numbers = to_numbers(SEVENS[kind])
    np.testing.assert_array_equal(numbers.values, [7.0, np.nan, 12.0])
    assert not numbers.unparsable.any()
    assert to_keys(SEVENS[kind]).fillna("missing").tolist() == ["7", "missing", "12"]


@given(st.lists(st.floats(allow_nan=False) | st.none(), max_size=30))
def test_a_float_and_the_text_it_is_written_as_are_the_same_bits(values: list[float | None]) -> None:
    typed = pd.Series(values, dtype="float64")
    text = pd.Series([None if value is None else repr(value) for value in values], dtype="str")
    left, right = to_numbers(typed), to_numbers(text)
    assert left.values.tobytes() == right.values.tobytes()
    assert (left.unparsable == right.unparsable).all()
    assert (left.infinite == np.isinf(typed)).all()
    assert to_keys(typed).equals(to_keys(text))


@settings(deadline=None)
@given(
    st.lists(
        st.from_regex(r"[-+]?[0-9]{0,19}\.?[0-9]{0,19}([eE][-+]?[0-9]{1,3})?", fullmatch=True), max_size=9, unique=True
    )
)
def test_plain_numbers_are_those_of_python_and_no_others_are_taken(cells: list[str]) -> None:
    found = Texts.of(pd.Series(cells, dtype="str"))
    assert found.plain.tolist() == [any(sign.isdigit() for sign in re.split("[eE]", cell)[0]) for cell in cells]
    expected = [float(cell) if plain else np.nan for cell, plain in zip(cells, found.plain, strict=True)]
    np.testing.assert_array_equal(found.floats, np.array(expected))
    assert np.signbit(found.floats).tolist() == np.signbit(np.array(expected, dtype=np.float64)).tolist()
    assert found.numbers_repeat == (len({float(cell) for cell in np.array(cells)[found.plain]}) < found.plain.sum())


@pytest.mark.parametrize(
    "cell", ["0x10", "1_000", "inf", "nan", "Infinity", "1e", "e5", ".", "+", "1.2.3", "1 2", "٣", "1f"]
)
def test_what_only_some_programs_read_as_a_number_is_not_plain(cell: str) -> None:
    for cells in ([cell], ["1.5", cell]):
        assert Texts.of(pd.Series(cells, dtype="str")).plain.tolist() == [True] * (len(cells) - 1) + [False]


@given(st.lists(st.text(max_size=8), max_size=20))
@settings(max_examples=20, deadline=None)
def test_any_text_gives_the_same_from_arrow_objects_and_categories(cells: list[str]) -> None:
    text = pd.Series(cells, dtype="str")
    for other in (text.astype(object), pd.Series(cells, dtype=pd.StringDtype("python")), text.astype("category")):
        assert to_keys(text).fillna("").tolist() == to_keys(other).fillna("").tolist()
        np.testing.assert_array_equal(to_numbers(text).values, to_numbers(other).values)
        np.testing.assert_array_equal(to_times(text)[0], to_times(other)[0])


@given(st.lists(st.text(max_size=8) | st.floats() | st.integers(0, 10**9), max_size=20))
@settings(max_examples=40, deadline=None)
def test_canonical_keys_are_their_own_keys(cells: list[str | float | int]) -> None:
    keys = to_keys(pd.Series(cells, dtype=object))
    assert to_keys(keys).equals(keys)


@pytest.mark.parametrize("cell", ["1_000", "12 sqft", "1,5,", "0x10", "٣", "1 2", "--5", "1e", "e5", "NaN5", "yes"])
def test_what_is_no_number_is_unparsable(cell: str) -> None:
    numbers = to_numbers(pd.Series([cell, "1"]))
    assert np.isnan(numbers.values[0])
    assert numbers.unparsable.tolist() == [True, False]
    assert not numbers.infinite.any()


@pytest.mark.parametrize("cell", ["inf", "-Infinity", "1e400", float("-inf"), 10**400])
def test_infinity_is_missing_and_reported(cell: object) -> None:
    numbers = to_numbers(pd.Series([cell, 1], dtype=object))
    assert np.isnan(numbers.values[0])
    assert numbers.unparsable.tolist() == numbers.infinite.tolist() == [True, False]


@pytest.mark.parametrize("word", sorted(MISSING_WORDS))
def test_missing_words_are_missing_numbers_but_levels_of_a_category(word: str) -> None:
    column = pd.Series([f" {word.upper()} ", "1"], dtype="str")
    assert np.isnan(to_numbers(column).values[0])
    assert not to_numbers(column).unparsable.any()
    assert to_keys(column).isna().tolist() == [word == "", False]


def test_booleans_and_durations_are_numbers_and_dates_are_not() -> None:
    assert to_numbers(pd.Series([True, False])).values.tolist() == [1.0, 0.0]
    np.testing.assert_array_equal(to_numbers(pd.Series([True, None], dtype="boolean")).values, [1.0, np.nan])
    assert to_numbers(pd.Series([pd.Timedelta("1min")])).values.tolist() == [60.0]
    assert to_numbers(pd.Series([pd.Timestamp("2020-01-01"), None])).unparsable.tolist() == [True, False]
    assert to_numbers(pd.Series([1 + 2j])).unparsable.all()
    assert to_keys(pd.Series([True, False])).tolist() == ["True", "False"]


@pytest.mark.parametrize(
    "text", ["12345678901234567890.5", "0.1234567890123456789", "1e400", "1e-400", "1.2.3", "01.50", "1e", ".5", "tRUE"]
)
def test_keys_of_what_a_float_cannot_hold_or_is_no_number_stay_as_given(text: str) -> None:
    assert to_keys(pd.Series([text])).tolist() == [text]


def test_keys_keep_the_index_and_codes_as_given() -> None:
    keys = to_keys(pd.Series(["007", "-0.0", "1.50", "1e5", "None", "\u00a0", "a b "], index=[3, 1, 4, 1, 5, 9, 2]))
    assert keys.index.tolist() == [3, 1, 4, 1, 5, 9, 2]
    assert keys.fillna("?").tolist() == ["007", "-0.0", "1.50", "1e5", "None", "?", "a b"]


@pytest.mark.parametrize(
    ("cells", "keys"),
    [
        (["-0.0", "1.50", "1e5", "None"], ["0", "1.5", "100000", "None"]),
        (["7", "7.0", "8"], ["7", "7", "8"]),
        (["2E1", "20", "12E3", "1.1", "1.10", "250.0"], ["2E1", "20", "12E3", "1.1", "1.10", "250.0"]),
        (["3.10", "3.1", "4"], ["3.10", "3.1", "4"]),
        (["1E5", "1e5"], ["1E5", "1e5"]),
        (["1.0", "x"], ["1.0", "x"]),
        (["5e3", "A1"], ["5e3", "A1"]),
        (["TRUE", "false"], ["True", "False"]),
        (["TRUE", "false", "maybe"], ["TRUE", "false", "maybe"]),
        (["TRUE", "True"], ["TRUE", "True"]),
        ([7.0, "x"], ["7", "x"]),
    ],
)
def test_whether_cells_are_numbers_is_decided_for_the_whole_column(cells: list[object], keys: list[str]) -> None:
    assert to_keys(pd.Series(cells)).tolist() == keys


CODES = st.from_regex(r"\A[0-9]{1,3}(\.[0-9]{1,2})?([eE][0-9])?\Z")


@given(st.lists(CODES, min_size=1, max_size=12))
def test_codes_that_are_written_differently_stay_different_unless_whole(cells: list[str]) -> None:
    for column in (pd.Series(cells, dtype="str"), pd.Series([*cells, "a code"], dtype="str")):
        keys = to_keys(column)
        pairs = {(cell, key) for cell, key in zip(column, keys, strict=True)}
        merged = {key for key in keys if len({cell for cell, same in pairs if same == key}) > 1}
        assert all(key.isdigit() for key in merged)
        if "a code" in column.tolist():
            assert keys.tolist() == column.tolist()


@pytest.mark.parametrize(
    "written",
    [
        "2020-01-31 18:30",
        "2020-01-31T18:30:00Z",
        "2020-01-31T20:30:00+02:00",
        "2020-1-31 18:30:00.000000001",
        "2020/01/31 6:30 PM",
        "1/31/2020 6:30 pm",
        "31.1.2020 18:30",
        "20200131T183000",
        "31 Jan 2020 18:30",
        "Fri, 31 Jan 2020 13:30:00 -0500",
        "January 31st, 2020 18:30",
        dt.datetime(2020, 1, 31, 18, 30),
        dt.datetime(2020, 1, 31, 19, 30, tzinfo=dt.timezone(dt.timedelta(hours=1))),
        pd.Timestamp("2020-01-31 18:30"),
        np.datetime64("2020-01-31T18:30"),
    ],
)
def test_one_moment_in_many_spellings(written: object) -> None:
    times, unparsable = to_times(pd.Series([written, None], dtype=object))
    assert times[0] == np.datetime64("2020-01-31T18:30", "us")
    assert np.isnat(times[1])
    assert not unparsable.any()


@pytest.mark.parametrize(
    "written",
    [
        "2020-02-30",
        "2021-02-29",
        "1900-02-29",
        "0000-00-00",
        "2020-13-01",
        "2020-01-01 24:00",
        "2020-01-01 13:00 pm",
        "2020-01-01 10:00+99:00",
        "2020-01-01x",
        "31/31/2020",
        "123456789",
        "10:30x",
        "May",
        "soon",
    ],
)
def test_what_is_no_date_is_unparsable(written: str) -> None:
    times, unparsable = to_times(pd.Series([written, "NA", ""], dtype="str"))
    assert np.isnat(times).all()
    assert unparsable.tolist() == [True, False, False]


@given(st.lists(st.datetimes(), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_iso_text_agrees_with_pythons_own_parser(moments_in_time: list[dt.datetime]) -> None:
    times, unparsable = to_times(pd.Series([moment.isoformat(" ") for moment in moments_in_time], dtype="str"))
    np.testing.assert_array_equal(times, np.array(moments_in_time, dtype="datetime64[us]"))
    assert not unparsable.any()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_units_and_zones_of_typed_dates_do_not_matter(unit: str, zone: str | None) -> None:
    column = pd.Series(np.array(["1960-05-01T12:00", "2020-01-31T18:30", "NaT"], dtype=f"datetime64[{unit}]"))
    expected = column.to_numpy().astype("datetime64[us]")
    if zone is not None:
        column = column.dt.tz_localize("UTC").dt.tz_convert(zone)
    np.testing.assert_array_equal(to_times(column)[0], expected)
    np.testing.assert_array_equal(to_times(to_keys(column))[0], expected)


def test_parquets_plain_days_are_dates() -> None:
    days = [dt.date(2020, 1, 31), None]
    for column in (pd.Series(days, dtype=object), pd.Series(pd.array(days, dtype=pd.ArrowDtype(pa.date32())))):
        assert to_times(column)[0][0] == np.datetime64("2020-01-31")
        assert to_keys(column).fillna("").tolist() == ["2020-01-31", ""]


def test_one_cell_decides_day_first_for_the_column_and_dots_decide_for_themselves() -> None:
    ambiguous = pd.Series(["1/2/2020", "3.4.2020"], dtype="str")
    assert not is_day_first(ambiguous)
    assert is_day_first(pd.Series(["1/2/2020", "25/12/2020"], dtype="str"))
    assert to_times(ambiguous)[0].astype("datetime64[D]").astype(str).tolist() == ["2020-01-02", "2020-04-03"]
    assert to_times(ambiguous, day_first=True)[0][0] == np.datetime64("2020-02-01")


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=50))
def test_moments_agree_with_their_definitions(values: list[float]) -> None:
    array = np.array(values)
    found = moments(array)
    assert found.mean == pytest.approx(array.mean(), abs=1e-9)
    if found.std > 1e-6:
        assert found.std == pytest.approx(array.std())
        assert found.skew == pytest.approx(np.mean(((array - array.mean()) / array.std()) ** 3), abs=1e-6)


def test_moments_of_extremes_are_finite() -> None:
    for values in ([1e308, -1e308, 1.7e308], [5e-324, 0.0, 1e-320], [1e308] * 5, [0.1] * 7, []):
        found = moments(np.array(values))
        assert np.isfinite([found.mean, found.std, found.skew]).all()
    assert moments(np.array([0.1] * 7)).std == 0


def test_containers_and_bytes_are_told_apart_from_plain_cells() -> None:
    assert plain_cells_problem(pd.Series([1, [2]], dtype=object)) == "list"
    assert plain_cells_problem(pd.Series([b"x", None], dtype=object)) == "bytes"
    assert plain_cells_problem(pd.Series([1, "a", None, dt.date(2020, 1, 1)], dtype=object)) is None
    nested = pd.Series(pd.array([[1], None], dtype=pd.ArrowDtype(pa.list_(pa.int64()))))
    assert plain_cells_problem(nested) == "list<item: int64>"
    assert to_keys(nested).isna().tolist() == [False, True]


@pytest.mark.parametrize("dtype", ["str", object, "float64", "datetime64[us]", "category", "bool"])
def test_no_rows_give_no_values(dtype: str | type) -> None:
    column = pd.Series([], dtype=dtype)
    assert len(to_numbers(column).values) == len(to_keys(column)) == len(to_times(column)[0]) == 0
