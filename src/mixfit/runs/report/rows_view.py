"""Rows of the table as cards, and columns with small pictures of their values.

In: ``ReportContent``. Out: what ``rows.html.j2`` and the table of columns lay out."""

from typing import Any

import numpy as np

from mixfit.runs.report.content import Distribution, ReportContent, ShownRow
from mixfit.runs.report.render import ends_text, number, percent, short

_BAR, _HEIGHT = 7, 30  # of a histogram, in units of its drawing


def row_view(content: ReportContent, row: ShownRow) -> dict[str, Any]:
    """One row with its photos, and what was predicted for it where that is known."""
    view: dict[str, Any] = {
        "row": row.row,
        "part": row.part,
        "cells": row.cells,
        "reasons": row.reasons,
        "more_photos": row.more_photos,
        "photos": [
            {
                "name": photo.name,
                "source": content.photo_files.get(photo.file, ""),
                "alt": f"Photo {place} of row {row.row}: {short(photo.name)}",
            }
            for place, photo in enumerate(row.photos, start=1)
        ],
        "facts": [],
    }
    places = [] if content.predicted_rows is None else np.flatnonzero(content.predicted_rows == row.row).tolist()
    if places:
        view["facts"] = prediction_facts(content, places[0])
    return view


def prediction_facts(content: ReportContent, place: int) -> list[tuple[str, str]]:
    """Truth and prediction of one row in words.

    Args:
        place: of the row among the predicted ones.
    """
    truth, prediction = content.truth[place], content.prediction[place]
    if content.schema.task == "regression":
        facts = [("Truth", number(float(truth))), ("Predicted", number(float(prediction)))]
        if content.interval is not None:
            low, high = (float(ends[place]) for ends in content.interval)
            facts.append((f"{percent(content.coverage_level)} interval", ends_text((low, high))))
        return facts
    said = []
    for name, index in (("Truth", int(truth)), ("Predicted", int(prediction))):
        given = "" if content.probabilities is None else probability(float(content.probabilities[place][index]))
        said.append((name, content.classes[index] + (f", given {given}" if given else "")))
    return said


def probability(share: float) -> str:
    """A probability in per cent, to a tenth where that matters.

    >>> probability(0.523), probability(0.0042), probability(0.00001), probability(0.9996)
    ('52 %', '0.4 %', '<0.1 %', '>99.9 %')
    """
    if share < 0.001:
        return "<0.1 %"
    if share > 0.999:
        return ">99.9 %"
    return f"{share:.1%}".replace("%", " %") if share < 0.01 or share > 0.99 else f"{share:.0%}".replace("%", " %")


def distribution_view(found: Distribution) -> dict[str, Any]:
    """A histogram as rectangles, or the most frequent levels with bars."""
    total = sum(found.counts) + found.others
    view: dict[str, Any] = {"kind": found.kind, "summary": found.summary}
    if found.kind in ("levels", "photos"):
        longest = max(found.counts, default=1)
        view["levels"] = [
            {"label": label, "count": count, "share": count / max(total, 1), "width": round(100 * count / longest, 1)}
            for label, count in zip(found.labels, found.counts, strict=True)
        ]
        view["others"] = found.others
        return view
    highest = max(found.counts, default=1)
    heights = [round(_HEIGHT * count / highest, 1) if count else 0.0 for count in found.counts]
    heights = [max(height, 0.8) if count else 0.0 for height, count in zip(heights, found.counts, strict=True)]
    view["bars"] = [
        {"x": place * _BAR, "y": round(_HEIGHT - height, 1), "height": height, "text": f"{label}: {count:,}"}
        for place, (height, label, count) in enumerate(zip(heights, found.labels, found.counts, strict=True))
    ]
    view["width"], view["height"], view["bar"] = max(1, len(heights)) * _BAR, _HEIGHT, _BAR - 1
    view["alt"] = f"{found.summary}; most rows lie in {found.labels[int(np.argmax(found.counts))]}" if heights else ""
    return view
