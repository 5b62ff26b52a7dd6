"""Which rows belong together: by a group column or a repeated id, or because one is a copy of the other.

In: a table, its schema and its photos. Out: ``Ties``, from which any part of the rows gets its units: rows
of one unit are fitted on together or judged together, never one by the other. Splits nothing itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64

from mixfit.data.checks.copies import equal_features, equal_rows
from mixfit.data.checks.photos import PhotoScan, near_duplicates, scan_photos
from mixfit.data.columns.cells import Table
from mixfit.data.columns.schema import Schema
from mixfit.data.photos.cells import photo_name
from mixfit.data.photos.find import Photos
from mixfit.data.photos.records import Cache
from mixfit.data.split import connected, strata_of_rows

COPIES_TIE_NONE = "would join more than"
"""Words of the note on copies that join nothing."""
LARGEST_CHAIN = 0.2
"""Share of the rows that copies may join, where no number of folds says another."""
_FEW_ROWS, _AS_DIFFERENT = 5, 0.75
"""A photo of more rows ties none if their targets spread by more than this share of the spread of all."""
_EXAMPLES = 3


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """Some rows, and the unit that each belongs to."""

    unit: Int64[np.ndarray, " rows"]
    """Numbered from 0; a row that nothing ties to another is a unit of its own."""
    notes: tuple[str, ...] = ()
    """What was not looked at, and copies that tie nothing as they would tie too many rows: one sentence each."""

    @property
    def count(self) -> int:
        """How many units there are."""
        return int(self.unit.max(initial=-1)) + 1


class Ties:
    """What ties the rows of a table together; looked for when first asked for, which scans all photos.

    A group ties its rows whatever its size. Copies do so up to a share of the rows: a placeholder photo in every fifth
    row ties nothing.

    Args:
        table: the rows; where columns of the features are missing, as of a table too large to hold, equal rows are
            not looked for.
        photos: which photos the rows have; None leaves them out.
        scan: of the files of ``photos``, if there is one already.
        cache: of what a scan found out about photos.
    """

    def __init__(
        self,
        table: pd.DataFrame | Table,
        schema: Schema,
        photos: Photos | None = None,
        scan: PhotoScan | None = None,
        cache: Cache | None = None,
    ) -> None:
        self.table, self.schema, self.photos, self._scan, self._cache = Table.of(table), schema, photos, scan, cache

    @cached_property
    def groups(self) -> dict[str, Int64[np.ndarray, " rows"]]:
        """Group of each row by group column, and by ids that photos are named by; -1 where the cell is empty."""
        ids = [rule.column for rule in self.schema.photos if rule.by_id]
        names = [name for name in (*self.schema.names("group"), *ids) if name in self.table]
        return {name: self.table[name].levels.codes for name in names}

    @cached_property
    def copies(self) -> "Copies":
        """Equal rows, and photos that rows share."""
        table, schema, found = self.table, self.schema, []
        if not table.in_pieces and all(name in table for name in schema.inputs):
            for what, codes in (
                ("equal rows", equal_rows(table, schema)),
                ("rows of equal cells", equal_features(table, schema)),
            ):
                rows = np.flatnonzero(codes >= 0)
                kept, number = np.unique(codes[rows], return_inverse=True)
                found.append((rows, number, [what] * len(kept)))
        unseen: tuple[str, ...] = ()
        if self.photos is not None and self.photos.files:
            scan = self._scan or scan_photos(self.photos.files, self._cache)
            of_photos, unseen = _photo_copies(self.photos, scan)
            found += of_photos
        row, copy, about = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], list[str]()
        for rows, number, described in found:
            row.append(rows)
            copy.append(number + len(about))
            about += described
        copies = Copies(np.concatenate(row), np.concatenate(copy), tuple(about), unseen=unseen)
        return copies.without_placeholders(strata_of_rows(table, schema), classes=schema.task != "regression")

    def without(self, groups: Sequence[str]) -> "Ties":
        """The same, but that some group columns tie nothing."""
        found = Ties(self.table, self.schema, self.photos, self._scan, self._cache)
        found.groups = {name: codes for name, codes in self.groups.items() if name not in groups}
        if "copies" in self.__dict__:
            found.copies = self.copies
        return found

    def joined(self, rows: Int64[np.ndarray, " rows"] | None = None, *, share: float = LARGEST_CHAIN) -> Joined:
        """The units of some rows, by default of all: connected components of groups and copies.

        Args:
            rows: positions in the table; what else is in the table joins none of them.
            share: of the rows, the most that copies may join beyond the largest group among them.
        """
        rows = np.arange(len(self.table)) if rows is None else rows
        columns = [codes[rows] for codes in self.groups.values()]
        firm = connected(len(rows), [(np.flatnonzero(codes >= 0), codes[codes >= 0]) for codes in columns])
        copies = self.copies
        if not len(copies.row):
            return Joined(firm, copies.unseen + copies.placeholders)
        place = np.full(len(self.table), -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        inside = place[copies.row] >= 0
        members = Copies(place[copies.row[inside]], copies.copy[inside], copies.about)
        unit, let_go = _chains(firm, members, max(share * len(rows), 2.0))
        return Joined(unit, copies.unseen + copies.placeholders + members.notes(let_go, len(rows), share))


@dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """Rows that are copies of each other in one way or another."""

    row: Int64[np.ndarray, " pairs"]
    """Row of each pair of a row and a copy that it has a part in."""
    copy: Int64[np.ndarray, " pairs"]
    """Number of that copy."""
    about: tuple[str, ...]
    """What is equal in each copy."""
    placeholders: tuple[str, ...] = ()
    """What is said of copies that were left out as no copies, one sentence each."""
    unseen: tuple[str, ...] = ()
    """What was not looked at, so that there may be more copies: one sentence each."""

    def without_placeholders(self, strata: Float[np.ndarray, " rows"], *, classes: bool) -> "Copies":
        """Leave out photos of more than a few rows whose targets differ as those of all rows: a picture of nothing.

        Args:
            strata: class of each row, or rank of its target in [0, 1).
        """
        counts = np.bincount(self.copy, minlength=len(self.about))
        photos = [text.startswith("photo") for text in self.about]
        doubtful = np.flatnonzero((counts > _FEW_ROWS) & np.array(photos, dtype=bool))
        other = [number for number in doubtful.tolist() if _as_all(strata, self.row[self.copy == number], classes)]
        if not other:
            return self
        kept = ~np.isin(self.copy, other)
        named = ", ".join(f"{self.about[number]} in {counts[number]:,} rows" for number in other[:_EXAMPLES])
        more = f" and {len(other) - _EXAMPLES:,} more" if len(other) > _EXAMPLES else ""
        text = f"taken for placeholders, which tie no rows, as their targets differ as much as all: {named}{more}"
        return Copies(self.row[kept], self.copy[kept], self.about, (text,), self.unseen)

    def notes(self, let_go: Int64[np.ndarray, " copies"], rows: int, share: float) -> tuple[str, ...]:
        """What is said of copies that join nothing, as with them more than a share of the rows would be one."""
        if not len(let_go):
            return ()
        counts = np.bincount(self.copy, minlength=len(self.about))
        largest = let_go[np.argsort(-counts[let_go], kind="stable")]
        named = [f"{self.about[copy]} in {counts[copy]:,} rows" for copy in largest[:_EXAMPLES].tolist()]
        more = f" and {len(largest) - _EXAMPLES:,} more" if len(largest) > _EXAMPLES else ""
        verbs = ("copy", "joins") if len(largest) == 1 else ("copies", "join")
        text = (
            f"{len(largest):,} {verbs[0]} {COPIES_TIE_NONE} {share:.0%} of the {rows:,} rows, and therefore "
            f"{verbs[1]} none (a placeholder?): {', '.join(named)}{more}"
        )
        return (text,)


def units_by_size(unit: Int64[np.ndarray, " rows"]) -> list[Int64[np.ndarray, "units size"]]:
    """Positions of the rows of each unit, units of one size together."""
    order = np.argsort(unit, kind="stable")
    _, starts, sizes = np.unique(unit[order], return_index=True, return_counts=True)
    return [order[starts[sizes == size, None] + np.arange(size)] for size in np.unique(sizes).tolist()]


def _as_all(strata: Float[np.ndarray, " rows"], rows: Int64[np.ndarray, " some"], classes: bool) -> bool:  # noqa: FBT001
    """Whether the targets of some rows are about as different as those of all rows."""
    if classes:
        shares = [pd.Series(values).value_counts(normalize=True).iloc[0] for values in (strata[rows], strata)]
        return bool(shares[0] < shares[1] + 0.5 * (1 - shares[1]))
    return bool(strata[rows].std() > _AS_DIFFERENT * strata.std())


def _photo_copies(
    photos: Photos, scan: PhotoScan
) -> tuple[list[tuple[np.ndarray, np.ndarray, list[str]]], tuple[str, ...]]:
    """Rows that share a photo, byte for byte, and rows whose photos look nearly the same, as chains of these.

    Also what was not looked at."""
    rows, places = np.nonzero(photos.slots >= 0)
    files = photos.slots[rows, places]
    found = [_used_twice(photos, rows, files, scan.content[files], "photo")]
    pairs, unseen = near_duplicates(scan)
    if len(pairs):
        # Of photos with equal bytes only the first is in a pair.
        alike = connected(len(photos.files), [(pairs.T.reshape(-1), np.tile(np.arange(len(pairs)), 2))])
        found.append(_used_twice(photos, rows, files, alike[scan.content[files]], "photos like"))
    return found, unseen


def _used_twice(
    photos: Photos, rows: np.ndarray, files: np.ndarray, codes: np.ndarray, what: str
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Rows and numbers of those codes that several rows have, each described by the first photo with it."""
    users = pd.DataFrame({"code": codes, "row": rows, "file": files}).drop_duplicates(["code", "row"])
    users = users[users["code"].duplicated(keep=False)]
    first = users.drop_duplicates("code").sort_values("code")
    described = [f"{what} {photo_name(photos.files[file])}" for file in first["file"].tolist()]
    return users["row"].to_numpy(), np.unique(users["code"].to_numpy(), return_inverse=True)[1], described


