"""Whether photos are used, and whether it may be said that they help: the one rule for both.

In: the out-of-fold losses of two blends of the same models, without and with photos. Out: ``PhotoRule``, which
terminal, report and model card read, and its sentence. Knows nothing of models, tables or metrics."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from scipy.special import stdtr, stdtrit

LEVEL = 0.05
"""Of the one-sided test: how often chance alone may look as if photos helped."""
LEAST_GAIN = 0.08
"""Share of the mean loss that photos must save to be said to help: 8 % of the squared error are 4 % of the RMSE.
On 200 to 600 rows twice as much is told from noise four times out of five (``benchmarks/study_photo_claims.py``)."""
_LEAST_USED = 0.001
"""Less than this is shown as 0.0 %, and is not worth the photos of every row to be predicted."""
_FEWEST_GROUPS = 10
"""Fewer tell nothing of their own spread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoRule:
    """What out-of-fold losses tell of photos. All gains are relative to the mean loss without photos."""

    claim: bool
    """The photos help: more than chance explains, and enough to be worth having."""
    use: bool
    """The blend with photos predicts. Milder than a claim: more than one standard error over rows is enough."""
    gain: float
    """Share of the mean loss that is saved with photos; below 0 they cost."""
    error: float
    """Standard error of ``gain`` over groups, corrected for the overlap of the rows that the folds were fitted on."""
    p_value: float
    """One-sided, that photos do not help; 1 where it cannot be told."""
    least: float
    """Lower end of the one-sided 95 % interval of ``gain``; nan where so few groups have none."""
    rows: int
    """Rows that were judged out of fold."""
    groups: int
    """Groups that these rows form: as many as rows where each counts for itself."""
    columns: bool
    """Whether there are table columns, which the gain is relative to; otherwise it is relative to a constant."""

    @property
    def why(self) -> str:
        """The decision and what it stands on, in one or two sentences."""
        return _why(self)


def judge_photos(
    before: Float[np.ndarray, " rows"],
    after: Float[np.ndarray, " rows"],
    fold: Int64[np.ndarray, " rows"],
    group: Int64[np.ndarray, " rows"],
    *,
    weight: np.ndarray | None = None,
    fit_rows: Int64[np.ndarray, " folds"] | None = None,
    columns: bool = True,
) -> PhotoRule:
    """Decide by the losses of the same rows without photos, ``before``, and with them, ``after``.

    The mean difference has a standard error over groups. Errors of folds whose models were fitted on nearly the same
    rows are alike, so the variance is multiplied by 1 plus the sum over folds of judged rows to rows fitted on: in
    k equal folds by 1 + k / (k - 1), as in Nadeau and Bengio (2003, Machine Learning 52, 239-281), whose variance of a
    mean over k folds, 1 / k + judged / fitted rows, it is. NOTE[DIFF]: theirs varies between folds; ours within, over
    groups, of which there are many more than the 5 or 10 folds. Compared with Student's t.

    Args:
        before, after: squared errors or log-losses, each of a model that did not see the row or another of its group.
        fold: number of the fold in which each row was judged, counted from 0.
        group: rows with the same number count as one, as copies of each other do; in one fold or in several.
        weight: how much each row counts, at least 0; rows of weight 0 do not.
        fit_rows: how many rows the models of each fold were fitted on; by default all rows of other folds.
        columns: whether ``before`` comes from models of table columns, and not from a constant.
    Raises:
        ValueError: ``fit_rows`` lacks a fold.
    """
    counts = np.ones(len(before)) if weight is None else np.asarray(weight, dtype=np.float64)
    kept = counts > 0
    before, after, fold, group, counts = (part[kept] for part in (before, after, fold, group, counts))
    _, number = np.unique(group, return_inverse=True)
    total, groups = float(counts.sum()), int(number.max(initial=-1)) + 1
    base = float((counts * before).sum()) / total if total else 0.0
    gain, plain, error, p_value, least = 0.0, math.inf, 0.0, 1.0, math.nan
    if base > 0:
        scaled = (before - after) / base
        gain = float((counts * scaled).sum()) / total
        residual = np.bincount(number, weights=counts * (scaled - gain))
        if groups > 1:
            plain = math.sqrt(float((residual**2).sum()) * groups / (groups - 1)) / total
            error = plain * math.sqrt(1 + _overlap(fold, fit_rows))
            p_value, least = _test(gain, error, _independent(number, counts))
    return PhotoRule(
        claim=p_value <= LEVEL and gain >= LEAST_GAIN,
        use=not columns or (gain > plain and gain >= _LEAST_USED),
        gain=gain,
        error=error,
        p_value=p_value,
        least=least,
        rows=len(before),
        groups=groups,
        columns=columns,
    )


def _overlap(fold: np.ndarray, fit_rows: np.ndarray | None) -> float:
    """Judged rows over rows fitted on, summed over folds."""
    judged = np.bincount(fold)
    fitted = len(fold) - judged if fit_rows is None else np.asarray(fit_rows)
    if len(fitted) < len(judged):
        raise ValueError(f"There are {len(judged)} folds, but fit_rows has {len(fitted)} numbers.")
    return float((judged / np.maximum(fitted[: len(judged)], 1)).sum())


def _independent(number: np.ndarray, counts: np.ndarray) -> float:
    """How many groups of equal weight tell as much as these (Kish 1965)."""
    each = np.bincount(number, weights=counts)
    return float(each.sum() ** 2 / (each**2).sum())


def _test(gain: float, error: float, groups: float) -> tuple[float, float]:
    """One-sided p-value of no gain, and lower end of the interval; 1 and nan for too few groups."""
    if groups < _FEWEST_GROUPS:
        return 1.0, math.nan
    least = gain - float(stdtrit(groups - 1, 1 - LEVEL)) * error
    if error == 0:  # not even rounding differs
        return (0.0 if gain > 0 else 1.0), least
    return float(stdtr(groups - 1, -gain / error)), least


def _why(rule: PhotoRule) -> str:
    alone = rule.groups == rule.rows
    on = f"{rule.rows:,} rows" if alone else f"{rule.rows:,} rows in {rule.groups:,} groups"
    test = f"{on}; one-sided {100 * LEVEL:.0f} % test, p {_p(rule.p_value)}"
    than = "the table columns used" if rule.columns else "a constant"
    by = f"the out-of-fold loss by {100 * abs(rule.gain):.1f} % relative to {than}"
    needed = f"a claim needs at least {100 * LEAST_GAIN:.0f} %"
    apart = "The test rows played no part in that choice."
    if rule.claim:
        return f"The photos help: they lower {by} ({test}; {needed}). {apart}"
    if math.isnan(rule.least):
        doubt = f"so few {'rows' if alone else 'groups'} cannot be told from noise ({on})"
    elif rule.p_value > LEVEL:
        doubt = f"that is within noise ({test})"
    else:
        doubt = f"{needed} ({test})"
    if rule.columns and rule.use:
        return f"The photos are used because they lowered {by}, but {doubt}: no claim that they help. {apart}"
    if abs(rule.gain) < _LEAST_USED:
        found = f"they hardly change the out-of-fold loss relative to {than} ({on})"
    elif rule.gain < 0:
        found = f"they raise {by} ({on})"
    else:
        found = f"they lower {by}, but {doubt}"
    if rule.use:
        return f"There are no table columns, so the photos alone predict: {found}. No claim that they help."
    return f"The photos are not used: {found}."


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}" if value < 0.1 else f"= {value:.2f}"
