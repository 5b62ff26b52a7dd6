"""Every row is in one part, groups stay whole, and what is drawn is balanced."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.choices import Role, Task
from mixfit.data.columns.schema import Column, Schema
from mixfit.data.split import SPLIT_ALIASES, Split, split_rows
from mixfit.errors import ConfigError, DataError


def schema_of(task: Task = "regression", **roles: Role) -> Schema:
    columns = (Column(name="y", role="target", reason="", missing=0),)
    columns += tuple(Column(name=name, role=role, reason="", missing=0) for name, role in roles.items())
    return Schema(columns=columns, task=task, task_reason="", rows=0)


def numbers(rows: int) -> pd.DataFrame:
    return pd.DataFrame({"y": np.random.default_rng(rows).lognormal(size=rows)})


def sides(split: Split) -> np.ndarray:
    """Part of each row; fails when a row is in no part or in two."""
    every = np.concatenate([split.train, split.valid, split.test])
    assert sorted(every) == list(range(len(every)))
    for part in (split.train, split.valid, split.test):
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
    parts = np.empty(len(every), dtype=object)
    parts[split.train], parts[split.valid], parts[split.test] = "train", "valid", "test"
    return parts


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(10, 300), seed=st.integers(0, 5), valid=st.floats(0, 0.4), test=st.floats(0, 0.4), data=st.data()
)
def test_parts_are_disjoint_complete_and_of_the_size_asked_for(
    rows: int, seed: int, valid: float, test: float, data: Any
) -> None:
    task: Task = data.draw(st.sampled_from(["regression", "binary"]))
    frame = numbers(rows) if task == "regression" else pd.DataFrame({"y": np.arange(rows) % 2})
    split = split_rows(frame, schema_of(task), valid=valid, test=test, seed=seed)
    sides(split)
    for part, share in ((split.valid, valid), (split.test, test)):
        assert abs(len(part) - share * rows) <= 2
        assert (len(part) > 0) == (share > 0)


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.integers(0, 40) | st.none(), min_size=12, max_size=150),
    seed=st.integers(0, 3),
    task=st.sampled_from(["regression", "multiclass"]),
)
def test_f17_no_group_is_on_two_sides(groups: list[int | None], seed: int, task: Task) -> None:
    rows = len(groups)
    target = np.random.default_rng(seed).normal(size=rows) if task == "regression" else np.arange(rows) % 3
    frame = pd.DataFrame({"y": target, "g": pd.Series(groups, dtype="Int64")})
    if frame["g"].nunique() + frame["g"].isna().sum() < 3:
        return
    parts = sides(split_rows(frame, schema_of(task, g="group"), seed=seed))
    assert pd.Series(parts).groupby(frame["g"].to_numpy(dtype=object)).nunique().max() <= 1 or frame["g"].isna().all()


def test_groups_give_the_shares_asked_for_and_giants_stay_in_train() -> None:
    groups = np.concatenate([np.repeat(np.arange(100), 3), np.full(300, 1000)])
    frame = numbers(600).assign(g=groups)
    split = split_rows(frame, schema_of(g="group"))
    assert np.isin(np.flatnonzero(groups == 1000), split.train).all()
    assert abs(len(split.valid) - 90) < 12
    assert abs(len(split.test) - 90) < 12


def test_rows_without_group_are_their_own_group() -> None:
    frame = numbers(100).assign(g=pd.Series([None] * 90 + ["a"] * 10, dtype="str"))
    split = split_rows(frame, schema_of(g="group"))
    assert abs(len(split.valid) - 15) <= 3


def test_two_groups_cannot_be_split_in_three() -> None:
    with pytest.raises(DataError, match="2 groups cannot be split into train, valid and test"):
        split_rows(numbers(20).assign(g=np.arange(20) % 2), schema_of(g="group"))


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=3, max_size=15), seed=st.integers(0, 3))
def test_classes_are_spread_evenly_and_every_class_is_trained(sizes: list[int], seed: int) -> None:
    sizes = [*sizes, 10]
    frame = pd.DataFrame({"y": np.repeat([f"c{i}" for i in range(len(sizes))], sizes)})
    parts = sides(split_rows(frame, schema_of("multiclass"), seed=seed))
    for name, size in zip(frame["y"].unique(), sizes, strict=True):
        of_class = parts[(frame["y"] == name).to_numpy()]
        assert (of_class == "train").any()
        assert abs((of_class == "test").sum() - 0.15 * size) <= 0.15 * len(sizes) / 3 + 2


def test_classes_of_groups_come_back_to_train() -> None:
    frame = pd.DataFrame({"y": ["a", "b", "b"] * 20, "g": np.repeat(np.arange(20), 3)})
    frame.loc[0, "y"] = "rare"
    for seed in range(20):
        split = split_rows(frame, schema_of("multiclass", g="group"), seed=seed)
        assert 0 in split.train


def test_numeric_targets_are_spread_evenly() -> None:
    frame = numbers(400)
    tenth = np.floor(frame["y"].rank().to_numpy() / 40.1)
    for seed in range(5):
        split = split_rows(frame, schema_of(), seed=seed)
        counts = np.bincount(tenth[split.test].astype(int), minlength=10)
        assert counts.min() >= 5
        assert counts.max() <= 7


def test_the_seed_decides_the_draw() -> None:
    frame = numbers(100)
    first, again, other = (split_rows(frame, schema_of(), seed=seed) for seed in (1, 1, 2))
    assert (first.test == again.test).all()
    assert (first.valid == again.valid).all()
    assert set(first.test) != set(other.test)


def test_of_gives_each_part() -> None:
    split = split_rows(numbers(20), schema_of())
    assert split.of("train") is split.train
    assert split.of("valid") is split.valid
    assert split.of("test") is split.test


# The split column


def test_a_split_column_is_followed_whatever_its_words() -> None:
    words = list(SPLIT_ALIASES) * 2
    frame = numbers(len(words)).assign(split=[f" {word.title()} " for word in words])
    parts = sides(split_rows(frame, schema_of(split="split"), valid=0.3, test=0.3, seed=5))
    assert parts.tolist() == [SPLIT_ALIASES[word] for word in words]


def test_missing_validation_rows_come_from_train_and_missing_test_rows_from_nowhere() -> None:
    frame = numbers(100).assign(split=["train"] * 80 + ["test"] * 20, g=np.repeat(np.arange(50), 2))
    split = split_rows(frame, schema_of(split="split", g="group"), valid=0.25)
    assert split.test.tolist() == list(range(80, 100))
    assert len(split.valid) == pytest.approx(20, abs=3)
    assert not set(split.valid // 2) & set(split.train // 2)
    frame["split"] = ["train"] * 80 + ["valid"] * 20
    assert len(split_rows(frame, schema_of(split="split")).test) == 0
    frame["split"] = "train"
    split = split_rows(frame, schema_of(split="split"))
    assert (len(split.train), len(split.test)) == (100 - len(split.valid), 0)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            "tets",
            "2 of 18 cells of the split column 'split' are not train, valid or test, the first in row 7 is 'tets'",
        ),
        (None, "the first in row 7 is empty; correct them or use --ignore split"),
    ],
)
def test_unknown_words_are_refused_with_their_row_in_the_whole_table(cell: str | None, message: str) -> None:
    frame = numbers(20).assign(split=pd.Series(["train", "test"] * 10, dtype="str"))
    frame.loc[[7, 9], "split"] = cell
    with pytest.raises(DataError, match=message):
        split_rows(frame.drop(index=[0, 1]), schema_of(split="split"))


def test_a_split_without_training_rows_is_refused() -> None:
    with pytest.raises(DataError, match="no row is marked train in the split column 'split'"):
        split_rows(numbers(20).assign(split=["valid", "test"] * 10), schema_of(split="split"))


def test_f17_a_given_split_that_tears_groups_apart_is_refused() -> None:
    frame = numbers(12).assign(split=["train", "test"] * 6, g=list("aabbcdefghij"))
    with pytest.raises(DataError, match=r"2 groups of column 'g' are in more than one part .* the first is 'a'"):
        split_rows(frame, schema_of(split="split", g="group"))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(DataError, match="the table has 9 usable rows; at least 10"):
        split_rows(numbers(9), schema_of())
    for shares in ({"valid": -0.1}, {"valid": 0.6, "test": 0.4}, {"test": float("nan")}):
        with pytest.raises(ConfigError, match="valid and test must be at least 0 and sum to less than 1"):
            split_rows(numbers(20), schema_of(), **shares)
    with pytest.raises(ConfigError, match="seed must be at least 0, got -1"):
        split_rows(numbers(20), schema_of(), seed=-1)
