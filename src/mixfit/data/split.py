"""Training, validation and test rows: given by a column, random or by time, determined before anything is fitted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64, Num, Shaped

from mixfit.choices import NUMBER_TASKS
from mixfit.config import gap_length
from mixfit.data.columns.cells import Cells, Table
from mixfit.data.columns.schema import Schema
from mixfit.errors import ConfigError, DataError, unknown_column


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """The time of each row."""

    value: Num[np.ndarray, " rows"]
    """Microseconds since 1970, or the numbers of the column."""
    dates: bool

    @classmethod
    def of(cls, column: pd.Series | Cells) -> "Times":
        """Read a column as dates or as numbers, whichever fits more of its cells.

        Raises:
            ConfigError: the cells are not plain values.
            DataError: a cell is neither a date nor a finite number, or is empty.
        """
        column = Cells.of(column)
        if column.nested is not None:
            raise ConfigError(
                f"the rows cannot be split by time by column {column.name!r}: its cells are of type {column.nested}."
            )
        times, numbers = column.dates().times, column.numbers.values
        # Years such as 2020 parse as both, in the same order; in a column of dates few other cells parse as numbers.
        are_dates = bool(np.isnan(numbers).sum() > np.isnat(times).sum())
        unknown = np.isnat(times) if are_dates else np.isnan(numbers)
        if unknown.all():
            raise DataError(
                f"none of the {len(column)} cells of column {column.name!r} is a date or a number, so the rows cannot "
                "be split by it; choose another column."
            )
        if unknown.any():
            first = int(unknown.argmax())
            cell = column.keys.iloc[first]
            label = column.index[first]
            row = int(label) if isinstance(label, int | np.integer) else first
            raise DataError(
                f"{unknown.sum()} of {len(column)} cells of column {column.name!r} hold no time to split by, the first "
                f"in row {row} {'is empty' if pd.isna(cell) else f'is {cell[:40]!r}'}; such a row may be later than "
                "the test rows: fill in the cells, or remove these rows from the table."
            )
        return cls(times.astype("datetime64[us]").astype(np.int64) if are_dates else numbers, are_dates)

    def take(self, rows: Int64[np.ndarray, " some"]) -> "Times":
        """The times of the given rows."""
        return Times(self.value[rows], self.dates)

    def length(self, gap: str | None) -> float:
        """The length of a gap in the unit of ``value``; 0 for None.

        Raises:
            ConfigError: it is not a duration (for dates) or a number (for numbers), or it is negative.
        """
        return 0.0 if gap is None else gap_length(gap, dates=self.dates)


def parts_by_time(
    column: pd.Series | Cells,
    units: Int64[np.ndarray, " rows"],
    *,
    valid: float,
    test: float,
    gap: str | None = None,
) -> Shaped[np.ndarray, " rows"]:
    """``train``, ``valid`` or ``test`` for each row: the latest are test, those before them valid, the rest train.

    Rows with equal times stay in one part, so the shares are met as closely as that allows. An earlier row of the same
    unit as a test row is ``shared``, and a row in the gap before the test rows is ``gap``: both are left out, because
    training on them would leak information about the test rows, and validating on them would use models trained on
    later rows. Between train and valid, a unit follows its latest row.

    Args:
        column: dates or numbers, whichever fits more of its cells.
        units: number of the unit of each row; all different if no rows belong together.
        valid: share of validation rows, 0 for none.
        test: share of test rows, 0 for none.
        gap: time before the first test row in which no row is used.
    Raises:
        ConfigError: the cells are not plain values, or the gap is invalid.
        DataError: a row has no time (it might be later than the test rows), there are too few different times, or no
            row before the test rows is left for training.
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
            raise _nothing_before(column, parts, "training and validation")
        start = _start(latest_of_row, valid * len(column), np.unique(latest_of_row)[1:])
        parts[left[latest_of_row >= start]] = "valid"
    if not (parts == "train").any():
        raise _nothing_before(column, parts, "training")
    return parts


