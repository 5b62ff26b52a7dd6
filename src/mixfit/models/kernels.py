"""Kernel ridge regression with a sum of kernels, whose weights are chosen by leave-one-out cross-validation.

There are kernels for numbers, for categories and their prefixes, and for photos. The model is the mean of a Gaussian
process (Rasmussen and Williams 2006, chapter 2) and the strongest simple model for some hundred rows. Classes are
regressed on as indicators (chapter 6.5), and a softmax of the result, at the temperature that is best for rows left
out, gives probabilities. Many rows are described by their kernels with some of them, drawn at random (subset of
regressors, chapter 8.3.1), so that time grows linearly.

In: encoded rows of one fold. Out: ``KernelModel``, which contains these rows, or some of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from scipy.linalg import cholesky, solve, solve_triangular
from scipy.linalg.lapack import dpotrf, dpotri, dpotrs
from scipy.special import log_softmax, softmax
from torch import Tensor

from mixfit.data.ties import units_by_size
from mixfit.errors import DataError
from mixfit.models.encoding import EncodedRows
from mixfit.models.mixed import MixedRows, distinct
from mixfit.models.model import (
    TABLE,
    Components,
    Layout,
    Rows,
    Sees,
    State,
    TrainingRows,
    name_of,
    saved_array,
    saved_number,
)

COMPONENTS = 120
"""Number of principal components of the photo features."""
EXACT_ROWS, LANDMARKS = 4_000, 3_000
"""Without a budget, the largest number of training rows that are all kept, and how many are drawn at random of more,
which takes longer than keeping all of a few more."""
_SEARCHED_ROWS, _STRENGTH_ROWS = 600, 1_000
"""Largest numbers of rows for the search of the kernel weights, and of the penalty; the solution uses all rows. An
eigenvalue decomposition takes some thirty times as long as solving."""
_STRENGTHS = np.logspace(-3, 2, 16)
_BLOCK = 2**18
"""Number of pairs of rows whose kernels are computed at once in prediction, so that they stay in the cache."""
_FACTORS = (0.1, 0.3, 3.0, 10.0)
_ROUNDS = 2
_ROUNDING = 1e-8
"""Added to the kernel of landmarks with themselves, relative to its mean diagonal, so that it can be factored."""
_LANDMARK_BLOCK = 2**21  # pairs of rows and landmarks at once
_LARGEST = 100.0
NUMBER_REACH, PHOTO_REACH = 0.3, 0.3  # times the mean squared distance from the mean
# Names of the kernels, as in saved models.
LINEAR_NUMBERS, NEAR_NUMBERS, LEVELS, PHOTOS = "numbers, linear", "numbers, near", "levels", "photos"
LEVELS_AND_NUMBERS, PHOTOS_AND_LEVELS = "levels and numbers", "photos and levels"
_NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Similarity:
    """Inputs of the kernels."""

    numbers: Float[np.ndarray, "rows numbers"]
    levels: Int64[np.ndarray, "rows levels"]
    photos: Float[np.ndarray, "rows components"]
    """Without columns, photos are ignored."""

    @classmethod
    def of(
        cls, encoded: EncodedRows, components: Components | None, *, table: bool, text: bool = False
    ) -> "Similarity":
        """Build from encoded rows, with or without the table and the texts, whose features are numbers like others."""
        nothing = np.zeros((len(encoded), 0))
        numbers = [encoded.numeric] * table + [encoded.text_columns] * text
        levels = [encoded.categorical, encoded.prefixes] if table else [nothing.astype(np.int64)]
        return cls(
            numbers=np.concatenate([nothing, *numbers], axis=1).astype(np.float64),
            levels=np.concatenate(levels, axis=1),
            photos=nothing if components is None else components.of(encoded),
        )

    def take(self, rows: Int64[np.ndarray, " some"]) -> "Similarity":
        """Those rows, in that order."""
        return Similarity(numbers=self.numbers[rows], levels=self.levels[rows], photos=self.photos[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelModel:
    """``bias + sum over kernels and training rows of share * kernel(row, training row) * dual``."""

    train: Similarity
    """The training rows, or landmarks among them."""
    dual: Float[np.ndarray, "train outputs"]
    """One output for numbers, one for each class."""
    shares: dict[str, float]
    """Weight of each kernel, including the scale that makes its mean diagonal 1."""
    bias: Float[np.ndarray, " outputs"]
    bounds: tuple[float, float] | None = None
    """Of the outputs: the range of the training targets and its width on both sides, as a kernel that is linear in
    the numbers extrapolates without end. None in models of older versions."""
    inverse_temperature: float | None = None
    """Factor of the outputs in the softmax of classes; None for numbers."""

    def predict(self, rows: Similarity) -> Float[np.ndarray, "rows ..."]:
        """float64 numbers ``(rows,)``, or probabilities ``(rows, classes)``.

        The sums over training rows of the kernels that are linear in the numbers or in the indicators of levels are
        products with one vector an output; only the others need every pair of rows."""
        train, dual = self.train, {name: share * self.dual for name, share in self.shares.items()}
        found = np.tile(self.bias, (len(rows.numbers), 1))
        if LINEAR_NUMBERS in dual:
            found += rows.numbers @ (train.numbers.T @ dual[LINEAR_NUMBERS])
        if LEVELS in dual:
            duals = torch.from_numpy(dual[LEVELS])
            for column, trained in zip(rows.levels.T, train.levels.T, strict=True):
                most = max(int(column.max(initial=0)), int(trained.max(initial=0)))
                of_level = duals.new_zeros(most + 1, duals.shape[1])
                of_level.index_add_(0, torch.from_numpy(np.ascontiguousarray(trained)), duals)
                of_level[0] = 0.0
                found += of_level.numpy()[column]
        near_numbers, near_photos = _near_blocks(train.numbers, NUMBER_REACH), _near_blocks(train.photos, PHOTO_REACH)
        step = max(1, _BLOCK // max(len(self.dual), 1))
        for start in range(0, len(found), step):
            some = slice(start, start + step)
            levels = torch.from_numpy(_equal(rows.levels[some], train.levels)) if LEVELS in dual else None
            for near, inputs, alone, with_levels in (
                (near_numbers, rows.numbers, NEAR_NUMBERS, LEVELS_AND_NUMBERS),
                (near_photos, rows.photos, PHOTOS, PHOTOS_AND_LEVELS),
            ):
                if alone in dual:
                    kernel = near(inputs[some])
                    found[some] += (kernel @ torch.from_numpy(dual[alone])).numpy()
                    if levels is not None:
                        found[some] += (kernel.mul_(levels) @ torch.from_numpy(dual[with_levels])).numpy()
        return self._linked(found)

    def _linked(self, found: Float[np.ndarray, "rows outputs"]) -> Float[np.ndarray, "rows ..."]:
        """Predictions from outputs."""
        bounded = found if self.bounds is None else np.clip(found, *self.bounds)
        return (
            bounded[:, 0] if self.inverse_temperature is None else softmax(self.inverse_temperature * bounded, axis=1)
        )

    def predict_mixed(
        self,
        cells: Similarity,
        photos: Float[np.ndarray, "galleries components"],
        cells_of: Int64[np.ndarray, " rows"],
        photos_of: Int64[np.ndarray, " rows"],
    ) -> Float[np.ndarray, "rows ..."]:
        """As ``predict``, for rows made of table parts and photo parts.

        A product of two kernels, summed over the training rows, is a matrix product over all pairs of arguments, so
        kernels are computed only for distinct arguments, which are far fewer than rows.

        Args:
            cells: the table parts, without photos.
            photos: components of the photo parts.
            cells_of, photos_of: parts of each row.
        """
        first, number_of = distinct(cells.numbers)
        numbers = _of_numbers(cells.numbers[first], self.train.numbers)
        first, level_of = distinct(cells.levels)
        levels = _of_levels(cells.levels[first], self.train.levels)
        looks = _of_photos(photos, self.train.photos)
        dual = {name: share * self.dual for name, share in self.shares.items()}
        found = np.tile(self.bias, (len(cells_of), 1))
        for kernels, places in (
            (numbers, number_of[cells_of]),
            (levels, level_of[cells_of]),
            (looks, photos_of),
        ):
            for name, kernel in kernels.items():
                found += (kernel @ dual[name])[places]
        for output in range(found.shape[1]):
            if LEVELS_AND_NUMBERS in dual:
                pairs = (levels[LEVELS] * dual[LEVELS_AND_NUMBERS][:, output]) @ numbers[NEAR_NUMBERS].T
                found[:, output] += pairs[level_of, number_of][cells_of]
            if PHOTOS_AND_LEVELS in dual:
                pairs = (levels[LEVELS] * dual[PHOTOS_AND_LEVELS][:, output]) @ looks[PHOTOS].T
                found[:, output] += pairs[level_of[cells_of], photos_of]
        return self._linked(found)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays, by name."""
        train = self.train
        dual = self.dual[:, 0] if self.inverse_temperature is None else self.dual
        found = {"numbers": train.numbers, "levels": train.levels, "photos": train.photos, "dual": dual}
        found |= {"bias": self.bias}
        found |= {} if self.bounds is None else {"bounds": np.array(self.bounds)}
        if self.inverse_temperature is not None:
            found["inverse_temperature"] = np.array([self.inverse_temperature])
        found |= {f"share.{name}": np.array([share]) for name, share in self.shares.items()}
        return {f"model.{name}": values for name, values in found.items()}

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], widths: tuple[int, int, int], *, classes: int = 0) -> "KernelModel":
        """Read the output of ``arrays``.

        Args:
            widths: columns of numbers, levels and photos.
            classes: number of classes; 0 for numbers.
        Raises:
            DataError: the arrays are invalid.
        """
        dual = saved_array(arrays, "model.dual", None, *[classes] * bool(classes)).reshape(-1, max(classes, 1))
        train = Similarity(
            numbers=saved_array(arrays, "model.numbers", len(dual), widths[0]),
            levels=saved_array(arrays, "model.levels", len(dual), widths[1], kind="int", low=0),
            photos=saved_array(arrays, "model.photos", len(dual), widths[2]),
        )
        names = sorted(name.removeprefix("model.share.") for name in arrays if name.startswith("model.share."))
        if names != sorted(_names(train)):
            raise DataError("the kernels do not match the columns")
        bounds = None
        if "model.bounds" in arrays:
            low, high = saved_array(arrays, "model.bounds", 2).tolist()
            bounds = (float(low), float(high))
            if low > high:
                raise DataError("the bounds of the predictions are in the wrong order")
        return cls(
            train=train,
            dual=dual,
            shares={name: saved_number(arrays, f"model.share.{name}") for name in names},
            bias=saved_array(arrays, "model.bias", max(classes, 1)),
            bounds=bounds,
            inverse_temperature=saved_number(arrays, "model.inverse_temperature") if classes else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRidge:
    """Kernel ridge regression on numbers or classes."""

    sees: Sees = TABLE
    most_kept: int | None = field(default=None, compare=False)
    """Limit of the kept training rows by a budget; None for none."""

    @property
    def name(self) -> str:
        """See ``Model``."""
        return name_of("kernel ridge", self.sees)

    @property
    def of_all_rows(self) -> bool:
        """See ``OfAllRows``."""
        return True

    def kept(self, rows: int) -> int:
        """Number of training rows that it keeps."""
        if self.most_kept is not None:
            return min(rows, self.most_kept)
        return rows if rows <= EXACT_ROWS else LANDMARKS

    def fit(self, rows: TrainingRows, truth: np.ndarray, weight: np.ndarray | None, seed: int) -> "FittedKernels":
        """See ``Model``."""
        table, text = "table" in self.sees, "text" in self.sees
        components = rows.components(COMPONENTS, weight, seed) if "photos" in self.sees else None
        similarity = Similarity.of(rows.encoded, components, table=table, text=text)
        model = fit_kernels(
            similarity,
            truth,
            weight,
            classes=rows.layout.classes,
            unit=rows.unit,
            kept=self.kept(len(truth)),
            seed=seed,
        )
        return FittedKernels(table=table, text=text, components=components, model=model)

    def load(self, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], layout: Layout) -> "FittedKernels":
        """See ``Model``."""
        table, text = "table" in self.sees, "text" in self.sees
        components = Components.read(arrays, layout) if "photos" in self.sees else None
        counts = np.array(layout.cardinalities if table else (), dtype=np.int64)
        numbers = table * layout.numeric + text * layout.text_features
        widths = (numbers, len(counts), 0 if components is None else len(components.axes))
        model = KernelModel.read(arrays, widths, classes=layout.classes)
        if (model.train.levels >= counts).any():
            raise DataError("a kernel ridge regression does not match the columns")
        return FittedKernels(table=table, text=text, components=components, model=model)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedKernels:
    """A ``KernelModel`` with the construction of its columns."""

    table: bool
    text: bool
    components: Components | None
    model: KernelModel

    def predict(self, rows: Rows) -> np.ndarray:
        """See ``FittedModel``."""
        return self.model.predict(Similarity.of(rows.encoded, self.components, table=self.table, text=self.text))

    def predict_mixed(self, rows: MixedRows) -> np.ndarray:
        """See ``PredictsMixed``; row by row, an explanation takes six times as long (docs/LOG.md)."""
        cells = Similarity.of(rows.tables, None, table=self.table, text=self.text)
        if self.components is None:
            return self.model.predict(cells)[rows.table_of]
        if not (self.table or self.text):
            return self.model.predict(Similarity.of(rows.photos, self.components, table=False))[rows.photos_of]
        return self.model.predict_mixed(cells, self.components.of(rows.photos), rows.table_of, rows.photos_of)

    def state(self) -> State:
        """See ``FittedModel``."""
        return self.model.arrays() | ({} if self.components is None else self.components.arrays()), {}


