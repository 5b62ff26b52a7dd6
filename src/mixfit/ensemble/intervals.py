"""Uncertainty of predictions: conformal intervals of numbers, calibrated probabilities and prediction sets of classes.

Everything is learnt from out-of-fold predictions. The interval of a row is its prediction plus or minus a quantile of
the scaled errors, times the expected spread of the row (normalised conformal prediction, Lei et al. 2018,
arXiv:1604.04173; over folds as in Barber et al. 2021, arXiv:1905.02928). The spread comes from a ridge regression
clipped to the range of its fitted values, or is constant if that is not worse out of fold. With enough rows, each
fifth of the predictions has its own quantile (Mondrian conformal prediction, Vovk et al. 2003; by predicted value as
in Boström and Johansson 2020), and so have rows without a photo. A prediction set contains the classes with a
probability above a threshold calibrated to the coverage (Sadinle et al. 2019, arXiv:1609.00451). Scores are stored;
the level is chosen at prediction time.

Weights are importance weights, not frequencies: a common factor changes nothing, and a row of weight 2 counts twice in
means and shares, but is not two rows. The sample size of a quantile, which limits the possible levels, is the effective
one, (sum of weights)² / (sum of squared weights)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.special import softmax

from mixfit.data.columns.kind import Kind
from mixfit.data.columns.kinds import KINDS
from mixfit.ensemble.objective import bounded
from mixfit.errors import ConfigError, DataError
from mixfit.files import Within, from_plain
from mixfit.models.encoding import EncodedRows, RowEncoder
from mixfit.models.linear import WIDE, LinearModel, design_matrix, design_width, find_knots
from mixfit.models.model import saved_array, saved_number
from mixfit.weighted import weighted_median, weighted_quantile

_MOST_SCORES = 2_000
_MOST_ROWS = 20_000
"""Largest number of calibration rows, drawn at random from more: enough for any quantile of use."""
_LEAST_PER_FIFTH = 100
"""Fewest rows per fifth of the predictions for separate quantiles."""
_FEWEST_FITTED = 10
"""Fewest rows for a regression of the spread."""
_SMALL_ERROR = 0.03
"""Share of the median error below which logarithms of errors are not informative."""
_STRENGTHS = np.logspace(-4, 1, 11)
"""Penalties of the ridge regression on standardised columns."""
_GATE_LEVELS = (0.8, 0.9, 0.95)
_ROUNDING = 1e-9
_STEP = 8
_SMALLEST = 1e-100
_TEMPERATURES = np.exp(np.linspace(np.log(0.2), np.log(5.0), 81))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The distribution of the nonconformity scores of calibration rows."""

    values: Float[np.ndarray, " scores"]
    """Sorted; thinned to quantiles if there are very many."""
    shares: Float[np.ndarray, " scores"]
    """Cumulative share of the weights at each value; the last is 1."""
    rows: float
    """Effective number of rows, see the module."""

    @classmethod
    def of(cls, scores: Float[np.ndarray, " rows"], weight: Float[np.ndarray, " rows"] | None = None) -> "Scores":
        """Build from the scores of some rows, possibly none.

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
        """Whether there are enough rows for the quantile at ``level``."""
        return level * (self.rows + 1) <= self.rows + _ROUNDING

    def quantile(self, level: float) -> float:
        """The conformal quantile at ``level``.

        Raises:
            ConfigError: the level is not in (0, 1), or there are too few rows for it.
        """
        check_level(level)
        if not self.suffice(level):
            raise ConfigError(
                f"{int(self.rows)} calibration rows are too few for intervals at level {level}, which need "
                f"{ceil(level / (1 - level) - _ROUNDING)}: use a level of at most {self.rows / (self.rows + 1):.4f}."
            )
        share = min(level * (self.rows + 1) / self.rows, 1.0)
        return float(self.values[np.searchsorted(self.shares, share - _ROUNDING)])

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """All arrays, with a prefix to their names."""
        found = {"values": self.values, "shares": self.shares, "rows": np.array([self.rows], dtype=np.float64)}
        return {f"{prefix}.{name}": values for name, values in found.items()}

    @classmethod
    def read(cls, arrays: dict[str, np.ndarray], prefix: str) -> "Scores":
        """Read the output of ``arrays``.

        Raises:
            DataError: the arrays are invalid.
        """
        values = saved_array(arrays, f"{prefix}.values", None, low=0)
        shares = saved_array(arrays, f"{prefix}.shares", len(values), low=0, high=1)
        rows = saved_number(arrays, f"{prefix}.rows")
        if rows < 0 or (np.diff(values) < 0).any() or (np.diff(shares) < 0).any():
            raise DataError(f"{prefix} are not valid scores")
        if bool(len(values)) != bool(rows) or (len(values) and shares[-1] != 1):
            raise DataError(f"{prefix} are incomplete scores")
        return cls(values=values, shares=shares, rows=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Expected absolute error of a row, up to a common factor."""

    knots: Float[np.ndarray, "3 columns"]
    """Knots of the numbers of the table and, last, of the prediction."""
    model: LinearModel
    """Predicts the logarithm of the absolute error."""
    low: float
    high: float
    """Range of the model's fitted values; predictions are clipped to it."""
    table: bool
    """Whether it uses the columns of the table, or only the prediction and "has a photo"."""

    def predict(
        self, encoded: EncodedRows, encoder: RowEncoder, predictions: Float[np.ndarray, " rows"]
    ) -> Float[np.ndarray, " rows"]:
        """Expected absolute errors, above 0."""
        columns = _spread_columns(encoded, encoder, self.knots, predictions, table=self.table)
        return np.exp(np.clip(self.model.predict(columns), self.low, self.high))


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberUncertainty:
    """Prediction intervals of scaled numbers."""

    encoder: RowEncoder
    spread: Spread | None
    """None for a constant spread."""
    scores: Scores
    """Scores: absolute errors divided by the expected spread."""
    without_photo: Scores
    """Scores of rows without a photo, used for them if there are enough; empty if no row has a photo."""
    edges: Float[np.ndarray, " edges"]
    """Edges between the parts by predicted value; empty if there are too few rows for parts."""
    by_prediction: tuple[Scores, ...]
    """Scores of each part, lowest predictions first, one more than edges; empty without parts."""
    counts: bool = False
    """Whether predictions are logarithms of scaled counts; everything else is then about scaled counts."""

    def calibrated(self, scaled: np.ndarray) -> np.ndarray:
        """Numbers are not changed."""
        return scaled

    def interval(
        self, scaled: Float[np.ndarray, " rows"], encoded: EncodedRows, level: float
    ) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
        """Lower and upper end in the scale of the target, for counts those of scaled counts, see ``decode_interval``.

        Args:
            encoded: the rows encoded by ``encoder``.
            level: coverage, in (0, 1).
        Raises:
            ConfigError: the level is not in (0, 1), or there are too few calibration rows for it.
        """
        scaled = np.exp(bounded(scaled)) if self.counts else scaled
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
        """All arrays; ``describe`` has the rest."""
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
        found = {"kind": "number", "encoder": self.encoder.to_dict(), "spread": described}
        return found | ({"counts": True} if self.counts else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassUncertainty:
    """Calibrated probabilities, and prediction sets."""

    temperature: float
    """Above 1: the blend was overconfident; below 1: underconfident."""
    scores: Scores
    """Scores: 1 minus the calibrated probability of the true class."""

    def calibrated(self, probabilities: Float[np.ndarray, "rows classes"]) -> Float[np.ndarray, "rows classes"]:
        """Probabilities after temperature scaling (Guo et al. 2017, arXiv:1706.04599)."""
        return tempered(probabilities, self.temperature)

    def sets(
        self,
        calibrated: Float[np.ndarray, "rows classes"],
        level: float,
        predicted: Int64[np.ndarray, " rows"] | None = None,
    ) -> Bool[np.ndarray, "rows classes"]:
        """The prediction set of each row, which always contains the predicted class.

        Args:
            predicted: by default the most probable class.
        Raises:
            ConfigError: the level is not in (0, 1), or there are too few calibration rows for it.
        """
        inside = 1 - calibrated <= self.scores.quantile(level)
        inside[np.arange(len(calibrated)), calibrated.argmax(1) if predicted is None else predicted] = True
        return inside

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays; ``describe`` has the rest."""
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
    counts: bool = False,
) -> NumberUncertainty:
    """Learn prediction intervals from out-of-fold predictions.

    Args:
        truth, predictions: in the scale of the target.
        encoded: the same rows encoded by ``encoder``.
        fold: of each row; the spread of a row is predicted by a regression on the other folds.
        weight: importances of the rows, at least 0; a row of weight 0 counts for nothing.
        others: by fold, the rows that the spread of its rows may be fitted on; by default those of all other folds. A
            fold without such rows, as the first one in time, gets a constant spread.
        counts: the truth is a scaled count, and predictions are logarithms.
    """
    predictions = np.exp(bounded(predictions)) if counts else predictions.astype(np.float64)
    errors = np.abs(truth.astype(np.float64) - predictions)
    weight = np.ones(len(errors)) if weight is None else weight.astype(np.float64)
    fitting = {int(number): fold != number if others is None else others[number] for number in np.unique(fold)}
    counted = np.flatnonzero(weight > 0)
    if len(counted) > _MOST_ROWS:
        counted = np.sort(np.random.default_rng(0).choice(counted, _MOST_ROWS, replace=False))
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
        counts=counts,
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
    """Find the temperature with the lowest log loss, and the scores of the true classes.

    Args:
        calibrated: the probabilities at cross-fitted temperatures, for the scores; by default at the temperature
            that is found.
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
    """Temperature scaling: divide log probabilities by the temperature; above 1 they become less confident."""
    return softmax(np.log(np.maximum(probabilities, 1e-12)) / temperature, axis=1)


def best_temperature(
    truth: Int64[np.ndarray, " rows"],
    probabilities: Float[np.ndarray, "rows classes"],
    weight: np.ndarray | None = None,
) -> float:
    """The temperature with the lowest weighted mean log loss.

    Half a row beside all others counts as one of any class, in the way of Krichevsky and Trofimov (1981) and of Platt
    (1999, "Probabilistic outputs for support vector machines"): rows that are all right would choose the lowest
    temperature, and one wrong row among new ones would then cost more than all of them."""
    rows = len(truth) if weight is None else np.count_nonzero(weight)
    any_class = 0.5 / (rows + 1)

    def loss(place: int) -> float:
        logarithms = np.log(np.maximum(tempered(probabilities, float(_TEMPERATURES[place])), _SMALLEST))
        chosen = logarithms[np.arange(len(truth)), truth]
        return -float(np.average((1 - any_class) * chosen + any_class * logarithms.mean(axis=1), weights=weight))

    coarse = min(range(0, len(_TEMPERATURES), _STEP), key=loss)
    near = range(max(0, coarse - _STEP + 1), min(len(_TEMPERATURES), coarse + _STEP))
    return float(_TEMPERATURES[min(near, key=loss)])


def uncertainty_from_dict(
    description: dict[str, Any], arrays: dict[str, np.ndarray], kinds: tuple[Kind, ...] = KINDS
) -> Uncertainty:
    """Read the output of ``describe`` and ``arrays``.

    Args:
        kinds: known kinds of columns.

    Raises:
        DataError: the content is invalid.
    """
    if "scores" in arrays:
        raise DataError("its intervals are of an older, unreliable kind")
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
        counts=said.counts,
        by_prediction=tuple(Scores.read(arrays, f"part{place}") for place in range(len(edges) + 1) if len(edges)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _SavedSpread:
    """The output of ``describe`` for a spread."""

    low: Annotated[float, Within(-700, 700)]
    high: Annotated[float, Within(-700, 700)]
    table: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saved:
    """The output of ``describe``."""

    kind: Literal["number", "class"]
    temperature: Annotated[float, Within(0.01, 100)] = 1.0
    encoder: dict[str, Any] = field(default_factory=dict)
    spread: _SavedSpread | None = None
    counts: bool = False


def _read_spread(said: _SavedSpread, arrays: dict[str, np.ndarray], encoder: RowEncoder) -> Spread:
    model = LinearModel.read(arrays, "spread.")
    knots = saved_array(arrays, "spread.knots", None, 1 + encoder.numeric)
    if (
        model.classes
        or said.low > said.high
        or len(model.weights) != _spread_width(encoder, len(knots), table=said.table)
    ):
        raise DataError("the spread of the intervals does not match their columns")
    return Spread(knots=knots, model=model, low=said.low, high=said.high, table=said.table)


def check_level(level: float) -> None:
    """Refuse a level outside (0, 1).

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
    """The spread that is best out of fold, and its out-of-fold predictions for each row.

    Spreads are compared by the log-likelihood of the Laplace distribution, a proper score of the distribution of
    errors that is less noisy than the score of one interval. The best spread must beat a constant one by more than one
    standard error of the difference, and have a lower mean interval score too. Columns of the
    table are not tried if there are more than ``WIDE``."""
    constant = np.ones(len(errors))
    logs = np.log(np.maximum(errors + _SMALL_ERROR * weighted_median(errors, weight), 1e-12))
    knots = find_knots(np.column_stack([encoded.numeric, predictions]).astype(np.float32), weight)
    best_loss, best = np.inf, None
    narrow = _spread_width(encoder, len(knots), table=True) <= WIDE
    for table in (False, True) if narrow else (False,):
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
    """Out-of-fold logarithms of expected errors, ``(rows, strengths)``.

    No strengths if no fold has enough other rows; a fold without enough gets the mean of the others."""
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
    """Ridge regressions of several strengths on standardised columns, clipped to their fitted range."""

    weights: Float[np.ndarray, "columns strengths"]
    bias: Float[np.ndarray, " strengths"]
    bounds: Float[np.ndarray, "2 strengths"]
    """Minimum and maximum of the fitted values."""

    @classmethod
    def fit(cls, columns: np.ndarray, logs: np.ndarray, weight: np.ndarray) -> "_RidgePath":
        """Fit on rows of a weight above 0."""
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
    """Negative log-likelihoods of a Laplace distribution whose scale is the best multiple of the spread."""
    factor = max(float(weight @ (errors / spreads)), 1e-12)
    return np.log(factor * spreads) + errors / (factor * spreads)


def _interval_score(errors: np.ndarray, spreads: np.ndarray, weight: np.ndarray) -> float:
    """Mean interval score over levels (Gneiting and Raftery 2007)."""
    scores, total = Scores.of(errors / spreads, weight), 0.0
    for level in _GATE_LEVELS:
        half = (scores.quantile(level) if scores.suffice(level) else scores.values[-1]) * spreads
        total += float(weight @ (2 * half + 2 / (1 - level) * np.maximum(errors - half, 0)))
    return total / len(_GATE_LEVELS)


def _spread_width(encoder: RowEncoder, knots: int, *, table: bool) -> int:
    """Number of columns of ``_spread_columns``."""
    return 2 + knots + design_width(encoder.numeric, encoder.cardinalities, knots, None, table=table)


def _spread_columns(
    encoded: EncodedRows, encoder: RowEncoder, knots: np.ndarray, predictions: np.ndarray, *, table: bool
) -> Float[np.ndarray, "rows columns"]:
    """The prediction, its excess over its knots, "has a photo", and optionally the columns of the table."""
    own = predictions[:, None].astype(np.float64)
    parts = [own, np.maximum(own - knots[:, -1], 0), encoded.seen[:, None].astype(np.float64)]
    if table:
        parts.append(design_matrix(encoded, encoder.cardinalities, knots[:, :-1]))
    return np.concatenate(parts, axis=1)
