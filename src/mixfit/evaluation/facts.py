"""What a model card tells of a finished training: data, scores with intervals, and groups that are predicted worse.

In: the data and our predictions of the rows that judge. Out: ``ModelFacts``, plain values."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64

from mixfit.choices import Role
from mixfit.data.columns.values import is_day_first, to_numbers, to_times
from mixfit.data.load import MixedData
from mixfit.ensemble.photo_rule import PhotoRule
from mixfit.evaluation.bootstrap import bootstrap_interval
from mixfit.evaluation.groups import (
    LEVEL,
    SMALL,
    Labels,
    groups_if_known,
    judge_for,
    label_rows,
    photo_labels,
    row_errors,
    weak_groups,
)
from mixfit.evaluation.scores import JudgedSplit, Rows, metrics_for
from mixfit.files import json_numbers
from mixfit.predictor.card import ColumnFacts, CoverageFacts, ModelFacts, ScoreFacts, WeakGroup
from mixfit.training.metrics import ACCURACY, evaluate
from mixfit.weighted import taken, weighted_mean

_ROLES: tuple[Role, ...] = ("number", "category", "date", "image", "group", "weight")


def model_facts(
    mixed: MixedData,
    truth: dict[JudgedSplit, np.ndarray],
    ours: dict[JudgedSplit, np.ndarray],
    *,
    out_of_fold: bool,
    coverage: tuple[CoverageFacts, ...] = (),
) -> ModelFacts:
    """Compute them.

    Args:
        mixed: its splits are those that ``truth`` and ``ours`` are of; a blend's training rows judge too, out of fold.
        truth, ours: true and predicted values of the validation and test rows.
        out_of_fold: whether the validation rows are those of all folds.
        coverage: of intervals, where the model knows some.
    """
    called: dict[JudgedSplit, str] = {"valid": "out of fold" if out_of_fold else "validation", "test": "test"}
    checked, weak, error = _weak(mixed, truth["valid"], ours["valid"])
    return ModelFacts(
        training_rows=len(mixed.split.train),
        test_rows=len(mixed.split.test),
        columns=tuple(_columns(mixed)),
        scores=tuple(
            score for split, name in called.items() for score in _scores(mixed, split, name, truth[split], ours[split])
        ),
        coverage=coverage,
        error=error,
        judged_rows=called["valid"],
        groups=checked,
        weak=tuple(weak),
    )


def facts_of_blend(
    mixed: MixedData,
    judged: dict[JudgedSplit, Rows],
    model: str,
    coverage: Sequence[CoverageFacts],
    photos: PhotoRule | None = None,
) -> ModelFacts:
    """``model_facts`` of one of the models that ``judged`` has predictions of, with how often its intervals hold.

    Args:
        coverage: by kind of row.
        photos: what the folds tell of them."""
    truth = {split: rows.truth for split, rows in judged.items()}
    ours = {split: rows.predictions[model] for split, rows in judged.items()}
    facts = model_facts(mixed, truth, ours, out_of_fold=True, coverage=tuple(coverage))
    return replace(facts, photos="" if photos is None else photos.why)


def rows_with_photo(mixed: MixedData, rows: Int64[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    """Whether each row has a photo that can be read."""
    if mixed.photos is None:
        return np.zeros(len(rows), dtype=bool)
    return np.asarray(mixed.photos.readable(mixed.photo_failures)[rows].any(axis=1))


def _columns(mixed: MixedData) -> list[ColumnFacts]:
    """Of the training rows, in the order of the table; counted, not weighted."""
    rows = mixed.frame.iloc[mixed.split.train]
    found = []
    for column in mixed.schema.columns:
        if column.role not in _ROLES:
            continue
        missing, seen = _seen(rows[column.name], column.role)
        found.append(ColumnFacts(name=column.name, role=column.role, missing=missing, seen=seen))
    return found


def _seen(cells: pd.Series, role: Role) -> tuple[float, str]:
    """Share of the cells without a usable value, and what the others are."""
    if role in ("number", "weight"):
        values = to_numbers(cells).values
        known = values[~np.isnan(values)]
        return float(np.isnan(values).mean()), f"{known.min():.6g} to {known.max():.6g}" if len(known) else ""
    if role == "date":
        times, _ = to_times(cells, day_first=is_day_first(cells))
        days = times[~np.isnat(times)].astype("datetime64[D]")
        return float(np.isnat(times).mean()), f"{days.min()} to {days.max()}" if len(days) else ""
    missing = float(cells.isna().mean())
    if role in ("category", "group"):
        count = cells.astype("str").nunique() if cells.dtype == object else cells.nunique()
        return missing, f"{count:,} value{'' if count == 1 else 's'}"
    return missing, ""


def _scores(mixed: MixedData, split: JudgedSplit, name: str, truth: np.ndarray, ours: np.ndarray) -> list[ScoreFacts]:
    """Every metric with its interval; none of a split without rows."""
    if not len(truth):
        return []
    metrics = metrics_for(mixed.schema.task, mixed.target)
    together = groups_if_known(mixed.frame.iloc[mixed.split.of(split)], mixed.schema)
    weight = mixed.weights(split)
    values = evaluate(metrics, truth, ours, weight)
    found = []
    for metric in metrics:
        low, high = bootstrap_interval(metric, truth, ours, groups=together, weight=weight)
        said = json_numbers({"value": values[metric.name], "low": low, "high": high})
        found.append(ScoreFacts(rows=name, count=len(truth), metric=metric.name, **said))
    return found


def _weak(mixed: MixedData, truth: np.ndarray, ours: np.ndarray) -> tuple[int, list[WeakGroup], str]:
    """How many groups were judged, those that are weak, the worst first, and by which error."""
    rows = mixed.split.valid
    frame = mixed.frame.iloc[rows]
    judge = judge_for(mixed.schema.task, mixed.target, truth)
    errors, weight = row_errors(judge, truth, ours), mixed.weights("valid")
    tables: dict[str, Labels] = {
        name: label_rows(frame[name], "category", mixed.schema.task) for name in mixed.schema.names("category")
    }
    if mixed.photos is not None:
        tables["photos"] = photo_labels(rows_with_photo(mixed, rows))
    # A column of one value has no rest that it could be worse than.
    tables = {name: labels for name, labels in tables.items() if len(labels.names) > 1}
    together = groups_if_known(frame, mixed.schema)
    checked, found = 0, []
    for name, labels in tables.items():
        checked += int((np.bincount(labels.of_row) >= SMALL).sum())
        for number in weak_groups(labels, errors, together=together, weight=weight, level=LEVEL / len(tables)):
            inside = labels.of_row == number
            found.append(
                WeakGroup(
                    column=name,
                    value=labels.names[number],
                    rows=int(inside.sum()),
                    error=weighted_mean(errors[inside], taken(weight, inside)),
                    rest=weighted_mean(errors[~inside], taken(weight, ~inside)),
                )
            )
    found.sort(key=lambda group: group.rest - group.error)
    return checked, found, "share of wrong classes" if judge is ACCURACY else judge.name
