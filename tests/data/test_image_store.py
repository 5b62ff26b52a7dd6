"""Photos from the cache: the bytes of ``ImageFiles``, decoded once."""

import multiprocessing
import os
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, features
from torch.utils.data import DataLoader, Dataset

from mixfit.choices import Crop
from mixfit.data.dataset import ImageSource
from mixfit.data.photos import store
from mixfit.data.photos.decode import read_image
from mixfit.data.photos.records import Cache
from mixfit.data.photos.store import (
    DECODER_VERSION,
    ImageFiles,
    ImageStore,
    decoder_name,
    open_image_store,
    photo_keys,
)

GOLDEN_SUMS = [48361, 31005, 31107, 48299]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Twelve photos of which 3 and 8 are damaged."""
    (tmp_path / "photos").mkdir()
    paths = [tmp_path / "photos" / f"{number}.png" for number in range(12)]
    for number, path in enumerate(paths):
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    paths[3].write_bytes(paths[3].read_bytes()[:200])
    paths[8].write_bytes(b"<html>not found</html>")
    return paths


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were decoded so far."""
    names: list[str] = []

    def spy(source: Path, *, size: int, crop: Crop, follow_links: bool) -> np.ndarray:
        names.append(source.name)
        return read_image(source, size=size, crop=crop)

    monkeypatch.setattr(store, "read_image", spy)
    return names


def refuse(text: str) -> None:
    pytest.fail(text)


def cache_in(tmp_path: Path, *, limit_bytes: int = 10**9, told: list[str] | None = None) -> Cache:
    return Cache(folder=tmp_path / "cache", limit_bytes=limit_bytes, warn=refuse if told is None else told.append)


def opened(files: list[Path], cache: Cache, *, size: int = 16, crop: Crop = "squash") -> ImageStore:
    photos = open_image_store(files, size=size, crop=crop, cache=cache)
    assert isinstance(photos, ImageStore)
    return photos


@pytest.mark.parametrize("crop", ["squash", "pad"])
@pytest.mark.parametrize("order", [[5, 0, 11, 2], [8, 1, 3, 8, 1], list(range(12)), []])
def test_cold_and_warm_give_the_bytes_of_the_files(
    files: list[Path], tmp_path: Path, crop: Crop, order: list[int]
) -> None:
    indices = np.array(order, dtype=np.int64)
    pixels, ok = ImageFiles(files, size=16, crop=crop).read(indices)
    for _ in range(2):
        found, readable = opened(files, cache_in(tmp_path), crop=crop).read(indices)
        assert torch.equal(found, pixels)
        assert torch.equal(readable, ok)
        assert found.dtype == torch.uint8


def test_every_photo_is_decoded_once_also_the_broken_ones(
    files: list[Path], tmp_path: Path, decoded: list[str]
) -> None:
    for _ in range(3):
        photos = opened(files, cache_in(tmp_path))
        photos.read(np.arange(12))
        assert photos.failures == {3: "is truncated", 8: "is a text file (HTML, XML or SVG), not a photo"}
    assert sorted(decoded) == sorted(path.name for path in files)


def test_another_size_or_crop_is_another_store(files: list[Path], tmp_path: Path) -> None:
    for size, crop in [(16, "squash"), (8, "squash"), (16, "pad")]:
        pixels, _ = opened(files, cache_in(tmp_path), size=size, crop=crop).read(np.arange(12))  # type: ignore[arg-type]
        assert torch.equal(pixels, ImageFiles(files, size=size, crop=crop).read(np.arange(12))[0])  # type: ignore[arg-type]
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_more_photos_later_are_added(files: list[Path], tmp_path: Path, decoded: list[str]) -> None:
    opened(files[:5], cache_in(tmp_path))
    photos = opened(files[2:], cache_in(tmp_path))
    assert len(decoded) == 12
    assert torch.equal(photos.read(np.arange(10))[0], ImageFiles(files[2:], size=16).read(np.arange(10))[0])


def test_links_and_other_spellings_lead_to_one_photo(files: list[Path], tmp_path: Path, decoded: list[str]) -> None:
    (tmp_path / "link.png").symlink_to(files[0])
    (tmp_path / "folder").symlink_to(tmp_path / "photos")
    same = [files[0], tmp_path / "link.png", tmp_path / "folder" / "0.png", tmp_path / "photos" / ".." / "link.png"]
    assert len(set(photo_keys(same))) == 1
    pixels, ok = opened(same, cache_in(tmp_path)).read(np.arange(4))
    assert decoded == ["0.png"]
    assert ok.all()
    assert all(torch.equal(pixels[0], other) for other in pixels)


