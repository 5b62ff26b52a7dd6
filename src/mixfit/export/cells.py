"""Cells inside the graph: the inputs of the file, and the columns that an encoder makes of them.

In: fitted states of columns, and one named input a column. Out: variables that hold what ``RowEncoder.encode`` would
return for the same cells. Raw cells enter once; each encoder (of a fold, of the intervals) has its own scales and
levels."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import spox.opset.ai.onnx.ml.v5 as ml
import spox.opset.ai.onnx.v20 as op
from spox import Tensor, Var, argument

from mixfit.data.columns.category import CategoryColumn
from mixfit.data.columns.date import DECIMALS, DateColumn
from mixfit.data.columns.kind import ColumnState
from mixfit.data.columns.number import LARGEST_SCORE, NumberColumn, NumberState
from mixfit.data.columns.ordered import OrderedColumn
from mixfit.data.columns.tags import TagsColumn
from mixfit.export.ops import (
    DOUBLE,
    FLOAT,
    INT,
    NotExportable,
    as_type,
    beside,
    clip,
    columns,
    const,
    floor_divided,
    log1p,
    repeated,
    rows_of,
    where,
)
from mixfit.models.encoding import PrefixColumn, RowEncoder
from mixfit.models.model import Components

Made = TypeVar("Made")
MISSING_TIME = np.iinfo(np.int64).min
"""In place of a missing date."""
_DAY = 86_400_000_000  # microseconds
_LONGEST_PREFIX = 64


@dataclass(kw_only=True)
class CellInputs:
    """The inputs of the file that hold cells, made when an encoder first asks for them."""

    inputs: dict[str, Var] = field(default_factory=dict)
    """By name in the file."""
    told: list[dict[str, Any]] = field(default_factory=list)
    """What each input holds, for the metadata."""
    tags: dict[str, list[str]] = field(default_factory=dict)
    """By column of tags, all tags that any encoder knows."""
    _made: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], Made]) -> Made:
        """What was made under this key, else ``make()``."""
        if key not in self._made:
            self._made[key] = make()
        found: Made = self._made[key]
        return found

    def of(self, column: str, what: str, dtype: Any, *width: int, **told: Any) -> Var:
        """An input for a column.

        Args:
            what: what it holds: ``number``, ``text``, ``time`` ...
            width: of a matrix; none for a vector.
            told: more for the metadata.
        """

        def make() -> Var:
            name = self._legal(column if what in _PLAIN else f"{column} {what}")
            self.inputs[name] = argument(Tensor(dtype, ("rows", *width)))
            self.told.append({"input": name, "column": column, "holds": what, **told})
            return self.inputs[name]

        return self.once(("input", column, what), make)

    def agree(self, column: str, what: str, value: object) -> None:
        """Require that all folds read a column alike, as the file has its cells once.

        Raises:
            NotExportable: they do not.
        """
        if self.once(("agree", column, what), lambda: value) != value:
            raise NotExportable(
                f"the folds read the column {column!r} in different ways ({what}), so it cannot be written as ONNX: "
                "write its cells in one way and train again, or predict with mixfit."
            )

    def _legal(self, name: str) -> str:
        """Letters, digits and underscores, and unlike all others and those that spox gives: ``Cast_0_output``."""
        plain = re.sub(r"\W", "_", name, flags=re.ASCII) or "_"
        taken = plain in RESERVED or re.match(r"\d|[A-Z][A-Za-z]*_\d+_", plain)
        plain = f"column_{plain}" if taken else plain
        found, number = plain, 1
        while found in self.inputs:
            number += 1
            found = f"{plain}_{number}"
        return found

    @property
    def rows(self) -> Var:
        """Number of rows ``(1,)``; an input of its own if no column is one."""
        first = next((one for name, one in self.inputs.items() if name not in RESERVED), None)
        if first is not None:
            return rows_of(first)
        self.inputs.setdefault("row_count", argument(Tensor(INT, (1,))))
        return self.inputs["row_count"]


RESERVED = (
    *("photos", "photo_sizes", "photo_rows", "photo_columns", "row_count"),
    *("prediction", "lower", "upper", "probabilities", "prediction_set"),
)
"""Names that no column's input has: of other inputs, and of outputs."""
_PLAIN = ("number", "category", "time")


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """As ``EncodedRows``, as variables; None instead of no columns."""

    rows: Var
    """Their number, ``(1,)``."""
    numeric: Var | None
    """float32 ``(rows, numbers)``."""
    numbers: int
    levels: Sequence[Var]
    """int64 ``(rows,)`` each: of the categories, and then of the prefixes."""
    photos: Var | None = None
    """float32 ``(rows, d)``."""
    seen: Var | None = None
    """bool ``(rows,)``; None if no row has a photo."""
    photo_scores: Var | None = None
    """float32 ``(rows, scores)``."""
    text: Var | None = None
    """float32 ``(rows, texts, width)``."""
    text_seen: Var | None = None
    """bool ``(rows, texts)``."""
    text_shape: tuple[int, int] = (0, 0)
    """Texts and width."""
    components: list[tuple[Components, Var]] = field(default_factory=list)
    """Those of the photos that are in the graph, so that models which share them have them once."""

    @property
    def seen_number(self) -> Var:
        """Whether a row has a photo, float64 ``(rows,)``."""
        return repeated(np.zeros(()), self.rows) if self.seen is None else as_type(self.seen, DOUBLE)

    @property
    def text_columns(self) -> list[Var]:
        """float32: all features of texts side by side, and then whether each is there; [] without texts."""
        if self.text is None or self.text_seen is None:
            return []
        return [op.flatten(self.text, axis=1), as_type(self.text_seen, FLOAT)]


