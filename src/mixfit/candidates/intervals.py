"""How sure a prediction is: conformal intervals for numbers, calibrated probabilities and sets for classes.

All comes from out-of-fold predictions, each made by models that did not see the row. The interval of a row is its
prediction plus or minus a quantile of the scaled errors, times the spread that a ridge regression expects of such rows
(normalised conformal prediction, Lei et al. 2018, arXiv:1604.04173; over folds as in Barber et al. 2021,
arXiv:1905.02928). A set holds the classes whose probability is high enough that the true class is among them as often
as asked (Sadinle et al. 2019, arXiv:1609.00451). The stored scores are numbers; levels are chosen when predicting."""

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.special import softmax
from torch import Tensor

from mixfit.candidates.encoding import EncodedRows, RowEncoder
from mixfit.candidates.linear import LinearModel, design_matrix, find_knots, fit_ridge
from mixfit.errors import ConfigError

_MOST_SCORES = 2_000
_LEAST_ERROR = 1e-3  # of a scaled number: below it, an error's logarithm says nothing
_LEAST_PROBABILITY = 1e-6
_TEMPERATURES = np.exp(np.linspace(np.log(0.2), np.log(5.0), 81))


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberUncertainty:
    """Intervals of scaled numbers."""

    encoder: RowEncoder
    knots: np.ndarray
    spread: LinearModel
    """The logarithm of the absolute error that is to be expected of a row."""
    scores: Float[np.ndarray, " scores"]
    """Sorted errors, each divided by its expected spread."""
    rows: int
    """How many rows the scores come from."""
    scores_without_photo: Float[np.ndarray, " rows"]
    """Those of them that belong to rows without a photo: these have quantiles of their own, where they suffice."""

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
        """
        columns = _spread_columns(encoded, self.encoder.cardinalities, self.knots, scaled)
        quantile = np.full(len(scaled), _quantile(self.scores, level, self.rows))
        alone = len(self.scores_without_photo)
        if alone and level * (alone + 1) <= alone:
            quantile[~encoded.seen] = _quantile(self.scores_without_photo, level, alone)
        half = quantile * np.exp(self.spread.predict(columns))
        return scaled - half, scaled + half

    def tensors(self) -> dict[str, Tensor]:
        """Its arrays."""
        spread = {f"spread.{name}": tensor for name, tensor in self.spread.tensors().items()}
        return {
            "scores": torch.from_numpy(self.scores),
            "scores_without_photo": torch.from_numpy(self.scores_without_photo),
            "knots": torch.from_numpy(self.knots),
            **spread,
        }

    def describe(self) -> dict[str, Any]:
        """The rest, for JSON."""
        return {"kind": "number", "encoder": self.encoder.to_dict(), "rows": self.rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassUncertainty:
    """Calibrated probabilities, and sets of classes."""

    temperature: float
    """Above 1: the blend was too sure; below 1: it was not sure enough."""
    scores: Float[np.ndarray, " scores"]
    """Sorted: 1 minus the calibrated probability of the true class."""
    rows: int

    def calibrated(self, probabilities: Float[np.ndarray, "rows classes"]) -> Float[np.ndarray, "rows classes"]:
        """Probabilities after temperature scaling (Guo et al. 2017, arXiv:1706.04599)."""
        return tempered(probabilities, self.temperature)

    def sets(self, calibrated: Float[np.ndarray, "rows classes"], level: float) -> Bool[np.ndarray, "rows classes"]:
        """Which classes are in the set of each row; the most probable one always is."""
        inside = 1 - calibrated <= _quantile(self.scores, level, self.rows)
        inside[np.arange(len(calibrated)), calibrated.argmax(1)] = True
        return inside

    def tensors(self) -> dict[str, Tensor]:
        """Its arrays."""
        return {"scores": torch.from_numpy(self.scores)}

    def describe(self) -> dict[str, Any]:
        """The rest, for JSON."""
        return {"kind": "class", "temperature": self.temperature, "rows": self.rows}


Uncertainty = NumberUncertainty | ClassUncertainty


def number_uncertainty(
    truth: Float[np.ndarray, " rows"],
    predictions: Float[np.ndarray, " rows"],
    encoded: EncodedRows,
    encoder: RowEncoder,
    fold: Int64[np.ndarray, " rows"],
    weight: np.ndarray | None = None,
) -> NumberUncertainty:
    """Learn from out-of-fold predictions how large errors are, and of which rows.

    Args:
        truth, predictions: in the scale of the target.
        encoded: the same rows by ``encoder``.
        fold: of each row; the spread of a row is judged by a regression on the other folds.
    """
    errors = np.abs(truth.astype(np.float64) - predictions)
    knots = find_knots(encoded.numeric)
    columns = _spread_columns(encoded, encoder.cardinalities, knots, predictions)
    logs = np.log(errors + _LEAST_ERROR)
    expected = np.empty(len(errors))
    for number in np.unique(fold):
        inside = fold == number
        weights = None if weight is None else weight[~inside]
        expected[inside] = fit_ridge(columns[~inside], logs[~inside], weights).predict(columns[inside])
    spread = fit_ridge(columns, logs, weight)
    scores = errors / np.exp(expected)
    return NumberUncertainty(
        encoder=encoder,
        knots=knots,
        spread=spread,
        scores=_few(scores),
        rows=len(errors),
        scores_without_photo=np.sort(scores[~encoded.seen]) if encoded.seen.any() else np.zeros(0),
    )


def class_uncertainty(
    truth: Int64[np.ndarray, " rows"],
    probabilities: Float[np.ndarray, "rows classes"],
    weight: np.ndarray | None = None,
) -> ClassUncertainty:
    """Find the temperature with the least log-loss, and how probable true classes are."""

    temperature = best_temperature(truth, probabilities, weight)
    chosen = tempered(probabilities, temperature)[np.arange(len(truth)), truth]
    return ClassUncertainty(temperature=temperature, scores=_few(1 - chosen), rows=len(truth))


def tempered(probabilities: Float[np.ndarray, "rows classes"], temperature: float) -> Float[np.ndarray, "rows classes"]:
    """Probabilities whose logarithms are divided by the temperature: above 1 they become less sure."""
    return softmax(np.log(np.maximum(probabilities, 1e-12)) / temperature, axis=1)


def best_temperature(
    truth: Int64[np.ndarray, " rows"],
    probabilities: Float[np.ndarray, "rows classes"],
    weight: np.ndarray | None = None,
) -> float:
    """The temperature with the least log-loss."""

    def loss(temperature: float) -> float:
        chosen = tempered(probabilities, temperature)[np.arange(len(truth)), truth]
        return float(np.average(-np.log(np.maximum(chosen, _LEAST_PROBABILITY)), weights=weight))

    return float(min(_TEMPERATURES, key=loss))


def uncertainty_from_dict(description: dict[str, Any], tensors: dict[str, Tensor]) -> Uncertainty:
    """Read what ``describe`` and ``tensors`` gave; raises KeyError or TypeError when it is something else."""
    scores = np.sort(tensors["scores"].numpy())
    if description["kind"] == "class":
        return ClassUncertainty(
            temperature=float(description["temperature"]), scores=scores, rows=int(description["rows"])
        )
    spread = {name.removeprefix("spread."): tensor for name, tensor in tensors.items() if name.startswith("spread.")}
    return NumberUncertainty(
        encoder=RowEncoder.from_dict(description["encoder"]),
        knots=tensors["knots"].numpy(),
        spread=LinearModel.from_tensors(spread),
        scores=scores,
        rows=int(description["rows"]),
        scores_without_photo=np.sort(tensors["scores_without_photo"].numpy()),
    )


def check_level(level: float) -> None:
    """Refuse a level that is no share.

    Raises:
        ConfigError: it is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ConfigError(f"the level of intervals must be between 0 and 1, for instance 0.9, got {level}.")


def _spread_columns(
    encoded: EncodedRows, cardinalities: tuple[int, ...], knots: np.ndarray, predictions: np.ndarray
) -> np.ndarray:
    seen = encoded.seen[:, None].astype(np.float64)
    return np.concatenate(
        [design_matrix(encoded, cardinalities, knots), seen, predictions[:, None], predictions[:, None] ** 2], axis=1
    )


def _few(scores: np.ndarray) -> np.ndarray:
    """Sorted, and thinned to quantiles where there are very many."""
    scores = np.sort(scores.astype(np.float64))
    if len(scores) <= _MOST_SCORES:
        return scores
    return np.quantile(scores, np.linspace(0, 1, _MOST_SCORES), method="higher")


def _quantile(scores: np.ndarray, level: float, rows: int) -> float:
    """The score that ``level`` of new rows do not exceed.

    Raises:
        ConfigError: the level is no share, or so many rows cannot tell it.
    """
    check_level(level)
    share = level * (rows + 1) / rows
    if share > 1:
        raise ConfigError(
            f"{rows} rows in the folds cannot tell intervals at {level}, which need {ceil(level / (1 - level))}: "
            f"ask for at most {rows / (rows + 1):.4f}."
        )
    return float(np.quantile(scores, share, method="higher"))
