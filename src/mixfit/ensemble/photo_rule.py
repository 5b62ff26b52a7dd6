"""The rule that decides whether photos, or texts, are used, and whether they are claimed to help.

In: the out-of-fold losses of two blends of the same models, without and with photos. Out: ``PhotoRule``, which
terminal, report and model card show."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64
from scipy.special import stdtr, stdtrit

LEVEL = 0.05
"""Level of the one-sided test: the rate of false claims that photos help."""
LEAST_GAIN = 0.08
"""Smallest relative reduction of the mean loss for a claim: 8 % of the squared error are 4 % of the RMSE.
On 200 to 600 rows, twice as much is detected with a power of 80 % (``benchmarks/study_photo_claims.py``)."""
_LEAST_USED = 0.005
"""Smallest relative reduction for using photos; less does not justify their cost."""
TEXT_READ_BESIDE_PHOTOS = "The delivered blend still uses the text, in models of table, text and photos."
"""For a blend with photos although the text alone did not improve on the table."""
_FEWEST_GROUPS = 10
"""Fewest groups for a test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoRule:
    """The decision about photos from out-of-fold losses. All gains are relative to the mean loss without photos."""

    claim: bool
    """Whether the photos help: the gain is significant and large enough."""
    use: bool
    """Whether the blend with photos is used. This needs less than a claim: a gain of .5 %, as the blend with the lower
    out-of-fold loss is expected to be the better one, however uncertain that is."""
    gain: float
    """Relative reduction of the mean loss with photos; negative if the loss rises."""
    error: float
    """Standard error of ``gain`` over groups, corrected for the overlap of the folds' training rows."""
    p_value: float
    """One-sided p-value of no gain; 1 if it cannot be computed."""
    least: float
    """Lower end of the one-sided 95 % interval of ``gain``; nan with too few groups."""
    rows: int
    """Number of out-of-fold rows."""
    groups: int
    """Number of groups of these rows; equal to ``rows`` without groups."""
    columns: bool
    """Whether the gain is relative to models of table columns; otherwise it is relative to a constant."""
    what: Literal["photos", "text"] = "photos"
    beside_text: bool = False
    """Whether the models that the gain is relative to see columns of text too."""
    table: bool = True
    """Whether there are table columns beside texts and photos."""

    @property
    def why(self) -> str:
        """The decision and its reason in one or two sentences."""
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
    what: Literal["photos", "text"] = "photos",
    beside_text: bool = False,
    table: bool = True,
) -> PhotoRule:
    """Decide by the losses of the same rows without photos, ``before``, and with photos, ``after``.

    The standard error of the mean difference is over groups. Models of different folds share most training rows, so
    their errors are correlated, and the variance is multiplied by 1 plus the sum over folds of the ratio of test rows
    to training rows: for k equal folds by 1 + k / (k - 1), as in Nadeau and Bengio (2003, Machine Learning 52,
    239-281), whose variance of a mean over k folds is 1 / k + test / training rows. NOTE[DIFF]: theirs is the variance
    between folds; ours is within folds over groups, of which there are many more than the 5 or 10 folds. The test
    uses Student's t.

    Args:
        before, after: out-of-fold squared errors or log losses; a row's group is never among the training rows.
        fold: number of the fold of each row, from 0.
        group: rows with the same number form one unit, such as copies; in one fold or in several.
        weight: of each row, at least 0; rows of weight 0 are ignored.
        fit_rows: number of training rows of each fold; by default all rows of other folds.
        columns: whether ``before`` comes from models of table columns, not from a constant.
        what, beside_text, table: as for ``PhotoRule``.
    Raises:
        ValueError: ``fit_rows`` has too few folds.
    """
    counts = np.ones(len(before)) if weight is None else np.asarray(weight, dtype=np.float64)
    kept = counts > 0
    before, after, fold, group, counts = (part[kept] for part in (before, after, fold, group, counts))
    _, number = np.unique(group, return_inverse=True)
    total, groups = float(counts.sum()), int(number.max(initial=-1)) + 1
    base = float((counts * before).sum()) / total if total else 0.0
    gain, error, p_value, least = 0.0, 0.0, 1.0, math.nan
    if base > 0:
        scaled = (before - after) / base
        gain = float((counts * scaled).sum()) / total
        residual = np.bincount(number, weights=counts * (scaled - gain))
        if groups > 1:
            error = (
                math.sqrt(float((residual**2).sum()) * groups / (groups - 1) * (1 + _overlap(fold, fit_rows))) / total
            )
            p_value, least = _test(gain, error, _independent(number, counts))
    return PhotoRule(
        claim=p_value <= LEVEL and gain >= LEAST_GAIN,
        use=not columns or gain >= _LEAST_USED,
        gain=gain,
        error=error,
        p_value=p_value,
        least=least,
        rows=len(before),
        groups=groups,
        columns=columns,
        what=what,
        beside_text=beside_text,
        table=table,
    )


