"""Fault cases 23 to 25: unusual pixels, EXIF orientation, and one result for a path and its bytes."""

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from photo_files import KINDS, chunk, drawing, encoded, exif, png, tiff
from PIL import Image

from mixfit.auto.recipe import Run
from mixfit.choices import Crop
from mixfit.data.load import load_data
from mixfit.data.photos.decode import image_header, read_image
from mixfit.data.photos.find import find_photos
from mixfit.data.photos.store import ImageFiles
from mixfit.data.table.read import read_table

# --- 23: colours ---


WHITE, RED, BLUE = (255, 255, 255), (255, 0, 0), (0, 0, 255)


def plain(mode: str, colour: Any, kind: str = "PNG", **options: Any) -> bytes:
    return encoded(Image.new(mode, (16, 16), colour), kind, **options)


def palette_image(transparency: int | bytes) -> bytes:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 200, 100, 40])
    return encoded(image, transparency=transparency)


def over_white(colour: tuple[int, int, int], alpha: int) -> tuple[float, ...]:
    return tuple((value * alpha + 255 * (255 - alpha)) / 255 for value in colour)


def ycck_jpeg(c: int, m: int, y: int, k: int) -> bytes:
    """Stores the luma and chroma of (c, m, y), as if they were red, green and blue, and sets Adobe's YCCK mark.

    Pillow writes CMYK inverted, and so does Adobe."""
    luma = 0.299 * c + 0.587 * m + 0.114 * y
    stored = (luma, 128 + (y - luma) / 1.772, 128 + (c - luma) / 1.402)
    data = plain("CMYK", (*(255 - round(value) for value in stored), k), "JPEG", quality=100)
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    return data[:at] + b"\2" + data[at + 1 :]


def frames(kind: str, **options: Any) -> bytes:
    red, blue = Image.new("RGB", (16, 16), RED), Image.new("RGB", (16, 16), BLUE)
    return encoded(red, kind, save_all=True, append_images=[blue], **options)


def twelve_bit(level: int) -> bytes:
    return bytes([level >> 4, (level & 15) << 4 | level >> 8, level & 255] * 128)


