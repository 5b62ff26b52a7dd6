"""The report in a browser: offline, at three widths, light, dark and in print, and for a screen reader."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from in_browser import WIDER, assert_no_fault_for_screen_readers, axe, browser, needs_chromium
from report_content import CONTENTS

from mixfit.auto.recipe import Run
from mixfit.cli import main
from mixfit.runs.report.page import write_report

__all__ = ["browser"]  # a fixture
pytestmark = needs_chromium

WIDTHS = (390, 1280, 1920)
RUNS = ("quick_run", "blend_run", "class_run")
LONG = pytest.mark.long
DRAWN = ("regression", "20 classes", "99 classes", "600 columns", "bare")
PAGES = (*RUNS, *DRAWN)


def each(*views: Any) -> list[Any]:
    """Every page with every view: one view a page, and every view of one page, are short."""
    return [
        pytest.param(page, view, id=f"{page}-{number}", marks=() if is_short(place, page, number, len(views)) else LONG)
        for place, page in enumerate(PAGES)
        for number, view in enumerate(views)
    ]


def is_short(place: int, page: str, number: int, views: int) -> bool:
    if page in ("blend_run", "20 classes"):  # a blend of classes, and 99 of them, are shown, too
        return False
    return page == "class_run" or place % views == number


PRINTED = [page if page in ("class_run", "600 columns", "bare") else pytest.param(page, marks=LONG) for page in PAGES]


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param in RUNS:
        run: Run = request.getfixturevalue(request.param)
        return run.folder / "report.html"
    page = tmp_path_factory.mktemp("report") / "report.html"
    write_report(CONTENTS[request.param], page)
    return page


@pytest.fixture
def visit(browser: Any, report: Path) -> Iterator[Callable[..., Any]]:
    """Opens the report in a window of some width, without a network; a complaint of the browser fails the test."""
    complaints: list[str] = []
    contexts = []

    def opened(width: int, scheme: str = "light") -> Any:
        contexts.append(
            browser.new_context(viewport={"width": width, "height": 900}, offline=True, color_scheme=scheme)
        )
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.goto(report.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [line for line in complaints if line != report.as_uri() and not line.startswith("data:image/")] == []


@pytest.mark.parametrize(("report", "width"), each(*WIDTHS), indirect=["report"])
def test_nothing_is_wider_than_the_page(width: int, visit: Callable[..., Any]) -> None:
    page = visit(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(WIDER) == []
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].filter(one => !one.naturalWidth).length") == page.evaluate(
        "[...document.images].filter(one => one.src === 'data:image/jpeg;base64,AAAA').length"
    )


@pytest.mark.parametrize("report", PRINTED, indirect=True)
def test_on_paper_nothing_is_wider_than_the_sheet(visit: Callable[..., Any]) -> None:
    page = visit(794)  # A4 at 96 dots per inch
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 794
    assert page.pdf(format="A4").startswith(b"%PDF")


@pytest.mark.parametrize(("report", "look"), each((390, "light"), (1280, "dark")), indirect=["report"])
def test_a_screen_reader_finds_no_serious_fault(look: tuple[int, str], visit: Callable[..., Any]) -> None:
    script, page = axe(), visit(*look)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert_no_fault_for_screen_readers(page, script)


def test_table_and_photos_of_an_explanation_are_drawn_alike(browser: Any, quick_run: Run, tmp_path: Path) -> None:
    """The two halves of the bar and their keys in the text differ in colour and length alone."""
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["explain", str(quick_run.folder), "--rows", "3", "--out", str(tmp_path)])
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((tmp_path / "explain.html").as_uri())
    for name in (".halves span", ".key"):
        boxes = [one.bounding_box() for one in page.locator(name).all()]
        assert len(boxes) == 2
        assert len({(box["y"], box["height"]) for box in boxes}) == 1
    page.close()
