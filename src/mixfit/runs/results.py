"""What a training gave: its scores beside those of the baselines, in words and in figures.

In: predictions of several models for the same rows. Out: ``Run``; what is written of it is for ``results_files``."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from rich.console import Console

from mixfit.config import DataConfig
from mixfit.data.bad_inputs import BadInput, describe_bad, in_table_rows
from mixfit.data.load import MixedData
from mixfit.diagnostics.doctor import Doctor
from mixfit.ensemble.photo_rule import PhotoRule
from mixfit.evaluation.baselines import BOOSTED_TREES, CONSTANT, Baseline
from mixfit.evaluation.departure import departure
from mixfit.evaluation.scores import Comparison, JudgedSplit, Rows, compare, headline_for
from mixfit.predictor import Predictor, unreadable_photos
from mixfit.runs.report.content import Coverage, LeaderboardLine, LevelCoverage
from mixfit.training.metrics import metric_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


OURS = "mixfit, table and photos"
OURS_TABLE_ONLY = "mixfit, table only"
BLEND, TABLE_BLEND = "mixfit, blend", "blend, table only"
PHOTO_BLEND = "blend, with photos"
"""The blend with photos where the one that predicts does without them."""
TREES = "boosted trees, table"
"""The candidate that a blend is compared with in words."""
LEVEL = 0.9
"""Share of rows whose truth the intervals of a report shall hold."""
LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Those at which it is told whether they do."""
JUDGED: tuple[JudgedSplit, ...] = ("valid", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """How the models of a blend competed."""

    leaderboard: list[LeaderboardLine]
    """The best first."""
    choice: str
    """Why this of all models predicts, in plain words."""
    folds: str = ""
    """What "out of fold" means where it is not every row; "" where it is."""
    photos: PhotoRule | None = None
    """What the folds tell of the photos, which ``choice`` says; None where no model sees any."""
    coverage: list[Coverage] = field(default_factory=list)
    """How often intervals or sets at ``LEVEL`` hold the truth of test rows."""
    levels: list[LevelCoverage] = field(default_factory=list)
    """The same at each of ``LEVELS``."""
    interval: tuple[np.ndarray, np.ndarray] | None = None
    """Lower and upper ends at ``LEVEL`` of the test rows, in the unit of the target; None for classes."""
    history_of: str = ""
    """Which network the history of the run is of; "" when none was trained."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Run:
    """A finished training run."""

    folder: Path
    predictor: Predictor
    scores: dict[JudgedSplit, dict[str, dict[str, float]]]
    """Split -> model -> metric -> value in the target's unit."""
    comparison: Comparison
    history: pd.DataFrame
    """One row per epoch."""
    bad: list[BadInput]
    contest: Contest | None = None
    """How the models of a blend competed; None for one network."""
    departure: str = ""
    """That the test rows are predicted better or worse than the other judged rows promise, and why; "" if not."""
    doctor: Doctor | None = None
    """Who watched the training, if one was asked."""

    def __repr__(self) -> str:
        """In a line: where it is, and what it showed."""
        return f"Run({str(self.folder)!r}: {self.verdict})"

    @property
    def verdict(self) -> str:
        """What the run showed, in plain words; first of all whether the test bears out what the other rows promise."""
        return " ".join(filter(None, [self.departure, self.comparison.verdict]))

    def plot_scores(self) -> "Figure":
        """The headline metric of the models that are compared, with 95 % intervals."""
        from mixfit.runs.report.plots import plot_scores

        return plot_scores(self.folder)

    def plot_loss(self) -> "Figure":
        """Training and validation loss of the network by epoch; of a blend of the one that was trained last.

        Raises:
            ConfigError: no network was trained.
        """
        from mixfit.runs.report.plots import plot_loss

        return plot_loss(self.folder)

    def plot_predictions(self) -> "Figure":
        """Predicted against true values, or the confusion matrix, of the rows that judge."""
        from mixfit.runs.report.plots import plot_predictions

        return plot_predictions(self.folder)

    def plot_calibration(self) -> "Figure":
        """How often what is so and so probable comes true, or how often intervals hold the truth.

        Raises:
            ConfigError: one network of a number has neither.
        """
        from mixfit.runs.report.plots import plot_calibration

        return plot_calibration(self.folder)

    def show_worst(self, count: int = 6) -> "Figure":
        """The rows with the largest errors: their photos, the truth, the prediction and what is unusual about them.

        Raises:
            ConfigError: ``count`` is below 1, or no prediction was wrong.
        """
        from mixfit.runs.report.plots import show_worst

        return show_worst(self.folder, count)


def our_name(mixed: MixedData) -> str:
    """What the network is called beside its baselines."""
    return OURS if mixed.photos is not None else OURS_TABLE_ONLY


def truth_of(mixed: MixedData, split: JudgedSplit) -> np.ndarray:
    """The true target of a split, in its unit or as class numbers."""
    return mixed.target.truth(mixed.frame[mixed.schema.target].iloc[mixed.split.of(split)])


def judged_rows(mixed: MixedData, split: JudgedSplit, ours: np.ndarray, baselines: list[Baseline]) -> Rows:
    """Predictions of the network and of the baselines for a split."""
    others = {baseline.name: baseline.predictions[split] for baseline in baselines}
    by_metric = {baseline.name: baseline.by_metric[split] for baseline in baselines if baseline.by_metric}
    return Rows(
        split,
        truth_of(mixed, split),
        {our_name(mixed): ours, **others},
        weight=mixed.weights(split),
        by_metric=by_metric,
    )


def final_rows(judged: dict[JudgedSplit, Rows]) -> Rows:
    """The test rows, or the validation rows where there is no test."""
    return judged["test"] if len(judged["test"].truth) else judged["valid"]


def with_groups(mixed: MixedData, rows: Rows) -> Rows:
    """The same rows, with the units that they belong to (groups and copies) where there are such."""
    unit = mixed.ties.joined(mixed.split.of(rows.split)).unit
    grouped = bool(mixed.schema.names("group")) or len(np.unique(unit)) < len(unit)
    return replace(rows, groups=unit) if grouped else rows


def compare_with_table(mixed: MixedData, judged: dict[JudgedSplit, Rows]) -> Comparison:
    """The verdict on the rows that judge at the end."""
    headline = headline_for(mixed.schema.task, mixed.target)
    return compare(
        with_groups(mixed, final_rows(judged)),
        headline,
        our_name(mixed),
        BOOSTED_TREES,
        constant=CONSTANT,
        with_photos=mixed.photos is not None,
    )


def compare_blends(mixed: MixedData, judged: dict[JudgedSplit, Rows], *, photos: bool) -> Comparison:
    """The verdict on the rows that judge at the end: the blend against boosted trees, and against a constant."""
    rows, headline = with_groups(mixed, final_rows(judged)), headline_for(mixed.schema.task, mixed.target)
    against = TREES if TREES in rows.predictions else CONSTANT
    # Boosted trees are another recipe, not the same without photos: whether these help, the rule of the folds says.
    found = compare(rows, headline, BLEND, against, constant=CONSTANT, with_photos=False, called="blend")
    if not photos:
        return found
    without = headline.value(rows.truth, rows.predictions[TABLE_BLEND], rows.weight)
    said = f"The blend of the table columns alone has {headline.name} {without:.3g} on the same rows."
    return Comparison(f"{found.verdict} {said}", loses=found.loses)


def unreadable(mixed: MixedData) -> list[BadInput]:
    """Photos whose file is there but could not be decoded."""
    if mixed.photos is None:
        return []
    return in_table_rows(unreadable_photos(mixed.frame, mixed.photos, mixed.photo_failures), mixed.row_numbers)


def say_end(console: Console, run: Run, table: Path, mixed: MixedData, config: DataConfig) -> None:
    """Print the scores, the verdict, and what to do next."""
    contest = run.contest

    def say(text: str) -> None:
        console.print(text, markup=False)

    if run.departure:
        say(f" {run.departure}")
    if contest is None:
        best = run.history.loc[run.history["valid_loss"].idxmin()]
        say(f" best epoch {best['epoch']:.0f} of {len(run.history)}")
    else:
        say(f" {contest.choice}")
        if contest.folds:
            say(f" {contest.folds}")
        if len(mixed.split.test) and not contest.coverage:
            say(f" too few rows (or too few that weigh) are judged out of fold for {LEVEL:.0%} intervals or sets")
        for part in contest.coverage[:1]:
            kind = "intervals" if mixed.target.classes is None else "sets"
            say(f" {LEVEL:.0%} {kind} hold the truth of {part.inside} of {part.count} test rows")
    for split, by_model in run.scores.items():
        if not len(mixed.split.of(split)):
            continue
        names = list(next(iter(by_model.values())))
        heading = split if contest is None else {"valid": "out of fold"}.get(split, split)
        say(f" {heading:<34}" + "".join(f"{name:>18}" for name in names))
        for model, values in by_model.items():
            if contest is not None and model not in (BLEND, TABLE_BLEND, TREES, CONSTANT):
                continue  # all are in the report
            say(f"   {model:<32}" + "".join(f"{metric_text(values[name]):>18}" for name in names))
    say(f" {run.comparison.verdict}")
    if run.doctor is not None:
        findings = run.doctor.findings()
        say(f" doctor  {len(findings) or 'no'} finding{'' if len(findings) == 1 else 's'}")
        for finding in findings:
            say(f"   {finding}")
    if run.bad:
        say(f" {describe_bad(run.bad)}; all listed in {run.folder / 'bad_inputs.csv'}")
    say(f" report  {run.folder / 'report.html'}")
    images = f" --images {config.images}" if config.images is not None else ""
    say(f" next    mixfit predict {run.folder} NEW.csv -o out.csv{images}")
    say(f"         mixfit explain {run.folder} --n 50")
    if len(mixed.split.test):
        say(f"         mixfit evaluate {run.folder} {table} --split test{images}")


def departure_of(
    mixed: MixedData, judged: dict[JudgedSplit, Rows], model: str, where: str, *, unnamed: Sequence[str]
) -> str:
    """See ``departure``; ``unnamed`` are warnings of groups that no column names."""
    known = ["the rows seem to come in groups that no column names (see the warning)"] if unnamed else []
    promised, test = (with_groups(mixed, judged[name]) for name in JUDGED)
    return departure(
        mixed, promised, test, headline_for(mixed.schema.task, mixed.target), model, where=where, known=known
    )
