"""Intervals and sets hold the truth as often as they say, on rows that nothing was fitted on."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from mixfit.data.columns.schema import Column, Schema
from mixfit.ensemble import intervals
from mixfit.ensemble.intervals import (
    ClassUncertainty,
    NumberUncertainty,
    Scores,
    best_temperature,
    class_uncertainty,
    number_uncertainty,
    tempered,
    uncertainty_from_dict,
)
from mixfit.errors import ConfigError
from mixfit.models.encoding import EncodedRows, PhotoMeans, RowEncoder

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
    again = uncertainty_from_dict(json.loads(json.dumps(found.describe())), found.arrays())
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
    again = uncertainty_from_dict(json.loads(json.dumps(found.describe())), found.arrays())
    assert isinstance(again, ClassUncertainty)
    np.testing.assert_array_equal(again.sets(calibrated, 0.9), sets)


def test_a_level_that_so_few_rows_cannot_tell_is_refused_and_the_largest_that_they_can_is_given() -> None:
    encoder, found = fitted(20)
    encoded = encoder.encode(uneven(5, 1)[0])
    with pytest.raises(ConfigError, match=r"20 calibration rows are too few for intervals at level 0\.99, which nee"):
        found.interval(np.zeros(5), encoded, 0.99)
    low, high = found.interval(np.zeros(5), encoded, 20 / 21)
    spread = 1.0 if found.spread is None else found.spread.predict(encoded, encoder, np.zeros(5))
    np.testing.assert_allclose(high, found.scores.values.max() * spread)
    np.testing.assert_allclose(low, -high)


def test_many_scores_are_kept_as_quantiles() -> None:
    truth, probabilities = overconfident(5000, 0)
    scores = class_uncertainty(truth, probabilities).scores
    assert len(scores.values) == 2000
    assert scores.rows == 5000
    everything = np.sort(np.random.default_rng(0).exponential(size=5000))
    thinned = Scores.of(everything)
    for level in (0.5, 0.9, 0.99):
        place = np.searchsorted(everything, thinned.quantile(level))
        assert 0 <= place - np.ceil(level * 5001) + 1 <= 3


@pytest.mark.parametrize("level", [0.0, 1.0, 90.0, float("nan")])
def test_a_level_that_is_no_share_is_refused(level: float) -> None:
    truth, probabilities = overconfident(100, 0)
    found = class_uncertainty(truth, probabilities)
    with pytest.raises(ConfigError, match=r"the level of intervals must be between 0 and 1, for instance 0\.9, got"):
        found.sets(probabilities, level)


# --- width ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study() -> ModuleType:
    """Simulated tables, as the study of them draws them."""
    path = Path(__file__).parents[2] / "benchmarks" / "study_intervals.py"
    spec = importlib.util.spec_from_file_location("study_intervals", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["heteroscedastic", "by prediction", "heavy tails", "grouped", "60 rows", "34 rows"])
def test_intervals_hold_the_truth_and_are_hardly_wider_than_those_of_split_conformal(
    study: ModuleType, name: str
) -> None:
    found, plain = study.judge_family(study.FAMILIES[name], study.ours, 12)
    widths = np.array([one.width / other.width for one, other in zip(found, plain, strict=True)])
    assert abs(np.mean([one.coverage for one in found]) - 0.9) < 0.06
    assert np.median(widths) < 1.15
    assert widths.max() < 1.5
    if name in ("heteroscedastic", "by prediction"):  # where the constant spread is the worse one
        assert np.median(widths) < 0.8


def test_no_interval_of_a_grouped_table_is_useless(study: ModuleType) -> None:
    """The rows of a group have the same columns, which a regression of spreads overfits unless groups stay whole."""
    for seed in range(8):
        drawn = study.draw_table(study.FAMILIES["grouped"], seed)
        (low, high), (plain_low, plain_high) = study.ours(drawn), study.split_conformal(drawn)
        plain = np.median(plain_high - plain_low)
        assert np.median(high - low) < 1.3 * plain
        assert (high - low).max() < 4 * plain


def test_a_row_beyond_all_calibration_rows_has_no_larger_spread_than_they_have() -> None:
    encoder, found = fitted()
    frame, _ = uneven(1000, 0)
    far = pd.DataFrame({"x": [-1e6, -3.0, 6.0, 1e6], "y": 0.0})
    widths = [np.ptp(found.interval(np.zeros(len(part)), encoder.encode(part), 0.9), axis=0) for part in (frame, far)]
    assert found.spread is not None
    assert widths[0].min() <= widths[1].min()
    assert widths[1].max() <= widths[0].max()
    predictions = np.array([-1e9, 1e9])
    low, high = found.interval(predictions, encoder.encode(far[:2]), 0.9)
    assert (high - low <= widths[0].max() * 1.001).all()


def test_errors_of_one_spread_have_intervals_of_one_width() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=200), "y": 0.0})
    encoder = RowEncoder.fit(frame, SCHEMA)
    encoded = encoder.encode(frame)
    found = number_uncertainty(rng.normal(size=200), np.zeros(200), encoded, encoder, np.arange(200) % 5)
    assert found.spread is None
    assert not len(found.edges)
    half = np.sort(found.scores.values)[int(np.ceil(0.9 * 201)) - 1]
    np.testing.assert_allclose(np.ptp(found.interval(np.zeros(200), encoded, 0.9), axis=0), 2 * half)


def test_predictions_that_are_right_have_intervals_of_no_width() -> None:
    frame, _ = uneven(50, 0)
    encoder = RowEncoder.fit(frame, SCHEMA)
    encoded = encoder.encode(frame)
    found = number_uncertainty(np.ones(50), np.ones(50), encoded, encoder, np.arange(50) % 5)
    low, high = found.interval(np.ones(50), encoded, 0.9)
    np.testing.assert_array_equal(low, high)


def test_every_fifth_of_the_predictions_is_covered_where_rows_suffice() -> None:
    """The errors of the middle fifth are four times as large, which no spread with a knot at each quartile tells."""

    def made(rows: int, seed: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        predictions = rng.uniform(0, 1, rows)
        errors = np.where(np.abs(predictions - 0.5) < 0.1, 4.0, 1.0) * rng.normal(size=rows)
        return pd.DataFrame({"x": rng.normal(size=rows), "y": 0.0}), predictions, predictions + errors

    frame, predictions, truth = made(1500, 0)
    encoder = RowEncoder.fit(frame, SCHEMA)
    found = number_uncertainty(truth, predictions, encoder.encode(frame), encoder, np.arange(1500) % 5)
    frame, predictions, truth = made(20_000, 1)
    low, high = found.interval(predictions, encoder.encode(frame), 0.9)
    inside = (low <= truth) & (truth <= high)
    for part in range(5):
        assert abs(inside[np.floor(predictions * 5) == part].mean() - 0.9) < 0.06
    again = uncertainty_from_dict(json.loads(json.dumps(found.describe())), found.arrays())
    assert isinstance(again, NumberUncertainty)
    np.testing.assert_array_equal(again.interval(predictions, encoder.encode(frame), 0.9), (low, high))


# --- weights --------------------------------------------------------------------------------------------------------


def weighted_number(weight: np.ndarray | None, rows: int = 700) -> tuple[RowEncoder, EncodedRows, NumberUncertainty]:
    frame, truth = uneven(rows, 0)
    predictions = np.random.default_rng(1).normal(size=rows)
    encoder = RowEncoder.fit(frame, SCHEMA)
    encoded = replace(encoder.encode(frame), seen=np.arange(rows) % 3 > 0)
    found = number_uncertainty(truth + predictions, predictions, encoded, encoder, np.arange(rows) % 5, weight)
    return encoder, encoded, found


def same(one: NumberUncertainty | ClassUncertainty, other: NumberUncertainty | ClassUncertainty) -> None:
    """To the bit."""
    assert one.describe() == other.describe()
    first, second = one.arrays(), other.arrays()
    assert set(first) == set(second)
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


def test_rows_of_weight_0_leave_the_same_intervals_to_the_bit() -> None:
    frame, truth = uneven(400, 0)
    encoder = RowEncoder.fit(frame, SCHEMA)
    encoded, fold = encoder.encode(frame), np.arange(400) % 5
    weight = np.random.default_rng(1).uniform(0.5, 2, 400)
    expected = number_uncertainty(truth, np.zeros(400), encoded, encoder, fold, weight)
    junk = pd.DataFrame({"x": np.full(40, 1e6), "y": 0.0})
    longer = encoder.encode(pd.concat([frame, junk], ignore_index=True))
    found = number_uncertainty(
        np.concatenate([truth, np.full(40, 1e6)]),
        np.zeros(440),
        longer,
        encoder,
        np.concatenate([fold, np.arange(40) % 7]),
        np.concatenate([weight, np.zeros(40)]),
    )
    same(found, expected)


def test_rows_of_weight_0_leave_the_same_sets_to_the_bit() -> None:
    truth, probabilities = overconfident(300, 0)
    weight = np.random.default_rng(1).uniform(0.5, 2, 300)
    expected = class_uncertainty(truth, probabilities, weight)
    wrong = np.tile([1.0, 0.0, 0.0], (30, 1))
    longer = np.concatenate([truth, np.ones(30, dtype=np.int64)]), np.concatenate([probabilities, wrong])
    same(class_uncertainty(*longer, np.concatenate([weight, np.zeros(30)])), expected)


@pytest.mark.parametrize("factor", [1e-6, 0.1, 4.0, 3e7])
def test_a_factor_of_all_weights_changes_nothing(factor: float) -> None:
    weight = np.random.default_rng(2).uniform(0.1, 2, 700)
    _, encoded, expected = weighted_number(weight)
    _, _, found = weighted_number(factor * weight)
    predictions = np.random.default_rng(3).normal(size=700)
    for level in (0.5, 0.9, 0.99):
        np.testing.assert_allclose(
            found.interval(predictions, encoded, level), expected.interval(predictions, encoded, level), rtol=1e-9
        )
    truth, probabilities = overconfident(300, 0)
    one, other = (class_uncertainty(truth, probabilities, part * weight[:300]) for part in (1.0, factor))
    assert one.temperature == other.temperature
    np.testing.assert_allclose(one.scores.values, other.scores.values)
    np.testing.assert_allclose(one.scores.shares, other.scores.shares)
    assert one.scores.rows == pytest.approx(other.scores.rows)


def test_equal_weights_are_as_none() -> None:
    _, encoded, expected = weighted_number(None)
    _, _, found = weighted_number(np.full(700, 0.3))
    predictions = np.zeros(700)
    np.testing.assert_allclose(
        found.interval(predictions, encoded, 0.9), expected.interval(predictions, encoded, 0.9), rtol=1e-9
    )


def test_quantiles_follow_the_weights_and_levels_the_effective_number_of_rows() -> None:
    """Importances: half the rows have errors ten times as large, and a ninth of the weight of the others."""
    values, weight = np.concatenate([np.linspace(0, 1, 500), np.linspace(9, 10, 500)]), np.repeat([0.9, 0.1], 500)
    scores = Scores.of(values, weight)
    assert scores.rows == pytest.approx(500**2 / (500 * (0.81 + 0.01)))
    assert scores.quantile(0.5) == pytest.approx(0.5 / 0.9, abs=0.01)
    assert scores.quantile(0.88) < 1
    assert scores.quantile(0.95) == pytest.approx(9.5, abs=0.05)
    few = Scores.of(np.arange(100.0), np.concatenate([np.ones(9), np.full(91, 1e-9)]))
    assert few.rows == pytest.approx(9.0, abs=1e-4)
    assert few.suffice(0.89)
    with pytest.raises(ConfigError, match=r"too few for intervals at level 0\.95, which need 19"):
        few.quantile(0.95)


def test_quantiles_without_weights_are_those_of_split_conformal() -> None:
    values = np.random.default_rng(0).exponential(size=97)
    scores = Scores.of(values)
    for level in np.linspace(0.01, 97 / 98, 200):
        place = int(np.ceil(round(level * 98, 9)))
        assert scores.quantile(float(level)) == np.sort(values)[place - 1]


# --- which rows the spread of a fold is fitted on -------------------------------------------------------------------


def test_the_spread_of_a_fold_comes_from_the_rows_that_are_named_and_from_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame, truth = uneven(500, 0)
    encoder = RowEncoder.fit(frame, SCHEMA)
    encoded, fold, predictions = encoder.encode(frame), np.arange(500) // 100, np.zeros(500)
    same(
        number_uncertainty(truth, predictions, encoded, encoder, fold, others=[fold != number for number in range(5)]),
        number_uncertainty(truth, predictions, encoded, encoder, fold),
    )
    fitted_on, fit = [], intervals._RidgePath.fit

    def watched(columns: np.ndarray, logs: np.ndarray, weight: np.ndarray) -> intervals._RidgePath:
        fitted_on.append(logs)
        return fit(columns, logs, weight)

    monkeypatch.setattr(intervals._RidgePath, "fit", watched)
    found = number_uncertainty(
        truth, predictions, encoded, encoder, fold, others=[fold < number for number in range(5)]
    )
    assert found.spread is not None
    everything = fitted_on[-1]  # the spread of new rows
    assert len(everything) == 500
    assert [len(logs) for logs in fitted_on[:-1]] == 2 * [100, 200, 300, 400]  # for two sets of columns
    for logs in fitted_on:
        np.testing.assert_array_equal(logs, everything[: len(logs)])
    low, high = found.interval(predictions, encoded, 0.9)
    assert abs(((low <= truth) & (truth <= high)).mean() - 0.9) < 0.05


def test_of_many_rows_some_calibrate_and_the_coverage_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "_MOST_ROWS", 600)
    frame, truth = uneven(4_000, 0)
    encoder = RowEncoder.fit(frame, SCHEMA)
    encoded, fold, predictions = encoder.encode(frame), np.arange(4_000) % 5, np.zeros(4_000)
    found = number_uncertainty(truth, predictions, encoded, encoder, fold)
    assert found.scores.rows == 600
    low, high = found.interval(predictions, encoded, 0.9)
    assert abs(((low <= truth) & (truth <= high)).mean() - 0.9) < 0.05


def test_a_spread_that_no_fold_can_fit_is_constant() -> None:
    frame, truth = uneven(300, 0)
    encoder = RowEncoder.fit(frame, SCHEMA)
    nobody = [np.zeros(300, dtype=bool)] * 2
    found = number_uncertainty(truth, np.zeros(300), encoder.encode(frame), encoder, np.arange(300) % 2, others=nobody)
    assert found.spread is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scores": np.zeros(3)}, "its intervals are of an older, unreliable kind"),
        ({"scores.shares": np.zeros(1000)}, "scores are incomplete scores"),
        ({"scores.values": np.arange(1000.0)[::-1].copy()}, "scores are not valid scores"),
        ({"edges": np.array([0.0, -1.0])}, "edges of its intervals are not in order"),
        ({"without_photo.rows": np.array([5.0])}, "without_photo are incomplete scores"),
    ],
)
def test_other_scores_than_those_of_rows_are_refused(changed: dict[str, np.ndarray], message: str) -> None:
    _, found = fitted()
    arrays = found.arrays() | changed
    with pytest.raises(ValueError, match=message):
        uncertainty_from_dict(found.describe(), arrays)


def test_rows_that_are_all_right_do_not_choose_the_lowest_temperature() -> None:
    """Half an error among all rows and one more is expected, so that more rows allow more confidence."""
    found = []
    for rows in (20, 100, 500):
        truth = np.arange(rows) % 2
        probabilities = np.where(np.eye(2)[truth] > 0, 0.9, 0.1)
        temperature = best_temperature(truth, probabilities)
        error = 1 - tempered(probabilities, temperature)[np.arange(rows), truth]
        np.testing.assert_allclose(error, 0.25 / (rows + 1), rtol=0.2)  # half of any class is of the right one
        found.append(temperature)
    assert found == sorted(found, reverse=True)
    assert found[-1] > 0.2


def test_the_temperature_of_rows_with_errors_is_that_of_the_lowest_log_loss() -> None:
    rng = np.random.default_rng(0)
    logits = 4 * rng.normal(size=(3_000, 3))
    truth = (logits / 2 + rng.gumbel(size=logits.shape)).argmax(axis=1)
    probabilities = softmax(logits, axis=1)
    assert best_temperature(truth, probabilities) == pytest.approx(2.0, rel=0.06)
    weight = (np.arange(3_000) < 1_000).astype(np.float64)
    assert best_temperature(truth, probabilities, weight) == best_temperature(truth[:1_000], probabilities[:1_000])
