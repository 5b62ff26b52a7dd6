"""Which rows belong together: by a group column, a repeated id, or because they are copies of each other.

In: a table, its schema and its photos. Out: ``Ties``, which gives the units of any selection of rows: a unit is never
split between training and evaluation. Does not split rows itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64

from mixfit.choices import NUMBER_TASKS
from mixfit.data.checks.copies import equal_features, equal_rows
from mixfit.data.checks.photos import NearPhotos, PhotoScan, near_duplicates, scan_photos
from mixfit.data.columns.cells import Table
from mixfit.data.columns.schema import Schema
from mixfit.data.photos.cells import photo_name
from mixfit.data.photos.find import Photos
from mixfit.data.photos.records import Cache
from mixfit.data.split import connected, strata_of_rows

COPIES_TIE_NONE = "would join more than"
"""Part of the note on copies that join no rows."""
LARGEST_CHAIN = 0.2
"""Largest share of the rows that copies may join into one unit, unless a number of folds implies another."""
_FEW_ROWS, _AS_DIFFERENT = 5, 0.75
"""A photo in more rows than this is taken for a placeholder if the standard deviation of their targets exceeds this
share of that of all rows."""
_EXAMPLES = 3


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """The unit of each row of a selection."""

    unit: Int64[np.ndarray, " rows"]
    """Numbered from 0; a row that is not related to any other is a unit of its own."""
    notes: tuple[str, ...] = ()
    """What was not examined, and copies that were ignored because they would join too many rows: one sentence each."""

    @property
    def count(self) -> int:
        """Number of units."""
        return int(self.unit.max(initial=-1)) + 1


class Ties:
    """Relations between the rows of a table; computed on first use, which scans all photos.

    A group joins its rows whatever its size. Copies join rows only up to a share of the table: a placeholder photo in
    every fifth row joins none.

    Args:
        table: the rows; if feature columns are missing, as for a table too large for memory, equal rows are not
            searched for.
        photos: the photos of the rows; None ignores photos.
        scan: of the files of ``photos``, if one is available.
        cache: of the results of photo scans.
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
        """Group of each row, for each group column and each id column that photos are named by; -1 for empty cells."""
        ids = [rule.column for rule in self.schema.photos if rule.by_id]
        names = [name for name in (*self.schema.names("group"), *ids) if name in self.table]
        return {name: self.table[name].levels.codes for name in names}

    @cached_property
    def scan(self) -> PhotoScan | None:
        """What was found out about the photos; None without photos."""
        if self._scan is not None or self.photos is None or not self.photos.files:
            return self._scan
        return scan_photos(self.photos.files, self._cache)

    @cached_property
    def near(self) -> NearPhotos | None:
        """Photos that look nearly the same, see ``near_duplicates``; None without photos."""
        return None if self.scan is None else near_duplicates(self.scan)

    @cached_property
    def copies(self) -> "Copies":
        """Equal rows, and photos that several rows share."""
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
        if self.photos is not None and self.photos.files and self.scan is not None and self.near is not None:
            of_photos, unseen = _photo_copies(self.photos, self.scan, self.near)
            found += of_photos
        row, copy, about = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], list[str]()
        for rows, number, described in found:
            row.append(rows)
            copy.append(number + len(about))
            about += described
        copies = Copies(np.concatenate(row), np.concatenate(copy), tuple(about), unseen=unseen)
        return copies.without_placeholders(strata_of_rows(table, schema), classes=schema.task not in NUMBER_TASKS)

    def without(self, groups: Sequence[str]) -> "Ties":
        """The same without some of the group columns."""
        found = Ties(self.table, self.schema, self.photos, self.__dict__.get("scan", self._scan), self._cache)
        if "near" in self.__dict__:
            found.near = self.near
        found.groups = {name: codes for name, codes in self.groups.items() if name not in groups}
        if "copies" in self.__dict__:
            found.copies = self.copies
        return found

    def joined(self, rows: Int64[np.ndarray, " rows"] | None = None, *, share: float = LARGEST_CHAIN) -> Joined:
        """The units of some rows, by default of all: connected components of groups and copies.

        Args:
            rows: positions in the table; other rows of the table do not connect them.
            share: largest share of the rows that copies may join, beyond the largest group among them.
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
    """Rows that are copies of each other, in whole or in part."""

    row: Int64[np.ndarray, " pairs"]
    """Row of each pair of a row and the set of copies that it belongs to."""
    copy: Int64[np.ndarray, " pairs"]
    """Number of that set of copies."""
    about: tuple[str, ...]
    """What the rows of each set have in common."""
    placeholders: tuple[str, ...] = ()
    """Notes on shared photos that were ignored as placeholders, one sentence each."""
    unseen: tuple[str, ...] = ()
    """What was not examined, so that there may be more copies: one sentence each."""

    def without_placeholders(self, strata: Float[np.ndarray, " rows"], *, classes: bool) -> "Copies":
        """Remove photos that are shared by many rows whose targets vary as much as those of all rows: placeholders.

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
        text = (
            "treated as placeholders, which join no rows, because the targets vary as much as in all rows: "
            f"{named}{more}"
        )
        return Copies(self.row[kept], self.copy[kept], self.about, (text,), self.unseen)

    def notes(self, let_go: Int64[np.ndarray, " copies"], rows: int, share: float) -> tuple[str, ...]:
        """Notes on copies that join no rows, because they would join more than ``share`` of the rows."""
        if not len(let_go):
            return ()
        counts = np.bincount(self.copy, minlength=len(self.about))
        largest = let_go[np.argsort(-counts[let_go], kind="stable")]
        named = [f"{self.about[copy]} in {counts[copy]:,} rows" for copy in largest[:_EXAMPLES].tolist()]
        more = f" and {len(largest) - _EXAMPLES:,} more" if len(largest) > _EXAMPLES else ""
        verbs = ("copy", "joins") if len(largest) == 1 else ("copies", "join")
        text = (
            f"{len(largest):,} {verbs[0]} {COPIES_TIE_NONE} {share:.0%} of the {rows:,} rows, and therefore "
            f"{verbs[1]} none (possibly a placeholder): {', '.join(named)}{more}"
        )
        return (text,)


