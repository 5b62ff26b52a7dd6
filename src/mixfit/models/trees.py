"""Boosted trees grown by scikit-learn, as plain arrays.

In: columns of the training rows, with or without components of their photos. Out: ``TreeModel``."""

from typing import Any

import numpy as np
from jaxtyping import Float

from mixfit.models.tree_model import (
    CATEGORICAL,
    LEAF,
    MISSING_LEFT,
    MOST_LEVELS,
    NODES,
    TreeModel,
    with_all_classes,
)


def grow_trees(
    columns: Float[np.ndarray, "rows columns"],
    truth: np.ndarray,
    *,
    levels: tuple[int, ...],
    classes: int,
    weight: np.ndarray | None = None,
    rounds: int = 100,
    seed: int = 0,
) -> TreeModel:
    """Grow HistGradientBoosting by default settings but without early stopping, which would give up a tenth of rows.

    Weights count in gradients and leaves. The bins of the numbers are quantiles of rows, whatever these weigh, and a
    leaf holds 20 rows at least: scikit-learn knows no other way.

    Args:
        columns: numbers, and at the end one column of levels for each of ``levels``.
        truth: numbers, or class indices.
        levels: how many levels each of the last columns has; columns of more than 255 are taken as numbers.
        classes: of the target; 0 for a number.
        weight: how much each row counts, in any unit.
        rounds: trees for each output.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    numbers = columns.shape[1] - len(levels)
    categorical = np.array([False] * numbers + [count <= MOST_LEVELS for count in levels])
    settings: dict[str, Any] = {
        "random_state": seed,
        "categorical_features": categorical if categorical.any() else None,
        "early_stopping": False,
        "max_iter": rounds,
    }
    grown = (HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor)(**settings)
    grown.fit(columns, truth, None if weight is None else weight / weight.mean())
    model = _as_arrays(grown, categorical, levels, classes)
    expected = grown.predict_proba(columns[:64]) if classes else grown.predict(columns[:64])
    found = model.predict(columns[:64])
    found = found[:, grown.classes_] if classes else found
    if not np.allclose(found, expected, atol=1e-6):  # its arrays are not part of what scikit-learn promises
        raise RuntimeError("This version of scikit-learn keeps its trees in another way than mixfit knows.")
    return model


def _as_arrays(grown: Any, categorical: np.ndarray, levels: tuple[int, ...], classes: int) -> TreeModel:
    """What scikit-learn has grown, one array after another."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in NODES}
    bitsets, roots, offset, splits = [], [], 0, 0
    for trees in grown._predictors:
        for tree in trees:
            nodes = tree.nodes
            parts["value"].append(nodes["value"])
            parts["threshold"].append(nodes["num_threshold"])
            parts["feature"].append(nodes["feature_idx"])
            parts["left"].append(nodes["left"].astype(np.int64) + offset)
            parts["right"].append(nodes["right"].astype(np.int64) + offset)
            flags = nodes["is_leaf"] * LEAF + nodes["is_categorical"] * CATEGORICAL
            parts["flags"].append((flags + nodes["missing_go_to_left"] * MISSING_LEFT).astype(np.uint8))
            parts["bitset"].append(nodes["bitset_idx"].astype(np.int64) + splits)
            bitsets.append(tree.raw_left_cat_bitsets)
            roots.append(offset)
            offset, splits = offset + len(nodes), splits + len(tree.raw_left_cat_bitsets)
    by_category, numbers = np.flatnonzero(categorical), np.flatnonzero(~categorical)
    codes: list[np.ndarray | None] = [None] * len(categorical)
    if len(by_category):
        encoder = grown._preprocessor.named_transformers_["encoder"]
        first = len(categorical) - len(levels)
        for place, (column, seen) in enumerate(zip(by_category, encoder.categories_, strict=True)):
            known = np.full(levels[column - first], -1, dtype=np.int64)
            known[seen.astype(np.int64)] = np.arange(len(seen))
            codes[place] = known
    width = len(grown._predictors[0])
    baseline = np.asarray(grown._baseline_prediction, dtype=np.float64).reshape(-1)
    shaped = np.array(roots, dtype=np.int64).reshape(-1, width)
    if classes:
        shaped, baseline = with_all_classes(grown.classes_, shaped, baseline, parts, classes)
    return TreeModel(
        nodes={name: np.concatenate(values) for name, values in parts.items()},
        bitsets=np.concatenate(bitsets),
        roots=shaped,
        baseline=baseline,
        codes=tuple(codes),
        order=np.concatenate([by_category, numbers]).astype(np.int64),
        classes=classes,
    )
