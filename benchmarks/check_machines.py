"""Do the tests that train pass whatever the machine? Instructions, threads, number types and load, one after another.

Runs test files under each way to compute, in a process of its own, and prints who fails. Tests run with one arithmetic
on every machine (``tests/fixed_arithmetic.py``); here each variable is set to something else, so that what passes has
the margin that other processors need. Levels below the machine's own are those of ``ATEN_CPU_CAPABILITY`` (PyTorch) and
``ONEDNN_MAX_CPU_ISA`` (oneDNN). "bfloat16" means that ``training/arithmetic.py`` is told that the processor has, or has
not, instructions for it; processes that tests start are not told so.
Run: python benchmarks/check_machines.py [--ways NAME,NAME] [TEST FILE ...]; by default all ways and all that trains"""

import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAINING = (
    "tests/evaluation/test_heat_on_vase.py",
    "tests/test_blending.py",
    "tests/test_blending_lightgbm.py",
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
    "tests/candidates",
    "tests/evaluation",
    "tests/faults/test_faults_training.py",
    "tests/training",
    "tests/tuning",
)
"""Files and folders with tests that train."""
OWN = {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "ALL"}
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
TOLD = (
    "import sys, pytest; from mixfit.training import arithmetic; arithmetic.has_bfloat16 = lambda: {}; "
    "sys.exit(pytest.main(sys.argv[1:]))"
)


@dataclass(frozen=True)
class Way:
    """To compute."""

    environment: dict[str, str] = field(default_factory=dict)
    threads: int = 1
    bfloat16: bool | None = None
    """Whether the processor is said to have it; None: what it has."""
    busy: bool = False


WAYS = {
    "as in make test": Way(),
    "default": Way({"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
    "avx2, 2 threads": Way(AVX2, threads=2),
    "own, no bfloat16": Way(OWN, bfloat16=False),
    "own, bfloat16": Way(OWN, bfloat16=True),
    "own, 2 threads": Way(OWN, threads=2),
    "own, busy": Way(OWN, threads=2, busy=True),
    "PyTorch alone default": Way({**OWN, "ATEN_CPU_CAPABILITY": "default"}),
    "oneDNN alone avx2": Way({**OWN, "ONEDNN_MAX_CPU_ISA": "AVX2"}),
}


def own_level() -> str:
    """The level of this machine as ``ATEN_CPU_CAPABILITY`` names it."""
    environment = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
    code = "import torch; print(torch.backends.cpu.get_cpu_capability().lower())"
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def run(way: Way, files: list[str]) -> tuple[str, list[str]]:
    """pytest's last line, and the names of the tests that failed."""
    start = (
        [sys.executable, "-m", "pytest"] if way.bfloat16 is None else [sys.executable, "-c", TOLD.format(way.bfloat16)]
    )
    command = [*start, *files, "-q", "-p", "no:cacheprovider", "--timeout=3000", "-rf"]
    with ExitStack() as stack:
        for _ in range((os.cpu_count() or 1) if way.busy else 0):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
        environment = os.environ | way.environment | {"OMP_NUM_THREADS": str(way.threads)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+.*)$", done.stdout, re.M)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["nothing"]
    return lines[-1], failed


def main() -> None:
    """Print a line for each way, and fail if any test did."""
    arguments = sys.argv[1:]
    names = arguments.pop(arguments.index("--ways") + 1).split(",") if "--ways" in arguments else list(WAYS)
    files = [argument for argument in arguments if not argument.startswith("--")] or list(TRAINING)
    OWN["ATEN_CPU_CAPABILITY"] = own_level()
    print(f"{OWN['ATEN_CPU_CAPABILITY']}, {os.cpu_count()} cores; {' '.join(files)}")
    bad = 0
    for name in names:
        start = time.perf_counter()
        last, failed = run(WAYS[name], files)
        print(f"{name:24}{time.perf_counter() - start:7.0f} s  {last}", flush=True)
        for test in failed:
            print(f"    {test}", flush=True)
        bad += bool(failed) or "passed" not in last
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
