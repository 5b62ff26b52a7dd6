"""The scale of the target and its inverse."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from scipy.special import softmax
from scipy.stats import skew
from sklearn.preprocessing import StandardScaler

from mixfit.data.columns.schema import Column, Schema, Task
from mixfit.data.columns.target import (
    ClassTarget,
    RegressionTarget,
    Target,
    fit_target,
    target_from_dict,
    usable_rows,
    wants_log,
)
from mixfit.errors import DataError

AMOUNTS = pd.Series(np.random.default_rng(0).lognormal(3, 1, 200), name="price")
RATINGS = pd.Series(np.random.default_rng(0).normal(6, 1, 200), name="rating")


def schema_of(task: Task) -> Schema:
    return Schema(columns=(Column(name="y", role="target", reason="", missing=0),), task=task, task_reason="", rows=0)


def test_scaled_numbers_agree_with_scikit_learn() -> None:
    target = RegressionTarget.fit(RATINGS)
    assert not target.log
    expected = StandardScaler().fit_transform(RATINGS.to_numpy()[:, None])[:, 0]
    np.testing.assert_allclose(target.encode(RATINGS), expected, atol=1e-6)


def test_skewed_amounts_are_taken_on_the_log_scale() -> None:
    target = RegressionTarget.fit(AMOUNTS)
    assert target.log
    assert target.mean == pytest.approx(np.log(AMOUNTS).mean())
    assert not RegressionTarget.fit(AMOUNTS - AMOUNTS.min()).log


@given(nps.arrays(np.float64, st.integers(3, 30), elements=st.floats(0.01, 1e4)))
def test_log_is_chosen_by_the_skewness(values: np.ndarray) -> None:
    if values.std() < 1e-3:
        return
    plain, logged = skew(values), skew(np.log(values))
    if min(abs(plain - 1), abs(plain - abs(logged))) > 1e-6:
        assert wants_log(values) == (plain > 1 and abs(logged) < plain)


@pytest.mark.parametrize("column", [AMOUNTS, RATINGS], ids=["log", "plain"])
def test_decode_is_the_inverse_of_encode(column: pd.Series) -> None:
    target = RegressionTarget.fit(column)
    encoded = target.encode(column)
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(target.decode(encoded), column, rtol=1e-5)
    assert target.decode_truth(encoded).dtype == np.float64


@pytest.mark.parametrize("column", [AMOUNTS, RATINGS, RATINGS * 1e300], ids=["log", "plain", "huge"])
@given(outputs=nps.arrays(np.float32, 5, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_decode_is_finite_for_any_finite_output(column: pd.Series, outputs: np.ndarray) -> None:
    assert np.isfinite(RegressionTarget.fit(column).decode(outputs)).all()


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=20))
def test_encode_is_finite_for_any_numbers(values: list[float]) -> None:
    for target in (RegressionTarget.fit(AMOUNTS), RegressionTarget.fit(RATINGS)):
        assert np.isfinite(target.encode(pd.Series(values))).all()


def test_missing_and_infinite_targets_are_nan_and_unseen_classes_minus_one() -> None:
    encoded = RegressionTarget.fit(RATINGS).encode(pd.Series(["6", "NA", "inf", None, "six"], dtype="str"))
    assert np.isnan(encoded).tolist() == [False, True, True, True, True]
    classes = ClassTarget.fit(pd.Series(["b", "a", "b"]))
    assert classes.encode(pd.Series(["a", "c", None, "b "])).tolist() == [0, -1, -1, 1]


def test_a_constant_or_absent_number_is_refused() -> None:
    with pytest.raises(DataError, match="'y' is 3 in all 4 training rows"):
        RegressionTarget.fit(pd.Series([3.0] * 4, name="y"))
    with pytest.raises(DataError, match="none of the 2 training rows has a number"):
        RegressionTarget.fit(pd.Series(["a", None], name="y"))


def test_classes_are_sorted_by_value_when_they_are_numbers() -> None:
    assert ClassTarget.fit(pd.Series(["10", "9", "2.0", "10.0"])).classes == ("2.0", "9", "10")
    assert ClassTarget.fit(pd.Series(["10", "9", "x"])).classes == ("10", "9", "x")
    assert ClassTarget.fit(pd.Series([True, False])).classes == ("False", "True")


def test_a_single_class_is_refused() -> None:
    with pytest.raises(DataError, match="only the class 'a' in the target 'y'"):
        ClassTarget.fit(pd.Series(["a", "a", None], name="y"))
    with pytest.raises(DataError, match="no class at all"):
        ClassTarget.fit(pd.Series([None, None], name="y"))


@given(nps.arrays(np.float32, (4, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_probabilities_are_the_softmax(logits: np.ndarray) -> None:
    decoded = ClassTarget(("a", "b", "c")).decode(logits)
    np.testing.assert_allclose(decoded, softmax(logits.astype(np.float64), axis=1), atol=1e-12)
    assert decoded.dtype == np.float64
    assert ClassTarget(("a", "b", "c")).decode(np.zeros((0, 3), dtype=np.float32)).shape == (0, 3)


@pytest.mark.parametrize("target", [RegressionTarget.fit(AMOUNTS), ClassTarget(("a", "b"))])
def test_targets_survive_json_and_keep_the_protocol(target: Any) -> None:
    assert target_from_dict(json.loads(json.dumps(target.to_dict()))) == target
    assert isinstance(target, Target)
    assert target.outputs == (1 if target.classes is None else 2)


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        {"kind": "number", "log": True, "mean": 1.0, "std": 0.0},
        {"kind": "number", "log": 1, "mean": 1.0, "std": 1.0},
        {"kind": "number", "log": True, "mean": float("nan"), "std": 1.0},
        {"kind": "class", "classes": ["a"]},
        {"kind": "class", "classes": ["a", "a"]},
        {"kind": "class", "classes": ["a", 1]},
    ],
)
def test_a_damaged_target_is_refused(state: object) -> None:
    with pytest.raises(DataError, match="saved target is damaged"):
        target_from_dict(state)


def test_fit_target_follows_the_task() -> None:
    column = pd.Series([1, 2, 3])
    assert isinstance(fit_target(column, "regression"), RegressionTarget)
    assert isinstance(fit_target(column, "multiclass"), ClassTarget)


def test_rows_without_class_are_left_out_and_named() -> None:
    frame = pd.DataFrame({"y": ["a", "b", None, "NA"] * 10 + ["a"] * 200})
    usable, bad = usable_rows(frame, schema_of("multiclass"))
    assert usable.sum() == 230
    assert [record.row for record in bad] == list(range(2, 40, 4))
    assert {(r.column, r.value, r.problem, r.action) for r in bad} == {("y", "", "target is missing", "row left out")}
    floats = pd.DataFrame({"y": [0.0, 1.0, np.inf] + [1.0] * 97})
    assert usable_rows(floats, schema_of("binary"))[1][0].problem == "target is infinite"


def test_no_usable_target_at_all_is_refused_whatever_is_allowed() -> None:
    with pytest.raises(DataError, match="3 of 3 cells of the target 'y' are not a number, the first in row 0"):
        usable_rows(pd.DataFrame({"y": ["a", "", "b"]}), schema_of("regression"), 1.0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["1", "2.5", "NA", "x", "inf", ""]), min_size=1, max_size=40))
def test_usable_rows_are_those_that_encode(cells: list[str]) -> None:
    frame = pd.DataFrame({"y": pd.Series([*cells, "1"], dtype="str")})
    usable, bad = usable_rows(frame, schema_of("regression"), 1.0)
    np.testing.assert_array_equal(
        usable, np.isfinite(RegressionTarget(log=False, mean=0.0, std=1.0).encode(frame["y"]))
    )
    assert len(bad) == (~usable).sum()
