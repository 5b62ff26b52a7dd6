"""Metrics by the values of a column, and groups with worse predictions than the other rows.

In: a column of some rows, their truth and a model's predictions. Out: one ``Group`` for each value, worst first.
A group is weak if its mean error is higher than that of all other rows by Welch's t-test for unequal variances
(Welch 1947), at a level divided by the number of groups (Bonferroni)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64

from mixfit.choices import NUMBER_TASKS, MetricName, Role, Task
from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.cells import Cells, Table
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.target import Target
from mixfit.data.columns.text import text_lengths
from mixfit.data.photos.find import find_photos
from mixfit.data.photos.records import Cache
from mixfit.data.photos.rule import PhotoRule
from mixfit.data.split import group_of_row
from mixfit.data.ties import Ties
from mixfit.errors import ConfigError, unknown_column
from mixfit.evaluation.bootstrap import rows_of_groups
from mixfit.evaluation.result import Rows, Score, headline_for, judge
from mixfit.training.metrics import (
    ACCURACY,
    LEAST_LIKELIHOOD,
    LOG_LOSS,
    MAE,
    MAPE,
    Metric,
    Weight,
    decided,
    metric_label,
    metric_text,
)
from mixfit.weighted import taken

SMALL = 20
"""Groups with fewer rows are marked as small and never called weak."""
MOST_GROUPS = 40
"""Largest number of groups; the rarest values are merged into one group."""
MISSING = "(missing)"
WITH_PHOTO, WITHOUT_PHOTO = "with a photo", "without a photo"
_BINS, _FEW_VALUES = 5, 10
LEVEL = 0.05
"""Probability of calling any group of a column weak if none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """The group of each row."""

    names: tuple[str, ...]
    of_row: Int64[np.ndarray, " rows"]
    """Index into ``names``; every row is in exactly one group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group of rows and its scores."""

    score: Score
    """Scores on these rows, under the common value."""
    rows: int
    small: bool
    """Whether it has fewer than ``SMALL`` rows: its scores are unreliable."""
    weak: bool
    """Whether its mean error is significantly higher than that of all other rows."""
    rest: float
    """The metric ``GroupTable.judge`` on all other rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTable:
    """All groups of a column."""

    column: str
    judge: Metric
    """The metric used for the order and for the test of weak groups."""
    groups: tuple[Group, ...]
    """The worst first; small ones at the end."""

    def lines(self) -> list[str]:
        """The table as plain text, with warnings."""
        names = list(self.groups[0].score.metrics) if self.groups else []
        others = [name for name in names if name != self.judge.name]
        widths = {name: max(len(metric_label(name)), 9) + 2 for name in others}
        found = [
            f" by {_shown(self.column)}, worst first by {metric_label(self.judge.name)}",
            f"   {'value':<28}{'rows':>7}{metric_label(self.judge.name):>13}   {'95 % CI':<22}"
            + "".join(f"{metric_label(name):>{widths[name]}}" for name in others),
        ]
        for group in self.groups:
            judged, (low, high) = group.score.metrics[self.judge.name], group.score.interval(self.judge.name)
            interval = "n/a" if np.isnan(low) else f"{metric_text(low)} to {metric_text(high)}"
            values = [f"{metric_text(group.score.metrics[name]):>{widths[name]}}" for name in others]
            mark = "   WEAK" if group.weak else "   small" if group.small else ""
            found.append(
                f"   {_shown(group.score.model):<28}{group.rows:>7}{metric_text(judged):>13}   "
                f"{interval:<22}" + "".join(values) + mark
            )
        weak, small = sum(group.weak for group in self.groups), sum(group.small for group in self.groups)
        if weak:
            are = "group is" if weak == 1 else "groups are"
            found.append(f" {weak} {are} predicted significantly worse than the other rows")
        if small:
            have = "group has" if small == 1 else "groups have"
            found.append(f" warning: {small} {have} fewer than {SMALL} rows: unreliable scores")
        return found

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without nan."""
        groups = [
            {"value": one.score.model, "rows": one.rows, "small": one.small, "weak": one.weak} | one.score.to_flat()
            for one in self.groups
        ]
        return {"judged_by": self.judge.name, "groups": groups}


