"""The rows whose out-of-fold predictions are scored, and what they say of a model and of a blend."""

from dataclasses import dataclass, field, replace

import numpy as np

from mixfit.data.columns.target import Target
from mixfit.data.load import MixedData
from mixfit.ensemble.blend import Blend, ModelPredictions, blend, gain, row_losses
from mixfit.ensemble.cross_fit import FittedFolds, Fitting
from mixfit.ensemble.objective import Objective, metric_objective
from mixfit.ensemble.threshold import Thresholds, cross_fitted
from mixfit.evaluation.result import LeaderboardLine
from mixfit.runs.results import BLEND
from mixfit.training.metrics import Metric, decided, median_class, metric_named


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The rows whose out-of-fold predictions are scored: all rows of random folds, the later ones of folds in time."""

    folds: FittedFolds
    mask: np.ndarray
    """Mask of these rows among ``folds.rows``."""
    truth: np.ndarray
    number: np.ndarray
    """Fold of each."""
    unit: np.ndarray
    """Rows of one unit are dependent: standard errors are over units."""
    weight: np.ndarray | None
    target: Target
    counts: bool
    """Whether the target is a count."""
    ordered: bool
    """Whether the classes are ordered."""
    metric: Metric | None
    """The chosen metric; None for the default one."""
    objective: Objective | None
    """What the weights of blends minimise; None for the loss."""
    thresholds: dict[str, Thresholds] = field(default_factory=dict)
    """By model, see ``Blended``."""

    @classmethod
    def of(cls, folds: FittedFolds, mixed: MixedData) -> "Judged":
        mask, target = folds.plan.judged, mixed.target
        metric = None if mixed.metric == "auto" else metric_named(mixed.metric, mixed.schema.task)
        classes = len(target.classes or ())
        return cls(
            target=target,
            counts=mixed.schema.task == "count",
            ordered=mixed.schema.task == "ordered",
            metric=metric,
            objective=None
            if metric is None
            else metric_objective(metric, target.decode, target.decode_truth, classes=classes),
            folds=folds,
            mask=mask,
            truth=folds.truth[mask],
            number=folds.number[mask],
            unit=folds.plan.unit[mask],
            weight=None if folds.weight is None else folds.weight[mask],
        )

    def place(self, line: LeaderboardLine) -> tuple[float, float]:
        """The key that sorts a leaderboard, the best first: by the chosen metric, then by the loss."""
        if self.metric is None or line.score is None:
            return 0.0, line.loss
        score = -line.score if self.metric.higher_is_better else line.score
        return (np.inf if np.isnan(score) else score), line.loss

    @property
    def rows(self) -> np.ndarray:
        """Positions in the table."""
        return self.folds.rows[self.mask]

    def predictions(self, fitting: Fitting) -> np.ndarray:
        """Predictions of a model at cross-fitted temperatures."""
        return fitting.honest(self.folds.number)[self.mask]

    def score(self, name: str, predictions: np.ndarray) -> float | None:
        """The chosen metric of a model; None for the default one.

        Args:
            predictions: scaled numbers, or probabilities.
        """
        if self.metric is None:
            return None
        if self.target.classes is None:
            return self.metric.value(self.target.decode_truth(self.truth), self.target.decode(predictions), self.weight)
        if self.metric.decides and self.ordered:
            predictions = decided(median_class(predictions), len(self.target.classes))
        elif self.metric.decides and len(self.target.classes) == 2:
            found = self.threshold(name, predictions)
            predictions = decided(found.decide(predictions, new=False), 2)
        return self.metric.value(self.truth, predictions, self.weight)

    def threshold(self, name: str, probabilities: np.ndarray) -> Thresholds:
        """The decision thresholds of a model, chosen once."""
        assert self.metric is not None
        if name not in self.thresholds:
            learns = [mask[self.mask] for mask in self.folds.plan.learns_from]
            self.thresholds[name] = cross_fitted(
                self.truth, probabilities, self.metric, self.number, learns_from=learns, weight=self.weight
            )
        return self.thresholds[name]

    def final_threshold(self, probabilities: np.ndarray) -> float | None:
        """The decision threshold of the delivered blend for new rows; None unless the chosen metric has one."""
        self.score(BLEND, probabilities)
        return self.thresholds[BLEND].final if BLEND in self.thresholds else None

    def loss(self, fitting: Fitting) -> tuple[float, float]:
        """Mean loss and its standard error."""
        return self.mean(row_losses(self.truth, self.predictions(fitting), counts=self.counts))

    def mean(self, losses: np.ndarray) -> tuple[float, float]:
        """Mean of losses of the rows, and its standard error."""
        return mean_loss(losses, self.unit, self.weight)

    def blend(self, fittings: list[Fitting]) -> Blend:
        """The blend of some models, with losses and predictions of these rows."""
        models = {
            one.model.name: ModelPredictions(
                raw=one.predictions, temperatures=one.temperatures, temperature=one.temperature
            )
            for one in fittings
        }
        folds = self.folds
        found = blend(
            folds.truth,
            models,
            folds.number,
            learns_from=folds.plan.learns_from,
            weight=folds.weight,
            objective=self.objective,
            counts=self.counts,
        )
        return replace(
            found,
            losses=found.losses[self.mask],
            predictions=found.predictions[self.mask],
            calibrated=found.calibrated[self.mask],
        )


def mean_loss(losses: np.ndarray, groups: np.ndarray, weight: np.ndarray | None) -> tuple[float, float]:
    """Mean loss and its standard error."""
    found = gain(losses, np.zeros_like(losses), groups, weight)
    return found.mean, found.error
