"""What is expected of tables, texts and photos as people have them: a page of lists, made of the names of the tests.

Run: python docs/expectations.py. It writes docs/expectations.md; a test fails where the page is not up to date."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "expectations.md"
KINDS = {
    "Formats of tables": ("data/test_table.py", "data/test_table_typed.py"),
    "Dates and times": ("data/test_dates.py",),
    "Numbers, units and signs": ("data/test_forms.py", "data/test_table_numbers.py"),
    "Types of columns": ("data/test_types.py", "data/test_values.py"),
    "Nested cells": ("data/test_nested.py",),
    "Tags": ("data/test_tags.py",),
    "Texts": ("data/test_text_column.py", "data/test_text_features.py", "test_text_runs.py"),
    "Finding photos": ("data/test_photo_rules.py", "data/test_photo_cells.py"),
    "Predicting and evaluating later": ("test_later_files.py", "test_photos_at_predict.py", "test_predict_pieces.py"),
}
INTRODUCTION = """# What is expected of tables, texts and photos

Each line is a test that must pass. The page is made from their names by `python docs/expectations.py`.
"""


def sentence(name: str) -> str:
    """The name of a test as a sentence.

    >>> sentence("test_f16_a_sign_is_kept")
    'A sign is kept'
    """
    words = re.sub(r"^test_(?:f[0-9]+_)?", "", name).replace("_", " ")
    return words[:1].upper() + words[1:]


def expectations(path: Path) -> Iterator[str]:
    """The tests of a file: the name, and the first line of the docstring where there is one."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            said = (ast.get_docstring(node) or "").split("\n")[0].rstrip(".")
            yield f"- {sentence(node.name)}{f': {said}' if said else ''}."


def page() -> str:
    """All lists, one for each kind."""
    parts = [INTRODUCTION]
    for kind, files in KINDS.items():
        lines = [line for file in files for line in expectations(ROOT / "tests" / file)]
        parts.append("\n".join([f"## {kind}", "", *lines, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
