"""Whether the test score agrees with the out-of-fold or validation score, and if not, likely causes.

In: scores on out-of-fold (or validation) rows and on test rows. Out: a sentence, or "". It does not decide which score
is right: the test rows may differ, or the folds may share information."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from mixfit.data.columns.cells import Table
from mixfit.data.columns.facts import id_reason
from mixfit.data.columns.schema import Schema
from mixfit.data.load import MixedData
from mixfit.data.split import Times
from mixfit.ensemble.cross_fit import photo_means
from mixfit.errors import DataError
from mixfit.evaluation.result import Score
from mixfit.training.metrics import Metric, metric_label, metric_text

_NOISE = 2.576
"""Critical value of the two-sided 1 % test."""
_MOST_ROWS = 4_000
"""Largest number of rows of each part for the classifier that distinguishes the parts."""
_LEAST_AREA = 0.6
"""Smallest AUC for which a shift beyond noise is reported."""
_COMPONENTS, _COMMON = 10, 10
_EXAMPLES = 3


def departure(
    mixed: MixedData,
    promised: Score,
    test: Score,
    metric: Metric,
    *,
    where: str,
    counts: tuple[int, int],
    known: Sequence[str] = (),
    constant: Score | None = None,
) -> str:
    """A sentence if the test score differs from the estimate beyond noise; "" if not.

    Args:
        mixed: with the split of the scored rows.
        promised, test: scores of the delivered model, with an interval of the metric.
        metric: the headline metric.
        where: name of the estimate, "out-of-fold".
        counts: rows of the estimate and of the test, or groups where these are resampled.
        known: causes found earlier.
        constant: score of the best constant on the test rows: a model that is no better is not called good.
    """
    values = [score.metrics[metric.name] for score in (promised, test)]
    errors = [(high - low) / (2 * 1.96) for low, high in (one.interval(metric.name) for one in (promised, test))]
    # Resamples of rows that are all right do not differ: their error is that of the other score, on as many rows.
    more = np.sqrt(counts[0] / counts[1])
    errors = [errors[0] or errors[1] / more, errors[1] or errors[0] * more]
    beyond = abs(values[1] - values[0]) > _NOISE * np.hypot(errors[0], errors[1])
    if not beyond:  # also if one is unknown
        return ""
    better = (values[1] > values[0]) == metric.higher_is_better
    causes = [*known, *causes_of_departure(mixed, better=better)]
    because = f"Likely causes: {'; '.join(causes)}." if causes else _no_cause(mixed, better=better)
    nothing = float("nan") if constant is None else constant.metrics[metric.name]
    useless = values[1] <= nothing if metric.higher_is_better else values[1] >= nothing
    beside = f", but no better than that of a constant, {metric_text(nothing)}" if better and useless else ""
    found = f"{metric_label(metric.name)} of {metric_text(values[1])}"
    return (
        f"The test {found} is {'better' if better else 'worse'} than the {where} estimate of "
        f"{metric_text(values[0])}, beyond noise (two-sided 1 % test){beside}. {because}"
    )


def _no_cause(mixed: MixedData, *, better: bool) -> str:
    others = "No group, copy, time or shifted column explains it."
    relation = (
        "the target may depend on the columns in another way in the given test rows"
        if mixed.schema.names("split")
        else ""
    )
    if better:
        return f"{others} {relation[:1].upper()}{relation[1:]}." if relation else others
    groups = "there may be groups of related rows that no column identifies: add such a column, and --set COLUMN=group"
    said = f"{relation}, or {groups}" if relation else groups
    return f"{others} {said[:1].upper()}{said[1:]}."


def copied_test_rows(mixed: MixedData) -> int:
    """Number of test rows that are copies of other rows, or share a photo with them."""
    rest = np.unique(np.concatenate([mixed.split.train, mixed.split.valid]))
    rows = np.concatenate([rest, mixed.split.test])
    unit = mixed.ties.without(list(mixed.ties.groups)).joined(rows).unit
    return int(np.isin(unit[len(rest) :], unit[: len(rest)]).sum())


def causes_of_departure(mixed: MixedData, *, better: bool = False) -> list[str]:
    """Differences between the test rows and the others, and links between them: a short text each.

    Args:
        better: whether the test score is the better one.
    """
    test = mixed.split.test
    rest = np.unique(np.concatenate([mixed.split.train, mixed.split.valid]))
    goal = mixed.arrays.target.numpy().astype(np.float64)
    area = _area(goal[np.concatenate([rest, test])], np.arange(len(rest) + len(test)) >= len(rest))
    drift = mixed.target.classes is None and abs(area - 0.5) > _LEAST_AREA - 0.5 + 3 / np.sqrt(12 * len(test))
    return [
        *([f"the target itself is {'higher' if area > 0.5 else 'lower'} in the test rows"] if drift else []),
        *_shared_ids(mixed.table, mixed.schema, rest, test),
        *_shared_copies(mixed, test),
        *_later(mixed, rest, test, better=better),
        *_shifted(mixed, rest, test),
    ]


def _shared_ids(table: Table, schema: Schema, rest: np.ndarray, test: np.ndarray) -> list[str]:
    found = []
    for column in schema.columns:
        if column.role not in ("group", "ignored") or (column.role == "ignored" and not id_reason(column.name)):
            continue
        if column.name not in table or table[column.name].nested is not None:
            continue
        keys = table[column.name].keys
        shared = keys.iloc[test].dropna().isin(keys.iloc[rest])
        repeated = keys.iloc[rest].dropna().duplicated(keep=False)
        if column.role == "ignored" and repeated.any():
            found.append(
                f"values of {column.name!r} repeat in {repeated.sum():,} rows, and the folds do not keep them together"
            )
        if shared.any():
            found.append(
                f"{shared.sum():,} of {len(test):,} test rows share a value of {column.name!r} with other rows"
            )
    return found


def _shared_copies(mixed: MixedData, test: np.ndarray) -> list[str]:
    shared = copied_test_rows(mixed)
    return [f"{shared:,} of {len(test):,} test rows are copies of others, or share a photo"] if shared else []


def _later(mixed: MixedData, rest: np.ndarray, test: np.ndarray, *, better: bool) -> list[str]:
    """Split by time, and date columns by which nearly all test rows are later or earlier than the others."""
    found = []
    if mixed.split_time is not None and better:
        found.append("models of earlier folds were fitted on a shorter history than the model of the test rows")
    if mixed.split_time is not None:
        found.append(f"the rows are split by {mixed.split_time!r}, and the relation to the target may change over time")
    for name in mixed.schema.names("date") if mixed.split_time is None else ():
        cells = mixed.table[name].select(np.concatenate([rest, test]))
        try:
            value = Times.of(cells).value
        except DataError:  # a cell is empty
            continue
        inside = np.arange(len(cells)) >= len(rest)
        area = _area(value.astype(np.float64), inside)
        if abs(area - 0.5) > 0.4:
            found.append(
                f"the test rows are {'later' if area > 0.5 else 'earlier'} by {name!r}: try --split-time {name}"
            )
    return found


def _shifted(mixed: MixedData, rest: np.ndarray, test: np.ndarray) -> list[str]:
    """Covariate shift found by a small classifier over grouped folds, and the columns that shift most."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import GroupKFold, cross_val_predict

    rng = np.random.default_rng(0)
    rows = np.concatenate([np.sort(rng.permutation(part)[:_MOST_ROWS]) for part in (rest, test)])
    inside = np.isin(rows, test)
    unit = mixed.ties.joined(rows).unit
    names, values = _columns(mixed, rows)
    if min(inside.sum(), (~inside).sum()) < 20 or not values.shape[1] or unit.max() < 5:
        return []
    model = HistGradientBoostingClassifier(max_iter=30, max_leaf_nodes=8, early_stopping=False, random_state=0)
    found = cross_val_predict(model, values, inside, groups=unit, cv=GroupKFold(5), method="predict_proba")[:, 1]
    counts = [len(np.unique(unit[part])) for part in (inside, ~inside)]
    noise = np.sqrt((sum(counts) + 1) / (12 * counts[0] * counts[1]))
    area = _area(found, inside)
    if area < max(_LEAST_AREA, 0.5 + 3 * noise):
        return []
    each = [max(area_, 1 - area_) for area_ in (_area(column, inside) for column in values.T)]
    most = [names[place] for place in np.argsort(-np.array(each), kind="stable") if each[place] > 0.5 + 3 * noise]
    where = f", most by {', '.join(dict.fromkeys(most[: 2 * _EXAMPLES]))}" if most else ""
    return [f"covariate shift: a classifier distinguishes test rows from the others with an AUC of {area:.2f}{where}"]


