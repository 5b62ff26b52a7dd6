"""Tables read by row groups and columns: the same arrays as from a whole frame."""

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

from mixfit.config import DataConfig, ModelConfig
from mixfit.data.columns.values import to_keys
from mixfit.data.load import load_data
from mixfit.data.table import large
from mixfit.data.table.large import load_large, sample_rows
from mixfit.data.table.read import parquet_pieces, read_table
from mixfit.errors import ConfigError, DataError
from mixfit.predictor import Predictor
from mixfit.training.build import build_model
from mixfit.training.learner import Learner
from mixfit.training.loss import mse

ROWS = 1_000


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
    monkeypatch.setattr(large, "PIECE", piece)
    found, whole = load_large(path, target="y"), load_data(path, target="y")
    assert found.schema.to_dict() == whole.schema.to_dict()
    assert found.preprocessor == whole.preprocessor
    assert found.numeric.tobytes() == whole.arrays.numeric.numpy().tobytes()
    assert found.categorical.tobytes() == whole.arrays.categorical.numpy().tobytes()
    assert found.encoded.tobytes() == whole.arrays.target.numpy().tobytes()
    for name in ("train", "valid", "test"):
        assert found.split.of(name).tolist() == whole.split.of(name).tolist()
    assert 3 not in found.split.train


def test_only_a_sample_of_training_rows_is_learnt_from(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = load_large(path, target="y")
    monkeypatch.setattr(large, "SAMPLE", 300)
    found = load_large(path, target="y", schema=exact.schema)
    assert found.preprocessor != exact.preprocessor
    assert np.abs(found.numeric - exact.numeric).mean() < 0.1
    frame = read_table(path).iloc[found.split.train]
    everywhere = frame.iloc[np.unique(np.linspace(0, len(frame) - 1, 300).round().astype(int))]
    assert found.preprocessor == type(found.preprocessor).fit(everywhere, exact.schema)


def test_columns_that_no_role_needs_are_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = load_large(path, target="y").schema
    asked: list[list[str] | None] = []
    original = parquet_pieces

    def noted(path: Path, columns: list[str] | None, *, rows: int) -> object:
        asked.append(columns)
        return original(path, columns, rows=rows)

    monkeypatch.setattr(large, "parquet_pieces", noted)
    load_large(path, target="y", schema=schema)
    assert asked[0] == ["y"]
    assert all(names is not None and "prose" not in names for names in asked)


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


def test_weights_are_those_of_the_whole_frame(path: Path) -> None:
    assert load_large(path, target="y").weight is None
    config = DataConfig(roles={"rooms": "weight"})
    frame = read_table(path)
    frame["rooms"] = frame["rooms"].fillna(2)
    frame.to_parquet(path)
    found, whole = load_large(path, target="y", config=config), load_data(path, target="y", config=config)
    assert found.weight is not None
    assert whole.arrays.weight is not None
    assert found.weight.tobytes() == whole.arrays.weight.numpy().tobytes()
    assert found.weight[found.split.train].mean() == pytest.approx(1, abs=1e-6)


def test_rows_of_weight_0_are_not_learnt_from(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in ``load_data``: also where a sample is all that is looked at."""
    monkeypatch.setattr(large, "SAMPLE", 300)
    config, draw = DataConfig(roles={"w": "weight"}), np.random.default_rng(0)
    frame = read_table(path).assign(w=draw.integers(0, 3, ROWS))
    frame = frame.astype({"kind": "str", "area": "float64"})
    junk = (frame["w"] == 0).to_numpy()
    frame.loc[junk, ["y", "area", "kind"]] = [1e6, -1e9, "never"]
    frame.to_parquet(tmp_path / "junk.parquet")
    frame[~junk].reset_index(drop=True).to_parquet(tmp_path / "clean.parquet")
    found, wanted = (load_large(tmp_path / f"{name}.parquet", target="y", config=config) for name in ("junk", "clean"))
    assert replace(found.schema, rows=0) == replace(wanted.schema, rows=0)
    assert found.preprocessor == wanted.preprocessor
    assert found.target == wanted.target
    kept = np.flatnonzero(~junk)
    for name, rows in wanted.split.parts().items():
        np.testing.assert_array_equal(found.split.parts()[name], kept[rows])
    assert found.weight is not None
    assert wanted.weight is not None
    np.testing.assert_array_equal(found.weight[kept], wanted.weight)
    np.testing.assert_array_equal(found.numeric[kept], wanted.numeric)


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


def test_only_a_few_cells_of_bytes_are_read(with_photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = {"x": 0, "photo": 0}
    original = parquet_pieces

    def counted(*arguments: Any, **settings: Any) -> Iterator[pd.DataFrame]:
        for piece in original(*arguments, **settings):
            for name in read:
                read[name] += len(piece) if name in piece else 0
            yield piece

    monkeypatch.setattr(large, "parquet_pieces", counted)
    frame = sample_rows(with_photos, 1_000)
    assert list(frame.columns) == ["photo", "x", "other", "y"]
    assert len(frame) == 1_000
    assert read == {"x": 2_000, "photo": 320}
    assert frame["photo"].notna().all()
    assert frame["photo"].iloc[0] != frame["photo"].iloc[-1]


def test_image_columns_are_refused(with_photos: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"has 2 image columns, the first is 'photo', and .* has no photos: use load_d"
    ):
        load_large(with_photos, target="y")
    found = load_large(with_photos, target="y", config=DataConfig(ignore=("photo", "other")))
    assert found.numeric.shape[0] == 2_000


def test_a_large_table_trains_and_its_predictor_answers_for_raw_rows(path: Path) -> None:
    table = load_large(path, target="y")
    data = table.data(batch_size=64)
    config = ModelConfig(tabular_hidden=(8,), encoding_dim=8)
    model = build_model(data, config, seed=0)
    assert data.arrays.numeric.data_ptr() == table.numeric.ctypes.data  # no second copy
    before = Learner(model, data, loss=mse).validate()["valid_loss"]
    Learner(model, data, loss=mse).fit(3, lr=1e-2)
    learner = Learner(model, data, loss=mse)
    assert learner.validate()["valid_loss"] < before / 2
    outputs, _ = learner.predict(data.test)
    frame = read_table(path).iloc[data.split.test]
    answers = Predictor.from_training(model, data, config).predict(frame)["prediction"]
    np.testing.assert_allclose(answers, data.target.decode(outputs.numpy()), rtol=1e-5)