def judge_for(task: Task, target: Target, truth: np.ndarray, chosen: MetricName = "auto") -> Metric:
    """The metric for comparing groups: a mean over rows, as close to the headline metric as possible."""
    headline = headline_for(task, target, chosen)
    if headline not in (ACCURACY, LOG_LOSS, MAE, MAPE):
        headline = {"binary": LOG_LOSS, "count": MAE, "ordered": ACCURACY}.get(task) or headline_for(task, target)
    return MAE if headline is MAPE and (truth == 0).any() else headline


def row_errors(judge: Metric, truth: np.ndarray, prediction: np.ndarray) -> Float[np.ndarray, " rows"]:
    """The error of each row, whose mean is the metric, or for accuracy 1 minus it.

    Raises:
        ConfigError: the metric is not a mean over rows.
    """
    if judge is ACCURACY:
        return (prediction.argmax(1) != truth).astype(np.float64)
    if judge is LOG_LOSS:
        return -np.log(prediction[np.arange(len(truth)), truth].astype(np.float64).clip(LEAST_LIKELIHOOD))
    if judge is MAE:
        return np.abs(prediction - truth)
    if judge is MAPE:
        return np.abs((prediction - truth) / truth)
    raise ConfigError(f"{judge.name} is not a mean over rows, so groups cannot be compared by it.")


def groups_if_known(table: pd.DataFrame | Table, schema: Schema) -> Int64[np.ndarray, " rows"] | None:
    """Group number of each row; None without a group column, which a table to score may lack."""
    names = schema.names("group")
    table = Table.of(table)
    return group_of_row(table, schema) if names and names[0] in table else None


def units_of(
    table: Table, schema: Schema, *, images: Path, cache: Cache | None = None
) -> Int64[np.ndarray, " rows"] | None:
    """Unit of each row, as in training: rows of a group, of a repeated id, and copies form one; None if no rows do.

    Args:
        table: the rows to score; it may lack the group column.
        images: folder that photo paths are relative to.
        cache: of what a scan found out about photos.
    """
    columns = [name for name in schema.names("image") if name in table]
    photos = find_photos(table.frame, columns, images, schema.photos) if columns else None
    unit = Ties(table, schema, photos, cache=cache).joined().unit
    known = any(name in table for name in schema.names("group"))
    return unit if known or len(np.unique(unit)) < len(unit) else None


def label_rows(column: pd.Series | Cells, role: Role, task: Task) -> Labels:
    """Groups of the rows by a column: its categories, fifths of its numbers or of the lengths of its texts, or the
    years of its dates.

    Missing cells, and cells that are not numbers or dates in such a column, are a group of their own; if a number
    column has few distinct values, each is a group.

    Args:
        column: of any type, one cell a row.
        role: role of the column.
        task: determines the type of a target.
    """
    column = Cells.of(column)
    if role == "date" or pd.api.types.is_datetime64_any_dtype(column.dtype):
        times = column.dates().times
        if column.clock:
            hours = pd.Series(times.astype("datetime64[h]").astype(np.int64) % 24).mask(np.isnat(times))
            return _by_value(hours.astype("Int64").astype("str").mask(np.isnat(times)), numeric=True)
        years = pd.Series(times.astype("datetime64[Y]").astype(np.int64) + 1970).mask(np.isnat(times))
        return _by_value(years.astype("Int64").astype("str").mask(np.isnat(times)), numeric=True)
    as_number = role == "number" or (role == "target" and task in NUMBER_TASKS)
    if as_number or (role in ("ignored", "group", "weight") and _looks_numeric(column)):
        return _by_number(column)
    if role == "text":
        unit, lengths = text_lengths(column)
        found = _by_number(Cells(pd.Series(lengths).astype(np.float64).mask(column.levels.codes < 0)))
        return replace(found, names=tuple(name if name == MISSING else f"{name} {unit}" for name in found.names))
    return _by_value(column.keys.reset_index(drop=True), numeric=False)


