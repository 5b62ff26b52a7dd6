"""Fitted models inside the graph.

In: a fitted model, and encoded rows as variables. Out: what its ``predict`` returns, float64 numbers ``(rows,)`` or
probabilities ``(rows, classes)``, computed in the same precision."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
import spox.opset.ai.onnx.ml.v5 as ml
import spox.opset.ai.onnx.v20 as op
from spox import Var

from mixfit.export.cells import Encoded
from mixfit.export.ops import (
    DOUBLE,
    INT,
    NotExportable,
    as_type,
    at_least,
    beside,
    clip,
    column,
    columns,
    const,
    repeated,
    softmax,
    take,
    total,
    upright,
    where,
)
from mixfit.models import kernels
from mixfit.models.kernels import FittedKernels, KernelModel
from mixfit.models.linear import FittedConstant, FittedLinear, LinearModel
from mixfit.models.model import Components, FittedModel
from mixfit.models.network import FittedNetwork
from mixfit.models.ordered import LEAST, FittedSteps
from mixfit.models.trees import IMPROBABLE, FittedTrees, TreeModel, many_levels, tree_columns

_NEARLY_ZERO = 1e-35
"""LightGBM takes numbers up to this size for 0."""
_CATEGORICAL = 1  # bit of decision_type
_AT_MOST = 0  # BRANCH_LEQ

NetworkOf = Callable[[FittedNetwork, Encoded], Var]
"""The raw outputs of a network, float32 ``(rows,)`` or ``(rows, classes)``."""


def predicted(fitted: FittedModel, rows: Encoded, network: NetworkOf) -> Var:
    """The prediction of a fitted model.

    Raises:
        NotExportable: it is none of mixfit's models.
    """
    match fitted:
        case FittedConstant():
            value = fitted.value.astype(np.float64)
            return repeated(value if fitted.classes else value[0], rows.rows)
        case FittedLinear():
            return _linear(fitted, rows)
        case FittedKernels():
            return _kernels(fitted, rows)
        case FittedTrees():
            return _trees(fitted, rows)
        case FittedNetwork():
            found = as_type(network(fitted, rows), DOUBLE)
            return softmax(found) if fitted.classes else found
        case FittedSteps():
            return _steps([column(predicted(step, rows, network), 1) for step in fitted.steps])
        case _:
            raise NotExportable(
                f"a model of the class {type(fitted).__name__} is none of mixfit's own, so it cannot be written as "
                "ONNX: train without it, or predict with mixfit."
            )


def _steps(above: Sequence[Var]) -> Var:
    """Probabilities of ordered classes from those of being above each, as ``FittedSteps.predict``."""
    least = [above[0]]
    for one in above[1:]:
        least.append(op.min([least[-1], one]))
    parts = [1.0 - least[0], *(one - other for one, other in pairwise(least)), least[-1]]
    found = at_least(columns(parts), LEAST)
    return found / total(found, keep=True)


def components_of(components: Components, rows: Encoded) -> Var:
    """Components of photos, float64 ``(rows, components)``; 0 for a row without one."""
    count = len(components.axes)
    if rows.photos is None:
        return repeated(np.zeros(count), rows.rows)
    for known, found in rows.components:
        if np.array_equal(known.axes[:count], components.axes) and np.array_equal(known.mean, components.mean):
            return found if len(known.axes) == count else op.slice(found, const([0]), const([count]), const([1]))
    # In single precision, as they are kept: double the bytes would say no more.
    centred, axes = (as_type(one, DOUBLE) for one in (rows.photos, const(np.ascontiguousarray(components.axes.T))))
    found = op.matmul(centred - const(components.mean, DOUBLE), axes) * upright(rows.seen_number)
    rows.components.append((components, found))
    return found


def share_components(models: Iterable[FittedModel], rows: Encoded) -> None:
    """Put the components of photos of all models of a fold into the graph, the most first: fewer ones are a part of
    them."""
    every = [one for model in models for one in (model.steps if isinstance(model, FittedSteps) else (model,))]
    kinds = (FittedLinear, FittedKernels, FittedTrees)
    found = [one.components for one in every if isinstance(one, kinds) and one.components is not None]
    for components in sorted(found, key=lambda one: -len(one.axes)):
        components_of(components, rows)


# --- linear models ----------------------------------------------------------------------------------------------------


def design_sums(
    rows: Encoded,
    weights: np.ndarray,
    cardinalities: Sequence[int],
    knots: np.ndarray,
    components: Var | None = None,
    *,
    table: bool = True,
    text: bool = False,
) -> Var:
    """``design_matrix(...) @ weights``, float64 ``(rows, outputs)``, without the matrix: of the indicators of a
    category, the weights of a row's level are taken."""
    parts, place = list[Var](), 0

    def next_weights(count: int) -> np.ndarray:
        nonlocal place
        place += count
        return weights[place - count : place]

    if table:
        if rows.numeric is not None:
            numbers = as_type(rows.numeric, DOUBLE)
            every = beside([numbers, *(at_least(numbers - const(knot, DOUBLE), 0.0) for knot in knots)])
            parts.append(op.matmul(every, const(next_weights((1 + len(knots)) * knots.shape[1]), DOUBLE)))
        for level, count in zip(rows.levels, cardinalities, strict=True):
            own = np.concatenate([np.zeros((1, weights.shape[1])), next_weights(count - 1)])
            parts.append(take(own, level))
    if text and rows.text_columns:
        texts = as_type(beside(rows.text_columns), DOUBLE)
        count, width = rows.text_shape
        parts.append(op.matmul(texts, const(next_weights(count * (width + 1)), DOUBLE)))
    if components is not None:
        every = beside([components, upright(rows.seen_number)])
        parts.append(op.matmul(every, const(weights[place:], DOUBLE)))
    found = repeated(np.zeros(weights.shape[1]), rows.rows)
    for part in parts:
        found = found + part
    return found


