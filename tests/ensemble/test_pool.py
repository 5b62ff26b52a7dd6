"""The pool of the folds of one model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx_blends import blend_of, wide_table
from scipy.special import softmax
from scipy.stats import gmean

from mixfit.ensemble.intervals import tempered
from mixfit.ensemble.pool import FLOOR, logarithms_of, pooled, probabilities_of
from mixfit.models.linear import Linear
from mixfit.predictor import Predictor


def folds(*, count: int = 5, rows: int = 40, classes: int = 4, scale: float = 3.0, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=scale, size=(rows, classes))
    return [softmax(logits + rng.normal(size=logits.shape), axis=1) for _ in range(count)]


def test_numbers_are_averaged() -> None:
    found = [np.arange(5.0), np.arange(5.0) + 2]
    np.testing.assert_array_equal(pooled(found), np.arange(5.0) + 1)


@pytest.mark.parametrize("count", [1, 3])
def test_equal_folds_are_their_own_pool(count: int) -> None:
    one = folds(count=1)[0]
    np.testing.assert_allclose(pooled([one] * count), one, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 7])
def test_a_pool_is_a_distribution_and_no_order_matters(classes: int) -> None:
    found = folds(classes=classes)
    together = pooled(found)
    assert (together >= 0).all()
    np.testing.assert_allclose(together.sum(1), 1)
    np.testing.assert_allclose(pooled(found[::-1]), together)


def test_a_pool_is_between_the_geometric_and_the_arithmetic_mean() -> None:
    found = folds()
    geometric, arithmetic = gmean(found, axis=0), np.mean(found, axis=0)
    geometric /= geometric.sum(1, keepdims=True)

    def at(floor: float) -> np.ndarray:
        return probabilities_of(np.mean([logarithms_of(one, floor) for one in found], axis=0), floor)

    np.testing.assert_allclose(at(1e-15), geometric, rtol=1e-6)
    np.testing.assert_allclose(at(1e4), arithmetic, atol=1e-4)
    confidence = [(-one * np.log(one)).sum(1).mean() for one in (geometric, pooled(found), arithmetic)]
    assert confidence == sorted(confidence)


def test_one_fold_that_knows_a_class_not_does_not_veto_it() -> None:
    knows, does_not = np.array([[0.5, 0.5]]), np.array([[1 - 1e-12, 1e-12]])
    assert pooled([knows] * 4 + [does_not])[0, 1] > 0.1
    assert gmean([knows] * 4 + [does_not], axis=0)[0, 1] < 0.01


def test_confident_folds_that_agree_stay_confident() -> None:
    """The mean of probabilities is as wrong as its least confident part."""
    truth = np.arange(40) % 4
    rng = np.random.default_rng(1)
    logits = 8.0 * np.eye(4)[truth]
    found = [softmax(logits + rng.normal(scale=2.0, size=logits.shape), axis=1) for _ in range(5)]

    def loss(probabilities: np.ndarray) -> float:
        return float(-np.log(probabilities[np.arange(40), truth]).mean())

    assert loss(pooled(found)) < 0.7 * loss(np.mean(found, axis=0))
    assert FLOOR < 0.01


def test_a_saved_blend_keeps_its_pool_and_one_of_an_earlier_mixfit_its_mean(tmp_path: Path) -> None:
    table = wide_table(60)[["x", "kind", "y"]]
    blend = blend_of(table, [Linear()], roles={"x": "number", "kind": "category"}, task="multiclass", folds=3)
    blend.save(tmp_path / "model")
    rows = table.drop(columns="y").head(9)
    parts = [replace(blend, folds=[fold]).predict(rows) for fold in blend.folds]
    said = json.loads((tmp_path / "model" / "mixfit.json").read_text())
    assert said["pool_floor"] == FLOOR
    now = Predictor.load(tmp_path / "model").predict(rows)
    (tmp_path / "model" / "mixfit.json").write_text(
        json.dumps({name: one for name, one in said.items() if name not in ("pool_floor", "description_sha256")})
    )
    before = Predictor.load(tmp_path / "model").predict(rows)
    names = [name for name in now.columns if name.startswith("probability")]
    temperature = blend.uncertainty.temperature  # type: ignore[union-attr]
    alone_of = [tempered(part[names].to_numpy(), 1 / temperature) for part in parts]  # before calibration
    np.testing.assert_allclose(tempered(pooled(alone_of), temperature), now[names], atol=1e-5)
    np.testing.assert_allclose(tempered(np.mean(alone_of, axis=0), temperature), before[names], atol=1e-5)
    assert np.abs(now[names].to_numpy() - before[names].to_numpy()).max() > 1e-4
