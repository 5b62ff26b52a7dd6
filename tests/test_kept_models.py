"""What a run keeps of a model is used only where it is whole, and of this model, these rows and these settings."""

import hashlib
import io
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from small_runs import QUIET, TRAIN, in_few_folds, model_bytes, small_fit, small_table, without_results

from mixfit.auto.kept_models import RunKeeper, callbacks_digest
from mixfit.auto.recipe import resume
from mixfit.config import TrainConfig
from mixfit.errors import ConfigError, DataError, Diverged, Stopped
from mixfit.models.linear import Constant, FittedConstant
from mixfit.models.linear import Linear as LinearRegression
from mixfit.models.model import Layout, Model
from mixfit.models.network import Network
from mixfit.models.trees import BoostedTrees
from mixfit.training.callback import Callback, TrainState
from mixfit.training.callbacks.averaging import ExponentialMovingAverage, StochasticWeightAveraging
from mixfit.training.callbacks.control import EarlyStopping
from mixfit.training.callbacks.displays import JsonLines
from mixfit.training.callbacks.recorder import Recorder
from mixfit.training.callbacks.steps import GradientAccumulation, GradientClipping, MixedPrecision
from mixfit.training.schedule import Cosine, Linear, OneCycle, Schedule

LINEAR, TREES, NETWORK = LinearRegression(), BoostedTrees(), Network()
LAYOUT = Layout(numeric=2, cardinalities=(4,), categories=1, features=None, image_columns=0, classes=0)
"""Of ``small_table``."""


@dataclass
class Finished:
    """A run that was never stopped, and its keeper."""

    table: Path
    folder: Path
    keeper: RunKeeper
    model: dict[str, bytes]


@pytest.fixture(scope="module", autouse=True)
def few_folds() -> Iterator[None]:
    """Three, so that there is one before and one after the one that is harmed."""
    with pytest.MonkeyPatch.context() as patch:
        in_few_folds(patch, 3)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("kept")
    table = small_table(folder / "numbers")
    keepers: list[RunKeeper] = []
    real = RunKeeper.__post_init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunKeeper, "__post_init__", lambda keeper: (keepers.append(keeper), real(keeper))[1])
        without_results(patch)
        run = small_fit(table, folder / "runs")
    return Finished(table, run.folder, keepers[0], model_bytes(run.folder))


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> tuple[Path, RunKeeper]:
    """A copy of the run, and a keeper of it that knows the same rows and settings."""
    folder = Path(shutil.copytree(finished.folder, tmp_path / finished.folder.name))
    keeper = replace(finished.keeper, folder=folder)
    keeper._rows = finished.keeper._rows
    return folder, keeper


def places(content: bytes, count: int) -> Iterator[int]:
    """Of bytes all over, the first and the last among them."""
    yield from sorted({*range(min(16, len(content))), *np.linspace(0, len(content) - 1, count).astype(int).tolist()})


@pytest.mark.parametrize("model", [LINEAR, TREES, NETWORK])
@pytest.mark.parametrize("kind", ["model", "manifest", "history"])
def test_one_flipped_bit_anywhere_is_noticed_and_told(copied: tuple[Path, RunKeeper], model: Model, kind: str) -> None:
    folder, keeper = copied
    base = folder / "candidates" / f"{model.name.replace(', ', '-').replace(' ', '_')}-2"
    path = {"model": base.with_suffix(".safetensors"), "manifest": base.with_suffix(".json")}.get(
        kind, base / "history.csv"
    )
    if kind == "history" and model is not NETWORK:
        assert not path.exists()
        return
    content = path.read_bytes()
    assert keeper.load(model, 1, LAYOUT) is not None
    tried = 0
    for place in places(content, 150):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        keeper.notes.clear()
        assert keeper.load(model, 1, LAYOUT) is None, place
        (note,) = keeper.notes
        assert note.startswith(f"{model.name}, fold 2: the saved model ")
        assert note.endswith("; it is fitted again.")
        tried += 1
    assert tried >= min(150, len(content))
    path.write_bytes(content)
    assert keeper.load(model, 1, LAYOUT) is not None


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("x")


