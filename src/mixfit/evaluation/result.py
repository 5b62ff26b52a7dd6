"""The result of a run: metrics on rows that the models were not fitted on, with 95 % intervals, paired differences of
models, and coverage of prediction intervals.

In: the truth of rows and the predictions of each model. Out: ``Result``, computed once at the end of training, saved
as ``results.json``, and read from there by terminal, report, model card and notebook. ``compare`` and ``evaluate``
score other rows in the same way, as one ``Part``."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mixfit.choices import NUMBER_TASKS, MetricName, Task
from mixfit.data.columns.target import Target
from mixfit.ensemble.photo_rule import PhotoRule
from mixfit.errors import ConfigError, DataError
from mixfit.evaluation.bootstrap import bootstrap_values, ends_of, rows_of_groups
from mixfit.files import Count, Share, from_plain, is_there, json_numbers, read_json, to_plain, write_file
from mixfit.html import Bar, Grid, card, ends_text
from mixfit.predictor.card import Coverage, refit_note
from mixfit.training.metrics import (
    ACCURACY,
    AUC,
    CLASSIFICATION_METRICS,
    COUNT_METRICS,
    DEVIANCE,
    KAPPA,
    MAE,
    MAPE,
    METRICS,
    ORDERED_METRICS,
    R2_LOG,
    REGRESSION_METRICS,
    Metric,
    decided,
    metric_label,
    metric_named,
    metric_text,
)
from mixfit.weighted import weighted_quantile

JudgedSplit = Literal["valid", "test"]
SplitName = Literal["train", "valid", "test"]
ModelKind = Literal["ours", "table", "text", "photos", "constant", "candidate"]
Finding = Literal["better", "worse", "within noise", "equal", "unknown"]
RESULTS = "results.json"
VERSION = 1
ERROR_SHARES = (0.5, 0.8, 0.9, 0.95, 1.0)
"""Quantile levels of the absolute error that are reported."""
_UNKNOWN = (float("nan"), float("nan"))
LOSSES = ("log_loss", "deviance", "rmse")
"""Metrics that are the loss which models minimise, by task."""
_RARE = 0.01


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that models are scored on: their true target and the predictions of each model."""

    split: JudgedSplit
    truth: np.ndarray
    predictions: Mapping[str, np.ndarray]
    """By model; numbers ``(rows,)`` or probabilities ``(rows, classes)``."""
    groups: np.ndarray | None = None
    """Group number of each row, if rows are grouped; intervals then resample groups."""
    weight: np.ndarray | None = None
    """Weight of each row in every metric; None for equal weights."""
    by_metric: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    """By model and metric, if predictions depend on the metric, as for a constant, see ``baselines``."""
    classes: Mapping[str, np.ndarray] = field(default_factory=dict)
    """By model, the predicted classes ``(rows,)`` where they are not the most probable ones."""

    def of(self, model: str, metric: Metric) -> np.ndarray:
        """Predictions of a model for scoring with this metric."""
        found = self.by_metric.get(model, {}).get(metric.name, self.predictions[model])
        return decided(self.classes[model], found.shape[1]) if metric.decides and model in self.classes else found

    def decisions(self, model: str) -> np.ndarray:
        """Predicted classes of a model."""
        found: np.ndarray = self.classes[model] if model in self.classes else self.predictions[model].argmax(1)
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Scores of one model on some rows."""

    model: str
    kind: ModelKind
    """"ours" is the delivered model, "table" a model without photos that it is compared with, "text" one
    of table and text, "photos" the same model
    with photos if the delivered one does not use them, "candidate" a candidate for the blend."""
    metrics: dict[str, float]
    """Name -> value in the unit of the target; nan if it cannot be computed."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Name -> ends of the 95 % bootstrap interval, for some metrics or none."""
    median_error: float | None = None
    """Median absolute error; None for classification and for candidates."""
    median_relative_error: float | None = None
    """Median error relative to the truth, 0.18 is 18 %; only for amounts above 0."""
    seconds: float | None = None
    """Fit time; None if unknown."""

    def interval(self, metric: str) -> tuple[float, float]:
        """Ends of the 95 % interval of a metric; nan if not computed."""
        return self.intervals.get(metric, _UNKNOWN)

    def to_flat(self) -> dict[str, float | None]:
        """Metrics and ends of their intervals for JSON, nan as None: "mae", "mae_ci95_low", "mae_ci95_high"."""
        ends = {name: self.interval(name) for name in self.metrics}
        lows = {f"{name}_ci95_low": low for name, (low, _) in ends.items()}
        return json_numbers(self.metrics | lows | {f"{name}_ci95_high": high for name, (_, high) in ends.items()})


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A metric of one model minus that of another on the same rows."""

    model: str
    against: str
    metric: str
    value: float
    low: float
    high: float
    """Ends of the paired 95 % interval."""
    finding: Finding
    """"better" or "worse" if the interval excludes 0; "unknown" if it cannot be computed."""

    @property
    def texts(self) -> tuple[str, str]:
        """The difference and its interval for people, the same everywhere: signed, three digits of the largest number,
        "n/a" for nan."""
        known = [abs(one) for one in (self.value, self.low, self.high) if np.isfinite(one) and one != 0]
        place = int(np.floor(np.log10(max(known, default=1.0))))

        def text(number: float) -> str:
            if not np.isfinite(number):
                return "n/a"
            shown = f"{number:+,.{max(2 - place, 0)}f}" if place > -5 else f"{number:+.3g}"
            return shown if float(shown.replace(",", "")) else shown[1:]  # 0 has no sign

        return text(self.value), "n/a" if np.isnan(self.low) else f"{text(self.low)} to {text(self.high)}"

    @property
    def gain(self) -> tuple[float, float, float]:
        """The difference and its interval, signed so that above 0 the first model is better."""
        if METRICS[self.metric].higher_is_better:
            return self.value, self.low, self.high
        return -self.value, -self.high, -self.low


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Scores of models on the same rows."""

    split: JudgedSplit
    rows: Count
    groups: Count | None
    """Number of groups that the bootstrap resamples; None if it resamples rows."""
    scores: list[Score]
    differences: list[Difference]
    errors: list[tuple[Share, float]] = field(default_factory=list)
    """Level and quantile of the absolute error of the delivered model; empty for classification."""
    weighted: bool = False
    """Whether the metrics are weighted."""

    @property
    def drawn(self) -> int:
        """Number of units that the bootstrap resamples: rows or groups."""
        return self.rows if self.groups is None else self.groups

    def score(self, model: str) -> Score:
        """The score of a model."""
        return next(one for one in self.scores if one.model == model)

    def difference(self, model: str, against: str, metric: str) -> Difference:
        """The difference of two models."""
        asked = (model, against, metric)
        return next(one for one in self.differences if (one.model, one.against, one.metric) == asked)


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaderboardLine:
    """Out-of-fold loss of one model, and its weight in the blend."""

    model: str
    photos: bool
    """Whether the model uses photos."""
    text: bool = False
    """Whether the model uses columns of text."""
    loss: float
    """Mean out-of-fold loss: squared error of the scaled target, or log loss."""
    error: float
    """Standard error of the mean over rows, or over groups if rows are grouped."""
    share: float | None
    """Weight in the delivered blend; None for a blend."""
    seconds: float | None
    score: float | None = None
    """The chosen metric on the same rows, at cross-fitted decision thresholds; None for the default metric."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """Comparison of the models of a blend."""

    leaderboard: list[LeaderboardLine]
    """The best first."""
    choice: str
    """The reason for the choice, in plain words."""
    folds: str = ""
    """Which rows are out-of-fold rows; "" if all are."""
    photos: PhotoRule | None = None
    """The decision about photos that ``choice`` explains; None if no model uses photos."""
    text: PhotoRule | None = None
    """The same about columns of text; the photos are then judged beside the text."""
    coverage: list[Coverage] = field(default_factory=list)
    """Coverage of prediction intervals or sets on test rows: of all rows at several levels, by group of rows at one."""
    history_of: str = ""
    """The network whose history the run shows; "" if none was trained."""
    fold_scores: list[float] = field(default_factory=list)
    """The headline metric of the delivered model on the out-of-fold rows of each fold; nan where it cannot be computed
    on so few rows. Empty in results of older versions."""

    @property
    def why_above(self) -> str:
        """Why a model of the blend has a lower out-of-fold loss than every blend; "" if none has visibly."""
        blend = min((line.loss for line in self.leaderboard if line.share is None), default=-math.inf)
        model = min((line for line in self.leaderboard if line.share), key=lambda line: line.loss, default=None)
        if model is None or model.loss >= blend or math.isclose(model.loss, blend, rel_tol=1e-4):
            return ""
        return (
            f"The lowest out-of-fold loss of a blend is {metric_text(blend)}, that of {model.model} "
            f"{metric_text(model.loss)}: the weights and temperatures of each fold come from the other folds, so a "
            "blend can have a higher loss than a model that it consists of."
        )

    @property
    def reasons(self) -> list[str]:
        """``choice`` in paragraphs: the decision about text, that about photos, and the blend."""
        found, rest = [], self.choice
        for rule in (self.text, self.photos):
            if rule is not None and rest.startswith(rule.why):
                found.append(rule.why)
                rest = rest.removeprefix(rule.why).lstrip()
        return [*found, rest] if rest else found


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoGain:
    """The two models whose difference in the headline metric is the effect of the photos."""

    with_photos: str
    without: str
    same_kind: bool
    """Whether the models differ only in the photos."""
    used: bool
    """Whether the delivered model uses photos."""
    beside_text: bool = False
    """Whether both models use columns of text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextGain:
    """The two blends whose difference in the headline metric is the effect of the columns of text; neither uses
    photos."""

    with_text: str
    without: str
    used: bool
    """Whether the delivered model uses text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """All scores of a run."""

    target: str
    task: Task
    headline: str
    """Name of the main metric."""
    rows: dict[SplitName, Count]
    """Number of rows of each part; a blend's training rows are also its out-of-fold rows."""
    ours: str
    """The delivered model."""
    against: str
    """The model that it is compared with in the verdict."""
    parts: list[Part]
    """Parts that have rows, test rows first."""
    photos: PhotoGain | None = None
    """None for a table without photos, or if nothing was compared."""
    text: TextGain | None = None
    """None for a table without columns of text, or a single network."""
    contest: Contest | None = None
    """None for a single network."""
    coverage_level: Share = 0.9
    """Nominal coverage of the intervals in a report."""
    refit: Count = 0
    """Number of rows, test rows included, that the delivered model was fitted on after the evaluation; 0 if it was
    not."""
    decision: str = ""
    """How the chosen metric was optimised; "" for the default metric."""
    departure: str = ""
    """A warning that the test score differs from the out-of-fold or validation score, with likely causes; or ""."""
    unknown: Count = 0
    """Number of test rows that are in no score, as no training row has their class."""
    copied: Count = 0
    """Number of scored test rows that are copies of rows that the models were fitted on."""

    def _repr_html_(self) -> str:
        """A card for notebooks."""
        return card(f"Result: predict {self.target}, {self.task}", lines=self.lines, grids=self.grids())

    @property
    def lines(self) -> list[str]:
        """What a reader should know first, in sentences: warnings, the answer, the verdict; some may be ""."""
        return [self.departure, self.answer, self.verdict, self.refit_note]

    def grids(self) -> list[Grid]:
        """The metrics of the models that are compared, one table of a card for each part, test rows first."""
        found = []
        for part in self.parts:
            scores = [one for one in part.scores if one.kind != "candidate"]
            names = [self.headline, *(name for name in scores[0].metrics if name != self.headline)]
            rows: list[list[str | int | float | Bar]] = []
            for one in scores:
                values = [one.metrics[name] for name in names]
                rows.append([one.model, values[0], ends_text(one.interval(self.headline)), *values[1:]])
            labels = [metric_label(name) for name in names]
            head = ("model", labels[0], "95 % interval", *labels[1:])
            heading = f"{part.rows:,} {self.part_name(part.split)} rows"
            found.append(Grid(heading=heading, head=head, rows=rows, folded=part is not self.final))
        return found

    @property
    def refit_note(self) -> str:
        """That the scores are not those of the delivered model; "" if they are."""
        return refit_note(self.refit) if self.refit else ""

    @property
    def final(self) -> Part:
        """Scores on the test rows, or without test rows on the out-of-fold or validation rows."""
        return self.parts[0]

    @property
    def scores(self) -> dict[JudgedSplit, dict[str, dict[str, float]]]:
        """Split -> model -> metric -> value."""
        return {part.split: {one.model: one.metrics for one in part.scores} for part in self.parts}

    def part_name(self, split: SplitName) -> str:
        """Name of the rows of a part: "test", "validation" or "out-of-fold"."""
        if split == "valid":
            return "validation" if self.contest is None else "out-of-fold"
        return split

    @property
    def answer(self) -> str:
        """The quality of the model for readers without statistics."""
        part = self.final
        ours, rows, by = part.score(self.ours), self.part_name(part.split), " (by weight)" if part.weighted else ""
        if self.task not in NUMBER_TASKS:
            right, share = _right(ours, part)
            said = f"Right for {right} {rows} rows{share}."
            return f"{said} {self.unknown_note}" if part.split == "test" and self.unknown else said
        if ours.median_error is None:
            return ""
        within = f"alf of the {rows} predictions{by} are within {_rounded_up(ours.median_error)} of the truth."
        if ours.median_relative_error is None:
            return f"H{within}"
        return f"Typically off by {share_text(ours.median_relative_error)}; h{within}"

    @property
    def unknown_note(self) -> str:
        """That test rows of classes without a training row are not scored, and the accuracy with them."""
        if not self.unknown:
            return ""
        part = self.final
        one = self.unknown == 1
        said = (
            f"{self.unknown:,} more test row{' is' if one else 's are'} of {'a class' if one else 'classes'} that no "
            f"training row has, and not in any score: the model is wrong for {'it' if one else 'them'}"
        )
        share = part.score(self.ours).metrics.get(ACCURACY.name, float("nan"))
        if part.weighted or np.isnan(share):
            return f"{said}."
        right, rows = round(share * part.rows), part.rows + self.unknown
        whole = f"{right:,} of {rows:,} ({share_text(right / rows)})"
        return f"{said}. With {'it' if one else 'them'} it is right for {whole}."

    @property
    def coverage_note(self) -> str:
        """That prediction intervals or sets hold fewer or more test rows than chance explains; "" if they do not."""
        if self.contest is None or self.final.split != "test":
            return ""
        held = [one for one in self.contest.coverage if one.level == self.coverage_level and one.rows == "all"]
        if not held:
            return ""
        valid = next((part for part in self.parts if part.split == "valid"), None)
        found, part = held[0], self.final
        calibration = found.count if valid is None else valid.drawn
        drawn = min(found.count, part.drawn)  # of dependent rows only the groups count
        share = found.share if found.share is not None else found.inside / found.count
        if not beyond_chance(share, drawn, found.level, calibration, both=self.task in NUMBER_TASKS):
            return ""
        kind = "intervals" if self.task in NUMBER_TASKS else "sets"
        shown = f"{found.inside:,} of {found.count:,} test rows ({share:.0%})"
        few = share < found.level
        return (
            f"The {found.level:.0%} prediction {kind} hold the truth of {shown}, {'fewer' if few else 'more'} than "
            f"chance explains (1 % test): {'do not rely on them' if few else 'they are too wide'} for rows like these."
        )

    @property
    def copies_note(self) -> str:
        """That test rows are copies of training rows, which flatters models that memorise; "" if none is."""
        if not self.copied:
            return ""
        copies = "is a copy of a row" if self.copied == 1 else "are copies of rows"
        return (
            f"{self.copied:,} of these test rows {copies} that the models were fitted on, which favours models that "
            "memorise: the scores and this comparison say little of new rows (--dedup leaves the copies out of "
            "training)."
        )

    @property
    def answer_of_constant(self) -> str:
        """The quality of the best constant prediction; "" if unknown."""
        constant = next((one for one in self.final.scores if one.kind == "constant"), None)
        if constant is None:
            return ""
        if self.task not in NUMBER_TASKS:
            right, share = _right(constant, self.final)
            return f"The most frequent class alone: {right}{share}."
        if constant.median_error is None:
            return ""
        lead = "Predicting the same for every row:"
        if constant.median_relative_error is None:
            return f"{lead} half within {_rounded_up(constant.median_error)}."
        return f"{lead} typically off by {share_text(constant.median_relative_error)}."

    @property
    def verdict(self) -> str:
        """The comparison by the headline metric, with the paired interval of the difference."""
        return self.findings(values=True)

    @property
    def _simpler(self) -> list[tuple[str, str]]:
        """What is left without the photos and without the text that the delivered blend uses, and the blend of it."""
        if self.contest is None:
            return []
        text, photos = self.text, self.photos
        first = self.contest.photos if text is None else self.contest.text
        columns, used = first is None or first.columns, photos is not None and photos.used
        found = []
        if photos is not None and text is not None and photos.used and text.used:
            found.append(("Table and text" if columns else "The text", photos.without))
        table = text.without if text is not None else photos.without if photos is not None else ""
        if table and columns and (used or (text is not None and text.used)):
            found.append(("The table columns", table))
        return found

    def findings(self, *, values: bool) -> str:
        """The verdict, with or without the values of the two models."""
        part = self.final
        found = part.difference(self.ours, self.against, self.headline)
        called = "blend" if self.contest is not None else "mixed model" if self.photos is not None else "network"
        against = self.against.removesuffix(" only").replace(", ", " on the ").replace("constant", "a constant")
        where = f"{part.split} " if values else ""
        said = [difference_sentence(part, found, f"The {called}", against, where=where, values=values)]
        if self.contest is None and self.photos is not None and found.gain[0] < 0:
            worse = found.finding == "worse"
            said.append(f"Prefer {against} here." if worse else "The photos did not improve the predictions.")
        for left, model in self._simpler if values else ():
            alone = part.score(model).metrics[self.headline]
            said.append(f"{left} alone: {metric_label(self.headline)} {metric_text(alone)}.")
        constant = next((one for one in part.scores if one.kind == "constant"), None)
        if constant is not None:
            said.append(self._against_constant(part, constant))
        said += [self.copies_note, self.coverage_note]
        return " ".join(filter(None, said))

    def _against_constant(self, part: Part, constant: Score) -> str:
        """That a constant is as good by the headline metric, unless the model is better by the loss; "" otherwise."""
        mine, nothing = part.score(self.ours).metrics[self.headline], constant.metrics[self.headline]
        lead = (mine - nothing) * (1 if METRICS[self.headline].higher_is_better else -1)
        if not lead <= 0:
            return ""
        pairs = {one.metric: one for one in part.differences if (one.model, one.against) == (self.ours, constant.model)}
        found = pairs.get(self.headline)
        loss = next((pairs[name] for name in LOSSES if name in pairs and name != self.headline), None)
        if loss is not None and loss.finding == "better":
            values = [metric_text(one.metrics[loss.metric]) for one in (part.score(self.ours), constant)]
            how = "just as good" if lead == 0 else "better"
            return (
                f"By the {metric_label(self.headline)} a constant is {how} ({metric_text(nothing)}), but the model is "
                f"better by the {metric_label(loss.metric)}, beyond noise: {values[0]} against {values[1]}."
            )
        if lead == 0 or (found is not None and found.finding == "worse"):
            how = "just as good" if lead == 0 else "better, beyond noise"
            return f"A constant is {how} ({metric_text(nothing)}): the model learned nothing useful for these rows."
        noise = "" if found is None else ", within noise: the model is not shown to have learned anything useful"
        return f"A constant is ahead ({metric_text(nothing)}){noise}."


