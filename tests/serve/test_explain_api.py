"""What moved a prediction, over HTTP: what ``explain`` says of the same rows, within the same limits."""

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="serving needs the extra serve")

from served_runs import photos_of, rows_of, serving, with_base64
from starlette.testclient import TestClient

from mixfit.auto.recipe import Run
from mixfit.evaluation.explain import BACKGROUND, explain
from mixfit.predictor import Predictor
from mixfit.runs.explaining import background_of_run
from mixfit.runs.folder import read_split
from mixfit.serve.service import Service

Served = tuple[TestClient, Service]


@pytest.fixture(scope="module")
def served(blend_run: Run) -> Iterator[Served]:
    with serving(blend_run.folder, batch=2, explained=2) as found:
        yield found


def test_parts_are_those_of_explain(blend_run: Run, demo_table: Path, served: Served) -> None:
    client, service = served
    places = [3, 5]
    rows = [with_base64(demo_table, row) for row in rows_of(demo_table, places)]
    rows[1]["height_cm"] = str(rows[1]["height_cm"])  # people write numbers as text
    sent = client.post("/explain", json={"rows": rows})
    assert sent.status_code == 200, sent.text
    predictor = Predictor.load(blend_run.folder)
    background = background_of_run(blend_run.folder, predictor)
    assert background is not None
    table, images = background
    assert len(table) == BACKGROUND
    frame = pd.read_csv(demo_table)
    expected = explain(predictor, frame, images=images, rows=places, background=table.frame)
    said = sent.json()
    assert said["model"] == service.model(None).identity
    for place, row in enumerate(said["predictions"]):
        found = row["explanation"]
        parts = {one["column"]: one["part"] for one in found["parts"]}
        np.testing.assert_allclose(
            [parts[name] for name in expected.columns], expected.parts[place], rtol=1e-4, atol=1e-5
        )
        sizes = [abs(one["part"]) for one in found["parts"]]
        assert sizes == sorted(sizes, reverse=True)
        assert found["value"] - found["base"] == pytest.approx(sum(parts.values()), abs=1e-6)
        assert found["compared_with"] == {"rows": BACKGROUND, "source": "training rows"}
        assert found["exact"] is True
        assert {one["column"]: one["kind"] for one in found["parts"]}["photos"] == "photos"
        sides = found["sides"]
        assert sides["table"] + sides["text"] + sides["photos"] == pytest.approx(
            found["value"] - found["base"], abs=1e-6
        )
        assert row["prediction"] == pytest.approx(
            np.exp(found["value"]) if found["scale"] == "logarithm" else found["value"], rel=1e-5
        )
        assert set(row) == {"prediction", "interval", "status", "explanation"}


def test_heat_maps_are_pictures_of_the_photos(demo_table: Path, served: Served) -> None:
    client, _ = served
    (row,) = rows_of(demo_table, [3])
    photos = photos_of(demo_table, row)
    cells = {name: cell for name, cell in row.items() if name != "photos"}
    files = [("photos", ("x.png", photo)) for photo in (photos[0], b"no photo", *photos[1:])]
    said = client.post("/explain", data={"row": json.dumps(cells)}, files=files).json()["predictions"][0]
    assert "x.png" not in said["status"]
    assert said["status"] != "ok"
    heat = said["explanation"]["heat"]
    if said["explanation"]["heat_note"]:
        assert heat == []
        assert "No network of this blend uses photos" in said["explanation"]["heat_note"]
        return
    assert [(one["column"], one["photo"]) for one in heat] == [("photos", place) for place in range(len(photos))]
    for one in heat:
        picture = Image.open(io.BytesIO(base64.b64decode(one["png"])))
        assert picture.format == "PNG"
        assert picture.mode == "RGB"
    without = client.post("/explain", json={"row": row | {"photos": None}}).json()["predictions"][0]["explanation"]
    assert (without["heat"], without["heat_note"]) == ([], "")


def test_a_network_and_a_model_without_its_table_are_explained(quick_run: Run, demo_table: Path) -> None:
    (row,) = rows_of(demo_table, [3])
    with serving(quick_run.folder / "model", batch=1) as (client, service):  # a model folder names no table
        said = client.post("/explain", json={"row": with_base64(demo_table, row)}).json()["predictions"][0][
            "explanation"
        ]
        assert said["compared_with"] == {"rows": 1, "source": "typical values"}
        assert sum(one["part"] for one in said["parts"]) == pytest.approx(said["value"] - said["base"], abs=1e-6)
        assert {one["error"] for one in said["parts"]} == {None}
        assert [one["photo"] for one in said["heat"]] == list(range(len(photos_of(demo_table, row))))
        for one in said["heat"]:
            size = service.model(None).read_photo(photos_of(demo_table, row)[0]).shape[1:]
            assert Image.open(io.BytesIO(base64.b64decode(one["png"]))).size == size
        page = client.get("/").text
        assert "What moved it" not in page


def test_the_probability_of_the_predicted_class_is_explained(class_run: Run) -> None:
    with serving(class_run.folder, batch=1) as (client, _):
        example = client.get("/openapi.json").json()["paths"]["/explain"]["post"]["requestBody"]
        row = example["content"]["application/json"]["example"]["row"]
        said = client.post("/explain", json={"row": row}).json()["predictions"][0]
        found = said["explanation"]
        assert found["scale"] == "probability"
        assert found["explained"] == said["prediction"]
        assert found["value"] == pytest.approx(said["probabilities"][said["prediction"]], rel=1e-5)


def test_explanations_are_limited_and_let_others_through(demo_table: Path, served: Served) -> None:
    client, service = served
    row = rows_of(demo_table, [3])[0] | {"photos": None}
    many = client.post("/explain", json={"rows": [row] * 3})
    assert (many.status_code, many.json()["error"]["where"]) == (413, "rows")
    assert "at most 2 are explained" in many.json()["error"]["message"]
    for refused, status in (
        (client.post("/explain", json={"row": {}}), 422),
        (client.post("/explain", content=b"x"), 415),
    ):
        assert refused.status_code == status

    def ask(place: int) -> tuple[int, Any]:
        path = "/explain" if place % 2 else "/predict"
        answer = client.post(path, json={"row": row})
        return answer.status_code, answer.json()

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
    assert {status for status, _ in answers} == {200}
    assert len({round(said["predictions"][0]["prediction"], 4) for _, said in answers}) == 1
    settings = service.settings
    object.__setattr__(service.batcher, "settings", type(settings)(queue=20))
    with service.batcher.place(10):
        busy = client.post("/explain", json={"row": row})
        assert (busy.status_code, "retry-after" in busy.headers) == (503, True)
    object.__setattr__(service.batcher, "settings", settings)
    assert service.batcher.held == service.batcher.decoding == 0


def test_predictions_are_compared_with_training_rows_only(blend_run: Run, demo_table: Path) -> None:
    found, split = (
        background_of_run(blend_run.folder, Predictor.load(blend_run.folder)),
        read_split(blend_run.folder, 90),
    )
    assert found is not None
    assert split is not None
    train = pd.read_csv(demo_table)["vase_id"].iloc[split.parts()["train"]]
    assert set(found[0]["vase_id"].column) <= set(train)
