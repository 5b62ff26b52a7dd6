"""Batch prediction: each table of a pattern, wherever it lies, gets the predictions that it has by itself."""

import io
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from object_store import served_bucket
from rich.console import Console
from small_runs import QUIET, small_fit, small_table

from mixfit.auto.prediction import predict_files
from mixfit.data.places import Place
from mixfit.errors import DataError
from mixfit.runs.results import Run
from mixfit.runs.scoring import predict_table


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("predicting")
    return small_fit(small_table(folder / "t"), folder / "runs")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with served_bucket(monkeypatch) as query:
        yield query


@pytest.fixture
def tables(run: Run, tmp_path: Path) -> Path:
    """A folder with two tables and one of another kind."""
    frame = pd.read_csv(run.folder.parents[1] / "t" / "table.csv").drop(columns="y")
    folder = tmp_path / "new? tables"
    folder.mkdir()
    frame.head(5).to_csv(folder / "a.csv", index=False)
    frame.tail(3).to_csv(folder / "b.csv", index=False)
    frame.to_parquet(folder / "c.parquet")
    return folder


def expected(run: Run, tables: Path, name: str) -> pd.DataFrame:
    out = tables.parent / f"expected {name}"
    predict_table(run.folder, tables / name, out=out, console=QUIET)
    return pd.read_csv(out)


@pytest.mark.parametrize("relative", [True, False])
def test_a_pattern_in_the_working_folder_and_in_one_with_an_odd_name(
    relative: bool, run: Run, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tables)
    pattern, out = ("*.csv", "out") if relative else (tables / "*.csv", tables / "out?")
    total = predict_files(run.folder.absolute(), pattern, out, console=QUIET)
    assert total.rows == 8
    assert sorted(path.name for path in Path(out).iterdir()) == ["a.csv", "b.csv"]
    for name in ("a.csv", "b.csv"):
        pd.testing.assert_frame_equal(pd.read_csv(Path(out) / name), expected(run, tables, name))


def test_photos_that_lie_elsewhere_are_told_once(quick_run: Run, demo_table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(demo_table)
    (tmp_path / "new").mkdir()
    for number in range(2):
        frame[number::9].to_csv(tmp_path / "new" / f"{number}.csv", index=False)
    for images, count in ((None, 1), (demo_table.parent, 0)):
        stream = io.StringIO()
        console = Console(file=stream, width=200)
        predict_files(quick_run.folder, tmp_path / "new" / "*.csv", tmp_path / "out/", images=images, console=console)
        assert stream.getvalue().count("was found in the folders of the tables; set the folder with --images") == count


@pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*")
def test_tables_of_an_object_store_are_written_there(run: Run, tables: Path, bucket: str) -> None:
    for name in ("a.csv", "b.csv"):
        Place.of(f"s3://photos/new/{name}{bucket}").write((tables / name).read_bytes())
    total = predict_files(run.folder, f"s3://photos/new/*.csv{bucket}", f"s3://photos/said{bucket}", console=QUIET)
    assert total.rows == 8
    for name in ("a.csv", "b.csv"):
        written = Place.of(f"s3://photos/said/{name}{bucket}").read(10**6)
        (tables / "from there.csv").write_bytes(written)
        pd.testing.assert_frame_equal(pd.read_csv(tables / "from there.csv"), expected(run, tables, name))
    with pytest.raises(DataError, match="No table matches s3://photos/other/"):
        predict_files(run.folder, f"s3://photos/other/*.csv{bucket}", f"s3://photos/said{bucket}", console=QUIET)
