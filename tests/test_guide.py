"""The guide cannot rot: its chapters run, print what they show, draw the pictures in them, and link to files."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from guide_chapters import CHAPTERS, GUIDE, blocks_of, pictures_of, run_chapter
from PIL import Image

PAGES = [GUIDE / "README.md", *CHAPTERS]
LARGEST_PICTURE = 100_000  # bytes
LARGEST_DIFFERENCE = 4.0  # of 255, mean over a picture: fonts are drawn a little differently from machine to machine


def by_name(path: Path) -> str:
    return path.name


@dataclass(frozen=True)
class Run:
    """A chapter that has been run, what its blocks printed, and where its pictures are."""

    chapter: Path
    printed: list[str]
    folder: Path


@pytest.fixture(scope="module", params=CHAPTERS, ids=by_name)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("guide")
    return Run(request.param, run_chapter(request.param, folder), folder)


def test_a_chapter_prints_what_it_shows(run: Run) -> None:
    for block, printed in zip(blocks_of(run.chapter), run.printed, strict=True):
        where = f"{run.chapter.name}, line {block.line}"
        if block.varies:
            assert re.sub(r" *[\d.]+", "#", printed) == re.sub(r" *[\d.]+", "#", block.shown), where
        else:
            assert printed == block.shown, where


def test_the_pictures_are_those_that_the_chapter_draws(run: Run) -> None:
    assert pictures_of(run.chapter)
    for name in pictures_of(run.chapter):
        kept, drawn = Image.open(GUIDE / name).convert("RGB"), Image.open(run.folder / name).convert("RGB")
        assert kept.size == drawn.size, name
        difference = np.abs(np.asarray(kept, dtype=np.float64) - np.asarray(drawn, dtype=np.float64))
        assert difference.mean() < LARGEST_DIFFERENCE, name
        assert (GUIDE / name).stat().st_size < LARGEST_PICTURE, name


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_guide_lists_its_chapters_and_keeps_no_other_pictures() -> None:
    listed = (GUIDE / "README.md").read_text(encoding="utf-8")
    assert [chapter.name for chapter in CHAPTERS if f"({chapter.name})" not in listed] == []
    used = {name for chapter in CHAPTERS for name in pictures_of(chapter)}
    assert {f"images/{path.name}" for path in (GUIDE / "images").iterdir()} == used


def test_a_block_is_found_with_its_output_and_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n```python\nx = 2\n```\n\nWords.\n\n```text\nno\n```\n"
        "\n```python\nprint(x)\n```\n\n```text varies\n7\n```\n"
    )
    assert [(block.line, block.shown, block.varies) for block in blocks_of(page)] == [
        (4, "1\n", False),
        (12, "", False),
        (22, "7\n", True),
    ]
    assert run_chapter(page, tmp_path) == ["1\n", "", "2\n"]


def test_a_failing_block_is_named_by_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError, match=r'page\.md", line 8'):
        run_chapter(page, tmp_path)
