"""A finished run: its result, files and terminal output.

In: predictions of several models for validation and test rows. Out: ``Run``; the files of the run folder that ``mixfit
report`` reads, the report, and the last lines on the terminal."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from rich.console import Console

from mixfit.choices import NUMBER_TASKS
from mixfit.config import DataConfig
from mixfit.console import print_wrapped
from mixfit.data.bad_inputs import BadInput, describe_bad, in_table_rows, write_bad_inputs
from mixfit.data.fingerprint import read_fingerprint
from mixfit.data.load import UNKNOWN_IN_TEST, MixedData
from mixfit.data.photos.find import unreadable_photos
from mixfit.diagnostics.doctor import Doctor
from mixfit.diagnostics.findings import Finding
from mixfit.ensemble.threshold import Thresholds
from mixfit.evaluation.baselines import BOOSTED_TREES, CONSTANT, Baseline
from mixfit.evaluation.departure import copied_test_rows, departure
from mixfit.evaluation.explain import (
    LEAST_BACKGROUND,
    affordable_background,
    explain,
    explained_columns,
    explained_texts,
    typical_rows,
)
from mixfit.evaluation.result import (
    LOSSES,
    Contest,
    JudgedSplit,
    ModelKind,
    PhotoGain,
    Result,
    Rows,
    TextGain,
    headline_for,
    judge,
    metrics_for,
    write_result,
)
from mixfit.evaluation.word_weights import word_weights
from mixfit.files import explained, is_there, write_file
from mixfit.html import Grid, card
from mixfit.models.model import PARTS, Sees, name_of
from mixfit.predictor import Predictor
from mixfit.runs.folder import describe_environment, seal_run
from mixfit.runs.report.content import Diagnosis, ModelExplanation, ReportFacts, Watched
from mixfit.runs.report.data import Unusual, describe_data, sample_rows, small_pictures, worst_rows
from mixfit.runs.report.explain_page import model_explanation
from mixfit.runs.report.saved import BAD, HISTORY, predictions_frame, write_facts, write_predictions
from mixfit.training.metrics import Metric, median_class, metric_label, metric_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


BLEND, TABLE_BLEND = "mixfit, blend", "blend, table only"
TEXT_BLEND, TEXT_ONLY_BLEND = "blend, table and text", "blend, text only"
"""The blend without photos; the second one if there are no table columns."""
PHOTO_BLEND = "blend, with photos"
"""The blend with photos if the delivered blend does not use them."""
BLENDS = frozenset({BLEND, TABLE_BLEND, TEXT_BLEND, TEXT_ONLY_BLEND, PHOTO_BLEND})
TREES = "boosted trees, table"
"""The model that a blend is compared with in the verdict."""
LEVEL = 0.9
"""Nominal coverage of the intervals of a report."""
LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Levels at which the empirical coverage is computed."""
JUDGED: tuple[JudgedSplit, ...] = ("valid", "test")
_KINDS: dict[str, ModelKind] = {
    BLEND: "ours",
    BOOSTED_TREES: "table",
    TABLE_BLEND: "table",
    TEXT_BLEND: "text",
    TEXT_ONLY_BLEND: "text",
    TREES: "table",
    PHOTO_BLEND: "photos",
    CONSTANT: "constant",
}
BACKGROUND_ROWS = 16
EXPLAINED = (16, 1_024)
"""Numbers of explained rows and of predictions for each, enough to show which columns matter; training takes fewer
where these would take long, and ``mixfit explain`` takes any number."""
EXPLAINED_COLUMNS = 100
"""With more columns, training computes no explanations, as they take a second or more per row."""
_PARTS = {"valid": "validation rows", "test": "test rows"}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Run:
    """A finished training run."""

    folder: Path
    predictor: Predictor
    result: Result
    """Scores of every model, with intervals, differences and coverage."""
    history: pd.DataFrame
    """One row per epoch."""
    bad: list[BadInput]
    doctor: Doctor | None = None
    """The training doctor, if there was one."""

    @property
    def scores(self) -> dict[JudgedSplit, dict[str, dict[str, float]]]:
        """Split -> model -> metric -> value in the target's unit, for the splits with rows."""
        return self.result.scores

    @property
    def contest(self) -> Contest | None:
        """Comparison of the models of a blend; None for a single network."""
        return self.result.contest

    def __fspath__(self) -> str:
        """A run stands for its folder: ``mixfit.predict_table(run, rows)``."""
        return str(self.folder)

    def __repr__(self) -> str:
        """One line: the folder and the verdict."""
        return f"Run({str(self.folder)!r}: {self.verdict})"

    def _repr_html_(self) -> str:
        """A card for notebooks."""
        contest, grids = self.contest, self.result.grids()
        if contest is not None:
            rows = [(one.model, one.loss, "" if one.share is None else one.share) for one in contest.leaderboard]
            head = ("model", "loss", "weight in the blend")
            grids.append(Grid(heading="leaderboard of the out-of-fold rows", head=head, rows=rows, folded=True))
        report = "report.html" if is_there(self.folder / "report.html") else "none"
        facts = {"folder": str(self.folder), "report": report, "missing or broken": f"{len(self.bad):,}"}
        title = f"Run: predict {self.result.target}, {self.result.task}"
        return card(title, facts=facts, lines=self.result.lines, grids=grids)

    @property
    def verdict(self) -> str:
        """The result in plain words; first, whether the test score agrees with the out-of-fold or validation score."""
        return " ".join(filter(None, [self.result.departure, self.result.verdict]))

    def plot_scores(self) -> "Figure":
        """The headline metric of the models that are compared, with 95 % intervals."""
        from mixfit.runs.report.plots import plot_scores

        return plot_scores(self.folder)

    def plot_loss(self) -> "Figure":
        """Training and validation loss by epoch; for a blend, of the network trained last.

        Raises:
            ConfigError: no network was trained.
        """
        from mixfit.runs.report.plots import plot_loss

        return plot_loss(self.folder)

    def plot_predictions(self) -> "Figure":
        """Predicted against true values, or the confusion matrix, of the test rows."""
        from mixfit.runs.report.plots import plot_predictions

        return plot_predictions(self.folder)

    def plot_calibration(self) -> "Figure":
        """The calibration curve of classes, or the empirical coverage of intervals.

        Raises:
            ConfigError: a single regression network has neither.
        """
        from mixfit.runs.report.plots import plot_calibration

        return plot_calibration(self.folder)

    def show_worst(self, count: int = 6) -> "Figure":
        """The rows with the largest errors: photos, truth, prediction and remarks.

        Raises:
            ConfigError: ``count`` is below 1, or no prediction was wrong.
        """
        from mixfit.runs.report.plots import show_worst

        return show_worst(self.folder, count)