def _nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _large(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(2**40)  # no disk is needed for the hole


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": _cut,
    "empty": lambda path: path.write_bytes(b"") and None,
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 9) and None,
    "nested": lambda path: path.write_bytes(b"[" * 9_000) and None,
    "a list": lambda path: path.write_bytes(b"[1, 2]") and None,
    "missing": Path.unlink,
    "a pipe": _fifo,
    "a folder": _folder,
    "a link to nowhere": _nowhere,
    "a terabyte": _large,
}


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_kept_model_is_fitted_again_and_takes_its_place(
    copied: tuple[Path, RunKeeper], damage: str, suffix: str
) -> None:
    folder, keeper = copied
    fitted = keeper.load(LINEAR, 0, LAYOUT)
    assert fitted is not None
    path = folder / "candidates" / f"linear-table-1{suffix}"
    DAMAGES[damage](path)
    assert keeper.load(LINEAR, 0, LAYOUT) is None
    (note,) = keeper.notes
    assert note.startswith("linear, table, fold 1: ")
    keeper.keep(LINEAR, 0, fitted, seconds=1.5)
    keeper.notes.clear()
    before = keeper.spent(LINEAR)
    assert keeper.load(LINEAR, 0, LAYOUT) is not None
    assert keeper.notes == []
    assert keeper.spent(LINEAR) == pytest.approx(before + 1.5)


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "a folder"])
def test_a_history_that_is_none_is_fitted_again(copied: tuple[Path, RunKeeper], damage: str) -> None:
    folder, keeper = copied
    DAMAGES[damage](folder / "candidates" / "network-table-3" / "history.csv")
    assert keeper.load(NETWORK, 2, LAYOUT) is None
    (note,) = keeper.notes
    assert note.startswith("network, table, fold 3: ")


def test_numbers_that_are_not_finite_are_neither_kept_nor_read(copied: tuple[Path, RunKeeper]) -> None:
    folder, keeper = copied
    broken = FittedConstant(value=np.array([np.nan]), classes=0)
    with pytest.raises(Diverged, match="fold 1: value is not finite"):
        keeper.keep(Constant(), 0, broken)
    path = folder / "candidates" / "linear-table-1.safetensors"
    tensors = load_tensors(path.read_bytes())
    tensors["model.weights"][1] = torch.inf
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    content = save_tensors(tensors, metadata=header["__metadata__"])
    path.write_bytes(content)
    manifest = path.with_suffix(".json")
    said = json.loads(manifest.read_text())
    sha256 = hashlib.sha256(content + said["seconds"].encode()).hexdigest()
    manifest.write_text(json.dumps(said | {"sha256": sha256}, indent=1))
    assert keeper.load(LINEAR, 0, LAYOUT) is None
    assert "model.weights is not finite" in keeper.notes[0]


def moved(folder: Path, names: dict[str, str], source: Path | None = None) -> None:
    """Put kept models, with their manifests, under other names."""
    source = source or folder
    read = {
        new + suffix: (source / "candidates" / (old + suffix)).read_bytes()
        for old, new in names.items()
        for suffix in (".safetensors", ".json")
    }
    for name, content in read.items():
        (folder / "candidates" / name).write_bytes(content)


SWAPS = {
    "folds": ({"linear-table-1": "linear-table-2", "linear-table-2": "linear-table-1"}, "was fitted on other rows"),
    "networks of folds": ({"network-table-3": "network-table-2"}, "was fitted on other rows"),
    "candidates": ({"linear-table-1": "kernel_ridge-table-1"}, "is of another model"),
}


