"""Metrics by the values of a column."""

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bootstrap_ends import bootstrap_interval
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.schema import Column, Schema
from mixfit.data.columns.target import ClassTarget, RegressionTarget
from mixfit.errors import ConfigError
from mixfit.evaluation.groups import (
    MISSING,
    MOST_GROUPS,
    SMALL,
    WITH_PHOTO,
    WITHOUT_PHOTO,
    Labels,
    group_table,
    judge_for,
    label_column,
    label_photos,
    label_rows,
    photo_labels,
    row_errors,
    weak_groups,
)
from mixfit.training.metrics import (
    ACCURACY,
    AUC,
    CLASSIFICATION_METRICS,
    LOG_LOSS,
    MAE,
    MAPE,
    REGRESSION_METRICS,
    evaluate,
)

RANDOM = np.random.default_rng(0)
CELLS = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.text(max_size=3), st.integers(0, 9))


@settings(deadline=None, max_examples=60)
@given(cells=st.lists(CELLS, min_size=1, max_size=80), role=st.sampled_from(["number", "category", "date", "ignored"]))
def test_every_row_is_in_one_group_and_no_group_is_empty(cells: list[object], role: str) -> None:
    labels = label_rows(pd.Series(cells, dtype=object), role, "regression")  # type: ignore[arg-type]
    assert len(labels.of_row) == len(cells)
    assert sorted(set(labels.of_row.tolist())) == list(range(len(labels.names)))


def test_categories_stay_as_they_are_and_missing_is_a_group() -> None:
    labels = label_rows(pd.Series(["b", "a", None, "b"]), "category", "regression")
    assert labels.names == ("a", "b", MISSING)
    assert labels.of_row.tolist() == [1, 0, 2, 1]


def test_numbers_are_dealt_into_fifths_that_do_not_overlap() -> None:
    values = pd.Series([*RANDOM.normal(size=200), np.nan, np.inf])
    labels = label_rows(values, "number", "regression")
    assert len(labels.names) == 6
    assert labels.names[-1] == MISSING
    assert (labels.of_row == 5).sum() == 2
    parts = [values[labels.of_row == number] for number in range(5)]
    assert all(abs(len(part) - 40) <= 1 for part in parts)
    assert all(low.max() < high.min() for low, high in itertools.pairwise(parts))


def test_few_different_numbers_are_a_group_each_in_order() -> None:
    labels = label_rows(pd.Series([10, 2, 2, 3, 10]), "number", "regression")
    assert labels.names == ("2", "3", "10")
    assert labels.of_row.tolist() == [2, 0, 0, 1, 2]


def test_dates_are_grouped_by_year() -> None:
    labels = label_rows(pd.Series(["2021-03-01", "31.12.2020", "", "2021", "soon"]), "date", "regression")
    assert labels.names == ("2020", "2021", MISSING)
    assert labels.of_row.tolist() == [1, 0, 2, 1, 2]


def test_texts_are_grouped_by_their_lengths() -> None:
    labels = label_rows(pd.Series(["one two", "three", None, "\x1b[31m four", "a b"]), "text", "regression")
    assert labels.names == ("1 words", "2 words", MISSING)
    assert labels.of_row.tolist() == [1, 0, 2, 1, 1]
    many = label_rows(pd.Series(["word " * count for count in range(1, 101)]), "text", "regression")
    assert many.names == ("1 to 20 words", "21 to 40 words", "41 to 60 words", "61 to 80 words", "81 to 100 words")


def test_of_very_many_values_the_rarest_are_one_group() -> None:
    cells = [f"v{number}" for number in range(MOST_GROUPS + 20) for _ in range(1 + (number < 5))]
    labels = label_rows(pd.Series(cells), "category", "regression")
    assert len(labels.names) == MOST_GROUPS
    assert labels.names[-1] == "(21 other values)"
    assert {f"v{number}" for number in range(5)} <= set(labels.names)


def test_a_numeric_target_is_dealt_into_fifths_and_classes_are_not() -> None:
    column = pd.Series(np.arange(100.0))
    assert len(label_rows(column, "target", "regression").names) == 5
    assert len(label_rows(column, "target", "multiclass").names) == MOST_GROUPS


SCHEMA = Schema(
    columns=(
        Column(name="photo", role="image", reason="", missing=0),
        Column(name="y", role="target", reason="", missing=0),
    ),
    task="regression",
    task_reason="",
    rows=4,
)