def our_name(mixed: MixedData) -> str:
    """Name of the network in tables of scores."""
    there = {"table": mixed.has_columns, "text": bool(mixed.schema.names("text")), "photos": mixed.photos is not None}
    seen: Sees = frozenset(part for part in PARTS if there.get(part))
    return name_of("mixfit", seen) + (" only" if len(seen) == 1 else "")


def truth_of(mixed: MixedData, split: JudgedSplit) -> np.ndarray:
    """The true target of a split, in its unit or as class numbers."""
    return mixed.target.truth(mixed.table[mixed.schema.target].select(mixed.split.of(split)))


def rows_of(
    mixed: MixedData,
    split: JudgedSplit,
    predictions: Mapping[str, np.ndarray],
    by_metric: Mapping[str, Mapping[str, np.ndarray]],
    classes: Mapping[str, np.ndarray] | None = None,
) -> Rows:
    """The rows of a split, with their weights and units (groups and copies).

    Args:
        predictions, by_metric, classes: as for ``Rows``.
    """
    unit = mixed.ties.joined(mixed.split.of(split)).unit
    grouped = bool(mixed.schema.names("group")) or len(np.unique(unit)) < len(unit)
    return Rows(
        split,
        truth_of(mixed, split),
        predictions,
        groups=unit if grouped else None,
        weight=mixed.weights(split),
        by_metric=by_metric,
        classes=classes or {},
    )


