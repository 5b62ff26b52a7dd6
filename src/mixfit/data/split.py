"""Train, validation and test rows: given, drawn or by time, decided before anything is fitted."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64, Num, Shaped

from mixfit.data.columns.cells import Cells, Table
from mixfit.data.columns.schema import Schema
from mixfit.errors import ConfigError, DataError, unknown_column


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """When each row is."""

    value: Num[np.ndarray, " rows"]
    """Microseconds since 1970, or the numbers of the column."""
    dates: bool

    @classmethod
    def of(cls, column: pd.Series | Cells) -> "Times":
        """Read a column of dates or of numbers, whichever more of its cells are.

        Raises:
            ConfigError: the cells are no plain values.
            DataError: a cell is neither a date nor a finite number, or is empty.
        """
        column = Cells.of(column)
        if column.nested is not None:
            raise ConfigError(f"column {column.name!r} cannot split by time: its cells are of type {column.nested}.")
        times, numbers = column.dates().times, column.numbers.values
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
            cell = column.keys.iloc[first]
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
    column: pd.Series | Cells,
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
    column = Cells.of(column)
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


def _too_few_times(column: Cells, times: int, parts: int) -> DataError:
    return DataError(
        f"column {column.name!r} has {times} different times, and {parts} parts are to be split by it: "
        "choose another column, or split by chance."
    )


def _nothing_before(column: Cells, parts: Shaped[np.ndarray, " rows"], what: str) -> DataError:
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


def time_ranks(column: pd.Series | Cells) -> Int64[np.ndarray, " rows"]:
    """Place of each row's time among the different times of a column, from 0; raises as ``Times.of``."""
    return np.unique(Times.of(column).value, return_inverse=True)[1].astype(np.int64)


def describe_times(column: pd.Series | Cells, parts: Mapping[str, Int64[np.ndarray, " rows"]]) -> str:
    """From when to when each part goes, for a person: "train 1927 to 1996, valid 1997, test 1998 to 2000"."""
    column = Cells.of(column)
    texts, spans = column.keys, []
    chosen = {name: rows for name, rows in parts.items() if len(rows)}
    every = np.concatenate(list(chosen.values()))
    ranks = pd.Series(time_ranks(column.select(every)), index=every)
    for name, rows in chosen.items():
        first, last = (texts.iloc[int(row)] for row in (ranks.loc[rows].idxmin(), ranks.loc[rows].idxmax()))
        spans.append(f"{name} {first}" if first == last else f"{name} {first} to {last}")
    return ", ".join(spans)


SplitName = Literal["train", "valid", "test"]

SPLIT_ALIASES: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "fit": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "development": "valid",
    "test": "test",
    "testing": "test",
    "holdout": "test",
    "hold-out": "test",
    "hold_out": "test",
}
"""Lower-case words of a split column, and what they mean."""

MINIMUM_ROWS = 10
_TARGET_BINS = 10
_PARTS: tuple[SplitName, ...] = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Positions of rows, int64, sorted; no row is in two parts."""

    train: Int64[np.ndarray, " train"]
    valid: Int64[np.ndarray, " valid"]
    test: Int64[np.ndarray, " test"]

    def of(self, name: SplitName) -> Int64[np.ndarray, " rows"]:
        """The rows of one part."""
        return self.parts()[name]

    def parts(self) -> dict[str, Int64[np.ndarray, " rows"]]:
        """The rows of every part by its name."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


