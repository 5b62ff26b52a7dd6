"""Embeddings of texts: each different text encoded once, kept for later runs, whatever happens in between."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixfit.data.photos.records import RECORDS, Cache, list_stores
from mixfit.nn.sentence import SentenceEncoder, load_sentence_encoder
from mixfit.training import texts as module
from mixfit.training.texts import text_embeddings, text_encoder_identity

pytest.importorskip("tokenizers", reason="the extra is not installed: pip install 'mixfit[text]'")

from sentence_models import CLS, WORDS, write_model

D = 64
CELLS = [f"{WORDS[n % 24]} {WORDS[n // 24]} " * (1 + n % 9) for n in range(40)]


def wide_model(folder: Path, **given: Any) -> Path:
    """Wide enough for the same bytes in every place of a batch."""
    return write_model(folder, d=D, hidden=128, **given)


@pytest.fixture
def encoder(tmp_path: Path) -> SentenceEncoder:
    return load_sentence_encoder(wide_model(tmp_path / "model"))


@pytest.fixture
def encoded(encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that went through the network, that for the identity left out."""
    seen: list[str] = []
    original = SentenceEncoder.encode

    def noted(self: SentenceEncoder, texts: Sequence[str]) -> np.ndarray:
        seen.extend(text for text in texts if text != module._PROBE)
        return original(self, texts)

    monkeypatch.setattr(SentenceEncoder, "encode", noted)
    return seen


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(folder=tmp_path / "cache", limit_bytes=10**8, warn=pytest.fail)


def test_each_different_text_is_encoded_once_in_all_runs(
    encoder: SentenceEncoder, cache: Cache, encoded: list[str]
) -> None:
    cells = [*CELLS[:20], *CELLS[:10]]
    first = text_embeddings(cells, encoder, cache)
    assert sorted(encoded) == sorted(CELLS[:20])
    second = text_embeddings(CELLS, encoder, cache)
    assert sorted(encoded) == sorted(CELLS)
    third = text_embeddings(CELLS[::-1], encoder, cache)
    assert len(encoded) == len(CELLS)
    whole = encoder.encode(CELLS)
    np.testing.assert_array_equal(first, whole[[*range(20), *range(10)]])
    np.testing.assert_array_equal(second, whole)
    np.testing.assert_array_equal(third, whole[::-1])
    (store,) = list_stores(cache.folder)
    assert store.records == len(CELLS)


def test_without_a_cache_each_different_text_is_encoded_once_too(encoder: SentenceEncoder, encoded: list[str]) -> None:
    found = text_embeddings(["lamp", "house", "lamp"], encoder, None)
    assert sorted(encoded) == ["house", "lamp"]
    np.testing.assert_array_equal(found, encoder.encode(["lamp", "house", "lamp"]))
    assert found.dtype == np.float32


def test_where_there_is_no_text_there_are_zeros(encoder: SentenceEncoder, cache: Cache, encoded: list[str]) -> None:
    found = text_embeddings([None, "lamp", "", " \n", "\x00", "?"], encoder, cache)
    assert found.any(axis=1).tolist() == [False, True, False, False, False, True]
    np.testing.assert_allclose(np.linalg.norm(found[[1, 5]], axis=1), 1, atol=1e-6)
    assert sorted(encoded) == ["\x00", "?", "lamp"]
    np.testing.assert_array_equal(text_embeddings(["\x00"], encoder, cache), np.zeros((1, D)))
    assert text_embeddings([None, ""], encoder, cache).tolist() == [[0] * D] * 2
    assert text_embeddings([], encoder, cache).shape == (0, D)


def test_an_interrupted_run_keeps_what_it_had_encoded(
    encoder: SentenceEncoder, cache: Cache, encoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 8)
    whole = text_embeddings(CELLS, encoder, None)
    encoded.clear()
    original = SentenceEncoder.encode

    def interrupted(self: SentenceEncoder, texts: Sequence[str]) -> np.ndarray:
        if len(encoded) == 24:
            raise KeyboardInterrupt
        return original(self, texts)

    with monkeypatch.context() as patch:
        patch.setattr(SentenceEncoder, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            text_embeddings(CELLS, encoder, cache)
    assert len(encoded) == 24
    np.testing.assert_array_equal(text_embeddings(CELLS, encoder, cache), whole)
    assert sorted(encoded) == sorted(CELLS)


def test_a_damaged_record_is_encoded_again(encoder: SentenceEncoder, cache: Cache, encoded: list[str]) -> None:
    expected = text_embeddings(CELLS, encoder, cache)
    (store,) = list_stores(cache.folder)
    data = bytearray((store.folder / RECORDS).read_bytes())
    data[200] ^= 1
    (store.folder / RECORDS).write_bytes(data)
    encoded.clear()
    np.testing.assert_array_equal(text_embeddings(CELLS, encoder, cache), expected)
    assert len(encoded) == 1


def test_a_cache_that_cannot_be_written_is_told_once(encoder: SentenceEncoder, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told: list[str] = []
    for cache in (
        Cache(folder=tmp_path / "file" / "cache", limit_bytes=10**8, warn=told.append),
        Cache(folder=tmp_path / "small", limit_bytes=100, warn=told.append),
    ):
        told.clear()
        np.testing.assert_array_equal(text_embeddings(CELLS, encoder, cache), encoder.encode(CELLS))
        assert len(told) == 1
        assert told[0].endswith("Text embeddings are not kept for the next run.")


def test_other_weights_are_another_store(encoder: SentenceEncoder, cache: Cache, tmp_path: Path) -> None:
    other = load_sentence_encoder(wide_model(tmp_path / "other", seed=1))
    for one in (encoder, other, encoder):
        np.testing.assert_array_equal(text_embeddings(CELLS, one, cache), one.encode(CELLS))
    assert len(list_stores(cache.folder)) == 2


def test_the_identity_covers_weights_settings_versions_and_code(
    encoder: SentenceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = wide_model(tmp_path / "same")
    others = [
        load_sentence_encoder(wide_model(tmp_path / "weights", seed=1)),
        load_sentence_encoder(wide_model(tmp_path / "cls", pooling=CLS)),
        load_sentence_encoder(folder),
    ]
    others[-1].lower = True
    assert text_encoder_identity(load_sentence_encoder(folder)) == text_encoder_identity(encoder)
    found = {text_encoder_identity(one) for one in (encoder, *others)}
    assert len(found) == 4
    with monkeypatch.context() as patch:
        patch.setattr(module, "version", lambda package: "0.0.0")
        found.add(text_encoder_identity(encoder))
    original = SentenceEncoder.encode
    monkeypatch.setattr(SentenceEncoder, "encode", lambda self, texts: -original(self, texts))
    found.add(text_encoder_identity(encoder))
    assert len(found) == 6


def test_a_bar_is_drawn_while_texts_are_encoded(
    encoder: SentenceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 16)
    drawn: list[tuple[int, str, int]] = []

    def tracked(items: Sequence[np.ndarray], *, total: int, description: str, console: object) -> list[np.ndarray]:
        chunks = list(items)
        drawn.append((total, description, len(chunks)))
        return chunks

    monkeypatch.setattr(module, "tracked", tracked)
    cache = Cache(folder=tmp_path / "cache", limit_bytes=10**8, warn=pytest.fail, progress=True)
    for _ in range(2):
        text_embeddings(CELLS, encoder, cache)
    assert drawn == [(3, " texts", 3)]
