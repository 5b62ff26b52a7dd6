"""The page of ``mixfit compare``: several runs side by side.

In: ``CompareContent``. Out: one HTML file without script or reference to anything outside.
Figures name the runs by letters, which stand beside their names in every table."""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from mixfit.evaluation.bootstrap import FEWEST_UNITS, PairedScores
from mixfit.runs.report.render import render, write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_SECTIONS = [("result", "Result"), ("metrics", "Metrics"), ("differences", "Differences"), ("settings", "Settings")]
_WORDS = {
    "better": "better",
    "worse": "worse",
    "within noise": "within noise",
    "equal": "exactly equal",
    "unknown": "cannot be told",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareContent:
    """All that the page shows."""

    target: str
    scores: PairedScores
    sentences: list[str]
    """What came out, one for each run but the first."""
    settings: Mapping[str, tuple[str, ...]]
    """Settings that differ, with the value of each run; "" where it is not set."""
    warnings: tuple[str, ...]
    test_rows: Mapping[str, int]
    """How many rows each run held back."""


def write_compare(content: CompareContent, path: Path) -> None:
    """Write the page of a comparison, replacing an older one.

    Raises:
        ResourceError: the file cannot be written.
    """
    write_page(compare_page(content), path)


def compare_page(content: CompareContent) -> str:
    """Lay out the comparison as one HTML page."""
    scores = content.scores
    names = [standing.name for standing in scores.standings]
    letters = dict(zip(names, _letters(len(names)), strict=True))
    values: dict[str, Any] = {
        "content": content,
        "sections": _SECTIONS,
        "letters": letters,
        "first": names[0],
        "metric_names": [metric.name for metric in scores.metrics],
        "direction": "higher is better" if scores.headline.higher_is_better else "lower is better",
        "best": _best(scores),
        "words": _WORDS,
        "fewest": FEWEST_UNITS,
        "grouped": [(name, [one for one in scores.differences if one.name == name]) for name in names[1:]],
        "figure": _figure(scores, letters),
    }
    return render("compare.html.j2", values)


def _letters(count: int) -> list[str]:
    """A, B, ... Z, A2, B2, ..."""
    alphabet = string.ascii_uppercase
    return [alphabet[i % 26] + (f"{i // 26 + 1}" if i >= 26 else "") for i in range(count)]


def _best(scores: PairedScores) -> dict[str, float]:
    """By metric the best value, to stand out; none where all are equal."""
    found = {}
    for metric in scores.metrics:
        known = [one.metrics[metric.name] for one in scores.standings if np.isfinite(one.metrics[metric.name])]
        if len(set(known)) > 1:
            found[metric.name] = max(known) if metric.higher_is_better else min(known)
    return found


def _figure(scores: PairedScores, letters: Mapping[str, str]) -> Markup | None:
    """The differences of the headline metric with their intervals; None where none can be computed."""
    from mixfit.runs.report.figures import ACCENT, MUTED, inline

    shown = [one for one in scores.of_headline() if np.isfinite([one.value, one.low, one.high]).all()]
    if not shown:
        return None
    first = next(iter(letters.values()))

    def draw() -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.7, 0.9 + 0.42 * len(shown)))
        axes = figure.subplots()
        axes.axvline(0.0, color=MUTED, linewidth=1.0)
        for place, one in enumerate(shown):
            axes.plot([one.low, one.high], [place, place], color=ACCENT, linewidth=2.2, solid_capstyle="round")
            axes.plot(one.value, place, "o", color=ACCENT, markersize=7)
        axes.set_yticks(range(len(shown)), [letters[one.name] for one in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel(f"{scores.headline.name} minus that of {first}")
        axes.grid(visible=False, axis="y")
        axes.tick_params(length=0)
        axes.locator_params(axis="x", nbins=6)
        return figure

    described = "; ".join(f"{letters[one.name]} {one.value:.3g} ({one.low:.3g} to {one.high:.3g})" for one in shown)
    return inline("differences-figure", f"Differences of {scores.headline.name} to {first}: {described}", draw)
