"""Which rows fit and which judge when no row may learn from its future: parts and blocks in the order of time.

In: a column of dates or numbers, and the unit of each row. Out: the part of each row, or the blocks of folds that go
forward. Nothing is drawn by chance. Knows nothing of schemas, targets or features."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64, Num, Shaped

from mixfit.data.values import is_day_first, plain_cells_problem, to_keys, to_numbers, to_times
from mixfit.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """When each row is."""

    value: Num[np.ndarray, " rows"]
    """Microseconds since 1970, or the numbers of the column."""
    dates: bool

    @classmethod
    def of(cls, column: pd.Series) -> "Times":
        """Read a column of dates or of numbers, whichever more of its cells are.

        Raises:
            ConfigError: the cells are no plain values.
            DataError: a cell is neither a date nor a finite number, or is empty.
        """
        nested = plain_cells_problem(column)
        if nested is not None:
            raise ConfigError(f"column {column.name!r} cannot split by time: its cells are of type {nested}.")
        times, _ = to_times(column, day_first=is_day_first(column))
        numbers = to_numbers(column).values
        # Years are both, and 2020 is in order either way; a column of dates has hardly a cell that is a number.
        are_dates = bool(np.isnan(numbers).sum() > np.isnat(times).sum())
        unknown = np.isnat(times) if are_dates else np.isnan(numbers)
        if unknown.all():
            raise DataError(
                f"none of the {len(column)} cells of column {column.name!r} is a date or a number to split by; choose "
                "another column."
            )
        if unknown.any():
            first = int(unknown.argmax())
            cell = to_keys(column).iloc[first]
            label = column.index[first]
            row = int(label) if isinstance(label, int | np.integer) else first
            raise DataError(
                f"{unknown.sum()} of {len(column)} cells of column {column.name!r} hold no time to split by, the first "
                f"in row {row} {'is empty' if pd.isna(cell) else f'is {cell[:40]!r}'}; such a row may be from the "
                "future: fill the cells in, or leave these rows out of the table."
            )
        return cls(times.astype("datetime64[us]").astype(np.int64) if are_dates else numbers, are_dates)

    def take(self, rows: Int64[np.ndarray, " some"]) -> "Times":
        """Those of some rows."""
        return Times(self.value[rows], self.dates)

    def length(self, gap: str | None) -> float:
        """How long a gap is, in the unit of ``value``; 0 for none.

        Raises:
            ConfigError: it is no duration for dates, no number for numbers, or negative.
        """
        if gap is None:
            return 0.0
        wanted = "a duration such as 30d, 12h or 2w" if self.dates else "a number, such as 3, as the times are numbers"
        try:
            days = re.sub(r"(?<=\d)\s*[dw]\b", lambda unit: unit.group().upper(), gap)  # pandas takes D and W
            found = pd.Timedelta(days) / pd.Timedelta(microseconds=1) if self.dates else float(gap)
        except ValueError as error:
            raise ConfigError(f"The gap of a split by time must be {wanted}; got {gap!r}.") from error
        if not 0 <= found < np.inf or (self.dates and gap.strip().replace(".", "").isdigit()):
            raise ConfigError(f"The gap of a split by time must be {wanted}; got {gap!r}.")
        return float(found)


def parts_by_time(
    column: pd.Series,
    units: Int64[np.ndarray, " rows"],
    *,
    valid: float,
    test: float,
    gap: str | None = None,
) -> Shaped[np.ndarray, " rows"]:
    """``train``, ``valid`` or ``test`` for each row: the latest are test, those before them valid, the rest train.

    Equal times stay in one part, so that the shares are met as nearly as whole times allow. An earlier row that
    belongs to the unit of a test row is ``shared``, and one in the gap before the test is ``gap``: both are left out,
    as whoever learns from them knows something of the test rows, and whoever is judged on them has learnt from their
    future. Between train and valid a unit goes with its latest row.

    Args:
        column: dates or numbers; whichever more of its cells are.
        units: number of the unit of each row; all different where no rows belong together.
        valid: share of rows that choose the best epoch, 0 for none.
        test: share of rows that judge, 0 for none.
        gap: time before the first test row in which no row is used.
    Raises:
        ConfigError: the cells are no plain values, or the gap is none.
        DataError: a row has no time (it might be from the future), there are too few different times, or no row
            before the test is left to train on.
    """
    times = Times.of(column)
    parts = np.full(len(column), "train", dtype=object)
    wanted = 1 + (valid > 0) + (test > 0)
    different = np.unique(times.value)
    if len(different) < wanted:
        raise _too_few_times(column, len(different), wanted)
    if test > 0:
        start = _start(times.value, test * len(column), different[wanted - 1 :])
        parts[times.value >= start] = "test"
        earlier = parts == "train"
        shared = earlier & np.isin(units, units[~earlier])
        parts[shared] = "shared"
        parts[(parts == "train") & (times.value >= start - times.length(gap))] = "gap"
    left = np.flatnonzero(parts == "train")
    if valid > 0 and len(left):
        _, unit = np.unique(units[left], return_inverse=True)
        latest = np.full(unit.max() + 1, -np.inf)
        np.maximum.at(latest, unit, times.value[left].astype(np.float64))
        latest_of_row = latest[unit]
        if len(np.unique(latest_of_row)) < 2:
            raise _nothing_before(column, parts, "train and validation")
        start = _start(latest_of_row, valid * len(column), np.unique(latest_of_row)[1:])
        parts[left[latest_of_row >= start]] = "valid"
    if not (parts == "train").any():
        raise _nothing_before(column, parts, "train")
    return parts


def latest_part(
    times: Times, units: Int64[np.ndarray, " rows"], share: float, *, gap: float
) -> Shaped[np.ndarray, " rows"]:
    """``valid`` for the latest rows, ``train`` for those before them, "" for what gap and shared units leave out.

    Args:
        share: of the rows, that are to be the latest part.
        gap: in the unit of ``times``.
    """
    different = np.unique(times.value)
    parts = np.full(len(units), "train", dtype=object)
    if len(different) < 2:
        return parts
    start = _start(times.value, share * len(units), different[1:])
    parts[times.value >= start] = "valid"
    earlier = parts == "train"
    parts[earlier & (np.isin(units, units[~earlier]) | ((times.value >= start - gap) & (gap > 0)))] = ""
    return parts


def _start(values: Num[np.ndarray, " rows"], rows: float, allowed: Num[np.ndarray, " times"]) -> float:
    """The time from which on the number of rows is nearest to ``rows``, among those allowed."""
    later = len(values) - np.searchsorted(np.sort(values), allowed, side="left")
    return float(allowed[int(np.abs(later - rows).argmin())])


def _too_few_times(column: pd.Series, times: int, parts: int) -> DataError:
    return DataError(
        f"column {column.name!r} has {times} different times, and {parts} parts are to be split by it: "
        "choose another column, or split by chance."
    )


def _nothing_before(column: pd.Series, parts: Shaped[np.ndarray, " rows"], what: str) -> DataError:
    return DataError(
        f"the rows before the test leave nothing to {what}: {(parts == 'shared').sum()} belong to a group or are a "
        f"copy of a test row, {(parts == 'gap').sum()} are in the gap before the test by {column.name!r}; set the "
        "group column to another role with --set, choose a smaller gap, or split by chance."
    )


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Folds that go forward in time: each block is judged by models of rows before it."""

    number: Int64[np.ndarray, " rows"]
    """Block of each row, from 0; -1 for rows that are only fitted on."""
    fit: tuple[Bool[np.ndarray, " rows"], ...]
    """Rows that may be fitted on for each block: before its start and the gap, of no unit that is in it."""