def split_rows(
    table: pd.DataFrame | Table,
    schema: Schema,
    *,
    valid: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    time: str | None = None,
    gap: str | None = None,
    unit: Int64[np.ndarray, " rows"] | None = None,
) -> Split:
    """Split rows that all have a usable target: by time, by the split column where there is one, or by a seeded draw.

    By time the latest rows are test and those before them valid, see ``parts_by_time``; a row that cannot be used
    without knowing of the test rows is in no part. The draw keeps units whole and spreads classes (or tenths of a
    numeric target) evenly; every class with two rows or more has one in train. A split column without validation rows
    gives up a drawn share ``valid`` of its training rows.

    Args:
        table: rows in any order; positions in the result count from its first row.
        schema: says which columns are target, group and split.
        valid: share of rows in [0, 1) that choose the best epoch.
        test: share of rows in [0, 1) held back; not used when there is a split column.
        seed: another seed, another draw.
        time: column of dates or numbers to split by; the schema must not have a split column then.
        gap: time before the first test row in which no row is used.
        unit: of each row: which are drawn together, see ``Ties.joined``; by default the groups.
    Raises:
        ConfigError: the shares leave nothing to train on, the seed is negative, or ``time`` cannot split the rows.
        DataError: there are fewer than 10 rows, the split column holds an unknown word or no training rows, a group
            that was set by hand is on two sides of the split column, or a row has no time.
    """
    table = Table.of(table)
    if not (valid >= 0 and test >= 0 and valid + test < 1):
        raise ConfigError(f"valid and test must be shares that leave rows to train, got {valid} and {test}.")
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}.")
    if len(table) < MINIMUM_ROWS:
        raise DataError(
            f"the table has {len(table)} usable rows; at least {MINIMUM_ROWS} are needed to train and judge."
        )
    unit = group_of_row(table, schema) if unit is None else unit
    names = schema.names("split")
    if time is not None:
        _check_time(table, schema, time)
        return _as_split(parts_by_time(table[time], unit, valid=valid, test=test, gap=gap))
    strata, classes = strata_of_rows(table, schema), schema.task != "regression"
    rng = np.random.default_rng(seed)
    if not names:
        return _as_split(draw(unit, strata, classes=classes, valid=valid, test=test, rng=rng))
    parts = split_labels(table[names[0]])
    if not (parts == "train").any():
        name = names[0]
        raise DataError(f"no row is marked train in the split column {name!r}: there is nothing to train on.")
    check_groups(table, schema, names[0], parts)
    if valid > 0 and not (parts == "valid").any():
        train = np.flatnonzero(parts == "train")
        parts[train] = draw(unit[train], strata[train], classes=classes, valid=valid, test=0.0, rng=rng)
    return _as_split(parts)


def split_labels(column: pd.Series | Cells) -> Shaped[np.ndarray, " rows"]:
    """``train``, ``valid`` or ``test`` for each cell of a split column, as an array of objects.

    Raises:
        DataError: a cell is empty or holds another word.
    """
    column = Cells.of(column)
    keys = column.keys
    labels = keys.str.lower().map(SPLIT_ALIASES)
    wrong = np.flatnonzero(labels.isna())
    if len(wrong):
        cell = keys.iloc[wrong[0]]
        found = "is empty" if pd.isna(cell) else f"is {cell!r}"
        raise DataError(
            f"{len(wrong)} of {len(column)} cells of the split column {column.name!r} are not train, valid or test, "
            f"the first in row {_row(column, int(wrong[0]))} {found}; correct them or use --ignore {column.name}."
        )
    return labels.to_numpy(dtype=object)


def groups_on_two_sides(group_keys: pd.Series, parts: Shaped[np.ndarray, " rows"]) -> list[str]:
    """Groups, sorted, that have rows in more than one part; rows without a group are passed over."""
    counts = pd.Series(parts, index=group_keys.to_numpy()).groupby(level=0, sort=True).nunique()
    return [str(name) for name in counts.index[counts.to_numpy() > 1]]


def _check_time(table: Table, schema: Schema, time: str) -> None:
    if time not in table:
        raise unknown_column(time, table.names)
    if time == schema.target:
        raise ConfigError(f"column {time!r} is the target, so the rows cannot be split by it; choose another column.")
    if given := schema.names("split"):
        raise ConfigError(
            f"the rows cannot be split by {time!r} and by the split column {given[0]!r} too; choose one of them."
        )


def check_groups(table: Table, schema: Schema, split_name: str, parts: Shaped[np.ndarray, " rows"]) -> None:
    """Refuse a given split that tears groups apart which were set by hand; of others ``infer_schema`` warns.

    Raises:
        DataError: how many groups, and the first.
    """
    for column in schema.columns:
        if column.role != "group" or column.found_group:
            continue
        torn = groups_on_two_sides(table[column.name].keys, parts)
        if torn:
            raise DataError(
                f"{len(torn)} groups of column {column.name!r} are in more than one part of the split {split_name!r}, "
                f"the first is {torn[0]!r}; correct the split, or leave one of the two columns out with --ignore."
            )


