"""Reports of every kind as plain values, with all that a page can show."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.schema import Column, Schema
from mixfit.ensemble.photo_rule import PhotoRule
from mixfit.runs.report.content import (
    Coverage,
    DataFacts,
    Difference,
    Distribution,
    LevelCoverage,
    PhotoGain,
    ReportContent,
    Score,
    ShownPhoto,
    ShownRow,
)


def columns(*names: str) -> tuple[Column, ...]:
    return tuple(
        Column(name=name, role="target" if name == "price" else "number", reason="floats", missing=0) for name in names
    )


PIXEL = "data:image/jpeg;base64,AAAA"


def shown_row(row: int, name: str = "a.jpg") -> ShownRow:
    return ShownRow(
        row=row,
        part="test rows",
        cells=[("area", "12"), ("beds", "")],
        photos=[ShownPhoto(name=name, file="row-0-0.jpg"), ShownPhoto(name="gone.jpg", file="")],
        more_photos=2,
        reasons=["area is 12, above all training rows (at most 9)"],
    )


def data_facts() -> DataFacts:
    return DataFacts(
        distributions=[
            Distribution(column="price", kind="numbers", labels=["1 to 2", "2 to 3"], counts=[3, 1], summary="1 to 3"),
            Distribution(
                column="area", kind="levels", labels=["big", "small"], counts=[3, 1], summary="5 different", others=4
            ),
        ],
        samples=[shown_row(100)],
        notes=["9 different photos were read."],
    )


def photo_rule(*, claim: bool, use: bool) -> PhotoRule:
    return PhotoRule(
        claim=claim,
        use=use,
        gain=0.12 if claim else 0.03,
        error=0.04,
        p_value=0.001 if claim else 0.23,
        least=0.05 if claim else -0.04,
        rows=300,
        groups=300,
        columns=True,
    )


def gain(low: float, high: float, *, used: bool = True, same_kind: bool = True, claim: bool | None = None) -> PhotoGain:
    """What photos add; ``claim`` by default as the interval of the test rows has it."""
    found = Difference(
        split="test", rows=60, groups=None, with_photos=0.2, without=0.25, gain=0.05, interval=(low, high)
    )
    return PhotoGain(
        differences=[found, replace(found, split="valid", rows=300)],
        with_name="ours",
        without_name="table",
        same_kind=same_kind,
        used=used,
        rule=photo_rule(claim=low > 0 if claim is None else claim, use=used) if same_kind else None,
    )


def content(task: str = "regression", classes: int = 0, rows: int = 60) -> ReportContent:
    rng = np.random.default_rng(0)
    if classes:
        truth = rng.integers(0, classes, rows)
        prediction = np.where(rng.random(rows) < 0.7, truth, rng.integers(0, classes, rows))
        probabilities = np.full((rows, classes), 0.3 / (classes - 1))
        probabilities[np.arange(rows), prediction] = 0.7
    else:
        truth = rng.lognormal(12, 1, rows)
        prediction = truth * rng.lognormal(0, 0.2, rows)
        probabilities = None
    scores = [
        Score(
            model="mixfit (table + photos)",
            kind="ours",
            split="test",
            metrics={"rmse": 12345.6, "r2": 0.71239},
            intervals={"rmse": (11_111.0, 13_131.0), "r2": (float("nan"), float("nan"))},
        ),
        Score(model="boosted trees", kind="table", split="test", metrics={"rmse": 23456.7, "r2": 0.5}, seconds=1.25),
        Score(model="mixfit (table + photos)", kind="ours", split="valid", metrics={"rmse": 11222.4, "r2": -0.004}),
        Score(model="boosted trees", kind="table", split="valid", metrics={"rmse": 21987.1, "r2": 3.14159}),
    ]
    epochs = np.arange(1, 6)
    return ReportContent(
        title="Houses",
        target="price",
        schema=Schema(columns=columns("area", "price"), task=task, task_reason="floats", rows=rows * 3),  # type: ignore[arg-type]
        rows={"train": rows, "valid": rows, "test": rows},
        headline_metric="rmse",
        higher_is_better=False,
        verdict="The photos help.",
        scores=scores,
        history=pd.DataFrame(
            {"epoch": epochs, "train_loss": 1 / epochs, "valid_loss": 2 / epochs, "rmse": 9e4 / epochs}
        ),
        predicted_split="test",
        truth=truth,
        prediction=prediction,
        predicted_rows=np.arange(rows) * 2,
        probabilities=probabilities,
        interval=None if classes else (prediction * 0.9, prediction * 1.1),
        classes=tuple(f"class {i}" for i in range(classes)),
        photos=gain(-0.01, 0.11),
        data=data_facts(),
        worst=[shown_row(2), shown_row(4)],
        photo_files={"row-0-0.jpg": PIXEL},
        levels=[LevelCoverage(level=0.9, count=60, inside=53, width=1234.5)],
        coverage=[Coverage(rows="all", count=60, inside=53)],
        settings={"lr": "0.001", "epochs": "5"},
        fingerprint={"SHA-256 of the table": "0123abcd"},
        environment={"torch": "2.14.1"},
        command="mixfit train houses/table.csv --target price",
    )


def bad_inputs(count: int) -> list[BadInput]:
    return [
        BadInput(row=i, column="photo", value=f"{i}.jpg", problem="file is missing", action="photo masked")
        for i in range(count)
    ]


BARE: dict[str, Any] = {"predicted_rows": None, "worst": [], "interval": None}
CONTENTS = {
    "regression": content(),
    "log axes": replace(content(), log_scale=True),
    "many rows": replace(content(rows=20_000), log_scale=True),
    "binary": content("binary", 2),
    "20 classes": content("multiclass", 20, 400),
    "99 classes": content("multiclass", 99, 400),
    "5,000 classes": content("multiclass", 5_000, 9_000),
    "one epoch": replace(content(), history=content().history.head(1)),
    "no epoch": replace(content(), history=pd.DataFrame()),
    "no test rows": replace(content(), rows={"train": 9, "valid": 4, "test": 0}, predicted_split="valid"),
    "no predictions": replace(content(), truth=np.empty(0), prediction=np.empty(0), scores=[], rows={}, **BARE),
    "equal truth": replace(content(), truth=np.full(3, 7.0), prediction=np.full(3, 7.0), **BARE),
    "bare": replace(content(), **BARE, photos=None, data=None, levels=[], coverage=[]),
    "nan": replace(
        content(),
        scores=[replace(score, metrics={"rmse": float("nan")}) for score in content().scores],
        history=content().history.assign(valid_loss=float("nan"), rmse=float("inf")),
        truth=np.array([1.0, np.nan, 2.0]),
        prediction=np.array([1.0, 2.0, np.inf]),
        **BARE,
    ),
    "nothing positive": replace(content(), truth=np.array([-1.0, 0.0]), prediction=np.ones(2), log_scale=True, **BARE),
    "5,000 bad inputs": replace(content(), bad_inputs=bad_inputs(5_000)),
    "600 columns": replace(
        content(), schema=replace(content().schema, columns=columns(*(f"c{i}" for i in range(600))))
    ),
}
