"""Signals and kills in every part of a run of a preset lose nothing that was fitted, and it is said how to go on."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import QUIET, in_few_folds, model_bytes, small_fit, small_table, without_results

from mixfit.auto import preset_run, recipe, started
from mixfit.auto.kept_models import RunKeeper
from mixfit.auto.recipe import resume
from mixfit.cli import main
from mixfit.config import DataConfig
from mixfit.ensemble import cross_fit
from mixfit.errors import Stopped
from mixfit.predictor.blend import BlendPredictor
from mixfit.runs import folder as run_folder
from mixfit.training.callbacks.control import SecondSignal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def signals_as_on_a_terminal() -> Iterator[None]:
    """A shell starts what it puts in the background with Ctrl-C ignored, and nohup with SIGHUP, which are left so."""
    handlers = (signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL)
    former = [signal.signal(number, handler) for number, handler in zip(SIGNALS, handlers, strict=True)]
    yield
    now = [signal.getsignal(number) for number in SIGNALS]
    for number, handler in zip(SIGNALS, former, strict=True):
        signal.signal(number, handler)
    assert now == list(handlers)  # whatever happened, the handlers are those of before


@pytest.fixture(scope="module", autouse=True)
def few_folds() -> Iterator[None]:
    """Two are as many as can be stopped between."""
    with pytest.MonkeyPatch.context() as patch:
        in_few_folds(patch)
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_table(tmp_path_factory.mktemp("interrupts") / "numbers")


@pytest.fixture(scope="module")
def unstopped(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    with pytest.MonkeyPatch.context() as patch:
        without_results(patch)
        return small_fit(table, tmp_path_factory.mktemp("whole")).folder


@pytest.fixture(scope="module")
def whole(unstopped: Path) -> dict[str, bytes]:
    """Its model."""
    return model_bytes(unstopped)


@pytest.fixture
def copied(unstopped: Path, tmp_path: Path) -> Path:
    """A copy of it, to be resumed."""
    return Path(shutil.copytree(unstopped, tmp_path / "copies" / unstopped.name))


@pytest.fixture(scope="module")
def with_roles(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with roles that the user gave."""
    roles: dict[str, Any] = {"z": "number", "kind": "category"}
    with pytest.MonkeyPatch.context() as patch:
        without_results(patch)
        return small_fit(table, tmp_path_factory.mktemp("roles"), data=DataConfig(cache_gb=0.0, roles=roles)).folder


def raising(real: Callable[..., Any], numbers: tuple[signal.Signals, ...], *, call: int, after: bool) -> Any:
    """A function that sends this process signals when it is called for the n-th time."""
    calls = [0]

    def function(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] != call:
            return real(*arguments, **named)
        if after:
            real(*arguments, **named)
        for number in numbers[:-1]:
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(number)
        signal.raise_signal(numbers[-1])
        raise AssertionError("the signal was not heeded")

    return function


PLACES: dict[str, tuple[object, str, int, bool]] = {
    "features": (preset_run, "with_features", 1, False),
    "first model": (cross_fit, "fit_model", 1, False),
    "a simple model": (cross_fit, "fit_model", 8, True),
    "between a model and its manifest": (RunKeeper, "_manifest", 4, False),
    "between two networks": (RunKeeper, "watch", 2, True),
    "the blend": (BlendPredictor, "__init__", 1, False),
    "before the model is saved": (preset_run, "save_model", 1, False),
    "the report": (started, "write_results", 1, False),
}


def test_a_signal_while_a_resumed_run_reads_its_data_loses_nothing(
    copied: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    without_results(monkeypatch)
    shutil.rmtree(copied / "model")
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "prepare", raising(recipe.prepare, (signal.SIGTERM,), call=1, after=False))
        with pytest.raises(Stopped, match=r"^stopped by SIGTERM\. \d+ fitted fold models and all settings"):
            resume(copied, console=QUIET)
    resume(copied, console=QUIET)
    assert model_bytes(copied) == whole


