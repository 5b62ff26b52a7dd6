"""The pages of the site: which there are, their order, and Markdown of the repository as pages of one folder.

In: the files of the repository. Out: a folder of Markdown for Zensical. Only the standard library is used."""

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.py"))
MOVED = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "docs/guide/README.md": "guide/index.md",
    "docs/guide": "guide/index.md",
    "docs/decisions": "decisions/index.md",
    "docs/gallery": "gallery/index.md",
    "docs/api": "api/index.md",
    "docs/notebooks": "notebooks/index.md",
    "docs/LOG.md": "log.md",
}
"""Files and folders of the repository whose page has another name."""
SECTIONS = {
    "Start": ["index.md", "install.md", "recipes.md", "modes.md", "gallery/index.md"],
    "Use": [
        "commands.md",
        "python.md",
        "own-parts.md",
        "guide/service.md",
        "scale.md",
        "guide/tracking.md",
        "guide/weights.md",
        "comparison.md",
        "benchmarks.md",
    ],
    "Notebooks": ["notebooks/index.md", *(f"notebooks/{path.stem}.md" for path in NOTEBOOKS)],
    "Guide": ["guide/index.md", *(f"guide/{path.name}" for path in sorted((DOCS / "guide").glob("[0-9]*.md")))],
    "Reference": ["api/index.md"],  # followed by the pages of the reference
    "Project": [
        "architecture.md",
        "expectations.md",
        "contributing.md",
        "security.md",
        "changelog.md",
        "log.md",
        "decisions/index.md",
    ],
}
"""The sections of the site and their pages in order."""

_FENCE = re.compile(r"^(`{3,}).*?^\1`*$", re.M | re.S)
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_CODE = re.compile(r"`[^`\n]*`")


def sources() -> list[Path]:
    """The Markdown files of the repository that are pages."""
    top = [ROOT / name for name in MOVED if "/" not in name]
    return [*top, *(path for path in sorted(DOCS.rglob("*.md")) if "site" not in path.relative_to(DOCS).parts)]


def links_of(text: str) -> list[str]:
    """Targets of the links and pictures of a Markdown text, without those in code."""
    return [match[2] for match in _LINK.finditer(_CODE.sub("", _FENCE.sub("", text)))]


def page_of(path: str) -> str:
    """The page of a file or folder of the repository, both relative to their roots.

    >>> [page_of(path) for path in ("docs/guide/1-data.md", "README.md", "src/mixfit/nn/model.py", "src/mixfit/nn")]
    ['guide/1-data.md', 'index.md', 'source/src/mixfit/nn/model.py.md', 'source/src/mixfit/nn/index.md']
    """
    if path in MOVED:
        return MOVED[path]
    if path.startswith("docs/notebooks/") and path.endswith(".py"):
        return path.removeprefix("docs/").removesuffix(".py") + ".md"
    if path.startswith("docs/") and not path.startswith("docs/site"):
        return path.removeprefix("docs/")
    return f"source/{path}/index.md" if (ROOT / path).is_dir() else f"source/{path}.md"


def target_of(source: str, link: str) -> str | None:
    """The file or folder of the repository that a relative link of a source names; None for a link elsewhere."""
    if re.match(r"[a-z]+:|#", link):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link.partition("#")[0]))


def staged(source: str, text: str) -> str:
    """The text of a source with its relative links as those of its page."""
    here = posixpath.dirname(page_of(source))

    def moved(match: re.Match[str]) -> str:
        target = target_of(source, match[2])
        if target is None:
            return match[0]
        _, mark, anchor = match[2].partition("#")
        return f"{match[1]}{posixpath.relpath(page_of(target), here or '.')}{mark}{anchor}{match[3]}"

    pieces, end = [], 0
    for fence in [*_FENCE.finditer(text), None]:
        start = len(text) if fence is None else fence.start()
        pieces.append(_LINK.sub(moved, text[end:start]))
        if fence is not None:
            pieces.append(re.sub(r"\A(`+\s*\w+)[^\n]*", r"\1", fence[0]))  # a mark such as "varies" is for tests
            end = fence.end()
    return "".join(pieces)


def source_page(path: str) -> str:
    """The page of a file or folder that the documentation links to."""
    file = ROOT / path
    if file.is_dir():
        names = sorted(one.name for one in file.iterdir() if one.suffix == ".py")
        return f"# {path}/\n\n" + "".join(f"- [`{name}`]({name}.md)\n" for name in names)
    language = {".py": "python", ".toml": "toml"}.get(file.suffix, "text")
    return f"# {path}\n\n````` {language}\n{file.read_text(encoding='utf-8').rstrip()}\n`````\n"


