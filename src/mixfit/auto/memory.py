"""The memory that this process may still take, and sentences on memory that did not suffice."""

import math
from pathlib import Path

MEMORY_ADVICE = "use fewer rows or columns, --preset quick, or a machine with more memory"


def available_bytes(root: Path = Path("/")) -> float:
    """Bytes that the machine, the limits of the process (``ulimit -v``) and its control group leave.

    Infinite if unknown.

    Args:
        root: folder that holds ``proc`` and ``sys``.
    """
    return min(_of_machine(root), _of_group(root), _of_process(root))


def _of_machine(root: Path) -> float:
    for line in _lines(root / "proc" / "meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return float(value.split()[0]) * 1024
    return math.inf


def _of_group(root: Path) -> float:
    """Of the control group (a container), both versions; file pages of the group can be released."""
    folder = root / "sys" / "fs" / "cgroup"
    for limit, used, stat in (
        (folder / "memory.max", folder / "memory.current", folder / "memory.stat"),
        *(
            (folder / "memory" / f"memory.{limit}", folder / "memory" / f"memory.{used}", folder / "memory/memory.stat")
            for limit, used in (("limit_in_bytes", "usage_in_bytes"),)
        ),
    ):
        most, taken = _number(_lines(limit)), _number(_lines(used))
        if most is not None and taken is not None:
            released = [float(line.split()[1]) for line in _lines(stat) if line.startswith("inactive_file ")]
            return max(0.0, most - taken + sum(released))
    return math.inf


def _of_process(root: Path) -> float:
    """Of ``ulimit -v``."""
    try:
        from resource import RLIM_INFINITY, RLIMIT_AS, getrlimit
    except ImportError:  # Windows has no such limits
        return math.inf
    most = getrlimit(RLIMIT_AS)[0]
    if most == RLIM_INFINITY:
        return math.inf
    taken = [line.split()[1] for line in _lines(root / "proc" / "self" / "status") if line.startswith("VmSize:")]
    return max(0.0, most - 1024.0 * sum(map(float, taken)))


def _number(lines: list[str]) -> float | None:
    """The number of a file of one line; None if there is none, as for "max"."""
    return float(lines[0]) if lines and lines[0].strip().isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def size_text(count: float) -> str:
    """Bytes for people.

    >>> size_text(9.3e9), size_text(2.2e8)
    ('9.3 GB', '220 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