def beyond_chance(share: float, drawn: int, level: float, calibration: int, *, both: bool) -> bool:
    """Whether a coverage differs from its level beyond chance, by a 1 % test.

    The coverage of new rows is itself drawn: of ``calibration`` exchangeable rows it follows a beta distribution
    (Vovk 2012), and the number of rows inside a beta-binomial one.

    Args:
        share: of ``drawn`` rows that are inside.
        both: whether a coverage that is too large counts; sets of classes always hold more than they need to.
    """
    from scipy.stats import betabinom

    inside, most = round(share * drawn), calibration + 1
    kept = min(max(round(level * most), 1), most - 1) if most > 1 else 0
    if not drawn or not kept:
        return False
    chance = betabinom(drawn, kept, most - kept)
    few, many = float(chance.cdf(inside)), float(chance.sf(inside - 1))
    return few < _RARE or (both and many < _RARE)


def metrics_for(task: Task, target: Target, chosen: MetricName = "auto") -> tuple[Metric, ...]:
    """The metrics of a task, the chosen one first; with R² of the logarithm if the model is fitted to the logarithm."""
    found: tuple[Metric, ...] = CLASSIFICATION_METRICS
    if task == "ordered":
        found = ORDERED_METRICS
    elif task == "count":
        found = COUNT_METRICS
    elif task in NUMBER_TASKS:
        found = (*REGRESSION_METRICS, R2_LOG) if target.log else REGRESSION_METRICS
    if chosen == "auto":
        return found
    first = metric_named(chosen, task)
    return (first, *(metric for metric in found if metric != first))


