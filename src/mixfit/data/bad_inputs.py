"""One record per cell, photo or row that was repaired or rejected, so that nothing is changed silently."""

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int64

from mixfit.data.table.write import write_table


@dataclass(frozen=True, slots=True, kw_only=True)
class BadInput:
    """A problem in one place of the input, and what was done about it."""

    row: int
    """Position in the table; the first data row is 0."""
    column: str
    value: str
    """The invalid cell as text, shortened to 200 characters."""
    problem: str
    """What is wrong, without the location: "file is missing", "not a number"."""
    action: str
    """What was done: "photo treated as missing", "row left out", "cell treated as missing"."""


def write_bad_inputs(records: list[BadInput], path: Path) -> None:
    """Write one line per record; for an empty list, only the header.

    Cells are untrusted input: those that a spreadsheet would run as formulas are escaped, see ``write_table``."""
    columns = list(BadInput.__dataclass_fields__)
    write_table(pd.DataFrame([asdict(record) for record in records], columns=columns), path)


def in_table_rows(records: list[BadInput], numbers: Int64[np.ndarray, " rows"]) -> list[BadInput]:
    """Convert the rows of records from positions in a selection of rows to row numbers in the table."""
    return [replace(record, row=int(numbers[record.row])) for record in records]


def describe_bad(bad: list[BadInput]) -> str:
    """A summary: counts by action, and the first row: "3 x photo treated as missing (first: row 7, ...)"."""
    counts = BadCounts()
    counts.add(bad)
    return counts.describe()


class BadCounts:
    """Counts for ``describe_bad``, for when there are too many records to keep."""

    def __init__(self) -> None:
        self.actions: Counter[str] = Counter()
        self.first: BadInput | None = None

    def add(self, bad: list[BadInput]) -> None:
        """Add the records of more rows."""
        self.actions.update(record.action for record in bad)
        rows = [self.first, *bad] if self.first else bad
        self.first = min(rows, key=lambda record: record.row, default=None)

    def describe(self) -> str:
        """As ``describe_bad``; there must be at least one record."""
        assert self.first is not None
        ordered = sorted(self.actions.items(), key=lambda item: (-item[1], item[0]))
        counts = ", ".join(f"{count} x {action}" for action, count in ordered)
        column = f", column {self.first.column}" if self.first.column else ""  # of a row as a whole there is none
        return f"{counts} (first: row {self.first.row}{column}: {self.first.problem})"


def row_status(rows: int, slots: np.ndarray | None, bad: list[BadInput]) -> list[str]:
    """``ok``, or all problems of a row."""
    notes: defaultdict[int, dict[str, None]] = defaultdict(dict)  # the inner dict keeps the order and drops repeats
    for record in bad:
        notes[record.row][f"{record.column}: {record.problem}"] = None
    if slots is not None and slots.shape[1]:
        refused = {record.row for record in bad if record.action == "photo treated as missing"}
        for row in np.flatnonzero((slots < 0).all(1)).tolist():
            if row not in refused:
                notes[row]["no photo"] = None
    found = ["ok"] * rows
    for row, note in notes.items():
        found[row] = "; ".join(note)
    return found
