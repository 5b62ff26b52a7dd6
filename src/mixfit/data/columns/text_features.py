"""Numbers for texts: scores of linear models, principal components of TF-IDF and embeddings, and the number of words.

In: the words of each text column, and the target of the training rows of a fold. Out: ``TextFeatures``, which turns any
rows into ``(rows, text columns, d)``; the state is JSON and arrays. Everything is learnt from the training rows.

A text becomes its words, pairs of neighbouring words and character n-grams, weighted by TF-IDF (Salton and Buckley
1988, Information Processing & Management 24, 513-523; character n-grams are for inflected languages, spelling mistakes
and scripts without spaces). A ridge regression on them gives the score. The training rows get the scores of models that
were fitted without them, so that other models do not trust the score more than it deserves. With a frozen sentence
encoder, its embeddings of the texts give further scores and components in the same way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Int64

from mixfit.data.columns.cells import Table
from mixfit.data.columns.embedded import Embedded, Embedder, EmbedderFacts, embedded
from mixfit.data.columns.words import UNSPACED, Words, to_words
from mixfit.data.photos.records import Cache
from mixfit.data.scores import MOST_SCORES, goals_of, held_out_scores, inner_folds, mean_of
from mixfit.errors import DataError
from mixfit.files import Within, from_plain, shown

COMPONENTS = 24
"""Principal components of each column, and as many of its embeddings."""
_MOST_WORDS, _MOST_PAIRS, _MOST_GRAMS = 12_000, 8_000, 12_000
_LEAST_ROWS = 2
"""Training rows that must hold a word, pair or n-gram."""
_TEXTS_AT_ONCE = 16_384
"""Different texts whose terms are held in memory at once for new rows."""
_WORDS_AT_ONCE = 256
"""Words whose n-grams are held in memory at once."""
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddedFeatures:
    """What was learnt of the embeddings of one column of text."""

    projection: Float32[np.ndarray, "d outputs"]
    """Scores, and then components, of each number of an embedding."""
    middle: Float32[np.ndarray, " outputs"]
    """Their mean over the training rows, which is taken off."""

    def apply(self, found: Embedded, there: Bool[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows outputs"]:
        """Scores and components of any rows; 0 without a text."""
        values = np.zeros((len(there), len(self.middle)), dtype=np.float32)
        rows = np.flatnonzero(there)
        for start in range(0, len(rows), _TEXTS_AT_ONCE):
            part = rows[start : start + _TEXTS_AT_ONCE]
            values[part] = found.of(part) @ self.projection - self.middle
        return values


@dataclass(frozen=True, kw_only=True, eq=False)
class ColumnFeatures:
    """What was learnt of one column of text."""

    name: str
    words: tuple[str, ...]
    pairs: tuple[str, ...]
    """Two neighbouring words with a space between."""
    grams: tuple[str, ...]
    mean: float
    std: float
    """Of the logarithm of one more than the number of words."""
    rarity: Float32[np.ndarray, " terms"]
    """Inverse document frequency of each word, pair and n-gram."""
    projection: Float32[np.ndarray, "terms outputs"]
    """Scores, and then components, of each term."""
    middle: Float32[np.ndarray, " outputs"]
    """Their mean over the training rows, which is taken off."""
    embedded: EmbeddedFeatures | None = None
    """None without a sentence encoder."""
    lengths: tuple[float, float] | None = None
    """Smallest and largest of the logarithms in training: a shorter or longer text has the nearest of them, as models
    are not to extrapolate. None for models of an earlier mixfit."""

    @classmethod
    def counting(
        cls, name: str, *, words: Sequence[str], pairs: Sequence[str], grams: Sequence[str]
    ) -> "ColumnFeatures":
        """For these terms, without anything learnt: to count them in texts, and to tell known texts."""
        nothing = np.zeros((len(words) + len(pairs) + len(grams), 0), dtype=np.float32)
        return cls(
            name=name,
            words=tuple(words),
            pairs=tuple(pairs),
            grams=tuple(grams),
            mean=0.0,
            std=0.0,
            rarity=nothing.sum(axis=1),
            projection=nothing,
            middle=nothing.sum(axis=0),
        )

    def counts(self, words: Words) -> Float32[np.ndarray, "rows terms"]:
        """How often each row has each term; 0 without a text."""
        there = words.codes >= 0
        used, codes = np.unique(words.codes[there], return_inverse=True)
        found = np.zeros((len(words.codes), len(self.rarity)), dtype=np.float32)
        found[there] = _counts(words, used, self).toarray()[codes]
        return found

    @property
    def scores(self) -> int:
        """Scores of the terms, and as many of embeddings."""
        return self.projection.shape[1] - COMPONENTS

    def apply(self, words: Words, found: Embedded | None = None) -> Float32[np.ndarray, "rows width"]:
        """Features of any rows; 0 without a text."""
        there = words.codes >= 0
        used, codes = np.unique(words.codes[there], return_inverse=True)
        parts = [used[start : start + _TEXTS_AT_ONCE] for start in range(0, max(len(used), 1), _TEXTS_AT_ONCE)]
        each = [self._of_terms(self._terms(words, part), words, part) for part in parts]
        values = np.zeros((len(words.codes), self.projection.shape[1] + 1), dtype=np.float32)
        values[there] = np.concatenate(each)[codes]
        if self.embedded is None or found is None:
            return values
        return _joined(values, self.embedded.apply(found, there), self.scores)

    def knows(self, words: Words) -> Bool[np.ndarray, " rows"]:
        """Whether a text has a word that was learnt whole, not only n-grams; without spaces, two characters are one."""
        known = (pd.Index(self.words, dtype="str").get_indexer(words.vocabulary) >= 0) & ~words.are_signs
        unspaced = np.asarray(words.vocabulary.str.contains(UNSPACED), dtype=bool)
        if unspaced.any():
            grams = words.gram_names.isin(self.grams) & np.asarray(words.gram_names.str.fullmatch(r"\S+"), dtype=bool)
            known |= unspaced & (np.asarray(words.grams @ grams).ravel() > 0)
        texts = np.bincount(words.text_of, weights=known[words.tokens], minlength=len(words.sizes)) > 0
        return np.append(texts, np.False_)[words.codes]

    def parts(
        self, words: Words, used: Int64[np.ndarray, " texts"], least: int
    ) -> tuple[list[str], Int64[np.ndarray, " terms"], Float[np.ndarray, "terms scores"]]:
        """What words and pairs add to the scores of texts: the mean over the texts that have them.

        An n-gram's part of a text belongs to the words that have it, by how often they do, so that the parts of all
        words and pairs of a text sum to its score, up to the mean.

        Args:
            words: of the column.
            used: some of its texts.
            least: texts that must have a term.
        Returns:
            The terms, how many texts have each, and their parts.
        """
        from scipy.sparse import csr_matrix, vstack

        counts = _counts(words, used, self)
        terms = _weighed(counts, self.rarity, len(self.words) + len(self.pairs))
        whole = len(self.words) + len(self.pairs)
        weights = self.projection[:, : self.scores].astype(np.float64)
        own = np.asarray(terms[:, :whole].sum(axis=0)).ravel()[:, None] * weights[:whole]
        texts = np.asarray((counts[:, :whole] > 0).sum(axis=0)).ravel()
        place = words.vocabulary.get_indexer(pd.Index(self.words, dtype="str"))
        signs = np.append(words.are_signs, np.True_)[place]
        often = np.flatnonzero((texts[: len(self.words)] >= least) & ~signs)
        each = csr_matrix((terms.data / counts.data, terms.indices, terms.indptr), terms.shape)[:, whole:]
        gram = words.gram_names.get_indexer(pd.Index(self.grams, dtype="str"))
        of_words = words.grams[place[often]].tocsc()
        has = of_words[:, np.maximum(gram, 0)].multiply(gram >= 0).tocsr()
        shared = [
            (counts[:, often[start : start + _WORDS_AT_ONCE]].T @ each).multiply(has[start : start + _WORDS_AT_ONCE])
            for start in range(0, len(often), _WORDS_AT_ONCE)
        ]
        if shared:
            own[often] += vstack(shared) @ weights[whole:]
        sign = set(words.vocabulary[words.are_signs])
        plain = [not sign & set(pair.split(" ")) for pair in self.pairs]
        pairs = len(self.words) + np.flatnonzero((texts[len(self.words) :] >= least) & np.array(plain, dtype=bool))
        kept = np.concatenate([often, pairs]).astype(np.int64)
        names = [*self.words, *self.pairs]
        return [names[one] for one in kept], texts[kept], own[kept] / texts[kept, None]

    def _terms(self, words: Words, used: Int64[np.ndarray, " texts"]) -> Any:
        """Weighted terms of some texts."""
        return _weighed(_counts(words, used, self), self.rarity, len(self.words) + len(self.pairs))

    def _of_terms(self, terms: Any, words: Words, used: Int64[np.ndarray, " texts"]) -> np.ndarray:
        """Features of texts from their weighted terms, float32 ``(texts, d)``."""
        logs = np.log1p(words.sizes[used])
        logs = logs if self.lengths is None else np.clip(logs, *self.lengths)
        sizes = (logs - self.mean) / (self.std or 1.0) * bool(self.std)
        return np.column_stack([terms @ self.projection - self.middle, sizes]).astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class TextFeatures:
    """What was learnt of all columns of text of a table."""

    columns: tuple[ColumnFeatures, ...]
    embedder: Embedder | None = None
    """The sentence encoder, which is not learnt; None for TF-IDF alone."""

    @property
    def names(self) -> list[str]:
        """Of the columns."""
        return [column.name for column in self.columns]

    @property
    def width(self) -> int:
        """Features of each column."""
        return self.columns[0].projection.shape[1] * self._parts + 1 if self.columns else 0

    @property
    def scores(self) -> int:
        """How many of them are scores: the first."""
        return self.columns[0].scores * self._parts if self.columns else 0

    @property
    def _parts(self) -> int:
        return 1 if self.embedder is None else 2

    @classmethod
    def fit(
        cls,
        table: pd.DataFrame | Table,
        names: Sequence[str],
        truth: np.ndarray,
        *,
        classes: int,
        weight: Float[np.ndarray, " rows"] | None = None,
        unit: Int64[np.ndarray, " rows"] | None = None,
        seed: int = 0,
        embedder: Embedder | None = None,
    ) -> tuple["TextFeatures", Float32[np.ndarray, "rows texts width"]]:
        """Learn from the training rows.

        Args:
            names: the columns of text.
            truth: scaled numbers, or class indices, of these rows.
            classes: number of classes; 0 for regression.
            weight: of each row, in any unit.
            unit: rows with the same number (a group, copies) are held out together; by default each row is a unit.
            seed: of the inner folds, and of an approximation for many rows.
            embedder: a sentence encoder, whose embeddings are learnt from too.
        Returns:
            What was learnt, and the features of these rows with the scores of models that did not see them.
        """
        table = Table.of(table)
        fold = inner_folds(np.arange(len(truth)) if unit is None else unit, seed)
        rows = np.flatnonzero(fold >= 0)
        if weight is not None:
            weight = weight[rows].astype(np.float64) / weight[rows].mean(dtype=np.float64)
        goals, counts = goals_of(truth[rows], classes, weight), np.ones(len(rows)) if weight is None else weight
        columns, own = [], []
        for name in names:
            words = table[name].read_levels(to_words)
            found = None if embedder is None else embedded(table[name], embedder)
            column, values = _fit_column(name, words.take(rows), goals, counts, fold[rows], seed)
            if found is not None:
                there = words.codes[rows] >= 0
                learnt, further = _fit_embedded(found.take(rows), there, goals, counts, fold[rows], seed)
                column, values = replace(column, embedded=learnt), _joined(values, further, column.scores)
            if len(rows) < len(truth):
                every = column.apply(words, found)
                every[rows] = values
                values = every
            columns.append(column)
            own.append(values)
        return cls(columns=tuple(columns), embedder=embedder), _stacked(own, len(truth))

    def use(self, table: Table, cache: Cache | None, device: str) -> None:
        """Let the sentence encoder, if there is one, read a table's texts by this cache and on this device."""
        if self.embedder is not None:
            ready = self.embedder.ready(cache, device)
            for name in self.names:
                embedded(table[name], ready)

    def apply(self, table: pd.DataFrame | Table) -> tuple[Float32[np.ndarray, "rows texts width"], np.ndarray]:
        """Features of any rows, and a mask ``(rows, columns)`` of the cells that have a text."""
        table = Table.of(table)
        words = [table[column.name].read_levels(to_words) for column in self.columns]
        found = [None if self.embedder is None else embedded(table[name], self.embedder) for name in self.names]
        values = [column.apply(one, its) for column, one, its in zip(self.columns, words, found, strict=True)]
        return _stacked(values, len(table)), _there(words, len(table))

    def unknown(self, table: Table) -> Bool[np.ndarray, "rows columns"]:
        """Whether a text has no word that was learnt."""
        words = [table[one.name].read_levels(to_words) for one in self.columns]
        known = [column.knows(one) for column, one in zip(self.columns, words, strict=True)]
        there = _there(words, len(table))
        return there & ~np.stack(known, axis=1) if known else there

    def to_dict(self) -> dict[str, Any]:
        """The part of the state that is JSON; of the sentence encoder only what tells it from others."""
        embedder = {} if self.embedder is None else {"embedder": asdict(self.embedder.facts)}
        return {
            **embedder,
            "columns": [
                {
                    "name": one.name,
                    "words": list(one.words),
                    "pairs": list(one.pairs),
                    "grams": list(one.grams),
                    "mean": one.mean,
                    "std": one.std,
                    **({} if one.lengths is None else {"lengths": list(one.lengths)}),
                }
                for one in self.columns
            ],
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The part of the state that is arrays."""
        found: dict[str, np.ndarray] = {}
        for place, one in enumerate(self.columns):
            arrays = {"rarity": one.rarity, "projection": one.projection, "middle": one.middle}
            if one.embedded is not None:
                arrays |= {"embedded.projection": one.embedded.projection, "embedded.middle": one.embedded.middle}
            found |= {f"{place}.{name}": values for name, values in arrays.items()}
        return found

    @classmethod
    def read(
        cls,
        state: Any,
        arrays: Mapping[str, np.ndarray],
        embedders: Callable[[EmbedderFacts], Embedder] | None = None,
    ) -> "TextFeatures":
        """Read the output of ``to_dict`` and ``arrays``.

        Args:
            embedders: finds the sentence encoder again.
        Raises:
            DataError: it is invalid.
        """
        saved: _Saved = from_plain(_Saved, state, "the texts", finite=True)
        embedder = None
        if saved.embedder is not None:
            if embedders is None:
                raise DataError("texts have a sentence encoder where there is none")
            embedder = embedders(saved.embedder)
        columns = []
        for place, one in enumerate(saved.columns):
            terms = [*one.words, *one.pairs, *one.grams]
            where = f"the text column {shown(one.name)!r}"
            if any(len(set(part)) != len(part) for part in (one.words, one.pairs, one.grams)):
                raise DataError(f"{where} has a term twice")
            if one.lengths is not None and one.lengths[0] > one.lengths[1]:
                raise DataError(f"{where} has a shortest text that is longer than its longest")
            if any(pair.count(" ") != 1 for pair in one.pairs):
                raise DataError(f"{where} has a pair that is not two words")
            rarity, projection, middle = (arrays.get(f"{place}.{key}") for key in ("rarity", "projection", "middle"))
            if rarity is None or projection is None or middle is None:
                raise DataError(f"{where} lacks an array")
            fits = rarity.shape == (len(terms),) and projection.ndim == 2 and len(projection) == len(terms)
            fits = fits and COMPONENTS < projection.shape[1] <= COMPONENTS + MOST_SCORES
            fits = fits and middle.shape == projection.shape[1:]
            if not fits or {one.dtype for one in (rarity, projection, middle)} != {np.dtype(np.float32)}:
                raise DataError(f"the arrays of {where} do not match its {len(terms)} terms")
            if not all(np.isfinite(one).all() for one in (rarity, projection, middle)):
                raise DataError(f"the arrays of {where} are not finite")
            learnt = None
            if saved.embedder is not None:
                shape = (saved.embedder.d, projection.shape[1])
                learnt = _read_embedded({key: arrays.get(f"{place}.embedded.{key}") for key in _EMBEDDED}, shape, where)
            columns.append(
                ColumnFeatures(
                    name=one.name,
                    words=one.words,
                    pairs=one.pairs,
                    grams=one.grams,
                    mean=one.mean,
                    std=one.std,
                    rarity=rarity,
                    projection=projection,
                    middle=middle,
                    embedded=learnt,
                    lengths=one.lengths,
                )
            )
        if len({one.name for one in columns}) != len(columns) or len({c.projection.shape[1] for c in columns}) > 1:
            raise DataError("the text columns do not match each other")
        return cls(columns=tuple(columns), embedder=embedder)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SavedColumn:
    """A ``ColumnFeatures`` in JSON."""

    name: str
    words: tuple[str, ...]
    pairs: tuple[str, ...]
    grams: tuple[str, ...]
    mean: float
    std: Annotated[float, Within(0)]
    lengths: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """``TextFeatures`` in JSON."""

    columns: tuple[_SavedColumn, ...]
    embedder: EmbedderFacts | None = None


_EMBEDDED = ("projection", "middle")


def _read_embedded(arrays: Mapping[str, np.ndarray | None], shape: tuple[int, int], where: str) -> EmbeddedFeatures:
    """What was learnt of embeddings.

    Args:
        shape: of the projection.
    """
    projection, middle = (arrays[key] for key in _EMBEDDED)
    if projection is None or middle is None:
        raise DataError(f"{where} lacks an array of its embeddings")
    single = projection.dtype == middle.dtype == np.float32
    if not single or (projection.shape, middle.shape) != (shape, shape[1:]):
        raise DataError(f"the arrays of {where} do not match embeddings of {shape[0]} numbers")
    if not (np.isfinite(projection).all() and np.isfinite(middle).all()):
        raise DataError(f"the arrays of the embeddings of {where} are not finite")
    return EmbeddedFeatures(projection=projection, middle=middle)


def _joined(terms: np.ndarray, further: np.ndarray, scores: int) -> Float32[np.ndarray, "rows width"]:
    """All scores, then all components, and the number of words, from what terms and embeddings give."""
    parts = [terms[:, :scores], further[:, :scores], terms[:, scores:-1], further[:, scores:], terms[:, -1:]]
    return np.concatenate(parts, axis=1, dtype=np.float32)


def _stacked(values: list[Float32[np.ndarray, "rows width"]], rows: int) -> Float32[np.ndarray, "rows texts width"]:
    return np.stack(values, axis=1) if values else np.zeros((rows, 0, 0), dtype=np.float32)


def _there(words: list[Words], rows: int) -> Bool[np.ndarray, "rows texts"]:
    there = [np.append(one.sizes > 0, np.False_)[one.codes] for one in words]
    return np.stack(there, axis=1) if there else np.zeros((rows, 0), dtype=bool)


def _fit_column(
    name: str,
    words: Words,
    goals: Float[np.ndarray, "rows goals"],
    counts: Float[np.ndarray, " rows"],
    fold: Int64[np.ndarray, " rows"],
    seed: int,
) -> tuple[ColumnFeatures, Float32[np.ndarray, "rows width"]]:
    """Learn one column; also the features of these rows with scores of models that did not see them."""
    used, codes = np.unique(words.codes[words.codes >= 0], return_inverse=True)
    there = words.codes >= 0
    rows_of_texts = np.bincount(codes, minlength=len(used))
    chosen = _choose_terms(name, words, used, rows_of_texts)
    sizes = np.log1p(words.sizes[words.codes[there]])
    mean, std = (float(sizes.mean()), float(sizes.std())) if len(sizes) else (0.0, 0.0)
    found = _counts(words, used, chosen)
    texts = int(rows_of_texts.sum())
    rows_of_terms = (found > 0).T @ rows_of_texts
    rarity = (np.log((1 + texts) / (1 + rows_of_terms)) + 1).astype(np.float32)
    of_texts = _weighed(found, rarity, len(chosen.words) + len(chosen.pairs))
    of_rows = np.full(len(words.codes), -1)
    of_rows[there] = codes
    terms = of_texts[codes]

    scores = min(goals.shape[1], MOST_SCORES)
    projection = np.zeros((terms.shape[1], scores + COMPONENTS))
    held_out = np.zeros((len(words.codes), scores))
    if min(terms.shape):
        weights, without = held_out_scores(terms, goals[there], counts[there], fold[there], seed)
        axes = _components(terms, seed)
        projection[:, :scores], projection[:, scores : scores + len(axes)] = weights, axes.T
        held_out[there] = without
    column = ColumnFeatures(
        name=name,
        words=chosen.words,
        pairs=chosen.pairs,
        grams=chosen.grams,
        mean=mean,
        std=std if std > _ROUNDING else 0.0,
        rarity=rarity,
        projection=projection.astype(np.float32),
        lengths=(float(sizes.min()), float(sizes.max())) if len(sizes) else None,
        middle=(mean_of(terms, counts[there]) @ projection if len(codes) else projection.sum(axis=0)).astype(
            np.float32
        ),
    )
    nothing = np.zeros((1, scores + COMPONENTS + 1), dtype=np.float32)
    own = np.append(column._of_terms(of_texts, words, used), nothing, axis=0)[of_rows]
    own[:, :scores] = held_out
    return column, own


def _fit_embedded(
    found: Embedded,
    there: Bool[np.ndarray, " rows"],
    goals: Float[np.ndarray, "rows goals"],
    counts: Float[np.ndarray, " rows"],
    fold: Int64[np.ndarray, " rows"],
    seed: int,
) -> tuple[EmbeddedFeatures, Float32[np.ndarray, "rows outputs"]]:
    """Learn from the embeddings of one column; also the scores and components of these rows, as ``_fit_column``."""
    scores = min(goals.shape[1], MOST_SCORES)
    projection, middle = np.zeros((found.d, scores + COMPONENTS)), np.zeros(scores + COMPONENTS)
    held_out = np.zeros((len(there), scores))
    if there.any():
        values = found.of(np.flatnonzero(there))
        weights, without = held_out_scores(values, goals[there], counts[there], fold[there], seed)
        mean = mean_of(values, counts[there])
        axes = _components(values - mean.astype(np.float32), seed)
        projection[:, :scores], projection[:, scores : scores + len(axes)] = weights, axes.T
        middle, held_out[there] = mean @ projection, without
    learnt = EmbeddedFeatures(projection=projection.astype(np.float32), middle=middle.astype(np.float32))
    own = learnt.apply(found, there)
    own[:, :scores] = held_out
    return learnt, own


def _choose_terms(
    name: str, words: Words, used: Int64[np.ndarray, " used"], rows_of_texts: Int64[np.ndarray, " used"]
) -> ColumnFeatures:
    """The words, pairs and n-grams that most training rows hold."""
    text, token = _tokens(words, used)
    of_word = _rows_with(text, token, len(words.vocabulary), rows_of_texts)
    kept_words = _most_frequent(of_word, _MOST_WORDS)
    of_gram = np.asarray(words.grams.T @ of_word).ravel() if len(of_word) else np.zeros(0)
    kept_grams = _most_frequent(of_gram, _MOST_GRAMS)
    first, second, where = _neighbours(text, token)
    names, pair = np.unique(first * max(len(words.vocabulary), 1) + second, return_inverse=True)
    kept_pairs = _most_frequent(_rows_with(where, pair, len(names), rows_of_texts), _MOST_PAIRS)
    vocabulary = words.vocabulary
    return ColumnFeatures(
        name=name,
        words=tuple(vocabulary[kept_words]),
        pairs=tuple(
            f"{vocabulary[one // len(vocabulary)]} {vocabulary[one % len(vocabulary)]}" for one in names[kept_pairs]
        ),
        grams=tuple(words.gram_names[kept_grams]),
        mean=0.0,
        std=0.0,
        rarity=np.zeros(0, dtype=np.float32),
        projection=np.zeros((0, 0), dtype=np.float32),
        middle=np.zeros(0, dtype=np.float32),
    )


def _tokens(words: Words, used: np.ndarray) -> tuple[Int64[np.ndarray, " tokens"], Int64[np.ndarray, " tokens"]]:
    """The words of some texts: index in ``used``, and in the vocabulary."""
    sizes, starts = words.sizes[used], words.starts[used]
    text = np.repeat(np.arange(len(used)), sizes)
    place = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return text, words.tokens[np.repeat(starts, sizes) + place]


def _neighbours(text: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each two neighbouring words of a text, and the text."""
    same = text[1:] == text[:-1]
    return token[:-1][same], token[1:][same], text[1:][same]


def _rows_with(text: np.ndarray, term: np.ndarray, terms: int, rows_of_texts: np.ndarray) -> np.ndarray:
    """How many rows have each term."""
    pairs = np.unique(text * max(terms, 1) + term)
    return np.bincount(pairs % max(terms, 1), weights=rows_of_texts[pairs // max(terms, 1)], minlength=terms)


def _most_frequent(rows: np.ndarray, most: int) -> Int64[np.ndarray, " kept"]:
    """Those that enough rows have, at most so many, in the order of the table."""
    enough = np.flatnonzero(rows >= _LEAST_ROWS)
    return np.sort(enough[np.argsort(-rows[enough], kind="stable")[:most]])


def _counts(words: Words, used: Int64[np.ndarray, " used"], known: ColumnFeatures) -> Any:
    """How often some texts have each known word, pair and n-gram: CSR ``(used, terms)``, float32."""
    from scipy.sparse import csr_matrix, hstack

    text, token = _tokens(words, used)
    known_words = pd.Index(known.words, dtype="str")
    place = known_words.get_indexer(words.vocabulary)[token] if len(token) else token

    def counted(texts: np.ndarray, terms: np.ndarray, count: int) -> Any:
        ones = np.ones(len(terms), dtype=np.float32)
        return csr_matrix((ones, (texts, terms)), shape=(len(used), count), dtype=np.float32)

    of_words = counted(text[place >= 0], place[place >= 0], len(known.words))
    halves = pd.Index([half for pair in known.pairs for half in pair.split(" ")], dtype="str")
    keys, parts = pd.factorize(halves)
    keys, parts = keys.reshape(-1, 2).astype(np.int64), pd.Index(parts, dtype="str")
    own = parts.get_indexer(words.vocabulary)[token] if len(token) else token
    first, second, where = _neighbours(text, own)
    both = (first >= 0) & (second >= 0)
    of_pair = pd.Index(keys[:, 0] * len(parts) + keys[:, 1]).get_indexer(first[both] * len(parts) + second[both])
    of_pairs = counted(where[both][of_pair >= 0], of_pair[of_pair >= 0], len(known.pairs))
    every = counted(text, token, len(words.vocabulary))
    gram = words.gram_names.get_indexer(pd.Index(known.grams, dtype="str"))
    of_grams = csr_matrix((len(used), len(known.grams)), dtype=np.float32)
    if (gram >= 0).any():
        chosen = csr_matrix(
            (np.ones((gram >= 0).sum(), dtype=np.float32), (gram[gram >= 0], np.flatnonzero(gram >= 0))),
            shape=(len(words.gram_names), len(known.grams)),
        )
        of_grams = every @ (words.grams.astype(np.float32) @ chosen)
    return hstack([of_words, of_pairs, of_grams], format="csr", dtype=np.float32)


def _weighed(counts: Any, rarity: Float32[np.ndarray, " terms"], words: int) -> Any:
    """TF-IDF: words with pairs, and n-grams, each scaled to length 1."""
    from scipy.sparse import csr_matrix

    weights = (1 + np.log(counts.data)) * rarity[counts.indices]
    row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    block = 2 * row + (counts.indices >= words)
    lengths = np.sqrt(np.bincount(block, weights=weights**2, minlength=2 * counts.shape[0]))
    return csr_matrix(((weights / lengths[block]).astype(np.float32), counts.indices, counts.indptr), counts.shape)


def _components(terms: Any, seed: int) -> Float[np.ndarray, "components terms"]:
    """The first principal axes of rows as they are, scaled so that the first component has a mean square of 1."""
    from sklearn.utils.extmath import randomized_svd

    most = min(COMPONENTS, *terms.shape)
    _, sizes, axes = randomized_svd(terms, most, n_iter=4, random_state=seed, flip_sign=True)
    real = sizes > _ROUNDING * max(float(sizes[0]), float(np.sqrt(terms.shape[0])))  # not the rounding of equal rows
    scaled: np.ndarray = axes[real] * np.sqrt(terms.shape[0]) / max(float(sizes[0]), _ROUNDING)
    return scaled
