"""Features computed once: shards whole or absent, equal to those that a training computes, and what reads them."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from made_encoder import described, made_folder, with_made_encoders
from object_store import served_bucket
from PIL import Image
from rich.console import Console
from test_cli import in_process

from mixfit.auto.embedding import Embedded, embed
from mixfit.auto.engine import LOCAL, LocalEngine, Work
from mixfit.auto.recipe import Run
from mixfit.config import DataConfig, ModelConfig
from mixfit.data.load import load_data
from mixfit.data.photos.records import Cache
from mixfit.data.photos.shards import StoredFeatures
from mixfit.errors import ConfigError, DataError, ResourceError
from mixfit.runs.scoring import evaluate_table, predict_table
from mixfit.training import build
from mixfit.training.build import build_model, precompute_features
from mixfit.training.texts import TextModel, text_embeddings

QUIET = Console(quiet=True)
ROWS = 32


def embedded(table: Path, out: Path | str, **settings: Any) -> Embedded:
    """Features of photos of 32 pixels, in shards of 32 rows."""
    return embed(table, out, target="price", console=QUIET, **({"image_size": 32, "shard_rows": ROWS} | settings))


@pytest.fixture(scope="module")
def features(demo_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features") / "features.parquet"
    embedded(demo_table, folder)
    return folder


@pytest.fixture
def no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, no photo goes through the network but the noise that identifies it."""
    encode = build._encode

    def refuse(encoder: Any, pixels: Any, **settings: Any) -> Any:
        assert len(pixels) == build.CHUNK, "a photo was encoded"
        assert float(pixels.float().std()) > 70, "a photo was encoded"  # noise over all of 0..255 has 74
        return encode(encoder, pixels, **settings)

    monkeypatch.setattr(build, "_encode", refuse)


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def test_features_are_those_that_a_training_computes(
    demo_table: Path, features: Path, no_encoder: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = load_data(
        demo_table, target="price", config=DataConfig(image_size=32, features=str(features), cache_gb=0.0)
    )
    found = precompute_features(stored, build_model(stored, seed=0), progress=False)
    monkeypatch.undo()
    plain = load_data(demo_table, target="price", config=DataConfig(image_size=32, cache_gb=0.0))
    expected = precompute_features(plain, build_model(plain, seed=0), progress=False)
    assert found.photos is not None
    assert expected.photos is not None
    assert found.photos.features is not None
    assert expected.photos.features is not None
    assert found.photos.features.values.numpy().tobytes() == expected.photos.features.values.numpy().tobytes()
    assert found.photos.features.readable.tolist() == expected.photos.features.readable.tolist()


def test_without_an_image_size_that_of_the_features_is_used(demo_table: Path, features: Path) -> None:
    assert load_data(demo_table, target="price", config=DataConfig(features=str(features))).image_size == 32


def test_predict_and_evaluate_read_them(
    demo_table: Path, features: Path, quick_run: Run, no_encoder: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = predict_table(quick_run.folder, demo_table, features=features, console=QUIET)
    scores = evaluate_table(quick_run.folder, demo_table, features=features, console=QUIET, out=tmp_path / "a.json")
    monkeypatch.undo()
    cache = Cache(folder=tmp_path / "cache", limit_bytes=10**9)
    pd.testing.assert_frame_equal(
        found, predict_table(quick_run.folder, demo_table, cache=cache, console=QUIET), check_exact=True
    )
    assert scores == evaluate_table(quick_run.folder, demo_table, cache=cache, console=QUIET, out=tmp_path / "b.json")


def test_each_row_is_in_one_shard_and_a_broken_photo_has_its_problem(demo_table: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(demo_table).head(40)
    (tmp_path / "images").mkdir()
    for name in {one for cell in rows["photos"].dropna() for one in cell.split(";")}:
        (tmp_path / name).write_bytes((demo_table.parent / name).read_bytes())
    first = str(rows["photos"].dropna().iloc[0]).split(";")[0]
    (tmp_path / first).write_bytes(b"no photo at all")
    rows.loc[39, "photos"] = "images/absent.jpg"
    rows.to_csv(tmp_path / "table.csv", index=False)
    found = embedded(tmp_path / "table.csv", tmp_path / "f")
    table = pd.concat([pq.read_table(path).to_pandas() for path in sorted((tmp_path / "f").glob("*.parquet"))])
    broken = table[table["status"] != "ok"].set_index("name")
    assert set(broken.index) == {first, "images/absent.jpg"}
    assert broken.loc["images/absent.jpg", "row"] == 39
    assert broken.loc["images/absent.jpg", "status"] == "is missing"
    assert "not" in broken.loc[first, "status"]
    assert broken["features"].isna().all()
    assert (found.rows, found.shards, found.unreadable, found.photos) == (40, 2, 2, len(table))
    data = load_data(
        tmp_path / "table.csv", target="price", config=DataConfig(features=str(tmp_path / "f"), cache_gb=0.0)
    )
    used = precompute_features(data, build_model(data, seed=0), progress=False)
    assert broken.loc[first, "status"] in used.photo_failures.values()


class Stops(LocalEngine):
    """Fails after some pieces, as a killed process does."""

    def __init__(self, after: int) -> None:
        self.after = after

    def each(self, read: Callable[[], Iterator[Any]], make: Callable[[], Work], *, threads: int) -> Iterator[Any]:
        for number, found in enumerate(LOCAL.each(read, make, threads=threads)):
            yield found
            if number + 1 == self.after:
                raise ResourceError("the machine is gone.")


def test_a_second_start_computes_what_is_missing_and_nothing_else(
    demo_table: Path, features: Path, tmp_path: Path
) -> None:
    with pytest.raises(ResourceError, match="gone"):
        embedded(demo_table, tmp_path / "f", engine=Stops(2))
    assert len(shards(tmp_path / "f")) == 2
    with pytest.raises(DataError, match="is not complete: run the same mixfit embed again"):
        StoredFeatures.open(tmp_path / "f")
    assert embedded(demo_table, tmp_path / "f").computed == 1
    assert shards(tmp_path / "f") == shards(features)
    (tmp_path / "f" / "part-000001.parquet").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of 3 shards, the first is part-000001\.parquet"):
        StoredFeatures.open(tmp_path / "f")
    assert embedded(demo_table, tmp_path / "f").computed == 1
    assert shards(tmp_path / "f") == shards(features)
    assert embedded(demo_table, tmp_path / "f").computed == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 40}, "has features with the arithmetic|has features of another image size"),
        ({"shard_rows": 7}, "has features in shards of another size"),
        ({"crop": "pad"}, "of photos made square in another way: choose another --out"),
        ({"model": ModelConfig(photo_stages=1)}, "has features of another image network"),
        ({"model": ModelConfig(backbone="small_resnet")}, "small_resnet would be trained: choose a pretrained"),
        ({"roles": {"photos": "ignored"}}, "has no column of photos to compute features of"),
    ],
)
def test_other_settings_are_refused(demo_table: Path, features: Path, settings: dict[str, Any], message: str) -> None:
    before = shards(features)
    with pytest.raises((ConfigError, DataError), match=message):
        embedded(demo_table, features, **settings)
    assert shards(features) == before


