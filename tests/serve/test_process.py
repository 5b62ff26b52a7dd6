"""The server as a process of its own: sockets, deadlines and signals. One process for all tests but the last."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="serving needs the extra serve")

import httpx2
import uvicorn
from served_runs import rows_of
from uvicorn.server import ServerState

from mixfit.auto.recipe import Run
from mixfit.serve.protocol import protocol_class
from mixfit.serve.run import _listening
from mixfit.serve.settings import ServeSettings

PATIENCE = 60.0  # seconds that a test waits for what must happen


@pytest.fixture(scope="module")
def process(quick_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server with a deadline of a second, and its address."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    command = [sys.executable, "-m", "mixfit.cli", "serve", str(quick_run.folder), "--port", "0"]
    command += ["--timeout", "1", "--drain", "1", "--batch", "2"]
    with log.open("w") as errors:
        found = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert found.stdout is not None
            line = found.stdout.readline()
            address = re.search(r"http://[0-9.:]+", line)
            assert address is not None, line + log.read_text()
            _until_ready(address[0])
            yield found, address[0]
        finally:
            found.kill()
            found.wait()
            assert found.stdout is not None
            found.stdout.close()
    for said in log.read_text().splitlines():
        assert json.loads(said)["level"] in ("info", "warning")


def _until_ready(address: str) -> None:
    with httpx2.Client(transport=httpx2.HTTPTransport(retries=3)) as client:
        while client.get(f"{address}/readyz", timeout=PATIENCE).status_code != 200:
            pass


def _socket(address: str) -> socket.socket:
    host, _, port = address.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def _rest(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    found = b""
    while True:
        try:
            piece = connection.recv(65_536)
        except ConnectionResetError:
            return found
        if not piece:
            return found
        found += piece


def test_f50_who_sends_nothing_or_a_byte_now_and_then_is_cut_off(
    process: tuple[subprocess.Popen[str], str], demo_table: Path
) -> None:
    _, address = process
    (row,) = rows_of(demo_table, [3])
    silent, halves, slow = _socket(address), _socket(address), _socket(address)
    idle = [_socket(address) for _ in range(50)]
    halves.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    slow.sendall(
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"
    )
    with slow, halves, silent:
        with httpx2.Client(base_url=address, timeout=PATIENCE) as healthy:
            for _ in range(3):
                assert healthy.post("/predict", json={"row": row | {"photos": None}}).status_code == 200
        for connection in (silent, halves, *idle):
            assert b"HTTP/1.1 408 " in _rest(connection)
        said = b""
        slow.settimeout(0.1)
        while b"408" not in said:  # a byte ten times a second does not extend the deadline
            try:
                slow.sendall(b" ")
                said += slow.recv(1_000)
            except TimeoutError:
                continue
            except OSError:
                break
        assert b"408 Request Timeout" in said
    for one in idle:
        one.close()


def test_an_answer_does_not_wait_for_the_word_that_its_headers_have_come() -> None:
    async def option() -> int:
        loop, made = asyncio.get_running_loop(), list[Any]()
        config = uvicorn.Config(lambda *_: None, lifespan="off")
        config.load()
        protocol = protocol_class(timeout=PATIENCE, connections=1)

        def connected() -> Any:
            made.append(protocol(config=config, server_state=ServerState(), app_state={}))
            return made[-1]

        with _listening(ServeSettings(port=0)) as listener:
            server = await loop.create_server(connected, sock=listener)
            _, writer = await asyncio.open_connection(*listener.getsockname())
            while not made or made[0].transport is None:
                await asyncio.sleep(0)
            found = made[0].transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            writer.close()
            made[0].transport.abort()
            server.close()
            await asyncio.sleep(0)
        return int(found)

    assert asyncio.run(option()) != 0


def test_f50_an_answered_connection_is_kept_and_then_closed(process: tuple[subprocess.Popen[str], str]) -> None:
    _, address = process
    with _socket(address) as connection:
        for _ in range(2):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            answer = b""
            while b'{"status":"ok"}' not in answer:
                answer += connection.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 200 OK")
        connection.sendall(b"GET /healthz HTT")  # half of a third request
        assert b"408 Request Timeout" in _rest(connection)
    with _socket(address) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert _rest(connection).startswith(b"HTTP/1.1 200 OK")
    with _socket(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000)
        assert b"400 Bad Request" in _rest(connection)


def test_f52_a_signal_lets_what_has_begun_end(process: tuple[subprocess.Popen[str], str], demo_table: Path) -> None:
    server, address = process
    (row,) = rows_of(demo_table, [3])
    body = json.dumps({"row": row | {"photos": None}}).encode()
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    os.kill(server.pid, signal.SIGHUP)  # reads the models again
    with httpx2.Client(base_url=address, timeout=PATIENCE) as client, _socket(address) as begun:
        begun.sendall(head % len(body) + body[:-1])
        server.send_signal(signal.SIGTERM)
        states = list[Any]()
        while not states or states[-1] == ("ready", 200):
            answer = client.get("/readyz")
            states.append((answer.json()["status"], answer.status_code))
        assert states[-1] == ("ending", 503)
        assert client.post("/predict", content=body, headers={"content-type": "application/json"}).status_code == 200
        begun.sendall(body[-1:])
        assert _rest(begun).startswith(b"HTTP/1.1 200 OK")
    assert server.wait(PATIENCE) == 0


def test_mistakes_are_said_in_one_sentence(quick_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mixfit.cli import main

    run = str(quick_run.folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        mistakes = [
            ([], 2, "Name a run to serve"),
            (["--model", "houses"], 2, "--model must be NAME=RUN"),
            (["--model", f"a={run}", "--model", f"a={run}"], 2, "names 'a' twice"),
            ([str(tmp_path / "gone")], 2, "does not exist"),
            ([run, "--host", "0.0.0.0"], 2, "set a token"),
            ([run, "--interval", "2"], 2, "interval must be in (0, 1)"),
            ([run, "--timeout", "0"], 2, "timeout must be above 0"),
            ([run, "--port", "70000"], 2, "port must be at most 65535"),
            ([run, "--port", port], 4, "Choose another one with --port"),
        ]
        for arguments, code, said in mistakes:
            with pytest.raises(SystemExit) as stop:
                main(["serve", *arguments])
            errors = capsys.readouterr().err
            assert (stop.value.code, said in errors) == (code, True), (arguments, errors)
            assert len(errors.splitlines()) == 1
