"""Boosted trees for a few rows, without LightGBM, whose import takes longer than such a prediction.

In: the checked values of trees. Out: the sums of their leaf values, the same bits as LightGBM's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

_ZERO = 1e-35
"""LightGBM takes numbers up to this size for 0."""
_CATEGORICAL, _DEFAULT_LEFT, _MISSING_NAN = 1, 2, 8  # bits of decision_type


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeWalk:
    """All trees in one list of splits and one of leaves; leaf ``i`` is the child ``-1 - i``."""

    roots: Int64[np.ndarray, " trees"]
    feature: Int64[np.ndarray, " splits"]
    threshold: Float[np.ndarray, " splits"]
    left: Int64[np.ndarray, " splits"]
    right: Int64[np.ndarray, " splits"]
    categorical: Bool[np.ndarray, " splits"]
    nan_left: Bool[np.ndarray, " splits"]
    """Whether missing values go left."""
    nan_zero: Bool[np.ndarray, " splits"]
    """Whether missing values are 0."""
    first_word: Int64[np.ndarray, " splits"]
    """Index of the first word of the set of categories that goes left."""
    words: Int64[np.ndarray, " splits"]
    """Number of its words."""
    sets: Int64[np.ndarray, " words"]
    """The words of all sets, 32 categories each."""
    leaf: Float[np.ndarray, " leaves"]
    outputs: int
    """Trees per round."""

    @classmethod
    def of(cls, trees: Sequence[Mapping[str, Sequence[Any]]], outputs: int) -> "TreeWalk":
        """From the values of each tree, see ``checked_text``."""
        found: dict[str, list[np.ndarray]] = {}
        roots, splits, leaves, words = [], 0, 0, 0
        for tree in trees:
            count = len(tree["leaf_value"]) - 1
            roots.append(splits if count else -1 - leaves)
            kind = np.array(tree.get("decision_type", ()), dtype=np.int64)
            threshold = np.array(tree.get("threshold", ()), dtype=np.float64)
            bounds = np.array([*tree.get("cat_boundaries", (0,)), 0], dtype=np.int64)
            by_category = (kind & _CATEGORICAL) > 0
            own = np.where(by_category, threshold, 0).astype(np.int64)
            children = {side: np.array(tree.get(f"{side}_child", ()), dtype=np.int64) for side in ("left", "right")}
            parts = {side: np.where(child >= 0, child + splits, child - leaves) for side, child in children.items()}
            parts |= {
                "feature": np.array(tree.get("split_feature", ()), dtype=np.int64),
                "threshold": threshold,
                "categorical": by_category,
                "nan_left": (kind & (_DEFAULT_LEFT | _MISSING_NAN)) == (_DEFAULT_LEFT | _MISSING_NAN),
                "nan_zero": ((kind & _MISSING_NAN) == 0) & ~by_category,
                "first_word": bounds[own] + words,
                "words": np.where(by_category, bounds[own + 1] - bounds[own], 0),
                "sets": np.array(tree.get("cat_threshold", ()), dtype=np.int64),
                "leaf": np.array(tree["leaf_value"], dtype=np.float64),
            }
            for name, values in parts.items():
                found.setdefault(name, []).append(values)
            splits, leaves, words = splits + count, leaves + count + 1, words + len(parts["sets"])
        joined = {name: np.concatenate(values) for name, values in found.items()}
        return cls(roots=np.array(roots, dtype=np.int64), outputs=outputs, **joined)

    def sums(self, columns: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows ..."]:
        """float64 ``(rows,)``, or ``(rows, outputs)`` with several outputs."""
        columns = np.where(np.abs(columns) <= _ZERO, 0.0, columns)
        at = np.repeat(self.roots[None], len(columns), axis=0)
        while (inside := at >= 0).any():
            node = at[inside]
            at[inside] = self._children(node, columns[np.nonzero(inside)[0], self.feature[node]])
        values = self.leaf[-1 - at].reshape(len(columns), -1, self.outputs)
        found = np.add.accumulate(values, axis=1)[:, -1]  # one after another, as LightGBM does
        return found[:, 0] if self.outputs == 1 else found

    def _children(self, node: Int64[np.ndarray, " n"], value: Float[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """The next split or leaf for each value."""
        missing = np.isnan(value)
        known = np.where(missing, 0.0, value)
        below = known <= self.threshold[node]
        left = np.where(missing & ~self.nan_zero[node], self.nan_left[node], below)
        by_category = self.categorical[node]
        if by_category.any():
            some, category = node[by_category], known[by_category].astype(np.int64)
            word = category // 32
            there = ~missing[by_category] & (category >= 0) & (word < self.words[some])
            held = self.sets[np.where(there, self.first_word[some] + word, 0)]
            left[by_category] = there & ((held >> (category % 32)) & 1 > 0)
        return np.where(left, self.left[node], self.right[node])
