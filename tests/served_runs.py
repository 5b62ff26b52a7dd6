"""The server in this process: the whole application around a small run, without a socket."""

import base64
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytest.importorskip("fastapi", reason="serving needs the extra serve")

from starlette.testclient import TestClient

from mixfit.serve.app import make_app
from mixfit.serve.load import load_model
from mixfit.serve.service import Service
from mixfit.serve.settings import ServeSettings

LOCAL = "http://127.0.0.1"


@contextmanager
def client_of(service: Service) -> Iterator[TestClient]:
    """A client of a started service that is ready."""
    with TestClient(make_app(service), base_url=LOCAL) as client:
        while not service.ready:
            time.sleep(0.01)
        yield client


@contextmanager
def serving(run: Path, **settings: Any) -> Iterator[tuple[TestClient, Service]]:
    """A client of a run, and its service."""
    chosen = ServeSettings(**{"batch": 4} | settings)
    service = Service({"default": load_model("default", run, level=chosen.interval)}, chosen)
    with client_of(service) as client:
        yield client, service


def rows_of(table: Path, places: list[int]) -> list[dict[str, Any]]:
    """Rows of a table as a client has them: without the target, the photos still as paths."""
    frame = pd.read_csv(table).iloc[places].drop(columns="price")
    rows: list[dict[str, Any]] = json.loads(frame.to_json(orient="records"))
    return rows


def photos_of(table: Path, row: dict[str, Any]) -> list[bytes]:
    """The files of the photos of a row."""
    return [(table.parent / name).read_bytes() for name in (row["photos"] or "").split(";") if name]


def with_base64(table: Path, row: dict[str, Any]) -> dict[str, Any]:
    """A row with its photos in JSON."""
    return row | {"photos": [base64.b64encode(photo).decode() for photo in photos_of(table, row)]}


def png(width: int = 8, height: int = 8) -> bytes:
    """A black photo."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()
