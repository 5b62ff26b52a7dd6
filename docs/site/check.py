"""Checks a built site: every link and anchor leads somewhere, and nothing is loaded from elsewhere.

Run: python docs/site/check.py build/site"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
}
"""Tags that load what an attribute names."""
LOADED_LINKS = {"stylesheet", "icon", "preload", "preconnect", "dns-prefetch", "modulepreload", "prefetch", "manifest"}
_LOADED_BY_STYLE = re.compile(r"(?:url\(|@import\s+)\s*[\"']?((?:https?:)?//[^\"')\s]+)")


class Page(HTMLParser):
    """The links, anchors and loaded addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {""}
        self.loads: list[str] = _LOADED_BY_STYLE.findall(text)
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what the tag names."""
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found.get("id", ""), found.get("name", "") if tag == "a" else ""}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in LOADS and LOADS[tag] in found:
            self.loads.append(found[LOADS[tag]])
        if tag == "link" and LOADED_LINKS & set(found.get("rel", "").split()):
            self.loads.append(found.get("href", ""))


def problems(site: Path) -> list[str]:
    """One sentence for each dead link, dead anchor and address that is loaded from elsewhere."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site).as_posix()
        for address in page.loads:
            if urlsplit(address).netloc:
                found.append(f"{name} loads {address}")
            elif address and not address.startswith("data:") and not _file(path, address, site).is_file():
                found.append(f"{name} loads {address}, which is not there")
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = _file(path, link, site)
            if not target.is_file():
                found.append(f"{name} links to {link}, which is not there")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{name} links to {link}, and there is no such anchor")
    found += [
        f"{path.relative_to(site).as_posix()} loads {address}"
        for path in sorted(site.rglob("*.css"))
        for address in _LOADED_BY_STYLE.findall(path.read_text(encoding="utf-8"))
    ]
    return found


def _file(page: Path, link: str, site: Path) -> Path:
    """The file that a relative link names."""
    path = unquote(urlsplit(link).path)
    target = page if not path else (site / path.lstrip("/") if path.startswith("/") else page.parent / path)
    return (target / "index.html" if target.is_dir() else target).resolve()


def main() -> None:
    """Print the problems; exit code 1 if there are any."""
    found = problems(Path(sys.argv[1]).resolve())
    for one in found[:100]:
        print(one)
    print(f"{len(found)} problems")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
