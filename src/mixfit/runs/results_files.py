"""What is written of a finished run, and its report.

In: ``Run``, the data, and predictions of all models. Out: the files of the run folder that ``mixfit report`` needs to
write the page again, and the page."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from mixfit.data.bad_inputs import write_bad_inputs
from mixfit.data.fingerprint import read_fingerprint
from mixfit.data.load import MixedData
from mixfit.diagnostics.doctor import Doctor
from mixfit.diagnostics.findings import Finding
from mixfit.evaluation.baselines import BOOSTED_TREES, CONSTANT
from mixfit.evaluation.bootstrap import bootstrap_interval
from mixfit.evaluation.explain import LEAST_BACKGROUND, affordable_background, explain, explained_columns, typical_rows
from mixfit.evaluation.scores import JudgedSplit, Rows, headline_for, metrics_for
from mixfit.files import explained, write_file
from mixfit.predictor import Predictor
from mixfit.runs.folder import describe_environment
from mixfit.runs.report.content import (
    Diagnosis,
    ModelExplanation,
    ModelKind,
    PhotoGain,
    ReportFacts,
    Score,
    ShownRow,
    Watched,
)
from mixfit.runs.report.data_facts import describe_data
from mixfit.runs.report.explanation_view import model_explanation
from mixfit.runs.report.gain import photo_gain
from mixfit.runs.report.predictions_file import predictions_frame, write_predictions
from mixfit.runs.report.saved import BAD, HISTORY, write_facts, write_scores
from mixfit.runs.report.shown_rows import sample_rows, small_pictures, worst_rows
from mixfit.runs.report.unusual import Unusual
from mixfit.runs.results import (
    BLEND,
    JUDGED,
    LEVEL,
    OURS,
    OURS_TABLE_ONLY,
    PHOTO_BLEND,
    TABLE_BLEND,
    TREES,
    Run,
    final_rows,
    our_name,
    with_groups,
)

_KINDS: dict[str, ModelKind] = {
    OURS: "ours",
    OURS_TABLE_ONLY: "ours",
    BLEND: "ours",
    BOOSTED_TREES: "table",
    TABLE_BLEND: "table",
    TREES: "table",
    PHOTO_BLEND: "photos",
    CONSTANT: "constant",
}
EXPLAINED_ROWS, BACKGROUND_ROWS = 24, 16
"""Enough to tell the columns that matter; ``mixfit explain`` takes as many as are asked for."""
EXPLAINED_COLUMNS = 100
"""With more columns a training does not wait for explanations, which take about a second a row and more."""
_PARTS = {"valid": "validation rows", "test": "test rows"}


def write_results(
    run: Run,
    mixed: MixedData,
    judged: dict[JudgedSplit, Rows],
    seconds: dict[str, float],
    settings: dict[str, object],
    command: str,
    warnings: list[str],
    *,
    images: Path,
) -> None:
    """Write scores, predictions, bad inputs, what the report shows, and the report.

    Args:
        mixed: with the split that ``judged`` was judged by.
        judged: predictions of every model for the rows that judge.
        seconds: time of the fit of each model.
        images: folder that the photo paths start from.
    """
    from mixfit.runs.report.page import (
        rewrite_report,  # matplotlib takes a second, which a misspelt flag should not wait for
    )

    judged = {split: with_groups(mixed, rows) for split, rows in judged.items()}
    contest, final = run.contest, final_rows(judged)
    ours = our_name(mixed) if contest is None else BLEND
    others = [name for name in final.predictions if name != ours and name in _KINDS]
    interval = None if contest is None or final.split != "test" else contest.interval
    with explained(run.folder, None):
        write_bad_inputs(run.bad, run.folder / BAD)
    for split in JUDGED:
        ends = interval if split == "test" else None
        numbers = mixed.row_numbers[mixed.split.of(split)]
        frame = predictions_frame(judged[split], numbers, ours, others, mixed.target.classes, ends)
        write_predictions(frame, run.folder / f"predictions_{split}.parquet")
    if len(run.history):
        write_file(run.folder / HISTORY, run.history.to_csv(index=False))
    scores = _scores(run, mixed, judged, ours, seconds)
    write_scores(run.folder, scores)
    part = "rows of the folds" if contest is not None and final.split == "valid" else _PARTS[final.split]
    worst = worst_rows(
        mixed,
        Unusual(mixed, run.bad),
        mixed.split.of(final.split),
        final.truth,
        final.predictions[ours],
        part=part,
        interval=interval,
        level=LEVEL,
    )
    shown, photos = small_pictures(mixed, [*worst, *sample_rows(mixed)])
    facts = _facts(run, mixed, judged, scores, shown[: len(worst)], shown[len(worst) :])
    facts = replace(
        facts,
        explanation=explanation_of(run.predictor, mixed, images),
        explanation_note=_why_unexplained(run.predictor),
    )
    facts = _with_origin(facts, run, settings, command, warnings)
    write_facts(run.folder, facts, photos)
    rewrite_report(run.folder)


def explanation_of(predictor: Predictor, mixed: MixedData, images: Path) -> ModelExplanation | None:
    """What moves the predictions of some test rows, against some training rows, chosen by the seed of the data.

    None where there is nothing to explain, or too many columns."""
    judged = mixed.split.test if len(mixed.split.test) else mixed.split.valid
    table, photos = explained_columns(predictor)
    if not len(judged) or not 1 <= len(table) + len(photos) <= EXPLAINED_COLUMNS:
        return None
    rows = np.sort(np.random.default_rng(mixed.seed).permutation(judged)[:EXPLAINED_ROWS])
    train = mixed.frame.iloc[mixed.split.train]
    background = train.iloc[typical_rows(train, predictor, BACKGROUND_ROWS, seed=mixed.seed)]
    found = explain(
        predictor,
        mixed.frame,
        images=images,
        rows=rows.tolist(),
        background=background,
        seed=mixed.seed,
        cache=None if mixed.photos is None else mixed.photos.cache,
    )
    return model_explanation(replace(found, rows=mixed.row_numbers[found.rows]))


def _why_unexplained(predictor: Predictor) -> str:
    columns = sum(map(len, explained_columns(predictor)))
    if columns <= EXPLAINED_COLUMNS:
        return ""
    said = f"The model sees {columns:,} columns; with more than {EXPLAINED_COLUMNS} this is not computed in training."
    if affordable_background(columns, LEAST_BACKGROUND) < LEAST_BACKGROUND:
        return said
    return f"{said} Some rows can be explained afterwards: mixfit explain RUN --n 10."


def _facts(
    run: Run,
    mixed: MixedData,
    judged: dict[JudgedSplit, Rows],
    scores: list[Score],
    worst: list[ShownRow],
    samples: list[ShownRow],
) -> ReportFacts:
    contest, final = run.contest, final_rows(judged)
    headline = headline_for(mixed.schema.task, mixed.target)
    return ReportFacts(
        title=run.folder.name.rpartition("-")[0],
        target=mixed.schema.target,
        rows={"train": len(mixed.split.train), "valid": len(mixed.split.valid), "test": len(mixed.split.test)},
        headline_metric=headline.name,
        higher_is_better=headline.higher_is_better,
        verdict=run.verdict,
        scores=scores,
        photos=_photo_gain(run, mixed, judged),
        leaderboard=[] if contest is None else contest.leaderboard,
        choice="" if contest is None else contest.choice,
        folds="" if contest is None else contest.folds,
        coverage=[] if contest is None else contest.coverage,
        coverage_level=LEVEL,
        levels=[] if contest is None else contest.levels,
        history_of="" if contest is None else contest.history_of,
        diagnoses=None if run.doctor is None else list(map(_diagnosis, run.doctor.findings())),
        watched=None if run.doctor is None else _watched(run.doctor),
        data=describe_data(mixed, samples),
        worst=worst,
        predicted_split=final.split,
        classes=mixed.target.classes or (),
        log_scale=mixed.target.log,
    )


def _with_origin(
    facts: ReportFacts, run: Run, settings: dict[str, object], command: str, warnings: list[str]
) -> ReportFacts:
    """What the run was made of and how."""
    fingerprint = read_fingerprint(run.folder / "environment.json")
    known = (
        {}
        if fingerprint is None
        else {
            "SHA-256 of the table": fingerprint.table_sha256,
            "SHA-256 of sizes and times of the photos": fingerprint.photos_sha256,
            "photos": f"{fingerprint.photos:,}",
        }
    )
    shown = {name: str(value) for name, value in settings.items() if name != "table_sha256"}
    return replace(
        facts, warnings=warnings, command=command, settings=shown, environment=describe_environment(), fingerprint=known
    )


def _scores(
    run: Run, mixed: MixedData, judged: dict[JudgedSplit, Rows], ours: str, seconds: dict[str, float]
) -> list[Score]:
    """All scores; intervals of ours, and of those that it is compared with in the headline metric."""
    headline, final = headline_for(mixed.schema.task, mixed.target), final_rows(judged).split
    metrics = metrics_for(mixed.schema.task, mixed.target)
    found = []
    for split, by_model in run.scores.items():
        rows = judged[split]
        for model, values in by_model.items():
            chosen = metrics if model == ours and split == final else (headline,)
            if model != ours and (model not in _KINDS or split != final):
                chosen = ()
            found.append(
                Score(
                    model=model,
                    kind=_KINDS.get(model, "candidate"),
                    split=split,
                    metrics=values,
                    seconds=seconds.get(model),
                    intervals={
                        metric.name: ends
                        for metric in chosen
                        for ends in [
                            bootstrap_interval(
                                metric,
                                rows.truth,
                                rows.of(model, metric),
                                groups=rows.groups,
                                weight=rows.weight,
                            )
                        ]
                        if not np.isnan(ends).any()
                    },
                )
            )
    return found


def _photo_gain(run: Run, mixed: MixedData, judged: dict[JudgedSplit, Rows]) -> PhotoGain | None:
    """With and without photos, by the best blend of each; one network is compared with boosted trees."""
    if mixed.photos is None:
        return None
    headline, final = headline_for(mixed.schema.task, mixed.target), final_rows(judged)
    order = [final, *(rows for rows in judged.values() if rows.split != final.split)]
    if run.contest is None:
        return photo_gain(order, headline, OURS, BOOSTED_TREES, same_kind=False, used=True)
    with_name = PHOTO_BLEND if PHOTO_BLEND in final.predictions else BLEND
    if TABLE_BLEND not in final.predictions:
        return None
    used, rule = run.predictor.uses_photos, run.contest.photos
    return photo_gain(order, headline, with_name, TABLE_BLEND, same_kind=True, used=used, rule=rule)


def _diagnosis(finding: Finding) -> Diagnosis:
    return Diagnosis(name=finding.name, sentence=finding.sentence, fix=finding.fix)


def _watched(doctor: Doctor) -> Watched:
    from mixfit.runs.report.watched import watched

    return watched(doctor.activations.stats, doctor.gradients.stats)
