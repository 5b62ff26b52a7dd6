"""A run on lists of tags beside objects, from every kind of table: trained, saved, explained, predicted."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_runs import MODEL, QUIET, TRAIN
from test_cli import in_process

import mixfit
from mixfit.evaluation.explain import explain
from mixfit.predictor import Predictor

ROWS = 80
FORMS = ["DataFrame", "parquet", "feather", "jsonl"]


def listings() -> pd.DataFrame:
    """Sauna and pool make the price; the host is an object, of which models see nothing."""
    random = np.random.default_rng(0)
    words = ["wifi", "pool", "sauna", "bicycle shed"]
    tags = [[word for word in words if random.random() < 0.5] for _ in range(ROWS)]
    return pd.DataFrame(
        {
            "area": random.normal(size=ROWS).round(3),
            "amenities": pd.Series([None if row == 5 else cell for row, cell in enumerate(tags)], dtype=object),
            "host": [{"name": f"h{row % 7}", "stays": [row]} for row in range(ROWS)],
            "y": [3.0 * ("pool" in cell) + 2.0 * ("sauna" in cell) for cell in tags] + random.normal(0, 0.1, ROWS),
        }
    )


def as_form(frame: pd.DataFrame, form: str, folder: Path) -> Any:
    if form == "DataFrame":
        return frame
    path = folder / f"listings.{form}"
    match form:
        case "parquet":
            frame.to_parquet(path)
        case "feather":
            frame.to_feather(path)
        case "csv":
            frame.to_csv(path, index=False)
        case _:
            path.write_text("".join(f"{json.dumps(row)}\n" for row in frame.to_dict("records")))
    return path


def fitted(form: str, folder: Path, *, report: bool = False) -> mixfit.Run:
    settings: dict[str, Any] = {"model": MODEL, "train": replace(TRAIN, report=report), "console": QUIET}
    return mixfit.fit(as_form(listings(), form, folder), target="y", out=folder / "runs", **settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> mixfit.Run:
    return fitted("parquet", tmp_path_factory.mktemp("tags"), report=True)


@pytest.mark.parametrize("form", ["DataFrame", pytest.param("feather", marks=pytest.mark.long), "jsonl"])
def test_every_form_of_a_table_gives_the_same_run(form: str, run: mixfit.Run, tmp_path: Path) -> None:
    found = fitted(form, tmp_path)
    roles = {column.name: (column.role, column.reason) for column in found.predictor.schema.columns}
    assert roles["amenities"][0] == "tags"
    assert roles["amenities"][1].startswith("lists of tags: 4 tags, most frequent: ")
    assert roles["host"][0] == "ignored"
    assert roles["host"][1].startswith("cells are of type struct<name: string, stays: list<")
    np.testing.assert_array_equal(
        found.predictor.predict(listings())["prediction"], run.predictor.predict(listings())["prediction"]
    )


@pytest.mark.parametrize("form", [*FORMS, "csv"])
@pytest.mark.parametrize("out", ["parquet", "jsonl", "csv", None])
def test_every_form_of_a_table_is_predicted_and_kept(
    form: str, out: str | None, run: mixfit.Run, tmp_path: Path
) -> None:
    new = listings().drop(columns="y").head(12)
    new.at[2, "amenities"] = ["pool", "jacuzzi"]
    new.at[3, "amenities"] = []
    wanted = Predictor.load(run.folder / "model").predict(new)
    path = None if out is None else tmp_path / f"out.{out}"
    found = mixfit.predict_table(run.folder, as_form(new, form, tmp_path), out=path, console=QUIET)
    found = found if path is None else mixfit.read_table(path)
    given = found["prediction"].astype(float).to_numpy()  # a CSV has seven digits
    np.testing.assert_allclose(given, wanted["prediction"], rtol=1e-6 if out == "csv" else 0)
    assert found["status"].tolist() == ["ok", "ok", "amenities: tag 'jacuzzi' not seen in training", *["ok"] * 9]
    assert list(found.columns) == [*new.columns, "prediction", "status"]
    written = found["amenities"].iloc[2]
    assert written in (["pool", "jacuzzi"], '["pool", "jacuzzi"]', "['pool', 'jacuzzi']")
    assert pd.isna(found["amenities"].iloc[5])


def test_a_column_of_tags_is_one_player_of_an_explanation(run: mixfit.Run) -> None:
    found = explain(run.predictor, listings(), rows=[0, 1], background=8)
    assert found.columns == ("area", "amenities")
    np.testing.assert_allclose(found.base + found.parts.sum(1), found.value, atol=1e-4)


def test_a_report_counts_tags(run: mixfit.Run) -> None:
    page = (run.folder / "report.html").read_text()
    assert "bicycle shed" in page
    assert "4 different" in page


def test_a_role_can_be_set_by_a_flag_and_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = listings().drop(columns="host")
    # so few and with so few words that they are a category
    frame["amenities"] = [("pool, sauna", "wifi", "garden, shed")[row % 3] for row in range(ROWS)]
    table = as_form(frame, "csv", tmp_path)
    (tmp_path / "run.toml").write_text("[data.roles]\namenities = 'tags'\n")
    for flags in (["--set", "amenities=tags"], ["--set", "amenities=category"]):
        code, out, _ = in_process(capsys, "inspect", table, "--target", "y", "--json", *flags)
        assert code == 0
        found = next(column for column in json.loads(out)["columns"] if column["name"] == "amenities")
        assert found["role"] == flags[1].split("=")[1]
        assert ("5 tags, most frequent: 'pool' (27)" in found["note"]) == (found["role"] == "tags")
    run_flags = ["--config", tmp_path / "run.toml", "--epochs", "1", "--out", tmp_path / "runs"]
    code, _, said = in_process(capsys, "train", table, "--target", "y", "--preset", "network", *run_flags)
    assert code == 0, said
    (schema,) = (tmp_path / "runs").glob("*/schema.json")
    columns = json.loads(schema.read_text())["columns"]
    assert [column["role"] for column in columns if column["name"] == "amenities"] == ["tags"]


@pytest.mark.parametrize("flags", [["--target", "host"], ["--target", "y", "--set", "host=category"]])
def test_asking_for_objects_is_one_sentence(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = in_process(capsys, "inspect", as_form(listings(), "parquet", tmp_path), *flags)
    assert code != 0
    assert len(said.strip().splitlines()) == 1
    assert "struct<name: string, stays: list<" in said