def latest_part(
    times: Times, units: Int64[np.ndarray, " rows"], share: float, *, gap: float
) -> Shaped[np.ndarray, " rows"]:
    """``valid`` for the latest rows, ``train`` for those before them, "" for rows in the gap or in shared units.

    Args:
        share: share of rows in the latest part.
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
    """The allowed start time for which the number of rows from then on is closest to ``rows``."""
    later = len(values) - np.searchsorted(np.sort(values), allowed, side="left")
    return float(allowed[int(np.abs(later - rows).argmin())])


def _too_few_times(column: Cells, times: int, parts: int) -> DataError:
    return DataError(
        f"column {column.name!r} has {times} different times, too few for a split into {parts} parts: "
        "choose another column, or use a random split."
    )


def _nothing_before(column: Cells, parts: Shaped[np.ndarray, " rows"], what: str) -> DataError:
    return DataError(
        f"the split by {column.name!r} leaves no rows for {what}: of the rows before the test rows, "
        f"{(parts == 'shared').sum()} share a group with a test row or are a copy of one, and {(parts == 'gap').sum()} "
        "are in the gap; set the group column to another role with --set, choose a smaller gap, or use a random split."
    )


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Folds forward in time: each block is predicted by models fitted on earlier rows."""

    number: Int64[np.ndarray, " rows"]
    """Block of each row, from 0; -1 for rows that are only used for fitting."""
    fit: tuple[Bool[np.ndarray, " rows"], ...]
    """For each block, the rows to fit on: those before its start and the gap that share no unit with it."""


def forward_blocks(
    times: Times, units: Int64[np.ndarray, " rows"], count: int, *, gap: float = 0.0, least: int = 1
) -> Blocks:
    """Divide rows into ``count`` + 2 blocks of nearly equal size; the first two are only used for fitting.

    Args:
        units: rows of one unit may be in several blocks, but a block shares no unit with the rows it is fitted on.
        count: number of blocks to predict, if there are that many different times.
        gap: between the rows to fit on and the block, in the unit of ``times``.
        least: number of rows to fit on that a block needs; a block with fewer is only used for fitting.
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
    """Rank of each row's time among the different times of a column, from 0; raises as ``Times.of``."""
    return np.unique(Times.of(column).value, return_inverse=True)[1].astype(np.int64)


def describe_times(column: pd.Series | Cells, parts: Mapping[str, Int64[np.ndarray, " rows"]]) -> str:
    """The time span of each part, for messages: "train 1927 to 1996, valid 1997, test 1998 to 2000"."""
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
"""Labels of a split column, in lower case, and the part that each stands for."""

MINIMUM_ROWS = 10
_TARGET_BINS = 10
_PARTS: tuple[SplitName, ...] = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Row positions, int64, sorted; no row is in two parts."""

    train: Int64[np.ndarray, " train"]
    valid: Int64[np.ndarray, " valid"]
    test: Int64[np.ndarray, " test"]

    def of(self, name: SplitName) -> Int64[np.ndarray, " rows"]:
        """The rows of one part."""
        return self.parts()[name]

    def parts(self) -> dict[str, Int64[np.ndarray, " rows"]]:
        """The rows of each part, by name."""
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
    """Split rows that all have a usable target: by time, by the split column if there is one, or at random.

    By time, the latest rows are test and those before them valid, see ``parts_by_time``; a row that would leak
    information about the test rows is in no part. The random split keeps units whole and is stratified by class (or by
    decile of a numeric target); every class with two rows or more has one in train. If the split column marks no
    validation rows, a random share ``valid`` of its training rows is used for validation.

    Args:
        table: rows in any order; positions in the result count from its first row.
        schema: which columns are target, group and split.
        valid: share of validation rows, in [0, 1).
        test: share of test rows, in [0, 1); ignored if there is a split column.
        seed: of the random split.
        time: column of dates or numbers to split by; the schema must not have a split column then.
        gap: time before the first test row in which no row is used.
        unit: the unit of each row; units are never split, see ``Ties.joined``. By default the groups.
    Raises:
        ConfigError: the shares leave no training rows, the seed is negative, or the rows cannot be split by ``time``.
        DataError: there are fewer than 10 rows, the split column holds an unknown label or no training rows, a group
            that was set by the user is in more than one part of the split column, or a row has no time.
    """
    table = Table.of(table)
    if not (valid >= 0 and test >= 0 and valid + test < 1):
        raise ConfigError(f"valid and test must be at least 0 and sum to less than 1, got {valid} and {test}.")
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}.")
    if len(table) < MINIMUM_ROWS:
        raise DataError(
            f"the table has {len(table)} usable rows; at least {MINIMUM_ROWS} are needed for training and evaluation."
        )
    unit = group_of_row(table, schema) if unit is None else unit
    names = schema.names("split")
    if time is not None:
        _check_time(table, schema, time)
        return _as_split(parts_by_time(table[time], unit, valid=valid, test=test, gap=gap))
    strata, classes = strata_of_rows(table, schema), schema.task not in NUMBER_TASKS
    rng = np.random.default_rng(seed)
    if not names:
        return _as_split(draw(unit, strata, classes=classes, valid=valid, test=test, rng=rng))
    parts = split_labels(table[names[0]])
    if not (parts == "train").any():
        name = names[0]
        raise DataError(f"no row is marked train in the split column {name!r}, so there are no training rows.")
    check_groups(table, schema, names[0], parts)
    if valid > 0 and not (parts == "valid").any():
        train = np.flatnonzero(parts == "train")
        parts[train] = draw(unit[train], strata[train], classes=classes, valid=valid, test=0.0, rng=rng)
    return _as_split(parts)


def split_labels(column: pd.Series | Cells) -> Shaped[np.ndarray, " rows"]:
    """``train``, ``valid`` or ``test`` for each cell of a split column, as an array of objects.

    Raises:
        DataError: a cell is empty or holds an unknown label.
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
    """Groups, sorted, with rows in more than one part; rows without a group are skipped."""
    counts = pd.Series(parts, index=group_keys.to_numpy()).groupby(level=0, sort=True).nunique()
    return [str(name) for name in counts.index[counts.to_numpy() > 1]]


