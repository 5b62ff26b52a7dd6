"""The end of a run of the tests names what was not run."""

import subprocess
import sys
from pathlib import Path

from conftest import told_skips


def test_skips_are_counted_by_reason() -> None:
    found = told_skips(
        [
            ("tests/a/test_one.py", 3, "Skipped: no data"),
            ("tests/b/test_two.py", 9, "Skipped: no data"),
            ("tests/b/test_two.py", 12, "Skipped: no browser"),
        ]
    )
    assert found == [
        "3 skipped (a file that cannot be imported counts as one):",
        "  2 in test_one.py, test_two.py: no data",
        "  1 in test_two.py: no browser",
    ]
    assert told_skips([]) == []


def test_they_are_the_last_lines_also_with_several_processes(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text(encoding="utf-8"))
    (tmp_path / "test_x.py").write_text(
        "import pytest\n"
        "@pytest.mark.skip(reason='there is no moon')\n"
        "def test_a(): ...\n"
        "def test_b(): ...\n"
    )  # fmt: skip
    (tmp_path / "test_y.py").write_text("import pytest\npytest.importorskip('surely_not_there', reason='no y')\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "2", "--rootdir", str(tmp_path), "."]
    folder = str(Path(__file__).parent)
    code = f"import sys, pytest; sys.path.insert(0, {folder!r}); sys.exit(pytest.main({command[3:]!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    *_, first, second, third, last = done.stdout.splitlines()
    assert first.startswith("2 skipped"), done.stdout + done.stderr
    assert [second, third] == ["  1 in test_y.py: no y", "  1 in test_x.py: there is no moon"]
    assert "1 passed, 2 skipped" in last