def _row(column: Cells, position: int) -> int:
    """The row as the user counts it: the caller may have left rows out, but keeps their numbers as index."""
    label = column.index[position]
    return int(label) if isinstance(label, int | np.integer) else position


def _as_split(parts: Shaped[np.ndarray, " rows"]) -> Split:
    return Split(*(np.flatnonzero(parts == name).astype(np.int64) for name in _PARTS))


def group_of_row(table: pd.DataFrame | Table, schema: Schema) -> Int64[np.ndarray, " rows"]:
    """Number of the group of each row; a row without group is a group of its own.

    Where several columns are groups, rows that share any of them belong together, and so on along the chain."""
    table = Table.of(table)
    if not schema.names("group"):
        return np.arange(len(table))
    return joined_codes([table[name].levels.codes for name in schema.names("group")])


def joined_codes(columns: Sequence[Int64[np.ndarray, " rows"]]) -> Int64[np.ndarray, " rows"]:
    """Number of the connected component of each row, where equal codes of a column connect; -1 does not."""
    return connected(len(columns[0]), [(np.flatnonzero(codes >= 0), codes[codes >= 0]) for codes in columns])


def connected(
    items: int, links: Sequence[tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]]
) -> Int64[np.ndarray, " items"]:
    """Number of the connected component of each item, from 0.

    Args:
        items: how many there are.
        links: pairs of an item and the number of a link, from 0; items of one link are connected.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends, nodes = [np.zeros((2, 0), np.int64)], items
    for item, link in links:
        ends.append(np.stack([item, link + nodes]))
        nodes += int(link.max(initial=-1)) + 1
    item, link = np.concatenate(ends, axis=1)
    graph = coo_array((np.ones(len(item), np.int8), (item, link)), shape=(nodes, nodes))
    labels = connected_components(graph, directed=False)[1][:items]
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def strata_of_rows(table: pd.DataFrame | Table, schema: Schema) -> Float[np.ndarray, " rows"]:
    """What is to be spread evenly: the class as a number, or the rank of the target in [0, 1).

    With weights a rank is the weight of all rows below, and half of that of the equal ones: a row of weight 2 moves the
    others as two rows would. A row whose weight is not usable counts as the mean of the others do."""
    table = Table.of(table)
    goal = table[schema.target]
    if schema.task == "regression":
        values = pd.Series(goal.numbers.values)
        weighted = [name for name in schema.names("weight") if name in table]
        if weighted:
            weights = table[weighted[0]].numbers.values
            usable = weights > 0
            counts = weights / weights[usable].max(initial=1e-300)
            counts[~usable] = counts[usable].mean() if usable.any() else 1.0
            _, place = np.unique(values.to_numpy(), return_inverse=True)
            mass = np.bincount(place, weights=counts)
            # Rounded, so that another unit of the weights moves no row across the edge of a tenth.
            return np.round((np.cumsum(mass) - mass / 2)[place] / mass.sum(), 9)
        return (values.rank(method="average", na_option="top").to_numpy() - 0.5) / len(values)
    return np.array(pd.factorize(goal.keys, sort=True)[0], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Units:
    """What is drawn or dealt whole: groups, and rows without one."""

    of_row: Int64[np.ndarray, " rows"]
    """Number of the unit that each row belongs to."""
    sizes: Int64[np.ndarray, " units"]
    strata: Float[np.ndarray, " units"]
    random: Float[np.ndarray, " units"]
    order: Int64[np.ndarray, " units"]
    """Units by stratum, then by size up to a factor of two, then at random: neighbours are alike."""

    @classmethod
    def shuffled(
        cls,
        groups: Int64[np.ndarray, " rows"],
        strata: Float[np.ndarray, " rows"],
        rng: np.random.Generator,
        *,
        classes: bool,
    ) -> "Units":
        """Put units in order; ``strata`` are classes, or ranks of a numeric target in [0, 1)."""
        _, of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        strata_of_unit = _strata_of_units(strata, of_row, sizes, classes=classes)
        random = rng.random(len(sizes))
        order = np.lexsort((random, np.floor(np.log2(sizes)), strata_of_unit))
        return cls(of_row, sizes, strata_of_unit, random, order)


def draw(
    groups: Int64[np.ndarray, " rows"],
    strata: Float[np.ndarray, " rows"],
    *,
    classes: bool,
    valid: float,
    test: float,
    rng: np.random.Generator,
) -> Shaped[np.ndarray, " rows"]:
    """The part of each row, groups whole: sorted by stratum and size, every k-th is taken from a random start."""
    units = Units.shuffled(groups, strata, rng, classes=classes)
    order, sizes, unit_of_row = units.order, units.sizes, units.of_row
    eligible = np.ones(len(sizes), dtype=bool)
    if classes:  # one unit of each class stays in train
        first = np.lexsort((units.random, units.strata))
        starts = np.flatnonzero(np.diff(units.strata[first], prepend=-np.inf))
        eligible[first[starts]] = False
    quotas = [share * len(groups) for share in (valid, test) if share > 0]
    eligible &= sizes <= max(min(quotas, default=0.0), 1.0)  # a giant would unbalance the part it falls into
    order = order[eligible[order]]
    inflation = sizes.sum() / max(sizes[order].sum(), 1)
    test_share, valid_share = test * inflation, valid * inflation
    if test_share + valid_share > 1:
        test_share, valid_share = test / (test + valid), valid / (test + valid)
    part = np.full(len(sizes), "train", dtype=object)
    taken = _every_kth(len(order), test_share, rng)
    part[order[taken]] = "test"
    rest = order[~taken]
    part[rest[_every_kth(len(rest), min(1.0, valid_share / max(1 - test_share, 1e-9)), rng)]] = "valid"
    _fill_empty_parts(part, sizes, units.random, valid=valid, test=test)
    parts = part[unit_of_row]
    if classes:
        _bring_classes_back(parts, strata, unit_of_row)
    return parts


def _strata_of_units(
    strata: Float[np.ndarray, " rows"],
    unit_of_row: Int64[np.ndarray, " rows"],
    sizes: Int64[np.ndarray, " units"],
    *,
    classes: bool,
) -> Float[np.ndarray, " units"]:
    """A group's most frequent class, or the tenth that its mean rank is in."""
    if classes:
        counts = pd.DataFrame({"unit": unit_of_row, "stratum": strata}).value_counts(sort=False).reset_index()
        counts = counts.sort_values(["unit", "count", "stratum"], ascending=[True, False, True])
        return counts.drop_duplicates("unit")["stratum"].to_numpy(dtype=np.float64)
    bins = min(_TARGET_BINS, max(1, len(sizes) // _TARGET_BINS))
    return np.floor(np.bincount(unit_of_row, weights=strata) / sizes * bins)


def _every_kth(count: int, share: float, rng: np.random.Generator) -> Shaped[np.ndarray, " count"]:
    """Mask of evenly spaced positions that hold a share of them, from a random start."""
    steps = np.floor(np.arange(count + 1) * share + rng.random())
    return np.diff(steps) > 0


def _fill_empty_parts(
    part: Shaped[np.ndarray, " units"],
    sizes: Int64[np.ndarray, " units"],
    shuffled: Float[np.ndarray, " units"],
    *,
    valid: float,
    test: float,
) -> None:
    """With few or large groups a wanted part may be empty: give it the smallest group of train, or of the other part
    where train has only one."""
    for name, other, share in (("valid", "test", valid), ("test", "valid", test)):
        for donor in ("train", other):
            groups = np.flatnonzero(part == donor)
            if share > 0 and not (part == name).any() and len(groups) > 1:
                part[groups[np.lexsort((shuffled[groups], sizes[groups]))[0]]] = name
    for name, share in (("valid", valid), ("test", test)):
        if share > 0 and not (part == name).any():
            raise DataError(
                f"{len(part)} group{'' if len(part) == 1 else 's'} cannot fill {_listed(valid, test)}; at least "
                f"{1 + (valid > 0) + (test > 0)} are needed, or another group column."
            )


def _listed(valid: float, test: float) -> str:
    return "train, valid and test" if valid > 0 and test > 0 else f"train and {'valid' if valid > 0 else 'test'}"


def _bring_classes_back(
    parts: Shaped[np.ndarray, " rows"], strata: Float[np.ndarray, " rows"], unit_of_row: Int64[np.ndarray, " rows"]
) -> None:
    """Give train one group of each class that it lacks."""
    for lacking in np.setdiff1d(strata, strata[parts == "train"]):
        parts[unit_of_row == unit_of_row[np.flatnonzero(strata == lacking)[0]]] = "train"