def forward_blocks(
    times: Times, units: Int64[np.ndarray, " rows"], count: int, *, gap: float = 0.0, least: int = 1
) -> Blocks:
    """Cut rows into blocks of as nearly equal size as whole times allow; the first two shares are only fitted on.

    Args:
        units: rows of one unit may be in several blocks, but the fit rows of a block have none of its units.
        count: blocks, where there are so many different times.
        gap: between fit rows and block, in the unit of ``times``.
        least: fit rows that a block needs; one with fewer is only fitted on.
    """
    order = np.sort(times.value)
    wanted = [round(len(order) * (2 + place) / (count + 2)) for place in range(count)]
    starts = np.unique([order[place] for place in wanted if order[place] > order[0]])
    block = np.searchsorted(starts, times.value, side="right") - 1
    number = np.full(len(order), -1, dtype=np.int64)
    fit: list[np.ndarray] = []
    for place, start in enumerate(starts.tolist()):
        inside = block == place
        before = (times.value < start - gap) if gap else (times.value < start)
        before &= ~np.isin(units, units[inside])
        if before.sum() >= least:
            number[inside] = len(fit)
            fit.append(before)
    return Blocks(number, tuple(fit))


def time_ranks(column: pd.Series) -> Int64[np.ndarray, " rows"]:
    """Place of each row's time among the different times of a column, from 0; raises as ``Times.of``."""
    return np.unique(Times.of(column).value, return_inverse=True)[1].astype(np.int64)


def describe_times(column: pd.Series, parts: Mapping[str, Int64[np.ndarray, " rows"]]) -> str:
    """From when to when each part goes, for a person: "train 1927 to 1996, valid 1997, test 1998 to 2000"."""
    texts, spans = to_keys(column), []
    chosen = {name: rows for name, rows in parts.items() if len(rows)}
    every = np.concatenate(list(chosen.values()))
    ranks = pd.Series(time_ranks(column.iloc[every]), index=every)
    for name, rows in chosen.items():
        first, last = (texts.iloc[int(row)] for row in (ranks.loc[rows].idxmin(), ranks.loc[rows].idxmax()))
        spans.append(f"{name} {first}" if first == last else f"{name} {first} to {last}")
    return ", ".join(spans)
