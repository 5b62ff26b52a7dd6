"""The whole line on a part of each shared data set: train, save, evaluate, predict, one row at a time."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from quick_runs import QUICK_MODEL, QUICK_TRAIN
from rich.console import Console

from mixfit.auto.recipe import Run, fit
from mixfit.config import DataConfig
from mixfit.data.columns.values import to_keys, to_numbers
from mixfit.data.table.read import read_table
from mixfit.evaluation.result import metrics_for
from mixfit.runs.scoring import evaluate_table, load_run, predict_table
from mixfit.training.metrics import evaluate

SETS = {
    "houses": "price",
    "fashion_products": "gender",
    "covid_xray": "covid19",
    "leaf99": "species",
    "movies": "imdb_rating",
}
REPORTED = ("covid_xray", "movies")
"""Classes and a number, whose reports are written, too."""
MODEL = replace(QUICK_MODEL, tabular="mlp")
QUIET = Console(quiet=True)

pytestmark = pytest.mark.skipif("MIXFIT_DATA" not in os.environ, reason="MIXFIT_DATA is not set")


def source(name: str) -> Path:
    return Path(os.environ["MIXFIT_DATA"]) / name


def part_of(name: str, folder: Path) -> Path:
    """A table of some training rows, all classes among them, and some validation and test rows."""
    frame = read_table(source(name) / "table.csv")
    kept = frame.groupby("split").head(40)
    if name == "leaf99":
        species = kept["species"].unique()[:6]
        kept = frame[frame["species"].isin(species)]
    elif name == "fashion_products":
        kept = pd.concat([kept, frame[frame["split"] == "train"].groupby("gender").head(6)]).drop_duplicates()
    path = folder / name / "table.csv"
    path.parent.mkdir()
    kept.to_csv(path, index=False)
    return path


LONG = ("houses", "fashion_products")


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=[pytest.mark.long] if name in LONG else []) for name in SETS]
)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path, Path]:
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    table = part_of(name, folder)
    images = source(name)
    config = DataConfig(images=images, image_size=32)
    train = replace(QUICK_TRAIN, report=name in REPORTED)
    run = fit(table, target=SETS[name], data=config, model=MODEL, train=train, out=folder / "runs", console=QUIET)
    return run, table, images


def test_predict_gives_the_metrics_of_evaluate_and_of_training(trained: tuple[Run, Path, Path], tmp_path: Path) -> None:
    run, table, images = trained
    evaluated = evaluate_table(
        run.folder, table, split="test", images=images, out=tmp_path / "metrics.json", console=QUIET
    )
    held_back = read_table(table).query("split == 'test'").reset_index(drop=True)
    held_back.to_csv(tmp_path / "new.csv", index=False)
    predict_table(run.folder, tmp_path / "new.csv", out=tmp_path / "out.parquet", images=images, console=QUIET)
    written = pd.read_parquet(tmp_path / "out.parquet")
    schema, target = run.predictor.schema, run.predictor.target
    column = written[schema.target]
    if target.classes is None:
        truth, prediction = to_numbers(column).values, written["prediction"].to_numpy()
    else:
        truth = to_keys(column).map(target.classes.index).to_numpy(dtype=np.int64)
        prediction = written[[f"probability_{name}" for name in target.classes]].to_numpy()
    found = evaluate(metrics_for(schema.task, target), truth, prediction)
    assert found == pytest.approx(evaluated, rel=1e-5, nan_ok=True)
    ours = next(iter(run.scores["test"].values()))
    assert found == pytest.approx(ours, rel=1e-4, abs=1e-6, nan_ok=True)


def test_one_row_at_a_time_gives_what_all_at_once_give(trained: tuple[Run, Path, Path]) -> None:
    run, table, images = trained
    predictor = load_run(run.folder)
    frame = read_table(table).query("split == 'test'")[:8]
    together = predictor.predictions(frame, images=images).values
    alone = [predictor.predictions(frame.iloc[[row]], images=images).values for row in range(len(frame))]
    np.testing.assert_allclose(np.concatenate(alone), together, rtol=1e-5, atol=1e-5)