@pytest.mark.parametrize(
    ("place", "number"),
    [
        pytest.param(place, number, marks=[pytest.mark.long] if again else [])
        for place in PLACES
        for number in SIGNALS
        if number is signal.SIGINT or place in ("a simple model", "the report")  # the handler is the same
        for again in [number is not signal.SIGINT and place != "a simple model"]
    ],
)
def test_a_signal_in_any_part_ends_with_75_and_the_run_goes_on_to_the_same_bytes(
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: dict[str, bytes],
    place: str,
    number: signal.Signals,
) -> None:
    owner, name, call, after = PLACES[place]
    without_results(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, raising(getattr(owner, name), (number,), call=call, after=after))
        with pytest.raises(Stopped, match=rf"^stopped by {number.name}\. ") as stop:
            small_fit(table, tmp_path)
    assert stop.value.exit_code == 75
    (run,) = tmp_path.iterdir()
    kept = len(list((run / "candidates").glob("*.json")))
    assert str(stop.value).endswith(f" saved in {run}. Resume with: mixfit train --resume {run}")
    assert ("No model has been fitted yet" in str(stop.value)) == (kept == 0)
    assert not (run / ".lock").exists()
    resume(run, console=QUIET)
    assert model_bytes(run) == whole


def test_the_second_signal_ends_at_once_and_says_the_same(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    without_results(monkeypatch)
    with monkeypatch.context() as patch:
        twice = raising(cross_fit.fit_model, (signal.SIGINT, signal.SIGINT), call=3, after=False)
        patch.setattr(cross_fit, "fit_model", twice)
        with pytest.raises(SecondSignal, match=r"^interrupted\. 2 fitted fold models .* --resume"):
            small_fit(table, tmp_path)
    (run,) = tmp_path.iterdir()
    resume(run, console=QUIET)
    assert model_bytes(run) == whole


def test_signals_that_are_ignored_stay_ignored(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    without_results(monkeypatch)
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    real = cross_fit.fit_model

    def hang_up(*arguments: Any, **named: Any) -> Any:
        signal.raise_signal(signal.SIGHUP)
        return real(*arguments, **named)

    monkeypatch.setattr(cross_fit, "fit_model", hang_up)
    try:
        assert model_bytes(small_fit(table, tmp_path).folder) == whole
    finally:
        signal.signal(signal.SIGHUP, former)


def test_a_moved_table_and_force_are_in_the_command_that_goes_on(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copied: Path
) -> None:
    without_results(monkeypatch)
    moved = tmp_path / "a table.csv"
    moved.write_bytes(table.read_bytes())
    monkeypatch.setattr(preset_run, "save_model", raising(preset_run.save_model, (signal.SIGINT,), call=1, after=False))
    with pytest.raises(Stopped) as stop:
        resume(copied, table=moved, force=True, console=QUIET)
    assert str(stop.value).endswith(f"Resume with: mixfit train '{moved}' --resume {copied} --force")


# --- kills while a run begins ---------------------------------------------------------------------------------------


class Killed(BaseException):
    """Nothing of ours catches it."""


def die_at(patch: pytest.MonkeyPatch, write: int) -> None:
    """A process that is killed before it writes the n-th file of the run folder."""
    real, count = run_folder.write_file, [0]

    def write_file(*arguments: Any) -> None:
        if count[0] == write:
            raise Killed
        count[0] += 1
        real(*arguments)

    patch.setattr(run_folder, "write_file", write_file)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_a_kill_between_any_two_writes_at_the_start_lets_the_run_begin_anew(
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unstopped: Path,
    whole: dict[str, bytes],
    written: int,
    given: bool,
) -> None:
    reported = without_results(monkeypatch)
    settings: dict[str, Any] = {"schema": unstopped / "schema.json"} if given else {}
    with monkeypatch.context() as patch:
        die_at(patch, written)
        if written == 3:
            patch.setattr(preset_run, "train_blend", lambda *_, **__: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            small_fit(table, tmp_path / "runs", **settings)
    (run,) = (tmp_path / "runs").iterdir()
    if not (run / "config.toml").exists():
        assert written == 0 or given
        with pytest.raises(recipe.ConfigError, match=r"is not a run folder: it has no config\.toml"):
            resume(run, console=QUIET)
        return
    resume(run, console=QUIET)
    assert model_bytes(run) == whole
    assert {path.name for path in run.iterdir()} >= {"config.toml", "schema.json", "environment.json"}
    assert not [line for line in reported[0] if "environment" in line or "schema" in line]


@pytest.mark.parametrize("missing", [("schema.json",), ("environment.json",), ("schema.json", "environment.json")])
def test_files_that_say_how_a_run_began_and_are_gone_are_written_again(
    with_roles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes], missing: tuple[str, ...]
) -> None:
    without_results(monkeypatch)
    run = Path(shutil.copytree(with_roles, tmp_path / with_roles.name))
    shutil.rmtree(run / "model")
    before = {name: (run / name).read_bytes() for name in missing}
    for name in missing:
        (run / name).unlink()
    resume(run, console=QUIET)
    assert model_bytes(run)["model.safetensors"] == whole["model.safetensors"]
    for name in missing:
        assert (run / name).exists()
        if name == "schema.json":
            assert (run / name).read_bytes() == before[name]


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
def test_the_command_line_ends_with_75_between_two_models_and_says_how_to_go_on(
    table: Path, tmp_path: Path, number: signal.Signals
) -> None:
    settings = ["--preset", "balanced", "--target", "y", "--out", str(tmp_path), "--cache-gb", "0"]
    command = [sys.executable, "-m", "mixfit.cli", "train", str(table), *settings]
    with subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("   linear, table"):
                    break
            process.send_signal(number)
            _, errors = process.communicate(timeout=200)
        finally:
            process.kill()
    assert process.returncode == 75, errors
    assert "Traceback" not in errors
    (run,) = tmp_path.iterdir()
    assert errors.startswith(f"mixfit: stopped by {number.name}. ")
    assert errors.endswith(f"saved in {run}. Resume with: mixfit train --resume {run}\n")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_second_signal_is_130_with_the_same_sentence(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = raising(cross_fit.fit_model, (signal.SIGTERM, signal.SIGTERM), call=2, after=False)
    monkeypatch.setattr(cross_fit, "fit_model", twice)
    with pytest.raises(SystemExit) as stop:
        main(["train", str(table), "--target", "y", "--out", str(tmp_path), "--preset", "quick", "--cache-gb", "0"])
    assert stop.value.code == 130
    (run,) = tmp_path.iterdir()
    said = capsys.readouterr().err
    assert said.startswith(f"mixfit: interrupted. 1 fitted fold model and all settings are saved in {run}.")
    assert said.endswith(f"Resume with: mixfit train --resume {run}\n")


def test_a_search_that_a_signal_ends_says_how_to_go_on(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    from mixfit.auto import tune as tuning

    monkeypatch.setattr(tuning, "_train", raising(tuning._train, (signal.SIGTERM,), call=1, after=False))
    arguments = ["tune", str(table), "--target", "y", "--trials", "2", "--out", str(tmp_path), "--cache-gb", "0"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--preset", "network", "--tabular", "mlp", "--tabular-hidden", "8", "--epochs", "1"])
    assert stop.value.code == 75
    said = capsys.readouterr()
    assert "stopped after 0 of 2 trials; the same command resumes the search" in said.out
    assert "mixfit: stopped by SIGTERM. The search is saved in" in said.err


def test_doctors_are_for_one_network(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--resume", str(copied), "--doctor"])
    assert stop.value.code == 2
    assert "the preset quick trains many models" in capsys.readouterr().err
