"""Tables that are trained on in pieces: the same arrays as from a whole frame."""

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from mixfit.cli import main
from mixfit.config import DataConfig, ModelConfig
from mixfit.data import load
from mixfit.data.columns.values import to_keys
from mixfit.data.load import MixedData, load_data
from mixfit.data.table import pieces
from mixfit.data.table.pieces import sample_rows
from mixfit.data.table.read import parquet_pieces, read_table
from mixfit.errors import ConfigError, DataError
from mixfit.predictor import Predictor
from mixfit.training.build import build_model
from mixfit.training.learner import Learner
from mixfit.training.loss import mse

ROWS = 1_000


def in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch, *, piece: int = 150, **settings: Any) -> MixedData:
    """As ``load_data`` of a table that is too large to be held as a frame."""
    with monkeypatch.context() as patch:
        patch.setattr(load, "LARGE", 10**6)
        patch.setattr(load, "bytes_of_parquet", lambda path: 10**7)
        patch.setattr(load, "PIECE", piece)
        return load_data(path, target="y", **settings)


def assert_same(found: MixedData, whole: MixedData) -> None:
    assert found.preprocessor == whole.preprocessor
    assert found.target == whole.target
    for name in ("numeric", "categorical", "target", "weight"):
        left, right = getattr(found.arrays, name), getattr(whole.arrays, name)
        assert (left is None) == (right is None)
        assert left is None or left.numpy().tobytes() == right.numpy().tobytes()
    for part in ("train", "valid", "test"):
        assert found.split.parts()[part].tolist() == whole.split.parts()[part].tolist()
    assert found.row_numbers.tolist() == whole.row_numbers.tolist()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Numbers, integers with gaps, categories, codes, dates and columns that no role needs, in row groups of 150."""
    rng = np.random.default_rng(0)
    area = rng.normal(100, 20, ROWS)
    frame = pd.DataFrame(
        {
            "area": area,
            "rooms": pd.array(rng.integers(1, 9, ROWS), dtype="Int64"),
            "kind": pd.Categorical(rng.choice(["flat", "house", "hut"], ROWS)),
            "zipcode": [f"{code:05d}" for code in rng.integers(0, 30, ROWS)],
            "sold": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, ROWS), "D"),
            "prose": [f"row {row} " * 9 for row in range(ROWS)],
            "y": area + rng.normal(0, 5, ROWS),
        }
    )
    frame.loc[frame.index % 7 == 0, "rooms"] = pd.NA
    frame.loc[frame.index[700:], "zipcode"] = None
    frame.loc[3, "y"] = np.nan
    pyarrow.parquet.write_table(pa.Table.from_pandas(frame), tmp_path / "t.parquet", row_group_size=150)
    return tmp_path / "t.parquet"


@pytest.mark.parametrize("piece", [1, 64, 150, 10_000])
def test_pieces_hold_the_cells_of_the_whole_table(path: Path, piece: int) -> None:
    names = ["y", "zipcode", "rooms"]
    rows = 100 if piece == 1 else ROWS
    pieces = [frame for _, frame in zip(range(rows), parquet_pieces(path, names, rows=piece), strict=False)]
    found = pd.concat(pieces, ignore_index=True)
    whole = read_table(path)[names][: len(found)]
    assert list(found.columns) == names
    for name in names:
        assert to_keys(found[name]).equals(to_keys(whole[name])), name
    np.testing.assert_array_equal(found["y"], whole["y"])


@pytest.mark.parametrize("piece", [64, 150, 10_000])
def test_arrays_are_those_of_the_whole_frame(path: Path, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found, whole = in_pieces(path, monkeypatch, piece=piece), load_data(path, target="y")
    assert found.schema.to_dict() == whole.schema.to_dict()
    assert_same(found, whole)
    assert 3 not in found.split.train
    assert [(one.row, one.column, one.problem) for one in found.bad] == [
        (one.row, one.column, one.problem) for one in whole.bad
    ]
    assert any("read in pieces" in note for note in found.notes)
    assert not any("read in pieces" in note for note in whole.notes)


def test_folds_are_those_of_the_whole_frame(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, whole = (data.folds(3, seed=0) for data in (in_pieces(path, monkeypatch), load_data(path, target="y")))
    np.testing.assert_array_equal(found.number, whole.number)


def test_broken_cells_are_counted_and_text_dates_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"y": rng.normal(size=400), "x": [f"{value:.6f}" for value in rng.normal(size=400)]})
    days = zip(rng.integers(1, 29, 400), rng.integers(1, 13, 400), strict=True)
    frame["sold"] = [f"{day}/{month}/2020" for day, month in days]
    frame.loc[390, ["x", "sold"]] = ["12 sqft", "soon"]
    frame.to_parquet(tmp_path / "t.parquet")
    config = DataConfig(roles={"x": "number"})
    found = in_pieces(tmp_path / "t.parquet", monkeypatch, config=config)
    assert_same(found, load_data(tmp_path / "t.parquet", target="y", config=config))
    assert {(one.row, one.column) for one in found.bad} == {(390, "x"), (390, "sold")}


def test_columns_that_no_role_needs_are_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = load_data(path, target="y").schema
    asked: list[list[str] | None] = []
    original = parquet_pieces

    def noted(path: Path, columns: list[str] | None, *, rows: int) -> object:
        asked.append(columns)
        return original(path, columns, rows=rows)

    monkeypatch.setattr(pieces, "parquet_pieces", noted)
    found = in_pieces(path, monkeypatch, schema=schema)
    assert asked
    assert all(names is not None and "prose" not in names for names in asked)
    assert "prose" not in found.table


def test_sampled_rows_are_evenly_spaced(path: Path) -> None:
    assert sample_rows(path, 5)["prose"].str.split().str[1].tolist() == ["0", "250", "500", "749", "999"]
    assert len(sample_rows(path, 10**6)) == ROWS


def test_mistakes_end_in_one_sentence(path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.parquet has no column 'zipcod'\. Did you mean 'zipcode'"):
        list(parquet_pieces(path, ["zipcod"], rows=10))
    (tmp_path / "t.csv").write_text("a\n1\n")
    with pytest.raises(ConfigError, match=r"t\.csv is no Parquet file; only those can be read in pieces"):
        list(parquet_pieces(tmp_path / "t.csv", None, rows=10))
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"cut\.parquet is empty, damaged or not a parquet file"):
        list(parquet_pieces(tmp_path / "cut.parquet", None, rows=10))


def test_weights_are_those_of_the_whole_frame(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_pieces(path, monkeypatch).arrays.weight is None
    config = DataConfig(roles={"rooms": "weight"})
    frame = read_table(path)
    frame["rooms"] = frame["rooms"].fillna(2)
    frame.to_parquet(path)
    found, whole = in_pieces(path, monkeypatch, config=config), load_data(path, target="y", config=config)
    assert found.arrays.weight is not None
    assert_same(found, whole)
    assert found.arrays.weight.numpy()[found.split.train].mean() == pytest.approx(1, abs=1e-6)


def test_rows_of_weight_0_are_not_learnt_from(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the whole frame is read."""
    config, draw = DataConfig(roles={"w": "weight"}), np.random.default_rng(0)
    frame = read_table(path).assign(w=draw.integers(0, 3, ROWS))
    frame = frame.astype({"kind": "str", "area": "float64"})
    junk = (frame["w"] == 0).to_numpy()
    frame.loc[junk, ["y", "area", "kind"]] = [1e6, -1e9, "never"]
    frame.to_parquet(tmp_path / "junk.parquet")
    found, whole = (
        in_pieces(tmp_path / "junk.parquet", monkeypatch, config=config),
        load_data(tmp_path / "junk.parquet", target="y", config=config),
    )
    assert replace(found.schema, rows=0) == replace(whole.schema, rows=0)
    assert_same(found, whole)
    assert found.weightless == junk.sum()