def encoded_cells(encoder: RowEncoder, inputs: CellInputs) -> tuple[Var | None, list[Var]]:
    """Numbers, float32 ``(rows, numeric)``, and levels, int64 ``(rows,)``, of an encoder.

    Raises:
        NotExportable: a column is of a custom kind.
    """
    numbers, levels = list[tuple[Var, NumberState | None]](), list[Var]()
    for state in encoder.preprocessor.columns:
        found, level = _column(state, inputs)
        numbers += found
        levels += [] if level is None else [level]
    levels += [_prefix(prefix, encoder.prefixes, inputs) for prefix in encoder.prefixes]
    return (_scaled(numbers, inputs) if numbers else None), levels


def _column(state: ColumnState, inputs: CellInputs) -> tuple[list[tuple[Var, NumberState | None]], Var | None]:
    """The numbers of a column, each with the scale that it still needs, and its level."""
    match state:
        case NumberColumn():
            values = inputs.of(state.name, "number", DOUBLE)
            values = inputs.once(("finite", state.name), lambda: where(op.isinf(values), np.nan, values))
            missing = inputs.once(("missing", state.name), lambda: as_type(op.isnan(values), DOUBLE))
            return [(values, state.scale), *[(missing, None)][: state.flag]], None
        case CategoryColumn():
            return [], _level(inputs.of(state.name, "category", np.str_), state.levels)
        case OrderedColumn():
            level = _level(inputs.of(state.name, "category", np.str_), state.levels)
            rank = where(op.greater(level, const(0, INT)), as_type(level, DOUBLE), np.nan)
            return [(rank, state.scale)], level
        case DateColumn():
            return _date(state, inputs), None
        case TagsColumn():
            return _tags(state, inputs), None
        case _:
            raise NotExportable(
                f"the column {state.name!r} is of the custom kind {state.role!r}, which mixfit cannot write as ONNX: "
                "leave it out with --set COLUMN=ignored and train again, or predict with mixfit."
            )


def _level(cells: Var, levels: Iterable[str]) -> Var:
    """The number of each cell's level from 1; 0 = missing or unseen."""
    names = list(levels)
    if not names:
        return repeated(np.zeros((), np.int64), rows_of(cells))
    return ml.label_encoder(cells, keys_strings=names, values_int64s=list(range(1, len(names) + 1)), default_int64=0)