def label_column(
    table: pd.DataFrame | Table, column: str, schema: Schema, *, images: Path, bad: Sequence[BadInput] = ()
) -> Labels:
    """Groups of the rows by any column of their table, for an image column with and without a photo.

    Args:
        images: folder that photo paths are relative to.
        bad: records of these rows, see ``label_photos``.
    Raises:
        ConfigError: the column does not exist.
    """
    table = Table.of(table)
    if column not in table:
        raise unknown_column(column, table.names)
    role: Role = next((one.role for one in schema.columns if one.name == column), "ignored")
    if role == "image":
        return label_photos(table.frame, column, images, bad, schema.photos)
    return label_rows(table[column], role, schema.task)


def label_photos(
    frame: pd.DataFrame, column: str, images: Path, bad: Sequence[BadInput] = (), rules: Sequence[PhotoRule] = ()
) -> Labels:
    """Rows with and without a usable photo in an image column.

    Args:
        bad: records of the same rows; those of photos that could not be decoded count as no photo.
        rules: how cells name photos.
    """
    photos = find_photos(frame, [column], images, rules)
    there = (photos.slots >= 0).sum(1)
    refused = {(record.row, record.value) for record in photos.bad}
    for record in bad:
        undecodable = record.action == "photo treated as missing" and record.column == column
        if undecodable and (record.row, record.value) not in refused:
            there[record.row] -= 1
    return photo_labels(there > 0)


def photo_labels(seen: Bool[np.ndarray, " rows"]) -> Labels:
    """Rows with and without a photo; empty groups are left out."""
    codes, names = pd.factorize(np.where(seen, WITH_PHOTO, WITHOUT_PHOTO).astype(object), sort=True)
    return Labels(names=tuple(map(str, names)), of_row=codes.astype(np.int64))


def group_table(
    column: str,
    labels: Labels,
    truth: np.ndarray,
    prediction: np.ndarray,
    metrics: Sequence[Metric],
    by_error: Metric,
    *,
    together: Int64[np.ndarray, " rows"] | None = None,
    weight: Weight = None,
    classes: Int64[np.ndarray, " rows"] | None = None,
) -> GroupTable:
    """Metrics of every group.

    Args:
        column: name of the column, for messages.
        truth: ``(rows,)``; prediction: ``(rows,)`` or ``(rows, classes)``.
        by_error: the metric for order and test, see ``judge_for``.
        together: rows with the same number are dependent and form one unit.
        weight: of each row in the metrics; None for equal weights. Row counts are unweighted.
        classes: the predicted class of each row; by default the most probable one.
    """
    alone = np.arange(len(truth)) if together is None else together
    judged = prediction
    if classes is not None and by_error.decides:
        judged = decided(classes, prediction.shape[1])
    weak = weak_groups(labels, row_errors(by_error, truth, judged), together=together, weight=weight)
    found = []
    for number, name in enumerate(labels.names):
        rows, others = np.flatnonzero(labels.of_row == number), np.flatnonzero(labels.of_row != number)
        inside = Rows(
            "test",
            truth[rows],
            {name: prediction[rows]},
            groups=alone[rows],
            weight=taken(weight, rows),
            classes={} if classes is None else {name: classes[rows]},
        )
        found.append(
            Group(
                score=judge(inside, metrics).score(name),
                rows=len(rows),
                small=len(rows) < SMALL,
                weak=number in weak,
                rest=by_error.value(truth[others], judged[others], taken(weight, others)),
            )
        )
    sign = -1 if by_error.higher_is_better else 1
    found.sort(key=lambda group: (group.small, -sign * group.score.metrics[by_error.name]))
    return GroupTable(column=column, judge=by_error, groups=tuple(found))


def weak_groups(
    labels: Labels,
    errors: Float[np.ndarray, " rows"],
    *,
    together: Int64[np.ndarray, " rows"] | None = None,
    weight: Weight = None,
    level: float = LEVEL,
) -> list[int]:
    """Numbers of the groups, without small ones, whose mean error is significantly higher than that of all other rows.

    Args:
        errors: of each row, see ``row_errors``.
        together, weight: as for ``group_table``; a row of weight 2 is not as much evidence as two rows.
        level: probability of calling any group weak if none is.
    """
    alone = np.arange(len(errors)) if together is None else together
    counts = np.ones(len(errors)) if weight is None else weight.astype(np.float64)
    members = {number: labels.of_row == number for number in range(len(labels.names))}
    judged = {number: inside for number, inside in members.items() if inside.sum() >= SMALL}
    return [
        number
        for number, inside in judged.items()
        if _is_worse(errors, alone, counts, np.flatnonzero(inside), np.flatnonzero(~inside), level=level / len(judged))
    ]


