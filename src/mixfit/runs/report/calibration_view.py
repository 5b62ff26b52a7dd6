"""Whether probabilities and intervals of a run mean what they say.

In: ``ReportContent``. Out: what ``calibration.html.j2`` lays out."""

from typing import Any

import numpy as np

from mixfit.ensemble.calibration import calibration_error, chance_range, judged_probability, reliability
from mixfit.runs.report import figures
from mixfit.runs.report.content import ReportContent
from mixfit.runs.report.parts import split_name
from mixfit.runs.report.render import number, percent, plural, short

_ALONE = 1.05
"""Classes in a set in the mean, below which it is as good as the predicted class alone."""


def calibration_view(content: ReportContent) -> dict[str, Any]:
    """Reliability of probabilities; of intervals how often they hold the truth."""
    return {
        "probabilities": _probabilities(content),
        "levels": content.levels,
        "coverage": _parts(content),
        "sentences": _interval_sentences(content),
    }


def _probabilities(content: ReportContent) -> dict[str, Any] | None:
    if content.probabilities is None or not len(content.truth):
        return None
    bins = reliability(
        *judged_probability(content.truth.astype(np.int64), content.probabilities), weight=content.weight
    )
    error = calibration_error(bins)
    what = f"class {short(content.classes[1])}" if len(content.classes) == 2 else "predicted class"
    part = split_name(content, content.predicted_split).lower()
    caption = (
        f"n = {len(content.truth):,} {part} rows; on the line, what is so probable comes true so often. The larger the "
        "dot, the more rows."
    )
    title = f"Reliability of the probability of the {what}. {caption}"
    return {
        "what": what,
        "error": error,
        "bins": bins,
        "caption": caption,
        "svg": figures.reliability_figure(
            "reliability-figure",
            title,
            np.array([one.predicted for one in bins]),
            np.array([one.observed for one in bins]),
            np.array([one.count for one in bins], dtype=np.float64),
        ),
        "sentence": (
            f"The probability of the {what} is off by {number(error)} in the mean over "
            f"{plural(len(content.truth), f'{part} row')} (expected calibration error; 0 is exact)."
        ),
    }


def _parts(content: ReportContent) -> list[dict[str, Any]]:
    """Coverage by kind of row, with what chance alone does to exact intervals of so many rows."""
    found = []
    for part in content.coverage:
        low, high = chance_range(part.count, content.coverage_level)
        found.append(
            {
                "rows": part.rows,
                "held": part.held,
                "chance": f"{100 * low:.0f} to {100 * high:.0f} %",
                "count": f"{part.inside:,} of {part.count:,}",
            }
        )
    return found


def _interval_sentences(content: ReportContent) -> list[str]:
    """How often what should hold the truth does, beside how often chance alone lets it be."""
    chosen = [one for one in content.levels if one.level == content.coverage_level]
    if not chosen:
        return []
    found = chosen[0]
    regression = content.schema.task == "regression"
    what = "intervals" if regression else "sets of classes"
    share = found.held
    error = np.sqrt(found.level * (1 - found.level) / found.count)
    if abs(share - found.level) <= 2 * error:
        verdict = "as they should, within the noise of so many rows"
    else:
        verdict = "less often than they should" if share < found.level else "more often than they need to"
    size = (
        f"half of them are at most {number(found.width)} wide"
        if regression
        else (f"they have {number(found.width)} classes in the mean")
    )
    if not regression and share > found.level and found.width < _ALONE:
        verdict += ", as a set has one class at least and that alone is right so often"
    by_weight = "" if found.share is None else " by weight"
    held = f"{found.inside:,} of {found.count:,} test rows ({percent(share)}{by_weight})"
    return [f"The {percent(found.level)} {what} hold the truth of {held}, {verdict}; {size}."]
