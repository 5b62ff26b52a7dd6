"""What is built for others to install: complete, nothing else in it, and described as it is."""

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import mixfit

ROOT = Path(__file__).parent.parent
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode or shutil.which("git") is None:
        pytest.skip("the files of the project are those that git knows, and this is no clone")
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel, made from the files that git knows."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    for step in ("build_sdist", "build_wheel"):
        done = subprocess.run([sys.executable, "-c", BUILD, step, dist], cwd=source, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
    return dist


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (file,) = built.glob("*.whl")
    assert file.name.endswith("-py3-none-any.whl")
    assert file.stat().st_size < 1_500_000
    return zipfile.ZipFile(file)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: zipfile.ZipFile) -> None:
    ours = {name.removeprefix("src/") for name in tracked() if name.startswith("src/")}
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == ours


def test_the_sdist_has_every_file_of_the_project(built: Path) -> None:
    """So that ``make test`` works in it; settings of tools alone, such as .gitignore, may be missing."""
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert sorted(name for name in tracked() if not name.startswith(".") and name not in names) == []


def test_the_metadata_are_true(metadata: Message, wheel: zipfile.ZipFile) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata["Version"] == mixfit.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_all("Project-URL") is None  # until there is a public address, see docs/decisions/0237
    wanted = SpecifierSet(metadata["Requires-Python"])
    named = [line.rpartition(" ")[2] for line in metadata.get_all("Classifier", []) if "Python :: 3." in line]
    assert named
    assert all(version in wanted for version in named)
    assert "3.10" not in wanted
    required = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    assert {one.name for one in required if one.marker is None} >= {"torch", "numpy", "pandas", "scikit-learn"}
    assert set(metadata.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    (entries,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert wheel.read(entries).decode().split() == ["[console_scripts]", "mixfit", "=", "mixfit.cli:main"]


def test_the_citation_is_of_this_version() -> None:
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {mixfit.__version__}" in lines
    assert "license: Apache-2.0" in lines
