"""HTML of objects in notebooks: a small card of facts and tables without script, in the colours of the notebook.

In: texts and numbers. Out: HTML in which every text is escaped. Also how pages show numbers and texts of users."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

LONGEST_TEXT = 200
"""Largest number of characters shown of a name, cell or note."""
SHOWN_ROWS = 30
"""Largest number of rows of a table of a card."""
_LONGEST_LINE = 1_000

# Control characters are invalid in HTML, lone surrogates (odd file names) cannot be written as UTF-8, and
# direction overrides would let a name rearrange the text around it.
_UNSHOWABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def showable(text: str) -> str:
    """Replace characters that would break a page.

    >>> showable("a\\x00b")
    'a\ufffdb'
    """
    return _UNSHOWABLE.sub("\ufffd", text)


def short(text: str, longest: int = LONGEST_TEXT) -> str:
    """Cut a text after ``longest`` characters.

    >>> short("vases", 4)
    'vas…'
    """
    return text if len(text) <= longest else text[: longest - 1] + "…"


def number(value: float | int | None) -> str:
    """Format a number for a table column: about four digits, thousands separators, "n/a" for nan.

    >>> [number(value) for value in (351_234.5, 61.25, 0.22417, -0.004, 2.5e-6, 97, float("nan"))]
    ['351,234', '61.25', '0.2242', '-0.0040', '2.5e-06', '97', 'n/a']
    """
    if value is None:
        return ""
    if math.isnan(value):
        return "n/a"
    size = abs(value)
    if isinstance(value, int) or size >= 1e15 or not math.isfinite(value):
        return f"{value:,}" if size < 1e15 else f"{value:.4g}"
    if 0 < size < 0.001:
        return f"{value:.3g}"
    decimals = 4 if size < 1 else max(0, 3 - math.floor(math.log10(size)))
    return f"{value:,.{decimals}f}"


def ends_text(ends: tuple[float, float]) -> str:
    """Format the two ends of an interval with the decimals of the larger.

    >>> ends_text((0.000463, 0.0262)), ends_text((-9.5, 1250.0)), ends_text((float("nan"), float("nan")))
    ('0.0005 to 0.0262', '-10 to 1,250', 'n/a')
    """
    low, high = ends
    if not (math.isfinite(low) and math.isfinite(high)):
        return "n/a"
    larger = max(abs(low), abs(high))
    if not 0.001 <= larger < 1e15:
        return f"{number(low)} to {number(high)}"
    decimals = len(number(float(larger)).partition(".")[2])
    return f"{low:,.{decimals}f} to {high:,.{decimals}f}"


@dataclass(frozen=True, slots=True)
class Bar:
    """A cell with a horizontal bar."""

    share: float
    """Length relative to the longest bar, in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table of a card; of more than ``SHOWN_ROWS`` rows it shows the first, and the number of the others."""

    heading: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | int | float | Bar]]
    """Numbers are aligned to the right."""
    folded: bool = False
    """Whether only the heading is shown until a click."""


# Colours are inherited, so the card is readable in light and dark notebooks, whatever the operating system prefers.
_CARD = """\
<div style="border:1px solid rgba(128,128,128,.4);border-radius:.5em;padding:.7em 1em;margin:.3em 0;max-width:60em;\
overflow-wrap:anywhere;overflow-x:auto">
<div style="font-weight:600">{{ title | short }}</div>
{% for line in lines if line %}
<div style="margin:.3em 0;max-width:48em">{{ line }}</div>
{% endfor %}
{% if facts %}
<div style="opacity:.75;margin:.3em 0">
{% for name, value in facts.items() if value %}
<span style="white-space:pre-wrap;margin-right:1.2em">{{ name }}: {{ value | short }}</span>
{% endfor %}
</div>
{% endif %}
{% for grid in grids if grid.rows %}
<details{{ "" if grid.folded else " open" }} style="margin:.4em 0">
<summary style="cursor:pointer">{{ grid.heading }}</summary>
<table style="border-collapse:collapse;margin:.3em 0;background:none;color:inherit;overflow-wrap:break-word">
<tr>
{% for name in grid.head %}
<th style="{{ cell }};opacity:.75;font-weight:600">{{ name | short }}</th>
{% endfor %}
</tr>
{% for row in grid.rows[:most] %}
<tr style="background:none">
{% for one in row %}
{% if one is string %}
<td style="{{ cell }}">{{ one | short }}</td>
{% elif one is number %}
<td style="{{ cell }};text-align:right;font-variant-numeric:tabular-nums">{{ number(one) }}</td>
{% else %}
<td style="{{ cell }}"><span style="display:inline-block;height:.7em;background:currentColor;opacity:.5;\
width:{{ "%.2f" | format(12 * one.share) }}em"></span></td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</table>
{% if grid.rows | length > most %}
<div style="opacity:.75">and {{ "{:,}".format(grid.rows | length - most) }} more</div>
{% endif %}
</details>
{% endfor %}
</div>
"""
_CELL = "text-align:left;padding:.15em 1em .15em 0;border:0;vertical-align:top;max-width:24em"
"""In a narrow notebook a table scrolls sideways; only a word of more than a line's length is broken."""


def card(
    title: str, *, facts: Mapping[str, str] | None = None, lines: Sequence[str] = (), grids: Sequence[Grid] = ()
) -> str:
    """HTML of an object for ``_repr_html_``; texts are escaped, empty ones and empty tables are left out.

    Args:
        facts: short values by name, shown in one paragraph.
        lines: sentences.
    """
    values = {"title": title, "facts": facts or {}, "lines": lines, "grids": grids}
    return _template().render(values, cell=_CELL, most=SHOWN_ROWS, number=number)


@cache
def _template() -> "Template":
    """Compiled once; Jinja2 is loaded when the first card is shown."""
    from jinja2 import Environment, StrictUndefined

    def finalize(value: Any) -> Any:
        return short(showable(value), _LONGEST_LINE) if isinstance(value, str) else value

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=finalize, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["short"] = short
    return environment.from_string(_CARD)
