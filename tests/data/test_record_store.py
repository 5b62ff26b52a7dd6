"""The mechanism below the stores: what was appended is found again, and nothing else is."""

import gc
import multiprocessing
import os
import pickle
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixfit.data.photos.records import DESCRIPTION, INDEX, RECORDS, RecordReader, RecordStore, lock, matches
from mixfit.errors import ResourceError

FORK = multiprocessing.get_context("fork")


def new_store(folder: Path) -> RecordStore:
    return RecordStore(folder, shape=(5,), dtype=np.float32)


def records(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)[:, None] + np.arange(5, dtype=np.float32) / 10


def stored(store: RecordStore, keys: list[str]) -> dict[str, float]:
    """First number of each record that is there and whole."""
    found = store.find(keys)
    there = np.flatnonzero(found.places >= 0)
    out = np.empty((len(there), 5), dtype=np.float32)
    ok, _ = store.reader().read(found.places[there], out)
    return {
        keys[n]: float(row[0])
        for n, row, good in zip(there, out, ok, strict=True)
        if good and matches(keys[n], row, int(found.checksums[n]))
    }


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.lists(st.integers(0, 30), unique=True, max_size=6), max_size=5))
def test_what_was_appended_is_found_in_any_order(
    parts: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store, expected = new_store(tmp_path_factory.mktemp("store") / "s"), {}
    for turn, part in enumerate(parts):
        with store.writing():
            store.append([str(n) for n in part], records(*[n + 100 * turn for n in part]).reshape(-1, 5))
        expected |= {str(n): float(n + 100 * turn) for n in part}
    assert stored(store, [str(n) for n in range(30, -1, -1)]) == expected


def test_a_store_that_was_never_written_has_nothing_and_makes_no_folder(tmp_path: Path) -> None:
    store = new_store(tmp_path / "none")
    assert store.find(["a", "b"]).missing.tolist() == [0, 1]
    assert list(tmp_path.iterdir()) == []


def test_problems_take_the_place_of_records(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s")
    with store.writing():
        store.append(["a"], records(1), {"b": "is truncated"})
    found = store.find(["c", "b", "a"])
    assert (found.problems, found.missing.tolist()) == ({1: "is truncated"}, [0])


def test_more_keys_than_one_query_takes(tmp_path: Path) -> None:
    store, keys = new_store(tmp_path / "s"), [str(n) for n in range(1_301)]
    with store.writing():
        store.append(keys, records(*range(1_301)))
    assert stored(store, keys) == {key: float(key) for key in keys}


def test_threads_may_append_at_once(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s")
    with store.writing(), ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: store.append([str(n)], records(n)), range(40)))
    assert stored(store, [str(n) for n in range(40)]) == {str(n): float(n) for n in range(40)}


def test_another_shape_or_kind_starts_anew(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s")
    with store.writing():
        store.append(["a"], records(1))
    other = RecordStore(tmp_path / "s", shape=(3,), dtype=np.float32)
    with other.writing():
        assert other.find(["a"]).missing.tolist() == [0]


def test_a_reader_keeps_its_records_when_the_store_is_started_anew(tmp_path: Path) -> None:
    store, out = new_store(tmp_path / "s"), np.empty((1, 5), dtype=np.float32)
    with store.writing():
        store.append(["a"], records(7))
    reader = store.reader()
    assert reader.read(np.array([0]), out).ok.all()
    (tmp_path / "s" / INDEX).write_bytes(b"no database" * 100)
    with store.writing():
        store.append(["b"], records(8))
    assert reader.read(np.array([0]), out).ok.all()
    np.testing.assert_array_equal(out, records(7))
    assert pickle.loads(pickle.dumps(reader)).read(np.array([0]), out).ok.all()
    np.testing.assert_array_equal(out, records(8))


def test_a_forgotten_key_is_missing_and_its_place_is_not_used_again(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s")
    with store.writing():
        store.append(["a", "b"], records(1, 2))
    found = store.find(["a", "b"])
    store.forget(["a"], found.places[1:], found.checksums[:1])  # the index says otherwise: nothing happens
    store.forget(["a"], found.places[:1], found.checksums[1:])
    store.forget(["b"], found.places[1:], found.checksums[1:])
    assert store.find(["a", "b"]).missing.tolist() == [1]
    with store.writing():
        places, _ = store.append(["b"], records(3))
    assert places.tolist() == [2]


def test_the_second_writer_waits_for_one_that_works_and_gives_up_on_one_that_does_not(tmp_path: Path) -> None:
    store, told = new_store(tmp_path / "s"), []
    with (
        store.writing(),
        pytest.raises(ResourceError, match=r"Another process holds the cache in .* and has added nothing for 0 s"),
        store.writing(waiting=lambda: told.append(1), patience=0.2),
    ):
        pytest.fail("two writers at once")
    assert told == [1]
    with store.writing():
        pass


def test_a_lock_of_a_removed_store_is_no_lock(tmp_path: Path) -> None:
    with lock(tmp_path / "s"):
        (tmp_path / "s" / "lock").unlink()
        with lock(tmp_path / "s", patience=0.0):
            pass


def test_a_buffer_of_another_shape_is_a_bug_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="out must be contiguous float32"):
        new_store(tmp_path).reader().read(np.array([0]), np.empty((2, 5), dtype=np.float32))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(ResourceError, match="cannot be written: Not a directory"),
        new_store(tmp_path / "file" / "s").writing(),
    ):
        pytest.fail("written into a file")


def test_what_lies_beyond_the_last_committed_row_is_left_unused(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s")
    with store.writing():
        store.append(["a"], records(1))
    with (tmp_path / "s" / RECORDS).open("ab") as file:  # a writer was killed before its commit
        file.write(b"x" * 47)
    with store.writing():
        store.append(["b"], records(2))
    assert stored(store, ["a", "b"]) == {"a": 1.0, "b": 2.0}
    assert (tmp_path / "s" / DESCRIPTION).is_file()


@pytest.mark.parametrize("damage", ["removed", "emptied", "restored", "cut", "dropped"])
def test_a_reader_never_sees_a_record_change(tmp_path: Path, damage: str) -> None:
    """Whatever happens to the index or the records, no writer writes over what a reader may have open."""
    store, out = new_store(tmp_path / "s"), np.empty((2, 5), dtype=np.float32)
    with store.writing():
        store.append(["a"], records(1))
    older = (tmp_path / "s" / INDEX).read_bytes()
    with store.writing():
        store.append(["b"], records(2))
    reader = store.reader()
    assert reader.read(np.array([0, 1]), out).ok.all()
    match damage:
        case "removed":
            (tmp_path / "s" / INDEX).unlink()
        case "emptied":
            (tmp_path / "s" / INDEX).write_bytes(b"")
        case "restored":
            (tmp_path / "s" / INDEX).write_bytes(older)
        case "cut":
            os.truncate(tmp_path / "s" / RECORDS, 20)
        case "dropped":
            with closing(sqlite3.connect(tmp_path / "s" / INDEX)) as index, index:
                index.execute("DELETE FROM records")
    before = (tmp_path / "s" / RECORDS).read_bytes()
    with store.writing():
        store.append(["c", "d", "e"], records(7, 8, 9))
    ok, lost = reader.read(np.array([0, 1]), out)
    assert (lost == ~ok).all()
    np.testing.assert_array_equal(out[ok], records(1, 2)[ok])
    assert ok.tolist() == [True, len(before) == 40]
    assert stored(store, ["c", "d", "e"]) == {"c": 7.0, "d": 8.0, "e": 9.0}


@pytest.mark.parametrize("schema", ["CREATE TABLE records (key TEXT)", "CREATE TABLE other (key TEXT)"])
def test_an_index_with_other_columns_is_made_anew(tmp_path: Path, schema: str) -> None:
    store = new_store(tmp_path / "s")
    with store.writing():
        store.append(["a"], records(1))
    with closing(sqlite3.connect(tmp_path / "s" / INDEX)) as index, index:
        index.execute("DROP TABLE records")
        index.execute(schema)
    assert store.find(["a"]).missing.tolist() == [0]
    with store.writing():
        store.append(["b"], records(2))
    assert stored(store, ["a", "b"]) == {"b": 2.0}


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_IOERR_READ])
def test_a_failing_disk_is_no_reason_to_start_anew(tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store(tmp_path / "s")
    with store.writing():
        store.append(["a"], records(1))

    def fail(*_: object, **__: object) -> sqlite3.Connection:
        error = sqlite3.OperationalError("the disk fails")
        error.sqlite_errorcode = code
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", fail)
        with pytest.raises(ResourceError, match="cannot be written: the disk fails"), store.writing():
            pytest.fail("written with a failing disk")
    assert stored(store, ["a"]) == {"a": 1.0}


@pytest.mark.parametrize("name", [RECORDS, DESCRIPTION])
def test_a_file_that_cannot_be_looked_at_is_not_taken_for_missing(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = new_store(tmp_path / "s")
    with store.writing():
        store.append(["a"], records(1))
    with monkeypatch.context() as patch:
        for method in ("stat", "read_text"):
            patch.setattr(Path, method, failing_for(name, getattr(Path, method)))
        assert store.find(["a"]).missing.tolist() == [0]
        with pytest.raises(ResourceError, match="cannot be written: Input/output error"), store.writing():
            pytest.fail("written with a failing disk")
    assert stored(store, ["a"]) == {"a": 1.0}


def failing_for(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def method(path: Path, *arguments: Any, **settings: Any) -> Any:
        if path.name == name:
            raise OSError(5, "Input/output error")
        return original(path, *arguments, **settings)

    return method


def test_a_failing_read_of_one_record_is_not_the_loss_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, out = new_store(tmp_path / "s"), np.empty((4, 5), dtype=np.float32)
    with store.writing():
        store.append(["a", "b", "c"], records(1, 2, 3))
    original = os.preadv

    def preadv(descriptor: int, buffers: list[Any], offset: int) -> int:
        if offset == 20:
            raise OSError(5, "Input/output error")
        return original(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    ok, lost = store.reader().read(np.array([0, 1, 2, 3]), out)
    assert ok.tolist() == [True, False, True, False]
    assert lost.tolist() == [False, False, False, True]
    monkeypatch.setattr(os, "open", lambda *_: preadv(0, [], 20))
    ok, lost = store.reader().read(np.array([0]), out[:1])
    assert not ok.any()
    assert not lost.any()


def test_threads_that_read_first_leave_no_descriptor_open(tmp_path: Path) -> None:
    store = new_store(tmp_path / "s")
    with store.writing():
        store.append(["a"], records(1))
    gc.collect()  # what other tests left behind
    before = len(list(Path("/proc/self/fd").iterdir()))
    reader, together = store.reader(), Barrier(4)

    def read(reader: RecordReader) -> bool:
        together.wait()
        return bool(reader.read(np.array([0]), np.empty((1, 5), dtype=np.float32)).ok.all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, [reader] * 4))
    del reader
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_process_forked_meanwhile_does_not_keep_the_lock(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    with lock(tmp_path / "s"):
        child = FORK.Process(target=os.read, args=(read_end, 1))
        child.start()
    try:
        with lock(tmp_path / "s", patience=0.0):
            pass
    finally:
        os.write(write_end, b"x")
        child.join()
        os.close(read_end)
        os.close(write_end)
