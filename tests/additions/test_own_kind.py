"""A kind of column that mixfit does not know is guessed, trained on, saved, loaded and explained."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from own_kind import WINDS, Bearing
from rich.console import Console

from mixfit.auto.recipe import fit
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.data.columns.infer import infer_schema
from mixfit.data.columns.kinds import KINDS
from mixfit.data.load import load_data
from mixfit.errors import ConfigError, DataError
from mixfit.evaluation.explain import explain
from mixfit.predictor import Predictor
from mixfit.training.build import build_model
from mixfit.training.learner import Learner
from mixfit.training.loss import mse

OURS = (*KINDS, Bearing())


def frame(rows: int = 240) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    place = rng.integers(0, 16, rows)
    wind = np.array(WINDS, dtype=object)[place]
    wind[::9] = [f"{22.5 * code:g}°" for code in place[::9]]
    price = np.cos(np.radians(22.5 * place)) + rng.normal(0, 0.05, rows)
    table = pd.DataFrame({"wind": wind, "area": rng.normal(size=rows), "price": price})
    table.loc[5, "wind"] = None
    return table


def test_it_is_guessed_before_the_kinds_of_mixfit_and_by_them_without_it() -> None:
    roles = [{c.name: c.role for c in infer_schema(frame(), "price", kinds=kinds).columns} for kinds in (OURS, KINDS)]
    assert [role["wind"] for role in roles] == ["bearing", "category"]
    assert all(role["area"] == "number" for role in roles)


def test_it_can_be_set_by_hand_and_is_refused_where_cells_do_not_fit() -> None:
    found = infer_schema(frame(), "price", kinds=OURS, roles={"wind": "bearing"})
    assert found.names("bearing") == ["wind"]
    with pytest.raises(ConfigError, match="cannot have the role bearing: 240 of 240 cells are not bearings"):
        infer_schema(frame().assign(wind="up"), "price", kinds=OURS, roles={"wind": "bearing"})
    with pytest.raises(ConfigError, match="no role 'bearing'"):
        infer_schema(frame(), "price", roles={"wind": "bearing"})


def test_a_network_learns_from_it_and_is_saved_and_loaded(tmp_path: Path) -> None:
    schema = infer_schema(frame(), "price", kinds=OURS)
    data = load_data(frame(), target="price", schema=schema, batch_size=16)
    assert data.preprocessor.numeric_names == ("area", "wind east", "wind north", "wind is missing")
    config = ModelConfig(tabular="mlp", tabular_hidden=(16,), encoding_dim=8)
    model = build_model(data, config, seed=0)
    learner = Learner(model, data, loss=mse)
    learner.fit(8, lr=3e-3)
    assert learner.validate()["valid_loss"] < 0.5
    made = Predictor.from_training(model, data, config)
    made.save(tmp_path / "model")
    read = Predictor.load(tmp_path / "model", kinds=OURS)
    rows = frame().assign(wind="NW").iloc[:3]
    pd.testing.assert_frame_equal(read.predict(rows), made.predict(rows))
    assert "wind: not a bearing" in read.predict(rows.assign(wind="up"))["status"].iloc[0]
    with pytest.raises(DataError, match="unknown role 'bearing'"):
        Predictor.load(tmp_path / "model")
    found = explain(read, frame(), rows=[0, 1], background=8)
    assert found.columns == ("wind", "area")
    np.testing.assert_allclose(found.base + found.parts.sum(1), found.value, atol=1e-5)


def test_fit_takes_it_with_the_schema(tmp_path: Path) -> None:
    run = fit(
        frame(120),
        target="price",
        schema=infer_schema(frame(120), "price", kinds=OURS),
        data=DataConfig(cache_gb=0.0),
        train=TrainConfig(preset="quick", epochs=1, report=False),
        out=tmp_path,
        console=Console(quiet=True),
    )
    read = Predictor.load(run.folder, kinds=OURS)
    assert np.isfinite(read.predict(frame(120))["prediction"]).all()
