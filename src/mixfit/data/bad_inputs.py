"""One record per cell, photo or row that was repaired or refused, so that none passes silently."""

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int64

from mixfit.data.table.write import write_table


@dataclass(frozen=True, slots=True, kw_only=True)
class BadInput:
    """What was wrong in one place of the input, and what was done about it."""

    row: int
    """Position in the table, the first data row is 0."""
    column: str
    value: str
    """The offending cell as text, shortened to 200 characters."""
    problem: str
    """What is wrong, without the place: "file is missing", "not a number"."""
    action: str
    """What was done: "photo masked", "row left out", "cell treated as missing"."""


def write_bad_inputs(records: list[BadInput], path: Path) -> None:
    """Write one line per record; an empty list gives a file with only the header.

    The cells are a stranger's: those that a spreadsheet would run are made harmless, see ``write_table``."""
    columns = list(BadInput.__dataclass_fields__)
    write_table(pd.DataFrame([asdict(record) for record in records], columns=columns), path)


def in_table_rows(records: list[BadInput], numbers: Int64[np.ndarray, " rows"]) -> list[BadInput]:
    """Records of some rows, by position among them -> by the number that each row has in the table."""
    return [replace(record, row=int(numbers[record.row])) for record in records]


def describe_bad(bad: list[BadInput]) -> str:
    """How many of what, and the first row: "3 x photo masked, 2 x cell treated as missing (first: row 7, ...)"."""
    counts = BadCounts()
    counts.add(bad)
    return counts.describe()


class BadCounts:
    """What ``describe_bad`` needs of records that are too many to be kept."""

    def __init__(self) -> None:
        self.actions: Counter[str] = Counter()
        self.first: BadInput | None = None

    def add(self, bad: list[BadInput]) -> None:
        """Count the records of further rows."""
        self.actions.update(record.action for record in bad)
        rows = [self.first, *bad] if self.first else bad
        self.first = min(rows, key=lambda record: record.row, default=None)

    def describe(self) -> str:
        """As ``describe_bad``; there must be records."""
        assert self.first is not None
        ordered = sorted(self.actions.items(), key=lambda item: (-item[1], item[0]))
        counts = ", ".join(f"{count} x {action}" for action, count in ordered)
        return f"{counts} (first: row {self.first.row}, column {self.first.column}: {self.first.problem})"