def test_rows_without_a_usable_photo_are_a_group(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "b.jpg").write_bytes(b"broken")
    frame = pd.DataFrame({"photo": ["a.jpg", None, "gone.jpg", "b.jpg"], "y": [1.0, 2, 3, 4]})
    assert label_column(frame, "photo", SCHEMA, images=tmp_path).of_row.tolist() == [0, 1, 1, 0]
    bad = [
        BadInput(row=2, column="photo", value="gone.jpg", problem="is missing", action="photo treated as missing"),
        BadInput(row=3, column="photo", value="b.jpg", problem="is no photo", action="photo treated as missing"),
    ]
    labels = label_photos(frame, "photo", tmp_path, bad)
    assert labels.names == (WITH_PHOTO, WITHOUT_PHOTO)
    assert labels.of_row.tolist() == [0, 1, 1, 1]
    assert photo_labels(np.ones(3, dtype=bool)).names == (WITH_PHOTO,)


def test_an_unknown_column_is_told_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no column 'phto'\. Did you mean 'photo'\?"):
        label_column(pd.DataFrame({"photo": [], "y": []}), "phto", SCHEMA, images=tmp_path)


def test_metrics_of_a_group_are_those_of_its_rows() -> None:
    truth, labels = RANDOM.integers(0, 3, 300), Labels(names=("a", "b"), of_row=RANDOM.integers(0, 2, 300))
    probabilities = RANDOM.dirichlet(np.ones(3), 300)
    table = group_table("c", labels, truth, probabilities, CLASSIFICATION_METRICS, ACCURACY)
    assert sum(group.rows for group in table.groups) == 300
    for group in table.groups:
        rows = labels.of_row == labels.names.index(group.score.model)
        chosen = probabilities[rows].argmax(1)
        assert group.score.metrics["accuracy"] == pytest.approx(sk.accuracy_score(truth[rows], chosen))
        assert group.score.metrics["macro_f1"] == pytest.approx(sk.f1_score(truth[rows], chosen, average="macro"))
        assert group.score.metrics["log_loss"] == pytest.approx(sk.log_loss(truth[rows], probabilities[rows]))
        assert group.rest == pytest.approx(sk.accuracy_score(truth[~rows], probabilities[~rows].argmax(1)))
        low, high = group.score.interval("accuracy")
        assert low <= group.score.metrics["accuracy"] <= high
    assert table.groups[0].score.metrics["accuracy"] <= table.groups[1].score.metrics["accuracy"]


def test_the_worst_comes_first_and_small_groups_come_last() -> None:
    errors = np.repeat([1.0, 5.0, 2.0, 9.0], [30, 30, 30, 5])
    truth = np.full(95, 10.0)
    labels = Labels(names=("a", "b", "c", "tiny"), of_row=np.repeat(np.arange(4), [30, 30, 30, 5]))
    noise = RANDOM.normal(scale=0.3, size=95)
    table = group_table("c", labels, truth, truth + errors + noise, REGRESSION_METRICS, MAE)
    assert [group.score.model for group in table.groups] == ["b", "c", "a", "tiny"]
    assert [group.weak for group in table.groups] == [True, False, False, False]
    assert [group.small for group in table.groups] == [False, False, False, True]
    lines = table.lines()
    assert "1 group is predicted significantly worse than the other rows" in lines[-2]
    assert f"warning: 1 group has fewer than {SMALL} rows" in lines[-1]
    assert table.to_dict()["groups"][0]["value"] == "b"


def test_what_has_no_value_is_nothing_in_json() -> None:
    labels = Labels(names=("a", "b"), of_row=np.array([0, 1, 1]))
    table = group_table("c", labels, np.ones(3), np.zeros(3), REGRESSION_METRICS, MAE)
    single = next(group for group in table.to_dict()["groups"] if group["value"] == "a")
    assert single["r2"] is None
    assert single["mae_ci95_low"] is None


def test_a_name_cannot_rearrange_the_terminal() -> None:
    labels = Labels(names=("\x1b[2Jgone", "b\nc"), of_row=np.array([0, 1]))
    text = "".join(group_table("c\r", labels, np.ones(2), np.zeros(2), (MAE,), MAE).lines())
    assert text.isprintable()


