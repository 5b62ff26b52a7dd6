"""Shared fixtures: the embedded example, and one run trained on it."""

import atexit
import os
import tempfile
from pathlib import Path

import checked_types
from fixed_arithmetic import fix_arithmetic

fix_arithmetic()
checked_types.install()
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does
# The user's own cache folder is never touched, by doctests and by processes that tests start neither.
_CACHE = tempfile.TemporaryDirectory(prefix="mixfit-test-cache-")
os.environ["MIXFIT_CACHE"] = _CACHE.name
atexit.register(_CACHE.cleanup)

import pytest
import torch
from report_runs import fit_blend, fit_classes
from rich.console import Console

from mixfit.auto.recipe import Run, fit
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.demo import DEMO_TARGET, write_demo

QUICK_DATA = DataConfig(image_size=32)
QUICK_MODEL = ModelConfig(tabular_hidden=(16,), encoding_dim=8)
QUICK_TRAIN = TrainConfig(preset="network", epochs=3, patience=3)


LONGEST = ("test_readme.py", "test_faults_training.py", "test_faults_kills.py", "test_guide.py", "test_compile.py")
"""Files that take a minute or more: begun first, so that no process is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order files by how long they take, as far as that matters."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup() -> None:
    """What a fixture draws does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """Nor does what a test draws."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def demo_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of a small embedded example; tests must not change its folder."""
    return write_demo(tmp_path_factory.mktemp("demo") / "vases", rows=90)


@pytest.fixture(scope="session")
def quick_run(demo_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of three epochs on the small example."""
    return quick_fit(demo_table, DEMO_TARGET, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def blend_run(demo_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A blend of the small example."""
    return fit_blend(demo_table, tmp_path_factory.mktemp("blend"))


@pytest.fixture(scope="session")
def class_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A blend of classes, with markup in the names of columns, categories and photos."""
    return fit_classes(tmp_path_factory.mktemp("classes"))


def quick_fit(table: Path, target: str, out: Path, *, data: DataConfig = QUICK_DATA) -> Run:
    """The whole of ``mixfit train`` with a small network and few epochs."""
    return fit(
        table, target=target, data=data, model=QUICK_MODEL, train=QUICK_TRAIN, out=out, console=Console(quiet=True)
    )
