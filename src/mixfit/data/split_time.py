"""Which rows train, choose and judge when no row may learn from its future: the parts of a split by time.

In: a column of dates or numbers, and the group of each row. Out: the part of each row. Nothing is drawn by chance.
Knows nothing of schemas, targets or features."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Int64, Shaped

from mixfit.data.values import is_day_first, plain_cells_problem, to_keys, to_numbers, to_times
from mixfit.errors import ConfigError, DataError


def parts_by_time(
    column: pd.Series, groups: Int64[np.ndarray, " rows"], *, valid: float, test: float
) -> Shaped[np.ndarray, " rows"]:
    """``train``, ``valid`` or ``test`` for each row: the latest are test, those before them valid, the rest train.

    Equal times stay in one part, so that the shares are met as nearly as whole times allow. A group goes with its
    latest row: it stays whole, and no row that is trained on is as late as the latest row of a group that judges.

    Args:
        column: dates or numbers; whichever more of its cells are.
        groups: number of the group of each row; all different where there are none.
        valid: share of rows that choose the best epoch, 0 for none.
        test: share of rows that judge, 0 for none.
    Raises:
        ConfigError: the cells are no plain values.
        DataError: a row has no time (it might be from the future), or there are too few different times.
    """
    _, group_of_row = np.unique(groups, return_inverse=True)
    latest = np.full(group_of_row.max(initial=-1) + 1, -1, dtype=np.int64)
    np.maximum.at(latest, group_of_row, time_ranks(column))
    times, rank, rows_at = np.unique(latest[group_of_row], return_inverse=True, return_counts=True)
    wanted = 1 + (valid > 0) + (test > 0)
    if len(times) < wanted:
        what = "times" if len(latest) == len(column) else "latest times of groups"
        raise DataError(
            f"column {column.name!r} has {len(times)} different {what}, and {wanted} parts are to be split by it: "
            "choose another column, or split by chance."
        )
    rows_from = np.append(np.cumsum(rows_at[::-1])[::-1], 0)  # rows at this time and later
    test_start = valid_start = len(times)
    if test > 0:
        test_start = wanted - 1 + int(np.abs(rows_from[wanted - 1 : -1] - test * len(column)).argmin())
    if valid > 0:
        held_back = rows_from[1:test_start] - rows_from[test_start]
        valid_start = 1 + int(np.abs(held_back - valid * len(column)).argmin())
    parts = np.full(len(column), "train", dtype=object)
    parts[rank >= valid_start] = "valid"
    parts[rank >= test_start] = "test"
    return parts


def time_ranks(column: pd.Series) -> Int64[np.ndarray, " rows"]:
    """Place of each row's time among the different times of a column, from 0 for the earliest.

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
    are_dates = np.isnan(numbers).sum() > np.isnat(times).sum()
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
            f"{unknown.sum()} of {len(column)} cells of column {column.name!r} hold no time to split by, the first in "
            f"row {row} {'is empty' if pd.isna(cell) else f'is {cell[:40]!r}'}; such a row may be from the future: "
            "fill the cells in, or leave these rows out of the table."
        )
    return np.unique(times.astype(np.int64) if are_dates else numbers, return_inverse=True)[1].astype(np.int64)


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
