"""The page of ``mixfit inspect``: what a table holds, before anything is trained.

In: ``InspectContent``. Out: one HTML file without script or reference to anything outside, the same bytes for the same
content."""

from pathlib import Path

from mixfit.runs.report.content import InspectContent
from mixfit.runs.report.render import bad_input_view, plural, render, schema_view, write_page

_SECTIONS = [("checks", "Checks"), ("columns", "Columns"), ("photos", "Photos"), ("bad-inputs", "Missing or broken")]


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
        "sections": _SECTIONS + ([("next", "Next")] if content.next_command else []),
        "verdict": _verdict(content),
        "checks": sorted(content.checks, key=lambda check: ["error", "warning", "note"].index(check.level)),
        "schema": schema_view(content.schema),
        "bad": bad_input_view(content.bad_inputs),
    }
    return render("inspect.html.j2", values)


def _verdict(content: InspectContent) -> str:
    errors = sum(check.level == "error" for check in content.checks)
    warnings = sum(check.level == "warning" for check in content.checks)
    if errors:
        others = f" There {'is' if warnings == 1 else 'are'} also {plural(warnings, 'warning')}." if warnings else ""
        return f"Not ready: {plural(errors, 'error')} must be mended before training.{others}"
    if warnings:
        return f"Ready to train, with {plural(warnings, 'warning')} to read first."
    return "Ready to train: nothing stands out."
