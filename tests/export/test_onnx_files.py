"""``mixfit export`` and ``mixfit.onnx_predict``: what they print, refuse, and need; and such a file behind HTTP, also
when the server is killed under load."""

import hashlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("spox", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

import httpx2
from quick_runs import QUICK_TRAIN
from rich.console import Console
from served_runs import photos_of, rows_of, serving, with_base64
from small_runs import small_fit, small_table
from tiny_backbone import tiny_model

import mixfit
from mixfit.auto.recipe import Run, fit
from mixfit.cli import main
from mixfit.config import DataConfig
from mixfit.errors import ConfigError, DataError
from mixfit.export.exporting import export_run
from mixfit.predictor import Predictor
from mixfit.serve.load import load_model

WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "lightgbm", "onnx", "spox"):
            raise ImportError(name)

sys.meta_path.insert(0, NoTorch())
import mixfit
import pandas as pd

found = mixfit.onnx_predict(sys.argv[1], pd.read_csv(sys.argv[2], dtype=str), images=sys.argv[3])
found.to_parquet(sys.argv[4])
"""
SERVED_WITHOUT_TORCH = (
    WITHOUT_TORCH.partition("import mixfit")[0] + "from mixfit.cli import main\n\nmain(sys.argv[1:])\n"
)
CLIENTS = 6


def run_command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(one) for one in arguments])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def quick_run(demo_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A single network on the small example, whose image network is a tiny one."""
    out = tmp_path_factory.mktemp("runs")
    return fit(
        demo_table,
        target="price",
        data=DataConfig(image_size=64),
        model=tiny_model(out),
        train=replace(QUICK_TRAIN, report=False),
        out=out / "runs",
        console=Console(quiet=True),
    )


@pytest.fixture(scope="module")
def file(quick_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a single network of cells and photos."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    logging.disable(logging.DEBUG)  # PyTorch logs each step of its tracing, and pytest keeps every line
    found = export_run(quick_run, path)
    logging.disable(logging.NOTSET)
    assert found.agreement is not None
    assert found.agreement.largest <= 1e-5
    assert found.agreement.same_status == found.agreement.checked_status > found.agreement.rows
    assert found.bytes == path.stat().st_size
    assert found.latency is not None
    assert (found.latency.rows, found.latency.timed) == (256, 64)  # it has photos
    return path


def test_a_single_network_is_predicted_without_torch(
    file: Path, quick_run: Run, demo_table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH, file, demo_table, demo_table.parent, out], check=True)
    found = pd.read_parquet(out)
    frame = pd.read_csv(demo_table, dtype=str)
    wanted = quick_run.predictor.predict(frame, images=demo_table.parent, device="cpu")
    assert found["status"].tolist() == wanted["status"].tolist()
    np.testing.assert_allclose(found["prediction"], wanted["prediction"], rtol=1e-5)