def judged_rows(
    mixed: MixedData,
    split: JudgedSplit,
    ours: np.ndarray,
    baselines: Sequence[Baseline],
    thresholds: Mapping[str, Thresholds] | None = None,
) -> Rows:
    """Predictions of the network and of the baselines for a split.

    Args:
        thresholds: decision thresholds by model, chosen on the validation rows.
    """
    predictions = {our_name(mixed): ours} | {baseline.name: baseline.predictions[split] for baseline in baselines}
    by_metric = {baseline.name: baseline.by_metric[split] for baseline in baselines if baseline.by_metric}
    new, found = split == "test", thresholds or {}
    classes = {name: one.decide(predictions[name], new=new) for name, one in found.items()}
    if mixed.schema.task == "ordered":
        classes = {name: median_class(values) for name, values in predictions.items() if name not in by_metric}
    return rows_of(mixed, split, predictions, by_metric, classes)


def result_of(
    mixed: MixedData,
    judged: Mapping[JudgedSplit, Rows],
    *,
    seconds: Mapping[str, float],
    contest: Contest | None = None,
    uses_photos: bool = True,
    uses_text: bool = False,
    unnamed: Sequence[str] = (),
    decision: str = "",
    refit: bool = False,
) -> Result:
    """The result of a run: all metrics of every model, with intervals and differences for the compared models.

    Args:
        mixed: with the split of ``judged``.
        judged: predictions of every model for validation (or out-of-fold) and test rows.
        seconds: fit time of each model.
        contest: comparison of the models of a blend; None for a single network.
        uses_photos, uses_text: whether the delivered model uses photos, and columns of text.
        unnamed: warnings about groups that no column identifies.
        decision: how the chosen metric was optimised.
        refit: whether the delivered model was fitted on all rows after the evaluation.
    """
    headline = headline_for(mixed.schema.task, mixed.target, mixed.metric)
    metrics = metrics_for(mixed.schema.task, mixed.target, mixed.metric)
    names = set(judged["valid"].predictions)
    table = TABLE_BLEND if TABLE_BLEND in names else CONSTANT
    kinds = {**_KINDS, our_name(mixed): "ours"} if contest is None else _KINDS
    gain = text = None
    if contest is None:
        ours, against = our_name(mixed), BOOSTED_TREES if BOOSTED_TREES in names else CONSTANT
        if mixed.photos is not None and against == BOOSTED_TREES:
            gain = PhotoGain(with_photos=ours, without=BOOSTED_TREES, same_kind=False, used=True)
    else:
        ours, against = BLEND, TREES if TREES in names else CONSTANT
        if contest.text is not None:
            with_text = next((name for name in (TEXT_BLEND, TEXT_ONLY_BLEND) if name in names), BLEND)
            text = TextGain(with_text=with_text, without=table, used=uses_text)
        if mixed.photos is not None:
            with_photos = PHOTO_BLEND if PHOTO_BLEND in names else BLEND
            without = table if text is None else text.with_text
            if with_photos != without:
                gain = PhotoGain(
                    with_photos=with_photos,
                    without=without,
                    same_kind=True,
                    used=uses_photos,
                    beside_text=text is not None,
                )
    pairs: dict[tuple[str, str], Sequence[Metric]] = {(ours, against): (headline,)}
    if gain is not None:
        pairs[gain.with_photos, gain.without] = (headline,)
    if text is not None:
        pairs[text.with_text, text.without] = (headline,)
    if CONSTANT in names:
        losses = [metric for metric in metrics if metric.name in LOSSES and metric != headline]
        pairs[ours, CONSTANT] = (headline, *losses)
    compared: dict[str, Sequence[Metric]] = {name: (headline,) for name in kinds if name in names} | {ours: metrics}
    parts = [
        judge(
            judged[split],
            metrics,
            kinds=kinds,
            intervals=compared,
            pairs=pairs,
            relative=mixed.schema.task == "regression" and mixed.target.log,
            seconds=seconds,
        )
        for split in reversed(JUDGED)
        if len(judged[split].truth)
    ]
    departs = ""
    if len(parts) == len(JUDGED):
        known = ["the rows appear to form groups that no column identifies (see the warning)"] if unnamed else []
        test, promised = (part.score(ours) for part in parts)
        where = "validation" if contest is None else "out-of-fold"
        nothing = next((one for one in parts[0].scores if one.kind == "constant"), None)
        of_test, of_promised = (part.groups or part.rows for part in parts)
        departs = departure(
            mixed,
            promised,
            test,
            headline,
            where=where,
            counts=(of_promised, of_test),
            known=known,
            constant=nothing,
        )
    return Result(
        target=mixed.schema.target,
        task=mixed.schema.task,
        headline=headline.name,
        rows={"train": len(mixed.split.train), "valid": len(mixed.split.valid), "test": len(mixed.split.test)},
        ours=ours,
        against=against,
        parts=parts,
        photos=gain,
        text=text,
        contest=contest,
        coverage_level=LEVEL,
        refit=len(np.unique(np.concatenate(list(mixed.split.parts().values())))) if refit else 0,
        decision=decision,
        departure=departs,
        unknown=sum(record.action == UNKNOWN_IN_TEST for record in mixed.bad),
        copied=copied_test_rows(mixed),
    )