COLOURS: dict[str, tuple[bytes, tuple[float, ...], float]] = {
    # name: (file, expected colour, tolerance); every file is one flat colour
    "cmyk jpeg": (plain("CMYK", (40, 80, 120, 60), "JPEG", quality=100), (164.4, 133.8, 103.2), 2),
    "ycck jpeg": (ycck_jpeg(40, 80, 120, 60), (164.4, 133.8, 103.2), 3),
    "cmyk tiff": (plain("CMYK", (40, 80, 120, 60), "TIFF"), (164.4, 133.8, 103.2), 1),
    "grey jpeg": (plain("L", 77, "JPEG", quality=100), (77, 77, 77), 1),
    "grey png": (plain("L", 77), (77, 77, 77), 0),
    "grey with a transparent level": (plain("L", 77, transparency=77), WHITE, 0),
    "rgb with a transparent colour": (plain("RGB", (1, 2, 3), transparency=(1, 2, 3)), WHITE, 0),
    "rgb with another transparent colour": (plain("RGB", (1, 2, 3), transparency=(9, 9, 9)), (1, 2, 3), 0),
    "la": (plain("LA", (100, 51)), over_white((100, 100, 100), 51), 1),
    "rgba": (plain("RGBA", (10, 100, 200, 77)), over_white((10, 100, 200), 77), 1),
    "rgba opaque": (plain("RGBA", (10, 100, 200, 255)), (10, 100, 200), 0),
    "rgba fully transparent": (plain("RGBA", (10, 100, 200, 0)), WHITE, 0),
    "rgba webp": (plain("RGBA", (10, 100, 200, 77), "WEBP", lossless=True), over_white((10, 100, 200), 77), 1),
    "rgba tiff": (plain("RGBA", (10, 100, 200, 77), "TIFF"), over_white((10, 100, 200), 77), 1),
    "palette": (palette_image(0), (200, 100, 40), 0),
    "palette with a transparent entry": (palette_image(1), WHITE, 0),
    "palette with alpha": (palette_image(bytes([255, 51])), over_white((200, 100, 40), 51), 1),
    "gif with a transparent entry": (plain("P", 0, "GIF", transparency=0), WHITE, 0),
    "1-bit white": (plain("1", 1), WHITE, 0),
    "1-bit black": (plain("1", 0, "TIFF", compression="group4"), (0, 0, 0), 0),
    "16-bit grey": (plain("I;16", 100 * 257), (100, 100, 100), 0),
    "16-bit grey, darkest": (plain("I;16", 128), (0, 0, 0), 0),
    "16-bit grey, next": (plain("I;16", 129), (1, 1, 1), 0),
    "16-bit grey, lightest": (plain("I;16", 65_535), WHITE, 0),
    "16-bit grey with a transparent level": (
        png(4, 4, 16, 0, struct.pack(">16H", *[500] * 16), chunk(b"tRNS", struct.pack(">H", 500))),
        WHITE,
        0,
    ),
    "16-bit grey with alpha": (
        png(4, 4, 16, 4, struct.pack(">32H", *[100 * 257, 51 * 257] * 16)),
        over_white((100, 100, 100), 51),
        1,
    ),
    "16-bit rgb": (png(4, 4, 16, 2, struct.pack(">48H", *[2570, 25_700, 51_400] * 16)), (10, 100, 200), 0),
    "16-bit tiff, big-endian": (plain("I;16B", 100 * 257, "TIFF"), (100, 100, 100), 0),
    "16-bit tiff, white is 0": (
        tiff(4, 4, 0, (16,), 1, struct.pack("<16H", *[100 * 257] * 16)),
        (155, 155, 155),
        0,
    ),
    "12-bit tiff": (tiff(16, 16, 1, (12,), 1, twelve_bit(1606)), (100, 100, 100), 0),
    "32-bit tiff within 16 bits": (tiff(4, 4, 1, (32,), 1, struct.pack("<16I", *[25_700] * 16)), (100, 100, 100), 0),
    "32-bit tiff within 8 bits": (tiff(4, 4, 1, (32,), 1, struct.pack("<16I", *[100] * 16)), (100, 100, 100), 0),
    "float tiff within 0 to 1": (plain("F", 0.4, "TIFF"), (102, 102, 102), 0),
    "float tiff within 0 to 255": (plain("F", 99.6, "TIFF"), (100, 100, 100), 0),
    "float tiff of nothing but NaN": (plain("F", float("nan"), "TIFF"), (0, 0, 0), 0),
    "lab tiff, white": (tiff(4, 4, 8, (8, 8, 8), 1, bytes([255, 0, 0] * 16)), WHITE, 1),
    "lab tiff, mid-grey": (tiff(4, 4, 8, (8, 8, 8), 1, bytes([137, 0, 0] * 16)), (128, 128, 128), 2),
    "lab tiff, red": (tiff(4, 4, 8, (8, 8, 8), 1, bytes([138, 81, 70] * 16)), RED, 6),
    "animated gif": (frames("GIF"), RED, 0),
    "animated webp": (frames("WEBP", lossless=True), RED, 0),
    "animated png": (frames("PNG"), RED, 0),
    "two-page tiff": (frames("TIFF"), RED, 0),
    "two-page tiff, compressed": (frames("TIFF", compression="tiff_lzw"), RED, 0),
    "mpo": (frames("MPO", quality=100), (254, 0, 0), 1),
}


@pytest.mark.parametrize("size", [None, 8])
@pytest.mark.parametrize("name", COLOURS)
def test_f23_unusual_pixels_become_the_documented_rgb(name: str, size: int | None) -> None:
    data, expected, tolerance = COLOURS[name]
    pixels = read_image(data, size=size)
    assert pixels.shape[2] == 3
    assert np.abs(pixels - np.array(expected)).max() <= tolerance + 0.5 * (tolerance > 0)


