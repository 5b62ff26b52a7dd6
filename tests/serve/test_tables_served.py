"""Whole tables over HTTP: the same predictions as those of predict, line by line."""

import asyncio
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("fastapi", reason="serving needs the extra serve")

import httpx2
from served_runs import serving
from starlette.testclient import TestClient

from mixfit.auto.recipe import Run
from mixfit.runs.scoring import predict_table
from mixfit.serve.service import Service

CSV, PARQUET = {"content-type": "text/csv"}, {"content-type": "application/vnd.apache.parquet"}


@pytest.fixture(scope="module")
def served(quick_run: Run) -> Iterator[tuple[TestClient, Service]]:
    with serving(quick_run.folder, batch=1) as found:
        yield found


def lines(answer: httpx2.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def counted(service: Service) -> dict[str, float]:
    """What /metrics says."""
    lines = service.metrics.text().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_a_table_with_photos_is_predicted_as_by_predict(
    quick_run: Run, demo_table: Path, served: tuple[TestClient, Service]
) -> None:
    client, service = served
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for photo in (demo_table.parent / "images").iterdir():
            file.write(photo, f"images/{photo.name}")
    files = {"table": ("t.csv", demo_table.read_bytes()), "photos": ("p.zip", archive.getvalue())}
    answer = client.post("/predict/batch", files=files)
    found = lines(answer)
    assert answer.headers["x-mixfit-sha256"] == service.model(None).sha256
    expected = predict_table(quick_run.folder, demo_table)
    assert [one["row"] for one in found] == list(range(len(expected)))
    np.testing.assert_allclose([one["prediction"] for one in found], expected["prediction"], rtol=1e-5)
    assert [one["status"] for one in found] == expected["status"].tolist()
    assert not service.tables.locked()


def test_parquet_is_read_and_paths_lead_nowhere(demo_table: Path, served: tuple[TestClient, Service]) -> None:
    client, service = served
    frame = pd.read_csv(demo_table).drop(columns="price").head(3)
    frame["height_cm"], frame["maker"] = 1e6, "nobody"
    frame["photos"] = ["../table.csv", str(demo_table), "images/vase0000_front.jpg"]
    file = io.BytesIO()
    frame.to_parquet(file)
    before = counted(service)
    found = lines(client.post("/predict/batch", content=file.getvalue(), headers=PARQUET))
    more = {name: value - before.get(name, 0.0) for name, value in counted(service).items()}
    assert len(found) == 3
    for one, problem in zip(found, ("leads outside", "absolute path", "is missing"), strict=True):
        assert problem in one["status"]
    assert more['mixfit_out_of_range_numbers_total{column="height_cm",model="default"}'] == 3
    assert more['mixfit_unseen_categories_total{column="maker",model="default"}'] == 3
    assert more['mixfit_rows_without_photo_total{model="default"}'] == 3
    assert more['mixfit_rows_total{model="default",status="noted"}'] == 3


def test_bad_tables_are_refused_and_hold_nothing_up(demo_table: Path, served: tuple[TestClient, Service]) -> None:
    client, service = served
    text = demo_table.read_text()
    cases = [
        (b"", CSV, 422, ""),
        (b"PAR1 no", PARQUET, 422, "table.parquet"),
        (text.replace("height_cm", "size").encode(), CSV, 422, "no column 'height_cm'"),
        (b"{}", {"content-type": "application/json"}, 415, "text/csv"),
    ]
    for content, headers, status, said in cases:
        answer = client.post("/predict/batch", content=content, headers=headers)
        assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True), answer.text
        assert "/tmp" not in answer.text
        assert not service.tables.locked()
    for files in ({"photos": ("p.zip", b"x")}, {"other": ("o", b"x")}):
        assert client.post("/predict/batch", files=files).status_code == 422
    broken = client.post("/predict/batch", files={"table": ("t", text.encode()), "photos": ("p", b"no zip")})
    assert broken.status_code == 422
    service.tables = asyncio.Lock()
    asyncio.run(service.tables.acquire())
    busy = client.post("/predict/batch", content=text.encode(), headers=CSV)
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "10")
    service.tables.release()
    assert len(lines(client.post("/predict/batch", content=text.encode(), headers=CSV))) == len(text.splitlines()) - 1
