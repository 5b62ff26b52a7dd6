"""A split by time: the latest rows judge, and nothing that is trained on is as late as they are."""

import itertools
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_split import numbers, schema_of, sides

from mixfit.cli import main
from mixfit.config import DataConfig
from mixfit.data import load
from mixfit.data.load import load_data
from mixfit.data.split import Split, describe_times, split_rows, time_ranks
from mixfit.errors import ConfigError, DataError


def by_time(frame: pd.DataFrame, valid: float = 0.15, test: float = 0.15, **roles: Any) -> Split:
    return split_rows(frame, schema_of(**roles), valid=valid, test=test, time="t")


@settings(max_examples=40, deadline=None)
@given(
    times=st.lists(st.integers(0, 30), min_size=10, max_size=200),
    valid=st.sampled_from([0.0, 0.1, 0.3]),
    test=st.sampled_from([0.0, 0.1, 0.3]),
)
def test_no_row_is_trained_on_that_is_as_late_as_one_that_judges(times: list[int], valid: float, test: float) -> None:
    if len(set(times)) < 1 + (valid > 0) + (test > 0):
        return
    split = by_time(numbers(len(times)).assign(t=times), valid, test)
    parts, values = sides(split), np.array(times)
    kept = [values[parts == name] for name in ("train", "valid", "test") if (parts == name).any()]
    assert len(kept) == 1 + (valid > 0) + (test > 0)
    assert all(earlier.max() < later.min() for earlier, later in itertools.pairwise(kept))
    most_at_once = np.bincount(values).max()
    if test > 0 and len(split.test) > test * len(times):  # more than asked for only by the rows of one time
        assert len(split.test) - test * len(times) <= most_at_once


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 25) | st.none()), min_size=10, max_size=120),
    test=st.sampled_from([0.0, 0.2]),
)
def test_f17_no_row_that_is_used_knows_a_group_of_the_test(rows: list[tuple[int, int | None]], test: float) -> None:
    frame = numbers(len(rows)).assign(
        t=[time for time, _ in rows], g=pd.Series([group for _, group in rows], dtype="Int64")
    )
    alone = pd.Series(-1 - np.arange(len(rows)))
    group = frame["g"].astype("float64").fillna(alone).to_numpy()
    if frame["t"].nunique() < 2 + (test > 0):
        with pytest.raises(
            DataError, match=rf"column 't' has \d different times, too few for a split into {2 + (test > 0)} parts"
        ):
            by_time(frame, 0.2, test, g="group")
        return
    try:
        split = by_time(frame, 0.2, test, g="group")
    except DataError as error:
        assert "leaves no rows for" in str(error)  # noqa: PT017 - one way or the other
        return
    parts, times = sides_or_none(split, len(rows)), frame["t"].to_numpy()
    used = np.isin(parts, ["train", "valid"])
    assert (parts == "train").any()
    assert (parts == "valid").any()
    if test > 0:
        judged = parts == "test"
        assert times[used].max() < times[judged].min()
        assert not np.isin(group[used], group[judged]).any()
        assert (times[judged].min() > times[parts == ""]).all()
        assert np.isin(group[parts == ""], group[judged]).all()
    else:
        assert (parts != "").all()
    assert not np.isin(group[parts == "train"], group[parts == "valid"]).any()
    latest = frame["t"].groupby(group).transform("max").to_numpy()
    assert times[parts == "train"].max() < latest[parts == "valid"].min()


def sides_or_none(split: Split, rows: int) -> np.ndarray:
    parts = np.full(rows, "", dtype=object)
    for name, part in split.parts().items():
        parts[part] = name
    return parts


def test_rows_in_the_gap_before_the_test_are_left_out_and_named() -> None:
    frame = numbers(100).assign(t=pd.date_range("2020-01-01", periods=100), x=np.random.default_rng(0).normal(size=100))
    data = load_data(frame, target="y", config=DataConfig(split_time="t", gap="10d", test=0.2))
    assert data.split.test.tolist() == list(range(80, 100))
    assert max(data.split.valid) == 69
    assert [record.row for record in data.bad] == list(range(70, 80))
    assert {(record.problem, record.action) for record in data.bad} == {
        ("in the gap before the test rows", "row left out")
    }
    by_number = load_data(frame.assign(t=range(100)), target="y", config=DataConfig(split_time="t", gap="10", test=0.2))
    assert by_number.split.valid.tolist() == data.split.valid.tolist()


@pytest.mark.parametrize(("times", "gap"), [("dates", "10"), ("dates", "soon"), ("dates", "-1d"), ("numbers", "10d")])
def test_a_gap_in_another_unit_is_refused(times: str, gap: str) -> None:
    column = pd.date_range("2020-01-01", periods=30) if times == "dates" else np.arange(30)
    wanted = "a duration such as 30d, 12h or 2w" if times == "dates" else "a number such as 3, as the times are"
    with pytest.raises(ConfigError, match=f"The gap of a split by time must be {wanted}.*; got '{gap}'"):
        split_rows(numbers(30).assign(t=column), schema_of(), time="t", gap=gap)


