import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from mixfit.auto.recipe import Run
from mixfit.config import DataConfig, ModelConfig
from mixfit.data.dataset import FeatureTable
from mixfit.data.load import load_data
from mixfit.data.photos.records import Cache
from mixfit.data.table.read import read_table
from mixfit.data.transforms.transform import RandomHorizontalFlip
from mixfit.errors import ConfigError, DataError, ResourceError
from mixfit.predictor import Predictor
from mixfit.predictor import network as predictor_module
from mixfit.predictor.folder import FORMAT_VERSION
from mixfit.training.build import build_model, precompute_features


@pytest.fixture
def frame(demo_table: Path) -> pd.DataFrame:
    return read_table(demo_table)


def test_a_saved_predictor_predicts_the_same(quick_run: Run, frame: pd.DataFrame, demo_table: Path) -> None:
    loaded = Predictor.load(quick_run.folder / "model")
    first = quick_run.predictor.predict(frame, images=demo_table.parent)
    pd.testing.assert_frame_equal(loaded.predict(frame, images=demo_table.parent), first, check_exact=True)
    assert first["prediction"].nunique() > 50


def test_one_row_at_a_time_gives_what_all_at_once_give(quick_run: Run, frame: pd.DataFrame, demo_table: Path) -> None:
    predictor = quick_run.predictor
    together = predictor.predict(frame, images=demo_table.parent)
    alone = pd.concat([predictor.predict(frame.iloc[[row]], images=demo_table.parent) for row in range(20)])
    np.testing.assert_allclose(alone["prediction"], together["prediction"][:20], rtol=1e-5)
    assert alone["status"].tolist() == together["status"].tolist()[:20]


def test_order_and_extra_columns_do_not_matter_and_the_index_comes_back(
    quick_run: Run, frame: pd.DataFrame, demo_table: Path
) -> None:
    shuffled = frame.iloc[::-1, ::-1].assign(extra="x")
    expected = quick_run.predictor.predict(frame, images=demo_table.parent)
    found = quick_run.predictor.predict(shuffled, images=demo_table.parent)
    assert found.index.tolist() == shuffled.index.tolist()
    np.testing.assert_allclose(found["prediction"], expected["prediction"][::-1], rtol=1e-5)


def test_a_renamed_column_is_one_clear_sentence(quick_run: Run, frame: pd.DataFrame, demo_table: Path) -> None:
    renamed = frame.rename(columns={"height_cm": "Height_cm"})
    with pytest.raises(DataError, match=r"no column 'height_cm'.*It has a column 'Height_cm'"):
        quick_run.predictor.predict(renamed, images=demo_table.parent)


def test_unseen_categories_missing_cells_and_missing_photos_are_predicted_and_told(
    quick_run: Run, frame: pd.DataFrame, demo_table: Path
) -> None:
    new = frame.iloc[:4].copy()
    new.loc[0, "maker"] = "somebody else"
    new.loc[1, "height_cm"] = np.nan
    new.loc[2, "height_cm"] = "tall"
    new.loc[3, "photos"] = "images/nowhere.jpg"
    found = quick_run.predictor.predict(new, images=demo_table.parent)
    assert np.isfinite(found["prediction"]).all()
    assert "maker: category not seen in training" in found["status"][0]
    assert "height_cm" not in found["status"][1]
    assert "height_cm" in found["status"][2]
    assert "photos: is missing" in found["status"][3]
    without = frame.iloc[[0]].assign(photos=np.nan)
    assert "no photo" in quick_run.predictor.predict(without, images=demo_table.parent)["status"][0]


def test_no_rows_give_no_predictions(quick_run: Run, frame: pd.DataFrame, demo_table: Path) -> None:
    assert len(quick_run.predictor.predict(frame.iloc[:0], images=demo_table.parent)) == 0


def test_photos_are_cropped_in_prediction_as_in_training(demo_table: Path, tmp_path: Path) -> None:
    data = load_data(demo_table, target="price", config=DataConfig(image_size=32, crop="center"))
    config = ModelConfig(tabular_hidden=(16,), encoding_dim=8)
    predictor = Predictor.from_training(build_model(data, config, seed=0), data, config)
    assert predictor.crop == "center"
    predictor.save(tmp_path / "model")
    assert Predictor.load(tmp_path / "model").crop == "center"


def test_a_model_that_could_not_be_loaded_again_is_refused(demo_table: Path) -> None:
    data = load_data(demo_table, target="price", image_size=32)
    model = build_model(data, ModelConfig(encoding_dim=8), seed=0)
    with pytest.raises(ConfigError, match="pass its ModelConfig"):
        Predictor.from_training(model, data)


def test_transforms_and_precomputed_features_exclude_each_other(demo_table: Path) -> None:
    data = load_data(demo_table, target="price", image_size=32, transforms=[RandomHorizontalFlip()])
    with pytest.raises(ConfigError, match="transforms would have no effect"):
        precompute_features(data, build_model(data))


def test_photos_need_a_folder(quick_run: Run, frame: pd.DataFrame) -> None:
    with pytest.raises(ConfigError, match="uses photos: pass images=FOLDER"):
        quick_run.predictor.predict(frame)


@pytest.fixture
def copied(quick_run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(quick_run.folder / "model", tmp_path / "copied"))