def headline_for(task: Task, target: Target, chosen: MetricName = "auto") -> Metric:
    """The main metric, by default the relative error for skewed amounts, the absolute one for other numbers, and AUC or
    accuracy for classes."""
    if chosen != "auto":
        return metric_named(chosen, task)
    if task == "count":
        return DEVIANCE
    if task == "ordered":
        return KAPPA
    if task == "binary":
        return AUC
    if task == "multiclass":
        return ACCURACY
    return MAPE if target.log else MAE


def loss_name(task: Task, scale: str = "scaled target") -> str:
    """The loss of the leaderboard.

    Args:
        scale: of the squared errors.
    """
    if task == "count":
        return "Poisson deviance of the target divided by its mean"
    return f"squared error of the {scale}" if task in NUMBER_TASKS else "log loss"


def judge(
    rows: Rows,
    metrics: Sequence[Metric],
    *,
    kinds: Mapping[str, ModelKind] | None = None,
    intervals: Mapping[str, Sequence[Metric]] | None = None,
    pairs: Mapping[tuple[str, str], Sequence[Metric]] | None = None,
    relative: bool = False,
    seconds: Mapping[str, float] | None = None,
) -> Part:
    """Score all models; each metric of each model is bootstrapped at most once, for its interval and its differences.

    Args:
        rows: at least one.
        kinds: by model, "candidate" by default.
        intervals: by model, the metrics with an interval; by default all metrics of all models.
        pairs: by two models, the metrics to compare them by.
        relative: whether to report errors relative to the truth too.
        seconds: by model, see ``Score``.
    """
    kinds, seconds = kinds or {}, seconds or {}
    intervals = dict.fromkeys(rows.predictions, metrics) if intervals is None else intervals
    resampled: dict[tuple[str, str], np.ndarray] = {}

    def values(model: str, metric: Metric) -> np.ndarray:
        if (model, metric.name) not in resampled:
            resampled[model, metric.name] = bootstrap_values(
                metric, rows.truth, rows.of(model, metric), groups=rows.groups, weight=rows.weight
            )
        return resampled[model, metric.name]

    scores = []
    for model in rows.predictions:
        kind = kinds.get(model, "candidate")
        ends = {metric.name: ends_of(values(model, metric)) for metric in intervals.get(model, ())}
        absolute, relative_error = (
            (None, None) if kind == "candidate" else _median_errors(rows, model, relative=relative)
        )
        scores.append(
            Score(
                model=model,
                kind=kind,
                metrics={
                    metric.name: metric.value(rows.truth, rows.of(model, metric), rows.weight) for metric in metrics
                },
                intervals={name: pair for name, pair in ends.items() if not np.isnan(pair).any()},
                median_error=absolute,
                median_relative_error=relative_error,
                seconds=seconds.get(model),
            )
        )
    by_model = {one.model: one for one in scores}
    differences = []
    for (model, against), compared in (pairs or {}).items():
        for metric in compared:
            low, high = ends_of(values(model, metric) - values(against, metric))
            value = by_model[model].metrics[metric.name] - by_model[against].metrics[metric.name]
            finding = _finding(value, low, high, higher_is_better=metric.higher_is_better)
            differences.append(
                Difference(
                    model=model, against=against, metric=metric.name, value=value, low=low, high=high, finding=finding
                )
            )
    ours = next((one.model for one in scores if one.kind == "ours"), None)
    members = None if rows.groups is None else rows_of_groups(rows.groups)
    return Part(
        split=rows.split,
        rows=len(rows.truth),
        groups=None if members is None else len(members),
        scores=scores,
        differences=differences,
        errors=[] if ours is None else _largest_errors(rows, ours),
        weighted=rows.weight is not None,
    )


