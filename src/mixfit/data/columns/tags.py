"""Columns of lists of tags: whether a row has each of the frequent ones, and how many it has.

A cell is a list, as such or as text (``["a", "b"]``, ``{a,b}``), or texts between which one sign stands ("a, b")."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64

from mixfit.choices import Role
from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.cells import Cells
from mixfit.data.columns.facts import UNIQUE_ROWS, Facts, short, url_share
from mixfit.data.columns.kind import (
    ColumnArrays,
    Guess,
    Weight,
    bad_cells,
    empty_cells,
    joined,
    refuse_if,
    refuse_nested,
)
from mixfit.data.columns.number import NumberState
from mixfit.data.columns.values import Levels, text_of
from mixfit.data.photos.rule import has_ending
from mixfit.errors import DataError

Between = Literal["list", "|", ";", "\n", "•", "·", ",", "/"]
"""What stands between the tags of all cells of a column; "list" is a list, as such or as text."""
SIGNS: tuple[Between, ...] = get_args(Between)
MOST_TAGS = 48
"""So many tags, the most frequent, are seen one by one; of all others only the number."""
LEAST_ROWS = 5
"""A tag that fewer training rows have is not seen by itself."""

_SAMPLE = 20_000  # rows; enough for a share
_LISTS = 0.9  # of the cells
_SEPARATED = 0.2  # of the cells must hold the sign
_REPEATED = 0.9  # of the cells must hold no tag that no other cell has
_OFTEN = 3.0  # times as often as whole cells must tags come back
_FEW_REPEAT = 0.5  # of the items of lists
_LONGEST = 40  # characters of a tag, at the median
_SHOWN = 3
_BRACKETS = re.compile(r"\[.*\]|\(.*\)|\{.*\}", re.DOTALL)
_OBJECT = re.compile(r"""\{\s*(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\w+)\s*:.*\}""", re.DOTALL)
_ITEM = re.compile(r"""\s*(?:[uU]?"((?:[^"\\]|\\.)*)"|[uU]?'((?:[^'\\]|\\.)*)'|([^,]+))""", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Tagged:
    """A column as sets of tags; cells that hold the same text are taken apart once."""

    codes: Int64[np.ndarray, " rows"]
    """Index of the row's cell, -1 where it is empty."""
    cell: Int64[np.ndarray, " pairs"]
    """Index of a cell, and beside it in ``tag`` that of a tag in it; each pair once, by cell."""
    tag: Int64[np.ndarray, " pairs"]
    place: Int64[np.ndarray, " pairs"]
    """Where in its cell the tag stands, from 0."""
    tags: pd.Index
    """All of the table, dtype str."""
    wrong: Bool[np.ndarray, " cells"]
    """Cells that hold something else than tags: objects, or lists of lists."""

    def take(self, rows: Int64[np.ndarray, " some"]) -> "Tagged":
        """Those rows, in that order."""
        return Tagged(self.codes[rows], self.cell, self.tag, self.place, self.tags, self.wrong)

    @property
    def unusable(self) -> Bool[np.ndarray, " rows"]:
        """Rows whose cell is none of tags."""
        return np.append(self.wrong, np.False_)[self.codes]

    @property
    def rows_of_cells(self) -> Int64[np.ndarray, " cells"]:
        """How many rows hold each cell."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.wrong))

    @property
    def rows_of_tags(self) -> Int64[np.ndarray, " tags"]:
        """How many rows have each tag."""
        counts = np.bincount(self.tag, weights=self.rows_of_cells[self.cell], minlength=len(self.tags))
        return counts.astype(np.int64)

    @property
    def sizes(self) -> Int64[np.ndarray, " cells"]:
        """How many tags each cell has."""
        return np.bincount(self.cell, minlength=len(self.wrong))


def to_tags(levels: Levels, *, between: Between) -> Tagged:
    """Take the cells apart that have a row here.

    >>> found = to_tags(Levels(np.array([0, 1, -1]), pd.Index(["wifi, pool", "pool"])), between=",")
    >>> found.tags.tolist(), found.rows_of_tags.tolist(), found.sizes.tolist()
    (['wifi', 'pool'], [1, 2], [2, 1])
    """
    used, codes = np.unique(levels.codes[levels.codes >= 0], return_inverse=True)
    own = np.full(len(levels.codes), -1, dtype=np.int64)
    own[levels.codes >= 0] = codes
    taken = [tags_of(text, between) for text in levels.names[used]]
    number: dict[str, int] = {}
    pairs = [
        (cell, number.setdefault(tag, len(number)), place)
        for cell, tags in enumerate(taken)
        for place, tag in enumerate(dict.fromkeys(tags or ()))
    ]
    cell, tag, place = np.array(pairs, dtype=np.int64).reshape(-1, 3).T
    wrong = np.array([tags is None for tags in taken], dtype=bool)
    return Tagged(own, cell, tag, place, pd.Index(list(number), dtype="str"), wrong)


def tags_of(text: str, between: Between) -> list[str] | None:
    """The tags of a cell in their order; None where it holds something else.

    >>> tags_of("['wifi', 'pool']", "list"), tags_of("{a,b}", "list"), tags_of("[]", ";"), tags_of("a; b;", ";")
    (['wifi', 'pool'], ['a', 'b'], [], ['a', 'b'])
    """
    if text.startswith("[") or (between == "list" and _BRACKETS.fullmatch(text)):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list):
            nested = any(isinstance(item, list | dict) for item in found)
            return None if nested else _stripped(text_of(item) for item in found if item is not None)
    if between == "list" and _BRACKETS.fullmatch(text):
        inside = text[1:-1].strip()
        if _OBJECT.fullmatch(text) or inside.startswith(("[", "{", "(")):
            return None
        items = (_unescaped(double or single) if double or single else bare for double, single, bare in _items(inside))
        return [item for item in _stripped(items) if item not in ("None", "null", "NULL", "nan")]
    return _stripped(text.split("," if between == "list" else between))


def _items(inside: str) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = _ITEM.findall(inside)
    return found


def _unescaped(quoted: str) -> str:
    return re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)


def _stripped(items: Iterable[str]) -> list[str]:
    return [item for item in (item.strip() for item in items) if item]


def is_list(text: str) -> bool:
    """Whether a text is a list as JSON, Python or PostgreSQL write it, rather than an object."""
    return _BRACKETS.fullmatch(text) is not None and not _OBJECT.fullmatch(text)


def find_between(levels: Levels) -> Between:
    """The sign between the tags: of lists if most cells are some, else that which most cells hold."""
    used, counts = np.unique(levels.codes[levels.codes >= 0], return_counts=True)
    names = pd.Series(levels.names[used], dtype="str")
    if counts[names.map(is_list).to_numpy(dtype=bool)].sum() * 2 > counts.sum():
        return "list"
    shares = {sign: counts[_holds(names, sign)].sum() for sign in SIGNS if sign != "list"}
    return max(shares, key=lambda sign: shares[sign])


def _holds(names: pd.Series, sign: str) -> Bool[np.ndarray, " names"]:
    return names.str.contains(sign, regex=False).to_numpy(dtype=bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class TagsColumn:
    """What was learnt of a column: which tags are seen one by one, and how many tags rows have."""

    role: ClassVar[Role] = "tags"
    saved_as: ClassVar[str] = "tags"
    cardinality: ClassVar[int] = 0
    name: str
    between: Between
    tags: tuple[str, ...]
    """The most frequent first."""
    others: tuple[str, ...]
    """Seen in training, but in too few rows or in all; nothing to report when they come again."""
    number: NumberState
    """Of the number of tags."""
    flag: bool

    @property
    def outputs(self) -> list[str]:
        """Names of the output columns."""
        flag = [f"{self.name} is missing"] if self.flag else []
        return [*(f"{self.name}: {tag}" for tag in self.tags), f"{self.name}: number of tags", *flag]

    def transform(self, cells: Cells) -> ColumnArrays:
        """1 where a row has the tag, and the z-score of the number of its tags."""
        found = self._read(cells)
        wanted = pd.Index(self.tags, dtype="str").get_indexer(found.tags)[found.tag]
        has = np.zeros((len(found.wrong) + 1, len(self.tags)))  # the last row is that of empty cells
        has[found.cell[wanted >= 0], wanted[wanted >= 0]] = 1.0
        missing = _missing(found)
        flag = [missing.astype(np.float64)] if self.flag else []
        return ColumnArrays([*has[found.codes].T, self.number.apply(_numbers(found)), *flag])

    def problems(self, cells: Cells) -> list[BadInput]:
        """Cells with a tag that is new, and those that are no tags."""
        found = self._read(cells)
        new = ~found.tags.isin([*self.tags, *self.others])[found.tag]
        problem = np.full(len(found.wrong) + 1, "", dtype=object)
        for cell, tag in zip(found.cell[new][::-1], found.tag[new][::-1], strict=True):
            problem[cell] = f"tag {short(str(found.tags[tag]))} not seen in training"
        problem = problem[found.codes]
        unseen = bad_cells(cells, (problem != "") & ~found.unusable, problem, "tag left out")
        return [*unseen, *bad_cells(cells, found.unusable, "no list of tags", "cell treated as missing")]

    def _read(self, cells: Cells) -> Tagged:
        return cells.read_levels(to_tags, between=self.between)

    def check(self) -> None:
        """No tag is there twice."""
        if len({*self.tags, *self.others}) != len(self.tags) + len(self.others):
            raise DataError("there is a tag twice.")


def _missing(found: Tagged) -> Bool[np.ndarray, " rows"]:
    return (found.codes < 0) | found.unusable


def _numbers(found: Tagged) -> np.ndarray:
    """How many tags each row has, nan = missing."""
    return np.where(_missing(found), np.nan, np.append(found.sizes, 0)[found.codes].astype(np.float64))


class Tags:
    """Any number of several tags."""

    role: Role = "tags"
    state = TagsColumn
    nested = True
    orders = levels = False

    def parse(self, cells: Cells) -> Tagged:
        """As sets of tags."""
        return cells.read_levels(to_tags, between=find_between(cells.levels))

    def guess(self, fact: Facts) -> Guess | None:
        """Lists whose items come back, and texts whose parts come back far more often than whole cells."""
        if fact.cells.nested is not None:
            return self._guess_lists(fact) if _may_be_lists(fact.cells.nested) else None
        if not fact.cells.holds_texts or fact.numeric or fact.boolean or fact.date_reason or fact.mostly_numeric:
            return None
        levels = _sampled(fact.cells.levels)
        used, counts = np.unique(levels.codes[levels.codes >= 0], return_counts=True)
        names = pd.Series(levels.names[used], dtype="str")
        if counts[names.str.fullmatch(_BRACKETS).to_numpy(dtype=bool)].sum() >= _LISTS * counts.sum():
            found = to_tags(levels, between="list")
            plain = not found.wrong.any() and found.sizes.max(initial=0) == 1 and not _holds(names, "[").any()
            return None if plain else self._guess_lists(fact)  # one word in braces may be an id
        if len(used) < 2 or counts.sum() < UNIQUE_ROWS or url_share(fact) > 0:
            return None
        for sign in SIGNS[1:]:
            often = counts[_holds(names, sign)].sum() >= _SEPARATED * counts.sum()
            if often and _come_back(to_tags(levels, between=sign)):
                found_tags = fact.cells.read_levels(to_tags, between=sign)
                return Guess(self.role, f"{sign!r} between tags: {_told(found_tags)}")
        return None

    def _guess_lists(self, fact: Facts) -> Guess:
        found = fact.cells.read_levels(to_tags, between="list")
        counts = found.rows_of_tags
        if not fact.count:
            return Guess("ignored", "no values at all")
        bad = int(found.unusable.sum())
        if bad > (1 - _LISTS) * fact.count:
            start = "" if fact.cells.nested is not None else "texts of "
            return Guess("ignored", f"{start}objects, or lists of objects or of lists: no tags")
        if not len(found.tags):
            return Guess("ignored", "lists without an item, no tags")
        if np.mean([has_ending(tag) for tag in found.tags]) > _FEW_REPEAT:
            return Guess("ignored", "lists of names of photos")
        if counts[counts > 1].sum() < _FEW_REPEAT * counts.sum():
            return Guess("ignored", f"lists of {len(found.tags):,} items that hardly repeat")
        if len(found.tags) == 1 and counts[0] == len(fact.column):
            return Guess("ignored", f"one tag only, {short(str(found.tags[0]))}")
        return Guess(self.role, f"lists of tags: {_told(found)}", _bad_note(found))

    def check(self, fact: Facts) -> str:
        """How many tags there are; objects are none."""
        if fact.cells.nested is not None and not _may_be_lists(fact.cells.nested):
            refuse_nested(fact, self.role)
        found = self.parse(fact.cells)
        refuse_if(not len(found.tags), fact, self.role, "tags", found.unusable)
        return joined(_told(found), _bad_note(found))

    def missing(self, cells: Cells) -> int:
        """Empty cells; a list without a tag is none."""
        return empty_cells(cells)

    def fit(self, cells: Cells, weight: Weight) -> TagsColumn:
        """The tags that are frequent enough; rows are counted, whatever they weigh."""
        between = find_between(cells.levels)
        found = cells.read_levels(to_tags, between=between)
        counts = found.rows_of_tags
        often = (counts >= LEAST_ROWS) & (counts < len(cells))
        ranked = [tag for tag, _ in _ranked(found, often)[:MOST_TAGS]]
        others = set(found.tags[counts > 0]) - set(ranked)
        numbers = _numbers(found)
        return TagsColumn(
            name=cells.name,
            between=between,
            tags=tuple(ranked),
            others=tuple(sorted(others)),
            number=NumberState.fit(numbers, weight),
            flag=bool(np.isnan(numbers).any()),
        )

    def describe(self, cells: Cells) -> tuple[float, str]:
        """How many tags there are, and the most frequent."""
        found = self.parse(cells)
        return float(_missing(found).mean()), _told(found)

    def values(self, cells: Cells) -> Int64[np.ndarray, " rows"]:
        """By whole cell."""
        return cells.levels.codes


def _ranked(found: Tagged, chosen: Bool[np.ndarray, " tags"]) -> list[tuple[str, int]]:
    """Tags and in how many rows they are, the most frequent first."""
    pairs = zip(found.tags[chosen], found.rows_of_tags[chosen], strict=True)
    return sorted(((str(tag), int(count)) for tag, count in pairs), key=lambda pair: (-pair[1], pair[0]))


def _told(found: Tagged) -> str:
    """How many tags rows have, and the most frequent: "12 tags, most often 'wifi' (200), 'pool' (80)"."""
    ranked = _ranked(found, found.rows_of_tags > 0)
    if not ranked:
        return "no tags"
    shown = ", ".join(f"{short(tag)} ({count:,})" for tag, count in ranked[:_SHOWN])
    return f"{len(ranked):,} tag{'' if len(ranked) == 1 else 's'}, most often {shown}"


def _bad_note(found: Tagged) -> str:
    bad = int(found.unusable.sum())
    return f"{bad} of {len(found.codes)} cells are not tags, treated as missing" if bad else ""


def _come_back(found: Tagged) -> bool:
    """Whether parts of cells are tags: short, no numbers, and repeated far more often than whole cells, which are no
    records with a place for each part (a town and its state, a name and a first name)."""
    rows, counts = found.rows_of_cells, found.rows_of_tags
    sizes, tags = found.sizes, pd.Series(found.tags, dtype="str")
    if len(tags) < 2 or rows[sizes > 1].sum() < _SEPARATED * rows.sum():
        return False
    if tags.str.len().median() > _LONGEST or tags.map(has_ending).mean() > _FEW_REPEAT:
        return False
    numbers = tags.str.contains("[0-9]") & ~tags.str.contains(r"[^\W\d_]")
    if counts[numbers.to_numpy(dtype=bool)].sum() > _FEW_REPEAT * counts.sum():
        return False
    alone = np.zeros(len(rows), dtype=bool)
    alone[found.cell[counts[found.tag] < 2]] = True
    if rows[alone].sum() > (1 - _REPEATED) * rows.sum():
        return False
    places = pd.Series(found.place).groupby(found.tag).nunique()
    if len(np.unique(sizes)) == 1 and (places == 1).all():
        return False
    return bool(counts.sum() / len(tags) >= _OFTEN * rows.sum() / len(rows))


def _may_be_lists(nested: str) -> bool:
    """Whether cells of a type are lists, and not of files, by its name."""
    return "binary" not in nested and nested.startswith(
        ("list", "large_list", "fixed_size_list", "tuple", "set", "frozenset", "ndarray")
    )


def _sampled(levels: Levels) -> Levels:
    return Levels(levels.codes[:: max(1, len(levels.codes) // _SAMPLE)], levels.names)
