"""Seconds until Python has ended: bare, with libraries, with the Learner, and with the help of the command line.

Interleaved rounds, each in fresh processes, so that what else runs on the machine is the same for all of them.
Run: python benchmarks/bench_import.py [ROUNDS]"""

import os
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from typing import NamedTuple

WAYS = {
    "pass": ["-c", "pass"],
    "import rich.console, cyclopts": ["-c", "import rich.console, cyclopts"],
    "mixfit --help": [
        "-c",
        "import sys; from mixfit.cli import main; sys.exit(main(['--help']))",
    ],  # as its script does
    "import torch": ["-c", "import torch"],
    "import torch, mixfit; mixfit.Learner": ["-c", "import torch, mixfit; mixfit.Learner"],
}


class Seconds(NamedTuple):
    """Of a fresh interpreter, from its start to its end."""

    elapsed: float
    processor: float
    """Of all its threads; others on the machine disturb it less."""


def measure(arguments: list[str]) -> Seconds:
    """Run Python once."""
    used, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    elapsed, now = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Seconds(elapsed, now.ru_utime - used.ru_utime + now.ru_stime - used.ru_stime)


def main() -> None:
    """Print the medians of the rounds, and what the Learner adds to PyTorch."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 21
    for arguments in WAYS.values():  # so that the files are in memory
        measure(arguments)
    found = [{name: measure(arguments) for name, arguments in WAYS.items()} for _ in range(rounds)]
    print(
        f"python {sys.version.split()[0]}, torch {version('torch')}, cyclopts {version('cyclopts')}, load "
        f"{os.getloadavg()[0]:.1f}; medians of {rounds} interleaved rounds"
    )
    for name in WAYS:
        elapsed, processor = (statistics.median(each[name][kind] for each in found) for kind in (0, 1))
        fastest = min(each[name].elapsed for each in found)
        print(f"  {name:<38}{elapsed:6.3f} s, fastest {fastest:.3f} s, of the processor {processor:.3f} s")
    torch, learner = list(WAYS)[-2:]
    elapsed, processor = (
        statistics.median(each[learner][kind] - each[torch][kind] for each in found) for kind in (0, 1)
    )
    ratio = statistics.median(each[learner].processor / each[torch].processor for each in found)
    print(
        f"  the Learner over torch                {elapsed:+6.3f} s, of the processor {processor:+.3f} s, "
        f"ratio {ratio:.3f}"
    )


if __name__ == "__main__":
    main()