def _chains(
    firm: Int64[np.ndarray, " rows"], members: Copies, limit: float
) -> tuple[Int64[np.ndarray, " rows"], Int64[np.ndarray, " let_go"]]:
    """Join groups by copies; where that joins too many rows, the largest copies of the chain are let go of.

    Args:
        firm: group of each row, numbered from 0.
        members: rows of copies.
        limit: of rows.
    Returns:
        The unit of each row, and the copies that join nothing.
    """
    sizes, copies = np.bincount(firm), len(members.about)
    pairs = np.unique(np.stack([firm[members.row], members.copy], axis=1), axis=0)
    pairs = pairs[np.bincount(pairs[:, 1], minlength=copies)[pairs[:, 1]] > 1]
    gone: list[np.ndarray] = [np.zeros(0, np.int64)]
    while True:
        label = connected(len(sizes), [(pairs[:, 0], pairs[:, 1])])
        total = np.bincount(label, weights=sizes)
        largest = np.zeros(len(total))
        np.maximum.at(largest, label, sizes)
        long = total - largest + 1 > limit
        long &= np.bincount(label) > 1
        of_long = long[label[pairs[:, 0]]]
        if not of_long.any():
            return label[firm], np.sort(np.concatenate(gone))
        counts = np.bincount(pairs[of_long, 1], minlength=copies)
        chain = np.zeros(copies, dtype=np.int64)
        chain[pairs[of_long, 1]] = label[pairs[of_long, 0]]
        most = np.zeros(len(total), dtype=np.int64)
        np.maximum.at(most, chain[counts > 0], counts[counts > 0])
        let_go = np.flatnonzero((counts > 0) & (counts == most[chain]))
        gone.append(let_go)
        pairs = pairs[~np.isin(pairs[:, 1], let_go)]
