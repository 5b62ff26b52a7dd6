"""The report of one training run.

In: ``ReportContent``. Out: one HTML file without script or reference to anything outside, the same bytes for the same
content. Shows only what the content holds: no date, path or name of its own."""

from pathlib import Path
from typing import Any

import numpy as np

from mixfit.runs.report.answer import answer_card, beaten_by_table, best_first, photos_view
from mixfit.runs.report.calibration_view import calibration_view
from mixfit.runs.report.content import ReportContent
from mixfit.runs.report.curves import curves, history_rows
from mixfit.runs.report.explanation_view import explanation_view
from mixfit.runs.report.parts import SPLIT_NAMES, scores_of, split_heading
from mixfit.runs.report.predictions_view import predictions_view
from mixfit.runs.report.render import bad_input_view, render, schema_view, write_page
from mixfit.runs.report.rows_view import distribution_view, row_view
from mixfit.runs.report.saved import read_content
from mixfit.runs.report.watched import watched_pictures

_SECTIONS = [
    ("result", "Result"),
    ("photos", "What the photos add"),
    ("leaderboard", "Leaderboard"),
    ("scores", "Scores"),
    ("data", "The data"),
    ("curves", "Learning curves"),
    ("predictions", "Predictions"),
    ("calibration", "How sure it is"),
    ("worst", "Worst rows"),
    ("explanation", "What moves the predictions"),
    ("doctor", "Findings of the doctor"),
    ("bad-inputs", "Missing or broken"),
    ("reproduce", "How to reproduce"),
]


def rewrite_report(folder: Path) -> Path:
    """Write ``report.html`` of a run folder from the files in it; gives its path.

    Raises:
        ConfigError: the folder is none of a finished run.
        DataError: a file of it is damaged.
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
    """Lay out the report as one HTML page."""
    shown = {"valid": "in folds", "test": "test"} if content.leaderboard else {n: n for n in ("train", "valid", "test")}
    counts = [f"{content.rows[split]:,} {name}" for split, name in shown.items() if split in content.rows]
    metric_names = list(dict.fromkeys(name for score in content.scores for name in score.metrics))
    photos, calibration = photos_view(content), calibration_view(content)
    present = {
        "photos": photos is not None,
        "leaderboard": bool(content.leaderboard),
        "calibration": calibration["probabilities"] is not None or bool(content.levels),
        "worst": bool(content.worst),
        "explanation": content.explanation is not None or bool(content.explanation_note),
    }
    distributions = [] if content.data is None else content.data.distributions
    values: dict[str, Any] = {
        "content": content,
        "sections": [one for one in _SECTIONS if present.get(one[0], True)],
        "task": "a number" if content.schema.task == "regression" else f"one of {len(content.classes):,} classes",
        "row_text": f"{' / '.join(counts)} rows" if counts else "",
        "direction": "higher is better" if content.higher_is_better else "lower is better",
        "cautions": [text for text in (beaten_by_table(content),) if text],
        "card": answer_card(content),
        "photos": photos,
        "calibration": calibration,
        "has_calibration": present["calibration"],
        "metric_names": metric_names,
        "has_nan": any(np.isnan(value) for score in content.scores for value in score.metrics.values()),
        "has_seconds": any(score.seconds is not None for score in content.scores),
        "has_intervals": any(score.intervals for score in content.scores),
        "score_groups": [
            {"heading": split_heading(content, split), "scores": best_first(content, scores_of(content, split))}
            for split in SPLIT_NAMES
            if scores_of(content, split) and content.rows.get(split) != 0
        ],
        "curves": curves(content),
        "history_columns": [str(name) for name in content.history.columns],
        "history_rows": history_rows(content.history),
        "predictions": predictions_view(content),
        "schema": schema_view(content.schema),
        "distributions": {one.column: distribution_view(one) for one in distributions},
        "samples": [] if content.data is None else [row_view(content, row) for row in content.data.samples],
        "worst": [row_view(content, row) for row in content.worst],
        "bad": bad_input_view(content.bad_inputs),
        "pictures": [] if content.watched is None else watched_pictures(content.watched),
        "explanation": None if content.explanation is None else explanation_view(content.explanation),
    }
    return render("report.html.j2", values)