def test_a_gap_without_a_split_by_time_is_refused() -> None:
    with pytest.raises(ConfigError, match="gap=3d needs a split by time: add --split-time COLUMN"):
        DataConfig(gap="3d")


def test_ids_that_come_back_at_all_times_do_not_purge_the_past() -> None:
    """A store that is there every day is no new store in the test."""
    rng = np.random.default_rng(0)
    frame = numbers(200).assign(t=np.arange(200), store_id=np.arange(200) % 12, x=rng.normal(size=200))
    data = load_data(frame, target="y", config=DataConfig(split_time="t"))
    assert len(data.split.train) + len(data.split.valid) + len(data.split.test) == 200
    assert any("ids of 'store_id' recur over the whole time span" in note for note in data.notes)
    with pytest.raises(DataError, match="170 share a group with a test row or are a copy of one"):
        load_data(frame, target="y", config=DataConfig(split_time="t", roles={"store_id": "group"}))


def test_shares_are_met_when_all_times_differ_and_as_nearly_as_whole_times_allow() -> None:
    frame = numbers(100).assign(t=np.random.default_rng(0).permutation(100))
    split = by_time(frame, 0.2, 0.1)
    assert sorted(frame["t"].iloc[split.test]) == list(range(90, 100))
    assert sorted(frame["t"].iloc[split.valid]) == list(range(70, 90))
    years = np.repeat([2000, 2001, 2002, 2003], [40, 28, 14, 18])
    parts = sides(by_time(numbers(100).assign(t=years), 0.15, 0.15))
    assert pd.Series(parts).groupby(years).unique().str[0].tolist() == ["train", "train", "valid", "test"]
    few = sides(by_time(numbers(100).assign(t=np.repeat([1, 2, 3], [1, 1, 98]))))
    assert few.tolist() == ["train", "valid", *["test"] * 98]


DAYS = pd.date_range("2019-11-20", periods=100, freq="37h")
WRITTEN = {
    "typed": DAYS,
    "with a zone": DAYS.tz_localize("Europe/Rome"),
    "iso": DAYS.strftime("%Y-%m-%d %H:%M"),
    "day first": DAYS.strftime("%d/%m/%Y %H:%M"),
    "month first": DAYS.strftime("%m/%d/%Y %I:%M %p"),
    "named months": DAYS.strftime("%b %d, %Y %H:%M"),
    "digits": DAYS.strftime("%Y%m%d%H%M"),
    "numbers": np.arange(100) / 8 - 3,
    "numbers as text": [f"{number}e0" for number in range(-50, 50)],
    "durations": DAYS - DAYS[0],
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_times_are_understood_however_they_are_written(kind: str) -> None:
    order = np.random.default_rng(1).permutation(100)
    column = pd.Series(WRITTEN[kind], name="t").iloc[order].reset_index(drop=True)
    assert time_ranks(column).tolist() == order.tolist()
    split = by_time(numbers(100).assign(t=column), 0.2, 0.3)
    assert sorted(order[split.test]) == list(range(70, 100))


def test_neither_the_seed_nor_the_order_of_rows_matters() -> None:
    frame = numbers(60).assign(t=np.arange(60) // 4)
    order = np.random.default_rng(0).permutation(60)
    one = split_rows(frame, schema_of(), seed=0, time="t")
    other = split_rows(frame.iloc[order].reset_index(drop=True), schema_of(), seed=5, time="t")
    for name in ("train", "valid", "test"):
        assert sorted(order[other.of(name)]) == one.of(name).tolist()


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["2020-01-01"] * 18 + ["", "soon"], "2 of 20 cells of column 't' hold no time .* first in row 18 is empty"),
        ([*range(19), "soon"], "1 of 20 cells of column 't' hold no time to split by, the first in row 19 is 'soon'"),
        (
            [*range(19), float("inf")],
            "1 of 20 cells of column 't' hold no time .* may be later than the test rows: fill",
        ),
        (["never"] * 20, "none of the 20 cells of column 't' is a date or a number, so the rows cannot be split by it"),
        ([1] * 10 + [2] * 10, "column 't' has 2 different times, too few for a split into 3 parts"),
    ],
)
def test_rows_without_a_time_and_too_few_times_are_refused(cells: list[Any], message: str) -> None:
    for dtype in (object, "str"):
        with pytest.raises(DataError, match=message):
            by_time(numbers(20).assign(t=pd.Series(cells, dtype=object).astype(dtype)))


def test_rows_are_named_as_in_the_whole_table() -> None:
    frame = numbers(30).assign(t=np.arange(30.0))
    frame.loc[[20, 21], "t"] = np.nan
    with pytest.raises(DataError, match="the first in row 20 is empty"):
        by_time(frame.drop(index=[3, 4]))


