"""The automatic whole takes a DataFrame where it takes a file."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

import mixfit
from mixfit.demo import write_demo

QUIET = Console(quiet=True)
SMALL = mixfit.TrainConfig(preset="network", epochs=1, seed=1, report=False)
SIZE = mixfit.DataConfig(image_size=32)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("vases"))


def test_a_frame_gives_the_run_of_its_file_and_keeps_its_rows(table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table).head(120).drop(columns="photos")
    frame.to_parquet(tmp_path / "same.parquet")
    of_frame = mixfit.fit(frame, target="price", train=SMALL, out=tmp_path / "a", console=QUIET)
    of_file = mixfit.fit(tmp_path / "same.parquet", target="price", train=SMALL, out=tmp_path / "b", console=QUIET)
    found, wanted = (run.predictor.predict(frame) for run in (of_frame, of_file))
    np.testing.assert_array_equal(found["prediction"], wanted["prediction"])
    kept = mixfit.read_table(of_frame.folder / "table.parquet")
    pd.testing.assert_frame_equal(kept, mixfit.read_table(tmp_path / "same.parquet"))
    assert mixfit.resume(of_frame.folder, console=QUIET).scores == of_frame.scores


def test_a_frame_that_cannot_be_used_leaves_no_folder(table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table)
    with pytest.raises(mixfit.ConfigError, match="prise"):
        mixfit.fit(frame, target="prise", images=table.parent, train=SMALL, out=tmp_path / "runs", console=QUIET)
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_frame_is_inspected_as_its_file(table: Path, tmp_path: Path) -> None:
    frame, text = pd.read_csv(table), StringIO()
    of_file = mixfit.inspect_table(table, target="price", out=tmp_path / "a", console=QUIET)
    console = Console(file=text, width=200)
    of_frame = mixfit.inspect_table(frame, target="price", images=table.parent, out=tmp_path / "b", console=console)
    assert {one.name: one.role for one in of_frame.schema.columns} == {
        one.name: one.role for one in of_file.schema.columns
    }
    assert of_frame.checks == of_file.checks
    assert (tmp_path / "b" / "inspect.html").is_file()
    assert text.getvalue().startswith(f"DataFrame  {len(frame)} rows")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda frame: frame.head(0), r"^the DataFrame has a header but no data rows"),
        (lambda frame: frame.head(1), r"^the DataFrame has 1 data row; at least 10"),
        (lambda frame: frame.assign(maker=1j), r"^the DataFrame is not written: .* column maker"),
        (lambda frame: frame.set_axis(["vase_id", *frame.columns[:-2], "price"], axis=1), "occurs more than once"),
    ],
)
def test_what_is_wrong_with_a_frame_is_said_of_the_frame(
    change: Callable[[pd.DataFrame], pd.DataFrame], error: str, table: Path, tmp_path: Path
) -> None:
    frame = change(pd.read_csv(table))
    with pytest.raises(mixfit.DataError, match=error):
        mixfit.fit(frame, target="price", train=SMALL, out=tmp_path / "runs", console=QUIET)
    with pytest.raises(mixfit.DataError, match=error):
        mixfit.inspect_table(frame, target="price", out=tmp_path / "i", console=QUIET)
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("cell", [{"a": 1}, {}, {1: [2]}, [{"a": 1}], [["a"]], (1.5, {"a": 2})])
def test_objects_in_a_frame_are_ignored_with_the_reason(cell: object, table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table)
    frame["maker"] = pd.Series([None if row == 3 else cell for row in range(len(frame))], dtype=object)
    found = mixfit.inspect_table(frame, target="price", images=table.parent, out=tmp_path / "i", console=QUIET)
    maker = next(column for column in found.schema.columns if column.name == "maker")
    assert (maker.role, maker.missing) == ("ignored", 1)
    assert maker.reason


def test_texts_and_numbers_beside_each_other_are_text_as_in_a_file(table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table).drop(columns="photos")
    mixed = pd.Series([7, "x", None, 2.5] * (len(frame) // 4), dtype=object)
    found = mixfit.inspect_table(frame.assign(maker=mixed), target="price", out=tmp_path / "a", console=QUIET)
    frame.assign(maker=mixed).to_csv(tmp_path / "same.csv", index=False)
    wanted = mixfit.inspect_table(tmp_path / "same.csv", target="price", out=tmp_path / "b", console=QUIET)
    told = [[(one.name, one.role, one.missing) for one in each.schema.columns] for each in (found, wanted)]
    assert told[0] == told[1]


@pytest.fixture(scope="module")
def run_of_frame(table: Path, tmp_path_factory: pytest.TempPathFactory) -> mixfit.Run:
    frame = pd.read_csv(table).head(150)
    folder = tmp_path_factory.mktemp("runs")
    return mixfit.fit(frame, target="price", images=table.parent, data=SIZE, train=SMALL, out=folder, console=QUIET)


def shuffled(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows in another order, under names that repeat."""
    rows = np.random.default_rng(0).permutation(len(frame))
    return frame.iloc[rows].set_axis(pd.Index([f"row {row // 2}" for row in rows], name="key"))