def scores_by_fold(rows: Rows, model: str, metric: Metric, fold: np.ndarray) -> list[float]:
    """A metric of one model on the rows of each fold.

    Args:
        fold: number of the fold that predicts each of the rows, ``(rows,)``.
    """
    predictions, weight = rows.of(model, metric), rows.weight
    return [
        metric.value(rows.truth[here], predictions[here], None if weight is None else weight[here])
        for here in (fold == number for number in np.unique(fold))
    ]


def difference_sentence(
    part: Part, found: Difference, model: str, against: str, *, where: str = "", values: bool = True
) -> str:
    """A sentence that says which of two models is better, by how much, and whether that is beyond noise.

    Args:
        model, against: names of the models; the sentence begins with the first.
        where: prefix of the metric, "test ".
        values: include the values of both models.
    """
    label = f"{where}{metric_label(found.metric)}"
    mine, theirs = (part.score(name).metrics[found.metric] for name in (found.model, found.against))
    on = f" on {part.rows} row{'' if part.rows == 1 else 's'}"
    if np.isnan(found.value):
        return f"{model} and {against} cannot be compared: {label} cannot be computed{on}."
    if found.finding == "equal":
        return f"{model} is exactly as good as {against}{on}."
    numbers = f"{label} {metric_text(mine)} against {metric_text(theirs)}{on}, " if values else ""
    value, interval = found.texts
    numbers += f"the difference{'' if values else f' in {label}'} is {value}"
    lead = "ahead of" if found.gain[0] > 0 else "behind" if found.gain[0] < 0 else "level with"
    if found.finding == "unknown":
        return f"{model} is {lead} {against}, on too few rows for an interval: {numbers}."
    numbers += f" (95 % CI {interval})"
    if found.finding == "within noise":
        return f"{model} is {lead} {against}, but within noise: {numbers}."
    return f"{model} is {found.finding} than {against}, beyond noise: {numbers}."


