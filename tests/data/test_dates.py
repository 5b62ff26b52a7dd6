"""Nothing that a date, a time of the day or a duration says is dropped."""

import datetime as dt
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.data.columns.infer import infer_schema
from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.columns.schema import Schema
from mixfit.errors import DataError

ROWS = 80
RNG = np.random.default_rng(0)
TIMES = pd.Series(pd.Timestamp("2021-03-01") + pd.to_timedelta(RNG.integers(0, 500 * 1440, ROWS), unit="m"))
CLOCK = TIMES.dt.floor("D").rsub(TIMES).astype("timedelta64[s]")


def fitted(cells: object) -> tuple[Schema, TablePreprocessor]:
    frame = pd.DataFrame({"at": cells, "y": RNG.normal(size=len(pd.Series(cells)))})
    schema = Schema.from_dict(json.loads(json.dumps(infer_schema(frame, "y").to_dict())))
    return schema, TablePreprocessor.fit(frame, schema)


def parts(fit: TablePreprocessor, cells: object) -> dict[str, np.ndarray]:
    """What a model sees of cells, before scaling: each part, back in its own unit."""
    found = fit.transform(pd.DataFrame({"at": cells}))
    assert found.repaired == []
    (column,) = fit.columns
    values = dict(zip([name.removeprefix("at ") for name in fit.numeric_names], found.numeric.T, strict=True))
    for part, scale in zip(column.parts, column.scales, strict=True):
        values[part] = values[part] * scale.std + scale.mean
    return values


@pytest.mark.parametrize(
    "write",
    [
        lambda times: times,
        lambda times: times.dt.strftime("%Y-%m-%d %H:%M"),
        lambda times: times.dt.strftime("%d.%m.%Y %H:%M"),
        lambda times: times.dt.strftime("%b %d, %Y %I:%M %p"),
        lambda times: times.dt.strftime("%Y%m%dT%H%M"),
        lambda times: times.astype("datetime64[ms]"),
        lambda times: pd.Series(times.dt.to_pydatetime(), dtype=object),
    ],
)
def test_year_month_day_weekday_hour_and_minute_are_seen(write: object) -> None:
    cells = write(TIMES)  # type: ignore[operator]
    schema, fit = fitted(cells)
    assert schema.names("date") == ["at"]
    found = parts(fit, cells)
    for part, wanted in (
        ("year", TIMES.dt.year),
        ("month", TIMES.dt.month),
        ("day", TIMES.dt.day),
        ("day of week", TIMES.dt.day_of_week),
        ("hour", TIMES.dt.hour),
        ("minute", TIMES.dt.minute),
    ):
        np.testing.assert_allclose(found[part], wanted, atol=1e-4)
    angle = (TIMES.dt.hour * 60 + TIMES.dt.minute) / 1440 * 2 * np.pi
    np.testing.assert_allclose(found["time sine"], np.sin(angle), atol=1e-6)
    np.testing.assert_allclose(found["time cosine"], np.cos(angle), atol=1e-6)
    np.testing.assert_allclose(found["week sine"], np.sin(TIMES.dt.day_of_week / 7 * 2 * np.pi), atol=1e-6)


def test_what_does_not_vary_is_left_out() -> None:
    days = fitted(TIMES.dt.floor("D"))[1].numeric_names
    assert not [name for name in days if "hour" in name or "minute" in name or "time" in name]
    hours = fitted(TIMES.dt.floor("h"))[1].numeric_names
    assert "at hour" in hours
    assert "at minute" not in hours


@pytest.mark.parametrize(
    "form",
    [
        "{h:02d}:{m:02d}",
        "{h}:{m:02d}",
        "{h:02d}:{m:02d}:00",
        "{h:02d}:{m:02d}:00.000",
        "{h}h{m:02d}",
        "{h}.{m:02d} Uhr",
    ],
)
def test_times_of_the_day_are_parts_of_the_clock(form: str) -> None:
    cells = [form.format(h=at.hour, m=at.minute) for at in TIMES]
    schema, fit = fitted(cells)
    assert schema.columns[0].role == "date"
    assert schema.columns[0].reason.startswith("times of the day such as")
    assert fit.numeric_names == ("at hour", "at minute", "at time sine", "at time cosine")
    found = parts(fit, cells)
    np.testing.assert_allclose(found["hour"] * 60 + found["minute"], TIMES.dt.hour * 60 + TIMES.dt.minute, atol=1e-2)
    # just before and just after midnight are close to each other
    ends = parts(fit, [form.format(h=23, m=59), form.format(h=0, m=0)])
    assert abs(ends["time sine"][0] - ends["time sine"][1]) < 0.01


def test_times_of_the_day_with_am_and_pm_and_typed_ones() -> None:
    wanted = TIMES.dt.hour * 60 + TIMES.dt.minute
    for cells in (TIMES.dt.strftime("%I:%M %p"), TIMES.dt.strftime("%I:%M%p").str.lower(), TIMES.dt.time):
        schema, fit = fitted(cells)
        assert schema.names("date") == ["at"]
        found = parts(fit, cells)
        np.testing.assert_allclose(found["hour"] * 60 + found["minute"], wanted, atol=1e-2)
    fit = fitted([f"{1 + i % 12} {'ap'[i % 2]}m" for i in range(ROWS)])[1]
    np.testing.assert_allclose(parts(fit, ["12 am", "12 pm", "7 pm"])["hour"], [0, 12, 19], atol=1e-4)


