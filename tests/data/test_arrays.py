"""Arrays that are larger than memory: the same values as in memory, in files that nobody has to remove."""

import errno
import os
import subprocess
import sys
import tempfile
from mmap import mmap
from pathlib import Path

import numpy as np
import pytest
import torch

from mixfit.data import arrays
from mixfit.data.arrays import beside, parts, sampled, take, whole_or_parts, zeros
from mixfit.data.dataset import FeatureTable
from mixfit.data.photos.scores import PhotoScores
from mixfit.errors import ResourceError
from mixfit.models.encoding import mean_features
from mixfit.models.model import Components


def in_file(array: np.ndarray) -> bool:
    """Whether the memory of an array belongs to a file."""
    base = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return isinstance(base, mmap)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays of more than 1,000 bytes lie in files, and are read in parts of 300."""
    monkeypatch.setattr(arrays, "LARGEST", 1_000)
    monkeypatch.setattr(arrays, "_PART", 300)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool, "datetime64[us]"])
def test_large_arrays_lie_in_files_and_hold_what_is_written(dtype: str) -> None:
    found = zeros((500, 3), dtype)
    assert in_file(found)
    assert not in_file(zeros((5, 3), dtype))
    np.testing.assert_array_equal(found, np.zeros((500, 3), dtype))
    found[7] = np.ones(3).astype(dtype)
    np.testing.assert_array_equal(found[7:8], np.ones((1, 3)).astype(dtype))
    assert in_file(zeros((500,), np.int64, in_file=True))
    assert not in_file(zeros((500,), np.int64, in_file=False))
    assert zeros((0, 3), in_file=True).shape == (0, 3)


def test_no_file_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held = zeros((500, 3), in_file=True)
    held[:] = 1
    assert list(tmp_path.iterdir()) == []
    assert held.sum() == 1_500


def test_a_full_disk_is_said_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(
        ResourceError, match=r"An array of 0\.4 GB does not fit on the disk of .*: set TMPDIR to a folder"
    ):
        zeros((10**8,), in_file=True)


@pytest.mark.usefixtures("small")
def test_rows_and_columns_are_those_of_arrays_in_memory() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 5)).astype(np.float32)
    rows = rng.integers(0, 400, 300)
    for chosen in (rows, rows > 200):
        source = values if chosen is rows else values[:300]
        assert in_file(take(source, chosen)) == (np.count_nonzero(chosen) * 20 > 1_000)
        np.testing.assert_array_equal(take(source, chosen), source[chosen])
    columns = [values, np.arange(400)[:, None], np.zeros((400, 0))]
    np.testing.assert_array_equal(beside(columns), np.concatenate(columns, axis=1))
    assert beside(columns).dtype == np.concatenate(columns, axis=1).dtype
    assert beside(columns, np.float32).dtype == np.float32
    np.testing.assert_array_equal(np.concatenate([values[part] for part in whole_or_parts(values)]), values)
    assert [part.stop - part.start for part in parts(5, 140)] == [2, 2, 1]
    assert [part.stop - part.start for part in parts(2, 10**9)] == [1, 1]
    assert list(parts(0, 4)) == []


@pytest.mark.usefixtures("small")
def test_a_sample_has_rows_of_the_whole_in_their_order() -> None:
    rows = np.arange(0, 200, 2)
    found = sampled(rows, 50, seed=1)
    assert len(found) == 20
    assert set(found) <= set(rows)
    assert (np.diff(found) > 0).all()
    np.testing.assert_array_equal(found, sampled(rows, 50, seed=1))
    np.testing.assert_array_equal(sampled(rows, 10, seed=1), rows)


def test_features_of_photos_in_files_give_what_those_in_memory_give(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    features = FeatureTable(
        torch.from_numpy(rng.normal(size=(300, 8)).astype(np.float32)), torch.from_numpy(rng.random(300) > 0.1)
    )
    slots, truth = rng.integers(-1, 300, (200, 3)), rng.normal(size=200)
    whole = mean_features(200, slots, features)
    assert whole.values is not None
    components = Components.fit(whole.values, whole.seen, most=4, seed=0)
    scores, _ = PhotoScores.fit(whole.values, whole.seen, truth, classes=0)
    monkeypatch.setattr(arrays, "LARGEST", 1_000)
    monkeypatch.setattr(arrays, "_PART", 300)
    found = mean_features(200, slots, features)
    assert found.values is not None
    assert in_file(found.values)
    np.testing.assert_array_equal(found.values, whole.values)
    np.testing.assert_array_equal(found.seen, whole.seen)
    for learnt in (components, scores):
        with monkeypatch.context() as patch:
            patch.setattr(arrays, "LARGEST", 10**9)
            expected = learnt.apply(whole.values, whole.seen)
        np.testing.assert_allclose(learnt.apply(found.values, found.seen), expected, rtol=1e-5, atol=1e-6)


def test_of_too_many_rows_some_are_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    signal = rng.normal(size=2_000)
    values = (signal[:, None] * np.array([1.0, -1.0, 0.5, 0.0]) + 0.1 * rng.normal(size=(2_000, 4))).astype(np.float32)
    monkeypatch.setattr(arrays, "LARGEST", 16 * 500)
    scores, own = PhotoScores.fit(values, np.ones(2_000, dtype=bool), signal, classes=0)
    assert np.corrcoef(own[:, 0], signal)[0, 1] > 0.98
    assert np.corrcoef(scores.apply(values, np.ones(2_000, dtype=bool))[:, 0], signal)[0, 1] > 0.98
    components = Components.fit(values, np.ones(2_000, dtype=bool), most=2, seed=0)
    first = components.apply(values, np.ones(2_000, dtype=bool))[:, 0]
    assert abs(np.corrcoef(first, signal)[0, 1]) > 0.98


LIMITED = """
import resource
import numpy as np
import torch
from mixfit.data import arrays
from mixfit.data.dataset import FeatureTable
from mixfit.models.encoding import mean_features
from mixfit.models.model import Components

arrays.LARGEST = 2**24
taken = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (taken + 250_000_000,) * 2)
features = FeatureTable.empty(90_000, 2_224)
features.readable[:] = True
features.values[1::1000] = 1.0
assert features.values.numel() * 4 > 3 * 250_000_000
batch = features.values.index_select(0, torch.arange(0, 90_000, 900))
means = mean_features(90_000, np.arange(90_000)[:, None], features)
axes = Components(mean=np.zeros(2_224, np.float32), axes=np.ones((2, 2_224), np.float32))
found = axes.apply(means.values, means.seen)
assert found[1, 0] == 2_224 and found[2, 0] == 0
try:
    np.ones((90_000, 2_224), np.float32)
except MemoryError:
    print("limited")
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the limit is set from what Linux tells")
def test_features_beyond_the_memory_limit_are_read_and_reduced(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], capture_output=True, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    assert (done.stdout, done.stderr) == ("limited\n", "")
