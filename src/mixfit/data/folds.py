"""Several splits of the same rows for cross-validation: every row judges once.

In: rows that have a target, and the schema. Out: one ``Split`` for each fold. The order that rows are dealt in is that
of the draw in ``split``: groups stay whole, classes and the range of a number are spread evenly."""

import numpy as np
import pandas as pd

from mixfit.data.schema import Schema
from mixfit.data.split import (
    MINIMUM_ROWS,
    Split,
    Units,
    check_groups,
    group_of_row,
    split_labels,
    strata_of_rows,
)
from mixfit.errors import ConfigError, DataError


def k_folds(frame: pd.DataFrame, schema: Schema, k: int = 5, seed: int = 0) -> list[Split]:
    """Deal rows into ``k`` folds; in the i-th split the i-th fold is ``valid`` and the others are ``train``.

    Each row is in ``valid`` of exactly one split. Rows that a split column marks as test are ``test`` of every split
    and never dealt; without such a column ``test`` is empty. A class with one row, or with one group, is missing from
    ``train`` of the split that it judges.

    Args:
        frame: rows in any order that all have a usable target; positions in the result count from its first row.
        schema: says which columns are target, group and split.
        k: number of folds, at least 2.
        seed: another seed, another deal.
    Raises:
        ConfigError: ``k`` is less than 2, or the seed is negative.
        DataError: there are fewer than 10 rows or fewer than ``k`` groups, the split column holds an unknown word, or
            a group is in test and elsewhere.
    """
    if k < 2:
        raise ConfigError(f"k must be at least 2, got {k}.")
    if seed < 0:
        raise ConfigError(f"seed must be at least 0, got {seed}.")
    groups = group_of_row(frame, schema)
    is_test = np.zeros(len(frame), dtype=bool)
    if names := schema.names("split"):
        is_test = split_labels(frame[names[0]]) == "test"
        if grouped := schema.names("group"):
            sides = np.where(is_test, "test", "folds").astype(object)
            check_groups(frame[grouped[0]], names[0], sides)
    dealt = np.flatnonzero(~is_test)
    if len(dealt) < MINIMUM_ROWS:
        raise DataError(f"there are {len(dealt)} rows to deal into folds; at least {MINIMUM_ROWS} are needed.")
    rng = np.random.default_rng(seed)
    strata = strata_of_rows(frame.iloc[dealt], schema)
    units = Units.shuffled(groups[dealt], strata, rng, classes=schema.task != "regression")
    count = len(units.order)
    if count < k:
        raise DataError(f"{count} groups cannot be dealt into {k} folds: take fewer folds, or another group column.")
    fold_of_unit = np.empty(count, dtype=np.int64)
    fold_of_unit[units.order] = (np.arange(count) + rng.integers(k)) % k
    fold = fold_of_unit[units.of_row]
    test = np.flatnonzero(is_test).astype(np.int64)
    return [Split(train=dealt[fold != i], valid=dealt[fold == i], test=test) for i in range(k)]
