"""The first screen of a report: how good the model is, beside what it is compared with.

In: ``ReportContent``. Out: what ``result.html.j2`` lays out: values, and places on a scale from 0 to 100."""

from typing import Any

import numpy as np

from mixfit.runs.report.content import ReportContent, Score, SplitName
from mixfit.runs.report.gain import gain_sentence
from mixfit.runs.report.parts import scores_of, split_heading, split_name, value_of
from mixfit.runs.report.render import number, plural, short


def compared_scores(content: ReportContent) -> list[Score]:
    """The scores of the models that are compared, on the rows that judge, the best first."""
    splits: tuple[SplitName, ...] = (content.predicted_split, "test", "valid")
    split = next((one for one in splits if scores_of(content, one)), None)
    scores = [] if split is None else [one for one in scores_of(content, split) if one.kind != "candidate"]
    return best_first(content, scores)


def best_first(content: ReportContent, scores: list[Score]) -> list[Score]:
    """By the headline metric; those whose value is unknown come last."""
    sign = -1.0 if content.higher_is_better else 1.0
    return sorted(scores, key=lambda score: np.nan_to_num(sign * value_of(content, score), nan=np.inf))


def answer_card(content: ReportContent) -> dict[str, Any] | None:
    """The headline metric of the models that are compared; None where nothing was scored."""
    scores = compared_scores(content)
    if not scores:
        return None
    ends = [end for score in scores for end in (value_of(content, score), *_interval(content, score))]
    finite = [end for end in ends if np.isfinite(end)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    ours = [score for score in scores if score.kind == "ours"]
    return {
        "heading": split_heading(content, scores[0].split),
        "value": value_of(content, ours[0]) if ours else float("nan"),
        "interval": _interval(content, ours[0]) if ours else _UNKNOWN,
        "has_intervals": any(np.isfinite(_interval(content, score)[0]) for score in scores),
        "lines": [_line(content, score, low, high) for score in scores],
        "units": "groups" if "group" in {column.role for column in content.schema.columns} else "rows",
    }


_UNKNOWN = (float("nan"), float("nan"))


def _interval(content: ReportContent, score: Score) -> tuple[float, float]:
    return score.intervals.get(content.headline_metric, _UNKNOWN)


def _line(content: ReportContent, score: Score, low: float, high: float) -> dict[str, Any]:
    """One model: its value, its interval, and where they lie between the ends of the scale."""
    value, (left, right) = value_of(content, score), _interval(content, score)
    room = high - low

    def place(number_: float) -> float:
        return round(100 * (number_ - low) / room, 2) if room > 0 else 50.0

    drawn = np.isfinite(value)
    return {
        "model": score.model,
        "ours": score.kind == "ours",
        "value": value,
        "interval": (left, right) if np.isfinite(left) else None,
        "dot": place(value) if drawn else None,
        "left": place(left) if np.isfinite(left) else None,
        "width": round(place(right) - place(left), 2) if np.isfinite(left) and room > 0 else 0,
    }


def beaten_by_table(content: ReportContent) -> str:
    """The sentence that a model without photos is better than the delivered one; "" when none is, or none is known.

    Judged on the test rows, or on the validation rows when there is no test value.
    """
    sign = 1.0 if content.higher_is_better else -1.0
    splits: tuple[SplitName, ...] = ("test", "valid")
    for split in splits:
        known = [score for score in scores_of(content, split) if np.isfinite(value_of(content, score))]
        ours = [score for score in known if score.kind == "ours"]
        table = [score for score in known if score.kind == "table"]
        if not ours or not table:
            continue
        best = max(table, key=lambda score: sign * value_of(content, score))
        if sign * value_of(content, best) <= sign * value_of(content, ours[0]):
            return ""
        return (
            f"A model of the table alone does better on the {split_name(content, split).lower()} rows: "
            f"{short(best.model)} reaches {short(content.headline_metric)} {number(value_of(content, best))}, "
            f"{short(ours[0].model)} {number(value_of(content, ours[0]))}."
        )
    return ""


def photos_view(content: ReportContent) -> dict[str, Any] | None:
    """What the photos add: a sentence, and each part of the table; None where nothing was compared."""
    gain = content.photos
    if gain is None or not gain.differences:
        return None
    units = "groups" if gain.differences[0].groups is not None else "rows"
    part = split_name(content, gain.differences[0].split).lower()
    return {
        "sentence": gain_sentence(gain, short(content.headline_metric), part),
        "lines": [
            {
                "part": split_name(content, one.split),
                "count": plural(one.rows, "row")
                + (f" in {plural(one.groups, 'group')}" if one.groups is not None else ""),
                "with_photos": one.with_photos,
                "without": one.without,
                "gain": one.gain,
                "interval": one.interval,
            }
            for one in gain.differences
        ],
        "with_name": gain.with_name,
        "without_name": gain.without_name,
        "units": units,
        "by_rule": gain.rule is not None,
    }
