import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from small_fits import Net, assert_resumes, learner, loaders
from torch import Tensor

from mixfit.errors import ConfigError, ResourceError
from mixfit.training.callback import Callback, TrainState
from mixfit.training.callbacks.guards import OutOfMemoryGuard
from mixfit.training.optimizer import SGD

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


class Small(Net):
    """A network whose memory holds only so many rows in training."""

    def __init__(self, rows: int, error: BaseException = ERRORS[0]) -> None:
        torch.manual_seed(0)
        super().__init__(norm=False, drop=0.0)
        self.rows, self.error = rows, error

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) > self.rows:
            raise self.error
        return super().forward(x)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=80)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_f36_a_fit_that_lacked_memory_learns_the_same(error: BaseException) -> None:
    console = quiet()
    guard = OutOfMemoryGuard(console=console)
    short = learner(guard, model=Small(5, error), data=loaders(16), optimizer=SGD)
    state = short.fit(3, 0.05)
    enough = learner(data=loaders(16), optimizer=SGD)
    enough.fit(3, 0.05)
    assert guard.lines == [
        f"The batch of 16 rows did not fit in memory: continuing in {parts} parts." for parts in (2, 4)
    ]
    assert console.file.getvalue().splitlines() == guard.lines  # type: ignore[attr-defined]
    assert state.parts == 4
    for a, b in zip(short.model.parameters(), enough.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_f36_after_the_last_time_the_fit_ends_with_advice() -> None:
    guard = OutOfMemoryGuard(times=2, console=quiet())
    with pytest.raises(
        ResourceError,
        match=r"A batch of 16 rows in 4 parts does not fit in memory \(CUDA .*\): train with a smaller batch size",
    ):
        learner(guard, model=Small(2), data=loaders(16)).fit(1, 0.1)
    assert len(guard.lines) == 2


def test_f36_one_row_cannot_be_parted() -> None:
    guard = OutOfMemoryGuard(times=9, console=quiet())
    with pytest.raises(ResourceError, match="A batch of 4 rows in 4 parts"):
        learner(guard, model=Small(0), data=loaders(4)).fit(1, 0.1)


def test_f36_other_errors_pass() -> None:
    guard = OutOfMemoryGuard(console=quiet())
    with pytest.raises(RuntimeError, match="another matter"):
        learner(guard, model=Small(3, RuntimeError("another matter"))).fit(1, 0.1)
    assert guard.lines == []


def test_f36_what_the_failed_attempt_holds_is_given_back() -> None:
    alive: list[int] = []

    class Held:
        def __del__(self) -> None:
            alive.pop()

    class Holding(Small):
        def forward(self, x: Tensor) -> Tensor:
            held = Held()
            alive.append(1)
            return super().forward(x) + 0 * len(repr(held))

    class Look(Callback):
        order = 10
        seen = -1

        def on_out_of_memory(self, state: TrainState) -> None:
            self.seen = len(alive)

    look = Look()
    learner(OutOfMemoryGuard(console=quiet()), look, model=Holding(5)).fit(1, 0.1)
    assert look.seen == 0


def test_f36_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def make() -> Any:
        return LackAt(OutOfMemoryGuard(console=quiet()))

    callback = assert_resumes(tmp_path, make, stops=(9,))
    assert callback.guard.lines == ["The batch of 8 rows did not fit in memory: continuing in 2 parts."]


class LackAt(Callback):
    """The guard, in a fit that lacks memory once, at step 6."""

    def __init__(self, guard: OutOfMemoryGuard) -> None:
        self.guard = guard

    def state_dict(self) -> dict[str, Any]:
        return self.guard.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.guard.load_state_dict(state)

    def before_fit(self, state: TrainState) -> None:
        self.guard.before_fit(state)

    def after_prediction(self, state: TrainState) -> None:
        if state.training and state.step == 6 and state.parts == 1:
            raise torch.OutOfMemoryError("out of memory")

    def on_out_of_memory(self, state: TrainState) -> None:
        self.guard.on_out_of_memory(state)


def test_f36_times_below_1_are_refused() -> None:
    with pytest.raises(ConfigError, match="times must be at least 1, got 0"):
        OutOfMemoryGuard(0)


REALLY = """
import resource, sys
from dataclasses import dataclass
from typing import Any
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
import mixfit

@dataclass
class Loaders:
    train: Any
    valid: Any
    target: None = None

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 20_000), nn.Linear(20_000, 1)
    def forward(self, x):
        return self.b(self.a(x).relu())[:, 0]

torch.manual_seed(0)
rows = TensorDataset(torch.randn(512, 2), torch.randn(512))
few = TensorDataset(torch.randn(8, 2), torch.randn(8))
learner = mixfit.Learner(Wide(), Loaders(DataLoader(rows, batch_size=512), DataLoader(few, batch_size=8)),
    loss=mixfit.mse, optimizer=mixfit.SGD, device="cpu")
learner.fit(1, 1e-4, callbacks=[mixfit.training.GradientAccumulation(16)])  # threads and their memory are there now
size = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize"))) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 75_000_000, size + 75_000_000))
guard = mixfit.training.OutOfMemoryGuard()
learner.fit(1, 1e-4, callbacks=[guard])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_f36_a_process_that_really_runs_out_of_memory_goes_on_in_parts() -> None:
    # Otherwise a thread of its own may reserve 64 MB of addresses for what it allocates, nearly all that is left.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", REALLY], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert 1 <= len(lines) <= 3
    assert lines[0] == "The batch of 512 rows did not fit in memory: continuing in 2 parts."
