"""Tables without photos, and photos without a table: each is a mode of its own, in which nothing is said of what is not
there and no section is empty."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hostile_texts import Page
from rich.console import Console
from small_runs import small_fit, small_table

from mixfit.config import DataConfig
from mixfit.data.load import load_data
from mixfit.demo import DEMO_TARGET
from mixfit.runs.explaining import explain_run
from mixfit.runs.results import Run
from mixfit.runs.scoring import predict_table

SETTINGS = "How to reproduce"
"""The last section of a report; it lists all settings, also those of parts that are not there."""


def photo_table(demo_table: Path, folder: Path, *, classes: bool) -> Path:
    """One column of photos and the target."""
    frame = pd.read_csv(demo_table)[["photos", DEMO_TARGET]].dropna().rename(columns={DEMO_TARGET: "y"})
    if classes:
        frame["y"] = np.where(frame["y"] > frame["y"].median(), "dear", "cheap")
    frame.to_csv(folder / "table.csv", index=False)
    shutil.copytree(demo_table.parent / "images", folder / "images")
    return folder / "table.csv"


@pytest.fixture(scope="module", params=["number", "classes"])
def of_photos(
    request: pytest.FixtureRequest, demo_table: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, Path, str]:
    """A run on photos alone, its table, and what it said."""
    folder = tmp_path_factory.mktemp("photos")
    table = photo_table(demo_table, folder, classes=request.param == "classes")
    with (folder / "said").open("w", encoding="utf-8") as file:
        data, said = DataConfig(cache_gb=0.0, image_size=32), Console(width=300, file=file)
        run = small_fit(table, folder / "runs", report=True, data=data, console=said)
    return run, table, (folder / "said").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def of_table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path, str]:
    """A run on numbers and a category, its table, and what it said."""
    folder = tmp_path_factory.mktemp("table")
    table = small_table(folder / "rows")
    with (folder / "said").open("w", encoding="utf-8") as file:
        run = small_fit(table, folder / "runs", report=True, console=Console(width=300, file=file))
    return run, table, (folder / "said").read_text(encoding="utf-8")


def shown(run: Run, said: str) -> dict[str, str]:
    """What a reader sees of a run: the terminal, the report without its settings, the card, the card of a notebook."""
    report = " ".join(Page((run.folder / "report.html").read_text(encoding="utf-8")).text.split())
    before, settings, _ = report.rpartition(SETTINGS)
    assert settings
    return {
        "terminal": said,
        "report": before,
        "model card": (run.folder / "model" / "README.md").read_text(encoding="utf-8"),
        "notebook": Page(run._repr_html_()).text,
    }


def sections(run: Run) -> list[str]:
    """The sections of a report, without tags."""
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    return [re.sub(r"<[^>]*>", " ", part) for part in re.findall(r"<section.*?</section>", page, flags=re.DOTALL)]


def test_nothing_is_said_of_photos_where_there_are_none(of_table: tuple[Run, Path, str]) -> None:
    run, _, said = of_table
    for where, text in shown(run, said).items():
        assert not re.search(r"\bphotos?\b|\bimages?\b|heat map", text, flags=re.IGNORECASE), where


def test_nothing_is_said_of_a_table_where_there_are_photos_alone(of_photos: tuple[Run, Path, str]) -> None:
    run, _, said = of_photos
    for where, text in shown(run, said).items():
        assert not re.search(r"table only|table alone|table and photos|, table\b", text), where
    assert "compared with a constant" in said.replace("\n   ", " ")
    contest = run.contest
    assert contest is not None
    models = {line.model for line in contest.leaderboard}
    assert {"constant", "linear, photos", "network, photos"} <= models
    assert not [model for model in models if "table" in model]


def assert_no_section_is_empty(run: Run) -> None:
    found = sections(run)
    assert len(found) >= 5
    for section in found:
        assert len(" ".join(section.split())) > 60, section
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    for target in re.findall(r'href="#([\w-]+)"', page):
        assert f'id="{target}"' in page


def test_no_section_of_a_report_is_empty(of_table: tuple[Run, Path, str]) -> None:
    assert_no_section_is_empty(of_table[0])


def test_no_section_of_a_report_on_photos_alone_is_empty(of_photos: tuple[Run, Path, str]) -> None:
    assert_no_section_is_empty(of_photos[0])


def test_rows_of_photos_alone_are_predicted_and_explained(of_photos: tuple[Run, Path, str], tmp_path: Path) -> None:
    run, table, _ = of_photos
    new = pd.read_csv(table).drop(columns="y").head(3)
    new.loc[2, "photos"] = None
    found = predict_table(run, new, images=table.parent, console=Console(quiet=True))
    assert found is not None
    assert found["status"].iloc[0] == "ok"
    assert "photo" in found["status"].iloc[2]
    explain_run(run, rows=[0, 1], console=Console(quiet=True), out=tmp_path / "explained")
    assert "photos" in (tmp_path / "explained" / "explain.html").read_text(encoding="utf-8")


def test_photos_alone_are_data_without_columns(demo_table: Path, tmp_path: Path) -> None:
    data = load_data(photo_table(demo_table, tmp_path, classes=False), target="y", image_size=32)
    assert not data.has_columns
    xb, yb = next(iter(data.train))
    assert xb.numeric.shape == (len(yb), 0)
    page = Page(data._repr_html_()).text
    assert f"photos: {len(data.photos.files) if data.photos else 0} in" in page
