"""Scores of photos: those of ridge regressions, which for training rows were fitted without them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from mixfit.data import scores
from mixfit.data.photos.scores import PhotoScores
from mixfit.data.scores import inner_folds
from mixfit.errors import DataError

EVERY = np.ones(120, dtype=bool)


def photos_with_truth(rows: int, seed: int = 0, d: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Features of very different sizes, and a number that some of them tell."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(rows, 3))
    values = hidden @ np.random.default_rng(1).normal(size=(3, d)) + rng.normal(size=(rows, d))
    truth = hidden[:, 0] + 0.3 * rng.normal(size=rows)
    return (values * np.logspace(-2, 3, d)).astype(np.float32), truth.astype(np.float32)


def test_scores_are_those_of_a_ridge_regression_after_pareto_scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "_STRENGTHS", np.array([2.0]))
    values, truth = photos_with_truth(120)
    found, own = PhotoScores.fit(values, EVERY, truth, classes=0)
    scaled = (values - values.mean(axis=0)) / np.sqrt(values.std(axis=0))
    reference = Ridge(2.0 * (scaled**2).sum(axis=1).mean()).fit(scaled, truth - truth.mean())
    np.testing.assert_allclose(found.apply(values, EVERY)[:, 0], reference.predict(scaled), atol=1e-3)
    assert 0.8 < np.corrcoef(own[:, 0], truth)[0, 1] < np.corrcoef(found.apply(values, EVERY)[:, 0], truth)[0, 1]


@pytest.mark.parametrize("classes", [0, 2, 5])
@pytest.mark.parametrize("weights", ["equal", "drawn", "some zero", "one fold"])
def test_products_of_terms_give_the_scores_of_products_of_rows(
    classes: int, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, truth = photos_with_truth(200)
    if classes:
        truth = np.digitize(truth, np.quantile(truth, np.linspace(0, 1, classes + 1)[1:-1])).astype(np.int64)
    unit = np.repeat(np.arange(100), 2)
    weight = {
        "equal": None,
        "drawn": np.random.default_rng(3).uniform(0.1, 3.0, 200),
        "some zero": (np.arange(200) % 3 > 0).astype(np.float64),
        "one fold": (inner_folds(unit, 0) == 1).astype(np.float64) + 1e-9,
    }[weights]

    def fit() -> tuple[PhotoScores, np.ndarray]:
        return PhotoScores.fit(values, np.ones(200, dtype=bool), truth, classes=classes, weight=weight, unit=unit)

    by_rows, own_by_rows = fit()
    monkeypatch.setattr(scores, "_EXACT_ROWS", 10)
    by_terms, own_by_terms = fit()
    np.testing.assert_allclose(by_terms.projection, by_rows.projection, atol=1e-5 * np.abs(by_rows.projection).max())
    np.testing.assert_allclose(own_by_terms, own_by_rows, atol=1e-4 * np.abs(own_by_rows).max())


@pytest.mark.parametrize("classes", [0, 2, 5, 60])
def test_scores_of_training_rows_know_nothing_of_labels_at_random(classes: int) -> None:
    values, _ = photos_with_truth(300)
    found = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, classes, 300) if classes else rng.normal(size=300).astype(np.float32)
        _, own = PhotoScores.fit(values, np.ones(300, dtype=bool), truth, classes=classes, seed=seed)
        goal = truth if classes < 3 else truth == truth[0]
        found += [np.nan_to_num(np.corrcoef(one, goal)[0, 1]) for one in own.T[:1]]
    assert abs(np.mean(found)) < 3.5 / np.sqrt(300 * 12)


def test_rows_of_one_unit_are_held_out_together() -> None:
    """Each photo is there twice with the same label at random, which the score of its copy would give away."""
    rng = np.random.default_rng(0)
    values = np.tile(rng.normal(size=(150, 200)), (2, 1)).astype(np.float32)
    truth = np.tile(rng.normal(size=150), 2).astype(np.float32)
    every = np.ones(300, dtype=bool)
    _, alone = PhotoScores.fit(values, every, truth, classes=0)
    _, whole = PhotoScores.fit(values, every, truth, classes=0, unit=np.tile(np.arange(150), 2))
    assert np.corrcoef(alone[:, 0], truth)[0, 1] > 0.4
    assert abs(np.corrcoef(whole[:, 0], truth)[0, 1]) < 0.25


@settings(deadline=None, max_examples=20)
@given(
    classes=st.sampled_from([0, 2, 3]),
    rows=st.integers(1, 40),
    there=st.sampled_from([0.0, 0.5, 1.0]),
    factor=st.floats(1e-3, 1e3),
    kind=st.sampled_from(["equal", "rare", "large"]),
)
def test_any_photos_have_finite_scores_and_rows_without_one_have_none(
    classes: int, rows: int, there: float, factor: float, kind: str
) -> None:
    rng = np.random.default_rng(rows)
    values = {
        "equal": np.ones((rows, 5)),
        "rare": (rng.random((rows, 5)) < 0.05).astype(float),
        "large": rng.normal(size=(rows, 5)) * 1e15,
    }[kind].astype(np.float32)
    seen = rng.random(rows) < there
    values[~seen] = 0.0
    truth = rng.integers(0, classes, rows) if classes else rng.normal(size=rows).astype(np.float32)
    weight = rng.random(rows)
    found, own = PhotoScores.fit(values, seen, truth, classes=classes, weight=weight)
    assert own.shape == (rows, max(classes - 1, 1) if classes == 2 else max(classes, 1))
    new = found.apply(values, seen)
    assert np.isfinite(own).all()
    assert np.isfinite(new).all()
    assert not own[~seen].any()
    assert not new[~seen].any()
    again, own_again = PhotoScores.fit(values, seen, truth, classes=classes, weight=weight * factor)
    np.testing.assert_allclose(own_again, own, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(again.apply(values, seen), new, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 10, 200])
def test_many_classes_share_a_few_scores(rows: int) -> None:
    values, _ = photos_with_truth(rows)
    truth = np.random.default_rng(0).integers(0, 40, rows)
    found, own = PhotoScores.fit(values, np.ones(rows, dtype=bool), truth, classes=40)
    assert own.shape == found.apply(values, np.ones(rows, dtype=bool)).shape == (rows, scores.MOST_SCORES)


def test_saved_scores_are_read_again_and_damaged_ones_refused() -> None:
    values, truth = photos_with_truth(120)
    found, _ = PhotoScores.fit(values, EVERY, truth, classes=0)
    again = PhotoScores.read(found.arrays())
    np.testing.assert_array_equal(again.apply(values, EVERY), found.apply(values, EVERY))
    arrays = found.arrays()
    with pytest.raises(DataError, match="lack an array"):
        PhotoScores.read({"middle": arrays["middle"]})
    with pytest.raises(DataError, match="do not match each other"):
        PhotoScores.read(arrays | {"middle": np.zeros(2, dtype=np.float32)})
    with pytest.raises(DataError, match="not finite"):
        PhotoScores.read(arrays | {"middle": np.full(1, np.nan, dtype=np.float32)})


def test_rows_of_a_few_large_groups_are_all_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixfit.data.scores.MOST_ROWS", 100)
    for sizes in ([400, 3, 3, 3], [60, 60, 60]):
        fold = inner_folds(np.repeat(np.arange(len(sizes)), sizes), 0)
        assert (fold >= 0).all()
    fold = inner_folds(np.repeat(np.arange(100), 4), 0)
    assert 80 < np.count_nonzero(fold >= 0) <= 100