def fit_kernels(
    rows: Similarity,
    truth: Shaped[np.ndarray, " rows"],
    weight: Float[np.ndarray, " rows"] | None = None,
    *,
    classes: int = 0,
    unit: Int64[np.ndarray, " rows"] | None = None,
    kept: int | None = None,
    seed: int = 0,
) -> KernelModel:
    """Choose kernel weights and penalty by the leave-one-out squared error.

    Rows of one ``unit`` (a group, copies) are left out together, as a row is predicted too well from its copy.

    ``weight`` applies to the fit and to that error, in any unit. A row is left out with its whole weight, and kernel
    widths are unweighted, so two equal rows are not exactly equivalent to one of weight 2.

    Args:
        truth: numbers, or with ``classes`` their indices.
        classes: number of classes; 0 for numbers.
        kept: largest number of rows that the model keeps; by default all.
        seed: of the rows that are drawn where not all are used.
    """
    values = np.eye(classes)[truth] if classes else truth.astype(np.float64)[:, None]
    counts = np.ones(len(truth)) if weight is None else weight / weight.mean()
    bias = np.average(values, axis=0, weights=counts)
    # With weights, rows are scaled by the root of their weight.
    roots = np.sqrt(counts)
    goal = (values - bias) * roots[:, None]
    drawn = np.random.default_rng(seed).permutation(len(truth))
    some, more = np.sort(drawn[:_SEARCHED_ROWS]), np.sort(drawn[:_STRENGTH_ROWS])
    kernels = _kernels(rows.take(some), rows.take(some))
    scales = {name: len(some) / max(float(np.trace(kernel)), 1e-12) for name, kernel in kernels.items()}
    searched = {name: kernel * scales[name] * roots[some, None] * roots[some] for name, kernel in kernels.items()}

    units = np.arange(len(truth)) if unit is None else unit
    few, several = units_by_size(units[some]), units_by_size(units[more])
    shares = _search(searched, goal[some], few)
    shares = {name: share * scales[name] for name, share in shares.items()}
    exact = kept is None or len(truth) <= kept
    whole = _weighted(rows if exact else rows.take(more), shares, roots if exact else roots[more])
    part = whole[np.ix_(more, more)] if exact else whole
    _, strength = _left_out(part, goal[more], several)
    bounds, inverse = bounds_of(values[counts > 0]), None
    if classes:
        errors = _errors_at(part, goal[more], several, strength)
        inverse = 1.0
        if errors is not None:
            inverse = _inverse_temperature(goal[more] - errors, bias, bounds, roots[more], truth[more])
    if exact:
        train = rows
        whole[np.diag_indices_from(whole)] += strength
        dual = solve(whole, goal, assume_a="pos", overwrite_a=True, check_finite=False) * roots[:, None]
    else:
        train = rows.take(np.sort(drawn[:kept]))
        dual = _dual_of_landmarks(rows, train, shares, goal, roots, strength)
    return KernelModel(train=train, dual=dual, shares=shares, bias=bias, bounds=bounds, inverse_temperature=inverse)


