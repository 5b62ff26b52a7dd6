"""Equal bytes among photos, of which only those of equal size are read."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixfit.data.checks.photos import equal_files


def bitmap(seed: int, side: int = 12) -> bytes:
    """As bitmaps, different photos have the same size in bytes."""
    buffer = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "BMP")
    return buffer.getvalue()


def test_files_and_bytes_are_compared_by_what_is_in_them(tmp_path: Path) -> None:
    contents = [bitmap(0), bitmap(1), bitmap(0), bitmap(2, side=20), bitmap(1)]
    paths = [tmp_path / f"{place}.bmp" for place in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    assert equal_files(contents).tolist() == [0, 1, 0, 3, 1]
    assert equal_files(paths).tolist() == [0, 1, 0, 3, 1]
    assert equal_files([*paths[:2], *contents[2:]]).tolist() == [0, 1, 0, 3, 1]
    assert equal_files([]).tolist() == []


def test_only_files_that_share_their_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{place}.bmp" for place in range(6)]
    for place, path in enumerate(paths):
        path.write_bytes(bitmap(place, side=12 if place in (2, 5) else 20 + place))
    opened, plain = [], Path.open
    monkeypatch.setattr(Path, "open", lambda path, *rest: (opened.append(path.name), plain(path, *rest))[1])
    assert equal_files(paths).tolist() == list(range(6))
    assert sorted(opened) == ["2.bmp", "5.bmp"]


def test_missing_files_and_equal_pages_that_are_no_photos_equal_nothing(tmp_path: Path) -> None:
    page = tmp_path / "page.jpg"
    page.write_bytes(b"<html>not found</html>")
    files = [tmp_path / "none.jpg", tmp_path / "nor this.jpg", page, page.read_bytes(), bitmap(3), bitmap(3)]
    assert equal_files(files).tolist() == [0, 1, 2, 3, 4, 4]
