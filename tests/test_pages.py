"""The pages of the documentation: links lead somewhere, every page is in the navigation, and what they show runs."""

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mixfit.cli import main
from mixfit.demo import write_demo, write_messy_demo

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "site"))
import check
import notebooks
import pages

SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in pages.sources()}
GENERATED = {"api/index.md", "decisions/index.md", "gallery/index.md", "notebooks/index.md"}
GENERATED |= {f"notebooks/{path.stem}.md" for path in pages.NOTEBOOKS}


def anchors_of(text: str) -> set[str]:
    """Anchors of the headings, as Markdown makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^(`{3,}).*?^\1`*$", "", text, flags=re.M | re.S), flags=re.M)
    plain = [re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower() for heading in headings]
    return {"", *(re.sub(r"[-\s]+", "-", heading) for heading in plain)}


def test_every_link_of_a_page_leads_somewhere() -> None:
    dead = []
    for source, text in SOURCES.items():
        for link in pages.links_of(text):
            path, _, anchor = link.partition("#")
            target = source if not path else pages.target_of(source, link)
            if target is None:
                continue
            if not (ROOT / target).exists() or (target in SOURCES and anchor not in anchors_of(SOURCES[target])):
                dead.append(f"{source}: {link}")
    assert dead == []
    assert sum(len(pages.links_of(text)) for text in SOURCES.values()) > 300


def test_every_page_is_in_the_navigation_and_there() -> None:
    shown = [page for section in pages.SECTIONS.values() for page in section]
    assert len(set(shown)) == len(shown)
    made = {pages.page_of(source) for source in SOURCES} - {
        page for page in map(pages.page_of, SOURCES) if page.startswith("decisions/")
    }
    assert made | GENERATED == set(shown)
    assert len(pages.decisions_page().splitlines()) > len(list((DOCS / "decisions").glob("*.md")))


def test_links_are_those_of_the_pages() -> None:
    text = (
        "[a](../src/mixfit/nn/model.py#x) [b](guide/) [c](https://x.example) [d](#here)\n\n"
        "```text\n[a](../no.py)\n```\n"
    )
    assert pages.staged("docs/commands.md", text) == (
        "[a](source/src/mixfit/nn/model.py.md#x) [b](guide/index.md) [c](https://x.example) [d](#here)\n\n"
        "```text\n[a](../no.py)\n```\n"
    )
    assert pages.staged("README.md", "[a](docs/guide/1-data.md) [b](CONTRIBUTING.md)") == (
        "[a](guide/1-data.md) [b](contributing.md)"
    )
    assert "class MixedInputModel" in pages.source_page("src/mixfit/nn/model.py")
    assert "src/mixfit/nn/model.py" in pages.linked_sources(SOURCES)


def test_the_reference_has_every_public_name_once() -> None:
    import mixfit
    import mixfit.sklearn

    text = "\n".join(page for name, page in pages.api_pages().items() if name != "api/index.md")
    documented = re.findall(r"^::: ([\w.]+)\n    options:\n      heading: ([\w.]+)$", text, flags=re.M)
    assert len({where for where, _ in documented}) == len(documented)
    modules: list[Any] = [mixfit.data, mixfit.hooks, mixfit.models, mixfit.nn, mixfit.training]
    public = [getattr(module, name) for module in (mixfit, *modules) for name in module.__all__]
    public = [one for one in public if one not in modules and not isinstance(one, str)]
    public += [mixfit.sklearn.MixedClassifier, mixfit.sklearn.MixedRegressor, mixfit.sklearn.MixedTransformer]
    found: list[Any] = []
    for where, name in documented:
        for path in (where, name):
            module, _, last = path.rpartition(".")
            found.append(getattr(__import__(module, fromlist=[last]), last))
        assert found[-1] is found[-2], name
    assert [one for one in public if not any(one is other for other in found)] == []


def test_a_built_site_with_dead_links_or_foreign_addresses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here">x</a> <a href="b.html#gone">x</a> <a href="no.html">x</a> <a href="https://e.org">x</a>'
        '<script src="https://cdn.example/x.js"></script><img src="data:image/png;base64,AA"><img src="no.png">'
        '<link rel="stylesheet" href="//fonts.example/x.css"><link rel="canonical" href="https://e.org/a.html">'
    )
    (tmp_path / "b.html").write_text('<h1 id="here">b</h1>')
    (tmp_path / "c.css").write_text("@import url(https://fonts.example/y.css); p { background: url(data:x) }")
    found = check.problems(tmp_path)
    assert sorted(found) == [
        "a.html links to b.html#gone, and there is no such anchor",
        "a.html links to no.html, which is not there",
        "a.html loads //fonts.example/x.css",
        "a.html loads https://cdn.example/x.js",
        "a.html loads no.png, which is not there",
        "c.css loads https://fonts.example/y.css",
    ]


@pytest.mark.parametrize("path", pages.NOTEBOOKS, ids=[path.stem for path in pages.NOTEBOOKS])
def test_a_notebook_runs_and_shows_what_it_makes(path: Path, tmp_path: Path) -> None:
    done = notebooks.run_notebook(path, tmp_path)
    page, pictures = notebooks.notebook_page(path, done)
    assert page.startswith("# ")
    assert pictures
    assert all(picture.startswith(b"\x89PNG") and len(picture) < 200_000 for picture in pictures.values())
    assert "<div>" in page or "````text" in page
    assert str(tmp_path) not in page


def test_cells_of_a_script_are_those_of_jupytext() -> None:
    cells = notebooks.cells_of("# ---\n# x\n# ---\n\n# %% [markdown]\n# # Title\n#\n# text\n\n# %%\na = 1\n# b\n\na\n")
    assert [(cell.markdown, cell.text, cell.line) for cell in cells] == [
        (True, "# Title\n\ntext", 6),
        (False, "a = 1\n# b\n\na", 11),
    ]


# Commands and code of the pages


def tables(folder: Path) -> None:
    """Small tables of the kinds that the pages are about."""
    rows = 70
    frame = pd.read_csv(write_demo(folder / "houses", rows=rows))
    first = frame["photos"].str.split(";").str[0]
    random = np.random.default_rng(0)
    homes = frame.assign(front=first, inside=frame["photos"]).drop(columns="photos")
    plain = frame.drop(columns=["photos", "vase_id"])
    wrong = np.where(random.random(rows) < 0.1, "crack", "none")
    words = np.where(plain["price"] > plain["price"].median(), "a broken engine that", "the usual oil change that")
    made = {
        "houses/table.csv": frame.assign(photo=first).drop(columns="photos"),
        "houses/plain.csv": plain,
        "houses/only_photos.csv": frame.assign(photo=first)[["photo", "price"]].dropna(),
        "homes/table.csv": homes,
        "tickets/table.csv": pd.DataFrame(
            {
                "subject": [f"{what} number {one} needs" for one, what in enumerate(words)],
                "hours": plain["price"],
            }
        ),
        "scans/table.csv": plain.assign(patient=np.arange(rows) // 3, diagnosis=np.tile(["ill", "well"], rows // 2)),
        "sales/table.csv": plain.assign(sold_on=pd.date_range("2020-01-01", periods=rows, freq="21D")),
        "rare/table.csv": plain,
        "parts/table.csv": plain.assign(defect=wrong),
        "survey/table.csv": plain.assign(weight=random.integers(1, 4, rows)).rename(columns={"price": "income"}),
    }
    for name, table in made.items():
        (folder / name).parent.mkdir(exist_ok=True)
        table.to_csv(folder / name, index=False)
    shutil.copytree(folder / "houses/images", folder / "homes/images")
    (folder / "clicks").mkdir()
    plain.to_parquet(folder / "clicks/table.parquet")
    write_messy_demo(folder / "shop", rows=rows)
    for place, photo in enumerate(first.dropna()):
        kind = folder / "flowers" / ("rose", "tulip")[place % 2]
        kind.mkdir(parents=True, exist_ok=True)
        (kind / f"{place}.jpg").write_bytes((folder / "houses" / photo).read_bytes())


def shortened(words: list[str]) -> list[str]:
    """A training of one epoch: what a page says about data and split is unchanged."""
    if words[0] != "train":
        return words
    preset = ["--preset", "quick" if "--refit" in words else "network"]
    small = ["--image-size", "32"] if "--text-model" not in words else []
    return [*words, *([] if "--preset" in words else preset), "--epochs", "1", *small]


@pytest.mark.parametrize("page", ["recipes.md", "modes.md"])
def test_every_command_of_a_page_works(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tables(tmp_path)
    blocks = re.findall(r"```(bash|python)\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = 0
    for language, block in blocks:
        if language == "python":
            exec(block, {})
            continue
        for line in block.strip().splitlines():
            program, *words = shlex.split(line)
            assert program == "mixfit"
            with pytest.raises(SystemExit) as ended:
                main(shortened(words))
            assert not ended.value.code, f"{line}\n{capsys.readouterr()}"
            lines += 1
    assert lines >= 6
    shown = capsys.readouterr().out
    if page == "recipes.md":
        assert "photos by photos/{listing_id}/*" in " ".join(shown.split())


@pytest.mark.parametrize("page", ["python.md", "own-parts.md"])
def test_the_code_of_a_page_works(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 3
    exec("\n".join(blocks), {"__name__": "__main__"})
    assert list((tmp_path / "runs").iterdir())
