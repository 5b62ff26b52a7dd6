"""What a person should know of a table before trusting a model of it: odd values, rare classes, torn entities.

In: a table, its schema and the split. Out: ``Finding``, one sentence each, most with a row to look at.
Changes nothing and stops nothing; what would stop the training raises elsewhere."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from mixfit.data.facts import id_reason
from mixfit.data.schema import Schema
from mixfit.data.split import Split, groups_on_two_sides
from mixfit.data.values import plain_cells_problem, to_keys, to_numbers

RATIO = 10
"""A class this many times as frequent as another is worth a word."""
FEW_ROWS = 5
"""With fewer training rows a class is hardly learnt."""
GAP = 3.0
"""A value is suspicious when it lies further from all others than three times the range of those."""

_LEVEL_SHARE = 0.1  # ids that come back ten times each may be levels rather than things
_MOST_FAR = 0.05  # of the cells; more are no outliers
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence; a note is worth knowing, a warning may spoil the result, an error stands in the way of training."""

    level: Literal["note", "warning", "error"]
    text: str


def parts_of(split: Split, rows: int) -> Shaped[np.ndarray, " rows"]:
    """``train``, ``valid``, ``test`` or "" for each row."""
    parts = np.full(rows, "", dtype=object)
    for name in ("train", "valid", "test"):
        parts[split.of(name)] = name
    return parts


def class_balance(frame: pd.DataFrame, schema: Schema, parts: Shaped[np.ndarray, " rows"]) -> list[Finding]:
    """Classes that are much rarer than others, hardly there to learn, or never there to judge."""
    if schema.task == "regression":
        return []
    keys = to_keys(frame[schema.target])
    counts = keys.value_counts()
    findings = []
    if counts.iloc[0] >= RATIO * counts.iloc[-1]:
        findings.append(
            Finding(
                "warning",
                f"classes are unbalanced: {counts.index[0]!r} has {counts.iloc[0]:,} rows, {counts.index[-1]!r} "
                f"{counts.iloc[-1]:,} ({counts.iloc[0] / counts.iloc[-1]:.0f} to 1); judge by balanced accuracy",
            )
        )
    train = keys[parts == "train"].value_counts().reindex(counts.index, fill_value=0)
    few = train.index[train < FEW_ROWS]
    if len(few) and train.any():  # without a split there is nothing to count
        findings.append(
            Finding("warning", f"{len(few)} of {len(counts)} classes have under {FEW_ROWS} training rows: {_list(few)}")
        )
    for part in ("valid", "test"):
        absent = counts.index.difference(keys[parts == part].unique(), sort=False)
        if len(absent) and (parts == part).any():
            findings.append(
                Finding("note", f"{len(absent)} of {len(counts)} classes have no {part} row: {_list(absent)}")
            )
    return findings


def torn_ids(frame: pd.DataFrame, schema: Schema, parts: Shaped[np.ndarray, " rows"]) -> list[Finding]:
    """Ids in ignored columns that a drawn split has put on two sides; ``infer_schema`` looks at given splits."""
    if schema.names("split"):
        return []
    findings = []
    drawn = parts != ""
    for name in schema.names("ignored"):
        if not id_reason(name) or plain_cells_problem(frame[name]) is not None:
            continue
        keys = to_keys(frame[name])[drawn]
        torn = groups_on_two_sides(keys, parts[drawn])
        if not torn:
            continue
        text = (
            f"{name}: {len(torn):,} of {keys.nunique():,} ids are on two sides of the split, the first is {torn[0]!r}"
        )
        if keys.nunique() <= _LEVEL_SHARE * keys.count():
            findings.append(
                Finding("note", f"{text}; if they are one thing each, --set {name}=group keeps them together")
            )
        else:
            cure = f"--set {name}=group keeps each on one side"
            findings.append(Finding("warning", f"{text}, so the scores may look too good; {cure}"))
    return findings


def far_values(frame: pd.DataFrame, schema: Schema) -> list[Finding]:
    """Numbers far outside all others, such as -999 for "unknown" or a slip of the decimal point."""
    names = schema.names("number") + ([schema.target] if schema.task == "regression" else [])
    findings = []
    for name in names:
        values = to_numbers(frame[name]).values
        for side in (1.0, -1.0):
            far = _far_above(side * values)
            if far.any():
                count, rest = int(far.sum()), values[~far & np.isfinite(values)]
                row = int(np.flatnonzero(far)[0])
                shown = f"{count:,} values are" if count > 1 else "a value is"
                findings.append(
                    Finding(
                        "warning",
                        f"{name}: {shown} far outside the others ({rest.min():g} to {rest.max():g}), such as "
                        f"{values[row]:g} in row {frame.index[row]}: a slip, another unit, or a word for missing?",
                    )
                )
    return findings


def _far_above(values: Float[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    """Cells above a gap of three times the range of all that lie below it."""
    finite = np.sort(values[np.isfinite(values)])
    nothing = np.zeros(len(values), dtype=bool)
    if len(finite) < 20:
        return nothing
    start = int(np.ceil((1 - _MOST_FAR) * len(finite)))
    with np.errstate(over="ignore"):
        below, above = finite[start - 1 : -1], finite[start:]
        gaps = (above - below > GAP * (below - finite[0])) & (below > finite[0])
    if not gaps.any():
        return nothing
    return np.isfinite(values) & (values >= above[gaps.argmax()])


def _list(names: Iterable[str]) -> str:
    listed = [repr(name) for name in names]
    more = f" and {len(listed) - _EXAMPLES} more" if len(listed) > _EXAMPLES else ""
    return ", ".join(listed[:_EXAMPLES]) + more