def test_the_command_prints_size_parity_and_latency(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small_fit(small_table(tmp_path / "table", classes=True), tmp_path / "runs")
    assert run_command("export", run.folder, "-o", tmp_path / "classes.onnx", "--interval", 0.8) == 0
    said = capsys.readouterr().out
    assert "with prediction sets at 80%" in said
    assert re.search(r"class and prediction set: the same in (\d+) of \1 rows", said)
    for word in ("Written", "Parity", "status: the same in", "Latency", "256 rows"):
        assert word in said
    assert "by the time of" not in said


def test_what_cannot_be_written_is_refused(quick_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("export", quick_run.folder, "-o", tmp_path / "model.pt") == 2
    assert "must end in .onnx" in capsys.readouterr().err
    assert run_command("export", quick_run.folder, "-o", tmp_path / "m.onnx", "--interval", 0.9) == 2
    assert "A single network has no prediction intervals" in capsys.readouterr().err
    assert run_command("export", tmp_path / "none", "-o", tmp_path / "m.onnx") == 2


def test_without_the_extra_the_command_says_what_to_install(quick_run: Run, tmp_path: Path) -> None:
    program = dedent(
        f"""
        import sys
        sys.modules["spox"] = None
        from mixfit.cli import main
        main(["export", {str(quick_run.folder)!r}, "-o", {str(tmp_path / "m.onnx")!r}])
        """
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.returncode == 4
    assert "pip install 'mixfit[onnx]'" in found.stderr


def test_other_files_and_missing_columns_are_refused(file: Path, demo_table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(demo_table, dtype=str)
    with pytest.raises(DataError, match="does not exist"):
        mixfit.onnx_predict(tmp_path / "none.onnx", frame)
    (tmp_path / "other.onnx").write_bytes(b"no model")
    with pytest.raises(DataError, match="is damaged, or not a file of mixfit export"):
        mixfit.onnx_predict(tmp_path / "other.onnx", frame)
    with pytest.raises(DataError, match="the table has no column 'maker'"):
        mixfit.onnx_predict(file, frame.drop(columns="maker"), images=demo_table.parent)
    with pytest.raises(ConfigError, match="pass images=FOLDER"):
        mixfit.onnx_predict(file, frame)


# Served by mixfit serve, which needs the extra serve


def test_a_served_file_answers_as_predict_does(quick_run: Run, file: Path, demo_table: Path) -> None:
    places = [3, 4, 5, 6, 7]
    frame = pd.read_csv(demo_table).drop(columns="price")
    rows = [with_base64(demo_table, row) for row in rows_of(demo_table, places)]
    rows[1]["photos"] = ["AAAA"]
    expected = Predictor.load(quick_run.folder).predict(frame.iloc[places], images=demo_table.parent)
    with serving(file, batch=4) as (client, service):
        said = client.post("/predict", json={"rows": rows}).json()
        found = [row["prediction"] for row in said["predictions"]]
        for place in (0, 2, 3, 4):
            assert found[place] == pytest.approx(expected["prediction"].iloc[place], rel=1e-5)
            assert said["predictions"][place]["status"] == expected["status"].iloc[place]
            alone = client.post("/predict", json={"row": rows[place]}).json()["predictions"][0]
            assert alone["prediction"] == pytest.approx(found[place], rel=1e-6)
        assert "the photo of 3 bytes" in said["predictions"][1]["status"]
        assert said["model"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        table = client.post("/predict/batch", content=demo_table.read_bytes(), headers={"content-type": "text/csv"})
        lines = [json.loads(line) for line in table.text.splitlines()]
        without = mixfit.onnx_predict(file, frame.drop(columns="photos"), images=demo_table.parent)
        assert [one["prediction"] for one in lines] == pytest.approx(without["prediction"].tolist(), rel=1e-5)
        strange = rows[0] | {"maker": "nobody", "photos": None}
        assert (
            "not seen in training" in client.post("/predict", json={"row": strange}).json()["predictions"][0]["status"]
        )
        text = client.get("/metrics").text
        assert 'mixfit_unseen_categories_total{column="maker",model="default"} 1.0' in text
        assert 'mixfit_rows_without_photo_total{model="default"}' in text
        refused = client.post("/explain", json={"row": rows[0]})
        assert refused.status_code == 422
        assert "serve the run" in refused.json()["error"]["message"]
        assert client.post("/predict?interval=0.5", json={"row": rows[0]}).status_code == 422
        page = client.post("/", data={}, files=[("c0", ("a", b""))])
        assert "What moved it" not in page.text
        assert client.get("/openapi.json").status_code == 200
        assert service.model(None).images == ("photos",)


def test_what_is_no_file_of_ours_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "model.onnx"
    with pytest.raises(ConfigError, match=r"The file .*model\.onnx does not exist"):
        load_model("default", bad, level=0.9)
    bad.write_bytes(b"no model")
    with pytest.raises(DataError, match="is damaged, or not a file of mixfit export"):
        load_model("default", bad, level=0.9)
    with pytest.raises(ConfigError, match="leave out --text-model"):
        load_model("default", bad, level=0.9, text_model=tmp_path)


@contextmanager
def process(file: Path, port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server that is ready, and that would write into the folder whatever it writes."""
    command = [sys.executable, "-c", SERVED_WITHOUT_TORCH, "serve", str(file), "--port", str(port), "--batch", "2"]
    environment = os.environ | dict.fromkeys(("TMPDIR", "HOME", "XDG_CACHE_HOME"), str(folder))
    for name in ("CI", "ORT_DISABLE_TELEMETRY"):
        environment.pop(name, None)
    with (folder.parent / "log").open("ab") as log:
        found = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        with httpx2.Client(transport=httpx2.HTTPTransport(retries=5)) as client:
            while True:
                assert found.poll() is None, (folder.parent / "log").read_text()
                try:
                    if client.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                        break
                except httpx2.TransportError:
                    continue
        yield found
    finally:
        found.kill()
        found.wait()


def contents(*folders: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def exchange(port: int, body: bytes) -> bytes:
    """All that comes back on a connection; nothing where it is refused."""
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    found = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            while piece := connection.recv(65_536):
                found += piece
    except (ConnectionResetError, ConnectionRefusedError, BrokenPipeError):
        pass
    return found


def prediction_of(answer: bytes) -> float:
    """Of a whole answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK"), answer[:200]
    lengths = [int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-length")]
    assert lengths == [len(body)]
    return float(json.loads(body)["predictions"][0]["prediction"])


def test_a_server_killed_under_load_leaves_no_half_answer_and_nothing_on_disk(
    file: Path, demo_table: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    (row,) = rows_of(demo_table, [3])
    assert photos_of(demo_table, row)
    body = json.dumps({"row": with_base64(demo_table, row)}).encode()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    before, answers, enough, stop = contents(file.parent, folder), list[bytes](), threading.Event(), threading.Event()

    def client() -> None:
        while not stop.is_set():
            answers.append(exchange(port, body))
            if len(answers) >= 4 * CLIENTS:
                enough.set()

    with process(file, port, folder) as first:
        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        assert enough.wait(120)
        first.kill()
        first.wait()
        stop.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()  # the connection was closed
    whole = [prediction_of(answer) for answer in answers if answer]
    assert len(whole) >= CLIENTS
    assert whole == pytest.approx([whole[0]] * len(whole), rel=1e-6)  # batches of one and of two round differently
    assert contents(file.parent, folder) == before
    with process(file, port, folder):
        assert prediction_of(exchange(port, body)) == pytest.approx(whole[0], rel=1e-6)
    assert contents(file.parent, folder) == before
