"""``mixfit predict`` piece by piece: the file and the words are those of the whole table at once."""

import datetime
import itertools
import re
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from open_files import sizes_below
from quick_runs import quick_fit
from rich.console import Console

from mixfit.auto.recipe import Run
from mixfit.config import DataConfig
from mixfit.data.table import to_predict
from mixfit.data.table.read import read_table
from mixfit.demo import DEMO_TARGET
from mixfit.errors import DataError, ResourceError
from mixfit.predictor import Predictor
from mixfit.runs import scoring
from mixfit.runs.scoring import BadRows, predict_table

ROWS = 90


@pytest.fixture(scope="module")
def dirty(demo_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """New rows with all that may be amiss, spread so that pieces of 7 rows differ in what they hold."""
    frame = read_table(demo_table)
    frame.loc[[3, 50], "maker"] = "somebody new"
    frame.loc[[10, 75], "height_cm"] = "tall"
    frame.loc[[20, 80], "photos"] = "images/gone.jpg"
    frame.loc[[30, 31], "photos"] = None
    frame.loc[range(14, 21), "age_years"] = None
    late = [None] * 70
    extra: dict[str, pa.Array] = {
        "gaps late": pa.array([*range(70), *late[:20]]),
        "large late": pa.array([*late[:30], *range(30), *range(2**60 + 1, 2**60 + 31)]),
        "truth late": pa.array([True] * 70 + [None, False] * 10),
        "bytes late": pa.array(late + [b"x"] * 20, pa.large_binary()),
        "clock late": pa.array([*late, *[datetime.time(12, 30)] * 20]),
        "never": pa.array([None] * ROWS),
        "day": pa.array([datetime.date(2020, 1, 1)] * ROWS),
        "level": pa.array(["a", "b", None] * 30).dictionary_encode(),
        "text late": pa.array([*[""] * 70, *["=1+1"] * 20]),
    }
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for name, cells in extra.items():
        table = table.append_column(name, cells)
    path = tmp_path_factory.mktemp("dirty") / "table.parquet"
    pyarrow.parquet.write_table(table, path, row_group_size=11)
    frame.to_csv(path.with_suffix(".csv"), index=False)
    return path


def predict(
    run: Run, table: Path, out: Path, images: Path, *, size: int | None = None, bad_rows: BadRows = "mark"
) -> str:
    """What is printed, without the seconds and the name of the file; ``size`` rows at a time."""
    output = StringIO()
    with pytest.MonkeyPatch.context() as patch:
        if size is not None:
            patch.setattr(to_predict, "PIECE", size)
            patch.setattr(scoring, "BATCH", size)
        predict_table(
            run.folder, table, out=out, images=images, bad_rows=bad_rows, console=Console(file=output, width=500)
        )
    return re.sub(r"\d+\.\d s", "s", output.getvalue().replace(str(out), "out"))


SHORT = ((7, ".csv", "mark"), (64, ".parquet", "drop"))


@pytest.mark.parametrize(
    ("size", "kind", "bad_rows"),
    [
        pytest.param(*one, marks=() if one in SHORT else pytest.mark.long)
        for one in itertools.product((7, 64), (".parquet", ".csv"), ("mark", "drop"))
    ],
)
def test_pieces_give_the_rows_and_the_words_of_the_whole(
    size: int, kind: str, bad_rows: BadRows, quick_run: Run, dirty: Path, demo_table: Path, tmp_path: Path
) -> None:
    table, images = dirty.with_suffix(kind), demo_table.parent
    said = predict(quick_run, table, tmp_path / "whole.parquet", images, bad_rows=bad_rows)
    assert predict(quick_run, table, tmp_path / "pieces.parquet", images, size=size, bad_rows=bad_rows) == said
    assert "90 rows: 80 ok, 4 without photo, 2 with a new category, 4 with broken cells or photos" in said
    assert (
        "2 x cell treated as missing, 2 x photo treated as missing, 2 x treated as unknown (first: row 3, column maker"
        in said
    )
    whole = pyarrow.parquet.read_table(tmp_path / "whole.parquet")
    pieces = pyarrow.parquet.read_table(tmp_path / "pieces.parquet")
    assert pieces.schema == whole.schema
    assert len(whole) == (90 if bad_rows == "mark" else 86)
    if size == 64:  # whole batches: the same neighbours in the network, the same bits
        assert pieces.equals(whole)
    names = [name for name in whole.schema.names if name != "prediction"]
    assert pieces.select(names).equals(whole.select(names))
    np.testing.assert_allclose(pieces["prediction"].to_numpy(), whole["prediction"].to_numpy(), rtol=1e-5)


@pytest.mark.parametrize("ending", [".csv", pytest.param(".tsv", marks=pytest.mark.long), ".jsonl"])
def test_texts_are_written_with_the_same_bytes(
    ending: str, quick_run: Run, dirty: Path, demo_table: Path, tmp_path: Path
) -> None:
    whole, pieces = tmp_path / f"whole{ending}", tmp_path / f"pieces{ending}"
    if ending == ".jsonl":  # has no place for a time of day
        table = pyarrow.parquet.read_table(dirty).drop_columns("clock late")
        dirty = tmp_path / "t.parquet"
        pyarrow.parquet.write_table(table, dirty, row_group_size=11)
    said = predict(quick_run, dirty, whole, demo_table.parent)
    assert predict(quick_run, dirty, pieces, demo_table.parent, size=64) == said
    assert "columns not in out: bytes late (bytes; use a .parquet file to keep them)" in said
    assert pieces.read_bytes() == whole.read_bytes()
    assert whole.read_text().count("prediction") == (ROWS if ending == ".jsonl" else 1)


def test_columns_keep_the_types_that_the_whole_table_has(
    quick_run: Run, dirty: Path, demo_table: Path, tmp_path: Path
) -> None:
    predict(quick_run, dirty, tmp_path / "out.parquet", demo_table.parent, size=18)
    found = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert {name: str(found.schema.field(name).type) for name in found.schema.names if " late" in name} == {
        "gaps late": "double",
        "large late": "large_string",
        "truth late": "bool",
        "bytes late": "binary",
        "clock late": "time64[us]",
        "text late": "large_string",
    }
    whole = read_table(dirty)
    for name in ("gaps late", "large late", "truth late", "bytes late", "never", "day", "level"):
        assert found[name].to_pylist() == pa.array(whole[name], from_pandas=True).to_pylist(), name


def test_classes_are_predicted_in_pieces_too(demo_table: Path, tmp_path: Path) -> None:
    frame = read_table(demo_table).drop(columns="photos")
    frame.to_csv(tmp_path / "plain.csv", index=False)
    run = quick_fit(tmp_path / "plain.csv", "maker", tmp_path / "runs", data=DataConfig())
    frame.to_parquet(tmp_path / "new.parquet")
    for name, size in (("whole", None), ("pieces", 64)):
        predict(run, tmp_path / "new.parquet", tmp_path / f"{name}.parquet", tmp_path, size=size)
    whole, pieces = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("whole", "pieces"))
    pd.testing.assert_frame_equal(pieces, whole, check_exact=True)
    assert whole.filter(like="probability_").shape[1] > 2


