"""The recipe that tries many models: same bytes, no leak, resumable, and the table alone where photos say nothing."""

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from quick_runs import QUICK_DATA, QUICK_MODEL
from rich.console import Console
from small_runs import in_few_folds

import mixfit
from mixfit.auto.blending import Blended, RunKeeper, train_blend
from mixfit.auto.recipe import Run, fit, resume
from mixfit.config import DataConfig, TrainConfig
from mixfit.data.load import MixedData, load_data
from mixfit.demo import DEMO_TARGET
from mixfit.ensemble.calibration import FIFTHS
from mixfit.ensemble.cross_fit import OutOfTimeError, cross_fit, fit_folds
from mixfit.errors import ConfigError, DataError, Stopped
from mixfit.models.model import FittedModel, Model
from mixfit.models.trees import BoostedTrees
from mixfit.predictor.blend import BlendPredictor
from mixfit.runs.results import BLEND, LEVEL, TABLE_BLEND
from mixfit.runs.scoring import evaluate_table
from mixfit.training.build import build_model, precompute_features
from mixfit.training.callbacks.displays import JsonLines

QUIET = Console(quiet=True)
QUICK = TrainConfig(preset="quick", epochs=2, folds=3, report=False)
SMALLEST = replace(QUICK_MODEL, tabular="mlp", numbers="plain")


def blend_fit(table: Path, out: Path, target: str = DEMO_TARGET, **settings: Any) -> Run:
    chosen = {"data": QUICK_DATA, "model": QUICK_MODEL, "train": QUICK} | settings
    return fit(table, target=target, out=out, console=QUIET, **chosen)


@pytest.fixture(scope="module")
def run(blend_run: Run) -> Run:
    """What ``blend_fit`` gives of the small example."""
    return blend_run


def test_every_model_and_both_blends_are_scored(run: Run) -> None:
    names = set(run.scores["test"])
    assert {"constant", "linear, table", "kernel ridge, table and photos", "boosted trees, table"} < names
    assert {"network, table", "network, table and photos", BLEND, TABLE_BLEND} < names
    assert set(run.scores["valid"]) == names
    assert isinstance(run.predictor, BlendPredictor)
    page = (run.folder / "report.html").read_text()
    assert "Leaderboard" in page
    assert "Out-of-fold, 76 rows" in page
    assert "Validation" not in page
    assert run.contest is not None
    assert run.contest.photos is not None
    assert run.contest.choice.startswith(run.contest.photos.why)
    without = "The table columns alone: MAPE"
    assert (without in run.result.verdict) == run.predictor.uses_photos == run.contest.photos.use
    everything, *parts = [one for one in run.contest.coverage if one.level == LEVEL]
    fifths = [part for part in parts if part.rows in FIFTHS]
    assert everything.rows == "all"
    assert [part.rows for part in fifths] == list(FIFTHS)
    assert sum(part.count for part in fifths) == everything.count
    assert sum(part.inside for part in fifths) == everything.inside
    assert "lowest fifth by prediction" in page
    assert "| highest fifth by prediction |" in (run.folder / "model" / "README.md").read_text()
    assert "contain the true value of" in page
    assert "network, table and photos, fold 3" in page
    assert "kernel ridge, table and photos" in page


def test_a_blend_whose_loss_is_above_that_of_a_model_in_it_says_why(tmp_path: Path) -> None:
    told = []
    for seed in range(2):
        table = made_table(tmp_path / f"{seed}", rows=60, photos=False, seed=seed)
        said = io.StringIO()
        settings: dict[str, Any] = {"model": SMALLEST, "train": replace(QUICK, epochs=3, folds=None)}
        found = fit(table, target="y", out=tmp_path / "runs", data=GROUPED, console=Console(file=said), **settings)
        assert found.contest is not None
        losses = {line.model: line.loss for line in found.contest.leaderboard}
        members = [losses[line.model] for line in found.contest.leaderboard if line.share]
        told.append(
            "so a blend can have a higher loss than a model that it consists of" in " ".join(said.getvalue().split())
        )
        assert bool(found.contest.why_above) == (min(members) < (1 - 1e-4) * losses[BLEND]) == told[-1]
    assert set(told) == {False, True}


