"""Predicted against true: a figure of numbers, or the confusion matrix of classes.

In: ``ReportContent``. Out: what ``predictions.html.j2`` lays out."""

from typing import Any

import numpy as np

from mixfit.runs.report import figures
from mixfit.runs.report.confusion import binned_shares, confusion_counts, known_rows, most_confused, row_shares
from mixfit.runs.report.content import ReportContent
from mixfit.runs.report.parts import split_name
from mixfit.runs.report.render import number, percent, plural, short

LARGEST_MATRIX = 20
"""Classes of a confusion matrix that is shown in full."""
SHOWN_PAIRS = 20
ERROR_SHARES = (0.5, 0.8, 0.9, 0.95, 1.0)
"""Shares of the rows for which the largest error is told."""
LARGEST_HEAT_MAP = 200


def predictions_view(content: ReportContent) -> dict[str, Any]:
    """Figure, sentences and tables of the predicted rows."""
    if len(content.truth) == 0:
        return {"rows": 0}
    return _number_predictions(content) if content.schema.task == "regression" else _class_predictions(content)


def _number_predictions(content: ReportContent) -> dict[str, Any]:
    """Predicted against true values, with how far off they are in words."""
    truth, prediction = content.truth.astype(np.float64), content.prediction.astype(np.float64)
    finite = np.isfinite(truth) & np.isfinite(prediction)
    part, total = split_name(content, content.predicted_split).lower(), len(truth)
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
    part, right = split_name(content, content.predicted_split).lower(), int((truth == prediction).sum())
    share = f" ({percent(right / len(truth))})" if len(truth) else ""
    view: dict[str, Any] = {
        "rows": total,
        "classes": names,
        "sentences": [f"{right:,} of {plural(len(truth), f'{part} row')}{share} are given the right class."],
    }
    if len(truth):
        often = int(np.bincount(truth, minlength=classes).argmax())
        count = int((truth == often).sum())
        view["sentences"].append(
            f"Naming the most frequent class, {short(names[often])}, every time would be right for {count:,} "
            f"({percent(count / len(truth))})."
        )
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