def linked(model: LinearModel, sums: Var) -> Var:
    """As ``LinearModel.linked``."""
    raw = sums + const(model.bias, DOUBLE)
    return softmax(raw) if model.classes else column(raw, 0)


def _linear(fitted: FittedLinear, rows: Encoded) -> Var:
    components = None if fitted.components is None else components_of(fitted.components, rows)
    sums = design_sums(
        rows,
        fitted.model.weights,
        fitted.cardinalities,
        fitted.knots,
        components,
        table=fitted.table,
        text=fitted.text,
    )
    return linked(fitted.model, sums)


# --- kernel ridge regression ------------------------------------------------------------------------------------------


def _kernels(fitted: FittedKernels, rows: Encoded) -> Var:
    """As ``FittedKernels.predict``: products with the training rows, which are constants of the file."""
    model = fitted.model
    numbers = list[Var]()
    if fitted.table and rows.numeric is not None:
        numbers.append(rows.numeric)
    numbers += rows.text_columns if fitted.text else []
    mine = as_type(beside(numbers), DOUBLE) if numbers else None
    photos = None if fitted.components is None else components_of(fitted.components, rows)
    found = _kernel_sums(model, mine, rows.levels if fitted.table else (), photos, rows)
    bounded = found if model.bounds is None else clip(found, *model.bounds)
    return column(bounded, 0) if model.inverse_temperature is None else softmax(bounded * model.inverse_temperature)


def _kernel_sums(
    model: KernelModel, numbers: Var | None, levels: Sequence[Var], photos: Var | None, rows: Encoded
) -> Var:
    """The outputs, float64 ``(rows, outputs)``."""
    train, dual = model.train, {name: share * model.dual for name, share in model.shares.items()}
    found = repeated(model.bias, rows.rows)
    if kernels.LINEAR_NUMBERS in dual and numbers is not None:
        found = found + op.matmul(numbers, const(train.numbers.T @ dual[kernels.LINEAR_NUMBERS]))
    equal = None
    if kernels.LEVELS in dual:
        for level, trained in zip(levels, train.levels.T, strict=True):
            found = found + _of_level(level, trained, dual[kernels.LEVELS])
            same = as_type(
                op.equal(upright(where(op.greater(level, const(0, INT)), level, -1)), const(trained[None])), DOUBLE
            )
            equal = same if equal is None else equal + same
    for inputs, trained, reach, alone, with_levels in (
        (numbers, train.numbers, kernels.NUMBER_REACH, kernels.NEAR_NUMBERS, kernels.LEVELS_AND_NUMBERS),
        (photos, train.photos, kernels.PHOTO_REACH, kernels.PHOTOS, kernels.PHOTOS_AND_LEVELS),
    ):
        if alone in dual and inputs is not None:
            near = _near(inputs, trained, reach)
            found = found + op.matmul(near, const(dual[alone]))
            if equal is not None and with_levels in dual:
                found = found + op.matmul(near * equal, const(dual[with_levels]))
    return found