def decision_sentence(mixed: MixedData, *, goal: str, threshold: float | None, rows: str) -> str:
    """How the chosen metric was optimised; "" for the default metric.

    Args:
        goal: the part of the training that follows the metric, as half a sentence; or "".
        threshold: the decision threshold, if one was chosen.
        rows: "out-of-fold" or "validation".
    """
    if mixed.schema.task == "ordered":
        order = " < ".join(mixed.target.classes or ())
        median = f"The classes are ordered: {order}. The predicted class is the median of the predicted distribution."
        return " ".join([median, *([f"The chosen metric is {_chosen(mixed)}."] if mixed.metric != "auto" else [])])
    if mixed.metric == "auto":
        return ""
    label = _chosen(mixed)
    said = f"The chosen metric is {label}" + (f"; {goal}." if goal else ".")
    if threshold is None or mixed.target.classes is None:
        return said
    others = "the other folds" if rows == "out-of-fold" else "other validation rows"
    return (
        f"{said} Class {mixed.target.classes[1]!r} is predicted where its probability is above {threshold:.3g}: this "
        f"decision threshold has the best {label} on {rows} rows. The {rows} scores use thresholds chosen on {others}; "
        "each compared model has its own."
    )


def _chosen(mixed: MixedData) -> str:
    """The label of the chosen metric."""
    return metric_label(headline_for(mixed.schema.task, mixed.target, mixed.metric).name)


def unreadable(mixed: MixedData) -> list[BadInput]:
    """Photos whose file exists but could not be decoded."""
    if mixed.photos is None:
        return []
    return in_table_rows(unreadable_photos(mixed.table, mixed.photos, mixed.photo_failures), mixed.row_numbers)