def test_f23_a_ramp_of_16_bits_is_divided_by_257() -> None:
    ramp = np.linspace(0, 65_535, 64 * 64).astype(np.uint16).reshape(64, 64)
    pixels = read_image(encoded(Image.fromarray(ramp)))
    expected = np.round(ramp / 257).astype(np.uint8)
    np.testing.assert_array_equal(pixels, np.repeat(expected[:, :, None], 3, axis=2))


@pytest.mark.parametrize("values", [[-10.0, 0.0, 10.0], [0.0, 5000.0, 10_000.0], [-3e38, 0.0, 3e38]])
def test_f23_floats_of_another_range_are_stretched(values: list[float]) -> None:
    pixels = read_image(encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF"))
    if values[0] >= 0:  # within 16 bits: divided by 257
        np.testing.assert_array_equal(pixels[0, :, 0], np.round(np.array(values) / 257))
    else:
        np.testing.assert_array_equal(pixels[0, :, 0], [0, 128, 255])


def test_f23_nan_is_black_and_infinity_saturates() -> None:
    values = np.array([[np.nan, 0.5, np.inf, -np.inf, 1.0]], dtype=np.float32)
    pixels = read_image(encoded(Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 128, 255, 0, 255])


def test_f23_an_mpo_is_a_jpeg_of_its_first_frame() -> None:
    data = frames("MPO")
    assert b"MPF\0" in data
    assert image_header(data).format == "JPEG"


LOSSLESS = [name for name in COLOURS if name not in ("cmyk jpeg", "ycck jpeg", "grey jpeg", "mpo")]
GOLDEN = Path(__file__).with_name("golden_pixels.json")


def golden_hashes() -> dict[str, str]:
    """The start of the sha256 of each case's pixels; decoders of JPEG may round differently, so those are left out."""
    return {name: hashlib.sha256(read_image(COLOURS[name][0]).tobytes()).hexdigest()[:16] for name in LOSSLESS}


def test_f23_every_pixel_is_that_of_the_golden_hashes() -> None:
    """After a change that is meant: ``python tests/faults/test_faults_image_pixels.py`` writes the hashes anew."""
    assert golden_hashes() == json.loads(GOLDEN.read_text())


# --- 24: EXIF orientation ---


def stored(upright: np.ndarray, orientation: int) -> Image.Image:
    """What a camera stores whose orientation tag makes it upright again; the table is from the EXIF standard."""
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a, -1),
    }
    return Image.fromarray(np.ascontiguousarray(turns[orientation](upright)))


@pytest.mark.parametrize("crop", ["squash", "center", "pad"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})],
)
def test_f24_eight_orientations_give_the_same_pixels(kind: str, options: dict[str, Any], crop: Crop) -> None:
    upright = np.asarray(drawing(50, 31))
    expected, square = read_image(encoded(drawing(50, 31))), read_image(encoded(drawing(50, 31)), size=24, crop=crop)
    np.testing.assert_array_equal(expected, upright)
    for orientation in range(1, 9):
        data = encoded(stored(upright, orientation), kind, exif=exif(orientation), **options)
        np.testing.assert_array_equal(read_image(data), expected)
        np.testing.assert_array_equal(read_image(data, size=24, crop=crop), square)


@pytest.mark.parametrize("shape", [(96, 64), (960, 640)])
def test_f24_eight_jpegs_agree_but_for_rounding(shape: tuple[int, int]) -> None:
    """The larger ones are decoded at a fraction of their size."""
    upright = np.asarray(drawing(*shape))
    square = read_image(encoded(Image.fromarray(upright)), size=32).astype(int)
    for orientation in range(1, 9):
        data = encoded(stored(upright, orientation), "JPEG", exif=exif(orientation), quality=98, subsampling=0)
        difference = np.abs(read_image(data, size=32) - square)
        assert difference.mean() < 1
        assert difference.max() <= 6


