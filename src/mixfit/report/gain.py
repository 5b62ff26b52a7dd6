"""What the photos add: the difference of two models on the same rows, with an interval, and in plain words.

In: predictions with and without photos. Out: ``PhotoGain``, and its sentence."""

import numpy as np

from mixfit.evaluation.bootstrap import bootstrap_difference
from mixfit.evaluation.scores import Rows
from mixfit.report.content import Difference, PhotoGain
from mixfit.report.render import ends_text, number, plural
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
    interval = f"the difference is {number(found.gain)}, 95 % interval {ends_text(found.interval)} (above 0 they help)"
    if not gain.same_kind:
        head = (
            f"On {on} {metric} is {number(found.with_photos)}, that of {gain.without_name}, another kind of model, "
            f"{number(found.without)}"
        )
        tail = "What the photos alone add cannot be told from one network: --preset quick fits the same models without."
        return f"{head}: {interval}. {tail}"
    if np.isnan(found.gain):
        return f"{metric} cannot be computed on {on}, so it is not known what the photos add."
    if np.isnan(low):
        verdict = f"So few rows have no interval, so that it cannot be told on {on} whether the photos help"
        return f"{verdict}: {values}.{_why_used(gain)}"
    if low > 0:
        verdict = f"The photos {'help' if gain.used else 'would have helped'} on {on}"
    elif high < 0:
        verdict = f"The photos {'make' if gain.used else 'would have made'} it worse on {on}"
    else:
        verdict = f"The photos add nothing on {on} that can be told from noise"
    return f"{verdict}: {values}; {interval}.{_why_used(gain)}"


def _why_used(gain: PhotoGain) -> str:
    """What the choice between the two was made on, and how it came out."""
    fold = next((one for one in gain.differences[1:] if one.split == "valid"), None)
    if fold is None:
        return "" if gain.used else " The model uses the table alone."
    found = f"{number(fold.gain)}, 95 % interval {ends_text(fold.interval)}"
    use = "the model looks at photos" if gain.used else "the model uses the table alone"
    on = f"On the {plural(fold.rows, 'row')} of the folds"
    return f" {on} the difference is {found}; by their mean loss, no other rows, it was chosen that {use}."
