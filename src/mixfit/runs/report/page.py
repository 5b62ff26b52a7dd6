"""The report of one training run.

In: ``ReportContent``. Out: one HTML file without script or external reference, the same bytes for the same content.
Shows only the content: no date, path or name of its own."""

from pathlib import Path
from typing import Any

import numpy as np

from mixfit.choices import NUMBER_TASKS
from mixfit.evaluation.result import loss_name
from mixfit.runs.report import views
from mixfit.runs.report.content import ReportContent, Scale
from mixfit.runs.report.explain_page import explanation_view, words_view
from mixfit.runs.report.render import bad_input_view, render, schema_view, write_page
from mixfit.runs.report.saved import read_content
from mixfit.runs.report.watched import watched_pictures
from mixfit.training.metrics import MAE, RMSE, metric_label

_SECTIONS = [
    ("models", "Models"),
    ("data", "The data"),
    ("curves", "Learning curves"),
    ("predictions", "Predictions"),
    ("calibration", "Calibration"),
    ("worst", "Worst rows"),
    ("explanation", "What moves the predictions"),
    ("words", "Words that matter"),
    ("doctor", "Training diagnostics"),
    ("bad-inputs", "Missing or broken"),
    ("reproduce", "How to reproduce"),
]


def rewrite_report(folder: Path) -> Path:
    """Write ``report.html`` of a run folder from the files in it and return its path.

    Raises:
        ConfigError: the folder is not that of a finished run.
        DataError: a file in it is damaged.
        ResourceError: the page cannot be written.
    """
    path = folder / "report.html"
    write_report(read_content(folder), path)
    return path


def write_report(content: ReportContent, path: Path) -> None:
    """Write the report of a training run, replacing an older one.

    Raises:
        ResourceError: the file cannot be written.
    """
    write_page(report_page(content), path)


def report_page(content: ReportContent) -> str:
    """Lay out the report as one HTML page; empty sections are left out."""
    result = content.result
    contest, calibration = result.contest, views.calibration_view(content)
    shown = {"train": "training", "valid": "validation", "test": "test"}
    if contest is not None:
        shown = {"valid": "cross-validated", "test": "test"}
    metrics = list(result.final.scores[0].metrics)
    in_unit = [metric_label(name) for name in metrics if name in (MAE.name, RMSE.name)]
    distributions = [] if content.data is None else content.data.distributions
    values: dict[str, Any] = {
        "content": content,
        "result": result,
        "regression": result.task in NUMBER_TASKS,
        "task": "a count"
        if result.task == "count"
        else "a number"
        if result.task in NUMBER_TASKS
        else f"one of {len(content.classes):,} {'ordered ' if result.task == 'ordered' else ''}classes",
        "row_text": " / ".join(
            f"{result.rows[split]:,} {name}" for split, name in shown.items() if split in result.rows
        ),
        "unused": views.unused_columns(content),
        "cautions": [text for text in (views.beaten_by_table(result),) if text],
        "card": views.answer_view(result),
        "gains": views.gain_views(result),
        "leaderboard": [] if contest is None else contest.leaderboard,
        "how_fitted": "" if contest is None else views.how_fitted(result, contest),
        "loss_name": loss_name(result.task),
        "scored": contest is not None and any(line.score is not None for line in contest.leaderboard),
        "has_photos": bool(content.schema.names("image")),
        "shows_photos": contest is not None and any(line.photos for line in contest.leaderboard),
        "shows_text": contest is not None and any(line.text for line in contest.leaderboard),
        "calibration": calibration,
        "metrics": metrics,
        "labels": {name: metric_label(name) for name in metrics},
        "in_unit": f"{' and '.join(in_unit)} {'is' if len(in_unit) == 1 else 'are'} in the unit of" if in_unit else "",
        "has_nan": any(
            np.isnan(value) for part in result.parts for one in part.scores for value in one.metrics.values()
        ),
        "has_seconds": contest is None and any(one.seconds is not None for one in result.final.scores),
        "score_groups": [
            {"heading": views.part_heading(result, part), "scores": views.best_first(result, part.scores)}
            for part in result.parts
        ],
        "curves": views.curves(content),
        "history_columns": [views.history_heading(str(name)) for name in content.history.columns],
        "history_rows": views.history_rows(content.history),
        "predictions": views.predictions_view(content),
        "schema": schema_view(content.schema),
        "distributions": {one.column: views.distribution_view(one) for one in distributions},
        "samples": [] if content.data is None else [views.row_view(content, row) for row in content.data.samples],
        "worst": [views.row_view(content, row) for row in content.worst],
        "bad": bad_input_view(content.bad_inputs),
        "pictures": [] if content.watched is None else watched_pictures(content.watched),
        "explanation": None if content.explanation is None else explanation_view(content.explanation),
        "words": words_view(content.words, content.result.target, _scale(content)),
        "explained_with": _explained_with(content),
    }
    present = {
        "curves": bool(values["curves"]),
        "predictions": bool(values["predictions"]["rows"]),
        "calibration": calibration["probabilities"] is not None or bool(calibration["levels"]),
        "worst": bool(content.worst),
        "explanation": content.explanation is not None or bool(content.explanation_note),
        "words": bool(content.words),
        "doctor": content.diagnoses is not None,
        "bad-inputs": bool(content.bad_inputs),
    }
    values["present"] = {name: present.get(name, True) for name, _ in _SECTIONS}
    of_gains = [(gain["what"], gain["heading"]) for gain in values["gains"]]
    values["sections"] = [*of_gains, *(one for one in _SECTIONS if values["present"][one[0]])]
    return render("report.html.j2", values)


def _scale(content: ReportContent) -> Scale:
    """That of explanations."""
    if content.schema.task not in NUMBER_TASKS:
        return "probability"
    return "logarithm" if content.log_scale or content.schema.task == "count" else "number"


def _explained_with(content: ReportContent) -> str:
    """What the explanations of single rows have beside the contributions of columns."""
    sides = frozenset[str]() if content.explanation is None else content.explanation.sides
    contest = content.result.contest
    if contest is not None and not any(
        one.share and one.photos and "network" in one.model for one in contest.leaderboard
    ):
        sides -= {"photos"}  # other models have no heat maps
    kinds = {"text": "marked words of the texts", "photos": "heat maps of the photos"}
    found = [said for side, said in kinds.items() if side in sides]
    return f", with {' and '.join(found)}" if found else ""
