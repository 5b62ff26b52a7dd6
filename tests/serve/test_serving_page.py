"""The chapter on serving: its commands run, in their order, in a folder with the run of the example."""

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="serving needs the extra serve")

from mixfit.auto.recipe import Run

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "service.md"
_BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the chapter asks the server with curl")
def test_the_commands_of_the_chapter_run(blend_run: Run, demo_table: Path, tmp_path: Path) -> None:
    blocks = _BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    demo = tmp_path / "mixfit-demo"
    (demo / "runs").mkdir(parents=True)
    (demo / "runs" / "vases-price-001").symlink_to(blend_run.folder)
    (demo / "vases").symlink_to(demo_table.parent)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = tmp_path / "bin" / "mixfit"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mixfit.cli "$@"\n')
    command.chmod(0o755)
    script = "set -em\ntrap 'kill %1 2>/dev/null || true' EXIT\n" + "echo '<--->'\n".join(blocks)
    done = subprocess.run(
        ["bash", "-c", script.replace(":8000", f":{port}").replace("--port 8000", f"--port {port}")],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{command.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    started, schema, one, two, table, moved, end = done.stdout.split("<--->\n")
    assert "serving default at http://127.0.0.1:" in started
    assert json.loads(schema)["target"]["name"] == "price"
    (row,) = json.loads(one)["predictions"]
    assert row["status"] == "ok"
    assert row["interval"]["lower"] < row["prediction"] < row["interval"]["upper"]
    first, second = json.loads(two)["predictions"]
    assert first["status"] == "no photo"
    assert first["interval"]["level"] == 0.8
    assert "category not seen in training" in second["status"]
    assert table.split() == ["90", "predictions.jsonl"]
    parts = [ast.literal_eval(line) for line in moved.splitlines()]
    assert {part["column"] for part in parts} >= {"maker", "height_cm", "photos"}
    assert abs(parts[0]["part"]) >= abs(parts[-1]["part"])
    assert 'mixfit_unseen_categories_total{column="maker",model="default"} 1.0' in end
    said = [json.loads(line) for line in end.splitlines() if line.startswith('{"time"')]
    assert {"ready", "request", "ended"} <= {one["event"] for one in said}
    assert "nobody" not in end
