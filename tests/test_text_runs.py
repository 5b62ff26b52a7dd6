"""Runs with columns of text: what they add, that they are saved, predicted and explained, and that nothing leaks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_runs import MODEL, QUIET, TRAIN, model_bytes, small_fit

import mixfit
from mixfit.config import DataConfig
from mixfit.demo import demo_truth, write_demo
from mixfit.ensemble.blend import row_losses
from mixfit.ensemble.cross_fit import FittedFolds, cross_fit, fit_folds
from mixfit.evaluation.explain import explain
from mixfit.evaluation.word_effects import word_effects
from mixfit.models.linear import Linear
from mixfit.models.model import PHOTOS, TABLE, TEXT, Sees
from mixfit.predictor import Predictor
from mixfit.runs.results import Run
from mixfit.runs.scoring import evaluate_table
from mixfit.training.build import build_model, precompute_features

GOOD, BAD = ["signed", "rare", "superb", "perfect", "provenance"], ["repaired", "common", "scratched", "copy", "faded"]
FILLER = [f"word{number}" for number in range(80)]
ROWS = 300
SIZE = 64
"""Pixels a side of a photo."""


def described(quality: np.ndarray, seed: int = 0) -> list[str]:
    """Descriptions whose words tell the quality."""
    rng = np.random.default_rng(seed)
    texts = []
    for value in quality:
        words = list(rng.choice(FILLER, 15))
        words += [str(rng.choice(GOOD if rng.random() < 1 / (1 + np.exp(-3 * value)) else BAD)) for _ in range(6)]
        texts.append(" ".join(rng.permutation(words)).capitalize() + ".")
    return texts


def three_parts(folder: Path, rows: int = ROWS, seed: int = 0) -> Path:
    """Vases whose price needs table, photo and description, about a third each."""
    table = write_demo(folder, rows=rows, seed=seed)
    frame, truth = pd.read_csv(table), demo_truth(rows, seed)
    quality = np.random.default_rng(seed + 1).normal(size=rows)
    log_price = truth["log_price"] + 0.6 * quality
    frame["description"] = described(quality, seed)
    frame.loc[::29, "description"] = None
    frame["price"] = np.exp(log_price).round(2)
    frame.to_csv(table, index=False)
    return table


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_parts(tmp_path_factory.mktemp("vases"))


@pytest.fixture(scope="module")
def folds(table: Path) -> FittedFolds:
    data = mixfit.load_data(table, target="price", config=DataConfig(image_size=SIZE))
    return fit_folds(precompute_features(data, build_model(data, seed=0), progress=False), 5, seed=0)


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    data, train = DataConfig(cache_gb=0.0, image_size=SIZE), replace(TRAIN, report=False)
    settings = {"model": MODEL, "train": train, "data": data, "console": QUIET}
    return mixfit.fit(table, target="price", out=tmp_path_factory.mktemp("runs"), **settings)


def test_each_part_alone_and_each_pair_is_clearly_worse_than_all_three(folds: FittedFolds) -> None:
    def losses(sees: Sees) -> np.ndarray:
        return row_losses(folds.truth, cross_fit(Linear(sees=sees), folds).predictions)

    whole = losses(TABLE | TEXT | PHOTOS)
    for part in (TABLE, TEXT, PHOTOS, TABLE | TEXT, TABLE | PHOTOS, TEXT | PHOTOS):
        worse = losses(frozenset(part)) - whole
        assert worse.mean() > 2 * worse.std() / np.sqrt(len(worse)), part


def test_the_run_says_what_the_text_adds_and_what_the_photos_add_beside_it(run: Run) -> None:
    contest, result = run.contest, run.result
    assert contest is not None
    assert contest.text is not None
    assert contest.photos is not None
    assert contest.text.claim
    assert contest.choice.startswith("The text helps: it lowers the out-of-fold loss by ")
    assert "the blend of table and text alone" in contest.photos.why
    assert result.text is not None
    assert result.photos is not None
    assert result.photos.beside_text
    assert result.photos.without == result.text.with_text
    found = result.final.difference(result.text.with_text, result.text.without, result.headline)
    assert found.finding == "better"
    names = {line.model for line in contest.leaderboard}
    assert {"linear, table", "linear, table and text", "linear, text", "linear, table, text and photos"} <= names


def test_saved_runs_predict_evaluate_and_explain_the_same(run: Run, table: Path) -> None:
    frame = pd.read_csv(table)
    loaded = Predictor.load(run.folder)
    assert loaded.uses_text
    before = run.predictor.predict(frame, images=table.parent)
    pd.testing.assert_frame_equal(loaded.predict(frame, images=table.parent), before)
    shuffled = frame.sample(frac=1, random_state=0)
    after = loaded.predict(shuffled, images=table.parent).sort_index()
    np.testing.assert_allclose(after["prediction"], before["prediction"], rtol=1e-5)
    evaluated = evaluate_table(run.folder, table, split="test", console=QUIET)
    assert evaluated["mae"] == pytest.approx(run.scores["test"]["mixfit, blend"]["mae"], rel=1e-6)


def test_rows_without_a_text_with_new_words_and_of_other_scripts_are_predicted(run: Run, table: Path) -> None:
    frame = pd.read_csv(table).iloc[[0] * 6].reset_index(drop=True)
    frame["description"] = [None, "", "utterly unknown", "花瓶 signiert 😀", "x" * 1_000_000, "a\x00\x01\u202eb"]
    found = run.predictor.predict(frame, images=table.parent)
    assert np.isfinite(found["prediction"]).all()
    assert found["prediction"][0] == pytest.approx(found["prediction"][1], rel=1e-6)
    with pytest.raises(mixfit.DataError, match="description"):
        run.predictor.predict(frame.drop(columns="description"), images=table.parent)


def test_good_words_raise_and_bad_words_lower_a_price(run: Run, table: Path) -> None:
    frame = pd.read_csv(table).head(1)
    prices = []
    for words in (GOOD, BAD):
        frame["description"] = " ".join([*words, *FILLER[:10]])
        prices.append(run.predictor.predict(frame, images=table.parent)["prediction"][0])
    assert prices[0] > 1.3 * prices[1]
    frame["description"] = "Word1 superb word2, word3 scratched. Superb!"
    (effects,) = word_effects(run.predictor, frame, images=table.parent, rows=[0])
    found = dict(zip(effects.words, effects.effects, strict=True))
    assert list(found) == ["word1", "superb", "word2", "word3", "scratched"]
    assert found["superb"] > 0 > found["scratched"]
    assert [effects.text[start:stop] for start, stop, word in effects.spans if word == 1] == ["superb", "Superb"]
    with pytest.raises(mixfit.ConfigError, match=r"1 of 2 rows are not in the table of 1 rows, such as 7\."):
        word_effects(run.predictor, frame, images=table.parent, rows=[0, 7])
    with pytest.raises(mixfit.ConfigError, match=r"a class for each of the 1 rows, got \['a'\]; .* model: none\."):
        word_effects(run.predictor, frame, images=table.parent, rows=[0], explained=["a"])


def test_a_text_is_one_player_of_an_explanation(run: Run, table: Path) -> None:
    frame = pd.read_csv(table)
    found = explain(run.predictor, frame, images=table.parent, rows=[1, 2, 3], background=8)
    assert "description" in found.columns
    np.testing.assert_allclose(found.parts.sum(axis=1), found.value - found.base, atol=1e-6)
    assert np.abs(found.parts[:, found.columns.index("description")]).mean() > 0.02


def test_a_single_network_sees_texts_and_is_saved_with_them(table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table).drop(columns="photos")
    frame.to_csv(tmp_path / "table.csv", index=False)
    run = mixfit.fit(
        tmp_path / "table.csv",
        target="price",
        out=tmp_path,
        model=MODEL,
        train=mixfit.TrainConfig(preset="network", epochs=25, report=False),
        data=DataConfig(cache_gb=0.0),
        console=QUIET,
    )
    assert run.result.ours == "mixfit, table and text"
    loaded = Predictor.load(run.folder)
    pd.testing.assert_frame_equal(loaded.predict(frame), run.predictor.predict(frame))
    other = frame.assign(description=frame["description"].sample(frac=1, random_state=0).to_numpy())
    assert np.abs(np.log(loaded.predict(other)["prediction"] / loaded.predict(frame)["prediction"])).mean() > 0.02
    found = explain(loaded, frame, rows=[0, 1], background=4)
    np.testing.assert_allclose(found.parts.sum(axis=1), found.value - found.base, atol=1e-5)


def text_table(folder: Path, *, classes: bool = False, permuted: bool = False, rows: int = 120) -> Path:
    """A table whose only other column is text."""
    rng = np.random.default_rng(0)
    quality = rng.normal(size=rows)
    y = quality + 0.2 * rng.normal(size=rows)
    y = rng.permutation(y) if permuted else y
    frame = pd.DataFrame({"review": described(quality), "y": np.where(y > 0, "good", "bad") if classes else y})
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


@pytest.mark.parametrize("classes", [False, True])
def test_text_alone_is_enough(tmp_path: Path, classes: bool) -> None:
    table = text_table(tmp_path, classes=classes)
    in_five = replace(TRAIN, folds=5)  # with three, a claim about so few rows is in doubt
    run = small_fit(table, tmp_path / "runs", train=in_five)
    assert run.contest is not None
    assert run.contest.text is not None
    assert run.contest.text.claim
    assert {line.model for line in run.contest.leaderboard} >= {"linear, text", "boosted trees, text"}
    if not classes:
        again = small_fit(table, tmp_path / "again", train=in_five)
        assert model_bytes(again.folder) == model_bytes(run.folder)


def test_a_text_says_nothing_of_labels_at_random(tmp_path: Path) -> None:
    run = small_fit(text_table(tmp_path, permuted=True, rows=200), tmp_path / "runs")
    assert run.contest is not None
    assert run.contest.text is not None
    assert not run.contest.text.claim
    constant = next(line for line in run.contest.leaderboard if line.model == "constant")
    blend = next(line for line in run.contest.leaderboard if line.model == "mixfit, blend")
    assert blend.loss > constant.loss - 2 * constant.error