def say_end(
    console: Console,
    run: Run,
    table: Path,
    config: DataConfig,
    watched: tuple[str, Literal["min", "max"]] = ("valid_loss", "min"),
) -> None:
    """Print the scores, the verdict and the next commands.

    Args:
        watched: what early stopping of a single network watched.
    """
    result, contest = run.result, run.result.contest

    def say(text: str) -> None:
        console.print(text, markup=False)

    print_wrapped(console, result.departure)
    print_wrapped(console, result.decision)
    if result.refit:
        print_wrapped(console, result.refit_note)
    if contest is None:
        column, mode = watched
        values = run.history[column]
        best = run.history.loc[values.idxmin() if mode == "min" else values.idxmax()]
        say(f" best epoch {best['epoch']:.0f} of {len(run.history)}")
    else:
        kind = "intervals" if result.task in NUMBER_TASKS else "sets"
        for paragraph in [*contest.reasons, contest.folds, contest.why_above]:
            print_wrapped(console, paragraph)
        held = [one for one in contest.coverage if one.level == LEVEL]
        if result.rows["test"] and not held:
            say(f" too few calibration rows (of a weight above 0) for {LEVEL:.0%} intervals or sets")
        for part in held[:1]:
            say(f" {LEVEL:.0%} prediction {kind} contain the true value of {part.inside} of {part.count} test rows")
    for judged in reversed(result.parts):
        names = list(judged.scores[0].metrics)
        say(f" {result.part_name(judged.split):<34}" + "".join(f"{metric_label(name):>18}" for name in names))
        for score in judged.scores:
            # All are in the report.
            if contest is None or score.model in (BLENDS - {PHOTO_BLEND} | {TREES, CONSTANT}):
                say(f"   {score.model:<32}" + "".join(f"{metric_text(score.metrics[name]):>18}" for name in names))
    print_wrapped(console, f"{result.answer} {result.answer_of_constant}")
    print_wrapped(console, result.verdict)
    if run.doctor is not None:
        findings = run.doctor.findings()
        say(f" doctor  {len(findings) or 'no'} finding{'' if len(findings) == 1 else 's'}")
        for finding in findings:
            say(f"   {finding}")
    if run.bad:
        say(f" {describe_bad(run.bad)}; all listed in {run.folder / 'bad_inputs.csv'}")
    if is_there(run.folder / "report.html"):
        say(f" report  {run.folder / 'report.html'}")
    else:
        say(f" report  none; to write it: mixfit report {run.folder}")
    shows = config.images is not None and run.predictor.schema.names("image")
    images = f" --images {shlex.quote(str(config.images))}" if shows else ""
    say(f" next    mixfit predict {run.folder} NEW.csv -o out.csv{images}")
    say(f"         mixfit explain {run.folder} --n 50")
    if result.rows["test"] and not result.refit:
        say(f"         mixfit evaluate {run.folder} {table} --split test{images}")


def write_results(
    run: Run,
    mixed: MixedData,
    judged: Mapping[JudgedSplit, Rows],
    settings: dict[str, object],
    command: str,
    warnings: list[str],
    notes: list[str],
    *,
    images: Path,
    interval: tuple[np.ndarray, np.ndarray] | None = None,
    explained_size: tuple[int, int] | None = EXPLAINED,
    page: bool = True,
) -> None:
    """Write the result, predictions, bad inputs, the report's content and the report.

    Args:
        mixed: with the split of ``judged``.
        judged: predictions of every model for validation (or out-of-fold) and test rows.
        warnings, notes: on the data, for the report.
        images: folder that photo paths are relative to.
        interval: lower and upper ends at ``LEVEL`` of the test rows, in the unit of the target.
        explained_size: numbers of explained rows and of predictions for each; None for no explanations.
        page: whether rows are explained and the report's page is written.
    """
    result = run.result
    ours, final = result.ours, judged[result.final.split]
    others = [name for name in final.predictions if name != ours and name in _KINDS]
    with explained(run.folder, None):
        write_bad_inputs(run.bad, run.folder / BAD)
    for split in JUDGED:
        ends = interval if split == "test" else None
        numbers = mixed.row_numbers[mixed.split.of(split)]
        frame = predictions_frame(judged[split], numbers, ours, others, mixed.target.classes, ends)
        write_predictions(frame, run.folder / f"predictions_{split}.parquet")
    if len(run.history):
        write_file(run.folder / HISTORY, run.history.to_csv(index=False))
    write_result(run.folder, result)
    part = "out-of-fold rows" if result.contest is not None and final.split == "valid" else _PARTS[final.split]
    worst = worst_rows(
        mixed,
        Unusual(mixed, run.bad),
        mixed.split.of(final.split),
        final.truth,
        final.predictions[ours],
        part=part,
        interval=interval if final.split == "test" else None,
        level=LEVEL,
    )
    shown, photos = small_pictures(mixed, [*worst, *sample_rows(mixed)])
    facts = ReportFacts(
        title=run.folder.name.rpartition("-")[0],
        diagnoses=None if run.doctor is None else list(map(_diagnosis, run.doctor.findings())),
        watched=None if run.doctor is None else _watched(run.doctor),
        explanation=explanation_of(run.predictor, mixed, images, explained_size) if page and explained_size else None,
        words=word_weights(run.predictor, mixed.table.select(mixed.split.train)),
        explanation_note=_why_unexplained(run.predictor, explained_size, page=page),
        data=describe_data(mixed, shown[len(worst) :], notes),
        worst=shown[: len(worst)],
        classes=mixed.target.classes or (),
        log_scale=mixed.schema.task == "regression" and mixed.target.log,
        warnings=warnings,
        command=command,
        settings={name: str(value) for name, value in settings.items() if name != "table_sha256"},
        environment=describe_environment(),
        fingerprint=_fingerprint(run.folder),
    )
    write_facts(run.folder, facts, photos)
    if page:
        # importing matplotlib takes a second, too long for a command line with a misspelt flag
        from mixfit.runs.report.page import rewrite_report

        rewrite_report(run.folder)
    seal_run(run.folder)