def test_wrong_columns_are_refused() -> None:
    frame = numbers(20).assign(year=range(20), split=["train"] * 20, cells=[[1]] * 20)
    for time, message in {
        "yaer": "no column 'yaer'. Did you mean 'year'",
        "y": "column 'y' is the target",
        "cells": "the rows cannot be split by time by column 'cells': its cells are of type list",
    }.items():
        with pytest.raises(ConfigError, match=message):
            split_rows(frame, schema_of(), time=time)
    with pytest.raises(ConfigError, match=r"cannot be split both by time .* and by the split column 'split'"):
        split_rows(frame, schema_of(split="split"), time="year")


def test_the_times_of_the_parts_are_described() -> None:
    column = pd.Series(["2001", "1999", "2000", "1998", "1998", "1997"], name="year")
    parts = {"train": np.array([3, 4, 5]), "valid": np.array([1, 2]), "test": np.array([0])}
    assert describe_times(column, parts) == "train 1997 to 1998, valid 1999 to 2000, test 2001"
    assert describe_times(column, {**parts, "test": np.array([], dtype=np.int64)}).endswith("valid 1999 to 2000")


def test_a_split_column_that_was_only_guessed_gives_way_and_one_that_was_set_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = numbers(60).assign(x=np.arange(60.0)[::-1], year=np.arange(60) // 3, split=["train", "valid", "test"] * 20)
    frame["fold"] = frame["split"]
    frame.to_parquet(tmp_path / "t.parquet")
    config = DataConfig(split_time="year", cache_gb=0.0)
    data = load_data(frame, target="y", config=config)
    assert data.schema.names("split") == []
    reasons = {column.name: column.reason for column in data.schema.columns if column.role == "ignored"}
    assert reasons == dict.fromkeys(["split", "fold"], "a split, but the rows are split by 'year'")
    assert data.split.test.tolist() == list(range(51, 60))
    assert data.split.valid.tolist() == list(range(42, 51))
    monkeypatch.setattr(load, "LARGE", 1)
    in_pieces = load_data(tmp_path / "t.parquet", target="y", config=config)
    assert in_pieces.table.in_pieces
    assert in_pieces.split.test.tolist() == data.split.test.tolist()
    assert in_pieces.schema == data.schema
    with pytest.raises(ConfigError, match="--split-time year and --set split=split exclude each other"):
        load_data(frame, target="y", config=DataConfig(split_time="year", roles={"split": "split"}))


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(str(stop.value.code))


QUICK = ("--preset", "network", "--epochs", "1", "--tabular-hidden", "8", "--encoding-dim", "8", "--cache-gb", "0")


@pytest.mark.skipif("MIXFIT_DATA" not in os.environ, reason="MIXFIT_DATA is not set")
def test_films_are_judged_by_later_films(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = Path(os.environ["MIXFIT_DATA"]) / "movies" / "table.csv"
    years = pd.read_csv(table)["year"]
    flags = ("--target", "imdb_rating", "--ignore", "image", "--split-time")
    assert command("inspect", table, *flags, "year") == 0
    assert "note: split by year: train 1927 to 1998, valid 1999, test 2000" in capsys.readouterr().out
    assert command("train", table, *flags, "year", *QUICK) == 0
    printed = capsys.readouterr().out
    assert "split by year: train 1927 to 1998, valid 1999, test 2000" in printed
    counts = [int((years <= 1998).sum()), int((years == 1999).sum()), int((years == 2000).sum())]
    assert "{} train / {} valid / {} test".format(*counts) in printed
    run = Path("runs/movies-imdb_rating-001")
    assert tomllib.loads((run / "config.toml").read_text())["data"]["split_time"] == "year"
    judged = pd.read_parquet(run / "predictions_valid.parquet")
    assert judged["row"].tolist() == np.flatnonzero(years == 1999).tolist()
    for part, count in (("train", counts[0]), ("test", counts[2])):
        assert command("evaluate", run, table, "--split", part) == 0
        found = capsys.readouterr().out
        assert f"{part} rows: {count}\n" in found
    test_scores = re.findall(r"   mixfit, table and text +([\d.]+)", printed)
    mae = float(re.search(r"MAE +([\d.]+)", found)[1])  # type: ignore[index]
    assert float(test_scores[-1]) == pytest.approx(mae, rel=1e-3), printed

    for column, code, message in (
        ("yaer", 2, "no column 'yaer'. Did you mean 'year'?"),
        ("running_time_min", 3, "689 of 1041 cells of column 'running_time_min' hold no time to split by"),
    ):
        assert command("train", table, *flags, column, *QUICK) == code
        assert message in capsys.readouterr().err
    assert len(list(Path("runs").iterdir())) == 2
