"""Do the tests that train pass whatever the machine? Instructions, threads, number types and load, one after another.

Runs test files under each way to compute, in a process of its own, and prints a table of ways and files with who fails.
Tests run with one arithmetic on every machine (``tests/fixed_arithmetic.py``); here each variable is set to something
else, so that what passes has the margin that other processors need. Levels below the machine's own are those of
``ATEN_CPU_CAPABILITY`` (PyTorch), ``ONEDNN_MAX_CPU_ISA`` (oneDNN), MKL and OpenBLAS. "bfloat16" means that
``training/choose.py`` is told that the processor has, or has not, instructions for it; processes that tests start
are not told so.
Run: python benchmarks/check_machines.py [--way NAME]... [TEST FILE ...]; by default all ways and all that trains"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
TRAINING = (
    "tests/evaluation/test_heat_on_vase.py",
    "tests/test_blending.py",
    "tests/test_blending_tuned.py",
    "tests/test_recipe.py",
    "tests/test_augmented_runs.py",
    "tests/test_doctor_run.py",
    "tests/test_explaining.py",
    "tests/test_five_sets.py",
    "tests/test_predictor.py",
    "tests/test_real_data.py",
    "tests/test_readme.py",
    "tests/test_guide.py",
    "tests/test_same_bytes.py",
    "tests/auto",
    "tests/diagnostics",
    "tests/ensemble",
    "tests/evaluation",
    "tests/faults/test_faults_training.py",
    "tests/models",
    "tests/training",
)
"""Files and folders with tests that train."""
DEFAULT = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "OPENBLAS_CORETYPE": "Nehalem",
}
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
AVX512 = {
    "ATEN_CPU_CAPABILITY": "avx512",
    "ONEDNN_MAX_CPU_ISA": "ALL",
    "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    "OPENBLAS_CORETYPE": "SkylakeX",
}
LEVELS = {"default": DEFAULT, "avx2": AVX2, "avx512": AVX512}
TOLD = """
import sys, pytest
class Told:
    def pytest_sessionstart(self):  # not before: pytest wants to load what it watches
        from mixfit.training import choose
        choose.has_bfloat16 = lambda: {}
sys.exit(pytest.main(sys.argv[1:], plugins=[Told()]))
"""


@dataclass(frozen=True)
class Way:
    """To compute."""

    environment: dict[str, str] = field(default_factory=dict)
    threads: int = 1
    bfloat16: bool | None = None
    """Whether the processor is said to have it; None: what it has."""
    busy: bool = False
    """Whether a process for each core computes all the while."""


def ways(own: dict[str, str]) -> dict[str, Way]:
    """By name.

    Args:
        own: the variables that let this machine use all of its instructions."""
    return {
        "make-test": Way(),
        "own": Way(own),
        "default": Way(DEFAULT),
        "avx2-2-threads": Way(AVX2, threads=2),
        "own-2-threads": Way(own, threads=2),
        "own-bfloat16": Way(own, bfloat16=True),
        "own-no-bfloat16": Way(own, bfloat16=False),
        "own-busy": Way(own, threads=2, busy=True),
        "only-pytorch-default": Way({**own, "ATEN_CPU_CAPABILITY": "default"}),
        "only-onednn-avx2": Way({**own, "ONEDNN_MAX_CPU_ISA": "AVX2"}),
    }


def own_level() -> str:
    """The level of this machine as ``ATEN_CPU_CAPABILITY`` names it."""
    environment = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
    code = "import torch; print(torch.backends.cpu.get_cpu_capability().lower())"
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def run(way: Way, files: list[str]) -> tuple[list[str], list[str]]:
    """What came of each file, in a few words, and the names of all that failed."""
    start = (
        [sys.executable, "-m", "pytest"] if way.bfloat16 is None else [sys.executable, "-c", TOLD.format(way.bfloat16)]
    )
    with ExitStack() as stack:
        seen = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "seen.xml"
        command = [*start, *files, "-q", "-p", "no:cacheprovider", "--timeout=3000", f"--junitxml={seen}"]
        for _ in range((os.cpu_count() or 1) if way.busy else 0):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
        environment = os.environ | way.environment | {"OMP_NUM_THREADS": str(way.threads)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if not seen.exists():
            return ["no tests ran"] * len(files), [(done.stderr or done.stdout).strip()[-300:]]
        cases = list(ElementTree.parse(seen).getroot().iter("testcase"))
    counts: dict[str, Counter[str]] = {file: Counter() for file in files}
    failed = []
    for case in cases:
        name = f"{case.get('classname')}.{case.get('name')}"
        outcome = {"failure": "failed", "error": "failed", "skipped": "skipped"}.get(
            next((part.tag for part in case if part.tag in ("failure", "error", "skipped")), ""), "passed"
        )
        for file in files:
            dotted = file.removesuffix(".py").strip("/").replace("/", ".")
            if f"{name.lstrip('.')}.".startswith(f"{dotted}."):  # an error of a whole file has an empty "classname"
                counts[file][outcome] += 1
        if outcome == "failed":
            failed.append(name)
    words = [", ".join(f"{n} {outcome}" for outcome, n in sorted(count.items())) for count in counts.values()]
    return [word or "no tests ran" for word in words], failed


def main() -> None:
    """Print a row for each way when it ends, what failed after it, and fail if any test did or a file had none."""
    level = own_level()
    known = ways(LEVELS[level])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", action="append", choices=known, help="may be given several times")
    parser.add_argument("files", nargs="*", default=list(TRAINING), metavar="TEST FILE")
    given = parser.parse_args()
    files = [str(file) for file in given.files]
    print(f"{level}, {os.cpu_count()} cores\n\n| way | {' | '.join(files)} | seconds |")
    print("| --- " * (len(files) + 2) + "|", flush=True)
    bad = False
    for name in given.way or known:
        start = time.perf_counter()
        outcomes, failed = run(known[name], files)
        print(f"| {name} | {' | '.join(outcomes)} | {time.perf_counter() - start:.0f} |", flush=True)
        for test in failed:
            print(f"    {name}: {test}", file=sys.stderr, flush=True)
        bad |= bool(failed) or "no tests ran" in outcomes
    sys.exit(bad)


if __name__ == "__main__":
    main()
