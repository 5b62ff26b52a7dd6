"""Small runs of every kind whose folders are then damaged: a number, classes with photos, one network that a doctor
watched, and a saved blend of every kind of model."""

from pathlib import Path

import numpy as np
import pandas as pd
from blends_by_hand import EVERY_KIND, Workshop
from folder_faults import Subject
from PIL import Image
from rich.console import Console

from mixfit.auto.recipe import fit
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.diagnostics.doctor import Doctor

_ROWS = 60


def example(folder: Path) -> pd.DataFrame:
    """Rows with cells of every kind, a small photo each, a number and a class to predict."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=_ROWS)
    for row, value in enumerate(x):
        colour = (int(np.clip(120 + 50 * value, 0, 255)), 90, int(rng.integers(0, 255)))
        Image.new("RGB", (32, 32), colour).save(folder / f"{row}.png")
    return pd.DataFrame(
        {
            "x": x + rng.normal(size=_ROWS),
            "z": np.where(rng.random(_ROWS) < 0.1, np.nan, rng.normal(size=_ROWS)),
            "kind": rng.choice(["a", "b", "c"], _ROWS),
            "day": pd.date_range("2024-01-01", periods=_ROWS).strftime("%Y-%m-%d"),
            "code": [f"{10_000 + 1_111 * (row % 13)}" for row in range(_ROWS)],
            "photo": [f"{row}.png" for row in range(_ROWS)],
            "number": 3 * x + 0.3 * rng.normal(size=_ROWS),
            "class": np.where(x + 0.3 * rng.normal(size=_ROWS) > 0, "high", "low"),
        }
    )


def make_subjects(folder: Path, *, whole: bool = True) -> list[Subject]:
    """The three runs, and with ``whole`` a copy of the first whose model is a blend of every kind."""
    data = folder / "data"
    frame = example(data)
    frame.loc[3, "photo"] = "gone.png"
    found = []
    for name, target, left_out in (
        ("numbers", "number", ["class", "photo"]),
        ("classes", "class", ["number"]),
        ("network", "number", ["class"]),
    ):
        table, few = data / f"{name}.csv", data / f"few_{name}.csv"
        frame.drop(columns=left_out).to_csv(table, index=False)
        frame.drop(columns=left_out).tail(6).to_csv(few, index=False)
        run = fit(
            table,
            target=target,
            data=DataConfig(image_size=32, roles={"code": "category"}),
            model=ModelConfig(tabular="mlp", tabular_hidden=(8,), encoding_dim=8),
            train=TrainConfig(preset="network" if name == "network" else "quick", epochs=2),
            out=folder / "runs",
            console=Console(quiet=True),
            callbacks=[Doctor(every=2)] if name == "network" else [],
        )
        found.append(Subject(run=run.folder, table=table, few=few))
    return [*found, _every_kind(folder, frame, found[2])] if whole else found


def _every_kind(folder: Path, frame: pd.DataFrame, like: Subject) -> Subject:
    """A copy of a run whose model folder holds each kind of model."""
    import shutil

    run = folder / "runs" / "every-kind-001"
    shutil.copytree(like.run, run, ignore=shutil.ignore_patterns("model", "checkpoints"))
    shop = Workshop.of(frame.drop(columns="class"), like.table.parent, "number", folds=2)
    shop.blend(EVERY_KIND).save(run / "model")
    return Subject(run=run, table=like.table, few=like.few)
