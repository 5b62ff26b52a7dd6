import resource
import stat
from pathlib import Path

import pytest

from mixfit.errors import ResourceError
from mixfit.files import new_folder, write_file


def test_a_file_is_replaced_whole_and_readable_for_others(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_file(path, "old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_file(path, "old")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ResourceError, match=r"a\.json cannot be written: File too large\. It needs 5,000 bytes\."):
            write_file(path, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"nowhere/a\.json cannot be written: No such file or directory"):
        write_file(tmp_path / "nowhere" / "a.json", "x")


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text(str(1 // 0))
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("x")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "weights").read_text() == "x"
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o755


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="exists already; choose another name"), new_folder(tmp_path):
        raise AssertionError("not reached")
