"""Texts that a page, a card or a terminal must survive, and what must not be left of them."""

import re
from html.parser import HTMLParser

MARKUP = (
    "<script>alert(1)</script> <img src=x onerror=alert(1)> \"a\" 'b' & {{ 7*7 }} {% raw %} | `c` [d](http://e) </bdi>"
)
RIGHT_TO_LEFT = "مزهرية جميلة موقعة \u202eesrever\u202c \u2066isolated \u200fmark"
CONTROLS = "a\x00b \x1b[31mred\x07 \x9b2J \x85 end\udcff".encode("utf-8", "replace").decode()
LONG = "superb word " * 90_000
HOSTILE = {
    "markup": MARKUP,
    "a megabyte": LONG,
    "right to left": RIGHT_TO_LEFT,
    "emoji": "👩‍👩‍👧 🏺🏺 😀️ superb",
    "controls": CONTROLS,
    "punctuation": "... !!! ---",
    "lines": "first\r\n\n\u2028second\tthird",
    "one word": "x" * 100_000,
}
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Page(HTMLParser):
    """The tags of a page, checked to be closed, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in {"meta", "br", "img", "link", "hr", "input"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def assert_harmless(source: str) -> Page:
    """No script, no attribute of an event, nothing that rearranges or breaks the page, and no long cell in full."""
    page = Page(source)
    assert "script" not in page.names
    assert not [name for name in page.attributes if name.startswith("on")]
    assert UNSAFE.search(source) is None
    assert "x" * 2_000 not in source
    assert "superb word " * 300 not in source
    assert len(source) < 2_000_000
    return page
