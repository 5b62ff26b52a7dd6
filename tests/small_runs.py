"""Runs of presets on a small table without photos, which take a second or two, for tests of what a run folder keeps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from mixfit.auto import blending, planning, presets, recipe, started
from mixfit.config import DataConfig, ModelConfig, TrainConfig
from mixfit.runs.results import Run

MODEL = ModelConfig(tabular="mlp", tabular_hidden=(8,), encoding_dim=4, numbers="plain")
TRAIN = TrainConfig(preset="quick", epochs=2, folds=3)


def small_table(folder: Path, *, rows: int = 60, seed: int = 0, classes: bool = False) -> Path:
    """Two numbers and a category decide the target ``y``."""
    random = np.random.default_rng(seed)
    x, z = random.normal(size=rows), random.normal(size=rows)
    kind = random.choice(["a", "b", "c"], rows)
    y = x + (kind == "a") + 0.3 * random.normal(size=rows)
    frame = pd.DataFrame({"x": x, "z": z, "kind": kind, "y": np.where(y > 0, "high", "low") if classes else y})
    folder.mkdir(exist_ok=True)
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def small_fit(table: Path, out: Path, *, report: bool = False, train: TrainConfig = TRAIN, **settings: Any) -> Run:
    """A run of the preset quick, by default without the page of its report, which would be a third of its time."""
    chosen: dict[str, Any] = {"model": MODEL, "data": DataConfig(cache_gb=0.0), "console": QUIET}
    return recipe.fit(table, target="y", out=out, train=replace(train, report=report), **(chosen | settings))


QUIET = Console(quiet=True)


def without_results(patch: pytest.MonkeyPatch) -> list[list[str]]:
    """Leave all of a run out that comes after its model is saved; what would be reported as its warnings is kept."""
    reported: list[list[str]] = []

    def write_results(*arguments: Any, **_: Any) -> None:
        reported.append(arguments[5])

    patch.setattr(started, "write_results", write_results)
    return reported


def model_bytes(run: Path) -> dict[str, bytes]:
    """What predicts, and what is said of it."""
    return {name: (run / "model" / name).read_bytes() for name in ("model.safetensors", "mixfit.json")}


def in_few_folds(patch: pytest.MonkeyPatch, folds: int = 2) -> None:
    """Presets fit their models in fewer folds from now on, where the number of folds does not matter."""
    real = presets.plan_for
    for user in (planning, blending):
        patch.setattr(user, "plan_for", lambda *given, **named: replace(real(*given, **named), folds=folds))
