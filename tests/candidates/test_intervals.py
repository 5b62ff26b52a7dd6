"""Intervals and sets hold the truth as often as they say, on rows that nothing was fitted on."""

import json

import numpy as np
import pandas as pd
import pytest

from mixfit.candidates.encoding import EncodedRows, PhotoMeans, RowEncoder
from mixfit.candidates.intervals import (
    ClassUncertainty,
    NumberUncertainty,
    class_uncertainty,
    number_uncertainty,
    uncertainty_from_dict,
)
from mixfit.data.schema import Column, Schema
from mixfit.errors import ConfigError

SCHEMA = Schema(
    columns=(
        Column(name="x", role="number", reason="set", missing=0),
        Column(name="y", role="target", reason="set", missing=0),
    ),
    task="regression",
    task_reason="set",
    rows=1000,
)


def uneven(rows: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Errors of a prediction that is always 0; their spread grows with x."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 3, rows)
    return pd.DataFrame({"x": x, "y": 0.0}), np.exp(x) * rng.normal(size=rows)


def fitted(rows: int = 1000) -> tuple[RowEncoder, NumberUncertainty]:
    frame, truth = uneven(rows, 0)
    encoder = RowEncoder.fit(frame, SCHEMA)
    encoded = encoder.encode(frame)
    return encoder, number_uncertainty(truth, np.zeros(rows), encoded, encoder, np.arange(rows) % 5)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_intervals_cover_as_often_as_they_say_and_are_wider_where_errors_are_larger(level: float) -> None:
    encoder, found = fitted()
    frame, truth = uneven(4000, 1)
    low, high = found.interval(np.zeros(4000), encoder.encode(frame), level)
    inside = (low <= truth) & (truth <= high)
    assert abs(inside.mean() - level) < 0.03
    for part in (frame["x"] < 1, frame["x"] > 2):
        assert abs(inside[part.to_numpy()].mean() - level) < 0.06
    width = high - low
    assert np.corrcoef(np.log(width), frame["x"])[0, 1] > 0.95


def test_number_uncertainty_comes_back_from_its_description() -> None:
    encoder, found = fitted(200)
    frame, _ = uneven(50, 1)
    encoded = encoder.encode(frame)
    again = uncertainty_from_dict(json.loads(json.dumps(found.describe())), found.tensors())
    assert isinstance(again, NumberUncertainty)
    for ends, expected in zip(
        again.interval(np.zeros(50), encoded, 0.9), found.interval(np.zeros(50), encoded, 0.9), strict=True
    ):
        np.testing.assert_array_equal(ends, expected)


def test_rows_without_a_photo_are_covered_as_often_as_the_others() -> None:
    """They are few, their errors are five times as large, and all rows together would hardly tell."""

    def made(rows: int, seed: int) -> tuple[pd.DataFrame, np.ndarray, PhotoMeans]:
        rng = np.random.default_rng(seed)
        seen = rng.random(rows) > 0.05
        truth = np.where(seen, 0.25, 1.25) * rng.normal(size=rows)
        return pd.DataFrame({"x": rng.normal(size=rows), "y": 0.0}), truth, PhotoMeans(values=None, seen=seen)

    covered: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(30):
        frame, truth, photos = made(600, seed)
        encoder = RowEncoder.fit(frame, SCHEMA)
        encoded = encoder.encode(frame, photos)
        found = number_uncertainty(truth, np.zeros(600), encoded, encoder, np.arange(600) % 5)
        frame, truth, photos = made(4000, 100 + seed)
        low, high = found.interval(np.zeros(4000), encoder.encode(frame, photos), 0.9)
        for seen, shares in covered.items():
            shares.append(float(((low <= truth) & (truth <= high))[photos.seen == seen].mean()))
    assert abs(np.mean(covered[True]) - 0.9) < 0.03
    assert abs(np.mean(covered[False]) - 0.9) < 0.05


def overconfident(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, 3))
    powers = np.exp(logits)
    honest = powers / powers.sum(axis=1, keepdims=True)
    truth = np.array([rng.choice(3, p=row) for row in honest])
    sharp = np.exp(3 * logits)
    return truth, sharp / sharp.sum(axis=1, keepdims=True)


def test_the_temperature_undoes_overconfidence_and_sets_hold_the_truth() -> None:
    truth, probabilities = overconfident(3000, 0)
    found = class_uncertainty(truth, probabilities)
    assert found.temperature == pytest.approx(3.0, rel=0.15)
    new_truth, new = overconfident(3000, 1)
    calibrated = found.calibrated(new)
    np.testing.assert_allclose(calibrated.sum(axis=1), 1)
    sets = found.sets(calibrated, 0.9)
    assert abs(sets[np.arange(3000), new_truth].mean() - 0.9) < 0.025
    assert sets.any(axis=1).all()
    assert 1 < sets.sum(axis=1).mean() < 3
    again = uncertainty_from_dict(json.loads(json.dumps(found.describe())), found.tensors())
    assert isinstance(again, ClassUncertainty)
    np.testing.assert_array_equal(again.sets(calibrated, 0.9), sets)


def test_a_level_that_so_few_rows_cannot_tell_is_refused_and_the_largest_that_they_can_is_given() -> None:
    encoder, found = fitted(20)
    encoded = encoder.encode(uneven(5, 1)[0])
    with pytest.raises(ConfigError, match=r"20 rows in the folds cannot tell intervals at 0\.99, which need 99: "):
        found.interval(np.zeros(5), encoded, 0.99)
    low, high = found.interval(np.zeros(5), encoded, 20 / 21)
    spread = found.spread.predict(_columns(found, encoded))
    np.testing.assert_allclose(high, found.scores.max() * np.exp(spread))
    np.testing.assert_allclose(low, -high)


def test_many_scores_are_kept_as_quantiles() -> None:
    truth, probabilities = overconfident(5000, 0)
    assert len(class_uncertainty(truth, probabilities).scores) == 2000


def _columns(found: NumberUncertainty, encoded: EncodedRows) -> np.ndarray:
    from mixfit.candidates.intervals import _spread_columns

    return _spread_columns(encoded, found.encoder.cardinalities, found.knots, np.zeros(len(encoded)))


@pytest.mark.parametrize("level", [0.0, 1.0, 90.0, float("nan")])
def test_a_level_that_is_no_share_is_refused(level: float) -> None:
    truth, probabilities = overconfident(100, 0)
    found = class_uncertainty(truth, probabilities)
    with pytest.raises(ConfigError, match=r"the level of intervals must be between 0 and 1, for instance 0\.9, got"):
        found.sets(probabilities, level)
