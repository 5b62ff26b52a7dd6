"""Work on Ray is that of this process, bit for bit; lost workers and drivers lose nothing that is whole."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from small_runs import MODEL, QUIET, TRAIN, model_bytes, small_fit, small_table
from test_cli import in_process

from mixfit.auto.embedding import embed
from mixfit.auto.prediction import predict_files
from mixfit.auto.recipe import resume
from mixfit.auto.tune import Outcome, Search, TrialWork, tune
from mixfit.config import TrainConfig
from mixfit.errors import ConfigError, DataError, Stopped
from mixfit.models.linear import Constant
from mixfit.models.model import TABLE, FittedModel, Layout, Sees, TrainingRows
from mixfit.runs.results import Run
from mixfit.runs.scoring import predict_table

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'mixfit[ray]'")
# What Ray warns of is not of mixfit.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """One Ray of two cores for all tests; workers get the classes of this file by value."""
    from ray import cloudpickle

    from mixfit.distributed.ray_engine import RayEngine

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with RayEngine(cpus=2) as started:
        yield started


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def test_embedding_has_the_bytes_of_the_local_pass(engine: Any, demo_table: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"target": "price", "image_size": 32, "shard_rows": 32, "console": QUIET}
    embed(demo_table, tmp_path / "local", **settings)
    first = embed(demo_table, tmp_path / "ray", engine=engine, **settings)
    assert (first.shards, first.computed) == (3, 3)
    assert shards(tmp_path / "ray") == shards(tmp_path / "local")
    (tmp_path / "ray" / "part-000001.parquet").unlink()
    again = embed(demo_table, tmp_path / "ray", engine=engine, **settings)
    assert again.computed == 1
    assert shards(tmp_path / "ray") == shards(tmp_path / "local")


@dataclass(frozen=True)
class Dies:
    """Work whose first worker is killed in the middle of a piece."""

    flag: Path

    def __call__(self) -> Callable[[int], int]:
        return self.square

    def square(self, piece: int) -> int:
        if piece == 3 and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return piece * piece


def test_pieces_of_a_killed_actor_are_done_again_in_their_order(engine: Any, tmp_path: Path) -> None:
    found = list(engine.each(partial(iter, range(6)), Dies(tmp_path / "killed"), threads=1))
    assert found == [0, 1, 4, 9, 16, 25]
    assert (tmp_path / "killed").exists()


@dataclass(frozen=True)
class Waits:
    """Work whose last piece waits until the result of the first has come, and says whether it had."""

    flag: Path

    def __call__(self) -> Callable[[int], bool]:
        return self.has_come

    def has_come(self, piece: int) -> bool:
        for _ in range(100 if piece == 3 else 0):
            if self.flag.exists():
                break
            time.sleep(0.1)
        return self.flag.exists()


def test_each_piece_is_given_to_a_worker_by_itself_and_its_result_back(engine: Any, tmp_path: Path) -> None:
    """One block of all pieces would have one worker, and no result before the last."""
    found = []
    for result in engine.each(partial(iter, range(4)), Waits(tmp_path / "came"), threads=1):
        (tmp_path / "came").touch()
        found.append(result)
    assert found[0] is False
    assert found[3] is True


def refuse(piece: int) -> int:
    raise DataError(f"piece {piece} is damaged.")


def test_an_error_of_a_worker_is_raised_here(engine: Any) -> None:
    with pytest.raises(DataError, match=r"^piece 0 is damaged\.$"):
        list(engine.each(partial(iter, range(2)), lambda: refuse, threads=1))


@dataclass(frozen=True)
class Crashes:
    """A model of the user: a constant whose first fit kills its process."""

    flag: Path
    name: str = "crashing mean"
    sees: Sees = TABLE

    def fit(self, rows: TrainingRows, truth: np.ndarray, weight: np.ndarray | None, seed: int) -> FittedModel:
        if not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Constant().fit(rows, truth, weight, seed)

    def load(self, arrays: dict[str, np.ndarray], config: dict[str, Any], layout: Layout) -> FittedModel:
        return Constant().load(arrays, config, layout)


@pytest.fixture(scope="module")
def flag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crash") / "killed"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_table(tmp_path_factory.mktemp("small") / "t")


@pytest.fixture(scope="module")
def ray_run(engine: Any, table: Path, flag: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose models were fitted by Ray, and one of whose workers was killed."""
    from mixfit.distributed.ray_fits import RayFits

    with RayFits() as fits:
        found = small_fit(table, tmp_path_factory.mktemp("ray"), fits=fits, models=[Crashes(flag)])
    assert flag.exists()
    return found


