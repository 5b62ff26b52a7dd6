"""Notebooks as scripts: cells between ``# %%`` lines (jupytext's percent format), run in order, and shown as Markdown.

In: a script. Out: a page with the code, what it prints, and what the last line of each cell shows."""

import ast
import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One cell of a notebook."""

    markdown: bool
    text: str
    line: int
    """Line of its first line in the script, from 1."""


@dataclass
class Shown:
    """What a cell printed, and the value of its last line."""

    printed: str = ""
    value: Any = None
    pictures: list[bytes] = field(default_factory=list)
    """PNG files."""


def cells_of(script: str) -> list[Cell]:
    """The cells of a script in order; what is before the first ``# %%`` is its header."""
    cells: list[tuple[bool, int, list[str]]] = []
    for number, line in enumerate(script.splitlines(), 1):
        if line.startswith("# %%"):
            cells.append((line.endswith("[markdown]"), number + 1, []))
        elif cells:
            cells[-1][2].append(line)
    found = []
    for markdown, start, lines in cells:
        text = "\n".join(line.removeprefix("#").removeprefix(" ") if markdown else line for line in lines)
        found.append(Cell(markdown, text.strip("\n"), start))
    return found


def run_notebook(path: Path, folder: Path) -> list[tuple[Cell, Shown]]:
    """Run all cells in one namespace, in ``folder``."""
    from matplotlib.figure import Figure

    space: dict[str, Any] = {"__name__": "__main__"}
    done = []
    with _inside(folder):
        for cell in cells_of(path.read_text(encoding="utf-8")):
            shown = Shown()
            if not cell.markdown:
                tree = ast.parse("\n" * (cell.line - 1) + cell.text, str(path))
                last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile(tree, str(path), "exec"), space)
                    if isinstance(last, ast.Expr):
                        shown.value = eval(compile(ast.Expression(last.value), str(path), "eval"), space)
                shown.printed = printed.getvalue()
                if isinstance(shown.value, Figure):
                    picture = io.BytesIO()
                    shown.value.savefig(picture, format="png", dpi=110)
                    shown.pictures.append(picture.getvalue())
            done.append((cell, shown))
    return done


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def notebook_page(path: Path, done: list[tuple[Cell, Shown]]) -> tuple[str, dict[str, bytes]]:
    """The page of a notebook that was run, and its pictures by name."""
    parts, pictures = [], dict[str, bytes]()
    for cell, shown in done:
        if cell.markdown:
            parts.append(cell.text)
            continue
        parts.append(f"````python\n{cell.text}\n````")
        if shown.printed.strip():
            parts.append(f"````text\n{shown.printed.rstrip()}\n````")
        for picture in shown.pictures:
            name = f"{path.stem}-{len(pictures) + 1}.png"
            pictures[name] = picture
            parts.append(f"![What the cell draws]({name})")
        if shown.value is not None and not shown.pictures:
            html = getattr(shown.value, "_repr_html_", None)
            lines = None if html is None else "".join(line.strip() + " " for line in html().splitlines())
            parts.append(f"````text\n{shown.value!r}\n````" if lines is None else f"<div>{lines}</div>")
    return "\n\n".join(parts) + "\n", pictures
