"""Cross-validation folds: which rows each model is fitted on, and which it predicts. Every model uses the same folds.

In: rows with a target, the unit of each row, and for folds forward in time their times. Out: ``Folds``.
Units are never split, folds are stratified by class or by the range of the target, and no row is predicted from later
rows."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64, Shaped

from mixfit.choices import NUMBER_TASKS
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
"""A block of a split by time is predicted only if at least this many rows precede it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Folds:
    """The rows that each fold is fitted on, and the rows that it predicts.

    Random folds predict every row once. Folds forward in time predict blocks of later rows: the first rows are only
    used for fitting, and the predictions of the first block are only used to fit blend weights and calibration, because
    there are no earlier out-of-fold predictions to fit those on."""

    rows: Int64[np.ndarray, " rows"]
    """Positions in the table, ascending."""
    unit: Int64[np.ndarray, " rows"]
    """Rows of one unit belong to the same group or are copies of each other, see ``Ties``."""
    number: Int64[np.ndarray, " rows"]
    """The fold that predicts each row; -1 for rows that are only used for fitting."""
    fit: tuple[Int64[np.ndarray, " _"], ...]
    """Positions in the table of the rows that each fold is fitted on."""
    learns_from: tuple[Bool[np.ndarray, " rows"], ...]
    """For each fold, the rows whose predictions may be used to post-process its own: blend weights, temperatures, the
    distribution of errors. These are rows of other folds, or of earlier ones, and share no unit with the fold."""
    strata: Float[np.ndarray, " rows"]
    """Class of each row, or rank of its target in [0, 1)."""
    classes: bool
    times: Times | None = None
    """Times of ``rows``, for folds forward in time."""
    gap: float = 0.0
    """Gap between the rows fitted on and the rows predicted, in the unit of ``times``."""

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
        """Assign units at random to ``k`` folds; each fold is predicted by models fitted on the others.

        A class that occurs in one unit only is absent from the rows that the fold of that unit is fitted on.

        Args:
            table: all rows.
            rows: positions in the table, ascending; all rows must have a usable target.
            unit: the unit of each of ``rows``.
        Raises:
            ConfigError: ``k`` is less than 2, or the seed is negative.
            DataError: there are fewer than 10 rows or fewer than ``k`` units.
        """
        _check(k, seed, len(rows))
        rng = np.random.default_rng(seed)
        strata, classes = strata_of_rows(Table.of(table).select(rows), schema), schema.task not in NUMBER_TASKS
        units = Units.shuffled(unit, strata, rng, classes=classes)
        count = len(units.order)
        if count < k:
            raise DataError(f"{count} groups are too few for {k} folds: use fewer folds, or another group column.")
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
        """Divide the rows into blocks in time order; each block is predicted by models fitted on earlier rows.

        The rows that a block's model is fitted on precede the start of the block by more than the gap, and share no
        unit with it; a unit may be in several blocks.

        Args:
            k: number of blocks to predict, if there are that many different times.
            time: column of dates or numbers.
            gap: a duration, or a number if the times are numbers.
        Raises:
            ConfigError, DataError: as ``dealt`` and ``Times``; also if fewer than two blocks have rows before them.
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
                f"the {len(rows)} rows before the test rows cannot be cross-validated forward in time by {time!r}: "
                f"fewer than two blocks have {_LEAST_FIT_ROWS} earlier rows of other groups; set the group column to "
                "another role with --set, choose a smaller gap, or use a random split."
            )
        return cls(
            rows=rows,
            unit=unit,
            number=number,
            fit=tuple(rows[mask] for mask in blocks.fit),
            learns_from=learns,
            strata=strata_of_rows(Table.of(table).select(rows), schema),
            classes=schema.task not in NUMBER_TASKS,
            times=times,
            gap=times.length(gap),
        )

    @property
    def count(self) -> int:
        """How many folds there are."""
        return len(self.fit)

    @property
    def judged(self) -> Bool[np.ndarray, " rows"]:
        """Rows whose predictions, and whatever is derived from them, use neither the row itself nor later rows."""
        can = np.array([mask.any() for mask in self.learns_from])
        return (self.number >= 0) & can[self.number]

    def predicts(self, place: int) -> Int64[np.ndarray, " predicted"]:
        """Positions in the table of the rows that a fold predicts."""
        return self.rows[self.number == place]

    def validation(self, place: int, share: float, *, seed: int) -> tuple[Int64[np.ndarray, " _"], ...]:
        """Hold out validation rows, for early stopping, from the rows that a fold is fitted on: (fit, validation).

        The rules of the folds apply: whole units and stratified classes, or the latest rows, without the gap before
        them and without their units. If there are too few units or times for that, single rows are drawn. ``place`` may
        be ``count``, for the fit on all rows."""
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
        """What "out of fold" means if it does not cover every row, in a few sentences; "" if it does."""
        if self.times is None:
            return ""
        judged, first = self.judged, int((self.number < 0).sum())
        early = len(judged) - judged.sum() - first
        return (
            f"The folds go forward in time: {judged.sum():,} of {len(self.rows):,} rows are scored, each by models "
            f"fitted on earlier rows; {first:,} are only used for fitting, and {early:,} only for the blend weights "
            "of the first scored rows, as the delivered weights are learnt from the scored rows alone. The test rows, "
            "and new rows without --refit, are predicted by models of all rows before the test rows. Intervals are "
            "based on the errors of the scored rows: their coverage on later rows is measured, not guaranteed."
        )


def _check(k: int, seed: int, rows: int) -> None:
    if k < 2:
        raise ConfigError(f"k must be at least 2, got {k}.")
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}.")
    if rows < MINIMUM_ROWS:
        raise DataError(f"there are {rows} rows to split into folds; at least {MINIMUM_ROWS} are needed.")


def k_folds(
    table: pd.DataFrame | Table,
    schema: Schema,
    k: int = 5,
    seed: int = 0,
    *,
    unit: Int64[np.ndarray, " rows"] | None = None,
) -> list[Split]:
    """Assign rows to ``k`` folds; in the i-th split, the i-th fold is ``valid`` and the others are ``train``.

    Each row is in ``valid`` of exactly one split. Rows that a split column marks as test are ``test`` in every split
    and in no fold; without such a column ``test`` is empty.

    Args:
        table: rows in any order that all have a usable target; positions in the result count from its first row.
        schema: which columns are target, group and split.
        k: number of folds, at least 2.
        seed: of the random assignment.
        unit: the unit of each row; units are never split, see ``Ties.joined``. By default the groups.
    Raises:
        ConfigError, DataError: as ``Folds.dealt``; also if the split column holds an unknown label, or a group set by
            the user has both test and other rows.
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