@pytest.fixture(scope="module")
def local_run(ray_run: Run, table: Path, flag: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return small_fit(table, tmp_path_factory.mktemp("local"), models=[Crashes(flag)])


def test_models_of_folds_are_those_of_a_local_run(ray_run: Run, local_run: Run) -> None:
    assert model_bytes(ray_run.folder) == model_bytes(local_run.folder)
    assert ray_run.contest is not None
    assert local_run.contest is not None
    untimed = [[replace(line, seconds=None) for line in run.contest.leaderboard] for run in (ray_run, local_run)]
    assert untimed[0] == untimed[1]
    assert {line.model for line in untimed[0]} >= {"crashing mean"}
    kept = [{path.name for path in (run.folder / "candidates").iterdir()} for run in (ray_run, local_run)]
    assert kept[0] == kept[1]


def test_a_run_of_ray_is_resumed_here(ray_run: Run, flag: Path) -> None:
    before = model_bytes(ray_run.folder)
    for lost in list((ray_run.folder / "candidates").glob("*-2.json")):
        lost.unlink()
    resume(ray_run.folder, models=[Crashes(flag)], console=QUIET)
    assert model_bytes(ray_run.folder) == before


def test_one_network_is_refused(engine: Any, table: Path, tmp_path: Path) -> None:
    from mixfit.distributed.ray_fits import RayFits

    with pytest.raises(ConfigError, match="start one training on many processes with torchrun"):
        small_fit(table, tmp_path, fits=RayFits(), train=TrainConfig(preset="network"))


def test_tables_are_predicted_in_their_order(engine: Any, local_run: Run, table: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(table)
    (tmp_path / "in").mkdir()
    for number, part in enumerate(np.array_split(np.arange(len(rows)), 3)):
        chosen = rows.iloc[part].astype({"x": object})
        chosen.iloc[0, 0] = "broken" if number == 1 else chosen.iloc[0, 0]
        chosen.to_csv(tmp_path / "in" / f"{number}.csv", index=False)
    console = Console(width=200)
    with console.capture() as said:
        model = local_run.folder / "model"
        total = predict_files(model, tmp_path / "in" / "*.csv", tmp_path / "out", engine=engine, console=console)
    assert total.rows == len(rows)
    assert f"{len(rows)} rows in 3 tables" in said.get()
    for number in range(3):
        alone = tmp_path / f"alone-{number}.csv"
        predict_table(local_run.folder / "model", tmp_path / "in" / f"{number}.csv", out=alone, console=QUIET)
        assert (tmp_path / "out" / f"{number}.csv").read_bytes() == alone.read_bytes()


@dataclass(frozen=True, kw_only=True)
class DyingWork(TrialWork):
    """Trials of which the first one kills its process."""

    flag: Path

    def __call__(self, trial: Any, seconds: float | None) -> Outcome:
        if not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return TrialWork.__call__(self, trial, seconds)


@dataclass(frozen=True, kw_only=True)
class InterruptedSearch(Search):
    """Ctrl-C comes when the first trial is finished."""

    def finish(self, trial: Any, outcome: Outcome) -> None:
        Search.finish(self, trial, outcome)
        os.kill(os.getpid(), signal.SIGINT)


@dataclass(frozen=True)
class ChangedSearch:
    """Runs another search in place of the one it is given."""

    engine: Any
    change: Callable[[Search], Search]

    def run(self, search: Search) -> None:
        self.engine.run(self.change(search))


def searched(table: Path, out: Path, trials: int, engine: Any = None) -> pd.DataFrame:
    train = TrainConfig(preset="network", epochs=3, patience=3)
    tune(table, target="y", trials=trials, out=out, model=MODEL, train=train, console=QUIET, engine=engine)
    (found,) = out.glob("*-y/trials.csv")
    return pd.read_csv(found).drop(columns="seconds")


@pytest.mark.long
def test_trials_are_those_of_a_local_search(engine: Any, table: Path, tmp_path: Path) -> None:
    from mixfit.distributed.ray_tune import RayTrials

    flag = tmp_path / "killed"

    def dying(search: Search) -> Search:
        work = {one.name: getattr(search.work, one.name) for one in fields(TrialWork)}
        return replace(search, work=DyingWork(**work, flag=flag))

    local = searched(table, tmp_path / "local", 4)
    with RayTrials(workers=1) as trials:
        found = searched(table, tmp_path / "ray", 4, ChangedSearch(trials, dying))
    assert flag.exists()
    pd.testing.assert_frame_equal(found, local)
    best = [path.read_bytes() for path in sorted(tmp_path.glob("*/*-y/best.toml"))]
    assert len(best) == 2
    assert best[0] == best[1]
    assert len(searched(table, tmp_path / "ray", 5)) == 5  # continues here


@pytest.mark.long
def test_an_interrupted_search_continues_here(engine: Any, table: Path, tmp_path: Path) -> None:
    from mixfit.distributed.ray_tune import RayTrials

    def interrupted(search: Search) -> Search:
        return InterruptedSearch(**{one.name: getattr(search, one.name) for one in fields(Search)})

    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in the background
    try:
        with RayTrials() as trials, pytest.raises(Stopped, match=r"stopped by SIGINT\..*the same command resumes it"):
            searched(table, tmp_path, 4, ChangedSearch(trials, interrupted))
    finally:
        signal.signal(signal.SIGINT, former)
    found = searched(table, tmp_path, 4)
    states = found["state"].value_counts()
    assert states.drop("fail").sum() == 4
    assert states["fail"] >= 1
    # Ctrl-C may have ended the one with the defaults, as whichever trial is first finished stops the others.
    assert found.loc[found["state"] != "fail", "defaults"].sum() == 1


def test_a_killed_driver_leaves_a_run_that_can_be_resumed(table: Path, tmp_path: Path) -> None:
    flags = ["--preset", "quick", "--folds", "3", "--epochs", "2", "--tabular", "mlp", "--tabular-hidden", "8"]
    flags += ["--encoding-dim", "4", "--numbers", "plain", "--no-report", "--cache-gb", "0"]
    command = [sys.executable, "-m", "mixfit", "train", str(table), "--target", "y", "--out", str(tmp_path), *flags]
    process = subprocess.Popen([*command, "--engine", "ray"], stdout=subprocess.DEVNULL)
    until = time.monotonic() + 600
    while not list(tmp_path.glob("*/candidates/*.json")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder,) = tmp_path.glob("*-y-001")
    assert not (folder / "model").exists()
    resume(folder, console=QUIET)
    whole = small_fit(table, tmp_path / "whole", model=replace(MODEL), train=TRAIN)
    assert (folder / "model" / "model.safetensors").read_bytes() == model_bytes(whole.folder)["model.safetensors"]


def test_without_ray_there_is_one_sentence(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("mixfit.distributed.ray_engine", "mixfit.distributed.ray_fits", "mixfit.distributed.ray_tune"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    sentence = "mixfit: --engine ray needs Ray, which is not installed: pip install 'mixfit[ray]'.\n"
    train = ["train", table, "--target", "y", "--engine", "ray", "--out", tmp_path]
    predict = ["predict", tmp_path, table, "-o", tmp_path / "o.csv", "--engine", "ray"]
    search = ["tune", table, "--target", "y", "--engine", "ray", "--out", tmp_path]
    for words in (train, predict, search):
        assert in_process(capsys, *words)[::2] == (4, sentence)


def test_nothing_of_ray_is_loaded_unless_it_is_asked_for() -> None:
    code = "import sys; from mixfit.auto import embedding, prediction, recipe, tune; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
