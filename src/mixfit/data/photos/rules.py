"""Infer the photo rules of a table: candidates are tried on cells and images folder, and the best match is chosen.

In: a table, and the folder its photos may be in. Out: ``PhotoRule``s with their evidence. Columns that hold photo names
are tried first; if there are none, ids that occur in names of files or folders. If two rules match about equally many
different photos, the user must choose with ``--images``. Each folder is listed once, up to a limit."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from mixfit.choices import Role
from mixfit.data.columns.values import plain_cells_problem
from mixfit.data.photos.archive import ArchivedPhoto
from mixfit.data.photos.cells import content_share
from mixfit.data.photos.decode import ImageError
from mixfit.data.photos.find import find_photos
from mixfit.data.photos.rule import BETWEEN, Between, PhotoRule, cell_text, hand_rule, has_ending, is_list, split_images
from mixfit.data.photos.tree import ENDINGS, Folder, Place, Tree, spelt_alike
from mixfit.errors import ConfigError, DataError

PHOTO_SHARE = 0.9
"""Share of the names in a column that must have the extension of an image file for it to be an image column."""
EXPLAINED = 0.5
"""Share of the photos in a folder, or of the ids of a column, that a rule must match."""
LEAST_IDS = 0.1
"""Share of the ids of a column that must have photos if these are most of the photos in a folder."""
RIVAL = 0.8
"""If a second rule matches this share of what the best rule matches, in other photos, the user has to choose."""
_RUN = frozenset({"environment.json", "schema.json"})
"""Files of a run folder, whose report has photos of its own."""
DEEPEST, MOST_ENTRIES, MOST_PLACES = 3, 200_000, 30
"""Limits: levels of folders to search, names in all of them, and folders to try."""
FULL = 10
"""Number of photos in a folder, not named by any column, from which on it is reported."""

_SAMPLE, _FIRST, _SNIFFED = 300, 20, 5
_PLAIN_ENOUGH = 0.95
_LEADS_THROUGH = re.compile(r"(?![a-z][a-z0-9+.-]*://).*[^/\\][/\\]", re.IGNORECASE | re.DOTALL)
_SOME_ENDING = re.compile(rf"\.(?:{'|'.join(ENDINGS)})", re.IGNORECASE)
_SEPARATOR = re.compile(r"[_\-. ]+")
_MOST_PARTS = 6
_COUNT = 2  # digits of a number of rooms and the like


def photo_rules(
    frame: pd.DataFrame, images: Path, *, target: str, roles: Mapping[str, Role], ignore: Collection[str] = ()
) -> tuple[PhotoRule, ...]:
    """The rules of a table; none for columns that follow the default rule, or whose cells hold photos.

    Args:
        images: folder or archive, optionally followed by a pattern, as in ``images/{id}/*``.
        target, roles, ignore: what is already known about the columns.
    Raises:
        ConfigError: a rule set by the user does not fit the table, or two rules match equally well.
    """
    root, pattern = split_images(images)
    names = [name for name in frame.columns if isinstance(name, str)]
    if pattern:
        rule = _checked(hand_rule(pattern, names), target, roles)
        kept = _counted(replace(rule, pattern=_kept(images, root, pattern)), frame, images)
        return (replace(kept, reason=f"{kept.reason}, set by hand"),)
    if not root.exists():
        return ()
    free = [
        name
        for name in dict.fromkeys(names)
        if name not in (target, *ignore) and roles.get(name, "image") == "image" and names.count(name) == 1
    ]
    columns = [column for name in free if (column := _Column.of(frame[name], name, chosen=roles.get(name) == "image"))]
    tree = Tree(root)
    named = [column for column in columns if column.chosen or column.names_photos or column.paths]
    found = [_of_names(tree, column) for column in named]
    # If the user ignores the column that names the photos, no photos are used.
    left_out = [name for name in names if roles.get(name) == "ignored" or name in ignore]
    if not any(one.photos for one in found) and not any(_names_photos(frame[name], name) for name in left_out):
        by_id = _of_ids(tree, [column for column in columns if not column.names_photos])
        if by_id is not None:
            return (_counted(by_id, frame, root),)
    # Columns of lists have no role without a rule.
    known = {column.name for column in named if column.names_photos and column.distinct}
    rules = [one.rule for one in found if not one.rule.is_plain or (one.photos and one.rule.column not in known)]
    return tuple(_counted(rule, frame, root) for rule in rules)


def _names_photos(cells: pd.Series, name: str) -> bool:
    column = _Column.of(cells, name, chosen=False) if isinstance(cells, pd.Series) else None
    return column is not None and column.names_photos


def unnamed_photos(images: Path) -> str:
    """A warning about a folder with photos that no column of the table names, or an empty text."""
    root, pattern = split_images(images)
    if pattern or not root.is_dir():
        return ""
    counts: Counter[str] = Counter()
    for seen in _survey(Tree(root)):
        counts[seen.place[0] if seen.place else "."] += len(seen.photos)
    if not counts or counts.most_common(1)[0][1] < FULL:
        return ""
    place, count = counts.most_common(1)[0]
    shown = "the images folder itself" if place == "." else f"the folder {place}"
    start = "" if place == "." else f"{place}/"
    return (
        f"{shown} beside the table has {count:,} photos, but no column of the table names them: set how they are named "
        f"with --images '{start}{{COLUMN}}/*' or --images '{start}{{COLUMN}}.*'"
    )


def _kept(images: Path, root: Path, pattern: str) -> str:
    """The pattern set by the user with its leading folders, which are searched for beside a new table."""
    folders = [root.name] if images.is_absolute() else [part for part in root.parts if part != ".."]
    return "/".join([*filter(None, folders), pattern])


def _checked(rule: PhotoRule, target: str, roles: Mapping[str, Role]) -> PhotoRule:
    if rule.column == target:
        raise ConfigError(
            f"The photo rule {rule.pattern!r} uses the target {target!r}, which new rows will not have; use another "
            "column."
        )
    if (role := roles.get(rule.column, "image")) != "image":
        together = "; rows with the same id are kept together anyway, so omit --set" if role == "group" else ""
        raise ConfigError(
            f"column {rule.column!r} names photos by {rule.pattern!r}, so it cannot have the role {role}{together}."
        )
    return rule


def _counted(rule: PhotoRule, frame: pd.DataFrame, root: Path) -> PhotoRule:
    """The rule with its evidence from the whole table."""
    found = find_photos(frame, [rule.column], root, [rule])
    rows = int((found.slots >= 0).any(axis=1).sum())
    counts = f"{len(found.files):,} photos in {rows:,} of {len(frame):,} rows"
    return replace(rule, reason=f"{rule.describe()}: {counts}")


@dataclass(frozen=True)
class _Column:
    """A column that possibly names photos."""

    name: str
    cells: list[object]
    """Distinct cells; an evenly spaced sample if there are many."""
    chosen: bool
    """Set by the user."""
    between: tuple[Between, ...]
    """Possible separators of names, the most likely first."""
    names_photos: bool
    """Whether its names have the extensions of image files."""
    paths: bool
    """Whether they contain folders, other than those of a URL."""
    distinct: list[object]
    """All of its distinct cells; empty for lists."""
    rows: int
    """Number of rows with a cell."""

    @cached_property
    def keys(self) -> frozenset[str]:
        """All of its distinct cells, in normalised spelling."""
        return frozenset(spelt_alike(cell_text(cell)) for cell in self.distinct)

    @classmethod
    def of(cls, cells: pd.Series, name: str, *, chosen: bool) -> "_Column | None":
        kind = pd.api.types
        if kind.is_bool_dtype(cells.dtype) or kind.is_datetime64_any_dtype(cells.dtype) or content_share(cells)[0] > 0:
            return None
        if isinstance(cells.dtype, pd.ArrowDtype) and plain_cells_problem(cells) is not None:
            return None
        values = cells.dropna()
        if kind.is_float_dtype(cells.dtype) and not (values % 1 == 0).all():
            return None
        if cells.dtype == object and not all(
            isinstance(cell, str | int | float | list | np.ndarray) for cell in values
        ):
            return None
        listed = cells.dtype == object and any(isinstance(cell, list | np.ndarray) for cell in values)
        distinct = [cell for cell in (values if listed else pd.unique(values)).tolist() if cell_text(cell)]
        sample = distinct[:: max(1, len(distinct) // _SAMPLE)]
        may_name = listed or any(isinstance(cell, str) and _SOME_ENDING.search(cell) for cell in sample)
        shares = {between: _share(name, sample, between) if may_name else 0.0 for between in BETWEEN}
        best = max(shares.values(), default=0.0)
        likely = tuple(between for between in BETWEEN if shares[between] >= min(best, PHOTO_SHARE))
        through = sum(isinstance(cell, str) and _LEADS_THROUGH.match(cell) is not None for cell in sample)
        paths = 0 < PHOTO_SHARE * len(sample) <= through
        return cls(name, sample, chosen, likely, best >= PHOTO_SHARE, paths, [] if listed else distinct, len(values))

    def rules(self, patterns: Sequence[str], *, tails: Sequence[bool]) -> Iterator[PhotoRule]:
        """All combinations of a separator and a pattern, in which ``{}`` stands for the column."""
        for tail in tails:
            for between in self.between:
                for pattern in patterns:
                    filled = pattern.replace("{}", f"{{{self.name}}}")
                    yield PhotoRule(column=self.name, pattern=filled, between=between, tail=tail)


def _share(column: str, cells: Sequence[object], between: Between) -> float:
    """Share of the names in cells with the extension of an image file; 0 if the separator does not occur."""
    mark = {"list": "[", " ": " "}.get(between, between)
    if between != ";" and not any(
        is_list(cell.strip()) if between == "list" else mark in cell.strip() for cell in cells if isinstance(cell, str)
    ):
        return 0.0
    rule = PhotoRule(column=column, pattern="", between=between)
    names = [name for cell in cells for name in rule.names(cell)]
    return sum(map(has_ending, names)) / max(len(names), 1)


@dataclass(frozen=True, slots=True)
class _Tried:
    """What a rule matches in a sample of cells."""

    rule: PhotoRule
    names: int
    found: int
    """Share of the names."""
    photos: frozenset[Path | ArchivedPhoto]


def _try(tree: Tree, rule: PhotoRule, cells: Sequence[object]) -> _Tried:
    names = found = 0
    photos: set[Path | ArchivedPhoto] = set()
    for cell in cells:
        for name in rule.names(cell):
            names += 1
            try:
                seen = rule.find(tree, name)
            except ImageError:
                continue
            found += bool(seen)
            photos.update(seen)
    return _Tried(rule, names, found, frozenset(photos))


def _of_names(tree: Tree, column: _Column) -> _Tried:
    """The rule of a column that names photos: the default if it finds nearly all, otherwise the one that finds most."""
    ways = [_try(tree, rule, column.cells) for rule in column.rules(["{}"], tails=[False])]
    plain = max(ways, key=lambda one: len(one.photos))
    if plain.found >= _PLAIN_ENOUGH * plain.names:
        return plain
    survey = _survey(tree)
    places, total = [seen.place for seen in survey], sum(len(seen.photos) for seen in survey)
    above = dict.fromkeys(place[:length] for place in places for length in range(len(place) + 1))
    starts = ["".join(f"{name}/" for name in place) for place in sorted(above, key=len)[:MOST_PLACES]]
    patterns = [start + form for form in ("{}", "{}.*", "{}/*") for start in starts if not set(start) & set("{}*")]
    tried = []
    for rule in column.rules(patterns, tails=[False, True]):
        if _try(tree, rule, column.cells[:: max(1, len(column.cells) // _FIRST)]).found:
            one = _try(tree, rule, column.cells)
            enough = one.found >= EXPLAINED * one.names or len(one.photos) >= max(FULL, EXPLAINED * total)
            # If many names lead to few photos, only the last parts of the names agree.
            if enough and len(one.photos) >= EXPLAINED * one.found:
                tried.append(one)
    best = max(tried, key=lambda one: (len(one.photos), one.found), default=plain)
    if len(best.photos) <= len(plain.photos):
        return plain
    for other in tried:
        if len(other.photos) >= RIVAL * len(best.photos) and not other.photos & best.photos:
            raise _ambiguous(best.rule, len(best.photos), other.rule, len(other.photos))
    return best


@dataclass(frozen=True, slots=True)
class _Seen:
    """A place with photos."""

    place: Place
    photos: list[str]


def _survey(tree: Tree) -> list[_Seen]:
    """The folders with photos, the closest first, without those of earlier runs; incomplete if there are too many
    names."""
    found, waiting, entries = list[_Seen](), list[Place]([()]), 0
    for place in waiting:
        try:
            folder = tree.folder(place)
        except DataError:  # skip archives that are refused; naming one explicitly raises the error
            continue
        if folder is None or set(folder.names) >= _RUN:
            continue
        entries += len(folder.names)
        if entries > MOST_ENTRIES:
            break
        if photos := _photos_in(tree, place, folder):
            found.append(_Seen(place, photos))
        if len(place) < DEEPEST:
            waiting += [(*place, name) for name in folder.folders]
    return found


def _photos_in(tree: Tree, place: Place, folder: Folder) -> list[str]:
    """Names of photos, by extension; if no file has one of an image, by the first bytes of a few files."""
    named = [name for name in folder.files if has_ending(name)]
    first = folder.files[:_SNIFFED]
    if named or not first or not all(tree.is_photo((*place, name)) for name in first):
        return named
    return folder.files


@dataclass(frozen=True, slots=True)
class _ById:
    rule: PhotoRule
    places: frozenset[Place]
    """The folders that its photos are in."""
    photos: int
    keys: int


def _of_ids(tree: Tree, columns: Sequence[_Column]) -> PhotoRule | None:
    """The rule by which files or folders are named after the cells of a column; None if there is none."""
    seen = _survey(tree)
    parents: dict[Place, list[_Seen]] = {}
    for one in seen:
        if one.place:
            parents.setdefault(one.place[:-1], []).append(one)
    found = []
    files = [(one, _Names.of({_stem(name): 1 for name in one.photos})) for one in seen]
    folders = [
        (place, inside, _Names.of({one.place[-1]: len(one.photos) for one in inside}))
        for place, inside in parents.items()
    ]
    for column in columns:
        for one, names in files:
            found += _named_by(column, one.place, names, {one.place}, file=True)
        for place, inside, names in folders:
            found += _named_by(column, place, names, {one.place for one in inside}, file=False)
    found.sort(key=lambda one: (-one.photos, -one.keys))
    if not found:
        return None
    best = found[0]
    for other in found[1:]:
        if other.photos >= RIVAL * best.photos and not other.places & best.places:
            raise _ambiguous(best.rule, best.photos, other.rule, other.photos)
    return best.rule


@dataclass(frozen=True, slots=True)
class _Names:
    """Names of files or folders, split once for all columns."""

    cuts: list[tuple[int, list[tuple[str, str, str]]]]
    """For each name the number of photos and the possible cells in it, see ``_cuts``; cells in normalised spelling."""
    photos: int
    keys: frozenset[str]
    """All possible cells."""

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> "_Names":
        """Args: ``counts``: number of photos by folder name, or by file name without extension."""
        cuts = [
            (count, [(head, spelt_alike(key), follows) for head, key, follows in _cuts(name)])
            for name, count in counts.items()
        ]
        return cls(cuts, sum(counts.values()), frozenset(key for _, ways in cuts for _, key, _ in ways))


def _named_by(column: _Column, place: Place, names: _Names, places: set[Place], *, file: bool) -> list[_ById]:
    """The rule by which names contain the cells of a column, if it matches enough photos.

    Args:
        places: the folders that these photos are in.
    """
    if len(column.keys) < 2 or column.keys.isdisjoint(names.keys):
        return []
    forms: dict[str, list[tuple[str, str, int]]] = {}  # prefix of the cell -> cells, suffix, photos
    for count, ways in names.cuts:
        for head, key, follows in ways:
            if key in column.keys:
                forms.setdefault(head, []).append((key, follows, count))
                break
    head, matches = max(forms.items(), key=lambda item: sum(count for *_, count in item[1]))
    photos, keys = sum(count for *_, count in matches), len({key for key, *_ in matches})
    # Small numbers, such as rooms, match photos that are numbered: most cells must be distinct then, as ids are. Longer
    # ones, such as years, may match a few photos by chance: most cells must be distinct, or have photos.
    ids, known = len(column.keys) >= EXPLAINED * column.rows, keys / len(column.keys)
    counts = all(key.isdigit() and len(key) <= _COUNT for key in column.keys)
    whole = photos >= EXPLAINED * names.photos and (ids or not counts)
    if keys < 2 or not ((known >= EXPLAINED and (ids or whole)) or (ids and whole and known >= LEAST_IDS)):
        return []
    end = _end({follow for _, follow, _ in matches}, file=file)
    start = "".join(f"{name}/" for name in place)
    pattern = f"{start}{head}{{{column.name}}}{end}{'' if file else '/*'}"
    if any(mark in start + head for mark in "{}*"):
        return []
    return [_ById(PhotoRule(column=column.name, pattern=pattern), frozenset(places), photos, keys)]


def _end(separators: set[str], *, file: bool) -> str:
    """The end of a pattern after the cell, given the separators that follow it in the names."""
    if separators == {""}:
        return ".*" if file else ""
    return f"{separators.pop()}*" if len(separators) == 1 else "*"


def _stem(name: str) -> str:
    return name.rpartition(".")[0] if has_ending(name) else name


def _cuts(name: str) -> Iterator[tuple[str, str, str]]:
    """Ways to find a cell in a name: the prefix, the cell, and the separator that follows; longest first.

    >>> list(_cuts("IMG_12-1"))[:3]
    [('', 'IMG_12-1', ''), ('', 'IMG_12', '-'), ('', 'IMG', '_')]
    """
    marks = [match.span() for match in _SEPARATOR.finditer(name)][:_MOST_PARTS]
    for begin in (0, *(end for _, end in marks[:1])):
        yield name[:begin], name[begin:], ""
        for start, end in reversed(marks):
            if start > begin:
                yield name[:begin], name[begin:start], name[start:end]


def _ambiguous(best: PhotoRule, photos: int, other: PhotoRule, others: int) -> ConfigError:
    return ConfigError(
        f"The photos can be found in two ways: {best.describe()} ({photos:,} photos) and {other.describe()} "
        f"({others:,} photos). Choose one with --images '{best.pattern}' or --images '{other.pattern}'; "
        f"--set {best.column}=ignored uses none."
    )