def _columns(mixed: MixedData, rows: np.ndarray) -> tuple[list[str], Float[np.ndarray, "rows columns"]]:
    """The inputs of a model, each with the name of its column."""
    processor = mixed.preprocessor
    names = [repr(name) for name in (*processor.numeric_sources, *processor.categorical_names)]
    values = [mixed.arrays.numeric.numpy()[rows]]
    for (
        name
    ) in processor.categorical_names:  # recoded: a level missing from the training rows is not a shift of the test rows
        keys = mixed.table[name].keys.iloc[rows]
        common = keys.where(keys.groupby(keys).transform("size") >= _COMMON)
        values.append(pd.factorize(common, sort=True)[0].astype(np.float64)[:, None])
    photos = photo_means(mixed, rows)
    if photos.values is not None and photos.seen.sum() > _COMPONENTS:
        from sklearn.decomposition import PCA

        components = np.full((len(rows), _COMPONENTS), np.nan)
        seen = photos.values[photos.seen]
        components[photos.seen] = PCA(_COMPONENTS, svd_solver="randomized", random_state=0).fit_transform(seen)
        values.append(components)
        names += ["the photos"] * _COMPONENTS
    return names, np.concatenate(values, axis=1).astype(np.float64)


def _area(values: Float[np.ndarray, " rows"], inside: Bool[np.ndarray, " rows"]) -> float:
    """AUC: the probability that a row inside has a larger value than one outside; missing values are ignored."""
    known = ~np.isnan(values)
    ranks = pd.Series(values[known]).rank().to_numpy()
    count = int(inside[known].sum())
    others = int(known.sum()) - count
    if not count or not others:
        return 0.5
    return float((ranks[inside[known]].sum() - count * (count + 1) / 2) / (count * others))
