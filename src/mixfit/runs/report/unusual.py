"""What is unusual about a row of the table, by simple checks against the training rows.

In: the data of a training, and the number of a row. Out: sentences. None of them proves why a prediction failed; they
are where a person would look first."""

import os
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from mixfit.data.bad_inputs import BadInput
from mixfit.data.checks.photos import equal_files
from mixfit.data.columns.values import to_keys, to_numbers
from mixfit.data.load import MixedData
from mixfit.runs.report.data_facts import compact_number
from mixfit.runs.report.render import percent

MOST = 6
_RARE = 2  # training rows that a level is in
_FEWEST = 50  # training rows, before "rare" says anything
_EDGE = 0.01  # share of the training rows beyond a value


class Unusual:
    """Knows the training rows, and compares others with them.

    Args:
        mixed: the data; ``split.train`` are the rows that were learned from.
        bad: every record of the run.
    """

    def __init__(self, mixed: MixedData, bad: list[BadInput]) -> None:
        self.mixed, self.train = mixed, mixed.split.train
        self._bad: dict[int, list[BadInput]] = defaultdict(list)
        for record in bad:
            self._bad[record.row].append(record)

    @cached_property
    def _learned(self) -> frozenset[int]:
        """Rows of the folds judge and are learned from: without test rows a row is not to be compared with itself."""
        return frozenset(self.train.tolist())

    def about(self, row: int) -> list[str]:
        """Sentences about the row at a position, at most ``MOST``; what is broken comes first."""
        number = int(self.mixed.row_numbers[row])
        found = [f"{one.column}: {one.problem} ({one.action})" for one in self._bad[number]]
        found += [*self._photo(row), *self._target(row), *self._numbers(row), *self._levels(row), *self._empty(row)]
        return found[:MOST]

    def _photo(self, row: int) -> list[str]:
        if self.mixed.photos is None:
            return []
        if not self._with_photo[row]:
            share = float(self._with_photo[self.train].mean())
            said = f"it has no photo that can be read; {percent(share)} of the training rows have one"
            return [said] if share else []
        return self._shared_photo(row)

    @cached_property
    def _readable(self) -> np.ndarray:
        """Which slots of the rows hold a photo that could be read."""
        assert self.mixed.photos is not None
        return self.mixed.photos.readable(self.mixed.photo_failures)

    @cached_property
    def _with_photo(self) -> np.ndarray:
        return np.asarray(self._readable.any(axis=1))

    def _shared_photo(self, row: int) -> list[str]:
        """Another row with the same photo and another target."""
        photos = self.mixed.photos
        assert photos is not None
        truth = self._targets
        for place in np.flatnonzero(self._readable[row]):
            equal = _equal_to(photos.files, int(photos.slots[row, place]), self._sizes)
            rows = np.flatnonzero(np.isin(photos.slots, equal).any(axis=1))
            known = [int(other) for other in rows if other != row and pd.notna(truth.iloc[other])]
            others = [other for other in known if truth.iloc[other] != truth.iloc[row]]
            if others:
                said = f"{self.mixed.schema.target}, {_shown(truth.iloc[others[0]])}"
                return [f"row {self.mixed.row_numbers[others[0]]} has the same photo with another {said}"]
        return []

    @cached_property
    def _sizes(self) -> np.ndarray:
        photos = self.mixed.photos
        assert photos is not None
        return np.array([_size(file) for file in photos.files], dtype=np.int64)

    @cached_property
    def _targets(self) -> pd.Series:
        return to_keys(self.mixed.frame[self.mixed.schema.target])

    def _target(self, row: int) -> list[str]:
        name, classes = self.mixed.schema.target, self.mixed.target.classes
        if classes is None:
            return self._number(name, row)
        mine = self._targets.iloc[row]
        share = float((self._targets.iloc[self.train] == mine).mean())
        wanted = 0.5 / len(classes)
        if share >= wanted:
            return []
        rows = int((self._targets.iloc[self.train] == mine).sum())
        return [f"its class {_shown(mine)} is rare: {rows:,} of {len(self.train):,} training rows"]

    def _numbers(self, row: int) -> list[str]:
        return [text for name in self.mixed.schema.names("number") for text in self._number(name, row)]

    def _number(self, name: str, row: int) -> list[str]:
        values, known = self._columns[name]
        value = values[row]
        if not np.isfinite(value) or not len(known):
            return []
        if row in self._learned:  # it is compared with the others
            known = np.delete(known, np.searchsorted(known, value))
        if not len(known):
            return []
        if not known[0] <= value <= known[-1]:
            above = f"above all training rows (at most {compact_number(known[-1])})"
            where = above if value > known[-1] else f"below all training rows (at least {compact_number(known[0])})"
        else:
            where = self._at_the_edge(value, known)
        return [f"{name} is {compact_number(value)}, {where}"] if where else []

    @staticmethod
    def _at_the_edge(value: float, known: np.ndarray) -> str:
        """How a number lies that few training rows reach; "" for others, and where numbers are few or repeat."""
        if len(known) < _FEWEST or len(np.unique(known)) < _FEWEST:
            return ""
        if len(known) - np.searchsorted(known, value, side="left") <= _EDGE * len(known):
            return "higher than in nearly all training rows"
        if np.searchsorted(known, value, side="right") <= _EDGE * len(known):
            return "lower than in nearly all training rows"
        return ""

    @cached_property
    def _columns(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """All values of each column of numbers, and the sorted ones of the training rows."""
        schema = self.mixed.schema
        names = [*schema.names("number"), *([schema.target] if schema.task == "regression" else [])]
        found = {}
        for name in names:
            values = to_numbers(self.mixed.frame[name]).values
            known = values[self.train]
            found[name] = values, np.sort(known[np.isfinite(known)])
        return found

    def _levels(self, row: int) -> list[str]:
        found = []
        for name, (keys, counts) in self._keys.items():
            level = keys.iloc[row]
            if pd.isna(level):
                continue
            other = row in self._learned
            rows = int(counts.get(level, 0)) - other
            if rows == 0:
                if not any(one.column == name for one in self._bad[row]):  # it is said there
                    found.append(f"{name} is {_shown(level)}, which no {'other ' * other}training row has")
            elif rows <= _RARE and len(self.train) >= _FEWEST:
                found.append(f"{name} is {_shown(level)}, as in only {rows} training row{'s' if rows > 1 else ''}")
        return found

    @cached_property
    def _keys(self) -> dict[str, tuple[pd.Series, pd.Series]]:
        """All levels of each category, and how many training rows have them."""
        columns = {name: to_keys(self.mixed.frame[name]) for name in self.mixed.schema.names("category")}
        return {name: (keys, keys.iloc[self.train].value_counts()) for name, keys in columns.items()}

    def _empty(self, row: int) -> list[str]:
        found = []
        for name, (values, known) in self._columns.items():
            share = 1 - len(known) / max(len(self.train), 1)
            if np.isnan(values[row]) and share < 0.1:
                often = f"in {percent(share)} of the training rows" if share else "in no training row"
                found.append(f"{name} is missing, as {often}")
        return found


def _shown(level: object) -> str:
    text = str(level)
    return repr(text if len(text) <= 60 else text[:59] + "…")


def _size(file: Path | bytes) -> int:
    if isinstance(file, bytes):
        return len(file)
    try:
        return os.stat(file).st_size  # noqa: PTH116 - pathlib takes twice the time, and there are many photos
    except OSError:
        return -1


def _equal_to(files: Sequence[Path | bytes], number: int, sizes: np.ndarray) -> list[int]:
    """Numbers of the files with the bytes of one, that one too; only files of its size are read."""
    alike = [number, *(other for other in np.flatnonzero(sizes == sizes[number]).tolist() if other != number)]
    first = equal_files([files[other] for other in alike])
    return [other for other, same in zip(alike, first == first[0], strict=True) if same]
