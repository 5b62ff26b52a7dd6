"""Blends of chosen models on a small table of every kind of column, and how they agree with their ONNX files."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.data.load import load_data
from mixfit.ensemble.cross_fit import fit_folds, fit_model
from mixfit.ensemble.intervals import ClassUncertainty, Scores, number_uncertainty
from mixfit.ensemble.pool import FLOOR
from mixfit.export.exporting import difference
from mixfit.export.graph import Exported, export_graph
from mixfit.export.onnx_predict import OnnxModel
from mixfit.models.encoding import RowEncoder
from mixfit.models.model import Model, reads
from mixfit.models.network import Network
from mixfit.predictor.base import Predictor
from mixfit.predictor.blend import BlendPredictor, FoldModels

ROLES: dict[str, Any] = {
    "skewed": "number",
    "kind": "category",
    "code": "category",
    "grade": "ordered",
    "day": "date",
    "moment": "date",
    "has": "tags",
}
SMALL = ModelConfig(tabular_hidden=(8,), encoding_dim=4)


def wide_table(rows: int = 120, seed: int = 0) -> pd.DataFrame:
    """Numbers, one of them skewed, categories with few and many levels, codes, ordered ones, dates, tags and texts;
    some of all are missing."""
    rng = np.random.default_rng(seed)
    x, skewed = rng.normal(size=rows), np.exp(2 * rng.normal(size=rows))
    kind = rng.choice(["a", "b \u00e9", "c"], rows)
    grade = rng.choice(["low", "medium", "high"], rows)
    y = x + 0.5 * np.log(skewed) + (kind == "a") + (grade == "high") + 0.3 * rng.normal(size=rows)
    words = ["fine", "old", "red vase", "broken", "new", "\u7ea2\u8272"]
    frame = pd.DataFrame(
        {
            "x": x,
            "skewed": skewed,
            "kind": kind,
            "many": rng.choice([f"level {number}" for number in range(16)], rows),
            "code": rng.choice([f"{number}" for number in range(10100, 13000, 170)], rows),
            "grade": grade,
            "day": pd.Timestamp("2019-12-20") + pd.to_timedelta(rng.integers(0, 900, rows), unit="D"),
            "moment": [f"2021-03-{1 + place % 28:02d} {place % 24:02d}:15:30+02:00" for place in range(rows)],
            "has": [", ".join(rng.permutation(["pool", "wifi", "garden"])[: 1 + place % 3]) for place in range(rows)],
            "note": [" ".join(rng.choice(words, 6)) for _ in range(rows)],
            "y": y,
        }
    )
    for place, name in enumerate(frame.columns[:-1]):
        frame.loc[3 + place :: 29, name] = None
    return frame


def with_target(frame: pd.DataFrame, task: str) -> pd.DataFrame:
    """The target as a task wants it."""
    y = frame["y"].to_numpy()
    ranks = np.digitize(y, np.quantile(y, [0.3, 0.7]))
    made = {
        "regression": y,
        "count": np.round(np.exp(y / 2)),
        "binary": np.where(y > np.median(y), "yes", "no"),
        "multiclass": np.array(["low", "medium", "high"])[ranks],
        "ordered": np.array(["low", "medium", "high"])[ranks],
    }
    return frame.assign(y=made[task])


def blend_of(
    frame: pd.DataFrame, models: Sequence[Model], *, roles: dict[str, Any], task: str = "regression", folds: int = 2
) -> BlendPredictor:
    """All models with the same share, fitted on the folds of a table without photos."""
    config = DataConfig(roles=roles | ({"y": "ordered"} if task == "ordered" else {}), task=task)  # type: ignore[arg-type]
    data = load_data(with_target(frame, task), target="y", config=config)
    dealt = fit_folds(data, folds, seed=0)
    settings: dict[str, Any] = {"config": SMALL, "train": TrainConfig(epochs=1)}
    models = [replace(one, **settings) if isinstance(one, Network) else one for one in models]
    fitted = [{one.name: fit_model(one, fold) for one in models} for fold in dealt.folds]
    encoder = RowEncoder.fit(data.frame.iloc[dealt.rows], data.schema)
    if data.target.classes is None:
        encoded, half = encoder.encode(data.frame.iloc[dealt.rows]), 0.5 * dealt.truth
        uncertainty: Any = number_uncertainty(
            dealt.truth, half, encoded, encoder, dealt.number, counts=data.schema.task == "count"
        )
    else:
        uncertainty = ClassUncertainty(temperature=1.3, scores=Scores.of(np.linspace(0, 1, 50)))
    text = any(reads(one.sees) for one in models)
    return BlendPredictor(
        shares={one.name: 1 / len(models) for one in models},
        sees={one.name: one.sees for one in models},
        temperatures={one.name: 1.0 if data.target.classes is None else 0.8 for one in models},
        folds=[
            FoldModels(
                encoder=fold.encoder if text else replace(fold.encoder, text=None),
                layout=fold.rows.layout,
                models=those,
            )
            for fold, those in zip(dealt.folds, fitted, strict=True)
        ],
        photos=False,
        photo_encoder=None,
        uncertainty=uncertainty,
        pool_floor=None if data.target.classes is None else FLOOR,
        schema=data.schema,
        preprocessor=encoder.preprocessor,
        target=data.target,
        crop=data.crop,
        image_size=data.image_size,
    )


def written(predictor: Predictor, level: float | None = None) -> Exported:
    """The file that a predictor exports to."""
    logging.disable(logging.DEBUG)  # PyTorch logs each step of its tracing, and pytest keeps every line
    try:
        return export_graph(predictor, level)
    finally:
        logging.disable(logging.NOTSET)


def exported(predictor: Predictor, level: float | None = None) -> OnnxModel:
    """The same file, loaded."""
    return OnnxModel.of(written(predictor, level).model.SerializeToString(), threads=1)


def assert_agrees(
    predictor: Predictor, model: OnnxModel, frame: pd.DataFrame, images: Path | None = None, *, most: float = 1e-5
) -> None:
    """The file gives the predictions, intervals or sets, and the status of ``predict``."""
    wanted = predictor.predict(frame, images=images, interval=model.meta["level"], device="cpu")
    found = model.predict(frame, images=images)
    assert list(found.columns) == list(wanted.columns)
    assert found["status"].tolist() == wanted["status"].tolist()
    assert difference(predictor, found, wanted).max(initial=0.0) <= most
    for name in {"lower", "upper"} & set(wanted.columns):
        spread = float(np.ptp(wanted["prediction"])) if len(wanted) else 0.0
        np.testing.assert_allclose(found[name], wanted[name], rtol=10 * most, atol=10 * most * spread)
    for name in {"prediction", "prediction_set"} & set(wanted.columns):
        if predictor.target.classes is not None:
            assert found[name].tolist() == wanted[name].tolist()