def _check_time(table: Table, schema: Schema, time: str) -> None:
    if time not in table:
        raise unknown_column(time, table.names)
    if time == schema.target:
        raise ConfigError(f"column {time!r} is the target, so the rows cannot be split by it; choose another column.")
    if given := schema.names("split"):
        raise ConfigError(
            f"the rows cannot be split both by time ({time!r}) and by the split column {given[0]!r}; choose one."
        )


def check_groups(table: Table, schema: Schema, split_name: str, parts: Shaped[np.ndarray, " rows"]) -> None:
    """Check that a given split keeps together the groups set by the user; for inferred groups ``infer_schema`` warns.

    Raises:
        DataError: how many groups are split, and the first of them.
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
    """The row number in the user's table: the caller may have dropped rows, but keeps the row numbers as index."""
    label = column.index[position]
    return int(label) if isinstance(label, int | np.integer) else position


def _as_split(parts: Shaped[np.ndarray, " rows"]) -> Split:
    return Split(*(np.flatnonzero(parts == name).astype(np.int64) for name in _PARTS))


def group_of_row(table: pd.DataFrame | Table, schema: Schema) -> Int64[np.ndarray, " rows"]:
    """Number of the group of each row; a row without a group is a group of its own.

    With several group columns, groups are connected components: rows that share a value of any column, transitively."""
    table = Table.of(table)
    if not schema.names("group"):
        return np.arange(len(table))
    return joined_codes([table[name].levels.codes for name in schema.names("group")])


def joined_codes(columns: Sequence[Int64[np.ndarray, " rows"]]) -> Int64[np.ndarray, " rows"]:
    """Number of the connected component of each row; equal codes in a column connect rows, except -1."""
    return connected(len(columns[0]), [(np.flatnonzero(codes >= 0), codes[codes >= 0]) for codes in columns])


