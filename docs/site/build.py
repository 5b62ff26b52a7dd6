"""Builds the site: python docs/site/build.py (``make docs``). It needs ``pip install -e '.[docs]'``.

Pages are collected in build/pages: those of the repository, the reference, the notebooks with their outputs, and the
gallery of reports; with ``--check`` without outputs and reports, which take minutes. Zensical then makes build/site of
them, and check.py follows every link. The reports of the gallery are in build/gallery and made anew when that folder is
removed."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pages
import tomli_w
from check import problems
from notebooks import Shown, cells_of, notebook_page, run_notebook

ROOT, DOCS = pages.ROOT, pages.DOCS
BUILD = ROOT / "build"
STAGED, SITE, GALLERY = BUILD / "pages", BUILD / "site", BUILD / "gallery"
PICTURE = DOCS / "images" / "report.png"
REPORTS = {
    "vases-price-001": "The embedded example: numbers, categories, a date and up to two photos a row (`mixfit demo`).",
    "listings-price-001": "The messy example: texts, tags, currencies, units and a folder of photos for each id "
    "(`mixfit demo --messy`).",
}
"""Runs of the gallery and what they are of."""
EXTENSIONS = {
    "admonition": {},
    "attr_list": {},
    "def_list": {},
    "footnotes": {},
    "md_in_html": {},
    "tables": {},
    "toc": {"permalink": True},
    "pymdownx.highlight": {"anchor_linenums": True},
    "pymdownx.inlinehilite": {},
    "pymdownx.superfences": {},
}
PYTHON = {
    "paths": [str(ROOT / "src")],
    "options": {
        "docstring_style": "google",
        # Several arguments that share a description are one entry; their types are in the signature.
        "docstring_options": {"warn_missing_types": False, "warn_unknown_params": False},
        "show_source": False,
        "show_root_heading": True,
        "show_root_full_path": False,
        "heading_level": 2,
        "members_order": "source",
        "merge_init_into_class": True,
        "separate_signature": True,
        "show_signature_annotations": True,
        "docstring_section_style": "list",
        "filters": ["!^_"],
        "show_symbol_type_heading": False,
    },
}


def write(path: str, text: str | bytes) -> None:
    """Write a page or a file of the site."""
    target = STAGED / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)


def stage_repository() -> None:
    """The Markdown of the repository, its pictures, and the files that it links to."""
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in pages.sources()}
    for source, text in texts.items():
        write(pages.page_of(source), pages.staged(source, text))
    for path in DOCS.rglob("*.png"):
        write(path.relative_to(DOCS).as_posix(), path.read_bytes())
    for path in sorted(pages.linked_sources(texts)):
        write(pages.page_of(path), pages.source_page(path))
    for page, text in {**pages.api_pages(), "decisions/index.md": pages.decisions_page()}.items():
        write(page, text)


def stage_notebooks(*, run: bool) -> None:
    """Run the notebooks, in three empty folders, and write their pages and files for Jupyter.

    Args:
        run: False leaves their outputs out.
    """
    import jupytext

    lines = ["# Notebooks\n", "Each is a script that runs in seconds on a laptop, without a network connection.\n"]
    for path in pages.NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            cells = cells_of(path.read_text(encoding="utf-8"))
            done = run_notebook(path, Path(folder)) if run else [(cell, Shown()) for cell in cells]
        text, pictures = notebook_page(path, done)
        title, _, rest = text.partition("\n")
        source = pages.staged(f"docs/notebooks/{path.name}", rest)
        write(f"notebooks/{path.stem}.md", f"{title}\n\n[For Jupyter]({path.stem}.ipynb)\n{source}")
        for name, picture in pictures.items():
            write(f"notebooks/{name}", picture)
        write(f"notebooks/{path.stem}.ipynb", jupytext.writes(jupytext.read(path), fmt="ipynb"))
        lines.append(f"- [{title.lstrip('# ')}]({path.stem}.md)")
    write("notebooks/index.md", "\n".join(lines) + "\n")


def mixfit(*words: str) -> str:
    """Run a command of mixfit in the folder of the gallery, and return what it prints."""
    command = [sys.executable, "-m", "mixfit.cli", *words]
    done = subprocess.run(command, cwd=GALLERY, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"mixfit {' '.join(words)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def make_gallery() -> None:
    """Train on the two examples, explain rows and compare groups; what is there already is kept."""
    runs = GALLERY / "mixfit-demo" / "runs"
    GALLERY.mkdir(parents=True, exist_ok=True)
    for name, words in {"vases-price-001": (), "listings-price-001": ("--messy",)}.items():
        page = GALLERY / f"{name}.txt"
        if not page.is_file():
            shutil.rmtree(runs / name, ignore_errors=True)
            printed = mixfit("demo", *words)
            mixfit("explain", f"mixfit-demo/runs/{name}", "--rows", "3,17", "--out", f"explained-{name}")
            page.write_text(printed, encoding="utf-8")


def stage_gallery(*, run: bool) -> None:
    """The page of the gallery, and the reports; empty ones if they were not made."""
    lines = ["# Reports\n", "Real reports, made by the commands named here when this site was built.\n"]
    for name, about in REPORTS.items():
        for page, title in ((f"mixfit-demo/runs/{name}/report.html", "report"), (f"explained-{name}/explain.html", "")):
            title = title or "explanation of two rows"
            file = f"{name}-{'report' if title == 'report' else 'explanation'}.html"
            write(f"gallery/{file}", (GALLERY / page).read_bytes() if run else "<!doctype html><title>left out</title>")
            if title == "report":
                lines.append(f"## {name}\n\n{about}\n")
            lines.append(f"- [The {title}]({file})")
        printed = (GALLERY / f"{name}.txt").read_text(encoding="utf-8").rstrip() if run else "left out"
        lines.append(f"\nWhat the terminal shows:\n\n```` text\n{printed}\n````\n")
    write("gallery/index.md", "\n".join(lines) + "\n")


def configure() -> Path:
    """Write the settings of Zensical, and return their file."""
    api = sorted(page for page in pages.api_pages() if page != "api/index.md")
    sections = {**pages.SECTIONS, "Reference": [*pages.SECTIONS["Reference"], *api]}
    palette = [
        {"media": f"(prefers-color-scheme: {name})", "scheme": scheme, "toggle": {"icon": icon, "name": said}}
        for name, scheme, icon, said in (
            ("light", "default", "lucide/sun", "Dark colours"),
            ("dark", "slate", "lucide/moon", "Light colours"),
        )
    ]
    project = {
        "site_name": "mixfit",
        "site_description": "Models of tables together with their photos and texts",
        "docs_dir": STAGED.name,
        "site_dir": SITE.name,
        "use_directory_urls": False,
        "nav": [{section: list(found)} for section, found in sections.items()],
        "theme": {"font": False, "palette": palette, "features": ["navigation.tabs", "content.code.copy"]},
        "markdown_extensions": EXTENSIONS,
        "plugins": {"mkdocstrings": {"handlers": {"python": PYTHON}}},
    }
    file = BUILD / "zensical.toml"
    file.write_text(tomli_w.dumps({"project": project}), encoding="utf-8")
    return file


def draw_picture() -> None:
    """Draw the picture of the README: the head of a report, as Chromium shows it."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("The picture needs Chromium on the PATH.")
    report = GALLERY / "mixfit-demo" / "runs" / "vases-price-001" / "report.html"
    PICTURE.parent.mkdir(exist_ok=True)
    window = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=900,835"]
    subprocess.run([chromium, *window, f"--screenshot={PICTURE}", report.as_uri()], check=True, capture_output=True)
    from PIL import Image

    with Image.open(PICTURE) as picture:
        smaller = picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=32)
    smaller.save(PICTURE, optimize=True)


def main() -> None:
    """Build the site; with ``--check`` run no example, with ``--picture`` only draw the picture of the README."""
    run = "--check" not in sys.argv[1:]
    if run:
        make_gallery()
    if "--picture" in sys.argv[1:]:
        draw_picture()
        return
    shutil.rmtree(STAGED, ignore_errors=True)
    stage_repository()
    stage_notebooks(run=run)
    stage_gallery(run=run)
    shutil.rmtree(SITE, ignore_errors=True)
    zensical = Path(sys.executable).parent / "zensical"
    built = subprocess.run(
        [zensical, "build", "--strict", "--clean", "--config-file", configure()], check=False, env=os.environ
    )
    if built.returncode:
        sys.exit(f"Zensical ended with {built.returncode}.")
    found = problems(SITE.resolve())
    for one in found[:50]:
        print(one)
    if found:
        sys.exit(f"{len(found)} problems in {SITE}.")
    print(f"{sum(1 for _ in SITE.rglob('*.html')):,} pages without a dead link in {SITE}/index.html")


if __name__ == "__main__":
    main()
