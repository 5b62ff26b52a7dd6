from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from quick_runs import QUICK_MODEL

from mixfit.auto.recipe import Run
from mixfit.config import DataConfig
from mixfit.data.load import load_data
from mixfit.data.photos.store import ImageFiles
from mixfit.errors import ConfigError
from mixfit.evaluation.photo_heat import BATCH, PhotoHeat, photo_heat
from mixfit.hooks.heat import grad_cam
from mixfit.predictor import Predictor
from mixfit.predictor.network import NetworkPredictor
from mixfit.training.build import build_model, precompute_features

SIZE = 48
ROWS = [4, 0, 12, 7, 30, 31, 32, 33, 34, 35]
"""More than go through the network at a time, in no order."""


@pytest.fixture(scope="module")
def frame(demo_table: Path) -> pd.DataFrame:
    """The example with an image column for each of a vase's two photos; many have only one of them."""
    frame = pd.read_csv(demo_table).drop(columns="vase_id")
    photos = frame["photos"].str.split(";", expand=True)
    frame["detail"], frame["front"] = photos[1], photos[0]
    frame.loc[0, "front"] = "images/none.jpg"
    frame.loc[7, ["front", "detail"]] = None
    frame.loc[[12, 31], "detail"] = frame["front"].to_numpy()[[2, 3]]
    return frame.drop(columns="photos")


@pytest.fixture(scope="module")
def classes(frame: pd.DataFrame, demo_table: Path) -> NetworkPredictor:
    """Of the material, by a small network that learns from pixels; untrained."""
    model = replace(QUICK_MODEL, backbone="small_resnet")
    config = DataConfig(image_size=SIZE, roles={"material": "target"})
    data = load_data(frame, target="material", images=demo_table.parent, config=config)
    assert data.schema.names("image") == ["detail", "front"]
    return Predictor.from_training(build_model(data, model, seed=0), data, model)


def assert_named(entry: PhotoHeat, row: pd.Series, folder: Path) -> None:
    """The photos are those of the row, with their columns."""
    cells = {column: row[column] for column in ("detail", "front") if isinstance(row[column], str)}
    there = {column: cell for column, cell in cells.items() if (folder / cell).exists()}
    assert entry.columns == tuple(there)
    assert entry.names == tuple(Path(cell).name for cell in there.values())
    files = [folder / cell for cell in there.values()]
    pixels, _ = ImageFiles(files, size=SIZE).read(np.arange(len(files)))
    assert torch.equal(entry.photos, pixels)
    assert entry.heat.shape == (len(files), SIZE, SIZE)


def test_every_photo_has_its_own_heat(classes: NetworkPredictor, frame: pd.DataFrame, demo_table: Path) -> None:
    folder = demo_table.parent
    found = photo_heat(classes, frame, images=folder, rows=ROWS, target="porcelain", direction="both")
    assert len(found) > BATCH
    assert [entry.row for entry in found] == ROWS
    expected = classes.predict(frame.iloc[ROWS], images=folder)["prediction"]
    assert [entry.prediction for entry in found] == expected.tolist()
    assert {entry.explained for entry in found} == {"porcelain"}
    for entry in found:
        assert_named(entry, frame.iloc[entry.row], folder)
    assert {len(entry.names) for entry in found} == {0, 1, 2}
    # A row whose first photo is missing or cannot be read has the heat of the one that is there.
    rows = classes.raw_rows(frame.iloc[ROWS], images=folder)
    xb, _ = classes.dataset(rows, rows.files).__getitems__(list(range(len(ROWS))))
    assert xb.image_mask is not None
    assert classes.target.classes is not None
    heat = grad_cam(classes.model, xb, target=classes.target.classes.index("porcelain"), direction="both")
    for place, entry in enumerate(found):
        torch.testing.assert_close(entry.heat, heat[place][xb.image_mask[place]], atol=1e-4, rtol=1e-4)
        assert entry.heat.any() == bool(entry.names)