def connected(
    items: int, links: Sequence[tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]]
) -> Int64[np.ndarray, " items"]:
    """Number of the connected component of each item, from 0.

    Args:
        items: number of items.
        links: pairs of an item and the number of a link, from 0; items with the same link are connected.
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
    """The values to stratify by: the class as a number, or the rank of the target in [0, 1).

    With weights, a rank is the total weight of the rows below plus half the weight of the tied rows, as a share of all:
    a row of weight 2 counts like two rows. A row without a usable weight gets the mean of the others."""
    table = Table.of(table)
    goal = table[schema.target]
    if schema.task in NUMBER_TASKS:
        values = pd.Series(goal.numbers.values)
        weighted = [name for name in schema.names("weight") if name in table]
        if weighted:
            weights = table[weighted[0]].numbers.values
            usable = weights > 0
            counts = weights / weights[usable].max(initial=1e-300)
            counts[~usable] = counts[usable].mean() if usable.any() else 1.0
            _, place = np.unique(values.to_numpy(), return_inverse=True)
            mass = np.bincount(place, weights=counts)
            # Rounded, so that rescaling the weights moves no row into another decile.
            return np.round((np.cumsum(mass) - mass / 2)[place] / mass.sum(), 9)
        return (values.rank(method="average", na_option="top").to_numpy() - 0.5) / len(values)
    return np.array(pd.factorize(goal.keys, sort=True)[0], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Units:
    """Units, which are never split: groups, and single rows without a group."""

    of_row: Int64[np.ndarray, " rows"]
    """Number of the unit that each row belongs to."""
    sizes: Int64[np.ndarray, " units"]
    strata: Float[np.ndarray, " units"]
    random: Float[np.ndarray, " units"]
    order: Int64[np.ndarray, " units"]
    """Units by stratum, then by size up to a factor of two, then at random, so that neighbours are similar."""

    @classmethod
    def shuffled(
        cls,
        groups: Int64[np.ndarray, " rows"],
        strata: Float[np.ndarray, " rows"],
        rng: np.random.Generator,
        *,
        classes: bool,
    ) -> "Units":
        """Sort units, at random within strata; ``strata`` are classes, or ranks of a numeric target in [0, 1)."""
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
    """The part of each row, with whole groups: a systematic sample of the units, sorted by stratum and size."""
    units = Units.shuffled(groups, strata, rng, classes=classes)
    order, sizes, unit_of_row = units.order, units.sizes, units.of_row
    eligible = np.ones(len(sizes), dtype=bool)
    if classes:  # one unit of each class stays in train
        first = np.lexsort((units.random, units.strata))
        starts = np.flatnonzero(np.diff(units.strata[first], prepend=-np.inf))
        eligible[first[starts]] = False
    quotas = [share * len(groups) for share in (valid, test) if share > 0]
    eligible &= sizes <= max(min(quotas, default=0.0), 1.0)  # a larger unit would exceed the share of its part
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
    """The most frequent class of each group, or the decile of its mean rank."""
    if classes:
        counts = pd.DataFrame({"unit": unit_of_row, "stratum": strata}).value_counts(sort=False).reset_index()
        counts = counts.sort_values(["unit", "count", "stratum"], ascending=[True, False, True])
        return counts.drop_duplicates("unit")["stratum"].to_numpy(dtype=np.float64)
    bins = min(_TARGET_BINS, max(1, len(sizes) // _TARGET_BINS))
    return np.floor(np.bincount(unit_of_row, weights=strata) / sizes * bins)


def _every_kth(count: int, share: float, rng: np.random.Generator) -> Shaped[np.ndarray, " count"]:
    """Mask that selects a share of the positions, evenly spaced from a random start."""
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
    """Move groups into parts that are still empty, as happens with few or large groups: the smallest group of train, or
    of the other part if train has only one group."""
    for name, other, share in (("valid", "test", valid), ("test", "valid", test)):
        for donor in ("train", other):
            groups = np.flatnonzero(part == donor)
            if share > 0 and not (part == name).any() and len(groups) > 1:
                part[groups[np.lexsort((shuffled[groups], sizes[groups]))[0]]] = name
    for name, share in (("valid", valid), ("test", test)):
        if share > 0 and not (part == name).any():
            raise DataError(
                f"{len(part)} group{'' if len(part) == 1 else 's'} cannot be split into {_listed(valid, test)}; at "
                f"least {1 + (valid > 0) + (test > 0)} groups are needed: choose another group column."
            )


def _listed(valid: float, test: float) -> str:
    return "train, valid and test" if valid > 0 and test > 0 else f"train and {'valid' if valid > 0 else 'test'}"


def _bring_classes_back(
    parts: Shaped[np.ndarray, " rows"], strata: Float[np.ndarray, " rows"], unit_of_row: Int64[np.ndarray, " rows"]
) -> None:
    """Move one group of each class that train lacks into train."""
    for lacking in np.setdiff1d(strata, strata[parts == "train"]):
        parts[unit_of_row == unit_of_row[np.flatnonzero(strata == lacking)[0]]] = "train"
