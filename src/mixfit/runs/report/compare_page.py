"""The page of ``mixfit compare``.

In: ``RunComparison``. Out: one HTML file without script or external reference.
Figures name the runs by letters, which every table explains."""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from mixfit.evaluation.bootstrap import FEWEST_UNITS
from mixfit.evaluation.result import Part, difference_sentence
from mixfit.files import json_numbers
from mixfit.runs.report.render import render, write_page
from mixfit.training.metrics import METRICS, metric_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_SECTIONS = [("metrics", "Metrics"), ("differences", "Differences"), ("settings", "Settings")]
_WORDS = {
    "better": "better",
    "worse": "worse",
    "within noise": "within noise",
    "equal": "exactly equal",
    "unknown": "cannot be computed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """Result of ``compare_runs``: everything that its page shows."""

    target: str
    headline: str
    """Name of the metric that the sentences compare."""
    scores: Part
    """Scores of all runs on their common test rows, and the differences to the first run."""
    test_rows: dict[str, int]
    """Number of test rows of each run."""
    settings: dict[str, tuple[str, ...]]
    """By name: the value in each run, "" if not set; only settings that differ."""
    warnings: tuple[str, ...]

    def sentences(self) -> list[str]:
        """The comparison by the headline metric, one sentence for each run but the first."""
        told = [one for one in self.scores.differences if one.metric == self.headline]
        return [difference_sentence(self.scores, one, one.model, one.against) for one in told]

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without nan."""
        scores = self.scores
        return {
            "target": self.target,
            "split": "test",
            "rows": scores.rows,
            "headline": self.headline,
            "runs": [
                {
                    "run": one.model,
                    "test_rows": self.test_rows[one.model],
                    **one.to_flat(),
                }
                for one in scores.scores
            ],
            "differences": [
                {
                    "run": one.model,
                    "against": one.against,
                    "metric": one.metric,
                    **json_numbers({"difference": one.value, "ci95_low": one.low, "ci95_high": one.high}),
                    "finding": one.finding,
                }
                for one in scores.differences
            ],
            "settings": self.settings,
            "verdict": self.sentences(),
            "warnings": list(self.warnings),
        }


def write_compare(content: RunComparison, path: Path) -> None:
    """Write the page of a comparison, replacing an older one.

    Raises:
        ResourceError: the file cannot be written.
    """
    write_page(compare_page(content), path)


def compare_page(content: RunComparison) -> str:
    """Lay out the comparison as one HTML page."""
    part, higher = content.scores, METRICS[content.headline].higher_is_better
    names = [score.model for score in part.scores]
    letters = dict(zip(names, _letters(len(names)), strict=True))
    metrics = list(part.scores[0].metrics)
    values: dict[str, Any] = {
        "content": content,
        "sentences": content.sentences(),
        "sections": _SECTIONS,
        "letters": letters,
        "first": names[0],
        "headline": metric_label(content.headline),
        "labels": {name: metric_label(name) for name in metrics},
        "direction": "higher is better" if higher else "lower is better",
        "best": {name: best for name in metrics if (best := _best(part, name)) is not None},
        "words": _WORDS,
        "fewest": FEWEST_UNITS,
        "grouped": [(name, [one for one in part.differences if one.model == name]) for name in names[1:]],
        "figure": _figure(content, letters),
    }
    return render("compare.html.j2", values)


def _letters(count: int) -> list[str]:
    """A, B, ... Z, A2, B2, ..."""
    alphabet = string.ascii_uppercase
    return [alphabet[i % 26] + (f"{i // 26 + 1}" if i >= 26 else "") for i in range(count)]


def _best(part: Part, metric: str) -> float | None:
    """The best value of a metric, shown in bold; None if all are equal."""
    known = [one.metrics[metric] for one in part.scores if np.isfinite(one.metrics[metric])]
    if len(set(known)) < 2:
        return None
    return max(known) if METRICS[metric].higher_is_better else min(known)


def _figure(content: RunComparison, letters: Mapping[str, str]) -> Markup | None:
    """The differences of the headline metric with their intervals; None if no difference can be computed."""
    from mixfit.runs.report.figures import ACCENT, MUTED, inline

    told = [one for one in content.scores.differences if one.metric == content.headline]
    shown, label = (
        [one for one in told if np.isfinite([one.value, one.low, one.high]).all()],
        metric_label(content.headline),
    )
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
        axes.set_yticks(range(len(shown)), [letters[one.model] for one in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel(f"{label} minus that of {first}")
        axes.grid(visible=False, axis="y")
        axes.tick_params(length=0)
        axes.locator_params(axis="x", nbins=6)
        return figure

    described = "; ".join(f"{letters[one.model]} {one.value:.3g} ({one.low:.3g} to {one.high:.3g})" for one in shown)
    return inline("differences-figure", f"Differences of {label} to {first}: {described}", draw)
