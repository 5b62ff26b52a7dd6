"""Augmentation from the command line's settings to predictions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from quick_runs import QUICK_DATA
from rich.console import Console

from mixfit.auto.preparation import check_augmentation
from mixfit.auto.recipe import Run, fit
from mixfit.choices import Augmentation
from mixfit.config import ModelConfig, TrainConfig
from mixfit.data.table.read import read_table
from mixfit.demo import DEMO_TARGET
from mixfit.errors import ConfigError

QUIET = Console(quiet=True)


def test_predictions_of_changed_photos_are_averaged_and_repeat(quick_run: Run, demo_table: Path) -> None:
    frame, images = read_table(demo_table).head(12), demo_table.parent
    predictor = quick_run.predictor
    plain = predictor.predict(frame, images=images)
    changed = predictor.predict(frame, images=images, augmentations=3)
    pd.testing.assert_frame_equal(predictor.predict(frame, images=images, augmentations=3), changed, check_exact=True)
    assert changed["status"].tolist() == plain["status"].tolist()
    assert not np.array_equal(changed["prediction"], plain["prediction"])
    np.testing.assert_allclose(changed["prediction"], plain["prediction"], rtol=0.5)
    last = predictor.predict(frame.tail(1), images=images, augmentations=3)
    np.testing.assert_allclose(last["prediction"], changed["prediction"].tail(1), rtol=1e-5)
    assert len(predictor.predict(frame.head(0), images=images, augmentations=3)) == 0
    with pytest.raises(ConfigError, match="must be at least 0, got -2"):
        predictor.predict(frame, images=images, augmentations=-2)


def weights(table: Path, out: Path, augment: Augmentation) -> bytes:
    run = fit(
        table,
        target=DEMO_TARGET,
        data=QUICK_DATA,
        model=ModelConfig(backbone="small_resnet", tabular_hidden=(8,), encoding_dim=4),
        train=TrainConfig(preset="network", epochs=1, augment=augment),
        out=out,
        console=QUIET,
    )
    return (run.folder / "model" / "model.safetensors").read_bytes()


def test_a_trained_image_network_learns_from_changed_photos(demo_table: Path, tmp_path: Path) -> None:
    standard = weights(demo_table, tmp_path / "a", "standard")
    assert standard == weights(demo_table, tmp_path / "b", "standard")
    assert standard != weights(demo_table, tmp_path / "c", "none")


def test_a_frozen_image_network_cannot_be_augmented(demo_table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--augment flip needs an image network trained on pixels"):
        fit(demo_table, target=DEMO_TARGET, train=TrainConfig(augment="flip"), out=tmp_path, console=QUIET)
    assert not list(tmp_path.iterdir())


def test_last_blocks_that_learn_can_be_augmented() -> None:
    """Their photos go through the network as pixels, in every epoch."""
    check_augmentation(TrainConfig(augment="flip"), ModelConfig(freeze_backbone=True, train_blocks=1))
