"""Scores of photos in a fold: nothing of the rows that judge, and nothing of a training row's own label."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.data.dataset import FeatureTable
from mixfit.data.load import MixedData, load_data
from mixfit.demo import DEMO_TARGET
from mixfit.ensemble.cross_fit import make_fold, photo_means
from mixfit.models.model import PHOTOS, TABLE, Sees
from mixfit.models.network import Network
from mixfit.models.trees import BoostedTrees
from mixfit.training.callback import Callback, TrainState


@pytest.fixture(scope="module")
def data(demo_table: Path) -> MixedData:
    """The example with features at random, which tell nothing."""
    mixed = load_data(demo_table, target=DEMO_TARGET, config=DataConfig(image_size=32, cache_gb=0.0))
    assert mixed.photos is not None
    count = len(mixed.photos.files)
    values = torch.randn(count, 1280, generator=torch.Generator().manual_seed(0))
    return mixed.with_features(FeatureTable(values, torch.ones(count, dtype=torch.bool), {}))


def with_target(data: MixedData, target: np.ndarray) -> MixedData:
    return replace(data, arrays=replace(data.arrays, target=torch.from_numpy(target.astype(np.float32))))


def test_scores_of_a_fold_know_only_its_training_rows(data: MixedData) -> None:
    fit, judging = np.arange(0, 90, 2), np.arange(1, 90, 2)
    fold = make_fold(data, fit, photo_means(data), seed=0)
    learnt, means = fold.encoder.photos, photo_means(data)
    assert learnt is not None
    assert means.values is not None
    found, applied = fold.rows.encoded.photo_scores, means.scores(learnt)
    assert found is not None
    assert applied is not None
    np.testing.assert_array_equal(found[judging], applied[judging])
    assert np.abs(found[fit] - applied[fit]).max() > 0.1, "training rows have the scores of models without them"
    target = data.arrays.target.numpy().copy()
    target[judging] += 100
    again = make_fold(with_target(data, target), fit, photo_means(data), seed=0)
    assert again.encoder.photos is not None
    np.testing.assert_array_equal(again.encoder.photos.projection, learnt.projection)
    np.testing.assert_array_equal(fold.data.arrays.photo_scores, found)


def test_scores_of_training_rows_do_not_give_labels_at_random_away(data: MixedData) -> None:
    """With the scores of one model for all, which has more features than rows, the correlation would be near 1."""
    rng, rows, found = np.random.default_rng(0), np.arange(90), []
    for seed in range(12):
        target = rng.normal(size=90)
        fold = make_fold(with_target(data, target), rows, photo_means(data), seed=seed)
        assert fold.rows.encoded.photo_scores is not None
        found.append(np.nan_to_num(np.corrcoef(fold.rows.encoded.photo_scores[:, 0], target)[0, 1]))
    assert abs(np.mean(found)) < 3.5 / np.sqrt(90 * 12)


def test_trees_read_the_scores_and_are_saved_with_them(data: MixedData) -> None:
    fit = np.arange(90)
    fold = make_fold(data, fit, photo_means(data), seed=0)
    truth = fold.rows.encoded.photo_scores
    assert truth is not None
    model = BoostedTrees(sees=PHOTOS)
    fitted = model.fit(fold.training, truth[:, 0], None, 0)
    assert np.corrcoef(fitted.predict(fold.rows.take(fit)), truth[:, 0])[0, 1] > 0.95
    again = model.load(*fitted.state(), fold.rows.layout)
    np.testing.assert_array_equal(again.predict(fold.rows.take(fit)), fitted.predict(fold.rows.take(fit)))


class CountSteps(Callback):
    """Counts the steps of a training."""

    def __init__(self) -> None:
        self.steps = 0

    def after_step(self, state: TrainState) -> None:
        self.steps += 1


@pytest.mark.parametrize(
    ("settings", "sees", "steps"),
    [
        ({}, TABLE | PHOTOS, 3),
        ({"lr": 2e-3}, TABLE | PHOTOS, 3),
        ({}, TABLE, 3),
        ({"lr": 1e-3}, TABLE | PHOTOS, 6),
        ({"batch_size": 16}, TABLE | PHOTOS, 6),
        ({"optimizer": "rmsprop"}, TABLE | PHOTOS, 6),
    ],
    ids=["default", "default rate", "table", "rate", "batch size", "optimizer"],
)
def test_networks_on_features_take_half_of_the_steps_unless_a_rate_is_set(
    data: MixedData, settings: dict[str, Any], sees: Sees, steps: int
) -> None:
    fold = make_fold(data, np.arange(90), photo_means(data), seed=0)
    counter = CountSteps()
    config = ModelConfig(freeze_backbone=True, photo_stages=0, encoding_dim=4, tabular_hidden=(4,))
    train = TrainConfig(preset="quick", epochs=1, report=False, **settings)
    network = Network(sees=sees, light=True, config=config, train=train)
    network.ready(None, [counter], None).fit(fold.training, fold.truth, None, 0)
    assert counter.steps == steps


def test_networks_are_given_the_scores_of_their_training_rows(data: MixedData) -> None:
    fold = make_fold(data, np.arange(90), photo_means(data), seed=0)
    xb, _ = next(iter(fold.data.train))
    assert xb.photo_scores is not None
    assert fold.rows.encoded.photo_scores is not None
    np.testing.assert_array_equal(xb.photo_scores, fold.rows.encoded.photo_scores[xb.rows.numpy()])
