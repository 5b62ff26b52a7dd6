"""What a verdict claims beside the comparison: of constants, unknown classes, copies and intervals."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mixfit.config import DataConfig
from mixfit.data.checks.table import class_balance, parts_of
from mixfit.data.load import load_data
from mixfit.data.split import Split
from mixfit.evaluation.departure import causes_of_departure, copied_test_rows, departure
from mixfit.evaluation.result import Contest, Part, Result, Rows, beyond_chance, judge
from mixfit.predictor.card import Coverage
from mixfit.training.metrics import ACCURACY, LOG_LOSS, MAE, RMSE, Metric


def result_of(truth: np.ndarray, metrics: tuple[Metric, ...], **predictions: np.ndarray) -> Result:
    """Of "ours" against "table", with a constant."""
    kinds: Any = {"ours": "ours", "table": "table", "constant": "constant"}
    pairs = {("ours", "table"): metrics, ("ours", "constant"): metrics}
    part = judge(Rows("test", truth, predictions), metrics, kinds=kinds, pairs=pairs)
    numbers = predictions["ours"].ndim == 1
    return Result(
        target="y",
        task="regression" if numbers else "multiclass",
        headline=metrics[0].name,
        rows={"train": 300, "valid": 100, "test": len(truth)},
        ours="ours",
        against="table",
        parts=[part],
        contest=Contest(leaderboard=[], choice=""),
    )


def test_a_constant_with_more_right_by_chance_is_not_called_better_than_a_model_of_a_lower_loss() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice(3, 60, p=[0.5, 0.3, 0.2])
    ours = np.full((60, 3), 0.1) + 0.05 * rng.random((60, 3))
    ours[np.arange(60), truth] = 0.45
    rivals = np.flatnonzero(rng.random(60) < 0.85)
    ours[rivals, (truth[rivals] + 1) % 3] = 0.5
    ours /= ours.sum(1, keepdims=True)
    constant = np.tile([0.9, 0.05, 0.05], (60, 1))
    verdict = result_of(truth, (ACCURACY, LOG_LOSS), ours=ours, table=ours, constant=constant).verdict
    assert "learned nothing" not in verdict
    assert "but the model is better by the log loss, beyond noise" in verdict


def test_a_constant_ahead_by_chance_is_not_called_better() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=30)
    constant = np.zeros(30)
    ours = 0.35 * rng.normal(size=30)
    said = result_of(truth, (MAE, RMSE), ours=ours, table=ours, constant=constant).verdict
    assert "A constant is ahead" in said
    assert "within noise" in said
    assert "learned nothing" not in said
    said = result_of(truth, (MAE, RMSE), ours=truth + 4, table=ours, constant=constant).verdict
    assert "better, beyond noise" in said
    assert "learned nothing" in said


@pytest.mark.parametrize(
    ("unknown", "said"), [(1, "is right for 30 of 41 (73 %)"), (4, "is right for 30 of 44 (68 %)")]
)
def test_test_rows_of_classes_that_no_model_knows_count_as_wrong_beside_the_figure(unknown: int, said: str) -> None:
    truth = np.zeros(40, dtype=np.int64)
    ours = np.tile([0.9, 0.1], (40, 1))
    ours[:10] = [0.2, 0.8]
    found = result_of(truth, (ACCURACY, LOG_LOSS), ours=ours, table=ours, constant=ours)
    assert "more test row" not in found.answer
    told = replace(found, unknown=unknown).answer
    assert told.startswith("Right for 30 of 40 test rows (75 %). ")
    assert said in told


def test_classes_without_training_rows_are_counted_and_told() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"x": rng.normal(size=80), "y": ["a", "b"] * 40, "split": ["train"] * 50 + ["valid"] * 10 + ["test"] * 20}
    )
    table.loc[70:74, "y"] = "new"
    data = load_data(table, target="y", config=DataConfig())
    assert sum(record.action == "test row left out" for record in data.bad) == 5
    split = Split(train=np.arange(50), valid=np.arange(50, 60), test=np.arange(60, 80))
    texts = [one.text for one in class_balance(table, data.schema, parts_of(split, 80))]
    assert "1 of 3 classes has no training row, so no model predicts them: 'new'" in texts
    assert not any("under 5 training rows" in text for text in texts)


def test_a_frequent_class_that_a_part_lacks_is_a_warning_and_a_rare_one_a_note() -> None:
    table = pd.DataFrame({"x": np.random.default_rng(0).normal(size=100), "y": ["a"] * 40 + ["b"] * 57 + ["rare"] * 3})
    data = load_data(table, target="y", config=DataConfig())
    split = Split(train=np.r_[0:30, 45:100], valid=np.arange(30, 32), test=np.arange(32, 45))
    assert [one.level for one in class_balance(table, data.schema, parts_of(split, 100)) if "test row" in one.text] == [
        "note"
    ]
    split = Split(train=np.r_[0:30, 70:100], valid=np.arange(30, 40), test=np.arange(50, 70))
    (found,) = [one for one in class_balance(table, data.schema, parts_of(split, 100)) if "no test row" in one.text]
    assert found.level == "warning"
    assert "'a' is 40% of all rows" in found.text


def test_coverage_is_told_beyond_chance_alone() -> None:
    """Against 4,000 coverages of exchangeable rows."""
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(2_000):
        scores = rng.normal(size=100 + 60)
        bound = np.sort(scores[:100])[int(np.ceil(0.9 * 101)) - 1]
        false += beyond_chance((scores[100:] <= bound).mean(), 60, 0.9, 100, both=True)
    assert 0 < false < 60
    assert beyond_chance(34 / 45, 45, 0.9, 500, both=True)
    assert not beyond_chance(40 / 45, 45, 0.9, 500, both=True)
    assert beyond_chance(1.0, 400, 0.9, 500, both=True)
    assert not beyond_chance(1.0, 400, 0.9, 500, both=False)


@pytest.mark.parametrize(("inside", "said"), [(26, "fewer than chance"), (37, ""), (40, "")])
def test_intervals_that_hold_too_few_test_rows_are_told(inside: int, said: str) -> None:
    truth = np.random.default_rng(0).normal(size=40)
    found = result_of(truth, (MAE, RMSE), ours=truth * 0.9, table=truth * 0.8, constant=truth * 0)
    held = Coverage(rows="all", count=40, inside=inside, level=0.9)
    found = replace(found, contest=Contest(leaderboard=[], choice="", coverage=[held]))
    assert (said in found.verdict) if said else ("chance explains" not in found.verdict)


def given(copies: int, **columns: Any) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.normal(size=120), "b": rng.normal(size=120), "y": rng.normal(size=120)}).assign(
        **columns
    )
    table.loc[100 : 100 + copies - 1, ["a", "b", "y"]] = table.loc[: copies - 1, ["a", "b", "y"]].to_numpy()
    return table.assign(split=["train"] * 80 + ["valid"] * 20 + ["test"] * 20)


def test_a_verdict_on_copies_of_training_rows_says_so() -> None:
    assert copied_test_rows(load_data(given(6), target="y", config=DataConfig())) == 6
    assert copied_test_rows(load_data(given(6), target="y", config=DataConfig(dedup=True))) == 0
    truth = np.random.default_rng(0).normal(size=20)
    found = result_of(truth, (MAE, RMSE), ours=truth + 0.1, table=truth, constant=truth * 0)
    assert "--dedup" not in found.verdict
    assert "6 of these test rows are copies of rows that the models were fitted on" in replace(found, copied=6).verdict


def scored(error: float, rows: int = 60) -> Part:
    rng = np.random.default_rng(int(error * 10))
    truth = rng.normal(size=rows)
    kinds: Any = {"constant": "constant"}
    return judge(
        Rows("test", truth, {"ours": truth + error * rng.normal(size=rows), "constant": truth * 0}), (MAE,), kinds=kinds
    )


def test_a_better_test_than_promised_is_not_praised_where_a_constant_is_as_good() -> None:
    data = load_data(given(0), target="y", config=DataConfig())
    promised = scored(9.0).score("ours")

    def said(test: Part) -> str:
        constant = test.score("constant")
        return departure(
            data, promised, test.score("ours"), MAE, where="out-of-fold", counts=(140, 60), constant=constant
        )

    assert "no better than that of a constant" in said(scored(3.0))
    assert "another way in the given test rows" in said(scored(3.0))
    assert "constant" not in said(scored(0.2))


def test_a_better_test_of_a_split_by_time_may_be_of_a_longer_history() -> None:
    table = given(0, day=pd.date_range("2024-01-01", periods=120).strftime("%Y-%m-%d")).drop(columns="split")
    data = load_data(table, target="y", config=DataConfig(split_time="day"))
    assert any("shorter history" in cause for cause in causes_of_departure(data, better=True))
    assert not any("shorter history" in cause for cause in causes_of_departure(data))