def _of_level(level: Var, trained: np.ndarray, dual: np.ndarray) -> Var:
    """Sums of the dual coefficients of the training rows with the same level; 0 for one that none has."""
    sums = np.zeros((int(trained.max(initial=0)) + 2, dual.shape[1]))
    np.add.at(sums, trained, dual)
    sums[0] = 0.0
    return take(sums, op.min([level, const(len(sums) - 1, INT)]))


def _near(inputs: Var, trained: np.ndarray, reach: float) -> Var:
    """The Gaussian kernel ``(rows, training rows)``."""
    factor = -reach / max(float(trained.var(axis=0).sum()), 1e-12)
    norms = (trained**2).sum(axis=1)
    own = total(inputs * inputs, keep=True)
    products = op.matmul(inputs, const(np.ascontiguousarray(-2 * factor * trained.T)))
    exponent = products + own * factor + const(factor * norms)
    return op.exp(op.min([exponent, const(0.0, DOUBLE)]))


# --- boosted trees ----------------------------------------------------------------------------------------------------


def _trees(fitted: FittedTrees, rows: Encoded) -> Var:
    """As ``FittedTrees.predict``."""
    layout, table = fitted.layout, fitted.table
    many = many_levels(layout) if fitted.statistics.means else ()
    numbers = list[Var]()
    if fitted.components is None and not (table and layout.numeric):
        numbers.append(repeated(np.zeros(1), rows.rows))
    if fitted.components is not None:
        numbers.append(components_of(fitted.components, rows))
        if rows.photo_scores is not None:
            numbers.append(as_type(rows.photo_scores, DOUBLE))
    numbers += [as_type(one, DOUBLE) for one in rows.text_columns] if fitted.text else []
    if table and rows.numeric is not None:
        numbers.append(as_type(rows.numeric, DOUBLE))
    if many:
        each = zip(fitted.statistics.means, many, strict=True)
        numbers += [as_type(take(means, rows.levels[place]), DOUBLE) for means, place in each]
    few = [place for place in range(layout.categories) if place not in many] if table else []
    levels = [rows.levels[place] for place in few]
    sizes = [layout.cardinalities[place] for place in few]
    width = tree_columns(layout, fitted.components, many, table=table, text=fitted.text) - len(few)
    return _link_of_trees(fitted.model, _tree_sums(fitted.model, beside(numbers), width, levels, sizes))


def _link_of_trees(model: TreeModel, raw: Var) -> Var:
    """As ``TreeModel.predict``, from the sums of leaves ``(rows, outputs)``."""
    if not model.classes:
        return column(raw, 0)
    zero = column(raw, 0) * 0.0
    own = [column(raw, place) for place in range(max(1, len(model.seen) if len(model.seen) > 2 else 1))]
    if len(model.seen) <= 2:
        own = [zero, own[0]][-len(model.seen) :]
    place = {int(number): one for number, one in zip(model.seen, own, strict=True)}
    return softmax(columns([place.get(number, zero + IMPROBABLE) for number in range(model.classes)]))


