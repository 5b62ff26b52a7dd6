"""Trackers of whole runs, from the command line to what TensorBoard reads."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from quick_runs import QUICK_DATA, QUICK_MODEL, QUICK_TRAIN
from rich.console import Console
from small_fits import loaders, net
from small_runs import MODEL, in_few_folds
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mixfit.auto.recipe import Run, fit
from mixfit.auto.tracked import tracked
from mixfit.cli import main
from mixfit.config import DataConfig, TrainConfig
from mixfit.demo import DEMO_TARGET
from mixfit.errors import ConfigError
from mixfit.training.callbacks.tracking import TensorBoard, TrackedRun, Tracker
from mixfit.training.learner import Learner
from mixfit.training.loss import mse
from mixfit.training.optimizer import SGD

QUIET = Console(quiet=True)
TABLE_ALONE = DataConfig(ignore=("photos",))
SMALL = ["--ignore", "photos", "--preset", "network", "--epochs", "2", "--tabular", "mlp", "--tabular-hidden", "16"]


def exit_code(arguments: list[str]) -> object:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return stopped.value.code


def board(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def test_track_tensorboard_logs_settings_epochs_scores_and_figures(demo_table: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path)]
    assert exit_code(["train", str(demo_table), "--target", DEMO_TARGET, *SMALL, *out, "--track", "tensorboard"]) == 0
    (folder,) = tmp_path.iterdir()
    found = board(folder / "tensorboard")
    assert [point.step for point in found.Scalars("epoch/train_loss")] == sorted(
        {point.step for point in found.Scalars("epoch/train_loss")}
    )
    assert len(found.Scalars("epoch/valid_loss")) == 2
    assert "score/test/mae" in found.Tags()["scalars"]
    assert set(found.Tags()["images"]) == {"report/scores", "report/predictions"}
    (settings,) = found.Tensors("settings/text_summary")
    assert b"| train.epochs | 2 |" in settings.tensor_proto.string_val[0]
    assert exit_code(["train", "--resume", str(folder), "--track", "tensorboard"]) == 0  # of a finished run


def test_each_network_and_fold_has_a_curve_of_its_own(
    demo_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_few_folds(monkeypatch)
    train = TrainConfig(preset="quick", epochs=2, report=False)
    run = fit(
        demo_table, target=DEMO_TARGET, data=TABLE_ALONE, model=MODEL, train=train,
        out=tmp_path / "runs", console=QUIET, callbacks=[TensorBoard(tmp_path / "board")],
    )  # fmt: skip
    folders = sorted(path.name for path in (tmp_path / "board").iterdir() if path.is_dir())
    networks = {name.rpartition("_fold_")[0] for name in folders}
    assert networks
    assert folders == sorted(f"{name}_fold_{fold}" for name in networks for fold in range(1, 3))
    for name in folders:
        assert len(board(tmp_path / "board" / name).Scalars("epoch/train_loss")) == 2
    whole = board(tmp_path / "board")
    assert run.contest is not None
    assert [point.value for point in whole.Scalars(f"fold/{run.result.headline}")] == pytest.approx(
        run.contest.fold_scores, rel=1e-6
    )
    assert not list((run.folder).glob("tensorboard"))


def test_a_tracker_that_is_not_installed_is_exit_code_4(
    demo_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, extra in (("mlflow", "mlflow"), ("tensorboard", "track")):
        monkeypatch.setitem(sys.modules, name, None)
        command = ["train", str(demo_table), "--target", DEMO_TARGET, "--out", str(tmp_path / "runs"), "--track", name]
        assert exit_code(command) == 4
        assert f"pip install 'mixfit[{extra}]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert exit_code(["train", str(demo_table), "--target", DEMO_TARGET, "--track", "wandb"]) == 2


class Told(Tracker):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def begin_run(self, folder: Path, settings: object) -> None:
        self.events.append(f"begin {folder.name}")

    def end_run(self, run: TrackedRun) -> None:
        self.events.append("end")
        raise ZeroDivisionError("the log is full")

    def stop_run(self, *, resumable: bool) -> None:
        self.events.append(f"stop, resumable {resumable}")


def fail_after(finished: Callable[[Run], None], run: Run) -> None:
    finished(run)
    raise ConfigError("after the end")


def test_a_tracker_is_told_the_end_once_whatever_it_is(quick_run: Run) -> None:
    own, folder = Told(), Path("runs/x-001")
    with tracked([own], folder, {}, QUIET) as finished:
        finished(quick_run)
    with pytest.raises(KeyboardInterrupt), tracked([own], folder, {}, QUIET):
        raise KeyboardInterrupt
    with pytest.raises(ConfigError), tracked([own], folder, {}, QUIET):
        raise ConfigError("mine")
    with pytest.raises(ConfigError), tracked([own], folder, {}, QUIET) as finished:
        fail_after(finished, quick_run)
    assert [event for event in own.events if not event.startswith("begin")] == [
        "end",
        "stop, resumable True",
        "stop, resumable False",
        "end",
    ]


def test_tensorboard_needs_a_folder_for_a_learner() -> None:
    with pytest.raises(ConfigError, match="for a Learner, name a folder"):
        Learner(net(), loaders(), loss=mse, optimizer=SGD, callbacks=[TensorBoard()]).fit(1, 0.01)


def test_trackers_change_nothing(quick_run: Run, demo_table: Path, tmp_path: Path) -> None:
    run = fit(
        demo_table, target=DEMO_TARGET, data=QUICK_DATA, model=QUICK_MODEL, train=QUICK_TRAIN, out=tmp_path,
        console=QUIET, callbacks=[TensorBoard()],
    )  # fmt: skip
    digest = [(folder / "model" / "model.safetensors").read_bytes() for folder in (run.folder, quick_run.folder)]
    assert digest[0] == digest[1]