@pytest.mark.parametrize("swap", SWAPS)
def test_swapped_files_change_no_byte_of_the_model_and_are_told(
    finished: Finished, copied: tuple[Path, RunKeeper], monkeypatch: pytest.MonkeyPatch, swap: str
) -> None:
    folder, _ = copied
    names, why = SWAPS[swap]
    moved(folder, names)
    reported = without_results(monkeypatch)
    resume(folder, console=QUIET)
    assert model_bytes(folder) == finished.model
    told = [line for line in reported[0] if "it is fitted again" in line]
    assert len(told) == len(names)
    for new in names.values():
        place = new.rpartition("-")[2]
        assert any(f", fold {place}: the saved model {why}" in line for line in told)


@pytest.mark.parametrize(
    "other",
    [
        {"train": replace(TRAIN, seed=1)},
        pytest.param({"train": replace(TRAIN, epochs=3)}, marks=pytest.mark.long),
        {"table": 1},
    ],
    ids=str,
)
def test_models_of_another_run_are_not_taken_for_those_of_this_one(
    finished: Finished,
    copied: tuple[Path, RunKeeper],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    other: dict[str, Any],
) -> None:
    folder, _ = copied
    reported = without_results(monkeypatch)
    table = small_table(tmp_path / "numbers", seed=1) if "table" in other else finished.table
    elsewhere = small_fit(table, tmp_path / "others", **{k: v for k, v in other.items() if k != "table"}).folder
    reported.clear()
    names = ("constant-1", "boosted_trees-table-3", "network-table-1")
    moved(folder, {name: name for name in names}, source=elsewhere)
    shutil.rmtree(folder / "model")
    resume(folder, console=QUIET)
    assert model_bytes(folder) == finished.model
    told = [line for line in reported[0] if "it is fitted again" in line]
    assert len(told) == len(names)
    assert all("was fitted on other rows" in line or "with other settings or data" in line for line in told)