def _tree_sums(model: TreeModel, numbers: Var, width: int, levels: Sequence[Var], sizes: Sequence[int]) -> Var:
    """Sums of leaves, float64 ``(rows, outputs)``, from numbers ``(rows, width)`` and then levels.

    A split by a set of levels becomes one of a number: whether the level is in the set, taken from a table of the
    column's levels and all its sets. onnxruntime's own sets are limited in size."""
    outputs = len(model.seen) if len(model.seen) > 2 else 1
    walk = model.walk
    numbers = where(op.less_or_equal(op.abs(numbers), const(_NEARLY_ZERO, DOUBLE)), 0.0, numbers)
    feature, threshold = walk.feature.copy(), walk.threshold.copy()
    sets: list[dict[bytes, int]] = [{} for _ in levels]
    tables: list[list[np.ndarray]] = [[] for _ in levels]
    chosen = list[tuple[int, int, int]]()  # split, column, number of its set
    for split in np.flatnonzero(walk.categorical).tolist():
        place = int(feature[split]) - width
        words = walk.sets[walk.first_word[split] : walk.first_word[split] + walk.words[split]]
        numbered = np.arange(sizes[place])
        word = numbered // 32
        inside = np.where(word < len(words), words[np.minimum(word, len(words) - 1)] >> (numbered % 32) & 1, 0)
        key = inside.astype(np.uint8).tobytes()
        if key not in sets[place]:
            sets[place][key] = len(tables[place])
            tables[place].append(inside.astype(np.float64))
        chosen.append((split, place, sets[place][key]))
    # Levels themselves, for splits by number, and then all sets.
    starts = width + len(levels) + np.concatenate([[0], np.cumsum([len(one) for one in tables])])
    for split, place, number in chosen:
        feature[split], threshold[split] = starts[place] + number, 0.5
    parts = [numbers, *(upright(as_type(level, DOUBLE)) for level in levels)]
    parts += [take(np.stack(one, axis=1), level) for one, level in zip(tables, levels, strict=True) if one]
    # In a set goes left, at most the threshold goes right for these: so the children change sides.
    swap = walk.categorical
    left, right = np.where(swap, walk.right, walk.left), np.where(swap, walk.left, walk.right)
    return _ensemble(beside(parts), walk.roots, feature, threshold, left, right, walk.leaf, outputs)


def _ensemble(
    inputs: Var,
    roots: np.ndarray,
    feature: np.ndarray,
    threshold: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    leaf: np.ndarray,
    outputs: int,
) -> Var:
    """Trees with splits "at most the threshold goes left"; leaf ``i`` is the child ``-1 - i``.

    A tree that is one leaf gets a split whose sides are the same."""
    alone = roots < 0
    own = len(feature) + np.arange(int(alone.sum()))
    target = np.zeros(len(leaf), dtype=np.int64)
    for number, root in enumerate(roots.tolist()):
        _mark(number % outputs, root, left, right, target)
    roots, ends = roots.copy(), roots[alone]
    roots[alone] = own
    feature = np.concatenate([feature, np.zeros(len(own), np.int64)])
    threshold = np.concatenate([threshold, np.zeros(len(own))])
    left, right = np.concatenate([left, ends]), np.concatenate([right, ends])
    threshold = np.minimum(threshold, np.finfo(np.float64).max)
    return ml.tree_ensemble(
        inputs,
        aggregate_function=1,
        n_targets=outputs,
        post_transform=0,
        tree_roots=roots.tolist(),
        nodes_featureids=feature.tolist(),
        nodes_splits=threshold,
        nodes_modes=np.full(len(feature), _AT_MOST, dtype=np.uint8),
        nodes_truenodeids=_places(left),
        nodes_trueleafs=(left < 0).astype(np.int64).tolist(),
        nodes_falsenodeids=_places(right),
        nodes_falseleafs=(right < 0).astype(np.int64).tolist(),
        leaf_targetids=target.tolist(),
        leaf_weights=leaf.astype(np.float64),
    )


def _places(child: np.ndarray) -> list[int]:
    """Numbers of nodes, or of leaves."""
    found: list[int] = np.where(child < 0, -1 - child, child).tolist()
    return found


def _mark(output: int, root: int, left: np.ndarray, right: np.ndarray, target: np.ndarray) -> None:
    """Say for each leaf of a tree which output it is added to."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node < 0:
            target[-1 - node] = output
        else:
            waiting += [int(left[node]), int(right[node])]
