"""Columns of dates: calendar parts, the season as a point on a circle, and the days since a middle date."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float, Int64, Shaped

from mixfit.choices import Role
from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.cells import Cells
from mixfit.data.columns.facts import Facts
from mixfit.data.columns.kind import ColumnArrays, Guess, Weight, bad_cells, refuse_if
from mixfit.data.columns.number import NumberState
from mixfit.data.columns.values import Dates
from mixfit.errors import DataError
from mixfit.files import Within
from mixfit.weighted import taken, weighted_median

_DAY = np.timedelta64(1, "D")
_FURTHEST = 2**62  # microseconds, 146,000 years
_PARTS = ("year", "month", "day of week", "days elapsed", "season sine", "season cosine", "is missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class DateColumn:
    """What was learnt of a column of dates."""

    role: ClassVar[Role] = "date"
    saved_as: ClassVar[str] = "dates"
    cardinality: ClassVar[int] = 0
    name: str
    day_first: bool
    origin: Annotated[int, Within(-_FURTHEST, _FURTHEST)]
    """Median of the training dates, microseconds since 1970."""
    scales: tuple[NumberState, ...]
    """Of year, month, day of week and days elapsed."""
    flag: bool

    @property
    def outputs(self) -> list[str]:
        """Names of the output columns."""
        return [f"{self.name} {part}" for part in _PARTS[: 6 + self.flag]]

    def transform(self, cells: Cells) -> ColumnArrays:
        """The parts of the calendar, the point on the circle, and the flags."""
        times = cells.dates(day_first=self.day_first).times
        parts = _calendar(times, self.origin)
        scaled = [scale.apply(part) for scale, part in zip(self.scales, parts, strict=True)]
        missing = np.isnat(times)
        day_of_year = (times.astype("datetime64[D]") - times.astype("datetime64[Y]")) / _DAY
        angle = np.where(missing, 0.0, day_of_year) * (2 * np.pi / 365.25)
        circle = [np.where(missing, 0.0, np.sin(angle)), np.where(missing, 0.0, np.cos(angle))]
        return ColumnArrays([*scaled, *circle, *([missing.astype(np.float64)] if self.flag else [])])

    def problems(self, cells: Cells) -> list[BadInput]:
        """Cells that are no date."""
        return bad_cells(
            cells, cells.dates(day_first=self.day_first).unparsable, "not a date", "cell treated as missing"
        )

    def check(self) -> None:
        """Four scales."""
        if len(self.scales) != 4:
            raise DataError(f"a date has {len(self.scales)} scales in place of 4.")


class Date:
    """Points in time."""

    role: Role = "date"
    state = DateColumn
    nested = orders = levels = False

    def parse(self, cells: Cells) -> Dates:
        """As dates, the day first where the table shows it."""
        return cells.dates()

    def guess(self, fact: Facts) -> Guess | None:
        """What is typed so, texts that are dates, and digits under a name that says "date"."""
        if not fact.date_reason:
            return None
        return Guess(self.role, fact.date_reason, self._strays(fact))

    def check(self, fact: Facts) -> str:
        """How many cells are no dates."""
        refuse_if(bool(np.isnat(fact.dates.times).all()), fact, self.role, "dates", fact.dates.unparsable)
        return self._strays(fact)

    def _strays(self, fact: Facts) -> str:
        bad = int(fact.dates.unparsable.sum())
        return f"{bad} of {len(fact.column)} cells are not dates, treated as missing" if bad else ""

    def missing(self, cells: Cells) -> int:
        """Empty cells and words for missing."""
        return int((np.isnat(cells.dates().times) & ~cells.dates().unparsable).sum())

    def fit(self, cells: Cells, weight: Weight) -> DateColumn:
        """The middle date, and the scales of the parts."""
        times = cells.dates().times
        there = ~np.isnat(times)
        seen = times[there].astype(np.int64)
        origin = round(weighted_median(seen.astype(np.float64), taken(weight, there))) if len(seen) else 0
        scales = tuple(NumberState.fit(part, weight, may_log=False) for part in _calendar(times, origin))
        return DateColumn(
            name=cells.name, day_first=cells.day_first, origin=origin, scales=scales, flag=not there.all()
        )

    def describe(self, cells: Cells) -> tuple[float, str]:
        """The first and the last day."""
        times = cells.dates().times
        days = times[~np.isnat(times)].astype("datetime64[D]")
        return float(np.isnat(times).mean()), f"{days.min()} to {days.max()}" if len(days) else ""

    def values(self, cells: Cells) -> Int64[np.ndarray, " rows"]:
        """By point in time."""
        return np.unique(cells.dates().times, return_inverse=True)[1].astype(np.int64)


def _calendar(times: Shaped[np.ndarray, " rows"], origin: int) -> list[Float[np.ndarray, " rows"]]:
    """Year, month, day of week (Monday = 0) and days since ``origin``; nan where there is no date."""
    missing = np.isnat(times)
    days = times.astype("datetime64[D]").astype(np.int64)
    months = times.astype("datetime64[M]").astype(np.int64)
    elapsed = (times - np.datetime64(origin, "us")) / _DAY
    parts = [months // 12 + 1970, months % 12 + 1, (days + 3) % 7, elapsed]  # 1970-01-01 was a Thursday
    return [np.where(missing, np.nan, part) for part in parts]
