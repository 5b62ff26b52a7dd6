"""Features of a frozen network: computed once per photo and network, the same bits whatever was there before."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mixfit.config import DataConfig, ModelConfig
from mixfit.data.dataset import FeatureTable
from mixfit.data.load import MixedData, load_data
from mixfit.data.photos.records import RECORDS, Cache, Found, RecordStore, list_stores
from mixfit.data.photos.store import ImageFiles
from mixfit.demo import DEMO_TARGET
from mixfit.nn.backbones import SmallResNet, make_backbone
from mixfit.nn.image import ImageEncoder
from mixfit.training.build import (
    CHUNK,
    build_model,
    encode_photos,
    encoder_identity,
    open_feature_store,
    precompute_features,
)


class CountingResNet(SmallResNet):
    """Counts the photos that went in chunks through it or through its copies without batch normalisation."""

    seen = 0

    def __init__(self) -> None:
        super().__init__((8, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) == CHUNK:
            CountingResNet.seen += CHUNK
        return super().forward(x)


def filled(photos: int) -> int:
    """Number of photos in whole chunks, the last one filled up with empty pictures."""
    return -(-photos // CHUNK) * CHUNK


def make_encoder(seed: int = 0) -> ImageEncoder:
    torch.manual_seed(seed)
    return ImageEncoder(
        CountingResNet(), 16, mean=(0.5,) * 3, std=(0.25,) * 3, out_dim=4, dropout=0.1, frozen=True
    ).eval()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Ten photos of which 3 is damaged."""
    (tmp_path / "photos").mkdir()
    paths = [tmp_path / "photos" / f"{number}.png" for number in range(10)]
    for number, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    paths[3].write_bytes(b"<html>")
    return paths


def encode(files: list[Path], folder: Path, encoder: ImageEncoder, *, told: list[str] | None = None) -> FeatureTable:
    warn = pytest.fail if told is None else told.append
    """Counts anew in ``CountingResNet.seen``, the chunk for the identity left out."""
    cache = Cache(folder=folder, limit_bytes=10**8, warn=lambda text: warn(text))
    source = ImageFiles(files, size=32)
    store = open_feature_store(encoder, source, cache)
    CountingResNet.seen = 0
    return encode_photos(encoder, source, store=store)


def same(left: FeatureTable, right: FeatureTable) -> bool:
    return (
        torch.equal(left.values, right.values)
        and torch.equal(left.readable, right.readable)
        and left.failures == right.failures
    )


def test_the_second_time_no_photo_goes_through_the_network(files: list[Path], tmp_path: Path) -> None:
    encoder = make_encoder()
    without = encode_photos(encoder, ImageFiles(files, size=32))
    first = encode(files, tmp_path / "cache", encoder)
    assert CountingResNet.seen == filled(10)
    second = encode(files, tmp_path / "cache", encoder)
    assert CountingResNet.seen == 0
    assert same(first, without)
    assert same(second, without)
    assert second.failures == {3: "is a text file (HTML, XML or SVG), not a photo"}
    assert not second.values[3].any()


@pytest.mark.parametrize("known", [1, 4, 9])
def test_only_new_photos_go_through_and_get_the_same_bits(files: list[Path], tmp_path: Path, known: int) -> None:
    encoder = make_encoder()
    whole = encode_photos(encoder, ImageFiles(files, size=32))
    encode(files[10 - known :], tmp_path / "cache", encoder)
    assert same(encode(files, tmp_path / "cache", encoder), whole)
    assert CountingResNet.seen == filled(10 - known)
    (store,) = list_stores(tmp_path / "cache")
    assert store.records == 10  # none was added twice


def test_features_do_not_depend_on_how_many_photos_are_encoded(tmp_path: Path) -> None:
    """The real network: its convolutions of fewer than 16 photos of this size round differently."""
    backbone = make_backbone("tf_efficientnet_lite0", image_size=64)
    encoder = ImageEncoder(
        backbone.module,
        backbone.num_features,
        mean=backbone.mean,
        std=backbone.std,
        out_dim=4,
        dropout=0.1,
        frozen=True,
    )
    files = [tmp_path / f"{number}.png" for number in range(CHUNK + 15)]
    for number, path in enumerate(files):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    expected = encode_photos(encoder, ImageFiles(files, size=64)).values
    for remainder in range(1, 16):
        found = encode_photos(encoder, ImageFiles(files[CHUNK : CHUNK + remainder], size=64)).values
        assert torch.equal(found, expected[CHUNK : CHUNK + remainder]), remainder


