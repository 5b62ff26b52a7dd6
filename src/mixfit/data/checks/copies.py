"""Rows and photos that are in a table more than once: what to say of them, and which to leave out of training.

In: a table, its schema, the split and the photos. Out: ``Finding``, or a split whose training rows are no copies of
rows that judge. Rows of a few categories may be equal by chance: a copy is only what chance can hardly explain."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64, Shaped

from mixfit.choices import NUMBER_TASKS, Role
from mixfit.data.bad_inputs import BadInput
from mixfit.data.checks.photos import NearPhotos, equal_files
from mixfit.data.checks.table import Finding, parts_of
from mixfit.data.columns.cells import Cells, Table
from mixfit.data.columns.schema import Schema
from mixfit.data.fingerprint import row_prints
from mixfit.data.photos.cells import photo_name
from mixfit.data.photos.find import Photos
from mixfit.data.split import Split
from mixfit.errors import DataError

COPY_LEFT_OUT = "copy left out of training"
"""The action in the record of a row that ``without_copies`` leaves out."""

_NOT_CELLS: tuple[Role, ...] = ("split", "ignored", "group", "weight")
_EXAMPLES = 3
_SEVERAL = 20  # different numbers; fewer may be levels
_MANY = 50  # different numbers, that rows have together by no chance
_SPREADS = 4  # standard deviations, beyond which there is no chance


def row_copies(table: pd.DataFrame | Table, schema: Schema, parts: Shaped[np.ndarray, " rows"]) -> list[Finding]:
    """Rows that are equal but for the split, rows that are equal but for ignored columns (ids) too, and rows that are
    equal but for the target: the folds keep all of them together."""
    table = Table.of(table)
    exact, certain = _equal_cells(table, schema, _NOT_CELLS[:1]), _no_chance(table, schema, _NOT_CELLS)
    loose = equal_rows(table, schema)
    findings = _copies(table, np.where(certain, exact, -1), parts, "")
    if (by_chance := (exact >= 0) & ~certain).any():
        equal = int(by_chance.sum()) - len(np.unique(exact[by_chance]))
        text = f"{equal:,} rows equal an earlier row; with so few different cells that may be chance"
        findings.append(Finding("note", text))
    # Groups of rows that are all equal with their ids have been told above.
    versions = pd.Series(np.where(exact >= 0, exact, -1 - np.arange(len(table)))).groupby(loose).nunique()
    alike = equal_features(table, schema)
    same = pd.Series(np.where(loose >= 0, loose, -1 - np.arange(len(table)))).groupby(alike).nunique()
    alike[np.isin(alike, same.index[same.to_numpy() < 2])] = -1
    loose[np.isin(loose, versions.index[versions.to_numpy() < 2])] = -1
    findings += _copies(table, loose, parts, " but for ignored columns")
    return findings + _copies(table, alike, parts, " in all columns but the target")


def equal_photos(
    table: pd.DataFrame | Table,
    schema: Schema,
    photos: Photos,
    content: Int64[np.ndarray, " files"],
    parts: Shaped[np.ndarray, " rows"],
) -> list[Finding]:
    """Photos that several rows share, byte for byte, within the split and across it.

    Args:
        content: of ``equal_files``.
    """
    table = Table.of(table)
    users = _shared(photos, content)
    if not len(users):
        return []
    codes, rows = users["photo"].to_numpy(), users["row"].to_numpy()
    torn = _torn(codes, rows, parts)
    count, first = int(codes.max()) + 1, rows[codes == 0][:2]
    mixed = int(_comes_with_different_targets(table, schema, users).sum())
    named = table.index[first]
    text = f"{_photos(count)} (equal bytes) by {len(np.unique(rows)):,} rows, the first by rows {named[0]}"
    text += f" and {named[1]}" + (f"; {mixed} of these photos come with different targets" if mixed else "")
    return [_leak_or_note(text, torn, "of these photos are", table, parts)]


def near_photos(
    table: pd.DataFrame | Table, photos: Photos, near: NearPhotos, parts: Shaped[np.ndarray, " rows"]
) -> list[Finding]:
    """Pairs of photos in two rows that look nearly the same, within the split and across it; what was not looked at.

    Args:
        near: of ``near_duplicates``.
    """
    table = Table.of(table)
    pairs, unseen = near
    findings = [Finding("warning", text) for text in unseen]
    rows, places = np.nonzero(photos.slots >= 0)
    first_row = np.full(len(photos.files), -1, dtype=np.int64)
    first_row[photos.slots[rows, places][::-1]] = rows[::-1]
    pairs = pairs[(first_row[pairs] >= 0).all(axis=1) & (first_row[pairs[:, 0]] != first_row[pairs[:, 1]])]
    if len(pairs):
        sides = parts[first_row[pairs]]
        torn = first_row[pairs[(sides[:, 0] != sides[:, 1]) & (sides != "").all(axis=1)]]
        text = f"{len(pairs):,} pairs of photos look nearly the same: {_pair_examples(table, photos, first_row, pairs)}"
        findings.append(_leak_or_note(text, torn, "of these pairs are", table, parts))
    return findings


def without_copies(
    table: pd.DataFrame | Table, schema: Schema, split: Split, photos: Photos | None
) -> tuple[Split, list[BadInput]]:
    """Leave training rows out that are copies of validation or test rows, and validation rows that are copies of test
    rows, as the folds of a preset fit on both; one record for each.

    A row is a copy when it equals such a row but for ids, or when it shares a photo (equal bytes) with one and every
    row with that photo has the same target: a picture that stands for "no photo" is no copy.

    Raises:
        DataError: no training row is left, or of some validation rows none.
    """
    table = Table.of(table)
    parts = parts_of(split, len(table))
    items = [(equal_rows(table, schema), np.arange(len(table)), "equals")]
    if photos is not None:
        users = _shared(photos, equal_files(photos.files))
        users = users[~_comes_with_different_targets(table, schema, users)[users["photo"].to_numpy()]]
        items.append((users["photo"].to_numpy(), users["row"].to_numpy(), "has a photo of"))
    reasons: dict[int, str] = {}
    for codes, rows, what in items:
        for row, other in _held_back_twin(codes, rows, parts).items():
            reasons.setdefault(row, f"{what} row {table.index[other]}, which is in {parts[other]}")
    kept = {name: rows[~np.isin(rows, list(reasons))] for name, rows in split.parts().items()}
    for name, called, judging in (("train", "training", "validation or test"), ("valid", "validation", "test")):
        if len(split.parts()[name]) and not len(kept[name]):
            raise DataError(
                f"All {len(split.parts()[name])} {called} rows are copies of {judging} rows: leave --dedup out, or "
                "split the rows another way."
            )
    records = [
        BadInput(row=row, column="", value="", problem=reasons[row], action=COPY_LEFT_OUT) for row in sorted(reasons)
    ]
    return Split(**kept), records


def _held_back_twin(
    codes: Int64[np.ndarray, " items"], rows: Int64[np.ndarray, " items"], parts: Shaped[np.ndarray, " rows"]
) -> Mapping[int, int]:
    """For each training row whose group has a validation or test row, and each validation row whose group has a test
    row, the first such row; code -1 is no group."""
    sides, grouped = parts[rows], codes >= 0
    found: dict[int, int] = {}
    for side, judging in (("train", ["valid", "test"]), ("valid", ["test"])):
        held = grouped & np.isin(sides, judging)
        first = pd.Series(rows[held]).groupby(codes[held]).min()
        copies = grouped & (sides == side) & np.isin(codes, first.index)
        found |= dict(zip(rows[copies].tolist(), first.loc[codes[copies]].tolist(), strict=True))
    return found


def _copies(
    table: Table, groups: Int64[np.ndarray, " rows"], parts: Shaped[np.ndarray, " rows"], but: str
) -> list[Finding]:
    if not (groups >= 0).any():
        return []
    copies = int((groups >= 0).sum()) - len(np.unique(groups[groups >= 0]))
    first = table.index[groups == groups[groups >= 0][0]][:2]
    what = f"{copies:,} rows are copies of earlier rows" if copies > 1 else "1 row is a copy of an earlier row"
    text = f"{what}{but}, the first is row {first[1]}, of row {first[0]}"
    torn = _torn(groups, np.arange(len(groups)), parts)
    return [_leak_or_note(text, torn, "of the copied rows are", table, parts)]


def equal_rows(table: pd.DataFrame | Table, schema: Schema) -> Int64[np.ndarray, " rows"]:
    """For each row the number of its group of rows that are equal but for ids, -1 where there is none.

    Rows that may be equal by chance count as different."""
    table = Table.of(table)
    return np.where(_no_chance(table, schema, _NOT_CELLS), _equal_cells(table, schema, _NOT_CELLS), -1)


def equal_features(table: pd.DataFrame | Table, schema: Schema) -> Int64[np.ndarray, " rows"]:
    """The same for rows that are equal in all that a model sees of them, whatever their target is."""
    table, passed_over = Table.of(table), (*_NOT_CELLS, "target")
    return np.where(_no_chance(table, schema, passed_over), _equal_cells(table, schema, passed_over), -1)


def _equal_cells(table: Table, schema: Schema, passed_over: Sequence[Role]) -> Int64[np.ndarray, " rows"]:
    """For each row the number of its group of equal rows, -1 where it is alone; columns of some roles do not count."""
    names = [c.name for c in schema.columns if c.role not in passed_over and c.name in table]
    codes, rows = np.full(len(table), -1, dtype=np.int64), np.arange(len(table) if names else 0)
    groups = np.zeros(len(rows), dtype=np.int64)
    for name in names:  # of each only the rows that are equal so far: mostly none after a few columns
        cells = pd.factorize(_hashable(table[name], rows))[0]
        _, groups = np.unique(groups * (len(rows) + 1) + cells, return_inverse=True)
        several = np.bincount(groups)[groups] > 1
        rows, groups = rows[several], groups[several]
        if not len(rows):
            return codes
    codes[rows] = pd.factorize(groups)[0]
    return codes


def _hashable(cells: Cells, rows: Int64[np.ndarray, " some"]) -> pd.Series:
    """Some cells: lists and the like as text, plain cells and bytes as they are."""
    column = cells.column.iloc[rows]
    return column if cells.nested in (None, "bytes") else column.map(repr)


def _no_chance(table: Table, schema: Schema, passed_over: Sequence[Role]) -> Bool[np.ndarray, " rows"]:
    """Rows that can hardly be equal to another by chance: they have a photo, or numbers seldom repeat.

    In a table of many copies numbers repeat too, but then they repeat together: as many as there are different rows."""
    most = _most_numbers(table, schema, passed_over)
    codes = _equal_cells(table, schema, passed_over)
    different = int((codes < 0).sum()) + len(np.unique(codes[codes >= 0]))
    if most > 0.5 * len(table) or most > max(0.9 * different, _SEVERAL):
        return np.ones(len(table), dtype=bool)
    there = [table[name].column.notna().to_numpy(dtype=bool) for name in schema.names("image")]
    return np.any(there, axis=0) if there else np.zeros(len(table), dtype=bool)


def _most_numbers(table: Table, schema: Schema, passed_over: Sequence[Role]) -> int:
    """How many different numbers a column has at most."""
    numbers = schema.names("number")
    numbers += [schema.target] if schema.task in NUMBER_TASKS and "target" not in passed_over else []
    return max((len(np.unique(table[name].numbers.values)) for name in numbers), default=0)


def rows_of_training(table: Table, schema: Schema, trained: Int64[np.ndarray, " trained"]) -> Bool[np.ndarray, " rows"]:
    """Which rows of a later table are training rows; none where as many could be equal to some by chance.

    A new row equals one of the training by chance about as often as training rows equal each other (Good and Turing).

    Args:
        table: as ``schema.table`` reads it.
        trained: of ``row_prints``, of the training rows.
    """
    prints = row_prints(table, schema)
    found = np.isin(prints, trained)
    if not found.any():
        return found
    counts = np.unique(trained, return_counts=True)[1]
    chance = 1 - int((counts == 1).sum()) / (len(trained) + 1)
    spread = np.sqrt(len(found) * chance * (1 - chance))
    different = len(np.unique(prints))
    sure = _most_numbers(table, schema, ()) > max(0.9 * different, _MANY)
    if sure or found.sum() > len(found) * chance + _SPREADS * spread:
        return found
    return np.zeros(len(found), dtype=bool)


def _shared(photos: Photos, content: Int64[np.ndarray, " files"]) -> pd.DataFrame:
    """Photos in more than one row: columns ``photo``, numbered from 0 by first use, and ``row``."""
    rows, places = np.nonzero(photos.slots >= 0)
    users = pd.DataFrame({"photo": content[photos.slots[rows, places]], "row": rows}).drop_duplicates()
    users = users[users["photo"].duplicated(keep=False)]
    return users.assign(photo=np.asarray(pd.factorize(users["photo"])[0], dtype=np.int64))


def _comes_with_different_targets(table: Table, schema: Schema, users: pd.DataFrame) -> Bool[np.ndarray, " photos"]:
    """Whether the rows of each shared photo disagree about the target."""
    codes = pd.Series(table[schema.target].levels.codes[users["row"]])
    return (codes.where(codes >= 0).groupby(users["photo"].to_numpy()).nunique() > 1).to_numpy(dtype=bool)


def _torn(
    codes: Int64[np.ndarray, " items"], rows: Int64[np.ndarray, " items"], parts: Shaped[np.ndarray, " rows"]
) -> Int64[np.ndarray, "torn 2"]:
    """Of each group that has members in more than one part, two rows on two sides; members in none do not count."""
    members = pd.DataFrame({"code": codes, "row": rows, "part": parts[rows]})
    members = members[(codes >= 0) & (members["part"] != "").to_numpy()]
    one_each = members.drop_duplicates(["code", "part"])
    one_each = one_each[one_each["code"].duplicated(keep=False)]
    places = one_each.groupby("code", sort=False).cumcount()
    return np.asarray(one_each[places < 2]["row"].to_numpy()[_in_pairs(one_each[places < 2]["code"])], dtype=np.int64)


def _in_pairs(codes: pd.Series) -> Int64[np.ndarray, "pairs 2"]:
    """Places of the two members of each code, codes in the order of their first members."""
    return np.asarray(pd.factorize(codes)[0].argsort(kind="stable").reshape(-1, 2), dtype=np.int64)


def _leak_or_note(
    text: str, torn: Int64[np.ndarray, "torn 2"], what: str, table: Table, parts: Shaped[np.ndarray, " rows"]
) -> Finding:
    if not len(torn):
        return Finding("note", text)
    pairs = list(dict.fromkeys(map(tuple, torn.tolist())))  # the same two rows may share several photos
    named = [" and ".join(f"{table.index[row]} ({parts[row]})" for row in pair) for pair in pairs[:_EXAMPLES]]
    more = f" and {len(pairs) - _EXAMPLES:,} more" if len(pairs) > _EXAMPLES else ""
    leak = f"{len(torn):,} {what} on two sides of the split, so the scores will look too good"
    return Finding("warning", f"{text}; {leak}: rows {'; '.join(named)}{more}")


def _photos(count: int) -> str:
    return f"{count:,} photos are used" if count > 1 else "1 photo is used"


def _pair_examples(
    table: Table, photos: Photos, rows: Int64[np.ndarray, " photos"], pairs: Int64[np.ndarray, "pairs 2"]
) -> str:
    names = [
        " and ".join(f"{photo_name(photos.files[file])} (row {table.index[rows[file]]})" for file in pair)
        for pair in pairs[:_EXAMPLES].tolist()
    ]
    return "; ".join(names)
