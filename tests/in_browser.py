"""A browser for tests of pages, and what is asked of every page in it.

Wanted are Playwright (``pip install 'mixfit[browser]'``), a Chromium on the PATH, and for screen readers axe-core
(``npm install axe-core``) in ``node_modules``, here or in the folder ``MIXFIT_AXE``. Without them the tests are
skipped; ``MIXFIT_BROWSER=needed``, as in CI, makes a missing Playwright or Chromium a failure."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NEEDED = os.environ.get("MIXFIT_BROWSER") == "needed"
if NEEDED:
    from playwright import sync_api
else:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs pip install 'mixfit[browser]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None and not NEEDED, reason="no Chromium is on the PATH")

WIDER = """() => [...document.querySelectorAll("body *")].filter(one => {
    const box = one.getBoundingClientRect();
    return box.right > window.innerWidth + 1 && box.width > 0 && !one.closest(".scroll");
}).map(one => one.outerHTML.slice(0, 100))"""
"""What sticks out of the window, but for what is inside of a box that scrolls."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def axe() -> str:
    """The script of axe-core."""
    places = [Path(os.environ[name]) for name in ("MIXFIT_AXE",) if name in os.environ]
    for place in [*places, Path(__file__).parents[1]]:
        for path in (place / "axe.min.js", place / "node_modules" / "axe-core" / "axe.min.js"):
            if path.is_file():
                return path.read_text(encoding="utf-8")
    pytest.skip("axe-core is not there: npm install axe-core, or set MIXFIT_AXE to its folder")


def assert_no_fault_for_screen_readers(page: Any, script: str) -> None:
    """Axe finds nothing; what is serious is said first."""
    page.evaluate(script)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in serious] == []
    assert [(one["id"], one["help"]) for one in found["violations"]] == []
