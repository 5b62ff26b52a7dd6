"""What does mixfit say? Every text that a person can meet, to be read in one go: messages, help, reports, docstrings.

Texts are taken from the source as it stands, so that none is missing: literals of three words or more (with ``{...}``
where a value is put in), the text of templates, the help of each command, public names with the first sentence of
their docstring, and modules with theirs.
Run: python benchmarks/list_texts.py [messages|docstrings|templates|names|help ...]; by default all"""

import ast
import importlib
import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

import mixfit

SOURCE = Path(mixfit.__file__).parent
WORDS = 3


def main(chosen: list[str]) -> None:
    """Print the chosen kinds of texts."""
    kinds: dict[str, Callable[[], Iterator[str]]] = {
        "names": names,
        "help": help_pages,
        "messages": messages,
        "templates": templates,
        "docstrings": docstrings,
    }
    if unknown := [name for name in chosen if name not in kinds]:
        sys.exit(f"Unknown: {', '.join(unknown)}; there are {', '.join(kinds)}.")
    for name in chosen or kinds:
        print(f"\n======== {name}")
        for line in kinds[name]():
            print(line)


def names() -> Iterator[str]:
    """Public names with the first sentence of their docstring."""
    for package in (
        mixfit,
        *(importlib.import_module(f"mixfit.{part}") for part in ("data", "nn", "training", "hooks")),
    ):
        for name in package.__all__:
            doc = (getattr(package, name).__doc__ or "").strip().split("\n\n")[0]
            yield f"{package.__name__}.{name}: {' '.join(doc.split())}"


def help_pages() -> Iterator[str]:
    """The help of mixfit and of each command."""
    from mixfit.cli import app

    for command in ([], *([name] for name in sorted(app) if not name.startswith("-"))):
        page = io.StringIO()
        app.help_print(command, console=Console(file=page, width=120))
        yield page.getvalue()


def messages() -> Iterator[str]:
    """Literals of three words or more that are no docstrings, and where they stand."""
    for path, tree in _trees():
        documented = {id(node) for node in _docstrings(tree)}
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if id(node) in documented or id(node) in inside:
                continue
            text = _text(node)
            if text is not None and len(re.findall(r"[A-Za-z]{2,}", re.sub(r"\{.*?\}", "", text))) >= WORDS:
                yield f"{path}:{node.lineno}: {' '.join(text.split())}"  # type: ignore[attr-defined]


def templates() -> Iterator[str]:
    """The text of the pages, tags and expressions taken out."""
    for path in sorted(SOURCE.rglob("*.j2")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            text = re.sub(r"\{%.*?%\}|<[^>]*>", " ", line)
            if len(re.findall(r"[A-Za-z]{2,}", re.sub(r"\{\{.*?\}\}", "", text))) >= WORDS - 1:
                yield f"{path.relative_to(SOURCE)}:{number}: {' '.join(text.split())}"


def docstrings() -> Iterator[str]:
    """The first paragraph of every docstring, those of fields included."""
    for path, tree in _trees():
        for node in _docstrings(tree):
            yield f"{path}:{node.lineno}: {' '.join(str(node.value).strip().split(chr(10) * 2)[0].split())}"


def _trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield path.relative_to(SOURCE), ast.parse(path.read_text(encoding="utf-8"))


def _docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Texts that stand alone: docstrings, and the explanations after fields and constants."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str()) as text):
                yield text


def _text(node: ast.AST) -> str | None:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(
                str(part.value) if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"
                for part in values
                if isinstance(part, ast.Constant | ast.FormattedValue)
            )
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