def _looks_numeric(column: Cells) -> bool:
    """Whether nearly all cells are numbers, with too many distinct values for codes."""
    values = column.numbers.values
    known, there = values[~np.isnan(values)], int((column.levels.codes >= 0).sum())
    return there > 0 and len(known) >= 0.9 * there and len(np.unique(known)) > SMALL


def _by_number(column: Cells) -> Labels:
    """Fifths of the rows by value, or one group per value if there are few."""
    values = column.numbers.values
    known = np.isfinite(values)
    distinct = np.unique(values[known])
    if len(distinct) <= _FEW_VALUES:
        return _by_value(pd.Series([f"{value:.6g}" for value in values], dtype="str").mask(~known), numeric=True)
    edges = np.unique(np.quantile(values[known], np.arange(1, _BINS) / _BINS))
    bins = np.where(known, np.searchsorted(edges, values, side="left"), len(edges) + 1)
    codes, of_row = np.unique(bins, return_inverse=True)
    names = [
        MISSING if code > len(edges) else f"{values[bins == code].min():.6g} to {values[bins == code].max():.6g}"
        for code in codes
    ]
    return Labels(names=tuple(names), of_row=of_row.astype(np.int64))


def _by_value(keys: pd.Series, *, numeric: bool) -> Labels:
    """A group for each key; beyond ``MOST_GROUPS`` the rarest are merged."""
    counts = keys.value_counts()
    order = sorted(counts.index, key=float) if numeric else sorted(counts.index)
    if len(order) > MOST_GROUPS:
        kept = set(sorted(order, key=lambda name: -counts[name])[: MOST_GROUPS - 1])
        order = [name for name in order if name in kept]
    codes = pd.Index(order, dtype="str").get_indexer(keys).astype(np.int64)
    names = list(order)
    missing = keys.isna().to_numpy(dtype=bool)
    if (other := (codes < 0) & ~missing).any():
        codes[other] = len(names)
        names.append(f"({len(counts) - len(order)} other values)")
    if missing.any():
        codes[missing] = len(names)
        names.append(MISSING)
    return Labels(names=tuple(names), of_row=codes)


def _is_worse(
    errors: Float[np.ndarray, " rows"],
    together: Int64[np.ndarray, " rows"],
    counts: Float[np.ndarray, " rows"],
    rows: Int64[np.ndarray, " group"],
    others: Int64[np.ndarray, " others"],
    *,
    level: float,
) -> bool:
    """Whether the mean error of some rows is higher than that of the others, by a one-sided test at ``level``."""
    from scipy.stats import t as student

    (mean, variance, count), (rest, rest_variance, rest_count) = (
        _mean(errors[part], together[part], counts[part]) for part in (rows, others)
    )
    spread = variance + rest_variance
    # Means of equal errors differ only by rounding.
    if min(count, rest_count) < 2 or not mean - rest > 1e-12 * mean:
        return False
    if spread == 0:
        return True
    freedom = spread**2 / (variance**2 / (count - 1) + rest_variance**2 / (rest_count - 1))
    return bool(student.sf((mean - rest) / np.sqrt(spread), freedom) < level)


def _mean(
    errors: Float[np.ndarray, " rows"], together: Int64[np.ndarray, " rows"], counts: Float[np.ndarray, " rows"]
) -> tuple[float, float, int]:
    """Weighted mean over rows, its variance over independent units, and the number of units."""
    if not counts.any():
        return float("nan"), float("nan"), 0
    mean = float(np.average(errors, weights=counts))
    members, beyond = rows_of_groups(together), counts * (errors - mean)
    sums = beyond if members is None else np.array([beyond[rows].sum() for rows in members])
    count = len(sums)
    return mean, float((sums**2).sum() * count / max(count - 1, 1) / counts.sum() ** 2), count


def _shown(text: str) -> str:
    """A name without control characters, cut to the width of its column."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 27 else text[:26] + "…"
