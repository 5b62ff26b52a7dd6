import math

import numpy as np
import pytest

from mixfit.evaluation.bootstrap import bootstrap_difference, bootstrap_interval
from mixfit.evaluation.scores import Rows, compare, score
from mixfit.training.metrics import ACCURACY, AUC, MAE

RANDOM = np.random.default_rng(0)
TRUTH = RANDOM.normal(size=400)


def test_the_interval_has_the_width_that_theory_says() -> None:
    prediction = TRUTH + RANDOM.laplace(size=400)
    low, high = bootstrap_interval(MAE, TRUTH, prediction, resamples=1000)
    errors = np.abs(prediction - TRUTH)
    assert low < errors.mean() < high
    assert (high - low) == pytest.approx(2 * 1.96 * errors.std() / 20, rel=0.15)


def test_what_cannot_be_computed_has_no_interval() -> None:
    assert all(map(math.isnan, bootstrap_interval(MAE, TRUTH[:1], TRUTH[:1])))
    one_class, probabilities = np.zeros(10, dtype=np.int64), np.full((10, 2), 0.5)
    assert all(map(math.isnan, bootstrap_interval(AUC, one_class, probabilities)))


def test_the_difference_is_paired() -> None:
    shared = RANDOM.normal(size=400)
    low, high = bootstrap_difference(MAE, TRUTH, TRUTH + 3 + shared, TRUTH + 3.1 + shared)
    assert high < 0
    assert high - low < 0.01


def rows(ours: float, table: float) -> Rows:
    noise = RANDOM.normal(size=400)
    return Rows("test", TRUTH, {"ours": TRUTH + ours * noise, "table": TRUTH + table * RANDOM.normal(size=400)})


@pytest.mark.parametrize(
    ("ours", "table", "words", "loses"),
    [
        (0.1, 1.0, "The mixed model beats table: test mae", False),
        (1.0, 0.1, r"LOSES clearly to table.*prefer table here", True),
    ],
)
def test_the_verdict_says_who_wins(ours: float, table: float, words: str, loses: bool) -> None:
    found = compare(rows(ours, table), MAE, "ours", "table")
    assert found.loses == loses
    assert __import__("re").search(words, found.verdict)


def test_a_difference_within_noise_is_called_so() -> None:
    classes = np.tile([0, 1], 30)
    good = np.eye(2)[classes]
    worse = good.copy()
    worse[0] = worse[0, ::-1]
    behind = compare(Rows("valid", classes, {"ours": worse, "table": good}), ACCURACY, "ours", "table")
    assert behind.loses
    assert "within the noise of so few rows" in behind.verdict
    ahead = compare(Rows("valid", classes, {"ours": good, "table": worse}), ACCURACY, "ours", "table")
    assert not ahead.loses
    assert "is ahead of table, within the noise" in ahead.verdict


def test_a_tie_is_called_a_tie_and_a_table_without_photos_has_no_mixed_model() -> None:
    same = Rows("test", TRUTH, {"ours": TRUTH + 1, "table": TRUTH + 1})
    found = compare(same, MAE, "ours", "table", with_photos=False)
    assert found.verdict.startswith("The network is exactly as good as table: test mae 1")
    assert not found.loses
    behind = Rows("test", TRUTH, {"ours": TRUTH + 2, "table": TRUTH + 1})
    assert "photo" not in compare(behind, MAE, "ours", "table", with_photos=False).verdict


def test_no_comparison_without_a_value() -> None:
    found = compare(Rows("test", np.zeros(0), {"ours": np.zeros(0), "table": np.zeros(0)}), MAE, "ours", "table")
    assert "cannot be computed" in found.verdict


def test_every_model_gets_every_metric() -> None:
    found = score(rows(0.1, 0.2), (MAE,))
    assert found["ours"]["mae"] < found["table"]["mae"]


@pytest.mark.parametrize(("nothing", "how"), [(1.0, "just as good"), (0.5, "better"), (2.0, None)])
def test_a_constant_that_does_as_well_is_told(nothing: float, how: str | None) -> None:
    truth = np.zeros(20)
    judged = Rows("test", truth, {"ours": truth + 1, "table": truth + 3, "constant": truth + nothing})
    found = compare(judged, MAE, "ours", "table", constant="constant")
    assert "beats table" in found.verdict
    if how is None:
        assert "constant" not in found.verdict
        assert not found.loses
    else:
        assert f"A constant is {how} ({nothing:.3g}): nothing that helps on these rows was learned." in found.verdict
        assert found.loses