def _prefix(prefix: PrefixColumn, every: Sequence[PrefixColumn], inputs: CellInputs) -> Var:
    """The level of the first characters of a cell: the number of each of them, and then of all together.

    ONNX cannot cut texts, but tell whether a text matches a pattern: one for each place and character."""
    name, length = prefix.category.name, prefix.length
    cells = inputs.of(name, "category", np.str_)
    if length > _LONGEST_PREFIX:
        raise NotExportable(f"the codes of the column {name!r} are too long for the file: predict with mixfit.")
    signs = [sorted({level[place : place + 1] for level in prefix.category.levels}) for place in range(length)]
    key = repeated(np.zeros((), np.int64), rows_of(cells))
    keys = np.zeros(len(prefix.category.levels), dtype=np.int64)
    known = None
    base = max(map(len, signs), default=0) + 1
    if base**length >= 2**62:
        raise NotExportable(f"the codes of the column {name!r} have too many characters: predict with mixfit.")
    for place, here in enumerate(signs):
        number = None
        for rank, sign in enumerate(here):
            match = inputs.once(("sign", name, place, sign), partial(_has_sign, cells, place, sign))
            one = as_type(match, INT) * (rank + 1)
            number = one if number is None else number + one
        if number is None:
            continue
        there = op.greater(number, const(0, INT))
        known = there if known is None else op.and_(known, there)
        key = key * base + number
        keys = keys * base + np.array([here.index(level[place : place + 1]) + 1 for level in prefix.category.levels])
    if known is None:
        return key
    level = ml.label_encoder(
        key, keys_int64s=keys.tolist(), values_int64s=list(range(1, len(keys) + 1)), default_int64=0
    )
    return where(known, level, 0)


def _has_sign(cells: Var, place: int, sign: str) -> Var:
    """Whether cells have this character at this place; "" for texts that have ended before."""
    pattern = f"(?s).{{{place}}}{_escaped(sign)}.*" if sign else f"(?s).{{1,{place}}}"
    return op.regex_full_match(cells, pattern=pattern)


def _escaped(sign: str) -> str:
    """A character as it is, for RE2."""
    return sign if sign.isalnum() else f"\\x{{{ord(sign):x}}}"


def _scaled(numbers: Sequence[tuple[Var, NumberState | None]], inputs: CellInputs) -> Var:
    """All numbers, those with a scale by it, float32 ``(rows, numbers)``; as ``NumberState.apply``, for all at once."""
    first = [(one, scale) for one, scale in numbers if scale is not None]
    others = [one for one, scale in numbers if scale is None]
    places = np.argsort(np.argsort([scale is None for _, scale in numbers], kind="stable"), kind="stable")
    parts = []
    if first:
        scales = [scale for _, scale in first]
        raw = [one for one, _ in first]
        values = inputs.once(("raw", *map(id, raw)), lambda: columns(raw))
        log = np.array([scale.log for scale in scales])
        if log.any():
            logged = inputs.once(("log", *map(id, raw)), lambda: op.sign(values) * log1p(op.abs(values)))
            values = where(const(log[None]), logged, values)
        values = where(op.isnan(values), const([[scale.fill for scale in scales]], DOUBLE), values)
        std = np.array([[scale.std for scale in scales]])
        mean = np.array([[scale.mean for scale in scales]])
        scored = (values / 4.0 - const(mean / 4)) / const(np.where(std > 0, std, 4.0) / 4)
        parts.append(clip(scored, -LARGEST_SCORE, LARGEST_SCORE) * const((std > 0).astype(np.float64)))
    if others:
        parts.append(columns(others))
    joined = beside(parts)
    if not np.array_equal(places, np.arange(len(numbers))):
        joined = op.gather(joined, const(places, INT), axis=1)
    return as_type(joined, FLOAT)


def _tags(state: TagsColumn, inputs: CellInputs) -> list[tuple[Var, NumberState | None]]:
    """Indicators of tags, and their number."""
    inputs.agree(state.name, "the sign between tags", state.between)
    known = inputs.tags[state.name]
    has = inputs.of(state.name, "tags", DOUBLE, len(known), tags=known)
    count = inputs.of(state.name, "number of tags", DOUBLE)
    place = {tag: number for number, tag in enumerate(known)}
    each = [(op.gather(has, const(place[tag]), axis=1), None) for tag in state.tags]
    flag = [(as_type(op.isnan(count), DOUBLE), None)] if state.flag else []
    return [*each, (count, state.number), *flag]


