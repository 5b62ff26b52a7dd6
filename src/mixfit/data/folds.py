"""Which rows fit and which judge: the one place that decides it, for every model and everything that is said of one.

In: rows that have a target, the unit that each belongs to, and for folds that go forward their times. Out: ``Folds``.
Units stay whole, classes and the range of a number are spread evenly, and nothing is fitted on its future."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64, Shaped

from mixfit.data.columns.cells import Table
from mixfit.data.columns.schema import Schema
from mixfit.data.split import (
    MINIMUM_ROWS,
    Split,
    Times,
    Units,
    check_groups,
    draw,
    forward_blocks,
    group_of_row,
    latest_part,
    split_labels,
    strata_of_rows,
)
from mixfit.errors import ConfigError, DataError

_LEAST_FIT_ROWS = 5
"""With fewer rows before it, a block of a split by time is not predicted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Folds:
    """Which rows each fold fits on, and which it predicts.

    Dealt folds predict every row once. Folds that go forward in time predict blocks of later rows: the first rows are
    only fitted on, and the first block that is predicted is only learnt from, since nothing before it says how
    predictions are to be blended or calibrated."""

    rows: Int64[np.ndarray, " rows"]
    """Positions in the table, ascending."""
    unit: Int64[np.ndarray, " rows"]
    """Rows of one unit are a group or copies of each other, see ``Ties``."""
    number: Int64[np.ndarray, " rows"]
    """The fold that predicts each row; -1 for rows that are only fitted on."""
    fit: tuple[Int64[np.ndarray, " _"], ...]
    """Positions in the table of the rows that each fold fits on."""
    learns_from: tuple[Bool[np.ndarray, " rows"], ...]
    """For each fold, which rows' predictions may decide what is done with its own: shares of a blend, temperatures,
    the spread of errors. Rows of other folds, or of earlier ones; none of its units."""
    strata: Float[np.ndarray, " rows"]
    """Class of each row, or rank of its target in [0, 1)."""
    classes: bool
    times: Times | None = None
    """Of ``rows``, where the folds go forward in time."""
    gap: float = 0.0
    """Between fit rows and what they predict, in the unit of ``times``."""

    @classmethod
    def dealt(
        cls,
        table: pd.DataFrame | Table,
        schema: Schema,
        rows: Int64[np.ndarray, " rows"],
        unit: Int64[np.ndarray, " rows"],
        k: int,
        *,
        seed: int,
    ) -> "Folds":
        """Deal units into ``k`` folds of which each is predicted by models of the others.

        A class with one row, or in one unit, is missing from the rows that the fold of that unit fits on.

        Args:
            table: all rows.
            rows: positions in it, ascending; all have a usable target.
            unit: of each of ``rows``.
        Raises:
            ConfigError: ``k`` is less than 2, or the seed is negative.
            DataError: there are fewer than 10 rows or fewer than ``k`` units.
        """
        _check(k, seed, len(rows))
        rng = np.random.default_rng(seed)
        strata, classes = strata_of_rows(Table.of(table).select(rows), schema), schema.task != "regression"
        units = Units.shuffled(unit, strata, rng, classes=classes)
        count = len(units.order)
        if count < k:
            raise DataError(
                f"{count} groups cannot be dealt into {k} folds: take fewer folds, or another group column."
            )
        fold_of_unit = np.empty(count, dtype=np.int64)
        fold_of_unit[units.order] = (np.arange(count) + rng.integers(k)) % k
        number = fold_of_unit[units.of_row]
        others = tuple(number != place for place in range(k))
        return cls(
            rows=rows,
            unit=unit,
            number=number,
            fit=tuple(rows[mask] for mask in others),
            learns_from=others,
            strata=strata,
            classes=classes,
        )

    @classmethod
    def forward(
        cls,
        table: pd.DataFrame | Table,
        schema: Schema,
        rows: Int64[np.ndarray, " rows"],
        unit: Int64[np.ndarray, " rows"],
        k: int,
        *,
        time: str,
        gap: str | None = None,
    ) -> "Folds":
        """Cut rows into blocks in the order of time; each is predicted by models of the rows before it.

        Fit rows lie before the start of their block minus the gap, and share no unit with it; a unit may be in
        several blocks.

        Args:
            k: blocks that are predicted, where there are so many different times.
            time: column of dates or numbers.
            gap: a duration, or a number where the times are numbers.
        Raises:
            ConfigError, DataError: as ``dealt`` and ``Times``; also when no two blocks have rows before them.
        """
        _check(k, 0, len(rows))
        times = Times.of(Table.of(table).select(rows)[time])
        blocks = forward_blocks(times, unit, k, gap=times.length(gap), least=_LEAST_FIT_ROWS)
        number = blocks.number
        learns = tuple(
            (number >= 0) & (number < place) & fit & ~np.isin(unit, unit[number == place])
            for place, fit in enumerate(blocks.fit)
        )
        if not any(mask.any() for mask in learns):
            raise DataError(
                f"the {len(rows)} rows before the test cannot be judged forward in time by {time!r}: fewer than two "
                f"blocks have {_LEAST_FIT_ROWS} earlier rows of other groups; set the group column to another role "
                "with --set, choose a smaller gap, or split by chance."
            )
        return cls(
            rows=rows,
            unit=unit,
            number=number,
            fit=tuple(rows[mask] for mask in blocks.fit),
            learns_from=learns,
            strata=strata_of_rows(Table.of(table).select(rows), schema),
            classes=schema.task != "regression",
            times=times,
            gap=times.length(gap),
        )

    @property
    def count(self) -> int:
        """How many folds there are."""
        return len(self.fit)

    @property
    def judged(self) -> Bool[np.ndarray, " rows"]:
        """Rows whose predictions, and whatever is made of them, owe nothing to the row or to its future."""
        can = np.array([mask.any() for mask in self.learns_from])
        return (self.number >= 0) & can[self.number]

    def predicts(self, place: int) -> Int64[np.ndarray, " predicted"]:
        """Positions in the table of the rows that a fold predicts."""
        return self.rows[self.number == place]

    def validation(self, place: int, share: float, *, seed: int) -> tuple[Int64[np.ndarray, " _"], ...]:
        """Cut a part that may choose the best epoch out of the rows that a fold fits on: (fit, validation).

        By the rules of the folds: units whole and classes spread, or the latest rows, the gap before them and their
        units left out. Where so few units or times allow no such part, rows are drawn. ``place`` may be ``count``, for
        a fit on all rows."""
        rows = self.rows if place == self.count else self.fit[place]
        inside = np.isin(self.rows, rows)
        unit, strata = self.unit[inside], self.strata[inside]

        def drawn(units: Int64[np.ndarray, " fit"], *, classes: bool) -> Shaped[np.ndarray, " fit"]:
            rng = np.random.default_rng([seed, place])
            return draw(units, strata, classes=classes, valid=share, test=0.0, rng=rng)

        def latest() -> Shaped[np.ndarray, " fit"]:
            assert self.times is not None
            return latest_part(self.times.take(np.flatnonzero(inside)), unit, share, gap=self.gap)

        ways: list[Callable[[], np.ndarray]] = [
            *([] if self.times is None else [latest]),
            lambda: drawn(unit, classes=self.classes),
            lambda: drawn(unit, classes=False),
            lambda: drawn(np.arange(len(rows)), classes=False),
        ]
        for way in ways:
            with suppress(DataError):
                parts = way()
                if (parts == "train").any() and (parts == "valid").any():
                    return rows[parts == "train"], rows[parts == "valid"]
        return rows, rows[:0]

    def describe(self) -> str:
        """In a sentence, what "out of fold" means where it is not every row; "" where it is."""
        if self.times is None:
            return ""
        judged, first = self.judged, int((self.number < 0).sum())
        return (
            f"The folds go forward in time: {judged.sum():,} of {len(self.rows):,} rows are judged, each by models of "
            f"earlier rows; {first:,} are only fitted on, and {len(judged) - judged.sum() - first:,} only decide how "
            "the models are blended. For the test and for new rows the models are fitted again on all rows before the "
            "test. Intervals come from the errors of the judged rows: their coverage of later rows is reported, not "
            "promised."
        )


