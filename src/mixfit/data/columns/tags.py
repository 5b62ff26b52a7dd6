"""Columns of tags: an indicator for each frequent tag, and the number of tags of each row.

A cell is a list, a list written as text (``["a", "b"]``, ``{a,b}``), or texts with a separator ("a, b")."""

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
"""The separator of the tags in all cells of a column; "list" for lists, also if written as text."""
SIGNS: tuple[Between, ...] = get_args(Between)
MOST_TAGS = 48
"""Number of tags that get an indicator, the most frequent first; others only count towards the number of tags."""
LEAST_ROWS = 5
"""A tag in fewer training rows gets no indicator."""

_SAMPLE = 20_000  # rows; enough to estimate a share
_LISTS = 0.9  # share of the cells that must be lists
_SEPARATED = 0.2  # share of the cells that must contain the separator
_REPEATED = 0.9  # share of the cells that must have no tag of their own
_OFTEN = 3.0  # tags must repeat this many times as often as whole cells
_ONCE = 0.9  # share of the tags in one row only, above which a role set by the user is doubted
_FEW_REPEAT = 0.5  # share of the list items
_LONGEST = 40  # characters; largest median length of a tag
_SHOWN = 3
_RUNNING_WORDS = 3.0  # of the parts of running text, at the mean of all occurrences
_STOP = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'»”)\]]*\s*$")  # at the end of a sentence
_BRACKETS = re.compile(r"\[.*\]|\(.*\)|\{.*\}", re.DOTALL)
_OBJECT = re.compile(r"""\{\s*(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\w+)\s*:.*\}""", re.DOTALL)
_ITEM = re.compile(r"""\s*(?:[uU]?"((?:[^"\\]|\\.)*)"|[uU]?'((?:[^'\\]|\\.)*)'|([^,]+))""", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Tagged:
    """A column as sets of tags; equal cells are parsed once."""

    codes: Int64[np.ndarray, " rows"]
    """Index of each row's distinct cell, -1 if it is empty."""
    cell: Int64[np.ndarray, " pairs"]
    """Index of the distinct cell in each pair of a cell and one of its tags; sorted, without duplicate pairs."""
    tag: Int64[np.ndarray, " pairs"]
    """Index of the tag in each pair."""
    place: Int64[np.ndarray, " pairs"]
    """Position of the tag in its cell, from 0."""
    tags: pd.Index
    """All tags of the table, dtype str."""
    wrong: Bool[np.ndarray, " cells"]
    """Cells that do not hold tags: objects, or lists of lists."""

    def take(self, rows: Int64[np.ndarray, " some"]) -> "Tagged":
        """The given rows, in that order."""
        return Tagged(self.codes[rows], self.cell, self.tag, self.place, self.tags, self.wrong)

    @property
    def unusable(self) -> Bool[np.ndarray, " rows"]:
        """Rows whose cell does not hold tags."""
        return np.append(self.wrong, np.False_)[self.codes]

    @property
    def rows_of_cells(self) -> Int64[np.ndarray, " cells"]:
        """Number of rows with each distinct cell."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.wrong))

    @property
    def rows_of_tags(self) -> Int64[np.ndarray, " tags"]:
        """Number of rows with each tag."""
        counts = np.bincount(self.tag, weights=self.rows_of_cells[self.cell], minlength=len(self.tags))
        return counts.astype(np.int64)

    @property
    def sizes(self) -> Int64[np.ndarray, " cells"]:
        """Number of tags in each distinct cell."""
        return np.bincount(self.cell, minlength=len(self.wrong))


def to_tags(levels: Levels, *, between: Between) -> Tagged:
    """Parse the distinct cells that occur in at least one row.

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
    """The tags of a cell in their order; None if it holds something else.

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
    """Whether a text is a list in JSON, Python or PostgreSQL notation, rather than an object."""
    return _BRACKETS.fullmatch(text) is not None and not _OBJECT.fullmatch(text)


def find_between(levels: Levels) -> Between:
    """The separator of the tags: "list" if most cells are lists, otherwise the one that occurs in most cells."""
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
    """The fitted state of a column: the tags that get an indicator, and the scale of the number of tags."""

    role: ClassVar[Role] = "tags"
    saved_as: ClassVar[str] = "tags"
    cardinality: ClassVar[int] = 0
    name: str
    between: Between
    tags: tuple[str, ...]
    """Tags with an indicator, the most frequent first."""
    others: tuple[str, ...]
    """Other tags of the training rows, which are too rare or constant; not reported as unseen."""
    number: NumberState
    """Scaling of the number of tags."""
    flag: bool
    """Whether there is an indicator of missing values."""

    @property
    def outputs(self) -> list[str]:
        """Names of the output columns."""
        flag = [f"{self.name} is missing"] if self.flag else []
        return [*(f"{self.name}: {tag}" for tag in self.tags), f"{self.name}: number of tags", *flag]

    def transform(self, cells: Cells) -> ColumnArrays:
        """The tag indicators, the z-score of the number of tags, and the indicator of missing values."""
        found = self._read(cells)
        wanted = pd.Index(self.tags, dtype="str").get_indexer(found.tags)[found.tag]
        has = np.zeros((len(found.wrong) + 1, len(self.tags)))  # the last row is that of empty cells
        has[found.cell[wanted >= 0], wanted[wanted >= 0]] = 1.0
        missing = _missing(found)
        flag = [missing.astype(np.float64)] if self.flag else []
        return ColumnArrays([*has[found.codes].T, self.number.apply(_numbers(found)), *flag])

    def problems(self, cells: Cells) -> list[BadInput]:
        """Cells with a tag not seen in training, and cells that are not lists of tags."""
        found = self._read(cells)
        new = ~found.tags.isin([*self.tags, *self.others])[found.tag]
        problem = np.full(len(found.wrong) + 1, "", dtype=object)
        for cell, tag in zip(found.cell[new][::-1], found.tag[new][::-1], strict=True):
            problem[cell] = f"tag {short(str(found.tags[tag]))} not seen in training"
        problem = problem[found.codes]
        unseen = bad_cells(cells, (problem != "") & ~found.unusable, problem, "tag left out")
        return [*unseen, *bad_cells(cells, found.unusable, "not a list of tags", "cell treated as missing")]

    def _read(self, cells: Cells) -> Tagged:
        return cells.read_levels(to_tags, between=self.between)

    def check(self) -> None:
        """No tag occurs twice."""
        if len({*self.tags, *self.others}) != len(self.tags) + len(self.others):
            raise DataError("a tag occurs twice.")


def _missing(found: Tagged) -> Bool[np.ndarray, " rows"]:
    return (found.codes < 0) | found.unusable


def _numbers(found: Tagged) -> np.ndarray:
    """Number of tags of each row, nan = missing."""
    return np.where(_missing(found), np.nan, np.append(found.sizes, 0)[found.codes].astype(np.float64))


class Tags:
    """Columns of tags."""

    role: Role = "tags"
    state = TagsColumn
    nested = True
    orders = levels = False

    def parse(self, cells: Cells) -> Tagged:
        """Parse as sets of tags."""
        return cells.read_levels(to_tags, between=find_between(cells.levels))

    def guess(self, fact: Facts) -> Guess | None:
        """Tags if the items of lists repeat, or if parts of texts repeat far more often than whole cells."""
        if fact.cells.nested is not None:
            return self._guess_lists(fact) if _may_be_lists(fact.cells.nested) else None
        if not fact.cells.holds_texts or fact.numeric or fact.boolean or fact.date_reason or fact.mostly_numeric:
            return None
        levels = _sampled(fact.cells.levels)
        used, counts = np.unique(levels.codes[levels.codes >= 0], return_counts=True)
        names = pd.Series(levels.names[used], dtype="str")
        brackets = names.str.startswith(("[", "(", "{")).to_numpy(dtype=bool, copy=True)
        brackets[brackets] = names[brackets].str.fullmatch(_BRACKETS).to_numpy(dtype=bool)
        if counts[brackets].sum() >= _LISTS * counts.sum():
            found = to_tags(levels, between="list")
            plain = not found.wrong.any() and found.sizes.max(initial=0) == 1 and not _holds(names, "[").any()
            return None if plain else self._guess_lists(fact)  # a single word in braces may be an id
        if len(used) < 2 or counts.sum() < UNIQUE_ROWS or url_share(fact) > 0:
            return None
        if counts[names.str.contains(_STOP).to_numpy(dtype=bool)].sum() > _FEW_REPEAT * counts.sum():
            return None  # running text
        for sign in SIGNS[1:]:
            often = counts[_holds(names, sign)].sum() >= _SEPARATED * counts.sum()
            if often and _come_back(to_tags(levels, between=sign)):
                found_tags = fact.cells.read_levels(to_tags, between=sign)
                return Guess(self.role, f"tags separated by {sign!r}: {_told(found_tags)}")
        return None

    def _guess_lists(self, fact: Facts) -> Guess:
        found = fact.cells.read_levels(to_tags, between="list")
        counts = found.rows_of_tags
        if not fact.count:
            return Guess("ignored", "no values at all")
        bad = int(found.unusable.sum())
        if bad > (1 - _LISTS) * fact.count:
            start = "" if fact.cells.nested is not None else "texts of "
            return Guess("ignored", f"{start}objects, or lists of objects or lists, not tags")
        if not len(found.tags):
            return Guess("ignored", "empty lists, no tags")
        if np.mean([has_ending(tag) for tag in found.tags]) > _FEW_REPEAT:
            return Guess("ignored", "lists of photo names")
        if counts[counts > 1].sum() < _FEW_REPEAT * counts.sum():
            return Guess("ignored", f"lists of {len(found.tags):,} items that rarely repeat")
        if len(found.tags) == 1 and counts[0] == len(fact.column):
            return Guess("ignored", f"one tag only, {short(str(found.tags[0]))}")
        return Guess(self.role, f"lists of tags: {_told(found)}", _bad_note(found))

    def check(self, fact: Facts) -> str:
        """A note on the number of tags; objects are refused."""
        if fact.cells.nested is not None and not _may_be_lists(fact.cells.nested):
            refuse_nested(fact, self.role)
        found = self.parse(fact.cells)
        refuse_if(not len(found.tags), fact, self.role, "tags", found.unusable)
        return joined(_told(found), _bad_note(found), _doubt(fact, found))

    def missing(self, cells: Cells) -> int:
        """Empty cells; a list without tags is not missing."""
        return empty_cells(cells)

    def fit(self, cells: Cells, weight: Weight) -> TagsColumn:
        """Fit the tags that are frequent enough; frequencies are unweighted."""
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
        """The share of missing values, the number of tags, and the most frequent tags."""
        found = self.parse(cells)
        return float(_missing(found).mean()), _told(found)

    def values(self, cells: Cells) -> Int64[np.ndarray, " rows"]:
        """By whole cell."""
        return cells.levels.codes


def _ranked(found: Tagged, chosen: Bool[np.ndarray, " tags"]) -> list[tuple[str, int]]:
    """Tags with their number of rows, the most frequent first."""
    pairs = zip(found.tags[chosen], found.rows_of_tags[chosen], strict=True)
    return sorted(((str(tag), int(count)) for tag, count in pairs), key=lambda pair: (-pair[1], pair[0]))


def _told(found: Tagged) -> str:
    """The number of tags and the most frequent ones: "12 tags, most frequent: 'wifi' (200), 'pool' (80)"."""
    ranked = _ranked(found, found.rows_of_tags > 0)
    if not ranked:
        return "no tags"
    shown = ", ".join(f"{short(tag)} ({count:,})" for tag, count in ranked[:_SHOWN])
    return f"{len(ranked):,} tag{'' if len(ranked) == 1 else 's'}, most frequent: {shown}"


def _bad_note(found: Tagged) -> str:
    bad = int(found.unusable.sum())
    return f"{bad} of {len(found.codes)} cells are not tags, treated as missing" if bad else ""


def _doubt(fact: Facts, found: Tagged) -> str:
    """Why a column that was set to be tags hardly is one."""
    if fact.cells.nested is not None:
        return ""
    name, example = fact.name, short(str(fact.counts.index[0]))
    if fact.date_reason:
        return f"the cells are {fact.date_reason}, no lists of tags: --set {name}=date"
    if fact.mostly_numeric:
        written = f" ({said})" if (said := fact.cells.form.describe()) else ""
        return f"the cells are numbers such as {example}{written}, no lists of tags: --set {name}=number"
    counts = found.rows_of_tags
    once, every = int((counts == 1).sum()), int((counts > 0).sum())
    if once > _ONCE * every:
        return f"{once:,} of {every:,} tags are in one row only, so the cells may be no lists of tags"
    return ""


def _come_back(found: Tagged) -> bool:
    """Whether the parts of cells are tags: short, not numbers, repeated far more often than whole cells, and not fields
    with a fixed position (city and state, last and first name)."""
    rows, counts = found.rows_of_cells, found.rows_of_tags
    sizes, tags = found.sizes, pd.Series(found.tags, dtype="str")
    if len(tags) < 2 or rows[sizes > 1].sum() < _SEPARATED * rows.sum():
        return False
    if tags.str.len().median() > _LONGEST or tags.map(has_ending).mean() > _FEW_REPEAT:
        return False
    words = tags.str.count(r"\S+").to_numpy(dtype=np.int64)
    if words @ counts >= _RUNNING_WORDS * counts.sum():
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
    """Whether the name of a type is that of a list, and not of a list of files."""
    return "binary" not in nested and nested.startswith(
        ("list", "large_list", "fixed_size_list", "tuple", "set", "frozenset", "ndarray")
    )


def _sampled(levels: Levels) -> Levels:
    return Levels(levels.codes[:: max(1, len(levels.codes) // _SAMPLE)], levels.names)
