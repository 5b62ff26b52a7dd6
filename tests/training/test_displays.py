"""Lines, JSON and tables that show how training goes."""

import io
import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from small_fits import learner, loaders, net
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mixfit.errors import ConfigError, ResourceError
from mixfit.training.callback import Callback, TrainState
from mixfit.training.callbacks.displays import (
    PARTS,
    EpochTimes,
    JsonLines,
    NotebookProgress,
    Profiler,
    ProgressLines,
)
from mixfit.training.callbacks.recorder import Recorder
from mixfit.training.callbacks.steps import GradientAccumulation
from mixfit.training.callbacks.tracking import TensorBoard
from mixfit.training.checkpoint import take
from mixfit.training.metrics import MAE


class Now:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds


# Profiler


def test_the_profile_says_where_the_time_went(monkeypatch: pytest.MonkeyPatch) -> None:
    now = Now()
    monkeypatch.setattr("mixfit.training.callbacks.displays.time", now)
    data, model = loaders(), net(norm=False, drop=0.0)

    def taking(seconds: float, function: Any) -> Any:
        def slow(*arguments: Any, **named: Any) -> Any:
            now.seconds += seconds
            return function(*arguments, **named)

        return slow

    class Slow(Callback):
        def after_backward(self, state: TrainState) -> None:
            now.seconds += 100.0

    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            now.seconds += 4.0
            return gradient

    monkeypatch.setattr(data.train, "_fetch", taking(1.0, data.train._fetch))
    monkeypatch.setattr(data.valid, "_fetch", taking(1000.0, data.valid._fetch))
    model.last.forward = taking(2.0, model.last.forward)  # type: ignore[method-assign]
    for parts in (1, 2):
        profiler = Profiler(console=Console(file=io.StringIO(), width=80))
        loss = taking(3.0, lambda prediction, y: Backward.apply(prediction - y).square().mean())
        subject = learner(profiler, Slow(), GradientAccumulation(parts), model=model, data=data, loss=loss)
        optimizer = subject.optimizer
        subject.optimizer = lambda *a, o=optimizer, **k: _slow_step(o(*a, **k), taking)
        subject.fit(2, 0.01)
        # 10 batches, and two validations of two batches each
        assert profiler.seconds == {
            "data": 10 * 1.0,
            "forward": 10 * parts * 2.0,
            "loss": 10 * parts * 3.0,
            "backward": 10 * parts * 4.0,
            "step": 10 * 7.0,
            "callbacks": 10 * 100.0,
            "validation": 4 * 1005.0,
            "other": 0.0,
        }
        table = profiler.table
        assert list(table.index) == list(PARTS)
        assert table["share"].sum() == pytest.approx(1.0)
        assert table["us_a_step"]["data"] == pytest.approx(1e6)
        lines = profiler.console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert len(lines) == 1 + len(PARTS)
        assert lines[2].split() == ["forward", f"{20.0 * parts:.3f}", *lines[2].split()[2:]]
        assert not model._forward_pre_hooks


def _slow_step(optimizer: Any, taking: Any) -> Any:
    optimizer.step = taking(7.0, optimizer.step)
    return optimizer


def test_the_profiler_takes_its_hook_away_after_an_error() -> None:
    class Break(Callback):
        def after_loss(self, state: TrainState) -> None:
            raise ZeroDivisionError

    subject = learner(Break(), Profiler(console=Console(quiet=True)))
    with pytest.raises(ZeroDivisionError):
        subject.fit(1, 0.1)
    assert not subject.model._forward_pre_hooks