def test_the_saved_blend_predicts_the_same_bits_and_scores_the_same(run: Run, demo_table: Path) -> None:
    frame = pd.read_csv(demo_table, dtype=str)
    loaded = mixfit.Predictor.load(run.folder / "model")
    expected = run.predictor.predict(frame, images=demo_table.parent)
    pd.testing.assert_frame_equal(loaded.predict(frame, images=demo_table.parent), expected, check_exact=True)
    found = evaluate_table(run.folder, demo_table, console=QUIET, out=run.folder / "again.json")
    for name, value in run.scores["test"][BLEND].items():
        assert found[name] == pytest.approx(value, rel=1e-9)


def test_a_row_does_not_see_its_neighbours(run: Run, demo_table: Path) -> None:
    frame = pd.read_csv(demo_table, dtype=str)
    together = run.predictor.predict(frame, images=demo_table.parent)["prediction"]
    alone = run.predictor.predict(frame.iloc[[7]], images=demo_table.parent)["prediction"]
    assert alone.iloc[0] == pytest.approx(together.iloc[7], rel=1e-5)


def test_the_same_seed_gives_the_same_bytes_and_the_same_leaderboard(
    run: Run, demo_table: Path, tmp_path: Path
) -> None:
    again = blend_fit(demo_table, tmp_path)
    for name in ("model.safetensors", "mixfit.json"):
        assert (again.folder / "model" / name).read_bytes() == (run.folder / "model" / name).read_bytes()
    assert again.scores == run.scores


def test_coverage_counts_rows_by_their_weight() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=100), "y": rng.normal(size=100), "w": rng.uniform(0.1, 2, 100)})
    mixed = load_data(frame, target="y", config=DataConfig(roles={"w": "weight"}, test=0.3))
    rows = mixed.split.test
    inside = rng.random(len(rows)) < 0.6
    blended: Any = SimpleNamespace(covered=lambda mixed, level: inside, scaled_test=frame["x"].to_numpy()[rows])
    blended._kinds_of_rows = lambda mixed: Blended._kinds_of_rows(blended, mixed)
    blended._width = lambda mixed, level: 1.0
    half, everything, *fifths = Blended.coverage(blended, mixed, 0.9, (0.5, 0.9))
    assert (half.level, half.held) == (0.5, everything.held)
    weight = frame["w"].to_numpy()[rows]
    assert everything.held == pytest.approx(weight[inside].sum() / weight.sum())
    assert (everything.inside, everything.count) == (inside.sum(), len(rows))
    lowest = frame["x"].to_numpy()[rows] <= np.sort(frame["x"].to_numpy()[rows])[fifths[0].count - 1]
    assert fifths[0].rows == "lowest fifth by prediction"
    assert fifths[0].held == pytest.approx(weight[inside & lowest].sum() / weight[lowest].sum())


