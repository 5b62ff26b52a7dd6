"""Shared fixtures: the embedded example, and one run trained on it.

PyTorch and mixfit are loaded by the fixtures that need them: the process that hands the files to those that run them
reads this file, and needs neither."""

import atexit
import gc
import os
import sys

# Without what is compiled once and kept, each process that a test starts compiles mixfit, and this one all tests, anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import checked_types
from fixed_arithmetic import fix_arithmetic

fix_arithmetic()
checked_types.install()
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does
# The user's own cache folder is never touched, by doctests and by processes that tests start neither.
# Tests kill processes, not machines: nothing has to reach the disk before they go on.
os.fsync = lambda _: None
_CACHE = tempfile.TemporaryDirectory(prefix="mixfit-test-cache-")
os.environ["MIXFIT_CACHE"] = _CACHE.name
atexit.register(_CACHE.cleanup)

import pytest
from hypothesis import HealthCheck, settings

# How long a draw takes says how busy the machine is; and the same tests pass today and tomorrow. With other draws:
# HYPOTHESIS_DRAWS=other in the environment.
settings.register_profile(
    "untimed",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("HYPOTHESIS_DRAWS") != "other",
)
settings.load_profile("untimed")

if TYPE_CHECKING:
    from mixfit.auto.recipe import Run

LONGEST = (
    "test_guide.py",
    "test_ray.py",
    "test_readme.py",
    "test_pages.py",
    "test_faults_folders.py",
    "test_blending.py",
    "test_sklearn.py",
    "test_doctor.py",
    "test_report_page.py",
    "test_text_model_runs.py",
    "test_export.py",
    "test_explain.py",
    "test_same_bytes.py",
    "test_kept_models.py",
    "test_faults_resume.py",
    "test_text_runs.py",
    "test_callback_contract.py",
    "test_onnx_tables.py",
    "test_heat.py",
    "test_faults_training.py",
    "test_distributed.py",
    "test_onnx_photos.py",
    "test_recipe.py",
    "test_tune.py",
    "test_dataframes.py",
    "test_onnx_files.py",
    "test_embedding.py",
    "test_faults_kills.py",
    "test_report.py",
    "test_predict_pieces.py",
    "test_explaining.py",
    "test_comparison.py",
    "test_faults_interrupts.py",
    "test_table_encoders.py",
    "test_onnx_int8.py",
    "test_metric_runs.py",
    "test_real_data.py",
    "test_contract.py",
    "test_public_names.py",
)
"""Files that take 25 seconds of a processor or more, the longest first, so that no process is left alone with one at
the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files by how long they take, as far as that matters."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_collection_finish() -> None:
    """What lives as long as the process is not looked through each time that garbage is collected."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The last lines say how many tests were skipped, and why, whatever the flags."""
    lines = told_skips([one.longrepr for one in terminalreporter.stats.get("skipped", [])])
    for line in lines:
        terminalreporter.write_line(line)


def told_skips(skips: Sequence[Any]) -> list[str]:
    """Lines on skipped tests, the most frequent reason first.

    Args:
        skips: of each test or whole file, its file, line and reason, as pytest keeps them.
    """
    if not skips:
        return []
    reasons: dict[str, list[str]] = {}
    for skip in skips:
        file, _, reason = skip if isinstance(skip, tuple) else ("", 0, str(skip))
        reasons.setdefault(str(reason).removeprefix("Skipped: "), []).append(Path(file).name)
    lines = [f"{len(skips)} skipped (a file that cannot be imported counts as one):"]
    for reason, files in sorted(reasons.items(), key=lambda one: (-len(one[1]), one[0])):
        lines.append(f"  {len(files)} in {', '.join(sorted(set(files)))}: {reason}")
    return lines


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup() -> None:
    """What a fixture draws does not depend on the tests before it."""
    seed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Nor does what a test draws."""
    seed()


def seed() -> None:
    """Of a PyTorch that some test has loaded."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def demo_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of a small embedded example; tests must not change its folder."""
    from mixfit.demo import write_demo

    return write_demo(tmp_path_factory.mktemp("demo") / "vases", rows=90)


@pytest.fixture(scope="session")
def quick_run(demo_table: Path, tmp_path_factory: pytest.TempPathFactory) -> "Run":
    """A run of three epochs on the small example."""
    from quick_runs import quick_fit

    from mixfit.demo import DEMO_TARGET

    return quick_fit(demo_table, DEMO_TARGET, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def blend_run(demo_table: Path, tmp_path_factory: pytest.TempPathFactory) -> "Run":
    """A blend of the small example."""
    from report_runs import fit_blend

    return fit_blend(demo_table, tmp_path_factory.mktemp("blend"))


@pytest.fixture(scope="session")
def class_run(tmp_path_factory: pytest.TempPathFactory) -> "Run":
    """A blend of classes, with markup in the names of columns, categories and photos."""
    from report_runs import fit_classes

    return fit_classes(tmp_path_factory.mktemp("classes"))
