"""The command line in this process, and the pages it writes, as tests of fault cases want them."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from mixfit.cli import main

QUICK = ("--preset", "network", "--epochs", "2", "--tabular-hidden", "8", "--encoding-dim", "8")


def mixfit(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code, and all that was printed."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert "bug of mixfit" not in printed.err
    return int(str(stop.value.code)), printed.out + printed.err


class Page(HTMLParser):
    """Tags and texts of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
