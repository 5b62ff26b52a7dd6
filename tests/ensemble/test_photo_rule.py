"""The rule for photos: silent on noise, heard where they are worth having, and one wording for all who show it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixfit.ensemble.blend import ModelPredictions, blend
from mixfit.ensemble.photo_rule import LEAST_GAIN, PhotoRule, judge_photos
from mixfit.models.linear import fit_ridge

FOLD = np.arange(400) % 5


def losses_with_gain(gain: float, spread: float, rows: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Losses of mean 1 whose mean difference is ``gain``, with the standard deviation ``spread``."""
    rng = np.random.default_rng(seed)
    before = 1 + 0.1 * rng.normal(size=rows)
    before /= before.mean()
    difference = rng.normal(size=rows)
    difference = (difference - difference.mean()) / difference.std(ddof=1)
    return before, before - gain - spread * difference


def ridge_sets(seed: int, *, share: float) -> PhotoRule:
    """Ridge regression on a table, on photos and on both, over five folds of 400 rows, and the blend."""
    rng = np.random.default_rng(seed)
    table, photos = rng.normal(size=(400, 4)), rng.normal(size=(400, 20))
    told = np.sqrt(share) * photos[:, 0] + np.sqrt(1 - share) * rng.normal(size=400)
    truth = table[:, 0] + told
    views = {"table": table, "photos": photos, "both": np.concatenate([table, photos], axis=1)}
    predictions = {name: np.empty(400) for name in ("constant", *views)}
    for place in range(5):
        judged = place == FOLD
        predictions["constant"][judged] = truth[~judged].mean()
        for name, columns in views.items():
            predictions[name][judged] = fit_ridge(columns[~judged], truth[~judged], None).predict(columns[judged])
    models = {name: ModelPredictions(raw=values) for name, values in predictions.items()}
    of_table = {name: models[name] for name in ("constant", "table")}
    before, after = (blend(truth, part, FOLD).losses for part in (of_table, models))
    return judge_photos(before, after, FOLD, np.arange(400))


def test_noise_is_not_claimed_to_help_and_twice_the_least_gain_is() -> None:
    """As ``benchmarks/study_photo_claims.py`` does it on 200 sets, with boosted trees among the models."""
    assert not any(ridge_sets(seed, share=0.0).claim for seed in range(8))
    found = [ridge_sets(seed, share=2.3 * LEAST_GAIN) for seed in range(8)]
    assert np.mean([rule.gain for rule in found]) == pytest.approx(2 * LEAST_GAIN, rel=0.25)
    assert sum(rule.claim for rule in found) >= 7


@pytest.mark.parametrize("size", [1, 4])
def test_the_test_has_its_level_and_its_power(size: int) -> None:
    """Heavy-tailed differences of 400 rows, whose groups share half of the variance, and of whose folds so do all."""
    rng = np.random.default_rng(size)
    group, counts = np.arange(400) // size, {0.0: 0, 2 * LEAST_GAIN: 0}
    for gain in counts:
        for _ in range(300):
            shared = rng.standard_t(5, (400, 2)) if size == 1 else rng.standard_t(5, (100, 2)).repeat(size, axis=0)
            noise = (shared + rng.standard_t(5, (400, 2))) / np.sqrt(2)
            rule = judge_photos(1 + noise[:, 0], 1 + noise[:, 0] - gain - 0.4 * noise[:, 1], group % 5, group)
            counts[gain] += rule.claim if gain else rule.p_value <= 0.05
    assert counts[0.0] <= 15
    assert counts[2 * LEAST_GAIN] >= 240


def test_the_variance_is_that_of_nadeau_and_bengio() -> None:
    before, after = losses_with_gain(0.1, 0.5)
    rule = judge_photos(before, after, FOLD, np.arange(400))
    of_a_fold = 0.5**2 / 80
    assert rule.gain == pytest.approx(0.1)
    assert rule.error == pytest.approx(np.sqrt((1 / 5 + 80 / 320) * of_a_fold), rel=1e-6)
    ten = judge_photos(before, after, np.arange(400) % 10, np.arange(400))
    assert ten.error == pytest.approx(np.sqrt((1 / 10 + 40 / 360) * 0.5**2 / 40), rel=1e-6)
    assert rule.least == pytest.approx(0.1 - 1.6487 * rule.error, rel=1e-3)


