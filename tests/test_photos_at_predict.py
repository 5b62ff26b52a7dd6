"""New tables without their photos, or with photos found by a rule, and predicting beside a busy cache."""

import fcntl
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_runs import QUIET, small_fit

from mixfit.cli.flags import configured_cache
from mixfit.config import DataConfig
from mixfit.console import PlainConsole
from mixfit.data.photos.records import LOCK, Cache, RecordStore
from mixfit.data.table.read import read_table
from mixfit.runs.results import Run
from mixfit.runs.scoring import evaluate_table, predict_table


@pytest.mark.parametrize("kind", ["network", "blend"])
@pytest.mark.parametrize("images", [True, False])
def test_a_table_without_the_photo_column_is_one_of_rows_without_photos(
    quick_run: Run, blend_run: Run, demo_table: Path, kind: str, images: bool
) -> None:
    run, frame = {"network": quick_run, "blend": blend_run}[kind], read_table(demo_table)
    folder = demo_table.parent if images else None  # where no cell names a photo, no folder is asked for
    found = run.predictor.predict(frame.drop(columns="photos"), images=folder)
    expected = run.predictor.predict(frame.assign(photos=None), images=demo_table.parent)
    np.testing.assert_array_equal(found["prediction"], expected["prediction"])
    assert found["status"].str.contains("no photo").all() or not run.predictor.uses_photos


def test_the_summary_says_that_there_are_no_photos(
    quick_run: Run, demo_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame, table = read_table(demo_table), tmp_path / "new.csv"
    said = {
        "has no column 'photos' of photos": frame.drop(columns="photos"),
        "It has a column 'Photos': if that is the same, rename it to 'photos'": frame.rename(
            columns={"photos": "Photos"}
        ),
        "no row has a photo": frame.assign(photos=None),
        "set the folder with --images": frame.assign(photos="images/nowhere.jpg"),
    }
    for text, new in said.items():
        new.to_csv(table, index=False)
        predict_table(quick_run.folder, table, out=tmp_path / "out.csv", console=PlainConsole())
        assert text in capsys.readouterr().out
        evaluate_table(quick_run.folder, table, out=tmp_path / "m.json", console=PlainConsole())
        assert text in capsys.readouterr().out
    frame.to_csv(table, index=False)
    predict_table(quick_run.folder, table, out=tmp_path / "o.csv", images=demo_table.parent, console=PlainConsole())
    assert "warning" not in capsys.readouterr().out


def listings(folder: Path, *, rows: int, first: int = 0) -> Path:
    """A table whose photos lie in a folder for each id; the table's number is the brightness of the photo, about."""
    random = np.random.default_rng(first)
    bright = random.integers(0, 250, rows)
    for row in range(rows):
        if row % 7:
            (folder / f"pics/{first + row}").mkdir(parents=True)
            pixels = np.full((8, 8, 3), bright[row], dtype=np.uint8)
            pixels[row % 8, row // 8 % 8] = 255
            Image.fromarray(pixels).save(folder / f"pics/{first + row}/a.png")
    frame = pd.DataFrame({"id": first + np.arange(rows), "x": random.normal(size=rows), "y": bright * 1.0})
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def test_the_rule_of_a_run_finds_the_photos_of_a_new_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old, new = listings(tmp_path / "old", rows=70), listings(tmp_path / "new", rows=21, first=1000)
    run = small_fit(old, tmp_path / "runs", console=QUIET)
    assert run.predictor.schema.names("image") == ["id"]
    assert [rule.pattern for rule in run.predictor.schema.photos] == ["pics/{id}/*"]
    out = tmp_path / "out.csv"
    if not run.predictor.uses_photos:
        pytest.fail("the photos say all of the target, and no model uses them")
    for images in (None, tmp_path / "new/pics", tmp_path / "new/pics/{id}/*.png"):
        predict_table(run.folder, new, out=out, images=images, console=PlainConsole())
        assert "18 ok, 3 without photo" in capsys.readouterr().out
        found = pd.read_csv(out)
        assert found["status"].tolist() == ["no photo" if row % 7 == 0 else "ok" for row in range(21)]
        seen = found["status"] == "ok"
        assert np.corrcoef(found["prediction"][seen], found["y"][seen])[0, 1] > 0.8


def test_predicting_never_waits_for_another_process(quick_run: Run, demo_table: Path, tmp_path: Path) -> None:
    said: list[str] = []
    cache = Cache(folder=tmp_path / "cache", limit_bytes=10**9, warn=said.append)
    frame = read_table(demo_table)
    expected = quick_run.predictor.predictions(frame, images=demo_table.parent, cache=cache)
    (store,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    for path in list(store.iterdir()):
        if path.name != LOCK:
            path.unlink()
    with (store / LOCK).open("w") as held:  # as a process that fills the cache has it
        fcntl.flock(held, fcntl.LOCK_EX)
        started = time.monotonic()
        patient = replace(cache, wait=False)
        found = quick_run.predictor.predictions(frame, images=demo_table.parent, cache=patient)
        assert time.monotonic() - started < 30
    np.testing.assert_array_equal(found.values, expected.values)
    assert found.photos_found == expected.photos_found
    assert len(said) == 1
    assert "Another process holds the cache" in said[0]
    assert "added nothing" not in said[0]


def test_commands_that_predict_do_not_wait(tmp_path: Path) -> None:
    kept = configured_cache(tmp_path, 1.0)
    assert kept is not None
    assert not kept.wait
    trained = Cache.configured(DataConfig(cache=tmp_path))
    assert trained is not None
    assert trained.wait


def test_a_reader_does_not_wait_for_a_writer_in_the_middle_of_a_commit(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "s", shape=(2,), dtype=np.float32)
    with store.writing():
        store.append(["a"], np.ones((1, 2), dtype=np.float32))
    hasty = RecordStore(tmp_path / "s", shape=(2,), dtype=np.float32, wait=False)
    assert hasty.find(["a"]).places.tolist() == [0]
    busy = store._connect(write=True)
    busy.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    assert hasty.find(["a"]).missing.tolist() == [0]
    assert time.monotonic() - started < 5
    busy.execute("ROLLBACK")
    busy.close()
    assert hasty.find(["a"]).places.tolist() == [0]
