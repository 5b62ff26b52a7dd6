"""Runs with a chosen metric, with a second fit on all rows, on counts and on ordered classes."""

import json
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import f1_score
from small_runs import QUIET, TRAIN, in_few_folds, model_bytes, small_fit, small_table

import mixfit
from mixfit.auto.recipe import resume
from mixfit.cli import main
from mixfit.config import DataConfig
from mixfit.errors import ConfigError, Diverged
from mixfit.predictor import Predictor
from mixfit.runs.comparison import compare_runs
from mixfit.runs.report.saved import read_predictions
from mixfit.runs.results import BLEND, Run
from mixfit.runs.scoring import evaluate_table, predict_table

ONE_EPOCH = replace(TRAIN, epochs=1, folds=None)


def rare_table(folder: Path) -> Path:
    """One row in seven is "yes"."""
    table = small_table(folder, rows=140, classes=True)
    frame = pd.read_csv(table)
    score = frame["x"] + (frame["kind"] == "a") + np.random.default_rng(1).normal(0, 0.7, len(frame))
    frame["y"] = np.where(score > np.quantile(score, 0.86), "yes", "no")
    frame.to_csv(table, index=False)
    return table


@pytest.fixture
def few_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are enough where what the folds give is not looked at."""
    in_few_folds(monkeypatch)


@pytest.fixture(scope="module")
def rare(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    folder = tmp_path_factory.mktemp("rare")
    table = rare_table(folder / "table")
    return table, small_fit(table, folder / "runs", report=True, train=replace(ONE_EPOCH, refit=True), metric="f1")


def test_the_chosen_metric_comes_first_everywhere(rare: tuple[Path, Run]) -> None:
    _, run = rare
    assert run.result.headline == "f1"
    assert next(iter(run.result.final.scores[0].metrics)) == "f1"
    assert run.contest is not None
    best = [line.score for line in run.contest.leaderboard]
    assert best == sorted(best, reverse=True)  # type: ignore[type-var]
    report = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "and F1 on the same rows, the best first" in report
    assert "The chosen metric is F1." in report
    card = (run.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "The chosen metric is F1." in card
    found = compare_runs([run, run], out=run.folder.parent / "compare.html", console=QUIET)
    assert found.headline == "f1"


def test_the_threshold_is_saved_and_decides(rare: tuple[Path, Run]) -> None:
    table, run = rare
    saved = json.loads((run.folder / "model" / "mixfit.json").read_text(encoding="utf-8"))
    threshold = Predictor.load(run.folder).threshold
    assert threshold == saved["threshold"] != 0.5
    assert f"above {threshold:.3g}" in run.result.decision
    found = predict_table(run, table, console=QUIET, interval=0.8)
    above = (found["probability_yes"] > threshold).to_numpy()
    assert (found["prediction"] == np.where(above, "yes", "no")).all()
    assert all(one in sets.split("; ") for one, sets in zip(found["prediction"], found["prediction_set"], strict=True))


def test_the_scores_are_those_of_the_saved_decisions(rare: tuple[Path, Run]) -> None:
    _, run = rare
    for part in run.result.parts:
        saved = read_predictions(run.folder / f"predictions_{part.split}.parquet", ("no", "yes"))
        assert part.score(BLEND).metrics["f1"] == pytest.approx(f1_score(saved.truth, saved.prediction))
        assert saved.probabilities is not None
    # Out of fold, each fold has its own threshold, so that no row is decided by one that it took part in choosing.
    inside = saved.probabilities[:, 1][saved.prediction == 1], saved.probabilities[:, 1][saved.prediction == 0]
    assert inside[0].size
    assert inside[1].size


def test_a_second_fit_keeps_scores_calibration_and_shares(rare: tuple[Path, Run], tmp_path: Path) -> None:
    table, run = rare
    before = small_fit(table, tmp_path, train=ONE_EPOCH, metric="f1")
    assert run.scores == before.scores
    again, first = Predictor.load(run.folder), Predictor.load(before.folder)
    assert isinstance(again, mixfit.predictor.BlendPredictor)
    assert isinstance(first, mixfit.predictor.BlendPredictor)
    assert again.shares == first.shares
    assert again.threshold == first.threshold
    np.testing.assert_array_equal(again.uncertainty.scores.values, first.uncertainty.scores.values)
    assert (set(again.fold_counts.values()), max(first.fold_counts.values())) == ({1}, 5)
    rows = pd.read_csv(table)
    assert not np.allclose(again.predictions(rows).values, first.predictions(rows).values)


def test_it_is_said_everywhere_that_the_scores_are_of_the_models_before(rare: tuple[Path, Run]) -> None:
    table, run = rare
    said = "fitted once more on all 140 rows, test rows included"
    assert Predictor.load(run.folder).refitted == 140
    for file in ("report.html", "model/README.md", "model/mixfit.json"):
        text = (run.folder / file).read_text(encoding="utf-8")
        assert said in text or '"refit": 140' in text
    found = compare_runs([run, run], out=run.folder.parent / "compare.html", console=QUIET)
    assert any(said in warning for warning in found.warnings)
    with pytest.raises(ConfigError, match="was fitted on all 140 rows of this table, test rows included"):
        evaluate_table(run, table, console=QUIET)


def test_test_rows_in_another_file_are_rows_of_the_training(
    rare: tuple[Path, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, run = rare
    pd.read_csv(table).sample(frac=1, random_state=0).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(run.folder), str(tmp_path / "other.csv")])
    assert ended.value.code in (0, None)
    assert "140 of 140 rows are training rows of this run" in capsys.readouterr().out


def test_a_second_fit_is_resumed(rare: tuple[Path, Run]) -> None:
    _, run = rare
    whole = model_bytes(run.folder)
    for path in (run.folder / "candidates").glob("*-6.*"):
        path.unlink()
    resume(run.folder, console=QUIET)
    assert model_bytes(run.folder) == whole


def test_a_metric_of_another_task_is_refused_before_photos_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixfit.data.load.find_photos", None)
    folder = tmp_path / "classes"
    table = small_table(folder, classes=True)
    pd.read_csv(table).assign(photo="none.jpg").to_csv(table, index=False)
    wanted = "the metric rmse does not suit the task binary: use log_loss, auc, accuracy, balanced_accuracy, f1 or auto"
    with pytest.raises(ConfigError, match=wanted):
        small_fit(table, tmp_path / "runs", metric="rmse", data=DataConfig(roles={"photo": "image"}))
    with pytest.raises(ConfigError, match="the metric auc does not suit the task regression: use mae, rmse, r2, mape"):
        small_fit(tmp_path / "none.csv", tmp_path / "runs", metric="auc", data=DataConfig(task="regression"))


def test_a_single_network_is_not_fitted_again(tmp_path: Path) -> None:
    train = replace(ONE_EPOCH, preset="network", refit=True)
    with pytest.raises(ConfigError, match="refit cannot be used with the preset network"):
        small_fit(tmp_path / "none.csv", tmp_path / "runs", train=train)


@pytest.mark.usefixtures("few_folds")
@pytest.mark.parametrize("preset", ["quick", "network"])
def test_a_network_of_a_metric_stops_by_it(preset: Any, tmp_path: Path) -> None:
    table = rare_table(tmp_path / "table")
    run = small_fit(table, tmp_path / "runs", train=replace(TRAIN, preset=preset, folds=None), metric="auc")
    assert run.result.headline == "auc"
    assert Predictor.load(run.folder).threshold is None
    if preset == "network":
        assert "the epoch was chosen by it" in run.result.decision
        best = run.history["auc"].max()
        assert run.scores["valid"][run.result.ours]["auc"] == pytest.approx(best)


def counts_table(folder: Path) -> Path:
    random = np.random.default_rng(2)
    age, kind = random.integers(20, 80, 150), random.choice(["a", "b"], 150)
    rate = np.exp(-1 + age / 40 + 0.4 * (kind == "b"))
    folder.mkdir()
    frame = pd.DataFrame({"age": age, "kind": kind, "y": random.poisson(rate)})
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


@pytest.mark.usefixtures("few_folds")
@pytest.mark.parametrize("preset", ["quick", "network"])
def test_counts_are_trained_predicted_and_explained(preset: Any, tmp_path: Path) -> None:
    table = counts_table(tmp_path / "table")
    train = replace(ONE_EPOCH, preset=preset)
    data = DataConfig(task="count", cache_gb=0.0)
    run = small_fit(table, tmp_path / "runs", report=True, train=train, data=data)
    assert (run.result.task, run.result.headline) == ("count", "deviance")
    assert all(np.isfinite(one.metrics["deviance"]) for one in run.result.final.scores)
    options = {"interval": 0.8} if preset == "quick" else {}
    found = predict_table(run, table, console=QUIET, **options)  # type: ignore[call-overload]
    assert (found["prediction"] > 0).all()
    if preset == "quick":
        assert run.contest is not None
        assert "Poisson deviance" in (run.folder / "report.html").read_text(encoding="utf-8")
        assert not any("kernel" in line.model for line in run.contest.leaderboard)
        assert (found["lower"] >= 0).all()
        assert (found[["lower", "upper"]] % 1 == 0).all(axis=None)
        truth = found["y"].astype(float)
        covered = ((found["lower"] <= truth) & (truth <= found["upper"])).mean()
        assert covered > 0.7
    assert "a count" in (run.folder / "report.html").read_text(encoding="utf-8")
    evaluate_table(run, table, console=QUIET, split="test")


def ordered_table(folder: Path) -> Path:
    random = np.random.default_rng(4)
    x, size = random.normal(size=100), random.choice(["S", "M", "L"], 100)
    grade = np.digitize(x + 0.5 * (size == "L") + random.logistic(0, 0.4, 100), [-0.8, 0.2, 1.2])
    folder.mkdir()
    names = np.array(["poor", "fair", "good", "excellent"])
    pd.DataFrame({"x": x, "size": size, "y": names[grade]}).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


@pytest.mark.usefixtures("few_folds")
@pytest.mark.parametrize("preset", ["quick", "network"])
def test_ordered_classes_are_trained_and_predicted(preset: Any, tmp_path: Path) -> None:
    table = ordered_table(tmp_path / "table")
    data = DataConfig(roles={"y": "ordered", "size": "ordered"}, cache_gb=0.0)
    run = small_fit(table, tmp_path / "runs", report=True, train=replace(ONE_EPOCH, preset=preset), data=data)
    assert (run.result.task, run.result.headline) == ("ordered", "kappa")
    predictor = Predictor.load(run.folder)
    assert predictor.target.classes == ("poor", "fair", "good", "excellent")
    assert "poor < fair < good < excellent" in unescape((run.folder / "report.html").read_text(encoding="utf-8"))
    options = {"interval": 0.8} if preset == "quick" else {}
    found = predict_table(run, table, console=QUIET, **options)  # type: ignore[call-overload]
    order = {name: place for place, name in enumerate(predictor.target.classes)}
    chances = found[[f"probability_{name}" for name in order]].to_numpy()
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    predicted = found["prediction"].map(order).to_numpy()
    below = np.take_along_axis(chances.cumsum(axis=1), predicted[:, None], axis=1)[:, 0]
    assert (below >= 0.5 - 1e-9).all()
    if preset == "quick":
        for listed, one in zip(found["prediction_set"], predicted, strict=True):
            places = [order[name] for name in listed.split("; ")]
            assert places == list(range(places[0], places[-1] + 1))
            assert one in places
        resume(run.folder, console=QUIET)
    evaluate_table(run, table, console=QUIET, split="test")


def test_explanations_are_of_the_predicted_class(rare: tuple[Path, Run]) -> None:
    table, run = rare
    predictor = Predictor.load(run.folder)
    frame = pd.read_csv(table)
    probabilities = predictor.predictions(frame).values[:, 1]
    assert predictor.threshold is not None
    low, high = sorted([0.5, predictor.threshold])
    between = np.flatnonzero((probabilities > low) & (probabilities < high))[:2]
    found = mixfit.explain(predictor, frame, rows=between.tolist(), background=4)
    assert list(found.predictions) == predictor.predict(frame.iloc[between])["prediction"].tolist()
    assert list(found.explained) == list(found.predictions)


def test_a_second_fit_leaves_no_rows_to_a_callback_that_chooses(tmp_path: Path) -> None:
    stopping = mixfit.EarlyStopping("valid_loss", mode="min", patience=3)
    with pytest.raises(ConfigError, match="no validation rows, which the callback EarlyStopping may use"):
        small_fit(tmp_path / "none.csv", tmp_path / "runs", train=replace(ONE_EPOCH, refit=True), callbacks=[stopping])


@pytest.mark.usefixtures("few_folds")
def test_a_second_fit_without_the_photos_that_were_of_no_use_is_read(tmp_path: Path) -> None:
    table = small_table(tmp_path / "table", rows=60)
    random = np.random.default_rng(0)
    for row in range(60):
        noise = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(table.parent / f"{row}.png")
    frame = pd.read_csv(table).assign(photo=[f"{row}.png" for row in range(60)])
    frame.to_csv(table, index=False)
    data = DataConfig(cache_gb=0.0, image_size=32, roles={"photo": "image"})
    run = small_fit(table, tmp_path / "runs", train=replace(ONE_EPOCH, refit=True), data=data)
    assert not run.predictor.uses_photos
    read = Predictor.load(run.folder)
    pd.testing.assert_frame_equal(read.predict(frame), run.predictor.predict(frame))


@pytest.mark.usefixtures("few_folds")
def test_a_second_fit_that_fails_leaves_the_models_of_the_folds(
    rare: tuple[Path, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverged(*_: Any, **__: Any) -> Any:
        raise Diverged("The loss is not finite.")

    monkeypatch.setattr("mixfit.auto.blending.refit", diverged)
    run = small_fit(rare[0], tmp_path, report=True, train=replace(ONE_EPOCH, refit=True), metric="f1")
    assert not run.result.refit
    assert not Predictor.load(run.folder).refitted
    assert "the models of the folds are delivered" in (run.folder / "report.html").read_text(encoding="utf-8")