def test_a_setting_that_was_changed_since_refits_all_and_a_forced_table_too(
    finished: Finished, copied: tuple[Path, RunKeeper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = copied
    reported = without_results(monkeypatch)
    config = folder / "config.toml"
    config.write_text(config.read_text().replace("epochs = 2", "epochs = 1"))
    resume(folder, console=QUIET)
    other = small_fit(finished.table, tmp_path / "other", train=replace(TRAIN, epochs=1))
    assert model_bytes(folder) == model_bytes(other.folder)
    count = len(list((folder / "candidates").glob("*.safetensors")))
    assert sum("with other settings or data" in line for line in reported[0]) == count
    reported.clear()
    frame = pd.read_csv(finished.table)
    frame.iloc[::-1].to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(DataError, match="the table has changed since this run"):
        resume(folder, table=tmp_path / "table.csv", console=QUIET)
    resume(folder, table=tmp_path / "table.csv", force=True, console=QUIET)
    assert sum("fitted again" in line for line in reported[0]) == count


def test_what_is_kept_is_used_where_nothing_is_wrong(
    finished: Finished, copied: tuple[Path, RunKeeper], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = copied
    reported = without_results(monkeypatch)

    def fit_model(*_: Any, **__: Any) -> None:
        raise AssertionError("all models are there")

    monkeypatch.setattr("mixfit.ensemble.cross_fit.fit_model", fit_model)
    resume(folder, console=QUIET)
    assert model_bytes(folder) == finished.model
    assert not [line for line in reported[0] if "fold" in line]


# --- checkpoints of networks ----------------------------------------------------------------------------------------


class StopAtBatch(Callback):
    """Sends SIGTERM in a batch of the second network."""

    chooses = changes = False

    def __init__(self) -> None:
        self.fits = 0

    def before_fit(self, state: TrainState) -> None:
        self.fits += 1

    def after_step(self, state: TrainState) -> None:
        if self.fits == 2 and state.step == 4:
            signal.raise_signal(signal.SIGTERM)


SAVING = replace(TRAIN, save_every=0.0)


def stopped_in_a_network(table: Path, out: Path, train: TrainConfig = SAVING) -> Path:
    with pytest.raises(Stopped, match=r"stopped by SIGTERM after batch .*mixfit train --resume"):
        small_fit(table, out, train=train, callbacks=[StopAtBatch()])
    (run,) = out.iterdir()
    assert (run / "candidates" / "network-table-2" / "checkpoints" / "previous").is_dir()
    return run


@pytest.fixture(scope="module")
def stopped_run(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its second network."""
    with pytest.MonkeyPatch.context() as patch:
        without_results(patch)
        return stopped_in_a_network(finished.table, tmp_path_factory.mktemp("stopped") / "runs")


def _other_fold(checkpoints: Path, table: Path, tmp_path: Path) -> None:
    """Of the first network, which is finished: its last checkpoint is made again by fitting it again."""
    state = json.loads((checkpoints / "last" / "state.json").read_text())
    key = json.loads(state["callbacks"]["BelongsTo"]["key"])
    state["callbacks"]["BelongsTo"]["key"] = json.dumps(key | {"rows": "those of another fold"})
    content = json.dumps(state).encode()
    (checkpoints / "last" / "state.json").write_bytes(content)
    manifest = checkpoints / "last" / "MANIFEST.json"
    sums = json.loads(manifest.read_text()) | {"state.json": hashlib.sha256(content).hexdigest()}
    manifest.write_text(json.dumps(sums))


def _other_run(checkpoints: Path, table: Path, tmp_path: Path) -> None:
    elsewhere = stopped_in_a_network(table, tmp_path / "elsewhere", replace(SAVING, seed=1))
    shutil.rmtree(checkpoints)
    shutil.copytree(elsewhere / "candidates" / "network-table-2" / "checkpoints", checkpoints)


def _both_damaged(checkpoints: Path, table: Path, tmp_path: Path) -> None:
    for name in ("last", "previous"):
        _cut(checkpoints / name / "model.safetensors")


def _last_damaged(checkpoints: Path, table: Path, tmp_path: Path) -> None:
    _cut(checkpoints / "last" / "training.safetensors")


def _pipes(checkpoints: Path, table: Path, tmp_path: Path) -> None:
    for name in ("last/MANIFEST.json", "previous/state.json"):
        _fifo(checkpoints / name)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_other_fold, "restarts, as its checkpoints are of another model, other rows, other settings or "),
        (_other_run, "restarts, as its checkpoints are of another model, other rows, other settings or "),
        (_both_damaged, "restarts, as no checkpoint is intact"),
        (
            _last_damaged,
            "is damaged: its sha256 does not match MANIFEST.json. Resuming from the previous checkpoint",
        ),
        (_pipes, "restarts, as no checkpoint is intact"),
    ],
)
def test_checkpoints_of_a_network_are_used_for_that_network_alone(
    finished: Finished,
    stopped_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path, Path, Path], None],
    told: str,
) -> None:
    reported = without_results(monkeypatch)
    run = Path(shutil.copytree(stopped_run, tmp_path / "runs" / stopped_run.name))
    damage(run / "candidates" / "network-table-2" / "checkpoints", finished.table, tmp_path)
    reported.clear()
    resume(run, console=QUIET)
    assert model_bytes(run) == finished.model
    (line,) = [line for line in reported[0] if line.startswith("network, table, fold 2: ")]
    assert told in line


def test_checkpoints_of_another_run_of_one_network_are_refused_unless_forced(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_results(monkeypatch)

    class Stop(StopAtBatch):
        def before_fit(self, state: TrainState) -> None:
            self.fits = 2

    runs = []
    for seed in (0, 1):
        train = replace(SAVING, preset="network", folds=None, seed=seed)
        with pytest.raises(Stopped):
            small_fit(finished.table, tmp_path / f"{seed}", train=train, callbacks=[Stop()])
        runs += (tmp_path / f"{seed}").iterdir()
    shutil.rmtree(runs[0] / "checkpoints")
    shutil.copytree(runs[1] / "checkpoints", runs[0] / "checkpoints")
    with pytest.raises(DataError, match="has the weights of another network: its settings, data or seed are not those"):
        resume(runs[0], console=QUIET)
    resume(runs[0], console=QUIET, force=True)
    assert (runs[0] / "model" / "mixfit.json").is_file()


# --- callbacks ------------------------------------------------------------------------------------------------------


class Freeze(Callback):
    """One of a user, with a setting and a state that an earlier fit has left."""

    chooses = False

    def __init__(self, epochs: Any) -> None:
        self.epochs, self.seen = epochs, 0

    def before_epoch(self, state: TrainState) -> None:
        self.seen += 1


def doubled(position: float) -> float:
    return 2 * position


OTHERS: dict[str, tuple[list[Callback], list[Callback]]] = {
    "averages and none": ([ExponentialMovingAverage(0.5)], []),
    "decay": ([ExponentialMovingAverage(0.5)], [ExponentialMovingAverage(0.6)]),
    "start": ([StochasticWeightAveraging(0.5)], [StochasticWeightAveraging(0.6)]),
    "class": ([ExponentialMovingAverage()], [StochasticWeightAveraging()]),
    "clipping": ([GradientClipping(1.0)], [GradientClipping(max_value=1.0)]),
    "parts": ([GradientAccumulation(2)], [GradientAccumulation(3)]),
    "precision": ([MixedPrecision("float16")], [MixedPrecision("bfloat16")]),
    "scale": ([MixedPrecision("float16")], [MixedPrecision("float16", scale=2.0)]),
    "mode": ([EarlyStopping(mode="min", patience=2)], [EarlyStopping(mode="max", patience=2)]),
    "patience": ([EarlyStopping(mode="min", patience=2)], [EarlyStopping(mode="min", patience=3)]),
    "shape": ([Schedule("lr", Linear(0.0, 1.0))], [Schedule("lr", Cosine(0.0, 1.0))]),
    "number in a shape": ([Schedule("lr", Linear(0.0, 1.0))], [Schedule("lr", Linear(0.0, 0.9))]),
    "function": ([Schedule("lr", abs)], [Schedule("lr", doubled)]),
    "cycle": ([OneCycle()], [OneCycle(warmup=0.3)]),
    "momentum": ([OneCycle()], [OneCycle(momentum=(0.9, 0.8))]),
    "of a user": ([Freeze(1)], [Freeze(2)]),
    "lists": ([Freeze([1, {2: "a"}])], [Freeze([1, {2: "b"}])]),
    "sets": ([Freeze({"a", "b"})], [Freeze({"a", "c"})]),
    "arrays": ([Freeze(np.arange(3))], [Freeze(np.arange(4))]),
    "tensors": ([Freeze(torch.tensor([1.0]))], [Freeze(torch.tensor([2.0]))]),
    "types": ([Freeze(torch.float16)], [Freeze(torch.bfloat16)]),
    "part of a function": ([Freeze(partial(max, 1))], [Freeze(partial(max, 2))]),
    "two and one": ([Freeze(1), Freeze(1)], [Freeze(1)]),
    "order of two": ([Freeze(1), Freeze(2)], [Freeze(2), Freeze(1)]),
}


@pytest.mark.parametrize("pair", OTHERS)
def test_other_callbacks_and_other_settings_of_them_are_told_apart(pair: str) -> None:
    one, other = OTHERS[pair]
    assert callbacks_digest(one) != callbacks_digest(other)
    assert callbacks_digest(one) == callbacks_digest([*one])


def test_neither_those_that_look_on_nor_what_a_fit_leaves_in_a_callback_makes_it_another() -> None:
    none = callbacks_digest([])
    assert callbacks_digest([Recorder(), JsonLines(io.StringIO()), StopAtBatch()]) == none
    used = [Freeze(1), EarlyStopping(mode="min", patience=2), MixedPrecision("float16")]
    fresh = callbacks_digest(used)
    used[0].seen = 7  # type: ignore[attr-defined]
    used[1].best, used[1].bad_epochs = 0.3, 1  # type: ignore[attr-defined]
    used[2].scale, used[2].skipped = 8.0, 2  # type: ignore[attr-defined]
    assert callbacks_digest(used) == fresh
    assert callbacks_digest([used[2], used[0], used[1]]) == fresh  # they act in the order that they have


CHANGES = {
    "one that does not choose is dropped": ([ExponentialMovingAverage(0.5)], []),
    "one that chooses is dropped": ([EarlyStopping(mode="min", patience=1)], []),
    "one is added": ([], [GradientClipping(0.1)]),
    "a setting": ([EarlyStopping(mode="min", patience=2)], [EarlyStopping(mode="min", patience=1)]),
}


@pytest.mark.parametrize(
    "change",
    [pytest.param(name, marks=[pytest.mark.long] if name == "one that chooses is dropped" else []) for name in CHANGES],
)
def test_with_other_callbacks_the_networks_are_fitted_again_and_no_other_model(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    began, went_on = CHANGES[change]
    reported = without_results(monkeypatch)
    run = small_fit(finished.table, tmp_path / "runs", callbacks=began).folder
    networks = len(list((run / "candidates").glob("network*.json")))
    reported.clear()
    resume(run, console=QUIET, callbacks=went_on)
    told = [line for line in reported[0] if "it is fitted again" in line]
    assert len(told) == networks > 0
    assert all(
        line.startswith("network, ")
        and "the saved model was trained with other callbacks or callback settings; it is" in line
        for line in told
    )
    whole = finished.model if not went_on else None
    if whole is None:
        whole = model_bytes(small_fit(finished.table, tmp_path / "whole", callbacks=went_on).folder)
    assert model_bytes(run) == whole


def test_a_run_stopped_with_callbacks_names_them_and_goes_on_with_them_to_the_bit(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported = without_results(monkeypatch)
    average, clipping = ExponentialMovingAverage(0.5), GradientClipping(0.5)
    with pytest.raises(Stopped) as stop:
        small_fit(finished.table, tmp_path / "runs", train=SAVING, callbacks=[average, clipping, StopAtBatch()])
    (run,) = (tmp_path / "runs").iterdir()
    again = f"mixfit.resume({str(run)!r}, callbacks=[ExponentialMovingAverage(...), GradientClipping(...)])"
    assert str(stop.value).endswith(f"Resume in Python with the same callbacks: {again}")
    other = shutil.copytree(run, tmp_path / run.name)
    reported.clear()
    resume(run, console=QUIET, callbacks=[average, clipping])
    assert not [line for line in reported[0] if "fold" in line]
    whole = small_fit(finished.table, tmp_path / "whole", train=SAVING, callbacks=[average, clipping])
    assert model_bytes(run) == model_bytes(whole.folder)
    reported.clear()
    resume(other, console=QUIET)
    assert model_bytes(other) == finished.model
    assert any("fold 2: its training restarts" in line and "other callbacks" in line for line in reported[0])


def test_the_one_network_of_a_run_does_not_go_on_with_other_callbacks(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported = without_results(monkeypatch)
    stop = StopAtBatch()
    stop.fits = 1
    clipping = GradientClipping(0.1)
    with pytest.raises(Stopped, match=r"mixfit\.resume\(.*callbacks=\[GradientClipping\(\.\.\.\)\]\)$"):
        small_fit(
            finished.table, tmp_path, train=replace(SAVING, preset="network", folds=None), callbacks=[clipping, stop]
        )
    (run,) = tmp_path.iterdir()
    with pytest.raises(ConfigError, match="was started with other callbacks or callback settings: pass the same"):
        resume(run, console=QUIET)
    forced = Path(shutil.copytree(run, tmp_path / "forced"))
    reported.clear()
    resume(forced, console=QUIET, force=True)
    assert "From here on, the training uses other callbacks than before." in reported[0]
    resume(run, console=QUIET, callbacks=[clipping])
    resume(run, console=QUIET)  # it is finished: its results alone are written again
