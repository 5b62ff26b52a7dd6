"""Every code block of the README is run, in order, in one empty folder."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)


def environment() -> dict[str, str]:
    """``mixfit`` on the path, as after activating the environment; no word of a ``make`` that runs the tests."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return {**outer, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_readme_has_only_blocks_that_are_run() -> None:
    assert {language for language, _ in BLOCKS} == {"bash", "python"}
    assert len(BLOCKS) >= 4


def test_the_readme_is_short_and_its_picture_is_small() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert 1_000 < (ROOT / picture).stat().st_size < 200_000


IN_ONE_PROCESS = """
import json, sys
from mixfit.cli import main

commands, script = json.loads(sys.argv[1])
for words in commands:
    sys.argv = ["mixfit", *words]
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            sys.exit(f"mixfit {words} ended with {stop.code}")
exec(script, {"__name__": "__main__"})
"""
"""Commands of mixfit and then a script, one after the other: each process of its own would load PyTorch anew."""


@pytest.mark.timeout(600)
def test_every_block_works(tmp_path: Path) -> None:
    commands = []
    for line in (line for language, block in BLOCKS if language == "bash" for line in block.strip().splitlines()):
        words = shlex.split(line)
        if words[0] == "make":
            # These two are run by whoever tests: here only what they end in.
            recipe = run(["make", "--no-print-directory", "--dry-run", "--always-make", *words[1:]], ROOT)
            if words[1] == "demo":
                assert recipe.rstrip().endswith("mixfit demo")
                commands.append(["demo"])
        else:
            assert words[0] == "mixfit"
            commands.append(words[1:])
    assert len(commands) >= 5
    script = "\n".join(block for language, block in BLOCKS if language == "python")
    output = run([sys.executable, "-c", IN_ONE_PROCESS, json.dumps([commands, script])], tmp_path)
    assert "prediction" in output.splitlines()[-4]
    assert (tmp_path / "mixfit-demo" / "runs" / "vases-price-001" / "report.html").is_file()
    assert (tmp_path / "predictions.csv").is_file()


def test_the_map_of_the_source_names_every_folder_and_only_what_is_there() -> None:
    source = ROOT / "src" / "mixfit"
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("| --- |")[2]
    rows = [[re.findall(r"`([\w./]+)`", cell) for cell in line.split("|")] for line in table.splitlines()[1:] if line]
    named = [folder for row in rows for folder in row[1]]
    assert sorted(named) == sorted(
        f"{path.parent.relative_to(source).as_posix()}/"
        for path in source.rglob("__init__.py")
        if path.parent != source
    )
    for row in rows:
        assert row[3]
        assert all(any((source / folder / name).is_file() for folder in row[1]) for name in row[3]), row
