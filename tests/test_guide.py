"""The guide cannot rot: its chapters run, print what they show, draw the pictures in them, and link to files."""

import itertools
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from guide_chapters import CHAPTERS, GUIDE, blocks_of, pictures_of, run_chapter
from PIL import Image
from scipy.ndimage import distance_transform_edt

from mixfit.data.load import load_data
from mixfit.demo import demo_place, write_demo

PAGES = [GUIDE / "README.md", *CHAPTERS]
HEAT = "images/5-heat.png"
LARGEST_PICTURE = 100_000  # bytes
FAR = 12
"""Pixels: fonts are drawn, and curves of a training run, a little differently from machine to machine."""
MOST_ALONE = 0.05
"""Largest share of the marks of a colour that have none of their colour near them in the other picture."""
DECIMALS = re.compile(r"-?\b\d+\.\d+\b(?![.\d])")
TILE, STEP = 128, 132
"""Pixels a side of a photo in the picture of heat, and from one to the next."""


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
            assert_like(printed, block.shown, where)


def assert_like(printed: str, shown: str, where: str) -> None:
    """The same text, but for the last digits of numbers with decimals, which differ from processor to processor."""
    numbers = [[float(number) for number in DECIMALS.findall(text)] for text in (printed, shown)]
    words = [re.sub(r" *#", " #", DECIMALS.sub("#", text)) for text in (printed, shown)]
    assert words[0] == words[1], where
    for found, expected, spelt in zip(*numbers, DECIMALS.findall(shown), strict=True):
        last_digit = 10.0 ** -len(spelt.partition(".")[2])
        assert abs(found - expected) <= max(2.001 * last_digit, 0.01 * abs(expected)), f"{where}: {found}, not {spelt}"


def marks_of(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Where a picture is dark, as words and axes are, and where it has each of six colours, as curves have."""
    high, low = pixels.max(2), pixels.min(2)
    yield high < 110
    for most, least in itertools.permutations(range(3), 2):
        yield (high - low > 80) & (pixels.argmax(2) == most) & (pixels.argmin(2) == least)


def share_alone(one: np.ndarray, other: np.ndarray) -> float:
    """Largest share, over colours, of the marks of a picture that have none like them near in the other one."""
    shares = [0.0]
    for pair in zip(marks_of(one), marks_of(other), strict=True):
        if max(marks.sum() for marks in pair) < 50:
            continue  # traces of a colour at the edges of another one
        for here, there in (pair, pair[::-1]):
            distance = distance_transform_edt(~there) if there.any() else np.full(there.shape, np.inf)
            shares.append(float((distance[here] > FAR).mean()) if here.any() else 0.0)
    return max(shares)


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=np.int64)


def test_the_pictures_show_what_the_chapter_draws(run: Run) -> None:
    assert pictures_of(run.chapter)
    for name in pictures_of(run.chapter):
        kept, drawn = pixels_of(GUIDE / name), pixels_of(run.folder / name)
        assert kept.shape == drawn.shape, name
        if name == HEAT:
            for pixels in (kept, drawn):
                assert_heat_lies_on_vases(pixels)
        else:
            assert share_alone(kept, drawn) < MOST_ALONE, name
        assert (GUIDE / name).stat().st_size < LARGEST_PICTURE, name


@cache
def heated_photos() -> list[tuple[int, int, np.ndarray]]:
    """Line and place of each photo in the picture of heat, and where its vase is, bool ``(TILE, TILE)``.

    The rows are those that the chapter picks from the first test batch: two with two photos, and the first."""
    with tempfile.TemporaryDirectory() as folder:
        table = write_demo(Path(folder) / "vases", rows=600)
        data = load_data(table, target="price", image_size=64, batch_size=16)
        assert data.photos is not None
        counts = (data.photos.slots[data.split.test[:16]] >= 0).sum(1)
    found = []
    for line, row in enumerate([*np.flatnonzero(counts == 2)[:2], 0]):
        for photo in range(counts[row]):
            vase = Image.fromarray(demo_place(int(data.split.test[row]), rows=600, detail=bool(photo)))
            found.append((line, photo, np.asarray(vase.resize((TILE, TILE), Image.Resampling.NEAREST))))
    return found


def assert_heat_lies_on_vases(pixels: np.ndarray) -> None:
    """The picture has the photos, and beside each its two kinds of heat, warmer on the vase than beside it.

    The photo below the heat is grey: colour is heat."""
    ratios = []
    for line, photo, vase in heated_photos():
        plain, *heats = (
            pixels[line * STEP :, (3 * photo + place) * STEP :][:TILE, :TILE].astype(np.float64) for place in range(3)
        )
        assert np.ptp(plain, axis=2).mean() > 10, "the photo has its colours"
        colour = [np.ptp(heat, axis=2) for heat in heats]
        ratios.append([part[vase].mean() / part[~vase].mean() for part in colour])
    by_map, by_pixel = np.array(ratios).T
    assert by_pixel.min() > 1.2, ratios
    assert min(by_map.mean(), by_pixel.mean()) > 1.4, ratios


def test_other_numbers_and_other_words_are_told_from_those_shown() -> None:
    for like in ("loss 1.890, 12 rows\n", "loss 1.900, 12 rows\n", "loss  1.891, 12 rows\n"):
        assert_like(like, "loss 1.891, 12 rows\n", "")
    for other in (
        "loss 1.990, 12 rows\n",
        "loss 1.891, 13 rows\n",
        "lost 1.891, 12 rows\n",
        "loss 1.891 1.891, 12 rows\n",
    ):
        with pytest.raises(AssertionError):
            assert_like(other, "loss 1.891, 12 rows\n", "")
    with pytest.raises(AssertionError):
        assert_like("torch 2.14.1", "torch 2.13.1", "a version is no number")


def test_a_picture_that_lacks_something_is_told_from_the_kept_one() -> None:
    kept = pixels_of(GUIDE / "images" / "4-loss.png")
    assert share_alone(kept, kept) == 0
    blue = list(marks_of(kept))[5]
    assert blue.any()
    lacking = np.where(blue[:, :, None], 255, kept)
    assert share_alone(kept, lacking) > MOST_ALONE
    assert share_alone(kept, kept[::-1]) > MOST_ALONE
    words = kept.copy()
    words[:, :40] = 255
    assert share_alone(kept, words) > MOST_ALONE


def test_heat_beside_the_vases_is_told_from_heat_on_them() -> None:
    kept = pixels_of(GUIDE / HEAT)
    assert_heat_lies_on_vases(kept)
    with pytest.raises(AssertionError):
        assert_heat_lies_on_vases(np.roll(kept, TILE // 2, axis=1))
    grey = np.repeat(kept.mean(2, keepdims=True), 3, axis=2)
    with pytest.raises(AssertionError):
        assert_heat_lies_on_vases(grey)


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
