"""Gradient boosting with LightGBM, saved in its text format.

In: encoded rows of one fold. Out: the trees as text, which is checked before LightGBM reads it: LightGBM does not check
its input, and prediction with damaged trees may never end.
See Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", NeurIPS 2017."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from math import inf, isfinite
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.special import softmax

from mixfit.data.arrays import beside, take
from mixfit.errors import DataError, ResourceError
from mixfit.models.dependence import Dependence
from mixfit.models.encoding import EncodedRows
from mixfit.models.linear import log_rate
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
from mixfit.models.target_statistics import TargetStatistics, goal_count
from mixfit.models.tree_walk import TreeWalk
from mixfit.training.metrics import LEAST_LIKELIHOOD, poisson_deviance
from mixfit.weighted import taken

COMPONENTS = 30
"""Number of principal components of the photo features."""
FEW_LEVELS = 12
"""Categories with more levels, and prefixes, enter as target statistics, see ``TargetStatistics``; others as levels."""
_MOST_LEVELS = 255  # of a categorical column
_SMALL_TREES: dict[str, Any] = {"num_leaves": 7}
_RANDOM_TREES = _SMALL_TREES | {"extra_trees": True}
"""Thresholds are drawn at random (Geurts et al. 2006, Machine Learning 63, 3-42): smoother, best for small tables."""
_LARGE_TREES = {"num_leaves": 31, "min_data_in_leaf": 20, "feature_fraction": 0.7}
_CANDIDATES: tuple[dict[str, Any], ...] = (
    _SMALL_TREES | {"feature_fraction": 0.5, "bagging_fraction": 0.8, "bagging_freq": 1},
    _RANDOM_TREES,
    _LARGE_TREES,
)
"""Settings whose trees are averaged."""
_CLEARLY_WORSE = 1.05
"""Ratio to the lowest loss of inner folds from which settings are left out."""
_FEWEST_ROUNDS, _MOST_ROUNDS, _PATIENCE = 30, 600, 40
_LEARNING_RATE, _LARGEST_RATE, _PATH = 0.05, 0.3, 15.0
"""The learning rate, and the smallest product of rounds and rate: with fewer rounds the rate is higher."""
_WORK, _ROWS_OF_COLUMN, _OVERHEAD = 2e9, 2_000, 20_000
"""Bound of rounds x work of a round, in cells: a column costs as much as so many rows more, a tree as so many cells."""
_MOST_GROWN = 5_000
"""Bound of rounds x outputs."""
_HEAVY = 1e7
"""Work of a round above which there is only one setting."""
_DEFAULT_ROUNDS = 100
"""Rounds if there are no rows to choose by."""
_INNER_FOLDS, _ONE_FOLD_ROWS = 3, 6_000
"""Inner folds; with more rows x outputs only one of them is used."""
_SETTINGS: dict[str, Any] = {
    "learning_rate": _LEARNING_RATE,
    "min_data_in_leaf": 10,
    "lambda_l2": 1.0,
    "deterministic": True,
    "force_col_wise": True,  # else LightGBM chooses by timing
    "feature_pre_filter": False,  # the same data for all settings
    "verbosity": -1,
}
_FEW_ROWS = 32
"""Number of rows up to which LightGBM is not needed, see ``TreeWalk``."""
IMPROBABLE = -30.0
"""Log-odds of a class without training rows."""
_MOST_TREES, _MOST_LEAVES = 100_000, 1_000  # limits for reading
_CATEGORICAL = 1
_DECISIONS = frozenset((0, 2, 8, 10, 1, 9))
"""Kinds of splits: numeric without missing values, numeric with nan to the right or left, and categorical."""
_NAMES = (
    *("num_leaves", "num_cat", "split_feature", "threshold", "decision_type", "left_child", "right_child"),
    *("leaf_value", "cat_boundaries", "cat_threshold"),
)
"""Of the values of a tree that decide what it predicts."""


@dataclass(frozen=True, kw_only=True)
class TreeModel:
    """Trees whose leaf values sum to a number, or to the log-odds of classes."""

    text: bytes
    """In LightGBM's format, as ``checked_text`` writes it."""
    seen: np.ndarray
    """int64: the classes of the training rows, in ascending order; empty for regression."""
    classes: int
    """Number of classes; 0 for regression."""

    @cached_property
    def booster(self) -> Any:
        """LightGBM's booster of the text.

        Raises:
            ResourceError: LightGBM cannot be loaded.
        """
        return lightgbm().Booster(model_str=self.text.decode("ascii"))

    @cached_property
    def walk(self) -> TreeWalk:
        """The trees for a few rows."""
        trees = _trees(self.text.decode("ascii").splitlines())
        joined = {name: " ".join([tree[name] for tree in trees if name in tree]) for name in _NAMES}
        values = {name: np.array(text.split(), dtype=np.float64) for name, text in joined.items()}
        return TreeWalk.of(values, len(self.seen) if len(self.seen) > 2 else 1)

    @classmethod
    def of(cls, text: bytes, seen: np.ndarray, *, columns: int, classes: int) -> "TreeModel":
        """Load a text in LightGBM's format.

        Raises:
            DataError: it is invalid, or does not match the columns or classes.
        """
        checked = checked_text(text, columns=columns, outputs=len(seen) if len(seen) > 2 else 1)
        return cls(text=checked, seen=seen, classes=classes)

    def predict(self, columns: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows ..."]:
        """float64 numbers ``(rows,)``, or probabilities ``(rows, classes)``."""
        if not len(columns):
            return np.zeros((0, self.classes) if self.classes else 0)
        if len(columns) <= _FEW_ROWS:
            raw = self.walk.sums(columns)
        else:
            raw = np.asarray(self.booster.predict(columns, raw_score=True, num_threads=torch.get_num_threads()))
        if not self.classes:
            return raw
        if len(self.seen) <= 2:  # the log-odds of the second of two classes
            raw = np.stack([np.zeros_like(raw), raw], axis=1)[:, -len(self.seen) :]
        found = np.full((len(columns), self.classes), IMPROBABLE)
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
    """LightGBM on components and scores of the photos, features of texts, numbers and categories; see ``fit_trees``."""

    sees: Sees = TABLE
    most_rounds: int | None = field(default=None, compare=False)
    """Limit of the trees per output by a budget; None for none."""
    one_fold: bool = field(default=False, compare=False)
    """Whether a budget lets one inner fold choose settings and their number of trees, in place of three."""
    one_setting: bool = field(default=False, compare=False)
    """Whether a budget leaves one setting, that of the smoothest trees, in place of three whose trees are averaged."""

    @property
    def name(self) -> str:
        """See ``Model``."""
        return name_of("boosted trees", self.sees)

    def rounds(self, rows: int, columns: int, outputs: int) -> int:
        """Largest number of trees per output, for training data of a size."""
        most = _most_rounds(_work(rows, columns, outputs), outputs)
        return most if self.most_rounds is None else min(most, self.most_rounds)

    def trees(self, rows: int, columns: int, outputs: int) -> tuple[int, int]:
        """Largest numbers of trees of the model, and of those that are grown to choose their number."""
        settings = 1 if self.one_setting or _work(rows, columns, outputs) > _HEAVY else len(_CANDIDATES)
        kept = self.rounds(rows, columns, outputs) * outputs * settings
        return kept, kept * (1 if self.one_fold or rows * outputs > _ONE_FOLD_ROWS else _INNER_FOLDS)

    def fit(self, rows: TrainingRows, truth: np.ndarray, weight: np.ndarray | None, seed: int) -> FittedModel:
        """See ``Model``."""
        if rows.layout.ordered:
            return fit_steps(self, rows, truth, weight, seed)
        layout, table, text = rows.layout, "table" in self.sees, "text" in self.sees
        components = rows.components(COMPONENTS, weight, seed) if "photos" in self.sees else None
        many = many_levels(layout) if table else ()
        inputs = TreeInputs.of(rows.encoded, components, layout, many, table=table, text=text)
        model, statistics = fit_trees(
            inputs,
            truth,
            classes=layout.classes,
            counts=layout.counts,
            weight=weight,
            dependence=rows.dependence,
            most_rounds=self.most_rounds,
            one_fold=self.one_fold,
            one_setting=self.one_setting,
            seed=seed,
        )
        return FittedTrees(
            table=table, text=text, components=components, layout=layout, statistics=statistics, model=model
        )

    def load(self, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], layout: Layout) -> FittedModel:
        """See ``Model``."""
        if layout.ordered:
            return load_steps(self, arrays, config, layout)
        if "model.threshold" in arrays:
            raise DataError("its boosted trees are in the format of an earlier mixfit, which is no longer supported")
        table, text = "table" in self.sees, "text" in self.sees
        components = Components.read(arrays, layout) if "photos" in self.sees else None
        # Trees of an earlier mixfit have no statistics: all categories enter as levels.
        many = many_levels(layout) if table and any(name.startswith("statistics.") for name in arrays) else ()
        sizes = tuple(layout.cardinalities[place] for place in many)
        statistics = TargetStatistics.read(arrays, sizes, classes=layout.classes)
        width = tree_columns(layout, components, many, table=table, text=text)
        model = TreeModel.read(arrays, columns=width, classes=layout.classes)
        return FittedTrees(
            table=table, text=text, components=components, layout=layout, statistics=statistics, model=model
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedTrees:
    """A ``TreeModel`` with the construction of its columns."""

    table: bool
    text: bool
    components: Components | None
    layout: Layout
    statistics: TargetStatistics
    model: TreeModel

    def predict(self, rows: Rows) -> np.ndarray:
        """See ``FittedModel``."""
        many = many_levels(self.layout) if self.statistics.means else ()
        inputs = TreeInputs.of(rows.encoded, self.components, self.layout, many, table=self.table, text=self.text)
        return self.model.predict(inputs.columns(self.statistics.apply(inputs.many)))

    def state(self) -> State:
        """See ``FittedModel``."""
        components = {} if self.components is None else self.components.arrays()
        return self.model.arrays() | self.statistics.arrays() | components, {}


def tree_columns(
    layout: Layout, components: Components | None, many: tuple[int, ...], *, table: bool, text: bool
) -> int:
    """Number of columns of ``TreeInputs.columns``; arguments as for ``TreeInputs.of``."""
    width = 0 if components is None else len(components.axes) + layout.photo_scores
    width += text * layout.text_features
    width += table * layout.numeric
    # A column of zeros replaces missing columns, see ``TreeInputs``.
    width += components is None and not (layout.numeric and table)
    width += len(many) * goal_count(layout.classes)
    return width + table * sum(place not in many for place in range(layout.categories))


def many_levels(layout: Layout) -> tuple[int, ...]:
    """Places among the categories and prefixes of those that enter as target statistics: categories with more than
    ``FEW_LEVELS`` levels, and all prefixes."""
    return tuple(
        place for place, count in enumerate(layout.cardinalities) if count > FEW_LEVELS or place >= layout.categories
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeInputs:
    """Inputs of trees."""

    numbers: Float[np.ndarray, "rows numbers"]
    """At least one column, as LightGBM requires."""
    few: Int64[np.ndarray, "rows few"]
    """Levels of the categories that enter as levels."""
    many: Int64[np.ndarray, "rows many"]
    """Levels of the categories and prefixes that enter as target statistics."""
    few_sizes: tuple[int, ...]
    many_sizes: tuple[int, ...]
    """Number of levels of each column."""

    @classmethod
    def of(
        cls,
        encoded: EncodedRows,
        components: Components | None,
        layout: Layout,
        many: tuple[int, ...],
        *,
        table: bool,
        text: bool,
    ) -> "TreeInputs":
        """From encoded rows, with or without the table and the texts; ``many`` as by ``many_levels``."""
        nothing = components is None and not (table and layout.numeric)
        numbers = [np.zeros((len(encoded), 1))] * nothing
        numbers += [] if components is None else [components.of(encoded)]
        numbers += [encoded.photo_scores] if components is not None and encoded.photo_scores is not None else []
        numbers += [encoded.text_columns] * text + [encoded.numeric] * table
        few = [place for place in range(layout.categories) if place not in many] if table else []
        levels = np.concatenate([encoded.categorical, encoded.prefixes], axis=1)
        return cls(
            numbers=beside(numbers),
            few=levels[:, few],
            many=levels[:, list(many)],
            few_sizes=tuple(layout.cardinalities[place] for place in few),
            many_sizes=tuple(layout.cardinalities[place] for place in many),
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: Int64[np.ndarray, " some"]) -> "TreeInputs":
        """Those rows, in that order."""
        return replace(self, numbers=take(self.numbers, rows), few=take(self.few, rows), many=take(self.many, rows))

    def columns(self, statistics: Float[np.ndarray, "rows outputs"]) -> Float[np.ndarray, "rows columns"]:
        """float64: numbers, target statistics, then levels; LightGBM reads them where they are."""
        return beside([self.numbers, statistics, self.few], np.float64)


def fit_trees(
    inputs: TreeInputs,
    truth: np.ndarray,
    *,
    classes: int,
    counts: bool = False,
    weight: np.ndarray | None = None,
    dependence: Dependence | None = None,
    most_rounds: int | None = None,
    one_fold: bool = False,
    one_setting: bool = False,
    seed: int = 0,
) -> tuple[TreeModel, TargetStatistics]:
    """Fit trees with several settings on all rows, and average them.

    Inner folds choose the number of rounds of each, and leave out settings that are clearly worse than the best. The
    number of inner folds and the largest number of rounds depend on the size of the data alone.

    Args:
        truth: numbers, or class indices.
        classes: of the target; 0 for regression.
        counts: the target is a count; the trees then predict logarithms.
        weight: of each row, in any unit.
        dependence: of the rows; by default they are independent.
        most_rounds: limit of the rounds; by default set by the size of the data.
        one_fold, one_setting: use one inner fold, and one setting, whatever the size of the data.
    Raises:
        ResourceError: LightGBM cannot be loaded.
    """
    dependence = Dependence.none(len(truth)) if dependence is None else dependence
    if weight is not None:  # a row of weight 0 is ignored, also by the minimum number of rows per leaf
        rows = np.flatnonzero(weight > 0)
        inputs, truth, weight, dependence = inputs.take(rows), truth[rows], weight[rows], dependence.take(rows)
    task: dict[str, Any] = {"classes": classes, "seed": seed}
    plan = _Plan.of(inputs, len(np.unique(truth)) if classes > 2 else 1, goals=goal_count(classes))
    plan = replace(plan, one_fold=plan.one_fold or one_fold)
    if one_setting and plan.candidates == _CANDIDATES:
        plan = replace(plan, candidates=(_RANDOM_TREES,))
    if most_rounds is not None:
        most = min(plan.most, most_rounds)
        plan = replace(plan, most=most, rate=_rate(most))
    chosen = _choose(inputs, truth, counts=counts, weight=weight, dependence=dependence, plan=plan, **task)
    statistics, own = TargetStatistics.fit(
        inputs.many, inputs.many_sizes, truth, weight=weight, dependence=dependence, **task
    )
    columns = inputs.columns(own)
    training = _Training.of(columns, truth, inputs.few_sizes, classes=classes, counts=counts, weight=weight, seed=seed)
    grown = [training.grow(plan.rate | settings, rounds) for settings, rounds in chosen]
    text = mean_text(grown, columns=columns.shape[1], outputs=training.outputs)
    return TreeModel(text=text, seen=training.seen, classes=classes), statistics  # the text has just been checked


def _work(rows: int, columns: int, outputs: int) -> int:
    """Work of a round, see ``_WORK``."""
    return outputs * (columns * (rows + _ROWS_OF_COLUMN) + _OVERHEAD)


def _most_rounds(work: int, outputs: int) -> int:
    """Largest number of rounds."""
    return int(np.clip(min(_WORK / work, _MOST_GROWN / outputs), _FEWEST_ROUNDS, _MOST_ROUNDS))


def _rate(rounds: int) -> dict[str, Any]:
    """The learning rate for at most so many rounds."""
    return {"learning_rate": float(np.clip(_PATH / rounds, _LEARNING_RATE, _LARGEST_RATE))}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """How much is tried, by the size of the data alone."""

    most: int
    """Largest number of rounds."""
    rate: dict[str, Any]
    """The learning rate."""
    candidates: tuple[dict[str, Any], ...]
    one_fold: bool
    """Whether only one inner fold is used."""

    @classmethod
    def of(cls, inputs: "TreeInputs", outputs: int, *, goals: int) -> "_Plan":
        """For these inputs.

        Args:
            outputs: trees per round.
            goals: target statistics of each category.
        """
        width = inputs.numbers.shape[1] + inputs.few.shape[1] + inputs.many.shape[1] * goals
        work = _work(len(inputs), width, outputs)
        most = _most_rounds(work, outputs)
        long = len(inputs) > _ONE_FOLD_ROWS
        return cls(
            most=most,
            rate=_rate(most),
            candidates=_CANDIDATES if work <= _HEAVY else (_LARGE_TREES,) if long else (_RANDOM_TREES,),
            one_fold=len(inputs) * outputs > _ONE_FOLD_ROWS,
        )


def _choose(
    inputs: TreeInputs,
    truth: np.ndarray,
    *,
    classes: int,
    counts: bool,
    weight: np.ndarray | None,
    dependence: Dependence,
    plan: "_Plan",
    seed: int,
) -> list[tuple[dict[str, Any], int]]:
    """Settings to average, and for each the number of rounds with the lowest mean loss of the held-out rows."""
    folds = dependence.folds(_INNER_FOLDS, seed=seed, truth=truth, classes=bool(classes))
    curves: list[list[np.ndarray]] = [[] for _ in plan.candidates]
    for fit, judged in folds[-1:] if plan.one_fold else folds:
        if classes:
            judged = judged[np.isin(truth[judged], truth[fit])]
        if not len(judged) or len(np.unique(truth[fit])) < 2:
            continue
        statistics, own = TargetStatistics.fit(
            inputs.many[fit],
            inputs.many_sizes,
            truth[fit],
            classes=classes,
            weight=taken(weight, fit),
            dependence=dependence.take(fit),
            seed=seed,
        )
        held_out = inputs.take(judged)
        training = _Training.of(
            inputs.take(fit).columns(own),
            truth[fit],
            inputs.few_sizes,
            classes=classes,
            counts=counts,
            weight=taken(weight, fit),
            seed=seed,
        )
        columns, judging = held_out.columns(statistics.apply(held_out.many)), taken(weight, judged)
        for candidate, curve in zip(plan.candidates, curves, strict=True):
            curve.append(training.losses(plan.rate | candidate, plan.most, columns, truth[judged], judging))
    if not curves[0]:
        return [(_SMALL_TREES, min(plan.most, _DEFAULT_ROUNDS))]
    tries = []
    for candidate, curve in zip(plan.candidates, curves, strict=True):
        longest = max(map(len, curve))
        total = np.sum([np.pad(one, (0, longest - len(one)), mode="edge") for one in curve], axis=0)
        tries.append((float(total.min()), candidate, int(total.argmin()) + 1))
    limit = _CLEARLY_WORSE * min(loss for loss, _, _ in tries)
    return [(candidate, rounds) for loss, candidate, rounds in tries if loss <= limit]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Training:
    """Data in LightGBM's form, for trees of any settings."""

    data: Any
    objective: dict[str, Any]
    """Settings, without those of the trees."""
    seen: np.ndarray
    """int64: the classes of the rows; empty for regression."""

    @property
    def outputs(self) -> int:
        """Trees per round."""
        return len(self.seen) if len(self.seen) > 2 else 1

    @classmethod
    def of(
        cls,
        columns: Float[np.ndarray, "rows columns"],
        truth: np.ndarray,
        levels: tuple[int, ...],
        *,
        classes: int,
        counts: bool,
        weight: np.ndarray | None,
        seed: int,
    ) -> "_Training":
        """Arguments as for ``grow_trees``."""
        numbers = columns.shape[1] - len(levels)
        categorical = [numbers + place for place, count in enumerate(levels) if count <= _MOST_LEVELS]
        seen, labels = np.unique(truth, return_inverse=True) if classes else (np.zeros(0, np.int64), truth)
        if len(seen) == 1:
            labels = np.ones(len(truth))  # for two classes, the first one is 0
        objective: dict[str, Any] = {"objective": "regression"} if not classes else {"objective": "binary"}
        if counts and truth.any():
            objective = {"objective": "poisson"}
        elif counts:  # a Poisson objective needs a count above 0
            labels = log_rate(truth)
        if len(seen) > 2:
            objective = {"objective": "multiclass", "num_class": len(seen)}
        objective |= {"seed": seed, "num_threads": torch.get_num_threads()}
        data = lightgbm().Dataset(
            columns,
            labels,
            weight=None
            if weight is None
            else weight / weight.mean(),  # the regularisation of leaves depends on the sum of weights
            categorical_feature=categorical,
            params=_SETTINGS | objective,
        )
        return cls(data=data, objective=objective, seen=seen.astype(np.int64))

    def grow(self, settings: dict[str, Any], rounds: int) -> bytes:
        """Trees in LightGBM's format."""
        grown = lightgbm().train(
            _SETTINGS | self.objective | settings, self.data, num_boost_round=rounds, keep_training_booster=True
        )
        return str(grown.model_to_string()).encode()

    def losses(
        self,
        settings: dict[str, Any],
        most: int,
        columns: Float[np.ndarray, "judged columns"],
        truth: np.ndarray,
        weight: np.ndarray | None,
    ) -> Float[np.ndarray, " rounds"]:
        """Mean loss of held-out rows after each round, until it has not decreased for some rounds.

        Args:
            most: largest number of rounds.
            columns, truth, weight: of the held-out rows, with classes of the training rows only.
        """
        library = lightgbm()
        labels = np.searchsorted(self.seen, truth) if len(self.seen) else truth

        def loss(predictions: np.ndarray, _: Any) -> tuple[str, float, bool]:
            # LightGBM's own sum depends on the number of threads in the last digits.
            if self.objective["objective"] == "poisson":
                losses = poisson_deviance(truth, np.log(predictions))
            elif not len(self.seen):
                losses = (predictions - truth) ** 2
            else:
                chances = predictions if predictions.ndim == 2 else np.stack([1 - predictions, predictions], axis=1)
                losses = -np.log(np.maximum(chances[np.arange(len(labels)), labels], LEAST_LIKELIHOOD))
            # For few rows np.mean takes several times as long, and gives the same.
            mean = np.add.reduce(losses) / len(losses) if weight is None else np.average(losses, weights=weight)
            return "loss", float(mean), False

        # LightGBM's own loop, with its callbacks for early stopping, would take as long as these trees.
        parameters = _SETTINGS | self.objective | settings | {"metric": "None"}
        booster = library.Booster(parameters, self.data)
        booster.add_valid(self.data.create_valid(columns, labels, params=parameters), "judged")
        found: list[float] = []
        best = 0
        while len(found) < min(most, best + 1 + _PATIENCE):
            booster.update()
            [(_, _, value, _)] = booster.eval_valid(loss)
            found.append(value)
            if value < found[best]:
                best = len(found) - 1
        return np.array(found)


def grow_trees(
    columns: Float[np.ndarray, "rows columns"],
    truth: np.ndarray,
    *,
    levels: tuple[int, ...],
    classes: int,
    counts: bool = False,
    weight: np.ndarray | None = None,
    rounds: int = _DEFAULT_ROUNDS,
    settings: dict[str, Any] | None = None,
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
        settings: of LightGBM, in addition to those of all our trees; by default small trees on all columns.
    Raises:
        ResourceError: LightGBM cannot be loaded.
    """
    training = _Training.of(columns, truth, levels, classes=classes, counts=counts, weight=weight, seed=seed)
    text = training.grow(_SMALL_TREES if settings is None else settings, rounds)
    return TreeModel.of(text, training.seen, columns=columns.shape[1], classes=classes)


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
    return _written(_read_trees(text, columns=columns, outputs=outputs), columns=columns, outputs=outputs)


def mean_text(texts: Sequence[bytes], *, columns: int, outputs: int) -> bytes:
    """One text whose trees sum to the mean of the sums of several; arguments and errors as for ``checked_text``."""
    trees = [tree for text in texts for tree in _read_trees(text, columns=columns, outputs=outputs)]
    for tree in trees:
        tree["leaf_value"] = [value / len(texts) for value in tree["leaf_value"]]
    return _written(trees, columns=columns, outputs=outputs)


_Tree = dict[str, list[int] | list[float]]


def _read_trees(text: bytes, *, columns: int, outputs: int) -> list[_Tree]:
    """The checked values of all trees; arguments and errors as for ``checked_text``."""
    try:
        lines = text.decode("ascii").splitlines()
        last = next((line for line in lines if line.startswith("max_feature_idx=")), f"max_feature_idx={columns - 1}")
        if last != f"max_feature_idx={columns - 1}":
            raise DataError(f"the trees were not grown on {columns} columns")
        trees = [_checked_tree(tree, columns) for tree in _trees(lines)]
    except DataError:  # it is a ValueError, too
        raise
    except (KeyError, ValueError, OverflowError) as error:
        raise DataError("the text of the trees is damaged") from error
    if not trees or len(trees) % outputs:
        raise DataError(f"there are {len(trees)} trees for {outputs} outputs")
    return trees


def _written(trees: list[_Tree], *, columns: int, outputs: int) -> bytes:
    """Trees in LightGBM's format."""
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
        lines += [f"Tree={number}", *[f"{name}={' '.join(map(repr, values))}" for name, values in tree.items()], "", ""]
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


def _checked_tree(said: dict[str, str], columns: int) -> _Tree:
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
        # A split of missing values from all others has an infinite threshold.
        found["threshold"] = _numbers(said["threshold"], leaves - 1, largest=inf)
        left, right = found["left_child"], found["right_child"]
        # A split comes after its parent; leaves are numbered from -1 downwards.
        if sorted([*left, *right]) != [*range(-leaves, 0), *range(1, leaves - 1)] or any(
            0 <= one <= above or 0 <= other <= above for above, (one, other) in enumerate(zip(left, right, strict=True))
        ):
            raise DataError("the trees are invalid: a node has two parents, is in a cycle, or is missing")
        if min(found["split_feature"]) < 0 or max(found["split_feature"]) >= columns:
            raise DataError("the trees use a column that does not exist")
        kinds = found["decision_type"]
        if not _DECISIONS.issuperset(kinds):
            raise DataError("the trees have an unknown type of split")
        by_category = [number for number, kind in zip(found["threshold"], kinds, strict=True) if kind & _CATEGORICAL]
        if sorted(by_category) != list(range(sets)):
            raise DataError("the trees split by categories that do not exist")
    found["leaf_value"] = _numbers(said["leaf_value"], leaves)
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
    found = list(map(int, text.split()))
    if len(found) != count:
        raise DataError("a tree of the text is invalid")
    return found


def _numbers(text: str, count: int, *, largest: float = sys.float_info.max) -> list[float]:
    """Parse ``count`` numbers up to ``largest``, not minus infinity or nan; errors as for ``_checked_tree``."""
    found = list(map(float, text.split()))
    usual = isfinite(sum(found))  # then each of them is; a sum may also overflow
    if len(found) != count or not (usual or all(-inf < number <= largest for number in found)):
        raise DataError("a tree of the text is invalid")
    return found