def test_a_training_refuses_features_of_another_network(demo_table: Path, features: Path, tmp_path: Path) -> None:
    from mixfit.auto.recipe import fit

    for data, model, message in (
        (DataConfig(image_size=48), None, "photos of 32 pixels with crop squash, not of 48"),
        (DataConfig(), ModelConfig(photo_stages=1), "has features of another image network: run mixfit embed"),
    ):
        config = DataConfig(image_size=data.image_size, features=str(features))
        with pytest.raises(ConfigError, match=message):
            fit(demo_table, target="price", data=config, model=model, out=tmp_path, console=QUIET)
    with pytest.raises(DataError, match="has no features: write them with mixfit embed"):
        load_data(demo_table, target="price", config=DataConfig(features=str(tmp_path)))


def test_a_damaged_shard_is_named(demo_table: Path, tmp_path: Path) -> None:
    embedded(demo_table, tmp_path / "f")
    (tmp_path / "f" / "part-000002.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    stored = StoredFeatures.open(tmp_path / "f").below(demo_table.parent)
    with pytest.raises(DataError, match=r"part-000002\.parquet is damaged: .* Remove it and run the same"):
        stored.of_photos((demo_table,), np.arange(1), np.zeros((1, 4), dtype=np.float32))


def test_texts_are_embedded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, model = with_made_encoders(monkeypatch), made_folder(tmp_path / "model")
    texts = described(np.random.default_rng(0).normal(size=50))
    frame = pd.DataFrame({"price": np.arange(50.0), "text": [*texts[:48], texts[0], None]})
    frame.to_csv(tmp_path / "table.csv", index=False)
    found = embedded(tmp_path / "table.csv", tmp_path / "f", roles={"text": "text"}, text_model=str(model))
    assert (found.texts, found.photos) == (49, 0)  # the repeated one is in both shards
    encoder = TextModel.load(model).loader.encoder
    stored = StoredFeatures.open(tmp_path / "f")
    cache = Cache(folder=tmp_path / "cache", limit_bytes=0, warn=lambda _: None, stored=stored)
    before = [len(one.read) for one in loaded]
    values = text_embeddings([*texts[:48], None], encoder, cache)
    assert [len(one.read) for one in loaded] == before
    assert values.tobytes() == text_embeddings([*texts[:48], None], encoder, None).tobytes()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with served_bucket(monkeypatch) as query:
        yield query


@pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*")
def test_tables_photos_and_features_in_an_object_store(
    demo_table: Path, features: Path, tmp_path: Path, bucket: str
) -> None:
    from mixfit.data.places import Place

    rows = pd.read_csv(demo_table).head(ROWS)
    rows.loc[3, "photos"] = "../outside.jpg"
    rows.loc[4, "photos"] = "images/absent.jpg"
    rows.to_parquet(tmp_path / "table.parquet")
    Place.of(f"s3://photos/in/table.parquet{bucket}").write((tmp_path / "table.parquet").read_bytes())
    for name in {one for cell in rows["photos"].dropna() for one in str(cell).split(";")}:
        if (demo_table.parent / name).is_file() and ".." not in name:
            Place.of(f"s3://photos/in/{name}{bucket}").write((demo_table.parent / name).read_bytes())
    out = f"s3://photos/out{bucket}"
    found = embed(
        f"s3://photos/in/table.parquet{bucket}",
        out,
        target="price",
        images=f"s3://photos/in{bucket}",
        roles={"photos": "image"},
        image_size=32,
        console=QUIET,
    )
    assert found.rows == ROWS
    stored = pq.read_table(Place.of(out).below("part-000000.parquet").path, filesystem=Place.of(out).system).to_pandas()
    local = pq.read_table(features / "part-000000.parquet").to_pandas().set_index("name")["features"]
    good = stored[stored["status"] == "ok"]
    assert len(good) > 10
    for name, values in zip(good["name"], good["features"], strict=True):
        assert values.tobytes() == local[name].tobytes()
    problems = stored[stored["status"] != "ok"].set_index("name")["status"].to_dict()
    assert "leads outside" in problems["../outside.jpg"]
    assert problems["images/absent.jpg"] == "is missing"
    opened = StoredFeatures.open(out).below(demo_table.parent)
    values = np.zeros((1, opened.facts.d), dtype=np.float32)
    known, _ = opened.of_photos((demo_table.parent / good["name"].iloc[0],), np.arange(1), values)
    assert known.tolist() == [0]
    assert values[0].tobytes() == good["features"].iloc[0].tobytes()


def test_photos_in_cells_are_found_by_their_bytes(tmp_path: Path) -> None:
    colours = [tuple(map(int, one)) for one in np.random.default_rng(0).integers(0, 256, (6, 3))]
    cells = []
    for place, colour in enumerate(colours):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{place}.png")
        cells.append((tmp_path / f"{place}.png").read_bytes())
    pd.DataFrame({"price": np.arange(6.0), "photo": cells}).to_parquet(tmp_path / "table.parquet")
    assert embedded(tmp_path / "table.parquet", tmp_path / "f", roles={"photo": "image"}).photos == 6
    stored = StoredFeatures.open(tmp_path / "f")
    values = np.zeros((6, stored.facts.d), dtype=np.float32)
    known, problems = stored.of_photos(tuple(cells[::-1]), np.arange(6), values)
    assert known.tolist() == list(range(6))
    assert not problems


def test_the_command_and_its_mistakes(
    demo_table: Path, features: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["embed", demo_table, "--out", features, "--target", "price", "--image-size", 32]
    code, out, _ = in_process(capsys, *words, "--shard-rows", ROWS)
    assert code == 0
    assert "3 shards (0 computed now)" in out
    assert in_process(capsys, *words, "--workers", 2)[::2] == (
        2,
        "mixfit: --workers is a number of processes of --engine ray, from 1, got 2 for local.\n",
    )
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "mixfit.distributed.ray_engine", raising=False)
    assert in_process(capsys, *words, "--engine", "ray")[::2] == (
        4,
        "mixfit: --engine ray needs Ray, which is not installed: pip install 'mixfit[ray]'.\n",
    )
    code, _, err = in_process(capsys, "embed", demo_table, "--out", "gopher://x/y", "--image-size", 32)
    assert code == 2
    assert err.startswith("mixfit: gopher://x/y: files of gopher:// cannot be read here")


def test_the_description_says_what_the_features_are(features: Path) -> None:
    said = json.loads((features / "mixfit-features.json").read_text())
    assert said["complete"]
    assert (said["rows"], said["shards"], said["columns"], said["image_size"]) == (90, 3, ["photos"], 32)
    assert str(features.parent) not in json.dumps(said)
