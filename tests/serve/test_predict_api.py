"""Answers of the server: the same as those of predict, whatever is sent in one request or at one time."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mixfit.auto.recipe import Run
from mixfit.predictor import Predictor

pytest.importorskip("fastapi", reason="serving needs the extra serve")

from served_runs import client_of, photos_of, rows_of, serving, with_base64
from starlette.testclient import TestClient

from mixfit.serve.load import load_model
from mixfit.serve.service import Service
from mixfit.serve.settings import ServeSettings

Served = tuple[TestClient, Service]


@pytest.fixture(scope="module")
def served(blend_run: Run) -> Iterator[Served]:
    """The blend of the small example."""
    with serving(blend_run.folder) as found:
        yield found


def predicted(run: Run, table: Path, places: list[int], interval: float | None = None) -> pd.DataFrame:
    """What predict says of rows of the example, each row as a table of its own."""
    predictor = Predictor.load(run.folder)
    frame = pd.read_csv(table).drop(columns="price")
    return pd.concat([predictor.predict(frame.iloc[[p]], images=table.parent, interval=interval) for p in places])


def test_rows_as_json_are_predicted_as_by_predict(blend_run: Run, demo_table: Path, served: Served) -> None:
    client, service = served
    places = [3, 4, 5, 6, 7]
    rows = [with_base64(demo_table, row) for row in rows_of(demo_table, places)]
    answer = client.post("/predict", json={"rows": rows})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    expected = predicted(blend_run, demo_table, places, 0.9)
    found = [row["prediction"] for row in said["predictions"]]
    np.testing.assert_allclose(found, expected["prediction"], rtol=1e-5)
    for bound in ("lower", "upper"):
        ours = [row["interval"][bound] for row in said["predictions"]]
        np.testing.assert_allclose(ours, expected[bound], rtol=1e-5)
    assert [row["status"] for row in said["predictions"]] == expected["status"].tolist()
    assert said["model"] == {"name": "default", "sha256": service.model(None).sha256}
    assert said["predictions"][0]["interval"]["level"] == 0.9


def test_photos_as_files_are_the_same_photos(demo_table: Path, served: Served) -> None:
    client, _ = served
    (row,) = rows_of(demo_table, [3])
    photos = photos_of(demo_table, row)
    assert photos
    files = [("photos", ("x.png", photo)) for photo in photos]
    cells = {name: cell for name, cell in row.items() if name != "photos"}
    sent = client.post("/predict", data={"row": json.dumps(cells)}, files=files).json()
    inside = client.post("/predict", json={"row": with_base64(demo_table, row)}).json()
    assert sent == inside


def test_photos_of_several_rows_are_told_apart(demo_table: Path, served: Served) -> None:
    client, _ = served
    rows = rows_of(demo_table, [3, 5])
    files = [
        (f"photos[{place}]", ("x", photo)) for place, row in enumerate(rows) for photo in photos_of(demo_table, row)
    ]
    cells = [{name: cell for name, cell in row.items() if name != "photos"} for row in rows]
    sent = client.post("/predict", data={"rows": json.dumps(cells)}, files=files).json()
    inside = client.post("/predict", json={"rows": [with_base64(demo_table, row) for row in rows]}).json()
    assert sent == inside


def test_answers_do_not_depend_on_what_is_predicted_with_them(
    blend_run: Run, demo_table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = list(range(24))
    rows = [with_base64(demo_table, row) for row in rows_of(demo_table, places)]
    # Requests that must not be mixed: texts among numbers, and a category that is a number or true.
    rows[1] |= {"height_cm": "30.5"}
    rows[2] |= {"maker": 7}
    rows[3] |= {"maker": True, "age_years": None}
    rows[4] |= {"photos": ["AAAA"]}
    with serving(blend_run.folder, batch=8, wait_ms=200.0) as (client, service):
        alone = [client.post("/predict", json={"row": row}).json()["predictions"][0] for row in rows]
        sizes = []
        predict = type(service.model(None)).predict

        def counted(self: Any, requests: Any) -> Any:
            sizes.append(len(requests))
            return predict(self, requests)

        monkeypatch.setattr(type(service.model(None)), "predict", counted)
        with ThreadPoolExecutor(12) as pool:
            answers = pool.map(lambda row: client.post("/predict", json={"row": row}).json(), rows)
            together = [answer["predictions"][0] for answer in answers]
    assert max(sizes) > 1
    assert [one["status"] for one in together] == [one["status"] for one in alone]
    ours = [one["prediction"] for one in together]
    np.testing.assert_allclose(ours, [one["prediction"] for one in alone], rtol=1e-5)
    expected = predicted(blend_run, demo_table, places[5:])
    np.testing.assert_allclose(ours[5:], expected["prediction"], rtol=1e-5)
    assert len({round(one, 6) for one in ours}) > len(ours) / 2


def test_classes_have_probabilities_and_sets(class_run: Run) -> None:
    with serving(class_run.folder) as (client, service):
        example = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]
        row = example["content"]["application/json"]["example"]["row"]
        said = client.post("/predict?interval=0.8", json={"row": row}).json()["predictions"][0]
        classes = service.model(None).classes
        assert classes is not None
        assert list(said["probabilities"]) == list(classes)
        assert sum(said["probabilities"].values()) == pytest.approx(1)
        assert said["prediction"] in said["prediction_set"]["classes"]
        assert said["prediction_set"]["level"] == 0.8
        page = client.get("/").text
        assert "<img src" not in page
        assert "&lt;img src=x" in page


def test_a_network_without_intervals_says_none(quick_run: Run, demo_table: Path) -> None:
    with serving(quick_run.folder) as (client, _):
        (row,) = rows_of(demo_table, [3])
        said = client.post("/predict", json={"row": with_base64(demo_table, row)}).json()["predictions"][0]
        assert set(said) == {"prediction", "status"}
        frame = pd.read_csv(demo_table).iloc[[3]].drop(columns="price")
        expected = Predictor.load(quick_run.folder).predict(frame, images=demo_table.parent)
        assert said["prediction"] == pytest.approx(expected["prediction"].iloc[0], rel=1e-5)
        refused = client.post("/predict?interval=0.9", json={"row": with_base64(demo_table, row)})
        assert refused.status_code == 422
        assert "no prediction intervals" in refused.json()["error"]["message"]


def test_the_schema_says_what_may_be_sent(served: Served) -> None:
    client, _ = served
    said = client.get("/schema").json()
    columns = {one["name"]: one for one in said["columns"]}
    assert said["target"] == {"name": "price", "unit": "", "classes": None}
    assert columns["maker"]["levels"][0] == "Aldous Fenn"
    low, high = columns["height_cm"]["range"]
    assert low < columns["height_cm"]["example"] < high
    assert columns["photos"]["role"] == "image"
    row = {name: one["example"] for name, one in columns.items()}
    answer = client.post("/predict", json={"row": row}).json()["predictions"][0]
    assert answer["status"] == "no photo"
    assert client.get("/schema?model=other").status_code == 404


def test_metrics_count_drift(served: Served) -> None:
    client, _ = served
    row = {one["name"]: one["example"] for one in client.get("/schema").json()["columns"]}
    before = _metrics(client)
    client.post("/predict", json={"row": row | {"maker": "nobody", "height_cm": 1e6}})
    after = _metrics(client)

    def more(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    assert more('mixfit_unseen_categories_total{column="maker",model="default"}') == 1
    assert more('mixfit_out_of_range_numbers_total{column="height_cm",model="default"}') == 1
    assert more('mixfit_rows_without_photo_total{model="default"}') == 1
    assert more('mixfit_requests_total{path="/predict",status="200"}') == 1
    assert more("mixfit_batch_rows_count") == 1
    assert after["mixfit_queue_rows"] == 0


def _metrics(client: TestClient) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def test_several_models_answer_by_name(blend_run: Run, quick_run: Run, demo_table: Path) -> None:
    settings = ServeSettings(batch=1)
    models = {
        "blend": load_model("blend", blend_run.folder, level=0.9),
        "net work": load_model("net work", quick_run.folder, level=0.9),
    }
    with client_of(Service(models, settings)) as client:
        (row,) = rows_of(demo_table, [3])
        sent = {"row": with_base64(demo_table, row)}
        one, other = client.post("/predict", json=sent).json(), client.post("/predict?model=net work", json=sent).json()
        assert (one["model"]["name"], other["model"]["name"]) == ("blend", "net work")
        assert one["model"]["sha256"] != other["model"]["sha256"]
        assert one["predictions"][0]["prediction"] != other["predictions"][0]["prediction"]
        assert "net work</a>" in client.get("/").text