def _date(state: DateColumn, inputs: CellInputs) -> list[tuple[Var, NumberState | None]]:
    """Parts of dates and positions in their cycles, as ``DateColumn.transform``."""
    name, zone = state.name, state.zone
    inputs.agree(name, "the order of day and month", state.day_first)
    times = inputs.of(name, "time", INT, unit="microseconds since 1970-01-01 in UTC", missing=int(MISSING_TIME))
    local = times
    if zone != "UTC":
        local = inputs.of(
            name, f"time in {zone}", INT, unit="microseconds since 1970-01-01 by the clocks there", zone=zone
        )
    missing = inputs.once(("no time", name), lambda: op.equal(times, const(MISSING_TIME)))
    utc, clock = (
        inputs.once(("time", name, which), partial(where, missing, 0, one))
        for which, one in (("UTC", times), (zone, local))
    )
    days, since_midnight = floor_divided(clock, _DAY)
    year, month, day, first = inputs.once(("calendar", name, zone), lambda: _calendar(days))
    minutes = as_type(since_midnight, DOUBLE) / 60e6
    hour = op.floor(minutes / 60.0)
    week_day = op.mod(days + 3, const(7, INT))
    parts: dict[str, Callable[[], Var]] = {
        "year": lambda: as_type(year, DOUBLE),
        "month": lambda: as_type(month, DOUBLE),
        "day": lambda: as_type(day, DOUBLE),
        "day of week": lambda: as_type(week_day, DOUBLE),
        "hour": lambda: hour,
        "minute": lambda: minutes - hour * 60.0,
        "hours ahead of UTC": lambda: as_type(clock - utc, DOUBLE) / 3_600e6,
        "days elapsed": lambda: as_type(utc - state.origin, DOUBLE) / float(_DAY),
    }
    turns: dict[str, Callable[[], Var]] = {
        "season": lambda: as_type(days - first, DOUBLE) / 365.25,
        "week": lambda: as_type(week_day, DOUBLE) / 7.0,
        "time": lambda: as_type(since_midnight, DOUBLE) / float(_DAY),
    }
    found: list[tuple[Var, NumberState | None]] = [
        (where(missing, np.nan, parts[part]()), scale) for part, scale in zip(state.parts, state.scales, strict=True)
    ]
    for circle in state.circles:
        angle = turns[circle]() * (2 * np.pi)
        halves = [half(angle) for half in (op.sin, op.cos)]
        if state.rounded:
            halves = [op.round(half * 10.0**DECIMALS) / 10.0**DECIMALS for half in halves]
        found += [(where(missing, 0.0, half), None) for half in halves]
    return [*found, *([(as_type(missing, DOUBLE), None)] if state.flag else [])]


def _calendar(days: Var) -> tuple[Var, Var, Var, Var]:
    """Year, month, day of the month, and the day number of the first of January, of days since 1970-01-01.

    Years are counted from March, so that a leap day is the last of its year; 400 years have 146,097 days (Richards
    2013, Explanatory Supplement to the Astronomical Almanac, section 15.11)."""

    def whole(x: Var, by: int) -> Var:
        return op.div(x, const(by, INT))

    era, of_era = floor_divided(days + 719_468, 146_097)
    year = whole(of_era - whole(of_era, 1_460) + whole(of_era, 36_524) - whole(of_era, 146_096), 365)
    of_year = of_era - (year * 365 + whole(year, 4) - whole(year, 100))
    march = whole(of_year * 5 + 2, 153)
    day = of_year - whole(march * 153 + 2, 5) + 1
    early = op.less(march, const(10, INT))
    month = where(early, march + 3, march - 9)
    year = year + era * 400 + where(early, 0, op.sign(march))
    before = year - 1
    leaps = floor_divided(before, 4)[0] - floor_divided(before, 100)[0] + floor_divided(before, 400)[0]
    return year, month, day, before * 365 + leaps - 719_162