@pytest.fixture
def with_photos(tmp_path: Path) -> Path:
    """A million cells of bytes could not be held: 40 row groups of 50 photos, in two columns."""
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    photos = pa.array([buffer.getvalue() + bytes([row % 256]) for row in range(2_000)], pa.binary())
    nested = pa.StructArray.from_arrays([photos, pa.array([None] * 2_000, pa.string())], ["bytes", "path"])
    x = np.random.default_rng(0).normal(size=2_000)
    table = pa.table({" photo": photos, "x": x, "other": nested, "y": 3 * x})
    pyarrow.parquet.write_table(table, tmp_path / "photos.parquet", row_group_size=50)
    return tmp_path / "photos.parquet"


def test_tags_and_objects_are_read_as_in_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    words = np.array(["wifi", "pool", "sauna", "lift", "shed"])
    tags = [None if row % 50 == 0 else words[rng.random(5) < 0.4].tolist() for row in range(ROWS)]
    objects = [{"row": row, "tags": cell} for row, cell in enumerate(tags)]
    columns = {"x": rng.normal(size=ROWS), "tags": tags, "text": list(map(str, tags)), "object": objects}
    table = pa.table({**columns, "y": rng.normal(size=ROWS)})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=150)
    found, whole = in_pieces(tmp_path / "t.parquet", monkeypatch), load_data(tmp_path / "t.parquet", target="y")
    assert found.schema.names("tags") == ["tags", "text"]
    assert_same(found, whole)


