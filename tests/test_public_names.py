import subprocess
import sys

import pytest

import mixfit

HEAVY = ("torch", "pandas", "numpy", "PIL", "sklearn", "matplotlib", "timm", "torchvision")
BESIDE_TRAINING = {
    "pandas",
    "pyarrow",
    "cyclopts",
    "rich",
    "sklearn",
    "scipy",
    "matplotlib",
    "torchvision",
    "timm",
    "PIL",
}


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after running ``code``."""
    report = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_import_loads_nothing_heavy() -> None:
    assert loaded_after("import mixfit").isdisjoint(HEAVY)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"], ["predict", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    lines = ("from mixfit.cli import main", "try:", f"    main({arguments!r})")
    code = "\n".join([*lines, "except SystemExit as stop:", "    assert stop.code == 0"])
    assert loaded_after(code).isdisjoint(HEAVY)


def test_the_learner_loads_little_beside_torch() -> None:
    added = loaded_after("import mixfit; mixfit.Learner") - loaded_after("import torch")
    assert added.isdisjoint(BESIDE_TRAINING | {"triton"})
    assert "mixfit" in added


def test_the_check_of_modules_can_fail() -> None:
    assert "torch" in loaded_after("import mixfit; mixfit.Learner")


@pytest.mark.parametrize("name", mixfit.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(mixfit, name)
    assert name == "__version__" or value.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'mixfit' has no attribute 'Lerner'"):
        mixfit.Lerner  # noqa: B018


def test_public_names_are_listed() -> None:
    assert set(mixfit.__all__) <= set(dir(mixfit))
