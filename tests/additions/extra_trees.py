"""A competing model from outside mixfit: extremely randomised trees (Geurts et al. 2006), kept as plain arrays."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

from mixfit.models import Layout, Rows, Sees, State, TrainingRows, saved_array


@dataclass(frozen=True)
class ExtraTrees:
    trees: int = 100
    name: str = "extra trees"
    sees: Sees = frozenset({"table", "photos"})

    def fit(self, rows: TrainingRows, truth: np.ndarray, weight: np.ndarray | None, seed: int) -> "FittedExtraTrees":
        classes, parts = rows.layout.classes, []
        kind = ExtraTreesClassifier if classes else ExtraTreesRegressor
        grown = kind(self.trees, min_samples_leaf=2, random_state=seed).fit(columns_of(rows), truth, weight)
        for tree in (one.tree_ for one in grown.estimators_):
            leaf, own, start = tree.children_left < 0, np.arange(tree.node_count), sum(len(part[4]) for part in parts)
            value = np.zeros((tree.node_count, max(classes, 1)))
            value[:, grown.classes_ if classes else [0]] = tree.value[:, 0]
            left, right = (np.where(leaf, own, side) + start for side in (tree.children_left, tree.children_right))
            parts.append((np.where(leaf, 0, tree.feature), tree.threshold, left, right, value, start))
        *nodes, roots = (np.concatenate([np.atleast_1d(one) for one in each]) for each in zip(*parts, strict=True))
        arrays = dict(zip(("feature", "threshold", "left", "right", "value", "roots"), (*nodes, roots), strict=True))
        return FittedExtraTrees(arrays, {"depth": int(max(one.tree_.max_depth for one in grown.estimators_))})

    def load(self, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], layout: Layout) -> "FittedExtraTrees":
        value = saved_array(arrays, "value", None, max(layout.classes, 1))
        found = {"value": value, "threshold": saved_array(arrays, "threshold", len(value))}
        for name, count in (("left", len(value)), ("right", len(value)), ("roots", len(value)), ("feature", 10**6)):
            found[name] = saved_array(arrays, name, None, kind="int", low=0, high=count - 1)
        return FittedExtraTrees(found, {"depth": int(config["depth"])})


class FittedExtraTrees(NamedTuple):
    arrays: dict[str, np.ndarray]  # nodes of all trees, one after another; a leaf leads to itself
    config: dict[str, Any]

    def predict(self, rows: Rows) -> np.ndarray:
        columns, nodes = columns_of(rows), self.arrays
        at = np.tile(nodes["roots"], (len(rows), 1))
        for _ in range(self.config["depth"]):
            values = np.take_along_axis(columns, nodes["feature"][at], axis=1)
            at = np.where(values <= nodes["threshold"][at], nodes["left"][at], nodes["right"][at])
        return nodes["value"][at].mean(axis=1).squeeze(axis=() if nodes["value"].shape[1] > 1 else 1)

    def state(self) -> State:
        return self.arrays, self.config


def columns_of(rows: Rows) -> np.ndarray:
    photos = [] if rows.encoded.photos is None else [rows.encoded.photos]
    return np.concatenate([rows.encoded.numeric, rows.encoded.categorical, *photos], axis=1).astype(np.float32)
