import json
import os
import subprocess
import sys
from types import ModuleType

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


PACKAGES = (mixfit, mixfit.data, mixfit.nn, mixfit.training, mixfit.models, mixfit.hooks)
PUBLIC = [(package, name) for package in PACKAGES for name in package.__all__]


@pytest.mark.parametrize(("package", "name"), PUBLIC, ids=lambda part: getattr(part, "__name__", part))
def test_every_public_name_resolves_and_is_documented(package: ModuleType, name: str) -> None:
    value = getattr(package, name)
    assert name == "__version__" or value.__doc__


def test_what_a_user_needs_fits_on_one_page() -> None:
    assert len(mixfit.__all__) < 80


def test_names_at_the_top_are_those_of_the_parts() -> None:
    for package in PACKAGES[1:]:
        for name in set(package.__all__) & set(mixfit.__all__):
            assert getattr(mixfit, name) is getattr(package, name), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="No mixfit attribute Lerner"):
        mixfit.Lerner  # noqa: B018
    assert not hasattr(mixfit.training, "Lerner")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_public_names_are_listed(package: ModuleType) -> None:
    assert set(package.__all__) - {"__version__"} <= set(dir(package))


def test_without_the_extras_every_public_name_is_there() -> None:
    extras = ("captum", "catboost", "optuna", "playwright", "tensorboard", "tokenizers")
    lines = [
        "import sys",
        f"sys.modules.update(dict.fromkeys({extras!r}))",  # an import of one is a ModuleNotFoundError now
        *(f"from {package.__name__} import *" for package in PACKAGES),
        f"import {', '.join(package.__name__ for package in PACKAGES)}",
        *(
            f"assert all(hasattr({package.__name__}, name) for name in {package.__name__}.__all__)"
            for package in PACKAGES
        ),
    ]
    assert "mixfit" in loaded_after("\n".join(lines))


@pytest.mark.parametrize(
    ("module", "given", "wanted"),
    [
        pytest.param(module, given, wanted, marks=[pytest.mark.long] * (module.endswith("learner") and bool(given)))
        for module in ("mixfit", "mixfit.data", "mixfit.training.learner")  # the last takes seconds to import
        for given, wanted in (({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, None))
    ],
)
def test_threads_spin_briefly_unless_told_otherwise(given: dict[str, str], wanted: str | None, module: str) -> None:
    assert _spin_count(f"import {module}", given) == wanted


def test_a_loaded_torch_has_read_how_long_threads_spin() -> None:
    assert _spin_count("sys.modules['torch'] = sys; import mixfit", {}) is None


def _spin_count(code: str, given: dict[str, str]) -> str | None:
    """GOMP_SPINCOUNT after some code in a new process."""
    ours = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in ours} | given
    code = f"import json, os, sys; {code}; print(json.dumps(os.environ.get('GOMP_SPINCOUNT')))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    found: str | None = json.loads(done.stdout)
    return found