def linked_sources(texts: dict[str, str]) -> set[str]:
    """Files and folders outside the documentation that the texts link to, those of linked folders included.

    Args:
        texts: by source.
    """
    targets = {target_of(source, link) for source, text in texts.items() for link in links_of(text)}
    found = {one for one in targets if one is not None and page_of(one).startswith("source/")}
    for folder in [one for one in found if (ROOT / one).is_dir()]:
        found |= {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).glob("*.py")}
    return found


# The reference

API = {
    "the-whole": ("The whole pipeline", ("auto", "runs", "demo")),
    "predict-and-judge": ("Predictors, results, explanations", ("predictor", "ensemble", "evaluation", "diagnostics")),
    "data": ("Data", ("data",)),
    "nn": ("Networks", ("nn",)),
    "training": ("Training", ("training",)),
    "hooks": ("Hooks", ("hooks",)),
    "models": ("Candidate models", ("models",)),
    "sklearn": ("Estimators of scikit-learn", ("sklearn",)),
    "export": ("Exported models and MLflow", ("export", "mlflow")),
    "settings-and-errors": ("Settings and errors", ("config", "errors")),
}
"""Pages of the reference: title, and the folders and modules of ``mixfit`` whose public names it has."""


def public_names() -> dict[str, str]:
    """Where each public name is defined, by its shortest public path: ``mixfit.Learner`` -> its module and name."""
    found: dict[str, str] = {}
    source = ROOT / "src" / "mixfit"
    stubs = [source / "__init__.pyi", *sorted(source.glob("*/__init__.pyi"))]
    for stub in stubs:
        package = ".".join(("mixfit", *stub.parent.relative_to(source).parts))
        for module, name in _imported(stub):
            where = _defined(f"{package}.{module}" if module else package, name)
            if where not in found.values():
                found[f"{package}.{name}"] = where
    for module in ("sklearn", "mlflow"):
        for name in _defined_in(source / f"{module}.py"):
            found[f"mixfit.{module}.{name}"] = f"mixfit.{module}.{name}"
    return found


def _imported(stub: Path) -> Iterator[tuple[str, str]]:
    """Module and name of each relative import of a stub, without whole packages."""
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield node.module, alias.name


def _defined(module: str, name: str) -> str:
    """The module that defines a name which another one may only pass on."""
    file = ROOT / "src" / Path(*module.split("."))
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            assert node.module is not None
            return _defined(node.module, name)
    return f"{module}.{name}"


def _defined_in(file: Path) -> list[str]:
    """Public classes and functions of a module."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return [one.name for one in body if isinstance(one, ast.ClassDef | ast.FunctionDef) and one.name[0] != "_"]


def api_pages() -> dict[str, str]:
    """The pages of the reference by path; each public name is on one of them."""
    pages = {"api/index.md": "# Reference\n\nEvery public name, with its arguments, shapes, units and errors.\n"}
    rest = public_names()
    for page, (title, modules) in API.items():
        names = {name: where for name, where in rest.items() if where.split(".")[1] in modules}
        rest = {name: where for name, where in rest.items() if name not in names}
        lines = [f"# {title}\n"]
        lines += [
            f"::: {where}\n    options:\n      heading: {name}\n      toc_label: {name.rpartition('.')[2]}\n"
            for name, where in sorted(names.items(), key=lambda pair: pair[0].lower())
        ]
        pages[f"api/{page}.md"] = "\n".join(lines)
        pages["api/index.md"] += f"\n## [{title}]({page}.md)\n\n" + "".join(
            f"- [`{name}`][{where}]\n" for name, where in sorted(names.items(), key=lambda pair: pair[0].lower())
        )
    if rest:
        raise ValueError(f"{len(rest)} public names are on no page of the reference, the first is {next(iter(rest))}.")
    return pages


def decisions_page() -> str:
    """The list of all decisions, the newest first."""
    lines = ["# Decisions\n", "Why things are as they are, about ten lines each.\n"]
    for path in sorted((DOCS / "decisions").glob("*.md"), reverse=True):
        lines.append(f"- [{path.read_text(encoding='utf-8').partition(chr(10))[0].lstrip('# ')}]({path.name})")
    return "\n".join(lines) + "\n"
