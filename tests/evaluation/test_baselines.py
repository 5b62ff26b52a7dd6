from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from small_runs import small_fit, small_table, without_results

from mixfit.auto import preset_run
from mixfit.auto.blending import Blended
from mixfit.config import DataConfig
from mixfit.data.load import MixedData, load_data
from mixfit.data.split import Split
from mixfit.evaluation.baselines import CONSTANT, best_constant, boosted_trees, constant
from mixfit.evaluation.result import Rows, judge, metrics_for
from mixfit.runs.results import judged_rows
from mixfit.training.metrics import LOG_LOSS, MAE, MAPE, R2, R2_LOG, RMSE, Metric, evaluate


@pytest.fixture
def frame() -> pd.DataFrame:
    random = np.random.default_rng(0)
    area = random.uniform(50, 200, 300)
    town = random.choice(["north", "south", "west"], 300)
    price = np.exp(area / 80 + (town == "north") + random.normal(0, 0.1, 300))
    kind = np.where(price > np.median(price), "dear", "cheap")
    return pd.DataFrame({"area": area, "town": town, "price": price, "kind": kind, "noise": random.normal(size=300)})


def data(frame: pd.DataFrame, target: str) -> MixedData:
    return load_data(frame.drop(columns={"price": "kind", "kind": "price"}[target]), target=target)


def test_the_constant_is_the_median_of_the_training_rows(frame: pd.DataFrame) -> None:
    mixed = data(frame, "price")
    found = constant(mixed)
    median = frame["price"].iloc[mixed.split.train].median()
    assert len(found.predictions["test"]) == len(mixed.split.test)
    # Under a logarithm the median of an even number of rows lies between the two middle ones, not half-way.
    np.testing.assert_allclose(found.predictions["test"], median, rtol=0.01)


def test_the_constant_of_classes_is_their_frequency(frame: pd.DataFrame) -> None:
    mixed = data(frame, "kind")
    share = (frame["kind"].iloc[mixed.split.train] == "cheap").mean()
    np.testing.assert_allclose(constant(mixed).predictions["valid"][:, 0], share)


def test_boosted_trees_equal_scikit_learns_on_the_same_rows(frame: pd.DataFrame) -> None:
    mixed = data(frame, "price")
    codes = pd.factorize(frame["town"])[0]
    features = np.column_stack([frame["area"], frame["noise"], codes])
    model = HistGradientBoostingRegressor(random_state=0, categorical_features=[False, False, True])
    model.fit(features[mixed.split.train], np.log(frame["price"].iloc[mixed.split.train]))
    expected = np.exp(model.predict(features[mixed.split.test]))
    # float32 arrays move a split point now and then, hence not to the last digit.
    assert np.corrcoef(expected, boosted_trees(mixed).predictions["test"])[0, 1] > 0.999


def test_probabilities_sum_to_one_and_beat_chance(frame: pd.DataFrame) -> None:
    mixed = data(frame, "kind")
    found = boosted_trees(mixed).predictions["test"]
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    truth = mixed.arrays.target.numpy()[mixed.split.test]
    assert (found.argmax(1) == truth).mean() > 0.8


def test_an_empty_test_split_gives_no_predictions(frame: pd.DataFrame) -> None:
    mixed = data(frame, "price")
    split = Split(train=mixed.split.train, valid=mixed.split.valid, test=mixed.split.test[:0])
    empty = replace(mixed, split=split)
    assert boosted_trees(empty).predictions["test"].shape == (0,)
    assert constant(empty).predictions["test"].shape == (0,)


def weighted(frame: pd.DataFrame, target: str, weight: np.ndarray) -> MixedData:
    """With a column of weights."""
    others = {"price": ["kind"], "kind": ["price"], "noise": ["kind"]}[target]
    config = DataConfig(roles={"weight": "weight"})
    return load_data(frame.drop(columns=others).assign(weight=weight), target=target, config=config)


@pytest.mark.parametrize("metric", [MAE, RMSE, R2, R2_LOG])
@pytest.mark.parametrize("target", ["price", "noise"])
def test_no_other_number_is_better_by_the_metric_on_the_rows_it_comes_from(
    frame: pd.DataFrame, target: str, metric: Metric
) -> None:
    if metric is R2_LOG and target == "noise":
        return
    mixed = load_data(frame.drop(columns="kind"), target=target)
    rows = mixed.split.train
    truth = frame[target].to_numpy()[rows]
    (found,) = best_constant(mixed, metric, rows)
    sign = 1.0 if metric.higher_is_better else -1.0
    mine = sign * metric.function(truth, np.full(len(truth), found))
    for other in np.quantile(truth, np.linspace(0, 1, 201)):
        assert mine >= sign * metric.function(truth, np.full(len(truth), other)) - 1e-9


