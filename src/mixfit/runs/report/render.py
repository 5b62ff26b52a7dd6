"""Rendering of HTML pages: the Jinja2 environment, formatting of numbers and texts, and the atomic write.

In: a template's name and its values. Out: a page."""

import math
import os
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.schema import Schema
from mixfit.errors import ResourceError
from mixfit.html import ends_text, number, short, showable

SHOWN_BAD_INPUTS = 50
SHOWN_PROBLEMS = 20
SHOWN_COLUMNS = 500


def plain(value: float | int | None) -> str:
    """Format a number without trailing zeros, such as a time.

    >>> [plain(value) for value in (12.0, 0.001, 7, None, float("nan"))]
    ['12', '0.001', '7', '', 'n/a']
    """
    if value is None:
        return ""
    return "n/a" if math.isnan(value) else f"{value:.4g}"


def percent(share: float | int) -> str:
    """Format a share in [0, 1]; only exactly 1 is "100 %" and only exactly 0 is "0 %".

    >>> [percent(share) for share in (0.0, 0.001, 0.5, 0.999, 1.0)]
    ['0 %', '<1 %', '50 %', '>99 %', '100 %']
    """
    if 0.0 < share < 0.01:
        return "<1 %"
    if 0.99 < share < 1.0:
        return ">99 %"
    return f"{share:.0%}".replace("%", " %")


def plural(count: int, noun: str) -> str:
    """Format a count with its noun.

    >>> plural(1, "row"), plural(2_000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _showable(value: Any) -> Any:
    """Applied to every value that a template writes, before it is escaped."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return showable(value)


def schema_view(schema: Schema) -> dict[str, Any]:
    """Values for the macro ``schema_table``: the columns to show and the number of columns of each role."""
    roles = Counter(str(column.role) for column in schema.columns)
    return {
        "columns": schema.columns[:SHOWN_COLUMNS],
        "total": len(schema.columns),
        "roles": [f"{count:,} {role}" for role, count in roles.most_common()],
        "rows": schema.rows,
    }


def bad_input_view(records: list[BadInput]) -> dict[str, Any]:
    """Values for the macro ``bad_input_tables``: counts, and the first records in full."""
    groups = Counter((record.problem, record.column, record.action) for record in records)
    return {
        "total": len(records),
        "rows": len({record.row for record in records}),
        "problems": [(*group, count) for group, count in groups.most_common(SHOWN_PROBLEMS)],
        "problem_total": len(groups),
        "first": records[:SHOWN_BAD_INPUTS],
    }


def render(template: str, values: dict[str, Any]) -> str:
    """Fill a template of this package; every value is escaped unless it is ``Markup``."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    """Templates are compiled once."""
    environment = Environment(
        loader=PackageLoader("mixfit.runs.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_showable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, plain=plain, percent=percent, short=short, ends=ends_text)
    environment.globals.update(plural=plural)
    return environment


def write_page(page: str, path: Path) -> None:
    """Write a page atomically as UTF-8.

    Raises:
        ResourceError: the folder is absent, the disk is full, or the file may not be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(page, encoding="utf-8", newline="\n")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ResourceError(
            f"The page {path} cannot be written ({error.strerror}); check that its folder exists, is writable and "
            "has free space."
        ) from error