def _weighted(
    rows: Similarity, shares: dict[str, float], roots: Float[np.ndarray, " rows"]
) -> Float[np.ndarray, "rows rows"]:
    """The sum of the kernels of rows with each other, scaled by the roots of their weights."""
    return _total(_kernels(rows, rows), shares) * roots[:, None] * roots


def _dual_of_landmarks(
    rows: Similarity,
    landmarks: Similarity,
    shares: dict[str, float],
    goal: Float[np.ndarray, "rows outputs"],
    roots: Float[np.ndarray, " rows"],
    strength: float,
) -> Float[np.ndarray, "landmarks outputs"]:
    """Dual coefficients of landmarks for all rows: ridge regression on their kernels, whitened by that of the landmarks
    with each other."""
    kernel = _total(_kernels(landmarks, landmarks), shares)
    count = len(kernel)
    kernel[np.diag_indices(count)] += _ROUNDING * max(float(np.trace(kernel)) / count, 1e-12)
    lower = cholesky(kernel, lower=True, overwrite_a=True, check_finite=False)
    product, sums = np.eye(count) * strength, np.zeros((count, goal.shape[1]))
    step = max(1, _LANDMARK_BLOCK // count)
    for start in range(0, len(roots), step):
        some = np.arange(start, min(start + step, len(roots)))
        block = _total(_kernels(rows.take(some), landmarks), shares) * roots[some, None]
        whitened = solve_triangular(lower, block.T, lower=True, check_finite=False)
        product += whitened @ whitened.T
        sums += whitened @ goal[some]
    weights = solve(product, sums, assume_a="pos", overwrite_a=True, check_finite=False)
    return solve_triangular(lower, weights, lower=True, trans=1, check_finite=False)


def _inverse_temperature(
    left_out: Float[np.ndarray, "rows outputs"],
    bias: Float[np.ndarray, " outputs"],
    bounds: tuple[float, float],
    roots: Float[np.ndarray, " rows"],
    truth: Int64[np.ndarray, " rows"],
) -> float:
    """The factor of the outputs whose softmax has the lowest log loss on rows that are left out with their unit.

    Half a row beside them counts as one of any class, as for temperatures: if all are right, the largest factor would
    be the best.

    Args:
        left_out: outputs of these rows without their bias, times the root of their weight.
    """
    seen = np.flatnonzero(roots > 0)
    if not len(seen):
        return 1.0
    outputs, any_class = np.clip(left_out[seen] / roots[seen, None] + bias, *bounds), 0.5 / (len(seen) + 1)

    def loss(logarithm: float) -> float:
        found = log_softmax(np.exp(logarithm) * outputs, axis=1)
        chosen = (1 - any_class) * found[np.arange(len(seen)), truth[seen]] + any_class * found.mean(axis=1)
        return -float(np.average(chosen, weights=roots[seen] ** 2))

    from scipy.optimize import minimize_scalar  # slow to import, and predicting does not need it

    best = minimize_scalar(loss, bounds=(-np.log(_LARGEST), np.log(_LARGEST)), method="bounded")
    return float(np.exp(best.x))


def bounds_of(truth: Float[np.ndarray, "rows ..."]) -> tuple[float, float]:
    """Bounds of predictions: the range of the training targets and as much again on both sides."""
    low, high = float(truth.min()), float(truth.max())
    return low - (high - low), high + (high - low)


def _search(
    kernels: dict[str, Float[np.ndarray, "rows rows"]],
    goal: Float[np.ndarray, "rows outputs"],
    units: list[np.ndarray],
) -> dict[str, float]:
    """The weights of the kernels with the lowest leave-one-unit-out squared error, one kernel after another.

    A weight is tried at the best penalty so far and at the next one in the direction of its change: two inverses take
    a third of the time of an eigenvalue decomposition, which would give the errors at all penalties."""
    shares = dict.fromkeys(kernels, 1.0)
    total = _total(kernels, shares)
    least, strength = _left_out(total, goal, units)
    place, unchanged = int(np.abs(_STRENGTHS - strength).argmin()), 0
    for name in [*kernels] * _ROUNDS:
        if unchanged == len(kernels):  # since the last attempt with this kernel
            break
        unchanged += 1
        share, without = shares[name], total - shares[name] * kernels[name]
        for factor in _FACTORS:
            tried = without + share * factor * kernels[name]
            for near in (place, place + (1 if factor > 1 else -1)):
                if 0 <= near < len(_STRENGTHS):
                    error = _left_out_at(tried, goal, units, _STRENGTHS[near])
                    if error < least:
                        least, place, total, unchanged = error, near, tried, 0
                        shares[name] = share * factor
    return shares


def _left_out_at(matrix: np.ndarray, goal: np.ndarray, units: list[np.ndarray], strength: float) -> float:
    """The mean leave-one-unit-out squared error at one penalty."""
    errors = _errors_at(matrix, goal, units, strength)
    return float("inf") if errors is None else float((errors**2).sum()) / len(goal)


def _errors_at(
    matrix: Float[np.ndarray, "rows rows"],
    goal: Float[np.ndarray, "rows outputs"],
    units: list[np.ndarray],
    strength: float,
) -> Float[np.ndarray, "rows outputs"] | None:
    """The errors of rows that are left out with their unit; None if the matrix has negative eigenvalues by rounding."""
    shifted = np.array(matrix, order="F")  # as LAPACK wants it
    np.einsum("ii->i", shifted)[:] += strength
    upper, failed = dpotrf(shifted, overwrite_a=True)
    if failed:
        return None
    dual, _ = dpotrs(upper, goal)
    inverse, _ = dpotri(upper, overwrite_c=True)  # its upper triangle
    diagonal, errors = np.diag(inverse), np.empty_like(goal)
    for rows in units:
        if rows.shape[1] == 1:
            errors[rows[:, 0]] = dual[rows[:, 0]] / diagonal[rows[:, 0], None]
        else:
            first, second = rows[:, :, None], rows[:, None, :]
            blocks = inverse[np.minimum(first, second), np.maximum(first, second)]
            errors[rows] = np.linalg.solve(blocks, dual[rows])
    return errors


def _total(kernels: dict[str, np.ndarray], shares: dict[str, float]) -> np.ndarray:
    total = np.zeros_like(next(iter(kernels.values())))
    for name, kernel in kernels.items():
        total += shares[name] * kernel
    return total


def _left_out(
    matrix: Float[np.ndarray, "rows rows"], goal: Float[np.ndarray, "rows outputs"], units: list[np.ndarray]
) -> tuple[float, float]:
    """The mean leave-one-unit-out squared error, and the penalty that minimises it."""
    values, vectors = np.linalg.eigh(matrix)
    turned = vectors.T @ goal
    squares = vectors**2 if units[0].shape[1] == 1 else None
    tries = []
    for strength in _STRENGTHS:
        inverse = 1 / (np.maximum(values, 0) + strength)
        dual, total = vectors @ (turned * inverse[:, None]), 0.0
        for rows in units:
            if rows.shape[1] == 1:
                assert squares is not None  # single rows come first
                error = dual[rows[:, 0]] / (squares[rows[:, 0]] @ inverse)[:, None]
            else:
                some = vectors[rows]
                error = np.linalg.solve((some * inverse) @ some.transpose(0, 2, 1), dual[rows])
            total += float((error**2).sum())
        tries.append((total / len(goal), float(strength)))
    return min(tries)


def _kernels(rows: Similarity, train: Similarity) -> dict[str, Float[np.ndarray, "rows train"]]:
    """One matrix for each kernel that these columns allow."""
    found = _of_numbers(rows.numbers, train.numbers) | _of_levels(rows.levels, train.levels)
    if LEVELS in found and NEAR_NUMBERS in found:
        found[LEVELS_AND_NUMBERS] = found[LEVELS] * found[NEAR_NUMBERS]
    found |= _of_photos(rows.photos, train.photos)
    if PHOTOS in found and LEVELS in found:
        found[PHOTOS_AND_LEVELS] = found[PHOTOS] * found[LEVELS]
    return found or {_NOTHING: np.zeros((len(rows.numbers), len(train.numbers)))}


def _names(rows: Similarity) -> list[str]:
    """Names of the kernels that such columns allow, see ``_kernels``."""
    numbers, levels, photos = (part.shape[1] > 0 for part in (rows.numbers, rows.levels, rows.photos))
    known = {
        LINEAR_NUMBERS: numbers,
        NEAR_NUMBERS: numbers,
        LEVELS: levels,
        LEVELS_AND_NUMBERS: levels and numbers,
        PHOTOS: photos,
        PHOTOS_AND_LEVELS: photos and levels,
        _NOTHING: not (numbers or levels or photos),
    }
    return [name for name, there in known.items() if there]


def _of_numbers(numbers: np.ndarray, train: np.ndarray) -> dict[str, np.ndarray]:
    if not train.shape[1]:
        return {}
    return {LINEAR_NUMBERS: numbers @ train.T, NEAR_NUMBERS: _near(train, NUMBER_REACH)(numbers)}


def _of_levels(levels: np.ndarray, train: np.ndarray) -> dict[str, np.ndarray]:
    return {LEVELS: _equal(levels, train).astype(np.float64)} if train.shape[1] else {}


def _equal(
    levels: Int64[np.ndarray, "rows levels"], train: Int64[np.ndarray, "train levels"]
) -> Shaped[np.ndarray, "rows train"]:
    """Number of equal known levels, as small integers: comparing them takes most of the time."""
    most = max(int(levels.max(initial=0)), int(train.max(initial=0)))
    kind: Any = np.uint8 if most < 2**8 - 1 else np.int16 if most < 2**15 else np.int64
    known = np.ascontiguousarray(np.where(levels > 0, levels, -1).T.astype(kind))  # -1 is the largest uint8
    trained = np.ascontiguousarray(train.T.astype(kind))
    same = np.zeros((len(levels), len(train)), dtype=np.uint8 if levels.shape[1] < 2**8 else np.int32)
    equal = np.empty(same.shape, dtype=bool)
    for column, other in zip(known, trained, strict=True):
        same += np.equal(column[:, None], other, out=equal)
    return same


def _of_photos(photos: np.ndarray, train: np.ndarray) -> dict[str, np.ndarray]:
    return {PHOTOS: _near(train, PHOTO_REACH)(photos)} if train.shape[1] else {}


def _near(
    train: Float[np.ndarray, "train columns"], reach: float
) -> Callable[[Float[np.ndarray, "rows columns"]], Float[np.ndarray, "rows train"]]:
    """Gaussian kernel ``exp(-distance^2 / ...)``, with distances relative to the spread of the training rows."""
    factor = -reach / max(float(train.var(axis=0).sum()), 1e-12)
    norms = (train**2).sum(axis=1)

    def kernel(rows: np.ndarray) -> np.ndarray:
        distance = rows @ train.T
        distance *= -2
        distance += (rows**2).sum(axis=1)[:, None]
        distance += norms
        np.maximum(distance, 0, out=distance)
        distance *= factor
        return np.exp(distance, out=distance)

    return kernel


def _near_blocks(
    train: Float[np.ndarray, "train columns"], reach: float
) -> Callable[[Float[np.ndarray, "rows columns"]], Float64[Tensor, "rows train"]]:
    """As ``_near``, in one product whose two additional columns hold the norms, and PyTorch's vectorised exponential:
    a third of the time."""
    factor = -reach / max(float(train.var(axis=0).sum()), 1e-12)
    norms = (train**2).sum(axis=1, keepdims=True)
    right = np.concatenate([-2 * factor * train, factor * norms, np.full_like(norms, factor)], axis=1)
    turned = torch.from_numpy(np.ascontiguousarray(right.T))

    def kernel(rows: np.ndarray) -> Tensor:
        own = (rows**2).sum(axis=1, keepdims=True)
        left = torch.from_numpy(np.concatenate([rows, np.ones_like(own), own], axis=1))
        return torch.mm(left, turned).clamp_(max=0.0).exp_()

    return kernel
