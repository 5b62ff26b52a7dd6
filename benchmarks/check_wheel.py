"""Does mixfit work from a built wheel in an empty environment, without a network?
Run: python -m benchmarks.check_wheel [--python PYTHON] [--keep FOLDER]   (or: make wheel)

Builds the sdist, and the wheel from it, so that a file missing in the sdist is noticed; installs the wheel into a new
environment; then, from an empty folder and if possible in a network namespace without interfaces, runs check, demo,
predict, report and explain; then installs all extras, too, and runs what they add. Nothing of the environment that it
runs in is seen there: with PYTHONPATH set, pip would take the sources for an installed mixfit. Prints sizes and times.
Exit code 1 if anything fails. Takes minutes, as PyTorch is installed; 6 GB of disk with its CUDA build."""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
DEMO = "mixfit-demo/runs/vases-price-001"
COMMANDS = (
    ("--version",),
    ("--help",),
    ("check",),
    ("demo",),
    ("predict", DEMO, "mixfit-demo/vases/table.csv", "-o", "out.csv"),
    ("report", DEMO),
    ("explain", DEMO, "--n", "2"),
)
OF_EXTRAS = (
    ("check",),
    ("export", DEMO, "-o", "model.onnx"),
    ("tune", "mixfit-demo/vases/table.csv", "--target", "price", "--trials", "2", "--time", "1m"),
)
"""With all extras installed."""


def build(python: str, place: Path) -> tuple[Path, Path]:
    """The sdist and the wheel that is built from it."""
    dist = place / "dist"
    tools = place / "tools"
    _run(python, "-m", "venv", str(tools))
    tool = str(_bin(tools) / "python")
    _run(tool, "-m", "pip", "install", "--quiet", "build")
    _run(tool, "-m", "build", "--outdir", str(dist), str(ROOT))
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    return sdist, wheel


def check_content(sdist: Path, wheel: Path) -> None:
    """What a wheel must and must not have."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (meta,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(meta).decode()
    files = (path for path in (ROOT / "src" / "mixfit").rglob("*") if path.is_file() and path.suffix != ".pyc")
    missing = sorted({path.relative_to(ROOT / "src").as_posix() for path in files} - names)
    strange = sorted(name for name in names if not name.startswith("mixfit") or name.endswith(".pyc"))
    assert not missing, f"not in the wheel: {missing}"
    assert not strange, f"in the wheel, but not of mixfit: {strange}"
    for line in ("License-Expression: Apache-2.0", "Provides-Extra: all", "Classifier: Programming Language"):
        assert line in metadata, f"not in the metadata: {line}"
    with tarfile.open(sdist) as archive_of_sources:
        inside = {name.partition("/")[2] for name in archive_of_sources.getnames()}
    tracked = _output("git", "-C", str(ROOT), "ls-files").splitlines()
    left_out = sorted(name for name in tracked if not name.startswith(".") and name not in inside)
    assert not left_out, f"not in the sdist: {left_out}"
    print(f"{wheel.name}: {wheel.stat().st_size:,} bytes, {len(names)} files; sdist {sdist.stat().st_size:,} bytes")


def use(python: str, wheel: Path, place: Path) -> None:
    """Install, and run the commands."""
    home = place / "home"
    home.mkdir()
    _run(python, "-m", "venv", str(place / "env"))
    bin_ = _bin(place / "env")
    started = time.perf_counter()
    _run(str(bin_ / "python"), "-m", "pip", "install", "--quiet", str(wheel))
    print(f"installed in {time.perf_counter() - started:.0f} s")
    run_all(COMMANDS, bin_, home)
    assert (home / DEMO / "report.html").stat().st_size > 10_000
    rows = (home / "out.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) > 100, rows[:3]
    print(f"report {(home / DEMO / 'report.html').stat().st_size:,} bytes, {len(rows) - 1} predictions")
    started = time.perf_counter()
    _run(str(bin_ / "python"), "-m", "pip", "install", "--quiet", f"{wheel}[all]")
    print(f"all extras installed in {time.perf_counter() - started:.0f} s")
    run_all(OF_EXTRAS, bin_, home)
    print(f"model.onnx {(home / 'model.onnx').stat().st_size:,} bytes")


def run_all(commands: tuple[tuple[str, ...], ...], bin_: Path, home: Path) -> None:
    """Run commands in an empty folder; the first that fails ends the check."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}
    lonely = _without_network()
    for words in commands:
        started = time.perf_counter()
        done = subprocess.run(
            [*lonely, str(bin_ / "mixfit"), *words],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        print(
            f"mixfit {' '.join(words)}: exit code {done.returncode}, {time.perf_counter() - started:.1f} s", flush=True
        )
        if done.returncode or "Traceback" in done.stderr:
            sys.exit(f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def _without_network() -> list[str]:
    """Words before a command that take its network away; none where that is not possible."""
    words = ["unshare", "--net"]
    if shutil.which("unshare") and subprocess.run([*words, "true"], check=False, capture_output=True).returncode == 0:
        return words
    print("the network is left as it is: unshare --net is not possible here")
    return []


def _bin(folder: Path) -> Path:
    return folder / ("Scripts" if sys.platform == "win32" else "bin")


def _run(*words: str) -> None:
    subprocess.run(words, check=True, env=_clean(), stdout=sys.stderr)


def _output(*words: str) -> str:
    return subprocess.run(words, check=False, capture_output=True, text=True).stdout


def _clean() -> dict[str, str]:
    """The environment without what would make another mixfit visible."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def main() -> None:
    """The whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--keep", type=Path, help="folder for the sdist and the wheel")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        sdist, wheel = build(chosen.python, Path(place))
        check_content(sdist, wheel)
        if chosen.keep is not None:
            chosen.keep.mkdir(parents=True, exist_ok=True)
            for file in (sdist, wheel):
                shutil.copy(file, chosen.keep)
        use(chosen.python, wheel, Path(place))


if __name__ == "__main__":
    main()
