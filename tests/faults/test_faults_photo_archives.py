"""Case 47 for archives of photos, which are read and never unpacked: traversal, links, bombs, equal names."""

import io
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mixfit.data.photos.archive import read_archive
from mixfit.data.photos.decode import ImageError, image_header, read_image
from mixfit.data.photos.find import find_photos
from mixfit.errors import DataError, MixfitError


def photo(number: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (number, 40, 90)).save(buffer, format="PNG")
    return buffer.getvalue()


def link(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("a.png")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(entry, "/etc/passwd")


def named(*names: str) -> Callable[[zipfile.ZipFile], None]:
    def write(archive: zipfile.ZipFile) -> None:
        for number, name in enumerate(names):
            entry = zipfile.ZipInfo("x")
            entry.filename = name
            archive.writestr(entry, photo(number))

    return write


HOSTILE = {
    "traversal": (named("ok.png", "../x.png"), "leads out of the archive"),
    "traversal within": (named("a/../../x.png"), "leads out of the archive"),
    "traversal with backslashes": (named("a\\..\\..\\x.png"), "leads out of the archive"),
    "absolute": (named("/etc/x.png"), "has an absolute path"),
    "absolute on Windows": (named("C:\\x.png"), "has an absolute path"),
    "link": (link, "is a symbolic link"),
    "equal names": (named("a.png", "b.png", "a.png"), "twice"),
    "names equal but for their Unicode form": (named("caf\u00e9.png", "cafe\u0301.png"), "twice"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_f47_a_hostile_archive_is_refused_as_a_whole(tmp_path: Path, case: str) -> None:
    write, problem = HOSTILE[case]
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        write(archive)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=rf"p\.zip.*{problem}|{problem}"):
        read_archive(tmp_path / "p.zip")
    with pytest.raises(DataError, match=r"p\.zip"):
        find_photos(pd.DataFrame({"id": ["a"]}), ["id"], tmp_path / "p.zip" / "{id}.*")
    assert sorted(tmp_path.rglob("*")) == before


def test_f47_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(15):
            archive.writestr(f"{number}.png", bytes(100_000_000))
    with pytest.raises(DataError, match="like a zip bomb"):
        read_archive(tmp_path / "p.zip")


def patched(path: Path, member: str, **fields: int) -> None:
    """Lie in the directory of an archive about a member."""
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2")
    while data[at + 46 : at + 46 + len(member)] != member.encode():
        at = data.index(b"PK\1\2", at + 4)
    places = {"crc": 16, "packed": 20, "size": 24, "start": 42}
    for name, value in fields.items():
        struct.pack_into("<I", data, at + places[name], value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("lie", "problem"),
    [
        ({"size": 10}, "unpacks to more bytes than its archive states|damaged"),
        ({"size": 3_000_000}, "damaged"),
        ({"crc": 1}, "damaged"),
        ({"packed": 5}, "damaged"),
        ({"start": 0}, "overlapping entries"),
        ({"size": 900_000_000}, "files of at most"),
        ({"size": 2**32 - 2}, "like a zip bomb"),
    ],
)
def test_f47_what_an_archive_says_is_not_believed(tmp_path: Path, lie: dict[str, int], problem: str) -> None:
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("first.png", photo())
        archive.writestr("a.png", photo(1) + bytes(100_000))
    patched(path, "a.png", **lie)
    with pytest.raises((ImageError, DataError), match=problem):
        read_image(read_archive(path)["a.png"])


def test_f47_a_photo_in_an_archive_that_changes_meanwhile_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", photo())
    entry = read_archive(path)["a.png"]
    assert read_image(entry).shape == (16, 16, 3)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ImageError, match="has changed"):
        read_image(entry)
    path.unlink()
    with pytest.raises(ImageError, match="is missing"):
        image_header(entry)


@pytest.fixture(scope="module")
def whole() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"d/{number}.png", photo(number))
    return buffer.getvalue()


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 400),
)
def test_f47_damaged_archives_give_photos_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    path = tmp_path_factory.mktemp("zip") / "p.zip"
    data = bytearray(whole)
    for place, value in changes:
        data[place % len(data)] = value
    path.write_bytes(data[: len(data) - cut] if cut < 100 else data)
    try:
        for entry in read_archive(path).values():
            read_image(entry)
    except MixfitError:
        pass
