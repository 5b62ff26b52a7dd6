"""Fault case 22: files that claim or unpack to far more than they weigh."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from photo_files import chunk, drawing, encoded, tiff
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from mixfit.data.photos.decode import ImageError, read_image


def deflated_zeros(megabytes: int) -> bytes:
    """The start of a valid zlib stream of so many zero bytes, made by repeating one compressed block."""
    packer = zlib.compressobj(9)
    header = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return header + block * (megabytes - 1)


def png_header(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks)


def large_png(width: int, height: int) -> bytes:
    """Complete and valid: black, in 8-bit grey."""
    packer = zlib.compressobj(1)
    row = bytes(1 + width)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return png_header(width, height, chunk(b"IDAT", body), chunk(b"IEND", b""))


def resized_jpeg_header(width: int, height: int) -> bytes:
    data = encoded(drawing(), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def bombs() -> dict[str, bytes]:
    two_gigabytes = deflated_zeros(2048)
    pixel = chunk(b"IDAT", zlib.compress(bytes(2))) + chunk(b"IEND", b"")
    return {
        "png": large_png(14_000, 14_000),
        "strip": large_png(1, 60_000),
        "lying strip": large_png(60_000, 1),
        "ztxt": png_header(1, 1, chunk(b"zTXt", b"a\0\0" + two_gigabytes), pixel),
        "itxt": png_header(1, 1, chunk(b"iTXt", b"a\0\1\0\0\0" + two_gigabytes), pixel),
        "iccp": png_header(1, 1, chunk(b"iCCP", b"a\0\0" + two_gigabytes), pixel),
        "claimed": png_header(1, 1, struct.pack(">I", 0x7FFFFFFF) + b"zTXta\0\0" + b"x" * 99),
        "jpeg": resized_jpeg_header(65_500, 65_500),
        "gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + encoded(drawing(), "GIF")[10:],
        "bmp": encoded(drawing(), "BMP")[:18] + struct.pack("<ii", 100_000, 100_000) + encoded(drawing(), "BMP")[26:],
        "tiff": tiff(50_000, 50_000, 1, (8,), 1, bytes(100)),
        "webp": encoded(Image.new("RGB", (16_383, 5_500)), "WEBP", method=0),
    }


BOMB_PROBLEMS = {
    "png": "has 14000 x 14000 pixels; at most 89,478,485 pixels are read",
    "strip": "has 1 x 60000 pixels; sides of at most 30,000 pixels are read",
    "lying strip": "has 60000 x 1 pixels; sides of at most 30,000 pixels are read",
    "ztxt": "has a text or colour profile that unpacks to more than 1 MB",
    "itxt": "has a text or colour profile that unpacks to more than 1 MB",
    "iccp": "has a text or colour profile that unpacks to more than 1 MB",
    "claimed": "is truncated",
    "jpeg": "has 65500 x 65500 pixels; at most 89,478,485 pixels are read",
    "gif": "has 65535 x 65535 pixels; at most 89,478,485 pixels are read",
    "bmp": "has 100000 x 100000 pixels; at most 89,478,485 pixels are read",
    "tiff": "has 50000 x 50000 pixels; at most 89,478,485 pixels are read",
    "webp": "has 16383 x 5500 pixels; at most 89,478,485 pixels are read",
}

MEASURE = """
import resource, sys, time
from pathlib import Path
from mixfit.data.photos.decode import ImageError, image_header, read_image
folder = Path(sys.argv[1])
read_image(folder / "small", size=8)
for path in sorted(folder.glob("*.bomb")):
    for read in (image_header, read_image):
        start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            read(path)
            problem = "was read"
        except ImageError as error:
            problem = str(error)
        taken = time.process_time() - start
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(path.stem, read.__name__, round(taken * 1000), grown // 1024, problem, sep="|")
"""


def test_f22_bombs_are_refused_at_once_and_without_memory(tmp_path: Path) -> None:
    """In a process of its own, whose peak of memory is not that of other tests."""
    (tmp_path / "small").write_bytes(encoded(drawing()))
    for name, data in bombs().items():
        (tmp_path / f"{name}.bomb").write_bytes(data)
    command = [sys.executable, "-W", "error", "-c", MEASURE, str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    lines = [line.split("|") for line in output.splitlines()]
    assert len(lines) == 2 * len(BOMB_PROBLEMS)
    for name, read, milliseconds, megabytes, problem in lines:
        assert problem == BOMB_PROBLEMS[name], (name, read)
        assert int(milliseconds) < 100, (name, read)
        assert int(megabytes) < 50, (name, read)


@pytest.mark.filterwarnings("default")
def test_f22_bomb_png_is_refused_alike_where_warnings_are_not_errors(recwarn: pytest.WarningsRecorder) -> None:
    for width, height in [(10_000, 10_000), (14_000, 14_000)]:  # Pillow itself warns of the one, refuses the other
        with pytest.raises(ImageError, match=rf"^has {width} x {height} pixels; at most 89,478,485 pixels are read$"):
            read_image(png_header(width, height, chunk(b"IDAT", b"")))
    assert not recwarn.list


def test_f22_a_bomb_behind_the_pixels_is_refused_too() -> None:
    bomb = chunk(b"zTXt", b"a\0\0" + deflated_zeros(2048))
    data = png_header(1, 1, chunk(b"IDAT", zlib.compress(bytes(2))), bomb, chunk(b"IEND", b""))
    with pytest.raises(ImageError, match="unpacks to more than 1 MB"):
        read_image(data)


def with_scans(count: int) -> bytes:
    """A large progressive JPEG whose last scan is there so many times; each costs a pass over all pixels."""
    data = encoded(Image.new("L", (4_000, 4_000)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * count + data[-2:]


@pytest.mark.parametrize("size", [None, 32])
def test_f22_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(
    size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JpegImageFile, "load", pytest.fail)  # it would take minutes
    with pytest.raises(ImageError, match=r"^has 20\d\d scans; at most 100 scans are read$"):
        read_image(with_scans(2_000), size=size)


def test_f22_what_looks_like_scans_outside_of_them_does_not_count() -> None:
    """A comment in the photo, and a film behind it."""
    scan_like = b"\xff\xda" * 1_000
    photo = encoded(drawing(), "JPEG", progressive=True)
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(scan_like)) + scan_like
    np.testing.assert_array_equal(read_image(photo[:2] + comment + photo[2:] + scan_like), read_image(photo))
