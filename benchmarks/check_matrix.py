"""Does mixfit work with every supported Python, and with the lowest and the newest versions of its dependencies?
Run: python -m benchmarks.check_matrix [--pythons 3.11 3.13] [--versions lowest newest] [--tests PATH ...]
(or: make matrix)

For each Python from 3.11 to 3.14 that is on this machine (on the PATH, or of pyenv): a new environment with the newest
versions that its registry has, and for the oldest Python also one with the lowest versions that pyproject.toml allows.
In each, some tests, or those of --tests, and the demo. Prints one line per environment; exit code 1 if one fails.
An environment takes minutes and, with PyTorch's CUDA build, 6 GB of disk; it is removed before the next."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
TESTS = (
    "tests/test_formats.py",
    "tests/test_predictor.py",
    "tests/test_later_files.py",
    "tests/data/test_table.py",
    "tests/data/test_dates.py",
    "tests/data/test_photos.py",
    "tests/models/test_trees.py",
    "tests/nn/test_model.py",
    "tests/training/test_learner.py",
    "tests/training/test_resume.py",
)
TEST_TOOLS = (
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "hypothesis",
    "beartype",
    "polars",
    "tabm",
    "rtdl_num_embeddings",
)
SHOWN = ("numpy", "pandas", "torch", "scikit-learn", "lightgbm", "pyarrow")


def interpreters() -> dict[str, str]:
    """Version -> path of each supported Python that starts here."""
    found = {}
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in PYTHONS:
        ours = sorted(root.glob(f"{version}.*/bin/python")) if root.is_dir() else []
        for path in (*map(str, ours), shutil.which(f"python{version}")):
            said = None if path is None else _output(path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
            if path is not None and said == version:
                found[version] = path
                break
    return found


def lowest() -> list[str]:
    """Constraints to the lowest versions of pyproject.toml."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    pairs = [re.fullmatch(r"([\w.-]+)>=([\w.]+)", text) for text in wanted]
    return [f"{pair[1]}=={pair[2]}" for pair in pairs if pair is not None]


def check(python: str, constraints: list[str], tests: list[str]) -> tuple[bool, str]:
    """Whether all is well in a new environment, and what was found.

    Args:
        constraints: versions that are to be installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        listed = place / "constraints.txt"
        listed.write_text("\n".join(constraints), encoding="utf-8")
        subprocess.run([python, "-m", "venv", str(place / "env")], check=True, env=_clean())
        inside = str(place / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python")
        install = [inside, "-m", "pip", "install", "--quiet", "-c", str(listed), "--editable", str(ROOT), *TEST_TOOLS]
        done = subprocess.run(install, check=False, capture_output=True, text=True, env=_clean())
        if done.returncode:
            return False, f"not installed: {_last(done.stderr)}"
        versions = ", ".join(f"{name} {_output(inside, '-c', _VERSION.format(name))}" for name in SHOWN)
        words = [inside, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True, env=_clean())
        if done.returncode:
            print(done.stdout[-4000:], done.stderr[-1000:], file=sys.stderr)
            return False, f"tests failed: {_last(done.stdout)} ({versions})"
        tested = _last(done.stdout)
        words = [inside, "-m", "mixfit.cli", "demo", "--out", str(place / "demo")]
        done = subprocess.run(words, cwd=place, check=False, capture_output=True, text=True, env=_clean())
        if done.returncode:
            return False, f"the demo failed: {_last(done.stderr)} ({versions})"
        return True, f"{tested.strip('= ')}; demo ok ({versions})"


_VERSION = "from importlib.metadata import version; print(version('{}'))"


def _output(*words: str) -> str:
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=_clean())
    return done.stdout.strip() if not done.returncode else ""


def _clean() -> dict[str, str]:
    """The environment without what would make another mixfit visible: pip takes one on PYTHONPATH for installed."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _last(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def main() -> None:
    """All environments, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pythons", nargs="*", choices=PYTHONS, default=list(PYTHONS))
    parser.add_argument("--versions", nargs="*", choices=("lowest", "newest"), default=["lowest", "newest"])
    parser.add_argument("--tests", nargs="*", default=list(TESTS))
    chosen = parser.parse_args()
    here, failed = interpreters(), False
    wanted = [version for version in PYTHONS if version in chosen.pythons]
    for place, version in enumerate(wanted):
        if version not in here:
            print(f"Python {version}: not on this machine", flush=True)
            continue
        for which in chosen.versions:
            if which == "lowest" and place:
                continue  # later Pythons may have no wheels of the lowest versions
            started = time.perf_counter()
            well, found = check(here[version], lowest() if which == "lowest" else [], chosen.tests)
            failed |= not well
            took = time.perf_counter() - started
            print(f"Python {version}, {which}: {'ok' if well else 'FAILED'} in {took:.0f} s: {found}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
