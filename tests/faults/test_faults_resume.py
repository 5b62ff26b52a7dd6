"""Fault cases 29, 31, 34 and 40 on the command line: runs that are stopped, resumed, locked, or have other data."""

import json
import multiprocessing
import shutil
import signal
import tomllib
from pathlib import Path

import pytest
from command_line import mixfit

from mixfit.auto import network_run
from mixfit.errors import ResourceError
from mixfit.runs.folder import locked
from mixfit.training.callback import TrainState
from mixfit.training.callbacks.displays import ProgressLines

SETTINGS = (
    "--preset",
    "network",
    "--epochs",
    "3",
    "--image-size",
    "32",
    "--tabular",
    "mlp",
    "--numbers",
    "plain",
    "--tabular-hidden",
    "16",
    "--encoding-dim",
    "8",
)


class SignalAt(ProgressLines):
    """Progress as usual, and a signal at a step."""

    step = 0

    def after_step(self, state: TrainState) -> None:
        if state.step == self.step:
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture
def own_table(demo_table: Path, tmp_path: Path) -> Path:
    shutil.copytree(demo_table.parent, tmp_path / "vases")
    return tmp_path / "vases" / "table.csv"


def train(capsys: pytest.CaptureFixture[str], table: Path, out: Path) -> tuple[int, str, Path]:
    code, printed = mixfit(capsys, "train", table, "--target", "price", "--out", out, *SETTINGS)
    (run,) = out.iterdir()
    return code, printed, run


@pytest.fixture
def stopped(
    own_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A run that was stopped in the middle of its second epoch."""
    with monkeypatch.context() as patch:
        patch.setattr(network_run, "ProgressLines", SignalAt)
        patch.setattr(SignalAt, "step", 6)
        code, printed, run = train(capsys, own_table, tmp_path / "torn")
    assert code == 75
    assert f"stopped by SIGTERM after batch 2 of 4 of epoch 2. Resume with: mixfit train --resume {run}" in printed
    assert not (run / "model").exists()
    return run


def test_f29_a_resumed_run_is_the_undisturbed_one_to_the_byte(
    stopped: Path, own_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, whole = train(capsys, own_table, tmp_path / "whole")
    assert code == 0
    code, printed = mixfit(capsys, "train", "--resume", stopped)
    assert code == 0
    assert "resuming at epoch 2, batch 3 of 4" in printed
    for name in ("model/model.safetensors", "model/mixfit.json", "predictions_valid.parquet", "bad_inputs.csv"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name
    losses = [
        [line.get("valid_loss") for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())]
        for run in (whole, stopped)
    ]
    assert losses[0] == losses[1]
    assert any(losses[0])
    before = (stopped / "model" / "model.safetensors").read_bytes()
    code, printed = mixfit(capsys, "train", "--resume", stopped)
    assert code == 0
    assert "the training is finished: rewriting its results" in printed
    assert (stopped / "model" / "model.safetensors").read_bytes() == before


def test_f29_a_run_that_saved_nothing_begins_anew(
    stopped: Path, own_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(stopped / "checkpoints")
    _, _, whole = train(capsys, own_table, tmp_path / "whole")
    code, printed = mixfit(capsys, "train", "--resume", stopped)
    assert code == 0
    assert "nothing was saved yet: restarting" in printed
    assert (stopped / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()


def test_f31_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = stopped / "checkpoints" / "last" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    code, printed = mixfit(capsys, "train", "--resume", stopped)
    assert code == 0
    assert f"{stopped}/checkpoints/last/model.safetensors is damaged: its sha256" in printed
    assert "Resuming from the previous checkpoint." in printed


def test_f34_a_folder_that_is_none_and_flags_that_would_be_lost(
    stopped: Path, own_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = mixfit(capsys, "train", "--resume", tmp_path)
    assert (code, printed) == (2, f"mixfit: {tmp_path} is not a run folder: it has no config.toml.\n")
    code, printed = mixfit(capsys, "train", "--resume", stopped, "--epochs", "9")
    assert code == 2
    assert "A resumed run reads its settings from its folder: leave out all flags except --force." in printed
    code, printed = mixfit(capsys, "train")
    assert code == 2
    assert "needs a table and --target" in printed


def hold(folder: Path, ready: "multiprocessing.synchronize.Event", end: "multiprocessing.synchronize.Event") -> None:
    with locked(folder):
        ready.set()
        end.wait(60)


def test_f34_a_run_that_another_process_trains_is_refused_with_its_number(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = multiprocessing.get_context("fork")
    ready, end = context.Event(), context.Event()
    other = context.Process(target=hold, args=(stopped, ready, end))
    other.start()
    assert ready.wait(60)
    code, printed = mixfit(capsys, "train", "--resume", stopped)
    assert code == 4
    assert f"{stopped} is in use by process {other.pid}: wait for it, or stop it with: kill {other.pid}" in printed
    other.kill()  # its lock goes with it, although the file stays
    other.join()
    assert (stopped / ".lock").is_file()
    with locked(stopped):
        pass
    assert not (stopped / ".lock").exists()


def test_f34_a_run_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"), locked(tmp_path / "file"):
        pass


def test_f40_changed_data_are_refused_unless_forced_and_that_is_noted(
    stopped: Path, own_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = own_table.read_text()
    own_table.write_text(text + "\n")
    code, printed = mixfit(capsys, "train", "--resume", stopped)
    assert code == 3
    assert (
        "the table has changed since this run: its bytes differ: start a new training, or resume with --force."
        in printed
    )
    code, printed = mixfit(capsys, "train", "--resume", stopped, "--force")
    assert code == 0
    assert "warning: the table has changed since this run" in printed
    (forced,) = json.loads((stopped / "environment.json").read_text())["resumed_by_force"]
    assert "the table has changed since this run: its bytes differ" in forced


def test_f40_another_architecture_is_refused_and_other_versions_are_a_warning(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = json.loads((stopped / "environment.json").read_text())
    (stopped / "environment.json").write_text(json.dumps(facts | {"torch": "1.0"}))
    config = stopped / "config.toml"
    original = config.read_text()
    config.write_text(original.replace("encoding_dim = 8", "encoding_dim = 16"))
    assert tomllib.loads(config.read_text())["model"]["encoding_dim"] == 16
    code, printed = mixfit(capsys, "train", "--resume", stopped)
    assert code in (2, 3)
    assert "has the shape" in printed or "weights of another network" in printed
    config.write_text(original)
    code, printed = mixfit(capsys, "train", "--resume", stopped)
    assert code == 0
    assert "may differ from that of an uninterrupted run: torch was 1.0, is" in printed


def test_a_run_within_a_time_and_as_lines_of_json(
    own_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--preset", "network", "--epochs", "100000", "--patience", "100000", "--time", "2s", "--json")
    arguments = ("train", own_table, "--target", "price", "--out", tmp_path / "runs", *SETTINGS[4:], *more)
    code, printed = mixfit(capsys, *arguments)
    assert code == 0
    lines = [json.loads(line) for line in printed.splitlines()]
    assert [line["event"] for line in lines[:2]] == ["start", "epoch"]
    assert [line["event"] for line in lines[-2:]] == ["end", "run"]
    assert 0.5 < lines[-2]["seconds"] < 30  # of the 1 s that a training has at least, the last epoch may not fit
    assert lines[-3]["lr"] < 1e-4  # the schedule came to its end
    assert Path(lines[-1]["report"]).is_file()
    code, printed = mixfit(capsys, "train", own_table, "--target", "price", "--time", "soon")
    assert code == 2
    assert "A duration is a number above 0 with s, m or h" in printed