DAMAGED_EXIF = {
    "short": b"Exif\0\0II",
    "garbage": b"Exif\0\0garbage garbage garbage",
    "directory outside": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "directory cut": exif(6)[:16],
    "a thousand tags": b"Exif\0\0II*\0\x08\0\0\0\xe8\x03" + b"\xff" * 40,
    "unknown orientation": exif(9),
    "orientation as text": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\x006\0\0\0\0\0\0\0",
    "directory in a loop": b"Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0",
}


@pytest.mark.parametrize("name", DAMAGED_EXIF)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_f24_damaged_exif_is_ignored(name: str, kind: str) -> None:
    data, expected = encoded(drawing(), kind, exif=DAMAGED_EXIF[name]), encoded(drawing(), kind)
    assert data != expected
    np.testing.assert_array_equal(read_image(data), read_image(expected))
    assert (image_header(data).width, image_header(data).height) == (48, 32)


def test_f24_an_orientation_in_front_of_the_damage_counts() -> None:
    """Two tags, the second of which points behind the end."""
    tags = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHII", 0x829A, 5, 1, 0x7FFFFFF0)
    data = encoded(drawing(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x02\0" + tags + b"\0\0\0\0")
    assert read_image(data).shape == (48, 32, 3)
    assert (image_header(data).width, image_header(data).height) == (32, 48)


# --- 25: one decoder ---


@pytest.mark.parametrize("size", [None, 20])
@pytest.mark.parametrize("name", [*KINDS, *COLOURS])
def test_f25_a_path_and_its_bytes_give_the_same_pixels(name: str, size: int | None, tmp_path: Path) -> None:
    data = encoded(drawing(), name) if name in KINDS else COLOURS[name][0]
    path = tmp_path / "photo"
    path.write_bytes(data)
    np.testing.assert_array_equal(read_image(path, size=size), read_image(data, size=size))
    assert image_header(path) == image_header(data)


def test_f25_a_batch_has_the_same_pixels_as_single_photos(tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(len(COLOURS))]
    for file, (data, _, _) in zip(files, COLOURS.values(), strict=True):
        file.write_bytes(data)
    pixels, ok = ImageFiles(files, size=12, threads=4).read(np.arange(len(files)))
    assert ok.all()
    for number, file in enumerate(files):
        np.testing.assert_array_equal(pixels[number].numpy(), read_image(file, size=12).transpose(2, 0, 1))


def test_f25_training_and_prediction_see_the_same_tensors_and_say_the_same(demo_table: Path, quick_run: Run) -> None:
    """Pixels and table arrays to the bit, predictions to 1e-5: of the validation rows, as training wrote them."""
    predictor, frame = quick_run.predictor, read_table(demo_table)
    written = pd.read_parquet(quick_run.folder / "predictions_valid.parquet")
    data = load_data(demo_table, target="price", image_size=32, batch_size=len(frame))
    assert data.split.valid.tolist() == written["row"].tolist()
    xb, _ = next(iter(data.valid))
    rows = frame.iloc[written["row"]]
    arrays = predictor.preprocessor.transform(rows)
    assert xb.numeric.numpy().tobytes() == arrays.numeric.tobytes()
    assert xb.categorical.numpy().tobytes() == arrays.categorical.tobytes()
    assert xb.images is not None
    photos = find_photos(rows.reset_index(drop=True), predictor.schema.names("image"), demo_table.parent)
    pixels, ok = ImageFiles(photos.files, size=32).read(np.arange(len(photos.files)))
    assert ok.all()
    assert int(xb.image_mask.sum()) == (photos.slots >= 0).sum() > 0
    for row, place in np.argwhere(photos.slots >= 0):
        assert torch.equal(pixels[photos.slots[row, place]], xb.images[row, place])
    found = predictor.predict(rows, images=demo_table.parent)["prediction"]
    np.testing.assert_allclose(found, written["prediction"], rtol=1e-5)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden_hashes(), indent=1) + "\n")
