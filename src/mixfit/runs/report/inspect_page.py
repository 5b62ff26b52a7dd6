"""The page of ``mixfit inspect``.

In: ``InspectContent``. Out: one HTML file without script or external reference, the same bytes for the same
content."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mixfit.data.bad_inputs import BadInput
from mixfit.data.checks.texts import TextStatistics
from mixfit.data.columns.schema import Schema
from mixfit.runs.report.render import bad_input_view, plural, render, schema_view, write_page

_SECTIONS = [("columns", "Columns"), ("texts", "Texts"), ("photos", "Photos"), ("bad-inputs", "Missing or broken")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One finding about a table; a note is for information, an error prevents training."""

    level: Literal["note", "warning", "error"]
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoStatistics:
    """The photos of one image column."""

    column: str
    readable: int
    """Files that decode."""
    broken: int
    """Files that are missing or cannot be decoded."""
    missing: int
    """Number of rows with an empty cell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectContent:
    """Everything that the page of ``mixfit inspect`` shows."""

    table_name: str
    format_text: str
    """Format of the file: "utf-8, comma"."""
    schema: Schema
    checks: list[Check] = field(default_factory=list)
    photos: list[PhotoStatistics] = field(default_factory=list)
    texts: list[TextStatistics] = field(default_factory=list)
    bad_inputs: list[BadInput] = field(default_factory=list)
    next_command: str = ""
    """Suggested next command, if any."""


def write_inspect(content: InspectContent, path: Path) -> None:
    """Write the page of an inspected table, replacing an older one.

    Raises:
        ResourceError: the file cannot be written.
    """
    write_page(inspect_page(content), path)


def inspect_page(content: InspectContent) -> str:
    """Lay out the findings as one HTML page."""
    values = {
        "content": content,
        "sections": _sections(content),
        "verdict": _verdict(content),
        "checks": sorted(content.checks, key=lambda check: ["error", "warning", "note"].index(check.level)),
        "schema": schema_view(content.schema),
        "bad": bad_input_view(content.bad_inputs),
    }
    return render("inspect.html.j2", values)


def _sections(content: InspectContent) -> list[tuple[str, str]]:
    """Those that the page has, with their headings."""
    left_out = [*([] if content.texts else ["texts"]), *([] if content.photos else ["photos"])]
    return [one for one in _SECTIONS if one[0] not in left_out] + ([("next", "Next")] if content.next_command else [])


def _verdict(content: InspectContent) -> str:
    errors = sum(check.level == "error" for check in content.checks)
    warnings = sum(check.level == "warning" for check in content.checks)
    if errors:
        others = f" There {'is' if warnings == 1 else 'are'} also {plural(warnings, 'warning')}." if warnings else ""
        return f"Not ready: {plural(errors, 'error')} must be fixed before training.{others}"
    if warnings:
        return f"Ready to train; read {plural(warnings, 'warning')} first."
    return "Ready to train: no warnings."