def test_each_metric_has_its_constant(frame: pd.DataFrame) -> None:
    mixed = data(frame, "price")
    truth = frame["price"].to_numpy()[mixed.split.train]
    expected = {
        "mae": np.median(truth),
        "mape": np.median(truth),
        "rmse": truth.mean(),
        "r2": truth.mean(),
        "r2_log": np.exp(np.log(truth).mean()),
    }
    found = constant(mixed)
    for name, value in expected.items():
        np.testing.assert_allclose(found.by_metric["test"][name], value, rtol=1e-6)
    np.testing.assert_allclose(found.predictions["test"], np.median(truth), rtol=1e-12)  # the headline is MAPE
    rows = judged_rows(mixed, "test", np.zeros(len(mixed.split.test)), [found])
    scores = evaluate_constant(rows)
    judged = frame["price"].to_numpy()[mixed.split.test]
    for metric in (MAE, MAPE, RMSE, R2):
        assert scores[metric.name] == pytest.approx(
            metric.function(judged, np.full(len(judged), expected[metric.name])), rel=1e-9
        )


def evaluate_constant(rows: Rows) -> dict[str, float]:
    """Its row of the scores."""
    return judge(rows, (MAE, MAPE, RMSE, R2)).score(CONSTANT).metrics


@pytest.mark.parametrize("metric", [MAE, MAPE, RMSE, R2, R2_LOG, LOG_LOSS])
def test_a_weight_of_2_is_the_row_twice_and_a_factor_changes_nothing(frame: pd.DataFrame, metric: Metric) -> None:
    target = "kind" if metric is LOG_LOSS else "price"
    twice = np.random.default_rng(1).integers(1, 3, len(frame))
    mixed = weighted(frame, target, twice)
    rows = mixed.split.train
    found = best_constant(mixed, metric, rows)
    repeated = best_constant(data(frame, target), metric, np.repeat(rows, twice[rows]))
    np.testing.assert_allclose(found, repeated, rtol=1e-6)
    np.testing.assert_allclose(best_constant(weighted(frame, target, 7.0 * twice), metric, rows), found, rtol=1e-6)
    assert not np.allclose(found, best_constant(data(frame, target), metric, rows), rtol=1e-4)


def test_numbers_near_the_largest_have_a_mean() -> None:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"x": random.normal(size=60), "y": -random.uniform(1e308, 1.7e308, 60)})
    mixed = load_data(frame, target="y")
    (found,) = best_constant(mixed, RMSE, mixed.split.train)
    assert -1.7e308 <= found <= -1e308


def test_the_constant_of_a_preset_is_that_of_the_rows_its_folds_fit_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blends: list[Blended] = []
    real = preset_run.train_blend
    monkeypatch.setattr(preset_run, "train_blend", lambda *a, **k: (blends.append(real(*a, **k)), blends[-1])[1])
    without_results(monkeypatch)
    table = small_table(tmp_path / "numbers")
    run = small_fit(table, tmp_path / "runs")
    truth, found = pd.read_csv(table)["y"].to_numpy(), blends[0]
    for metric, best in ((MAE, np.median), (MAPE, np.median), (RMSE, np.mean), (R2, np.mean)):
        of_folds = np.array([best(truth[rows]) for rows in found.fit_rows])[found.number]
        expected = evaluate((metric,), truth[found.rows], of_folds)[metric.name]
        assert run.scores["valid"][CONSTANT][metric.name] == pytest.approx(expected, rel=1e-9)
    (line,) = [line for line in run.contest.leaderboard if line.model == CONSTANT]  # type: ignore[union-attr]
    of_folds = np.array([truth[rows].mean() for rows in found.fit_rows])[found.number]
    scale = run.predictor.target.std  # type: ignore[union-attr]
    assert line.loss == pytest.approx(np.mean(((truth[found.rows] - of_folds) / scale) ** 2), rel=1e-5)


def test_the_constant_of_classes_of_a_preset_is_their_frequency_in_scores_and_leaderboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_results(monkeypatch)
    run = small_fit(small_table(tmp_path / "classes", classes=True), tmp_path / "runs")
    (line,) = [line for line in run.contest.leaderboard if line.model == CONSTANT]  # type: ignore[union-attr]
    assert line.loss == pytest.approx(run.scores["valid"][CONSTANT]["log_loss"], rel=1e-6)
    assert {metric.name for metric in metrics_for("binary", run.predictor.target)} == run.scores["test"][
        CONSTANT
    ].keys()
