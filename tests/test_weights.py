"""Weights everywhere: for every statistic that is a property of the weighted distribution, a row of weight 2 is two
equal rows, a common factor of all weights is nothing, and a row of weight 0 is not there."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from bootstrap_ends import bootstrap_difference, bootstrap_interval

from mixfit.config import DataConfig, ModelConfig
from mixfit.data.columns.infer import infer_schema
from mixfit.data.columns.target import fit_target, row_weights, wants_log
from mixfit.data.columns.values import moments
from mixfit.data.load import load_data
from mixfit.data.split import strata_of_rows
from mixfit.ensemble.calibration import calibration_error, reliability
from mixfit.evaluation.bootstrap import resampled
from mixfit.evaluation.groups import group_table, label_rows
from mixfit.models.encoding import RowEncoder
from mixfit.models.linear import find_knots, fit_logistic, fit_ridge
from mixfit.models.model import Components
from mixfit.nn.bins import compute_bins
from mixfit.training.build import build_model
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.metrics import ACCURACY, CLASSIFICATION_METRICS, MAE, R2_LOG, REGRESSION_METRICS, evaluate
from mixfit.training.optimizer import AdamW
from mixfit.weighted import weighted_mean, weighted_quantile

ROWS = 60
Statistic = Callable[[pd.DataFrame, np.ndarray | None], Any]


def table() -> pd.DataFrame:
    """Rows of numbers with gaps, skewed ones, dates, codes, categories, targets and predictions."""
    draw = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "area": draw.normal(100, 20, ROWS).round(1),
            "pay": draw.lognormal(3, 1.5, ROWS).round(2),
            "age": draw.integers(0, 9, ROWS).astype(float),
            "town": draw.choice(["ash", "elm", "oak"], ROWS),
            "code": [f"{10_000 + 137 * (row % 12)}" for row in range(ROWS)],  # none is rare: rows are counted there
            "sold": pd.Timestamp("2020-01-01") + pd.to_timedelta(draw.integers(0, 900, ROWS), unit="D"),
            "label": draw.integers(0, 3, ROWS),
            "guess": draw.normal(100, 30, ROWS),
        }
    )
    frame.loc[::7, "age"] = np.nan
    frame["price"] = np.exp(frame["area"] / 40 + draw.normal(0, 0.9, ROWS)).round(2)
    return frame.assign(own=draw.lognormal(2.5, 0.5, ROWS))


SCHEMA = infer_schema(
    table(), "price", roles={"town": "category", "code": "category"}, ignore=("label", "guess", "own")
)


def probabilities(frame: pd.DataFrame, classes: int) -> np.ndarray:
    raw = np.stack([np.sin(frame["guess"] * (place + 1)) for place in range(classes)], axis=1).round(1)
    powers = np.exp(raw)
    return powers / powers.sum(axis=1, keepdims=True)


def columns(frame: pd.DataFrame) -> np.ndarray:
    """Without gaps, spread by about 1."""
    return np.stack([(frame["area"] - 100) / 20, np.log(frame["pay"]), frame["guess"] / 30], axis=1)


def encoder_state(frame: pd.DataFrame, weight: np.ndarray | None) -> Any:
    return RowEncoder.fit(frame, SCHEMA, None, weight).to_dict()


def target_state(frame: pd.DataFrame, weight: np.ndarray | None) -> Any:
    return [fit_target(frame[name], "regression", weight).to_dict() for name in ("price", "guess", "pay")]


def ridge(frame: pd.DataFrame, weight: np.ndarray | None) -> Any:
    model = fit_ridge(columns(frame), frame["price"].to_numpy(), weight, strengths=np.array([0.01]))
    return [model.weights, model.bias]


def logistic(frame: pd.DataFrame, weight: np.ndarray | None) -> Any:
    codes = frame["label"].to_numpy()
    model = fit_logistic(columns(frame), codes, classes=3, weight=weight, strengths=(50.0,))
    return [model.weights, model.bias]


def no_columns(frame: pd.DataFrame, weight: np.ndarray | None) -> Any:
    nothing, codes = np.zeros((len(frame), 0)), frame["label"].to_numpy()
    return [
        fit_ridge(nothing, frame["price"].to_numpy(), weight).bias,
        fit_logistic(nothing, codes, classes=3, weight=weight).bias,
    ]


def components(frame: pd.DataFrame, weight: np.ndarray | None) -> Any:
    wide = np.concatenate([columns(frame), np.cos(columns(frame) * 3)], axis=1).astype(np.float32)
    found = Components.fit(wide, frame["age"].notna().to_numpy(), most=4, seed=0, weight=weight)
    return [found.mean, found.axes]


def bins(frame: pd.DataFrame, weight: np.ndarray | None) -> Any:
    truths = (None, frame["price"].to_numpy(), frame["label"].to_numpy())
    found = [compute_bins(columns(frame), bins=6, target=truth, min_rows=1, weight=weight) for truth in truths]
    return [edges.numpy() for one in found for edges in one]


def numbers_metrics(frame: pd.DataFrame, weight: np.ndarray | None) -> Any:
    return evaluate((*REGRESSION_METRICS, R2_LOG), frame["price"].to_numpy(), frame["own"].to_numpy(), weight)


def class_metrics(frame: pd.DataFrame, weight: np.ndarray | None) -> Any:
    truth = frame["label"].to_numpy()
    several = evaluate(CLASSIFICATION_METRICS, truth, probabilities(frame, 3), weight)
    two = evaluate(CLASSIFICATION_METRICS, np.minimum(truth, 1), probabilities(frame, 2), weight)
    return [several, two]


def resampled_metrics(frame: pd.DataFrame, weight: np.ndarray | None) -> Any:
    """What the bootstrap computes, of a draw that has each row once."""
    counts = np.ones((1, len(frame))) if weight is None else weight[None].astype(np.float64)
    price, own, two = frame["price"].to_numpy(), frame["own"].to_numpy(), np.minimum(frame["label"].to_numpy(), 1)
    found = [resampled(metric, price, own) for metric in (*REGRESSION_METRICS, R2_LOG)]
    found += [resampled(metric, two, probabilities(frame, 2)) for metric in CLASSIFICATION_METRICS]
    return [quick(counts) for quick in found if quick is not None]


def calibration(frame: pd.DataFrame, weight: np.ndarray | None) -> Any:
    probability = probabilities(frame, 2)[:, 1]
    curve = reliability(probability, frame["label"].to_numpy() == 1, weight=weight)
    points = [(one.low, one.share, one.predicted, one.observed) for one in curve if one.share]
    return [np.array(points), calibration_error(curve)]


def groups(frame: pd.DataFrame, weight: np.ndarray | None) -> Any:
    labels = label_rows(frame["town"], "category", "regression")
    found = group_table("town", labels, frame["price"].to_numpy(), frame["own"].to_numpy(), [MAE], MAE, weight=weight)
    return sorted((one.score.model, one.score.metrics["mae"], one.rest) for one in found.groups)


def intervals(frame: pd.DataFrame, weight: np.ndarray | None) -> Any:
    truth, ours, other = (frame[name].to_numpy() for name in ("price", "own", "pay"))
    scored = [bootstrap_interval(metric, truth, ours, weight=weight, resamples=50) for metric in REGRESSION_METRICS]
    return [scored, bootstrap_difference(MAE, truth, ours, other, weight=weight, resamples=50)]


STATISTICS: dict[str, Statistic] = {
    "mean": lambda frame, weight: weighted_mean(frame["pay"].to_numpy(), weight),
    "quantiles": lambda frame, weight: weighted_quantile(frame["pay"].to_numpy(), (0.0, 0.1, 0.25, 0.5, 1.0), weight),
    "moments": lambda frame, weight: asdict(moments(frame["pay"].to_numpy(), weight)),
    "log choice": lambda frame, weight: wants_log(frame["pay"].to_numpy(), weight),
    "medians and scales of columns": encoder_state,
    "scale of the target": target_state,
    "knots": lambda frame, weight: find_knots(columns(frame).astype(np.float32), weight),
    "bins": bins,
    "ridge": ridge,
    "logistic regression": logistic,
    "models without columns": no_columns,
    "components": components,
    "metrics of numbers": numbers_metrics,
    "metrics of classes": class_metrics,
    "metrics of resamples": resampled_metrics,
    "calibration curve": calibration,
    "scores of groups": groups,
}


def assert_same(found: Any, expected: Any) -> None:
    """Equal but for rounding, whatever they are made of."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, str | bool):
        assert found == expected
    else:
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", STATISTICS)
def test_a_row_of_weight_2_is_two_equal_rows(name: str) -> None:
    frame, times = table(), np.random.default_rng(2).integers(1, 4, ROWS)
    repeated = frame.loc[np.repeat(np.arange(ROWS), times)].reset_index(drop=True)
    expected = STATISTICS[name](repeated, None)
    assert_same(STATISTICS[name](frame, times.astype(np.float64)), expected)
    assert_same(STATISTICS[name](repeated, np.ones(len(repeated))), expected)


