"""Embeddings of texts by a frozen encoder: each different text is encoded once, and kept for all later runs.

In: texts of cells. Out: float32 ``(texts, d)``. ``TextModel`` hands the encoder to the columns of text of a table."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64

from mixfit.config import MINILM
from mixfit.console import PlainConsole, tracked
from mixfit.data.columns.embedded import EmbedderFacts
from mixfit.data.photos.records import Cache, RecordStore
from mixfit.errors import ConfigError, ResourceError, check_type
from mixfit.nn.sentence import SentenceEncoder, load_sentence_encoder

IDENTITY_VERSION = 1
"""Increase this when embeddings change in a way that ``text_encoder_identity`` does not detect."""
_PROBE = "a round table, four chairs " * 45
CHUNK = 128
"""Texts that are encoded before they are kept: what an interrupted run loses at most."""


class _Loader:
    """A frozen encoder that is loaded when first needed, and must be the one that is expected."""

    def __init__(self, folder: Path | None, digest: str) -> None:
        self.folder, self.digest = folder, digest
        self.texts, self.seconds = 0, 0.0

    @cached_property
    def encoder(self) -> SentenceEncoder:
        found = load_sentence_encoder(self.folder)
        if self.digest and found.digest != self.digest:
            where = "of the extra text" if self.folder is None else f"in {self.folder}"
            raise ConfigError(
                f"The text model {where} is not the one that this model was trained with, as its files differ (sha256 "
                f"{found.digest[:12]}, not {self.digest[:12]}): give the folder of the same one as text_model=DIR, or "
                "--text-model DIR."
            )
        return found


class _Absent(_Loader):
    """The encoder of a folder that nobody has named."""

    @cached_property
    def encoder(self) -> SentenceEncoder:
        raise ConfigError(
            "This model reads texts with a text model from a folder, which is not saved with it: give that folder as "
            "text_model=DIR, or --text-model DIR."
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class TextModel:
    """A frozen sentence encoder for columns of text, see ``Embedder``."""

    facts: EmbedderFacts
    loader: _Loader
    cache: Cache | None = None
    device: str = "cpu"

    @classmethod
    def load(cls, name: str | Path) -> "TextModel":
        """That of a training: ``minilm``, or a folder of a sentence-transformers model.

        Raises:
            ConfigError, DataError: as ``load_sentence_encoder``.
        """
        check_type("text_model", name, (str, PathLike), "minilm or a path of a folder")
        loader = _Loader(None if name == MINILM else Path(name), "")
        encoder = loader.encoder
        source: Literal["minilm", "folder"] = "minilm" if name == MINILM else "folder"
        return cls(facts=EmbedderFacts(source=source, digest=encoder.digest, d=encoder.d), loader=loader)

    @classmethod
    def saved(cls, facts: EmbedderFacts, folder: Path | None = None) -> "TextModel":
        """That of a saved model, loaded at the first text: from ``folder``, or else from its package."""
        absent = folder is None and facts.source == "folder"
        return cls(facts=facts, loader=(_Absent if absent else _Loader)(folder, facts.digest))

    def ready(self, cache: Cache | None, device: str) -> "TextModel":
        """The same encoder, with another cache and device."""
        return replace(self, cache=cache, device=device)

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts d"]:
        """An embedding of each text; zeros for a blank one.

        Raises:
            ConfigError: the encoder is missing, or is another one.
        """
        started = time.perf_counter()
        encoder = self.loader.encoder
        encoder.network.to(self.device)
        found = text_embeddings(texts, encoder, self.cache)
        self.loader.texts += len(texts)
        self.loader.seconds += time.perf_counter() - started
        return found

    def __str__(self) -> str:
        """What was done so far, for the log of a run."""
        return f"embeddings of {self.loader.texts:,} different texts in {self.loader.seconds:.1f} s"


def text_embeddings(
    texts: Sequence[str | None], encoder: SentenceEncoder, cache: Cache | None
) -> Float32[np.ndarray, "texts d"]:
    """Embeddings of length 1, and zeros where there is no text: None, a blank one, or one without a token.

    Only texts that are not in the cache are encoded, and added to it a few at a time."""
    numbers: dict[str, int] = {}
    places = [numbers.setdefault(text, len(numbers)) if text and not text.isspace() else -1 for text in texts]
    distinct = list(numbers)
    values = np.zeros((len(distinct) + 1, encoder.d), dtype=np.float32)  # the last is that of no text
    missing = np.arange(len(distinct))
    if cache is not None and cache.stored is not None and cache.stored.facts.text_model == encoder.digest:
        missing = np.setdiff1d(missing, cache.stored.of_texts([text_key(one) for one in distinct], missing, values))
    store = TextStore(distinct, encoder, cache) if cache is not None and len(missing) else None
    missing = missing if store is None else store.load_into(values, missing)
    if len(missing):
        if store is None:
            _encode(distinct, missing, values, encoder, None)
        else:
            with store.writing(len(missing)):
                # Another process may have added some meanwhile.
                _encode(distinct, store.load_into(values, missing), values, encoder, store)
    return values[places]


def _encode(
    texts: Sequence[str],
    missing: Int64[np.ndarray, " missing"],
    values: Float32[np.ndarray, "more d"],
    encoder: SentenceEncoder,
    store: "TextStore | None",
) -> None:
    """Longest first, so that those of one chunk have like lengths, and memory suffices for all if for the first."""
    order = np.array(sorted(missing.tolist(), key=lambda number: -len(texts[number])), dtype=np.int64)
    chunks: Iterator[np.ndarray] = (order[start : start + CHUNK] for start in range(0, len(order), CHUNK))
    if store is not None and store.cache.progress and len(order):
        count = -(-len(order) // CHUNK)
        chunks = tracked(chunks, total=count, description=" texts", console=PlainConsole())
    for chunk in chunks:
        values[chunk] = encoder.encode([texts[number] for number in chunk])
        if store is not None:
            store.add(chunk, values[chunk])


def text_key(text: str) -> str:
    """The key of a text in stores: its sha256."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