def _overlap(fold: np.ndarray, fit_rows: np.ndarray | None) -> float:
    """Ratio of test rows to training rows, summed over folds."""
    judged = np.bincount(fold)
    fitted = len(fold) - judged if fit_rows is None else np.asarray(fit_rows)
    if len(fitted) < len(judged):
        raise ValueError(f"There are {len(judged)} folds, but fit_rows has {len(fitted)} numbers.")
    return float((judged / np.maximum(fitted[: len(judged)], 1)).sum())


def _independent(number: np.ndarray, counts: np.ndarray) -> float:
    """Effective number of groups (Kish 1965)."""
    each = np.bincount(number, weights=counts)
    return float(each.sum() ** 2 / (each**2).sum())


def _test(gain: float, error: float, groups: float) -> tuple[float, float]:
    """One-sided p-value of no gain, and lower end of the interval; 1 and nan for too few groups."""
    if groups < _FEWEST_GROUPS:
        return 1.0, math.nan
    least = gain - float(stdtrit(groups - 1, 1 - LEVEL)) * error
    if error == 0:  # all differences are equal
        return (0.0 if gain > 0 else 1.0), least
    return float(stdtr(groups - 1, -gain / error)), least


def _why(rule: PhotoRule) -> str:
    alone = rule.groups == rule.rows
    on = f"{rule.rows:,} rows" if alone else f"{rule.rows:,} rows in {rule.groups:,} groups"
    test = f"{on}; paired one-sided t-test, p {_p(rule.p_value)}"
    alike = "table and text" if rule.table else "the text"
    without = f"of {alike} alone" if rule.beside_text else f"without {rule.what}"
    than = f"the blend {without}" if rule.columns else "a constant"
    by = f"the out-of-fold loss by {100 * abs(rule.gain):.1f} % compared with {than}"
    needed = f"a claim needs at least {100 * LEAST_GAIN:.0f} % and p of at most {LEVEL}"
    apart = "The test rows played no part in that choice."
    several = rule.what == "photos"
    they, are, end = ("they", "are", "") if several else ("it", "is", "s")
    if rule.claim:
        return f"The {rule.what} help{end}: {they} lower{end} {by} ({test}; {needed}). {apart}"
    if math.isnan(rule.least):
        doubt = f"there are too few {'rows' if alone else 'groups'} for a test ({on})"
    elif rule.p_value > LEVEL:
        doubt = f"this is within noise ({test})"
    else:
        doubt = f"a claim needs at least {100 * LEAST_GAIN:.0f} % ({test})"
    claimed = f"{they} {are} not claimed to help"
    if rule.columns and rule.use:
        return f"The {rule.what} {are} used because {they} lowered {by}, but {doubt}, so {claimed}. {apart}"
    if abs(rule.gain) < _LEAST_USED:
        found = f"{they} hardly change{end} the out-of-fold loss compared with {than} ({on})"
    elif rule.gain < 0:
        found = f"{they} raise{end} {by} ({on})"
    else:
        found = f"{they} lower{end} {by}, but {doubt}"
    if rule.use:
        lead = f"The model uses only the {rule.what}, as there are no table columns"
        return f"{lead}: {found}. {claimed[0].upper()}{claimed[1:]}."
    return f"The {rule.what} {are} not used: {found}."


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}" if value < 0.1 else f"= {value:.2f}"