@pytest.mark.parametrize("name", STATISTICS)
def test_weights_make_a_difference(name: str) -> None:
    """Else the tests beside this one would hold for what looks at no weight."""
    if name in ("log choice",):
        heavy = np.where(np.arange(ROWS) == table()["pay"].argmax(), 1e9, 1.0)
        assert STATISTICS[name](table(), None)
        assert not STATISTICS[name](table(), heavy)
        return
    weight = np.random.default_rng(2).integers(1, 9, ROWS).astype(np.float64)
    with pytest.raises(AssertionError):
        assert_same(STATISTICS[name](table(), weight), STATISTICS[name](table(), None))


@pytest.mark.parametrize("factor", [1e-3, 7.0])
@pytest.mark.parametrize("name", STATISTICS)
def test_the_unit_of_weights_is_nothing(name: str, factor: float) -> None:
    weight = np.random.default_rng(3).uniform(0.2, 5, ROWS)
    expected = STATISTICS[name](table(), weight)
    assert_same(STATISTICS[name](table(), factor * weight), expected)
    assert_same(STATISTICS[name](table(), (factor * weight).astype(np.float32)), expected)


@pytest.mark.parametrize(
    "name", ["mean", "quantiles", "moments", "metrics of numbers", "metrics of classes", "intervals of metrics"]
)
def test_a_row_of_weight_0_is_not_there(name: str) -> None:
    """Where functions are public, or given rows that judge; all others get none, since such rows leave at loading."""
    frame = table()
    statistic = intervals if name == "intervals of metrics" else STATISTICS[name]
    junk = frame.head(5).assign(price=1e9, pay=1e12, own=1.0)
    both = pd.concat([junk, frame], ignore_index=True)
    weight = np.concatenate([np.zeros(5), np.random.default_rng(3).uniform(0.2, 5, ROWS)])
    assert_same(statistic(both, weight), statistic(frame, weight[5:]))