def test_only_a_few_cells_of_bytes_are_read(with_photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = {"x": 0, "photo": 0}
    original = parquet_pieces

    def counted(*arguments: Any, **settings: Any) -> Iterator[pd.DataFrame]:
        for piece in original(*arguments, **settings):
            for name in read:
                read[name] += len(piece) if name in piece else 0
            yield piece

    monkeypatch.setattr(pieces, "parquet_pieces", counted)
    frame = sample_rows(with_photos, 1_000)
    assert list(frame.columns) == ["photo", "x", "other", "y"]
    assert len(frame) == 1_000
    assert read == {"x": 2_000, "photo": 320}
    assert frame["photo"].notna().all()
    assert frame["photo"].iloc[0] != frame["photo"].iloc[-1]


def test_photos_in_a_table_of_pieces_are_refused(with_photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"has .* GB and 2 columns that hold photos, the first is 'photo': write the photos"
    ):
        in_pieces(with_photos, monkeypatch)
    found = in_pieces(with_photos, monkeypatch, config=DataConfig(ignore=("photo", "other")))
    assert len(found.arrays.numeric) == 2_000


def test_photos_that_a_table_of_pieces_names_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    frame = pd.DataFrame({"photo": [f"{row % 40}.png" for row in range(80)], "y": rng.normal(size=80)})
    frame.loc[7, "photo"] = None
    frame.to_parquet(tmp_path / "t.parquet")
    found, whole = in_pieces(tmp_path / "t.parquet", monkeypatch), load_data(tmp_path / "t.parquet", target="y")
    assert_same(found, whole)
    assert found.photos is not None
    assert whole.photos is not None
    assert found.photos.files == whole.photos.files
    np.testing.assert_array_equal(found.photos.slots, whole.photos.slots)


def test_a_large_table_trains_and_its_predictor_answers_for_raw_rows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = in_pieces(path, monkeypatch, batch_size=64)
    config = ModelConfig(tabular_hidden=(8,), encoding_dim=8)
    model = build_model(data, config, seed=0)
    before = Learner(model, data, loss=mse).validate()["valid_loss"]
    Learner(model, data, loss=mse).fit(3, lr=1e-2)
    learner = Learner(model, data, loss=mse)
    assert learner.validate()["valid_loss"] < before / 2
    outputs, _ = learner.predict(data.test)
    frame = read_table(path).iloc[data.split.test]
    answers = Predictor.from_training(model, data, config).predict(frame)["prediction"]
    np.testing.assert_allclose(answers, data.target.decode(outputs.numpy()), rtol=1e-5)


def test_train_reads_a_large_table_from_the_command_line(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = path.parent / "fewer.parquet"  # the time that kernels take grows with the cube of the rows
    pd.read_parquet(path).iloc[::8].to_parquet(table, row_group_size=64)

    def train(name: str) -> pd.DataFrame:
        flags = ["--preset", "quick", "--epochs", "1", "--out", str(path.parent / name)]
        with pytest.raises(SystemExit) as left:
            main(["train", str(table), "--target", "y", *flags])
        assert not left.value.code
        return pd.read_parquet(next((path.parent / name).iterdir()) / "predictions_test.parquet")

    whole = train("whole")
    monkeypatch.setattr(load, "LARGE", 1)
    pd.testing.assert_frame_equal(train("pieces"), whole)
    assert "read in pieces" in capsys.readouterr().out
