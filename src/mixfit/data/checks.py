"""What a person should know of a table before trusting a model of it: copies, odd values, rare classes.

In: a table, its schema, the split and the photos. Out: ``Finding``, one sentence each, most with a row to look at.
Changes nothing and stops nothing; what would stop the training raises elsewhere."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64, Shaped

from mixfit.data.duplicates import PhotoScan, near_duplicates
from mixfit.data.photo_cells import photo_name
from mixfit.data.photos import Photos
from mixfit.data.schema import Schema
from mixfit.data.split import Split
from mixfit.data.values import to_keys, to_numbers

RATIO = 10
"""A class this many times as frequent as another is worth a word."""
FEW_ROWS = 5
"""With fewer training rows a class is hardly learnt."""
GAP = 3.0
"""A value is suspicious when it lies further from all others than three times the range of those."""

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


def row_copies(frame: pd.DataFrame, schema: Schema, parts: Shaped[np.ndarray, " rows"]) -> list[Finding]:
    """Rows that are equal but for the split; where chance cannot explain it, but for ignored columns (ids) too."""
    compared = [column.name for column in schema.columns if column.role != "split"]
    groups = _equal_rows(frame[compared])
    but = ""
    if not len(groups):
        used = [column.name for column in schema.columns if column.role not in ("split", "ignored")]
        if len(used) < len(compared):
            groups = _equal_rows(frame[used])
        if len(groups):
            groups[~_no_chance(frame, schema)] = -1
            groups = groups if (groups >= 0).any() else groups[:0]
        but = " but for ignored columns"
    if not len(groups):
        return []
    copies = int((groups >= 0).sum()) - len(np.unique(groups[groups >= 0]))
    torn = _torn(groups, parts)
    first = np.flatnonzero(groups == groups[groups >= 0][0])[:2]
    what = f"{copies:,} rows are copies of earlier rows" if copies > 1 else "1 row is a copy of an earlier row"
    text = f"{what}{but}, the first is row {first[1]}, of row {first[0]}"
    return [_leak_or_note(text, torn, "of the copied rows are")]


def photo_copies(
    frame: pd.DataFrame, schema: Schema, photos: Photos, scan: PhotoScan, parts: Shaped[np.ndarray, " rows"]
) -> list[Finding]:
    """Photos that several rows share, byte for byte or nearly, within the split and across it."""
    findings = []
    rows, places = np.nonzero(photos.slots >= 0)
    files = photos.slots[rows, places]
    same = scan.content[files]
    same = np.where(same >= 0, same, len(scan.content) + files)
    users = pd.DataFrame({"photo": same, "row": rows}).drop_duplicates()
    users = users[users["photo"].duplicated(keep=False)]
    if len(users):
        codes = np.asarray(pd.factorize(users["photo"])[0], dtype=np.int64)
        shared_rows = users["row"].to_numpy()
        torn = _torn(codes, parts[shared_rows])
        count = int(codes.max()) + 1
        first = shared_rows[codes == 0][:2]
        mixed = _different_targets(frame, schema, codes, shared_rows)
        text = f"{_photos(count)} (equal bytes) by {len(np.unique(shared_rows)):,} rows, the first by rows {first[0]}"
        text += f" and {first[1]}" + (f"; {mixed} of these photos come with different targets" if mixed else "")
        findings.append(_leak_or_note(text, torn, "of these photos are"))
    pairs = near_duplicates(scan)
    first_row = np.full(len(photos.files), -1, dtype=np.int64)
    first_row[files[::-1]] = rows[::-1]
    pairs = pairs[(first_row[pairs] >= 0).all(axis=1) & (first_row[pairs[:, 0]] != first_row[pairs[:, 1]])]
    if len(pairs):
        sides = parts[first_row[pairs]]
        torn = int(((sides[:, 0] != sides[:, 1]) & (sides != "").all(axis=1)).sum())
        text = f"{len(pairs):,} pairs of photos look nearly the same: {_pair_examples(photos, first_row, pairs)}"
        findings.append(_leak_or_note(text, torn, "of these pairs are"))
    return findings


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
    if len(few):
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
                        f"{values[row]:g} in row {row}: a slip, another unit, or a word for missing?",
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


def _equal_rows(frame: pd.DataFrame) -> Int64[np.ndarray, " rows"]:
    """For each row the number of its group of equal rows, -1 where it is alone; empty if all are."""
    twice = frame.duplicated(keep=False).to_numpy()
    if not twice.any():
        return np.zeros(0, dtype=np.int64)
    codes = np.full(len(frame), -1, dtype=np.int64)
    codes[twice] = frame[twice].groupby(list(frame.columns), dropna=False, sort=False).ngroup().to_numpy()
    return codes


def _no_chance(frame: pd.DataFrame, schema: Schema) -> Bool[np.ndarray, " rows"]:
    """Rows that can hardly be equal to another by chance: they have a photo, or numbers seldom repeat."""
    if any(frame[name].nunique() > 0.5 * len(frame) for name in schema.names("number")):
        return np.ones(len(frame), dtype=bool)
    return frame[schema.names("image")].notna().any(axis=1).to_numpy(dtype=bool)


def _torn(codes: Int64[np.ndarray, " items"], parts: Shaped[np.ndarray, " items"]) -> int:
    """How many groups have members in more than one part; members in none do not count."""
    counted = (codes >= 0) & (parts != "")
    sides = pd.Series(parts[counted]).groupby(codes[counted]).nunique()
    return int((sides > 1).sum())


def _leak_or_note(text: str, torn: int, what: str) -> Finding:
    if not torn:
        return Finding("note", text)
    return Finding("warning", f"{text}; {torn:,} {what} on two sides of the split, so the scores will look too good")


def _photos(count: int) -> str:
    return f"{count:,} photos are used" if count > 1 else "1 photo is used"


def _pair_examples(photos: Photos, rows: Int64[np.ndarray, " photos"], pairs: Int64[np.ndarray, "pairs 2"]) -> str:
    names = [
        " and ".join(f"{photo_name(photos.files[file])} (row {rows[file]})" for file in pair)
        for pair in pairs[:_EXAMPLES].tolist()
    ]
    return "; ".join(names)


def _different_targets(
    frame: pd.DataFrame, schema: Schema, codes: Int64[np.ndarray, " users"], rows: Int64[np.ndarray, " users"]
) -> int:
    """Photos whose rows disagree about the target."""
    return int((to_keys(frame[schema.target]).iloc[rows].groupby(codes).nunique() > 1).sum())


def _list(names: Iterable[str]) -> str:
    listed = [repr(name) for name in names]
    more = f" and {len(listed) - _EXAMPLES} more" if len(listed) > _EXAMPLES else ""
    return ", ".join(listed[:_EXAMPLES]) + more
