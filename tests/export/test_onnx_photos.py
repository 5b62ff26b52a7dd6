"""Photos inside an ONNX file: the same pixels as Pillow makes, and the same predictions as ``predict``."""

import copy
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.ExifTags import Base as ExifTag

pytest.importorskip("spox", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

import onnxruntime
from blends_by_hand import Workshop, two_image_columns
from onnx_blends import assert_agrees, exported, written
from quick_runs import QUICK_MODEL
from spox import build
from tiny_backbone import tiny_model

from mixfit.choices import Crop
from mixfit.data.photos.decode import read_for_size, read_image
from mixfit.demo import DEMO_TARGET
from mixfit.export import exporting, networks
from mixfit.export.exporting import measure
from mixfit.export.onnx_predict import OnnxModel
from mixfit.export.ops import arithmetic
from mixfit.export.photos import PhotoInputs, square_photos
from mixfit.models.kernels import KernelRidge
from mixfit.models.linear import Linear
from mixfit.models.model import BOTH
from mixfit.models.network import Network
from mixfit.models.trees import BoostedTrees
from mixfit.predictor import Predictor
from mixfit.predictor.blend import BlendPredictor
from mixfit.training.build import build_model

SIZE = 24


def squares(crop: Crop) -> onnxruntime.InferenceSession:
    """The part of a file that makes photos square."""
    with arithmetic():
        inputs = PhotoInputs.make(1)
        found = square_photos(inputs, SIZE, crop)
    graph = build({"photos": inputs.photos, "sizes": inputs.sizes}, {"square": found})
    return onnxruntime.InferenceSession(graph.SerializeToString())


SQUARES = {crop: squares(crop) for crop in ("squash", "center", "pad")}
SIDES = st.one_of(st.integers(1, 60), st.integers(1, 700))


@settings(deadline=None, max_examples=60)
@given(height=SIDES, width=SIDES, crop=st.sampled_from([*SQUARES]), seed=st.integers(0, 99))
@example(height=1, width=1, crop="squash", seed=0)
@example(height=4000, width=30, crop="squash", seed=0)
@example(height=30, width=4000, crop="center", seed=0)
@example(height=30, width=4000, crop="pad", seed=0)
@example(height=SIZE, width=SIZE, crop="squash", seed=0)
def test_squares_are_those_of_pillow_byte_by_byte(
    height: int, width: int, crop: Crop, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "BMP")
    photo = file.getvalue()
    canvas = np.zeros((1, height + seed % 3, width + seed % 5, 3), dtype=np.uint8)
    canvas[0, :height, :width] = read_for_size(photo, SIZE)
    found = SQUARES[crop].run(None, {"photos": canvas, "sizes": np.array([[height, width]])})[0]
    np.testing.assert_array_equal(found[0].transpose(1, 2, 0), read_image(photo, size=SIZE, crop=crop))


def test_no_photo_is_no_square() -> None:
    nothing = {"photos": np.zeros((0, 1, 1, 3), np.uint8), "sizes": np.zeros((0, 2), np.int64)}
    assert SQUARES["squash"].run(None, nothing)[0].shape == (0, 3, SIZE, SIZE)


@pytest.fixture(scope="module")
def workshop(demo_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    tiny = tiny_model(tmp_path_factory.mktemp("weights"))
    return Workshop.of(two_image_columns(demo_table), demo_table.parent, DEMO_TARGET, size=64, folds=2, model=tiny)


@pytest.fixture(scope="module")
def strange(demo_table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    """Rows with no photo, seven, odd shapes, and photos that are missing or damaged."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, shape in {"dot": (1, 1), "tall": (4000, 30), "flat": (30, 900)}.items():
        Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    Image.fromarray(rng.integers(0, 256, (1200, 900, 3), dtype=np.uint8)).save(folder / "large.jpg")
    Image.fromarray(rng.integers(0, 256, (90, 70), dtype=np.uint8)).save(folder / "grey.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff" + bytes(50))
    seven = ";".join(["dot.png", "tall.png", "flat.png", "large.jpg", "grey.jpg", "broken.jpg", "dot.png"])
    cells = [None, "", seven, "large.jpg", "broken.jpg", "gone.jpg", "dot.png;tall.png", "grey.jpg", "../x.png"]
    frame = two_image_columns(demo_table).head(len(cells)).drop(columns=DEMO_TARGET)
    return frame.assign(front=cells, detail=[*cells[3:], *cells[:3]]), folder


@pytest.fixture(scope="module")
def blend(workshop: Workshop) -> tuple[BlendPredictor, OnnxModel]:
    """Two folds, which share an image network, and the file."""
    kinds = (Linear, KernelRidge, Network)
    predictor = workshop.blend([*(kind(sees=BOTH) for kind in kinds), BoostedTrees(sees=BOTH, most_rounds=20)])
    traced = list[str]()
    with pytest.MonkeyPatch.context() as patch:
        write = networks._write
        patch.setattr(networks, "_write", lambda *given: (traced.append(given[-1]), write(*given))[1])
        model = exported(predictor)
    assert traced.count("the image network") == 1
    return predictor, model


def test_a_blend_of_models_of_photos(
    blend: tuple[BlendPredictor, OnnxModel],
    workshop: Workshop,
    strange: tuple[pd.DataFrame, Path],
    demo_table: Path,
) -> None:
    predictor, model = blend
    assert_agrees(predictor, model, workshop.data.frame, demo_table.parent)
    assert_agrees(predictor, model, *strange)
    assert_agrees(predictor, model, strange[0].drop(columns=["front", "detail"]))
    assert "tiny.safetensors" in model.meta["licence"]


def photos_of_every_kind(folder: Path) -> list[str]:
    """Of every mode and format that ``read_image`` knows, upright and turned, whole and broken."""
    rng = np.random.default_rng(1)
    colour = Image.fromarray(rng.integers(0, 256, (61, 47, 3), dtype=np.uint8))
    alpha, deep = rng.integers(0, 256, (61, 47, 4), dtype=np.uint8), rng.integers(0, 65536, (61, 47), dtype=np.uint16)
    for name, photo in {
        **{f"{mode}.png": colour.convert(mode) for mode in ("1", "L", "P")},
        "RGBA.png": Image.fromarray(alpha),
        "LA.png": Image.fromarray(alpha[:, :, :2]),
        "16.png": Image.fromarray(deep),
        "CMYK.jpg": colour.convert("CMYK"),
        "LAB.tiff": Image.fromarray(alpha[:, :, :3], "LAB"),
        "float.tiff": Image.fromarray(deep.astype(np.float32) / 65535),
        "palette.gif": colour.convert("P"),
        "rgb.webp": colour,
        "rgb.bmp": colour,
    }.items():
        photo.save(folder / name)
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[ExifTag.Orientation] = turn
        colour.resize((470, 610)).save(folder / f"turned {turn}.jpg", exif=exif, progressive=turn % 2 == 0)
    whole = (folder / "turned 1.jpg").read_bytes()
    for name, content in {"half.jpg": whole[: len(whole) // 2], "nothing.png": b"", "text.png": b"no photo"}.items():
        (folder / name).write_bytes(content)
    (folder / "folder.png").mkdir()
    return sorted(path.name for path in folder.iterdir())


def test_photos_of_every_kind(
    blend: tuple[BlendPredictor, OnnxModel], strange: tuple[pd.DataFrame, Path], tmp_path: Path
) -> None:
    names = photos_of_every_kind(tmp_path)
    cells = [*names, ";".join(names[:7]), ";".join(names[::-1])]
    frame = pd.concat([strange[0].iloc[[0]]] * len(cells), ignore_index=True)
    assert_agrees(*blend, frame.assign(front=cells, detail=None), tmp_path)
    assert_agrees(*blend, frame.head(0), tmp_path)


PHOTOS = ["dot.png", "tall.png", "flat.png", "large.jpg", "grey.jpg", "broken.jpg", "gone.jpg", "", "\u6f22.png"]
CELL = st.one_of(st.none(), st.text(max_size=4), st.lists(st.sampled_from(PHOTOS), max_size=7).map(";".join))


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cells=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=3))
def test_whatever_photos_a_row_has(
    cells: list[tuple[str | None, str | None]],
    blend: tuple[BlendPredictor, OnnxModel],
    strange: tuple[pd.DataFrame, Path],
) -> None:
    frame = strange[0].iloc[: len(cells)].assign(front=[one for one, _ in cells], detail=[one for _, one in cells])
    assert_agrees(*blend, frame, strange[1])


@pytest.mark.long
def test_features_in_bfloat16_have_a_difference_of_their_own(
    blend: tuple[BlendPredictor, OnnxModel],
    workshop: Workshop,
    demo_table: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporting, "_MANY", 12)
    predictor = blend[0]
    assert predictor.photo_encoder is not None
    encoder = copy.deepcopy(predictor.photo_encoder.encoder)
    encoder.precision = "bfloat16"
    half = replace(predictor, photo_encoder=replace(predictor.photo_encoder, encoder=encoder))
    content = written(half).model.SerializeToString()
    found, _ = measure(half, content, workshop.data.table, demo_table.parent)
    assert found.largest <= 1e-5
    assert found.as_trained is not None
    assert 1e-5 < found.as_trained < 0.5
    assert found.same_status == found.checked_status


def test_a_single_network_of_pixels(workshop: Workshop, strange: tuple[pd.DataFrame, Path]) -> None:
    config = replace(QUICK_MODEL, backbone="small_resnet", fusion="gated")
    network = build_model(workshop.data, config, seed=0)
    predictor = Predictor.from_training(network, workshop.data, config)
    assert_agrees(predictor, exported(predictor), *strange)