def _check(k: int, seed: int, rows: int) -> None:
    if k < 2:
        raise ConfigError(f"k must be at least 2, got {k}.")
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}.")
    if rows < MINIMUM_ROWS:
        raise DataError(f"there are {rows} rows to deal into folds; at least {MINIMUM_ROWS} are needed.")


def k_folds(
    table: pd.DataFrame | Table,
    schema: Schema,
    k: int = 5,
    seed: int = 0,
    *,
    unit: Int64[np.ndarray, " rows"] | None = None,
) -> list[Split]:
    """Deal rows into ``k`` folds; in the i-th split the i-th fold is ``valid`` and the others are ``train``.

    Each row is in ``valid`` of exactly one split. Rows that a split column marks as test are ``test`` of every split
    and never dealt; without such a column ``test`` is empty.

    Args:
        table: rows in any order that all have a usable target; positions in the result count from its first row.
        schema: says which columns are target, group and split.
        k: number of folds, at least 2.
        seed: another seed, another deal.
        unit: of each row, which stay whole, see ``Ties.joined``; by default the groups.
    Raises:
        ConfigError, DataError: as ``Folds.dealt``; the split column holds an unknown word, or a group set by hand is
            in test and elsewhere.
    """
    table = Table.of(table)
    unit = group_of_row(table, schema) if unit is None else unit
    is_test = np.zeros(len(table), dtype=bool)
    if names := schema.names("split"):
        is_test = split_labels(table[names[0]]) == "test"
        sides = np.where(is_test, "test", "folds").astype(object)
        check_groups(table, schema, names[0], sides)
    rows = np.flatnonzero(~is_test)
    folds = Folds.dealt(table, schema, rows, unit[rows], k, seed=seed)
    test = np.flatnonzero(is_test).astype(np.int64)
    return [Split(train=folds.fit[place], valid=folds.predicts(place), test=test) for place in range(k)]
