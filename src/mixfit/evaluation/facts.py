"""Facts for a model card: data, scores with intervals, and groups with worse predictions.

In: the data, the result, and our predictions of validation and test rows. Out: ``ModelFacts``, plain values."""

import numpy as np
from jaxtyping import Bool, Int64

from mixfit.data.columns.category import Category
from mixfit.data.columns.number import Number
from mixfit.data.load import MixedData
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
from mixfit.evaluation.result import JudgedSplit, Part, Result, Rows
from mixfit.files import json_numbers
from mixfit.predictor.card import ColumnFacts, ModelFacts, ScoreFacts, WeakGroup
from mixfit.training.metrics import ACCURACY
from mixfit.weighted import taken, weighted_mean


def model_facts(mixed: MixedData, result: Result, judged: Rows) -> ModelFacts:
    """Facts about the delivered model for its card.

    Args:
        mixed: with the split of the result.
        judged: the validation or out-of-fold rows.
    """
    called: dict[JudgedSplit, str] = {
        "valid": "validation" if result.contest is None else "out of fold",
        "test": "test",
    }
    checked, weak, error = _weak(mixed, judged, result.ours)
    contest = result.contest
    parts = sorted(result.parts, key=lambda part: list(called).index(part.split))
    return ModelFacts(
        training_rows=len(mixed.split.train),
        test_rows=len(mixed.split.test),
        columns=tuple(_columns(mixed)),
        scores=tuple(score for part in parts for score in _scores(part, result.ours, called[part.split])),
        coverage=tuple(one for one in contest.coverage if one.level == result.coverage_level) if contest else (),
        error=error,
        judged_rows=called["valid"],
        groups=checked,
        weak=tuple(weak),
        photos="" if contest is None or contest.photos is None else contest.photos.why,
        text="" if contest is None or contest.text is None else contest.text.why,
        decision=result.decision,
        refit=result.refit,
    )


def rows_with_photo(mixed: MixedData, rows: Int64[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    """Whether each row has a readable photo."""
    if mixed.photos is None:
        return np.zeros(len(rows), dtype=bool)
    return np.asarray(mixed.photos.readable(mixed.photo_failures)[rows].any(axis=1))


def _columns(mixed: MixedData) -> list[ColumnFacts]:
    """Columns of the training rows in the order of the table; unweighted counts."""
    rows, schema = mixed.table.select(mixed.split.train), mixed.schema
    told = {*schema.inputs, *schema.names("group"), *schema.names("weight")}
    kinds = {kind.role: kind for kind in schema.kinds}
    found = []
    for column in schema.columns:
        if column.name not in told:
            continue
        kind = kinds.get(column.role) or (Number() if column.role == "weight" else Category())
        missing, seen = kind.describe(rows[column.name])
        found.append(ColumnFacts(name=column.name, role=column.role, missing=missing, seen=seen))
    return found


def _scores(part: Part, ours: str, name: str) -> list[ScoreFacts]:
    """Every metric with its interval."""
    score, found = part.score(ours), []
    for metric, value in score.metrics.items():
        low, high = score.interval(metric)
        said = json_numbers({"value": value, "low": low, "high": high})
        found.append(ScoreFacts(rows=name, count=part.rows, metric=metric, **said))
    return found


def _weak(mixed: MixedData, judged: Rows, ours: str) -> tuple[int, list[WeakGroup], str]:
    """Number of tested groups, the weak ones, the worst first, and the error used."""
    rows = mixed.split.valid
    table = mixed.table.select(rows)
    judge = judge_for(mixed.schema.task, mixed.target, judged.truth, mixed.metric)
    errors, weight = row_errors(judge, judged.truth, judged.of(ours, judge)), mixed.weights("valid")
    tables: dict[str, Labels] = {
        name: label_rows(table[name], "category", mixed.schema.task) for name in mixed.schema.names("category")
    }
    if mixed.photos is not None:
        tables["photos"] = photo_labels(rows_with_photo(mixed, rows))
    # A column with one value has no other rows to compare with.
    tables = {name: labels for name, labels in tables.items() if len(labels.names) > 1}
    together = groups_if_known(table, mixed.schema)
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
