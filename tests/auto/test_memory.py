"""The memory that is left, by the machine, the control group and the limits of the process."""

import subprocess
import sys
from pathlib import Path

import pytest

from mixfit.auto.memory import available_bytes

MACHINE = "MemTotal:       24000000 kB\nMemFree:          100000 kB\nMemAvailable:   20000000 kB\n"


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, float("inf")),
        ({"proc/meminfo": MACHINE}, 20_000_000 * 1024),
        ({"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "5\n"}, float("inf")),
        ({"sys/fs/cgroup/memory.max": "900\n", "sys/fs/cgroup/memory.current": "1000\n"}, 0),
        (
            {
                "proc/meminfo": MACHINE,
                "sys/fs/cgroup/memory.max": "4000000000\n",
                "sys/fs/cgroup/memory.current": "3000000000\n",
                "sys/fs/cgroup/memory.stat": "anon 5\ninactive_file 500000000\n",
            },
            1_500_000_000,
        ),
        (
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "7000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "3000\n",
            },
            4_000,
        ),
    ],
)
def test_the_smallest_limit_counts(files: dict[str, str], expected: float, tmp_path: Path) -> None:
    assert available_bytes(written(tmp_path, files)) == expected


def test_a_limit_of_the_process_counts() -> None:
    pytest.importorskip("resource")
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (20 * 10**9, 20 * 10**9));"
        "from mixfit.auto.memory import available_bytes; print(available_bytes())"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert 0 < float(found) < 20e9
