"""Fault case 26: thousands of damaged photos give pixels or one clause, with bounded memory and time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = 170
"""Of each of three pictures in eight kinds of file: 4,080 in all."""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_f26_thousands_of_damaged_photos_are_read_or_refused_within_little_memory() -> None:
    script = Path(__file__).with_name("fuzz_photos.py")
    command = [sys.executable, "-W", "error", str(script), str(CASES)]
    # Each thread of OpenBLAS would set memory aside.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    outcomes = json.loads(done.stdout)
    assert len(outcomes) == 8
    for kind, counts in outcomes.items():
        assert sum(counts.values()) == 3 * CASES, kind
        # Damage is often enough noticed, and often enough harmless, for both ways to be tried.
        assert 10 < counts["read"] < 3 * CASES - 100, (kind, counts)
        assert not any("memory" in problem for problem in counts), (kind, counts)
        assert all(len(problem) < 100 and "0x" not in problem for problem in counts), (kind, counts)