class _StoppedAfter:
    """A keeper that is interrupted after some models, whose fits are said to have taken 10,000 s more."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(
        self, keeper: RunKeeper, model: Model, fold: int, fitted: FittedModel, history: None, *, seconds: float
    ) -> None:
        self.count -= 1
        if self.count < 0:
            raise Stopped("stopped for the test")
        _KEEP(keeper, model, fold, fitted, history, seconds=seconds + 10_000)


_KEEP = RunKeeper.keep


@pytest.mark.parametrize(
    "count", [pytest.param(0, marks=pytest.mark.long), 7, pytest.param(-1, marks=pytest.mark.long)]
)
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    run: Run, demo_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    if count < 0:
        count += len(list((run.folder / "candidates").glob("*.safetensors")))
    stop = _StoppedAfter(count)
    monkeypatch.setattr(RunKeeper, "keep", lambda *arguments, **named: stop(*arguments, **named))
    with pytest.raises(Stopped):
        blend_fit(demo_table, tmp_path)
    monkeypatch.undo()
    folder = next(tmp_path.glob("*-001"))
    assert len(list((folder / "candidates").glob("*.safetensors"))) == count
    resumed = resume(folder, console=QUIET)
    pd.testing.assert_frame_equal(resumed.history[["epoch", "train_loss"]], run.history[["epoch", "train_loss"]])
    assert not list(folder.glob("candidates/*/checkpoints"))
    for name in ("model.safetensors", "mixfit.json"):
        assert (folder / "model" / name).read_bytes() == (run.folder / "model" / name).read_bytes()
    assert resumed.scores == run.scores
    assert resumed.contest is not None
    told = sum(line.seconds or 0 for line in resumed.contest.leaderboard)
    assert told // 10_000 == count  # what a fit took before the stop counts


def test_a_damaged_kept_model_is_fitted_again(run: Run, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run.folder, tmp_path / run.folder.name))
    shutil.rmtree(other / "model")
    kept = sorted((other / "candidates").glob("*.safetensors"))
    kept[3].write_bytes(kept[3].read_bytes()[:-20])
    kept[5].write_bytes(b"")
    resume(other, console=QUIET)
    model = other / "model" / "model.safetensors"
    assert model.read_bytes() == (run.folder / "model" / "model.safetensors").read_bytes()


def test_shares_that_do_not_fit_the_models_are_refused(run: Run, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run.folder / "model", tmp_path / "copied"))
    described = json.loads((copied / "mixfit.json").read_text())
    described["shares"] = {"an oracle": 1.0}
    del described["description_sha256"]
    (copied / "mixfit.json").write_text(json.dumps(described))
    with pytest.raises(DataError, match=r"mixfit\.json does not describe these weights: the shares do not match"):
        mixfit.Predictor.load(copied)


def test_intervals_come_with_predictions_when_they_are_asked_for(run: Run, demo_table: Path) -> None:
    frame = pd.read_csv(demo_table, dtype=str)
    found = run.predictor.predict(frame, images=demo_table.parent, interval=0.9)
    assert list(found.columns) == ["prediction", "lower", "upper", "status"]
    assert (found["lower"] < found["prediction"]).all()
    assert (found["prediction"] < found["upper"]).all()
    narrow = run.predictor.predict(frame, images=demo_table.parent, interval=0.5)
    assert (narrow["upper"] - narrow["lower"] < found["upper"] - found["lower"]).all()
    with pytest.raises(ConfigError, match="level of intervals must be between 0 and 1"):
        run.predictor.predict(frame, images=demo_table.parent, interval=90.0)


def test_one_network_alone_has_no_intervals(quick_run: Run, demo_table: Path) -> None:
    frame = pd.read_csv(demo_table, dtype=str)
    with pytest.raises(
        ConfigError, match=r"A single network has no prediction intervals: .* train with --preset quick"
    ):
        quick_run.predictor.predict(frame, images=demo_table.parent, interval=0.9)


def test_a_blend_refuses_augmentations(run: Run, demo_table: Path) -> None:
    frame = pd.read_csv(demo_table, dtype=str)
    with pytest.raises(ConfigError, match="leave out augmentations, or train with --preset network"):
        run.predictor.predict(frame, images=demo_table.parent, augmentations=2)


# --- small tables of other kinds ------------------------------------------------------------------------------------


def made_table(folder: Path, *, rows: int = 120, classes: int = 0, photos: bool = True, seed: int = 0) -> Path:
    """A number that decides the target, a group of two rows, and photos of one random colour."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    score = x + 0.2 * rng.normal(size=rows)
    y = [f"class {v}" for v in np.digitize(score, [-0.5, 0.5][: classes - 1])] if classes else score
    frame = pd.DataFrame({"x": x, "kind": rng.choice(["a", "b", "c"], rows), "pair": np.arange(rows) // 2, "y": y})
    folder.mkdir(exist_ok=True)
    if photos:
        frame["photo"] = [f"{number}.png" for number in range(rows)]
        for name, colour in zip(frame["photo"], rng.integers(0, 256, (rows, 3)), strict=True):
            Image.new("RGB", (32, 32), tuple(int(part) for part in colour)).save(folder / name)
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


GROUPED = replace(QUICK_DATA, roles={"pair": "group"})


@pytest.mark.parametrize("classes", [2, 3])
def test_classes_have_calibrated_probabilities_and_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    in_few_folds(monkeypatch)
    table = made_table(tmp_path / "t", classes=classes, photos=False)
    found = blend_fit(table, tmp_path / "runs", "y", data=GROUPED, model=SMALLEST)
    frame = pd.read_csv(table, dtype=str)
    answers = found.predictor.predict(frame, images=table.parent, interval=0.9)
    probabilities = answers[[name for name in answers if name.startswith("probability_")]]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    inside = [truth in answer.split("; ") for truth, answer in zip(frame["y"], answers["prediction_set"], strict=True)]
    assert np.mean(inside) > 0.85
    assert (answers["prediction"] == frame["y"]).mean() > 0.7


def test_photos_that_say_nothing_are_left_out_and_the_user_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_few_folds(monkeypatch, 3)
    table = made_table(tmp_path / "t", rows=100)
    train = replace(QUICK, epochs=1, report=True)
    found = blend_fit(table, tmp_path / "runs", "y", data=GROUPED, model=SMALLEST, train=train)
    assert isinstance(found.predictor, BlendPredictor)
    assert not found.predictor.uses_photos
    assert not any("photos" in name for name in found.predictor.shares)
    page = (found.folder / "report.html").read_text()
    assert "The photos are not used: they " in page
    assert "compared with the blend without photos" in page
    assert found.contest is not None
    assert found.contest.photos is not None
    assert not found.contest.photos.claim
    card = (found.folder / "model" / "README.md").read_text()
    assert found.contest.photos.why in card
    frame = pd.read_csv(table, dtype=str)
    answers = found.predictor.predict(frame.drop(columns="photo").assign(photo=""))
    assert np.corrcoef(answers["prediction"], frame["y"].astype(float))[0, 1] > 0.9


def test_a_table_without_photos_and_one_of_photos_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_few_folds(monkeypatch)
    small: dict[str, Any] = {"model": SMALLEST, "train": replace(QUICK, epochs=1)}
    bare = blend_fit(
        made_table(tmp_path / "bare", rows=60, photos=False), tmp_path / "runs", "y", data=GROUPED, **small
    )
    assert set(bare.scores["test"]) >= {"linear, table", "network, table", BLEND}
    assert not any("photos" in name for name in bare.scores["test"])
    alone = replace(QUICK_DATA, ignore=("x", "kind", "pair"))
    found = blend_fit(made_table(tmp_path / "alone", rows=60), tmp_path / "runs", "y", data=alone, **small)
    assert not any(re.search(r"table(?! only)", name) for name in found.scores["test"])


def test_networks_on_pixels_compete_when_the_backbone_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_few_folds(monkeypatch)
    model = replace(SMALLEST, backbone="small_resnet")
    table = made_table(tmp_path / "t", rows=40)
    train = TrainConfig(preset="quick", epochs=1, report=False)
    found = blend_fit(table, tmp_path / "runs", "y", data=GROUPED, model=model, train=train)
    assert "network, table and photos" in found.scores["test"]
    assert "linear, photos" not in found.scores["test"]  # there are no features
    frame = pd.read_csv(table, dtype=str)
    expected = found.predictor.predict(frame, images=table.parent)
    loaded = mixfit.Predictor.load(found.folder / "model")
    pd.testing.assert_frame_equal(loaded.predict(frame, images=table.parent), expected, check_exact=True)


def test_when_the_time_is_over_models_are_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = made_table(tmp_path / "t", rows=60)
    train = TrainConfig(preset="balanced", time="1s")
    fit(table, target="y", data=GROUPED, model=QUICK_MODEL, train=train, out=tmp_path / "runs")
    printed = capsys.readouterr().out
    assert re.search(r"skipped: network, \w+.*: it takes about \d+ s, too long for the time limit of 1s", printed)
    assert "constant" in printed


def test_no_fold_is_begun_when_the_time_is_over(tmp_path: Path) -> None:
    data = load_data(made_table(tmp_path / "t", rows=60), target="y", config=replace(GROUPED, ignore=("photo",)))
    folds = fit_folds(data, 3, seed=0)
    with pytest.raises(OutOfTimeError, match=r"the time limit was reached after [0-2] of 3 folds"):
        cross_fit(BoostedTrees(), folds, seconds=0.0)


def test_lines_for_programs_name_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_few_folds(monkeypatch)
    lines = io.StringIO()
    table = made_table(tmp_path / "t", rows=40)
    train = TrainConfig(preset="quick", epochs=1, report=False)
    settings: dict[str, Any] = {"data": GROUPED, "model": SMALLEST, "train": train}
    fit(table, target="y", out=tmp_path / "runs", console=QUIET, callbacks=[JsonLines(lines)], **settings)
    epochs = [line for line in map(json.loads, lines.getvalue().splitlines()) if line["event"] == "epoch"]
    assert [line["model"] for line in epochs] == [
        f"network, {seen}, fold {fold}" for seen in ("table", "table and photos") for fold in range(1, 3)
    ]


# --- no leak --------------------------------------------------------------------------------------------------------


def blended(data: MixedData, preset: str) -> Blended:
    model_config = replace(SMALLEST, freeze_backbone=True)
    model = build_model(data, model_config, seed=0)
    settings: Any = {"preset": preset, "epochs": 3}
    return train_blend(
        precompute_features(data, model),
        image=model.image,
        model=model_config,
        train=TrainConfig(**settings),
        console=QUIET,
    )


@pytest.mark.parametrize(
    ("classes", "preset"), [(0, "balanced"), (2, "quick"), pytest.param(2, "balanced", marks=pytest.mark.long)]
)
def test_with_permuted_labels_no_model_is_better_than_a_constant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int, preset: str
) -> None:
    in_few_folds(monkeypatch, 3)
    table = made_table(tmp_path / "t", rows=160, classes=classes)
    config = DataConfig(image_size=32, roles={"pair": "group"})
    data = load_data(table, target="y", config=config, seed=0)
    learnable = np.concatenate([data.split.train, data.split.valid])
    target = data.arrays.target.clone()
    target[torch.from_numpy(learnable)] = target[torch.from_numpy(np.random.default_rng(1).permutation(learnable))]
    shuffled = replace(data, arrays=replace(data.arrays, target=target))
    honest, permuted = blended(data, preset), blended(shuffled, preset)
    losses = {line.model: line.loss for line in permuted.contest.leaderboard}
    constant = losses.pop("constant")
    assert len(losses) == len(honest.contest.leaderboard) - 1 > (8 if preset == "balanced" else 5)
    assert min(losses.values()) > 0.95 * constant
    best = honest.contest.leaderboard[0]
    assert best.loss < 0.7 * constant  # with the true labels there is much to learn


@pytest.mark.parametrize("classes", [2, 3])
def test_the_scores_of_classes_are_those_of_the_saved_model(
    classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_few_folds(monkeypatch)
    rng = np.random.default_rng(classes)
    x = rng.normal(size=(150, 3))
    drawn = (x[:, 0] + rng.normal(size=150)).argsort().argsort() * classes // 150
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": [f"class {code}" for code in drawn]})
    train = mixfit.TrainConfig(preset="quick", epochs=1, report=False)
    run = mixfit.fit(frame, target="y", model=SMALLEST, train=train, out=tmp_path, console=QUIET)
    predictor = mixfit.Predictor.load(run.folder)
    assert isinstance(predictor, BlendPredictor)
    assert len(predictor.folds) > 1
    assert any(temperature != 1 for temperature in predictor.temperatures.values())
    kept = pd.read_parquet(run.folder / "predictions_test.parquet")
    found = predictor.predict(frame.iloc[kept["row"]])
    names = [f"probability_class {code}" for code in range(classes)]
    np.testing.assert_allclose(found[names], kept[names], rtol=1e-6)
    scores = evaluate_table(run.folder, frame, split="test", out=tmp_path / "scores.json", console=QUIET)
    assert scores == pytest.approx(run.scores["test"][BLEND], rel=1e-6)
    for split in ("valid", "test"):  # without photos both blends are one, and both are calibrated
        assert run.scores[split][TABLE_BLEND] == pytest.approx(run.scores[split][BLEND], rel=1e-9)