def test_a_copy_is_another_photo_and_a_missing_one_is_none(files: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    shutil.copy2(files[0], copy)
    keys = photo_keys([files[0], copy, tmp_path / "none.png", tmp_path / "a\0b.png"])
    assert len(set(keys)) == 3
    assert keys[2:] == ["", ""]


@pytest.mark.parametrize("limit", [0, 16 * 16 * 3 * 11])
def test_what_does_not_fit_is_decoded_on_the_fly_with_the_same_bytes(
    files: list[Path], tmp_path: Path, limit: int
) -> None:
    told: list[str] = []
    photos = open_image_store(files, size=16, cache=cache_in(tmp_path, limit_bytes=limit, told=told))
    assert isinstance(photos, ImageFiles)
    assert torch.equal(photos.read(np.arange(12))[0], ImageFiles(files, size=16).read(np.arange(12))[0])
    (text,) = told
    assert f"holds 0 bytes and would need 9,216 more, but its limit is {limit:,}" in text
    assert "mixfit cache --clear" in text
    assert not (tmp_path / "cache").exists()


def test_what_is_there_is_used_though_the_rest_does_not_fit(
    files: list[Path], tmp_path: Path, decoded: list[str]
) -> None:
    opened(files[:3], cache_in(tmp_path))
    told: list[str] = []
    photos = opened(files, cache_in(tmp_path, limit_bytes=5_000, told=told))
    decoded.clear()
    expected = ImageFiles(files, size=16).read(np.arange(12))[0]
    decoded.clear()
    assert torch.equal(photos.read(np.arange(12))[0], expected)
    assert len(decoded) == 9
    assert len(told) == 1


def test_a_full_disk_is_said_before_anything_is_written(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=10_000, free=9_000))
    assert isinstance(open_image_store(files, size=16, cache=cache_in(tmp_path, told=told)), ImageFiles)
    assert "needs 9,216 bytes, but the disk has 9,000 free" in told[0]
    assert not (tmp_path / "cache").exists()


def test_a_passing_problem_is_not_remembered(files: list[Path], tmp_path: Path) -> None:
    vanished = files[5].read_bytes()
    files[5].unlink()
    photos = opened(files, cache_in(tmp_path))
    assert not photos.read(np.array([5]))[1].any()
    assert photos.failures[5] == "is missing"
    files[5].write_bytes(vanished)
    assert opened(files, cache_in(tmp_path)).read(np.array([5]))[1].all()


def test_a_photo_that_cannot_be_read_this_time_is_decoded_and_not_forgotten(
    files: list[Path], tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = opened(files[:3], cache_in(tmp_path))
    expected, _ = photos.read(np.arange(3))
    decoded.clear()
    original = os.preadv

    def preadv(descriptor: int, buffers: list[Any], offset: int) -> int:
        if offset == 3 * 16 * 16:
            raise OSError(5, "Input/output error")
        return original(descriptor, buffers, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", preadv)
        found, ok = photos.read(np.arange(3))
    assert ok.all()
    assert torch.equal(found, expected)
    assert len(decoded) == 1
    for again in (photos, opened(files[:3], cache_in(tmp_path))):
        assert torch.equal(again.read(np.arange(3))[0], expected)
    assert len(decoded) == 1


def test_the_name_of_the_decoder_covers_the_libraries_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    name = decoder_name(16, "squash")
    for library in ("libjpeg_turbo", "webp", "libtiff"):
        with monkeypatch.context() as patch:
            patch.setattr(features, "version", lambda feature, changed=library: feature == changed and "9.9")
            assert decoder_name(16, "squash") != name
    assert decoder_name(16, "squash") == name


def test_it_is_an_image_source_that_pickles_and_refuses_wrong_numbers(files: list[Path], tmp_path: Path) -> None:
    photos = opened(files, cache_in(tmp_path))
    assert isinstance(photos, ImageSource)
    assert (len(photos), photos.size) == (12, 16)
    pixels, _ = photos.read(np.arange(12))
    assert torch.equal(pickle.loads(pickle.dumps(photos)).read(np.arange(12))[0], pixels)
    with pytest.raises(IndexError, match="photo numbers must be 0 to 11, got -1 to 3"):
        photos.read(np.array([3, -1]))


class _PhotoBatches(Dataset[torch.Tensor]):
    def __init__(self, photos: ImageStore) -> None:
        self.photos = photos

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.photos.read(np.array([2 * index, 2 * index + 1]))[0]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_the_same(files: list[Path], tmp_path: Path, start: str) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {start}")
    photos = opened(files, cache_in(tmp_path))
    expected, _ = photos.read(np.arange(12))
    workers = 2 if start == "fork" else 1
    loader = DataLoader(
        _PhotoBatches(photos), batch_size=None, num_workers=workers, multiprocessing_context=start, timeout=60
    )
    assert torch.equal(torch.cat(list(loader)), expected)


def test_threads_read_the_same(files: list[Path], tmp_path: Path) -> None:
    photos = opened(files, cache_in(tmp_path))
    expected = ImageFiles(files, size=16).read(np.arange(12))[0]
    wrong: list[int] = []

    def read(seed: int) -> None:
        for _ in range(30):
            order = np.random.default_rng(seed).permutation(12)
            if not torch.equal(photos.read(order)[0], expected[order]):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_no_thread_and_no_descriptor_is_left_behind(files: list[Path], tmp_path: Path) -> None:
    opened(files, cache_in(tmp_path)).close()
    before = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        photos = opened(files, cache_in(tmp_path))
        photos.read(np.arange(12))
        photos.close()
        del photos
    assert (threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))) == before


@pytest.mark.skipif(not PIL.__version__.startswith("13."), reason="the pixels below are Pillow 13's")
def test_whoever_changes_the_decoder_must_raise_its_version(tmp_path: Path) -> None:
    """Stores made before the change would go on giving the old pixels."""
    ramp = np.arange(40 * 30 * 4, dtype=np.uint32).reshape(40, 30, 4) * 7919 % 256
    sums = []
    for mode, crop in [("RGBA", "squash"), ("RGB", "center"), ("L", "pad"), ("P", "squash")]:
        Image.fromarray(ramp.astype(np.uint8), "RGBA").convert(mode).save(tmp_path / "x.png")
        sums.append(int(read_image(tmp_path / "x.png", size=9, crop=crop).astype(np.int64).sum()))  # type: ignore[arg-type]
    assert (DECODER_VERSION, sums) == (1, GOLDEN_SUMS)
