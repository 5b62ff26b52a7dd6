"""The words of a column of text: each text is tokenized once for the whole table.

In: the levels of a column, its different texts. Out: ``Words``: the words of each text in order, and the character
n-grams of each word, from which every fold counts those that it knows."""

import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int64

from mixfit.data.columns.values import Levels

MOST_CHARACTERS = 50_000
"""Only so many characters of a cell are read."""
ALPHABETS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer
UNSPACED = f"[{ALPHABETS}\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"  # and kana, Han
"""A character of a script without spaces between words."""
_GRAMS = (2, 4)  # characters, with a space before and after each word
_SIGN = r"([^\pL\pN\pM\s_])"  # whatever is no letter, digit or space is a word of its own: punctuation, emoji
_LONGEST_WORD = 200  # characters; beyond are no words, but encoded data


@dataclass(frozen=True, eq=False)
class Words:
    """A column as words, in lower case; scripts without spaces give long words, whose n-grams tell them apart."""

    codes: Int64[np.ndarray, " rows"]
    """Index of the row's text; -1 where the cell is empty."""
    tokens: Int64[np.ndarray, " tokens"]
    """Index into ``vocabulary`` of each word of all texts, text by text."""
    starts: Int64[np.ndarray, " bounds"]
    """Where in ``tokens`` each text starts, followed by their number."""
    vocabulary: pd.Index
    """Every word of the table, dtype str."""
    grams: Any
    """How often each word has each n-gram of characters: scipy CSR, ``(words, n-grams)``."""
    gram_names: pd.Index

    def take(self, rows: Int64[np.ndarray, " some"]) -> "Words":
        """Those rows, in that order."""
        return Words(self.codes[rows], self.tokens, self.starts, self.vocabulary, self.grams, self.gram_names)

    @property
    def are_signs(self) -> Bool[np.ndarray, " vocabulary"]:
        """Which words are punctuation, or another sign of ASCII; an emoji is a word."""
        found = [
            len(one) == 1 and not one.isalnum() and (one.isascii() or unicodedata.category(one)[0] == "P")
            for one in self.vocabulary
        ]
        return np.array(found, dtype=bool)

    @property
    def sizes(self) -> Int64[np.ndarray, " texts"]:
        """How many words each text has."""
        return np.diff(self.starts)

    @property
    def text_of(self) -> Int64[np.ndarray, " tokens"]:
        """The text that each of ``tokens`` is in."""
        return np.repeat(np.arange(len(self.starts) - 1), self.sizes)


def to_words(levels: Levels) -> Words:
    """Tokenize the texts.

    >>> found = to_words(Levels(np.array([0, 1, -1]), pd.Index(["Big sofa, 2 beds", "sofa"])))
    >>> found.vocabulary.tolist(), found.tokens.tolist(), found.sizes.tolist()
    (['big', 'sofa', ',', '2', 'beds'], [0, 1, 2, 3, 4, 1], [5, 1])
    """
    from sklearn.feature_extraction.text import CountVectorizer

    texts = pa.array(levels.names.to_numpy(dtype=object), pa.large_string(), from_pandas=True)
    texts = pc.utf8_slice_codeunits(texts, 0, MOST_CHARACTERS)
    texts = pc.utf8_lower(pc.utf8_normalize(texts, "NFKC"))
    texts = pc.replace_substring_regex(texts, _SIGN, r" \1 ")
    split = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts))
    words = pc.list_flatten(split)
    kept = pc.and_(pc.greater(pc.utf8_length(words), 0), pc.less_equal(pc.utf8_length(words), _LONGEST_WORD))
    kept = kept.to_numpy(zero_copy_only=False).astype(bool)
    bounds = np.concatenate([[0], np.cumsum(pc.list_value_length(split).to_numpy(zero_copy_only=False))])
    starts = np.concatenate([[0], np.cumsum(kept)])[bounds].astype(np.int64)
    coded = words.filter(pa.array(kept)).dictionary_encode()
    vocabulary = pd.Index(coded.dictionary.to_pylist(), dtype="str")
    if not len(vocabulary):
        from scipy.sparse import csr_matrix

        nothing = pd.Index([], dtype="str")
        return Words(levels.codes, np.zeros(0, dtype=np.int64), starts, nothing, csr_matrix((0, 0)), nothing)
    counter = CountVectorizer(analyzer="char_wb", ngram_range=_GRAMS, lowercase=False, dtype=np.int32)
    grams = counter.fit_transform(vocabulary)
    tokens = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    names = pd.Index(counter.get_feature_names_out(), dtype="str")
    return Words(levels.codes, tokens, starts, vocabulary, grams, names)
