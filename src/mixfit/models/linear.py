"""The simplest models: a constant, and ridge or logistic regression on numbers, categories as indicators, and
features of texts and components of photos.

In: encoded rows of one fold. Out: a few arrays."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int64
from scipy.special import softmax

from mixfit.data.arrays import beside
from mixfit.data.ties import units_by_size
from mixfit.errors import DataError
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
    saved_classes,
)
from mixfit.models.ordered import fit_steps, load_steps
from mixfit.training.metrics import poisson_deviance
from mixfit.weighted import taken, weighted_mean, weighted_quantile

COMPONENTS, COMPONENTS_ALONE = 60, 120
"""Number of principal components of the photo features, beside table or texts and alone."""

RIDGE_STRENGTHS = np.logspace(-5, 1, 19)
"""Penalties, times the sum of the weights: independent of their unit and of the number of rows."""
INVERSE_STRENGTHS = (0.5, 5.0, 50.0, 500.0, 5_000.0, 50_000.0)
"""Inverse penalties of logistic regression, divided by the sum of the weights."""
POISSON_STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
"""Penalties of Poisson regression, relative to the mean loss."""
_BOUND = 20.0  # of logarithms of counts relative to their mean
WIDE = 800
"""With more columns the design matrix is sparse, and ridge regressions are solved by conjugate gradients: most columns
are then levels of categories, of which a row has one."""
_WIDE_STRENGTHS = 3
"""For so many columns every third penalty is tried."""
_TOLERANCE, _ROUGH, _STEPS = 1e-5, 1e-3, 300
"""Of the conjugate gradients: the residual, relative to its size at weights of 0, and that for comparing penalties; and
the most steps."""
TOGETHER, _FILLED = 500, 0.05
"""Columns that are solved together: at most so many, in which more than this share of the rows is not 0."""
_QUARTILES = (0.25, 0.5, 0.75)
_ROUNDING = 1e-12  # of the largest eigenvalue
_LEFT_OUT_ROWS, _BLOCK = 20_000, 4_000
"""Number of rows that are left out to choose the penalty of a ridge regression, if there are more; and rows at once."""
_TRIED_SIZE, _FEWEST_TRIED = 20_000_000, 2_000
"""Penalties of logistic regressions are compared on as many rows as make this size (rows times columns times classes),
and at least on so many."""
_ROUGH_GRADIENT, _GRADIENT = 1e-3, 1e-4
"""Largest entry of the gradient at which a logistic regression ends: on more than ``WIDE`` columns while penalties are
compared, and else."""
_WORSE = 1.02
"""No weaker penalty is tried after one whose loss is so many times the smallest."""
_ALL_STEPS_SIZE, _FEWEST_STEPS, _STEPS_OF_LOGISTIC = 5_000_000_000, 20, 200
"""Number of steps of a logistic regression: this size divided by its own, within these limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearModel:
    """``columns @ weights + bias``; for classes with softmax."""

    weights: Float[np.ndarray, "columns outputs"]
    bias: Float[np.ndarray, " outputs"]
    classes: int
    """Number of classes; 0 for regression."""

    def predict(self, columns: Any) -> Float[np.ndarray, "rows ..."]:
        """float64 numbers ``(rows,)``, or probabilities ``(rows, classes)``."""
        return self.linked(columns.astype(np.float64) @ self.weights)

    def linked(self, sums: Float[np.ndarray, "rows outputs"]) -> Float[np.ndarray, "rows ..."]:
        """Predictions from ``columns @ weights``, which may be a sum of parts."""
        raw = sums + self.bias
        if not self.classes:
            return raw[:, 0]
        return softmax(raw, axis=1)

    def arrays(self, prefix: str = "") -> dict[str, np.ndarray]:
        """All arrays, with a prefix to their names."""
        found = {"weights": self.weights, "bias": self.bias, "classes": np.array([self.classes], dtype=np.int64)}
        return {prefix + name: values for name, values in found.items()}

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray], prefix: str = "") -> "LinearModel":
        """Read the output of ``arrays``.

        Raises:
            DataError: the arrays are invalid.
        """
        classes = saved_classes(arrays, prefix)
        outputs = max(classes, 1)
        weights = saved_array(arrays, f"{prefix}weights", None, outputs)
        return cls(weights=weights, bias=saved_array(arrays, f"{prefix}bias", outputs), classes=classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """The weighted mean, or the class frequencies: the best constant for the loss of the leaderboard.

    See ``evaluation.baselines`` for other metrics."""

    name: str = "constant"
    sees: Sees = frozenset()

    def fit(self, rows: TrainingRows, truth: np.ndarray, weight: np.ndarray | None, seed: int) -> "FittedConstant":
        """See ``Model``."""
        classes = rows.layout.classes
        if not classes:
            mean = np.array([np.average(truth, weights=weight)])
            return FittedConstant(value=log_rate(mean) if rows.layout.counts else mean, classes=0)
        return FittedConstant(value=class_frequencies(truth, weight, classes), classes=classes)

    def load(self, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], layout: Layout) -> "FittedConstant":
        """See ``Model``."""
        return FittedConstant(value=saved_array(arrays, "value", max(layout.classes, 1)), classes=layout.classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedConstant:
    """A constant prediction."""

    value: np.ndarray
    """``(1,)``, or the frequencies of the classes."""
    classes: int

    def predict(self, rows: Rows) -> np.ndarray:
        """See ``FittedModel``."""
        many = np.repeat(self.value[None], len(rows), axis=0)
        return many if self.classes else many[:, 0]

    def state(self) -> State:
        """See ``FittedModel``."""
        return {"value": self.value}, {}


def class_frequencies(labels: np.ndarray, weight: np.ndarray | None, classes: int) -> np.ndarray:
    """Weighted class frequencies ``(classes,)``; nearly 0 for a class without labels."""
    counts = np.bincount(labels, weights=weight, minlength=classes) + 1e-6
    return counts / counts.sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """Ridge regression, Poisson regression for counts, or logistic regression for classes, on the columns of
    ``design_matrix``."""

    sees: Sees = TABLE

    @property
    def name(self) -> str:
        """See ``Model``."""
        return name_of("linear", self.sees)

    def fit(self, rows: TrainingRows, truth: np.ndarray, weight: np.ndarray | None, seed: int) -> FittedModel:
        """See ``Model``."""
        if rows.layout.ordered:
            return fit_steps(self, rows, truth, weight, seed)
        encoded, layout = rows.encoded, rows.layout
        levels = sum(layout.cardinalities) - len(layout.cardinalities)
        shares = knot_shares(len(encoded), encoded.numeric.shape[1], levels, classes=bool(layout.classes))
        knots = find_knots(encoded.numeric, weight, shares)
        count = COMPONENTS if self.sees & {"table", "text"} else COMPONENTS_ALONE
        components = rows.components(count, weight, seed) if "photos" in self.sees else None
        design = Design(
            rows=encoded,
            cardinalities=layout.cardinalities,
            knots=knots,
            components=components,
            table="table" in self.sees,
            text="text" in self.sees,
        )
        if layout.classes:
            model = fit_logistic(design.matrix, truth, classes=layout.classes, weight=weight, unit=rows.unit, seed=seed)
        elif layout.counts:
            model = fit_poisson(design.matrix, truth, weight, unit=rows.unit, seed=seed)
        else:
            columns = design if design.shape[1] <= WIDE else design.matrix
            model = fit_ridge(columns, truth, weight, unit=rows.unit, seed=seed)
        return FittedLinear(
            table="table" in self.sees,
            text="text" in self.sees,
            components=components,
            cardinalities=layout.cardinalities,
            knots=knots,
            model=model,
        )

    def load(self, arrays: Mapping[str, np.ndarray], config: Mapping[str, Any], layout: Layout) -> FittedModel:
        """See ``Model``."""
        if layout.ordered:
            return load_steps(self, arrays, config, layout)
        table, text, cardinalities = "table" in self.sees, "text" in self.sees, layout.cardinalities
        components = Components.read(arrays, layout) if "photos" in self.sees else None
        knots, model = saved_array(arrays, "knots", None, layout.numeric), LinearModel.read(arrays, "model.")
        directions = None if components is None else len(components.axes)
        width = design_width(layout.numeric, cardinalities, len(knots), directions, table=table)
        width += text * layout.text_features
        if len(model.weights) != width or model.classes != layout.classes:
            raise DataError("a linear model does not match the columns, the photos or the classes")
        return FittedLinear(
            table=table, text=text, components=components, cardinalities=cardinalities, knots=knots, model=model
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedLinear:
    """A ``LinearModel`` with the construction of its columns."""

    table: bool
    text: bool
    components: Components | None
    cardinalities: tuple[int, ...]
    knots: np.ndarray
    model: LinearModel

    def predict(self, rows: Rows) -> np.ndarray:
        """See ``FittedModel``."""
        encoded = rows.encoded
        components = None if self.components is None else self.components.of(encoded)
        columns = design_matrix(encoded, self.cardinalities, self.knots, components, table=self.table, text=self.text)
        return self.model.predict(columns)

    def state(self) -> State:
        """See ``FittedModel``."""
        components = {} if self.components is None else self.components.arrays()
        return self.model.arrays("model.") | components | {"knots": self.knots}, {}


def knot_shares(rows: int, numeric: int, levels: int, *, classes: bool) -> tuple[float, ...]:
    """Which quantiles of a number are its knots: the quartiles; or the median alone for classes, where the design
    matrix is wide and numbers make more columns of it than there are training rows, as three knots are then no better
    and take three times as long (docs/LOG.md).

    Args:
        rows: training rows.
        numeric: numbers of a row.
        levels: of all categories together, without level 0.
        classes: whether the target is a class.
    """
    width = numeric * (1 + len(_QUARTILES))
    return (0.5,) if classes and width + levels > WIDE and width > rows else _QUARTILES


def find_knots(
    numeric: Float32[np.ndarray, "rows numeric"],
    weight: np.ndarray | None = None,
    shares: tuple[float, ...] = _QUARTILES,
) -> Float[np.ndarray, "knots numeric"]:
    """Knots of the piecewise-linear effects: weighted quantiles of the training rows."""
    if not len(numeric):
        return np.zeros((len(shares), numeric.shape[1]))
    return weighted_quantile(numeric, shares, weight)


def design_width(
    numeric: int, cardinalities: tuple[int, ...], knots: int, components: int | None, *, table: bool
) -> int:
    """Number of columns of ``design_matrix``; same arguments, as sizes."""
    width = numeric * (1 + knots) + sum(count - 1 for count in cardinalities) if table else 0
    return width + (0 if components is None else components + 1)


def design_matrix(
    rows: EncodedRows,
    cardinalities: tuple[int, ...],
    knots: Float[np.ndarray, "knots numeric"],
    components: Float[np.ndarray, "rows components"] | None = None,
    *,
    table: bool = True,
    text: bool = False,
) -> Any:
    """Numbers, their excess over each knot, an indicator for each level of each category and prefix except level 0,
    features of texts, components of the photos, and "has a photo".

    Args:
        cardinalities: of the categories and then of the prefixes, level 0 included.
        knots: of ``find_knots``; without rows for plain numbers.
        components: of the photos; None leaves the photos out.
        table, text: whether to take the table, and the features of its texts.
    Returns:
        float64 ``(rows, columns)``, a scipy CSR matrix if there are more than ``WIDE`` columns.
    """
    from scipy.sparse import csr_matrix, hstack

    parts: list[Any] = []
    if table:
        numbers = rows.numeric.astype(np.float64)
        parts += [numbers, *(np.maximum(numbers - knot, 0) for knot in knots)]
        parts.append(_indicators(np.concatenate([rows.categorical, rows.prefixes], axis=1), cardinalities))
    if text:
        parts.append(rows.text_columns.astype(np.float64))
    if components is not None:
        parts += [components, rows.seen[:, None].astype(np.float64)]
    if sum(part.shape[1] for part in parts) > WIDE:
        return hstack([csr_matrix(part) for part in parts], format="csr")
    dense = [part if isinstance(part, np.ndarray) else part.toarray() for part in parts]
    return beside([np.zeros((len(rows), 0)), *dense])


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A ``design_matrix`` whose rows are made when they are asked for."""

    rows: EncodedRows
    cardinalities: tuple[int, ...]
    knots: Float[np.ndarray, "knots numeric"]
    components: Components | None
    table: bool
    text: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        axes = None if self.components is None else len(self.components.axes)
        numeric = self.rows.numeric.shape[1]
        width = design_width(numeric, self.cardinalities, len(self.knots), axes, table=self.table)
        return len(self.rows), width + self.text * self.rows.text_width

    @property
    def matrix(self) -> Any:
        """All rows."""
        return self._of(self.rows)

    def __getitem__(self, rows: Int64[np.ndarray, "*some"]) -> Float[np.ndarray, "*some columns"]:
        return self._of(self.rows.take(rows.ravel())).reshape(*rows.shape, -1)

    def _of(self, rows: EncodedRows) -> Any:
        components = None if self.components is None else self.components.of(rows)
        return design_matrix(rows, self.cardinalities, self.knots, components, table=self.table, text=self.text)


def _indicators(levels: Int64[np.ndarray, "rows columns"], cardinalities: tuple[int, ...]) -> Any:
    """1 in the column of each row's level, without columns for level 0: CSR ``(rows, levels)``."""
    from scipy.sparse import csr_matrix

    widths = np.array([count - 1 for count in cardinalities], dtype=np.int64)
    place = levels - 1 + (np.cumsum(widths) - widths)
    row, column = np.nonzero(levels > 0)
    ones = np.ones(len(row))
    return csr_matrix((ones, (row, place[row, column])), shape=(len(levels), int(widths.sum())))


def fit_ridge(
    columns: Any,
    truth: Float[np.ndarray, " rows"],
    weight: np.ndarray | None = None,
    *,
    unit: Int64[np.ndarray, " rows"] | None = None,
    seed: int = 0,
    strengths: Float[np.ndarray, " strengths"] = RIDGE_STRENGTHS,
) -> LinearModel:
    """Ridge regression with the penalty chosen by leave-one-unit-out cross-validation; for sparse columns by a held-out
    fifth, so that the time grows with their entries.

    For a given penalty, a row of weight 2 is equivalent to two equal rows. For the choice it is not quite: a row is
    left out with its whole weight, while of two equal rows in different units one remains.

    Args:
        columns: an array, a CSR matrix, or a ``Design``, of which only some rows are in memory at once.
        weight: of each row, in the fit and in the cross-validation error, in any unit.
        unit: of each row (a group, copies); by default each row is a unit.
        seed: of the held-out fifth.
        strengths: candidate penalties, see ``RIDGE_STRENGTHS``.
    """
    if not columns.shape[1]:
        return LinearModel(weights=np.zeros((0, 1)), bias=np.array([weighted_mean(truth, weight)]), classes=0)
    counts = None if weight is None else weight.astype(np.float64) / weight.mean(dtype=np.float64)
    tried, goal = strengths * len(truth), truth.astype(np.float64)
    if not isinstance(columns, np.ndarray | Design):
        return _fit_wide_ridge(columns, goal, counts, tried[::_WIDE_STRENGTHS], unit, seed)
    units = units_by_size(np.arange(len(goal)) if unit is None else unit)
    weights, bias = _ridge_left_out(columns, goal, counts, tried, units)
    return LinearModel(weights=weights[:, None], bias=np.array([bias]), classes=0)


def fit_poisson(
    columns: Any,
    truth: Float[np.ndarray, " rows"],
    weight: np.ndarray | None = None,
    *,
    unit: Int64[np.ndarray, " rows"] | None = None,
    seed: int = 0,
) -> LinearModel:
    """Poisson regression with a log link and an L2 penalty, chosen by the deviance on a held-out fifth, then fitted on
    all rows (McCullagh and Nelder 1989, chapter 6); the model predicts logarithms.

    Args:
        columns: an array, or a CSR matrix.
        truth: at least 0, in any unit.
        weight, unit, seed: as for ``fit_logistic``.
    """
    goal = truth.astype(np.float64)
    if not columns.shape[1] or not goal.any():
        bias = log_rate(np.array([weighted_mean(goal, weight)]))
        return LinearModel(weights=np.zeros((columns.shape[1], 1)), bias=bias, classes=0)
    judging = _every_fifth(np.zeros(len(goal), dtype=np.int64), np.random.default_rng(seed), unit)
    tries = []
    for strength in POISSON_STRENGTHS if goal[~judging].any() else POISSON_STRENGTHS[-1:]:
        model = _poisson(columns[~judging], goal[~judging], strength, taken(weight, ~judging))
        losses = poisson_deviance(goal[judging], np.clip(model.predict(columns[judging]), -_BOUND, _BOUND))
        tries.append((weighted_mean(losses, taken(weight, judging)), strength))
    return _poisson(columns, goal, min(tries)[1], weight)


def _poisson(columns: Any, goal: np.ndarray, strength: float, weight: np.ndarray | None) -> LinearModel:
    """scikit-learn's model, whose penalty is relative to the mean of the losses."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import PoissonRegressor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = PoissonRegressor(alpha=strength, max_iter=300).fit(columns, goal, weight)
    return LinearModel(weights=model.coef_.reshape(-1, 1), bias=np.atleast_1d(model.intercept_), classes=0)


def log_rate(mean: np.ndarray) -> np.ndarray:
    """The logarithm of a mean count, which may be 0."""
    found: np.ndarray = np.log(np.maximum(mean, np.exp(-_BOUND)))
    return found


def _fit_wide_ridge(
    columns: Any,
    goal: Float[np.ndarray, " rows"],
    counts: np.ndarray | None,
    strengths: np.ndarray,
    unit: Int64[np.ndarray, " rows"] | None,
    seed: int,
) -> LinearModel:
    """Ridge regression on sparse columns; the largest penalty first, as each solution is the start of the next."""
    judging = _every_fifth(np.zeros(len(goal), dtype=np.int64), np.random.default_rng(seed), unit)
    weight = np.ones(len(goal)) if counts is None else counts
    equations = _NormalEquations(columns[~judging], goal[~judging], weight[~judging])
    tried, weights = list[tuple[float, float, np.ndarray]](), np.zeros(columns.shape[1])
    for strength in np.sort(strengths)[::-1].tolist():
        # The penalty is relative to the number of rows.
        weights = equations.solve(strength * float((~judging).mean()), weights, _ROUGH)
        errors = columns[judging] @ weights + equations.bias(weights) - goal[judging]
        tried.append((weighted_mean(errors**2, weight[judging]), strength, weights))
        if tried[-1][0] > _WORSE * min(tried, key=lambda one: one[0])[0]:
            break  # weaker penalties take by far the most steps
    _, best, start = min(tried, key=lambda one: one[0])
    equations = _NormalEquations(columns, goal, weight)
    weights = equations.solve(best, start, _TOLERANCE)
    return LinearModel(weights=weights[:, None], bias=np.array([equations.bias(weights)]), classes=0)


class _NormalEquations:
    """The equations of a weighted ridge regression with an intercept, which is not penalised, on sparse columns.

    They are solved by conjugate gradients, preconditioned by the inverse for the columns that most rows have, which
    are numbers and their excess over knots and depend on each other, and by the diagonal for the others, which are
    levels: a few steps are enough (Saad 2003, Iterative Methods for Sparse Linear Systems, chapters 9 and 10).

    Args:
        columns: CSR.
        weight: of each row.
    """

    def __init__(self, columns: Any, goal: Float[np.ndarray, " rows"], weight: Float[np.ndarray, " rows"]) -> None:
        self._columns, self._weight = columns, weight
        share = weight / max(float(weight.sum()), 1e-300)
        self._middle, self._level = share @ columns, float(share @ goal)
        squares = columns.copy()
        squares.data **= 2
        self._diagonal = np.maximum(weight @ squares - weight.sum() * self._middle**2, 0)
        filled = columns.getnnz(axis=0)
        self._dense = np.argsort(-filled, kind="stable")[: min(TOGETHER, int((filled > _FILLED * len(goal)).sum()))]
        self._square = np.zeros((len(self._dense), len(self._dense)))
        for some in _blocks(len(goal)):
            part = columns[some][:, self._dense].toarray() - self._middle[self._dense]
            self._square += part.T @ (part * weight[some, None])
        self._moment = self._back(goal - self._level)

    def _back(self, values: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " columns"]:
        """Sums of the rows' values along each column, less its mean."""
        counted = self._weight * values
        found: np.ndarray = self._columns.T @ counted - self._middle * counted.sum()
        return found

    def solve(
        self, strength: float, start: Float[np.ndarray, " columns"], tolerance: float
    ) -> Float[np.ndarray, " columns"]:
        """The weights of the columns for a penalty, found from ``start`` on; ``tolerance`` as ``_TOLERANCE``."""
        from scipy.linalg import cho_factor, cho_solve
        from scipy.sparse.linalg import LinearOperator, cg

        whole = cho_factor(self._square + strength * np.eye(len(self._square)), lower=True)

        def product(weights: np.ndarray) -> np.ndarray:
            return self._back(self._columns @ weights - self._middle @ weights) + strength * weights

        def solved(sums: np.ndarray) -> np.ndarray:
            found: np.ndarray = sums / (self._diagonal + strength)
            found[self._dense] = cho_solve(whole, sums[self._dense], check_finite=False)
            return found

        shape = (len(start), len(start))
        weights, _ = cg(
            LinearOperator(shape, matvec=product, dtype=np.float64),
            self._moment,
            x0=start,
            rtol=tolerance,
            maxiter=_STEPS,
            M=LinearOperator(shape, matvec=solved, dtype=np.float64),
        )
        return weights

    def bias(self, weights: Float[np.ndarray, " columns"]) -> float:
        """The intercept that goes with these weights."""
        return self._level - float(self._middle @ weights)


def _ridge_left_out(
    columns: Any,
    goal: Float[np.ndarray, " rows"],
    counts: np.ndarray | None,
    strengths: np.ndarray,
    units: list[Int64[np.ndarray, "_ _"]],
) -> tuple[Float[np.ndarray, " columns"], float]:
    """Weights and intercept at the penalty with the lowest leave-one-unit-out squared error; all penalties share one
    decomposition.

    With the hat matrix H, the errors of a left-out unit are (1 - H of the unit)^-1 times its residuals."""
    roots = np.ones(len(goal)) if counts is None else np.sqrt(counts)
    share = roots**2 / (roots**2).sum()
    # Rows are scaled by the root of their weight; the intercept is a separate column, orthogonal to the others.
    constant = roots / np.linalg.norm(roots)
    middle = sum(share[some] @ columns[some] for some in _blocks(len(goal)))
    level = float(share @ goal)
    target = (goal - level) * roots

    def scaled(rows: Any) -> np.ndarray:
        return (columns[rows] - middle) * roots[rows][..., None]

    sizes, axes, turned = _decomposed(scaled, target, columns.shape[1])
    kept = sizes[:, None] ** 2 / (sizes[:, None] ** 2 + strengths)
    total = np.zeros(len(strengths))
    for rows in _some_units(units):
        left = scaled(rows) @ (axes.T / sizes)
        residual = target[rows][..., None] - left @ (kept * turned[:, None])
        if rows.shape[1] == 1:
            hat = left[:, 0] ** 2 @ kept + constant[rows] ** 2
            total += ((residual[:, 0] / (1 - hat)) ** 2).sum(axis=0)
            continue
        for place, share_of in enumerate(kept.T):
            root = np.concatenate([left * np.sqrt(share_of), constant[rows][..., None]], axis=2)
            errors, turn = residual[:, :, [place]], root.transpose(0, 2, 1)
            if root.shape[1] <= root.shape[2]:
                errors = np.linalg.solve(np.eye(root.shape[1]) - root @ turn, errors)
            else:  # by the Woodbury identity, of the size of columns instead of rows
                errors = errors + root @ np.linalg.solve(np.eye(root.shape[2]) - turn @ root, turn @ errors)
            total[place] += float((errors**2).sum())
    best = float(strengths[int(total.argmin())])
    weights = axes.T @ (sizes / (sizes**2 + best) * turned)
    return weights, level - float(middle @ weights)


def _some_units(units: list[Int64[np.ndarray, "_ _"]]) -> Iterator[Int64[np.ndarray, "_ _"]]:
    """Blocks of units of one size, together with about ``_LEFT_OUT_ROWS`` rows if there are more."""
    every = -(-sum(rows.size for rows in units) // _LEFT_OUT_ROWS)
    for rows in units:
        some = rows[::every]
        step = max(1, _BLOCK // rows.shape[1])
        yield from (some[start : start + step] for start in range(0, len(some), step))


def _decomposed(
    scaled: Callable[[Any], Float[np.ndarray, "rows columns"]], target: Float[np.ndarray, " rows"], columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Singular values, right singular vectors as rows, and the target along the left ones, by way of the smaller
    product; without directions that are rounding errors."""
    if columns <= len(target):
        square, moment = np.zeros((columns, columns)), np.zeros(columns)
        for some in _blocks(len(target)):
            part = scaled(some)
            square += part.T @ part
            moment += target[some] @ part
        values, vectors = np.linalg.eigh(square)
        sizes = _sizes(values)
        real = sizes > 0
        sizes, axes = sizes[real], vectors[:, real].T
        return sizes, axes, axes @ moment / sizes
    whole = scaled(np.arange(len(target)))
    values, left = np.linalg.eigh(whole @ whole.T)
    sizes = _sizes(values)
    real = sizes > 0
    sizes, left = sizes[real], left[:, real]
    return sizes, (left / sizes).T @ whole, left.T @ target


def _blocks(rows: int) -> Iterator[Int64[np.ndarray, " block"]]:
    """All rows, some at once."""
    for start in range(0, rows, _BLOCK):
        yield np.arange(start, min(start + _BLOCK, rows))


def _sizes(values: Float[np.ndarray, " values"]) -> Float[np.ndarray, " values"]:
    """Roots of eigenvalues, 0 for those that are rounding errors."""
    least = _ROUNDING * max(float(values.max(initial=0.0)), 1e-300)
    return np.sqrt(np.where(values > least, values, 0.0))


def fit_logistic(
    columns: Any,
    truth: np.ndarray,
    *,
    classes: int,
    weight: np.ndarray | None = None,
    unit: Int64[np.ndarray, " rows"] | None = None,
    seed: int = 0,
    strengths: tuple[float, ...] = INVERSE_STRENGTHS,
) -> LinearModel:
    """Logistic regression with the penalty that has the lowest log loss on a held-out fifth, then fitted on all rows.

    Each fit starts at the weights of the stronger penalty before. For many rows, columns and classes penalties are
    compared on some rows only and fits end early, so that the time grows in proportion to them. For a given penalty, a
    row of weight 2 is equivalent to two equal rows; the held-out fifth is unweighted.

    Args:
        columns: an array, or a CSR matrix.
        weight: of each row, in any unit.
        unit: of each row (a group, copies), kept whole by the held-out fifth; by default each row is a unit.
        seed: seed of the held-out fifth.
        strengths: candidates, see ``INVERSE_STRENGTHS``.
    """
    from sklearn.metrics import log_loss

    seen, codes = np.unique(truth, return_inverse=True)
    if len(seen) < 2 or not columns.shape[1]:
        share = np.bincount(truth, weights=weight, minlength=classes) / (len(truth) if weight is None else weight.sum())
        bias = np.log(np.maximum(share, 1e-9))
        return LinearModel(weights=np.zeros((columns.shape[1], classes)), bias=bias, classes=classes)
    rng, size = np.random.default_rng(seed), columns.shape[1] * (1 if len(seen) == 2 else len(seen))
    most = max(_FEWEST_TRIED, _TRIED_SIZE // size)
    rough = _ROUGH_GRADIENT if columns.shape[1] > WIDE else _GRADIENT
    some = np.sort(rng.permutation(len(codes))[:most]) if len(codes) > most else np.arange(len(codes))
    judging = _every_fifth(codes[some], rng, None if unit is None else unit[some])
    fitting, judged = some[~judging], some[judging]
    models: list[Any] = []
    losses: list[float] = []
    for strength in strengths:
        start = models[-1] if models else None
        inverse, heavy = strength / len(fitting), taken(weight, fitting)
        model = _logistic(columns[fitting], codes[fitting], inverse, heavy, start, tolerance=rough)
        found = np.full((len(judged), len(seen)), 1e-9)
        found[:, model.classes_] = model.predict_proba(columns[judged])
        found /= found.sum(axis=1, keepdims=True)
        models.append(model)
        losses.append(log_loss(codes[judged], found, labels=range(len(seen)), sample_weight=taken(weight, judged)))
        if losses[-1] > _WORSE * min(losses):
            break
    best = int(np.argmin(losses))
    start = models[best] if len(some) < len(codes) else None
    model = _logistic(columns, codes, strengths[best] / len(some), weight, start)
    weights, bias = np.zeros((columns.shape[1], classes)), np.full(classes, -30.0)
    if len(seen) == 2:  # scikit-learn keeps one row for two classes
        weights[:, seen[1]], bias[seen] = model.coef_[0], (0.0, model.intercept_[0])
    else:
        weights[:, seen], bias[seen] = model.coef_.T, model.intercept_
    return LinearModel(weights=weights, bias=bias, classes=classes)


def _logistic(
    columns: Any,
    codes: np.ndarray,
    inverse: float,
    weight: np.ndarray | None,
    start: Any,
    *,
    tolerance: float = _GRADIENT,
) -> Any:
    """scikit-learn's model.

    Args:
        inverse: inverse penalty, relative to the sum of the losses.
        start: a model to start at, if it has the same classes.
        tolerance: see ``_GRADIENT``.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    classes = np.unique(codes)
    size = columns.shape[0] * columns.shape[1] * (1 if len(classes) == 2 else len(classes))
    steps = int(np.clip(_ALL_STEPS_SIZE // size, _FEWEST_STEPS, _STEPS_OF_LOGISTIC))
    model = LogisticRegression(C=inverse, max_iter=steps, tol=tolerance, warm_start=True)
    if start is not None and np.array_equal(start.classes_, classes):
        model.coef_, model.intercept_ = start.coef_, start.intercept_
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # good enough to compare penalties
        counts = None if weight is None else weight.astype(np.float64) / weight.mean(dtype=np.float64)
        return model.fit(columns, codes, counts)


def _every_fifth(codes: np.ndarray, rng: np.random.Generator, unit: np.ndarray | None) -> np.ndarray:
    """A mask of about a fifth of the rows of each class, never all rows of a class; units kept whole if possible."""
    if unit is not None and len(np.unique(unit)) < len(unit):
        of_unit = np.unique(unit, return_inverse=True)[1]
        order = rng.permutation(int(of_unit.max()) + 1)
        parts = min(5, len(order))
        mask = (order % parts == parts - 1)[of_unit]
        if set(codes[~mask].tolist()) == set(codes.tolist()) and mask.any():
            return mask
    order = np.lexsort((rng.random(len(codes)), codes))
    place = np.empty(len(codes), dtype=np.int64)
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    place[order] = np.arange(len(codes)) - np.repeat(starts, np.diff([*starts, len(codes)]))
    mask = place % 5 == 4
    if not mask.any():  # small classes only: one row of the largest
        largest = np.flatnonzero(codes == np.bincount(codes).argmax())
        mask[largest[-1]] = len(largest) > 1
    if not mask.any():
        mask[0] = True
    return mask
