"""What the photos add: the difference of two models on the same rows, with an interval, and in plain words.

In: predictions with and without photos. Out: ``PhotoGain``, and its sentence."""

import numpy as np

from mixfit.ensemble.photo_rule import PhotoRule
from mixfit.evaluation.bootstrap import bootstrap_difference
from mixfit.evaluation.scores import Rows
from mixfit.runs.report.content import Difference, PhotoGain
from mixfit.runs.report.render import ends_text, number, plural
from mixfit.training.metrics import Metric


def photo_gain(
    judged: list[Rows],
    headline: Metric,
    with_name: str,
    without_name: str,
    *,
    same_kind: bool,
    used: bool,
    rule: PhotoRule | None = None,
) -> PhotoGain:
    """Compare two models on every part that has rows; arguments as the fields of ``PhotoGain``."""
    differences = []
    sign = 1.0 if headline.higher_is_better else -1.0
    for rows in judged:
        if not len(rows.truth):
            continue
        first, second = rows.predictions[with_name], rows.predictions[without_name]
        values = [headline.value(rows.truth, one, rows.weight) for one in (first, second)]
        ends = bootstrap_difference(headline, rows.truth, first, second, groups=rows.groups, weight=rows.weight)
        low, high = sorted(sign * end for end in ends)
        differences.append(
            Difference(
                split=rows.split,
                rows=len(rows.truth),
                groups=None if rows.groups is None else len(np.unique(rows.groups)),
                with_photos=values[0],
                without=values[1],
                gain=sign * (values[0] - values[1]),
                interval=(low, high),
            )
        )
    return PhotoGain(
        differences=differences,
        with_name=with_name,
        without_name=without_name,
        same_kind=same_kind,
        used=used,
        rule=rule,
    )


def gain_sentence(gain: PhotoGain, metric: str, part: str) -> str:
    """What was decided of the photos by the folds, and beside it what the first part of the table shows.

    That photos help is said by the rule alone: an interval of the test rows neither makes nor withdraws that claim.

    Args:
        part: what these rows are called: "test".
    """
    found = gain.differences[0]
    low, high = found.interval
    on = f"On the {plural(found.rows, f'{part} row')}"
    values = f"the difference is {number(found.gain)}, 95 % interval {ends_text(found.interval)}"
    difference = f"{values} (above 0 it is better with photos)"
    if not gain.same_kind:
        head = f"{on} {metric} is {number(found.with_photos)}, that of {gain.without_name} {number(found.without)}"
        tail = "That is another kind of model; --preset quick fits the same models with and without photos."
        return f"{head}: {difference}. {tail}"
    decided = "" if gain.rule is None else f"{gain.rule.why} "
    if np.isnan(found.gain):
        return f"{decided}{on} {metric} cannot be computed."
    values = f"{decided}{on} {metric} is {number(found.with_photos)} with photos and {number(found.without)} without"
    if np.isnan(low):
        return f"{values}; so few rows have no interval."
    claim = gain.rule is not None and gain.rule.claim
    if high < 0:
        tail = f" On these rows the photos {'make' if gain.used else 'would have made'} it worse."
    elif claim and low <= 0:
        tail = " These rows alone are within noise."
    elif gain.rule is not None and not claim and low > 0:
        tail = " These rows alone are beyond noise, but a claim is made by the out-of-fold rows only."
    else:
        tail = ""
    return f"{values}: {difference}.{tail}"
