"""The cache folder: where it is, what it may hold, and that only our own files are ever removed."""

from pathlib import Path

import numpy as np
import pytest

from mixfit.config import DataConfig
from mixfit.data.photos.records import Cache, RecordStore, clear, default_folder, list_stores
from mixfit.errors import ConfigError, ResourceError


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Two stores with three and one records of 40 bytes, and things that are not ours."""
    folder = tmp_path / "cache"
    for name, count in (("photos-a", 3), ("features-b", 1)):
        store = RecordStore(folder / name, shape=(5,), dtype=np.float64)
        with store.writing():
            store.append([str(n) for n in range(count)], np.zeros((count, 5)))
    (folder / "photos-a" / "notes.txt").write_text("mine")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "records.bin").write_text("mine")
    (folder / "link").symlink_to(folder / "features-b")
    return Cache(folder=folder, limit_bytes=10**6)


def test_the_folder_is_the_one_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIXFIT_CACHE", str(tmp_path / "chosen"))
    assert default_folder() == tmp_path / "chosen"
    monkeypatch.delenv("MIXFIT_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "mixfit"
    for ignored in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert default_folder() == Path.home() / ".cache" / "mixfit"
    monkeypatch.setattr("sys.platform", "darwin")
    assert default_folder() == Path.home() / "Library" / "Caches" / "mixfit"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert default_folder() == tmp_path / "local" / "mixfit" / "cache"


def test_settings_choose_folder_and_limit_or_none(tmp_path: Path) -> None:
    chosen = Cache.configured(DataConfig(cache=tmp_path, cache_gb=1.5))
    assert chosen is not None
    assert (chosen.folder, chosen.limit_bytes) == (tmp_path, 1_500_000_000)
    assert Cache.configured(DataConfig(cache_gb=0.0)) is None
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="cache_gb must be at least 0, got"):
            DataConfig(cache_gb=wrong)


def test_stores_are_listed_with_their_records_and_bytes(cache: Cache) -> None:
    listed = {store.folder.name: store for store in list_stores(cache.folder)}
    assert {name: store.records for name, store in listed.items()} == {"photos-a": 3, "features-b": 1}
    assert listed["photos-a"].bytes > 3 * 40
    assert list_stores(cache.folder / "none") == []


def test_room_is_checked_against_all_that_is_there(cache: Cache) -> None:
    cache.check_room(100)
    with pytest.raises(ResourceError, match=r"holds [\d,]+ bytes and would need 999,999 more, but its limit is"):
        cache.check_room(999_999)


def test_clearing_removes_our_files_only(cache: Cache) -> None:
    removed, kept = clear(cache.folder)
    assert [store.folder.name for store in removed] == ["features-b", "photos-a"]
    assert kept == []
    left = sorted(str(path.relative_to(cache.folder)) for path in cache.folder.rglob("*"))
    assert left == ["foreign", "foreign/records.bin", "link", "photos-a", "photos-a/notes.txt"]
    assert list_stores(cache.folder) == []


def test_an_empty_cache_folder_goes_too(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "cache" / "photos-a", shape=(1,), dtype=np.uint8)
    with store.writing():
        pass
    clear(tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []
    assert clear(tmp_path / "cache") == ([], [])


def test_a_store_that_is_being_written_stays(cache: Cache) -> None:
    store = RecordStore(cache.folder / "features-b", shape=(5,), dtype=np.float64)
    with store.writing():
        removed, kept = clear(cache.folder)
        assert ([s.folder.name for s in removed], [s.folder.name for s in kept]) == (["photos-a"], ["features-b"])
        store.append(["later"], np.ones((1, 5)))
    assert store.find(["0", "later"]).missing.tolist() == []


def test_the_command_shows_and_clears(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    from mixfit.cli import main

    def output(*arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["cache", "--cache", str(cache.folder), *arguments])
        return stop.value.code, *capsys.readouterr()

    code, text, _ = output()
    assert (code, text.splitlines()[0]) == (0, f" {cache.folder}")
    assert "photos-a" in text
    assert "3 photos" in text
    assert "2 stores" in text
    store = RecordStore(cache.folder / "features-b", shape=(5,), dtype=np.float64)
    with store.writing():
        code, text, errors = output("--clear")
    assert code == 4
    assert "1 stores" in text
    assert errors == "mixfit: 1 of the stores are in use and were kept, the first is features-b.\n"
    assert output("--clear")[0] == 0
    assert output()[1].splitlines()[1] == "   0 stores, 0.0 MB"
