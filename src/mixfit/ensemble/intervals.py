"""How sure a prediction is: conformal intervals for numbers, calibrated probabilities and sets for classes.

All comes from out-of-fold predictions, each made by models that did not see the row. The interval of a row is its
prediction plus or minus a quantile of the scaled errors, times the spread that is expected of such rows (normalised
conformal prediction, Lei et al. 2018, arXiv:1604.04173; over folds as in Barber et al. 2021, arXiv:1905.02928). The
spread comes from a ridge regression that never leaves the range of its own fitted values; it is the same for all rows
where that is not worse out of fold. Where rows suffice, each fifth of the predictions has a quantile of its own
(Mondrian conformal prediction, Vovk et al. 2003; by predicted value as in Boström and Johansson 2020), and so have rows
without a photo. A set holds the classes whose probability is high enough that the true class is among them as often as
asked (Sadinle et al. 2019, arXiv:1609.00451). The stored scores are numbers; levels are chosen when predicting.

Weights are importances, not frequencies: a common factor of all weights changes nothing, and a row of weight 2 is one
row that counts twice in every mean and share, not two rows. How many rows a quantile comes from, and so which levels it
can tell, is their effective number (sum of weights)² / (sum of squared weights), of equal weights their number."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.special import softmax

from mixfit.data.columns.kind import Kind
from mixfit.data.columns.kinds import KINDS
from mixfit.errors import ConfigError, DataError
from mixfit.files import Within, from_plain
from mixfit.models.encoding import EncodedRows, RowEncoder
from mixfit.models.linear import LinearModel, design_matrix, design_width, find_knots
from mixfit.models.model import saved_array, saved_number
from mixfit.weighted import weighted_median, weighted_quantile

_MOST_SCORES = 2_000
_LEAST_PER_FIFTH = 100
"""Rows of a fifth of the predictions, below which its own quantile would be too noisy."""
_FEWEST_FITTED = 10
"""Rows that a regression of spreads needs."""
_SMALL_ERROR = 0.03
"""Of the median error: below it, an error's logarithm says nothing."""
_STRENGTHS = np.logspace(-4, 1, 11)
"""Of the ridge regression, beside correlations of its columns."""
_GATE_LEVELS = (0.8, 0.9, 0.95)
_ROUNDING = 1e-9
_LEAST_PROBABILITY = 1e-6
_STEP = 8
_TEMPERATURES = np.exp(np.linspace(np.log(0.2), np.log(5.0), 81))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What calibration rows say of how far off predictions are: the distribution of their scores."""

    values: Float[np.ndarray, " scores"]
    """Sorted; thinned to quantiles where there are very many."""
    shares: Float[np.ndarray, " scores"]
    """Share of the weight of all rows that is at most at each value; the last is 1."""
    rows: float
    """Effective number of the rows that they come from, see the module."""

    @classmethod
    def of(cls, scores: Float[np.ndarray, " rows"], weight: Float[np.ndarray, " rows"] | None = None) -> "Scores":
        """Those of some rows, perhaps of none.

        Args:
            weight: importances, above 0.
        """
        weight = np.ones(len(scores)) if weight is None else weight.astype(np.float64)
        if not len(scores):
            return cls(values=np.zeros(0), shares=np.zeros(0), rows=0.0)
        order = np.argsort(scores, kind="stable")
        values, shares = scores[order].astype(np.float64), np.cumsum(weight[order]) / weight.sum()
        shares[-1] = 1.0
        if len(values) > _MOST_SCORES:
            kept = np.arange(1, _MOST_SCORES + 1) / _MOST_SCORES
            values, shares = values[np.searchsorted(shares, kept - _ROUNDING)], kept
        return cls(values=values, shares=shares, rows=float(np.round(weight.sum() ** 2 / (weight**2).sum(), 6)))

    def suffice(self, level: float) -> bool:
        """Whether so many rows can tell the score that ``level`` of new rows do not exceed."""
        return level * (self.rows + 1) <= self.rows + _ROUNDING

    def quantile(self, level: float) -> float:
        """The score that ``level`` of new rows do not exceed.

        Raises:
            ConfigError: the level is no share, or there are too few rows for it.
        """
        check_level(level)
        if not self.suffice(level):
            raise ConfigError(
                f"{int(self.rows)} rows out of fold are too few for intervals at {level}, which need "
                f"{ceil(level / (1 - level) - _ROUNDING)}: ask for at most {self.rows / (self.rows + 1):.4f}."
            )
        share = min(level * (self.rows + 1) / self.rows, 1.0)
        return float(self.values[np.searchsorted(self.shares, share - _ROUNDING)])

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Everything, under names that begin so."""
        found = {"values": self.values, "shares": self.shares, "rows": np.array([self.rows], dtype=np.float64)}
        return {f"{prefix}.{name}": values for name, values in found.items()}

    @classmethod
    def read(cls, arrays: dict[str, np.ndarray], prefix: str) -> "Scores":
        """Read what ``arrays`` gave.

        Raises:
            DataError: it is something else.
        """
        values = saved_array(arrays, f"{prefix}.values", None, low=0)
        shares = saved_array(arrays, f"{prefix}.shares", len(values), low=0, high=1)
        rows = saved_number(arrays, f"{prefix}.rows")
        if rows < 0 or (np.diff(values) < 0).any() or (np.diff(shares) < 0).any():
            raise DataError(f"{prefix} are not the scores of rows")
        if bool(len(values)) != bool(rows) or (len(values) and shares[-1] != 1):
            raise DataError(f"{prefix} are not all scores of their rows")
        return cls(values=values, shares=shares, rows=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What error is expected of a row, up to a factor that all rows share."""

    knots: Float[np.ndarray, "3 columns"]
    """Of the numbers of the table and, last, of the prediction."""
    model: LinearModel
    """The logarithm of the absolute error."""
    low: float
    high: float
    """Ends of the range that the model's values had on the rows that it was fitted on: it never leaves it."""
    table: bool
    """Whether it sees the columns of the table, or the prediction and "has a photo" alone."""

    def predict(
        self, encoded: EncodedRows, encoder: RowEncoder, predictions: Float[np.ndarray, " rows"]
    ) -> Float[np.ndarray, " rows"]:
        """Expected absolute errors, above 0."""
        columns = _spread_columns(encoded, encoder, self.knots, predictions, table=self.table)
        return np.exp(np.clip(self.model.predict(columns), self.low, self.high))


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberUncertainty:
    """Intervals of scaled numbers."""

    encoder: RowEncoder
    spread: Spread | None
    """None: the same for every row."""
    scores: Scores
    """Of errors, each divided by its expected spread."""
    without_photo: Scores
    """Of those rows alone, which have quantiles of their own where they suffice; of none where no row has a photo."""
    edges: Float[np.ndarray, " edges"]
    """Between the parts of the rows by predicted value; none where rows do not suffice for parts."""
    by_prediction: tuple[Scores, ...]
    """Of each part, lowest predictions first, one more than edges; none where there are no parts."""

    def calibrated(self, scaled: np.ndarray) -> np.ndarray:
        """Numbers are what they are."""
        return scaled

    def interval(
        self, scaled: Float[np.ndarray, " rows"], encoded: EncodedRows, level: float
    ) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
        """Lower and upper end in the scale of the target.

        Args:
            encoded: the rows by ``encoder``.
            level: share of rows whose true number lies between the ends, in (0, 1).
        Raises:
            ConfigError: the level is no share, or there are too few calibration rows for it.
        """
        half = np.full(len(scaled), self.scores.quantile(level))
        part = np.searchsorted(self.edges, scaled)
        for place, scores in enumerate(self.by_prediction):
            if scores.suffice(level):
                half[part == place] = scores.quantile(level)
        if self.without_photo.suffice(level):
            half[~encoded.seen] = self.without_photo.quantile(level)
        if self.spread is not None:
            half *= self.spread.predict(encoded, self.encoder, scaled)
        return scaled - half, scaled + half

    def arrays(self) -> dict[str, np.ndarray]:
        """All of its numbers but those of ``describe``."""
        found = {"edges": self.edges, **self.scores.arrays("scores"), **self.without_photo.arrays("without_photo")}
        for place, scores in enumerate(self.by_prediction):
            found |= scores.arrays(f"part{place}")
        if self.spread is not None:
            found |= self.spread.model.arrays("spread.") | {"spread.knots": self.spread.knots}
        return found

    def describe(self) -> dict[str, Any]:
        """The rest, for JSON."""
        spread = self.spread
        described = None if spread is None else {"low": spread.low, "high": spread.high, "table": spread.table}
        return {"kind": "number", "encoder": self.encoder.to_dict(), "spread": described}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassUncertainty:
    """Calibrated probabilities, and sets of classes."""

    temperature: float
    """Above 1: the blend was too sure; below 1: it was not sure enough."""
    scores: Scores
    """Of 1 minus the calibrated probability of the true class."""

    def calibrated(self, probabilities: Float[np.ndarray, "rows classes"]) -> Float[np.ndarray, "rows classes"]:
        """Probabilities after temperature scaling (Guo et al. 2017, arXiv:1706.04599)."""
        return tempered(probabilities, self.temperature)

    def sets(self, calibrated: Float[np.ndarray, "rows classes"], level: float) -> Bool[np.ndarray, "rows classes"]:
        """Which classes are in the set of each row; the most probable one always is.

        Raises:
            ConfigError: the level is no share, or there are too few calibration rows for it.
        """
        inside = 1 - calibrated <= self.scores.quantile(level)
        inside[np.arange(len(calibrated)), calibrated.argmax(1)] = True
        return inside

    def arrays(self) -> dict[str, np.ndarray]:
        """All of its numbers but those of ``describe``."""
        return self.scores.arrays("scores")

    def describe(self) -> dict[str, Any]:
        """The rest, for JSON."""
        return {"kind": "class", "temperature": self.temperature}


Uncertainty = NumberUncertainty | ClassUncertainty


def number_uncertainty(
    truth: Float[np.ndarray, " rows"],
    predictions: Float[np.ndarray, " rows"],
    encoded: EncodedRows,
    encoder: RowEncoder,
    fold: Int64[np.ndarray, " rows"],
    weight: np.ndarray | None = None,
    *,
    others: Sequence[Bool[np.ndarray, " rows"]] | None = None,
) -> NumberUncertainty:
    """Learn from out-of-fold predictions how large errors are, and of which rows.

    Args:
        truth, predictions: in the scale of the target.
        encoded: the same rows by ``encoder``.
        fold: of each row; the spread of a row is judged by a regression on the other folds.
        weight: importances of the rows, at least 0; a row of weight 0 counts for nothing.
        others: by fold, the rows that the spread of its rows may be fitted on; by default those of all other folds. A
            fold without such rows, as the first one in time, is judged by a spread that is the same for all its rows.
    """
    predictions = predictions.astype(np.float64)
    errors = np.abs(truth.astype(np.float64) - predictions)
    weight = np.ones(len(errors)) if weight is None else weight.astype(np.float64)
    fitting = {int(number): fold != number if others is None else others[number] for number in np.unique(fold)}
    counted = np.flatnonzero(weight > 0)
    if len(counted) < len(errors):
        errors, predictions, fold, weight = errors[counted], predictions[counted], fold[counted], weight[counted]
        encoded, fitting = encoded.take(counted), {number: mask[counted] for number, mask in fitting.items()}
    weight = weight / weight.sum()
    spread, expected = _best_spread(errors, predictions, encoded, encoder, fold, fitting, weight)
    scores, edges = errors / expected, np.zeros(0)
    everything = Scores.of(scores, weight)
    if everything.rows >= 5 * _LEAST_PER_FIFTH:
        edges = weighted_quantile(predictions, (0.2, 0.4, 0.6, 0.8), weight)
    part = np.searchsorted(edges, predictions)
    alone = ~encoded.seen if encoded.seen.any() else np.zeros(len(scores), dtype=bool)
    return NumberUncertainty(
        encoder=encoder,
        spread=spread,
        scores=everything,
        without_photo=Scores.of(scores[alone], weight[alone]),
        edges=edges,
        by_prediction=tuple(
            Scores.of(scores[part == place], weight[part == place]) for place in range(len(edges) + 1) if len(edges)
        ),
    )


def class_uncertainty(
    truth: Int64[np.ndarray, " rows"],
    probabilities: Float[np.ndarray, "rows classes"],
    weight: np.ndarray | None = None,
    *,
    calibrated: Float[np.ndarray, "rows classes"] | None = None,
) -> ClassUncertainty:
    """Find the temperature with the least log-loss, and how probable true classes are.

    Args:
        calibrated: the probabilities at temperatures that do not know the row, for the scores; by default at the
            temperature that is found.
        weight: importances of the rows, at least 0; a row of weight 0 counts for nothing.
    """
    if weight is not None:
        counted = weight > 0
        truth, probabilities, weight = truth[counted], probabilities[counted], weight[counted]
        calibrated = None if calibrated is None else calibrated[counted]
    temperature = best_temperature(truth, probabilities, weight)
    calibrated = tempered(probabilities, temperature) if calibrated is None else calibrated
    chosen = calibrated[np.arange(len(truth)), truth]
    return ClassUncertainty(temperature=temperature, scores=Scores.of(1 - chosen, weight))


def tempered(probabilities: Float[np.ndarray, "rows classes"], temperature: float) -> Float[np.ndarray, "rows classes"]:
    """Probabilities whose logarithms are divided by the temperature: above 1 they become less sure."""
    return softmax(np.log(np.maximum(probabilities, 1e-12)) / temperature, axis=1)


def best_temperature(
    truth: Int64[np.ndarray, " rows"],
    probabilities: Float[np.ndarray, "rows classes"],
    weight: np.ndarray | None = None,
) -> float:
    """The temperature with the least log-loss, a mean by weight."""

    def loss(place: int) -> float:
        chosen = tempered(probabilities, float(_TEMPERATURES[place]))[np.arange(len(truth)), truth]
        return float(np.average(-np.log(np.maximum(chosen, _LEAST_PROBABILITY)), weights=weight))

    coarse = min(range(0, len(_TEMPERATURES), _STEP), key=loss)
    near = range(max(0, coarse - _STEP + 1), min(len(_TEMPERATURES), coarse + _STEP))
    return float(_TEMPERATURES[min(near, key=loss)])


def uncertainty_from_dict(
    description: dict[str, Any], arrays: dict[str, np.ndarray], kinds: tuple[Kind, ...] = KINDS
) -> Uncertainty:
    """Read what ``describe`` and ``arrays`` gave.

    Args:
        kinds: what columns can be.

    Raises:
        DataError: it is something else.
    """
    if "scores" in arrays:
        raise DataError("its intervals are of an older kind, which could be useless")
    said: _Saved = from_plain(_Saved, description, "the uncertainty", finite=True)
    scores = Scores.read(arrays, "scores")
    if not len(scores.values):
        raise DataError("the uncertainty has no scores")
    if said.kind == "class":
        return ClassUncertainty(temperature=said.temperature, scores=scores)
    encoder = RowEncoder.from_dict(said.encoder, kinds)
    spread = None if said.spread is None else _read_spread(said.spread, arrays, encoder)
    edges = saved_array(arrays, "edges", None)
    if (np.diff(edges) < 0).any():
        raise DataError("the edges of its intervals are not in order")
    return NumberUncertainty(
        encoder=encoder,
        spread=spread,
        scores=scores,
        without_photo=Scores.read(arrays, "without_photo"),
        edges=edges,
        by_prediction=tuple(Scores.read(arrays, f"part{place}") for place in range(len(edges) + 1) if len(edges)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _SavedSpread:
    """What ``describe`` gives of a spread."""

    low: Annotated[float, Within(-700, 700)]
    high: Annotated[float, Within(-700, 700)]
    table: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """What ``describe`` gives."""

    kind: Literal["number", "class"]
    temperature: Annotated[float, Within(0.01, 100)] = 1.0
    encoder: dict[str, Any] = field(default_factory=dict)
    spread: _SavedSpread | None = None


def _read_spread(said: _SavedSpread, arrays: dict[str, np.ndarray], encoder: RowEncoder) -> Spread:
    model = LinearModel.read(arrays, "spread.")
    knots = saved_array(arrays, "spread.knots", None, 1 + encoder.numeric)
    if (
        model.classes
        or said.low > said.high
        or len(model.weights) != _spread_width(encoder, len(knots), table=said.table)
    ):
        raise DataError("the spread of the intervals is not that of their columns")
    return Spread(knots=knots, model=model, low=said.low, high=said.high, table=said.table)


def check_level(level: float) -> None:
    """Refuse a level that is no share.

    Raises:
        ConfigError: it is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ConfigError(f"the level of intervals must be between 0 and 1, for instance 0.9, got {level}.")


# --- the spread -----------------------------------------------------------------------------------------------------


def _best_spread(
    errors: np.ndarray,
    predictions: np.ndarray,
    encoded: EncodedRows,
    encoder: RowEncoder,
    fold: np.ndarray,
    fitting: dict[int, np.ndarray],
    weight: np.ndarray,
) -> tuple[Spread | None, np.ndarray]:
    """The spread that is best out of fold, and what it expects of each row, fitted without the row's fold.

    Expected spreads are judged by the log-likelihood of Laplace's distribution, a proper score of the distribution of
    errors, which is less noisy than that of one interval. The best one must beat a constant spread by more than a
    standard error of the difference, and have the lower mean interval score too."""
    constant = np.ones(len(errors))
    logs = np.log(np.maximum(errors + _SMALL_ERROR * weighted_median(errors, weight), 1e-12))
    knots = find_knots(np.column_stack([encoded.numeric, predictions]).astype(np.float32), weight)
    best_loss, best = np.inf, None
    for table in (False, True):
        columns = _spread_columns(encoded, encoder, knots, predictions, table=table)
        expected = _expected(columns, logs, fold, fitting, weight)
        for place in range(expected.shape[1]):
            spreads = np.exp(expected[:, place])
            loss = float(np.average(_laplace_losses(errors, spreads, weight), weights=weight))
            if loss < best_loss:
                best_loss, best = loss, (spreads, columns, place, table)
    if best is None:
        return None, constant
    spreads, columns, place, table = best
    gains = _laplace_losses(errors, constant, weight) - _laplace_losses(errors, spreads, weight)
    mean = float(np.average(gains, weights=weight))
    noise = float(np.sqrt((weight**2 * (gains - mean) ** 2).sum()))
    if not (mean > noise and _interval_score(errors, spreads, weight) < _interval_score(errors, constant, weight)):
        return None, constant
    path = _RidgePath.fit(columns, logs, weight)
    low, high = path.bounds
    model = LinearModel(weights=path.weights[:, [place]], bias=path.bias[[place]], classes=0)
    return Spread(knots=knots, model=model, low=float(low[place]), high=float(high[place]), table=table), spreads


def _expected(
    columns: np.ndarray, logs: np.ndarray, fold: np.ndarray, fitting: dict[int, np.ndarray], weight: np.ndarray
) -> np.ndarray:
    """Logarithms of expected errors, each row's by a regression without its fold, ``(rows, strengths)``.

    No strengths where there is no fold with enough other rows; a fold without them gets the mean of the others."""
    found = np.full((len(logs), len(_STRENGTHS)), np.nan)
    for number, usable in fitting.items():
        if usable.sum() >= _FEWEST_FITTED:
            judged = fold == number
            path = _RidgePath.fit(columns[usable], logs[usable], weight[usable])
            found[judged] = path.predict(columns[judged])
    known = ~np.isnan(found[:, 0])
    if not known.any():
        return found[:, :0]
    found[~known] = np.average(found[known], axis=0, weights=weight[known])
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _RidgePath:
    """Ridge regressions of several strengths on standardised columns, none of which leaves its range."""

    weights: Float[np.ndarray, "columns strengths"]
    bias: Float[np.ndarray, " strengths"]
    bounds: Float[np.ndarray, "2 strengths"]
    """Least and greatest value on the rows it was fitted on."""

    @classmethod
    def fit(cls, columns: np.ndarray, logs: np.ndarray, weight: np.ndarray) -> "_RidgePath":
        """On rows of a weight above 0."""
        weight = weight / weight.sum()
        middle, level = weight @ columns, weight @ logs
        scale = np.sqrt(weight @ (columns - middle) ** 2)
        scale[scale < _ROUNDING] = 1.0
        roots = np.sqrt(weight)
        standard, target = (columns - middle) / scale * roots[:, None], (logs - level) * roots
        if columns.shape[1] <= len(columns):
            values, axes = np.linalg.eigh(standard.T @ standard)
            along = axes.T @ (standard.T @ target)
        else:
            left, roots_of_values, right = np.linalg.svd(standard, full_matrices=False)
            values, axes, along = roots_of_values**2, right.T, roots_of_values * (left.T @ target)
        found = axes @ (along[:, None] / (np.maximum(values, 0.0)[:, None] + _STRENGTHS)) / scale[:, None]
        bias = level - middle @ found
        fitted = columns @ found + bias
        return cls(weights=found, bias=bias, bounds=np.stack([fitted.min(axis=0), fitted.max(axis=0)]))

    def predict(self, columns: np.ndarray) -> np.ndarray:
        """``(rows, strengths)``."""
        return np.clip(columns @ self.weights + self.bias, *self.bounds)


def _laplace_losses(errors: np.ndarray, spreads: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Minus log-likelihoods of Laplace's distribution whose scale is the best multiple of the spread."""
    factor = max(float(weight @ (errors / spreads)), 1e-12)
    return np.log(factor * spreads) + errors / (factor * spreads)


def _interval_score(errors: np.ndarray, spreads: np.ndarray, weight: np.ndarray) -> float:
    """Mean over levels of the interval score of intervals of these spreads (Gneiting and Raftery 2007)."""
    scores, total = Scores.of(errors / spreads, weight), 0.0
    for level in _GATE_LEVELS:
        half = (scores.quantile(level) if scores.suffice(level) else scores.values[-1]) * spreads
        total += float(weight @ (2 * half + 2 / (1 - level) * np.maximum(errors - half, 0)))
    return total / len(_GATE_LEVELS)


def _spread_width(encoder: RowEncoder, knots: int, *, table: bool) -> int:
    """How many columns ``_spread_columns`` gives."""
    return 2 + knots + design_width(encoder.numeric, encoder.cardinalities, knots, None, table=table)


def _spread_columns(
    encoded: EncodedRows, encoder: RowEncoder, knots: np.ndarray, predictions: np.ndarray, *, table: bool
) -> Float[np.ndarray, "rows columns"]:
    """The prediction, what it exceeds its knots by, "has a photo", and perhaps the columns of the table."""
    own = predictions[:, None].astype(np.float64)
    parts = [own, np.maximum(own - knots[:, -1], 0), encoded.seen[:, None].astype(np.float64)]
    if table:
        parts.append(design_matrix(encoded, encoder.cardinalities, knots[:, :-1]))
    return np.concatenate(parts, axis=1)
