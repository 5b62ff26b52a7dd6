"""The page of what is expected of tables, texts and photos says what the tests do."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("expectations", ROOT / "docs" / "expectations.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_that_of_the_tests(script: ModuleType) -> None:
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run: python docs/expectations.py"


def test_every_file_is_in_one_list_and_has_tests(script: ModuleType) -> None:
    files = [file for files in script.KINDS.values() for file in files]
    assert len(set(files)) == len(files)
    for file in files:
        assert list(script.expectations(ROOT / "tests" / file)), file


def test_names_and_first_lines_become_a_line_each(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "test_a.py"
    path.write_text(
        'def test_a_sign_is_kept():\n    """As it is\n    written."""\n\n\n'
        "def helper(): ...\n\n\ndef test_f16_two(): ...\n"
    )
    assert list(script.expectations(path)) == ["- A sign is kept: As it is.", "- Two."]
