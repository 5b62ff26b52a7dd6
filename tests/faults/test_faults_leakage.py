"""Fault cases 17 and 18: groups on two sides of a split, and rows that judge leaving a trace in what is learnt."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quick_runs import quick_fit

from mixfit.choices import Role
from mixfit.config import DataConfig
from mixfit.data.checks.table import parts_of
from mixfit.data.columns.infer import infer_schema
from mixfit.data.columns.preprocess import TablePreprocessor
from mixfit.data.columns.schema import Column, Schema
from mixfit.data.load import load_data
from mixfit.data.split import split_rows
from mixfit.errors import DataError

ROWS = 120


def schema_of(target: str, **roles: Role) -> Schema:
    columns: dict[str, Role] = {target: "target", **roles}
    return Schema(
        columns=tuple(Column(name=name, role=role, reason="", missing=0) for name, role in columns.items()),
        task="regression" if target == "price" else "binary",
        task_reason="",
        rows=0,
    )


def table(seed: int = 0, rows: int = ROWS) -> pd.DataFrame:
    """Numbers with gaps, levels, dates, a weight and two targets."""
    rng = np.random.default_rng(seed)
    area = rng.normal(100, 20, rows)
    frame = pd.DataFrame(
        {
            "area": area.round(3),
            "budget": rng.lognormal(10, 2, rows).round(),
            "city": rng.choice(["Rome", "Oslo", "Lima", "Bonn"], rows),
            "sold": pd.date_range("2019-03-01", periods=rows, freq="53h").strftime("%d/%m/%Y"),
            "importance": rng.integers(1, 9, rows).astype(float),
            "price": (area * 3 + rng.normal(0, 9, rows)).round(3),
            "kind": rng.choice(["flat", "house"], rows),
        }
    )
    frame.loc[rng.random(rows) < 0.1, "area"] = np.nan
    return frame


# 17: groups


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 25), min_size=4, max_size=40).filter(lambda sizes: sum(sizes) >= 12),
    alone=st.integers(0, 10),
    seed=st.integers(0, 2**32 - 1),
    shares=st.tuples(st.sampled_from([0.1, 0.15, 0.3]), st.sampled_from([0.0, 0.15, 0.3])),
    target=st.sampled_from(["price", "kind"]),
)
def test_f17_no_group_is_in_two_parts_of_a_drawn_split(
    sizes: list[int], alone: int, seed: int, shares: tuple[float, float], target: str
) -> None:
    groups = np.concatenate([np.repeat(np.arange(len(sizes)), sizes), np.full(alone, -1)])
    groups = np.random.default_rng(seed).permutation(groups)
    frame = table(seed % 7, len(groups)).assign(house=pd.Series(groups).map(lambda group: f"h{group}"))
    frame.loc[groups < 0, "house"] = None
    frame.loc[[0, 1], "kind"] = ["flat", "house"]
    split = split_rows(frame, schema_of(target, house="group"), valid=shares[0], test=shares[1], seed=seed)
    assert sorted(np.concatenate([split.train, split.valid, split.test])) == list(range(len(frame)))
    parts = pd.Series(parts_of(split, len(frame)))
    assert set(parts) == {"train", "valid", "test"} - ({"test"} if shares[1] == 0 else set())
    assert parts[groups >= 0].groupby(groups[groups >= 0]).nunique().max() == 1
    sides = [set(frame["house"].iloc[split.of(name)].dropna()) for name in ("train", "valid", "test")]
    assert sum(map(len, sides)) == len(sizes) == len(set.union(*sides))


def test_f17_loading_and_dedup_keep_groups_whole_too() -> None:
    frame = table().assign(house_id=np.arange(ROWS) // 5)
    frame = pd.concat([frame, frame.iloc[:40].assign(house_id=lambda copies: copies["house_id"] + 100)])
    config = DataConfig(roles={"house_id": "group"}, dedup=True, cache_gb=0.0)
    data = load_data(frame, target="price", config=config)
    houses = [set(data.frame["house_id"].iloc[data.split.of(name)]) for name in ("train", "valid", "test")]
    assert all(houses)
    assert sum(map(len, houses)) == len(set.union(*houses))


def test_f17_a_given_split_with_a_torn_group_is_refused_when_loading() -> None:
    frame = table().assign(house_id=np.arange(ROWS) // 4, split=["train", "train", "valid", "test"] * 30)
    with pytest.raises(DataError, match="30 groups of column 'house_id' are in more than one part of the split"):
        load_data(frame, target="price", config=DataConfig(roles={"house_id": "group"}))


# 18: statistics


def digest(data: bytes) -> str:
    """Stands for the bytes: pytest would take minutes to show how long ones differ."""
    return hashlib.sha256(data).hexdigest()


def state_of(frame: pd.DataFrame, target: str) -> str:
    """Digest of all that is fitted before training: preprocessing, target, weights and arrays of training rows."""
    schema = schema_of(
        target, area="number", budget="number", city="category", sold="date", importance="weight", split="split"
    )
    data = load_data(frame, target=target, schema=schema, config=DataConfig(cache_gb=0.0, max_missing_target=0.9))
    train, arrays = data.split.train, data.arrays
    assert arrays.weight is not None
    tensors: Sequence[torch.Tensor] = (arrays.numeric, arrays.categorical, arrays.target, arrays.weight)
    text = json.dumps([data.preprocessor.to_dict(), data.target.to_dict(), train.tolist()], allow_nan=False)
    return digest(text.encode() + b"".join(tensor[train].numpy().tobytes() for tensor in tensors))


def split_table() -> pd.DataFrame:
    return table().assign(split=["train"] * 70 + ["valid"] * 25 + ["test"] * 25)


@cache
def untouched_state(target: str) -> str:
    return state_of(split_table().astype(object), target)


CELLS = {
    "area": st.floats() | st.sampled_from(["12 sqft", "", "1e400"]),
    "budget": st.floats(-1e300, 1e300) | st.none(),
    "city": st.text(max_size=4) | st.sampled_from(["Rome", "Oslo"]),
    "sold": st.sampled_from(["31/12/1999", "2050-01-01", "12/31/2001", "soon", ""]),
    "importance": st.floats(0.1, 1e6),
    "price": st.floats(-1e9, 1e9),
    "kind": st.sampled_from(["flat", "house", "boat"]),
}


@settings(max_examples=12, deadline=None)
@given(changes=st.fixed_dictionaries({}, optional=CELLS), target=st.sampled_from(["price", "kind"]), data=st.data())
def test_f18_rows_that_judge_leave_no_trace_in_what_is_fitted(
    changes: dict[str, object], target: str, data: st.DataObject
) -> None:
    changed = split_table().astype(object)
    rows = data.draw(st.lists(st.integers(70, ROWS - 1), min_size=1, max_size=ROWS - 70, unique=True))
    for name, cell in changes.items():
        if name == target:
            rows = [row for row in rows if row not in (70, 95)]  # one row of each part stays to judge
        changed.loc[rows, name] = pd.Series([cell] * len(rows), index=rows, dtype=object)
    assert state_of(changed, target) == untouched_state(target)


def test_f18_the_state_does_depend_on_training_rows() -> None:
    frame = split_table()
    states = {state_of(frame, "price")}
    for name in ("area", "budget", "city", "sold", "importance", "price"):
        changed = frame.copy()
        changed.loc[5, name] = next(cell for cell in frame[name] if cell == cell and cell != frame.loc[5, name])
        states.add(state_of(changed, "price"))
    assert len(states) == 7


def test_f18_the_order_of_training_rows_leaves_no_trace_in_levels_and_medians() -> None:
    frame = table()
    schema = infer_schema(frame, "price")
    one = TablePreprocessor.fit(frame, schema).to_dict()
    other = TablePreprocessor.fit(frame.sample(frac=1.0, random_state=3), schema).to_dict()
    assert one["categories"] == other["categories"]
    assert [column["scale"]["fill"] for column in one["numbers"]] == [
        column["scale"]["fill"] for column in other["numbers"]
    ]


def test_f18_other_test_rows_give_the_same_model_to_the_last_byte(demo_table: Path, tmp_path: Path) -> None:
    """The whole of training, photos too: test rows that are shuffled and spoilt change nothing but the scores."""
    frame = pd.read_csv(demo_table).head(60)
    frame["split"] = np.resize(["train", "train", "train", "valid", "test"], len(frame))
    is_test = (frame["split"] == "test").to_numpy()
    spoilt = frame.copy()
    spoilt.loc[is_test, "height_cm"] = 9_999.0
    spoilt.loc[is_test, "maker"] = "nobody"
    spoilt.loc[is_test, "photos"] = frame.loc[is_test, "photos"].to_numpy()[::-1]
    spoilt.loc[is_test, "price"] = 0.01
    written = []
    for name, rows in (("kept", frame), ("spoilt", spoilt)):
        (tmp_path / name).mkdir()
        rows.to_csv(tmp_path / name / "table.csv", index=False)
        data = DataConfig(image_size=32, images=demo_table.parent)
        run = quick_fit(tmp_path / name / "table.csv", "price", tmp_path / name / "runs", data=data)
        description = json.loads((run.folder / "model" / "mixfit.json").read_text())
        fitted = {key: description[key] for key in ("weights_sha256", "preprocessor", "target", "shape", "model")}
        weights = digest((run.folder / "model" / "model.safetensors").read_bytes())
        written.append((fitted, weights, description["metrics"]))
    assert written[0][1] == written[1][1]
    assert written[0][0] == written[1][0]
    assert written[0][2]["valid"] == written[1][2]["valid"]
    assert written[0][2]["test"] != written[1][2]["test"]
