"""Folds for cross-validation: every row judges once, groups stay whole, and what is dealt is balanced."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_split import numbers, schema_of, sides

from mixfit.choices import Task
from mixfit.data.folds import Folds, k_folds
from mixfit.data.split import latest_part
from mixfit.errors import ConfigError, DataError


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(10, 200),
    k=st.integers(2, 10),
    seed=st.integers(0, 5),
    task=st.sampled_from(["regression", "binary"]),
)
def test_every_row_judges_in_exactly_one_fold_and_folds_are_of_equal_size(
    rows: int, k: int, seed: int, task: Task
) -> None:
    frame = numbers(rows) if task == "regression" else pd.DataFrame({"y": np.arange(rows) % 2})
    folds = k_folds(frame, schema_of(task), k, seed)
    assert len(folds) == k
    for fold in folds:
        assert set(sides(fold)) == {"train", "valid"}
    judged = np.concatenate([fold.valid for fold in folds])
    assert sorted(judged) == list(range(rows))
    sizes = [len(fold.valid) for fold in folds]
    assert max(sizes) - min(sizes) <= 1


@settings(max_examples=40, deadline=None)
@given(
    groups=st.lists(st.integers(0, 40) | st.none(), min_size=12, max_size=150),
    k=st.integers(2, 5),
    seed=st.integers(0, 3),
    task=st.sampled_from(["regression", "multiclass"]),
)
def test_f17_groups_are_dealt_whole(groups: list[int | None], k: int, seed: int, task: Task) -> None:
    rows = len(groups)
    target = np.random.default_rng(seed).normal(size=rows) if task == "regression" else np.arange(rows) % 3
    column = pd.Series(groups, dtype="Int64")
    frame = pd.DataFrame({"y": target, "g": column})
    count = column.nunique() + column.isna().sum()
    if count < k:
        with pytest.raises(DataError, match=f"{count} groups are too few for {k} folds"):
            k_folds(frame, schema_of(task, g="group"), k, seed)
        return
    fold_of_row = np.full(rows, -1)
    for number, fold in enumerate(k_folds(frame, schema_of(task, g="group"), k, seed)):
        assert (fold_of_row[fold.valid] == -1).all()
        fold_of_row[fold.valid] = number
    assert (fold_of_row >= 0).all()
    assert pd.Series(fold_of_row)[column.notna()].groupby(column.dropna().to_numpy()).nunique().max() in (1, np.nan)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=2, max_size=12), k=st.integers(2, 6), seed=st.integers(0, 3))
def test_classes_are_spread_evenly_and_trained_in_every_fold(sizes: list[int], k: int, seed: int) -> None:
    sizes = [*sizes, 10]
    frame = pd.DataFrame({"y": np.repeat([f"c{i}" for i in range(len(sizes))], sizes)})
    for fold in k_folds(frame, schema_of("multiclass"), k, seed):
        for name, size in zip(frame["y"].unique(), sizes, strict=True):
            judged = int((frame["y"].iloc[fold.valid] == name).sum())
            assert judged in (size // k, -(-size // k))
            assert size == 1 or (frame["y"].iloc[fold.train] == name).any()


def test_a_numeric_target_is_spread_evenly() -> None:
    frame = numbers(500)
    tenth = np.floor(frame["y"].rank().to_numpy() / 50.1).astype(int)
    for seed in range(5):
        for fold in k_folds(frame, schema_of(), 5, seed):
            assert np.bincount(tenth[fold.valid], minlength=10).tolist() == [10] * 10


def test_groups_of_all_sizes_give_folds_of_like_size() -> None:
    sizes = np.random.default_rng(0).integers(1, 20, 120)
    frame = numbers(int(sizes.sum())).assign(g=np.repeat(np.arange(120), sizes))
    folds = k_folds(frame, schema_of(g="group"), 5)
    assert all(len(fold.valid) == pytest.approx(len(frame) / 5, rel=0.15) for fold in folds)


def test_the_seed_decides_the_deal() -> None:
    frame = numbers(50)
    first, again, other = (k_folds(frame, schema_of(), 4, seed) for seed in (1, 1, 2))
    assert all((one.valid == two.valid).all() for one, two in zip(first, again, strict=True))
    assert any(set(one.valid) != set(two.valid) for one, two in zip(first, other, strict=True))


def test_given_test_rows_are_never_dealt() -> None:
    frame = numbers(60).assign(split=["train"] * 30 + ["valid"] * 10 + ["test"] * 20)
    folds = k_folds(frame, schema_of(split="split"), 4)
    for fold in folds:
        sides(fold)
        assert fold.test.tolist() == list(range(40, 60))
    assert sorted(np.concatenate([fold.valid for fold in folds])) == list(range(40))
    torn = frame.assign(g=[*range(59), 0])
    with pytest.raises(DataError, match=r"1 groups of column 'g' are in more than one part .* the first is '0'"):
        k_folds(torn, schema_of(split="split", g="group"), 4)
    mixed = frame.assign(g=[*range(30), *range(10), *range(100, 120)])  # train and valid may share groups
    assert len(k_folds(mixed, schema_of(split="split", g="group"), 4)) == 4


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="k must be at least 2, got 1"):
        k_folds(numbers(20), schema_of(), 1)
    with pytest.raises(ConfigError, match="seed must be at least 0, got -1"):
        k_folds(numbers(20), schema_of(), 3, -1)
    with pytest.raises(DataError, match="there are 9 rows to split into folds; at least 10"):
        k_folds(numbers(9), schema_of())


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 50)), min_size=30, max_size=150),
    k=st.integers(2, 6),
    gap=st.sampled_from([None, "0", "5"]),
)
def test_folds_that_go_forward_fit_on_the_past_and_on_other_groups(
    rows: list[tuple[int, int]], k: int, gap: str | None
) -> None:
    times, groups = (np.array(part) for part in zip(*rows, strict=True))
    frame = numbers(len(rows)).assign(t=times)
    every = np.arange(len(rows))
    try:
        folds = Folds.forward(frame, schema_of(), every, groups, k, time="t", gap=gap)
    except DataError as error:
        assert "cannot be cross-validated forward in time by 't'" in str(error)  # noqa: PT017 - one way or the other
        return
    assert folds.count <= k
    for place in range(folds.count):
        predicted, fit = folds.predicts(place), folds.fit[place]
        assert times[fit].max() < times[predicted].min() - (5 if gap == "5" else 0)
        assert not np.isin(groups[fit], groups[predicted]).any()
        learns = folds.learns_from[place]
        assert not (learns & ~np.isin(every, fit)).any()
        assert (folds.number[learns] >= 0).all()
        assert (folds.number[learns] < place).all()
        train, valid = folds.validation(place, 0.2, seed=0)
        assert not np.isin(np.concatenate([train, valid]), predicted).any()
        assert not set(train.tolist()) & set(valid.tolist())
        parts = latest_part(folds.times.take(fit), groups[fit], 0.2, gap=folds.gap)  # type: ignore[union-attr]
        if (parts == "train").any() and (parts == "valid").any():  # else it is drawn
            assert not np.isin(groups[train], groups[valid]).any()
            assert times[train].max() < times[valid].min()
    assert folds.judged.any()
    assert not folds.judged[folds.number <= 0].any()
    assert folds.describe().startswith("The folds go forward in time: ")


def test_nothing_before_a_time_can_be_judged_by_its_future() -> None:
    with pytest.raises(DataError, match="fewer than two blocks have 5 earlier rows of other groups"):
        Folds.forward(numbers(30).assign(t=1), schema_of(), np.arange(30), np.arange(30), 5, time="t")


@pytest.mark.parametrize("task", ["regression", "binary"])
def test_the_validation_part_of_a_fold_is_cut_out_of_its_fit_rows_with_groups_whole(task: Task) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"y": rng.normal(size=120) if task == "regression" else np.arange(120) % 2})
    groups, every = rng.integers(0, 40, 120), np.arange(120)
    folds = Folds.dealt(frame, schema_of(task), every, groups, 5, seed=0)
    for place in range(5):
        train, valid = folds.validation(place, 0.15, seed=0)
        assert sorted([*train, *valid]) == folds.fit[place].tolist()
        assert len(valid) / len(folds.fit[place]) == pytest.approx(0.15, abs=0.06)
        assert not np.isin(groups[train], groups[valid]).any()


@pytest.mark.parametrize("classes", [2, 3])
def test_there_is_a_validation_part_however_few_groups_hold_the_classes(classes: int) -> None:
    groups = np.repeat(np.arange(6), 10)
    frame = pd.DataFrame({"y": groups % classes})
    for seed in range(5):
        folds = Folds.dealt(frame, schema_of("multiclass"), np.arange(60), groups, 5, seed=seed)
        for place in range(folds.count):
            train, valid = folds.validation(place, 0.15, seed=seed)
            assert len(train)
            assert len(valid)


def test_the_validation_part_of_a_fold_in_time_keeps_the_gap() -> None:
    frame = numbers(120).assign(t=np.arange(120))
    every = np.arange(120)
    folds = Folds.forward(frame, schema_of(), every, every, 5, time="t", gap="5")
    for place in range(folds.count):
        train, valid = folds.validation(place, 0.2, seed=0)
        assert train.max() < valid.min() - 5
