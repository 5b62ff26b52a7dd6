"""Columns of dates and times: calendar and clock parts, cyclic encodings, and days since the median date."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64

from mixfit.choices import Role
from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.cells import Cells
from mixfit.data.columns.facts import Facts
from mixfit.data.columns.kind import ColumnArrays, Guess, Weight, bad_cells, joined, refuse_if
from mixfit.data.columns.number import NumberState
from mixfit.data.columns.values import OWN_ZONE, Dates, first_twofold
from mixfit.errors import DataError
from mixfit.files import Within, shown
from mixfit.weighted import taken, weighted_median

_DAY, _HOUR, _MINUTE = np.timedelta64(1, "D"), np.timedelta64(1, "h"), np.timedelta64(1, "m")
_FURTHEST = 2**62  # microseconds, 146,000 years
_IF_VARYING = ("hour", "minute", "hours ahead of UTC")
Part = Literal["year", "month", "day", "day of week", "hour", "minute", "hours ahead of UTC", "days elapsed"]
Circle = Literal["season", "week", "time"]
DECIMALS = 6
"""Of sines and cosines. The last digits depend on who computes them, and a tree may split 0 from 1e-16."""
_EARLIER: tuple[Part, ...] = ("year", "month", "day of week", "days elapsed")


@dataclass(frozen=True, slots=True, kw_only=True)
class DateColumn:
    """The fitted state of a date column."""

    role: ClassVar[Role] = "date"
    saved_as: ClassVar[str] = "dates"
    cardinality: ClassVar[int] = 0
    name: str
    day_first: bool
    origin: Annotated[int, Within(-_FURTHEST, _FURTHEST)]
    """Median of the training dates, in microseconds since 1970."""
    scales: tuple[NumberState, ...]
    """Scaling of each part."""
    flag: bool
    """Whether there is an indicator of missing values."""
    parts: tuple[Part, ...] = _EARLIER
    """Calendar and clock parts; the default is for states saved before other parts existed."""
    circles: tuple[Circle, ...] = ("season",)
    """Cycles (year, week, day) that are encoded as sine and cosine."""
    zone: str = "UTC"
    """Time zone in which the parts are computed: that of the training rows, see ``Dates.in_zone``."""
    rounded: bool = False
    """Whether sines and cosines are rounded to ``DECIMALS``; False is for states saved before they were."""

    @property
    def outputs(self) -> list[str]:
        """Names of the output columns."""
        circles = [f"{circle} {half}" for circle in self.circles for half in ("sine", "cosine")]
        return [f"{self.name} {part}" for part in (*self.parts, *circles, *["is missing"][: self.flag])]

    def transform(self, cells: Cells) -> ColumnArrays:
        """The scaled parts, the cyclic encodings, and the indicator of missing values."""
        found = cells.dates(day_first=self.day_first)
        parts = _calendar(found, self.zone, self.origin)
        scaled = [scale.apply(parts[part]) for scale, part in zip(self.scales, self.parts, strict=True)]
        missing = np.isnat(found.times)
        circles = [turn for circle in self.circles for turn in _circle(found, self.zone, circle)]
        if self.rounded:
            circles = [turn.round(DECIMALS) for turn in circles]
        return ColumnArrays([*scaled, *circles, *([missing.astype(np.float64)] if self.flag else [])])

    def problems(self, cells: Cells) -> list[BadInput]:
        """Cells that are not dates."""
        return bad_cells(
            cells, cells.dates(day_first=self.day_first).unparsable, "not a date", "cell treated as missing"
        )

    def check(self) -> None:
        """Each part has a scale, and the time zone exists."""
        if len(self.scales) != len(self.parts):
            raise DataError(f"a date column has {len(self.scales)} scales instead of {len(self.parts)}.")
        if self.zone not in ("UTC", OWN_ZONE):
            try:
                pd.Timestamp(0, tz=self.zone)
            except (KeyError, ValueError, OSError):
                raise DataError(f"the time zone {shown(self.zone)!r} does not exist.") from None


class Date:
    """Date columns."""

    role: Role = "date"
    state = DateColumn
    nested = orders = levels = False

    def parse(self, cells: Cells) -> Dates:
        """Parse as dates, with the day first if the table shows that order."""
        return cells.dates()

    def guess(self, fact: Facts) -> Guess | None:
        """A date column if its type is a date, its texts are dates, or its digits are dates and its name says so."""
        if not fact.date_reason:
            return None
        return Guess(self.role, fact.date_reason, self._strays(fact))

    def check(self, fact: Facts) -> str:
        """A note on how many cells are not dates."""
        refuse_if(bool(np.isnat(fact.dates.times).all()), fact, self.role, "dates", fact.dates.unparsable)
        return self._strays(fact)

    def _strays(self, fact: Facts) -> str:
        """A note on cells that are not dates, and on ambiguous dates."""
        bad = int(fact.dates.unparsable.sum())
        notes = [f"{bad} of {len(fact.column)} cells are not dates, treated as missing" if bad else ""]
        if not fact.cells.typed_dates and fact.cells.order_of_dates is None:
            twofold = first_twofold(fact.cells.levels)
            notes.append(f"{twofold!r} is read as month first, because no cell shows the order" if twofold else "")
        return joined(*notes)

    def missing(self, cells: Cells) -> int:
        """Empty cells and missing-value markers."""
        return int((np.isnat(cells.dates().times) & ~cells.dates().unparsable).sum())

    def fit(self, cells: Cells, weight: Weight) -> DateColumn:
        """Fit the median date and the scales of the parts."""
        times = cells.dates().times
        there = ~np.isnat(times)
        seen = times[there].astype(np.int64)
        origin = round(weighted_median(seen.astype(np.float64), taken(weight, there))) if len(seen) else 0
        every = _calendar(cells.dates(), cells.zone, origin)
        varying = {part: len(np.unique(values[~np.isnan(values)])) > 1 for part, values in every.items()}
        clock = varying["hour"] or varying["minute"]
        usual = [] if cells.clock else [part for part in every if part not in _IF_VARYING]
        parts = [part for part in every if part in usual or (part in _IF_VARYING and varying[part])]
        turns: tuple[Circle, ...] = ("season", "week", "time")
        return DateColumn(
            name=cells.name,
            day_first=cells.day_first,
            origin=origin,
            scales=tuple(NumberState.fit(every[part], weight, may_log=False) for part in parts),
            flag=not there.all(),
            parts=tuple(parts),
            circles=turns[2:] if cells.clock else turns[: 2 + clock],
            zone=cells.zone,
            rounded=True,
        )

    def describe(self, cells: Cells) -> tuple[float, str]:
        """The share of missing values, and the first and last day."""
        times = cells.dates().times
        known = times[~np.isnat(times)]
        missing = float(np.isnat(times).mean())
        if not len(known):
            return missing, ""
        if cells.clock:
            return missing, " to ".join(str(end)[11:16] for end in (known.min(), known.max()))
        days = known.astype("datetime64[D]")
        return missing, f"{days.min()} to {days.max()}"

    def values(self, cells: Cells) -> Int64[np.ndarray, " rows"]:
        """By time."""
        return np.unique(cells.dates().times, return_inverse=True)[1].astype(np.int64)


def _calendar(dates: Dates, zone: str, origin: int) -> dict[Part, Float[np.ndarray, " rows"]]:
    """All parts in local time of a zone: day of week from Monday = 0, minutes including seconds; also days since
    ``origin``, which do not depend on the zone. nan where there is no date."""
    times, missing = dates.in_zone(zone), np.isnat(dates.times)
    days = times.astype("datetime64[D]")
    months = times.astype("datetime64[M]")
    minutes = (times - days) / _MINUTE
    months_passed = months.astype(np.int64)
    parts: dict[Part, np.ndarray] = {
        "year": months_passed // 12 + 1970,
        "month": months_passed % 12 + 1,
        "day": (days - months) / _DAY + 1,
        "day of week": (days.astype(np.int64) + 3) % 7,  # 1970-01-01 was a Thursday
        "hour": minutes // 60,
        "minute": minutes % 60,
        "hours ahead of UTC": (times - dates.times) / _HOUR,
        "days elapsed": (dates.times - np.datetime64(origin, "us")) / _DAY,
    }
    return {part: np.where(missing, np.nan, values) for part, values in parts.items()}


def _circle(dates: Dates, zone: str, circle: Circle) -> list[Float[np.ndarray, " rows"]]:
    """Sine and cosine of the position within the year, the week or the day; 0 where there is no date."""
    times, missing = dates.in_zone(zone), np.isnat(dates.times)
    days = times.astype("datetime64[D]")
    if circle == "season":
        turn = (days - times.astype("datetime64[Y]")) / _DAY / 365.25
    elif circle == "week":
        turn = ((days.astype(np.int64) + 3) % 7) / 7
    else:
        turn = (times - days) / _DAY
    angle = np.where(missing, 0.0, turn) * (2 * np.pi)
    return [np.where(missing, 0.0, np.sin(angle)), np.where(missing, 0.0, np.cos(angle))]
