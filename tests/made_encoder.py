"""A sentence encoder that needs no package: a text is the mean of the vectors of its words' meanings."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from mixfit.nn.sentence import SentenceEncoder, load_sentence_encoder
from mixfit.training import texts

D = 16
_LETTERS = np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz"), (340, 7))
_WORDS = ["".join(letters) for letters in _LETTERS]
GOOD, BAD, FILLER = _WORDS[:150], _WORDS[150:300], _WORDS[300:]
"""Words of two meanings, whose letters do not show it, and words that have a meaning each."""
FILE = "digest.txt"


class MadeEncoder(SentenceEncoder):
    """Knows which words mean the same, and notes what it has read."""

    def __init__(self, digest: str) -> None:
        self.network, self.pooling, self.padding, self.lower, self.most_tokens = nn.Identity(), "mean", 0, False, 99
        self.digest = digest
        self.read: list[str] = []

    @property
    def d(self) -> int:
        return D

    @property
    def device(self) -> object:
        class Place:
            type = "cpu"

        return Place()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.read += [text for text in texts if not text.startswith("a round table")]  # that is the identity's
        found = np.zeros((len(texts), D), dtype=np.float32)
        for place, text in enumerate(texts):
            words = text.lower().replace(".", "").split()
            vectors = [meaning(word) for word in words]
            if vectors:
                found[place] = np.mean(vectors, axis=0)
                found[place] /= np.linalg.norm(found[place])
        return found


def meaning(word: str) -> np.ndarray:
    """The vector of a word."""
    kind = "good" if word in GOOD else "bad" if word in BAD else word
    return np.random.default_rng(zlib.crc32(kind.encode())).normal(size=D)


def made_folder(folder: Path, digest: str = "0123456789abcdef") -> Path:
    """A folder that stands for a model with this digest."""
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text(digest)
    return folder


def with_made_encoders(patch: pytest.MonkeyPatch) -> list[MadeEncoder]:
    """Folders of ``made_folder`` give made encoders from now on; those that were loaded are in the list."""
    loaded: list[MadeEncoder] = []

    def load(folder: Path | None = None) -> SentenceEncoder:
        if folder is None or not (folder / FILE).is_file():
            return load_sentence_encoder(folder)
        loaded.append(MadeEncoder((folder / FILE).read_text()))
        return loaded[-1]

    patch.setattr(texts, "load_sentence_encoder", load)
    patch.setattr(texts, "version", lambda package: "0")  # of the tokenizers, which may be missing
    return loaded


def described(quality: np.ndarray, seed: int = 0) -> list[str]:
    """Texts in which words of the good meaning tell a high quality; each word is rare."""
    rng = np.random.default_rng(seed)
    found = []
    for value in quality:
        words = list(rng.choice(FILLER, 6))
        words += [str(rng.choice(GOOD if rng.random() < 1 / (1 + np.exp(-3 * value)) else BAD)) for _ in range(5)]
        found.append(" ".join(rng.permutation(words)))
    return found
