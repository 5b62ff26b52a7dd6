"""Image networks that are made for one size of photos, such as transformers: trained at any other size, and loaded."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_runs import QUIET
from tiny_backbone import tiny_model

from mixfit.auto.recipe import fit
from mixfit.config import DataConfig, TrainConfig
from mixfit.predictor import Predictor


@pytest.mark.parametrize("preset", ["network", "quick"])
def test_a_transformer_is_trained_and_loaded_at_another_size(preset: str, demo_table: Path, tmp_path: Path) -> None:
    model = replace(tiny_model(tmp_path, "test_vit"), photo_stages=1)
    train = TrainConfig(preset=preset, epochs=1, report=False, folds=None if preset == "network" else 2)  # type: ignore[arg-type]
    data = DataConfig(image_size=48, cache_gb=0.0)
    run = fit(demo_table, target="price", data=data, model=model, train=train, out=tmp_path, console=QUIET)
    frame = pd.read_csv(demo_table)
    loaded = Predictor.load(run.folder)
    assert loaded.uses_photos
    np.testing.assert_allclose(
        loaded.predict(frame, images=demo_table.parent)["prediction"],
        run.predictor.predict(frame, images=demo_table.parent)["prediction"],
        rtol=1e-6,
    )