def units_by_size(unit: Int64[np.ndarray, " rows"]) -> list[Int64[np.ndarray, "units size"]]:
    """Positions of the rows of each unit; units of equal size form one array."""
    order = np.argsort(unit, kind="stable")
    _, starts, sizes = np.unique(unit[order], return_index=True, return_counts=True)
    return [order[starts[sizes == size, None] + np.arange(size)] for size in np.unique(sizes).tolist()]


def _as_all(strata: Float[np.ndarray, " rows"], rows: Int64[np.ndarray, " some"], classes: bool) -> bool:  # noqa: FBT001
    """Whether the targets of the given rows vary about as much as those of all rows."""
    if classes:
        shares = [pd.Series(values).value_counts(normalize=True).iloc[0] for values in (strata[rows], strata)]
        return bool(shares[0] < shares[1] + 0.5 * (1 - shares[1]))
    return bool(strata[rows].std() > _AS_DIFFERENT * strata.std())


def _photo_copies(
    photos: Photos, scan: PhotoScan, near: NearPhotos
) -> tuple[list[tuple[np.ndarray, np.ndarray, list[str]]], tuple[str, ...]]:
    """Rows that share a photo, byte for byte, and rows connected by near-duplicate photos.

    Also notes on what was not examined."""
    rows, places = np.nonzero(photos.slots >= 0)
    files = photos.slots[rows, places]
    found = [_used_twice(photos, rows, files, scan.content[files], "photo")]
    pairs, unseen = near
    if len(pairs):
        # Of several photos with equal bytes, only the first is in ``pairs``.
        alike = connected(len(photos.files), [(pairs.T.reshape(-1), np.tile(np.arange(len(pairs)), 2))])
        found.append(_used_twice(photos, rows, files, alike[scan.content[files]], "photos like"))
    return found, unseen


def _used_twice(
    photos: Photos, rows: np.ndarray, files: np.ndarray, codes: np.ndarray, what: str
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Rows and numbers of the codes that several rows share; each code is described by its first photo."""
    users = pd.DataFrame({"code": codes, "row": rows, "file": files}).drop_duplicates(["code", "row"])
    users = users[users["code"].duplicated(keep=False)]
    first = users.drop_duplicates("code").sort_values("code")
    described = [f"{what} {photo_name(photos.files[file])}" for file in first["file"].tolist()]
    return users["row"].to_numpy(), np.unique(users["code"].to_numpy(), return_inverse=True)[1], described


def _chains(
    firm: Int64[np.ndarray, " rows"], members: Copies, limit: float
) -> tuple[Int64[np.ndarray, " rows"], Int64[np.ndarray, " let_go"]]:
    """Join groups by copies; where that would join too many rows, the largest sets of copies are ignored.

    Args:
        firm: group of each row, numbered from 0.
        members: rows of copies.
        limit: largest number of rows to join.
    Returns:
        The unit of each row, and the sets of copies that were ignored.
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
