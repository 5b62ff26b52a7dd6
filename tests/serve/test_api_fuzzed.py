"""Requests drawn from the OpenAPI document by schemathesis: every answer is one that the document promises."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="serving needs the extra serve")
pytest.importorskip("schemathesis", reason="needs the extra dev")

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from requests import Request
from served_runs import LOCAL, serving
from starlette.testclient import TestClient

from mixfit.auto.recipe import Run

PATHS = ("/healthz", "/metrics", "/predict", "/predict/batch", "/readyz", "/reload", "/schema")
EXPLAINED = "/explain"


@pytest.fixture(scope="module")
def client(quick_run: Run) -> Iterator[TestClient]:
    with serving(quick_run.folder, batch=1, rows=8) as (found, _):
        yield found


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def answered(client: TestClient, case: Any) -> Any:
    """Send a case as its client would, and check the answer against the document."""
    sent = Request(**case.as_transport_kwargs(base_url=LOCAL)).prepare()
    answer = client.request(sent.method or "", sent.url or "", headers=dict(sent.headers), content=sent.body or b"")
    kind = answer.headers.get("content-type", "").partition(";")[0]
    for text in {"application/json": [answer.text], "application/jsonl": answer.text.splitlines()}.get(kind, []):
        json.loads(text, parse_constant=refuse)
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    headers = {name: [value] for name, value in answer.headers.items()}
    said = schemathesis.Response(
        status_code=answer.status_code,
        headers=headers,
        content=answer.content,
        request=sent,
        elapsed=0.0,
        verify=False,
    )
    checks = schemathesis.checks
    kept = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")
    case.validate_response(said, checks=[one for one in checks.CHECKS.get_all() if one.__name__ in kept])
    return answer


@pytest.mark.parametrize("path", [*PATHS, EXPLAINED])
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_answer_is_one_that_the_document_promises(client: TestClient, path: str, mode: str) -> None:
    document = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    every = {one.ok().path: one.ok() for one in document.get_all_operations()}
    assert sorted(every) == sorted([*PATHS, EXPLAINED])
    drawn = schemathesis.GenerationMode.POSITIVE if mode == "positive" else schemathesis.GenerationMode.NEGATIVE
    statuses = set()

    @settings(
        max_examples=5 if path == EXPLAINED else 25,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def ask(data: st.DataObject) -> None:
        statuses.add(answered(client, data.draw(every[path].as_strategy(generation_mode=drawn))).status_code)

    if mode == "negative" and not every[path].definition.raw.get("parameters") and path not in ("/predict", EXPLAINED):
        pytest.skip("nothing can be wrong in a request without parameters and body")
    ask()
    if path in ("/predict", EXPLAINED):
        assert (200 in statuses) == (mode == "positive"), statuses
