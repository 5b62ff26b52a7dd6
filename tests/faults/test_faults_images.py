"""Bad photos: fault cases 19, 20, 21, 26 and 27 (22 to 25 have files of their own)."""

import os
import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from photo_files import KINDS, damaged, drawing, encoded, exif
from PIL import Image, ImageFile
from rich.console import Console

from mixfit.auto.recipe import Run
from mixfit.config import DataConfig
from mixfit.data.load import load_data
from mixfit.data.photos.decode import ImageError, check_file, image_header, read_image
from mixfit.data.photos.find import find_photos
from mixfit.data.photos.store import ImageFiles, ImageStore
from mixfit.data.table.read import read_table
from mixfit.errors import DataError
from mixfit.runs.scoring import predict_table

# --- 19: where a cell may lead ---


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An images folder with one good photo and every trap; a photo outside stands for what must never be read."""
    folder = tmp_path / "root"
    (folder / "folder").mkdir(parents=True)
    (folder / "good.jpg").write_bytes(encoded(drawing(), "JPEG"))
    (tmp_path / "outside.jpg").write_bytes(encoded(drawing(), "JPEG"))
    (folder / "empty.jpg").touch()
    (folder / "escape.jpg").symlink_to(tmp_path / "outside.jpg")
    (folder / "escape_folder").symlink_to(tmp_path)
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(folder / "fifo.jpg")
    return folder


CELLS = {
    "lost.jpg": "is missing",
    "good.jpg/deeper.jpg": "is missing",
    "~/good.jpg": "is missing",
    "dangling.jpg": "is missing",
    "folder": "is a directory",
    ".": "is a directory",
    "fifo.jpg": "is not a regular file",
    "loop.jpg": "is a symbolic link to itself",
    "empty.jpg": "is empty (0 bytes)",
    "n" * 300: "has a name that is too long",
    "d/" * 3000 + "a.jpg": "has a name that is too long",
    "good.jpg\0.png": "has a NUL character in its name",
    "escape.jpg": "leads outside the images folder; set the correct folder with --images DIR",
    "escape_folder/outside.jpg": "leads outside the images folder; set the correct folder with --images DIR",
    "../outside.jpg": "leads outside the images folder; set the correct folder with --images DIR",
    "..\\outside.jpg": "leads outside the images folder; set the correct folder with --images DIR",
    "../root2/good.jpg": "leads outside the images folder; set the correct folder with --images DIR",
    "../../../../../../../etc/passwd": "leads outside the images folder; set the correct folder with --images DIR",
    "/etc/passwd": "is an absolute path; write it relative to the images folder",
    "\\\\server\\share\\a.jpg": "is an absolute path; write it relative to the images folder",
    "C:\\photos\\a.jpg": "is an absolute path; write it relative to the images folder",
    "http://169.254.169.254/good.jpg": "is a URL; only files in the images folder are read",
    "HTTPS://example.org/a.jpg": "is a URL; only files in the images folder are read",
    "s3://bucket/good.jpg": "is a URL; only files in the images folder are read",
    "file:good.jpg": "is a URL; only files in the images folder are read",
    "file:///etc/passwd": "is a URL; only files in the images folder are read",
}


@pytest.mark.timeout(20)  # opening the FIFO would hang
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell[:30].replace("\0", "NUL"))
def test_f19_every_trap_is_masked_and_named(root: Path, cell: str) -> None:
    frame = pd.DataFrame({"photo": ["good.jpg", cell, f"good.jpg;{cell}"]})
    photos = find_photos(frame, ["photo"], root)
    assert photos.files == (root / "good.jpg",)
    np.testing.assert_array_equal(photos.slots, [[0, -1], [-1, -1], [0, -1]])
    assert [(bad.row, bad.column, bad.value, bad.problem) for bad in photos.bad] == [
        (row, "photo", cell[:200], CELLS[cell]) for row in (1, 2)
    ]


def test_f19_a_root_behind_a_link_is_fine(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    photos = find_photos(pd.DataFrame({"photo": ["good.jpg"]}), ["photo"], link)
    assert photos.files == (root / "good.jpg",)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("read", [read_image, image_header, check_file])
@pytest.mark.parametrize("name", ["lost.jpg", "folder", "fifo.jpg", "loop.jpg", "empty.jpg", "n" * 300, "good.jpg\0"])
def test_f19_the_reader_itself_refuses_what_is_no_file(root: Path, name: str, read: Callable[[Path], Any]) -> None:
    with pytest.raises(ImageError, match=r"missing|directory|regular|link|empty|too long|NUL"):
        read(root / name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_f19_unreadable_files_are_named_for_an_ordinary_user() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "locked.jpg").write_bytes(encoded(drawing(), "JPEG"))
        (folder / "locked.jpg").chmod(0)
        os.seteuid(65534)
        try:
            photos = find_photos(pd.DataFrame({"photo": ["locked.jpg"]}), ["photo"], folder)
            with pytest.raises(ImageError, match=r"cannot be read \(permission denied\)"):
                read_image(folder / "locked.jpg")
        finally:
            os.seteuid(0)
    assert [bad.problem for bad in photos.bad] == ["cannot be read (permission denied)"]


@pytest.mark.timeout(60)
def test_f19_predictions_name_every_trap_and_mask_drop_or_refuse_its_row(
    root: Path, demo_table: Path, quick_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = ["good.jpg", *CELLS, None]
    frame = pd.concat([read_table(demo_table).head(1)] * len(cells), ignore_index=True).assign(photos=cells)
    frame.to_parquet(tmp_path / "new.parquet")
    console = Console(soft_wrap=True)
    predict = partial(predict_table, quick_run.folder, tmp_path / "new.parquet", images=root, console=console)
    predict(out=tmp_path / "marked.parquet")
    printed = capsys.readouterr().out
    assert (
        f"{len(CELLS) + 2} rows: 1 ok, 1 without photo, 0 with a new category, {len(CELLS)} with broken cells or photos"
        in printed
    )
    assert f"{len(CELLS)} x photo treated as missing" in printed
    found = pd.read_parquet(tmp_path / "marked.parquet")
    assert found["status"].tolist() == ["ok", *(f"photos: {problem}" for problem in CELLS.values()), "no photo"]
    assert np.isfinite(found["prediction"]).all()
    # A masked photo is as none at all.
    np.testing.assert_allclose(found["prediction"][1:], found["prediction"].iloc[-1], rtol=1e-6)
    assert found["prediction"][0] != found["prediction"].iloc[-1]
    predict(out=tmp_path / "kept.parquet", bad_rows="drop")
    assert pd.read_parquet(tmp_path / "kept.parquet")["status"].tolist() == ["ok", "no photo"]
    with pytest.raises(
        DataError, match=rf"^{len(CELLS)} of {len(cells)} rows are broken: .*\(first: row 1, column photos"
    ):
        predict(out=tmp_path / "none.parquet", bad_rows="fail")
    assert not (tmp_path / "none.parquet").exists()


# --- 20: not what the name says ---


@pytest.mark.parametrize("read", [read_image, image_header])
@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"\n<!DOCTYPE html><html>404</html>", r"is a text file \(HTML, XML or SVG\), not a photo"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><svg/>", r"is a text file \(HTML, XML or SVG\), not a photo"),
        (b"%PDF-1.7", "is not a JPEG, PNG, WEBP, BMP, GIF or TIFF photo"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "is not a JPEG, PNG, WEBP, BMP, GIF or TIFF photo"),
        (b"\0\0\0\x18ftypheic", "is not a JPEG, PNG, WEBP, BMP, GIF or TIFF photo"),
        (b"\xff\xd8\xff", "is damaged or truncated"),
        (b"BM", "is truncated|is damaged or truncated"),
    ],
)
def test_f20_what_is_no_photo_is_refused(data: bytes, problem: str, tmp_path: Path, read: Any) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(ImageError, match=rf"^({problem})$"):
            read(source)


@pytest.mark.parametrize("kind", KINDS)
def test_f20_the_content_decides_not_the_name(kind: str, tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "a.gif", "a.eps", "a"]
    for name in names:
        (tmp_path / name).write_bytes(encoded(drawing(), kind))
    first, *others = [read_image(tmp_path / name) for name in names]
    for other in others:
        np.testing.assert_array_equal(first, other)


# --- 21: truncated ---


@pytest.mark.parametrize("percent", [2, 50, 95])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
@pytest.mark.parametrize("size", [None, 16])
def test_f21_truncated_jpeg(percent: int, options: dict[str, Any], size: int | None) -> None:
    data = encoded(drawing(480, 320), "JPEG", **options)
    with pytest.raises(ImageError, match="truncated"):
        read_image(data[: len(data) * percent // 100], size=size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percent", [2, 50, 95])
def test_f21_truncated_files_of_every_kind(kind: str, percent: int) -> None:
    data = encoded(drawing(480, 320), kind)
    with pytest.raises(ImageError, match="truncated"):
        read_image(data[: len(data) * percent // 100])


def test_f21_no_switch_of_pillow_is_touched() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    data = encoded(drawing(), "JPEG")
    with pytest.raises(ImageError):
        read_image(data[: len(data) // 2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert limit == Image.MAX_IMAGE_PIXELS


# --- 26: random damage ---


def outcome(read: Callable[[bytes], Any], data: bytes) -> str:
    """The problem, or an empty text; anything but an ImageError is a failure of the test."""
    try:
        read(data)
    except ImageError as error:
        return str(error)
    return ""


@pytest.mark.timeout(60)  # a sample that is never done would hang a run
@pytest.mark.parametrize("kind", [*KINDS, "progressive JPEG", "compressed TIFF"])
def test_f26_random_damage_gives_pixels_or_an_image_error(kind: str) -> None:
    options = {"progressive JPEG": {"progressive": True}, "compressed TIFF": {"compression": "tiff_lzw"}}.get(kind, {})
    data = encoded(drawing(), kind.split()[-1], exif=exif(6), **options)
    rng = random.Random(kind)
    samples = [damaged(data, rng) for _ in range(120)]
    shapes = []

    def read(sample: bytes) -> None:
        pixels = read_image(sample, size=16)
        shapes.append((pixels.shape, pixels.dtype))

    problems = [outcome(read, sample) for sample in samples]
    headers = [outcome(image_header, sample) for sample in samples]
    assert 20 < sum(map(bool, problems)) < 120
    assert set(shapes) == {((16, 16, 3), np.dtype(np.uint8))}
    assert all(len(problem) < 100 and "0x" not in problem for problem in problems)
    # What the header refuses is never read: both make the same checks.
    assert all(problem for problem, header in zip(problems, headers, strict=True) if header)


# --- 27: the files change ---


def test_f27_files_that_change_between_the_scan_and_the_read_are_masked_and_named(tmp_path: Path) -> None:
    for name in ("kept", "deleted", "cut", "replaced"):
        (tmp_path / f"{name}.jpg").write_bytes(encoded(drawing(), "JPEG"))
    frame = pd.DataFrame({"photo": ["kept.jpg", "deleted.jpg", "cut.jpg", "replaced.jpg"]})
    photos = find_photos(frame, ["photo"], tmp_path)
    assert photos.bad == []

    (tmp_path / "deleted.jpg").unlink()
    os.truncate(tmp_path / "cut.jpg", 300)
    (tmp_path / "replaced.jpg").unlink()
    (tmp_path / "replaced.jpg").mkdir()
    source = ImageFiles(photos.files, size=16)
    pixels, ok = source.read(photos.slots[:, 0])
    assert ok.tolist() == [True, False, False, False]
    assert pixels[0].any()
    assert not pixels[1:].any()
    assert [(photos.files[index].name, problem) for index, problem in source.failures.items()] == [
        ("deleted.jpg", "is missing"),
        ("cut.jpg", "is truncated"),
        ("replaced.jpg", "is a directory"),
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_f27_a_link_or_fifo_put_in_place_of_a_photo_after_the_scan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    for path in (tmp_path / "secret.jpg", *(tmp_path / "root" / f"{name}.jpg" for name in ("kept", "link", "fifo"))):
        path.write_bytes(encoded(drawing(), "JPEG"))
    (tmp_path / "root" / "inside.jpg").symlink_to("kept.jpg")  # an ordinary link inside the root
    frame = pd.DataFrame({"photo": ["inside.jpg", "kept.jpg", "link.jpg", "fifo.jpg"]})
    data = load_data(
        pd.concat([frame] * 10).assign(x=np.arange(40.0), y=np.arange(40.0)),
        target="y",
        config=DataConfig(images=tmp_path / "root", image_size=32, roles={"photo": "image"}, cache=tmp_path / "cache"),
    )
    assert data.bad == []
    for name in ("link", "fifo"):
        (tmp_path / "root" / f"{name}.jpg").unlink()
    (tmp_path / "root" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    os.mkfifo(tmp_path / "root" / "fifo.jpg")
    assert data.photos is not None
    for source in (data.photos.decoder, data.photos.pixels):  # from the files, and by way of the cache
        assert isinstance(source, ImageFiles | ImageStore)
        pixels, ok = source.read(np.arange(3))
        assert ok.tolist() == [True, False, False]
        assert not pixels[1:].any()
        assert source.failures == {
            1: "has become a symbolic link since its name was looked up",
            2: "is not a regular file",
        }


def test_f27_what_is_opened_is_checked_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the path and the opening, too, a FIFO may come in its place."""
    os.mkfifo(tmp_path / "photo.jpg")
    monkeypatch.setattr("mixfit.data.photos.decode.check_file", lambda path: None)
    for read in (read_image, image_header):
        with pytest.raises(ImageError, match=r"^is not a regular file$"):
            read(tmp_path / "photo.jpg")