def explanation_of(
    predictor: Predictor, mixed: MixedData, images: Path, size: tuple[int, int] = EXPLAINED
) -> ModelExplanation | None:
    """Explain random test rows relative to background rows from the training rows, chosen by the seed of the data.

    None if there is nothing to explain, or with too many columns.

    Args:
        size: numbers of rows and of predictions for each.
    """
    count, most = size
    judged = mixed.split.test if len(mixed.split.test) else mixed.split.valid
    table, photos = explained_columns(predictor)
    if not len(judged) or not 1 <= len(table) + len(photos) <= EXPLAINED_COLUMNS:
        return None
    rows = np.sort(np.random.default_rng(mixed.seed).permutation(judged)[:count])
    train = mixed.table.select(mixed.split.train)
    background = train.select(typical_rows(train, predictor, BACKGROUND_ROWS, seed=mixed.seed))
    found = explain(
        predictor,
        mixed.table,
        images=images,
        rows=rows.tolist(),
        background=background,
        seed=mixed.seed,
        cache=None if mixed.photos is None else mixed.photos.cache,
        most_predictions=most,
    )
    return model_explanation(replace(found, rows=mixed.row_numbers[found.rows]))


NOT_EXPLAINED = "Not computed during training, as it would take more than a tenth of its time."
_NO_REPORT = "Not computed during training, as no report was asked for."
_EXPLAIN = " To explain some rows: mixfit explain RUN --n 10."


def _why_unexplained(predictor: Predictor, size: tuple[int, int] | None, *, page: bool) -> str:
    if not page or size is None:
        return (NOT_EXPLAINED if page else _NO_REPORT) + _EXPLAIN
    columns = sum(map(len, explained_columns(predictor)))
    if columns <= EXPLAINED_COLUMNS:
        return ""
    said = f"Not computed during training, as the model uses {columns:,} columns (limit {EXPLAINED_COLUMNS})."
    sides = 3 if explained_texts(predictor) else 2
    if affordable_background(columns, LEAST_BACKGROUND, sides=sides) < LEAST_BACKGROUND:
        return said
    return f"{said} To explain some rows: mixfit explain RUN --n 10."


def _fingerprint(folder: Path) -> dict[str, str]:
    """Identifies the data."""
    found = read_fingerprint(folder / "environment.json")
    if found is None:
        return {}
    photos = {"SHA-256 of sizes and times of the photos": found.photos_sha256, "photos": f"{found.photos:,}"}
    return {"SHA-256 of the table": found.table_sha256} | (photos if found.photos else {})


def _diagnosis(finding: Finding) -> Diagnosis:
    return Diagnosis(name=finding.name, sentence=finding.sentence, fix=finding.fix)


def _watched(doctor: Doctor) -> Watched:
    from mixfit.runs.report.watched import watched

    return watched(doctor.activations.stats, doctor.gradients.stats)