def test_folds_that_are_fitted_on_few_rows_say_less() -> None:
    before, after = losses_with_gain(0.1, 0.72)
    even = judge_photos(before, after, FOLD, np.arange(400))
    forward = judge_photos(before, after, FOLD, np.arange(400), fit_rows=np.array([80, 160, 240, 320, 400]))
    assert forward.error**2 / even.error**2 == pytest.approx((1 + 1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 2.25)
    assert even.claim
    assert not forward.claim
    with pytest.raises(ValueError, match="5 folds, but fit_rows has 2 numbers"):
        judge_photos(before, after, FOLD, np.arange(400), fit_rows=np.array([80, 160]))


def test_rows_of_a_group_count_as_one() -> None:
    before, after = losses_with_gain(0.1, 0.55, rows=100)
    single = judge_photos(before, after, np.arange(100) % 5, np.arange(100))
    copied = judge_photos(*(np.repeat(part, 4) for part in (before, after, np.arange(100) % 5, np.arange(100))))
    assert not single.claim
    assert copied.error == pytest.approx(single.error)
    assert copied.p_value == pytest.approx(single.p_value)
    assert (copied.rows, copied.groups) == (400, 100)
    assert judge_photos(*(np.repeat(part, 4) for part in (before, after, np.arange(100) % 5)), np.arange(400)).claim


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 1000.0))
def test_weights_have_no_scale_and_rows_of_weight_0_are_not_there(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    before, after, weight = rng.chisquare(1, 60), rng.chisquare(1, 60), rng.uniform(0.5, 2, 60)
    fold, group = np.arange(60) % 5, np.arange(60) // 2
    rule = judge_photos(before, after, fold, group, weight=weight)
    junk = [np.concatenate([part, part[:20]]) for part in (fold, group)]
    longer = [np.concatenate([part, 1e6 * part[:20]]) for part in (before, after)]
    found = judge_photos(*longer, *junk, weight=np.concatenate([scale * weight, np.zeros(20)]))
    for name in ("gain", "error", "p_value", "least"):
        assert getattr(found, name) == pytest.approx(getattr(rule, name), rel=1e-6, abs=1e-9)
    assert (found.rows, found.groups, found.use) == (rule.rows, rule.groups, rule.use)


def test_one_heavy_group_is_not_many() -> None:
    before, after = losses_with_gain(0.2, 0.1)
    weight = np.where(np.arange(400) == 0, 1e6, 1.0)
    assert not judge_photos(before, after, FOLD, np.arange(400), weight=weight).claim


@settings(max_examples=50, deadline=None)
@given(st.floats(-0.3, 0.3), st.floats(0.0, 2.0), st.booleans(), st.integers(1, 100))
def test_what_is_claimed_is_used_and_no_sentence_claims_what_the_rule_does_not(
    gain: float, spread: float, columns: bool, size: int
) -> None:
    before, after = losses_with_gain(gain, spread)
    rule = judge_photos(before, after, FOLD, np.arange(400) // size, columns=columns)
    assert rule.use or not rule.claim
    assert not rule.claim or rule.gain >= LEAST_GAIN
    assert rule.why.startswith("The photos help:") == rule.claim
    assert ("not claimed" in rule.why) == (rule.use and not rule.claim)
    assert " 0.0 %" not in rule.why
    assert "nan" not in rule.why


APART = "The test rows played no part in that choice."
SENTENCES = {
    (0.2, 0.5): (
        "The photos help: they lower {by} (400 rows; {test} < 0.001; a claim needs at least 8 % and p of at most 0.05)."
        f" {APART}"
    ),
    (0.03, 0.5): (
        "The photos are used because they lowered {by}, but this is within noise (400 rows; {test} = 0.21), "
        f"so they are not claimed to help. {APART}"
    ),
    (0.03, 0.1): (
        "The photos are used because they lowered {by}, but a claim needs at least 8 % (400 rows; {test} < 0.001), "
        f"so they are not claimed to help. {APART}"
    ),
    (0.006, 0.5): (
        "The photos are used because they lowered {by}, but this is within noise (400 rows; {test} = 0.44), "
        f"so they are not claimed to help. {APART}"
    ),
    (-0.02, 0.5): "The photos are not used: they raise {by} (400 rows).",
    (0.004, 0.0001): (
        "The photos are not used: they hardly change the out-of-fold loss compared with the blend without photos "
        "(400 rows)."
    ),
}


@pytest.mark.parametrize(("gain", "spread"), SENTENCES)
def test_the_sentence_says_the_gain_what_it_is_relative_to_and_why(gain: float, spread: float) -> None:
    by = f"the out-of-fold loss by {100 * abs(gain):.1f} % compared with the blend without photos"
    expected = SENTENCES[gain, spread].format(by=by, test="paired one-sided t-test, p")
    assert judge_photos(*losses_with_gain(gain, spread), FOLD, np.arange(400)).why == expected


def test_few_groups_and_photos_alone_have_sentences_of_their_own() -> None:
    before, after = losses_with_gain(0.2, 0.1)
    few = judge_photos(before, after, FOLD, np.arange(400) // 50)
    assert few.use
    assert not few.claim
    assert "but there are too few groups for a test (400 rows in 8 groups), so they are not claimed" in few.why
    alone = judge_photos(before, after, FOLD, np.arange(400), columns=False)
    assert alone.why.startswith("The photos help: they lower the out-of-fold loss by 20.0 % compared with a constant (")
    useless = judge_photos(before, before * 1.1, FOLD, np.arange(400), columns=False)
    assert useless.use
    assert not useless.claim
    assert useless.why == (
        "The model uses only the photos, as there are no table columns: they raise the out-of-fold loss by 10.0 % "
        "compared with a constant (400 rows). They are not claimed to help."
    )


def test_equal_losses_and_no_loss_at_all_are_no_gain() -> None:
    for losses in (np.ones(50), np.zeros(50)):
        rule = judge_photos(losses, losses, np.arange(50) % 5, np.arange(50))
        assert (rule.use, rule.claim, rule.gain, rule.p_value) == (False, False, 0.0, 1.0)
    assert replace(rule, claim=True).why.startswith("The photos help")