def test_a_flipped_bit_in_the_weights_is_refused(copied: Path) -> None:
    weights = bytearray((copied / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (copied / "model.safetensors").write_bytes(weights)
    with pytest.raises(DataError, match=r"model\.safetensors is damaged: its sha256 does not match"):
        Predictor.load(copied)


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "mixfit.json"
    said = json.loads(path.read_text()) | changes
    said.pop("description_sha256", None)  # or nothing but that would be seen
    path.write_text(json.dumps(said))


def reseal(folder: Path) -> None:
    import hashlib

    rewrite(folder, weights_sha256=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())


def test_weights_of_nan_are_refused(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    weights["head.bias"] = torch.full_like(weights["head.bias"], torch.nan)
    save_file(weights, copied / "model.safetensors")
    reseal(copied)
    with pytest.raises(DataError, match=r"the tensor head\.bias is not finite"):
        Predictor.load(copied)


def test_weights_of_another_shape_are_refused(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    weights["head.bias"] = torch.zeros(7)
    save_file(weights, copied / "model.safetensors")
    reseal(copied)
    with pytest.raises(DataError, match=r"mixfit\.json does not describe these weights"):
        Predictor.load(copied)


def test_a_newer_format_and_damaged_descriptions_are_refused(copied: Path) -> None:
    rewrite(copied, format_version=99)
    with pytest.raises(DataError, match=f"newer format than {FORMAT_VERSION}, the newest that this mixfit supports"):
        Predictor.load(copied)
    (copied / "mixfit.json").write_text("{")
    with pytest.raises(DataError, match=r"mixfit\.json is damaged"):
        Predictor.load(copied)
    (copied / "mixfit.json").write_text("[]")
    with pytest.raises(DataError, match="its format_version is not a positive integer"):
        Predictor.load(copied)
    (copied / "mixfit.json").unlink()
    with pytest.raises(DataError, match="is not a model folder"):
        Predictor.load(copied)


@pytest.mark.parametrize("version", [-7, 0, True, 2.0, "2", None])
def test_a_format_version_is_a_whole_number_from_1(copied: Path, version: object) -> None:
    rewrite(copied, format_version=version)
    with pytest.raises(DataError, match="its format_version is not a positive integer"):
        Predictor.load(copied)


def test_a_folder_of_the_first_format_is_read(
    copied: Path, quick_run: Run, frame: pd.DataFrame, demo_table: Path
) -> None:
    path = copied / "mixfit.json"
    old = json.loads(path.read_text())
    del old["kind"], old["description_sha256"]
    path.write_text(json.dumps(old | {"format_version": 1}))
    expected = quick_run.predictor.predict(frame, images=demo_table.parent)
    pd.testing.assert_frame_equal(Predictor.load(copied).predict(frame, images=demo_table.parent), expected)


def test_a_description_of_an_unknown_kind_is_refused(copied: Path) -> None:
    rewrite(copied, kind="oracle")
    with pytest.raises(DataError, match=r"mixfit\.json\.kind must be one of network, own network, blend"):
        Predictor.load(copied)


def test_a_pickle_in_place_of_the_weights_is_not_opened(copied: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (canary,))

    torch.save(Bomb(), copied / "model.safetensors")
    reseal(copied)
    with pytest.raises(DataError, match=r"model\.safetensors is damaged"):
        Predictor.load(copied)
    assert not canary.exists()


def test_saving_over_something_is_refused(quick_run: Run) -> None:
    with pytest.raises(ResourceError, match="exists already"):
        quick_run.predictor.save(quick_run.folder / "model")


def test_the_folder_holds_no_pickle_and_no_path_of_this_machine(quick_run: Run, demo_table: Path) -> None:
    folder = quick_run.folder / "model"
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "mixfit.json", "README.md"}
    for path in [*folder.iterdir(), quick_run.folder / "report.html"]:
        assert str(demo_table.parent).encode() not in path.read_bytes(), path.name


def test_predictions_are_the_same_without_a_cache_with_a_cold_and_with_a_warm_one(
    quick_run: Run, frame: pd.DataFrame, demo_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(folder=tmp_path / "cache", limit_bytes=10**9, warn=pytest.fail)
    seen: list[FeatureTable] = []
    original = predictor_module.all_features

    def noted(*arguments: Any, **settings: Any) -> FeatureTable:
        seen.append(original(*arguments, **settings))
        return seen[-1]

    monkeypatch.setattr(predictor_module, "all_features", noted)
    results = [quick_run.predictor.predictions(frame, images=demo_table.parent, cache=c) for c in (None, cache)]
    monkeypatch.setattr("mixfit.data.photos.store.read_image", pytest.fail)
    results.append(quick_run.predictor.predictions(frame, images=demo_table.parent, cache=cache))
    assert len(seen) == 3
    for features, found in zip(seen, results, strict=True):
        assert torch.equal(features.values, seen[0].values)
        np.testing.assert_array_equal(found.values, results[0].values)
        assert (found.status, found.bad, found.photos_found) == (
            results[0].status,
            results[0].bad,
            results[0].photos_found,
        )
    few = frame.iloc[:3]
    monkeypatch.undo()
    pixels = quick_run.predictor.predictions(few, images=demo_table.parent)  # too few for a chunk
    np.testing.assert_allclose(pixels.values, results[0].values[:3], rtol=1e-5)
    assert len(seen) == 3


def test_photos_that_cannot_be_read_are_named_with_a_cache_too(
    quick_run: Run, frame: pd.DataFrame, demo_table: Path, tmp_path: Path
) -> None:
    shutil.copytree(demo_table.parent, tmp_path / "vases")
    (tmp_path / "vases" / frame["photos"].dropna().iloc[0].split(";")[0].strip()).write_bytes(b"<html>")
    cache = Cache(folder=tmp_path / "cache", limit_bytes=10**9, warn=pytest.fail)
    for _ in range(2):
        found = quick_run.predictor.predictions(frame, images=tmp_path / "vases", cache=cache)
        assert any(record.problem.endswith("is a text file (HTML, XML or SVG), not a photo") for record in found.bad)