@pytest.mark.parametrize(
    "change",
    [pytest.param(lambda frame: frame.head(70), marks=pytest.mark.long), lambda frame: frame.head(1), shuffled],
)
def test_a_frame_is_predicted_as_its_file(
    change: Callable[[pd.DataFrame], pd.DataFrame], run_of_frame: mixfit.Run, table: Path, tmp_path: Path
) -> None:
    frame = change(pd.read_csv(table).tail(80).drop(columns="price"))
    frame["maker"] = frame["maker"].astype("category")
    given = frame.copy()
    file, out = tmp_path / "new.parquet", tmp_path / "out.parquet"
    frame.reset_index(drop=True).to_parquet(file)
    found = mixfit.predict_table(run_of_frame.folder, frame, images=table.parent, console=QUIET)
    of_file = mixfit.predict_table(str(run_of_frame.folder), str(file), images=str(table.parent), console=QUIET)
    assert mixfit.predict_table(run_of_frame.folder, frame, out=out, images=table.parent, console=QUIET) is None
    pd.testing.assert_frame_equal(frame, given)  # the caller's rows are left alone
    pd.testing.assert_frame_equal(found[[*frame.columns]], frame)
    assert [*found.columns] == [*frame.columns, "prediction", "status"]
    for other in (of_file, pd.read_parquet(out)):
        np.testing.assert_array_equal(found["prediction"], other["prediction"])
        assert found["status"].to_list() == other["status"].to_list()
    same = mixfit.predict_table(run_of_frame, frame, images=table.parent, console=QUIET)  # a run stands for its folder
    pd.testing.assert_frame_equal(same, found)
    one = run_of_frame.predictor.predict(frame, images=table.parent)
    pd.testing.assert_frame_equal(found[["prediction", "status"]], one)


def test_broken_rows_of_a_frame_are_dropped_by_their_place(
    run_of_frame: mixfit.Run, table: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(table).tail(20).set_axis([7] * 20)
    frame["photos"] = frame["photos"].mask(np.arange(20) % 3 == 1, "none.png")
    found = mixfit.predict_table(
        run_of_frame.folder, frame, images=table.parent, bad_rows="drop", cache=None, console=QUIET
    )
    pd.testing.assert_frame_equal(found[[*frame.columns]], frame[np.arange(20) % 3 != 1])
    with pytest.raises(mixfit.DataError, match=r"^7 of 20 rows are broken"):
        mixfit.predict_table(run_of_frame.folder, frame, images=table.parent, bad_rows="fail", console=QUIET)


def test_a_frame_is_evaluated_as_its_file(run_of_frame: mixfit.Run, table: Path, tmp_path: Path) -> None:
    frame, said = pd.read_csv(table), StringIO()
    console = Console(file=said, width=200)
    own = mixfit.evaluate_table(run_of_frame.folder, frame.head(150), console=console, out=tmp_path / "own.json")
    # the rows that the run held back; batches are other ones
    assert own == pytest.approx(run_of_frame.scores["test"][run_of_frame.result.ours], rel=1e-6)
    assert said.getvalue().startswith(" DataFrame   test rows: ")
    new = frame.tail(60)
    new.to_csv(tmp_path / "new.csv", index=False)
    found, wanted = (
        mixfit.evaluate_table(
            run_of_frame.folder, rows, images=table.parent, by=["maker"], console=QUIET, out=tmp_path / "m.json"
        )
        for rows in (new, tmp_path / "new.csv")
    )
    assert found == wanted
    with pytest.raises(mixfit.ConfigError, match="price"):
        mixfit.evaluate_table(run_of_frame.folder, new.drop(columns="price"), console=QUIET)
    with pytest.raises(mixfit.DataError, match=r"^the DataFrame has a header but no data rows"):
        mixfit.evaluate_table(run_of_frame.folder, new.head(0), console=QUIET)


def test_a_training_without_one_of_its_photos_is_refused(table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table)
    named = int(frame["photos"].dropna().str.count(";").sum() + frame["photos"].notna().sum())
    with pytest.raises(
        mixfit.DataError,
        match=rf"^not one photo was found in .*, of {named} that cells name \(the first is missing\): .*--ignore ph",
    ):
        mixfit.fit(frame, target="price", images=tmp_path, train=SMALL, out=tmp_path / "runs", console=QUIET)
    unnamed = frame.assign(photos=None)
    run = mixfit.fit(unnamed, target="price", train=SMALL, out=tmp_path / "runs", console=QUIET)
    assert not run.predictor.uses_photos


def test_photos_in_the_working_directory_are_none_of_a_dataframe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in range(30):
        Image.new("RGB", (8, 8)).save(tmp_path / f"holiday_{place}.png")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=60), "y": rng.normal(size=60)})
    frame.to_csv(tmp_path / "table.csv", index=False)
    monkeypatch.chdir(tmp_path)
    for given, told in ((Path("table.csv"), True), (frame, False)):
        said = StringIO()
        console = Console(file=said, width=400)
        mixfit.inspect_table(given, target="y", out=tmp_path / f"inspected_{told}", console=console)
        mixfit.fit(given, target="y", train=SMALL, out=tmp_path / "runs", console=console)
        assert said.getvalue().count("but no column of the table names them") == 2 * told
