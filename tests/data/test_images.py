"""Reading one photo: sizes, crops, headers, and equality with a plain use of Pillow."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mixfit.choices import Crop
from mixfit.data.photos import decode as images
from mixfit.data.photos.decode import ImageError, check_file, image_header, read_image
from mixfit.errors import ConfigError, DataError


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width: int, height: int) -> Image.Image:
    """Different on every side, without detail that a codec would lose."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray(np.stack([x * 255, y * 255, (1 - x * y) * 200], axis=-1).astype(np.uint8))


def test_a_lossless_photo_comes_back_unchanged_in_its_own_size() -> None:
    photo = noise(31, 17)
    pixels = read_image(encoded(photo))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(photo))


def test_the_result_belongs_to_the_caller() -> None:
    pixels = read_image(encoded(noise(4, 4)))
    pixels[:] = 7
    assert (pixels == 7).all()


def test_squash_equals_pillows_bicubic_resize() -> None:
    photo = noise(90, 60)
    expected = np.asarray(photo.resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(read_image(encoded(photo), size=32), expected)


def test_resizing_has_antialias() -> None:
    """Stripes of one pixel become an even grey; without antialias they would become stripes or one of the two."""
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    inner = read_image(encoded(Image.fromarray(stripes)), size=16)[2:-2, 2:-2]
    assert np.abs(inner.astype(int) - 128).max() <= 2


@pytest.mark.parametrize("turned", [False, True])
def test_center_keeps_the_middle_of_the_longer_side(turned: bool) -> None:
    pixels = np.zeros((40, 100, 3), dtype=np.uint8)
    pixels[:, :30], pixels[:, 30:70], pixels[:, 70:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    photo = Image.fromarray(pixels.transpose(1, 0, 2).copy() if turned else pixels)
    square = read_image(encoded(photo), size=20, crop="center")
    if turned:
        square = square.transpose(1, 0, 2)
    assert (square[:, 2:-2] == (0, 255, 0)).all()  # the filter sees the neighbours at the edge


def test_center_agrees_with_resizing_first_and_cropping_then() -> None:
    photo = noise(120, 80)
    reference = photo.resize((48, 32), Image.Resampling.BICUBIC).crop((8, 0, 40, 32))
    square = read_image(encoded(photo), size=32, crop="center")
    np.testing.assert_array_equal(square, np.asarray(reference))


def test_center_of_a_thin_strip_needs_no_gigapixel_image() -> None:
    assert read_image(encoded(Image.new("RGB", (30_000, 1), "red")), size=64, crop="center").shape == (64, 64, 3)


@pytest.mark.parametrize("turned", [False, True])
def test_pad_keeps_all_and_adds_mid_grey(turned: bool) -> None:
    photo = Image.new("RGB", (20, 100) if turned else (100, 20), (255, 0, 0))
    square = read_image(encoded(photo), size=50, crop="pad")
    if turned:
        square = square.transpose(1, 0, 2)
    assert (square[20:30] == (255, 0, 0)).all()
    assert (square[:20] == 128).all()
    assert (square[30:] == 128).all()


@pytest.mark.parametrize("crop", ["squash", "center", "pad"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (7, 8), (33, 33)])
def test_every_shape_becomes_square(crop: Crop, shape: tuple[int, int]) -> None:
    assert read_image(encoded(noise(*shape)), size=33, crop=crop).shape == (33, 33, 3)


@pytest.mark.parametrize("crop", ["squash", "center", "pad"])
def test_a_large_jpeg_decoded_at_a_fraction_looks_like_the_whole(crop: Crop) -> None:
    """The fast way (libjpeg scales while it decodes) against decoding all pixels first."""
    photo = smooth(1600, 1200)
    slow = read_image(encoded(photo), size=64, crop=crop).astype(int)
    fast = read_image(encoded(photo, "JPEG", quality=95), size=64, crop=crop).astype(int)
    assert np.abs(fast - slow).mean() < 1.5


def test_a_large_jpeg_is_not_decoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """At least twice the wanted size is left for the bicubic filter, and no more than four times."""
    seen = []
    to_square = images._to_square

    def spy(rgb: Image.Image, size: int, crop: Crop) -> Image.Image:
        seen.append(rgb.size)
        return to_square(rgb, size, crop)

    monkeypatch.setattr(images, "_to_square", spy)
    read_image(encoded(smooth(1600, 1200), "JPEG"), size=100)
    assert seen == [(400, 300)]


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 pixel, got 0"):
        read_image(encoded(noise(4, 4)), size=0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_the_header_tells_size_and_format_by_content(kind: str, tmp_path: Path) -> None:
    data = encoded(smooth(30, 20), kind)
    path = tmp_path / "photo.txt"
    path.write_bytes(data)
    header = image_header(path)
    assert (header.width, header.height, header.format) == (30, 20, kind)
    assert image_header(data) == header


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_header_has_the_sides_of_the_upright_photo(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(smooth(30, 20), kind, exif=exif)
    header = image_header(data)
    assert (header.height, header.width) == read_image(data).shape[:2]
    assert (header.width, header.height) == ((20, 30) if orientation >= 5 else (30, 20))


def test_the_header_of_a_photo_with_damaged_pixels_can_be_read() -> None:
    data = encoded(noise(64, 64))
    assert image_header(data[: len(data) // 2]).width == 64


def test_an_image_error_is_a_data_error() -> None:
    with pytest.raises(DataError):
        read_image(b"nothing")


@pytest.mark.parametrize("read", [read_image, image_header])
def test_files_above_the_size_limit_are_not_opened(read: Any, tmp_path: Path) -> None:
    path = tmp_path / "huge.jpg"
    path.touch()
    os.truncate(path, images.MAX_BYTES + 1)  # sparse: takes no room on the disk
    with pytest.raises(ImageError, match="has 200,000,001 bytes; files of at most 200,000,000 bytes are read"):
        read(path)


def test_check_file_accepts_a_file_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"anything")
    check_file(path)


@pytest.mark.skipif("MIXFIT_DATA" not in os.environ, reason="MIXFIT_DATA is not set")
@pytest.mark.parametrize("name", ["houses/images/1_frontal.jpg", "covid_xray/images/x0000.jpg"])
def test_real_photos_equal_a_plain_use_of_pillow(name: str) -> None:
    path = Path(os.environ["MIXFIT_DATA"]) / name
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(read_image(path, size=224), expected)
