"""Scores: predictions of a ridge regression on many numbers, as few inputs of other models.

In: the numbers of the training rows of a fold (terms of texts, embeddings, features of photos) and their target. Out:
weights, and for the training rows the scores of models that were fitted without them, so that other models do not trust
the scores more than they deserve."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

MOST_SCORES = 24
"""Largest number of scores: one for a number or for two classes, one per class for more, and of many classes the
directions in which their scores differ most."""
MOST_ROWS = 20_000
"""Training rows that scores are learnt from, drawn by units if there are more; scores of the others do not know them
either."""
_EXACT_ROWS = 2_500
"""Number of training rows up to which the ridge regression is solved by the products of rows; above, by those of terms,
or of sparse terms by conjugate gradients."""
_SEARCHED_ROWS = 600
"""Largest number of rows for the choice of the penalty; it hardly depends on the number of rows."""
_INNER_FOLDS = 5
_STRENGTHS = np.logspace(-1.5, 2, 15)
_TOLERANCE, _STEPS = 1e-3, 200  # of the conjugate gradients
_NOTHING = 1e-12


def goals_of(truth: np.ndarray, classes: int, weight: np.ndarray | None) -> Float[np.ndarray, "rows scores"]:
    """What the scores predict: numbers, or an indicator per class, without their mean."""
    if not classes:
        found = truth.astype(np.float64)[:, None]
    elif classes == 2:
        found = (truth == 1).astype(np.float64)[:, None]
    else:
        found = np.eye(classes)[truth]
    return found - np.average(found, axis=0, weights=weight)


def inner_folds(unit: Int64[np.ndarray, " rows"], seed: int) -> Int64[np.ndarray, " rows"]:
    """Number of the inner fold of each row, -1 for those beyond ``MOST_ROWS``; units stay whole.

    With units so large that too few of them are within the limit, all rows are used."""
    _, of_unit, sizes = np.unique(unit, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    dealt = order % _INNER_FOLDS
    if len(unit) > MOST_ROWS:
        drawn = np.argsort(order)
        within = drawn[np.cumsum(sizes[drawn]) <= MOST_ROWS]
        if len(within) >= _INNER_FOLDS:
            dealt[np.setdiff1d(drawn, within)] = -1
    return dealt[of_unit].astype(np.int64)


def held_out_scores(
    terms: Any,
    goals: Float[np.ndarray, "rows goals"],
    counts: Float[np.ndarray, " rows"],
    fold: Int64[np.ndarray, " rows"],
    seed: int,
) -> tuple[Float[np.ndarray, "terms scores"], Float[np.ndarray, "rows scores"]]:
    """The weights of the scores, and the scores of these rows by models that were fitted without their inner fold.

    Args:
        terms: of the rows, an array or a CSR matrix, with rows of about length 1.
        goals: of ``goals_of``.
        counts: the weight of each row, with a mean of 1.
        fold: of ``inner_folds``.
    """
    weights, without = _ridge(terms, goals, counts, fold, seed)
    return _main_directions(terms, weights, without, min(goals.shape[1], MOST_SCORES))


def _main_directions(
    terms: Any, weights: np.ndarray, without: np.ndarray, scores: int
) -> tuple[Float[np.ndarray, "terms scores"], Float[np.ndarray, "rows scores"]]:
    """The directions in which the scores of many classes differ most."""
    if weights.shape[1] <= scores:
        return weights, without
    found = np.linalg.svd(terms @ weights, full_matrices=False)[2][:scores]
    turn = np.zeros((weights.shape[1], scores))  # a few rows have fewer directions
    turn[:, : len(found)] = found.T
    return weights @ turn, without @ turn


def _ridge(
    terms: Any,
    goals: Float[np.ndarray, "rows goals"],
    counts: Float[np.ndarray, " rows"],
    fold: Int64[np.ndarray, " rows"],
    seed: int,
) -> tuple[Float[np.ndarray, "terms goals"], Float[np.ndarray, "rows goals"]]:
    """Ridge regression at the penalty that is best over the inner folds: its weights, and the prediction for each row
    by the model that was fitted without its inner fold.

    Predictions are relative to the mean of the rows that a model was fitted on, without its intercept: the mean of four
    fifths of the rows would tell that of the others."""
    drawn = np.sort(np.random.default_rng(seed).permutation(len(goals))[:_SEARCHED_ROWS])
    near = _products(terms[drawn])
    strength = _best_strength(near, goals[drawn], counts[drawn], fold[drawn])
    if len(goals) <= _EXACT_ROWS:
        return _by_rows(_products(terms), terms, goals, counts, fold, strength)
    if isinstance(terms, np.ndarray):
        return _by_terms(terms, goals, counts, fold, strength)
    without = np.zeros(goals.shape)
    for rows in _others(fold):
        weights = _descended(terms[rows], goals[rows], counts[rows], strength)
        without[~rows] = terms[~rows] @ weights - mean_of(terms[rows], counts[rows]) @ weights
    return _descended(terms, goals, counts, strength), without


def _others(fold: Int64[np.ndarray, " rows"]) -> Iterator[Bool[np.ndarray, " rows"]]:
    """The rows beyond each inner fold; nothing of a single one."""
    for number in np.unique(fold):
        rows = fold != number
        if rows.any():
            yield rows


def _by_rows(
    near: Float[np.ndarray, "rows rows"],
    terms: Any,
    goals: Float[np.ndarray, "rows goals"],
    counts: Float[np.ndarray, " rows"],
    fold: Int64[np.ndarray, " rows"],
    strength: float,
) -> tuple[Float[np.ndarray, "terms goals"], Float[np.ndarray, "rows goals"]]:
    """``_ridge`` from the products of rows, ``near``."""
    without = np.zeros(goals.shape)
    for rows in _others(fold):
        inside, across, aims = _aroundmean_of(near, goals, counts, rows)
        without[~rows] = across @ _solved(inside, aims, counts[rows], strength)
    everything = np.ones(len(goals), dtype=bool)
    inside, _, aims = _aroundmean_of(near, goals, counts, everything)
    dual = _solved(inside, aims, counts, strength)
    share = (counts / counts.sum())[:, None]
    return terms.T @ (dual - share * dual.sum(axis=0)), without


def _by_terms(
    terms: Float[np.ndarray, "rows terms"],
    goals: Float[np.ndarray, "rows goals"],
    counts: Float[np.ndarray, " rows"],
    fold: Int64[np.ndarray, " rows"],
    strength: float,
) -> tuple[Float[np.ndarray, "terms goals"], Float[np.ndarray, "rows goals"]]:
    """``_ridge`` from the weighted products of terms and goals, which are summed once for each inner fold."""
    columns = [terms, goals, np.ones((len(goals), 1))]
    parts, width = {}, terms.shape[1]
    for number in np.unique(fold):
        inside = fold == number
        some = np.concatenate([part[inside] for part in columns], axis=1) * np.sqrt(counts[inside])[:, None]
        parts[number] = some.T @ some
    whole = np.sum(list(parts.values()), axis=0)
    without = np.zeros(goals.shape)
    for number, part in parts.items():
        if len(parts) > 1:
            weights, mean = _of_products(whole - part, width, strength)
            without[fold == number] = (terms[fold == number] - mean) @ weights
    return _of_products(whole, width, strength)[0], without


def _of_products(
    products: Float[np.ndarray, "columns columns"], width: int, strength: float
) -> tuple[Float[np.ndarray, "terms goals"], Float[np.ndarray, " terms"]]:
    """Weights of a ridge regression with an intercept, and the mean of the terms.

    Args:
        products: weighted ones of all columns with each other: terms, goals, and a column of ones.
        width: number of terms.
    """
    from scipy.linalg import solve

    mean = products[:-1, -1] / max(float(products[-1, -1]), _NOTHING)
    around = products[:-1, :-1] - np.outer(mean, products[:-1, -1])
    around[np.arange(width), np.arange(width)] += strength
    found: np.ndarray = solve(around[:width, :width], around[:width, width:], assume_a="pos")
    return found, mean[:width]


def _products(terms: Any) -> Float[np.ndarray, "rows rows"]:
    """Of all rows with each other."""
    found = terms @ terms.T
    return np.asarray(found if isinstance(found, np.ndarray) else found.toarray(), dtype=np.float64)


def mean_of(terms: Any, counts: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " terms"]:
    """The weighted mean of the rows."""
    found: np.ndarray = terms.T @ (counts / counts.sum())
    return found


def _aroundmean_of(
    near: Float[np.ndarray, "every every"],
    goals: Float[np.ndarray, "every goals"],
    counts: Float[np.ndarray, " every"],
    rows: Bool[np.ndarray, " every"],
) -> tuple[Float[np.ndarray, "rows rows"], Float[np.ndarray, "others rows"], Float[np.ndarray, "rows goals"]]:
    """Products of some rows with each other, and of the others with them, and their goals, around their mean."""
    share = counts[rows] / counts[rows].sum()
    inside, across = near[np.ix_(rows, rows)], near[np.ix_(~rows, rows)]
    mean = inside @ share
    total = share @ mean
    around = across - (across @ share)[:, None] - mean + total
    return inside - mean - mean[:, None] + total, around, goals[rows] - share @ goals[rows]


def _best_strength(
    near: Float[np.ndarray, "rows rows"],
    goals: Float[np.ndarray, "rows goals"],
    counts: Float[np.ndarray, " rows"],
    fold: Int64[np.ndarray, " rows"],
) -> float:
    """The penalty with the lowest squared error over the inner folds, from the products of rows."""
    errors = np.zeros(len(_STRENGTHS))
    for number in np.unique(fold):
        rows = fold != number
        if not rows.any():
            continue
        inside, across, aims = _aroundmean_of(near, goals, counts, rows)
        roots = np.sqrt(counts[rows])[:, None]
        values, vectors = np.linalg.eigh(inside * roots * roots.T)
        turned, seen = vectors.T @ (aims * roots), across @ (roots * vectors)
        for place, strength in enumerate(_STRENGTHS):
            found = seen @ (turned / (np.maximum(values, 0) + strength)[:, None])
            errors[place] += (((found - goals[~rows]) ** 2).sum(axis=1) * counts[~rows]).sum()
    return float(_STRENGTHS[errors.argmin()])


def _solved(
    near: Float[np.ndarray, "rows rows"],
    aims: Float[np.ndarray, "rows goals"],
    counts: Float[np.ndarray, " rows"],
    strength: float,
) -> Float[np.ndarray, "rows goals"]:
    from scipy.linalg import solve

    found: np.ndarray = solve(near + np.diag(strength / np.maximum(counts, _NOTHING)), aims, assume_a="pos")
    return found


def _descended(
    terms: Any, goals: Float[np.ndarray, "rows goals"], counts: Float[np.ndarray, " rows"], strength: float
) -> Float[np.ndarray, "terms goals"]:
    from sklearn.linear_model import Ridge

    model = Ridge(strength, solver="sparse_cg", tol=_TOLERANCE, max_iter=_STEPS)
    found: np.ndarray = model.fit(terms, goals, counts).coef_
    return found.reshape(goals.shape[1], terms.shape[1]).T
