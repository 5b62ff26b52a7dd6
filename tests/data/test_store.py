"""Photos by number: order, repeats, failures, threads, pickling and forked workers."""

import multiprocessing
import os
import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from mixfit.choices import Crop
from mixfit.data.dataset import ImageSource
from mixfit.data.photos import store
from mixfit.data.photos.decode import read_image
from mixfit.data.photos.store import ImageFiles, typical_side
from mixfit.errors import ConfigError


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Twelve photos of which 3 and 8 are damaged."""
    paths = [tmp_path / f"{number}.png" for number in range(12)]
    for number, path in enumerate(paths):
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    paths[3].write_bytes(paths[3].read_bytes()[:200])
    paths[8].write_bytes(b"<html>not found</html>")
    return paths


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("crop", ["squash", "pad"])
def test_each_number_gives_its_own_photo(files: list[Path], threads: int, crop: Crop) -> None:
    indices = np.array([5, 0, 11, 2])
    with ImageFiles(files, size=16, crop=crop, threads=threads) as photos:
        pixels, ok = photos.read(indices)
    assert pixels.dtype == torch.uint8
    assert ok.tolist() == [True] * 4
    for place, index in enumerate(indices):
        expected = read_image(files[index], size=16, crop=crop).transpose(2, 0, 1)
        np.testing.assert_array_equal(pixels[place].numpy(), expected)


@pytest.mark.parametrize("threads", [1, 4])
def test_failures_are_zero_masked_and_remembered_in_order(files: list[Path], threads: int) -> None:
    photos = ImageFiles(files, size=16, threads=threads)
    pixels, ok = photos.read(np.array([8, 1, 3, 8]))
    assert ok.tolist() == [False, True, False, False]
    assert not pixels[[0, 2, 3]].any()
    assert list(photos.failures.items()) == [
        (3, "is truncated"),
        (8, "is a text file (HTML, XML or SVG), not a photo"),
    ]


def test_failures_collect_over_calls_and_do_not_depend_on_their_order(files: list[Path]) -> None:
    forwards, backwards = ImageFiles(files, size=8, threads=4), ImageFiles(files, size=8, threads=4)
    assert forwards.failures == {}
    for index in range(12):
        forwards.read(np.array([index]))
        backwards.read(np.array([11 - index]))
    assert list(forwards.failures.items()) == list(backwards.failures.items())
    assert set(forwards.failures) == {3, 8}


def test_a_photo_asked_for_twice_is_decoded_once(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []

    def spy(source: Path, *, size: int, crop: Crop, follow_links: bool) -> np.ndarray:
        decoded.append(source)
        return read_image(source, size=size, crop=crop)

    monkeypatch.setattr(store, "read_image", spy)
    pixels, ok = ImageFiles(files, size=8, threads=2).read(np.array([4, 6, 4, 4, 6, 3, 3]))
    assert sorted(decoded) == sorted([files[4], files[6], files[3]])
    assert ok.tolist() == [True] * 5 + [False] * 2
    assert torch.equal(pixels[0], pixels[2])
    assert torch.equal(pixels[1], pixels[4])
    assert not torch.equal(pixels[0], pixels[1])


def test_nothing_asked_for(files: list[Path]) -> None:
    pixels, ok = ImageFiles(files, size=8).read(np.array([], dtype=np.int64))
    assert pixels.shape == (0, 3, 8, 8)
    assert ok.shape == (0,)


@pytest.mark.parametrize("indices", [[-1], [0, 12]])
def test_numbers_out_of_range_are_a_bug_of_the_caller(files: list[Path], indices: list[int]) -> None:
    with pytest.raises(IndexError, match="photo numbers must be 0 to 11, got"):
        ImageFiles(files, size=8).read(np.array(indices))


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="at least 1 pixel, got 0"):
        ImageFiles([], size=0)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        ImageFiles([], size=8, threads=0)


def test_it_is_an_image_source(files: list[Path]) -> None:
    source: ImageSource = ImageFiles(files, size=8)
    assert isinstance(source, ImageSource)
    assert (len(source), source.size) == (12, 8)


def test_it_may_be_closed_twice_and_used_again(files: list[Path]) -> None:
    photos = ImageFiles(files, size=8, threads=2)
    first, _ = photos.read(np.arange(3))
    photos.close()
    photos.close()
    again, _ = photos.read(np.arange(3))
    assert torch.equal(first, again)


def test_it_may_be_closed_while_another_thread_reads(files: list[Path]) -> None:
    photos, stop = ImageFiles(files, size=8, threads=2), threading.Event()
    expected, _ = photos.read(np.arange(12))

    def close() -> None:
        while not stop.is_set():
            photos.close()

    closer = threading.Thread(target=close)
    closer.start()
    try:
        for _ in range(100):
            assert torch.equal(photos.read(np.arange(12))[0], expected)
    finally:
        stop.set()
        closer.join()
        photos.close()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_a_process_forked_while_a_thread_starts_decoding_can_decode(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = ImageFiles(files, size=8, threads=2)
    starting, forked = threading.Event(), threading.Event()

    def slow(*arguments: Any, **settings: Any) -> ThreadPoolExecutor:
        starting.set()  # whatever lock there is, it is held now
        forked.wait(20)
        return ThreadPoolExecutor(*arguments, **settings)

    monkeypatch.setattr(store, "ThreadPoolExecutor", slow)
    reader = threading.Thread(target=photos.read, args=(np.arange(12),))
    reader.start()
    starting.wait(20)
    monkeypatch.undo()
    child = multiprocessing.get_context("fork").Process(target=photos.read, args=(np.arange(12),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what this is about
        child.start()
    forked.set()
    child.join(20)
    child.kill()
    reader.join()
    photos.close()
    assert child.exitcode == 0


def test_it_pickles_after_use(files: list[Path]) -> None:
    photos = ImageFiles(files, size=8, threads=2)
    pixels, _ = photos.read(np.arange(4))
    copy = pickle.loads(pickle.dumps(photos))
    assert torch.equal(copy.read(np.arange(4))[0], pixels)
    assert copy.failures == photos.failures


class _PhotoBatches(Dataset[torch.Tensor]):
    def __init__(self, photos: ImageFiles) -> None:
        self.photos = photos

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.photos.read(np.array([2 * index, 2 * index + 1]))[0]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_forked_workers_start_threads_of_their_own(files: list[Path]) -> None:
    photos = ImageFiles(files, size=8, threads=2)
    expected, _ = photos.read(np.arange(12))  # the pool exists before the fork
    loader = DataLoader(
        _PhotoBatches(photos), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=20
    )
    assert torch.equal(torch.cat(list(loader)), expected)


def test_typical_side_is_the_median_shorter_side(tmp_path: Path) -> None:
    files = []
    for number, shape in enumerate([(50, 90), (200, 60), (70, 70), (500, 500)]):
        files.append(tmp_path / f"{number}.png")
        Image.new("L", shape).save(files[-1])
    files.insert(2, tmp_path / "missing.png")
    assert typical_side(files[:4]) == 60
    assert typical_side(files) == 65
    assert typical_side(files, sample=2) == 275  # the first and the last
    assert typical_side([]) == 224
    assert typical_side([tmp_path / "missing.png"]) == 224


@pytest.mark.skipif("MIXFIT_DATA" not in os.environ, reason="MIXFIT_DATA is not set")
def test_typical_side_of_the_houses() -> None:
    assert typical_side(sorted((Path(os.environ["MIXFIT_DATA"]) / "houses/images").glob("*.jpg"))) == 224
