"""The canonical keys of some rows are those of the whole column, without the keys of the other rows."""

import numpy as np
import pandas as pd
import pytest

from mixfit.data.columns import values
from mixfit.data.columns.cells import Table
from mixfit.data.columns.form import Keys

ROWS = 50
RNG = np.random.default_rng(0)
COLUMNS = {
    "floats": RNG.normal(size=ROWS),
    "singles": RNG.normal(size=ROWS).astype(np.float32),
    "infinite": np.array([1.0, np.inf] * (ROWS // 2)),
    "whole": RNG.integers(-3, 9, ROWS),
    "flags": RNG.random(ROWS) < 0.5,
    "texts": RNG.choice(["x", " y", "z "], ROWS),
    "written": np.array([f" {value:.2f} " for value in RNG.normal(size=ROWS)]),
    "exponents": np.array([f"{value:.2e}" for value in 10.0 ** RNG.integers(-9, 22, ROWS)]),
    "dates": pd.date_range("2020-01-01", periods=ROWS).to_numpy(),
}


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("name", COLUMNS)
def test_the_keys_of_rows_are_those_of_all_keys(name: str, as_text: bool) -> None:
    column = pd.Series(COLUMNS[name])
    if as_text or column.dtype.kind in "fOU":
        column = column.astype("str" if as_text else column.dtype).mask(np.arange(ROWS) == 3)
    frame = pd.DataFrame({name: column})
    for rows in (np.arange(ROWS), np.array([7, 3, 9])):
        expected = Table.of(frame).select(rows)[name].keys.fillna("").tolist()
        levels = Table.of(frame).select(rows)[name].levels
        assert levels.keys(np.arange(len(rows))) == expected
        assert levels.keys(np.array([2, 0, 2])) == [expected[2], expected[0], expected[2]]
        assert levels.keys(np.array([], dtype=np.int64)) == []


@pytest.mark.parametrize("as_text", [False, True])
def test_two_keys_do_not_cost_those_of_all_rows(monkeypatch: pytest.MonkeyPatch, as_text: bool) -> None:
    numbers = pd.Series(np.random.default_rng(1).normal(size=3_000)).rename("number")
    cells = Table.of(numbers.astype("str" if as_text else "float64").to_frame())["number"]
    made, keys_of = [], values.keys_of

    def counted(names: pd.Series, keys: Keys) -> pd.Series:
        made.append(len(names))
        return keys_of(names, keys)

    monkeypatch.setattr(values, "keys_of", counted)
    assert cells.levels.keys(np.array([17, 4])) == [repr(float(numbers[row])) for row in (17, 4)]
    assert sum(made) < 10
