"""Boosted trees for a few rows, without LightGBM, whose import takes longer than such a prediction.

In: the checked values of trees. Out: the sums of their leaf values, the same bits as LightGBM's."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

_ZERO = 1e-35
"""LightGBM takes numbers up to this size for 0."""
_CATEGORICAL, _DEFAULT_LEFT, _MISSING_NAN = 1, 2, 8  # bits of decision_type
_REAL = ("threshold", "leaf_value")
"""Names of values that are not whole numbers."""


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
    def of(cls, values: Mapping[str, Float[np.ndarray, " some"]], outputs: int) -> "TreeWalk":
        """From the values of all trees, one tree after another, by the names that ``checked_text`` writes."""
        whole = {
            name: found.astype(np.int64) for name, found in values.items() if name not in ("threshold", "leaf_value")
        }
        threshold, kind = values["threshold"], whole["decision_type"]
        leaves, sets = whole["num_leaves"], whole["num_cat"]
        splits, bounds = leaves - 1, np.where(sets > 0, sets + 1, 0)
        ends = whole["cat_boundaries"][np.cumsum(bounds)[sets > 0] - 1]  # words of each tree that has any
        words = np.zeros_like(sets)
        words[sets > 0] = ends
        tree = np.repeat(np.arange(len(leaves)), splits)
        # Values of all trees before the one of a split.
        split, leaf, bound, word = (np.cumsum(count) - count for count in (splits, leaves, bounds, words))
        children = (whole["left_child"], whole["right_child"])
        left, right = (np.where(child >= 0, child + split[tree], child - leaf[tree]) for child in children)
        by_category = (kind & _CATEGORICAL) > 0
        own = bound[tree[by_category]] + threshold[by_category].astype(np.int64)
        first_word, of_set = np.zeros_like(kind), np.zeros_like(kind)
        first_word[by_category] = whole["cat_boundaries"][own] + word[tree[by_category]]
        of_set[by_category] = whole["cat_boundaries"][own + 1] - whole["cat_boundaries"][own]
        return cls(
            roots=np.where(splits > 0, split, -1 - leaf),
            feature=whole["split_feature"],
            threshold=threshold,
            left=left,
            right=right,
            categorical=by_category,
            nan_left=(kind & (_DEFAULT_LEFT | _MISSING_NAN)) == (_DEFAULT_LEFT | _MISSING_NAN),
            nan_zero=((kind & _MISSING_NAN) == 0) & ~by_category,
            first_word=first_word,
            words=of_set,
            sets=whole["cat_threshold"],
            leaf=values["leaf_value"],
            outputs=outputs,
        )

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
