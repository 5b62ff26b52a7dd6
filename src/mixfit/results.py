"""What a training gave: its scores beside those of the baselines, in files, in a report and in words.

In: predictions of several models for the same rows. Out: ``Run``, and what is written of it."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from mixfit.config import DataConfig
from mixfit.data.bad_inputs import BadInput, describe_bad, write_bad_inputs
from mixfit.data.load import MixedData
from mixfit.evaluation.baselines import BOOSTED_TREES, CONSTANT, Baseline
from mixfit.evaluation.scores import Comparison, JudgedSplit, Rows, compare, headline_for
from mixfit.files import explained, write_file
from mixfit.predictor import Predictor, unreadable_photos
from mixfit.report.content import Coverage, Diagnosis, LeaderboardLine, ModelKind, Picture, ReportContent, Score
from mixfit.run_folder import describe_environment
from mixfit.training.callbacks.doctor import Doctor
from mixfit.training.doctor.finding import Finding

OURS = "mixfit, table and photos"
OURS_TABLE_ONLY = "mixfit, table only"
BLEND, TABLE_BLEND = "mixfit, blend", "blend, table only"
TREES = "boosted trees, table"
"""The candidate that a blend is compared with in words."""
LEVEL = 0.9
"""Share of rows whose truth the intervals of a report shall hold."""
JUDGED: tuple[JudgedSplit, ...] = ("valid", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """How the models of a blend competed."""

    leaderboard: list[LeaderboardLine]
    """The best first."""
    choice: str
    """Why this of all models predicts, in plain words."""
    coverage: list[Coverage] = field(default_factory=list)
    """How often intervals or sets at ``LEVEL`` hold the truth of test rows."""
    history_of: str = ""
    """Which network the history of the run is of; "" when none was trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
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
    doctor: Doctor | None = None
    """Who watched the training, if one was asked."""


def our_name(mixed: MixedData) -> str:
    """What the network is called beside its baselines."""
    return OURS if mixed.photos is not None else OURS_TABLE_ONLY


def truth_of(mixed: MixedData, split: JudgedSplit) -> np.ndarray:
    """The true target of a split, in its unit or as class numbers."""
    return mixed.target.truth(mixed.frame[mixed.schema.target].iloc[mixed.split.of(split)])


def judged_rows(mixed: MixedData, split: JudgedSplit, ours: np.ndarray, baselines: list[Baseline]) -> Rows:
    """Predictions of the network and of the baselines for a split."""
    others = {baseline.name: baseline.predictions[split] for baseline in baselines}
    return Rows(split, truth_of(mixed, split), {our_name(mixed): ours, **others})


def final_rows(judged: dict[JudgedSplit, Rows]) -> Rows:
    """The test rows, or the validation rows where there is no test."""
    return judged["test"] if len(judged["test"].truth) else judged["valid"]


def compare_with_table(mixed: MixedData, judged: dict[JudgedSplit, Rows]) -> Comparison:
    """The verdict on the rows that judge at the end."""
    headline = headline_for(mixed.schema.task, mixed.target)
    return compare(
        final_rows(judged),
        headline,
        our_name(mixed),
        BOOSTED_TREES,
        constant=CONSTANT,
        with_photos=mixed.photos is not None,
    )


def compare_blends(mixed: MixedData, judged: dict[JudgedSplit, Rows], *, photos: bool) -> Comparison:
    """The verdict on the rows that judge at the end: the blend against boosted trees, and against a constant."""
    rows, headline = final_rows(judged), headline_for(mixed.schema.task, mixed.target)
    against = TREES if TREES in rows.predictions else CONSTANT
    found = compare(rows, headline, BLEND, against, constant=CONSTANT, with_photos=photos, called="blend")
    if not photos:
        return found
    without = headline.function(rows.truth, rows.predictions[TABLE_BLEND])
    said = f"Without the photos the blend has {without:.3g} on the same rows."
    return Comparison(f"{found.verdict} {said}", loses=found.loses)


