"""Whole runs: what judges a model has not been seen by it, whatever ties rows together."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from mixfit.auto.recipe import Run, fit
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.data.load import load_data
from mixfit.runs.results import BLEND
from mixfit.training.callback import Callback, TrainState
from mixfit.training.callbacks.control import EarlyStopping

QUICK = TrainConfig(preset="quick", epochs=2, report=False)
SMALL = ModelConfig(tabular="mlp", tabular_hidden=(8,), encoding_dim=4, numbers="plain")


def run(
    frame: pd.DataFrame, folder: Path, callbacks: list[Callback] | None = None, *, report: bool = False, **data: Any
) -> Run:
    folder.mkdir(exist_ok=True)
    frame.to_csv(folder / "table.csv", index=False)
    return fit(
        folder / "table.csv",
        target="y",
        data=DataConfig(**data),
        model=SMALL,
        train=replace(QUICK, report=report),
        out=folder / "runs",
        console=Console(quiet=True),
        callbacks=callbacks or [],
    )


def objects() -> pd.DataFrame:
    """Four measurements of each of 60 things, which have a value of their own that no feature tells."""
    rng = np.random.default_rng(0)
    thing, place, own = np.repeat(np.arange(60), 4), rng.normal(size=(60, 6)), rng.normal(size=60)
    frame = pd.DataFrame(place[thing] + 0.05 * rng.normal(size=(240, 6)), columns=[f"v{i}" for i in range(6)])
    split = np.where(thing < 40, "train", np.where(thing < 48, "valid", "test"))
    target = 0.5 * place[thing, 0] + own[thing] + 0.05 * rng.normal(size=240)
    return frame.assign(object_id=thing, split=split, y=target)


def test_an_id_that_repeats_is_kept_whole_by_folds_and_without_it_the_run_says_first_that_it_promised_too_much(
    tmp_path: Path,
) -> None:
    honest = run(objects(), tmp_path / "honest")
    assert honest.result.departure == ""
    assert honest.scores["valid"][BLEND]["r2"] < 0.5
    torn = run(objects(), tmp_path / "torn", report=True, roles={"object_id": "ignored"})
    assert torn.scores["valid"][BLEND]["r2"] > 0.8
    assert torn.scores["test"][BLEND]["r2"] < 0.3
    assert re.match(
        r"The test MAE of [\d.]+ is worse than the out-of-fold estimate of [\d.]+, beyond noise", torn.verdict
    )
    assert "groups that no column identifies" in torn.verdict
    report = (torn.folder / "report.html").read_text(encoding="utf-8")
    assert "is worse than the out-of-fold estimate of" in report
    assert honest.scores["test"][BLEND]["rmse"] < torn.scores["test"][BLEND]["rmse"]


def test_noise_twice_promises_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    once = pd.DataFrame(rng.normal(size=(100, 4)), columns=list("abcd")).assign(y=rng.normal(size=100))
    twice = pd.concat([once, once]).sample(frac=1, random_state=0)
    found = run(twice, tmp_path / "run", dedup=True)
    assert found.scores["valid"][BLEND]["r2"] < 0.1


class Spy(Callback):
    """Notes which rows of the table each training saw."""

    chooses = True

    def __init__(self) -> None:
        self.trained: list[set[int]] = []
        self.validated: list[set[int]] = []

    def before_fit(self, state: TrainState) -> None:
        self.trained.append(set())
        self.validated.append(set())

    def before_batch(self, state: TrainState) -> None:
        (self.trained if state.training else self.validated)[-1].update(state.xb.rows.tolist())


@pytest.mark.parametrize("forward", [False, True])
def test_a_callback_of_a_preset_never_sees_the_rows_that_its_fold_predicts(tmp_path: Path, forward: bool) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(160, 3)), columns=list("abc")).assign(
        t=np.arange(160) + 0.5, home_id=np.arange(160) // 2, y=rng.normal(size=160)
    )
    options = {"split_time": "t"} if forward else {}
    spy = Spy()
    run(frame, tmp_path / "run", [spy, EarlyStopping("valid_loss", mode="min", patience=1)], **options)
    data = load_data(frame, target="y", config=DataConfig(**options))  # type: ignore[arg-type]
    folds = data.folds(5, seed=0)
    assert len(spy.trained) == folds.count + forward
    for place in range(len(spy.trained)):
        fit_rows = set((folds.rows if place == folds.count else folds.fit[place]).tolist())
        predicted = set(folds.predicts(place).tolist()) | set(data.split.test.tolist())
        assert spy.validated[place]
        assert not spy.validated[place] & predicted
        assert not spy.trained[place] & (predicted | spy.validated[place])
        assert spy.trained[place] | spy.validated[place] <= fit_rows
        if forward:
            assert max(spy.trained[place]) < min(spy.validated[place]) < min(predicted)


class Looker(Spy):
    """Looks on without choosing."""

    chooses = False


def test_a_callback_that_only_looks_on_changes_nothing_and_is_shown_no_judged_row(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(80, 3)), columns=list("abc")).assign(y=rng.normal(size=80))
    looker = Looker()
    watched, alone = run(frame, tmp_path / "a", [looker]), run(frame, tmp_path / "b")
    assert not any(looker.validated)
    one, other = ((found.folder / "model" / "model.safetensors").read_bytes() for found in (watched, alone))
    assert one == other


def test_a_run_in_time_judges_by_the_past_and_is_fitted_again_on_all_rows_before_the_test(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"t": np.arange(200), "x": np.arange(200) + 0.1 * rng.normal(size=200)})
    frame["y"] = np.cumsum(rng.normal(size=200))
    found = run(frame, tmp_path / "run", split_time="t")
    assert found.scores["valid"][BLEND]["r2"] < 0.5  # dealt at random, its neighbours in time tell it to .97
    assert found.contest is not None
    assert "The folds go forward in time: " in found.contest.folds
    data = load_data(frame, target="y", config=DataConfig(split_time="t"))
    folds = data.folds(5, seed=0)
    kept = pd.read_parquet(found.folder / "predictions_valid.parquet")["row"]
    assert kept.tolist() == folds.rows[folds.judged].tolist()
    assert len(found.predictor.folds) == 1  # type: ignore[attr-defined]
    again = found.predictor.predictions(frame.iloc[data.split.test]).values
    stored = pd.read_parquet(found.folder / "predictions_test.parquet")["prediction"]
    np.testing.assert_allclose(again, stored.to_numpy(), rtol=1e-5)
