"""Reports of every kind as plain values, with all that a page can show."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mixfit.data.bad_inputs import BadInput
from mixfit.data.columns.schema import Column, Schema
from mixfit.ensemble.photo_rule import PhotoRule
from mixfit.evaluation.result import Contest, Difference, LeaderboardLine, Part, PhotoGain, Result, Score
from mixfit.predictor.card import Coverage
from mixfit.runs.report.content import DataFacts, Distribution, ReportContent, ShownPhoto, ShownRow


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
        notes=["9 distinct photos were read."],
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


OURS, TABLE = "mixfit (table + photos)", "boosted trees"
COVERAGE = [
    Coverage(rows="all", count=60, inside=53, level=0.9, width=1234.5),
    Coverage(rows="without a photo", count=9, inside=8, level=0.9),
]


def contest(rule: PhotoRule | None = None, coverage: list[Coverage] = COVERAGE) -> Contest:
    line = LeaderboardLine(model="linear, table", photos=False, loss=0.25, error=0.01, share=1.0, seconds=0.5)
    return Contest(leaderboard=[line], choice="It was chosen.", photos=rule, coverage=coverage)


def difference(low: float, high: float, metric: str = "rmse") -> Difference:
    """By which the model of the table is worse, in a metric that is lower for better ones."""
    return Difference(
        model=OURS, against=TABLE, metric=metric, value=-0.05, low=-high, high=-low, finding="within noise"
    )


def result(
    *,
    scores: list[Score] | None = None,
    valid: list[Score] | None = None,
    task: str = "regression",
    headline: str = "rmse",
    rows: int = 60,
    differences: list[Difference] | None = None,
    photos: PhotoGain | None = None,
    competed: Contest | None = None,
    **others: Any,
) -> Result:
    """Of two models on test and validation rows."""
    differences = differences or [difference(-0.01, 0.11, headline)]
    errors = [(0.5, 3.0), (1.0, 50.0)] if task == "regression" else []
    parts = [
        Part(split="test", rows=rows, groups=None, scores=scores or [], differences=differences, errors=errors),
        Part(split="valid", rows=rows, groups=None, scores=valid or scores or [], differences=differences),
    ]
    return Result(
        **{
            "target": "price",
            "task": task,
            "headline": headline,
            "rows": {"train": rows, "valid": rows, "test": rows},
            "ours": OURS,
            "against": TABLE,
            "parts": parts,
            "photos": photos,
            "contest": competed,
            **others,
        }
    )


def two_scores(ours: dict[str, float], table: dict[str, float]) -> list[Score]:
    return [
        Score(
            model=OURS,
            kind="ours",
            metrics=ours,
            intervals={"rmse": (11_111.0, 13_131.0)} if "rmse" in ours else {},
            median_error=3.0,
        ),
        Score(model=TABLE, kind="table", metrics=table, seconds=1.25),
    ]


def gain(*, same_kind: bool = True, used: bool = True) -> PhotoGain:
    return PhotoGain(with_photos=OURS, without=TABLE, same_kind=same_kind, used=used)


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
    if task == "regression":
        test = two_scores({"rmse": 12345.6, "r2": 0.71239}, {"rmse": 23456.7, "r2": 0.5})
        valid = two_scores({"rmse": 11222.4, "r2": -0.004}, {"rmse": 21987.1, "r2": 3.14159})
    else:
        test = two_scores({"accuracy": 0.7, "log_loss": 0.5}, {"accuracy": 0.6, "log_loss": 0.6})
        valid = two_scores({"accuracy": 0.71, "log_loss": 0.51}, {"accuracy": 0.61, "log_loss": 0.61})
    found = result(
        scores=test,
        valid=valid,
        task=task,
        headline="rmse" if task == "regression" else "accuracy",
        rows=rows,
        photos=gain(),
        competed=contest(photo_rule(claim=False, use=True)),
    )
    epochs = np.arange(1, 6)
    return ReportContent(
        title="Houses",
        result=found,
        schema=Schema(columns=columns("area", "price"), task=task, task_reason="floats", rows=rows * 3),  # type: ignore[arg-type]
        history=pd.DataFrame(
            {"epoch": epochs, "train_loss": 1 / epochs, "valid_loss": 2 / epochs, "rmse": 9e4 / epochs}
        ),
        truth=truth,
        prediction=prediction,
        predicted_rows=np.arange(rows) * 2,
        probabilities=probabilities,
        interval=None if classes else (prediction * 0.9, prediction * 1.1),
        classes=tuple(f"class {i}" for i in range(classes)),
        data=data_facts(),
        worst=[shown_row(2), shown_row(4)],
        photo_files={"row-0-0.jpg": PIXEL},
        settings={"lr": "0.001", "epochs": "5"},
        fingerprint={"SHA-256 of the table": "0123abcd"},
        environment={"torch": "2.14.1"},
        command="mixfit train houses/table.csv --target price",
    )


def bad_inputs(count: int) -> list[BadInput]:
    return [
        BadInput(row=i, column="photo", value=f"{i}.jpg", problem="file is missing", action="photo treated as missing")
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
    "no test rows": replace(
        content(), result=replace(content().result, rows={"train": 9, "valid": 4}, parts=content().result.parts[1:])
    ),
    "no predictions": replace(content(), truth=np.empty(0), prediction=np.empty(0), **BARE),
    "equal truth": replace(content(), truth=np.full(3, 7.0), prediction=np.full(3, 7.0), **BARE),
    "bare": replace(content(), **BARE, result=replace(content().result, photos=None, contest=None), data=None),
    "nan": replace(
        content(),
        result=result(
            scores=two_scores({"rmse": float("nan"), "r2": float("nan")}, {"rmse": float("nan"), "r2": 0.5}),
            differences=[replace(difference(float("nan"), float("nan")), value=float("nan"), finding="unknown")],
            photos=gain(),
        ),
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