def test_a_photo_that_cannot_be_read_is_left_out(
    classes: NetworkPredictor, frame: pd.DataFrame, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no photo at all")
    Image.new("RGB", (60, 40), (200, 30, 30)).save(tmp_path / "red.png")
    both = frame.iloc[[3]].assign(detail="broken.jpg", front="red.png")
    (entry,) = photo_heat(classes, both, images=tmp_path, direction="both")
    assert (entry.columns, entry.names) == (("front",), ("red.png",))
    assert (entry.photos[0, 0] == 200).all()
    assert entry.heat.amax() == pytest.approx(1.0)


@pytest.mark.parametrize("method", ["grad_cam", "gradients", "smooth", "integrated"])
def test_a_saved_model_of_frozen_features_has_heat_on_pixels(
    quick_run: Run, demo_table: Path, method: str, tmp_path: Path
) -> None:
    predictor = Predictor.load(quick_run.folder / "model")
    assert isinstance(predictor, NetworkPredictor)
    assert predictor.model.image is not None
    assert predictor.model.image.frozen
    frame = pd.read_csv(demo_table).head(6)
    before = predictor.predict(frame, images=demo_table.parent)
    found = photo_heat(predictor, frame, images=demo_table.parent, method=method, layer=LAYER_OF[method])  # type: ignore[arg-type]
    for entry, cell, value in zip(found, frame["photos"].fillna(""), before["prediction"], strict=True):
        assert entry.names == tuple(Path(name).name for name in cell.split(";") if name)
        assert entry.prediction == value
        assert entry.explained == ""
        if cell:
            assert entry.heat.amax() == pytest.approx(1.0)
            assert 0 <= entry.heat.min() < entry.heat.mean() < 1
        figure = entry.figure()
        assert len(figure.axes) == 2 * len(entry.names)
        figure.savefig(tmp_path / "row.png")
    assert found[0].figure().get_suptitle() == f"row 0: {found[0].prediction:.6g}"
    assert all(parameter.grad is None for parameter in predictor.model.parameters())


LAYER_OF = {"grad_cam": "image.backbone.blocks.2", "gradients": None, "smooth": None, "integrated": None}
"""Photos of 32 pixels have a single place at the end of EfficientNet-Lite0, and four a little before."""


def test_features_computed_once_cannot_be_explained_but_the_same_rows_with_pixels_can(demo_table: Path) -> None:
    data = load_data(demo_table, target="price", image_size=32)
    model = build_model(data, QUICK_MODEL, seed=0)
    xb, _ = next(iter(precompute_features(data, model).valid))
    with pytest.raises(ConfigError, match="has features of the photos instead of pixels"):
        grad_cam(model, xb)
    pixels, _ = next(iter(data.valid))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(pixels), model(xb), atol=1e-4, rtol=1e-4)
    assert grad_cam(model, pixels).any()


def test_the_figure_says_what_was_predicted_and_what_is_explained(
    classes: NetworkPredictor, frame: pd.DataFrame, demo_table: Path
) -> None:
    (entry,) = photo_heat(classes, frame, images=demo_table.parent, rows=[31], target="stoneware")
    other = replace(entry, prediction="porcelain")
    assert other.figure().get_suptitle() == "row 31: porcelain, heat for stoneware"
    assert replace(entry, prediction="stoneware").figure().get_suptitle() == "row 31: stoneware"
    titles = [axes.get_title() for axes in other.figure().axes]
    assert titles[:2] == ["detail: vase0003_front.jpg", "front: vase0031_front.jpg"]


def test_no_rows_have_no_heat(classes: NetworkPredictor, frame: pd.DataFrame, demo_table: Path) -> None:
    assert photo_heat(classes, frame, images=demo_table.parent, rows=[]) == []
    assert photo_heat(classes, frame.head(0), images=demo_table.parent) == []


def test_mistakes_are_told(classes: NetworkPredictor, quick_run: Run, frame: pd.DataFrame, demo_table: Path) -> None:
    images = demo_table.parent
    with pytest.raises(ConfigError, match=r"'porcelan' is not one of the model's 4 classes\. Did you mean"):
        photo_heat(classes, frame, images=images, target="porcelan")
    with pytest.raises(ConfigError, match=r"The model is a regression model without classes: leave out the target\."):
        photo_heat(quick_run.predictor, frame, images=images, target="porcelain")
    with pytest.raises(ConfigError, match=r"2 of 3 rows are not in the table of 90 rows, such as 90\."):
        photo_heat(classes, frame, images=images, rows=[3, 90, -1])
    with pytest.raises(ConfigError, match="pass images=FOLDER, which the photo paths are relative to"):
        photo_heat(classes, frame)
    data = load_data(frame.drop(columns=["front", "detail"]), target="price")
    table_alone = Predictor.from_training(build_model(data, QUICK_MODEL, seed=0), data, QUICK_MODEL)
    with pytest.raises(ConfigError, match=r"This model uses no photos, so it has no heat maps\."):
        photo_heat(table_alone, frame)