def share_text(share: float) -> str:
    """A share in percent with two significant digits.

    >>> [share_text(share) for share in (0.1834, 0.0042, 1.21, float("nan"))]
    ['18 %', '0.42 %', '121 %', 'n/a']
    """
    if np.isnan(share):
        return "n/a"
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.2g} %"


def write_result(folder: Path, result: Result) -> None:
    """Write ``results.json`` of a run folder."""
    text = json.dumps({"version": VERSION, **to_plain(result)}, indent=1, ensure_ascii=False)
    write_file(folder / RESULTS, text.encode("utf-8", "backslashreplace"))


def read_result(folder: Path) -> Result:
    """Read ``results.json`` of a run folder.

    Raises:
        ConfigError: the file does not exist.
        DataError: it is damaged, or written by a newer mixfit.
    """
    found: Result = from_plain(Result, read_versioned(folder, RESULTS, VERSION), RESULTS)
    fault = _fault(found)
    if fault:
        raise DataError(f"{folder / RESULTS} is damaged: {fault}.")
    return found


def read_versioned(folder: Path, name: str, version: int) -> dict[str, Any]:
    """Read a JSON file of a run folder.

    Args:
        version: the supported version; older and newer ones are refused.
    Raises:
        ConfigError: the file does not exist.
        DataError: it is damaged, or written by another version of mixfit.
    """
    path, again = folder / name, f"Recompute its results with: mixfit train --resume {folder}"
    if not folder.is_dir():
        raise ConfigError(f"The run folder {folder} does not exist.")
    if not is_there(path):
        raise ConfigError(f"{folder} has no {name}: its training was stopped, or it is of an older mixfit. {again}")
    said = read_json(path)
    found = said.get("version") if isinstance(said, dict) else None
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise DataError(f"{path} is damaged: it has no version.")
    if found > version:
        raise DataError(f"{path} has a newer version than {version}: update mixfit.")
    if found < version:
        raise DataError(f"{path} is of an older mixfit. {again}")
    return from_plain(dict[str, Any], said, name)