# TensorBoard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(folder)).Reload()
    return {tag: [(point.step, point.value) for point in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_gets_every_step_and_epoch(tmp_path: Path) -> None:
    subject = learner(TensorBoard(tmp_path, every=3), metrics=[MAE])
    state = subject.fit_one_cycle(2, 0.01)
    found = scalars(tmp_path)
    assert set(found) == {"step/loss", "step/lr", "epoch/train_loss", "epoch/valid_loss", "epoch/mae"}
    assert [step for step, _ in found["step/loss"]] == list(range(1, 11))
    assert [step for step, _ in found["epoch/mae"]] == [5, 10]
    assert found["epoch/mae"][-1][1] == pytest.approx(state.metrics["mae"], rel=1e-6)
    assert max(lr for _, lr in found["step/lr"]) == pytest.approx(0.01, rel=0.05)


def test_steps_that_are_done_again_replace_those_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The later file would come first among those of one second: TensorBoard reads them by name.
    hosts = iter(["b", "a"])
    monkeypatch.setattr("socket.gethostname", lambda: next(hosts))

    class Snap(Callback):
        order = 100
        taken: Any = None

        def after_epoch(self, state: TrainState) -> None:
            if state.epoch == 0:
                self.taken = take(state, epoch_is_over=True)
            if state.epoch == 1:
                raise ZeroDivisionError

    snap = Snap()
    with pytest.raises(ZeroDivisionError):
        learner(TensorBoard(tmp_path), snap).fit(3, 0.01)
    learner(TensorBoard(tmp_path)).fit(3, 0.01, resume=snap.taken)
    found = scalars(tmp_path)
    assert [step for step, _ in found["step/loss"]] == list(range(1, 16))
    assert [step for step, _ in found["epoch/valid_loss"]] == [5, 10, 15]


def test_without_tensorboard_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(
        ResourceError, match=r"TensorBoard is not installed; install it with: pip install 'mixfit\[track"
    ):
        TensorBoard(tmp_path)


def test_steps_below_1_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="every must be at least 1 step, got 0"):
        TensorBoard(tmp_path, every=0)


# JSON lines


def test_every_line_is_json_and_nothing_is_infinite() -> None:
    class Nan(Callback):
        order = -10

        def after_epoch(self, state: TrainState) -> None:
            state.metrics["odd"] = math.nan

    stream = io.StringIO()
    state = learner(Nan(), JsonLines(stream), metrics=[MAE]).fit(2, 0.01)
    lines = [json.loads(line, parse_constant=pytest.fail) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["start", "epoch", "epoch", "end"]
    assert lines[0] == {"event": "start", "epochs": 2, "steps": 10}
    first, last = lines[1], lines[2]
    names = {"event", "epoch", "step", "lr", "metrics", "rows_per_second", "wait_share", "seconds", "seconds_left"}
    assert first.keys() == names
    assert (first["epoch"], first["step"], last["epoch"]) == (1, 5, 2)
    assert last["metrics"] == {**state.metrics, "odd": None}
    assert first["rows_per_second"] > 0
    assert first["seconds_left"] >= 0
    assert last["seconds_left"] == 0
    assert lines[3] | {"seconds": 0} == {"event": "end", "epoch": 2, "step": 10, "seconds": 0, "error": None}


def test_the_last_line_tells_the_error() -> None:
    class Break(Callback):
        def after_step(self, state: TrainState) -> None:
            raise ZeroDivisionError("by nothing")

    stream = io.StringIO()
    with pytest.raises(ZeroDivisionError):
        learner(JsonLines(stream), Break()).fit(2, 0.01)
    assert json.loads(stream.getvalue().splitlines()[-1])["error"] == "ZeroDivisionError: by nothing"


# Speed and time left


def test_speed_and_time_left_are_of_the_rows_of_this_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = Now()
    monkeypatch.setattr("mixfit.training.callbacks.displays.time", now)
    seen: list[tuple[float, float, float]] = []

    class Slow(Callback):
        order = -100

        def after_backward(self, state: TrainState) -> None:
            now.seconds += 3.0

        def before_batch(self, state: TrainState) -> None:
            now.seconds += 1.0 if state.training else 0.0

        def before_validate(self, state: TrainState) -> None:
            now.seconds += 10.0

    class Look(EpochTimes):
        def after_epoch(self, state: TrainState) -> None:
            seen.append((self.rows_per_second(state), self.wait_share, self.seconds_left(state)))

    learner(Slow(), Look()).fit(2, 0.01)
    assert seen[0] == pytest.approx((38 / 20, 0.25, 30 * (1 - 5 / 9) / (5 / 9)))
    assert seen[1] == pytest.approx((38 / 20, 0.25, 0.0))


@pytest.mark.parametrize("metric", [None, "mae"])
def test_lines_are_80_columns_wide_at_most(metric: str | None) -> None:
    stream = io.StringIO()
    scaled = loaders()
    for loader in (scaled.train, scaled.valid):
        loader.dataset.tensors = (loader.dataset.tensors[0], loader.dataset.tensors[1] * -1.2345e11)
    console = Console(file=stream, width=200)
    learner(ProgressLines(metric, console=console), data=scaled, metrics=[MAE]).fit(2, 0.01)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) <= 80


# Notebooks


class FakeDisplay(ModuleType):
    """As much of IPython.display as is used."""

    def __init__(self) -> None:
        super().__init__("IPython.display")
        self.shown: list[str] = []

    def HTML(self, text: str) -> str:  # noqa: N802 - IPython's name
        return text

    def display(self, text: str, *, display_id: bool) -> Any:
        assert display_id
        self.shown.append(text)
        return SimpleNamespace(update=self.shown.append)


def fake_notebook(monkeypatch: pytest.MonkeyPatch, *, kernel: bool) -> FakeDisplay:
    display, ipython = FakeDisplay(), ModuleType("IPython")
    shell = SimpleNamespace(kernel="kernel") if kernel else None
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    ipython.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return display


def test_a_notebook_shows_a_table_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    display = fake_notebook(monkeypatch, kernel=True)
    console = Console(file=io.StringIO())
    state = learner(NotebookProgress("mae", console=console), metrics=[MAE]).fit(2, 0.01)
    first, last = display.shown[0], display.shown[-1]
    assert first.count("<tr>") == 1
    assert "<th>mae</th>" in first
    assert any("epoch 1, step 1 of 10" in text and " left</p>" in text for text in display.shown)
    assert last.count("<tr>") == 3
    assert f"<td>{state.metrics['mae']:.4g}</td>" in last
    assert last.endswith("</table>")
    assert last.count("<td>") == 2 * last.count("<th>")
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize("installed", [False, True])
def test_outside_of_a_notebook_there_are_lines(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    display = fake_notebook(monkeypatch, kernel=False)
    if not installed:
        monkeypatch.setitem(sys.modules, "IPython", None)
    console = Console(file=io.StringIO(), width=80)
    learner(NotebookProgress(console=console)).fit(2, 0.01)
    assert len(console.file.getvalue().splitlines()) == 3  # type: ignore[attr-defined]
    assert display.shown == []


# Recorder


def test_the_recorder_of_a_learner_is_at_hand() -> None:
    recorder = Recorder()
    subject = learner(recorder)
    subject.fit(2, 0.01)
    assert subject.recorder is recorder
    (axes,) = subject.recorder.plot_loss().axes
    assert axes.get_legend_handles_labels()[1] == ["step", "training rows", "validation rows"]
    assert len(axes.lines[0].get_xdata()) == len(recorder.steps)


def test_a_learner_without_recorder_says_how_to_have_one() -> None:
    with pytest.raises(ConfigError, match=r"no Recorder: make it with callbacks=\[mixfit\.Recorder\(\)\]"):
        _ = learner().recorder
