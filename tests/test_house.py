"""The house: no file imports in a circle, and all imports point down.

Every import counts, also those inside functions and those for type checkers alone; ``lint-imports`` checks the layers
on the same graph."""

import re
import tomllib
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
IMPORTS = dict[str, set[str]]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("mixfit", exclude_type_checking_imports=False, cache_dir=None)


def circles(imports: IMPORTS) -> list[set[str]]:
    """Strongly connected components of more than one module: whatever is reached and reaches back."""

    def reached(start: str, edges: IMPORTS) -> set[str]:
        seen, waiting = set[str](), [start]
        while waiting:
            for module in edges[waiting.pop()] - seen:
                seen.add(module)
                waiting.append(module)
        return seen

    backwards: IMPORTS = {module: set() for module in imports}
    for module, imported in imports.items():
        for one in imported:
            backwards[one].add(module)
    found = {frozenset(reached(module, imports) & reached(module, backwards)) for module in imports}
    return sorted((set(circle) for circle in found if circle), key=min)


def test_no_file_imports_in_a_circle(graph: grimp.ImportGraph) -> None:
    assert circles({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}) == []


def test_a_circle_would_be_found() -> None:
    imports = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set[str](), "e": {"e", "a"}}
    assert circles(imports) == [{"b", "c"}, {"e"}]


def test_imports_point_down(graph: grimp.ImportGraph) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert not settings["exclude_type_checking_imports"]
    (contract,) = settings["contracts"]
    assert contract["exhaustive"]
    layers = [{name.strip() for name in layer.split("|")} for layer in contract["layers"]]
    level = {name: place for place, layer in enumerate(layers) for name in layer}
    assert set(level) == {module.split(".")[1] for module in graph.modules if module != "mixfit"}
    wrong = []
    for module in graph.modules - {"mixfit"}:
        for imported in graph.find_modules_directly_imported_by(module) - {"mixfit"}:
            above, below = module.split(".")[1], imported.split(".")[1]
            if above != below and level[above] >= level[below]:
                wrong.append(f"{module} -> {imported}")
    assert wrong == []


def test_the_core_is_read_in_an_afternoon() -> None:
    guide = ROOT / "docs" / "guide" / "README.md"
    files = re.findall(r"\]\(([^)]+\.py)\)", guide.read_text(encoding="utf-8"))
    lines = sum(len((guide.parent / file).read_text(encoding="utf-8").splitlines()) for file in files)
    assert f"in {len(set(files))} files" in guide.read_text(encoding="utf-8")
    assert lines < 6_000


def test_the_extra_all_has_every_extra_of_users() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    assert everything == f"mixfit[{','.join(sorted(set(extras) - {'all', 'dev', 'docs'}))}]"