def _fault(found: Result) -> str:
    """The first inconsistency; "" if there is none."""
    if not found.parts or len({part.split for part in found.parts}) < len(found.parts):
        return "a part is missing or repeated"
    if any(one.inside > one.count for one in ([] if found.contest is None else found.contest.coverage)):
        return "more rows are inside the intervals than there are rows"
    pairs = [(found.ours, found.against)]
    if found.photos is not None:
        pairs.append((found.photos.with_photos, found.photos.without))
    if found.text is not None:
        pairs.append((found.text.with_text, found.text.without))
    for part in found.parts:
        scores = {one.model: one for one in part.scores}
        names = set(next(iter(scores.values())).metrics) if scores else set()
        if not names <= set(METRICS) or any(set(one.metrics) != names for one in part.scores):
            return "a metric is unknown, or missing for a model"
        if found.headline not in names or not {name for pair in pairs for name in pair} <= set(scores):
            return "the headline metric or a compared model is missing"
        if len(scores) < len(part.scores) or any(one.metric not in METRICS for one in part.differences):
            return "a model is repeated, or a metric is unknown"
        known = {(one.model, one.against) for one in part.differences if one.metric == found.headline}
        if not set(pairs) <= known:
            return "a difference is missing"
    return ""


def _right(score: Score, part: Part) -> tuple[str, str]:
    """Correct predictions, "39 of 45", and their share; with weights the share stands for their number."""
    share = score.metrics[ACCURACY.name]
    if np.isnan(share):
        return f"n/a of {part.rows:,}", ""
    percent = "<1" if 0 < share < 0.005 else ">99" if 0.995 <= share < 1 else f"{100 * share:.0f}"
    if part.weighted:
        return f"{percent} % of {part.rows:,}", " (by weight)"
    return f"{round(share * part.rows):,} of {part.rows:,}", f" ({percent} %)"


