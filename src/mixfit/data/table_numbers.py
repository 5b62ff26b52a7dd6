"""Decimal commas and thousands signs: "1.234,5" becomes "1234.5", and nothing else is changed.

In: the text columns of a table. Out: which of "," and "." is the decimal sign and which parts thousands, and the same
columns with only "." left in their numbers. A column is changed as a whole or not at all. Knows nothing of files."""

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from mixfit.data.values import MISSING_WORDS

# Enough to tell a column of text at once, without a look at all its cells.
HEAD_ROWS = 1000
_MISSING = "|".join(sorted(re.escape(word) for word in MISSING_WORDS if word))


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberStyle:
    """How the numbers of a table are written."""

    decimal: str = "."
    """The sign before the fraction, "." or ","."""
    thousands: str | None = None
    """The other of the two, if it parts groups of three digits."""


def detect_style(table: pa.Table, *, separator: str, decimal: str | None = None) -> tuple[NumberStyle, tuple[str, ...]]:
    """Give the style of a table of text columns, and a note for the user when it cannot be told.

    A column speaks for one sign only if all its cells are numbers that way and not the other way: "12,5" and
    "1.234.567" for the comma, "12.5" and "1,234,567" for the point; "1,234" alone speaks for neither. In a table
    separated by commas the decimal sign is the point, and "1,234" (in quotes there) has thousands, unless another
    column speaks for the comma. In other tables the columns decide; when none speaks or they disagree, no cell is
    changed.

    Args:
        separator: what separates the cells.
        decimal: the decimal sign, if the user named it; the other one then parts thousands.
    """
    with_comma = [name for name in table.column_names if _contains(table[name], ",")]
    with_point = [name for name in table.column_names if _contains(table[name], ".")]
    if decimal is not None:
        other = "," if decimal == "." else "."
        marked = with_comma if other == "," else with_point
        grouped = any(_fits(table[name], decimal, other) for name in marked)
        return NumberStyle(decimal=decimal, thousands=other if grouped else None), ()
    if separator == ",":
        with_point = []  # a point is the decimal sign there, whatever it looks like
    marked = list(dict.fromkeys([*with_comma, *with_point]))
    as_comma = [name for name in marked if _fits(table[name], ",", ".")]
    if not as_comma and not any(_fits(table[name], ".", ",") for name in with_comma):
        return NumberStyle(), ()
    as_point = [name for name in marked if _fits(table[name], ".", ",")]
    for_comma = [name for name in as_comma if name not in as_point]
    for_point = separator == "," or any(name not in as_comma for name in as_point)
    if for_comma and not for_point:
        return NumberStyle(decimal=",", thousands="." if set(as_comma) & set(with_point) else None), ()
    if for_point and not for_comma:
        return NumberStyle(thousands="," if set(as_point) & set(with_comma) else None), ()
    doubtful = for_comma + [name for name in as_comma if name in with_comma and name not in for_comma]
    return NumberStyle(), (_note(table, doubtful),) if doubtful else ()


def normalise_numbers(table: pa.Table, style: NumberStyle) -> pa.Table:
    """Give the table with "." as the only sign in the columns whose cells are all numbers of that style.

    Cells are missing, a word for missing ("n/a", which stays), or a number; any other cell leaves its column as it is.
    """
    if style == NumberStyle():
        return table
    for position, name in enumerate(table.column_names):
        column = table[name]
        if any(_contains(column, sign) for sign in {",", style.thousands or ","}) and _fits(
            column, style.decimal, style.thousands
        ):
            is_number = pc.match_substring_regex(column, "[0-9]")  # "n/a" and "." are no numbers
            changed = column
            if style.thousands is not None:
                changed = pc.replace_substring(changed, style.thousands, "")
            changed = pc.replace_substring(changed, style.decimal, ".")
            table = table.set_column(position, name, pc.if_else(is_number, changed, column))
    return table


def _contains(column: pa.ChunkedArray, sign: str) -> bool:
    """True if a cell has the sign between two digits; the plain search comes first because it is ten times as fast."""
    with_sign = column.filter(pc.match_substring(column, sign))
    pattern = f"[0-9]{re.escape(sign)}[0-9]"
    return any(pc.any(pc.match_substring_regex(part, pattern)).as_py() for part in _head_and_rest(with_sign))


def _fits(column: pa.ChunkedArray, decimal: str, thousands: str | None) -> bool:
    """True if every cell is missing or a number with these signs."""
    groups = rf"[1-9][0-9]{{0,2}}(?:{re.escape(thousands)}[0-9]{{3}})+|" if thousands else ""
    number = rf"[+-]?(?:{groups}[0-9]+)(?:{re.escape(decimal)}[0-9]+)?(?:[eE][+-]?[0-9]+)?"
    pattern = rf"\A(?:{number}|(?i:{_MISSING}))\z"
    return all(pc.all(pc.match_substring_regex(part, pattern), min_count=0).as_py() for part in _head_and_rest(column))


def _head_and_rest(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    return column.slice(0, HEAD_ROWS), column.slice(HEAD_ROWS)


def _note(table: pa.Table, names: list[str]) -> str:
    column = table[names[0]]
    example = column.filter(pc.match_substring_regex(column, "[0-9][.,][0-9]"))[0].as_py()
    return (
        f"{len(names)} columns stay text, the first is {names[0]!r} with cells like {example!r}: their sign may stand "
        "before a fraction or part thousands; say --decimal , or --decimal ."
    )
