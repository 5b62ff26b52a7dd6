"""``mixfit check`` says what is missing and what to do, and ends with exit code 4 only for what is needed."""

import importlib.metadata
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mixfit.auto import environment
from mixfit.auto.environment import Check, check_environment
from mixfit.cli import main
from mixfit.errors import DataError


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Checks only some points."""

    def only(**points: Callable[[], Iterator[Check]]) -> None:
        monkeypatch.setattr(environment, "_POINTS", points)

    return only


def test_this_machine_is_ready() -> None:
    found = list(check_environment())
    assert [one.name for one in found if one.level == "missing"] == []
    assert {"versions", "device", "memory", "disk", "decoders", "weights", "training"} <= {one.name for one in found}
    (training,) = (one for one in found if one.name == "training")
    assert "80 vases" in training.text
    assert all(one.fix for one in found if one.level == "note" and one.name != "memory")


@pytest.mark.parametrize(("installed", "said"), [(None, "not installed"), ("0.1", "0.1")])
def test_a_package_that_is_absent_or_too_old_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, points: Callable[..., None], installed: str | None, said: str
) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name != "safetensors":
            return real(name)
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(environment, "version", version)
    points(versions=environment._versions)
    (found,) = (one for one in check_environment() if one.level == "missing")
    assert found.text == f"safetensors is {said}"
    assert found.fix.startswith("pip install 'safetensors>=")


def test_an_error_of_a_point_is_its_finding_and_the_others_are_looked_at(points: Callable[..., None]) -> None:
    def damaged() -> Iterator[Check]:
        raise DataError("The weights have another sha256.")
        yield

    points(weights=damaged, disk=environment._disk)
    found = list(check_environment())
    assert found[0] == Check(
        "weights", "missing", "The weights have another sha256.", "follow this message, then run mixfit check again"
    )
    assert {one.name for one in found[1:]} == {"disk"}


def test_a_photo_format_that_many_have_is_needed(monkeypatch: pytest.MonkeyPatch, points: Callable[..., None]) -> None:
    from PIL import features

    for absent, level in {"jpg": "missing", "avif": "note"}.items():
        monkeypatch.setattr(features, "check", lambda name, absent=absent: name != absent)
        points(decoders=environment._decoders)
        (found,) = check_environment()
        assert found.level == level
        assert f"but not {environment._FORMATS[absent]}" in found.text


def test_little_room_is_noted(monkeypatch: pytest.MonkeyPatch, points: Callable[..., None]) -> None:
    monkeypatch.setattr(environment, "_memory_bytes", lambda: (8e9, 1e9))
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e6})())
    points(memory=environment._memory, disk=environment._disk)
    found = list(check_environment())
    assert [one.level for one in found] == ["note"] * 4
    assert "MIXFIT_CACHE" in found[1].fix
    monkeypatch.setattr(environment, "_memory_bytes", lambda: (None, None))
    assert "does not tell" in next(check_environment()).text


def run(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as stop:
        main(["check", *arguments])
    return stop.value.code


def test_the_command(points: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    points(a=lambda: iter([Check("a", "ok", "fine"), Check("b", "note", "small", "buy more")]))
    assert run() == 0
    shown = capsys.readouterr().out
    assert "-> buy more" in shown
    assert shown.endswith("ready: mixfit demo\n")
    assert run("--json") == 0
    assert [json.loads(line)["level"] for line in capsys.readouterr().out.splitlines()] == ["ok", "note"]
    points(a=lambda: iter([Check("weights", "missing", "gone", "reinstall")]))
    assert run() == 4
    assert "missing on this machine, but needed: weights" in capsys.readouterr().err