def _rounded_up(value: float) -> str:
    """The value rounded up to three digits.

    >>> _rounded_up(9.7641), _rounded_up(0.5), _rounded_up(12_341.0)
    ('9.77', '0.5', '12,400')
    """
    if not np.isfinite(value) or value <= 0:
        return metric_text(value)
    step = 10.0 ** (np.floor(np.log10(value)) - 2)
    shown = float(f"{np.ceil(round(value / step, 6)) * step:.3g}")
    return f"{shown:,.0f}" if shown >= 10_000 else f"{shown:.3g}"


def _median_errors(rows: Rows, model: str, *, relative: bool) -> tuple[float | None, float | None]:
    """Median absolute and relative error; None for classes."""
    found = rows.predictions[model]
    if found.ndim == 2 or not _counts(rows):
        return None, None
    with np.errstate(over="ignore"):
        errors = np.abs(found - rows.truth)
        (median,) = weighted_quantile(errors, (0.5,), rows.weight)
        if not relative or (rows.truth == 0).any():
            return float(median), None
        (share,) = weighted_quantile(errors / np.abs(rows.truth), (0.5,), rows.weight)
    return float(median), float(share)


def _counts(rows: Rows) -> bool:
    """Whether any row has a weight above 0."""
    return bool(len(rows.truth)) if rows.weight is None else bool(rows.weight.any())


def _largest_errors(rows: Rows, model: str) -> list[tuple[Share, float]]:
    found = rows.predictions[model]
    if found.ndim == 2 or not _counts(rows):
        return []
    with np.errstate(over="ignore"):
        distances = weighted_quantile(np.abs(found - rows.truth), ERROR_SHARES, rows.weight)
    return list(zip(ERROR_SHARES, distances.tolist(), strict=True))


def _finding(value: float, low: float, high: float, *, higher_is_better: bool) -> Finding:
    if np.isnan(value) or np.isnan(low):
        return "unknown"
    if value == low == high == 0:
        return "equal"
    if low <= 0 <= high:
        return "within noise"
    return "better" if (low > 0) == higher_is_better else "worse"
