"""Wide tables: what is done for a column does not grow with the number of columns."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mixfit.data.checks.copies import equal_rows, row_copies
from mixfit.data.columns import cells
from mixfit.data.columns.cells import Table
from mixfit.data.columns.form import vote
from mixfit.data.columns.infer import infer_schema
from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.photos.rules import photo_rules

ROWS = 24


def floats(rng: np.random.Generator) -> Any:
    return rng.normal(size=ROWS)


def texts(rng: np.random.Generator) -> Any:
    return [str(value) for value in rng.normal(size=ROWS)]


def prices(rng: np.random.Generator) -> Any:
    return [f"${value:,}" for value in rng.integers(100, 99_000, ROWS)]


def levels(rng: np.random.Generator) -> Any:
    return rng.choice(["red", "green", "blue"], ROWS)


def days(rng: np.random.Generator) -> Any:
    return (np.datetime64("2020-01-01") + rng.integers(0, 900, ROWS)).astype(str)


KINDS = (floats, texts, prices, levels, days)


def table(kinds: tuple[Callable[[np.random.Generator], Any], ...], columns: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    made = {f"c{place}": kinds[place % len(kinds)](rng) for place in range(columns)}
    return pd.DataFrame({**made, "y": rng.normal(size=ROWS)})


def calls_of(work: Callable[[], object]) -> int:
    """Calls of functions of Python and of C while it works."""
    count = 0

    def seen(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize(
    "kinds", [*((kind,) for kind in KINDS), KINDS], ids=lambda kinds: "-".join(k.__name__ for k in kinds)
)
def test_work_grows_with_the_columns_and_no_faster(
    kinds: tuple[Callable[[np.random.Generator], Any], ...], tmp_path: Any
) -> None:
    def work(frame: pd.DataFrame) -> None:
        read = Table(frame)
        photo_rules(frame, tmp_path, target="y", roles={})
        schema = infer_schema(read, "y")
        TablePreprocessor.fit(read, schema)
        row_copies(read, schema, np.full(ROWS, "train", dtype=object))

    small, large = table(kinds, 5), table(kinds, 20)
    work(small)  # what is done once in a process
    assert calls_of(lambda: work(large)) < 4.4 * calls_of(lambda: work(small))


def test_a_column_is_asked_once_for_the_sign_of_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(cells, "vote", lambda texts, separator: asked.append(texts) or vote(texts, separator))
    read = Table(table((prices, levels), 12))
    assert {read[name].form.decimal for name in read.names if name != "y"} == {"."}
    assert len(asked) == len(set(map(id, asked))) == 12


@pytest.mark.parametrize(
    "kind", [levels, days, prices, lambda rng: [b"a", b"b", None] * 8, lambda rng: [["a"], ["b", 1], {}] * 8]
)
def test_equal_rows_are_those_that_pandas_finds(kind: Callable[[np.random.Generator], Any]) -> None:
    frame = pd.DataFrame({"a": pd.Series(kind(np.random.default_rng(1))), "y": np.arange(ROWS) / 7.0})
    frame = pd.concat([frame, frame.iloc[[3, 5, 3]], frame.iloc[[7]].assign(y=np.nan)], ignore_index=True)
    frame.insert(1, "b", 1 / (1 + frame["y"]))
    found = infer_schema(frame, "y")
    columns = (replace(found.columns[0], role="category"), *found.columns[1:])
    shown = frame.assign(a=frame["a"].map(repr))
    twice = shown.duplicated(keep=False).to_numpy()
    expected = np.full(len(frame), -1)
    expected[twice] = shown[twice].groupby(["a", "b", "y"], dropna=False, sort=False).ngroup()
    assert equal_rows(frame, replace(found, columns=columns)).tolist() == expected.tolist()
    assert len(set(expected)) == 3
