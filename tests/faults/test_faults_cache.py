"""Faults of the cache folder: writers that are killed, damaged files, a full or read-only disk, photos that change."""

import multiprocessing
import os
import time
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import pytest
import torch
from limits import files_of_at_most
from PIL import Image

from mixfit.data.photos import store as image_store
from mixfit.data.photos.records import INDEX, RECORDS, Cache, clear, list_stores
from mixfit.data.photos.store import ImageFiles, ImageStore, open_image_store

SIZE = 32
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    files = [folder / f"{number}.jpg" for number in range(400)]
    for number, file in enumerate(files):
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(file)
    files[7].write_bytes(files[7].read_bytes()[:300])
    return files


@pytest.fixture(scope="module")
def expected(photos: list[Path]) -> torch.Tensor:
    return ImageFiles(photos, size=SIZE).read(np.arange(len(photos)))[0]


def opened(files: list[Path], folder: Path, told: list[str] | None = None) -> ImageStore | ImageFiles:
    warn = pytest.fail if told is None else told.append
    return open_image_store(files, size=SIZE, cache=Cache(folder=folder, limit_bytes=10**9, warn=lambda t: warn(t)))


def read_all(files: list[Path], folder: Path, told: list[str] | None = None) -> torch.Tensor:
    return opened(files, folder, told).read(np.arange(len(files)))[0]


def fill(photos: list[Path], folder: Path, told: SimpleQueue[str]) -> None:
    image_store._CHUNK_BYTES = 1  # 16 photos a chunk, so that there are many moments to be killed at
    cache = Cache(folder=folder, limit_bytes=10**9, warn=told.put)
    told.put(type(open_image_store(photos, size=SIZE, cache=cache)).__name__)


def store_in(folder: Path) -> Path:
    (store,) = folder.iterdir()
    return store


def test_a_builder_killed_at_any_moment_leaves_whole_photos(
    photos: list[Path], expected: torch.Tensor, tmp_path: Path
) -> None:
    counts = [0]
    turn, deadline = 0, time.monotonic() + 60
    while turn < 10 or (counts[-1] == 0 and time.monotonic() < deadline):  # on a busy machine it takes more turns
        turn += 1
        process = FORK.Process(target=fill, args=(photos, tmp_path / "cache", FORK.SimpleQueue()))
        process.start()
        time.sleep(0.01 + 0.013 * turn)
        process.kill()
        process.join()
        stores = list_stores(tmp_path / "cache")
        counts.append(stores[0].records if stores else 0)
    assert counts == sorted(counts)
    assert counts[-1] > 0
    assert torch.equal(read_all(photos, tmp_path / "cache"), expected)
    assert torch.equal(read_all(photos, tmp_path / "cache"), expected)
    assert list_stores(tmp_path / "cache")[0].records == len(photos)


