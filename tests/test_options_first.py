"""The values of all options are checked before the table is read, which may take long: here it does not even exist."""

from pathlib import Path

import pytest
from test_cli import in_process

from mixfit.auto.recipe import Run

RUN, TABLE = "{run}", "nowhere.csv"
TRAIN = ["train", TABLE, "--target", "price"]
REFUSED: list[tuple[list[object], str]] = [
    (["predict", RUN, TABLE, "-o", "p.csv", "--interval", 90], "the level of intervals must be between 0 and 1"),
    (["predict", RUN, TABLE, "-o", "p.csv", "--interval", "nan"], "the level of intervals must be between 0 and 1"),
    (["predict", RUN, TABLE, "-o", "p.csv", "--interval", 0.9], "A single network has no prediction intervals"),
    (["predict", RUN, TABLE, "-o", "p.xls"], "p.xls has no supported extension"),
    (["predict", RUN, TABLE, "-o", "p.csv", "--images", "nodir"], "The images folder nodir does not exist"),
    (["predict", RUN, TABLE, "-o", "p.csv", "--cache-gb", -1], "cache_gb must be at least 0"),
    (["predict", RUN, TABLE, "-o", "p.csv", "--sep", "ab"], "sep must be one ASCII character"),
    (["evaluate", RUN, TABLE, "--out", "no/dir/m.json"], "no/dir/m.json cannot be written: there is no folder no/dir"),
    (["evaluate", RUN, TABLE, "--images", "nodir"], "The images folder nodir does not exist"),
    (["evaluate", RUN, TABLE, "--split", "tets"], 'Invalid value "tets" for --split'),
    (["explain", RUN, "--table", TABLE, "--rows", "-3"], "Rows are numbered from 0, got -3"),
    (["explain", RUN, "--table", TABLE, "--n", 0], "--n must be at least 1, got 0"),
    (["explain", RUN, "--table", TABLE, "--n", 2, "--seed", -1], "seed must be at least 0, got -1"),
    (["explain", RUN, "--table", TABLE, "--n", 2, "--images", "nodir"], "The images folder nodir does not exist"),
    (["explain", RUN, "--table", TABLE, "--n", 2, "--out", "file"], "file cannot be written: file is a file, not a"),
    (["compare", RUN, RUN, "--table", TABLE, "--out", "no/c.html"], "no/c.html cannot be written: there is no folder"),
    (["compare", RUN, RUN, "--table", TABLE, "--out", "folder"], "folder cannot be written: it is a folder"),
    (["inspect", TABLE, "--target", "price", "--out", "folder"], "folder exists already"),
    (["inspect", TABLE, "--target", "price", "--images", "nodir"], "The images folder nodir does not exist"),
    ([*TRAIN, "--images", "nodir"], "The images folder nodir does not exist"),
    ([*TRAIN, "--out", "file"], "file cannot be written: file is a file, not a folder"),
    ([*TRAIN, "--split-time", "t", "--gap", "zz"], "The gap of a split by time must be a duration"),
    ([*TRAIN, "--backbone", "resnet1"], "Unknown backbone 'resnet1'"),
    ([*TRAIN, "--backbone-weights", "w.bin"], "There is no file of weights w.bin"),
    ([*TRAIN, "--encoding", "utf9"], "encoding: 'utf9' is not a text encoding"),
    ([*TRAIN, "--augment", "flip"], "--augment flip needs an image network"),
    ([*TRAIN, "--time", "3x"], "time: A duration is a number above 0"),
    ([*TRAIN, "--task", "regression", "--loss", "focal"], "--loss focal is for classes"),
    (["demo", "--out", "file"], "file cannot be written: file is a file, not a folder"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=lambda value: str(value)[:60])
def test_a_wrong_value_is_refused_before_the_table_is_read(
    arguments: list[object],
    message: str,
    quick_run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    code, output, errors = in_process(capsys, *[quick_run.folder if one == RUN else one for one in arguments])
    assert code in (2, 3, 4)
    assert errors.startswith(f"mixfit: {message}")
    assert output == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
