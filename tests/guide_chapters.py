"""Runs the chapters of the guide: every ```python block of a chapter, in order, in one process and an empty folder.

A ```text block directly after a python block shows what that block prints. When the output varies from machine to
machine (timings), it is marked ```text varies, and then its digits do not count.
``python tests/guide_chapters.py docs/guide/1-data.md`` runs a chapter and puts its output and its pictures into it."""

import contextlib
import io
import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

from fixed_arithmetic import fix_arithmetic

fix_arithmetic()

GUIDE = Path(__file__).parents[1] / "docs" / "guide"
CHAPTERS = sorted(GUIDE.glob("[0-9]*.md"))
_BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text(?P<mark>[^\n]*)\n(?P<text>.*?)^```\n)?", re.M | re.S)
_CAN_FORK = "forkserver" in multiprocessing.get_all_start_methods()
_FRESH = multiprocessing.get_context("forkserver" if _CAN_FORK else "spawn")
"""Each chapter has a process of its own; where the system can, all are forks of one that has loaded the libraries."""
if _CAN_FORK:
    _FRESH.set_forkserver_preload(["mixfit.auto.recipe", "mixfit.hooks.pictures", "timm", "sklearn.linear_model"])
_PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")


@dataclass(frozen=True)
class Block:
    """One python block and the output shown below it."""

    line: int
    """Line of its first statement in the chapter, from 1."""
    code: str
    shown: str
    varies: bool


def blocks_of(chapter: Path) -> list[Block]:
    """The python blocks of a chapter in order."""
    text = chapter.read_text(encoding="utf-8")
    return [
        Block(
            line=text.count("\n", 0, match.start("code")) + 1,
            code=match["code"],
            shown=match["text"] or "",
            varies="varies" in (match["mark"] or ""),
        )
        for match in _BLOCK.finditer(text)
    ]


def pictures_of(chapter: Path) -> list[str]:
    """The pictures of a chapter, relative to the guide."""
    return _PICTURE.findall(chapter.read_text(encoding="utf-8"))


def run_chapter(chapter: Path, folder: Path) -> list[str]:
    """What each block of a chapter prints, warnings being errors; ``folder`` then holds the files that it wrote.

    Raises:
        AssertionError: a block failed; the message is its traceback, with the lines of the chapter."""
    told = folder / ".printed.json"
    chapter_process = _FRESH.Process(target=_run_here, args=(chapter.resolve(), folder, told))
    chapter_process.start()
    chapter_process.join()
    answer = json.loads(told.read_text(encoding="utf-8")) if told.exists() else {"failed": "it ended without a word"}
    assert "failed" not in answer, f"{chapter.name}\n{answer['failed']}"
    assert chapter_process.exitcode == 0
    printed: list[str] = answer["printed"]
    return printed


def rewrite(chapter: Path, printed: list[str], folder: Path) -> None:
    """Put the output of the blocks, and the pictures from ``folder``, into a chapter that shows them."""
    text = chapter.read_text(encoding="utf-8")
    outputs = iter(printed)

    def with_output(match: re.Match[str]) -> str:
        output = next(outputs)
        shown = f"\n```text{match['mark'] or ''}\n{output}```\n" if output else ""
        return f"```python\n{match['code']}```\n{shown}"

    chapter.write_text(_BLOCK.sub(with_output, text), encoding="utf-8")
    for name in pictures_of(chapter):
        (GUIDE / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / name, GUIDE / name)


def _run_here(chapter: Path, folder: Path, told: Path) -> None:
    """Execute the blocks in this process, as one script in that folder, and write what they print."""
    os.chdir(folder)
    warnings.simplefilter("error")
    names = {"__name__": "__main__"}
    printed = []
    try:
        for block in blocks_of(chapter):
            # The empty lines in front give tracebacks the line numbers of the chapter.
            code = compile("\n" * (block.line - 1) + block.code, str(chapter), "exec")
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(code, names)
            printed.append(output.getvalue())
        answer: dict[str, object] = {"printed": printed}
    except BaseException:
        answer = {"failed": traceback.format_exc()}
    told.write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as empty:
        rewrite(Path(sys.argv[1]), run_chapter(Path(sys.argv[1]), Path(empty)), Path(empty))
