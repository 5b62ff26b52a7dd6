"""The report of one training run.

In: ``ReportContent``. Out: one HTML file without script or reference to anything outside, the same bytes for the same
content. Shows only what the content holds: no date, path or name of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from markupsafe import Markup

from mixfit.report import figures
from mixfit.report.confusion import binned_shares, confusion_counts, known_rows, most_confused, row_shares
from mixfit.report.content import ReportContent, Score, SplitName
from mixfit.report.render import bad_input_view, number, percent, plain, plural, render, schema_view, short, write_page

LARGEST_MATRIX = 20
"""Classes of a confusion matrix that is shown in full."""
SHOWN_PAIRS = 20
ERROR_SHARES = (0.5, 0.8, 0.9, 0.95, 1.0)
"""Shares of the rows for which the largest error is told."""
SHOWN_EPOCHS = 500
LARGEST_HEAT_MAP = 200

_SECTIONS = [
    ("result", "Result"),
    ("leaderboard", "Leaderboard"),
    ("scores", "Scores"),
    ("curves", "Learning curves"),
    ("doctor", "Findings of the doctor"),
    ("predictions", "Predictions"),
    ("columns", "Columns"),
    ("bad-inputs", "Missing or broken"),
    ("reproduce", "How to reproduce"),
]
# The part that nothing was chosen on comes first.
_SPLIT_NAMES: dict[SplitName, str] = {"test": "Test", "valid": "Validation", "train": "Training"}


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
    absent = [*([] if content.leaderboard else ["leaderboard"]), *(["doctor"] if content.diagnoses is None else [])]
    values = {
        "content": content,
        "sections": [one for one in _SECTIONS if one[0] not in absent],
        "task": "a number" if content.schema.task == "regression" else f"one of {len(content.classes):,} classes",
        "row_text": f"{' / '.join(counts)} rows" if counts else "",
        "direction": "higher is better" if content.higher_is_better else "lower is better",
        "beaten": _beaten_by_table(content),
        "cards": [_card(content, split) for split in ("test", "valid") if _scores(content, split)],
        "metric_names": metric_names,
        "has_nan": any(np.isnan(value) for score in content.scores for value in score.metrics.values()),
        "has_seconds": any(score.seconds is not None for score in content.scores),
        "score_groups": [
            {"heading": _split_heading(content, split), "scores": _scores(content, split)}
            for split in _SPLIT_NAMES
            if _scores(content, split)
        ],
        "curves": _curves(content),
        "history_columns": [str(name) for name in content.history.columns],
        "history_rows": _history_rows(content.history),
        "predictions": _predictions(content),
        "schema": schema_view(content.schema),
        "bad": bad_input_view(content.bad_inputs),
    }
    return render("report.html.j2", values)


def _scores(content: ReportContent, split: SplitName) -> list[Score]:
    return [score for score in content.scores if score.split == split]


def _split_name(content: ReportContent, split: SplitName) -> str:
    """In a contest each validation row was predicted by models of folds that did not see it."""
    return "Out of fold" if split == "valid" and content.leaderboard else _SPLIT_NAMES[split]


def _split_heading(content: ReportContent, split: SplitName) -> str:
    rows = content.rows.get(split)
    return _split_name(content, split) + (f", {plural(rows, 'row')}" if rows is not None else "")


def _value(content: ReportContent, score: Score) -> float:
    return score.metrics.get(content.headline_metric, float("nan"))


def _card(content: ReportContent, split: SplitName) -> dict[str, Any]:
    """The headline metric of every model on one part; bars are as long as the values, the longest fills its place."""
    scores = _scores(content, split)
    if content.leaderboard:  # many models: the best first
        sign = -1.0 if content.higher_is_better else 1.0
        scores = sorted(scores, key=lambda score: np.nan_to_num(sign * _value(content, score), nan=np.inf))
    values = [_value(content, score) for score in scores]
    longest = max((value for value in values if np.isfinite(value)), default=0.0)
    ours = [value for score, value in zip(scores, values, strict=True) if score.kind == "ours"]
    return {
        "heading": _split_heading(content, split),
        "value": ours[0] if ours else float("nan"),
        "bars": [
            {
                "model": score.model,
                "ours": score.kind == "ours",
                "value": value,
                "width": round(100 * max(value, 0.0) / longest, 1) if longest > 0 and np.isfinite(value) else 0,
            }
            for score, value in zip(scores, values, strict=True)
        ],
    }


def _beaten_by_table(content: ReportContent) -> str:
    """The sentence that a model without photos is better than the delivered one; "" when none is, or none is known.

    Judged on the test rows, or on the validation rows when there is no test value.
    """
    sign = 1.0 if content.higher_is_better else -1.0
    splits: tuple[SplitName, ...] = ("test", "valid")
    for split in splits:
        known = [score for score in _scores(content, split) if np.isfinite(_value(content, score))]
        ours = [score for score in known if score.kind == "ours"]
        table = [score for score in known if score.kind == "table"]
        if not ours or not table:
            continue
        best = max(table, key=lambda score: sign * _value(content, score))
        if sign * _value(content, best) <= sign * _value(content, ours[0]):
            return ""
        return (
            f"The table alone does better on the {_split_name(content, split).lower()} rows: {short(best.model)} "
            f"reaches {content.headline_metric} {number(_value(content, best))}, {short(ours[0].model)} "
            f"{number(_value(content, ours[0]))}. On this evidence the photos add nothing."
        )
    return ""


def _numbers(history: pd.DataFrame, name: str) -> Float[np.ndarray, " epochs"]:
    return pd.to_numeric(history[name], errors="coerce").to_numpy(dtype=np.float64)


def _curves(content: ReportContent) -> list[dict[str, str | Markup]]:
    """Train and validation loss, and the headline metric where the history has it."""
    history, metric = content.history, content.headline_metric
    if history.empty:
        return []
    epochs = _numbers(history, "epoch") if "epoch" in history else np.arange(1.0, len(history) + 1)
    colours = {"train": figures.ACCENT, "valid": figures.SECOND}
    losses = [(part, colours[part], f"{part}_loss") for part in ("train", "valid")]
    metrics = [("train", figures.ACCENT, f"train_{metric}"), ("valid", figures.SECOND, f"valid_{metric}")]
    if f"valid_{metric}" not in history:
        metrics = [("valid", figures.SECOND, metric)]
    plans: list[tuple[str, str, list[tuple[str, str, str]], Callable[..., Any]]] = [
        ("curve-loss", "Loss", losses, np.nanargmin),
        ("curve-metric", metric, metrics, np.nanargmax if content.higher_is_better else np.nanargmin),
    ]
    curves: list[dict[str, str | Markup]] = []
    for name, heading, wanted, best_of in plans:
        lines = [(label, colour, _numbers(history, column)) for label, colour, column in wanted if column in history]
        if not lines or (name == "curve-metric" and metric in ("loss", "valid_loss")):
            continue
        judged = np.where(np.isfinite(lines[-1][2]), lines[-1][2], np.nan)
        mark, caption = None, "No finite value was recorded."
        if not np.isnan(judged).all():
            best = int(best_of(judged))
            mark = float(epochs[best])
            caption = (
                f"Best {'validation' if lines[-1][0] == 'valid' else 'training'} value {number(float(judged[best]))}, "
                f"in epoch {plain(mark)} of {plain(float(epochs[-1]))} (dotted)."
            )
        svg = figures.line_figure(name, f"{heading} by epoch. {caption}", epochs, lines, mark=mark)
        curves.append({"heading": heading, "svg": svg, "caption": caption})
    return curves


def _history_rows(history: pd.DataFrame) -> list[list[str]]:
    shown = history.head(SHOWN_EPOCHS)
    columns = [[plain(float(value)) for value in _numbers(shown, name)] for name in shown.columns]
    return [list(cells) for cells in zip(*columns, strict=True)]


def _predictions(content: ReportContent) -> dict[str, Any]:
    if len(content.truth) == 0:
        return {"rows": 0}
    return _number_predictions(content) if content.schema.task == "regression" else _class_predictions(content)


def _number_predictions(content: ReportContent) -> dict[str, Any]:
    """Predicted against true values, with how far off they are in words."""
    truth, prediction = content.truth.astype(np.float64), content.prediction.astype(np.float64)
    finite = np.isfinite(truth) & np.isfinite(prediction)
    part, total = _split_name(content, content.predicted_split).lower(), len(truth)
    view: dict[str, Any] = {"kind": "numbers", "rows": total, "sentences": [], "svg": None, "caption": ""}
    if not finite.all():
        view["sentences"].append(f"{plural(int((~finite).sum()), 'row')} without a finite value are not shown.")
    truth, prediction = truth[finite], prediction[finite]
    if len(truth) == 0:
        return view
    distances = np.quantile(np.abs(truth - prediction), ERROR_SHARES)
    view["sentences"].append(
        f"Half of the {len(truth):,} {part} predictions are within {number(float(distances[0]))} of the truth."
    )
    view["errors"] = list(zip((percent(share) for share in ERROR_SHARES), map(float, distances), strict=True))
    drawn = (truth > 0) & (prediction > 0) if content.log_scale else np.ones(len(truth), dtype=bool)
    if not drawn.any():
        return view
    look = "darker where rows are many" if drawn.sum() > figures.MOST_DOTS else "one dot per row"
    view["caption"] = f"n = {int(drawn.sum()):,} {part} rows, {look}; on the line a prediction is exact."
    if not drawn.all():
        view["caption"] += f" {plural(int((~drawn).sum()), 'row')} at or below 0 have no place on logarithmic axes."
    title = f"Predicted against true values. {view['caption']}"
    view["svg"] = figures.scatter_figure(
        "predictions-figure", title, truth[drawn], prediction[drawn], log_scale=content.log_scale
    )
    return view


def _class_predictions(content: ReportContent) -> dict[str, Any]:
    """The confusion matrix, or the worst pairs and a picture when there are more than ``LARGEST_MATRIX`` classes."""
    classes, names, total = len(content.classes), content.classes, len(content.truth)
    truth, prediction = known_rows(content.truth, content.prediction, classes)
    part, right = _split_name(content, content.predicted_split).lower(), int((truth == prediction).sum())
    share = f" ({percent(right / len(truth))})" if len(truth) else ""
    view: dict[str, Any] = {
        "rows": total,
        "classes": names,
        "sentences": [f"{right:,} of {plural(len(truth), f'{part} row')}{share} are given the right class."],
    }
    if len(truth) < total:
        view["sentences"].append(
            f"{plural(total - len(truth), 'row')} of a class that the model does not know are not shown."
        )
    if classes <= LARGEST_MATRIX:
        counts = confusion_counts(truth, prediction, classes)
        return view | {"kind": "matrix", "matrix": _matrix(names, counts)}
    pairs = most_confused(truth, prediction, classes=classes, limit=SHOWN_PAIRS)
    caption = (
        f"n = {len(truth):,} {part} rows, {classes:,} classes in the order of their names; each row of the picture is "
        "one true class and adds up to 100 %. On the diagonal the prediction is right."
    )
    title = f"Confusion matrix of {classes} classes. {caption}"
    heat = binned_shares(truth, prediction, classes=classes, limit=LARGEST_HEAT_MAP)
    return view | {
        "kind": "pairs",
        "pairs": [(names[pair.truth], names[pair.prediction], pair.count, pair.share) for pair in pairs],
        "svg": figures.heat_figure("predictions-figure", title, heat),
        "caption": caption,
    }


def _matrix(names: tuple[str, ...], counts: np.ndarray) -> list[dict[str, Any]]:
    shares = row_shares(counts)
    return [
        {
            "name": name,
            "total": int(counts[i].sum()),
            "cells": [
                {"count": int(counts[i, j]), "share": float(shares[i, j]), "right": i == j} for j in range(len(names))
            ],
        }
        for i, name in enumerate(names)
    ]
