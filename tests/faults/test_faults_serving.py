"""Fault cases 48 to 53: what a server must survive, and what it must never do."""

import asyncio
import json
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="serving needs the extra serve")

import httpx2
from served_runs import LOCAL, client_of, png, rows_of, serving
from starlette.testclient import TestClient

from mixfit.auto.recipe import Run
from mixfit.errors import ConfigError
from mixfit.serve.app import make_app
from mixfit.serve.guard import JsonLines
from mixfit.serve.load import load_model
from mixfit.serve.service import Service
from mixfit.serve.settings import ServeSettings

Served = tuple[TestClient, Service]


@pytest.fixture(scope="module")
def served(quick_run: Run) -> Iterator[Served]:
    """A small network with tight limits."""
    with serving(quick_run.folder, body_mb=0.5, rows=4, parts=6, megapixels=0.01, queue=8) as found:
        yield found


@pytest.fixture
def row(demo_table: Path) -> dict[str, Any]:
    """A row without photos."""
    (found,) = rows_of(demo_table, [3])
    return found | {"photos": None}


def strict(answer: httpx2.Response) -> Any:
    """The body of an answer as strict JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(answer.text, parse_constant=refuse)


def as_json(row: dict[str, Any], **cells: Any) -> bytes:
    return json.dumps({"row": row | cells}).encode()


HUGE = b"9" * 5_000
BAD_JSON = [
    (b"", 400, ""),
    (b"{", 400, ""),
    (b"\xff\xfe{}", 400, ""),
    (b"[" * 100_000 + b"]" * 100_000, 400, ""),
    (b'{"row": ' * 60 + b"1" + b"}" * 60, 400, ""),
    (b'{"row": {"height_cm": NaN}}', 400, ""),
    (b'{"row": {"height_cm": -Infinity}}', 400, ""),
    (b'{"row": {"height_cm": ' + HUGE + b"}}", 400, ""),
    (b"[]", 422, ""),
    (b'"row"', 422, ""),
    (b"{}", 422, ""),
    (b'{"row": {}, "rows": []}', 422, ""),
    (b'{"rows": []}', 422, "rows"),
    (b'{"rows": {}}', 422, "rows"),
    (b'{"rows": [1]}', 422, "rows[0]"),
    (b'{"row": null}', 422, "row"),
    (b'{"row": {}, "path": "/etc/passwd"}', 422, "path"),
    (b'{"row": {}}', 422, "row.height_cm"),
]
BAD_CELLS = [
    ({"height_cm": {"a": 1}}, 422, "row.height_cm"),
    ({"height_cm": [1]}, 422, "row.height_cm"),
    ({"maker": "a\ud800"}, 422, "row.maker"),
    ({"maker": "x" * 200_000}, 413, "row.maker"),
    ({"height_cm": 10**400}, 422, "row.height_cm"),
    ({"photos": 7}, 422, "row.photos"),
    ({"photos": ["%%%"]}, 422, "row.photos[0]"),
]


@pytest.mark.parametrize(("body", "status", "where"), BAD_JSON, ids=range(len(BAD_JSON)))
def test_f48_bad_json_is_refused_with_its_place(served: Served, body: bytes, status: int, where: str) -> None:
    client, _ = served
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, strict(answer)["error"]["where"] or "") == (status, where), answer.text


@pytest.mark.parametrize(("cells", "status", "where"), BAD_CELLS, ids=range(len(BAD_CELLS)))
def test_f48_bad_cells_are_refused_with_their_place(
    served: Served, row: dict[str, Any], cells: dict[str, Any], status: int, where: str
) -> None:
    client, _ = served
    answer = client.post("/predict", content=as_json(row, **cells), headers={"content-type": "application/json"})
    assert (answer.status_code, strict(answer)["error"]["where"]) == (status, where), answer.text


def test_f48_strange_cells_that_predict_reads_are_answered(served: Served, row: dict[str, Any]) -> None:
    client, _ = served
    for cells in ({"height_cm": "tall"}, {"height_cm": True}, {"maker": 10**300}, {"listed_on": 5}, {"maker": "\x00"}):
        answer = client.post("/predict", json={"row": row | cells})
        assert answer.status_code == 200, answer.text
        assert strict(answer)["predictions"][0]["status"] != "ok"
    overflow = client.post(
        "/predict", content=as_json(row, height_cm=0).replace(b'"height_cm": 0', b'"height_cm": 1e999')
    )
    assert overflow.status_code == 415  # without a content type
    overflow = client.post(
        "/predict",
        content=as_json(row, height_cm=0).replace(b'"height_cm": 0', b'"height_cm": 1e999'),
        headers={"content-type": "application/json"},
    )
    assert (overflow.status_code, strict(overflow)["error"]["where"]) == (422, "row.height_cm")


def test_f49_a_body_beyond_the_limit_is_refused_however_it_comes(served: Served, row: dict[str, Any]) -> None:
    client, service = served

    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    for content in (b"x" * 1_000_000, pieces()):
        answer = client.post("/predict", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 413, answer.text
        assert "500,000 bytes" in strict(answer)["error"]["message"]
        # What is not read to its end is cut off.
        assert answer.headers.get("connection") == ("close" if isinstance(content, bytes) else None)
    files = [("photos", ("a.png", b"x" * 300_000)), ("photos", ("b.png", b"x" * 300_000))]
    assert client.post("/predict", data={"row": json.dumps(row)}, files=files).status_code == 413
    assert service.batcher.held == 0


def test_f49_too_many_parts_fields_and_rows_are_refused(served: Served, row: dict[str, Any]) -> None:
    client, _ = served
    cells = json.dumps(row)
    many = [("photos", (f"{place}.png", b"x")) for place in range(7)]
    assert client.post("/predict", data={"row": cells}, files=many).status_code == 400
    fields = {f"f{place}": "1" for place in range(1_001)}
    assert client.post("/predict", data=fields, files=many[:1]).status_code == 400
    wide = client.post("/predict", json={"row": row | {f"f{place}": 1 for place in range(20_000)}})
    assert (wide.status_code, strict(wide)["error"]["where"]) == (413, "row")
    long = client.post("/predict", json={"rows": [row] * 5})
    assert (long.status_code, strict(long)["error"]["where"]) == (413, "rows")
    photos = client.post("/predict", json={"row": row | {"photos": ["AAAA"] * 7}})
    assert photos.status_code == 413


def test_f49_parts_without_an_end_are_refused(served: Served, row: dict[str, Any]) -> None:
    client, _ = served
    kind = {"content-type": "multipart/form-data; boundary=B"}
    head = b'--B\r\nContent-Disposition: form-data; name="row"\r\n\r\n' + json.dumps(row).encode() + b"\r\n"
    photo = b'--B\r\nContent-Disposition: form-data; name="photos"; filename="a"\r\n\r\n' + png()
    assert client.post("/predict", content=head + photo + b"\r\n--B--\r\n", headers=kind).status_code == 200
    for content in (head + photo, head, b"", b"--B", b"no boundary at all"):
        answer = client.post("/predict", content=content, headers=kind)
        assert answer.status_code in (400, 422), (content[:80], answer.text)
    without = client.post("/predict", content=head, headers={"content-type": "multipart/form-data"})
    assert without.status_code == 400


def test_f49_photos_with_too_many_pixels_are_refused_before_they_are_decoded(
    served: Served, row: dict[str, Any]
) -> None:
    client, _ = served
    fine = client.post("/predict", data={"row": json.dumps(row)}, files=[("photos", ("a.png", png(100, 100)))])
    assert fine.status_code == 200
    bomb = client.post("/predict", data={"row": json.dumps(row)}, files=[("photos", ("a.png", png(3000, 3000)))])
    assert bomb.status_code == 413
    assert "3,000 x 3,000 pixels" in strict(bomb)["error"]["message"]


def test_f49_bodies_together_do_not_exceed_the_memory(quick_run: Run) -> None:
    with serving(quick_run.folder, memory_mb=0.1, batch=1) as (client, _):
        kind = {"content-type": "application/json"}
        answer = client.post("/predict", content=b" " * 200_000, headers=kind)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert client.post("/predict", content=b"{}", headers=kind).status_code == 422


def test_f51_beyond_the_queue_requests_are_told_to_come_back_and_answers_are_not_mixed_up(
    quick_run: Run, demo_table: Path
) -> None:
    rows = [row | {"photos": None} for row in rows_of(demo_table, list(range(40)))]
    with serving(quick_run.folder, queue=3, batch=2) as (client, service):
        alone = [client.post("/predict", json={"row": row}).json()["predictions"][0]["prediction"] for row in rows]
        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(lambda row: client.post("/predict", json={"row": row}), rows))
        assert {answer.status_code for answer in answers} == {200, 503}
        for answer, expected in zip(answers, alone, strict=True):
            if answer.status_code == 200:
                assert answer.json()["predictions"][0]["prediction"] == pytest.approx(expected, rel=1e-6)
            else:
                assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert service.batcher.held == service.batcher.decoding == 0
        assert client.post("/predict", json={"row": rows[0]}).status_code == 200


def test_f52_a_client_that_goes_away_frees_its_place(quick_run: Run, row: dict[str, Any]) -> None:
    model = load_model("default", quick_run.folder, level=0.9)
    predicted = []

    async def run() -> None:
        service = Service({"default": model}, ServeSettings(queue=1, batch=1))
        service.ready = True  # and nothing predicts, as nobody has started it
        app, gone = make_app(service), asyncio.Event()
        body = iter([{"type": "http.request", "body": as_json(row), "more_body": False}])

        async def receive() -> dict[str, Any]:
            for message in body:
                return message
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            predicted.append(message)

        task = asyncio.create_task(app(_scope(), receive, send))
        while not service.batcher.jobs:
            await asyncio.sleep(0.01)
        with pytest.raises(Exception, match="waiting already"), service.batcher.place(1):
            pass
        gone.set()
        await task
        assert service.batcher.held == 0
        assert service.batcher.jobs[0].answer.cancelled()
        assert not service.batcher._waiting()
        await service.stop()

    asyncio.run(run())
    assert all(message.get("status", 500) != 200 for message in predicted)


def _scope() -> dict[str, Any]:
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/predict",
        "raw_path": b"/predict",
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "state": {},
    }


TOKEN = "0123456789abcdef0123"


def test_f52_a_replaced_folder_changes_nothing_until_it_is_read_again(
    blend_run: Run, quick_run: Run, row: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(quick_run.folder / "model", folder)
    bearer = {"authorization": f"Bearer {TOKEN}"}
    with serving(folder, batch=1, token=TOKEN) as (client, _):

        def answer() -> dict[str, Any]:
            found: dict[str, Any] = client.post("/predict", json={"row": row}, headers=bearer).json()
            return found

        first = answer()
        (folder / "model.safetensors").write_bytes(b"no")
        assert answer() == first
        failed = client.post("/reload", headers=bearer)
        assert failed.status_code == 409
        assert "The models stay as they are" in strict(failed)["error"]["message"]
        assert answer() == first
        shutil.rmtree(folder)
        assert answer() == first
        shutil.copytree(blend_run.folder / "model", folder)
        assert client.post("/reload").status_code == 401
        hashes = client.post("/reload", headers=bearer).json()["models"]
        second = answer()
        assert second["model"]["sha256"] == hashes["default"] != first["model"]["sha256"]
        assert second["predictions"] != first["predictions"]


def test_f53_paths_and_urls_are_never_read(served: Served, row: dict[str, Any], demo_table: Path) -> None:
    client, _ = served
    (own,) = rows_of(demo_table, [3])
    outside = ["../../etc/passwd", "http://169.254.169.254/", "file:///etc/passwd", "data:image/png;base64,"]
    for name in [own["photos"], *outside]:
        answer = client.post("/predict", json={"row": row | {"photos": name}})
        assert (answer.status_code, strict(answer)["error"]["where"]) == (422, "row.photos")
    parts = client.post("/predict", data={"row": json.dumps(row), "photos": "/etc/passwd"}, files=[("x", ("", b""))])
    assert parts.status_code == 422
    named = client.post("/predict", data={"row": json.dumps(row)}, files=[("photos", ("/etc/passwd", b"root"))])
    assert "not a JPEG" in strict(named)["predictions"][0]["status"]
    other = client.post("/predict", data={"row": json.dumps(row)}, files=[("photo", ("a.png", png()))])
    assert "Did you mean 'photos'?" in strict(other)["error"]["message"]


def test_f53_only_this_machine_is_served_without_a_token() -> None:
    assert ServeSettings().host == "127.0.0.1"
    for host in ("0.0.0.0", "::", "example.org", "192.168.0.7"):
        with pytest.raises(ConfigError, match="set a token"):
            ServeSettings(host=host)
        assert ServeSettings(host=host, token=TOKEN).host == host
    with pytest.raises(ConfigError, match="at least 16 characters, got 3"):
        ServeSettings(token="abc")


def test_without_the_token_there_is_only_health(quick_run: Run) -> None:
    model = load_model("default", quick_run.folder, level=0.9)
    service = Service({"default": model}, ServeSettings(token=TOKEN, batch=1))
    client = TestClient(make_app(service), base_url=LOCAL)  # not started: a refused request reaches nothing
    for given in ("", "Bearer wrong", "Basic !!!", "Basic d3Jvbmc=", f"Digest {TOKEN}", TOKEN):
        headers = {"authorization": given}
        assert client.get("/healthz", headers=headers).status_code == 200
        for path in ("/", "/schema", "/openapi.json", "/metrics", "/nothing"):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Basic ")
    assert client.get("/schema", auth=("anybody", TOKEN)).status_code == 200


def test_pages_of_other_sites_cannot_use_a_local_server(served: Served) -> None:
    client, _ = served
    assert client.get("/schema", headers={"host": "evil.example:8000"}).status_code == 400
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        answer = client.get("/schema", headers={"host": host, "origin": "http://evil.example"})
        assert answer.status_code == 200
        assert not any(name.startswith("access-control") for name in answer.headers)
    for path in ("/", "/schema", "/nothing", "/predict"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; ")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_the_log_has_no_contents(
    served: Served, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client, service = served
    caplog.set_level(logging.INFO, logger="mixfit.serve")

    def broken(*_: Any) -> None:
        raise ValueError("cannot convert 'secret'")

    client.post("/predict?model=secret", json={"row": row | {"maker": "secret"}})
    client.get("/secret")
    client.post("/predict", json={"row": row | {"maker": "secret"}})
    with monkeypatch.context() as patched:
        patched.setattr(type(service.model(None)), "predict", broken)
        answer = client.post("/predict", json={"row": row | {"maker": "secret"}})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    lines = [JsonLines().format(record) for record in caplog.records if record.name == "mixfit.serve"]
    said = [json.loads(line) for line in lines]
    assert "secret" not in "".join(lines)
    assert [one["status"] for one in said if one["event"] == "request"] == [404, 404, 200, 500]
    (bug,) = [one for one in said if one["event"] == "bug"]
    assert bug["error"] == "ValueError"
    assert bug["at"]
    assert client.post("/predict", json={"row": row}).status_code == 200
    assert service.batcher.held == 0


def test_before_it_is_warm_the_server_says_so(quick_run: Run, row: dict[str, Any]) -> None:
    model = load_model("default", quick_run.folder, level=0.9)
    service = Service({"default": model}, ServeSettings(batch=1))
    client = TestClient(make_app(service), base_url=LOCAL)
    assert client.get("/healthz").json() == {"status": "ok"}
    assert (client.get("/readyz").status_code, client.get("/readyz").json()) == (503, {"status": "starting"})
    early = client.post("/predict", json={"row": row})
    assert (early.status_code, early.headers["retry-after"]) == (503, "1")
    with client_of(service) as ready:
        assert ready.get("/readyz").json() == {"status": "ready"}
        service.draining = True
        assert (ready.get("/readyz").status_code, ready.get("/readyz").json()) == (503, {"status": "ending"})
