"""What a person should know of columns of texts before training: how long they are, and which are equal.

In: a table, its schema and its split. Out: ``TextStatistics`` of each column, and ``Finding``."""

import unicodedata
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64, Shaped

from mixfit.data.checks.table import Finding
from mixfit.data.columns.cells import Cells, Table
from mixfit.data.columns.schema import Schema
from mixfit.data.columns.text import text_lengths
from mixfit.data.columns.words import MOST_CHARACTERS

COPIED_WORDS, COPIED_CHARACTERS = 20, 40
"""Equal texts at least as long are no chance; characters are those of scripts without blanks between words."""

_SHOWN = 80  # characters
_EXAMPLES = 3
_JOINERS = "\u200c\u200d"  # are parts of words and of emoji


@dataclass(frozen=True, kw_only=True, slots=True)
class TextStatistics:
    """The cells of one column of texts."""

    column: str
    sample: str
    """The begin of the first text, on one line."""
    median: int
    """Words of a text; empty cells are left out."""
    longest: int
    unit: str
    """``words``, or ``characters`` where they have no blanks between them."""
    empty: int
    """Number of cells without a text."""
    copies: int
    """Number of cells whose text another cell has too."""
    cut: int
    """Number of cells with more characters than are read."""

    def describe(self) -> str:
        """All of it but the column, in a line."""
        copies = f"{self.copies:,} {'equals' if self.copies == 1 else 'are equal to'} another"
        return f"median {self.median:,} {self.unit}, longest {self.longest:,}; {self.empty:,} empty, {copies}"


def text_statistics(table: pd.DataFrame | Table, schema: Schema) -> list[TextStatistics]:
    """Of each column of texts, in the order of the table."""
    table = Table.of(table)
    return [_statistics(table[name]) for name in schema.names("text")]


def _statistics(cells: Cells) -> TextStatistics:
    codes = cells.levels.codes
    there = codes[codes >= 0]
    unit, lengths = text_lengths(cells)
    found = lengths[codes >= 0]
    return TextStatistics(
        column=cells.name,
        sample=one_line(str(cells.levels.names[there[0]])) if len(there) else "",
        median=int(np.median(found)) if len(found) else 0,
        longest=int(found.max(initial=0)),
        unit=unit,
        empty=int((codes < 0).sum()),
        copies=int((np.bincount(there)[there] > 1).sum()) if len(there) else 0,
        cut=int(_is_cut(cells).sum()),
    )


def one_line(text: str, longest: int = _SHOWN) -> str:
    r"""The begin of a text on one line, blanks in place of what cannot be shown.

    >>> one_line("A vase,\n\t signed.\x00"), one_line("word " * 30, 12)
    ('A vase, signed.', 'word word w…')
    """
    shown = "".join(
        sign if sign.isprintable() or sign in _JOINERS else " "
        for sign in unicodedata.normalize("NFC", text[: 10 * longest])
    )
    shown = " ".join(shown.split())
    return shown if len(shown) <= longest and len(text) <= 10 * longest else shown[: longest - 1] + "…"


def text_findings(table: pd.DataFrame | Table, schema: Schema, parts: Shaped[np.ndarray, " rows"]) -> list[Finding]:
    """Long texts that rows on two sides of the split share, and cells that are too long to be read whole."""
    table, findings = Table.of(table), list[Finding]()
    for name in schema.names("text"):
        findings += _shared_texts(table, name, parts)
        cut = _is_cut(table[name])
        if cut.any():
            count = f"{cut.sum():,} cells have" if cut.sum() > 1 else "1 cell has"
            read = f"of which only the first {MOST_CHARACTERS:,} are read"
            text = f"{name}: {count} more than {MOST_CHARACTERS:,} characters, {read}"
            findings.append(Finding("note", f"{text}; the first is in row {table.index[int(cut.argmax())]}"))
    return findings


def _shared_texts(table: Table, name: str, parts: Shaped[np.ndarray, " rows"]) -> list[Finding]:
    """Rows of the test and of the validation whose text a training row has too."""
    codes = table[name].levels.codes
    held = np.isin(parts, ["test", "valid"]) & (codes >= 0)
    shared = np.flatnonzero((parts == "train") & np.isin(codes, codes[held]))
    unit, lengths = text_lengths(table[name].select(shared))
    train = shared[lengths >= (COPIED_WORDS if unit == "words" else COPIED_CHARACTERS)]
    first = pd.Series(train).groupby(codes[train]).min()
    findings = []
    for part, called in (("test", "test"), ("valid", "validation")):
        rows = np.flatnonzero((parts == part) & np.isin(codes, first.index))
        if len(rows):
            findings.append(_leak(table, name, called, rows, first.loc[codes[rows]].to_numpy(dtype=np.int64)))
    return findings


def _leak(
    table: Table, name: str, called: str, rows: Int64[np.ndarray, " rows"], twins: Int64[np.ndarray, " rows"]
) -> Finding:
    count, has = (f"{len(rows):,} {called} rows", "have") if len(rows) > 1 else (f"1 {called} row", "has")
    pairs = zip(table.index[twins[:_EXAMPLES]], table.index[rows[:_EXAMPLES]], strict=True)
    named = "; ".join(f"{twin} (train) and {row} ({called})" for twin, row in pairs)
    more = f" and {len(rows) - _EXAMPLES:,} more" if len(rows) > _EXAMPLES else ""
    return Finding(
        "warning",
        f"{name}: {count} {has} the same text as a training row, so the scores will look too good: rows {named}{more}",
    )


def _is_cut(cells: Cells) -> Bool[np.ndarray, " rows"]:
    """Cells with more characters than are read."""
    levels = cells.levels
    long = np.asarray(levels.names.str.len().to_numpy(), dtype=np.float64) > MOST_CHARACTERS
    return np.append(long, np.False_)[levels.codes]
