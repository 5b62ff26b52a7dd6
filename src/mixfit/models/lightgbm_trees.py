"""Boosted trees grown by LightGBM, as plain arrays, where the extra ``boost`` is installed.

In: columns of the training rows, with or without components of their photos. Out: ``TreeModel``, which predicts without
LightGBM. See Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", NeurIPS 2017."""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float

from mixfit.errors import ConfigError
from mixfit.models.tree_model import (
    CATEGORICAL,
    LEAF,
    MISSING_LEFT,
    MOST_LEVELS,
    NODES,
    TreeModel,
    with_all_classes,
)

_WORDS = 8  # of 32 bits each, in a set of categories
_INFINITE = 1e300  # so LightGBM writes an infinite threshold
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

    Weights count in gradients and leaves, not in the bins of the numbers, nor in how many rows a leaf holds at least.

    Args:
        columns: numbers, and at the end one column of levels for each of ``levels``; nan = missing.
        truth: numbers, or class indices.
        levels: how many levels each of the last columns has; columns of more than 255 are taken as numbers.
        classes: of the target; 0 for a number.
        weight: how much each row counts, in any unit.
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
    model = trees_of_dump(grown.dump_model(), categorical, levels, seen, classes)
    expected = np.asarray(grown.predict(columns[:64]))
    found = model.predict(columns[:64])
    if classes:
        found = found[:, seen] if len(seen) > 2 else found[:, seen[-1]]
    if not np.allclose(found, expected, atol=1e-6):  # how it keeps trees is not part of what LightGBM promises
        raise RuntimeError("This version of LightGBM writes its trees in another way than mixfit knows.")
    return model


def _objective(seen: int, classes: int) -> dict[str, Any]:
    if not classes:
        return {"objective": "regression"}
    return {"objective": "binary"} if seen <= 2 else {"objective": "multiclass", "num_class": seen}


def trees_of_dump(
    dumped: dict[str, Any], categorical: np.ndarray, levels: tuple[int, ...], seen: np.ndarray, classes: int
) -> TreeModel:
    """What LightGBM tells of a model, one array after another.

    Args:
        dumped: by ``lightgbm.Booster.dump_model``.
        categorical: bool ``(columns,)``, whether a column is split by category.
        levels: how many levels each of the last columns has.
        seen: the classes that the trees know, in ascending order; none for a number.
        classes: of the target; 0 for a number.
    Raises:
        RuntimeError: zeros are taken as missing, or leaves are linear models.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in NODES}
    bitsets, roots, offset, splits = [np.zeros((1, _WORDS), np.uint32)], [], 0, 1
    for tree in dumped["tree_info"]:
        nodes, sets = _one_tree(tree["tree_structure"])
        nodes |= {name: nodes[name] + offset for name in ("left", "right")}
        parts["bitset"].append(nodes.pop("bitset") + splits)
        for name, values in nodes.items():
            parts[name].append(values)
        bitsets.append(sets)
        roots.append(offset)
        offset, splits = offset + len(nodes["value"]), splits + len(sets)
    shaped = np.array(roots, dtype=np.int64).reshape(-1, dumped["num_tree_per_iteration"])
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


def _one_tree(root: dict[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Nodes of a tree, children after their parents, and the sets of categories that go to the left."""
    order, rows = [root], []
    sets: list[list[int]] = []
    for node in order:  # grows while it is walked
        if "split_feature" not in node:
            if "leaf_coeff" in node:
                raise RuntimeError("Trees with linear leaves are not known to mixfit.")
            rows.append((node["leaf_value"], 0.0, 0, 0, 0, LEAF, 0))
            continue
        left, threshold, number = len(order), 0.0, 0
        order += [node["left_child"], node["right_child"]]
        if node["decision_type"] == "==":
            flags, number = CATEGORICAL, len(sets)  # a missing one goes to the right
            sets.append(_bits(int(level) for level in node["threshold"].split("||")))
        else:
            threshold = node["threshold"] if node["threshold"] < _INFINITE else np.inf
            flags = MISSING_LEFT if _missing_goes_left(node) else 0
        rows.append((0.0, threshold, node["split_feature"], left, left + 1, flags, number))
    kinds = {"value": np.float64, "threshold": np.float64, "flags": np.uint8}
    columns = zip(NODES, zip(*rows, strict=True), strict=True)
    nodes = {name: np.array(values, dtype=kinds.get(name, np.int64)) for name, values in columns}
    return nodes, np.array(sets, dtype=np.uint32).reshape(-1, _WORDS)


def _missing_goes_left(node: dict[str, Any]) -> bool:
    """Of a number; where nothing was missing when the tree was grown, a missing number is taken as 0."""
    match node["missing_type"]:
        case "NaN":
            return bool(node["default_left"])
        case "None":
            return bool(node["threshold"] >= 0)
        case other:
            raise RuntimeError(f"Trees that take {other} as missing are not known to mixfit.")


def _bits(levels: Iterable[int]) -> list[int]:
    """A set of levels below 256 as words of 32 bits."""
    words = [0] * _WORDS
    for level in levels:
        words[level >> 5] |= 1 << (level & 31)
    return words
