"""The report in a browser: offline, at three widths, light, dark and in print, and for a screen reader.

Wanted are Playwright (``pip install 'mixfit[browser]'``), a Chromium on the PATH, and for the last test axe-core (``npm
install axe-core``) in ``node_modules``, here or in the folder ``MIXFIT_AXE``. Without them the tests are skipped;
``MIXFIT_BROWSER=needed``, as in CI, makes a missing Playwright or Chromium a failure."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report_content import CONTENTS

from mixfit.auto.recipe import Run
from mixfit.runs.report.page import write_report

NEEDED = os.environ.get("MIXFIT_BROWSER") == "needed"
if NEEDED:
    from playwright import sync_api
else:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs pip install 'mixfit[browser]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None and not NEEDED, reason="no Chromium is on the PATH")

WIDTHS = (390, 1280, 1920)
RUNS = ("quick_run", "blend_run", "class_run")
DRAWN = ("regression", "20 classes", "99 classes", "600 columns", "bare")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=[*RUNS, *DRAWN])
def report(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param in RUNS:
        run: Run = request.getfixturevalue(request.param)
        return run.folder / "report.html"
    write_report(CONTENTS[request.param], tmp_path / "report.html")
    return tmp_path / "report.html"


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


# What sticks out of the window, but for what is inside of a box that scrolls.
WIDER = """() => [...document.querySelectorAll("body *")].filter(one => {
    const box = one.getBoundingClientRect();
    return box.right > window.innerWidth + 1 && box.width > 0 && !one.closest(".scroll");
}).map(one => one.outerHTML.slice(0, 100))"""


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_page(width: int, visit: Callable[..., Any]) -> None:
    page = visit(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(WIDER) == []
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].filter(one => !one.naturalWidth).length") == page.evaluate(
        "[...document.images].filter(one => one.src === 'data:image/jpeg;base64,AAAA').length"
    )


def test_on_paper_nothing_is_wider_than_the_sheet(visit: Callable[..., Any]) -> None:
    page = visit(794)  # A4 at 96 dots per inch
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 794
    assert page.pdf(format="A4").startswith(b"%PDF")


def axe() -> str:
    """The script of axe-core."""
    places = [Path(os.environ[name]) for name in ("MIXFIT_AXE",) if name in os.environ]
    for place in [*places, Path(__file__).parents[2]]:
        for path in (place / "axe.min.js", place / "node_modules" / "axe-core" / "axe.min.js"):
            if path.is_file():
                return path.read_text(encoding="utf-8")
    pytest.skip("axe-core is not there: npm install axe-core, or set MIXFIT_AXE to its folder")


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_a_screen_reader_finds_no_serious_fault(width: int, scheme: str, visit: Callable[..., Any]) -> None:
    script, page = axe(), visit(width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    page.evaluate(script)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in serious] == []
    assert [(one["id"], one["help"]) for one in found["violations"]] == []
