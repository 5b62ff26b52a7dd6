"""Boosted trees, grown and applied by LightGBM, and kept in its own text format.

In: encoded rows of one fold. Out: the trees as text, of which LightGBM is handed only what was checked first: its own
reader believes all that it is told, and a walk through damaged trees need not end.
See Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", NeurIPS 2017."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import softmax

from mixfit.errors import DataError, ResourceError
from mixfit.models.encoding import EncodedRows
from mixfit.models.model import TABLE, Components, Layout, Rows, Sees, State, TrainingRows, name_of, saved_array

COMPONENTS = 30
"""Directions of the photos' features that the trees see."""
_MOST_LEVELS = 255  # of a column that is taken as categorical
_TREE_BUDGET = 2_000
"""Most trees of a model: rounds times classes."""
_FEWEST_ROUNDS, _ROUNDS = 20, 200
_SETTINGS: dict[str, Any] = {
    "learning_rate": 0.05,
    "num_leaves": 7,  # small trees are best for some hundred rows, and nearly so for some thousand
    "min_data_in_leaf": 10,
    "lambda_l2": 1.0,
    "deterministic": True,
    "force_col_wise": True,  # else it takes the way that is faster at that moment
    "verbosity": -1,
}
_IMPROBABLE = -30.0
"""Log-odds of a class that no training row has."""
_MOST_TREES, _MOST_LEAVES = 100_000, 1_000  # of a text that is read
_CATEGORICAL = 1
_DECISIONS = (0, 2, 8, 10, 1, 9)
"""Kinds of splits: of a number, where nothing or nan is missing and goes to the right or the left; of a category."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeModel:
    """Trees whose leaves add up to a number, or to the log-odds of classes."""

    text: bytes
    """In LightGBM's format, as ``checked_text`` writes it."""
    seen: np.ndarray
    """int64: the classes that training rows have, in ascending order; none for a number."""
    classes: int
    """0 for a number."""
    booster: Any
    """LightGBM's, of that text."""

    @classmethod
    def of(cls, text: bytes, seen: np.ndarray, *, columns: int, classes: int) -> "TreeModel":
        """From a text in LightGBM's format.

        Raises:
            DataError: it is something else, or not of so many columns and classes.
        """
        checked = checked_text(text, columns=columns, outputs=len(seen) if len(seen) > 2 else 1)
        booster = lightgbm().Booster(model_str=checked.decode("ascii"))
        return cls(text=checked, seen=seen, classes=classes, booster=booster)

    def predict(self, columns: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows ..."]:
        """float64 numbers ``(rows,)``, or probabilities ``(rows, classes)``."""
        if not len(columns):
            return np.zeros((0, self.classes) if self.classes else 0)
        raw = np.asarray(self.booster.predict(columns, raw_score=True, num_threads=torch.get_num_threads()))
        if not self.classes:
            return raw
        if len(self.seen) <= 2:  # the log-odds of the second of two classes
            raw = np.stack([np.zeros_like(raw), raw], axis=1)[:, -len(self.seen) :]
        found = np.full((len(columns), self.classes), _IMPROBABLE)
        found[:, self.seen] = raw
        return softmax(found, axis=1)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything, by name."""
        return {"text": np.frombuffer(self.text, dtype=np.uint8).copy(), "classes": self.seen}

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], *, columns: int, classes: int) -> "TreeModel":
        """Read what ``arrays`` gave.

        Raises:
            DataError: it is something else, or not of so many columns and classes.
        """
        seen = saved_array(arrays, "classes", None, kind="int", low=0, high=max(classes - 1, 0))
        if (np.diff(seen) <= 0).any() or bool(classes) != bool(len(seen)):
            raise DataError("the classes of the trees are not those of the target")
        text = saved_array(arrays, "text", None, kind="byte").tobytes()
        return cls.of(text, seen, columns=columns, classes=classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoostedTrees:
    """LightGBM on components of the photos, numbers and categories."""

    sees: Sees = TABLE

    @property
    def name(self) -> str:
        """See ``Model``."""
        return name_of("boosted trees", self.sees)

    def fit(self, rows: TrainingRows, truth: np.ndarray, weight: np.ndarray | None, seed: int) -> "FittedTrees":
        """See ``Model``."""
        layout, table = rows.layout, "table" in self.sees
        components = rows.components(COMPONENTS, weight, seed) if "photos" in self.sees else None
        model = grow_trees(
            _columns(rows.encoded, components, table=table),
            truth,
            levels=layout.cardinalities[: layout.categories] if table else (),
            classes=layout.classes,
            weight=weight,
            rounds=max(_FEWEST_ROUNDS, min(_ROUNDS, _TREE_BUDGET // max(layout.classes, 1))),
            seed=seed,
        )
        return FittedTrees(table=table, components=components, model=model)

    def load(self, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], layout: Layout) -> "FittedTrees":
        """See ``Model``."""
        if "model.threshold" in arrays:
            raise DataError("its boosted trees are kept in the way of an earlier mixfit, which this one does not read")
        table = "table" in self.sees
        components = Components.read(arrays, layout) if "photos" in self.sees else None
        width = (0 if components is None else len(components.axes)) + table * (layout.numeric + layout.categories)
        # A column of zeros stands for one that is not there, see ``_columns``.
        width += components is None and not (layout.numeric and table)
        model = TreeModel.read(arrays, columns=width, classes=layout.classes)
        return FittedTrees(table=table, components=components, model=model)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedTrees:
    """A ``TreeModel`` and how its columns are made."""

    table: bool
    components: Components | None
    model: TreeModel

    def predict(self, rows: Rows) -> np.ndarray:
        """See ``FittedModel``."""
        return self.model.predict(_columns(rows.encoded, self.components, table=self.table))

    def state(self) -> State:
        """See ``FittedModel``."""
        return self.model.arrays() | ({} if self.components is None else self.components.arrays()), {}


def _columns(encoded: EncodedRows, components: Components | None, *, table: bool) -> np.ndarray:
    """Components and numbers, then levels; trees want at least one column."""
    parts = [np.zeros((len(encoded), 1))] if components is None and not (table and encoded.numeric.shape[1]) else []
    parts += [] if components is None else [components.of(encoded)]
    parts += [encoded.numeric, encoded.categorical] if table else []
    return np.concatenate(parts, axis=1).astype(np.float64)


def grow_trees(
    columns: Float[np.ndarray, "rows columns"],
    truth: np.ndarray,
    *,
    levels: tuple[int, ...],
    classes: int,
    weight: np.ndarray | None = None,
    rounds: int = _ROUNDS,
    seed: int = 0,
) -> TreeModel:
    """Grow trees, which are the same whatever the number of threads.

    Weights count in gradients and leaves, not in the bins of the numbers, nor in how many rows a leaf holds at least.

    Args:
        columns: numbers, and at the end one column of levels for each of ``levels``; nan = missing.
        truth: numbers, or class indices.
        levels: how many levels each of the last columns has; columns of more than 255 are taken as numbers.
        classes: of the target; 0 for a number.
        weight: how much each row counts, in any unit.
        rounds: trees for each output.
    Raises:
        ResourceError: LightGBM cannot be loaded.
    """
    library = lightgbm()
    numbers = columns.shape[1] - len(levels)
    categorical = [numbers + place for place, count in enumerate(levels) if count <= _MOST_LEVELS]
    seen, labels = np.unique(truth, return_inverse=True) if classes else (np.zeros(0, np.int64), truth)
    if len(seen) == 1:
        labels = np.ones(len(truth))  # of two classes the other one is 0
    objective: dict[str, Any] = {"objective": "regression"} if not classes else {"objective": "binary"}
    if len(seen) > 2:
        objective = {"objective": "multiclass", "num_class": len(seen)}
    settings = _SETTINGS | objective | {"seed": seed, "num_threads": torch.get_num_threads()}
    data = library.Dataset(
        columns,
        labels,
        weight=None if weight is None else weight / weight.mean(),  # leaves are shrunk by a sum of weights
        categorical_feature=categorical,
        params=settings,
    )
    grown = library.train(settings, data, num_boost_round=rounds).model_to_string().encode()
    return TreeModel.of(grown, seen.astype(np.int64), columns=columns.shape[1], classes=classes)


def lightgbm() -> ModuleType:
    """The library.

    Raises:
        ResourceError: it, or what it needs of the system, is not installed.
    """
    try:
        import lightgbm as library
    except (ImportError, OSError) as error:
        raise ResourceError(
            f"LightGBM, which grows the boosted trees, cannot be loaded ({str(error).splitlines()[0]}): install the "
            "system's OpenMP library (apt-get install libgomp1, or brew install libomp) and pip install lightgbm."
        ) from error
    found: ModuleType = library
    return found


def checked_text(text: bytes, *, columns: int, outputs: int) -> bytes:
    """The trees of a text in LightGBM's format, written again from what was checked, and nothing else of it.

    Args:
        columns: that the trees may ask for.
        outputs: trees of a round.
    Raises:
        DataError: it is damaged, such as nodes that point to where there is none, or in a circle.
    """
    try:
        trees = [_checked_tree(tree, columns) for tree in _trees(text.decode("ascii").splitlines())]
    except DataError:  # is a ValueError, too
        raise
    except (KeyError, ValueError, OverflowError) as error:
        raise DataError("the text of the trees is damaged") from error
    if not trees or len(trees) % outputs:
        raise DataError(f"there are {len(trees)} trees for {outputs} outputs")
    head = {
        "version": "v4",
        "num_class": outputs,
        "num_tree_per_iteration": outputs,
        "label_index": 0,
        "max_feature_idx": columns - 1,
        "feature_names": " ".join(f"Column_{number}" for number in range(columns)),
        "feature_infos": " ".join(["none"] * columns),
    }
    lines = ["tree", *(f"{name}={value}" for name, value in head.items()), ""]
    for number, tree in enumerate(trees):
        said = (f"{name}={' '.join(map(repr, values))}" for name, values in tree.items())
        lines += [f"Tree={number}", *said, "", ""]
    return "\n".join([*lines, "end of trees", ""]).encode("ascii")


def _trees(lines: Iterable[str]) -> list[dict[str, str]]:
    """What each tree of a text says, by name."""
    trees: list[dict[str, str]] = []
    for line in lines:
        name, equals, value = line.partition("=")
        if line == "end of trees":
            return trees
        if name == "Tree":
            trees.append({})
        elif trees and equals:
            trees[-1][name] = value
        if len(trees) > _MOST_TREES:
            raise ValueError
    raise ValueError


def _checked_tree(said: dict[str, str], columns: int) -> dict[str, list[int] | list[float]]:
    """Every leaf and every split is in one place of the tree, and asks for a column that is there.

    Raises:
        DataError, KeyError, ValueError, OverflowError: it is not so.
    """
    leaves, sets = int(said["num_leaves"]), int(said["num_cat"])
    if not 1 <= leaves <= _MOST_LEAVES or not 0 <= sets < leaves or said["is_linear"] != "0":
        raise DataError("a tree of the text is none")
    found: dict[str, Any] = {"num_leaves": [leaves], "num_cat": [sets]}
    if leaves > 1:
        for name in ("split_feature", "decision_type", "left_child", "right_child"):
            found[name] = _whole(said[name], leaves - 1)
        found["threshold"] = _finite(said["threshold"], leaves - 1)
        left, right = found["left_child"], found["right_child"]
        # A split comes after the one that it is below; leaves are counted from -1 downwards.
        if sorted([*left, *right]) != [*range(-leaves, 0), *range(1, leaves - 1)] or any(
            0 <= child <= above for above, pair in enumerate(zip(left, right, strict=True)) for child in pair
        ):
            raise DataError("the trees are no trees: a node is below two others, in a circle, or not there")
        if not all(0 <= feature < columns for feature in found["split_feature"]):
            raise DataError("the trees ask for a column that is not there")
        kinds = found["decision_type"]
        if not all(kind in _DECISIONS for kind in kinds):
            raise DataError("the trees split in a way that mixfit does not know")
        by_category = [number for number, kind in zip(found["threshold"], kinds, strict=True) if kind & _CATEGORICAL]
        if sorted(by_category) != list(range(sets)):
            raise DataError("the trees split by categories that they do not have")
    found["leaf_value"] = _finite(said["leaf_value"], leaves)
    if sets:
        bounds = found["cat_boundaries"] = _whole(said["cat_boundaries"], sets + 1)
        if bounds[0] != 0 or any(second <= first for first, second in pairwise(bounds)):
            raise DataError("the sets of categories of the trees are damaged")
        words = found["cat_threshold"] = _whole(said["cat_threshold"], bounds[-1])
        if not all(0 <= word < 2**32 for word in words):
            raise DataError("the sets of categories of the trees are damaged")
    return found | {"is_linear": [0], "shrinkage": [1]}


def _whole(text: str, count: int) -> list[int]:
    """So many whole numbers; errors as for ``_checked_tree``."""
    found = [int(part) for part in text.split()]
    if len(found) != count:
        raise DataError("a tree of the text is none")
    return found


def _finite(text: str, count: int) -> list[float]:
    """So many finite numbers; errors as for ``_checked_tree``."""
    found = [float(part) for part in text.split()]
    if len(found) != count or not all(map(isfinite, found)):
        raise DataError("a tree of the text is none")
    return found