@pytest.mark.parametrize("judge", [MAE, MAPE, LOG_LOSS, ACCURACY])
def test_errors_of_rows_average_to_the_metric(judge: object) -> None:
    if judge in (MAE, MAPE):
        truth, prediction = RANDOM.lognormal(size=(2, 50))
    else:
        truth, prediction = RANDOM.integers(0, 3, 50), RANDOM.dirichlet(np.ones(3), 50)
    mean = row_errors(judge, truth, prediction).mean()  # type: ignore[arg-type]
    value = judge.function(truth, prediction)  # type: ignore[attr-defined]
    assert mean == pytest.approx(1 - value if judge is ACCURACY else value)


def test_an_area_under_a_curve_judges_no_row() -> None:
    with pytest.raises(ConfigError, match="auc is not a mean over rows"):
        row_errors(AUC, np.zeros(2), np.zeros((2, 2)))


def test_groups_are_judged_by_a_mean_over_rows() -> None:
    skewed, even = RegressionTarget(log=True, mean=0.0, std=1.0), RegressionTarget(log=False, mean=0.0, std=1.0)
    assert judge_for("regression", skewed, np.ones(3)) is MAPE
    assert judge_for("regression", skewed, np.array([0.0, 1.0])) is MAE
    assert judge_for("regression", even, np.ones(3)) is MAE
    assert judge_for("binary", ClassTarget(("a", "b")), np.zeros(1)) is LOG_LOSS
    assert judge_for("multiclass", ClassTarget(("a", "b", "c")), np.zeros(1)) is ACCURACY


@pytest.mark.parametrize("swapped", [False, True])
def test_a_group_that_is_all_wrong_is_weak_where_all_others_are_right(swapped: bool) -> None:
    truth = np.zeros(100, dtype=np.int64)
    probabilities = np.repeat([[0.1, 0.9], [0.9, 0.1]], [30, 70], axis=0)
    labels = Labels(names=("a", "b"), of_row=np.repeat([1, 0] if swapped else [0, 1], [30, 70]))
    errors = row_errors(ACCURACY, truth, probabilities)
    assert errors.mean() == 0.3
    assert weak_groups(labels, errors) == [1 if swapped else 0]
    assert weak_groups(labels, np.full(100, 0.1)) == []
    # One patient who is all wrong is no evidence.
    assert weak_groups(labels, errors, together=np.concatenate([np.zeros(30, dtype=np.int64), np.arange(1, 71)])) == []


def test_groups_that_are_alike_are_seldom_called_weak() -> None:
    found = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        labels = Labels(names=tuple("abcdefgh"), of_row=random.integers(0, 8, 400))
        found += bool(weak_groups(labels, random.exponential(size=400)))
    assert found <= 20  # 5 % are 10; one in ten thousand such counts is above 20


def test_rows_that_belong_together_do_not_count_as_many() -> None:
    """One patient with thirty alike photos is no evidence."""
    random = np.random.default_rng(1)
    errors = np.concatenate([np.full(30, 3.0) + random.normal(scale=0.1, size=30), random.exponential(size=300)])
    labels = Labels(names=("one", "others"), of_row=np.repeat([0, 1], [30, 300]))
    patients = np.concatenate([np.zeros(30, dtype=np.int64), np.arange(1, 301)])
    assert weak_groups(labels, errors) == [0]
    assert weak_groups(labels, errors, together=patients) == []


def test_an_interval_over_groups_is_wider_where_their_rows_are_alike() -> None:
    each = RANDOM.normal(size=40)
    groups = np.repeat(np.arange(40), 10)
    truth, prediction = np.zeros(400), np.repeat(each, 10)
    low, high = bootstrap_interval(MAE, truth, prediction)
    wide_low, wide_high = bootstrap_interval(MAE, truth, prediction, groups=groups)
    assert (wide_high - wide_low) == pytest.approx((high - low) * math.sqrt(10), rel=0.3)
    # Groups of one row each are the rows.
    assert bootstrap_interval(MAE, truth, prediction, groups=np.arange(400)) == pytest.approx((low, high))
    assert all(map(math.isnan, bootstrap_interval(MAE, truth, prediction, groups=np.zeros(400, dtype=np.int64))))


def test_evaluate_gives_the_same_for_a_single_group_as_for_all_rows() -> None:
    truth, prediction = RANDOM.lognormal(size=(2, 60))
    (group,) = group_table(
        "c", Labels(names=("all",), of_row=np.zeros(60, dtype=np.int64)), truth, prediction, REGRESSION_METRICS, MAE
    ).groups
    assert group.score.metrics == evaluate(REGRESSION_METRICS, truth, prediction)
    assert not group.weak
    assert math.isnan(group.rest)