def test_other_weights_are_another_network(files: list[Path], tmp_path: Path) -> None:
    for seed in (0, 1, 0):
        expected = encode_photos(make_encoder(seed), ImageFiles(files, size=32))
        assert same(encode(files, tmp_path / "cache", make_encoder(seed)), expected)
    assert len(list_stores(tmp_path / "cache")) == 2


def test_the_identity_covers_layers_and_scale_too() -> None:
    encoder, other = make_encoder(), make_encoder()
    assert encoder_identity(encoder, 32) == encoder_identity(other, 32)
    other.backbone.stem[0].padding = (1, 1)  # type: ignore[index, union-attr]
    scaled = make_encoder()
    scaled.pixel_mean += 0.1
    assert len({encoder_identity(e, 32) for e in (encoder, other, scaled)}) == 3


class Scaled(SmallResNet):
    """Its features depend on what neither ``repr`` nor ``state_dict`` shows."""

    def __init__(self, *, factor: float = 1.0, offset: float = 0.0) -> None:
        super().__init__((8, 16))
        self.factor = factor
        self.register_buffer("offset", torch.full((16,), offset), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.factor + self.offset


class Shifted(Scaled):
    """The same layers and numbers, but other code."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1


def test_the_identity_covers_attributes_buffers_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    Shifted.__name__ = Shifted.__qualname__ = "Scaled"
    networks = [(Scaled, 1.0, 0.0), (Scaled, 1.0, 0.0), (Scaled, 2.0, 0.0), (Scaled, 1.0, 3.0), (Shifted, 1.0, 0.0)]
    identities = []
    for kind, factor, offset in networks:
        torch.manual_seed(0)
        network = kind(factor=factor, offset=offset)
        encoder = ImageEncoder(network, 16, mean=(0.5,) * 3, std=(0.25,) * 3, out_dim=4, dropout=0.1, frozen=True)
        identities.append(encoder_identity(encoder, 32))
    assert repr(networks[0][0]()) == repr(networks[4][0]())
    assert identities[0] == identities[1]
    assert len(set(identities)) == 4
    monkeypatch.setattr("mixfit.training.build.version", lambda package: "0.0.0")
    assert encoder_identity(encoder, 32) != identities[-1]
    monkeypatch.undo()
    original = ImageEncoder.encode
    monkeypatch.setattr(ImageEncoder, "encode", lambda self, images: original(self, images.flip(-1)))
    assert encoder_identity(encoder, 32) != identities[-1]


def test_two_links_to_one_photo_are_encoded_once(files: list[Path], tmp_path: Path) -> None:
    links = [tmp_path / f"link{number}.png" for number in range(30)]
    for number, link in enumerate(links):
        link.symlink_to(files[number % 3 + 2])  # 3 is damaged
    encoder = make_encoder()
    expected = encode_photos(encoder, ImageFiles(links, size=32))
    found = encode(links, tmp_path / "cache", encoder)
    assert CountingResNet.seen == filled(3)
    assert same(found, expected)
    assert sorted(found.failures) == list(range(1, 30, 3))


def test_after_the_lock_only_what_was_missing_is_looked_up(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, asked = make_encoder(), []
    encode(files[:6], tmp_path / "cache", encoder)
    original = RecordStore.find

    def noted(self: RecordStore, keys: list[str]) -> Found:
        asked.append(len(keys))
        return original(self, keys)

    monkeypatch.setattr(RecordStore, "find", noted)
    encode(files, tmp_path / "cache", encoder)
    assert asked == [10, 4]


def test_a_record_that_cannot_be_read_this_time_is_not_forgotten(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make_encoder()
    expected = encode(files, tmp_path / "cache", encoder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", failing_at(os.preadv, 2 * 64))
        found, missing = open_feature_store(
            encoder, ImageFiles(files, size=32), Cache(folder=tmp_path / "cache", limit_bytes=10**8)
        ).load()
    assert missing.tolist() == [2]
    assert found.readable.tolist() == [n not in (2, 3) for n in range(10)]
    assert same(encode(files, tmp_path / "cache", encoder), expected)
    assert CountingResNet.seen == 0


def failing_at(original: Callable[[int, list[Any], int], int], offset: int) -> Callable[[int, list[Any], int], int]:
    def preadv(descriptor: int, buffers: list[Any], at: int) -> int:
        if at == offset:
            raise OSError(5, "Input/output error")
        return original(descriptor, buffers, at)

    return preadv


def test_a_changed_photo_is_encoded_again(files: list[Path], tmp_path: Path) -> None:
    encoder = make_encoder()
    encode(files, tmp_path / "cache", encoder)
    shutil.copy(files[0], files[5])
    files[7].unlink()
    found = encode(files, tmp_path / "cache", encoder)
    assert torch.equal(found.values[0], found.values[5])
    assert found.failures[7] == "is missing"


def test_a_damaged_record_is_encoded_again(files: list[Path], tmp_path: Path) -> None:
    encoder = make_encoder()
    expected = encode(files, tmp_path / "cache", encoder)
    (store,) = list_stores(tmp_path / "cache")
    data = bytearray((store.folder / RECORDS).read_bytes())
    data[100] ^= 1
    (store.folder / RECORDS).write_bytes(data)
    assert same(encode(files, tmp_path / "cache", encoder), expected)
    assert CountingResNet.seen == filled(1)
    assert same(encode(files, tmp_path / "cache", encoder), expected)
    assert CountingResNet.seen == 0


def test_a_cache_that_cannot_be_written_is_said_once(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told: list[str] = []
    encoder = make_encoder()
    found = encode(files, tmp_path / "file" / "cache", encoder, told=told)
    assert same(found, encode_photos(encoder, ImageFiles(files, size=32)))
    assert len(told) == 1
    assert told[0].endswith("Image features are not kept for the next run.")


@pytest.fixture
def data(demo_table: Path, tmp_path: Path) -> MixedData:
    config = DataConfig(image_size=32, cache=tmp_path / "cache")
    return load_data(demo_table, target=DEMO_TARGET, config=config, batch_size=16)


def batches(data: MixedData) -> list[torch.Tensor]:
    return [xb.images if xb.images is not None else xb.features for xb, _ in data.train]  # type: ignore[misc]


def test_a_frozen_run_stores_no_pixels_and_a_warm_one_reads_no_file(
    data: MixedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(data, ModelConfig(), seed=0)
    cold = batches(precompute_features(data, model))
    assert data.photos is not None
    assert data.photos.cache is not None
    stores = list_stores(data.photos.cache.folder)
    assert [store.folder.name.split("-")[0] for store in stores] == ["copies", "features"]
    monkeypatch.setattr("mixfit.data.photos.store.read_image", pytest.fail)
    again = replace(data, photos=replace(data.photos))  # a new object, which opens the cache anew
    warm = batches(precompute_features(again, model))
    assert all(torch.equal(a, b) for a, b in zip(cold, warm, strict=True))


def test_batches_of_pixels_are_the_same_cold_warm_and_without_a_cache(
    data: MixedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = data.photos
    assert photos is not None
    without = batches(replace(data, photos=replace(photos, cache=None)))
    cold = batches(replace(data, photos=replace(photos)))  # a new object, which opens the cache anew
    monkeypatch.setattr("mixfit.data.photos.store.read_image", pytest.fail)
    warm = batches(replace(data, photos=replace(photos)))
    assert len(without) == len(cold) == len(warm)
    for a, b, c in zip(without, cold, warm, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_data_without_photos_are_returned_as_they_are() -> None:
    frame = pd.DataFrame({"x": np.random.default_rng(0).normal(size=40), "y": np.arange(40.0) % 7})
    data = load_data(frame, target="y")
    assert precompute_features(data, build_model(data, seed=0)) is data