def test_a_time_of_the_day_in_a_column_of_dates_is_no_date_and_a_date_no_time() -> None:
    _, fit = fitted(TIMES.astype(str))
    (record,) = fit.transform(pd.DataFrame({"at": ["10:30", "2021-05-05 10:30"]})).repaired
    assert (record.row, record.problem) == (0, "not a date")
    _, fit = fitted(TIMES.dt.strftime("%H:%M"))
    assert [one.row for one in fit.transform(pd.DataFrame({"at": ["10:30", "2021-05-05", "25:00"]})).repaired] == [1, 2]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC"])
def test_the_hour_is_that_of_the_clocks_of_the_column(zone: str) -> None:
    local = TIMES.dt.tz_localize("UTC").dt.tz_convert(zone)
    _, fit = fitted(local)
    np.testing.assert_allclose(parts(fit, local)["hour"], local.dt.hour, atol=1e-4)
    # the same instants in another zone are the same
    for other in ("UTC", "Asia/Tokyo"):
        again = parts(fit, local.dt.tz_convert(other))
        np.testing.assert_allclose(again["hour"], local.dt.hour, atol=1e-4)
    written = local.map(lambda at: at.isoformat())
    _, fit = fitted(written)
    found = parts(fit, written)
    np.testing.assert_allclose(found["hour"], local.dt.hour, atol=1e-4)
    if zone in ("Europe/Berlin", "America/New_York"):  # summer time comes and goes
        ahead = [at.utcoffset().total_seconds() / 3600 for at in local]
        np.testing.assert_allclose(found["hours ahead of UTC"], ahead, atol=1e-4)
    else:
        assert "hours ahead of UTC" not in found


@settings(deadline=None, max_examples=25)
@given(st.lists(st.datetimes(dt.datetime(1950, 1, 1), dt.datetime(2100, 1, 1)), min_size=8, max_size=20, unique=True))
def test_any_two_moments_that_differ_by_a_minute_or_more_look_different(moments: list[dt.datetime]) -> None:
    minutes = sorted({moment.replace(second=0, microsecond=0) for moment in moments})
    if len(minutes) < 8:
        return
    cells = pd.Series(minutes, dtype="datetime64[us]")
    frame = pd.DataFrame({"at": cells, "y": np.arange(len(cells)) * 1.5})
    fit = TablePreprocessor.fit(frame, infer_schema(frame, "y", roles={"at": "date"}))
    numeric = fit.transform(frame).numeric
    assert len(np.unique(numeric, axis=0)) == len(minutes)


def test_dates_that_could_be_of_two_days_are_told() -> None:
    schema, _ = fitted([f"{1 + i % 12}/{1 + i % 11}/2020" for i in range(ROWS)])
    assert "is read as month first, because no cell shows the order" in schema.columns[0].note
    schema, _ = fitted([f"{1 + i % 12}/{1 + i % 28}/2020" for i in range(ROWS)])
    assert schema.columns[0].note == ""


def test_a_damaged_zone_is_refused() -> None:
    _, fit = fitted(TIMES)
    state = fit.to_dict()
    state["dates"][0]["zone"] = "Mars/Olympus"
    with pytest.raises(DataError, match="the time zone 'Mars/Olympus' does not exist"):
        TablePreprocessor.from_dict(state)


@pytest.mark.parametrize(
    ("cells", "seconds"),
    [
        (["25:10", "1:05", "100:00"], [90_600, 3_900, 360_000]),
        (["59:59", "1:02:03", "0:30"], [3_599, 3_723, 30]),
        (["1h 30m", "45 min", "2 hours"], [5_400, 2_700, 7_200]),
        (["1h30m", "2h5m", "45m"], [5_400, 7_500, 2_700]),
        (["PT1H30M", "PT45S", "P1DT2H"], [5_400, 45, 93_600]),
        (["2 days 03:04:05", "0 days 00:00:01.500", "1 day, 3:00:00"], [183_845, 1.5, 97_200]),
        (["3 days", "1 week", "5 hours"], [259_200, 604_800, 18_000]),
        (["-1:30:00", "26:00:00", "0:00:10"], [-5_400, 93_600, 10]),
    ],
)
def test_durations_are_seconds(cells: list[str], seconds: list[float]) -> None:
    schema, _fit = fitted((cells * ROWS)[:ROWS])
    assert schema.columns[0].role == "number"
    assert "durations" in schema.columns[0].reason
    later = schema.table(pd.DataFrame({"at": [*cells, "n/a", "soon"]}))["at"].numbers
    np.testing.assert_allclose(later.values[:3], seconds)
    assert later.unparsable.tolist() == [False, False, False, False, True]


def test_typed_durations_and_their_texts_are_the_same() -> None:
    lengths = pd.Series(pd.to_timedelta(RNG.integers(1, 500_000, ROWS), unit="s"))
    schema, fit = fitted(lengths)
    assert schema.names("number") == ["at"]
    text = fit.transform(pd.DataFrame({"at": lengths.astype("str")}))
    assert text.repaired == []
    np.testing.assert_array_equal(text.numeric, fit.transform(pd.DataFrame({"at": lengths})).numeric)