def test_strata_are_ranks_by_weight() -> None:
    schema = infer_schema(table().assign(w=1.0), "price", roles={"w": "weight"})
    times = np.random.default_rng(2).integers(1, 4, ROWS)
    frame, place = table().assign(w=3.7 * times), np.repeat(np.arange(ROWS), times)
    found = strata_of_rows(frame, schema)
    repeated = frame.loc[place].assign(w=1.0)
    np.testing.assert_allclose(found[place], strata_of_rows(repeated, schema), atol=1e-8)
    np.testing.assert_array_equal(found, strata_of_rows(frame.assign(w=0.1 * times), schema))
    plain = infer_schema(table(), "price")
    np.testing.assert_allclose(strata_of_rows(frame.assign(w=5), schema), strata_of_rows(frame, plain), atol=1e-8)


def test_the_unit_of_weights_leaves_no_trace_in_rows_as_they_are_trained_on() -> None:
    draw = np.random.default_rng(1)
    for weights in (draw.uniform(0, 9, 500), draw.lognormal(0, 20, 500), np.full(500, 1e308)):
        frame = pd.DataFrame({"y": np.arange(500.0), "x": draw.normal(size=500), "w": weights})
        schema = infer_schema(frame, "y", roles={"w": "weight"})
        found = row_weights(frame, schema, np.arange(400))
        other = row_weights(frame.assign(w=weights / 3), schema, np.arange(400))
        assert found is not None
        assert other is not None
        np.testing.assert_array_equal(found, other)
        assert found[:400].mean(dtype=np.float64) == pytest.approx(1, rel=1e-6)
        assert (found > 0).all()


def test_the_first_bias_of_a_network_is_weighted() -> None:
    times = np.random.default_rng(2).integers(1, 4, ROWS)
    frame = table()[["area", "pay", "label"]].assign(w=times, split=np.repeat(["train", "valid"], [40, 20]))
    repeated = frame.loc[np.repeat(np.arange(ROWS), times)].assign(w=1)
    biases = []
    for one in (frame, repeated, frame.assign(w=5 * frame["w"])):
        for target in ("label", "area"):
            config = DataConfig(roles={"w": "weight"}, task="multiclass" if target == "label" else None)
            data = load_data(one, target=target, config=config)
            model = build_model(data, ModelConfig(tabular="mlp", numbers="linear"), seed=0)
            biases.append(model.head.bias.detach())
    for place in (0, 1):
        torch.testing.assert_close(biases[place], biases[place + 2])
        torch.testing.assert_close(biases[place], biases[place + 4])


def test_a_learner_judges_its_epochs_by_weight() -> None:
    times = np.random.default_rng(2).integers(1, 4, ROWS)
    frame = table()[["area", "pay", "price"]].assign(w=times, split=np.repeat(["train", "valid"], [40, 20]))
    data = load_data(frame, target="price", config=DataConfig(roles={"w": "weight"}))
    model = build_model(data, ModelConfig(tabular="mlp", numbers="linear"), seed=0)
    learner = Learner(model, data, loss=mse, optimizer=AdamW, metrics=[MAE], device="cpu")
    outputs, _ = learner.predict(data.valid)
    errors = np.abs(data.target.decode(outputs.numpy()) - frame["price"].to_numpy()[40:])
    assert learner.validate()["mae"] == pytest.approx(np.average(errors, weights=times[40:]), rel=1e-4)
    assert learner.validate()["mae"] != pytest.approx(errors.mean(), rel=1e-4)


def test_accuracy_by_weight_is_the_weight_of_what_is_right() -> None:
    truth, sure = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    assert ACCURACY.value(truth, sure, np.array([1.0, 6.0, 1.0])) == pytest.approx(0.25)
