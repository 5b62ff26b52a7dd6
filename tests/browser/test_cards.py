"""Cards of notebooks in a browser: in a wide and a narrow cell, no word of a table is torn, and nothing sticks out."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from mixfit.html import Grid, card

NEEDED = os.environ.get("MIXFIT_BROWSER") == "needed"
if NEEDED:
    from playwright import sync_api
else:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs pip install 'mixfit[browser]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None and not NEEDED, reason="no Chromium is on the PATH")

# Words of up to 20 letters that lie in several lines.
TORN = """() => {
    const walk = document.createTreeWalker(document.querySelector("table"), NodeFilter.SHOW_TEXT), torn = [];
    while (walk.nextNode()) {
        const words = walk.currentNode.data.matchAll(/(?<![\\p{L}\\p{N}_])[\\p{L}\\p{N}_]{1,20}(?![\\p{L}\\p{N}_])/gu);
        for (const word of words) {
            const range = document.createRange();
            range.setStart(walk.currentNode, word.index);
            range.setEnd(walk.currentNode, word.index + word[0].length);
            if (new Set([...range.getClientRects()].map(one => one.top)).size > 1) torn.push(word[0]);
        }
    }
    return torn;
}"""
HEAD = ("column", "role", "because", "missing", "note")
ROWS = (
    ("Farbintensität", "number", "floats, decimal comma", 10, "9 of 178 cells are not numbers, treated as missing"),
    ("Postleitzahl", "category", "tags separated by ',': 27 tags, most frequent: 'leicht' (33), 'frisch' (30)", 0, ""),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_no_word_of_a_table_is_torn_and_nothing_sticks_out(width: int, browser: Any) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    long = ("x" * 190, "text", "a word that has no end " + "y" * 150, 0, "")
    for rows in (ROWS, (*ROWS, long)):
        page.set_content(card("Schema: predict Rebsorte", grids=[Grid(heading="columns", head=HEAD, rows=rows)]))
        assert page.evaluate(TORN) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()
