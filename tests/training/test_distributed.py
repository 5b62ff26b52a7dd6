"""Two processes train as one: losses and weights up to rounding, one that writes, and none that waits for the dead."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixfit.training.checkpoint import newest_checkpoint

SCRIPT = Path(__file__).parent / "distributed_script.py"


def start(ranks: int, *arguments: object) -> list["subprocess.Popen[str]"]:
    """The script in some processes, with the environment that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    many = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if ranks > 1 else {}
    found = []
    for rank in range(ranks):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
        environment = os.environ | many | own | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(SCRIPT), *map(str, arguments)]
        found.append(
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
    return found


def ended(processes: list["subprocess.Popen[str]"]) -> list[tuple[int, str]]:
    """Exit code and errors of each."""
    found = []
    for process in processes:
        _, errors = process.communicate(timeout=280)
        found.append((process.returncode, errors))
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process, and each of two, came to."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    running = [*start(1, "fit", one), *start(2, "fit", two)]
    assert [(code, errors) for code, errors in ended(running) if code] == []
    names = {"one": one / "0.json", "first": two / "0.json", "second": two / "1.json"}
    return {name: json.loads(path.read_text()) for name, path in names.items()}


@pytest.mark.parametrize(
    ("fit", "most"), [("AdamW", 1e-6), ("SGD", 1e-6), ("parts", 1e-6), ("bfloat16", 5e-3), ("float16", 1e-3)]
)
def test_two_processes_equal_one_with_the_same_batches(results: dict[str, Any], fit: str, most: float) -> None:
    one = results["one"][fit]
    assert len(one["losses"]) == 12
    for other in ("first", "second"):
        for what in ("losses", "weights"):
            np.testing.assert_allclose(results[other][fit][what], one[what], rtol=0, atol=most)
        assert set(results[other][fit]["metrics"]) == {"train_loss", "valid_loss", "mae", "r2"}
        for metric, value in one["metrics"].items():
            assert results[other][fit]["metrics"][metric] == pytest.approx(value, abs=most)
    for what in ("losses", "weights", "metrics"):
        assert results["first"][fit][what] == results["second"][fit][what]


def test_mixed_precision_and_noise_change_a_fit(results: dict[str, Any]) -> None:
    for fit in ("bfloat16", "float16", "noise"):
        assert results["first"][fit]["weights"] != results["first"]["AdamW"]["weights"]


def test_processes_share_the_validation_rows(results: dict[str, Any]) -> None:
    counts = [results[process]["AdamW"]["validated"] for process in ("one", "first", "second")]
    assert counts[0] == 2 * 53
    assert counts[1] + counts[2] == counts[0]
    assert abs(counts[1] - counts[2]) < 2 * 6 + 1  # at most one row a batch


def test_a_fit_with_noise_is_resumed_to_the_bit_by_as_many_processes(results: dict[str, Any]) -> None:
    for process in ("one", "first", "second"):
        whole, resumed = results[process]["noise"], results[process]["noise, resumed"]
        assert 0 < len(resumed["losses"]) < len(whole["losses"])
        assert resumed["losses"] == whole["losses"][-len(resumed["losses"]) :]
        assert resumed["weights"] == whole["weights"]
        assert resumed["metrics"] == whole["metrics"]
    first, second = results["first"]["noise"], results["second"]["noise"]
    assert first["weights"] == second["weights"]
    assert not set(first["seeds"]) & set(second["seeds"])


def test_shares_of_two_processes_differ_from_the_whole(results: dict[str, Any]) -> None:
    assert results["one"]["AdamW"]["weights"] != results["one"]["SGD"]["weights"]
    assert results["one"]["AdamW"]["losses"][0] != results["one"]["AdamW"]["losses"][-1]


def test_one_killed_process_ends_all_with_a_sentence_and_a_checkpoint(tmp_path: Path) -> None:
    first, second = start(2, "killed", tmp_path)
    second.wait(timeout=280)
    died = time.monotonic()
    (code, errors), (killed, _) = ended([first, second])
    assert time.monotonic() - died < 30
    assert (code, killed) == (4, -signal.SIGKILL)
    (line,) = [line for line in errors.splitlines() if line.startswith("ResourceError")]
    assert line == (
        "ResourceError: Process 0 of 2 stops, as another process of this training has ended: its last checkpoint is "
        "kept, resume from there."
    )
    assert "Traceback" not in errors
    kept = newest_checkpoint(tmp_path / "checkpoints")
    assert kept is not None
    assert kept.step == 3


def test_a_stop_of_one_stops_all_and_another_number_of_processes_resumes(
    results: dict[str, Any], tmp_path: Path
) -> None:
    stopped = ended(start(2, "stopped", tmp_path))
    assert [code for code, _ in stopped] == [75, 75]
    kept = newest_checkpoint(tmp_path / "checkpoints")
    assert kept is not None
    assert kept.step == 5  # the others know one batch later
    assert [code for code, _ in ended(start(1, "resumed", tmp_path))] == [0]
    found = json.loads((tmp_path / "resumed-0.json").read_text())
    np.testing.assert_allclose(found["weights"], results["one"]["AdamW"]["weights"], rtol=0, atol=1e-6)
    assert len(found["losses"]) == 12 - 5
