"""Gradient boosting with LightGBM, saved in its text format.

In: encoded rows of one fold. Out: the trees as text, which is checked before LightGBM reads it: LightGBM does not check
its input, and prediction with damaged trees may never end.
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
from mixfit.models.model import (
    TABLE,
    Components,
    FittedModel,
    Layout,
    Rows,
    Sees,
    State,
    TrainingRows,
    name_of,
    saved_array,
)
from mixfit.models.ordered import fit_steps, load_steps

COMPONENTS = 30
"""Number of principal components of the photo features."""
_MOST_LEVELS = 255  # of a categorical column
_TREE_BUDGET = 2_000
"""Largest number of trees of a model: rounds times classes."""
_FEWEST_ROUNDS, _ROUNDS = 20, 200
_SETTINGS: dict[str, Any] = {
    "learning_rate": 0.05,
    "num_leaves": 7,  # small trees are best for some hundred rows, and nearly so for some thousand
    "min_data_in_leaf": 10,
    "lambda_l2": 1.0,
    "deterministic": True,
    "force_col_wise": True,  # else LightGBM chooses by timing
    "verbosity": -1,
}
_IMPROBABLE = -30.0
"""Log-odds of a class without training rows."""
_MOST_TREES, _MOST_LEAVES = 100_000, 1_000  # limits for reading
_CATEGORICAL = 1
_DECISIONS = (0, 2, 8, 10, 1, 9)
"""Kinds of splits: numeric without missing values, numeric with nan to the right or left, and categorical."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeModel:
    """Trees whose leaf values sum to a number, or to the log-odds of classes."""

    text: bytes
    """In LightGBM's format, as ``checked_text`` writes it."""
    seen: np.ndarray
    """int64: the classes of the training rows, in ascending order; empty for regression."""
    classes: int
    """Number of classes; 0 for regression."""
    booster: Any
    """LightGBM's booster of that text."""

    @classmethod
    def of(cls, text: bytes, seen: np.ndarray, *, columns: int, classes: int) -> "TreeModel":
        """Load a text in LightGBM's format.

        Raises:
            DataError: it is invalid, or does not match the columns or classes.
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
        """All arrays, by name."""
        return {"text": np.frombuffer(self.text, dtype=np.uint8).copy(), "classes": self.seen}

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], *, columns: int, classes: int) -> "TreeModel":
        """Read the output of ``arrays``.

        Raises:
            DataError: it is invalid, or does not match the columns or classes.
        """
        seen = saved_array(arrays, "classes", None, kind="int", low=0, high=max(classes - 1, 0))
        if (np.diff(seen) <= 0).any() or bool(classes) != bool(len(seen)):
            raise DataError("the classes of the trees do not match the target")
        text = saved_array(arrays, "text", None, kind="byte").tobytes()
        return cls.of(text, seen, columns=columns, classes=classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoostedTrees:
    """LightGBM on components and scores of the photos, features of texts, numbers and categories."""

    sees: Sees = TABLE

    @property
    def name(self) -> str:
        """See ``Model``."""
        return name_of("boosted trees", self.sees)

    def fit(self, rows: TrainingRows, truth: np.ndarray, weight: np.ndarray | None, seed: int) -> FittedModel:
        """See ``Model``."""
        if rows.layout.ordered:
            return fit_steps(self, rows, truth, weight, seed)
        layout, table = rows.layout, "table" in self.sees
        components = rows.components(COMPONENTS, weight, seed) if "photos" in self.sees else None
        model = grow_trees(
            _columns(rows.encoded, components, table=table, text="text" in self.sees),
            truth,
            levels=layout.cardinalities[: layout.categories] if table else (),
            classes=layout.classes,
            counts=layout.counts,
            weight=weight,
            rounds=max(_FEWEST_ROUNDS, min(_ROUNDS, _TREE_BUDGET // max(layout.classes, 1))),
            seed=seed,
        )
        return FittedTrees(table=table, text="text" in self.sees, components=components, model=model)

    def load(self, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], layout: Layout) -> FittedModel:
        """See ``Model``."""
        if layout.ordered:
            return load_steps(self, arrays, config, layout)
        if "model.threshold" in arrays:
            raise DataError("its boosted trees are in the format of an earlier mixfit, which is no longer supported")
        table = "table" in self.sees
        components = Components.read(arrays, layout) if "photos" in self.sees else None
        width = 0 if components is None else len(components.axes) + layout.photo_scores
        width += table * (layout.numeric + layout.categories)
        width += ("text" in self.sees) * layout.text_features
        # A column of zeros replaces missing columns, see ``_columns``.
        width += components is None and not (layout.numeric and table)
        model = TreeModel.read(arrays, columns=width, classes=layout.classes)
        return FittedTrees(table=table, text="text" in self.sees, components=components, model=model)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedTrees:
    """A ``TreeModel`` with the construction of its columns."""

    table: bool
    text: bool
    components: Components | None
    model: TreeModel

    def predict(self, rows: Rows) -> np.ndarray:
        """See ``FittedModel``."""
        return self.model.predict(_columns(rows.encoded, self.components, table=self.table, text=self.text))

    def state(self) -> State:
        """See ``FittedModel``."""
        return self.model.arrays() | ({} if self.components is None else self.components.arrays()), {}


def _columns(encoded: EncodedRows, components: Components | None, *, table: bool, text: bool) -> np.ndarray:
    """Components and scores of photos, features of texts, numbers, then levels; at least one column, as LightGBM
    requires."""
    parts = [np.zeros((len(encoded), 1))] if components is None and not (table and encoded.numeric.shape[1]) else []
    parts += [] if components is None else [components.of(encoded)]
    parts += [encoded.photo_scores] if components is not None and encoded.photo_scores is not None else []
    parts += [encoded.text_columns] if text else []
    parts += [encoded.numeric, encoded.categorical] if table else []
    return np.concatenate(parts, axis=1).astype(np.float64)


def grow_trees(
    columns: Float[np.ndarray, "rows columns"],
    truth: np.ndarray,
    *,
    levels: tuple[int, ...],
    classes: int,
    counts: bool = False,
    weight: np.ndarray | None = None,
    rounds: int = _ROUNDS,
    seed: int = 0,
) -> TreeModel:
    """Fit trees, independently of the number of threads.

    Weights affect gradients and leaf values, but neither bins nor the minimum number of rows per leaf.

    Args:
        columns: numbers, and at the end one column of levels for each of ``levels``; nan = missing.
        truth: numbers, or class indices.
        levels: number of levels of each of the last columns; columns with more than 255 are used as numbers.
        classes: of the target; 0 for regression.
        counts: the target is a count; the trees then predict logarithms.
        weight: of each row, in any unit.
        rounds: trees per output.
    Raises:
        ResourceError: LightGBM cannot be loaded.
    """
    library = lightgbm()
    numbers = columns.shape[1] - len(levels)
    categorical = [numbers + place for place, count in enumerate(levels) if count <= _MOST_LEVELS]
    seen, labels = np.unique(truth, return_inverse=True) if classes else (np.zeros(0, np.int64), truth)
    if len(seen) == 1:
        labels = np.ones(len(truth))  # for two classes, the first one is 0
    objective: dict[str, Any] = {"objective": "regression"} if not classes else {"objective": "binary"}
    if counts and truth.any():
        objective = {"objective": "poisson"}
    if len(seen) > 2:
        objective = {"objective": "multiclass", "num_class": len(seen)}
    settings = _SETTINGS | objective | {"seed": seed, "num_threads": torch.get_num_threads()}
    data = library.Dataset(
        columns,
        labels,
        weight=None
        if weight is None
        else weight / weight.mean(),  # the regularisation of leaves depends on the sum of weights
        categorical_feature=categorical,
        params=settings,
    )
    grown = library.train(settings, data, num_boost_round=rounds).model_to_string().encode()
    return TreeModel.of(grown, seen.astype(np.int64), columns=columns.shape[1], classes=classes)


def lightgbm() -> ModuleType:
    """Import LightGBM.

    Raises:
        ResourceError: it, or a system library that it needs, is not installed.
    """
    try:
        import lightgbm as library
    except (ImportError, OSError) as error:
        raise ResourceError(
            f"LightGBM, needed for boosted trees, cannot be loaded ({str(error).splitlines()[0]}): install the "
            "system's OpenMP library (apt-get install libgomp1, or brew install libomp) and pip install lightgbm."
        ) from error
    found: ModuleType = library
    return found


def checked_text(text: bytes, *, columns: int, outputs: int) -> bytes:
    """Check a text in LightGBM's format, and rewrite it from the checked values only.

    Args:
        columns: number of columns that the trees may use.
        outputs: trees per round.
    Raises:
        DataError: it is damaged, for instance by nodes that point to missing nodes or form a cycle.
    """
    try:
        trees = [_checked_tree(tree, columns) for tree in _trees(text.decode("ascii").splitlines())]
    except DataError:  # it is a ValueError, too
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
    """The entries of each tree of a text, by name."""
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
    """Check that each leaf and split occurs once in the tree, and that splits use existing columns.

    Raises:
        DataError, KeyError, ValueError, OverflowError: the tree is invalid.
    """
    leaves, sets = int(said["num_leaves"]), int(said["num_cat"])
    if not 1 <= leaves <= _MOST_LEAVES or not 0 <= sets < leaves or said["is_linear"] != "0":
        raise DataError("a tree of the text is invalid")
    found: dict[str, Any] = {"num_leaves": [leaves], "num_cat": [sets]}
    if leaves > 1:
        for name in ("split_feature", "decision_type", "left_child", "right_child"):
            found[name] = _whole(said[name], leaves - 1)
        found["threshold"] = _finite(said["threshold"], leaves - 1)
        left, right = found["left_child"], found["right_child"]
        # A split comes after its parent; leaves are numbered from -1 downwards.
        if sorted([*left, *right]) != [*range(-leaves, 0), *range(1, leaves - 1)] or any(
            0 <= child <= above for above, pair in enumerate(zip(left, right, strict=True)) for child in pair
        ):
            raise DataError("the trees are invalid: a node has two parents, is in a cycle, or is missing")
        if not all(0 <= feature < columns for feature in found["split_feature"]):
            raise DataError("the trees use a column that does not exist")
        kinds = found["decision_type"]
        if not all(kind in _DECISIONS for kind in kinds):
            raise DataError("the trees have an unknown type of split")
        by_category = [number for number, kind in zip(found["threshold"], kinds, strict=True) if kind & _CATEGORICAL]
        if sorted(by_category) != list(range(sets)):
            raise DataError("the trees split by categories that do not exist")
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
    """Parse ``count`` integers; errors as for ``_checked_tree``."""
    found = [int(part) for part in text.split()]
    if len(found) != count:
        raise DataError("a tree of the text is invalid")
    return found


def _finite(text: str, count: int) -> list[float]:
    """Parse ``count`` finite numbers; errors as for ``_checked_tree``."""
    found = [float(part) for part in text.split()]
    if len(found) != count or not all(map(isfinite, found)):
        raise DataError("a tree of the text is invalid")
    return found
