"""Photos in the table itself: the same pixels and predictions from paths, bytes and base64 text."""

import base64
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image
from rich.console import Console

from mixfit.auto.recipe import Run
from mixfit.config import DataConfig
from mixfit.data.columns.cells import Table
from mixfit.data.columns.infer import infer_schema
from mixfit.data.load import infer_configured, load_data
from mixfit.data.photos.cells import content_share, decode_base64, is_base64_photo, photo_format, plain_photos
from mixfit.data.photos.find import find_photos, unreadable_photos
from mixfit.data.photos.store import ImageFiles
from mixfit.data.table.read import read_table
from mixfit.data.table.write import kept_frame, write_table
from mixfit.errors import ConfigError, DataError
from mixfit.runs.scoring import predict_table

FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "TIFF": "tif", "BMP": "bmp"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small photo of each format."""
    folder = tmp_path_factory.mktemp("photos")
    for number, (name, ending) in enumerate(FORMATS.items()):
        pixels = np.random.default_rng(number).integers(0, 255, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.{ending}", format=name)
    return folder


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    data = contents(folder)
    names = [path.name for path in sorted(folder.iterdir())]
    texts = [base64.b64encode(content).decode() for content in data]
    wrapped = ["\n".join(text[i : i + 76] for i in range(0, len(text), 76)) for text in texts]
    return {
        "path": pd.DataFrame({"photo": names}),
        "bytes": pd.DataFrame({"photo": data}),
        "bytearray": pd.DataFrame({"photo": list(map(bytearray, data))}),
        "base64": pd.DataFrame({"photo": texts}),
        "wrapped base64": pd.DataFrame({"photo": wrapped}),
    }


def test_paths_bytes_and_base64_give_the_same_pixels(folder: Path) -> None:
    pixels = {}
    for kind, frame in tables(folder).items():
        photos = find_photos(frame, ["photo"], folder)
        assert photos.slots.ravel().tolist() == list(range(6))
        assert not photos.bad
        pixels[kind], ok = ImageFiles(photos.files, size=16).read(np.arange(6))
        assert ok.all()
    for kind, found in pixels.items():
        assert (found == pixels["path"]).all(), kind


def test_every_format_is_told_by_its_first_bytes_and_by_its_base64(folder: Path) -> None:
    assert [photo_format(data) for data in contents(folder)] == list(FORMATS)
    for name, data in zip(FORMATS, contents(folder), strict=True):
        assert is_base64_photo(base64.b64encode(data).decode())
        assert content_share(pd.Series([data])) == (1.0, f"bytes of {name} files")
        assert content_share(pd.Series([base64.b64encode(data).decode()])) == (1.0, f"base64 text of {name} files")


@pytest.mark.parametrize("text", ["/9j/", "/9j/" + "a" * 60 + ".jpg", "Qk" + "-" * 50, "iVBOR", "Quite long " * 9])
def test_names_and_prose_are_no_photos(text: str) -> None:
    assert not is_base64_photo(text) or photo_format(base64.b64decode(text[:32])) == "JPEG"
    if "." in text:
        with pytest.raises(DataError, match="is damaged or truncated base64 text"):
            decode_base64(text)


def test_equal_bytes_are_one_photo_and_cells_may_hold_several(folder: Path) -> None:
    first, second = contents(folder)[:2]
    text = base64.b64encode(first).decode()
    both = f"{text};{base64.b64encode(second).decode()}"
    photos = find_photos(pd.DataFrame({"a": [first, None, second], "b": [both, text, None]}), ["a", "b"], folder)
    assert len(photos.files) == 2
    assert photos.slots.tolist() == [[0, 0, 1], [-1, 0, -1], [1, -1, -1]]
    assert photos.missing_cells == {"a": 1, "b": 1}


def test_contents_need_no_folder_but_names_do(folder: Path, tmp_path: Path) -> None:
    frames = tables(folder)
    for kind in ("bytes", "base64"):
        assert len(find_photos(frames[kind], ["photo"], tmp_path / "none").files) == 6
    with pytest.raises(DataError, match="does not exist"):
        find_photos(frames["path"], ["photo"], tmp_path / "none")


def test_broken_contents_are_masked_and_named_without_their_contents(folder: Path) -> None:
    jpeg = contents(folder)[0]
    text = base64.b64encode(jpeg).decode()
    cells = [jpeg, jpeg[: len(jpeg) // 2], b"no photo at all", text[:-3], f"data:image/jpeg;base64,{text}"]
    frame = pd.DataFrame({"photo": cells})
    photos = find_photos(frame, ["photo"], folder)
    assert [record.row for record in photos.bad] == [3, 4]
    assert photos.bad[0].problem == "is damaged or truncated base64 text"
    assert photos.bad[1].problem == "is a data: URL; keep only the base64 text after the comma"
    source = ImageFiles(photos.files, size=16)
    source.read(np.arange(len(photos.files)))
    found = unreadable_photos(Table.of(frame), photos, source.failures)
    assert [record.row for record in found] == [1, 2]
    assert found[0].value == f"{len(jpeg) // 2:,} bytes"
    assert found[0].problem.startswith(f"the photo of {len(jpeg) // 2:,} bytes is ")
    assert found[1].problem == "the photo of 15 bytes is not a JPEG, PNG, WEBP, BMP, GIF or TIFF photo"
    assert all(len(record.value) < 120 for record in photos.bad[:1] + found)


def test_roles_of_bytes(folder: Path) -> None:
    data, n = contents(folder), 30
    photos = [data[i % 6] for i in range(n)]
    frame = pd.DataFrame(
        {
            "x": np.arange(n) % 7 + 0.5,
            "raw": photos,
            "text": [base64.b64encode(photo).decode() for photo in photos],
            "blob": [b"\0\1" + bytes([i]) for i in range(n)],
            "mostly": photos[:20] + [b"?"] * 10,
            "y": np.arange(n) * 1.5,
        }
    )
    schema = infer_schema(frame, "y")
    assert schema.names("image") == ["raw", "text"]
    reasons = {column.name: column.reason for column in schema.columns}
    assert reasons["raw"].startswith("bytes of ")
    assert reasons["text"].startswith("base64 text of ")
    assert reasons["blob"] == "cells are of type bytes, not plain values or photos"
    assert reasons["mostly"] == "only 67% of the cells are photos, the others are other bytes"
    assert infer_schema(frame, "y", roles={"mostly": "image"}).names("image") == ["raw", "text", "mostly"]
    with pytest.raises(ConfigError, match="column 'blob' cannot have the role image: its cells are of type bytes"):
        infer_schema(frame, "y", roles={"blob": "image"})
    loaded = load_data(frame, target="y", image_size=32, batch_size=8)
    xb, _ = next(iter(loaded.train))
    assert xb.image_mask is not None
    assert xb.image_mask.all()


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_parquet_and_feather_hand_over_bytes(folder: Path, tmp_path: Path, kind: pa.DataType) -> None:
    data = [*contents(folder)[:2], b"", None]
    table = pa.table({"photo": pa.array(data, kind), "x": [1, 2, 3, 4]})
    if kind != pa.binary_view():
        pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
        assert read_table(tmp_path / "t.parquet")["photo"].tolist() == [*data[:2], None, None]
    with pa.OSFile(str(tmp_path / "t.feather"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert read_table(tmp_path / "t.feather")["photo"].tolist() == [*data[:2], None, None]


def test_photos_as_datasets_write_them(folder: Path, tmp_path: Path) -> None:
    data = contents(folder)[0]
    pyarrow.parquet.write_table(pa.table({"photo": [{"bytes": data, "path": "a.jpg"}]}), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet")["photo"].tolist() == [data]


def held_by_python(folder: Path) -> dict[str, list[object]]:
    """The same photos, one or two a row, in every form in which Python has photos."""
    paths = sorted(folder.iterdir())
    opened = []
    for path in paths:
        with Image.open(path) as photo:
            opened.append(photo.convert("RGB"))
    return {
        "images": opened,
        "arrays": [np.asarray(one) for one in opened],
        "paths": [Path(path.name) for path in paths],
        "views": [memoryview(data) for data in contents(folder)],
        "datasets": [{"bytes": data, "path": None} for data in contents(folder)],
        "datasets by path": [{"bytes": None, "path": path.name} for path in paths],
        "lists of images": [[one, None] for one in opened],
        "tuples of bytes": [(data,) for data in contents(folder)],
        "arrays of bytes": [np.array([data], dtype=object) for data in contents(folder)],
        "lists of paths": [[Path(path.name)] for path in paths],
        "lists of datasets": [[{"bytes": data, "path": None}] for data in contents(folder)],
    }


def test_what_python_holds_gives_the_same_pixels_as_paths(folder: Path, tmp_path: Path) -> None:
    """Given as a DataFrame, and once it was kept as a file; GIF and JPEG lose nothing, as their pixels are copied."""
    expected = ImageFiles(find_photos(tables(folder)["path"], ["photo"], folder).files, size=16).read(np.arange(6))[0]
    rows = [*range(6), *range(5)]  # the last cell is missing
    for kind, cells in held_by_python(folder).items():
        frame = pd.DataFrame({"photo": pd.Series([*(cells[row] for row in rows), None], dtype=object), "y": range(12)})
        with kept_frame(frame, tmp_path / "kept.parquet"):
            for table in (Table.of(frame), Table.of(read_table(tmp_path / "kept.parquet"))):
                schema = infer_configured(table, "y", DataConfig(), images=folder)
                assert schema.names("image") == ["photo"], kind
                photos = find_photos(table.frame, ["photo"], folder, schema.photos)
                assert not photos.bad, kind
                assert photos.slots[:, 0].tolist() == [*rows, -1], kind
                found, ok = ImageFiles(photos.files, size=16).read(np.arange(6))
                assert ok.all()
                assert (found == expected).all(), kind


def test_other_objects_stay_what_they_are() -> None:
    cells = [{"bytes": b"a"}, [1, 2], np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3)), {"a": 1}, "text", 3.5, None]
    frame = pd.DataFrame({"a": pd.Series(cells, dtype=object), "b": range(8)})
    assert plain_photos(frame) is frame


def test_bytes_are_never_written_as_text(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [1], "raw": [b"x"]})
    for name in ("t.csv", "t.jsonl"):
        with pytest.raises(DataError, match=r"1 columns hold bytes, the first is 'raw'; .* write a \.parquet file"):
            write_table(frame, tmp_path / name)
    write_table(frame, tmp_path / "t.parquet")
    assert pd.read_parquet(tmp_path / "t.parquet")["raw"].tolist() == [b"x"]


def test_f25_predictions_are_the_same_from_paths_bytes_and_base64(
    demo_table: Path, quick_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = read_table(demo_table)
    (column,) = quick_run.predictor.schema.names("image")
    single = frame[column].str.split(";").str[0].where(frame[column].notna())
    data = [None if pd.isna(name) else (demo_table.parent / name).read_bytes() for name in single]
    kinds = {
        "path": single,
        "bytes": pd.Series(data, dtype=object),
        "base64": pd.Series([None if cell is None else base64.b64encode(cell).decode() for cell in data], dtype="str"),
    }
    found = {}
    for kind, cells in kinds.items():
        path = tmp_path / f"{kind}.parquet"
        frame.assign(**{column: cells}).to_parquet(path)
        predict_table(
            quick_run.folder,
            path,
            out=tmp_path / f"{kind}-out.parquet",
            images=demo_table.parent,
            console=Console(quiet=True),
        )
        found[kind] = pd.read_parquet(tmp_path / f"{kind}-out.parquet")
        assert found[kind][column].tolist() == pd.read_parquet(path)[column].tolist()
    assert found["bytes"]["prediction"].tolist() == found["path"]["prediction"].tolist()
    assert found["base64"]["prediction"].tolist() == found["path"]["prediction"].tolist()
    predict_table(
        quick_run.folder, tmp_path / "bytes.parquet", out=tmp_path / "out.csv", console=Console(soft_wrap=True)
    )
    assert f"{column} (bytes; use a .parquet file to keep them)" in capsys.readouterr().out
    written = pd.read_csv(tmp_path / "out.csv")
    assert column not in written.columns
    assert np.allclose(written["prediction"], found["path"]["prediction"])
