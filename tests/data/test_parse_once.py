"""A cell is converted once for each table that is read, whatever is done with it."""

import gc
import sys
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from mixfit.auto.recipe import fit
from mixfit.config import TrainConfig
from mixfit.data.columns import values
from mixfit.data.columns.cells import Table
from mixfit.data.columns.form import TextForm
from mixfit.data.load import load_data
from mixfit.runs.explaining import explain_run
from mixfit.runs.scoring import evaluate_table, predict_table

ROWS = 80
LEVELS = ("kind", "postcode", "sold")
FEATURES = {"area": "to_numbers", "rooms": "to_numbers", **dict.fromkeys(LEVELS, "to_levels")}


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    area = rng.normal(size=ROWS)
    return pd.DataFrame(
        {
            "area": area,
            "rooms": rng.integers(1, 60, ROWS).astype(str),
            "kind": rng.choice(["a", "b", "c"], ROWS),
            "postcode": rng.choice([f"{code:05d}" for code in range(1000, 1012)], ROWS),
            "sold": (np.datetime64("2020-01-01") + rng.integers(0, 900, ROWS)).astype(str),
            "owner_id": rng.choice([f"o{owner}" for owner in range(30)], ROWS),
            "price": 3 * area + rng.normal(size=ROWS),
        }
    )


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """How often each column of a table is converted, by column and function, those within another not counted."""
    found: Counter[tuple[str, str]] = Counter()
    inside: list[str] = []

    def counted(name: str, real: Any) -> Any:
        def convert(column: pd.Series, *args: Any, **settings: Any) -> Any:
            if not inside and column.name is not None:
                found[str(column.name), name] += 1
            inside.append(name)
            try:
                return real(column, *args, **settings)
            finally:
                inside.pop()

        return convert

    for name in ("to_numbers", "to_levels", "to_keys", "to_times", "is_day_first"):
        real = getattr(values, name)
        wrapped = counted(name, real)
        for module in [module for key, module in sys.modules.items() if key.startswith("mixfit")]:
            if getattr(module, name, None) is real:
                monkeypatch.setattr(module, name, wrapped)
    return found


def test_loading_reads_each_column_once(counts: Counter[tuple[str, str]]) -> None:
    data = load_data(frame(), target="price")
    assert {column for column, _ in counts} == set(frame())
    assert max(counts.values()) == 1
    counts.clear()
    folds = data.folds(3, seed=0)
    for place in range(folds.count):
        data.preprocessor.transform(data.table.select(folds.predicts(place)))
    assert not counts


def test_fit_predict_evaluate_and_explain_read_each_column_once(
    tmp_path: Path, counts: Counter[tuple[str, str]]
) -> None:
    table, quiet = tmp_path / "table.csv", Console(quiet=True)
    frame().to_csv(table, index=False)
    run = fit(
        table, target="price", train=TrainConfig(preset="quick", epochs=1, report=False), out=tmp_path, console=quiet
    ).folder
    assert max(counts.values()) == 1
    counts.clear()
    predict_table(run, table, out=tmp_path / "predictions.csv", console=quiet)
    assert counts == dict.fromkeys(FEATURES.items(), 1)
    counts.clear()
    evaluate_table(run, table, by=["kind", "area"], console=quiet)
    assert max(counts.values()) == 1
    counts.clear()
    explain_run(run, table=table, n=2, console=quiet)
    assert max(counts.values()) == 1


def test_selections_share_what_was_read(counts: Counter[tuple[str, str]]) -> None:
    table = Table(frame())
    rows = np.array([7, 3, 3])
    some = table.select(rows)
    for name in ("area", "kind", "sold"):
        pd.testing.assert_series_equal(some[name].keys, values.to_keys(frame()[name]).iloc[rows], check_names=False)
    counts.clear()
    again = table.select(np.array([1, 0])).select(np.array([1]))
    assert again["kind"].keys.tolist() == [frame()["kind"][0]]
    assert again["sold"].dates().times[0] == np.datetime64(frame()["sold"][0])
    assert again.frame.equals(frame().iloc[[0]])
    assert list(again.index) == [0]
    assert again.and_then(some, ["kind"])["kind"].keys.tolist() == frame()["kind"].iloc[[0, 7, 3, 3]].tolist()
    assert not counts


@pytest.mark.parametrize("some_rows", [False, True])
def test_what_was_read_is_freed_with_its_table_without_a_search_for_circles(*, some_rows: bool) -> None:
    """Or pieces of a large table would stay in memory until Python next searches."""
    gc.collect()
    gc.disable()
    try:
        table = Table(frame().astype({"area": str}), TextForm(separator=","))
        table = table.select(np.arange(50)) if some_rows else table
        held: list[weakref.ref[Any]] = []
        for name in table.names:
            cells = table[name]
            texts = [cells.texts, cells.texts.there] if cells.holds_texts else []
            read = [cells.numbers, cells.levels, cells.form, cells.clock, cells.dates(), table.votes, table.decimal]
            assert len(read) == 7
            held += map(weakref.ref, [cells, *texts])
        held.append(weakref.ref(table))
        assert len(held) > 12
        del table, cells, texts, read
        assert not [one for one in held if one() is not None]
    finally:
        gc.enable()
