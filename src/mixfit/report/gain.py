"""What the photos add: the difference of two models on the same rows, with an interval, and in plain words.

In: predictions with and without photos. Out: ``PhotoGain``, and its sentence."""

import numpy as np

from mixfit.evaluation.bootstrap import bootstrap_difference
from mixfit.evaluation.scores import Rows
from mixfit.report.content import Difference, PhotoGain
from mixfit.report.render import number, plural
from mixfit.training.metrics import Metric


def photo_gain(
    judged: list[Rows], headline: Metric, with_name: str, without_name: str, *, same_kind: bool, used: bool
) -> PhotoGain:
    """Compare two models on every part that has rows; arguments as the fields of ``PhotoGain``."""
    differences = []
    sign = 1.0 if headline.higher_is_better else -1.0
    for rows in judged:
        if not len(rows.truth):
            continue
        first, second = rows.predictions[with_name], rows.predictions[without_name]
        values = [headline.function(rows.truth, one) for one in (first, second)]
        ends = bootstrap_difference(headline, rows.truth, first, second, groups=rows.groups)
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
        differences=differences, with_name=with_name, without_name=without_name, same_kind=same_kind, used=used
    )


def gain_sentence(gain: PhotoGain, metric: str, part: str) -> str:
    """What the photos add on the rows that judge, in one or two sentences.

    Args:
        part: what these rows are called: "test".
    """
    found = gain.differences[0]
    low, high = found.interval
    on = f"the {plural(found.rows, f'{part} row')}"
    values = f"{metric} is {number(found.with_photos)} with them and {number(found.without)} without"
    interval = f"the difference lies between {number(low)} and {number(high)} (95 % interval; above 0 they help)"
    if not gain.same_kind:
        head = f"Against {gain.without_name}, which is another kind of model, on {on} {values}"
        tail = (
            "What the photos alone add cannot be told from one network: train with --preset quick, which also fits the"
        )
        return f"{head}: {interval}. {tail} same models without photos."
    if np.isnan(found.gain):
        return f"{metric} cannot be computed on {on}, so it is not known what the photos add."
    use = "" if gain.used else " The model therefore uses the table alone."
    if np.isnan(low):
        return f"On {on} {values}. So few rows have no interval, so nothing can be told from noise.{use}"
    if low > 0:
        verdict = f"The photos help on {on}"
        use = "" if gain.used else " Out of fold they did not, so the model uses the table alone."
    elif high < 0:
        verdict = f"The photos make it worse on {on}"
        use = " Out of fold they helped, so the model uses them." if gain.used else use
    else:
        verdict = f"The photos add nothing on {on} that can be told from noise"
        use = " Out of fold they helped, so the model uses them." if gain.used else use
    return f"{verdict}: {values}; {interval}.{use}"
