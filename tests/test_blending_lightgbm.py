"""LightGBM among the models of the recipe: where it is installed, and what becomes of a run where it is not."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import QUICK_DATA, QUICK_MODEL
from rich.console import Console

import mixfit
from mixfit.auto import blending, presets
from mixfit.auto.blending import RunKeeper
from mixfit.auto.presets import Plan, plan_for
from mixfit.auto.recipe import Run, fit, resume
from mixfit.choices import Preset
from mixfit.config import TrainConfig
from mixfit.data.columns.target import ClassTarget
from mixfit.data.load import MixedData, load_data
from mixfit.errors import ConfigError, Stopped
from mixfit.models.fold import Candidate, Fitted
from mixfit.predictor.blend import BlendPredictor

pytest.importorskip("lightgbm")
QUIET = Console(quiet=True)
TABLE = Candidate(kind="lightgbm")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A number that decides the target, and a category that does not."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("t") / "table.csv"
    x = rng.normal(size=150)
    y = np.sin(3 * x) + 0.1 * rng.normal(size=150)
    pd.DataFrame({"x": x, "kind": rng.choice(["a", "b", "c"], 150), "y": y}).to_csv(path, index=False)
    return path


@pytest.fixture(autouse=True)
def few_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the preset a constant and LightGBM, in two folds."""

    def plan(data: MixedData, train: TrainConfig, *, lightgbm: bool | None) -> Plan:
        whole = plan_for(data, train, lightgbm=lightgbm)
        wanted = tuple(one for one in whole.candidates if one.kind in ("constant", "lightgbm"))
        return replace(whole, candidates=wanted, folds=2)

    monkeypatch.setattr(blending, "plan_for", plan)


def balanced_fit(table: Path, out: Path) -> Run:
    train = TrainConfig(preset="balanced")
    return fit(table, target="y", data=QUICK_DATA, model=QUICK_MODEL, train=train, out=out, console=QUIET)


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt a run when some models are kept."""
    keep, kept = RunKeeper.keep, [0]

    def keep_or_stop(keeper: RunKeeper, candidate: Candidate, fold: int, fitted: Fitted) -> None:
        if kept[0] == count:
            raise Stopped("stopped for the test")
        kept[0] += 1
        keep(keeper, candidate, fold, fitted)

    monkeypatch.setattr(RunKeeper, "keep", keep_or_stop)


def without_lightgbm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``import lightgbm`` fail, as if it were not installed."""
    for name in [name for name in sys.modules if name.startswith("lightgbm.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightgbm", None)


def test_presets_try_it_only_where_it_is_installed_and_for_few_classes(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (TABLE.name, replace(TABLE, photos=True).name) == ("LightGBM, table", "LightGBM, table and photos")
    data = load_data(table, target="y", config=QUICK_DATA, seed=0)

    def tried(data: MixedData = data, **settings: Any) -> list[bool]:
        chosen: tuple[Preset, ...] = ("quick", "balanced", "best")
        return [TABLE in plan_for(data, TrainConfig(preset=preset), **settings).candidates for preset in chosen]

    assert tried() == [False, True, True]
    assert tried(lightgbm=False) == [False, False, False]
    for count, expected in ((20, True), (21, False)):
        target = ClassTarget(tuple(f"{number:02}" for number in range(count)))
        assert tried(replace(data, target=target)) == [False, expected, expected]
    monkeypatch.setattr(presets, "lightgbm_is_installed", lambda: False)
    assert tried() == [False, False, False]
    assert tried(lightgbm=True) == [False, True, True]


def test_a_saved_model_predicts_without_it(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, frame = balanced_fit(table, tmp_path), pd.read_csv(table, dtype=str)
    assert isinstance(run.predictor, BlendPredictor)
    assert run.predictor.shares[TABLE.name] > 0.5
    frame.loc[:9, "x"], frame.loc[5:19, "kind"] = None, "unseen"
    expected = run.predictor.predict(frame)
    without_lightgbm(monkeypatch)
    loaded = mixfit.Predictor.load(run.folder / "model")
    pd.testing.assert_frame_equal(loaded.predict(frame), expected, check_exact=True)


def test_a_run_goes_on_without_it_if_its_trees_are_kept_and_else_says_what_to_install(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = balanced_fit(table, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Stopped):
            balanced_fit(table, tmp_path / "stopped")
    folder = next((tmp_path / "stopped").iterdir())
    with monkeypatch.context() as patch:
        without_lightgbm(patch)
        with pytest.raises(ConfigError, match=r"LightGBM is not installed: pip install 'mixfit\[boost\]'"):
            resume(folder, console=QUIET)
        resume(whole.folder, console=QUIET)  # all of its models are kept
    resumed = resume(folder, console=QUIET)
    for name in ("model.safetensors", "mixfit.json"):
        expected = (whole.folder / "model" / name).read_bytes()
        assert (resumed.folder / "model" / name).read_bytes() == expected


def test_a_run_that_began_without_it_goes_on_without_it(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        without_lightgbm(patch)
        run = balanced_fit(table, tmp_path)
    assert TABLE.name not in run.scores["test"]
    assert TABLE.name not in resume(run.folder, console=QUIET).scores["test"]
