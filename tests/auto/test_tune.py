"""The search for settings: its folder, its trials, and what it leaves for training."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from small_runs import in_few_folds
from test_cli import in_process

from mixfit.auto.recipe import fit
from mixfit.auto.tune import Tuning, tune
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.config_file import read_config
from mixfit.errors import ConfigError, Diverged
from mixfit.runs.results import BLEND

MODEL = ModelConfig(tabular="mlp", numbers="plain", tabular_hidden=(8,), encoding_dim=8)
TRAIN = TrainConfig(preset="network", epochs=3, patience=3)
FLAGS = ["--tabular", "mlp", "--numbers", "plain", "--tabular-hidden", "8", "--encoding-dim", "8", "--epochs", "3"]
FLAGS += ["--patience", "3", "--preset", "network"]


@pytest.fixture(scope="module", autouse=True)
def few_folds() -> Iterator[None]:
    """Two are enough for all that is looked at here."""
    with pytest.MonkeyPatch.context() as patch:
        in_few_folds(patch)
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbers alone, so that a trial takes a blink."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(80, 3)).round(4), columns=["a", "b", "c"])
    frame["y"] = (frame["a"] - 2 * frame["b"] * frame["c"] + rng.normal(size=80) / 10).round(4)
    path = tmp_path_factory.mktemp("tune") / "numbers.csv"
    frame.to_csv(path, index=False)
    return path


def search(table: Path, out: Path, trials: int = 4, *, target: str = "y", **settings: Any) -> Tuning:
    settings = {"model": MODEL, "train": TRAIN, "console": Console(quiet=True)} | settings
    return tune(table, target=target, trials=trials, out=out, **settings)


def trials_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "trials.csv")


@pytest.fixture(scope="module")
def found(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuning:
    return search(table, tmp_path_factory.mktemp("search"), 6)


def test_the_first_trial_has_the_given_settings_and_the_best_is_no_worse(found: Tuning) -> None:
    trials = trials_of(found.folder)
    assert found.trials == len(trials) == 6
    first = trials.iloc[0]
    assert (first["state"], first["defaults"]) == ("complete", True)
    assert (first["width"], first["encoding_dim"], first["lr"], first["dropout"]) == (8, 8, 0.002, 0.1)
    assert found.loss == trials["valid_loss"].min() <= first["valid_loss"]
    assert trials["lr"].nunique() == 6


def loss_of_training_with(settings: Path, out: Path) -> float:
    """Lowest validation loss of ``mixfit train --config SETTINGS``."""
    said = read_config(settings)
    assert said.table is not None
    assert said.target is not None
    run = fit(
        said.table,
        target=said.target,
        data=said.data,
        model=said.model,
        train=replace(said.train, report=False),
        out=out,
        console=Console(quiet=True),
    )
    return float(run.history["valid_loss"].min())


def test_training_with_the_best_settings_gives_what_the_search_saw(found: Tuning, tmp_path: Path) -> None:
    assert loss_of_training_with(found.settings, tmp_path) == pytest.approx(found.loss, rel=1e-6)


def test_the_same_seed_makes_the_same_search(table: Path, found: Tuning, tmp_path: Path) -> None:
    again = search(table, tmp_path, 6)
    pd.testing.assert_frame_equal(
        trials_of(again.folder).drop(columns="seconds"), trials_of(found.folder).drop(columns="seconds")
    )


def test_the_same_call_goes_on_until_all_trials_are_done(table: Path, tmp_path: Path) -> None:
    assert search(table, tmp_path, 2).trials == 2
    before = trials_of(tmp_path / "numbers-y")
    assert search(table, tmp_path, 4).trials == 4
    after = trials_of(tmp_path / "numbers-y")
    pd.testing.assert_frame_equal(after.iloc[:2][before.columns], before)
    assert after["defaults"].sum() == 1
    assert after["lr"].nunique() == 4
    assert search(table, tmp_path, 4).trials == 4


def interrupted_at(monkeypatch: pytest.MonkeyPatch, fit_number: int) -> None:
    from mixfit.auto import tune as run

    real, calls = run._train, []

    def train(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == fit_number:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(run, "_train", train)


@pytest.mark.parametrize("fit_number", [1, 2])
def test_an_interrupt_leaves_a_search_that_goes_on(
    fit_number: int, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tune", table, "--target", "y", "--trials", 3, "--out", tmp_path, *FLAGS]
    with monkeypatch.context() as patched:
        interrupted_at(patched, fit_number)
        code, output, _ = in_process(capsys, *arguments)
    assert code == 130
    assert f"stopped after {fit_number - 1} of 3 trials; the same command resumes the search" in output
    code, output, _ = in_process(capsys, *arguments)
    assert code == 0
    trials = trials_of(tmp_path / "numbers-y")
    assert list(trials["state"]).count("fail") == 1
    assert len(trials) == 4
    complete = trials[trials["state"] != "fail"]
    assert complete["defaults"].sum() == 1
    assert f"next   mixfit train --config {tmp_path}/numbers-y/best.toml" in output


def test_a_trial_of_a_process_that_was_killed_is_given_up(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mixfit.auto import tune as run

    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()

    def killed(*_: Any) -> None:
        raise RuntimeError("nothing is told to the study any more")

    with monkeypatch.context() as patched:
        patched.setattr(run, "_run_trial", killed)
        patched.setattr(run.Search, "abandon", lambda *_: None)
        patched.setattr(os, "getpid", lambda: gone.pid)
        with pytest.raises(RuntimeError, match="nothing is told"):
            search(table, tmp_path, 2)
    assert search(table, tmp_path, 2).trials == 2
    trials = trials_of(tmp_path / "numbers-y")
    assert list(trials["state"]) == ["fail", "complete", "complete"]
    assert list(trials["defaults"].notna()) == [True, True, False]


def test_a_log_whose_last_line_is_torn_is_gone_on_with(table: Path, tmp_path: Path) -> None:
    search(table, tmp_path, 2)
    log = tmp_path / "numbers-y" / "study.log"
    log.write_bytes(log.read_bytes()[:-7])  # the end of the second trial is not known any more
    (tmp_path / "numbers-y" / "trials.csv").unlink()
    assert search(table, tmp_path, 3).trials >= 2
    assert list(trials_of(tmp_path / "numbers-y")["defaults"].notna())[:2] == [True, False]


def test_two_processes_share_a_search(table: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mixfit.cli", "tune", table, "--target", "y", "--trials", "9", "--out", tmp_path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*map(str, command), *FLAGS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as other:
        while not (tmp_path / "numbers-y" / "trials.csv").exists():  # the other one is in the middle of it
            assert other.poll() is None
            time.sleep(0.01)
        search(table, tmp_path, 9)
        _, errors = other.communicate(timeout=120)
    assert other.returncode == 0, errors.decode()
    search(table, tmp_path, 9)  # a last look, after both have ended
    trials = trials_of(tmp_path / "numbers-y")
    assert len(trials) == 9
    assert set(trials["state"]) <= {"complete", "pruned"}
    assert trials["defaults"].sum() == 1
    assert trials["lr"].nunique() == 9
    assert len(list((tmp_path / "numbers-y" / "processes").iterdir())) == 3


def test_another_search_in_the_same_folder_is_refused(table: Path, tmp_path: Path) -> None:
    copy = tmp_path / "numbers.csv"
    copy.write_bytes(table.read_bytes())
    search(copy, tmp_path, 1)
    with pytest.raises(ConfigError, match=r"was started with train\.epochs '3', not '4': choose another --out"):
        search(copy, tmp_path, 1, train=TrainConfig(preset="network", epochs=4, patience=3))
    with pytest.raises(ConfigError, match="was started with role of a 'number', not 'ignored'"):
        search(copy, tmp_path, 1, data=DataConfig(roles={"a": "ignored"}))
    with copy.open("a") as file:
        file.write("1,2,3,4\n")
    with pytest.raises(ConfigError, match="cannot be resumed, as the table has changed since the start of the search"):
        search(copy, tmp_path, 1)
    (tmp_path / "numbers-y").rename(tmp_path / "numbers-c")
    with pytest.raises(ConfigError, match="has the target 'y', not 'c': choose another --out"):
        search(copy, tmp_path, 1, target="c")


def test_settings_that_diverge_do_not_end_the_search(table: Path, tmp_path: Path) -> None:
    train = TrainConfig(preset="network", epochs=2, patience=2, optimizer="sgd", lr=1e30)
    with pytest.raises(Diverged, match="None of the 2 trials finished: train once with a smaller --lr"):
        search(table, tmp_path, 2, train=train)
    trials = trials_of(tmp_path / "numbers-y")
    assert list(trials["state"]) == ["pruned", "pruned"]
    assert trials["problem"].str.contains("train again with a smaller learning rate").all()


@pytest.mark.parametrize("settings", [{"seconds": 1e-9}, {"train": replace(TRAIN, time="0.001s")}])
def test_when_the_time_is_over_the_first_trial_still_ends(
    settings: dict[str, Any], table: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    found = search(table, tmp_path, 50, **settings)
    assert read_config(found.settings).train.time is None
    assert found.trials == 1
    assert trials_of(found.folder)["defaults"].all()
    assert time.monotonic() - began < 30


def test_photos_are_searched_with_features_computed_once(
    demo_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mixfit.auto import preparation

    computed = []
    real = preparation.precompute_features

    def counted(*arguments: Any, **settings: Any) -> Any:
        computed.append(1)
        return real(*arguments, **settings)

    monkeypatch.setattr(preparation, "precompute_features", counted)
    found = search(demo_table, tmp_path, 2, target="price", data=DataConfig(image_size=32))
    assert len(computed) == 1
    assert {"fusion", "modality_dropout", "image_dropout"} <= set(trials_of(found.folder))
    assert loss_of_training_with(found.settings, tmp_path) == pytest.approx(found.loss, rel=1e-6)


def test_roles_and_the_format_of_the_table_reach_the_best_settings(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(table.read_text().replace(",", ";"))
    flags = ["--target", "y", "--trials", 1, "--set", "c=ignored", "--sep", ";", "--time", "1h", *FLAGS]
    assert in_process(capsys, "tune", "t.csv", *flags)[0] == 0
    said = read_config(tmp_path / "tune" / "t-y" / "best.toml")
    assert (said.table, said.data.roles, said.data.text.sep) == (Path("t.csv"), {"c": "ignored"}, ";")
    assert in_process(capsys, "train", "--config", "tune/t-y/best.toml")[0] == 0


def test_without_optuna_it_is_said_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "mixfit.auto.study", raising=False)
    code, _, errors = in_process(capsys, "tune", "t.csv", "--target", "y")
    assert code == 4
    assert errors == "mixfit: mixfit tune needs Optuna, which is not installed: pip install 'mixfit[tune]'.\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trials", 0], "trials must be at least 1, got 0"),
        (["--time", "soon"], "A duration is a number above 0 with s, m or h"),
        (["--target", "yy"], "no column 'yy'"),
    ],
)
def test_mistakes_are_one_sentence(
    flags: list[object], message: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = [] if "--target" in flags else ["--target", "y"]
    code, _, errors = in_process(capsys, "tune", table, *target, "--out", tmp_path, *flags)
    assert code == 2
    assert message in errors
    assert not list(tmp_path.iterdir())


BLENDS = TrainConfig(preset="quick", epochs=1, report=False)


@pytest.fixture(scope="module")
def blended(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuning:
    return search(table, tmp_path_factory.mktemp("blends"), 3, train=BLENDS)


def test_a_search_over_the_blend_is_judged_by_its_out_of_fold_loss(blended: Tuning) -> None:
    trials = trials_of(blended.folder)
    assert blended.loss == trials["out_of_fold_loss"].min() <= trials["out_of_fold_loss"][0]
    assert trials["networks"].between(0, 1).all()
    assert trials["lr"].nunique() == 3
    assert sorted(path.name for path in blended.folder.iterdir()) == [
        "best.toml",
        "processes",
        "study.log",
        "trials.csv",
    ]


def test_training_with_the_best_settings_gives_the_blend_that_the_search_saw(blended: Tuning, tmp_path: Path) -> None:
    said = read_config(blended.settings)
    assert said.table is not None
    assert said.train.preset == "quick"
    settings = {"data": said.data, "model": said.model, "train": said.train}
    run = fit(said.table, target="y", out=tmp_path, console=Console(quiet=True), **settings)
    assert run.result.contest is not None
    lines = {line.model: line.loss for line in run.result.contest.leaderboard}
    assert lines[BLEND] == pytest.approx(blended.loss, rel=1e-9)


def test_the_test_rows_play_no_part_in_the_search(table: Path, tmp_path: Path) -> None:
    frame, losses = pd.read_csv(table), []
    frame["split"] = np.repeat(["train", "valid", "test"], [58, 10, 12])
    for value in (None, 100.0):
        if value is not None:
            frame.loc[frame["split"] == "test", "y"] = value
        path = tmp_path / str(value) / "numbers.csv"
        path.parent.mkdir()
        frame.to_csv(path, index=False)
        losses.append(search(path, path.parent, 2, train=BLENDS).loss)
    assert losses[0] == losses[1]


def test_only_networks_are_fitted_again(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mixfit.models.linear import Linear
    from mixfit.models.network import Network

    fits = {"linear": 0, "network": 0}
    for name, kind in (("linear", Linear), ("network", Network)):
        real = kind.fit

        def fit_one(self: Any, *arguments: Any, real: Any = real, name: str = name, **more: Any) -> Any:
            fits[name] += 1
            return real(self, *arguments, **more)

        monkeypatch.setattr(kind, "fit", fit_one)
    search(table, tmp_path, 2, train=BLENDS)
    assert fits["linear"] == 2
    assert fits["network"] == 4


def test_a_search_over_the_blend_goes_on(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search(table, tmp_path, 1, train=BLENDS).trials == 1
    assert search(table, tmp_path, 2, train=BLENDS, console=None).trials == 2
    output = capsys.readouterr().out
    assert "1 of 2 trials done   preset quick, 68 rows in folds" in output
    assert "a selection score: better than that of new rows" in output
    assert len(trials_of(tmp_path / "numbers-y")) == 2


def test_a_longer_trial_than_the_time_left_is_not_started(table: Path, tmp_path: Path) -> None:
    found = search(table, tmp_path, 5, train=BLENDS, seconds=0.01)
    assert found.trials == 1
