"""The page of an inspected table."""

from dataclasses import replace
from html import escape
from pathlib import Path

import pytest
from hostile_texts import Page

from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.schema import Column, Schema
from mixfit.runs.report.inspect_page import Check, InspectContent, PhotoStatistics, inspect_page, write_inspect

IMG = "<img src=x onerror=alert(1)>"


def content() -> InspectContent:
    columns = (
        Column(name="area", role="number", reason="floats", missing=12, note="largest lies 6.1 sd from the mean"),
        Column(name="price", role="target", reason="named as target", missing=0, note=""),
    )
    return InspectContent(
        table_name="houses/table.csv",
        format_text="utf-8, comma",
        schema=Schema(columns=columns, task="regression", task_reason="380 distinct floats", rows=1535),
        checks=[Check(level="warning", text="2 rows are equal."), Check(level="error", text="The target is constant.")],
        photos=[PhotoStatistics(column="front", readable=1500, broken=31, missing=4)],
        bad_inputs=[
            BadInput(
                row=217, column="front", value="a.jpg", problem="file is missing", action="photo treated as missing"
            )
        ],
        next_command="mixfit train houses/table.csv --target price",
    )


def test_all_that_was_found_is_shown() -> None:
    page = inspect_page(content())
    for expected in (
        "1,535 rows \u00d7 2 columns · utf-8, comma",
        "largest lies 6.1 sd from the mean",
        "1,500",
        ">31<",
        "217",
        "file is missing",
        "mixfit train houses/table.csv --target price",
        "1 problem in 1 row of",
    ):
        assert expected in page


def test_errors_come_before_warnings_and_decide_the_verdict() -> None:
    page = inspect_page(content())
    assert page.index("The target is constant.") < page.index("2 rows are equal.")
    assert "Not ready: 1 error must be fixed before training. There is also 1 warning." in page


@pytest.mark.parametrize(
    ("checks", "verdict"),
    [
        ([], "Ready to train: no warnings."),
        ([Check(level="warning", text="a")] * 2, "Ready to train; read 2 warnings first."),
        ([Check(level="error", text="a")] * 2, "Not ready: 2 errors must be fixed before training."),
    ],
)
def test_the_verdict_counts(checks: list[Check], verdict: str) -> None:
    assert verdict in inspect_page(replace(content(), checks=checks))


def test_a_table_without_photos_or_faults_says_so() -> None:
    page = inspect_page(replace(content(), photos=[], bad_inputs=[], next_command=""))
    assert "hoto" not in Page(page).text
    assert "Every cell that is present could be read" in page
    assert 'id="next"' not in page


def test_f45_markup_in_names_is_text_on_the_inspect_page() -> None:
    hostile = replace(
        content(),
        table_name=f"table {IMG}",
        format_text=f"format {IMG}",
        schema=Schema(
            columns=(Column(name=f"c {IMG}", role="number", reason=f"why {IMG}", missing=0, note=f"note {IMG}"),),
            task="binary",
            task_reason=f"task {IMG}",
            rows=1,
        ),
        checks=[Check(level="error", text=f"check {IMG}")],
        photos=[PhotoStatistics(column=f"photo {IMG}", readable=0, broken=0, missing=0)],
        bad_inputs=[BadInput(row=0, column=f"bc {IMG}", value=f"v {IMG}", problem=f"p {IMG}", action=f"a {IMG}")],
        next_command=f"next {IMG}",
    )
    page = inspect_page(hostile)
    assert "<img" not in page
    for name in ("table", "format", "c", "why", "note", "task", "check", "photo", "bc", "v", "p", "a", "next"):
        assert escape(f"{name} {IMG}") in page
    assert "default-src 'none'" in page
    assert "<script" not in page


def test_a_page_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "inspect.html"
    path.write_text("old")
    write_inspect(content(), path)
    first = path.read_bytes()
    write_inspect(content(), path)
    assert path.read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["inspect.html"]
