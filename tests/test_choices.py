"""Every loss and optimizer, from their names on the command line to predictions."""

import json
import tomllib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from quick_runs import QUICK_MODEL
from rich.console import Console

from mixfit.auto.recipe import fit
from mixfit.choices import LossName, OptimizerName
from mixfit.cli import main
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.data.columns.infer import infer_schema
from mixfit.data.table.read import read_table
from mixfit.demo import DEMO_TARGET
from mixfit.errors import ConfigError
from mixfit.runs.scoring import load_run
from mixfit.training.choose import LOSSES_OF_CLASSES

QUIET = Console(quiet=True)
# Each optimizer and each loss at least once.
CHOICES: list[tuple[OptimizerName, LossName]] = [
    ("adamw", "auto"),
    ("adamw", "poisson"),
    ("sgd", "mse"),
    ("momentum", "mae"),
    ("nesterov", "huber"),
    ("rmsprop", "cross_entropy"),
    ("adam", "balanced"),
    ("lamb", "smooth"),
    ("lion", "focal"),
    ("muon", "huber"),
    ("schedule_free", "balanced"),
]


@pytest.fixture(scope="module")
def plain_table(demo_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example without photos, with a class to predict; and beside it a schema for each target."""
    frame = read_table(demo_table).drop(columns="photos")
    frame["visits"] = (pd.to_numeric(frame[DEMO_TARGET]) // 20).astype(int)
    frame["dear"] = np.where(pd.to_numeric(frame[DEMO_TARGET]) > 80, "yes", "no")
    path = tmp_path_factory.mktemp("plain") / "plain.csv"
    frame.to_csv(path, index=False)
    for target in (DEMO_TARGET, "dear", "visits"):
        schema = infer_schema(frame, target, task="count" if target == "visits" else None)
        path.with_name(f"{target}.json").write_text(json.dumps(schema.to_dict()))
    return path


def test_every_loss_and_optimizer_is_tried_here() -> None:
    assert {optimizer for optimizer, _ in CHOICES} == set(get_args(OptimizerName))
    assert {loss for _, loss in CHOICES} == set(get_args(LossName))


@pytest.mark.parametrize(("optimizer", "loss"), CHOICES)
def test_every_choice_trains_and_predicts_from_the_command_line(
    optimizer: OptimizerName, loss: LossName, plain_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mixfit.runs.report.page.write_report", lambda *_: None)  # three of four seconds
    target = "dear" if loss in LOSSES_OF_CLASSES else "visits" if loss == "poisson" else DEMO_TARGET
    schema = plain_table.with_name(f"{target}.json")
    small = [
        "--preset",
        "network",
        "--epochs",
        "2",
        "--encoding-dim",
        "8",
        "--tabular-hidden",
        "16",
        "--schema",
        str(schema),
    ]
    with pytest.raises(SystemExit, match="0"):
        main(["train", str(plain_table), "--target", target, "--optimizer", optimizer, "--loss", loss, *small])
    run = Path("runs") / f"plain-{target}-001"
    settings = tomllib.loads((run / "config.toml").read_text())["train"]
    assert (settings["optimizer"], settings["loss"]) == (optimizer, loss)
    assert settings["lr"] > 0  # what was left open is on record
    assert settings["weight_decay"] >= 0
    rates = pd.read_csv(run / "history.csv")["lr"]
    assert (rates.nunique() == 1) == (optimizer == "schedule_free")
    found = load_run(run).predict(read_table(plain_table))
    if target == DEMO_TARGET:
        assert found["prediction"].between(1, 10_000).all()  # in the unit of the target, not scaled
    elif target == "visits":
        assert found["prediction"].between(0.1, 500).all()
    else:
        np.testing.assert_allclose(found[["probability_no", "probability_yes"]].sum(axis=1), 1)
        assert found["prediction"].isin(["no", "yes"]).all()


@pytest.mark.parametrize("data", [DataConfig(), DataConfig(task="multiclass")], ids=["read", "said"])
def test_a_loss_that_does_not_fit_leaves_no_run(data: DataConfig, plain_table: Path, tmp_path: Path) -> None:
    # Where the task is said, the table is not even read.
    table = plain_table if data.task is None else tmp_path / "nowhere.csv"
    with pytest.raises(ConfigError, match="--loss huber is for numbers, but the target is a class"):
        fit(
            table,
            target="dear",
            data=data,
            train=TrainConfig(preset="network", loss="huber"),
            out=tmp_path / "runs",
            console=QUIET,
        )
    assert not (tmp_path / "runs").exists()


def test_a_loss_that_does_not_fit_the_schema_is_refused_before_the_table_is_read(
    plain_table: Path, tmp_path: Path
) -> None:
    schema = plain_table.with_name(f"{DEMO_TARGET}.json")
    with pytest.raises(ConfigError, match=r"--loss focal is for classes, but the target is a number"):
        fit(tmp_path / "nowhere.csv", target=DEMO_TARGET, schema=schema, train=TrainConfig(loss="focal"), console=QUIET)


def test_the_loss_that_is_asked_for_is_the_one_that_is_minimised(
    plain_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixfit.runs.report.page.write_report", lambda *_: None)

    def first_loss(loss: LossName) -> float:
        train = TrainConfig(preset="network", epochs=1, lr=1e-9, loss=loss)
        schema = plain_table.with_name(f"{DEMO_TARGET}.json")
        run = fit(
            plain_table,
            target=DEMO_TARGET,
            model=QUICK_MODEL,
            train=train,
            schema=schema,
            out=tmp_path,
            console=QUIET,
        )
        return float(run.history["valid_loss"][0])

    # Of the same untrained predictions: half the square is the most that Huber gives.
    assert first_loss("huber") < 0.5001 * first_loss("mse")


@pytest.mark.parametrize(
    ("settings", "name", "value", "text"),
    [
        (ModelConfig(), "tabular", "mpl", r"^tabular must be one of mlp, resnet, tabm, got 'mpl'\. Did you mean 'mlp'"),
        (ModelConfig(), "fusion", "flim", r"^fusion must be one of .*, got 'flim'\. Did you mean 'film'"),
        (TrainConfig(), "optimizer", "adamv", r"^optimizer must be one of .* Did you mean 'adam'"),
        (DataConfig(), "crop", "centre", r"^crop must be one of .* Did you mean 'center'"),
        (DataConfig(), "task", "regresion", r"^task must be one of .* Did you mean 'regression'"),
    ],
)
def test_a_misspelt_choice_in_python_is_refused_as_on_the_command_line(
    settings: Any, name: str, value: str, text: str
) -> None:
    object.__setattr__(settings, name, value)  # as the types that tests check would not let through
    with pytest.raises(ConfigError, match=text):
        settings.__post_init__()
