"""Boosted trees grown by LightGBM, as plain arrays, where the extra ``boost`` is installed.

In: columns of the training rows, with or without components of their photos. Out: ``TreeModel``, which predicts without
LightGBM. See Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", NeurIPS 2017."""

from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float

from mixfit.candidates.tree_model import (
    CATEGORICAL,
    LEAF,
    MISSING_LEFT,
    MOST_LEVELS,
    NODES,
    TreeModel,
    with_all_classes,
)
from mixfit.errors import ConfigError

_WORDS = 8  # of 32 bits each, in a set of categories
# Bits of LightGBM's decision_type; two more bits say what is missing: 0 nothing, 1 zeros, 2 nan.
_BY_CATEGORY, _DEFAULT_LEFT = 1, 2
_ZEROS, _NAN = 1, 2
_SETTINGS: dict[str, Any] = {
    "learning_rate": 0.05,
    "num_leaves": 7,  # small trees are best for some hundred rows, and nearly so for some thousand
    "min_data_in_leaf": 10,
    "lambda_l2": 1.0,
    "deterministic": True,
    "force_col_wise": True,  # else it takes the way that is faster at that moment
    "verbosity": -1,
}


def lightgbm_is_installed() -> bool:
    """Whether LightGBM could be imported, without doing so."""
    return find_spec("lightgbm") is not None


