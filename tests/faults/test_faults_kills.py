"""Fault cases 30 to 33: processes that are killed, disks that are full, signals."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import killed_fits
import pytest
from limits import files_of_at_most
from tiny_fit import BATCHES, loaders, same_bytes, tiny_fit

from mixfit.errors import ResourceError, Stopped
from mixfit.training.callback import Callback, TrainState
from mixfit.training.checkpoint import newest_checkpoint, read_checkpoint


@pytest.mark.parametrize("kills", [15, pytest.param(50, marks=pytest.mark.long)])
def test_f30_kill_9_at_random_moments_loses_no_bit(tmp_path: Path, kills: int) -> None:
    """Every batch is saved, so that most of the kills come while a checkpoint is written."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "torn").mkdir()
    whole = tiny_fit(tmp_path / "whole", seconds=1000.0)
    killing = subprocess.run(
        [sys.executable, killed_fits.__file__, str(tmp_path / "torn"), str(kills)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert killing.returncode == 0, killing.stderr
    assert int(killing.stdout)  # some kills came in the middle of a writing
    for folder in (tmp_path / "torn").iterdir():
        assert same_bytes(tiny_fit(folder), whole)


def test_f31_bytes_are_on_the_disk_before_their_names_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut keeps what was flushed: each file before it is renamed, and the folder after its own renaming."""
    tiny_fit(tmp_path, seconds=1000.0)
    snapshot = read_checkpoint(tmp_path / "checkpoints" / "last")
    calls: list[tuple[str, str]] = []
    real_sync, real_rename, real_replace = os.fsync, Path.rename, Path.replace

    def sync(descriptor: int) -> None:
        calls.append(("flush", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        real_sync(descriptor)

    def rename(path: Path, to: Any) -> Path:
        calls.append(("rename", Path(to).name))
        return real_rename(path, to)

    def replace(path: Path, to: Any) -> Path:
        calls.append(("rename", Path(to).name))
        return real_replace(path, to)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(Path, "replace", replace)
    from mixfit.training.checkpoint import write_last

    write_last(tmp_path / "checkpoints", snapshot)
    for name in ("model.safetensors", "training.safetensors", "state.json", "MANIFEST.json"):
        place = calls.index(("rename", name))
        kind, flushed = calls[place - 1]
        assert kind == "flush"
        assert name in flushed or "(deleted)" in flushed  # the temporary file of that name, or one without a name
        assert calls[place + 1][0] == "flush"  # the folder that has the new name
    assert calls[-3:] == [("rename", "previous"), ("rename", "last"), ("flush", "checkpoints")]


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "state.json", "MANIFEST.json"])
@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_f31_a_torn_file_is_noticed_and_the_checkpoint_before_it_taken(tmp_path: Path, name: str, keep: float) -> None:
    (tmp_path / "whole").mkdir()
    whole = tiny_fit(tmp_path / "whole", seconds=1000.0)
    folder = tmp_path / "torn"
    folder.mkdir()
    with pytest.raises(Stopped):
        tiny_fit(folder, AskToStop(9))
    path = folder / "checkpoints" / "last" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    found = newest_checkpoint(folder / "checkpoints")
    assert found is not None
    assert "checkpoints/last" in found.note
    assert found.step == 8
    assert same_bytes(tiny_fit(folder), whole)


class FullDisk(Callback):
    """From a step on."""

    order = 98

    def __init__(self, step: int) -> None:
        self.step = step

    def after_batch(self, state: TrainState) -> None:
        if state.step >= self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_f32_a_full_disk_ends_in_one_sentence_with_sizes_and_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = tiny_fit(tmp_path / "whole", seconds=1000.0)
    folder = tmp_path / "full"
    folder.mkdir()
    with (
        files_of_at_most(10**9),
        pytest.raises(
            ResourceError,
            match=r"checkpoints/\.last\.new.* cannot be written: .*needs [\d,]+ bytes\. [\d,]+ bytes are free",
        ) as error,
    ):
        tiny_fit(folder, FullDisk(8))
    assert error.value.exit_code == 4
    assert "\n" not in str(error.value)
    found = newest_checkpoint(folder / "checkpoints")
    assert found is not None
    assert found.note == ""
    assert found.step == 7
    assert not [path for path in (folder / "checkpoints").iterdir() if path.name.startswith(".")]
    assert same_bytes(tiny_fit(folder), whole)


class AskToStop(Callback):
    """Sends a signal to this process in the middle of a batch."""

    def __init__(self, step: int, number: int = signal.SIGTERM, *, times: int = 1) -> None:
        self.step, self.number, self.times = step, number, times

    def after_loss(self, state: TrainState) -> None:
        if state.training and state.step == self.step - 1:
            for _ in range(self.times):
                signal.raise_signal(self.number)


@pytest.fixture(autouse=True)
def signals_as_on_a_terminal() -> Iterator[None]:
    """A shell starts what it puts in the background with Ctrl-C ignored, and nohup with SIGHUP, which are left so."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    hang_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, former)
    signal.signal(signal.SIGHUP, hang_up)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("step", [1, 7, 20])
def test_f33_a_signal_finishes_the_batch_saves_and_ends_with_75(tmp_path: Path, number: int, step: int) -> None:
    (tmp_path / "whole").mkdir()
    whole = tiny_fit(tmp_path / "whole", seconds=1000.0)
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    threads = threading.active_count()
    folder = tmp_path / "torn"
    folder.mkdir()
    with pytest.raises(Stopped, match=rf"^stopped by {signal.Signals(number).name} after batch .*\. Go on\.$") as stop:
        tiny_fit(folder, AskToStop(step, number), seconds=1000.0, data=loaders(prefetch=2))
    assert stop.value.exit_code == 75
    found = newest_checkpoint(folder / "checkpoints")
    assert found is not None
    assert found.step == step
    assert threading.active_count() == threads
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before
    assert same_bytes(tiny_fit(folder), whole)


def test_f33_the_second_signal_ends_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tiny_fit(tmp_path, AskToStop(7, signal.SIGINT, times=2), seconds=1000.0)
    found = newest_checkpoint(tmp_path / "checkpoints")
    assert found is not None
    assert found.step == 1  # the batch was not finished


class SignalWhileSaving(Callback):
    """Sends it in the middle of the writing of a checkpoint."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def before_fit(self, state: TrainState) -> None:
        real, count = os.fsync, 0

        def fsync(descriptor: int) -> None:
            nonlocal count
            count += 1
            if count == 30:
                signal.raise_signal(signal.SIGTERM)
            real(descriptor)

        self.monkeypatch.setattr(os, "fsync", fsync)


def test_f33_a_signal_while_a_checkpoint_is_written_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole").mkdir()
    whole = tiny_fit(tmp_path / "whole", seconds=1000.0)
    folder = tmp_path / "torn"
    folder.mkdir()
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        tiny_fit(folder, SignalWhileSaving(patch))
    found = newest_checkpoint(folder / "checkpoints")
    assert found is not None
    assert found.note == ""
    assert same_bytes(tiny_fit(folder), whole)


class SignalInValidation(Callback):
    def before_validate(self, state: TrainState) -> None:
        if state.epoch == 1:
            signal.raise_signal(signal.SIGTERM)


def test_f33_a_signal_in_validation_waits_for_the_end_of_the_epoch(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = tiny_fit(tmp_path / "whole", seconds=1000.0)
    folder = tmp_path / "torn"
    folder.mkdir()
    with pytest.raises(Stopped, match=r"^stopped by SIGTERM after epoch 2\."):
        tiny_fit(folder, SignalInValidation())
    found = newest_checkpoint(folder / "checkpoints")
    assert found is not None
    assert (found.epoch, found.batch, found.step) == (2, 0, 2 * BATCHES)
    assert same_bytes(tiny_fit(folder), whole)


def test_f33_ignored_signals_stay_ignored_and_other_threads_may_train(tmp_path: Path) -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        tiny_fit(tmp_path, AskToStop(7, signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, former)
    elsewhere = tmp_path / "thread"
    elsewhere.mkdir()
    results = []
    thread = threading.Thread(target=lambda: results.append(tiny_fit(elsewhere)))
    thread.start()
    thread.join()
    assert results


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        # The code 75 of a process is checked of a run of a preset, too, 130 here alone.
        pytest.param((signal.SIGINT,), 75, marks=pytest.mark.long),
        ((signal.SIGTERM, signal.SIGTERM), 130),
    ],
)
def test_f33_the_command_line_ends_with_its_code_and_leaves_no_process(
    demo_table: Path, tmp_path: Path, signals: tuple[signal.Signals, ...], code: int
) -> None:
    # enough epochs for the signals to come in between; a large network, so that a batch lasts
    settings = [
        "--preset",
        "network",
        "--epochs",
        "2000",
        "--patience",
        "2000",
        "--batch-size",
        "16",
        "--image-size",
        "32",
        "--tabular-hidden",
        "256",
    ]
    command = [
        sys.executable,
        "-m",
        "mixfit.cli",
        "train",
        str(demo_table),
        "--target",
        "price",
        "--out",
        str(tmp_path),
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, *settings], start_new_session=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("     1 "):
                    break
            for number in signals:
                process.send_signal(number)
                time.sleep(0.02)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    if code == 75:
        (folder,) = tmp_path.glob("vases-price-*")
        assert f"Resume with: mixfit train --resume {folder}" in errors
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