def test_two_processes_fill_one_cache_together(photos: list[Path], expected: torch.Tensor, tmp_path: Path) -> None:
    told: SimpleQueue[str] = FORK.SimpleQueue()
    processes = [FORK.Process(target=fill, args=(photos, tmp_path / "cache", told)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    outputs = []
    while not told.empty():
        outputs.append(told.get())
    assert outputs.count("ImageStore") == 2
    # Either one waited for the other, or it came so late that all was there.
    assert sum(output.endswith("waiting for it.") for output in outputs) == len(outputs) - 2 <= 1
    assert (store_in(tmp_path / "cache") / RECORDS).stat().st_size == (len(photos) - 1) * 3 * SIZE * SIZE
    assert torch.equal(read_all(photos, tmp_path / "cache"), expected)


@pytest.mark.parametrize("name", [RECORDS, INDEX, "mixfit-store.json"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "emptied", "removed", "noise"])
def test_damaged_files_of_the_store_give_no_wrong_pixel(
    photos: list[Path], expected: torch.Tensor, tmp_path: Path, name: str, damage: str
) -> None:
    few, pixels = photos[:40], expected[:40]
    read_all(few, tmp_path / "cache")
    path = store_in(tmp_path / "cache") / name
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(len(name))
    match damage:
        case "flipped":
            for place in rng.integers(0, len(data), 8):
                data[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(data)
        case "truncated":
            path.write_bytes(data[: len(data) // 3])
        case "emptied":
            path.write_bytes(b"")
        case "removed":
            path.unlink()
        case "noise":
            path.write_bytes(rng.bytes(len(data)))
    for _ in range(3):
        assert torch.equal(read_all(few, tmp_path / "cache"), pixels)
    assert list_stores(tmp_path / "cache")[0].records >= 40


def test_a_store_cut_short_or_removed_while_it_is_read(
    photos: list[Path], expected: torch.Tensor, tmp_path: Path
) -> None:
    few, pixels = photos[:20], expected[:20]
    source = opened(few, tmp_path / "cache")
    assert torch.equal(source.read(np.arange(20))[0], pixels)
    os.truncate(store_in(tmp_path / "cache") / RECORDS, 5_000)
    assert torch.equal(source.read(np.arange(20))[0], pixels)
    clear(tmp_path / "cache")
    assert torch.equal(source.read(np.arange(20))[0], pixels)


def test_f27_a_photo_that_changed_between_runs_is_decoded_again(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for number, file in enumerate(files):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(file)
    read_all(files, tmp_path / "cache")
    Image.new("RGB", (40, 40), (200, 0, 0)).save(files[1])  # as many bytes as before: only the time tells
    files[2].unlink()
    files[3].write_bytes(b"<html>moved</html>")
    source = opened(files, tmp_path / "cache")
    pixels, ok = source.read(np.arange(4))
    assert pixels[:, 0, 0, 0].tolist() == [0, 200, 0, 0]
    assert ok.tolist() == [True, True, False, False]
    assert source.failures == {2: "is missing", 3: "is a text file (HTML, XML or SVG), not a photo"}
    Image.new("RGB", (40, 40), (90, 0, 0)).save(files[3])  # repaired: the problem is forgotten
    assert opened(files, tmp_path / "cache").read(np.array([3]))[0][0, 0, 0, 0] == 90


@pytest.mark.parametrize("limit", [0, 5_000, 60_000, 1_000_000])
def test_f32_a_full_disk_ends_in_one_sentence_and_nothing_half_written(
    photos: list[Path], expected: torch.Tensor, tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixfit.data.photos.store._CHUNK_BYTES", 200_000)
    told: list[str] = []
    with files_of_at_most(limit):
        pixels = read_all(photos, tmp_path / "cache", told)
    assert torch.equal(pixels, expected)
    assert len(told) == 1
    assert "cannot be written" in told[0]
    assert told[0].endswith("bytes are free there. Photos that are not in the cache are decoded on every access.")
    records = next((tmp_path / "cache").iterdir()) / RECORDS
    assert not records.exists() or records.stat().st_size % (3 * SIZE * SIZE) == 0
    assert torch.equal(read_all(photos, tmp_path / "cache"), expected)


def test_a_cache_that_cannot_be_written_is_gone_without(
    photos: list[Path], expected: torch.Tensor, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    told: list[str] = []
    assert torch.equal(read_all(photos[:20], tmp_path / "file" / "cache", told), expected[:20])
    assert len(told) == 1
    assert "cannot be written: Not a directory" in told[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_still_read(photos: list[Path], expected: torch.Tensor, tmp_path: Path) -> None:
    read_all(photos[:20], tmp_path / "cache")
    store_in(tmp_path / "cache").chmod(0o500)
    try:
        assert torch.equal(read_all(photos[:20], tmp_path / "cache"), expected[:20])
        told: list[str] = []
        assert torch.equal(read_all(photos[:40], tmp_path / "cache", told), expected[:40])
        assert len(told) == 1
    finally:
        store_in(tmp_path / "cache").chmod(0o700)
