"""What the data of a run are: how the values of each column are spread, and a few rows as they stand in the table.

In: the data of a training. Out: ``DataFacts``. Counts only; what a page does with it is for the templates."""

from itertools import pairwise

import numpy as np
import pandas as pd

from mixfit.data.columns.target import wants_log
from mixfit.data.columns.values import is_day_first, to_keys, to_numbers, to_times
from mixfit.data.load import MixedData
from mixfit.evaluation.facts import rows_with_photo
from mixfit.runs.report.content import DataFacts, Distribution, ShownRow
from mixfit.runs.report.figures import compact
from mixfit.runs.report.render import plural

MOST_COLUMNS = 30
BINS, LEVELS, DATE_BINS = 16, 5, 12
LONGEST_LEVEL = 40


def describe_data(mixed: MixedData, samples: list[ShownRow]) -> DataFacts:
    """Distributions of the target and of the columns in use, as far as they can be read beside each other."""
    schema = mixed.schema
    used = [c.name for c in schema.columns if c.role in ("number", "category", "date", "image", "group", "split")]
    names = [schema.target, *used]
    shown = [_distribution(mixed, name) for name in names[:MOST_COLUMNS]]
    notes = []
    if len(names) > MOST_COLUMNS:
        notes.append(f"The values of the target and of the first {MOST_COLUMNS - 1} columns in use are drawn.")
    if mixed.arrays.weight is not None:
        notes.append("Rows are counted here, whatever they weigh; all metrics are weighted.")
    if mixed.photos is not None:
        readable = len(mixed.photos.files) - len(mixed.photo_failures)
        absent = sum(record.action == "photo masked" for record in mixed.photos.bad)
        without = int((~rows_with_photo(mixed, np.arange(len(mixed.frame)))).sum())
        notes.append(
            f"{readable:,} different photos were read; {len(mixed.photo_failures):,} could not be decoded; "
            f"{plural(absent, 'cell')} named photos that are not there; {without:,} of {len(mixed.frame):,} rows have "
            "none."
        )
    return DataFacts(distributions=[one for one in shown if one is not None], samples=samples, notes=notes)


def _distribution(mixed: MixedData, name: str) -> Distribution | None:
    role = next(column.role for column in mixed.schema.columns if column.name == name)
    if role == "image":
        return _photos(mixed, name)
    if name not in mixed.frame:
        return None
    column = mixed.frame[name]
    if role == "number" or (role == "target" and mixed.schema.task == "regression"):
        return _numbers(name, to_numbers(column).values)
    if role == "date":
        return _dates(name, column)
    return _levels(name, to_keys(column))


def _numbers(name: str, values: np.ndarray) -> Distribution | None:
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, middle, high = (float(value) for value in np.quantile(values, [0, 0.5, 1]))
    distinct = len(np.unique(values))
    log = distinct > 2 and wants_log(values)
    scaled = np.log(values) if log else values
    with np.errstate(over="ignore"):
        if not np.isfinite(np.ptp(scaled)):  # too far apart for bins of equal width
            return None
    counts, bounds = np.histogram(scaled, bins=min(BINS, distinct))
    edges = np.exp(bounds) if log else bounds
    summary = f"{compact_number(low)} to {compact_number(high)}, median {compact_number(middle)}"
    return Distribution(
        column=name,
        kind="numbers",
        labels=[f"{compact_number(a)} to {compact_number(b)}" for a, b in pairwise(edges)],
        counts=[int(count) for count in counts],
        summary=summary + (" (log scale)" if log else ""),
    )


def compact_number(value: float) -> str:
    """A number of a table in few characters: whole ones as they are, others to four digits.

    >>> [compact_number(value) for value in (2019.0, 21_500.0, 5.93512, 4e12)]
    ['2019', '21,500', '5.935', '4e+12']
    """
    value = float(value)
    if abs(value) < 1e6 and value == int(value):
        return f"{int(value):,}" if abs(value) >= 1e4 else f"{int(value)}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else compact(float(f"{value:.4g}"))


def _dates(name: str, column: pd.Series) -> Distribution | None:
    times, _ = to_times(column, day_first=is_day_first(column))
    known = times[~np.isnat(times)].astype("datetime64[s]").astype(np.int64)
    if not len(known):
        return None
    counts, edges = np.histogram(known, bins=min(DATE_BINS, len(np.unique(known))))
    days = [str(np.datetime64(int(edge), "s").astype("datetime64[D]")) for edge in edges]
    return Distribution(
        column=name,
        kind="dates",
        labels=[f"{a} to {b}" for a, b in pairwise(days)],
        counts=[int(count) for count in counts],
        summary=f"{days[0]} to {days[-1]}",
    )


def _levels(name: str, keys: pd.Series) -> Distribution | None:
    counted = keys.dropna().value_counts()
    if not len(counted):
        return None
    top = counted.sort_index(kind="stable").sort_values(ascending=False, kind="stable").head(LEVELS)
    return Distribution(
        column=name,
        kind="levels",
        labels=[_cut(str(level)) for level in top.index],
        counts=[int(count) for count in top],
        summary=f"{len(counted):,} different",
        others=int(counted.sum() - top.sum()),
    )


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_LEVEL else text[: LONGEST_LEVEL - 1] + "…"


def _photos(mixed: MixedData, name: str) -> Distribution | None:
    assert mixed.photos is not None
    mine = np.array([column == name for column in mixed.photos.slot_columns])
    number = mixed.photos.readable(mixed.photo_failures)[:, mine].sum(axis=1)
    counts = np.bincount(number)
    shown = np.flatnonzero(counts)[:LEVELS].tolist()
    return Distribution(
        column=name,
        kind="photos",
        labels=["no photo" if one == 0 else f"{one} photo{'s' if one > 1 else ''}" for one in shown],
        counts=[int(counts[one]) for one in shown],
        summary="photos a row",
        others=int(len(number) - counts[shown].sum()),
    )
