"""Whether one column alone gives the target away: a copy of it, however renamed, rounded or coded.

In: a column and the target. Out: True when it does. Four disguises are known: the same order as the target, levels that
each have one class (or nearly one number), and cells that are filled, or empty, for one class only. Each is believed
only where chance cannot explain it; with fewer than ten rows nothing is."""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64

from mixfit.choices import Role, Task
from mixfit.data.facts import Facts

ORDER = 0.999
"""Rank correlation with a number, or area under the ROC curve of two classes."""
NUMBER_SHARE = 0.98
"""Share of the variance of a number's ranks that lies between levels; rounding to a fifth of the spread leaves it."""
CLASS_SHARE = 0.5
"""Of the rows of a class that empty (or filled) cells must cover to give it away."""

_ROWS = 20_000  # are enough
_LEAST = 10  # rows
_REPEATED = 0.9  # of the rows must be in levels that repeat
_LEVELS = 0.2  # levels per row; with more of them each is pure by chance
_CHANCE = np.log(1e-6)


def gives_away(fact: Facts, role: Role, goal: Facts, task: Task) -> bool:
    """True when the column alone says the target: by its order, its levels, or what it leaves empty."""
    rows = np.arange(0, len(fact.column), max(1, len(fact.column) // _ROWS))
    keys = fact.keys.iloc[rows].to_numpy(dtype=object)
    if task == "regression":
        values = goal.numbers.values[rows]
        if role == "number" and abs(_rank_correlation(fact.numbers.values[rows], values)) > ORDER:
            return True
        return role in ("number", "category") and _levels_tell_number(_codes(keys), values)
    classes = goal.keys.iloc[rows]
    known = classes.notna().to_numpy(dtype=bool)
    codes, labels = _codes(keys)[known], _codes(classes.to_numpy(dtype=object))[known]
    empty = pd.isna(keys)[known]
    if len(labels) < _LEAST:
        return False
    if role == "number" and task == "binary":
        area = _area_under_roc(fact.numbers.values[rows][known], labels == labels.max())
        if max(area, 1 - area) > ORDER:
            return True
    if _tells_class(empty, labels) or _tells_class(~empty, labels):
        return True
    return role in ("number", "category") and (_is_renamed(codes[~empty], labels[~empty]) or _are_pure(codes, labels))


def _codes(cells: np.ndarray) -> Int64[np.ndarray, " rows"]:
    """A number for each level; empty cells are a level too."""
    return np.asarray(pd.factorize(pd.Series(cells, dtype=object), use_na_sentinel=False)[0], dtype=np.int64)


def _is_renamed(codes: Int64[np.ndarray, " rows"], labels: Int64[np.ndarray, " rows"]) -> bool:
    """One level for each class and one class for each level."""
    pairs = np.unique(np.stack([codes, labels]), axis=1).shape[1]
    levels, classes = len(np.unique(codes)), len(np.unique(labels))
    return len(codes) >= _LEAST and classes > 1 and pairs == levels == classes


def _are_pure(codes: Int64[np.ndarray, " rows"], labels: Int64[np.ndarray, " rows"]) -> bool:
    """Every level that repeats has rows of one class only, and that can be no chance."""
    sizes = np.bincount(codes)
    repeated = sizes > 1
    if sizes[repeated].sum() < _REPEATED * len(codes) or repeated.sum() > _LEVELS * len(codes):
        return False
    inside = repeated[codes]
    pairs = np.unique(codes[inside] * (labels.max() + 1) + labels[inside])
    if len(pairs) > repeated.sum() or len(np.unique(labels[inside])) < 2:
        return False
    shares = np.bincount(labels) / len(labels)
    # Were rows dealt out at random, a level of n rows would be pure with the chance sum(share ** n).
    with np.errstate(under="ignore"):
        chances = (shares[None] ** sizes[repeated][:, None]).sum(axis=1)
    return bool(np.log(np.maximum(chances, np.finfo(np.float64).tiny)).sum() < _CHANCE)


def _tells_class(chosen: Bool[np.ndarray, " rows"], labels: Int64[np.ndarray, " rows"]) -> bool:
    """The chosen rows are all of one class, are most of that class, and that can be no chance."""
    found = labels[chosen]
    if not len(found) or (found != found[0]).any():
        return False
    size = int((labels == found[0]).sum())
    share = size / len(labels)
    enough = len(found) >= max(_LEAST, CLASS_SHARE * size)
    return bool(share < 1 and enough and len(found) * np.log(share) < _CHANCE)


def _levels_tell_number(codes: Int64[np.ndarray, " rows"], values: Float[np.ndarray, " rows"]) -> bool:
    """Nearly all of the variance of the number's ranks lies between levels that repeat."""
    known = np.isfinite(values)
    codes, counts = np.unique(codes[known], return_inverse=True, return_counts=True)[1:]
    repeated = counts[codes] > 1
    levels, rows = int((counts > 1).sum()), int(repeated.sum())
    if rows < max(_LEAST, _REPEATED * len(codes)) or not 1 < levels <= _LEVELS * len(codes):
        return False
    ranks = pd.Series(values[known][repeated]).rank().to_numpy()
    within = ranks - pd.Series(ranks).groupby(codes[repeated]).transform("mean").to_numpy()
    total = ((ranks - ranks.mean()) ** 2).sum() / (rows - 1)
    # Each level has taken a mean from its own rows, so there are fewer degrees of freedom.
    return bool(total > 0 and 1 - (within**2).sum() / (rows - levels) / total > NUMBER_SHARE)


def _rank_correlation(left: Float[np.ndarray, " rows"], right: Float[np.ndarray, " rows"]) -> float:
    """Spearman's, 0 where it cannot be told."""
    both = np.isfinite(left) & np.isfinite(right)
    ranks = np.stack([pd.Series(values[both]).rank().to_numpy() for values in (left, right)])
    if both.sum() < _LEAST or (ranks.std(axis=1) == 0).any():
        return 0.0
    return float(np.corrcoef(ranks)[0, 1])


def _area_under_roc(score: Float[np.ndarray, " rows"], positive: Bool[np.ndarray, " rows"]) -> float:
    """Area under the ROC curve from ranks, 0.5 where it cannot be told."""
    known = np.isfinite(score)
    ranks, hit = pd.Series(score[known]).rank().to_numpy(), positive[known]
    hits, misses = int(hit.sum()), int((~hit).sum())
    if hits + misses < _LEAST or min(hits, misses) < 2:
        return 0.5
    return float((ranks[hit].sum() - hits * (hits + 1) / 2) / (hits * misses))