class TextStore:
    """Embeddings of some texts by one encoder in the cache, found by the texts' SHA-256; 1.5 kB a text for d = 384."""

    def __init__(self, texts: Sequence[str], encoder: SentenceEncoder, cache: Cache) -> None:
        self.cache = cache
        self.keys = [text_key(text) for text in texts]
        folder = cache.folder / f"texts-{encoder.d}-{text_encoder_identity(encoder)[:16]}"
        self.store = RecordStore(folder, shape=(encoder.d,), dtype=np.float32, about="texts", wait=cache.wait)
        self._writable = False

    def load_into(
        self, values: Float32[np.ndarray, "more d"], numbers: Int64[np.ndarray, " n"]
    ) -> Int64[np.ndarray, " missing"]:
        """Fill in what is there of some texts; gives those that are not, damaged ones among them."""
        found = self.store.fetch([self.keys[number] for number in numbers.tolist()])
        values[numbers[found.positions]] = found.records
        return numbers[found.missing]

    @contextmanager
    def writing(self, needed: int) -> Iterator[None]:
        """Keep what is added while the block runs, at most ``needed``; if the cache cannot be written, that is told."""
        waiting = f"Another process is filling the cache {self.store.folder}; waiting for it."
        with ExitStack() as stack:
            try:
                self.cache.check_room(needed * self.store.record_bytes)
                stack.enter_context(self.store.writing(waiting=partial(self.cache.warn, waiting)))
                self._writable = True
            except ResourceError as error:
                self._give_up(error)
            try:
                yield
            finally:
                self._writable = False

    def add(self, numbers: Int64[np.ndarray, " n"], values: Float32[np.ndarray, "n d"]) -> None:
        """Keep the embeddings of these texts."""
        if self._writable:
            try:
                self.store.append([self.keys[number] for number in numbers.tolist()], values)
            except ResourceError as error:
                self._give_up(error)

    def _give_up(self, error: ResourceError) -> None:
        self._writable = False
        self.cache.warn(f"{error} Text embeddings are not kept for the next run.")


def text_encoder_identity(encoder: SentenceEncoder) -> str:
    """A digest of everything that affects the embedding of a text: files, settings, versions and the instruction set,
    and the embedding of a text of two windows, which depends on everything else, such as the code of the network."""
    settings = (encoder.pooling, encoder.most_tokens, encoder.padding, encoder.lower, encoder.device.type)
    versions = (IDENTITY_VERSION, torch.__version__, version("tokenizers"), torch.backends.cpu.get_cpu_capability())
    digest = hashlib.sha256(f"{encoder.digest} {settings} {versions}".encode())
    digest.update(encoder.encode([_PROBE]).tobytes())
    return digest.hexdigest()
