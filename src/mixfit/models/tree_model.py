"""Boosted trees as plain arrays: kept and applied without the library that grew them.

In: columns of rows. Out: predictions by ``TreeModel``, whose tensors are all there is to it, so that a saved one
neither holds code nor depends on a version of another library."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.special import softmax
from torch import Tensor

from mixfit.errors import DataError
from mixfit.models.saved import saved_array, saved_classes

MOST_LEVELS = 255  # of a column that is taken as categorical
_BLOCK = 4_000_000  # places in trees that are held at a time: rows times trees
_MOST_HELD = 100_000_000  # numbers that are held for parts of mixed rows
NODES = ("value", "threshold", "feature", "left", "right", "flags", "bitset")
LEAF, CATEGORICAL, MISSING_LEFT = 1, 2, 4
_NO_CODES = -2  # stands alone in the codes of a column of numbers
_DEEPEST = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeModel:
    """Trees whose leaves add up to a number, or to the log-odds of classes."""

    nodes: dict[str, np.ndarray]
    """By name, one number for each node of all trees: where to go, or the value of a leaf."""
    bitsets: np.ndarray
    """uint32 ``(splits, 8)``: the categories, as bits, that go to the left at a split by category."""
    roots: Int64[np.ndarray, "rounds outputs"]
    """First node of each tree."""
    baseline: Float[np.ndarray, " outputs"]
    codes: tuple[np.ndarray | None, ...]
    """For each column that is categorical the code of each level, -1 = not seen when growing; None for a number."""
    order: Int64[np.ndarray, " columns"]
    """The column that each column of the trees is."""
    classes: int
    """0 for a number."""

    def predict(self, columns: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows ..."]:
        """float64 numbers ``(rows,)``, or probabilities ``(rows, classes)``."""
        raw = np.concatenate(
            [self._raw(columns[start : start + self._rows]) for start in range(0, len(columns), self._rows)]
            or [np.zeros((0, len(self.baseline)))]
        )
        return self._linked(raw)

    def _linked(self, raw: np.ndarray) -> np.ndarray:
        """Numbers, or probabilities."""
        if not self.classes:
            return raw[:, 0]
        if raw.shape[1] == 1:
            raw = np.concatenate([np.zeros_like(raw), raw], axis=1)
        return softmax(raw, axis=1)

    @property
    def _rows(self) -> int:
        return max(1, _BLOCK // max(self.roots.size, 1))

    def _raw(self, columns: np.ndarray) -> np.ndarray:
        """Sums of leaves, all trees of a block of rows walked down side by side."""
        values = self._coded(columns)
        nodes = self.nodes
        at = np.broadcast_to(self.roots.reshape(-1), (len(values), self.roots.size)).copy()
        going = np.argwhere((nodes["flags"][at] & LEAF) == 0)
        while len(going):
            rows, trees = going[:, 0], going[:, 1]
            node = at[rows, trees]
            left = self._goes_left(node, values[rows, nodes["feature"][node]])
            node = np.where(left, nodes["left"][node], nodes["right"][node])
            at[rows, trees] = node
            going = going[(nodes["flags"][node] & LEAF) == 0]
        leaves = nodes["value"][at].reshape(len(values), *self.roots.shape)
        return self.baseline + leaves.sum(axis=1)

    def _goes_left(self, node: np.ndarray, value: np.ndarray) -> np.ndarray:
        """Where a value goes at a node; both of one shape."""
        nodes, flags = self.nodes, self.nodes["flags"][node]
        left = value <= nodes["threshold"][node]
        by_category = np.nonzero(flags & CATEGORICAL)
        code = np.nan_to_num(value[by_category], nan=0.0).astype(np.int64)
        words = self.bitsets[nodes["bitset"][node[by_category]], code >> 5]
        left[by_category] = (words >> (code & 31).astype(np.uint32)) & 1
        return np.where(np.isnan(value), (flags & MISSING_LEFT) != 0, left)

    def predict_mixed(
        self,
        photos: Float[np.ndarray, "galleries components"],
        cells: Float[np.ndarray, "tables columns"],
        cells_of: Int64[np.ndarray, " rows"],
        photos_of: Int64[np.ndarray, " rows"],
    ) -> Float[np.ndarray, "rows ..."]:
        """As ``predict``, for rows that are put together from photo parts, whose columns come first, and table parts.

        A row ends in a leaf if both of its parts meet what the path to the leaf asks of them. So a leaf's value times
        0 or 1 for each photo part and for each table part, summed over leaves, is for all pairs of parts one product of
        matrices."""
        parts, pairs = len(cells) + len(photos), len(cells) * len(photos)
        if len(self.baseline) * pairs + len(self.nodes["value"]) * parts > _MOST_HELD:
            return self.predict(np.concatenate([photos[photos_of], cells[cells_of]], axis=1))
        width = photos.shape[1]
        looks, others = (np.zeros((len(part), len(self.order))) for part in (photos, cells))
        looks[:, :width], others[:, width:] = photos, cells
        by_look = self.order[self.nodes["feature"]] < width
        raw = self._sums(self._lefts(others, ~by_look), self._lefts(looks, by_look), by_look)
        return self._linked(self.baseline + raw[:, cells_of, photos_of].T)

    def _lefts(self, columns: np.ndarray, asked: Bool[np.ndarray, " nodes"]) -> Bool[np.ndarray, "nodes rows"]:
        """Whether rows go to the left at the nodes that are asked; a column has few values, each is looked at once."""
        columns = self._coded(columns)
        found = np.zeros((len(asked), len(columns)), dtype=bool)
        asked = asked & ((self.nodes["flags"] & LEAF) == 0)
        for column in np.unique(self.nodes["feature"][asked]):
            node = np.flatnonzero(asked & (self.nodes["feature"] == column))
            value, which = np.unique(columns[:, column], return_inverse=True)
            node_of, value_of = np.broadcast_arrays(node[:, None], value)
            found[node] = self._goes_left(node_of, value_of)[:, which]
        return found

    def _sums(
        self,
        cells: Bool[np.ndarray, "nodes tables"],
        looks: Bool[np.ndarray, "nodes galleries"],
        by_look: Bool[np.ndarray, " nodes"],
    ) -> Float[np.ndarray, "outputs tables galleries"]:
        """Sums of leaves for all pairs of parts: all trees are walked down side by side, both ways at every split."""
        raw = np.zeros((len(self.baseline), cells.shape[1], looks.shape[1]))
        node, output = self.roots.reshape(-1), np.tile(np.arange(self.roots.shape[1]), len(self.roots))
        here, there = np.ones((len(node), cells.shape[1]), bool), np.ones((len(node), looks.shape[1]), bool)
        while len(node):
            leaf = (self.nodes["flags"][node] & LEAF) != 0
            for number in np.unique(output[leaf]):
                ended = leaf & (output == number)
                value = self.nodes["value"][node[ended]].astype(np.float64)
                raw[number] += (here[ended].T * value) @ there[ended].astype(np.float64)
            node, output, here, there = (part[~leaf] for part in (node, output, here, there))
            # At a split by the photos both ways are open to the table, and the other way round.
            open_ = by_look[node][:, None]
            here = np.concatenate([here & (cells[node] | open_), here & ~cells[node]])
            there = np.concatenate([there & (looks[node] | ~open_), there & ~looks[node]])
            node, output = np.append(self.nodes["left"][node], self.nodes["right"][node]), np.append(output, output)
        return raw

    def _coded(self, columns: np.ndarray) -> np.ndarray:
        """Columns in the order of the trees, float64, levels as codes; nan where a level was not seen."""
        values = columns[:, self.order].astype(np.float64)
        for place, codes in enumerate(self.codes):
            if codes is not None:
                level = np.nan_to_num(values[:, place], nan=-1.0).astype(np.int64)
                known = (level >= 0) & (level < len(codes))
                code = np.where(known, codes[np.where(known, level, 0)], -1).astype(np.float64)
                values[:, place] = np.where(code < 0, np.nan, code)
        return values

    def tensors(self) -> dict[str, Tensor]:
        """Everything, for safetensors."""
        lists = [np.full(1, _NO_CODES) if codes is None else codes for codes in self.codes]
        return {
            **{name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in self.nodes.items()},
            "bitsets": torch.from_numpy(self.bitsets.astype(np.int64)),
            "roots": torch.from_numpy(self.roots),
            "baseline": torch.from_numpy(self.baseline),
            "codes": torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *lists]).astype(np.int64)),
            "code_lengths": torch.tensor([len(codes) for codes in lists], dtype=torch.int64),
            "order": torch.from_numpy(self.order),
            "classes": torch.tensor([self.classes]),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "TreeModel":
        """Read what ``tensors`` gave.

        Raises:
            DataError: it is something else, such as nodes that point to where there is none, or in a circle.
        """
        lengths = saved_array(tensors, "code_lengths", None, kind="int", low=0)
        codes = saved_array(tensors, "codes", int(lengths.sum()), kind="int", low=_NO_CODES, high=MOST_LEVELS)
        lists = np.split(codes, np.cumsum(lengths)[:-1]) if len(lengths) else []
        classes = saved_classes(tensors)
        baseline = saved_array(tensors, "baseline", None)
        value = saved_array(tensors, "value", None)
        count, columns = len(value), len(lengths)
        model = cls(
            nodes={
                "value": value,
                "threshold": saved_array(tensors, "threshold", count, infinite=True),
                "flags": saved_array(tensors, "flags", count, kind="byte", high=LEAF | CATEGORICAL | MISSING_LEFT),
                **{
                    name: saved_array(tensors, name, count, kind="int", low=0)
                    for name in ("feature", "left", "right", "bitset")
                },
            },
            bitsets=saved_array(tensors, "bitsets", None, 8, kind="int", low=0, high=2**32 - 1).astype(np.uint32),
            roots=saved_array(tensors, "roots", None, len(baseline), kind="int", low=0, high=count - 1),
            baseline=baseline,
            codes=tuple(None if codes.tolist() == [_NO_CODES] else codes for codes in lists),
            order=saved_array(tensors, "order", columns, kind="int"),
            classes=classes,
        )
        if len(baseline) != max(classes, 1) and not (classes == 2 and len(baseline) == 1):
            raise DataError(f"the trees have {len(baseline)} outputs for {classes} classes")
        if not np.array_equal(np.sort(model.order), np.arange(columns)):
            raise DataError("the columns of the trees are not each there once")
        model._check()
        return model

    def _check(self) -> None:
        """Every node is in one place of one tree, and asks for a column that is there."""
        nodes, categorical = self.nodes, np.array([codes is not None for codes in self.codes], dtype=bool)
        inner = np.flatnonzero((nodes["flags"] & LEAF) == 0)
        feature, left, right = (nodes[name][inner] for name in ("feature", "left", "right"))
        children = np.concatenate([left, right])
        if (feature >= len(self.order)).any() or (children >= len(nodes["value"])).any():
            raise DataError("a node of the trees points to where there is none")
        by_category = (nodes["flags"][inner] & CATEGORICAL) != 0
        if (nodes["bitset"][inner][by_category] >= len(self.bitsets)).any() or not categorical[
            feature[by_category]
        ].all():
            raise DataError("a node of the trees splits by categories that it does not have")
        # Else a walk might never end, or go through one node many times.
        if (children <= np.concatenate([inner, inner])).any() or len(np.unique(children)) != len(children):
            raise DataError("the trees are no trees: a node is below two others, or in a circle")
        roots = np.unique(self.roots)
        if np.isin(children, roots).any() or len(children) + len(roots) != len(nodes["value"]):
            raise DataError("the trees are no trees: one begins within another, or a node is in none")
        at, depth = roots, 0
        while len(at) and depth <= _DEEPEST:
            at, depth = at[(nodes["flags"][at] & LEAF) == 0], depth + 1
            at = np.concatenate([nodes["left"][at], nodes["right"][at]])
        if len(at):
            raise DataError(f"the trees are deeper than {_DEEPEST} splits")


def with_all_classes(
    seen: np.ndarray, roots: np.ndarray, baseline: np.ndarray, parts: dict[str, list[np.ndarray]], classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Trees of one leaf, and a baseline of nearly probability 0, for classes that no training row has."""
    if len(seen) == classes:
        return roots, baseline
    if len(seen) == 2:  # one tree is grown for two classes
        nothing = _leaf_of_nothing(parts)
        roots = np.concatenate([np.full_like(roots, nothing), roots], axis=1)
        baseline = np.concatenate([np.zeros(1), baseline])
    nothing = _leaf_of_nothing(parts)
    all_roots = np.full((len(roots), classes), nothing, dtype=np.int64)
    all_baselines = np.full(classes, -30.0)
    all_roots[:, seen.astype(np.int64)] = roots
    all_baselines[seen.astype(np.int64)] = baseline
    return all_roots, all_baselines


def _leaf_of_nothing(parts: dict[str, list[np.ndarray]]) -> int:
    """Add a leaf of value 0; its number."""
    number = sum(len(values) for values in parts["value"])
    for name, values in parts.items():
        one = np.zeros(1, dtype=values[0].dtype)
        values.append(one + LEAF if name == "flags" else one)
    return number