def test_broken_rows_are_refused_in_the_first_piece_that_has_one(
    quick_run: Run, dirty: Path, demo_table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    out.write_text("of yesterday")
    settings: dict[str, Any] = {"bad_rows": "fail"}
    with pytest.raises(DataError, match=r"^4 of 90 rows are broken: 2 x cell .* \(first: row 10, column height_cm"):
        predict(quick_run, dirty, out, demo_table.parent, **settings)
    with pytest.raises(DataError, match=r"^1 of the first 14 rows are broken: 1 x cell .* \(first: row 10, column"):
        predict(quick_run, dirty, out, demo_table.parent, size=7, **settings)
    assert out.read_text() == "of yesterday"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["stop", "full"])
def test_nothing_half_written_is_left(
    ending: str,
    error: BaseException,
    quick_run: Run,
    dirty: Path,
    demo_table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    predictions = Predictor.predictions

    def third_time_broken(self: Predictor, *arguments: Any, **settings: Any) -> Any:
        calls.append(settings["first_row"])
        if len(calls) == 3:
            assert sizes_below(tmp_path)  # so far, under another name or none
            raise error
        return predictions(self, *arguments, **settings)

    monkeypatch.setattr(Predictor, "predictions", third_time_broken)
    with pytest.raises(ResourceError if isinstance(error, OSError) else KeyboardInterrupt):
        predict(quick_run, dirty, tmp_path / f"out{ending}", demo_table.parent, size=7)
    assert calls == [0, 7, 14]
    assert not list(tmp_path.iterdir())


def test_a_table_may_be_replaced_by_its_predictions(quick_run: Run, demo_table: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    read_table(demo_table).to_parquet(path, row_group_size=20)
    predict(quick_run, path, path, demo_table.parent, size=30)
    assert pd.read_parquet(path)["prediction"].notna().sum() == ROWS


def test_a_wrong_folder_is_told_after_all_pieces(quick_run: Run, dirty: Path, tmp_path: Path) -> None:
    said = predict(quick_run, dirty, tmp_path / "o.csv", tmp_path, size=40)
    assert said.count("photos was found in") == 1
    assert said == predict(quick_run, dirty, tmp_path / "o.csv", tmp_path)
    assert DEMO_TARGET in pd.read_csv(tmp_path / "o.csv").columns
