"""Which words and pairs of words matter in the texts of a column: their parts of the linear model's score.

In: a predictor and texts. Out: for each column and class the words that raise the score most, and those that lower it.
The score is one of the numbers that the other models get for a text; what a word does to the delivered model in a row,
``word_effects`` tells."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from mixfit.data.columns.cells import Table
from mixfit.data.columns.words import to_words
from mixfit.files import Count
from mixfit.predictor import Predictor
from mixfit.predictor.base import number_or_logarithm

SHOWN = 8
"""Words that raise the score, and as many that lower it."""
MOST_CLASSES = 8
"""The first classes; a model of more classes than ``MOST_SCORES`` has no score of each."""
_TEXTS = 2_000
_LEAST_SHARE, _LEAST_TEXTS = 0.01, 5
"""Texts that must have a word for it to be shown, as a share of all and at least."""
_LEAST_FOLDS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class WordPart:
    """A word, or two neighbouring words."""

    word: str
    part: float
    """Mean part of the score in the texts that have it: in the unit of the target, of its logarithm, or a
    probability."""
    texts: Count
    """Different texts that have it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnWords:
    """The words of a column of text with the largest parts of a score."""

    column: str
    of_class: str
    """The class that the score is for; "" for a number."""
    raises: list[WordPart]
    """The largest first."""
    lowers: list[WordPart]
    texts: Count
    """Different texts that were looked at."""
    least: Count
    """Texts that must have a word."""


def word_weights(predictor: Predictor, table: Table) -> list[ColumnWords]:
    """By column of text, and by class: the words with the largest parts of the score; nothing without texts.

    Args:
        table: the rows that the predictor was trained on.
    """
    folds, found = predictor.fold_texts if predictor.uses_text else (), list[ColumnWords]()
    for place, name in enumerate(folds[0].names if folds else []):
        words = table[name].read_levels(to_words)
        used = np.unique(words.codes[words.codes >= 0])
        used = used[:: -(-len(used) // _TEXTS)] if len(used) else used
        least = max(_LEAST_TEXTS, int(np.ceil(_LEAST_SHARE * len(used))))
        parts, texts = defaultdict[str, list[np.ndarray]](list), dict[str, int]()
        for fold in folds:
            terms, counts, of_fold = fold.columns[place].parts(words, used, least)
            for term, count, part in zip(terms, counts.tolist(), of_fold, strict=True):
                parts[term].append(part)
                texts[term] = count
        known = [term for term, each in parts.items() if len(each) >= _LEAST_FOLDS * len(folds)]
        if not known:
            continue
        values = _in_unit(predictor, np.array([np.mean(parts[term], axis=0) for term in known]))
        for of_class, column in _by_class(predictor, values):
            order = np.argsort(-column, kind="stable")
            told = [WordPart(word=known[one], part=float(column[one]), texts=texts[known[one]]) for one in order]
            found.append(
                ColumnWords(
                    column=name,
                    of_class=of_class,
                    raises=[one for one in told[:SHOWN] if one.part > 0],
                    lowers=[one for one in told[: -SHOWN - 1 : -1] if one.part < 0],
                    texts=len(used),
                    least=least,
                )
            )
    return found


def _in_unit(predictor: Predictor, values: np.ndarray) -> np.ndarray:
    """Scaled parts as differences in the scale of explanations; those of classes are probabilities already, and those
    of counts shares of the mean count, which are given in counts."""
    target = predictor.target
    if target.classes is not None:
        return values
    if predictor.schema.task == "count":
        return values * target.decode(np.zeros(1))
    base: np.ndarray = number_or_logarithm(target, np.zeros(1))
    return number_or_logarithm(target, values) - base


def _by_class(predictor: Predictor, values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The class, or "", and the parts of its score: one of two classes has the score of the second."""
    classes = predictor.target.classes
    if classes is None:
        return [("", values[:, 0])]
    if len(classes) == 2:
        return [(classes[1], values[:, 0])]
    return list(zip(classes, values.T, strict=False))[:MOST_CLASSES] if len(classes) == values.shape[1] else []