def write_results(
    run: Run,
    mixed: MixedData,
    judged: dict[JudgedSplit, Rows],
    seconds: dict[str, float],
    settings: dict[str, object],
    command: str,
    warnings: list[str],
) -> None:
    """Write the list of bad inputs, the validation predictions and the report."""
    from mixfit.report.page import write_report  # matplotlib takes a second, which a misspelt flag should not wait for

    contest = run.contest
    ours = our_name(mixed) if contest is None else BLEND
    with explained(run.folder, None):
        write_bad_inputs(run.bad, run.folder / "bad_inputs.csv")
        predictions = io.BytesIO()  # pyarrow itself opens no path whose letters the locale does not have
        _predictions_frame(mixed, judged["valid"], ours).to_parquet(predictions)
        write_file(run.folder / "predictions_valid.parquet", predictions.getvalue())
    final, headline = final_rows(judged), headline_for(mixed.schema.task, mixed.target)
    kinds: dict[str, ModelKind] = {
        ours: "ours",
        BOOSTED_TREES: "table",
        TABLE_BLEND: "table",
        CONSTANT: "constant",
    }
    content = ReportContent(
        title=run.folder.name.rpartition("-")[0],
        target=mixed.schema.target,
        schema=mixed.schema,
        rows={"train": len(mixed.split.train), "valid": len(mixed.split.valid), "test": len(mixed.split.test)},
        headline_metric=headline.name,
        higher_is_better=headline.higher_is_better,
        verdict=run.comparison.verdict,
        scores=[
            Score(
                model=model,
                kind=kinds.get(model, "candidate"),
                split=split,
                metrics=values,
                seconds=seconds.get(model),
            )
            for split, by_model in run.scores.items()
            for model, values in by_model.items()
        ],
        leaderboard=[] if contest is None else contest.leaderboard,
        choice="" if contest is None else contest.choice,
        diagnoses=None if run.doctor is None else list(map(_diagnosis, run.doctor.findings())),
        pictures=[] if run.doctor is None else _pictures(run.doctor),
        coverage=[] if contest is None else contest.coverage,
        coverage_level=LEVEL,
        history_of="" if contest is None else contest.history_of,
        history=run.history,
        predicted_split=final.split,
        truth=final.truth,
        prediction=final.predictions[ours] if mixed.target.classes is None else final.predictions[ours].argmax(1),
        classes=mixed.target.classes or (),
        log_scale=mixed.target.log,
        bad_inputs=run.bad,
        warnings=warnings,
        command=command,
        settings=settings,
        environment=describe_environment(),
    )
    write_report(content, run.folder / "report.html")


def _diagnosis(finding: Finding) -> Diagnosis:
    return Diagnosis(name=finding.name, sentence=finding.sentence, fix=finding.fix)


def _pictures(doctor: Doctor) -> list[Picture]:
    from mixfit.report.watched import watched_pictures

    return watched_pictures(doctor.activations.stats, doctor.gradients.stats)


def unreadable(mixed: MixedData) -> list[BadInput]:
    """Photos whose file is there but could not be decoded."""
    if mixed.photos is None:
        return []
    return unreadable_photos(mixed.frame, mixed.photos, mixed.photo_failures)


def _predictions_frame(mixed: MixedData, rows: Rows, ours: str) -> pd.DataFrame:
    """Row number, truth and prediction of the validation rows."""
    positions = mixed.split.of(rows.split)
    prediction = rows.predictions[ours]
    classes = mixed.target.classes
    if classes is None:
        return pd.DataFrame({"row": positions, "truth": rows.truth, "prediction": prediction})
    names = np.array(classes)
    columns = {"row": positions, "truth": names[rows.truth], "prediction": names[prediction.argmax(1)]}
    return pd.DataFrame(columns | {f"probability_{name}": prediction[:, i] for i, name in enumerate(classes)})


def say_end(console: Console, run: Run, table: Path, mixed: MixedData, config: DataConfig) -> None:
    """Print the scores, the verdict, and what to do next."""
    contest = run.contest

    def say(text: str) -> None:
        console.print(text, markup=False)

    if contest is None:
        best = run.history.loc[run.history["valid_loss"].idxmin()]
        say(f" best epoch {best['epoch']:.0f} of {len(run.history)}")
    else:
        say(f" {contest.choice}")
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
            say(f"   {model:<32}" + "".join(f"{_short(values[name]):>18}" for name in names))
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
    if len(mixed.split.test):
        say(f"         mixfit evaluate {run.folder} {table} --split test{images}")


def _short(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