def grow_lightgbm(
    columns: Float[np.ndarray, "rows columns"],
    truth: np.ndarray,
    *,
    levels: tuple[int, ...],
    classes: int,
    weight: np.ndarray | None = None,
    rounds: int = 200,
    seed: int = 0,
    threads: int = 1,
) -> TreeModel:
    """Grow LightGBM's trees, which are the same whatever the number of threads.

    Args:
        columns: numbers, and at the end one column of levels for each of ``levels``; nan = missing.
        truth: numbers, or class indices.
        levels: how many levels each of the last columns has; columns of more than 255 are taken as numbers.
        classes: of the target; 0 for a number.
        rounds: trees for each output.
    Raises:
        ConfigError: LightGBM is not installed.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise ConfigError("LightGBM is not installed: pip install 'mixfit[boost]'") from error

    numbers = columns.shape[1] - len(levels)
    categorical = np.array([False] * numbers + [count <= MOST_LEVELS for count in levels])
    seen, labels = np.unique(truth, return_inverse=True) if classes else (np.zeros(0, np.int64), truth)
    if len(seen) == 1:
        labels = np.ones(len(truth))  # of two classes the other one is 0
    settings = _SETTINGS | _objective(len(seen), classes) | {"seed": seed, "num_threads": threads}
    data = lightgbm.Dataset(
        columns,
        labels,
        weight=None if weight is None else weight / weight.mean(),  # leaves are shrunk by a sum of weights
        categorical_feature=np.flatnonzero(categorical).tolist(),
        params=settings,
    )
    grown = lightgbm.train(settings, data, num_boost_round=rounds)
    model = trees_of_text(grown.model_to_string(), categorical, levels, seen, classes)
    expected = np.asarray(grown.predict(columns[:64]))
    found = model.predict(columns[:64])
    if classes:
        found = found[:, seen] if len(seen) > 2 else found[:, seen[-1]]
    if not np.allclose(found, expected, atol=1e-6):  # what its text means is not part of what LightGBM promises
        raise RuntimeError("This version of LightGBM writes its trees in another way than mixfit knows.")
    return model


def _objective(seen: int, classes: int) -> dict[str, Any]:
    if not classes:
        return {"objective": "regression"}
    return {"objective": "binary"} if seen <= 2 else {"objective": "multiclass", "num_class": seen}


def trees_of_text(
    text: str, categorical: np.ndarray, levels: tuple[int, ...], seen: np.ndarray, classes: int
) -> TreeModel:
    """What the text of a LightGBM model says, one array after another.

    Args:
        text: by ``lightgbm.Booster.model_to_string``.
        categorical: bool ``(columns,)``, whether a column is split by category.
        levels: how many levels each of the last columns has.
        seen: the classes that the trees know, in ascending order; none for a number.
        classes: of the target; 0 for a number.
    Raises:
        RuntimeError: zeros are taken as missing, or leaves are linear models.
    """
    head, *trees = text.partition("\nend of trees")[0].split("\nTree=")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in NODES}
    bitsets, roots, offset, splits = [np.zeros((1, _WORDS), np.uint32)], [], 0, 1
    for tree in trees:
        nodes, sets = _one_tree(_fields(tree))
        nodes |= {name: nodes[name] + offset for name in ("left", "right")}
        parts["bitset"].append(nodes.pop("bitset") + splits)
        for name, values in nodes.items():
            parts[name].append(values)
        bitsets.append(sets)
        roots.append(offset)
        offset, splits = offset + len(nodes["value"]), splits + len(sets)
    shaped = np.array(roots, dtype=np.int64).reshape(-1, int(_fields(head)["num_tree_per_iteration"]))
    baseline = np.zeros(shaped.shape[1])
    if classes:
        shaped, baseline = with_all_classes(seen, shaped, baseline, parts, classes)
    first = len(categorical) - len(levels)
    return TreeModel(
        nodes={name: np.concatenate(values) for name, values in parts.items()},
        bitsets=np.concatenate(bitsets),
        roots=shaped,
        baseline=baseline,
        codes=tuple(
            np.arange(levels[column - first]) if by_category else None for column, by_category in enumerate(categorical)
        ),
        order=np.arange(len(categorical)),
        classes=classes,
    )


def _fields(block: str) -> dict[str, str]:
    lines = (line.partition("=") for line in block.splitlines())
    return {name: value for name, equals, value in lines if equals}


def _one_tree(fields: dict[str, str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Nodes of a tree, its leaves after its splits, and the sets of categories that go to the left."""

    def numbers(name: str, kind: type[np.generic]) -> np.ndarray:
        return np.array(fields.get(name, "").split(), dtype=kind)

    leaves, threshold = numbers("leaf_value", np.float64), numbers("threshold", np.float64)
    decision = numbers("decision_type", np.int64)
    inner, missing, by_category = len(decision), decision >> 2 & 3, (decision & _BY_CATEGORY) != 0
    if (missing == _ZEROS).any() or fields.get("is_linear", "0") != "0":
        raise RuntimeError("Trees that take zeros as missing, or have linear leaves, are not known to mixfit.")
    # Where nothing was missing when the tree was grown, a missing number is 0; a missing category goes to the right.
    missing_left = np.where(missing == _NAN, (decision & _DEFAULT_LEFT) != 0, threshold >= 0) & ~by_category
    flags = by_category * CATEGORICAL + missing_left * MISSING_LEFT
    nothing = np.zeros(len(leaves))

    def places(name: str) -> np.ndarray:
        """LightGBM counts splits from 0 up and leaves from -1 down."""
        child = numbers(name, np.int64)
        return np.concatenate([np.where(child >= 0, child, inner - 1 - child), nothing]).astype(np.int64)

    nodes = {
        "value": np.concatenate([np.zeros(inner), leaves]),
        "threshold": np.concatenate([threshold, nothing]),
        "feature": np.concatenate([numbers("split_feature", np.int64), nothing]).astype(np.int64),
        "left": places("left_child"),
        "right": places("right_child"),
        "flags": np.concatenate([flags, nothing + LEAF]).astype(np.uint8),
        # In the place of a threshold is the number of the set.
        "bitset": np.concatenate([np.where(by_category, threshold, 0), nothing]).astype(np.int64),
    }
    ends, words = numbers("cat_boundaries", np.int64), numbers("cat_threshold", np.uint32)
    sets = np.zeros((max(len(ends) - 1, 0), _WORDS), np.uint32)
    for place, (start, end) in enumerate(pairwise(ends)):
        sets[place, : end - start] = words[start:end]
    return nodes, sets
